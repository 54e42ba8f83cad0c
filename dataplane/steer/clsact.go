package steer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Attach says by what the programs are attached.
type Attach uint8

const (
	AttachAuto   Attach = iota // by tcx where the kernel has it, else by clsact
	AttachTCX                  // by tcx links (Linux 6.6): nobody else can take them off
	AttachClsact               // by direct-action filters of clsact: anybody's tc can, and Watch puts them back
)

var attachNames = [...]string{"auto", "tcx", "clsact"}

func (a Attach) String() string { return attachNames[a] }

// ParseAttach reads "auto", "tcx" or "clsact".
func ParseAttach(s string) (Attach, bool) {
	for i, n := range attachNames {
		if n == s {
			return Attach(i), true
		}
	}
	return 0, false
}

// The filter's place: before all others of its hook.
const (
	filterPriority = 1
	filterHandle   = 1
)

// filterPath is where a filter's program is pinned: the sign that it belongs at
// the hook, and what it is put back from.
func (s *Steer) filterPath(h hook) string { return filepath.Join(s.links, h.pinName()+filterSuffix) }

const filterSuffix = "-cls"

func (s *Steer) filterName() string { return s.cfg.Prefix + "-steer" }

// attachFilter puts prog at the hook by clsact, in place of our program there if
// there is one, in one step. A link that was there before goes afterwards.
func (s *Steer) attachFilter(ns *netns, h hook, prog *ebpf.Program) error {
	path := s.filterPath(h)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("pin %s: %w", h.pinName(), err)
	}
	if err := pinAlso(prog, path); err != nil {
		return fmt.Errorf("pin %s: %w", h.pinName(), err)
	}
	if err := ns.do(func() error { return s.putFilter(h, prog) }); err != nil {
		return errors.Join(fmt.Errorf("attach to interface %d: %w", h.ifindex, err), os.Remove(path))
	}
	return s.detachLink(h)
}

// pinAlso pins a program that may be pinned elsewhere: Pin would move that pin.
func pinAlso(prog *ebpf.Program, path string) error {
	twin, err := prog.Clone()
	if err != nil {
		return err
	}
	return errors.Join(twin.Pin(path), twin.Close())
}

func (h hook) parent() uint32 {
	if h.attach == ebpf.AttachTCXEgress {
		return netlink.HANDLE_MIN_EGRESS
	}
	return netlink.HANDLE_MIN_INGRESS
}

func clsact(ifindex uint32) *netlink.Clsact {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: int(ifindex), Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
}

func (s *Steer) filter(h hook) *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs:  netlink.FilterAttrs{LinkIndex: int(h.ifindex), Parent: h.parent(), Handle: filterHandle, Protocol: unix.ETH_P_ALL, Priority: filterPriority},
		Name:         s.filterName(),
		DirectAction: true,
	}
}

// putFilter runs inside the namespace.
func (s *Steer) putFilter(h hook, prog *ebpf.Program) error {
	if err := netlink.QdiscAdd(clsact(h.ifindex)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("clsact: %w", err)
	}
	filters, err := filtersAt(h)
	if err != nil {
		return err
	}
	for _, f := range filters {
		a := f.Attrs()
		if b, ok := f.(*netlink.BpfFilter); a.Priority == filterPriority && (!ok || !s.isOurs(b)) {
			return fmt.Errorf("a tc filter of somebody else has priority %d there: give it another, or attach by tcx", filterPriority)
		}
	}
	f := s.filter(h)
	f.Fd = prog.FD()
	if err := netlink.FilterReplace(f); err != nil {
		return fmt.Errorf("tc filter: %w", err)
	}
	return nil
}

func (s *Steer) isOurs(f *netlink.BpfFilter) bool {
	return f.Priority == filterPriority && strings.HasPrefix(f.Name, s.filterName())
}

func filtersAt(h hook) ([]netlink.Filter, error) {
	filters, err := netlink.FilterList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: int(h.ifindex)}}, h.parent())
	if err != nil {
		return nil, fmt.Errorf("list tc filters: %w", err)
	}
	return filters, nil
}

// hasFilter runs inside the namespace.
func (s *Steer) hasFilter(h hook) bool {
	filters, err := filtersAt(h)
	if err != nil {
		return false
	}
	for _, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok && s.isOurs(b) {
			return true
		}
	}
	return false
}

// detachAll is detach of several hooks; Watch puts nothing back meanwhile.
func (s *Steer) detachAll(hooks []hook) error {
	s.attaching.Lock()
	defer s.attaching.Unlock()
	var errs []error
	for _, h := range hooks {
		errs = append(errs, s.detach(h))
	}
	return errors.Join(errs...)
}

// detachFilter takes the filter off, and clsact with it where it holds nothing
// else, and removes the pin.
func (s *Steer) detachFilter(h hook) error {
	path := s.filterPath(h)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	err := s.inNamespaceOf(h.cookie, func() error { return s.dropFilter(h) })
	return errors.Join(err, os.Remove(path))
}

// dropFilter runs inside the namespace. What is gone already is fine.
func (s *Steer) dropFilter(h hook) error {
	if !s.hasFilter(h) {
		return nil
	}
	if err := netlink.FilterDel(s.filter(h)); err != nil && !gone(err) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("remove the tc filter of interface %d: %w", h.ifindex, err)
	}
	for _, attach := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		if left, err := filtersAt(hook{h.cookie, h.ifindex, attach}); err != nil || len(left) > 0 {
			return nil
		}
	}
	if err := netlink.QdiscDel(clsact(h.ifindex)); err != nil && !gone(err) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("remove clsact of interface %d: %w", h.ifindex, err)
	}
	return nil
}

// inNamespaceOf runs f in the namespace of that cookie; where that is gone there
// is nothing to do.
func (s *Steer) inNamespaceOf(cookie uint64, f func() error) error {
	if ns, ok := s.held.Load(cookie); ok {
		return ns.(*netns).do(f)
	}
	for _, path := range s.namespaces() {
		ns, err := openNetNS(path)
		if err != nil {
			continue
		}
		if ns.cookie == cookie {
			return errors.Join(ns.do(f), ns.close())
		}
		_ = ns.close()
	}
	return nil
}

// followFilters puts back filters of ours that others take off. Events of tc
// come for every change there; each has the filters looked at.
func (s *Steer) followFilters(ctx context.Context, sp *Space) error {
	var fd int
	err := sp.ns.do(func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.RTNLGRP_TC - 1)})
	})
	if err != nil {
		return fmt.Errorf("follow tc: %w", err)
	}
	events := os.NewFile(uintptr(fd), "rtnetlink tc")
	defer events.Close()
	closer := context.AfterFunc(ctx, func() { events.SetReadDeadline(time.Now()) })
	defer closer()
	buf := make([]byte, 64<<10)
	for {
		s.mendFilters(sp)
		if _, err := events.Read(buf); ctx.Err() != nil {
			return nil
		} else if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("follow tc: %w", err)
		}
	}
}

// mendFilters looks at every filter that should be in a namespace.
func (s *Steer) mendFilters(sp *Space) {
	s.attaching.Lock()
	defer s.attaching.Unlock()
	hooks, err := s.pinnedHooks()
	if err != nil {
		s.report(Report{sp.NetNS, "tc filters", err})
		return
	}
	for _, h := range hooks {
		if h.cookie != sp.ns.cookie || !s.filtered(h) {
			continue
		}
		mended, err := s.mendFilter(sp.ns, h)
		if mended || err != nil && !gone(err) {
			s.report(Report{sp.NetNS, fmt.Sprintf("the tc filter of interface %d was removed by others", h.ifindex), err})
		}
	}
}

func (s *Steer) filtered(h hook) bool { return isFiltered(s.links, h) }

func isFiltered(dir string, h hook) bool {
	_, err := os.Stat(filepath.Join(dir, h.pinName()+filterSuffix))
	return err == nil
}

func (s *Steer) mendFilter(ns *netns, h hook) (mended bool, err error) {
	err = ns.do(func() error {
		if _, err := netlink.LinkByIndex(int(h.ifindex)); err != nil || s.hasFilter(h) {
			return nil // the interface's own end is told by its own event
		}
		prog, err := ebpf.LoadPinnedProgram(s.filterPath(h), nil)
		if err != nil {
			return err
		}
		defer prog.Close()
		mended = true
		return s.putFilter(h, prog)
	})
	return mended, err
}
