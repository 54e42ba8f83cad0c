package bench

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"time"

	"gatehouse/policy"
)

// mixedWorld is 10,000 workloads of 500 services and 5,000 statements of which
// seven in ten are as an operator's with a system of record: of categories that
// mean many services, of prefixes, of places in the record, of the internet.
func mixedWorld() policy.Input {
	const services, places = 500, 2000
	w := newIdentityWorld(10_000, services, 5000)
	category := func(name string, is func(service int) bool) policy.Peer {
		s := &policy.Selection{}
		for i := range w.in.Groups {
			if is(i) {
				s.Identities = append(s.Identities, w.in.Groups[i].Identity)
			}
		}
		return policy.Peer{Kind: policy.PeerSelector, Name: "category/" + name, Selected: s}
	}
	high := category("risk>=high", func(i int) bool { return i%10 == 4 })
	doubtful := category("risk>=high|unknown", func(i int) bool { return i%10 != 1 })
	devices := make([]policy.Peer, 20)
	for d := range devices {
		s := &policy.Selection{}
		for p := d; p < places; p += len(devices) {
			s.Prefixes = append(s.Prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(16 + p/256%8), byte(p), byte(p % 200)}), 32))
		}
		devices[d] = policy.Peer{Kind: policy.PeerSelector, Name: fmt.Sprint("category/device=d", d), Selected: s}
	}
	cidr := func(i, bits int) policy.Peer {
		p, _ := netip.AddrFrom4([4]byte{192, 168, byte(i), 0}).Prefix(bits)
		return policy.Peer{Kind: policy.PeerCIDR, Prefix: p}
	}
	for i := range w.in.Statements {
		s := &w.in.Statements[i]
		s.Tier = policy.TierOperator
		switch i % 10 {
		case 0:
			s.To = []policy.Peer{cidr(i/10, 24)}
		case 1:
			s.To = []policy.Peer{cidr(i/10, 20)}
		case 2:
			s.From, s.Verdict = []policy.Peer{doubtful}, policy.Drop
		case 3:
			s.From = []policy.Peer{high}
		case 4:
			s.From, s.To, s.Verdict = []policy.Peer{doubtful}, []policy.Peer{high}, policy.Reject
		case 5:
			s.To = []policy.Peer{devices[i/10%len(devices)]}
		case 6:
			s.To = []policy.Peer{{Kind: policy.PeerInternet}}
		}
	}
	return w.in
}

// compiles adds to c the full compile of plain and of mixed statements, and what
// the report says of the memory of the latter.
func compiles(ctx context.Context, c *Comparison, progress io.Writer) error {
	const plainOnes = "statements of one service to another"
	plain, mixed := newIdentityWorld(10_000, 500, 5000).in, mixedWorld()
	compile := func(in policy.Input) func() (float64, error) {
		return func() (float64, error) {
			begin := time.Now()
			_, err := policy.Compile(in)
			return float64(time.Since(begin).Microseconds()) / 1000, err
		}
	}
	if err := c.measure(ctx, "full compile, 10000 workloads, 500 services, 5000 statements", "", 0, []contender{
		{name: plainOnes, unit: "ms a compile", run: compile(plain)},
		{name: "statements of categories, prefixes, the internet and services", unit: "ms a compile", run: compile(mixed)},
	}, progress); err != nil {
		return err
	}
	c.Cases[len(c.Cases)-1].compare(plainOnes)
	audit, err := policy.MakeAudit(mixed)
	if err != nil {
		return err
	}
	bytes := 0
	for _, cost := range audit.Costs {
		bytes += cost.Bytes
	}
	rules := audit.Table.FlatCount()
	c.Notes = append(c.Notes, fmt.Sprintf("The mixed statements stand for %d rules, one for each pair of peers or prefixes, and take %.1f MB by the report of `policy compile`: %d bytes a statement, %.2f a rule.",
		rules, float64(bytes)/1e6, bytes/len(audit.Costs), float64(bytes)/float64(rules)))
	return nil
}
