package models

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	"gatehouse/policy"
)

// facts is the metadata against which one workload's entries are resolved.
type facts struct {
	workload  *policy.Workload
	published []policy.Published // of its whole network namespace (I6)
	features  map[string]bool
}

// offer is a serves entry with its ports.
type offer struct {
	entry  *Entry
	part   *part
	origin string
	// fixed are the ports that the entry or the deployer's port setting names;
	// they belong together. declared came by a word (published, exposed,
	// referenced): each stands for itself, and a reference picks one (R10).
	fixed, declared []policy.PortRange
	referenced      bool
	routed          bool               // declared grows by the ports of routes (R9)
	reserved        []policy.PortRange // named by earlier entries: not to be taken by a word (R25)
}

func (o *offer) ports() []policy.PortRange { return joinPorts(o.fixed, o.declared) }

// call is a calls entry with its ports; callee means those of whom it calls.
type call struct {
	entry  *Entry
	part   *part
	origin string
	what   string // "feature updates" where the entry belongs to one
	fixed  []policy.PortRange
	callee bool
	// namesOnly: it is R18's lookup of names that statements allow.
	namesOnly bool
}

// fixedPorts are all ports that enabled serves entries name outright.
func (p *part) fixedPorts() []policy.PortRange {
	var out []policy.PortRange
	for e := range p.facts.serves(p.model) {
		fixed, _ := p.facts.ports(e.entry)
		out = append(out, fixed...)
	}
	return out
}

// resolve fills serves and calls. taken are ports that words may not take.
func (p *part) resolve(taken []policy.PortRange) {
	for e := range p.facts.serves(p.model) {
		fixed, words := p.facts.ports(e.entry)
		o := offer{entry: e.entry, part: p, origin: p.origin(e.entry.ID), fixed: joinPorts(fixed), reserved: taken}
		if e.feature != "" {
			o.origin = p.featureOrigin(e.feature)
		}
		for _, w := range words {
			switch w {
			case "published":
				o.declared = append(o.declared, publishedTargets(p.facts.published)...)
			case "exposed":
				o.declared = append(o.declared, usablePorts(p.facts.workload.Exposed)...)
			case "referenced":
				o.referenced = true
			case "routed":
				o.routed = true
			}
		}
		o.declared = joinPorts(subtractPorts(o.declared, joinPorts(taken, o.fixed)))
		taken = joinPorts(taken, o.fixed, o.declared)
		p.serves = append(p.serves, o)
	}
	for e := range p.facts.calls(p.model) {
		fixed, words := p.facts.ports(e.entry)
		c := call{entry: e.entry, part: p, origin: p.origin(e.entry.ID), fixed: joinPorts(fixed)}
		if e.feature != "" {
			c.origin = p.featureOrigin(e.feature)
			c.what = e.feature
		}
		c.callee = slices.Contains(words, "callee") || slices.Contains(words, "referenced")
		p.calls = append(p.calls, c)
	}
}

func (p *part) featureOrigin(name string) string {
	return fmt.Sprintf("%s@%d feature %s", p.model.Name, p.model.Revision, name)
}

// enabled is one entry whose condition holds, and the feature it belongs to.
type enabled struct {
	entry   *Entry
	feature string
}

func (f facts) serves(m *Model) func(func(enabled) bool) {
	return f.enabled(m, m.Serves, func(ft Feature) []Entry { return ft.Serves })
}

func (f facts) calls(m *Model) func(func(enabled) bool) {
	return f.enabled(m, m.Calls, func(ft Feature) []Entry { return ft.Calls })
}

// enabled yields the model's own entries in order, then those of the features
// that are on, by name.
func (f facts) enabled(m *Model, own []Entry, of func(Feature) []Entry) func(func(enabled) bool) {
	return func(yield func(enabled) bool) {
		for i := range own {
			if f.holds(own[i].When) && !yield(enabled{entry: &own[i]}) {
				return
			}
		}
		for _, name := range sortedKeys(m.Features) {
			if !f.features[name] {
				continue
			}
			list := of(m.Features[name])
			for i := range list {
				if f.holds(list[i].When) && !yield(enabled{&list[i], name}) {
					return
				}
			}
		}
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// holds evaluates a condition; nil always holds.
func (f facts) holds(c *When) bool {
	switch {
	case c == nil:
		return true
	case c.Exposed != nil:
		return portsOverlap(f.workload.Exposed, []policy.PortRange{*c.Exposed})
	case c.Published != nil:
		return portsOverlap(publishedTargets(f.published), []policy.PortRange{*c.Published})
	case c.Env != "":
		return f.envIs(c.Env)
	case c.Arg != "":
		_, ok := f.argIs(c.Arg)
		return ok
	case c.Command != "":
		return f.runs(c.Command)
	case c.Tag != "":
		return likeTag(c.Tag, f.workload.Image.Tag)
	case c.Not != nil:
		return !f.holds(c.Not)
	case c.Any != nil:
		return slices.ContainsFunc(c.Any, func(w When) bool { return f.holds(&w) })
	case c.All != nil:
		return !slices.ContainsFunc(c.All, func(w When) bool { return !f.holds(&w) })
	}
	return false
}

// switchedOff are the values of an option that switch off what it is about.
var switchedOff = []string{"no", "off", "false", "0"}

// isSet reports whether a condition holds by a variable or an option that the deployer
// set.
func (f facts) isSet(c *When) bool {
	switch {
	case c == nil:
		return false
	case c.Env != "":
		return f.holds(c)
	case c.Arg != "":
		value, ok := f.argIs(c.Arg)
		return ok && !slices.Contains(switchedOff, strings.ToLower(value))
	case c.Any != nil:
		return slices.ContainsFunc(c.Any, func(w When) bool { return f.isSet(&w) })
	case c.All != nil:
		return f.holds(c) && slices.ContainsFunc(c.All, func(w When) bool { return f.isSet(&w) })
	}
	return false
}

// envIs takes KEY, which the deployer must have set, or KEY=VALUE.
func (f facts) envIs(c string) bool {
	key, want, withValue := strings.Cut(c, "=")
	if !withValue {
		_, ok := f.workload.Env[key]
		return ok || slices.Contains(f.workload.EnvKeys, key)
	}
	v, ok := f.workload.Env[key]
	return ok && v == want
}

// argIs takes --name, which the deployer must have set, or --name=VALUE in any case.
func (f facts) argIs(c string) (value string, ok bool) {
	name, want, withValue := strings.Cut(c, "=")
	value, ok = f.arg(name)
	return value, ok && (!withValue || strings.EqualFold(value, want))
}

// arg finds --name, --name VALUE and --name=VALUE in the deployer's command.
func (f facts) arg(name string) (value string, ok bool) {
	words := f.words()
	for i, w := range words {
		if w == name {
			if i+1 < len(words) {
				value = words[i+1]
			}
			return value, true
		}
		if v, found := strings.CutPrefix(w, name+"="); found {
			return v, true
		}
	}
	return "", false
}

// words are the command's, also of those in one shell string.
func (f facts) words() []string {
	var out []string
	for _, c := range f.workload.Command {
		out = append(out, strings.Fields(c)...)
	}
	return out
}

// runs reports whether the command has that word, or starts the program of
// that name.
func (f facts) runs(name string) bool {
	words := f.words()
	return slices.Contains(words, name) || len(words) > 0 && path.Base(words[0]) == name
}

// likeTag compares with a pattern in which '*' stands for any text.
func likeTag(pattern, tag string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == tag
	}
	rest, ok := strings.CutPrefix(tag, parts[0])
	if !ok {
		return false
	}
	last := len(parts) - 1
	for _, mid := range parts[1:last] {
		i := strings.Index(rest, mid)
		if i < 0 {
			return false
		}
		rest = rest[i+len(mid):]
	}
	return strings.HasSuffix(rest, parts[last])
}

// ports are an entry's own: those that the deployer's settings name, else the
// ranges and words of its list.
func (f facts) ports(e *Entry) (fixed []policy.PortRange, words []string) {
	for _, src := range e.PortFrom {
		value, ok := f.portSetting(src)
		if !ok {
			continue
		}
		if numbers, ok := parsePorts(value, src.Parse); ok {
			return portsOf(raised(numbers, src.Add), protosOf(e)), nil
		}
	}
	for _, t := range e.Ports {
		if t.Word != "" {
			words = append(words, t.Word)
			continue
		}
		fixed = append(fixed, t.Range)
	}
	return fixed, words
}

func (f facts) portSetting(src PortSource) (string, bool) {
	if !f.holds(src.When) {
		return "", false
	}
	if src.Env != "" {
		v, ok := f.workload.Env[src.Env]
		return v, ok
	}
	return f.arg(src.Arg)
}

// parsePorts reads "6380", ":9090", "0.0.0.0:9090", lists of these, and with
// parse "listeners" "NAME://HOST:PORT,...". A port 0 means that nothing
// listens. false: this names no port, and the entry's own list stays.
func parsePorts(value, parse string) ([]uint16, bool) {
	var out []uint16
	for _, item := range splitList(value) {
		if parse == "listeners" {
			_, item, _ = strings.Cut(item, "://")
		}
		item = item[strings.LastIndexByte(item, ':')+1:]
		n, err := strconv.ParseUint(item, 10, 16)
		if err != nil {
			return nil, false
		}
		if n != 0 {
			out = append(out, uint16(n))
		}
	}
	return out, strings.TrimSpace(value) != ""
}

// raised are ports that far above others; those beyond 65535 there are not.
func raised(numbers []uint16, by uint16) []uint16 {
	var out []uint16
	for _, n := range numbers {
		if n <= math.MaxUint16-by {
			out = append(out, n+by)
		}
	}
	return out
}

// protosOf are the protocols of the entry's own ports, tcp if it has none.
func protosOf(e *Entry) []policy.Proto {
	var out []policy.Proto
	for _, t := range e.Ports {
		if t.Word == "" && !slices.Contains(out, t.Range.Proto) {
			out = append(out, t.Range.Proto)
		}
	}
	if out == nil {
		out = []policy.Proto{policy.ProtoTCP}
	}
	return out
}

func portsOf(numbers []uint16, protos []policy.Proto) []policy.PortRange {
	var out []policy.PortRange
	for _, p := range protos {
		for _, n := range numbers {
			out = append(out, policy.Port(p, n))
		}
	}
	return out
}

func publishedTargets(ps []policy.Published) []policy.PortRange {
	out := make([]policy.PortRange, 0, len(ps))
	for _, p := range ps {
		out = append(out, policy.Port(p.Proto, p.Port))
	}
	return joinPorts(usablePorts(out))
}

// usablePorts leaves out what no statement can say, such as SCTP.
func usablePorts(rs []policy.PortRange) []policy.PortRange {
	return slices.DeleteFunc(slices.Clone(rs), func(r policy.PortRange) bool {
		return r.Proto != policy.ProtoTCP && r.Proto != policy.ProtoUDP || r.Lo == 0 || r.Hi < r.Lo
	})
}

// joinPorts is the union of the lists, sorted, overlapping ranges as one.
func joinPorts(lists ...[]policy.PortRange) []policy.PortRange {
	all := slices.Concat(lists...)
	if len(all) < 2 {
		return all
	}
	slices.SortFunc(all, func(a, b policy.PortRange) int {
		return cmp.Or(cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Lo, b.Lo), cmp.Compare(a.Hi, b.Hi))
	})
	out := all[:1]
	for _, r := range all[1:] {
		last := &out[len(out)-1]
		if r.Proto == last.Proto && r.Lo <= last.Hi {
			last.Hi = max(last.Hi, r.Hi)
			continue
		}
		out = append(out, r)
	}
	return out
}

// joinRuns is joinPorts, ranges that follow one another as one too.
func joinRuns(ports []policy.PortRange) []policy.PortRange {
	var out []policy.PortRange
	for _, r := range joinPorts(ports) {
		if n := len(out); n > 0 && out[n-1].Proto == r.Proto && int(out[n-1].Hi)+1 == int(r.Lo) {
			out[n-1].Hi = r.Hi
			continue
		}
		out = append(out, r)
	}
	return out
}

func intersectPorts(a, b []policy.PortRange) []policy.PortRange {
	var out []policy.PortRange
	for _, x := range a {
		for _, y := range b {
			lo, hi := max(x.Lo, y.Lo), min(x.Hi, y.Hi)
			if x.Proto == y.Proto && lo <= hi {
				out = append(out, policy.PortRange{Proto: x.Proto, Lo: lo, Hi: hi})
			}
		}
	}
	return joinPorts(out)
}

// subtractPorts is a without what b holds.
func subtractPorts(a, b []policy.PortRange) []policy.PortRange {
	out := slices.Clone(a)
	for _, cut := range b {
		var next []policy.PortRange
		for _, r := range out {
			if r.Proto != cut.Proto || r.Hi < cut.Lo || cut.Hi < r.Lo {
				next = append(next, r)
				continue
			}
			if r.Lo < cut.Lo {
				next = append(next, policy.PortRange{Proto: r.Proto, Lo: r.Lo, Hi: cut.Lo - 1})
			}
			if cut.Hi < r.Hi {
				next = append(next, policy.PortRange{Proto: r.Proto, Lo: cut.Hi + 1, Hi: r.Hi})
			}
		}
		out = next
	}
	return out
}

func portsOverlap(a, b []policy.PortRange) bool { return len(intersectPorts(a, b)) > 0 }

// coversPorts reports whether a holds all of b. Both are joined.
func coversPorts(a, b []policy.PortRange) bool { return len(subtractPorts(b, a)) == 0 }

func hasPort(rs []policy.PortRange, n uint16) bool { return len(withNumber(rs, n)) > 0 }

// withNumber are the ports of that number, in each protocol that rs has it.
func withNumber(rs []policy.PortRange, n uint16) []policy.PortRange {
	var out []policy.PortRange
	for _, r := range rs {
		if r.Lo <= n && n <= r.Hi {
			out = append(out, policy.Port(r.Proto, n))
		}
	}
	return joinPorts(out)
}

// describe writes all that the part's statements follow from.
func (p *part) describe(w io.Writer) {
	fmt.Fprintf(w, "part %q %v %v\n", p.model.Name, p.roles, p.clipped)
	for i := range p.serves {
		o := &p.serves[i]
		fmt.Fprintf(w, "serves %q %v %v\n", o.origin, o.fixed, o.declared)
		if p.setsUp(*o) { // whose like it is follows from that (R11), not from who of its equals is first
			fmt.Fprintln(w, "set up")
		}
	}
	for i := range p.calls {
		fmt.Fprintf(w, "calls %q %q %v\n", p.calls[i].origin, p.calls[i].entry.ID, p.calls[i].fixed)
	}
}
