package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// settle is how long a witness goes on listening after the intruder's last act.
const settle = 200 * time.Millisecond

// The intruder's mark in what it says, so that a witness knows it from others.
const (
	sshBanner  = "SSH-2.0-gatehouse_demo"
	sqlGuess   = "gatehouse-demo"
	httpGuess  = "GET /gatehouse-demo HTTP/1.0\r\n"
	spoofPort  = 61613 // source port of forged segments
	vlanNumber = 5
	scanPorts  = "1-1024"
)

// attempt is one thing that an intruder does, and what its receiver sees of it.
type attempt struct {
	what     string
	from     string   // service that the intruder is in
	inside   string   // its container's name
	act      []string // arguments of the intruder
	receiver string   // path of the receiver's namespace
	fits     func(frame) bool
	harm     func(frame) bool // which of those mean that it got through
	unit     string           // what one such frame is
	rest     string           // what those that mean no harm are
	reasons  []string         // for which policy drops it; any of them
	frames   bool             // it is no flow, but frames that nobody may send

	before, after sight
	violation     violation
}

// sight is what a receiver saw of an attempt.
type sight struct {
	harmful, others int
	unit, rest      string
}

func (s sight) arrived() bool { return s.harmful > 0 }

func (s sight) String() string {
	switch {
	case s.harmful == 1:
		return "1 " + s.unit
	case s.harmful > 1:
		return fmt.Sprintf("%d %ss", s.harmful, s.unit)
	case s.others > 0 && s.rest != "":
		return s.rest
	}
	return "nothing"
}

// try lets the intruder act, under the eyes of a witness.
func (a *attempt) try(ctx context.Context, s *stage) (sight, error) {
	return watch(ctx, a, func() error {
		args := append([]string{"exec", s.containers[a.from].id, intruderInside}, a.act...)
		_, err := docker(ctx, args...)
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == 1 {
			return nil // the intruder did not succeed
		}
		return err
	})
}

func watch(ctx context.Context, a *attempt, act func() error) (sight, error) {
	w, err := listen(a.receiver, a.fits)
	if err != nil {
		return sight{}, err
	}
	actErr := act()
	if actErr == nil {
		actErr = pause(ctx, settle)
	}
	frames, err := w.close()
	if actErr != nil {
		return sight{}, actErr
	}
	saw := sight{unit: a.unit, rest: a.rest}
	for _, f := range frames {
		if a.harm(f) {
			saw.harmful++
		} else {
			saw.others++
		}
	}
	return saw, err
}

// tryGuarded is try with a gateway that enforces, and what it says of it.
func (a *attempt) tryGuarded(ctx context.Context, s *stage, g *gateway, r *report) error {
	before, err := g.drops(ctx)
	if err != nil {
		return err
	}
	since := time.Now()
	saw, err := a.try(ctx, s)
	if err != nil {
		return err
	}
	a.after = saw
	r.check(!saw.arrived(), "%s: the receiver saw %s", a.what, saw)
	a.violation, err = g.violationOf(ctx, a, since, before)
	if err != nil {
		return err
	}
	r.check(a.violation.Verdict != "", "%s: the gateway does not say that it dropped it for %s", a.what, strings.Join(a.reasons, " or "))
	return nil
}

func arrivals(all []attempt) (n int) {
	for _, a := range all {
		if a.before.arrived() {
			n++
		}
	}
	return n
}

func arrivalsGuarded(all []attempt) (n int) {
	for _, a := range all {
		if a.after.arrived() {
			n++
		}
	}
	return n
}

// attempts are what the intruder tries, in order; the first is tried again
// while the gateway is dead and after it is gone.
func (s *stage) attempts() []attempt {
	var (
		app, worker, web = s.containers["shop/app"], s.containers["shop/worker"], s.containers["shop/web"]
		db, blogDB, site = s.containers["shop/db"], s.containers["blog/db"], s.containers["blog/site"]
		client, media    = s.containers["media/client"], s.containers["media/web"]
		shop, shared     = "shop_default", partners
		noRule           = []string{"no-rule"}
	)
	all := []attempt{
		connectTo("another project's database", "shop/app", app.legs[shared].v4, blogDB.netns, blogDB.legs[shared].v4, 3306, sqlGuess, noRule),
		connectTo("its own project's database, from the web server", "shop/web", web.legs[shop].v4, db.netns, db.legs[shop].v4, 5432, sqlGuess, noRule),
		connectTo("a peer of another project", "shop/app", app.legs[shared].v4, site.netns, site.legs[shared].v4, 8000, httpGuess, noRule),
		connectTo("another project's database, over IPv6", "shop/app", app.legs[shared].v6, blogDB.netns, blogDB.legs[shared].v6, 3306, sqlGuess, noRule),
		connectTo("the database, over IPv6", "shop/worker", worker.legs[shop].v6, db.netns, db.legs[shop].v6, 5432, sqlGuess, noRule),
		sshOn("SSH on the database's port", "shop/app", app.legs[shop].v4, db.netns, db.legs[shop].v4, 5432),
		scan("a port scan of the database", "shop/worker", worker.legs[shop].v4, db.netns, db.legs[shop].v4),
		spoof("a forged source: the application's IPv4", "shop/worker", worker.legs[shop].mac, app.legs[shop].v4, db.netns, db.legs[shop].mac, db.legs[shop].v4, 5432),
		spoof("a forged source: the application's IPv6", "shop/worker", worker.legs[shop].mac, app.legs[shop].v6, db.netns, db.legs[shop].mac, db.legs[shop].v6, 5432),
		tag("a VLAN-tagged frame", "shop/worker", worker.legs[shop], db.netns, db.legs[shop], 5432),
		claim("ARP: the database's address is mine", "shop/worker", worker.legs[shop].mac, db.legs[shop].v4, app.netns, app.legs[shop]),
		connectTo("the outside", "shop/app", netip.Addr{}, outsidePath(), netip.MustParseAddr(outside4), 443, httpGuess, noRule),
	}
	if s.outside6 {
		all = append(all, connectTo("the outside, over IPv6", "shop/app", netip.Addr{}, outsidePath(), netip.MustParseAddr(outside6), 443, httpGuess, noRule))
	}
	overlay := "media_default"
	all = append(all,
		connectTo("another port, on the overlay", "media/client", client.legs[overlay].v4, media.netns, media.legs[overlay].v4, 8080, httpGuess, noRule),
		sshOn("SSH on the web server's port, on the overlay", "media/client", client.legs[overlay].v4, media.netns, media.legs[overlay].v4, 80),
	)
	for i := range all {
		all[i].inside = s.containers[all[i].from].name
	}
	return all
}

// towards is true of what comes from src, where it is valid, to port at dst.
func towards(src, dst netip.Addr, port int) func(frame) bool {
	return func(f frame) bool {
		from, to := f.addresses()
		tcp := f.tcp()
		return tcp != nil && to == dst && (!src.IsValid() || from == src) && (port == 0 || int(tcp.DstPort) == port)
	}
}

func whatever(frame) bool { return true }

func connectTo(what, from string, src netip.Addr, receiver string, dst netip.Addr, port int, text string, reasons []string) attempt {
	return attempt{what: what, from: from, receiver: receiver, act: []string{"connect", netip.AddrPortFrom(dst, uint16(port)).String(), text},
		fits: towards(src, dst, port), harm: whatever, unit: "segment", reasons: reasons}
}

func sshOn(what, from string, src netip.Addr, receiver string, dst netip.Addr, port int) attempt {
	return attempt{what: what, from: from, receiver: receiver, act: []string{"connect", netip.AddrPortFrom(dst, uint16(port)).String(), sshBanner},
		fits: func(f frame) bool { return towards(src, dst, port)(f) && (f.opens() || f.says("SSH-")) },
		harm: func(f frame) bool { return f.says("SSH-") }, unit: "SSH banner", rest: "a handshake, no byte",
		reasons: []string{"app", "denied"}}
}

func scan(what, from string, src netip.Addr, receiver string, dst netip.Addr) attempt {
	return attempt{what: what, from: from, receiver: receiver, act: []string{"scan", dst.String(), scanPorts},
		fits: towards(src, dst, 0), harm: frame.opens, unit: "probe", reasons: []string{"no-rule", "miss-budget"}}
}

// spoof forges a TCP SYN whose source address is another's.
func spoof(what, from, ownMAC string, src netip.Addr, receiver, dstMAC string, dst netip.Addr, port int) attempt {
	tcp := &layers.TCP{SrcPort: spoofPort, DstPort: layers.TCPPort(port), Seq: 1, SYN: true, Window: 1024}
	return attempt{what: what, from: from, receiver: receiver, act: []string{"frame", "eth0", segment(ownMAC, dstMAC, src, dst, 0, tcp)},
		fits: func(f frame) bool { return towards(src, dst, port)(f) && f.opens() && f.tcp().SrcPort == spoofPort },
		harm: whatever, unit: "forged segment", reasons: []string{"source-address"}, frames: true}
}

// tag sends a TCP SYN in a frame with an 802.1Q tag.
func tag(what, from string, own *leg, receiver string, to *leg, port int) attempt {
	tcp := &layers.TCP{SrcPort: spoofPort, DstPort: layers.TCPPort(port), Seq: 1, SYN: true, Window: 1024}
	return attempt{what: what, from: from, receiver: receiver, act: []string{"frame", "eth0", segment(own.mac, to.mac, own.v4, to.v4, vlanNumber, tcp)},
		fits: func(f frame) bool { return f.tagged || f.packet.Layer(layers.LayerTypeDot1Q) != nil },
		harm: whatever, unit: "tagged frame", reasons: []string{"vlan"}, frames: true}
}

// claim tells victim by ARP that another's address is at the intruder's MAC.
func claim(what, from, ownMAC string, claimed netip.Addr, receiver string, victim *leg) attempt {
	own, dst := mustMAC(ownMAC), mustMAC(victim.mac)
	arp := &layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
		Operation: layers.ARPReply, SourceHwAddress: own, SourceProtAddress: claimed.AsSlice(),
		DstHwAddress: dst, DstProtAddress: victim.v4.AsSlice()}
	ethernet := &layers.Ethernet{SrcMAC: own, DstMAC: dst, EthernetType: layers.EthernetTypeARP}
	return attempt{what: what, from: from, receiver: receiver, act: []string{"frame", "eth0", serialize(ethernet, arp)},
		fits: func(f frame) bool {
			a, ok := f.packet.Layer(layers.LayerTypeARP).(*layers.ARP)
			return ok && net.HardwareAddr(a.SourceHwAddress).String() == own.String() && net.IP(a.SourceProtAddress).Equal(claimed.AsSlice())
		},
		harm: whatever, unit: "false claim", reasons: []string{"arp-sender"}, frames: true}
}

// segment is the frame of a TCP segment in hexadecimal, tagged where vlan is not 0.
func segment(srcMAC, dstMAC string, src, dst netip.Addr, vlan uint16, tcp *layers.TCP) string {
	ethernet := &layers.Ethernet{SrcMAC: mustMAC(srcMAC), DstMAC: mustMAC(dstMAC), EthernetType: layers.EthernetTypeIPv4}
	var network gopacket.SerializableLayer
	if src.Is4() {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
		tcp.SetNetworkLayerForChecksum(ip)
		network = ip
	} else {
		ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolTCP, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
		tcp.SetNetworkLayerForChecksum(ip)
		network = ip
		ethernet.EthernetType = layers.EthernetTypeIPv6
	}
	if vlan == 0 {
		return serialize(ethernet, network, tcp)
	}
	dot1q := &layers.Dot1Q{VLANIdentifier: vlan, Type: ethernet.EthernetType}
	ethernet.EthernetType = layers.EthernetTypeDot1Q
	return serialize(ethernet, dot1q, network, tcp)
}

// serialize panics on layers that gopacket cannot write: they are all ours.
func serialize(parts ...gopacket.SerializableLayer) string {
	buffer := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, parts...); err != nil {
		panic(err)
	}
	return hex.EncodeToString(buffer.Bytes())
}

// mustMAC parses what the engine gave.
func mustMAC(text string) net.HardwareAddr {
	mac, err := net.ParseMAC(text)
	if err != nil {
		panic(fmt.Sprintf("the engine's MAC address: %v", err))
	}
	return mac
}
