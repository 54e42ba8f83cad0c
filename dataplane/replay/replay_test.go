package replay

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"gatehouse/dataplane/capture/capturetest"
)

var update = flag.Bool("update", false, "write the golden file anew")

// flowsOf replays one capture.
func flowsOf(t testing.TB, b []byte) (out []Flow) {
	t.Helper()
	r := New(func(f *Flow) { out = append(out, *f) })
	if _, err := r.File("test.pcap", bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	return out
}

// rawCapture is a capture of IP packets.
func rawCapture(packets ...[]byte) []byte {
	return capturetest.Pcap(binary.LittleEndian, capturetest.Nano, 101, packets)
}

func lines(t testing.TB, flows []Flow) string {
	t.Helper()
	var b strings.Builder
	for _, f := range flows {
		line, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s\n", line)
	}
	return b.String()
}

// The same conversation gives the same flows on every link, in every format and
// both byte orders; only the file's time unit shows.
func TestGolden(t *testing.T) {
	captures := map[string][]byte{}
	var names []string
	add := func(name string, b []byte) { names, captures[name] = append(names, name), b }
	for _, v6 := range []bool{false, true} {
		family := map[bool]string{false: "ipv4", true: "ipv6"}[v6]
		for _, l := range capturetest.Links() {
			add(family+"/"+l.Name, capturetest.Pcap(binary.LittleEndian, capturetest.Nano, l.Number, l.Frames(v6)))
		}
		for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
			add(family+"/micro "+order.String(), capturetest.Pcap(order, capturetest.Micro, 101, capturetest.Conversation(v6)))
			add(family+"/kuznetzov "+order.String(), capturetest.Pcap(order, capturetest.Kuznetzov, 101, capturetest.Conversation(v6)))
			n := capturetest.NG{Order: order}
			n.Section()
			n.Interface(101, n.Option(9, []byte{9}))
			for i, p := range capturetest.Conversation(v6) {
				n.Enhanced(0, uint64(capturetest.Start.Add(time.Duration(i)*capturetest.Step).UnixNano()), p, nil)
			}
			add(family+"/pcapng "+order.String(), n.Bytes())
		}
	}
	got := map[string]string{}
	for _, name := range names {
		flows := flowsOf(t, captures[name])
		for i := range flows {
			if flows[i].App == "http" && flows[i].Attrs["server"] != "till/2.1" {
				t.Errorf("%s: attributes %v", name, flows[i].Attrs)
			}
			// What signatures say beside the name is for tests of theirs.
			flows[i].Attrs, flows[i].Confidence, flows[i].Evidence, flows[i].AppPacket = nil, "", "", 0
		}
		got[name] = lines(t, flows)
	}
	var page strings.Builder
	for _, family := range []string{"ipv4", "ipv6"} {
		nano, micro := got[family+"/ethernet"], got[family+"/micro LittleEndian"]
		page.WriteString(nano + micro)
		for _, name := range names {
			want := nano
			if strings.Contains(name, "micro") || strings.Contains(name, "kuznetzov") {
				want = micro
			}
			if strings.HasPrefix(name, family) && got[name] != want {
				t.Errorf("%s:\n%swant\n%s", name, got[name], want)
			}
		}
	}
	const golden = "testdata/golden.jsonl"
	if *update {
		if err := os.WriteFile(golden, []byte(page.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(page.String(), "\n")); diff != "" {
		t.Errorf("-want +got (-update writes it):\n%s", diff)
	}
}

// http is what the TCP flow of a conversation must be, whatever is missing of it.
type http struct {
	confidence string
	packets    uint64
	appPacket  uint32
}

// What captures lack or spoil of a flow must not hide it: its beginning, one of
// its sides, checksums, the ends of packets.
func TestSpoiledCaptures(t *testing.T) {
	tcp := func(v6 bool) [][]byte { return capturetest.Conversation(v6)[:8] }
	each := func(ps [][]byte, f func(p []byte) []byte) (out [][]byte) {
		for _, p := range ps {
			if p = f(bytes.Clone(p)); p != nil {
				out = append(out, p)
			}
		}
		return out
	}
	fromClient := func(p []byte) bool {
		if p[0]>>4 == 6 {
			return p[23] == 1
		}
		return p[15] == 1
	}
	l4 := func(p []byte) []byte {
		if p[0]>>4 == 6 {
			return p[40:]
		}
		return p[20:]
	}
	for _, v6 := range []bool{false, true} {
		whole := tcp(v6)
		for name, c := range map[string]struct {
			packets [][]byte
			want    http
		}{
			"whole":               {whole, http{"both-sides", 8, 1}},
			"without the SYN":     {whole[1:], http{"both-sides", 7, 1}},
			"mid-stream":          {whole[3:], http{"both-sides", 5, 1}},
			"server's side first": {whole[4:], http{"one-side", 4, 1}},
			"client's side": {each(whole, func(p []byte) []byte {
				if !fromClient(p) {
					return nil
				}
				return p
			}), http{"one-side", 5, 1}},
			"server's side": {each(whole, func(p []byte) []byte {
				if fromClient(p) {
					return nil
				}
				return p
			}), http{"one-side", 3, 1}},
			"checksums":    {each(whole, func(p []byte) []byte { l4(p)[16] ^= 0x55; return p }), http{"both-sides", 8, 1}},
			"link padding": {each(whole, func(p []byte) []byte { return append(p, "GET / HTTP/1.1\r\n"...) }), http{"both-sides", 8, 1}},
			"length left to the network card": {each(whole, func(p []byte) []byte {
				if v6 {
					p[4], p[5] = 0, 0
				} else {
					p[2], p[3] = 0, 0
				}
				return p
			}), http{"both-sides", 8, 1}},
			"everything twice": {slices.Concat(whole[:1], whole[:1], whole[1:4], whole[3:]), http{"both-sides", 10, 1}},
			"urgent":           {each(whole, func(p []byte) []byte { l4(p)[13] |= 0x20; return p }), http{"both-sides", 8, 1}},
		} {
			flows := flowsOf(t, rawCapture(c.packets...))
			if len(flows) != 1 {
				t.Errorf("v6 %v, %s: %d flows\n%s", v6, name, len(flows), lines(t, flows))
				continue
			}
			f := flows[0]
			if f.App != "http" || f.Dport != 8080 || f.Sport != 40000 || (http{f.Confidence, f.Packets, f.AppPacket}) != c.want {
				t.Errorf("v6 %v, %s: want %+v\n%s", v6, name, c.want, lines(t, flows))
			}
		}
	}
}

// The snap length cuts packets; what is left still names them.
func TestSnapLength(t *testing.T) {
	packets := capturetest.Conversation(false)
	for i := range packets {
		packets[i] = packets[i][:min(len(packets[i]), 80)]
	}
	flows := flowsOf(t, rawCapture(packets...))
	apps := ""
	for _, f := range flows {
		apps += f.App + " "
	}
	if len(flows) != 3 || flows[0].App != "http" || flows[2].App != "icmp" || flows[0].Bytes < 8*40+80 {
		t.Errorf("%s\n%s", apps, lines(t, flows))
	}
}

// What the gateway drops unread is read in captures: a host's own loopback,
// options, extension headers, atomic fragments.
func TestOddPackets(t *testing.T) {
	question := capturetest.Conversation(false)[8]
	answer := capturetest.Conversation(false)[9]
	six := capturetest.Conversation(true)[8:10]
	options := func(p []byte) []byte {
		p = slices.Concat(p[:20], []byte{7, 4, 0, 0}, p[20:]) // record route
		p[0] = 0x46
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		return p
	}
	extend := func(p []byte, kind byte, header ...byte) []byte {
		p = slices.Concat(p[:40], header, p[40:])
		p[40], p[6] = p[6], kind
		binary.BigEndian.PutUint16(p[4:], uint16(len(p)-40))
		return p
	}
	loop := func(p []byte) []byte {
		p = bytes.Clone(p)
		copy(p[12:], "\x7f\x00\x00\x01\x7f\x00\x00\x01")
		return p
	}
	for name, packets := range map[string][][]byte{
		"options":           {options(question), options(answer)},
		"loopback":          {loop(question), loop(answer)},
		"hop-by-hop":        {extend(six[0], 0, 0, 0, 5, 2, 0, 0, 1, 0), extend(six[1], 60, 0, 0, 1, 4, 0, 0, 0, 0)},
		"authentication":    {extend(six[0], 51, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1), six[1]},
		"atomic fragment":   {extend(six[0], 44, 0, 0, 0, 0, 0, 0, 0, 9), six[1]},
		"two extensions":    {extend(extend(six[0], 60, 0, 0, 1, 4, 0, 0, 0, 0), 43, 0, 0, 0, 0, 0, 0, 0, 0), six[1]},
		"server port first": {answer, question},
	} {
		flows := flowsOf(t, rawCapture(packets...))
		if len(flows) != 1 || flows[0].App != "dns" || flows[0].Packets != 2 || flows[0].Confidence != "both-sides" {
			t.Errorf("%s:\n%s", name, lines(t, flows))
		}
	}
}

// All ICMP between two addresses is one flow.
func TestICMP(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		echo := capturetest.Conversation(v6)[10:]
		other := bytes.Clone(echo[1])
		other[len(other)-12] = 3 // unreachable, or time exceeded
		flows := flowsOf(t, rawCapture(slices.Concat(echo, [][]byte{other})...))
		want := map[bool]string{false: "icmp", true: "icmpv6"}[v6]
		if len(flows) != 1 || flows[0].App != want || flows[0].Proto != want || flows[0].Sport != 0 || flows[0].Dport != 0 || flows[0].Packets != 3 {
			t.Errorf("v6 %v:\n%s", v6, lines(t, flows))
		}
	}
}

// A port that is used again is a new flow.
func TestPortReuse(t *testing.T) {
	tcp := capturetest.Conversation(false)[:8]
	again := slices.Clone(tcp)
	syn := bytes.Clone(tcp[0])
	syn[24+3]++ // another initial sequence number
	again[0] = syn
	flows := flowsOf(t, rawCapture(slices.Concat(tcp, again)...))
	if len(flows) != 2 || flows[0].Packets != 8 || flows[1].Packets != 8 || flows[1].FirstSeen.Before(flows[0].LastSeen) {
		t.Errorf("\n%s", lines(t, flows))
	}
}

// More flows than the table holds, each with undecided bytes: all are reported
// once, with all their packets.
func TestMoreFlowsThanRoom(t *testing.T) {
	const n = 5000
	var count, packets uint64
	seen := map[netip.AddrPort]bool{}
	r := sized(func(f *Flow) {
		count++
		packets += f.Packets
		seen[netip.AddrPortFrom(f.Src, f.Sport)] = true
	}, 512, 16)
	var all [][]byte
	for i := range n {
		all = append(all, datagram(i, "\x00what is it?"))
	}
	counts, err := r.File("many.pcap", bytes.NewReader(rawCapture(all...)))
	if err != nil || counts.Packets != n || count != n || packets != n || len(seen) != n {
		t.Errorf("%d flows, %d packets, %d sources of %d; %+v %v", count, packets, len(seen), n, counts, err)
	}
	if len(r.noted) != 0 || r.classifier.Len() != 0 {
		t.Errorf("%d notes and %d flows are left", len(r.noted), r.classifier.Len())
	}
}

// datagram is a UDP datagram of source i.
func datagram(i int, payload string) []byte {
	b := gopacket.NewSerializeBuffer()
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: []byte{10, byte(i >> 16), byte(i >> 8), byte(i)}, DstIP: []byte{192, 0, 2, 2}}
	udp := &layers.UDP{SrcPort: 40000, DstPort: 9}
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true}, ip, udp, gopacket.Payload(payload)); err != nil {
		panic(err)
	}
	return bytes.Clone(b.Bytes())
}

// Once flows are known their packets cost no memory.
func TestNoAllocs(t *testing.T) {
	packets := capturetest.Conversation(false)[:4]
	var many, twice [][]byte
	for range 1000 {
		many = append(many, packets[3])
	}
	twice = slices.Concat(many, many)
	r := New(func(*Flow) {})
	cost := func(ps [][]byte) float64 {
		b := rawCapture(slices.Concat(packets, ps)...)
		return testing.AllocsPerRun(5, func() {
			if _, err := r.File("x", bytes.NewReader(b)); err != nil {
				t.Fatal(err)
			}
		})
	}
	if a, b := cost(many), cost(twice); b > a+1 {
		t.Errorf("1,000 packets more cost %v allocations", b-a)
	}
}

// A fault ends one capture and none after it; what came before is reported.
func TestFault(t *testing.T) {
	whole := rawCapture(capturetest.Conversation(false)...)
	var flows []Flow
	r := New(func(f *Flow) { flows = append(flows, *f) })
	_, err := r.File("cut.pcap", bytes.NewReader(whole[:len(whole)-3]))
	if err == nil || !strings.HasPrefix(err.Error(), "cut.pcap: at byte ") || len(flows) != 3 {
		t.Errorf("%d flows, %v", len(flows), err)
	}
	if _, err := r.File("whole.pcap", bytes.NewReader(whole)); err != nil || len(flows) != 6 || flows[5].File != "whole.pcap" || flows[5].Packets != 2 {
		t.Errorf("%d flows, %v\n%s", len(flows), err, lines(t, flows))
	}
}

func FuzzReplay(f *testing.F) {
	for _, v6 := range []bool{false, true} {
		f.Add(rawCapture(capturetest.Conversation(v6)...))
		f.Add(rawCapture(slices.Concat(capturetest.Conversation(v6)[3:], capturetest.Conversation(v6)[:2])...))
	}
	var packets uint64
	r := sized(func(f *Flow) { packets += f.Packets }, 8, 4)
	f.Fuzz(func(t *testing.T, b []byte) {
		packets = 0
		n, _ := r.File("fuzz", bytes.NewReader(b))
		if packets > n.Packets-n.Other {
			t.Fatalf("%d packets in flows, %+v in the capture", packets, n)
		}
		if r.classifier.Len() != 0 || len(r.noted) != 0 {
			t.Fatalf("%d flows and %d notes are left", r.classifier.Len(), len(r.noted))
		}
	})
}
