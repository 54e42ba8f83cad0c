package steer

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// netns is a network namespace that is held open. Its cookie tells it apart
// from every other of this boot; the inode number does not, the kernel reuses
// it.
type netns struct {
	path   string // where it was opened, "" = this process's own
	file   *os.File
	cookie uint64
}

// ownNetNS is the process's own namespace. It is opened before any thread can
// have entered another: /proc/self tells of the main thread, which is one of
// those that do runs on.
var ownNetNS, errOwnNetNS = os.Open("/proc/thread-self/ns/net")

// openNetNS opens the namespace at path, "" = this process's own.
func openNetNS(path string) (*netns, error) {
	name := path
	if name == "" {
		if errOwnNetNS != nil {
			return nil, fmt.Errorf("open this process's network namespace: %w", errOwnNetNS)
		}
		name = fmt.Sprintf("/proc/self/fd/%d", ownNetNS.Fd())
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	ns := &netns{path: path, file: f}
	err = ns.do(func() (err error) {
		ns.cookie, err = currentCookie()
		return err
	})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return ns, nil
}

func (ns *netns) close() error { return ns.file.Close() }

// do runs f on a thread inside the namespace. Goroutines that f starts run
// outside; sockets that f opens stay inside. After close it is an error.
func (ns *netns) do(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- ns.enter(f) }()
	return <-done
}

// enter leaves the thread locked where it cannot go back, so that the runtime
// ends the thread with the goroutine.
func (ns *netns) enter(f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open this thread's network namespace: %w", err)
	}
	defer home.Close()
	if err := setns(ns.file); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace %s: %w", ns.path, err)
	}
	err = f()
	if setns(home) == nil {
		runtime.UnlockOSThread()
	}
	return err
}

// setns keeps the descriptor from being closed, and its number from meaning
// something else, meanwhile.
func setns(f *os.File) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = c.Control(func(fd uintptr) { failed = unix.Setns(int(fd), unix.CLONE_NEWNET) })
	return errors.Join(err, failed)
}

// currentCookie is the cookie of the calling thread's network namespace.
func currentCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("network namespace cookie: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("network namespace cookie (needs Linux 5.14): %w", err)
	}
	return cookie, nil
}
