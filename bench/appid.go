package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse/dataplane/capture"
	"gatehouse/dataplane/replay"
)

// replayVariant is ours of all captures merged.
const replayVariant = "gatehouse replay"

// AppIDConfig says what Gatehouse's application identification and nDPI's read.
type AppIDConfig struct {
	Captures []string // pcap or pcapng files, or folders of them
	Rounds   int
	Progress io.Writer
	// Packets is how many the merged capture has at least; 0 = 600,000. The
	// captures are repeated as other hosts' until there are so many.
	Packets int
}

// AppID measures packets a second, on one thread, of all captures merged into
// one file: this program's replay beside `ndpiReader -d` (no guesses by port).
// Time is the processor's, of all threads and the kernel's part too, so that a
// busy machine counts against neither; set-up is taken off. The second case is what a flow costs that no signature
// fits, beside one that is named at its first bytes.
func AppID(ctx context.Context, cfg AppIDConfig) (*Comparison, error) {
	captures, err := captureFiles(cfg.Captures)
	if err != nil {
		return nil, err
	}
	if _, err := exec.LookPath("ndpiReader"); err != nil {
		return nil, fmt.Errorf("%w: Debian's package libndpi-bin has it", err)
	}
	if cfg.Packets == 0 {
		cfg.Packets = 600_000
	}
	dir, err := os.MkdirTemp("", "bench-appid")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	merged := filepath.Join(dir, "merged.pcap")
	m, err := merge(merged, captures, cfg.Packets)
	if err != nil {
		return nil, err
	}
	first := filepath.Join(dir, "first.pcap")
	if _, err := merge(first, captures[:1], 1); err != nil {
		return nil, err
	}
	// One thread: no second core for the collector.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	c := newComparison("Application identification", "ndpiReader -d", cfg.Rounds)
	about := fmt.Sprintf("%d captures, %d packets of them IP, repeated to %d packets", len(captures), m.once, m.packets)
	err = c.measure(ctx, "all captures merged", about, 0, []contender{
		{name: replayVariant, unit: "kpps", run: func() (float64, error) { return replayRate(merged) }},
		{name: "ndpiReader -d", unit: "kpps", run: func() (float64, error) { return ndpiRate(ctx, merged, first) }},
	}, cfg.Progress)
	if err != nil {
		return nil, err
	}
	c.Baseline = "named"
	known, unknown := flowsCapture(false), flowsCapture(true)
	err = c.measure(ctx, "a flow that no signature fits", "Handshake, 12 packets of 300 bytes that alternate, end; ratio to HTTP in the same packets", 0, []contender{
		{name: "named", unit: "ns a flow", run: func() (float64, error) { return flowCost(known, "http") }},
		{name: "unknown", unit: "ns a flow", run: func() (float64, error) { return flowCost(unknown, "unknown") }},
	}, cfg.Progress)
	c.Baseline = "ndpiReader -d"
	return c, err
}

// captureFiles lists the captures in folders.
func captureFiles(paths []string) (out []string, err error) {
	for _, p := range paths {
		entries, err := os.ReadDir(p)
		if errors.Is(err, unix.ENOTDIR) {
			out = append(out, p)
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.Type().IsRegular() && slices.Contains([]string{".pcap", ".pcapng", ".cap"}, filepath.Ext(e.Name())) {
				out = append(out, filepath.Join(p, e.Name()))
			}
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no captures")
	}
	return out, nil
}

// replayRate is kpps of a capture.
func replayRate(path string) (float64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	r := replay.New(func(*replay.Flow) {})
	runtime.GC()
	begin := processorTime()
	n, err := r.File(path, f)
	return float64(n.Packets) / (processorTime() - begin).Seconds() / 1000, err
}

// processorTime is what this process has used.
func processorTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

var ndpiPackets = regexp.MustCompile(`IP packets:\s+(\d+)`)

// ndpiRate is kpps of a capture; what it takes to read next to nothing is set-up.
func ndpiRate(ctx context.Context, path, nothing string) (float64, error) {
	setUp, _, err := ndpiRun(ctx, nothing)
	if err != nil {
		return 0, err
	}
	took, packets, err := ndpiRun(ctx, path)
	return packets / (took - setUp).Seconds() / 1000, err
}

func ndpiRun(ctx context.Context, path string) (took time.Duration, packets float64, err error) {
	c := exec.CommandContext(ctx, "ndpiReader", "-d", "-n", "1", "-i", path)
	text, err := c.CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("ndpiReader: %w: %s", err, text)
	}
	m := ndpiPackets.FindSubmatch(text)
	if m == nil {
		return 0, 0, fmt.Errorf("ndpiReader counts no packets: %s", text)
	}
	packets, err = strconv.ParseFloat(string(m[1]), 64)
	return c.ProcessState.UserTime() + c.ProcessState.SystemTime(), packets, err
}

type mergedCapture struct{ once, packets int }

// merge writes the IP packets of captures as Ethernet frames, as often as it
// takes; each repetition is between other addresses, so that its flows are new.
func merge(path string, captures []string, atLeast int) (m mergedCapture, err error) {
	f, err := os.Create(path)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriterSize(f, 1<<20)
	defer func() { err = errors.Join(err, w.Flush()) }()
	le := binary.LittleEndian
	head := le.AppendUint32(nil, 0xa1b2c3d4)
	head = append(head, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0)
	if _, err := w.Write(head); err != nil {
		return m, err
	}
	for copies := uint16(0); m.packets < atLeast; copies++ {
		if copies == math.MaxUint16 || copies == 1 && m.packets == 0 {
			return m, errors.New("too few packets in the captures")
		}
		for _, name := range captures {
			if err := m.appendCapture(w, name, copies); err != nil {
				return m, err
			}
		}
		if m.once == 0 {
			m.once = m.packets
		}
	}
	return m, nil
}

func (m *mergedCapture) appendCapture(w io.Writer, name string, copies uint16) error {
	in, err := os.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	r, err := capture.NewReader(in)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	var p capture.Packet
	var b []byte
	for {
		if err := r.Next(&p); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if len(p.IP) < 40 && (len(p.IP) < 20 || p.IP[0]>>4 != 4) || len(p.IP) > 65000 {
			continue
		}
		kind, ends := []byte{8, 0}, [2][]byte{p.IP[13:15], p.IP[17:19]}
		if p.IP[0]>>4 == 6 {
			kind, ends = []byte{0x86, 0xdd}, [2][]byte{p.IP[10:12], p.IP[26:28]}
		}
		for _, b := range ends {
			b[0], b[1] = b[0]^byte(copies), b[1]^byte(copies>>8)
		}
		at := int64(m.packets) * 10 // microseconds
		le := binary.LittleEndian
		b = le.AppendUint32(b[:0], uint32(1_700_000_000+at/1e6))
		b = le.AppendUint32(b, uint32(at%1e6))
		b = le.AppendUint32(b, uint32(14+len(p.IP)))
		b = le.AppendUint32(b, uint32(14+len(p.IP)))
		b = append(b, "\x02\x00\x00\x00\x00\x02\x02\x00\x00\x00\x00\x01"...)
		b = append(append(b, kind...), p.IP...)
		if _, err := w.Write(b); err != nil {
			return err
		}
		m.packets++
	}
}

const costFlows, costRuns = 2000, 10

// flowsCapture is a capture of alike flows, in memory: HTTP, or the same packets
// of random bytes.
func flowsCapture(unknown bool) []byte {
	random := rand.New(rand.NewPCG(7, 9))
	fill := func(text string) []byte {
		b := bytes.Repeat([]byte("x"), 300)
		copy(b, text)
		if unknown {
			for i := range b {
				b[i] = byte(random.Uint32())
			}
		}
		return b
	}
	le, be := binary.LittleEndian, binary.BigEndian
	out := le.AppendUint32(nil, 0xa1b2c3d4)
	out = append(out, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 101, 0, 0, 0)
	packet := func(flow int, back bool, flags byte, seq, ack uint32, payload []byte) {
		src, dst := []byte{10, 0, byte(flow >> 8), byte(flow)}, []byte{10, 1, 0, 1}
		sport, dport := uint16(40000), uint16(8080)
		if back {
			src, dst, sport, dport = dst, src, dport, sport
		}
		n := 40 + len(payload)
		out = le.AppendUint32(out, 1_700_000_000)
		out = le.AppendUint32(out, 0)
		out = le.AppendUint32(out, uint32(n))
		out = le.AppendUint32(out, uint32(n))
		out = append(out, 0x45, 0, byte(n>>8), byte(n), 0, 0, 0, 0, 64, 6, 0, 0)
		out = append(append(out, src...), dst...)
		out = be.AppendUint16(be.AppendUint16(out, sport), dport)
		out = be.AppendUint32(be.AppendUint32(out, seq), ack)
		out = append(append(out, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0), payload...)
	}
	for i := range costFlows {
		const syn, ack, fin = 2, 16, 1
		packet(i, false, syn, 0, 0, nil)
		packet(i, true, syn|ack, 0, 1, nil)
		c, s := uint32(1), uint32(1)
		for range 6 {
			packet(i, false, ack, c, s, fill("POST /basket HTTP/1.1\r\nHost: shop\r\nContent-Length: 242\r\n\r\n"))
			c += 300
			packet(i, true, ack, s, c, fill("HTTP/1.1 200 OK\r\nServer: till/2.1\r\nContent-Length: 243\r\n\r\n"))
			s += 300
		}
		packet(i, false, ack|fin, c, s, nil)
		packet(i, true, ack|fin, s, c+1, nil)
	}
	return out
}

// flowCost is nanoseconds a flow of such a capture; all must be of that name.
func flowCost(b []byte, app string) (float64, error) {
	flows, named := 0, 0
	r := replay.New(func(f *replay.Flow) {
		if flows++; f.App == app {
			named++
		}
	})
	var err error
	begin := processorTime()
	for range costRuns {
		if _, e := r.File("flows", bytes.NewReader(b)); e != nil {
			err = e
		}
	}
	cost := float64((processorTime() - begin).Nanoseconds()) / (costRuns * costFlows)
	if err == nil && named != flows {
		err = fmt.Errorf("%d of %d flows are %s", named, flows, app)
	}
	return cost, err
}
