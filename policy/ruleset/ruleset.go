// Package ruleset classifies packets by rules of the operator's kind: prefixes,
// port ranges, protocols and priorities, IPv4 and IPv6. It knows nothing of
// identities.
//
// It is not in the product's path, and nothing but `gatehouse bench classify`,
// which holds it against librte_acl, and `gatehouse bench table` call it. It finds
// the first rule that matches, and a verdict needs all that do: both sides' rules
// of every rank, each for an application that is not known yet. Package policy
// finds them laid out by the numbers of both ends, which it must find for every
// flow in any case, so that this lookup comes on top of those.
//
// Measured (the rows `none, and beside it the 10000 as rules` of bench table,
// 10,000 statements of prefix to prefix and a port, ratios to a table without
// them in the same run, two runs on a busy machine): over IPv4 2.98 and 3.93 as
// the compiled table has them, 3.34 and 3.15 with a lookup of the first match
// beside it, 50 and 49 with every match; over IPv6 3.79 and 4.18, 2.15 and 2.33,
// 49 and 41. The first match alone, about as dear over IPv4 and half the price
// over IPv6, answers only where its statement names no application and the other
// side's rules and lower ranks have no say. So the compiled table stays.
//
// New maps every field to a class number (all values that no rule tells
// apart), then builds three engines over the classes (cross-product tables, a
// cut tree, aggregated bit vectors), leaves out those that need more than the
// memory budget, and keeps the one whose counted work on sampled headers is
// least. A Set takes inserts and deletes while it is read: they go to an
// overlay that a background rebuild folds in.
//
// All methods are safe for concurrent use. Readers never wait and never
// allocate. Writers wait for each other alone: a rebuild follows what they change
// and takes no lock, so that it may stand still as long as it likes, and a change
// asks for memory only behind the first of many, so that it seldom has to do a
// garbage collection's work. A build yields its processor often, as there may be
// few.
package ruleset

import (
	"errors"
	"fmt"
	"net/netip"
)

// Ports is an inclusive range of TCP or UDP port numbers in host order.
type Ports struct{ Lo, Hi uint16 }

// AnyPort is every port; the zero Ports is port 0 alone.
var AnyPort = Ports{0, 65535}

// Rule matches headers in all of whose fields it agrees.
type Rule struct {
	// ID names the rule; unique in its set, below NoRule.
	ID uint32
	// Priority orders rules: the lowest matches first, of equals the lowest ID.
	Priority uint32
	// Src and Dst are prefixes of one family, v4-mapped ones count as IPv4. The
	// zero Prefix is any address; two zero ones match both families.
	Src, Dst           netip.Prefix
	SrcPorts, DstPorts Ports
	Proto              uint8
	AnyProto           bool
}

// NoRule is what lookups return where no rule matches.
const NoRule = ^uint32(0)

// Header is what rules look at. IPv4 addresses are v4-mapped; protocols without
// ports have both 0.
type Header struct {
	Src, Dst         [16]byte
	SrcPort, DstPort uint16
	Proto            uint8
}

// family of a header or a rule.
type family uint8

const (
	family4 family = iota
	family6
	familyCount
)

var mapped = [12]byte{10: 0xff, 11: 0xff}

func (h *Header) family() family {
	if [12]byte(h.Src[:12]) == mapped {
		return family4
	}
	return family6
}

// straddles reports a header whose addresses are of two families; only rules
// without prefixes could mean it, and none does.
func (h *Header) straddles() bool {
	return ([12]byte(h.Src[:12]) == mapped) != ([12]byte(h.Dst[:12]) == mapped)
}

// Matches reports whether r agrees with h in every field: the definition that
// engines must equal.
func (r *Rule) Matches(h *Header) bool {
	return !h.straddles() && holds(r.Src, &h.Src) && holds(r.Dst, &h.Dst) &&
		r.SrcPorts.Lo <= h.SrcPort && h.SrcPort <= r.SrcPorts.Hi &&
		r.DstPorts.Lo <= h.DstPort && h.DstPort <= r.DstPorts.Hi &&
		(r.AnyProto || r.Proto == h.Proto)
}

func holds(p netip.Prefix, a *[16]byte) bool {
	return !p.IsValid() || unmapped(p).Contains(netip.AddrFrom16(*a).Unmap())
}

// unmapped turns ::ffff:a.b.c.d/96+n into a.b.c.d/n.
func unmapped(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}

// in reports whether r can match headers of family f.
func (r *Rule) in(f family) bool {
	for _, p := range [...]netip.Prefix{r.Src, r.Dst} {
		if p.IsValid() && unmapped(p).Addr().Is4() != (f == family4) {
			return false
		}
	}
	return true
}

// problem says what is wrong with a rule, or "".
func (r *Rule) problem() string {
	switch {
	case r.ID == NoRule:
		return "this id is reserved"
	case r.SrcPorts.Lo > r.SrcPorts.Hi:
		return fmt.Sprintf("source ports %d-%d: want the lower first", r.SrcPorts.Lo, r.SrcPorts.Hi)
	case r.DstPorts.Lo > r.DstPorts.Hi:
		return fmt.Sprintf("destination ports %d-%d: want the lower first", r.DstPorts.Lo, r.DstPorts.Hi)
	case r.Src.Addr().Zone() != "" || r.Dst.Addr().Zone() != "":
		return "a prefix has no zone"
	case !r.in(family4) && !r.in(family6):
		return fmt.Sprintf("source %s and destination %s are of different families", r.Src, r.Dst)
	}
	return ""
}

// key is r's place in the order in which rules match.
func (r *Rule) key() uint64 { return uint64(r.Priority)<<32 | uint64(r.ID) }

// faults joins what is wrong with rules that are to be one set.
func faults(rules []Rule) error {
	var errs []error
	seen := make(map[uint32]bool, len(rules))
	for i := range rules {
		r := &rules[i]
		if p := r.problem(); p != "" {
			errs = append(errs, fmt.Errorf("rule %d: %s", r.ID, p))
		}
		if seen[r.ID] {
			errs = append(errs, fmt.Errorf("rule %d: another rule has this id", r.ID))
		}
		seen[r.ID] = true
	}
	return errors.Join(errs...)
}

// MemoryError says that no engine fits the budget. Nothing was installed.
type MemoryError struct {
	Budget int
	Need   int    // of the smallest engine, in bytes, as far as it was built
	Rule   uint32 // the one that covers most of the smallest engine
}

func (e *MemoryError) Error() string {
	return fmt.Sprintf("the rules need %d bytes, the budget is %d; rule %d is the most expensive: raise the budget, or narrow or remove it", e.Need, e.Budget, e.Rule)
}

// box is a rule in class numbers: an inclusive interval on each axis.
type box struct {
	lo, hi [axes]uint32
}

const (
	axisSrc = iota
	axisDst
	axisSrcPort
	axisDstPort
	axisProto
	axes
)

// point is a header in class numbers.
type point [axes]uint32

func (b *box) holds(p *point) bool {
	for i := range p {
		if p[i]-b.lo[i] > b.hi[i]-b.lo[i] {
			return false
		}
	}
	return true
}
