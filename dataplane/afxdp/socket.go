package afxdp

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// txBudget is how many frames one sendto may transmit; the kernel's own
	// default of 32 costs 15 % in the hairpin.
	txBudget = 256
	// bindPatience covers the time in which the kernel releases a queue after
	// its last socket closed: frames in flight hold it.
	bindPatience = time.Second
	bindPause    = 20 * time.Millisecond
)

// Available says what keeps this host from having AF_XDP sockets.
func Available() error {
	fd, err := newSocket()
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func newSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EAFNOSUPPORT):
		return -1, fmt.Errorf("the kernel has no AF_XDP, which needs Linux 4.18 or later and CONFIG_XDP_SOCKETS: %w", err)
	case err != nil:
		return -1, fmt.Errorf("AF_XDP socket: %w", err)
	}
	return fd, nil
}

// newQueue makes an AF_XDP socket over m in the calling thread's network
// namespace and maps its rings. It is not bound and has no frames yet. One that
// does not register m is to share it with one that did.
func newQueue(m *umem, register bool) (_ *queue, err error) {
	fd, err := newSocket()
	if err != nil {
		return nil, err
	}
	q := &queue{umem: m, fd: fd}
	// The kernel writes into the memory while the socket lives: a queue that is
	// lost must not free it first.
	runtime.SetFinalizer(q, func(q *queue) { _ = q.close() })
	defer func() {
		if err != nil {
			err = errors.Join(err, q.close())
		}
	}()
	reg := unix.XDPUmemReg{
		Addr: uint64(uintptr(unsafe.Pointer(&m.area[0]))),
		Len:  uint64(len(m.area)),
		Size: uint32(m.frameSize),
	}
	if register {
		if err := setsockopt(fd, unix.XDP_UMEM_REG, unsafe.Pointer(&reg), unsafe.Sizeof(reg)); err != nil {
			return nil, fmt.Errorf("register %d frames of %d bytes: %w", m.frames, m.frameSize, err)
		}
	}
	// Every ring but the fill ring holds all frames there are, so none can overflow.
	sizes := []struct{ option, entries int }{
		{unix.XDP_UMEM_FILL_RING, m.frames / 2},
		{unix.XDP_UMEM_COMPLETION_RING, m.frames},
		{unix.XDP_RX_RING, m.frames},
		{unix.XDP_TX_RING, m.frames},
	}
	for _, s := range sizes {
		if err := unix.SetsockoptInt(fd, unix.SOL_XDP, s.option, s.entries); err != nil {
			return nil, fmt.Errorf("size of ring %d: %w", s.option, err)
		}
	}
	off, err := mmapOffsets(fd)
	if err != nil {
		return nil, err
	}
	var errs [4]error
	q.fill, errs[0] = mapRing[uint64](fd, unix.XDP_UMEM_PGOFF_FILL_RING, off.Fr, m.frames/2)
	q.completion, errs[1] = mapRing[uint64](fd, unix.XDP_UMEM_PGOFF_COMPLETION_RING, off.Cr, m.frames)
	q.rx, errs[2] = mapRing[unix.XDPDesc](fd, unix.XDP_PGOFF_RX_RING, off.Rx, m.frames)
	q.tx, errs[3] = mapRing[unix.XDPDesc](fd, unix.XDP_PGOFF_TX_RING, off.Tx, m.frames)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	// Kernels before 6.17 do not know the option and keep to 32.
	_ = unix.SetsockoptInt(fd, unix.SOL_XDP, unix.XDP_MAX_TX_SKB_BUDGET, txBudget)
	return q, nil
}

// bind ties the socket to a queue, waiting a moment for one that a closed
// socket still holds.
func (q *queue) bind(ifindex, number int) error {
	return q.bindTo(&unix.SockaddrXDP{
		Flags:   unix.XDP_COPY | unix.XDP_USE_NEED_WAKEUP,
		Ifindex: uint32(ifindex),
		QueueID: uint32(number),
	})
}

// bindSharing is bind for a socket that uses the UMEM of first, which is bound,
// in first's way.
func (q *queue) bindSharing(first *queue, ifindex, number int) error {
	return q.bindTo(&unix.SockaddrXDP{
		Flags:        unix.XDP_SHARED_UMEM,
		Ifindex:      uint32(ifindex),
		QueueID:      uint32(number),
		SharedUmemFD: uint32(first.fd),
	})
}

func (q *queue) bindTo(address *unix.SockaddrXDP) error {
	deadline := time.Now().Add(bindPatience)
	for {
		err := unix.Bind(q.fd, address)
		if err == nil {
			return nil
		}
		if errors.Is(err, unix.EINVAL) { // xsk_reg_pool_at_qid (net/xdp/xsk.c), of a number that is too large
			return fmt.Errorf("there is no queue %d to bind to: %w", address.QueueID, err)
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return fmt.Errorf("bind to queue %d: %w", address.QueueID, err)
		}
		time.Sleep(bindPause)
	}
}

func mmapOffsets(fd int) (off unix.XDPMmapOffsets, err error) {
	err = getsockopt(fd, unix.XDP_MMAP_OFFSETS, unsafe.Pointer(&off), unsafe.Sizeof(off))
	return off, err
}

func setsockopt(fd, option int, value unsafe.Pointer, size uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(option), uintptr(value), size, 0)
	if errno != 0 {
		return os.NewSyscallError("setsockopt", errno)
	}
	return nil
}

func getsockopt(fd, option int, value unsafe.Pointer, size uintptr) error {
	length := uint32(size)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(option),
		uintptr(value), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return os.NewSyscallError("getsockopt", errno)
	}
	return nil
}
