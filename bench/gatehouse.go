package bench

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse/classify"
	"gatehouse/dataplane"
	"gatehouse/dataplane/afxdp"
	"gatehouse/dataplane/steer"
	"gatehouse/dataplane/tun"
	"gatehouse/policy"
)

const (
	benchZone policy.Zone = 1
	// benchFlows is half of what a table holds. One endpoint may have three quarters
	// of it, so that new flows meet no limit in the time that they are measured.
	benchFlows = 1 << 17
)

// gateway is steering programs, standing default, AF_XDP worker, classifier and
// a table in a site's host namespace, as run puts them there.
type gateway struct {
	kernel    *steer.Steer
	wire      *steer.Wire // in place of kernel, of a pair
	plane     *dataplane.Dataplane
	endpoints []dataplane.Endpoint
	teardown  []func() error
}

func newGateway(r gatewayRequest) (g *gateway, err error) {
	g = &gateway{}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.close())
		}
	}()
	half := max(benchFlows, r.Flows) // of what the tables hold
	pins := "/sys/fs/bpf/ghb-" + r.Site
	if err := os.RemoveAll(pins); err != nil {
		return g, err
	}
	if g.kernel, err = steer.Open(steer.Config{PinDir: pins, Prefix: "ghb", TAP: r.TAP, MissBudget: cmp.Or(r.MissBudget, 1e8), FlowEntries: uint32(2 * half)}); err != nil {
		return g, err
	}
	g.teardown = append(g.teardown, func() error { return errors.Join(g.kernel.Uninstall(), g.kernel.Close()) })
	table, err := benchTable(r.Statements)
	if err != nil {
		return g, err
	}
	var flows dataplane.FlowMap = g.kernel.Flows()
	if !r.Offload {
		flows = staying{flows}
	}
	g.plane, err = dataplane.New(dataplane.Config{
		FlowMap: flows, Flows: 2 * half, PerEndpoint: half + half/2, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Beat: func(queue int, now int64) { _ = g.kernel.Beat(queue, now) },
	})
	if err != nil {
		return g, err
	}
	g.run()
	if err := g.admit(r); err != nil {
		return g, err
	}
	g.plane.SetTable(table)
	return g, g.kernel.SetEpoch(table.Epoch())
}

func (g *gateway) admit(r gatewayRequest) error {
	space, err := g.kernel.Space(r.Host)
	if err != nil {
		return err
	}
	port, err := slowPath(r, space.User)
	if err != nil {
		return err
	}
	if err := g.plane.AddPort(space.Number, 0, port); err != nil {
		return err
	}
	network := steer.Network{Zone: benchZone, Bridge: bridgeName, NetNS: r.Host}
	if err := g.kernel.Guard(network); err != nil {
		return err
	}
	for _, leg := range []struct {
		id      string
		ifindex int
		mac     []byte
		addrs   []netip.Addr
	}{{"a", r.VethA, macA, []netip.Addr{addrA, addrA6}}, {"b", r.VethB, macB, []netip.Addr{addrB, addrB6}}} {
		e, err := g.kernel.Admit(steer.Spec{ID: leg.id, Workload: leg.id, Zone: benchZone, Ifindex: uint32(leg.ifindex),
			MAC: policy.MAC(leg.mac), Addrs: leg.addrs, ICC: true, Mode: policy.Enforce})
		if err != nil {
			return err
		}
		g.endpoints = append(g.endpoints, e)
	}
	g.plane.SetEndpoints(g.endpoints)
	network.Closed = true
	return g.kernel.Guard(network)
}

// forget ends all flows, as if both endpoints had gone and come back.
func (g *gateway) forget() {
	g.plane.SetEndpoints(nil)
	g.plane.SetEndpoints(g.endpoints)
}

func slowPath(r gatewayRequest, device string) (dataplane.Port, error) {
	if r.TAP {
		taps, err := tun.OpenTAP(tun.Config{NetNS: r.Host, Interface: device})
		if err != nil {
			return nil, err
		}
		return taps[0], nil
	}
	sockets, err := afxdp.Open(afxdp.Config{NetNS: r.Host, Interface: device})
	if err != nil {
		return nil, err
	}
	return sockets[0], nil
}

func (g *gateway) counts() (GatewayCounts, error) {
	counters := g.kernel.Counters
	if g.wire != nil {
		counters = g.wire.Counters
	}
	k, err := counters()
	c := GatewayCounts{Steered: k.Steered, Returned: k.Returned, Hits: k.Hits, Peer: k.Peer, Offloaded: g.plane.Counters().Offloaded}
	for _, p := range g.plane.PortStats() {
		c.NoFrame += p.NoFrame + p.RingFull
		c.Kicks += p.Kicks
		if g.wire != nil { // its programs do not count what they hand over
			c.Steered, c.Returned = c.Steered+p.Received, c.Returned+p.Sent
		}
	}
	var used unix.Rusage
	err = errors.Join(err, unix.Getrusage(unix.RUSAGE_SELF, &used))
	c.User, c.System = time.Duration(used.Utime.Nano()), time.Duration(used.Stime.Nano())
	return c, err
}

func (g *gateway) close() error {
	var errs []error
	for _, f := range slices.Backward(g.teardown) {
		errs = append(errs, f())
	}
	g.teardown = nil
	return errors.Join(errs...)
}

// benchTable allows what the measurements need, with applications where they
// measure app-ID, and more statements of the same kind between others.
func benchTable(more int) (*policy.Table, error) {
	key := func(name string) policy.ServiceKey {
		return policy.ServiceKey{Project: policy.ProjectKey{Name: "bench"}, Name: name}
	}
	endpoint := func(id string, mac []byte, addrs ...netip.Addr) []policy.Endpoint {
		return []policy.Endpoint{{ID: id, Network: "net", MAC: policy.MAC(mac), Addresses: addrs}}
	}
	statement := func(id string, app policy.AppMatch, ports ...policy.PortRange) policy.Statement {
		return policy.Statement{ID: id, Verdict: policy.Allow, Tier: policy.TierOperator, App: app, Ports: ports,
			From: []policy.Peer{policy.ServicePeer(key("a"))}, To: []policy.Peer{policy.ServicePeer(key("b"))}, Origin: []string{"bench"}}
	}
	statements := []policy.Statement{
		statement("packets", policy.AnyApp, policy.PortRange{Proto: policy.ProtoUDP, Lo: packetPort, Hi: packetPort + packetPorts - 1}),
		statement("streams", policy.AnyApp, policy.Port(policy.ProtoTCP, bulkPort), policy.Port(policy.ProtoTCP, echoPort)),
		statement("http", policy.AppMatch{App: policy.AppHTTP, Forms: policy.TLSNone}, policy.Port(policy.ProtoTCP, httpPort)),
		statement("postgresql", policy.AppMatch{App: policy.AppPostgreSQL, Forms: policy.TLSNone}, policy.Port(policy.ProtoTCP, postgresqlPort)),
		statement("redis", policy.AppMatch{App: policy.AppRedis, Forms: policy.TLSNone}, policy.Port(policy.ProtoTCP, redisPort)),
	}
	flood := statement("flood", policy.AnyApp, policy.PortRange{Proto: policy.ProtoUDP, Lo: floodPort, Hi: 65535})
	flood.From, flood.To = flood.To, flood.From
	statements = append(statements, flood)
	groups := []policy.Group{
		{Identity: policy.FirstWorkloadIdentity, Service: key("a"), Model: "custom", Guarded: true, Members: []string{"a"}},
		{Identity: policy.FirstWorkloadIdentity + 1, Service: key("b"), Model: "custom", Guarded: true, Members: []string{"b"}},
	}
	for i := range more {
		name := fmt.Sprint("service", i)
		groups = append(groups, policy.Group{Identity: policy.FirstWorkloadIdentity + 2 + policy.Identity(i), Service: key(name), Model: "custom", Guarded: true})
		s := statement(name, policy.AppMatch{App: policy.AppHTTP, Forms: policy.TLSNone}, policy.Port(policy.ProtoTCP, uint16(1000+i)))
		s.From = []policy.Peer{policy.ServicePeer(key(name))}
		statements = append(statements, s)
	}
	table, err := policy.Compile(policy.Input{
		Epoch: 1,
		Snapshot: &policy.Snapshot{
			Networks: []policy.Network{{ID: "net", Name: "net", Driver: "bridge", Zone: benchZone, ICC: true, Guarded: true,
				Subnets: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/24"), netip.MustParsePrefix("2001:db8:99::/64")}}},
			Workloads: []policy.Workload{
				{ID: "a", Name: "a", Service: key("a"), Endpoints: endpoint("a", macA, addrA, addrA6)},
				{ID: "b", Name: "b", Service: key("b"), Endpoints: endpoint("b", macB, addrB, addrB6)},
			},
		},
		Groups:     groups,
		Statements: statements,
	})
	if err != nil {
		return nil, fmt.Errorf("bench policy: %w", err)
	}
	return table, nil
}

// staying is a flow map all of whose flows stay in user space, as those do whose
// packets the classifier wants to see.
type staying struct{ dataplane.FlowMap }

func (m staying) Put(entries []dataplane.FlowEntry) error {
	entries = slices.DeleteFunc(entries, func(e dataplane.FlowEntry) bool { return !e.Peer })
	for i := range entries {
		entries[i].Stays = true
	}
	return m.FlowMap.Put(entries)
}

func (staying) Answer(*classify.FlowKey) (seq uint32, length int, ok bool) { return 0, 0, false }
