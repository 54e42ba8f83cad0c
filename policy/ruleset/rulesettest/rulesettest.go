// Package rulesettest makes rules and headers for tests and benchmarks of
// package ruleset, and reads such as others have published. What it makes
// depends on its arguments alone. Safe for concurrent use.
package rulesettest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"gatehouse/policy/ruleset"
)

// Kind is what a generated set looks like.
type Kind string

const (
	Access   Kind = "access"   // hosts and subnets to few services; any source port
	Firewall Kind = "firewall" // many rules with any address on one side, port ranges, deep overlap
	Mixed    Kind = "mixed"    // both, with source ports
	Dense    Kind = "dense"    // few sources and destinations, many ports
)

// Kinds are all of them.
var Kinds = []Kind{Access, Firewall, Mixed, Dense}

// shape is how a Kind draws.
type shape struct {
	pool               float64 // distinct prefixes of each side, as a share of the rules
	poolMax            int
	anySrc, anyDst     float64 // how often a side is any
	srcPort            float64 // how often there is a source port
	exact, anyDstPorts float64 // how often a destination port is one, and any
}

var shapes = map[Kind]shape{
	Access:   {pool: 0.5, poolMax: 1 << 20, anySrc: 0.02, anyDst: 0.02, exact: 0.7, anyDstPorts: 0.2},
	Firewall: {pool: 0.4, poolMax: 1 << 20, anySrc: 0.25, anyDst: 0.2, srcPort: 0.2, exact: 0.5, anyDstPorts: 0.2},
	Mixed:    {pool: 0.25, poolMax: 1 << 20, anySrc: 0.05, anyDst: 0.05, srcPort: 0.15, exact: 0.6, anyDstPorts: 0.3},
	Dense:    {pool: 0.01, poolMax: 48, anySrc: 0.01, anyDst: 0.01, srcPort: 0.1, exact: 0.8},
}

// Generate makes n rules with ids and priorities from 0 on, no two the same but
// for those.
func Generate(kind Kind, n int, v6 bool, seed uint64) []ruleset.Rule {
	g := generator{rand.New(rand.NewPCG(seed, uint64(n))), shapes[kind], v6}
	size := min(int(g.pool*float64(n))+4, g.poolMax)
	src, dst := g.prefixes(size), g.prefixes(size*2)
	ports := make([]ruleset.Ports, 120)
	for i := range ports {
		ports[i] = g.ports()
	}
	seen := map[ruleset.Rule]bool{}
	var out []ruleset.Rule
	for tries := 0; len(out) < n; tries++ {
		r := g.rule(src, dst, ports)
		if tries > 20*n { // so small a pool has no more: draw ports anew
			r.DstPorts = g.ports()
		}
		if seen[r] {
			continue
		}
		seen[r] = true
		out = append(out, r)
	}
	// The particular before the general, as people write them, but for some.
	slices.SortStableFunc(out, func(a, b ruleset.Rule) int { return width(&a) - width(&b) })
	for range n / 10 {
		i, j := g.IntN(n), g.IntN(n)
		out[i], out[j] = out[j], out[i]
	}
	for i := range out {
		out[i].ID, out[i].Priority = uint32(i), uint32(i)
	}
	return out
}

func width(r *ruleset.Rule) int { return -max(r.Src.Bits(), 0) - max(r.Dst.Bits(), 0) }

type generator struct {
	*rand.Rand
	shape
	v6 bool
}

// prefixes draws n that nest now and then.
func (g *generator) prefixes(n int) []netip.Prefix {
	bits := 32
	if g.v6 {
		bits = 128
	}
	out := make([]netip.Prefix, n)
	for i := range out {
		var a [16]byte
		for b := range a {
			a[b] = byte(g.IntN(256))
		}
		length := [...]int{8, 16, 20, 24, 24, 28, 30, 32, 32, 32}[g.IntN(10)]
		if i > 0 && g.IntN(2) == 0 { // inside or beside one that there is
			near := out[g.IntN(i)]
			b := near.Addr().As16()
			if !g.v6 {
				copy(b[:4], b[12:])
			}
			for k := g.IntN(bits / 8); k < bits/8; k++ {
				b[k] = byte(g.IntN(256))
			}
			a = b
		}
		if g.v6 {
			a[0], a[1] = 0x20, 0x01
			out[i], _ = netip.AddrFrom16(a).Prefix(min(128, 16+length*7/2))
			continue
		}
		out[i], _ = netip.AddrFrom4([4]byte(a[:4])).Prefix(length)
	}
	return out
}

func (g *generator) ports() ruleset.Ports {
	lo := uint16(g.IntN(1 << 16))
	switch {
	case g.Float64() < g.exact:
		return ruleset.Ports{Lo: lo, Hi: lo}
	case g.Float64() < 0.3:
		return ruleset.Ports{Lo: 1024, Hi: 65535}
	}
	return ruleset.Ports{Lo: lo, Hi: lo + uint16(g.IntN(min(1<<16-int(lo), 4096)))}
}

func (g *generator) rule(src, dst []netip.Prefix, ports []ruleset.Ports) ruleset.Rule {
	r := ruleset.Rule{Src: src[g.IntN(len(src))], Dst: dst[g.IntN(len(dst))], SrcPorts: ruleset.AnyPort, DstPorts: ports[g.IntN(len(ports))], Proto: 6}
	if g.Float64() < g.anySrc {
		r.Src = whole(g.v6)
	}
	if g.Float64() < g.anyDst {
		r.Dst = whole(g.v6)
	}
	if g.Float64() < g.srcPort {
		r.SrcPorts = ports[g.IntN(len(ports)/4)]
	}
	if g.Float64() < g.anyDstPorts {
		r.DstPorts = ruleset.AnyPort
	}
	switch k := g.IntN(10); {
	case k < 3:
		r.Proto = 17
	case k == 3:
		r.Proto, r.AnyProto = 0, true
	case k == 4 && r.DstPorts == ruleset.AnyPort && r.SrcPorts == ruleset.AnyPort:
		r.Proto = 1
	}
	return r
}

func whole(v6 bool) netip.Prefix {
	if v6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// Headers makes n headers for the rules: seven of ten a point of a random rule,
// two a corner of one or its neighbour, one anything.
func Headers(rules []ruleset.Rule, n int, seed uint64) []ruleset.Header {
	rnd := rand.New(rand.NewPCG(seed, 7))
	out := make([]ruleset.Header, n)
	for i := range out {
		r := ruleset.Rule{SrcPorts: ruleset.AnyPort, DstPorts: ruleset.AnyPort, AnyProto: true}
		k := rnd.IntN(10)
		if len(rules) > 0 {
			r = rules[rnd.IntN(len(rules))]
		}
		if k == 9 {
			r.SrcPorts, r.DstPorts, r.AnyProto = ruleset.AnyPort, ruleset.AnyPort, true
			r.Src, r.Dst = whole(is6(&r)), whole(is6(&r))
		}
		corner := k == 7 || k == 8
		h := &out[i]
		v6 := is6(&r)
		h.Src, h.Dst = address(rnd, r.Src, v6, corner), address(rnd, r.Dst, v6, corner)
		h.SrcPort, h.DstPort = port(rnd, r.SrcPorts, corner), port(rnd, r.DstPorts, corner)
		if h.Proto = r.Proto; r.AnyProto {
			h.Proto = [...]uint8{6, 17, 1, byte(rnd.IntN(256))}[rnd.IntN(4)]
		}
	}
	return out
}

func is6(r *ruleset.Rule) bool {
	return r.Src.IsValid() && r.Src.Addr().Is6() || r.Dst.IsValid() && r.Dst.Addr().Is6()
}

// address is one of p; a corner is the first or last, or the neighbour beyond.
func address(rnd *rand.Rand, p netip.Prefix, v6, corner bool) [16]byte {
	if !p.IsValid() {
		p = whole(v6)
	}
	a := p.Addr().As16()
	n := p.Bits()
	if p.Addr().Is4() {
		n += 96
	}
	last := rnd.IntN(2) == 1
	for b := n; b < 128; b++ {
		if corner && last || !corner && rnd.IntN(2) == 1 {
			a[b/8] |= 0x80 >> (b % 8)
		}
	}
	if !corner || rnd.IntN(2) == 0 {
		return a
	}
	at := netip.AddrFrom16(a)
	next := at.Prev()
	if last {
		next = at.Next()
	}
	if !next.IsValid() || next.Is4In6() != at.Is4In6() {
		return a
	}
	return next.As16()
}

func port(rnd *rand.Rand, r ruleset.Ports, corner bool) uint16 {
	if !corner {
		return r.Lo + uint16(rnd.IntN(int(r.Hi-r.Lo)+1))
	}
	return [...]uint16{r.Lo, r.Hi, r.Lo - 1, r.Hi + 1}[rnd.IntN(4)]
}

// First is the first rule that matches, found by looking at every one; nil =
// none.
func First(rules []ruleset.Rule, h *ruleset.Header) *ruleset.Rule {
	var best *ruleset.Rule
	for i := range rules {
		r := &rules[i]
		if (best == nil || r.Priority < best.Priority || r.Priority == best.Priority && r.ID < best.ID) && r.Matches(h) {
			best = r
		}
	}
	return best
}

// Describe says what decides how hard a set is.
func Describe(rules []ruleset.Rule) string {
	src, dst, both := map[netip.Prefix]bool{}, map[netip.Prefix]bool{}, map[[2]netip.Prefix]bool{}
	ports := map[[2]ruleset.Ports]bool{}
	for i := range rules {
		r := &rules[i]
		src[r.Src], dst[r.Dst], both[[2]netip.Prefix{r.Src, r.Dst}] = true, true, true
		ports[[2]ruleset.Ports{r.SrcPorts, r.DstPorts}] = true
	}
	return fmt.Sprintf("%d rules, %d sources, %d destinations, %d pairs, %d port pairs", len(rules), len(src), len(dst), len(both), len(ports))
}
