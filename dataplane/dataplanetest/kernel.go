package dataplanetest

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// WithoutAFXDP runs f where the kernel has no AF_XDP, as one that was built
// without it answers. The error is about the place, not f's: then f was not run.
func WithoutAFXDP(f func()) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends, and the filter with it
		err := refuseFamily(unix.AF_XDP)
		if err == nil {
			f()
		}
		done <- err
	}()
	return <-done
}

// refuseFamily lets the thread make no sockets of a family any more.
func refuseFamily(family uint32) error {
	const (
		load   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equals = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		answer = unix.BPF_RET | unix.BPF_K
		number = 0  // of struct seccomp_data: the system call's
		first  = 16 // the low half of its first argument
	)
	filter := []unix.SockFilter{
		{Code: load, K: number},
		{Code: equals, Jf: 3, K: unix.SYS_SOCKET},
		{Code: load, K: first},
		{Code: equals, Jf: 1, K: family},
		{Code: answer, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)},
		{Code: answer, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	return nil
}
