// Package capture reads the IP packets of capture files: pcap in its variants
// and pcapng, of the link types that have IP in them. A record of pcap is a head of
// four numbers, and is handed on where it lies; of pcapng pcapgo parses what is
// framed and bounded here first, since it trusts lengths, panics on some time
// units and has room for 256 link types only. A Reader belongs to one
// goroutine and keeps one packet, whatever the size of the capture.
package capture

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
)

// snapMax is the longest packet that a record may hold, as libpcap has it
// (MAXIMUM_SNAPLEN in pcap-int.h); a record that says more is corrupt.
const snapMax = 262144

// bufferSize has room for any record.
const bufferSize = 2 * snapMax

// Packet is one packet of a capture.
type Packet struct {
	// Time is in nanoseconds since 1970, as captured: it need not grow. Packets
	// that have none (simple packet blocks) get that of the one before.
	Time int64
	// IP begins at the IP header and ends where the capture does, which may be
	// past the packet's end or before it. It is nil for what is not IP. Valid
	// until the next call.
	IP []byte
}

// Error is a fault of a capture, at the record or block that begins at Offset.
// Of a compressed capture Offset counts the uncompressed bytes.
type Error struct {
	Offset int64
	Err    error
}

func (e *Error) Error() string { return fmt.Sprintf("at byte %d: %v", e.Offset, e.Err) }
func (e *Error) Unwrap() error { return e.Err }

// ErrFormat: the file begins like none that can be read.
var ErrFormat = errors.New("neither pcap nor pcapng")

// records is a capture's records one by one.
type records interface {
	// next reads the next packet. io.EOF is the end of a whole capture.
	next(p *Packet) error
	// offset is where the record that was last read begins.
	offset() int64
	// failure is why reading ended, as far as the framing knows; io.EOF after a
	// whole record.
	failure() error
}

// Reader reads one capture.
type Reader struct{ records records }

// NewReader begins to read a capture, also a gzip-compressed one. The error is
// an *Error, or what r said.
func NewReader(r io.Reader) (*Reader, error) {
	in := bufio.NewReaderSize(r, bufferSize)
	if magic, _ := in.Peek(2); string(magic) == "\x1f\x8b" {
		plain, err := gzip.NewReader(in)
		if err != nil {
			return nil, &Error{0, cutOff(err)}
		}
		in = bufio.NewReaderSize(plain, bufferSize)
	}
	magic, err := in.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if len(magic) < 4 {
		return nil, &Error{0, ErrFormat}
	}
	c := &Reader{}
	if string(magic) == ngMagic {
		frames := newNGFramer(in)
		c.records, err = frames, frames.open()
	} else if classic := newPcapFile(in); classic != nil {
		c.records, err = classic, classic.open()
	} else {
		return nil, &Error{0, ErrFormat}
	}
	if err != nil {
		return nil, c.fault(err)
	}
	return c, nil
}

// Next reads the next packet. io.EOF is the end of a whole capture; any other
// error is an *Error and final.
func (r *Reader) Next(p *Packet) error {
	if err := r.records.next(p); err != nil {
		return r.fault(err)
	}
	return nil
}

// fault says what ended the reading: what the framer found goes before what
// pcapgo made of it.
func (r *Reader) fault(err error) error {
	switch cause := r.records.failure(); {
	case cause == io.EOF:
		if errors.Is(err, io.EOF) {
			return io.EOF
		}
	case cause != nil:
		err = cause
	}
	return &Error{r.records.offset(), cutOff(err)}
}

func cutOff(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the capture is cut off here")
	}
	return err
}

// source is the file under a framer.
type source struct {
	in    *bufio.Reader
	at    int64 // of the next byte
	start int64 // of the record at hand
	rest  []byte
	buf   []byte
	err   error
}

func (s *source) offset() int64  { return s.start }
func (s *source) failure() error { return s.err }

// deliver is Read for a framer whose next record next makes in s.rest.
func (s *source) deliver(p []byte, next func() error) (int, error) {
	for len(s.rest) == 0 {
		if s.err != nil {
			return 0, s.err
		}
		s.start = s.at
		s.err = next()
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// take reads the record's next n bytes after what there is of it.
func (s *source) take(n int) error {
	have := len(s.buf)
	if cap(s.buf) < have+n {
		s.buf = append(make([]byte, 0, have+n), s.buf...)
	}
	s.buf = s.buf[:have+n]
	got, err := io.ReadFull(s.in, s.buf[have:])
	s.at += int64(got)
	if err == io.EOF && have > 0 {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// skip reads past n bytes.
func (s *source) skip(n int64) error {
	for n > 0 {
		got, err := s.in.Discard(int(min(n, math.MaxInt32)))
		s.at += int64(got)
		if n -= int64(got); err == io.EOF {
			return io.ErrUnexpectedEOF
		} else if err != nil {
			return err
		}
	}
	return nil
}

// clock is the time unit of an interface: ticks a second, and the second of
// tick 0.
type clock struct {
	perSecond uint64
	offset    int64
}

// nanoseconds converts ticks exactly; what no int64 holds wraps.
func (c clock) nanoseconds(ticks uint64) int64 {
	high, low := bits.Mul64(ticks%c.perSecond, 1e9)
	fraction, _ := bits.Div64(high, low, c.perSecond)
	return (int64(ticks/c.perSecond)+c.offset)*1e9 + int64(fraction)
}
