package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"gatehouse/dataplane"
	"gatehouse/dataplane/afxdp"
	"gatehouse/dataplane/namespace"
	"gatehouse/dataplane/steer"
	"gatehouse/policy"
)

// The gateway that Memory measures: the sizes that run has by itself.
const (
	crowdEndpoints = 200
	crowdFlows     = 100000
	crowdSenders   = 8 // each opens an eighth of the flows, within its share of the tables
	crowdPort      = 9000
)

// Footprint is what a gateway takes of the machine while nothing is undecided.
type Footprint struct {
	Endpoints int           `json:"endpoints"`
	Flows     int           `json:"flows"` // live, in the kernel's tables
	RSS       int64         `json:"rss"`   // bytes, /proc/self/status VmRSS
	RSSAfter  int64         `json:"rssAfter"`
	Busy      time.Duration `json:"busy"` // processor time, user and system
	Over      time.Duration `json:"over"` // in this time
}

// Footprints is one run of Memory.
type Footprints struct {
	When    time.Time   `json:"when"`
	Kernel  string      `json:"kernel"`
	CPU     string      `json:"cpu"`
	Go      string      `json:"go"`
	Command string      `json:"command"`
	States  []Footprint `json:"states"`
}

// Markdown writes the figures as a page.
func (f *Footprints) Markdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# A gateway at rest\n\n`%s` on %s: kernel %s, %s, %s. One process: steering programs, AF_XDP worker, classifier, policy and flow tables in the sizes that `gatehouse run` has by itself, without its control plane; no packet is undecided.\n",
		f.Command, f.When.Format(time.DateOnly), f.Kernel, f.CPU, f.Go)
	b.WriteString("\n| endpoints | live flows | resident, MiB | after the watch, MiB | processor time | in | share of a core |\n|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, s := range f.States {
		fmt.Fprintf(&b, "| %d | %d | %.1f | %.1f | %v | %v | %.2f %% |\n", s.Endpoints, s.Flows, mib(s.RSS), mib(s.RSSAfter),
			s.Busy.Round(time.Millisecond), s.Over.Round(time.Second), 100*s.Busy.Seconds()/s.Over.Seconds())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// Memory makes this process the gateway of 200 endpoints on one bridge, all but
// control of run, and takes its footprint without a flow and with 100,000 live
// ones, each watched for the given time. It needs root.
func Memory(ctx context.Context, watch time.Duration) (r *Footprints, err error) {
	release, err := alone()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, release()) }()
	c := &crowd{}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := c.build(); err != nil {
		return nil, err
	}
	none, err := c.footprint(ctx, watch)
	if err != nil {
		return nil, err
	}
	if err := c.openFlows(); err != nil {
		return nil, err
	}
	full, err := c.footprint(ctx, watch)
	return &Footprints{When: time.Now().UTC().Truncate(time.Second), Kernel: kernel(), CPU: cpuModel(), Go: runtime.Version(), States: []Footprint{none, full}}, err
}

// crowd is a host with many containers, which have a namespace in common.
type crowd struct {
	host, guests string
	gateway      gateway
	teardown     []func() error
	endpoints    []dataplane.Endpoint
}

func crowdAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 99, byte(1 + i/250), byte(1 + i%250)})
}

func crowdMAC(i int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0x42, 0, 0, byte(1 + i/250), byte(1 + i%250)}
}

func (c *crowd) build() error {
	for _, n := range []struct {
		name string
		path *string
	}{{"ghb-crowd-h", &c.host}, {"ghb-crowd-g", &c.guests}} {
		if err := newNamespace(n.name); err != nil {
			return err
		}
		c.teardown = append(c.teardown, func() error { return netns.DeleteNamed(n.name) })
		*n.path = "/var/run/netns/" + n.name
	}
	var ports []uint32
	if err := namespace.Run(c.host, func() (err error) { ports, err = c.wire(); return err }); err != nil {
		return err
	}
	return c.guard(ports)
}

// wire runs inside the host's namespace and returns the host ends.
func (c *crowd) wire() (ports []uint32, err error) {
	br := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	br.Name, br.HardwareAddr = bridgeName, macBr
	if err := errors.Join(netlink.LinkAdd(br), bridgeNetfilter("0")); err != nil {
		return nil, fmt.Errorf("bridge: %w", err)
	}
	l, err := netlink.LinkByName(bridgeName)
	if err != nil {
		return nil, err
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return nil, err
	}
	guests, err := netns.GetFromPath(c.guests)
	if err != nil {
		return nil, err
	}
	defer guests.Close()
	for i := range crowdEndpoints {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MasterIndex, attrs.Flags = fmt.Sprint("veth", i), l.Attrs().Index, net.FlagUp
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerHardwareAddr, veth.PeerNamespace = fmt.Sprint("guest", i), crowdMAC(i), netlink.NsFd(guests)
		if err := netlink.LinkAdd(veth); err != nil {
			return nil, fmt.Errorf("veth %d: %w", i, err)
		}
		port, err := netlink.LinkByName(attrs.Name)
		if err != nil {
			return nil, err
		}
		ports = append(ports, uint32(port.Attrs().Index))
		err = netlink.NeighAppend(&netlink.Neigh{LinkIndex: port.Attrs().Index, Family: unix.AF_BRIDGE,
			Flags: netlink.NTF_MASTER, State: netlink.NUD_NOARP, HardwareAddr: crowdMAC(i)})
		if err != nil {
			return nil, err
		}
	}
	return ports, namespace.Run(c.guests, func() error {
		for i := range crowdEndpoints {
			l, err := netlink.LinkByName(fmt.Sprint("guest", i))
			if err == nil {
				err = netlink.LinkSetUp(l)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// guard puts the gateway in place as run does, with the sizes that run has.
func (c *crowd) guard(ports []uint32) (err error) {
	g := &c.gateway
	pins := "/sys/fs/bpf/ghb-crowd"
	if err := os.RemoveAll(pins); err != nil {
		return err
	}
	// The flows are opened faster than containers open theirs.
	if g.kernel, err = steer.Open(steer.Config{PinDir: pins, Prefix: "ghb", MissBudget: 1e6}); err != nil {
		return err
	}
	g.teardown = append(g.teardown, func() error { return errors.Join(g.kernel.Uninstall(), g.kernel.Close()) })
	g.plane, err = dataplane.New(dataplane.Config{
		FlowMap: g.kernel.Flows(), Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Beat: func(queue int, now int64) { _ = g.kernel.Beat(queue, now) },
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- g.plane.Run(ctx) }()
	g.teardown = append(g.teardown, func() error { cancel(); return <-ran })
	space, err := g.kernel.Space(c.host)
	if err != nil {
		return err
	}
	sockets, err := afxdp.Open(afxdp.Config{NetNS: c.host, Interface: space.User})
	if err != nil {
		return err
	}
	if err := g.plane.AddPort(space.Number, 0, sockets[0]); err != nil {
		return err
	}
	network := steer.Network{Zone: benchZone, Bridge: bridgeName, NetNS: c.host}
	if err := g.kernel.Guard(network); err != nil {
		return err
	}
	for i, ifindex := range ports {
		id := fmt.Sprint("w", i)
		e, err := g.kernel.Admit(steer.Spec{ID: id, Workload: id, Zone: benchZone, Ifindex: ifindex,
			MAC: policy.MAC(crowdMAC(i)), Addrs: []netip.Addr{crowdAddr(i)}, ICC: true, Mode: policy.Enforce})
		if err != nil {
			return err
		}
		c.endpoints = append(c.endpoints, e)
	}
	g.plane.SetEndpoints(c.endpoints)
	table, err := crowdTable()
	if err != nil {
		return err
	}
	g.plane.SetTable(table)
	network.Closed = true
	return errors.Join(g.kernel.SetEpoch(table.Epoch()), g.kernel.Guard(network))
}

func crowdTable() (*policy.Table, error) {
	key := policy.ServiceKey{Project: policy.ProjectKey{Name: "bench"}, Name: "crowd"}
	group := policy.Group{Identity: policy.FirstWorkloadIdentity, Service: key, Model: "custom", Guarded: true}
	snapshot := &policy.Snapshot{Networks: []policy.Network{{ID: "net", Name: "net", Driver: "bridge", Zone: benchZone, ICC: true, Guarded: true,
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/16")}}}}
	for i := range crowdEndpoints {
		id := fmt.Sprint("w", i)
		group.Members = append(group.Members, id)
		snapshot.Workloads = append(snapshot.Workloads, policy.Workload{ID: id, Name: id, Service: key, Endpoints: []policy.Endpoint{
			{ID: id, Network: "net", MAC: policy.MAC(crowdMAC(i)), Addresses: []netip.Addr{crowdAddr(i)}}}})
	}
	return policy.Compile(policy.Input{Epoch: 1, Snapshot: snapshot, Groups: []policy.Group{group}, Statements: []policy.Statement{{
		ID: "crowd", Verdict: policy.Allow, Tier: policy.TierOperator, App: policy.AnyApp,
		Ports: []policy.PortRange{policy.Port(policy.ProtoUDP, crowdPort)}, Origin: []string{"bench"},
		From: []policy.Peer{policy.ServicePeer(key)}, To: []policy.Peer{policy.ServicePeer(key)},
	}}})
}

// openFlows has each sender open its flows to one neighbour after the other.
func (c *crowd) openFlows() error {
	const each = crowdFlows / crowdSenders
	for sender := range crowdSenders {
		g, err := afxdp.NewGenerator(afxdp.Config{NetNS: c.guests, Interface: fmt.Sprint("guest", sender), Frames: 256}, func(_ int, frame []byte) int {
			frame = frame[:smallFrame-frameCheck]
			writeUDP(frame, false)
			copy(frame[6:], crowdMAC(sender))
			src := crowdAddr(sender).As4()
			copy(frame[26:], src[:])
			return len(frame)
		})
		if err != nil {
			return err
		}
		n := 0
		change := func(frame []byte) {
			to := crowdSenders + n%(crowdEndpoints-crowdSenders)
			copy(frame, crowdMAC(to))
			dst := crowdAddr(to).As4()
			copy(frame[30:], dst[:])
			binary.BigEndian.PutUint16(frame[34:], uint16(firstPort+n))
			binary.BigEndian.PutUint16(frame[36:], crowdPort)
			n++
		}
		for n < each && err == nil {
			if _, err = g.Burst(min(burstFrames, each-n), change); err == nil {
				time.Sleep(200 * time.Microsecond) // as many as the worker keeps up with
			}
		}
		if err = errors.Join(err, g.Close()); err != nil {
			return fmt.Errorf("flows of %d: %w", sender, err)
		}
	}
	time.Sleep(time.Second)
	return nil
}

// footprint watches the process at rest.
func (c *crowd) footprint(ctx context.Context, watch time.Duration) (f Footprint, err error) {
	f.Endpoints = len(c.endpoints)
	if f.Flows, err = countFlows(c.gateway.kernel.Flows()); err != nil {
		return f, err
	}
	// run does so once it knows its first state; what the generators have left
	// is not the gateway's.
	debug.FreeOSMemory()
	select {
	case <-ctx.Done():
		return f, ctx.Err()
	case <-time.After(watch / 3):
	}
	if f.RSS, err = residentBytes(); err != nil {
		return f, err
	}
	start, busy := time.Now(), processorTime()
	select {
	case <-ctx.Done():
		return f, ctx.Err()
	case <-time.After(watch):
	}
	f.Over, f.Busy = time.Since(start), processorTime()-busy
	f.RSSAfter, err = residentBytes()
	return f, err
}

// countFlows counts lines, which the sweeper's walk may be in the midst of.
func countFlows(m dataplane.FlowMap) (total int, err error) {
	var seen []bool
	buf := make([]dataplane.FlowEntry, 256)
	for range 2 { // the first walk may begin where the sweeper stands
		for end := false; !end; {
			var n int
			if n, end, err = m.Scan(buf); err != nil {
				return 0, err
			}
			for i := range n {
				for int(buf[i].Line) >= len(seen) {
					seen = append(seen, make([]bool, 1<<16)...)
				}
				seen[buf[i].Line] = true
			}
		}
	}
	for _, there := range seen {
		if there {
			total++
		}
	}
	return total, nil
}

// residentBytes is this process's VmRSS.
func residentBytes() (int64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(status) {
		if value, ok := bytes.CutPrefix(line, []byte("VmRSS:")); ok {
			kb, err := strconv.ParseInt(string(bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimSpace(value), []byte("kB")))), 10, 64)
			return kb << 10, err
		}
	}
	return 0, errors.New("/proc/self/status has no VmRSS")
}

func (c *crowd) close() error {
	errs := []error{c.gateway.close()}
	for i := len(c.teardown) - 1; i >= 0; i-- {
		errs = append(errs, c.teardown[i]())
	}
	return errors.Join(errs...)
}
