package capture

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"gatehouse/dataplane/capture/capturetest"
)

type got struct {
	time int64
	ip   []byte
}

// readAll reads a capture to its end or fault.
func readAll(r io.Reader) (out []got, err error) {
	c, err := NewReader(r)
	if err != nil {
		return nil, err
	}
	var p Packet
	for {
		if err := c.Next(&p); err == io.EOF {
			return out, nil
		} else if err != nil {
			return out, err
		}
		out = append(out, got{p.Time, bytes.Clone(p.IP)})
	}
}

// check compares what was read with a conversation; unit is the clock's.
func check(t *testing.T, out []got, err error, want [][]byte, unit time.Duration) {
	t.Helper()
	if err != nil || len(out) != len(want) {
		t.Fatalf("%d packets, want %d; %v", len(out), len(want), err)
	}
	for i, g := range out {
		if at := capturetest.Start.Add(time.Duration(i) * capturetest.Step).Truncate(unit); g.time != at.UnixNano() {
			t.Errorf("packet %d at %v, want %v", i, time.Unix(0, g.time).UTC(), at)
		}
		if !bytes.Equal(g.ip, want[i]) {
			t.Errorf("packet %d\n%x, want\n%x", i, g.ip, want[i])
		}
	}
}

var orders = map[string]binary.AppendByteOrder{"little endian": binary.LittleEndian, "big endian": binary.BigEndian}

func TestLinkTypes(t *testing.T) {
	for _, l := range capturetest.Links() {
		for _, v6 := range []bool{false, true} {
			want := capturetest.Conversation(v6)
			out, err := readAll(bytes.NewReader(capturetest.Pcap(binary.LittleEndian, capturetest.Micro, l.Number, l.Frames(v6))))
			t.Run(l.Name, func(t *testing.T) { check(t, out, err, want, time.Microsecond) })
		}
	}
}

// What is cut off in its headers, or no IP, is no IP packet, and nothing worse.
func TestShortFrames(t *testing.T) {
	for _, l := range capturetest.Links() {
		for _, v6 := range []bool{false, true} {
			head := l.Head(v6)
			for n := range head {
				frame := append(make([]byte, 0, n), head[:n]...)
				if ip := linkType(l.Number).network(frame); len(ip) != 0 && n < len(head)-4 {
					t.Errorf("%s cut to %d bytes: %x", l.Name, n, ip)
				}
			}
		}
	}
	arp := append([]byte("\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x08\x06"), make([]byte, 28)...)
	if linkEthernet.network(arp) != nil || linkType(127).network(arp) != nil {
		t.Error("IP in ARP, or on a link that has none")
	}
}

func TestClassicFormats(t *testing.T) {
	want := capturetest.Conversation(false)
	for name, order := range orders {
		for kind, magic := range map[string]uint32{"micro": capturetest.Micro, "nano": capturetest.Nano, "kuznetzov": capturetest.Kuznetzov} {
			unit := time.Microsecond
			if magic == capturetest.Nano {
				unit = time.Nanosecond
			}
			b := capturetest.Pcap(order, magic, 101|4<<28|1<<26, want) // with the length of a frame check sequence
			t.Run(name+" "+kind, func(t *testing.T) {
				out, err := readAll(bytes.NewReader(b))
				check(t, out, err, want, unit)
				out, err = readAll(iotest.OneByteReader(bytes.NewReader(b)))
				check(t, out, err, want, unit)
				var z bytes.Buffer
				w := gzip.NewWriter(&z)
				_, _ = w.Write(b)
				_ = w.Close()
				out, err = readAll(&z)
				check(t, out, err, want, unit)
			})
		}
	}
}

// A record may be longer than what the file's head says, and than the packet was.
func TestSnapLengths(t *testing.T) {
	want := capturetest.Conversation(false)
	b := capturetest.Pcap(binary.LittleEndian, capturetest.Micro, 101, want)
	binary.LittleEndian.PutUint32(b[16:], 8)
	binary.LittleEndian.PutUint32(b[24+12:], 1)
	out, err := readAll(bytes.NewReader(b))
	check(t, out, err, want, time.Microsecond)
}

// gopacket's own writers and this reader agree on the formats.
func TestGopacketWriters(t *testing.T) {
	link := capturetest.Links()[0]
	want := capturetest.Conversation(false)
	info := func(i int, f []byte) gopacket.CaptureInfo {
		return gopacket.CaptureInfo{Timestamp: capturetest.Start.Add(time.Duration(i) * capturetest.Step), CaptureLength: len(f), Length: len(f)}
	}
	for name, nano := range map[string]bool{"micro": false, "nano": true} {
		var b bytes.Buffer
		w, unit := pcapgo.NewWriter(&b), time.Microsecond
		if nano {
			w, unit = pcapgo.NewWriterNanos(&b), time.Nanosecond
		}
		if err := w.WriteFileHeader(65535, layers.LinkTypeEthernet); err != nil {
			t.Fatal(err)
		}
		for i, f := range link.Frames(false) {
			if err := w.WritePacket(info(i, f), f); err != nil {
				t.Fatal(err)
			}
		}
		out, err := readAll(&b)
		t.Run(name, func(t *testing.T) { check(t, out, err, want, unit) })
	}
	var b bytes.Buffer
	w, err := pcapgo.NewNgWriterInterface(&b, pcapgo.NgInterface{Name: "eth0", Comment: "a comment", LinkType: layers.LinkTypeEthernet, SnapLength: 96}, pcapgo.DefaultNgWriterOptions)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range link.Frames(false) {
		if err := w.WritePacket(info(i, f), f); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.WriteInterfaceStats(0, pcapgo.NgInterfaceStatistics{PacketsReceived: 12}); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	out, err := readAll(&b)
	check(t, out, err, want, time.Nanosecond)
}

// ng is a capture with all that pcapng has: two sections of both byte orders,
// interfaces of two link types and time units, all packet blocks, options, and
// blocks of other kinds.
func ng(first, second binary.AppendByteOrder) ([]byte, [][]byte) {
	packets := capturetest.Conversation(false)
	ethernet, sll2 := capturetest.Links()[0].Frames(false), [][]byte{}
	for _, l := range capturetest.Links() {
		if l.Name == "sll2" {
			sll2 = l.Frames(false)
		}
	}
	at := func(i int) uint64 {
		return uint64(capturetest.Start.Add(time.Duration(i) * capturetest.Step).UnixNano())
	}
	n := capturetest.NG{Order: first}
	n.Section()
	n.Interface(1, n.Option(9, []byte{9}))
	n.Block(0x0bad, []byte("a private block"))
	offset := n.Order.AppendUint64(nil, 1700000000)
	n.Interface(276, append(append(n.Option(2, []byte("eth1")), n.Option(9, []byte{9})...), n.Option(14, offset)...))
	n.Enhanced(0, at(0), ethernet[0], n.Option(1, []byte("a comment")))
	n.Enhanced(1, at(1)-1700000000e9, sll2[1], nil)
	n.Obsolete(0, at(2), ethernet[2])
	n.Block(5, append(n.Order.AppendUint32(nil, 1), make([]byte, 8)...)) // interface statistics
	n.Order = second
	n.Section()
	n.Interface(276, nil) // microseconds
	n.Interface(1, n.Option(9, []byte{9}))
	for i := 3; i < len(packets); i++ {
		n.Enhanced(1, at(i), ethernet[i], nil)
	}
	return n.Bytes(), packets
}

func TestPcapNG(t *testing.T) {
	for name, first := range orders {
		for other, second := range orders {
			b, want := ng(first, second)
			t.Run(name+" "+other, func(t *testing.T) {
				out, err := readAll(bytes.NewReader(b))
				check(t, out, err, want, time.Nanosecond)
				out, err = readAll(iotest.OneByteReader(bytes.NewReader(b)))
				check(t, out, err, want, time.Nanosecond)
			})
		}
	}
}

// A simple packet has the time of the one before it, and no more bytes than its
// block.
func TestSimplePackets(t *testing.T) {
	want := capturetest.Conversation(true)
	n := capturetest.NG{Order: binary.BigEndian}
	n.Section()
	n.Interface(101, nil)
	n.Simple(want[0])
	n.Enhanced(0, 5_000_000, want[1], nil)
	n.Simple(want[2])
	n.Block(3, append(n.Order.AppendUint32(nil, 9000), want[3][:64]...)) // cut by the snap length
	out, err := readAll(&n)
	if err != nil || len(out) != 4 {
		t.Fatal(len(out), err)
	}
	for i, at := range []int64{0, 5e9, 5e9, 5e9} {
		if out[i].time != at {
			t.Errorf("packet %d at %d, want %d", i, out[i].time, at)
		}
	}
	if !bytes.Equal(out[2].ip, want[2]) || !bytes.Equal(out[3].ip, want[3][:64]) {
		t.Errorf("%x", out)
	}
}

// Every time unit is converted exactly, as big numbers have it.
func TestTimeUnits(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for v := range 256 {
		perSecond, ok := resolution(byte(v))
		exact := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(v)), nil)
		if v >= 0x80 {
			exact.Lsh(big.NewInt(1), uint(v&0x7f))
		}
		if ok != exact.IsUint64() || ok && perSecond != exact.Uint64() {
			t.Fatalf("if_tsresol %#x: %d %v, want %v", v, perSecond, ok, exact)
		}
		for range 100 {
			ticks := random.Uint64() >> random.UintN(64)
			want := new(big.Int).Mul(new(big.Int).SetUint64(ticks), big.NewInt(1e9))
			want.Div(want, exact)
			if c := (clock{perSecond: perSecond}); ok && want.IsInt64() && c.nanoseconds(ticks) != want.Int64() {
				t.Errorf("if_tsresol %#x: tick %d is %d ns, want %v", v, ticks, c.nanoseconds(ticks), want)
			}
		}
	}
}

// Cut anywhere, a capture gives the packets before the cut and says where it
// begins to fail; cut between records, a classic one is whole.
func TestTruncated(t *testing.T) {
	classic := capturetest.Pcap(binary.LittleEndian, capturetest.Kuznetzov, 101, capturetest.Conversation(false))
	modern, _ := ng(binary.LittleEndian, binary.BigEndian)
	for name, whole := range map[string][]byte{"pcap": classic, "pcapng": modern} {
		all, _ := readAll(bytes.NewReader(whole))
		before := 0
		for n := range whole {
			out, err := readAll(bytes.NewReader(whole[:n]))
			if len(out) < before || len(out) > before+1 {
				t.Fatalf("%s cut to %d bytes: %d packets after %d", name, n, len(out), before)
			}
			before = len(out)
			for i := range out {
				if out[i].time != all[i].time || !bytes.Equal(out[i].ip, all[i].ip) {
					t.Fatalf("%s cut to %d bytes: packet %d differs", name, n, i)
				}
			}
			if err == nil {
				continue
			}
			fault := (*Error)(nil)
			if !errors.As(err, &fault) || fault.Offset > int64(n) {
				t.Fatalf("%s cut to %d bytes: %v", name, n, err)
			}
			if n >= 24 && !strings.Contains(err.Error(), "cut off") {
				t.Fatalf("%s cut to %d bytes: %v", name, n, err)
			}
		}
	}
}

func TestCorrupt(t *testing.T) {
	le := binary.LittleEndian
	classic := capturetest.Pcap(le, capturetest.Micro, 101, capturetest.Conversation(false))
	second := int64(24 + 16 + le.Uint32(classic[24+8:]))
	section := func(edit func(n *capturetest.NG)) []byte {
		n := capturetest.NG{Order: le}
		n.Section()
		n.Interface(101, nil)
		edit(&n)
		return n.Bytes()
	}
	block := func(words ...uint32) []byte {
		return section(func(n *capturetest.NG) {
			for _, w := range words {
				n.Write(le.AppendUint32(nil, w))
			}
			n.Write(make([]byte, 64))
		})
	}
	const body = 28 + 20 // the section's head and the interface
	for name, c := range map[string]struct {
		capture []byte
		offset  int64
		says    string
		packets int
	}{
		"empty":             {nil, 0, "neither pcap nor pcapng", 0},
		"text":              {[]byte("not a capture at all"), 0, "neither pcap nor pcapng", 0},
		"huge record":       {edit(classic, int(second)+8, 0xfffffff0), second, "4294967280 bytes", 1},
		"bad gzip":          {[]byte("\x1f\x8b in name only"), 0, "gzip", 0},
		"version":           {edit(classic, 4, 7), 0, "version", 0},
		"no section first":  {append([]byte(ngMagic), make([]byte, 40)...), 0, "byte order", 0},
		"section version":   {edit(section(func(*capturetest.NG) {}), 12, 9), 0, "version 9.0", 0},
		"block length 0":    {block(6, 0), body, "a block of 0 bytes", 0},
		"block length odd":  {block(6, 33), body, "a block of 33 bytes", 0},
		"block too short":   {block(6, 16), body, "a block of 16 bytes", 0},
		"huge block":        {block(6, 0xfffffffc, 0, 0, 0, 0xfffffff0), body, "a packet of 4294967280 bytes", 0},
		"huge other block":  {block(77, 0xfffffffc), body, "cut off", 0},
		"huge interface":    {block(1, 0xfffffffc), body, "a block of", 0},
		"past its block":    {block(6, 44, 0, 0, 0, 64, 64), body, "a packet of 64 bytes in a block of 44", 0},
		"no such interface": {block(6, 44, 1, 0, 0, 4, 4), body, "interface 1, and there are 1", 0},
		"other end":         {block(77, 16, 0, 20), body, "20 at its end", 0},
		"option": {section(func(n *capturetest.NG) { n.Block(1, []byte{101, 0, 0, 0, 0, 0, 0, 0, 9, 0, 200, 0}) }),
			body, "an option longer", 0},
		"time unit": {section(func(n *capturetest.NG) { n.Interface(101, n.Option(9, []byte{0xff})) }), body, "if_tsresol 0xff", 0},
		"no interface": {func() []byte {
			n := capturetest.NG{Order: le}
			n.Section()
			n.Simple([]byte("x"))
			return n.Bytes()
		}(), 28, "no interface", 0},
	} {
		out, err := readAll(bytes.NewReader(c.capture))
		fault := (*Error)(nil)
		if !errors.As(err, &fault) || fault.Offset != c.offset || !strings.Contains(err.Error(), c.says) || len(out) != c.packets {
			t.Errorf("%s: %d packets, %v; want %d, at %d %q", name, len(out), err, c.packets, c.offset, c.says)
		}
	}
}

func edit(b []byte, at int, v uint32) []byte {
	b = bytes.Clone(b)
	binary.LittleEndian.PutUint32(b[at:], v)
	return b
}

// The fault of a file is told from one of what is in it.
func TestReadError(t *testing.T) {
	broken := errors.New("the disk is gone")
	b := capturetest.Pcap(binary.LittleEndian, capturetest.Micro, 101, capturetest.Conversation(false))
	out, err := readAll(io.MultiReader(bytes.NewReader(b[:200]), iotest.ErrReader(broken)))
	if !errors.Is(err, broken) || len(out) == 0 {
		t.Errorf("%d packets, %v", len(out), err)
	}
}

// Reading needs no memory that grows: after the first packets nothing is allocated.
func TestNoAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	frames := capturetest.Links()[0].Frames(false)
	n := capturetest.NG{Order: binary.LittleEndian}
	n.Section()
	n.Interface(1, nil)
	var many [][]byte
	for range 2000 {
		for _, f := range frames {
			many = append(many, f)
			n.Enhanced(0, 1, f, nil)
		}
	}
	for name, b := range map[string][]byte{"pcap": capturetest.Pcap(binary.LittleEndian, capturetest.Micro, 1, many), "pcapng": n.Bytes()} {
		c, err := NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		var p Packet
		if a := testing.AllocsPerRun(10000, func() {
			if err := c.Next(&p); err != nil {
				t.Fatal(err)
			}
		}); a != 0 {
			t.Errorf("%s: %v allocations a packet", name, a)
		}
	}
}

func FuzzReader(f *testing.F) {
	for _, order := range orders {
		b, _ := ng(order, binary.LittleEndian)
		f.Add(b)
		for _, magic := range []uint32{capturetest.Micro, capturetest.Nano, capturetest.Kuznetzov} {
			f.Add(capturetest.Pcap(order, magic, 276, capturetest.Conversation(true)[:3]))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		total := 0
		out, err := readAll(bytes.NewReader(b))
		for _, p := range out {
			total += len(p.ip)
		}
		if total > len(b) && !bytes.HasPrefix(b, []byte("\x1f\x8b")) {
			t.Fatalf("%d bytes of packets in %d", total, len(b))
		}
		fault := (*Error)(nil)
		if err != nil && !errors.As(err, &fault) {
			t.Fatal(err)
		}
	})
}
