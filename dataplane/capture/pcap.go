package capture

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
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

// pcapFile reads pcap-savefile(5).
type pcapFile struct {
	source
	order    binary.ByteOrder
	unit     int64 // nanoseconds
	extra    int   // bytes of a record's head past the usual ones
	linkType linkType
	lent     int64 // bytes of the record handed on last, still in the file's buffer
}

// newPcapFile returns nil for what is no classic capture.
func newPcapFile(in *bufio.Reader) *pcapFile {
	magic, err := in.Peek(4)
	if err != nil {
		return nil
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		f := &pcapFile{source: source{in: in}, order: order, unit: 1000}
		switch order.Uint32(magic) {
		case magicMicro:
			return f
		case magicNano:
			f.unit = 1
			return f
		case magicKuznetzov:
			f.extra = 8
			return f
		}
	}
	return nil
}

// open reads the file's head.
func (f *pcapFile) open() error {
	if f.err = f.take(fileHead); f.err != nil {
		return f.err
	}
	const major, minor = 2, 4
	if a, b := f.order.Uint16(f.buf[4:]), f.order.Uint16(f.buf[6:]); a != major || b != minor {
		f.err = fmt.Errorf("version %d.%d, not %d.%d", a, b, major, minor)
		return f.err
	}
	// The upper bits are the length of a frame check sequence, which IP's own
	// length cuts off.
	f.linkType = linkType(f.order.Uint32(f.buf[20:]) & 0xffff)
	return nil
}

func (f *pcapFile) next(p *Packet) error {
	if f.err == nil {
		f.err = f.record(p)
	}
	return f.err
}

// record hands on a record where it lies in the file's buffer.
func (f *pcapFile) record(p *Packet) error {
	if err := f.skip(f.lent); err != nil {
		return err
	}
	f.start, f.lent = f.at, 0
	head, err := f.peek(recordHead + f.extra)
	if err != nil {
		return err
	}
	captured := f.order.Uint32(head[8:])
	if captured > snapMax {
		return fmt.Errorf("a packet of %d bytes: the capture is corrupt", captured)
	}
	p.Time = int64(f.order.Uint32(head))*1e9 + int64(f.order.Uint32(head[4:]))*f.unit
	n := len(head)
	b, err := f.peek(n + int(captured))
	if err != nil {
		return err
	}
	p.IP, f.lent = f.linkType.network(b[n:]), int64(len(b))
	return nil
}

// peek is the next n bytes, which stay where they are.
func (f *pcapFile) peek(n int) ([]byte, error) {
	b, err := f.in.Peek(n)
	if err == io.EOF && len(b) > 0 {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}
