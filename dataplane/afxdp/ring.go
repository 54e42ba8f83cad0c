package afxdp

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ring is one of the four rings that a socket shares with the kernel: one
// producer, one consumer, indices that only grow and wrap at 2^32. The side
// that we are keeps its own index in own; the other side's is read with
// acquire, ours written with release (Go's atomics are both), so that an entry
// is complete before its index says so (Documentation/networking/af_xdp.rst).
type ring[T any] struct {
	mem      []byte // the mapping
	producer *uint32
	consumer *uint32
	entries  []T
	own      uint32 // next entry of ours
	other    uint32 // the kernel's index, as last read
}

// mapRing maps n entries of the ring at pgoff of the socket.
func mapRing[T any](fd int, pgoff int64, off unix.XDPRingOffset, n int) (ring[T], error) {
	var entry T
	mem, err := unix.Mmap(fd, pgoff, int(off.Desc)+n*int(unsafe.Sizeof(entry)),
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return ring[T]{}, fmt.Errorf("map ring at %#x: %w", pgoff, err)
	}
	return ring[T]{
		mem:      mem,
		producer: (*uint32)(unsafe.Pointer(&mem[off.Producer])),
		consumer: (*uint32)(unsafe.Pointer(&mem[off.Consumer])),
		entries:  unsafe.Slice((*T)(unsafe.Pointer(&mem[off.Desc])), n),
	}, nil
}

func (r *ring[T]) unmap() error {
	if r.mem == nil {
		return nil
	}
	err := unix.Munmap(r.mem)
	*r = ring[T]{}
	return err
}

// at is the i-th entry after our own index.
func (r *ring[T]) at(i uint32) *T { return &r.entries[(r.own+i)&uint32(len(r.entries)-1)] }

// room is how many entries a producer may write.
func (r *ring[T]) room() uint32 {
	r.other = atomic.LoadUint32(r.consumer)
	return uint32(len(r.entries)) - (r.own - r.other)
}

// unread is how many entries of a producer the kernel has not taken yet.
func (r *ring[T]) unread() uint32 {
	r.other = atomic.LoadUint32(r.consumer)
	return r.own - r.other
}

// produce hands the next n entries to the kernel.
func (r *ring[T]) produce(n uint32) {
	r.own += n
	atomic.StoreUint32(r.producer, r.own)
}

// waiting is how many entries a consumer may read; the kernel's index is read
// again only when what was known is used up.
func (r *ring[T]) waiting() uint32 {
	if r.other == r.own {
		r.other = atomic.LoadUint32(r.producer)
	}
	return r.other - r.own
}

// consume gives the next n entries back to the kernel.
func (r *ring[T]) consume(n uint32) {
	r.own += n
	atomic.StoreUint32(r.consumer, r.own)
}
