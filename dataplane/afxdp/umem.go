package afxdp

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"gatehouse/dataplane"
)

// umem is the memory in which sockets and the caller hand each other frames, and
// the frames that nobody has.
type umem struct {
	area      []byte
	frameSize uint64
	frames    int
	free      []uint64 // addresses of chunks
}

// newUMEM allocates so many frames, all of them free. The memory is the garbage
// collector's, so that a frame that is still borrowed when its port closes
// stays readable.
func newUMEM(frames, size int) *umem {
	n, page := frames*size, os.Getpagesize()
	b := make([]byte, n+page)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (page - 1)
	m := &umem{area: b[skip : skip+n : skip+n], frameSize: uint64(size), frames: frames, free: make([]uint64, frames)}
	for i := range m.free {
		m.free[i] = uint64(i) * uint64(size)
	}
	return m
}

// put takes back the frame that an address lies in.
func (m *umem) put(address uint64) { m.free = append(m.free, address&^(m.frameSize-1)) }

// get hands out a free frame, as long as frames can be.
func (m *umem) get(header int) (dataplane.Frame, bool) {
	if len(m.free) == 0 {
		return dataplane.Frame{}, false
	}
	chunk := m.free[len(m.free)-1]
	m.free = m.free[:len(m.free)-1]
	start, end := chunk+unix.XDP_PACKET_HEADROOM, chunk+m.frameSize
	return dataplane.Frame{Data: m.area[start:end:end], L3: header, Ref: start}, true
}
