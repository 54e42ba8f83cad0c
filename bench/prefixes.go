package bench

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"time"

	"gatehouse/policy"
	"gatehouse/policy/ruleset"
	"gatehouse/policy/ruleset/rulesettest"
)

// prefixShape is what the ends of an operator's statements are.
type prefixShape struct {
	name     string
	from, to func(p netip.Prefix, service int) policy.Peer
}

var prefixShapes = func() []prefixShape {
	prefix := func(p netip.Prefix, _ int) policy.Peer { return policy.Peer{Kind: policy.PeerCIDR, Prefix: p} }
	service := func(_ netip.Prefix, s int) policy.Peer { return policy.ServicePeer(serviceNumber(s)) }
	internet := func(netip.Prefix, int) policy.Peer { return policy.Peer{Kind: policy.PeerInternet} }
	return []prefixShape{{"prefix to prefix", prefix, prefix}, {"prefix to service", prefix, service}, {"service to prefix", service, prefix}, {"prefix to @internet", prefix, internet}}
}()

// prefixWorld is 10,000 workloads with an address of each family and n
// statements of the operator's, every fifth a deny, made of generated rules.
func prefixWorld(shape prefixShape, n int, v6 bool) policy.Input {
	const workloads, services = 10_000, 500
	w := newIdentityWorld(workloads, services, 1000)
	snap := w.in.Snapshot
	snap.Networks[0].Subnets = append(snap.Networks[0].Subnets, netip.MustParsePrefix("2001:a00::/24"))
	for i := range snap.Workloads {
		e := &snap.Workloads[i].Endpoints[0]
		e.Addresses = append(e.Addresses, workloadAddr6(i))
	}
	rnd := rand.New(rand.NewPCG(uint64(n), 9))
	for i, r := range operatorRules(n, v6) {
		s := policy.Statement{ID: fmt.Sprint("p", i), Verdict: policy.Allow, Tier: policy.TierOperator, App: policy.AnyApp,
			From: []policy.Peer{shape.from(r.Src, rnd.IntN(services))}, To: []policy.Peer{shape.to(r.Dst, rnd.IntN(services))},
			Ports: []policy.PortRange{{Proto: policy.ProtoTCP, Lo: r.DstPorts.Lo, Hi: r.DstPorts.Hi}}}
		if r.Priority == denied {
			s.Verdict = policy.Drop
		}
		w.in.Statements = append(w.in.Statements, s)
	}
	return w.in
}

// What a rule of operatorRules says is its priority, as a deny goes before an
// allow.
const (
	denied = iota
	allowed
)

// operatorRules are generated rules as far as a statement has their fields, every
// fifth a deny.
func operatorRules(n int, v6 bool) []ruleset.Rule {
	rules := rulesettest.Generate(rulesettest.Firewall, n, v6, 5)
	for i := range rules {
		r := &rules[i]
		r.ID, r.Priority = uint32(i), allowed
		if i%5 == 0 {
			r.Priority = denied
		}
		r.SrcPorts, r.DstPorts = ruleset.AnyPort, ruleset.Ports{Lo: max(1, r.DstPorts.Lo), Hi: max(1, r.DstPorts.Hi)}
		r.Proto, r.AnyProto = uint8(policy.ProtoTCP), false
	}
	return rules
}

// beside are the lookups of a table that knows no prefixes, and for each a
// lookup of the statements as one set of rules: the first that matches, or every
// one. A verdict would want more of them: each side's, of its own tier, for an
// application that is not known yet.
func beside(plain *policy.Table, queries []policy.Query, v6 bool) ([]contender, error) {
	s, err := ruleset.New(operatorRules(10_000, v6), ruleset.Options{})
	if err != nil {
		return nil, err
	}
	v := s.View()
	found := 0
	run := func(find func(h *ruleset.Header)) func() (float64, error) {
		return func() (float64, error) {
			return perOp(len(queries), func() {
				for i := range queries {
					q := &queries[i]
					if plain.Lookup(*q).Verdict() == policy.Allow {
						found++
					}
					find(&ruleset.Header{Src: q.Src, Dst: q.Dst, DstPort: q.DstPort, Proto: uint8(q.Proto)})
				}
			}), nil
		}
	}
	first := func(h *ruleset.Header) {
		if v.First(h).OK() {
			found++
		}
	}
	every := func(h *ruleset.Header) {
		for m := v.First(h); m.OK(); m = v.Next(h, m) {
			found++
		}
	}
	const name = "none, and beside it the 10000 as rules, "
	return []contender{
		{name: name + "the first match", unit: "ns a lookup", run: run(first)},
		{name: name + "every match", unit: "ns a lookup", run: run(every)},
	}, nil
}

func workloadAddr6(i int) netip.Addr {
	return netip.AddrFrom16([16]byte{0x20, 0x01, 10, byte(i >> 16), byte(i >> 8), byte(i), 15: 1})
}

// prefixQueries are flows of workloads, half of them to and half of them from
// addresses of the generated rules.
func prefixQueries(n int, rules int, v6 bool) []policy.Query {
	rnd := rand.New(rand.NewPCG(3, uint64(n)))
	headers := rulesettest.Headers(rulesettest.Generate(rulesettest.Firewall, rules, v6, 5), n, 1)
	out := make([]policy.Query, n)
	for i, h := range headers {
		own := workloadAddr(rnd.IntN(10_000))
		if v6 {
			own = workloadAddr6(rnd.IntN(10_000))
		}
		out[i] = policy.Query{Zone: 1, Src: own.As16(), Dst: h.Dst, Proto: policy.ProtoTCP, DstPort: h.DstPort}
		if i%2 == 0 {
			out[i].Src, out[i].Dst = h.Src, own.As16()
		}
	}
	return out
}

// prefixes adds to c tables with statements that name prefixes beside one with
// none.
func prefixes(ctx context.Context, c *Comparison, progress io.Writer) error {
	const none = "no statement of prefixes"
	for _, v6 := range []bool{false, true} {
		family := map[bool]string{false: "IPv4", true: "IPv6"}[v6]
		queries := prefixQueries(1<<14, 10_000, v6)
		plain, err := policy.Compile(prefixWorld(prefixShapes[0], 0, v6))
		if err != nil {
			return err
		}
		passed := 0
		lookups := func(t *policy.Table) func() (float64, error) {
			return func() (float64, error) {
				return perOp(len(queries), func() {
					for i := range queries {
						if t.Lookup(queries[i]).Verdict() == policy.Allow {
							passed++
						}
					}
				}), nil
			}
		}
		contenders := []contender{{name: none, unit: "ns a lookup", run: lookups(plain)}}
		var once []Result
		for _, shape := range prefixShapes {
			for _, n := range []int{10, 1000, 10_000} {
				in := prefixWorld(shape, n, v6)
				name := fmt.Sprintf("%d statements, %s", n, shape.name)
				before, begin := heap(), time.Now()
				t, err := policy.Compile(in)
				if err != nil {
					return err
				}
				took := float64(time.Since(begin).Microseconds()) / 1000
				compiled := heap() - before
				begin = time.Now()
				for i := range queries {
					t.Lookup(queries[i])
				}
				first := float64(time.Since(begin).Nanoseconds()) / float64(len(queries))
				one := func(unit string, v float64) Result {
					return Result{Variant: name, Unit: unit, Min: v, Median: v, Max: v}
				}
				once = append(once, one("ms a compile", took), one("MB of the table", float64(compiled)/1e6), one("ns a lookup, each for the first time", first),
					one("MB after 16,384 flows", float64(heap()-before)/1e6))
				if n == 10_000 {
					contenders = append(contenders, contender{name: name, unit: "ns a lookup", run: lookups(t)})
				}
			}
		}
		wired, err := beside(plain, queries, v6)
		if err != nil {
			return err
		}
		contenders = append(contenders, wired...)
		if err := c.measure(ctx, "operator's statements of prefixes, "+family, "", 0, contenders, progress); err != nil {
			return err
		}
		last := &c.Cases[len(c.Cases)-1]
		last.Results = append(last.Results, once...)
		last.compare(none)
	}
	return nil
}
