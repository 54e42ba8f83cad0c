package steer

import (
	"encoding/binary"
	"errors"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"

	"gatehouse/classify"
	"gatehouse/dataplane"
	"gatehouse/policy"
)

func TestReasonsAreThePrograms(t *testing.T) {
	spec, err := loadSteer()
	must(t, err)
	var enum *btf.Enum
	must(t, spec.Types.TypeByName("reason", &enum))
	if len(enum.Values) != int(policy.ReasonCount)+1 {
		t.Errorf("steer.bpf.c has %d reasons, policy has %d", len(enum.Values)-1, policy.ReasonCount)
	}
	for _, v := range enum.Values {
		name := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(v.Name, "REASON_")), "_", "-")
		if name == "count" {
			name = "invalid" // what String says past the last
		}
		if got := policy.Reason(v.Value).String(); got != name {
			t.Errorf("%s is %d, which policy calls %s", v.Name, v.Value, got)
		}
	}
	if room := min(reasonsRoom, uint32(len(steerPort{}.Dropped[0]))); uint32(policy.ReasonCount) > room {
		t.Errorf("%d reasons, the counters have room for %d", policy.ReasonCount, room)
	}
	if uint32(steerCounterCOUNT_HIT) != uint32(dataplane.Directions)*reasonsRoom {
		t.Errorf("the counters of drops end at %d, not where %d directions of %d reasons do", steerCounterCOUNT_HIT, dataplane.Directions, reasonsRoom)
	}
}

// TestFlowLayout: a line of the tables is a cache line, and the Go twin of
// the tables' hash and places is the programs'.
func TestFlowLayout(t *testing.T) {
	if n := unsafe.Sizeof(steerFlow{}); n != 64 {
		t.Errorf("a flow's line has %d bytes, want one cache line", n)
	}
	if n := unsafe.Sizeof(steerFlow6{}); n != 128 {
		t.Errorf("an IPv6 flow's line has %d bytes, want two cache lines", n)
	}
}

// What a program says of a frame.
const (
	next     = 0xffffffff // TCX_NEXT
	shot     = 2
	redirect = 7
)

// judge runs one of the programs on a frame, as if it came by c's port.
func (h *host) judge(prog *ebpf.Program, c *container, mark uint32, frame []byte) (action, markAfter uint32) {
	h.t.Helper()
	action, markAfter, err := h.testRun(prog, c, mark, frame)
	must(h.t, err)
	return action, markAfter
}

func (h *host) testRun(prog *ebpf.Program, c *container, mark uint32, frame []byte) (action, markAfter uint32, err error) {
	in, out := make([]byte, 192), make([]byte, 192) // struct __sk_buff
	binary.NativeEndian.PutUint32(in[8:], mark)
	binary.NativeEndian.PutUint32(in[36:], c.via)
	binary.NativeEndian.PutUint32(in[40:], c.ifindex)
	err = h.ns.do(func() (err error) {
		action, err = prog.Run(&ebpf.RunOptions{Data: frame, Context: in, ContextOut: out})
		return err
	})
	return action, binary.NativeEndian.Uint32(out[8:]), err
}

// told runs a program and says in a word what became of the frame: "pass",
// "steer", or the reason of the drop, which has to count in the program's direction.
func (h *host) told(prog *ebpf.Program, c *container, frame []byte) string {
	h.t.Helper()
	own := dataplane.FromEndpoint
	if prog == h.s.networks[testZone].to {
		own = dataplane.ToEndpoint
	}
	before := h.counters()
	action, _ := h.judge(prog, c, 0, frame)
	after := h.counters()
	switch action {
	case next:
		return "pass"
	case redirect:
		if after.Steered > before.Steered {
			return "steer"
		}
		return "peer"
	case shot:
		var counted []string
		for dir := range dataplane.Directions {
			for r := range policy.ReasonCount {
				if after.Drops[dir][r] == before.Drops[dir][r] {
					continue
				}
				text := r.String()
				if dir != own {
					text += " counted as " + dir.String()
				}
				counted = append(counted, text)
			}
		}
		if after.Noise > before.Noise {
			counted = append(counted, "noise")
		}
		if len(counted) > 1 { // the container's own stack spoke meanwhile
			return h.told(prog, c, frame)
		}
		return strings.Join(counted, "")
	}
	h.t.Fatalf("action %d", action)
	return ""
}

var (
	broadcast  = policy.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	allNodes   = netip.MustParseAddr("ff02::1")
	allRouters = netip.MustParseAddr("ff02::2")
	allMLD     = netip.MustParseAddr("ff02::16")
	outside4   = netip.MustParseAddr("198.51.100.2")
	outside6   = netip.MustParseAddr("2001:db8::2")
	zero4      = netip.IPv4Unspecified()
	zero6      = netip.IPv6Unspecified()
)

func multicastMAC(a netip.Addr) policy.MAC {
	b := a.As16()
	return policy.MAC{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

func solicitedNode(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
}

func tcp(flags string) *layers.TCP {
	return &layers.TCP{SrcPort: 1000, DstPort: 80, Window: 100,
		SYN: strings.Contains(flags, "S"), ACK: strings.Contains(flags, "A"), FIN: strings.Contains(flags, "F"), RST: strings.Contains(flags, "R")}
}

// arp is a frame by which mac says it is ip.
func arp(t testing.TB, eth1, mac policy.MAC, op uint16, ip, target netip.Addr) []byte {
	return build(t, eth(eth1, broadcast, layers.EthernetTypeARP), &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
		Operation: op, SourceHwAddress: mac[:], SourceProtAddress: ip.AsSlice(),
		DstHwAddress: make([]byte, 6), DstProtAddress: target.AsSlice(),
	})
}

type option struct {
	kind layers.ICMPv6Opt
	mac  policy.MAC
}

func ndOptions(options []option) (list layers.ICMPv6Options) {
	for _, o := range options {
		list = append(list, layers.ICMPv6Option{Type: o.kind, Data: o.mac[:]})
	}
	return list
}

// icmp6 is an ICMPv6 message with hop limit 255.
func icmp6(t testing.TB, mac policy.MAC, src, dst netip.Addr, typ uint8, body gopacket.SerializableLayer) []byte {
	ip := ip6(src, dst, layers.IPProtocolICMPv6)
	ip.HopLimit = 255
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, 0)}
	return build(t, eth(mac, multicastMAC(dst), layers.EthernetTypeIPv6), ip, icmp, body)
}

func solicitation(t testing.TB, mac policy.MAC, src, target netip.Addr, options ...option) []byte {
	return icmp6(t, mac, src, solicitedNode(target), 135,
		&layers.ICMPv6NeighborSolicitation{TargetAddress: net.IP(target.AsSlice()), Options: ndOptions(options)})
}

func advertisement(t testing.TB, mac policy.MAC, src, target netip.Addr, options ...option) []byte {
	return icmp6(t, mac, src, allNodes, 136,
		&layers.ICMPv6NeighborAdvertisement{TargetAddress: net.IP(target.AsSlice()), Options: ndOptions(options)})
}

// mld is a version 2 report for groups, behind a router alert.
func mld(t testing.TB, mac policy.MAC, src netip.Addr, groups ...netip.Addr) []byte {
	report := []byte{143, 0, 0, 0, 0, 0, 0, byte(len(groups))}
	for _, g := range groups {
		report = append(report, 4, 0, 0, 0)
		report = append(report, g.AsSlice()...)
	}
	ip := ip6(src, allMLD, layers.IPProtocolIPv6HopByHop)
	ip.HopLimit = 1
	alert := gopacket.Payload(append([]byte{58, 0, 5, 2, 0, 0, 1, 0}, report...))
	return build(t, eth(mac, multicastMAC(allMLD), layers.EthernetTypeIPv6), ip, alert)
}

// tagged puts a VLAN tag into a frame.
func tagged(frame []byte, tpid, tci uint16) []byte {
	b := append([]byte(nil), frame[:12]...)
	b = binary.BigEndian.AppendUint16(b, tpid)
	b = binary.BigEndian.AppendUint16(b, tci)
	return append(b, frame[12:]...)
}

// What an endpoint may send, and what says why it may not (R22 among it).
func TestFromEndpoint(t *testing.T) {
	h := newHost(t)
	h.guard(true)
	a, b, stranger := h.run("a", 2), h.run("b", 3), h.run("c", 4)
	h.admit(a)
	h.admit(b)
	ll := linkLocal(a.mac)
	udp := &layers.UDP{SrcPort: 1000, DstPort: 53}
	payload := gopacket.Payload("x")
	v4 := datagram(t, a, b, false, 1000, 53, "x")
	v6 := datagram(t, a, b, true, 1000, 53, "x")
	with := func(c container, f func(*container)) *container { f(&c); return &c }
	spoofed := with(*a, func(c *container) { c.v4, c.v6 = b.v4, b.v6 })
	spoofMAC := with(*a, func(c *container) { c.mac = b.mac })
	foreign := with(*a, func(c *container) { c.v4, c.v6 = outside4, outside6 })
	mapped := with(*a, func(c *container) { c.v6 = netip.AddrFrom16(b.v4.As16()) })
	cases := []struct {
		name  string
		frame []byte
		want  string
	}{
		{"UDP/IPv4", v4, "steer"},
		{"UDP/IPv6", v6, "steer"},
		{"SYN/IPv4", build(t, eth(a.mac, b.mac, 0x0800), ip4(a.v4, b.v4, 6), tcp("S")), "steer"},
		{"source address of another/IPv4", datagram(t, spoofed, stranger, false, 1, 2, "x"), "source-address"},
		{"source address of another/IPv6", datagram(t, spoofed, stranger, true, 1, 2, "x"), "source-address"},
		{"source address of nobody/IPv4", datagram(t, foreign, b, false, 1, 2, "x"), "source-address"},
		{"source address of nobody/IPv6", datagram(t, foreign, b, true, 1, 2, "x"), "source-address"},
		{"no source address/IPv4", build(t, eth(a.mac, broadcast, 0x0800), ip4(zero4, outside4, 17), payload), "source-address"},
		{"no source address/IPv6", build(t, eth(a.mac, b.mac, 0x86dd), ip6(zero6, b.v6, 17), payload), "truncated"},
		{"IPv4-mapped source", datagram(t, mapped, b, true, 1, 2, "x"), "bad-header"},
		{"IPv4-mapped destination", datagram(t, a, mapped, true, 1, 2, "x"), "bad-header"},
		{"talks to itself/IPv4", datagram(t, a, a, false, 1, 2, "x"), "bad-header"},
		{"talks to itself/IPv6", datagram(t, a, a, true, 1, 2, "x"), "bad-header"},
		{"source MAC of another/IPv4", datagram(t, spoofMAC, b, false, 1, 2, "x"), "source-mac"},
		{"source MAC of another/IPv6", datagram(t, spoofMAC, b, true, 1, 2, "x"), "source-mac"},
		{"link-local source", build(t, eth(a.mac, b.mac, 0x86dd), ip6(ll, b.v6, 17), &layers.UDP{}, payload), "steer"},

		{"VLAN", tagged(v4, 0x8100, 5), "vlan"},
		{"VLAN/IPv6", tagged(v6, 0x8100, 5), "vlan"},
		{"priority tag", tagged(v4, 0x8100, 0), "vlan"},
		{"QinQ", tagged(tagged(v4, 0x8100, 5), 0x88a8, 6), "vlan"},
		{"unknown ethertype", build(t, eth(a.mac, b.mac, 0x88b5), payload), "ethertype"},
		{"LLC", build(t, &layers.Ethernet{SrcMAC: a.mac[:], DstMAC: b.mac[:], Length: 40}, gopacket.Payload(make([]byte, 46))), "ethertype"},
		{"EAPOL", build(t, eth(a.mac, policy.MAC{1, 0x80, 0xc2, 0, 0, 3}, 0x888e), payload), "ethertype"},
		{"RARP", build(t, eth(a.mac, broadcast, 0x8035), payload), "ethertype"},

		{"ports cut/IPv4", v4[:14+20+6], "truncated"},
		{"ports cut/IPv6", v6[:14+40+6], "truncated"},
		{"version/IPv4", patched(v4, 14, 0x55), "bad-header"},
		{"header length/IPv4", patched(v4, 14, 0x44), "bad-header"},
		{"version/IPv6", patched(v6, 14, 0x40), "bad-header"},
		{"options", build(t, eth(a.mac, b.mac, 0x0800), &layers.IPv4{Version: 4, IHL: 6, TTL: 64, Protocol: 17, SrcIP: a.v4.AsSlice(), DstIP: b.v4.AsSlice(),
			Options: []layers.IPv4Option{{OptionType: 7, OptionLength: 3, OptionData: []byte{4}}}}, udp, payload), "steer"},
		{"fragment", build(t, eth(a.mac, b.mac, 0x0800), &layers.IPv4{Version: 4, TTL: 64, Protocol: 17, Flags: layers.IPv4MoreFragments, SrcIP: a.v4.AsSlice(), DstIP: b.v4.AsSlice()}, udp, payload), "steer"},
		{"later fragment", build(t, eth(a.mac, b.mac, 0x0800), &layers.IPv4{Version: 4, TTL: 64, Protocol: 6, FragOffset: 10, SrcIP: a.v4.AsSlice(), DstIP: b.v4.AsSlice()}, payload), "steer"},
		{"extension header", build(t, eth(a.mac, b.mac, 0x86dd), ip6(a.v6, b.v6, layers.IPProtocolIPv6Destination), gopacket.Payload([]byte{17, 0, 1, 4, 0, 0, 0, 0, 1, 2})), "steer"},
		{"fragment header", build(t, eth(a.mac, b.mac, 0x86dd), ip6(a.v6, b.v6, layers.IPProtocolIPv6Fragment), gopacket.Payload(make([]byte, 16))), "steer"},
		{"SCTP/IPv4", build(t, eth(a.mac, b.mac, 0x0800), ip4(a.v4, b.v4, 132), payload), "steer"},
		{"SCTP/IPv6", build(t, eth(a.mac, b.mac, 0x86dd), ip6(a.v6, b.v6, 132), payload), "steer"},
		{"SCTP from another/IPv4", build(t, eth(a.mac, b.mac, 0x0800), ip4(outside4, b.v4, 132), payload), "source-address"},
		{"options from another", build(t, eth(a.mac, b.mac, 0x0800), &layers.IPv4{Version: 4, IHL: 6, TTL: 64, Protocol: 17, SrcIP: outside4.AsSlice(), DstIP: b.v4.AsSlice(),
			Options: []layers.IPv4Option{{OptionType: 1}}}, udp, payload), "source-address"},
		{"fragment from another/IPv6", build(t, eth(a.mac, b.mac, 0x86dd), ip6(outside6, b.v6, layers.IPProtocolIPv6Fragment), gopacket.Payload(make([]byte, 16))), "source-address"},
		{"multicast/IPv4", build(t, eth(a.mac, policy.MAC{1, 0, 0x5e, 0, 0, 0xfb}, 0x0800), ip4(a.v4, netip.MustParseAddr("224.0.0.251"), 17), udp, payload), "steer"},

		{"ARP request", arp(t, a.mac, a.mac, 1, a.v4, b.v4), "pass"},
		{"ARP reply", arp(t, a.mac, a.mac, 2, a.v4, b.v4), "pass"},
		{"gratuitous ARP", arp(t, a.mac, a.mac, 1, a.v4, a.v4), "pass"},
		{"ARP probe for its own", arp(t, a.mac, a.mac, 1, zero4, a.v4), "pass"},
		{"ARP probe for another's", arp(t, a.mac, a.mac, 1, zero4, b.v4), "arp-sender"},
		{"ARP claims another's address", arp(t, a.mac, a.mac, 2, b.v4, a.v4), "arp-sender"},
		{"ARP claims the gateway", arp(t, a.mac, a.mac, 2, netip.MustParseAddr("172.30.9.1"), a.v4), "arp-sender"},
		{"ARP claims another's MAC", arp(t, a.mac, b.mac, 2, a.v4, b.v4), "arp-sender"},
		{"ARP from another's MAC", arp(t, b.mac, b.mac, 2, b.v4, a.v4), "source-mac"},
		{"ARP cut", arp(t, a.mac, a.mac, 1, a.v4, b.v4)[:40], "arp-sender"},
		{"ARP with a passenger", append(arp(t, a.mac, a.mac, 1, a.v4, b.v4), 1), "arp-sender"},
		{"RARP", arp(t, a.mac, a.mac, 3, a.v4, b.v4), "arp-sender"},
		{"ARP of another protocol", patched(arp(t, a.mac, a.mac, 1, a.v4, b.v4), 16, 0x86), "arp-sender"},

		{"NS", solicitation(t, a.mac, a.v6, b.v6, option{layers.ICMPv6OptSourceAddress, a.mac}), "pass"},
		{"NS from its link-local address", solicitation(t, a.mac, ll, b.v6, option{layers.ICMPv6OptSourceAddress, a.mac}), "pass"},
		{"NS without option", solicitation(t, a.mac, a.v6, b.v6), "pass"},
		{"DAD", solicitation(t, a.mac, zero6, a.v6), "pass"},
		{"DAD of another's address", solicitation(t, a.mac, zero6, b.v6), "nd-sender"},
		{"DAD with option", solicitation(t, a.mac, zero6, a.v6, option{layers.ICMPv6OptSourceAddress, a.mac}), "nd-sender"},
		{"NS from another's address", solicitation(t, a.mac, b.v6, a.v6), "nd-sender"},
		{"NS with another's option", solicitation(t, a.mac, a.v6, b.v6, option{layers.ICMPv6OptSourceAddress, b.mac}), "nd-sender"},
		{"NS with two options", solicitation(t, a.mac, a.v6, b.v6, option{layers.ICMPv6OptSourceAddress, a.mac}, option{layers.ICMPv6OptSourceAddress, b.mac}), "nd-sender"},
		{"NS with a low hop limit", patched(solicitation(t, a.mac, a.v6, b.v6), 21, 64), "nd-sender"},
		{"NS with an empty option", patched(solicitation(t, a.mac, a.v6, b.v6, option{layers.ICMPv6OptSourceAddress, a.mac}), 79, 0), "nd-sender"},
		{"NA", advertisement(t, a.mac, a.v6, a.v6, option{layers.ICMPv6OptTargetAddress, a.mac}), "pass"},
		{"NS with a nonce", solicitation(t, a.mac, a.v6, b.v6, option{layers.ICMPv6OptSourceAddress, a.mac}, option{14, b.mac}), "pass"},
		{"NS with a strange option", solicitation(t, a.mac, a.v6, b.v6, option{200, a.mac}), "nd-sender"},
		{"NS with a long nonce", patched(append(solicitation(t, a.mac, a.v6, b.v6, option{14, a.mac}), make([]byte, 8)...), 79, 2), "nd-sender"},
		{"NS with a passenger", append(solicitation(t, a.mac, a.v6, b.v6), 1), "nd-sender"},
		{"MLD with a passenger", append(mld(t, a.mac, ll, solicitedNode(a.v6)), 1), "multicast"},
		{"MLD with room", longer(mld(t, a.mac, ll, solicitedNode(a.v6)), 20), "multicast"},
		{"NA for another's address", advertisement(t, a.mac, a.v6, b.v6, option{layers.ICMPv6OptTargetAddress, a.mac}), "nd-sender"},
		{"NA from another's address", advertisement(t, a.mac, b.v6, a.v6), "nd-sender"},
		{"NA with another's option", advertisement(t, a.mac, a.v6, a.v6, option{layers.ICMPv6OptTargetAddress, b.mac}), "nd-sender"},
		{"NA without source", advertisement(t, a.mac, zero6, a.v6), "nd-sender"},
		{"RA", icmp6(t, a.mac, ll, allNodes, 134, &layers.ICMPv6RouterAdvertisement{RouterLifetime: 1800}), "router-advertisement"},
		{"redirect", icmp6(t, a.mac, ll, b.v6, 137, &layers.ICMPv6Redirect{TargetAddress: net.IP(a.v6.AsSlice()), DestinationAddress: net.IP(outside6.AsSlice())}), "router-advertisement"},
		{"RS", icmp6(t, a.mac, ll, allRouters, 133, &layers.ICMPv6RouterSolicitation{}), "router-solicitation"},
		{"MLD for its own groups", mld(t, a.mac, ll, solicitedNode(a.v6), solicitedNode(ll)), "pass"},
		{"MLD without source", mld(t, a.mac, zero6, solicitedNode(a.v6)), "pass"},
		{"MLD for another's group", mld(t, a.mac, ll, solicitedNode(a.v6), solicitedNode(b.v6)), "multicast"},
		{"MLD for mDNS", mld(t, a.mac, ll, netip.MustParseAddr("ff02::fb")), "multicast"},
		{"MLD from another's address", mld(t, a.mac, b.v6, solicitedNode(a.v6)), "multicast"},
		{"echo/IPv4", build(t, eth(a.mac, b.mac, 0x0800), ip4(a.v4, b.v4, 1), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: 5}, payload), "steer"},
		{"error/IPv4", build(t, eth(a.mac, b.mac, 0x0800), ip4(a.v4, b.v4, 1), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 1)}, gopacket.Payload(v4[14:42])), "steer"},
		{"error/IPv6", icmp6(t, a.mac, a.v6, b.v6, 1, gopacket.Payload(append(make([]byte, 4), v6[14:62]...))), "steer"},
	}
	from := h.s.networks[testZone].from
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := h.told(from, a, c.frame); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if got := h.told(from, stranger, c.frame); got != "not-admitted" {
				t.Errorf("from an unadmitted port: %s, want not-admitted", got)
			}
		})
	}
}

// patched is a copy of frame with one byte changed.
func patched(frame []byte, at int, b byte) []byte {
	c := append([]byte(nil), frame...)
	c[at] = b
	return c
}

// longer is an IPv6 frame with n more bytes of payload.
func longer(frame []byte, n int) []byte {
	b := append(append([]byte(nil), frame...), make([]byte, n)...)
	binary.BigEndian.PutUint16(b[18:], uint16(len(b)-54))
	return b
}

func TestToEndpoint(t *testing.T) {
	h := newHost(t)
	h.guard(true)
	a, b, stranger := h.run("a", 2), h.run("b", 3), h.run("c", 4)
	watcher := h.run("d", 5)
	h.admit(a)
	h.admit(b)
	h.admit(watcher, func(s *Spec) { s.Mode = policy.Observe })
	gw := &container{mac: h.bridge, v4: outside4, v6: outside6}
	udp, payload := &layers.UDP{SrcPort: 1000, DstPort: 53}, gopacket.Payload("x")
	v4 := datagram(t, gw, b, false, 1000, 53, "x")
	v6 := datagram(t, gw, b, true, 1000, 53, "x")
	ra := &layers.ICMPv6RouterAdvertisement{RouterLifetime: 1800}
	mdns := build(t, eth(a.mac, policy.MAC{1, 0, 0x5e, 0, 0, 0xfb}, 0x0800), ip4(a.v4, netip.MustParseAddr("224.0.0.251"), 17), udp, payload)
	cases := []struct {
		name          string
		frame         []byte
		want, observe string // "" = not tried at the observing endpoint
	}{
		{"UDP/IPv4", v4, "steer", ""},
		{"UDP/IPv6", v6, "steer", ""},
		{"flooded", datagram(t, gw, a, false, 1, 2, "x"), "destination-mac", "destination-mac"},
		{"VLAN", tagged(v4, 0x8100, 5), "vlan", "destination-mac"},
		{"VLAN, to everybody", tagged(patched(v4, 0, 0xff), 0x8100, 5), "vlan", "vlan"},
		{"unknown ethertype", build(t, eth(a.mac, b.mac, 0x88b5), payload), "ethertype", "destination-mac"},
		{"unknown ethertype, to everybody", build(t, eth(a.mac, broadcast, 0x88b5), payload), "ethertype", "ethertype"},
		{"cut", v4[:14+20+6], "truncated", "destination-mac"},
		{"cut, to everybody", patched(v4, 0, 0xff)[:14+20+6], "truncated", "truncated"},
		{"cut/IPv6", v6[:14+40+6], "truncated", "destination-mac"},
		{"ARP", arp(t, a.mac, a.mac, 1, a.v4, b.v4), "pass", "pass"},
		{"NS", solicitation(t, a.mac, a.v6, b.v6), "pass", "pass"},
		{"NA", advertisement(t, a.mac, a.v6, a.v6), "pass", "pass"},
		{"RA of the gateway", icmp6(t, h.bridge, linkLocal(h.bridge), allNodes, 134, ra), "pass", "pass"},
		{"RA of another", icmp6(t, a.mac, linkLocal(a.mac), allNodes, 134, ra), "router-advertisement", "router-advertisement"},
		{"MLD", mld(t, h.bridge, linkLocal(h.bridge), netip.MustParseAddr("ff02::fb")), "noise", "pass"},
		{"multicast", mdns, "multicast", "pass"},
		{"broadcast", build(t, eth(a.mac, broadcast, 0x0800), ip4(a.v4, netip.MustParseAddr("172.30.9.255"), 17), udp, payload), "multicast", "pass"},
	}
	to := h.s.networks[testZone].to
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := h.told(to, b, c.frame); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if got := h.told(to, watcher, c.frame); c.observe != "" && got != c.observe {
				t.Errorf("at the observing endpoint: %s, want %s", got, c.observe)
			}
			if got := h.told(to, stranger, c.frame); got != "not-admitted" {
				t.Errorf("at an unadmitted port: %s, want not-admitted", got)
			}
		})
	}
}

// TestForgedElsewhere: what says that it is from an endpoint of this network counts as
// that only where it came by its interface, or by the bridge, where the host routes.
func TestForgedElsewhere(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		h := newHost(t)
		h.guard(false)
		a, b, stranger := h.run("a", 2), h.run("b", 3), h.run("c", 4)
		watcher, unguarded := h.run("d", 5), h.run("e", 6)
		h.admit(a)
		h.admit(b)
		h.admit(watcher, func(s *Spec) { s.Mode = policy.Observe })
		h.admit(unguarded, func(s *Spec) { s.Unguarded = true })
		var br uint32
		must(t, h.ns.do(func() error {
			l, err := netlink.LinkByName("br0")
			br = uint32(l.Attrs().Index)
			return err
		}))
		routed := *a
		routed.mac = h.bridge
		fragment := func(to *container) []byte {
			if v6 {
				return build(t, eth(a.mac, to.mac, 0x86dd), ip6(a.v6, to.v6, layers.IPProtocolIPv6Fragment), gopacket.Payload(make([]byte, 16)))
			}
			return build(t, eth(a.mac, to.mac, 0x0800), &layers.IPv4{Version: 4, TTL: 64, Protocol: 17, Flags: layers.IPv4MoreFragments, SrcIP: a.v4.AsSlice(), DstIP: to.v4.AsSlice()}, gopacket.Payload(make([]byte, 16)))
		}
		chatter := func(*container) []byte { return arp(t, a.mac, a.mac, 2, a.v4, b.v4) }
		if v6 {
			chatter = func(*container) []byte {
				return advertisement(t, stranger.mac, stranger.v6, a.v6, option{layers.ICMPv6OptTargetAddress, stranger.mac})
			}
		}
		const forged = "source-interface"
		to := h.s.networks[testZone].to
		for _, c := range []struct {
			name  string
			frame func(to *container) []byte
			via   uint32
			want  string
		}{
			{"by its own interface", func(to *container) []byte { return datagram(t, a, to, v6, 1, 2, "x") }, a.ifindex, "steer"},
			{"by another's", func(to *container) []byte { return datagram(t, a, to, v6, 1, 2, "x") }, stranger.ifindex, forged},
			{"by a device that is no port", func(to *container) []byte { return datagram(t, a, to, v6, 1, 2, "x") }, 1, forged},
			{"routed by the host", func(to *container) []byte { return datagram(t, &routed, to, v6, 1, 2, "x") }, br, "steer"},
			{"sent by the host", func(to *container) []byte { return datagram(t, &routed, to, v6, 1, 2, "x") }, 0, "steer"},
			{"with the gateway's MAC, by another's", func(to *container) []byte { return datagram(t, &routed, to, v6, 1, 2, "x") }, stranger.ifindex, forged},
			{"fragment by another's", fragment, stranger.ifindex, forged},
			{"fragment by its own", fragment, a.ifindex, "steer"},
			{"who is not here, by whatever", func(to *container) []byte { return datagram(t, stranger, to, v6, 1, 2, "x") }, 1, "steer"},
			{"what resolves, by its own interface", chatter, a.ifindex, "pass"},
			{"what resolves, by another's", chatter, stranger.ifindex, forged},
		} {
			for _, at := range []*container{b, watcher} {
				from := *at
				from.via = c.via
				if got := h.told(to, &from, c.frame(at)); got != c.want {
					t.Errorf("%s, at %s: %s, want %s", c.name, at.name, got, c.want)
				}
			}
			from := *unguarded
			from.via = c.via
			if got := h.told(to, &from, c.frame(unguarded)); got != "pass" {
				t.Errorf("%s, at what is not guarded: %s", c.name, got)
			}
		}

		must(t, h.s.Flows().Put([]dataplane.FlowEntry{flowEntry(a, b, v6, policy.ProtoUDP, 1000, 53)}))
		for via, want := range map[uint32]string{a.ifindex: "pass", stranger.ifindex: forged, 1: forged} {
			at := *b
			at.via = via
			if got := h.told(to, &at, datagram(t, a, b, v6, 1000, 53, "x")); got != want {
				t.Errorf("of a decided flow, by %d: %s, want %s", via, got, want)
			}
		}
	})
}

// TestForgedElsewhereLive: the same of frames that cross a bridge.
func TestForgedElsewhereLive(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		h := newHost(t)
		h.guard(false)
		a, b, c := h.run("a", 2), h.run("b", 3), h.run("c", 4) // c's port stands for the tunnel's
		h.admit(a)
		h.admit(b)
		h.hairpin(func([]byte) bool { return true })
		h.arrives(a, b, "undecided", datagram(t, a, b, v6, 1, 2, "undecided"))
		h.arrives(c, b, "c's own", datagram(t, c, b, v6, 1, 2, "c's own"))
		must(t, h.s.Flows().Put([]dataplane.FlowEntry{flowEntry(a, b, v6, policy.ProtoUDP, 1000, 53)}))
		h.arrives(a, b, "decided", datagram(t, a, b, v6, 1000, 53, "decided"))
		before := h.counters().Drops[dataplane.ToEndpoint][policy.ReasonSourceInterface]
		h.quiet(c, b, a, "forged", datagram(t, a, b, v6, 1, 2, "forged"), datagram(t, a, b, v6, 1000, 53, "forged"))
		if n := h.counters().Drops[dataplane.ToEndpoint][policy.ReasonSourceInterface] - before; n != 2 {
			t.Errorf("%d were counted as forged, want 2", n)
		}
		if n := h.newDrops(b)[dataplane.ToEndpoint][policy.ReasonSourceInterface]; n != 2 {
			t.Errorf("%d at b, want 2", n)
		}
		h.arrives(a, b, "decided still", datagram(t, a, b, v6, 1000, 53, "decided still"))
	})
}

func TestOpenNetworkPassesUnadmitted(t *testing.T) {
	h := newHost(t)
	h.guard(false)
	a, b := h.run("a", 2), h.run("b", 3)
	n := h.s.networks[testZone]
	for name, frame := range map[string][]byte{
		"ipv4": datagram(t, a, b, false, 1, 2, "x"),
		"ipv6": datagram(t, a, b, true, 1, 2, "x"),
		"vlan": tagged(datagram(t, a, b, false, 1, 2, "x"), 0x8100, 5),
	} {
		if got := h.told(n.from, a, frame) + " " + h.told(n.to, b, frame); got != "pass pass" {
			t.Errorf("%s: %s", name, got)
		}
	}
	h.guard(true)
	if got := h.told(n.from, a, datagram(t, a, b, false, 1, 2, "x")); got != "not-admitted" {
		t.Errorf("after closing: %s", got)
	}
}

// An endpoint that is not enrolled talks as before, but not as another.
func TestUnguardedEndpoint(t *testing.T) {
	h := newHost(t)
	h.guard(true)
	a, b := h.run("a", 2), h.run("b", 3)
	h.admit(a, func(s *Spec) { s.Unguarded = true })
	h.admit(b)
	n := h.s.networks[testZone]
	spoof := *a
	spoof.v4, spoof.v6 = b.v4, b.v6
	c := h.run("c", 4)
	for _, step := range []struct {
		name  string
		prog  *ebpf.Program
		at    *container
		frame []byte
		want  string
	}{
		{"sends IPv4", n.from, a, datagram(t, a, b, false, 1, 2, "x"), "pass"},
		{"sends IPv6", n.from, a, datagram(t, a, b, true, 1, 2, "x"), "pass"},
		{"receives", n.to, a, datagram(t, b, a, false, 1, 2, "x"), "pass"},
		{"is judged at the other's hook", n.to, b, datagram(t, a, b, false, 1, 2, "x"), "steer"},
		{"as another/IPv4", n.from, a, datagram(t, &spoof, c, false, 1, 2, "x"), "source-address"},
		{"as another/IPv6", n.from, a, datagram(t, &spoof, c, true, 1, 2, "x"), "source-address"},
		{"ARP as another", n.from, a, arp(t, a.mac, a.mac, 2, b.v4, a.v4), "arp-sender"},
	} {
		if got := h.told(step.prog, step.at, step.frame); got != step.want {
			t.Errorf("%s: %s, want %s", step.name, got, step.want)
		}
	}
}

// TestManyFlows: the programs find each of many flows where user space has put
// it, and none that it has not.
func TestManyFlows(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		h, a, b := newPeers(t)
		const flows = 1500
		var entries []dataplane.FlowEntry
		for i := range uint16(flows) {
			entries = append(entries, flowEntry(a, b, v6, policy.ProtoUDP, 1000+i, 53+i%7))
		}
		must(t, h.s.Flows().Put(entries))
		before := h.counters()
		for i := range uint16(flows) {
			h.judge(h.s.networks[testZone].from, a, 0, datagram(t, a, b, v6, 1000+i, 53+i%7, "x"))
			h.judge(h.s.networks[testZone].from, a, 0, datagram(t, a, b, v6, 1000+i, 60+i%7, "x"))
		}
		after := h.counters()
		if hits, steered := after.Hits-before.Hits, after.Steered-before.Steered; hits != flows || steered < flows || steered > flows+20 {
			t.Errorf("%d hits and %d misses, want %d of each", hits, steered, flows)
		}
	})
}

func TestHit(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		h := newHost(t)
		h.guard(true)
		a, b, c := h.run("a", 2), h.run("b", 3), h.run("c", 4)
		h.admit(a)
		h.admit(b)
		h.admit(c)
		n := h.s.networks[testZone]
		segment := func(from, to *container, sport, dport uint16, flags string) []byte {
			l := tcp(flags)
			l.SrcPort, l.DstPort = layers.TCPPort(sport), layers.TCPPort(dport)
			if v6 {
				return build(t, eth(from.mac, to.mac, 0x86dd), ip6(from.v6, to.v6, 6), l)
			}
			return build(t, eth(from.mac, to.mac, 0x0800), ip4(from.v4, to.v4, 6), l)
		}
		entry := flowEntry(a, b, v6, policy.ProtoTCP, 1000, 80)
		put := func(f func(*dataplane.FlowEntry)) {
			e := entry
			f(&e)
			must(t, h.s.Flows().Put([]dataplane.FlowEntry{e}))
		}
		ab, ba := segment(a, b, 1000, 80, "A"), segment(b, a, 80, 1000, "A")
		wrongMAC := append([]byte(nil), ab...)
		copy(wrongMAC, c.mac[:])
		for _, step := range []struct {
			name  string
			entry func(*dataplane.FlowEntry)
			prog  *ebpf.Program
			at    *container
			frame []byte
			want  string
		}{
			{"out", func(*dataplane.FlowEntry) {}, n.from, a, ab, "pass"},
			{"in", func(*dataplane.FlowEntry) {}, n.to, b, ab, "pass"},
			{"reply out", func(*dataplane.FlowEntry) {}, n.from, b, ba, "pass"},
			{"reply in", func(*dataplane.FlowEntry) {}, n.to, a, ba, "pass"},
			{"SYN is judged anew", func(*dataplane.FlowEntry) {}, n.from, a, segment(a, b, 1000, 80, "S"), "steer"},
			{"SYN is judged anew at the other hook", func(*dataplane.FlowEntry) {}, n.to, b, segment(a, b, 1000, 80, "S"), "steer"},
			{"SYN+ACK", func(*dataplane.FlowEntry) {}, n.from, b, segment(b, a, 80, 1000, "SA"), "pass"},
			{"another port", func(*dataplane.FlowEntry) {}, n.from, a, segment(a, b, 1001, 80, "A"), "steer"},
			{"denied", func(e *dataplane.FlowEntry) { e.Verdict, e.Reason = policy.Drop, policy.ReasonApp }, n.from, a, ab, "app"},
			{"denied at the other hook", func(e *dataplane.FlowEntry) { e.Verdict, e.Reason = policy.Drop, policy.ReasonNoRule }, n.to, b, ab, "no-rule"},
			{"denied without a reason", func(e *dataplane.FlowEntry) { e.Verdict = policy.Drop }, n.from, a, ab, "denied"},
			{"old epoch", func(e *dataplane.FlowEntry) { e.Epoch = 0 }, n.from, a, ab, "steer"},
			{"another zone", func(e *dataplane.FlowEntry) { e.Key.Zone++ }, n.from, a, segment(a, b, 1002, 80, "A"), "steer"},
			{"from another port", func(*dataplane.FlowEntry) {}, n.from, c, ab, "source-mac"},
			{"stale interface of the sender", func(e *dataplane.FlowEntry) { e.Ifindex[0] += 100; e.Ifindex[1] += 100 }, n.from, a, ab, "steer"},
			{"stale interface of the receiver", func(e *dataplane.FlowEntry) { e.Ifindex[0] += 100; e.Ifindex[1] += 100 }, n.to, b, ab, "steer"},
			{"another's destination MAC", func(*dataplane.FlowEntry) {}, n.from, a, wrongMAC, "steer"},
			{"another's destination MAC at its hook", func(*dataplane.FlowEntry) {}, n.to, c, wrongMAC, "steer"},
		} {
			put(step.entry)
			if got := h.told(step.prog, step.at, step.frame); got != step.want {
				t.Errorf("%s: %s, want %s", step.name, got, step.want)
			}
		}
	})
}

// TestUnaskedDatagram: an entry that refuses what one side sent does not bind
// the other, who is judged anew.
func TestUnaskedDatagram(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		h, a, b := newPeers(t)
		n := h.s.networks[testZone]
		e := flowEntry(a, b, v6, policy.ProtoUDP, 1000, 53)
		e.Verdict, e.Reason = policy.Drop, policy.ReasonNoRule
		must(t, h.s.Flows().Put([]dataplane.FlowEntry{e}))
		if got := h.told(n.from, a, datagram(t, a, b, v6, 1000, 53, "x")); got != "no-rule" {
			t.Errorf("who was refused: %s", got)
		}
		if got := h.told(n.from, b, datagram(t, b, a, v6, 53, 1000, "x")); got != "steer" {
			t.Errorf("the other: %s", got)
		}
	})
}

// TestUndecided: of an undecided connection the kernel carries acknowledgements
// that hold nothing else.
func TestUndecided(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		h, a, b := newPeers(t)
		n := h.s.networks[testZone]
		segment := func(flags, payload string, options ...layers.TCPOption) []byte {
			l := tcp(flags)
			l.Options = options
			if v6 {
				return build(t, eth(a.mac, b.mac, 0x86dd), ip6(a.v6, b.v6, 6), l, gopacket.Payload(payload))
			}
			return build(t, eth(a.mac, b.mac, 0x0800), ip4(a.v4, b.v4, 6), l, gopacket.Payload(payload))
		}
		entry := flowEntry(a, b, v6, policy.ProtoTCP, 1000, 80)
		entry.Verdict, entry.Peer = policy.Undecided, false
		must(t, h.s.Flows().Put([]dataplane.FlowEntry{entry}))
		stamps := layers.TCPOption{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: make([]byte, 8)}
		length, flags := 14+2, 14+20+13 // of the IP header's length field's high byte, of TCP's flags
		if v6 {
			length, flags = 14+4, 14+40+13
		}
		bare := segment("A", "")
		urgent := patched(bare, flags, 0x30)
		for _, step := range []struct {
			name  string
			frame []byte
			want  string
		}{
			{"acknowledgement", bare, "pass"},
			{"with timestamps", segment("A", "", stamps), "pass"},
			{"one byte of payload", segment("A", "x"), "steer"},
			{"payload behind timestamps", segment("A", "GET / HTTP/1.1\r\n", stamps), "steer"},
			{"payload that looks like a header", segment("A", strings.Repeat("\x00", 20)), "steer"},
			{"SYN", segment("S", ""), "steer"},
			{"SYN-ACK", segment("SA", ""), "steer"},
			{"FIN", segment("FA", ""), "steer"},
			{"RST", segment("R", ""), "steer"},
			{"push", patched(bare, flags, 0x18), "steer"},
			{"urgent", urgent, "steer"},
			{"no flags", segment("", ""), "steer"},
			{"length says more", patched(bare, length, 1), "steer"},
			{"more than its length says", append(slices.Clone(bare), make([]byte, 40)...), "steer"},
			{"header longer than the segment", patched(bare, flags-1, 0x60), "steer"},
			{"header too short", patched(bare, flags-1, 0x40), "steer"},
		} {
			if got := h.told(n.from, a, step.frame); got != step.want {
				t.Errorf("%s: %s, want %s", step.name, got, step.want)
			}
			if got := h.told(n.to, b, step.frame); got != step.want {
				t.Errorf("%s, at the other hook: %s, want %s", step.name, got, step.want)
			}
		}
		// A super-packet's length is written anew for each of its segments.
		in, big := make([]byte, 192), segment("A", "")
		binary.NativeEndian.PutUint32(in[40:], a.ifindex)
		binary.NativeEndian.PutUint32(in[176:], 1448) // gso_size
		must(t, h.ns.do(func() error {
			before := h.counters()
			if _, err := n.from.Run(&ebpf.RunOptions{Data: big, Context: in}); err != nil {
				return err
			}
			if h.counters().Steered == before.Steered {
				t.Error("a super-packet passed")
			}
			return nil
		}))
	})
}

// TestOpening: of a connection whose SYN alone was judged the kernel carries the
// SYN-ACK that answers it, and bare acknowledgements only then. What its responder
// said is there to be read.
func TestOpening(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		h, a, b := newPeers(t)
		n, flows := h.s.networks[testZone], h.s.Flows()
		const isn, answer = 0xfffffff0, 0x81020304
		segment := func(fromServer bool, flags string, seq, ack uint32, payload string, options ...layers.TCPOption) []byte {
			l, from, to := tcp(flags), a, b
			if fromServer {
				l.SrcPort, l.DstPort, from, to = 80, 1000, b, a
			}
			l.Options, l.Seq, l.Ack = options, seq, ack
			if v6 {
				return build(t, eth(from.mac, to.mac, 0x86dd), ip6(from.v6, to.v6, 6), l, gopacket.Payload(payload))
			}
			return build(t, eth(from.mac, to.mac, 0x0800), ip4(from.v4, to.v4, 6), l, gopacket.Payload(payload))
		}
		at, size := 14+20, 20+24
		if v6 {
			at, size = 14+40, 40+24
		}
		flag := func(frame []byte, flags byte) []byte { return patched(frame, at+13, flags) }
		mss := layers.TCPOption{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 180}}
		synack := segment(true, "SA", answer, isn+1, "", mss)
		bare := segment(false, "A", isn+1, answer+1, "")
		entry := flowEntry(a, b, v6, policy.ProtoTCP, 1000, 80)
		entry.Verdict, entry.Peer, entry.Opening, entry.Awaited = policy.Undecided, false, true, isn+1
		type step struct {
			name       string
			fromServer bool
			frame      []byte
			want       string
		}
		run := func(steps []step) {
			t.Helper()
			for _, s := range steps {
				from, to := a, b
				if s.fromServer {
					from, to = b, a
				}
				if got := h.told(n.from, from, s.frame); got != s.want {
					t.Errorf("%s: %s, want %s", s.name, got, s.want)
				}
				if got := h.told(n.to, to, s.frame); got != s.want {
					t.Errorf("%s, at the other hook: %s, want %s", s.name, got, s.want)
				}
			}
		}
		never := []step{
			{"SYN", false, segment(false, "S", isn, 0, ""), "steer"},
			{"SYN of the responder", true, segment(true, "S", answer, 0, ""), "steer"},
			{"SYN-ACK of the initiator", false, segment(false, "SA", isn, isn+1, "", mss), "steer"},
			{"SYN-ACK of another SYN", true, segment(true, "SA", answer, isn+2, "", mss), "steer"},
			{"SYN-ACK of the SYN's own number", true, segment(true, "SA", answer, isn, "", mss), "steer"},
			{"SYN-ACK with payload", true, segment(true, "SA", answer, isn+1, "x", mss), "steer"},
			{"SYN-ACK whose payload looks like a header", true, segment(true, "SA", answer, isn+1, strings.Repeat("\x00", 20)), "steer"},
			{"SYN-ACK with more than its length says", true, append(slices.Clone(synack), make([]byte, 40)...), "steer"},
			{"SYN-ACK numbered 0", true, segment(true, "SA", 0, isn+1, "", mss), "steer"},
			{"SYN-ACK with FIN", true, flag(synack, 0x13), "steer"},
			{"SYN-ACK with RST", true, flag(synack, 0x16), "steer"},
			{"SYN-ACK with PSH", true, flag(synack, 0x1a), "steer"},
			{"SYN-ACK with URG", true, flag(synack, 0x32), "steer"},
			{"SYN-ACK with ECE", true, flag(synack, 0x52), "steer"},
			{"RST", true, segment(true, "RA", 0, isn+1, ""), "steer"},
			{"FIN", true, segment(true, "FA", answer+1, isn+1, ""), "steer"},
			{"FIN of the initiator", false, segment(false, "FA", isn+1, answer+1, ""), "steer"},
			{"payload", false, segment(false, "A", isn+1, answer+1, "GET / HTTP/1.1\r\n\r\n"), "steer"},
			{"payload of the responder", true, segment(true, "A", answer+1, isn+1, "x"), "steer"},
			{"no flags", false, segment(false, "", isn+1, 0, ""), "steer"},
		}
		must(t, flows.Put([]dataplane.FlowEntry{entry}))
		run(never)
		run([]step{
			{"acknowledgement before the answer", false, bare, "steer"},
			{"acknowledgement of the responder before its answer", true, segment(true, "A", answer, isn+1, ""), "steer"},
		})
		if _, _, ok := flows.Answer(&entry.Key); ok {
			t.Fatal("answered by what went to user space")
		}
		run([]step{{"SYN-ACK", true, synack, "pass"}})
		seq, length, ok := flows.Answer(&entry.Key)
		if !ok || seq != answer || length != size {
			t.Errorf("answer %#x of %d bytes, %v; want %#x of %d", seq, length, ok, uint32(answer), size)
		}
		carried := all(t, flows, 16)[entry.Key]
		if carried.Packets != [2]uint32{} || carried.Bytes != [2]uint64{} || !carried.Opening || carried.Awaited != isn+1 || carried.App != 0 {
			t.Errorf("after the answer: %+v", carried)
		}
		run(never)
		run([]step{
			{"SYN-ACK once more", true, synack, "pass"},
			{"another SYN-ACK", true, segment(true, "SA", answer+1, isn+1, "", mss), "steer"},
			{"acknowledgement", false, bare, "pass"},
			{"acknowledgement of the responder", true, segment(true, "A", answer+1, isn+1, ""), "pass"},
		})
		if seq, _, _ := flows.Answer(&entry.Key); seq != answer {
			t.Errorf("answer %#x became %#x", uint32(answer), seq)
		}
		in := make([]byte, 192)
		binary.NativeEndian.PutUint32(in[40:], b.ifindex)
		binary.NativeEndian.PutUint32(in[176:], 1448) // gso_size
		must(t, h.ns.do(func() error {
			before := h.counters()
			if _, err := n.from.Run(&ebpf.RunOptions{Data: synack, Context: in}); err != nil {
				return err
			}
			if h.counters().Steered == before.Steered {
				t.Error("a super-packet passed")
			}
			return nil
		}))

		// What it counted goes on when it is decided; the answer is gone from it.
		counted := all(t, flows, 16)[entry.Key].Packets
		if counted != [2]uint32{1, 2} && counted != [2]uint32{2, 1} {
			t.Errorf("packets %v, want the acknowledgements and the second SYN-ACK", counted)
		}
		allowed := entry
		allowed.Verdict, allowed.Opening, allowed.Awaited, allowed.App = policy.Allow, false, 0, policy.AppHTTP
		must(t, flows.Put([]dataplane.FlowEntry{allowed}))
		if got := all(t, flows, 16)[entry.Key]; got.Packets != counted || got.App != policy.AppHTTP {
			t.Errorf("decided: %+v, counted %v before", got, counted)
		}
		if _, _, ok := flows.Answer(&entry.Key); ok {
			t.Error("a decided flow has an answer")
		}
		run([]step{{"payload, allowed", false, segment(false, "A", isn+1, answer+1, "x"), "pass"}})

		// A new table closes it.
		must(t, flows.Delete([]classify.FlowKey{entry.Key}))
		must(t, flows.Put([]dataplane.FlowEntry{entry}))
		must(t, h.s.SetEpoch(entry.Epoch+1))
		run(never)
		run([]step{{"SYN-ACK under a new table", true, synack, "steer"}, {"acknowledgement under a new table", false, bare, "steer"}})
		if _, _, ok := flows.Answer(&entry.Key); ok {
			t.Error("answered under a new table")
		}
	})
}

func TestEcho(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		h, a, b := newPeers(t)
		n := h.s.networks[testZone]
		echo := func(from, to *container, request bool, size int) []byte {
			body := gopacket.Payload(make([]byte, size))
			if v6 {
				typ := map[bool]uint8{true: 128, false: 129}[request]
				ip := ip6(from.v6, to.v6, layers.IPProtocolICMPv6)
				icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, 0)}
				return build(t, eth(from.mac, to.mac, 0x86dd), ip, icmp, &layers.ICMPv6Echo{Identifier: 77}, body)
			}
			typ := map[bool]uint8{true: 8, false: 0}[request]
			return build(t, eth(from.mac, to.mac, 0x0800), ip4(from.v4, to.v4, 1), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, 0), Id: 77}, body)
		}
		must(t, h.s.Flows().Put([]dataplane.FlowEntry{flowEntry(a, b, v6, policy.ProtoICMP, 77, 77)}))
		for _, step := range []struct {
			name     string
			from, to *container
			request  bool
			size     int
			want     string
		}{
			{"request", a, b, true, 56, "pass"},
			{"reply", b, a, false, 56, "pass"},
			{"request of the other side", b, a, true, 56, "steer"},
			{"reply of the initiator", a, b, false, 56, "steer"},
			{"as large as allowed", a, b, true, 1452, "pass"},
			{"larger", a, b, true, 1473, "steer"},
		} {
			if got := h.told(n.from, step.from, echo(step.from, step.to, step.request, step.size)); got != step.want {
				t.Errorf("%s: %s, want %s", step.name, got, step.want)
			}
		}
	})
}

func TestMissBudget(t *testing.T) {
	h := newHost(t)
	h.s.cfg.MissBudget = 20 // its depth is a tenth of a second: two frames and the one that crosses
	h.guard(true)
	a, b := h.run("a", 2), h.run("b", 3)
	h.admit(a)
	h.admit(b, func(s *Spec) { s.Open = true })
	n := h.s.networks[testZone]
	verdicts := make(map[string]int)
	for range 20 {
		verdicts[h.told(n.from, a, datagram(t, a, b, false, 1, 2, "x"))]++
		verdicts["open "+h.told(n.from, b, datagram(t, b, a, false, 1, 2, "x"))]++
	}
	if verdicts["steer"] == 0 || verdicts["miss-budget"] == 0 || verdicts["open steer"] == 0 || verdicts["open pass"] == 0 {
		t.Errorf("20 frames from each: %v", verdicts)
	}
}

// What is over the budget passes in bunches, a grain apart, and no more of it than
// the budget has.
func TestMissBudgetGrain(t *testing.T) {
	const perSecond, grain = 2000, 1 << 21 // GRAIN_NS in steer.bpf.c
	h := newHost(t)
	h.s.cfg.MissBudget = perSecond
	h.guard(true)
	a, b := h.run("a", 2), h.run("b", 3)
	h.admit(a)
	from, frame := h.s.networks[testZone].from, datagram(t, a, b, false, 1, 2, "x")
	steered, bunches := 0, 0
	dropped := false
	start := time.Now()
	for steered < perSecond/10+100 || bunches == 0 && steered < 20*perSecond { // its depth and fifty milliseconds more
		h.beat(0, 0)
		action, _, err := h.testRun(from, a, 0, frame)
		must(t, err)
		if action == redirect {
			steered++
			if dropped {
				bunches++
			}
		}
		dropped = action == shot
	}
	elapsed := time.Since(start)
	if bunches == 0 {
		t.Fatalf("%d frames in %v did not use up the budget, or nothing came after it", steered, elapsed)
	}
	if most := int(elapsed/grain) + 2; bunches > most {
		t.Errorf("%d bunches in %v, want at most %d", bunches, elapsed, most)
	}
	if most := int((elapsed+100*time.Millisecond)*perSecond/time.Second) + 2; steered > most {
		t.Errorf("%d frames in %v, want at most %d", steered, elapsed, most)
	}
}

func TestHeartbeat(t *testing.T) {
	h := newHost(t)
	h.guard(true)
	a, b := h.run("a", 2), h.run("b", 3)
	h.admit(a)
	h.admit(b, func(s *Spec) { s.Open = true })
	must(t, h.s.Flows().Put([]dataplane.FlowEntry{flowEntry(a, b, false, policy.ProtoUDP, 1000, 53)}))
	n := h.s.networks[testZone]
	h.beat(0, -time.Second)
	for _, step := range []struct {
		name  string
		prog  *ebpf.Program
		at    *container
		frame []byte
		want  string
	}{
		{"closed endpoint, new flow", n.from, a, datagram(t, a, b, false, 5, 6, "x"), "gateway-down"},
		{"closed endpoint, decided flow", n.from, a, datagram(t, a, b, false, 1000, 53, "x"), "pass"},
		{"open endpoint, new flow", n.from, b, datagram(t, b, a, true, 5, 6, "x"), "pass"},
		{"to the closed endpoint", n.to, a, datagram(t, b, a, true, 5, 6, "x"), "gateway-down"},
		{"to the open endpoint", n.to, b, datagram(t, a, b, true, 5, 6, "x"), "pass"},
	} {
		if got := h.told(step.prog, step.at, step.frame); got != step.want {
			t.Errorf("%s: %s, want %s", step.name, got, step.want)
		}
	}
	h.beat(0, 0)
	if got := h.told(n.from, a, datagram(t, a, b, false, 5, 6, "x")); got != "steer" {
		t.Errorf("after a beat: %s", got)
	}
}

// The mark of a judged frame opens only the hook that it was judged for.
func TestMark(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		h := newHost(t)
		h.guard(true)
		a, b, c := h.run("a", 2), h.run("b", 3), h.run("c", 4)
		h.admit(a)
		h.admit(b)
		h.admit(c)
		n := h.s.networks[testZone]
		ab := datagram(t, a, b, v6, 1, 2, "x")
		misaddressed := append([]byte(nil), ab...)
		copy(misaddressed, c.mac[:])
		in, out, prove := uint32(0x4757<<16), uint32(0x4758<<16), uint32(0x4759<<16)
		for _, step := range []struct {
			name   string
			prog   *ebpf.Program
			at     *container
			mark   uint32
			frame  []byte
			action uint32
			after  uint32
		}{
			{"second pass, for b", n.from, a, in | uint32(b.ep.Slot), ab, next, in | uint32(b.ep.Slot)},
			{"second pass, leaves the network", n.from, a, in, ab, next, 0},
			{"at b", n.to, b, in | uint32(b.ep.Slot), ab, next, 0},
			{"at b, transmitted to it", n.to, b, out | uint32(b.ep.Slot), ab, next, 0},
			{"at b, without a slot", n.to, b, in, ab, redirect, 0},
			{"second pass, for b, of a flow with a line", n.from, a, prove | uint32(b.ep.Slot), ab, next, prove | uint32(b.ep.Slot)},
			{"second pass, leaves the network, of a flow with a line", n.from, a, prove, ab, next, 0},
			{"at b, of a flow with a line", n.to, b, prove | uint32(b.ep.Slot), ab, next, 0},
			{"at b, for c, of a flow with a line", n.to, b, prove | uint32(c.ep.Slot), ab, redirect, 0},
			{"at c, with c's MAC and b's address, of a flow with a line", n.to, c, prove | uint32(c.ep.Slot), misaddressed, redirect, 0},
			{"at b, for c", n.to, b, in | uint32(c.ep.Slot), ab, redirect, 0},
			{"at b, transmitted to c", n.to, b, out | uint32(c.ep.Slot), ab, redirect, 0},
			{"at c, with c's MAC and b's address", n.to, c, in | uint32(c.ep.Slot), misaddressed, redirect, 0},
			{"at c, flooded", n.to, c, in | uint32(b.ep.Slot), ab, shot, 0},
			{"garbage", n.to, b, 0xd4, ab, redirect, 0xd4},
			{"single bits", n.to, b, in | 1<<15 | uint32(b.ep.Slot), ab, redirect, 0},
		} {
			action, after := h.judge(step.prog, step.at, step.mark, step.frame)
			if action != step.action || after != step.after {
				t.Errorf("%s: action %d mark %#x, want %d and %#x", step.name, int32(action), after, int32(step.action), step.after)
			}
		}
	})
}

// Whatever a container sends, it leaves only in its own name: frames bent at
// random are compared with an obvious second opinion.
func TestBentFrames(t *testing.T) {
	h := newHost(t)
	h.guard(true)
	a, b := h.run("a", 2), h.run("b", 3)
	h.s.cfg.MissBudget = 1e9
	h.admit(a)
	h.admit(b)
	ll := linkLocal(a.mac)
	udp, payload := &layers.UDP{SrcPort: 1000, DstPort: 53}, gopacket.Payload("some payload")
	seeds := [][]byte{
		datagram(t, a, b, false, 1, 2, "x"),
		datagram(t, a, b, true, 1, 2, "x"),
		build(t, eth(a.mac, b.mac, 0x0800), ip4(a.v4, b.v4, 6), tcp("A")),
		build(t, eth(a.mac, b.mac, 0x86dd), ip6(a.v6, b.v6, 6), tcp("A")),
		build(t, eth(a.mac, b.mac, 0x0800), &layers.IPv4{Version: 4, IHL: 6, TTL: 64, Protocol: 17, SrcIP: a.v4.AsSlice(), DstIP: b.v4.AsSlice(), Options: []layers.IPv4Option{{OptionType: 1}}}, udp, payload),
		build(t, eth(a.mac, b.mac, 0x86dd), ip6(a.v6, b.v6, layers.IPProtocolIPv6Fragment), gopacket.Payload(make([]byte, 40))),
		arp(t, a.mac, a.mac, 1, a.v4, b.v4),
		arp(t, a.mac, a.mac, 1, zero4, a.v4),
		solicitation(t, a.mac, a.v6, b.v6, option{layers.ICMPv6OptSourceAddress, a.mac}),
		solicitation(t, a.mac, zero6, a.v6),
		advertisement(t, a.mac, a.v6, a.v6, option{layers.ICMPv6OptTargetAddress, a.mac}),
		mld(t, a.mac, ll, solicitedNode(a.v6), solicitedNode(ll)),
		tagged(datagram(t, a, b, false, 1, 2, "x"), 0x8100, 5),
	}
	own := func(addr []byte) bool {
		x, _ := netip.AddrFromSlice(addr)
		return x == a.v4 || x == a.v6 || x == ll
	}
	// mayLeave: in the name of a, as far as the addresses say.
	mayLeave := func(f []byte) bool {
		if policy.MAC(f[6:12]) != a.mac {
			return false
		}
		switch typ := binary.BigEndian.Uint16(f[12:]); {
		case typ == 0x0806 && len(f) >= 42:
			return policy.MAC(f[22:28]) == a.mac && (own(f[28:32]) || own(f[38:42]) && f[28]|f[29]|f[30]|f[31] == 0)
		case typ == 0x0800 && len(f) >= 34:
			return own(f[26:30])
		case typ == 0x86dd && len(f) >= 54:
			if own(f[22:38]) {
				return true
			}
			unspecified := netip.AddrFrom16([16]byte(f[22:38])) == zero6
			isSolicitation := f[20] == 58 && len(f) >= 78 && f[54] == 135 && own(f[62:78])
			isReport := f[20] == 0 || f[20] == 58 && f[54] >= 131
			return unspecified && (isSolicitation || isReport)
		}
		return false
	}
	rng := rand.New(rand.NewPCG(1, 2))
	from := h.s.networks[testZone].from
	left := 0
	for i := range 20000 {
		f := append([]byte(nil), seeds[i%len(seeds)]...)
		for range rng.IntN(4) {
			f[rng.IntN(min(len(f), 90))] = byte(rng.Uint32())
		}
		if rng.IntN(4) == 0 {
			f = f[:14+rng.IntN(len(f)-13)]
		}
		before := h.counters()
		action, _, err := h.testRun(from, a, 0, f)
		if err != nil {
			continue // the kernel's test call takes no such frame
		}
		if action == shot {
			if h.counters() == before {
				t.Fatalf("dropped without a count: % x", f)
			}
			continue
		}
		left++
		if !mayLeave(f) {
			t.Fatalf("frame %d left: % x", i, f)
		}
	}
	if left < 1000 {
		t.Errorf("only %d of the frames left: the test has lost its point", left)
	}
}

// TestUnordered: where loads and stores want to be ordered, the programs carry
// and note the same.
func TestUnordered(t *testing.T) {
	unordered = !unordered
	t.Cleanup(func() { unordered = !unordered })
	t.Run("many", TestManyFlows)
	t.Run("hit", TestHit)
	t.Run("opening", TestOpening)
	t.Run("slow path", TestSlowPath)
	t.Run("staying", TestStayingFlow)
}

// TestForgedElsewhereRouted: who reaches the bridge by another way cannot have its host
// route to b what says that it is from a.
func TestForgedElsewhereRouted(t *testing.T) {
	h := newHost(t)
	h.guard(false)
	a, b, c := h.run("a", 2), h.run("b", 3), h.run("c", 4) // c's port stands for the tunnel's
	must(t, h.s.Guard(Network{Zone: testZone, Bridge: "br0", NetNS: h.s.networks[testZone].NetNS, Unrouted: true}))
	h.admit(a)
	h.admit(b)
	h.hairpin(func([]byte) bool { return true })
	must(t, h.ns.do(func() error {
		l, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(netip.AddrFrom4([4]byte{a.v4.As4()[0], a.v4.As4()[1], a.v4.As4()[2], 254}).String() + "/24")
		if err != nil {
			return err
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil { // a new namespace has it from the host's
			return err
		}
		return netlink.AddrAdd(l, addr)
	}))
	router := *b
	router.mac = h.bridge
	h.quiet(c, b, a, "forged", datagram(t, a, &router, false, 1, 2, "forged"))
}

// newDrops is what was dropped at c's hooks since it was last asked.
func (h *host) newDrops(c *container) EndpointDrops {
	h.t.Helper()
	fresh, ok, err := h.s.NewDrops("endpoint-" + c.name)
	if must(h.t, err); !ok {
		h.t.Fatalf("%s is not admitted", c.name)
	}
	return fresh
}

// TestDropsBothWays: of frames that cross a bridge those that an endpoint sends count
// apart from those that it is sent, and each is told once, over a restart too.
func TestDropsBothWays(t *testing.T) {
	for _, way := range []Attach{AttachTCX, AttachClsact} {
		t.Run(way.String(), func(t *testing.T) {
			families(t, func(t *testing.T, v6 bool) { dropBothWays(t, way, v6) })
		})
	}
}

func dropBothWays(t *testing.T, way Attach, v6 bool) {
	h := newHost(t)
	must(t, h.s.Close())
	h.cfg.Attach, h.cfg.MissBudget = way, 20 // its depth is a tenth of a second: two frames and the one that crosses
	var a, b, c *container
	admit := func() {
		h.open()
		h.guard(false)
		h.admit(a)
		h.admit(b)
	}
	a, b, c = h.run("a", 2), h.run("b", 3), h.run("c", 4) // c is not admitted: its own hooks pass all
	admit()
	spoofed := *b
	spoofed.v4, spoofed.v6 = c.v4, c.v6
	vlan, forged := tagged(datagram(t, c, b, v6, 1, 2, "x"), 0x8100, 5), datagram(t, &spoofed, a, v6, 1, 2, "x")
	in, out := datagram(t, c, b, v6, 1, 2, "x"), datagram(t, b, a, v6, 1, 2, "x")
	announced := icmp6(t, c.mac, linkLocal(c.mac), allNodes, 134, &layers.ICMPv6RouterAdvertisement{RouterLifetime: 1800})
	send := func(from *container, frame []byte, n int) {
		for range n {
			from.end.send(frame)
		}
	}
	// dropped fails unless b's drops for that reason, and nobody else's, become those.
	dropped := func(what string, dir dataplane.Direction, r policy.Reason, least, most uint32) {
		t.Helper()
		var got EndpointDrops
		take := func() bool {
			fresh := h.newDrops(b)
			for d := range fresh {
				got[d][r] += fresh[d][r]
			}
			return got[dir][r] >= least
		}
		eventually(t, what, take)
		take()
		if got[dir][r] > most || got[1-dir][r] != 0 {
			t.Errorf("%s: %d as %s and %d as %s, want %d to %d and none", what, got[dir][r], dir, got[1-dir][r], 1-dir, least, most)
		}
		if at := h.newDrops(a); at[0][r] != 0 {
			t.Errorf("%s: %d counted as sent by a", what, at[0][r])
		}
	}
	send(c, vlan, 3)
	dropped("tagged, to b", dataplane.ToEndpoint, policy.ReasonVLAN, 3, 3)
	send(b, forged, 4)
	dropped("in another's name, by b", dataplane.FromEndpoint, policy.ReasonSourceAddress, 4, 4)
	send(c, announced, 2)
	dropped("a router's announcement, to b", dataplane.ToEndpoint, policy.ReasonRouterAdvertisement, 2, 2)
	send(c, in, 100)
	dropped("too many, to b", dataplane.ToEndpoint, policy.ReasonMissBudget, 20, 100)
	send(b, out, 100)
	dropped("too many, by b", dataplane.FromEndpoint, policy.ReasonMissBudget, 20, 100)

	h.beat(0, -time.Second)
	must(t, h.s.Close())
	send(c, in, 5)
	send(b, out, 6)
	send(c, vlan, 7)
	eventually(t, "the programs have dropped them", func() bool {
		pinned, err := ebpf.LoadPinnedMap(filepath.Join(h.cfg.PinDir, layout, mapsDir, "counters"), nil)
		must(t, err)
		defer pinned.Close()
		n, err := readCounters(pinned)
		must(t, err)
		return n.Drops.Of(policy.ReasonGatewayDown) >= 11 && n.Drops.Of(policy.ReasonVLAN) >= 10
	})
	admit()
	fresh := h.newDrops(b)
	for _, want := range []struct {
		dir dataplane.Direction
		r   policy.Reason
		n   uint32
	}{
		{dataplane.ToEndpoint, policy.ReasonGatewayDown, 5}, {dataplane.FromEndpoint, policy.ReasonGatewayDown, 6}, {dataplane.ToEndpoint, policy.ReasonVLAN, 7},
		{dataplane.FromEndpoint, policy.ReasonSourceAddress, 0}, {dataplane.ToEndpoint, policy.ReasonMissBudget, 0},
	} {
		if n := fresh[want.dir][want.r]; n != want.n {
			t.Errorf("after the restart %d of %s are told as %s, want %d", n, want.r, want.dir, want.n)
		}
	}

	key := h.s.endpoints["endpoint-b"].portKey()
	must(t, h.s.Remove("endpoint-b"))
	told := steerPort{}.Dropped
	if err := h.s.maps.Told.Lookup(key, &told); !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Errorf("what was told of an endpoint outlives it: %v", err)
	}
	h.admit(b)
	send(c, vlan, 1)
	dropped("tagged, to b admitted anew", dataplane.ToEndpoint, policy.ReasonVLAN, 1, 1)
}

// TestLayoutNamesWhatIsPinned: programs that an earlier gateway attached read its maps
// until they are replaced, so maps of another shape want another layout's name.
func TestLayoutNamesWhatIsPinned(t *testing.T) {
	spec, err := loadSteer()
	must(t, err)
	got := map[string][2]uint32{}
	for name, m := range spec.Maps {
		got[name] = [2]uint32{m.KeySize, m.ValueSize}
	}
	maps.DeleteFunc(got, func(name string, _ [2]uint32) bool { // of a wire, or each program's own
		return name == "sockets" || name == "far" || strings.HasPrefix(name, ".")
	})
	want := map[string][2]uint32{ // of v4
		"beats": {4, 8}, "counters": {4, 8}, "ends": {4, 12}, "flows": {4, 256}, "flows6": {4, 512}, "open_zones": {4, 4},
		"owners": {20, 12}, "ports": {8, 464}, "slots": {4, 8}, "spaces": {8, 4}, "states": {4, 32}, "told": {8, 384},
	}
	if !maps.Equal(got, want) || layout != "v4" || spec.Maps["counters"].MaxEntries != 199 {
		t.Errorf("layout %s, counters of %d, maps %v; want a new name and what it stands for here", layout, spec.Maps["counters"].MaxEntries, got)
	}
}
