package appid

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"gatehouse/policy"
)

// corpusDirs are where a labelled corpus of captures may lie: expected.tsv,
// captures/ and a README of its columns.
var corpusDirs = []string{"../../../shared/data/appid", "testdata/corpus"}

func corpusDir(t *testing.T) string {
	for _, d := range corpusDirs {
		if _, err := os.Stat(filepath.Join(d, "expected.tsv")); err == nil {
			return d
		}
	}
	t.Skip("left out: corpus not found")
	return ""
}

// known are the applications that the signatures name.
func known() map[string]bool {
	m := map[string]bool{"icmp": true, "icmpv6": true, "mdns": true, "grpc": true, "websocket": true}
	for _, p := range protocols {
		m[p.app.String()] = true
	}
	return m
}

// implied: answering the right-hand name is right too (a websocket is http).
var implied = map[string][]string{
	"grpc": {"http2"}, "elasticsearch": {"http"}, "etcd": {"grpc", "http2", "http"}, "websocket": {"http"}, "nfs": {"sunrpc"},
	"rtcp": {"rtp"}, "smb": {"netbios"},
}

type corpusKey struct {
	proto string
	a, b  netip.AddrPort
}

func makeCorpusKey(proto string, src, dst netip.AddrPort) corpusKey {
	if dst.Compare(src) < 0 {
		src, dst = dst, src
	}
	return corpusKey{proto, src, dst}
}

type corpusFlow struct {
	client  netip.AddrPort
	state   State
	syn     bool
	started bool
	app     policy.App
	anomaly Anomaly
	last    Outcome
}

type corpusLine struct {
	file, expected, kind string
	accept               []string
	key                  corpusKey
}

func readExpected(t *testing.T, dir string) []corpusLine {
	f, err := os.Open(filepath.Join(dir, "expected.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []corpusLine
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		c := strings.Split(sc.Text(), "\t")
		if len(c) < 10 || c[0] == "file" {
			continue
		}
		l := corpusLine{file: c[0], expected: c[6], kind: c[9]}
		if c[7] != "" {
			l.accept = strings.Split(c[7], ",")
		}
		l.accept = append(l.accept, implied[l.expected]...)
		src, err1 := netip.ParseAddr(c[2])
		dst, err2 := netip.ParseAddr(c[4])
		if err1 != nil || err2 != nil {
			continue
		}
		sp, _ := strconv.Atoi(c[3])
		dp, _ := strconv.Atoi(c[5])
		if strings.HasPrefix(c[1], "icmp") {
			sp, dp = 0, 0
		}
		l.key = makeCorpusKey(c[1], netip.AddrPortFrom(src.Unmap(), uint16(sp)), netip.AddrPortFrom(dst.Unmap(), uint16(dp)))
		out = append(out, l)
	}
	return out
}

type frame struct {
	link layers.LinkType
	data []byte
}

func readCapture(path string) ([]frame, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	br := bufio.NewReader(f)
	magic, err := br.Peek(4)
	if err != nil {
		return nil, err
	}
	var out []frame
	if magic[0] == 0x0a {
		r, err := pcapgo.NewNgReader(br, pcapgo.NgReaderOptions{WantMixedLinkType: true, SkipUnknownVersion: true})
		if err != nil {
			return nil, err
		}
		for {
			d, ci, err := r.ReadPacketData()
			if err != nil {
				return out, nil
			}
			link := r.LinkType()
			if i, err := r.Interface(ci.InterfaceIndex); err == nil {
				link = i.LinkType
			}
			out = append(out, frame{link, d})
		}
	}
	return readPcap(br, magic)
}

// readPcap reads the classic format in all its variants (pcap-savefile(5)),
// Kuznetzov's with longer record heads too.
func readPcap(r io.Reader, magic []byte) (out []frame, err error) {
	var order binary.ByteOrder = binary.LittleEndian
	if magic[0] == 0xa1 {
		order = binary.BigEndian
	}
	recordHead := 16
	if m := order.Uint32(magic); m == 0xa1b2cd34 {
		recordHead = 24
	}
	b, err := io.ReadAll(r)
	if err != nil || len(b) < 24 {
		return nil, err
	}
	link := layers.LinkType(order.Uint32(b[20:]) & 0xff)
	for b = b[24:]; len(b) >= recordHead; {
		n := int(order.Uint32(b[8:]))
		if b = b[recordHead:]; n > len(b) {
			break
		}
		out = append(out, frame{link, b[:n]})
		b = b[n:]
	}
	return out, nil
}

// network strips the link header of a capture.
func network(f frame) []byte {
	p := f.data
	cut := func(n int) []byte {
		if len(p) < n {
			return nil
		}
		return p[n:]
	}
	switch f.link {
	case 1:
		for o := 12; o+2 <= len(p); o += 4 {
			switch binary.BigEndian.Uint16(p[o:]) {
			case 0x8100, 0x88a8, 0x9100:
				continue
			case 0x0800, 0x86dd:
				return p[o+2:]
			case 0x8864:
				return cut(o + 10)
			}
			return nil
		}
		return nil
	case 12, 14, 101, 228, 229:
		return p
	case 113:
		if len(p) > 16 && p[14] == 0x81 {
			return cut(20)
		}
		return cut(16)
	case 0, 108, 104:
		return cut(4)
	case 9, 50:
		o := 0
		if len(p) > 2 && p[0] == 0xff && p[1] == 3 {
			o = 2
		}
		if len(p) > o && p[o] == 0 {
			return cut(o + 2)
		}
		return cut(o + 1)
	}
	return nil
}

type ipPacket struct {
	proto    string
	src, dst netip.AddrPort
	seq      uint32
	flags    byte
	payload  []byte
}

func parseIP(b []byte) (p ipPacket, ok bool) {
	be := binary.BigEndian
	if len(b) < 20 {
		return p, false
	}
	var src, dst netip.Addr
	var proto byte
	switch b[0] >> 4 {
	case 4:
		head, total := int(b[0]&15)*4, int(be.Uint16(b[2:]))
		if head < 20 || len(b) < head || be.Uint16(b[6:])&0x1fff != 0 {
			return p, false
		}
		src, dst, proto = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), b[9]
		if total >= head && total < len(b) {
			b = b[:total]
		}
		b = b[head:]
	case 6:
		if len(b) < 40 {
			return p, false
		}
		src, dst, proto = netip.AddrFrom16([16]byte(b[8:24])).Unmap(), netip.AddrFrom16([16]byte(b[24:40])).Unmap(), b[6]
		n := int(be.Uint16(b[4:]))
		if b = b[40:]; n != 0 && n < len(b) {
			b = b[:n]
		}
		for (proto == 0 || proto == 43 || proto == 60 || proto == 44) && len(b) >= 8 {
			n := 8
			if proto != 44 {
				n = (int(b[1]) + 1) * 8
			} else if be.Uint16(b[2:])&0xfff8 != 0 {
				return p, false
			}
			if proto = b[0]; n > len(b) {
				return p, false
			}
			b = b[n:]
		}
	default:
		return p, false
	}
	port := func(a netip.Addr, i int) netip.AddrPort { return netip.AddrPortFrom(a, be.Uint16(b[i:])) }
	switch {
	case proto == 6 && len(b) >= 20:
		head := int(b[12]>>4) * 4
		if head < 20 || head > len(b) {
			return p, false
		}
		return ipPacket{"tcp", port(src, 0), port(dst, 2), be.Uint32(b[4:]), b[13], b[head:]}, true
	case proto == 17 && len(b) >= 8:
		return ipPacket{"udp", port(src, 0), port(dst, 2), 0, 0, b[8:]}, true
	case proto == 1:
		return ipPacket{proto: "icmp", src: netip.AddrPortFrom(src, 0), dst: netip.AddrPortFrom(dst, 0)}, true
	case proto == 58:
		return ipPacket{proto: "icmpv6", src: netip.AddrPortFrom(src, 0), dst: netip.AddrPortFrom(dst, 0)}, true
	}
	return p, false
}

func classifyCapture(e *Engine, path string) (map[corpusKey]*corpusFlow, error) {
	frames, err := readCapture(path)
	if err != nil {
		return nil, err
	}
	flows := map[corpusKey]*corpusFlow{}
	for _, fr := range frames {
		p, ok := parseIP(network(fr))
		if !ok {
			continue
		}
		k := makeCorpusKey(p.proto, p.src, p.dst)
		f := flows[k]
		if f == nil {
			f = &corpusFlow{client: p.src}
			flows[k] = f
		}
		feedCapture(e, f, p)
	}
	return flows, nil
}

func feedCapture(e *Engine, f *corpusFlow, p ipPacket) {
	const syn, ack = 2, 16
	switch p.proto {
	case "icmp":
		f.app = policy.AppICMP
		return
	case "icmpv6":
		f.app = policy.AppICMPv6
		return
	case "tcp":
		if p.flags&(syn|ack) == syn && !f.started {
			f.client, f.syn = p.src, true
			f.state.Reset(policy.ProtoTCP, p.dst.Port(), false)
			f.state.Open(FromClient, p.seq+1)
			f.started = true
		} else if p.flags&(syn|ack) == syn|ack && f.syn {
			f.state.Open(FromServer, p.seq+1)
		}
	}
	if len(p.payload) == 0 {
		return
	}
	if !f.started {
		proto := policy.ProtoTCP
		mid := true
		if p.proto == "udp" {
			proto = policy.ProtoUDP
		}
		f.client, f.started = p.src, true
		f.state.Reset(proto, p.dst.Port(), mid)
	}
	dir := FromClient
	if p.src != f.client {
		dir = FromServer
	}
	seq := p.seq
	if p.flags&syn != 0 {
		seq++
	}
	o := e.Feed(&f.state, dir, seq, p.payload)
	f.last = o
	if o.Anomaly == AnomalyMismatch {
		f.anomaly = o.Anomaly
	}
	if o.Likely != policy.AppNone {
		f.app = o.Likely
	} else if o.Spoken.App > policy.AppUnknown {
		f.app = o.Spoken.App
	} else if o.Decided {
		f.app = policy.AppUnknown
	}
}

type score struct{ right, wrong, unknown int }

// TestCorpus holds the signatures against captures that others labelled. A
// wrong name would let an enforcing gateway pass or drop the wrong thing, so it
// weighs more than an unknown one.
func TestCorpus(t *testing.T) {
	dir := corpusDir(t)
	scoreCorpus(t, filepath.Join(dir, "captures"), readExpected(t, dir))
}

func scoreCorpus(t *testing.T, captures string, lines []corpusLine) {
	e, names := New(), known()
	scores := map[string]*score{}
	var total score
	negatives, falsePositives := 0, 0
	byFile := map[string]map[corpusKey]*corpusFlow{}
	for _, l := range lines {
		flows, ok := byFile[l.file]
		if !ok {
			var err error
			if flows, err = classifyCapture(e, filepath.Join(captures, l.file)); err != nil {
				t.Fatalf("%s: %v", l.file, err)
			}
			byFile[l.file] = flows
		}
		got := policy.AppUnknown
		f := flows[l.key]
		if f != nil && f.app != policy.AppNone {
			got = f.app
		}
		negative := !names[l.expected]
		if negative {
			negatives++
			if got != policy.AppUnknown && !accepted(got.String(), l) {
				falsePositives++
				t.Logf("false positive: %s %v: %s, expected %s", l.file, l.key, got, l.expected)
			}
			continue
		}
		s := scores[l.expected]
		if s == nil {
			s = &score{}
			scores[l.expected] = s
		}
		switch {
		case got == policy.AppUnknown:
			s.unknown++
			total.unknown++
			if testing.Verbose() {
				n := ""
				if f != nil {
					n = fmt.Sprint(" anomaly ", f.anomaly)
				}
				t.Logf("unknown: %s %s %s %s: expected %s (%s)%s", l.file, l.key.proto, l.key.a, l.key.b, l.expected, l.kind, n)
			}
		case accepted(got.String(), l):
			s.right++
			total.right++
		default:
			s.wrong++
			total.wrong++
			t.Logf("wrong: %s %v: %s, expected %s", l.file, l.key, got, l.expected)
		}
	}
	for _, p := range sortedKeys(scores) {
		t.Logf("%-14s right %3d  wrong %d  unknown %d", p, scores[p].right, scores[p].wrong, scores[p].unknown)
	}
	all := total.right + total.wrong + total.unknown
	t.Logf("right %d, wrong %d, unknown %d of %d; false positives %d of %d negatives", total.right, total.wrong, total.unknown, all, falsePositives, negatives)
	if float64(total.right) < 0.98*float64(all) {
		t.Errorf("%d of %d flows have no name", total.unknown, all)
	}
	if float64(total.wrong) > 0.003*float64(all) {
		t.Errorf("%d of %d flows have a wrong name", total.wrong, all)
	}
	if falsePositives > 0 {
		t.Errorf("%d of %d flows of other protocols were given a name", falsePositives, negatives)
	}
}

func accepted(got string, l corpusLine) bool {
	if got == l.expected || "other:"+got == l.expected {
		return true
	}
	for _, a := range l.accept {
		if a == got {
			return true
		}
	}
	return false
}
