package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"

	"github.com/vishvananda/netlink"

	"gatehouse/dataplane"
	"gatehouse/dataplane/afxdp"
	"gatehouse/dataplane/namespace"
	"gatehouse/dataplane/steer"
	"gatehouse/policy"
)

// unbridge takes the site's bridge away: what a pair joins is two cables. Their
// far ends have what a veth needs to be one.
func unbridge(s *site) error {
	err := namespace.Run(s.host, func() error {
		for _, name := range []string{vethA, vethB} {
			l, err := netlink.LinkByName(name)
			if err == nil {
				err = netlink.LinkSetNoMaster(l)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	})
	for _, path := range []string{s.a, s.b} {
		err = errors.Join(err, command(path, "", "ethtool", "-K", "eth0", "gro", "on", "tx", "off", "txvlan", "off"))
	}
	return err
}

// newPairGateway is a bump in the wire between the two cables, as run --pair puts
// it there.
func newPairGateway(r gatewayRequest) (g *gateway, err error) {
	g = &gateway{}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.close())
		}
	}()
	half := max(benchFlows, r.Flows)
	if g.wire, err = steer.OpenWire(uint32(2 * half)); err != nil {
		return g, err
	}
	g.teardown = append(g.teardown, g.wire.Close)
	table, err := pairTable()
	if err != nil {
		return g, err
	}
	pair, _, err := afxdp.OpenPair(afxdp.PairConfig{NetNS: r.Host, Interfaces: [2]string{vethA, vethB}, Load: g.wire.Load})
	if err != nil {
		return g, err
	}
	why, err := pair.Carries()
	if why != "" {
		err = errors.New(why)
	}
	if err != nil {
		return g, errors.Join(err, pair.Close())
	}
	g.plane, err = dataplane.New(dataplane.Config{FlowMap: g.wire.Flows(), Flows: 2 * half, PerEndpoint: half + half/2, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		return g, errors.Join(err, pair.Close())
	}
	for i, index := range pair.Indexes() {
		g.endpoints = append(g.endpoints, dataplane.Endpoint{ID: fmt.Sprint(index), Slot: uint16(i), Ifindex: uint32(index), Mode: policy.Enforce, Transit: true})
	}
	g.plane.SetEndpoints(g.endpoints)
	g.plane.SetTable(table)
	g.run()
	return g, errors.Join(g.plane.AddPort(0, 0, pair), g.wire.Carry(true), g.wire.SetEpoch(table.Epoch()))
}

// run starts the worker.
func (g *gateway) run() {
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- g.plane.Run(ctx) }()
	g.teardown = append(g.teardown, func() error { cancel(); return <-ran })
}

// pairTable allows the packets of a measurement by their addresses.
func pairTable() (*policy.Table, error) {
	prefix := func(addrs ...netip.Addr) (peers []policy.Peer) {
		for _, a := range addrs {
			peers = append(peers, policy.Peer{Kind: policy.PeerCIDR, Prefix: netip.PrefixFrom(a, a.BitLen())})
		}
		return peers
	}
	table, err := policy.Compile(policy.Input{Epoch: 1, Snapshot: &policy.Snapshot{}, Statements: []policy.Statement{{
		ID: "packets", Verdict: policy.Allow, Tier: policy.TierOperator, App: policy.AnyApp,
		Ports: []policy.PortRange{{Proto: policy.ProtoUDP, Lo: packetPort, Hi: packetPort + packetPorts - 1}},
		From:  prefix(addrA, addrA6), To: prefix(addrB, addrB6), Origin: []string{"bench"},
	}}})
	if err != nil {
		return nil, fmt.Errorf("bench policy: %w", err)
	}
	return table, nil
}
