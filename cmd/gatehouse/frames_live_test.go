package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// frameOf is an Ethernet frame from one leg to another, over IPv4.
func frameOf(t *testing.T, from, to leg, l4 gopacket.SerializableLayer, payload string) []byte {
	t.Helper()
	return craft(t, ether(from.mac, to.mac, layers.EthernetTypeIPv4), ipv4(from.v4, to.v4, l4), l4, gopacket.Payload(payload))
}

func ether(src, dst net.HardwareAddr, kind layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: src, DstMAC: dst, EthernetType: kind}
}

// ipv4 is the header for l4, whose checksum it is part of.
func ipv4(src, dst netip.Addr, l4 any) *layers.IPv4 {
	ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	switch l := l4.(type) {
	case *layers.TCP:
		ip.Protocol = layers.IPProtocolTCP
		_ = l.SetNetworkLayerForChecksum(ip)
	case *layers.UDP:
		ip.Protocol = layers.IPProtocolUDP
		_ = l.SetNetworkLayerForChecksum(ip)
	case *layers.ICMPv4:
		ip.Protocol = layers.IPProtocolICMPv4
	}
	return ip
}

func ipv6(src, dst netip.Addr, l4 any) *layers.IPv6 {
	ip := &layers.IPv6{Version: 6, HopLimit: 255, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	switch l := l4.(type) {
	case *layers.TCP:
		ip.NextHeader = layers.IPProtocolTCP
		_ = l.SetNetworkLayerForChecksum(ip)
	case *layers.UDP:
		ip.NextHeader = layers.IPProtocolUDP
		_ = l.SetNetworkLayerForChecksum(ip)
	case *layers.ICMPv6:
		ip.NextHeader = layers.IPProtocolICMPv6
		_ = l.SetNetworkLayerForChecksum(ip)
	}
	return ip
}

func craft(t *testing.T, parts ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buffer := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, parts...); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

const (
	leakMark = "ghe-leak" // in the payload of every forged frame that has one
	// goodFragment is the identification of a first fragment to which nobody can
	// object, until others overlap it.
	goodFragment = 4711
	forgedPort   = 61900 // source port; what comes from another is the kernel's own traffic
)

// bent is a frame that policy, the endpoint's identity or good sense forbids.
type bent struct {
	name    string
	frames  [][]byte
	reasons []string // any of them must be counted
}

// TestRawFrames holds threats 2 to 14 and R22: what a compromised container with NET_RAW, as
// Docker gives it, puts on the wire. The port is one that policy lets it call,
// so that only what is odd can be the cause.
func TestRawFrames(t *testing.T) {
	gw := startGateway(t)
	p := makePair(t, "ghe-raw", "gatehouse.mode=enforce")
	third := perform(t, play{project: "ghe-raw", service: "third", network: p.network, labels: []string{"gatehouse.mode=enforce"}})
	gw.admitted(p.server, p.client, third)
	for _, family := range []int{4, 6} {
		if err := p.call(family, livePatience); err != nil {
			t.Fatalf("ordinary traffic over IPv%d: %v", family, err)
		}
	}
	intruder := startIntruder(t, p.client)
	own, to, other := p.client.leg(), p.server.leg(), third.leg()
	w := watch(t, p.server.netns, func(f seen) bool { return intrusion(f, own, other) })
	host := hostListener(t, p)
	for _, b := range bentFrames(t, own, to, other, host.address) {
		t.Run(b.name, func(t *testing.T) {
			before, arrived := gw.status().Drops, w.count()
			for _, frame := range b.frames {
				intruder.send(t, frame)
			}
			if len(b.reasons) > 0 {
				gw.as(t).eventually("a count of "+strings.Join(b.reasons, " or "), func() bool {
					now := gw.status().Drops
					return slices.ContainsFunc(b.reasons, func(r string) bool { return now[r] > before[r] })
				}, func() string { return fmt.Sprintf("before %v\nnow    %v", before, gw.status().Drops) })
			}
			time.Sleep(20 * time.Millisecond)
			if w.count() > arrived {
				t.Errorf("the receiver saw it")
			}
		})
	}
	w.none("a forged frame")
	if n := host.got.Load(); n > 0 {
		t.Errorf("the host took %d encapsulated frames", n)
	}
	for _, family := range []int{4, 6} {
		if err := p.call(family, livePatience); err != nil {
			t.Errorf("ordinary traffic after all that, over IPv%d: %v", family, err)
		}
	}
	tellsDirection(t, gw, p, other)
}

// tellsDirection fails unless what nobody judged is told as sent by who sent it: the
// intruder; and what the host sends to a container, as sent to that one.
func tellsDirection(t *testing.T, gw *process, p *pair, victim leg) {
	bridge := "br-" + mustRun(t, "docker", "network", "inspect", "-f", "{{slice .Id 0 12}}", p.network)
	frame := append(append(slices.Clone(victim.mac), 2, 0x42, 0, 0, 0, 1, 0x88, 0xb5), leakMark+strings.Repeat(".", 60)...)
	for range 5 {
		if err := sendRaw("", bridge, frame); err != nil {
			t.Fatal(err)
		}
	}
	v := gw.violation("what the host sent", func(v ViolationView) bool { return v.Reason == "ethertype" && v.To == "ghe-raw/third" })
	if v.From != "@unknown" || v.Direction != "ingress" || v.Workload != v.To {
		t.Errorf("what the host sent: %+v", v)
	}
	v = gw.violation("what the intruder sent", func(v ViolationView) bool { return v.Reason == "ethertype" && v.From == "ghe-raw/client" })
	if v.Direction != "egress" || v.To != "" {
		t.Errorf("what the intruder sent: %+v", v)
	}
	for _, v := range gw.violations() {
		if v.From == "ghe-raw/third" {
			t.Errorf("who sent nothing is told to have: %+v", v)
		}
	}
}

// intruder is the probe inside a container, which sends what it is given.
type intruder struct {
	in  io.WriteCloser
	out *bufio.Scanner
}

func startIntruder(t *testing.T, c *container) *intruder {
	t.Helper()
	cmd := exec.Command("docker", "exec", "-i", c.name, "/probe", "frames", "eth0")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	return &intruder{in, bufio.NewScanner(out)}
}

func (i *intruder) send(t *testing.T, frame []byte) {
	t.Helper()
	if _, err := fmt.Fprintf(i.in, "%x\n", frame); err != nil {
		t.Fatal(err)
	}
	if !i.out.Scan() || i.out.Text() != "sent" {
		t.Fatalf("the intruder says %q", i.out.Text())
	}
}

// intrusion is true of frames that the intruder made. Its kernel's own address
// resolution is not.
func intrusion(f seen, own, other leg) bool {
	if bytes.Contains(f.packet.Data(), []byte(leakMark)) {
		return true
	}
	eth, ok := f.packet.LinkLayer().(*layers.Ethernet)
	if !ok || eth.SrcMAC.String() != own.mac.String() {
		return false
	}
	if arp, ok := f.packet.Layer(layers.LayerTypeARP).(*layers.ARP); ok {
		return !net.IP(arp.SourceProtAddress).Equal(own.v4.AsSlice()) || !bytes.Equal(arp.SourceHwAddress, own.mac)
	}
	if ip, ok := f.packet.NetworkLayer().(*layers.IPv4); ok && ip.Id == goodFragment && ip.FragOffset == 0 {
		return false
	}
	if tcp := f.tcp(); tcp != nil && tcp.SrcPort != forgedPort {
		return false
	}
	src, _ := f.ends()
	if na, ok := f.packet.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement); ok {
		return na.TargetAddress.Equal(other.v6.AsSlice())
	}
	if f.packet.Layer(layers.LayerTypeICMPv6NeighborSolicitation) != nil {
		return src == other.v6
	}
	return true
}

// hostSide is a socket of the host where VXLAN would be.
type hostSide struct {
	address netip.Addr
	got     atomic.Int64
}

func hostListener(t *testing.T, p *pair) *hostSide {
	t.Helper()
	text := mustRun(t, "docker", "network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}} {{(index .IPAM.Config 1).Gateway}}", p.network)
	h := &hostSide{}
	for _, word := range strings.Fields(text) {
		if a, err := netip.ParseAddr(word); err == nil && a.Is4() {
			h.address = a
		}
	}
	if !h.address.IsValid() {
		t.Fatalf("the network has no IPv4 gateway: %q", text)
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(port(h.address, 4789)))
	if err != nil {
		t.Logf("something has the host's port 4789: %v", err)
		return h
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		for buffer := make([]byte, 2048); ; h.got.Add(1) {
			if _, err := conn.Read(buffer); err != nil {
				return
			}
		}
	}()
	return h
}

func bentFrames(t *testing.T, own, to, other leg, host netip.Addr) []bent {
	const (
		v4 = layers.EthernetTypeIPv4
		v6 = layers.EthernetTypeIPv6
	)
	mark := gopacket.Payload(leakMark)
	syn := func(flags ...func(*layers.TCP)) *layers.TCP {
		tcp := &layers.TCP{SrcPort: forgedPort, DstPort: 8000, Seq: 1, Window: 1024, SYN: true}
		for _, f := range flags {
			f(tcp)
		}
		return tcp
	}
	from := func(mac net.HardwareAddr, src leg, tcp *layers.TCP) []byte {
		return craft(t, ether(mac, to.mac, v4), ipv4(src.v4, to.v4, tcp), tcp, mark)
	}
	plain := func(src leg, tcp *layers.TCP) []byte { return from(own.mac, src, tcp) }
	plain6 := func(src leg, tcp *layers.TCP) []byte {
		return craft(t, ether(own.mac, to.mac, v6), ipv6(src.v6, to.v6, tcp), tcp, mark)
	}
	inner := plain(own, syn())
	tcpBytes := func(tcp *layers.TCP) []byte {
		return craft(t, ipv4(own.v4, to.v4, tcp), tcp, mark)[20:]
	}
	tags := func(kinds ...layers.EthernetType) []byte { // each tag's own type, outermost first
		body := inner[12:]
		for i := len(kinds) - 1; i >= 0; i-- {
			vlan := byte(0)
			if i > 0 || len(kinds) == 1 && kinds[0] != layers.EthernetTypeDot1Q {
				vlan = 5
			}
			body = append([]byte{byte(kinds[i] >> 8), byte(kinds[i]), 0, vlan}, body...)
		}
		return append(slices.Clone(inner[:12]), body...)
	}
	ip4 := func(change func(*layers.IPv4), payload []byte) []byte {
		ip := ipv4(own.v4, to.v4, nil)
		ip.Protocol = layers.IPProtocolTCP
		change(ip)
		return craft(t, ether(own.mac, to.mac, v4), ip, gopacket.Payload(payload))
	}
	ip6 := func(next byte, payload []byte) []byte {
		ip := ipv6(own.v6, to.v6, nil)
		ip.NextHeader = layers.IPProtocol(next)
		return craft(t, ether(own.mac, to.mac, v6), ip, gopacket.Payload(payload))
	}
	protocol := func(n byte) []byte {
		return ip4(func(ip *layers.IPv4) { ip.Protocol = layers.IPProtocol(n) }, append(make([]byte, 24), leakMark...))
	}
	tcp6 := func() []byte {
		tcp := syn()
		return craft(t, ipv6(own.v6, to.v6, tcp), tcp, mark)[40:]
	}
	extension := func(kind byte, rest ...byte) []byte {
		return ip6(kind, append(append([]byte{6, 0}, rest...), tcp6()...))
	}
	arp := func(op uint16, mac net.HardwareAddr, ip netip.Addr) []byte {
		return craft(t, ether(own.mac, to.mac, layers.EthernetTypeARP), &layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: v4,
			HwAddressSize: 6, ProtAddressSize: 4, Operation: op, SourceHwAddress: mac, SourceProtAddress: ip.AsSlice(),
			DstHwAddress: to.mac, DstProtAddress: to.v4.AsSlice()})
	}
	icmp6 := func(src, dst netip.Addr, kind uint8, body gopacket.SerializableLayer) []byte {
		icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
		return craft(t, ether(own.mac, to.mac, v6), ipv6(src, dst, icmp), icmp, body)
	}
	icmp4 := func(kind, code uint8, body []byte) []byte {
		icmp := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, code), Id: 77}
		return craft(t, ether(own.mac, to.mac, v4), ipv4(own.v4, to.v4, icmp), icmp, gopacket.Payload(body))
	}
	udp := func(dst netip.Addr, mac net.HardwareAddr, n uint16, body []byte) []byte {
		u := &layers.UDP{SrcPort: forgedPort, DstPort: layers.UDPPort(n)}
		return craft(t, ether(own.mac, mac, v4), ipv4(own.v4, dst, u), u, gopacket.Payload(body))
	}
	fragment := func(id, offset uint16, more bool, payload []byte) []byte {
		return ip4(func(ip *layers.IPv4) {
			ip.Id, ip.FragOffset = id, offset
			if more {
				ip.Flags = layers.IPv4MoreFragments
			}
		}, payload)
	}
	fragment6 := func(offset uint16, more byte, payload []byte) []byte {
		return ip6(44, append([]byte{6, 0, byte(offset >> 5), byte(offset<<3) | more, 0, 0, 0x47, 0x11}, payload...))
	}
	na := func(target netip.Addr) gopacket.SerializableLayer {
		return &layers.ICMPv6NeighborAdvertisement{Flags: 0x20, TargetAddress: target.AsSlice(),
			Options: layers.ICMPv6Options{{Type: layers.ICMPv6OptTargetAddress, Data: own.mac}}}
	}
	llc := append(slices.Clone(inner[:12]), 0, byte(8+len(inner)-14), 0xaa, 0xaa, 3, 0, 0, 0, 8, 0)
	llc = append(llc, inner[14:]...)
	unknown := append(append(slices.Clone(inner[:12]), 0x88, 0xb5), leakMark+strings.Repeat(".", 60)...)
	eapol := append(append(slices.Clone(inner[:12]), 0x88, 0x8e), leakMark+strings.Repeat(".", 60)...)
	badLength := slices.Clone(inner)
	badLength[14] = 0x4f // IHL 60 bytes, which are not there
	long := slices.Clone(inner)
	long[16], long[17] = 0x20, 0 // total length 8192
	data := tcpBytes(syn())
	all6 := netip.MustParseAddr("ff02::1")
	deadFlow := inner[14 : 14+28]
	linkLocal := linkLocalOf(own.mac)

	return []bent{
		{"SpoofedIPv4", [][]byte{plain(other, syn())}, []string{"source-address"}},
		{"SpoofedIPv6", [][]byte{plain6(other, syn())}, []string{"source-address"}},
		{"AddressOfReceiver", [][]byte{plain(to, syn()), plain6(to, syn())}, []string{"source-address", "bad-header"}},
		{"SpoofedMAC", [][]byte{from(other.mac, own, syn())}, []string{"source-mac"}},
		{"SpoofedMACAndIP", [][]byte{from(other.mac, other, syn())}, []string{"source-mac"}},
		{"VLAN0", [][]byte{tags(layers.EthernetTypeDot1Q)}, []string{"vlan"}},
		{"VLAN5QinQ", [][]byte{tags(layers.EthernetTypeQinQ)}, []string{"vlan"}},
		{"ThreeTags", [][]byte{tags(layers.EthernetTypeQinQ, layers.EthernetTypeDot1Q, layers.EthernetTypeDot1Q)}, []string{"vlan"}},
		{"SNAP", [][]byte{llc}, []string{"ethertype"}},
		{"UnknownEtherType", [][]byte{unknown}, []string{"ethertype"}},
		{"EAPOL", [][]byte{eapol}, []string{"ethertype"}},
		{"ARPSenderIP", [][]byte{arp(layers.ARPReply, own.mac, other.v4), arp(layers.ARPRequest, own.mac, other.v4)}, []string{"arp-sender"}},
		{"ARPSenderMAC", [][]byte{arp(layers.ARPReply, other.mac, own.v4)}, []string{"arp-sender"}},
		{"ARPGateway", [][]byte{arp(layers.ARPReply, own.mac, host)}, []string{"arp-sender"}},
		{"NeighborAdvertisement", [][]byte{icmp6(own.v6, to.v6, 136, na(other.v6)), icmp6(linkLocal, all6, 136, na(other.v6))}, []string{"nd-sender"}},
		{"RouterAdvertisement", [][]byte{icmp6(linkLocal, all6, 134, &layers.ICMPv6RouterAdvertisement{HopLimit: 64, RouterLifetime: 1800})}, []string{"router-advertisement"}},
		{"Redirect", [][]byte{icmp6(linkLocal, to.v6, 137, &layers.ICMPv6Redirect{TargetAddress: own.v6.AsSlice(), DestinationAddress: other.v6.AsSlice()})}, []string{"router-advertisement"}},
		{"LooseSourceRoute", [][]byte{ip4(func(ip *layers.IPv4) {
			ip.Options = []layers.IPv4Option{{OptionType: 131, OptionLength: 7, OptionData: []byte{4, 10, 0, 0, 1}}}
		}, data)}, []string{"ip-options"}},
		{"RouterAlert", [][]byte{ip4(func(ip *layers.IPv4) {
			ip.Options = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}}
		}, data)}, []string{"ip-options"}},
		{"HopByHop", [][]byte{extension(0, 5, 2, 0, 0, 1, 0)}, []string{"extension-header"}},
		{"RoutingHeader", [][]byte{extension(43, 0, 0, 0, 0, 0, 0)}, []string{"extension-header"}},
		{"DestinationOptions", [][]byte{extension(60, 1, 4, 0, 0, 0, 0)}, []string{"extension-header"}},
		{"TinyFragment", [][]byte{fragment(1, 0, true, data[:8]), fragment(1, 1, false, data[8:])}, []string{"fragment"}},
		{"OverlappingFragments", [][]byte{fragment(goodFragment, 0, true, data[:24]), fragment(goodFragment, 1, true, data[8:24]), fragment(goodFragment, 2, false, data[16:])}, []string{"fragment"}},
		{"FragmentWithoutFirst", [][]byte{fragment(3, 3, false, []byte(leakMark))}, []string{"fragment"}},
		{"FragmentsIPv6", [][]byte{fragment6(0, 1, data[:8]), fragment6(1, 0, data[8:]), fragment6(9, 0, []byte(leakMark))}, []string{"fragment", "extension-header"}},
		{"GRE", [][]byte{protocol(47)}, []string{"protocol"}},
		{"IPIP", [][]byte{ip4(func(ip *layers.IPv4) { ip.Protocol = 4 }, inner[14:])}, []string{"protocol"}},
		{"6in4", [][]byte{protocol(41)}, []string{"protocol"}},
		{"SCTP", [][]byte{protocol(132), ip6(132, append(make([]byte, 16), leakMark...))}, []string{"protocol"}},
		{"ESP", [][]byte{protocol(50), ip6(50, append(make([]byte, 16), leakMark...))}, []string{"protocol"}},
		{"Protocol255", [][]byte{protocol(255), ip6(255, append(make([]byte, 16), leakMark...))}, []string{"protocol"}},
		{"VXLANToHost", [][]byte{udp(host, hostMAC(t, host), 4789, append([]byte{8, 0, 0, 0, 0, 0, 1, 0}, inner...))}, []string{"no-rule", "denied"}},
		{"VXLANToPeer", [][]byte{udp(to.v4, to.mac, 4789, append([]byte{8, 0, 0, 0, 0, 0, 1, 0}, inner...))}, []string{"no-rule"}},
		{"Echo", [][]byte{icmp4(8, 0, []byte(leakMark))}, []string{"no-rule"}},
		{"BigEcho", [][]byte{icmp4(8, 0, append(make([]byte, 1480), leakMark...)[:1472])}, []string{"no-rule", "icmp-size"}},
		{"EchoIPv6", [][]byte{icmp6(own.v6, to.v6, 128, gopacket.Payload("\x00\x4d\x00\x01"+leakMark))}, []string{"no-rule"}},
		{"ForgedUnreachable", [][]byte{icmp4(3, 1, deadFlow)}, []string{"icmp-unrelated"}},
		{"ForgedPacketTooBig", [][]byte{icmp6(own.v6, to.v6, 2, gopacket.Payload(append([]byte{0, 0, 5, 0}, plain6(own, syn())[14:]...)))}, []string{"icmp-unrelated"}},
		{"ICMPRedirect", [][]byte{icmp4(5, 1, deadFlow)}, []string{"icmp-type"}},
		{"ICMPTimestamp", [][]byte{icmp4(13, 0, append(make([]byte, 12), leakMark...))}, []string{"icmp-type"}},
		{"SYNFIN", [][]byte{plain(own, syn(func(l *layers.TCP) { l.FIN = true })), plain6(own, syn(func(l *layers.TCP) { l.FIN = true }))}, []string{"bad-header"}},
		{"SYNRST", [][]byte{plain(own, syn(func(l *layers.TCP) { l.RST = true }))}, []string{"bad-header"}},
		{"NoFlags", [][]byte{plain(own, syn(func(l *layers.TCP) { l.SYN = false }))}, []string{"bad-header", "no-flow"}},
		{"XMAS", [][]byte{plain(own, syn(func(l *layers.TCP) { l.SYN, l.FIN, l.PSH, l.URG = false, true, true, true }))}, []string{"bad-header", "no-flow"}},
		{"ACKFirst", [][]byte{plain(own, syn(func(l *layers.TCP) { l.SYN, l.ACK, l.DstPort = false, true, 9000 }))}, []string{"no-flow"}},
		{"SplitHandshake", [][]byte{plain(own, syn(func(l *layers.TCP) { l.ACK, l.DstPort = true, 9000 })), plain(own, syn(func(l *layers.TCP) { l.DstPort = 9000 }))}, []string{"no-flow", "no-rule"}},
		{"FastOpen", [][]byte{plain(own, syn(func(l *layers.TCP) { l.DstPort = 9000 })), plain6(own, syn(func(l *layers.TCP) { l.DstPort = 9000 }))}, []string{"no-rule"}},
		{"BadIHL", [][]byte{badLength[:14+40]}, []string{"bad-header", "truncated", "ip-options"}},
		{"TooLong", [][]byte{long}, []string{"truncated", "bad-header"}},
		{"Multicast", [][]byte{udp(netip.MustParseAddr("239.1.1.1"), net.HardwareAddr{1, 0, 0x5e, 1, 1, 1}, 9000, []byte(leakMark)),
			udp(netip.MustParseAddr("224.0.0.251"), net.HardwareAddr{1, 0, 0x5e, 0, 0, 251}, 5353, []byte(leakMark))}, []string{"multicast", "no-rule"}},
		{"Broadcast", [][]byte{udp(netip.MustParseAddr("255.255.255.255"), net.HardwareAddr{255, 255, 255, 255, 255, 255}, 9000, []byte(leakMark))}, []string{"multicast", "no-rule"}},
		{"MulticastMACUnicastIP", [][]byte{udp(to.v4, net.HardwareAddr{1, 0, 0x5e, 1, 1, 1}, 8000, []byte(leakMark))}, []string{"destination-mac", "no-rule", "multicast"}},
	}
}

// hostMAC is the address of the bridge that has an IP address.
func hostMAC(t *testing.T, ip netip.Addr) net.HardwareAddr {
	t.Helper()
	devices, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range devices {
		addresses, _ := d.Addrs()
		for _, a := range addresses {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr() == ip {
				return d.HardwareAddr
			}
		}
	}
	t.Fatalf("no interface has %v", ip)
	return nil
}

// linkLocalOf is the address that a kernel makes of a MAC (EUI-64).
func linkLocalOf(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
}
