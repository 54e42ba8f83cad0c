package capture

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// Magic numbers of classic captures: microseconds, nanoseconds, and Kuznetzov's
// format of old Linux distributions, whose record heads are longer by 8 bytes
// (wiretap/libpcap.h names them all).
const (
	magicMicro     = 0xa1b2c3d4
	magicNano      = 0xa1b23c4d
	magicKuznetzov = 0xa1b2cd34

	fileHead   = 24
	recordHead = 16
)

// pcapFramer reads pcap-savefile(5).
type pcapFramer struct {
	source
	order    binary.ByteOrder
	extra    int // bytes of a record's head past the usual ones
	linkType linkType
	begun    bool
	lent     int64 // bytes of the record handed on last, still in the file's buffer
}

// newPcapFramer returns nil for what is no classic capture.
func newPcapFramer(in *bufio.Reader) *pcapFramer {
	magic, err := in.Peek(4)
	if err != nil {
		return nil
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		switch order.Uint32(magic) {
		case magicMicro, magicNano:
			return &pcapFramer{source: source{in: in}, order: order}
		case magicKuznetzov:
			return &pcapFramer{source: source{in: in}, order: order, extra: 8}
		}
	}
	return nil
}

func (f *pcapFramer) link(int) linkType             { return f.linkType }
func (f *pcapFramer) time(t time.Time, _ int) int64 { return t.UnixNano() }
func (f *pcapFramer) Read(p []byte) (int, error)    { return f.deliver(p, f.next) }

func (f *pcapFramer) next() error {
	f.buf = f.buf[:0]
	if !f.begun {
		return f.head()
	}
	return f.record()
}

func (f *pcapFramer) head() error {
	if err := f.take(fileHead); err != nil {
		return err
	}
	f.begun = true
	// The upper bits are the length of a frame check sequence, which IP's own
	// length cuts off.
	f.linkType = linkType(f.order.Uint32(f.buf[20:]) & 0xffff)
	if f.extra > 0 {
		f.order.PutUint32(f.buf, magicMicro)
	}
	f.rest = f.buf
	return nil
}

// record hands on a record where it lies in the file's buffer.
func (f *pcapFramer) record() error {
	if err := f.skip(f.lent); err != nil {
		return err
	}
	f.start, f.lent = f.at, 0
	head, err := f.peek(recordHead)
	if err != nil {
		return err
	}
	captured, length := f.order.Uint32(head[8:]), f.order.Uint32(head[12:])
	if captured > snapMax {
		return fmt.Errorf("a packet of %d bytes: the capture is corrupt", captured)
	}
	b, err := f.peek(recordHead + f.extra + int(captured))
	if err != nil {
		return err
	}
	if length < captured { // pcapgo takes it for an error
		f.order.PutUint32(b[12:], captured)
	}
	copy(b[f.extra:], b[:recordHead])
	f.rest, f.lent = b[f.extra:], int64(len(b))
	return nil
}

// peek is the next n bytes, which stay where they are.
func (f *pcapFramer) peek(n int) ([]byte, error) {
	b, err := f.in.Peek(n)
	if err == io.EOF && len(b) > 0 {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}
