package capture

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/gopacket/pcapgo"
)

// Blocks and options of pcapng (draft-ietf-opsawg-pcapng, sections 4 and 3.5).
const (
	ngMagic = "\x0a\x0d\x0d\x0a"

	blockSection   = 0x0a0d0d0a
	blockInterface = 1
	blockPacket    = 2 // obsolete
	blockSimple    = 3
	blockEnhanced  = 6

	byteOrderMagic = 0x1a2b3c4d

	optionEnd    = 0
	optionTSRes  = 9
	optionTSOffs = 14

	blockFrame   = 12 // type, length, and the length again
	enhancedHead = 20

	interfacesMax = 1 << 16
	// optionsMax is how much of an interface's options is read: names, comments.
	optionsMax = 1 << 20
)

// iface is what a section says of one of its interfaces.
type iface struct {
	link linkType
	clock
}

// ngFramer reads pcapng. What pcapgo gets is the same capture with only the
// blocks that matter, without their options, and with all times in ticks of one
// nanosecond, so that they can be converted exactly here.
type ngFramer struct {
	source
	order   binary.ByteOrder
	ifaces  []iface
	packets *pcapgo.NgReader
	last    int64
}

func newNGFramer(in *bufio.Reader) *ngFramer { return &ngFramer{source: source{in: in}} }

// open lets pcapgo read the first section's head.
func (f *ngFramer) open() (err error) {
	f.packets, err = pcapgo.NewNgReader(f, pcapgo.NgReaderOptions{WantMixedLinkType: true})
	return err
}

func (f *ngFramer) next(p *Packet) error {
	data, ci, err := f.packets.ZeroCopyReadPacketData()
	if err != nil {
		return err
	}
	i := &f.ifaces[ci.InterfaceIndex]
	if !ci.Timestamp.IsZero() {
		f.last = i.nanoseconds(uint64(ci.Timestamp.UnixNano()))
	}
	p.Time, p.IP = f.last, i.link.network(data)
	return nil
}

// Read is what pcapgo reads from.
func (f *ngFramer) Read(p []byte) (int, error) { return f.deliver(p, f.block) }

// block reads one block; of those that do not matter nothing is passed on.
func (f *ngFramer) block() error {
	f.buf = f.buf[:0]
	if err := f.take(8); err != nil {
		return err
	}
	if string(f.buf[:4]) == ngMagic {
		return f.section()
	}
	if f.order == nil {
		return errors.New("a block before any section")
	}
	length := f.order.Uint32(f.buf[4:])
	if length < blockFrame || length%4 != 0 {
		return badLength(length)
	}
	body := int64(length) - blockFrame
	switch f.order.Uint32(f.buf) {
	case blockInterface:
		return f.describe(body)
	case blockEnhanced, blockPacket:
		return f.enhanced(body)
	case blockSimple:
		return f.simple(body)
	}
	return f.end(body, length)
}

func badLength(n uint32) error {
	return fmt.Errorf("a block of %d bytes: the capture is corrupt", n)
}

// end reads past the rest of a block and compares its two lengths.
func (f *ngFramer) end(rest int64, length uint32) error {
	if err := f.skip(rest); err != nil {
		return err
	}
	at := len(f.buf)
	if err := f.take(4); err != nil {
		return err
	}
	if again := f.order.Uint32(f.buf[at:]); again != length {
		return fmt.Errorf("a block says %d bytes at its beginning and %d at its end: the capture is corrupt", length, again)
	}
	f.buf = f.buf[:at]
	return nil
}

// pass hands on what is in buf as one block.
func (f *ngFramer) pass(kind uint32) error {
	for len(f.buf)%4 != 0 {
		f.buf = append(f.buf, 0)
	}
	n := uint32(len(f.buf) + 4)
	f.order.PutUint32(f.buf, kind)
	f.order.PutUint32(f.buf[4:], n)
	f.buf = appendUint32(f.buf, f.order, n)
	f.rest = f.buf
	return nil
}

func appendUint32(b []byte, order binary.ByteOrder, v uint32) []byte {
	b = append(b, 0, 0, 0, 0)
	order.PutUint32(b[len(b)-4:], v)
	return b
}

func (f *ngFramer) section() error {
	if err := f.take(16); err != nil {
		return err
	}
	switch {
	case binary.LittleEndian.Uint32(f.buf[8:]) == byteOrderMagic:
		f.order = binary.LittleEndian
	case binary.BigEndian.Uint32(f.buf[8:]) == byteOrderMagic:
		f.order = binary.BigEndian
	default:
		return errors.New("a section of no known byte order: the capture is corrupt")
	}
	if major, minor := f.order.Uint16(f.buf[12:]), f.order.Uint16(f.buf[14:]); major != 1 || minor != 0 && minor != 2 {
		// Minor version 2 is read as 0 (section 4.1).
		return fmt.Errorf("pcapng version %d.%d, not 1.0", major, minor)
	}
	f.order.PutUint16(f.buf[14:], 0)
	length := f.order.Uint32(f.buf[4:])
	if length < blockFrame+16 || length%4 != 0 {
		return badLength(length)
	}
	f.ifaces = f.ifaces[:0]
	if err := f.end(int64(length)-blockFrame-16, length); err != nil {
		return err
	}
	return f.pass(blockSection)
}

func (f *ngFramer) describe(body int64) error {
	length := uint32(body + blockFrame)
	if body < 8 || body > optionsMax {
		return badLength(length)
	}
	if len(f.ifaces) == interfacesMax {
		return fmt.Errorf("more than %d interfaces in a section", interfacesMax)
	}
	if err := f.take(int(body)); err != nil {
		return err
	}
	i := iface{linkType(f.order.Uint16(f.buf[8:])), clock{perSecond: 1e6}}
	if err := i.options(f.buf[16:], f.order); err != nil {
		return err
	}
	f.ifaces = append(f.ifaces, i)
	if err := f.end(0, length); err != nil {
		return err
	}
	// What has 256 places or limits in pcapgo is kept here.
	f.order.PutUint16(f.buf[8:], 0)
	f.order.PutUint32(f.buf[12:], 0)
	f.buf = append(f.buf[:16], 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0)
	f.order.PutUint16(f.buf[16:], optionTSRes)
	f.order.PutUint16(f.buf[18:], 1)
	return f.pass(blockInterface)
}

// options reads the time unit.
func (i *iface) options(b []byte, order binary.ByteOrder) error {
	for len(b) >= 4 {
		code, n := order.Uint16(b), int(order.Uint16(b[2:]))
		if code == optionEnd {
			return nil
		}
		b = b[4:]
		if n > len(b) {
			return errors.New("an option longer than its block: the capture is corrupt")
		}
		switch {
		case code == optionTSRes && n >= 1:
			var ok bool
			if i.perSecond, ok = resolution(b[0]); !ok {
				return fmt.Errorf("if_tsresol %#02x: a time unit that 64 bits do not hold", b[0])
			}
		case code == optionTSOffs && n >= 8:
			i.offset = int64(order.Uint64(b))
		}
		b = b[min(len(b), (n+3)&^3):]
	}
	return nil
}

// resolution is if_tsresol in ticks a second: a negative power of 2 with the
// upper bit, else of 10.
func resolution(v byte) (perSecond uint64, ok bool) {
	if v&0x80 != 0 {
		n := v & 0x7f
		return 1 << (n & 63), n < 64
	}
	perSecond = 1
	for range v {
		if perSecond > 1e18 {
			return 0, false
		}
		perSecond *= 10
	}
	return perSecond, true
}

// enhanced reads an enhanced packet block, or the obsolete one that it took the
// place of: there the interface's number has 16 bits.
func (f *ngFramer) enhanced(body int64) error {
	length := uint32(body + blockFrame)
	if body < enhancedHead {
		return badLength(length)
	}
	if err := f.take(enhancedHead); err != nil {
		return err
	}
	number := f.order.Uint32(f.buf[8:])
	if f.order.Uint32(f.buf) == blockPacket {
		number = uint32(f.order.Uint16(f.buf[8:]))
		f.order.PutUint32(f.buf[8:], number)
	}
	if number >= uint32(len(f.ifaces)) {
		return fmt.Errorf("a packet of interface %d, and there are %d", number, len(f.ifaces))
	}
	captured := f.order.Uint32(f.buf[20:])
	if captured > snapMax || int64(captured) > body-enhancedHead {
		return fmt.Errorf("a packet of %d bytes in a block of %d: the capture is corrupt", captured, length)
	}
	if err := f.take(int(captured)); err != nil {
		return err
	}
	if err := f.end(body-enhancedHead-int64(captured), length); err != nil {
		return err
	}
	return f.pass(blockEnhanced)
}

// simple reads a simple packet block: interface 0, no time, and what the block
// has room for.
func (f *ngFramer) simple(body int64) error {
	length := uint32(body + blockFrame)
	if body < 4 {
		return badLength(length)
	}
	if len(f.ifaces) == 0 {
		return errors.New("a packet, and no interface")
	}
	if err := f.take(4); err != nil {
		return err
	}
	captured := min(int64(f.order.Uint32(f.buf[8:])), body-4)
	if captured > snapMax {
		return fmt.Errorf("a packet of %d bytes: the capture is corrupt", captured)
	}
	f.order.PutUint32(f.buf[8:], uint32(captured))
	if err := f.take(int(captured)); err != nil {
		return err
	}
	if err := f.end(body-4-captured, length); err != nil {
		return err
	}
	return f.pass(blockSimple)
}
