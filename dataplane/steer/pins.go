package steer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// layout names the meaning of everything pinned: maps of another layout are
// not taken over. It changes with the structs in steer.bpf.c.
const layout = "v4"

// bpffs refuses names with a dot, which is why no interface's name is in one.
const (
	mapsDir  = "maps"
	linksDir = "links"
)

// mountBPF mounts a BPF file system at dir's root if there is none yet.
func mountBPF(dir string) error {
	root := "/sys/fs/bpf"
	if !strings.HasPrefix(dir, root+"/") {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err == nil && st.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := unix.Mount("bpf", root, "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount the BPF file system at %s: %w", root, err)
	}
	return nil
}

// othersAge is how old the heartbeat of a gateway that has ended is for its programs to
// know it, and a little more.
const othersAge = 250 * time.Millisecond

// pinDirs makes the directories of this layout and finds other layouts'. What is
// attached by those stays, so that what is shut stays so and what they carry goes
// on, until ours is attached in its place, or Sweep. By then their programs hand
// nothing to user space any more: it would take their numbers of endpoints for
// ours. Only who holds the lock may do so.
func (s *Steer) pinDirs() error {
	entries, err := os.ReadDir(s.cfg.PinDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != layout && isLayout(e.Name()) {
			s.others = append(s.others, filepath.Join(s.cfg.PinDir, e.Name()))
		}
	}
	if len(s.others) > 0 {
		time.Sleep(othersAge)
	}
	for _, sub := range []string{mapsDir, linksDir} {
		if err := os.MkdirAll(filepath.Join(s.cfg.PinDir, layout, sub), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// Replaces reports whether another version's gateway was here: nothing of its maps
// was taken over, but what it had shut is to stay shut.
func (s *Steer) Replaces() bool { return len(s.others) > 0 }

// detachOthers takes off what another layout has attached at the hook.
func (s *Steer) detachOthers(h hook) error {
	var errs []error
	for _, dir := range s.others {
		links := filepath.Join(dir, linksDir)
		errs = append(errs, detachPinned(filepath.Join(links, h.pinName())))
		if !isFiltered(links, h) {
			continue
		}
		if !s.filtered(h) { // else ours is in its place; unlike a link, a filter outlives its pin
			errs = append(errs, s.inNamespaceOf(h.cookie, func() error { return s.dropFilter(h) }))
		}
		errs = append(errs, os.Remove(filepath.Join(links, h.pinName()+filterSuffix)))
	}
	return errors.Join(errs...)
}

// dropOthers removes other layouts' pins, and what is still attached by them.
func (s *Steer) dropOthers() error {
	s.attaching.Lock()
	defer s.attaching.Unlock()
	var errs []error
	for _, dir := range s.others {
		hooks, err := hooksIn(filepath.Join(dir, linksDir))
		for _, h := range hooks {
			err = errors.Join(err, s.detachOthers(h))
		}
		errs = append(errs, err, os.RemoveAll(dir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove pins of another version: %w", err)
	}
	return nil
}

// lockPatience is how long a gateway that has been told to stop may take.
const lockPatience = 5 * time.Second

// lockDir waits for another gateway with the same pins to end. The lock goes
// with the process.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("pin directory: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil || st.Type != unix.BPF_FS_MAGIC {
		return nil, errors.Join(fmt.Errorf("pin directory: %s is in no BPF file system: choose one below /sys/fs/bpf", dir), err, f.Close())
	}
	for end := time.Now().Add(lockPatience); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			return nil, errors.Join(fmt.Errorf("another gateway runs with the pins in %s: stop it, or choose other pins and devices: %w", dir, err), f.Close())
		}
	}
}

// isLayout: only those are ours to remove.
func isLayout(name string) bool {
	_, err := strconv.ParseUint(strings.TrimPrefix(name, "v"), 10, 16)
	return err == nil && strings.HasPrefix(name, "v")
}

// removePins removes every layout's pins, and the directory if it is empty then.
func removePins(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var errs []error
	for _, e := range entries {
		if isLayout(e.Name()) {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	err = os.Remove(dir)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) {
		err = nil
	}
	return errors.Join(append(errs, err)...)
}

// takeMap opens the pinned map of that spec, or makes and pins it. A pinned one
// that does not fit (another size was configured) is replaced.
func takeMap(spec *ebpf.MapSpec, path string) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err == nil {
		if spec.Compatible(m) == nil {
			return m, nil
		}
		err = errors.Join(m.Unpin(), m.Close())
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("map %s: %w", spec.Name, err)
	}
	m, err = ebpf.NewMap(spec)
	if err != nil {
		return nil, fmt.Errorf("make map %s: %w", spec.Name, err)
	}
	if err := m.Pin(path); err != nil {
		return nil, errors.Join(fmt.Errorf("pin map %s: %w", spec.Name, err), m.Close())
	}
	return m, nil
}

// hook is one place where a program sits.
type hook struct {
	cookie  uint64 // of the network namespace
	ifindex uint32
	attach  ebpf.AttachType
}

func (h hook) pinName() string {
	side := "in"
	if h.attach == ebpf.AttachTCXEgress {
		side = "out"
	}
	return fmt.Sprintf("%x-%d-%s", h.cookie, h.ifindex, side)
}

func parsePinName(name string) (h hook, ok bool) {
	parts := strings.Split(name, "-")
	if len(parts) != 3 {
		return h, false
	}
	cookie, err := strconv.ParseUint(parts[0], 16, 64)
	if err != nil {
		return h, false
	}
	ifindex, err := strconv.ParseUint(parts[1], 10, 32)
	if err != nil {
		return h, false
	}
	h = hook{cookie, uint32(ifindex), ebpf.AttachTCXIngress}
	if parts[2] == "out" {
		h.attach = ebpf.AttachTCXEgress
	}
	return h, h.pinName() == name
}

// attach puts prog at the hook, in place of our program there if there is one,
// in one step; one of another layout goes afterwards. ns must be the hook's.
func (s *Steer) attach(ns *netns, h hook, prog *ebpf.Program) error {
	if err := s.attachOwn(ns, h, prog); err != nil {
		return err
	}
	return s.detachOthers(h)
}

func (s *Steer) attachOwn(ns *netns, h hook, prog *ebpf.Program) error {
	if s.cfg.Attach == AttachClsact || s.noTCX.Load() {
		return s.attachFilter(ns, h, prog)
	}
	err := s.attachLink(ns, h, prog)
	switch {
	case err == nil:
		return s.detachFilter(h)
	case s.cfg.Attach == AttachAuto && errors.Is(err, ebpf.ErrNotSupported):
		s.report(Report{Text: "this kernel has no tcx (Linux 6.6): the programs are attached by clsact, which others can remove"})
		s.noTCX.Store(true)
		return s.attachFilter(ns, h, prog)
	}
	return err
}

// attachLink updates the pinned link of the hook, or makes one.
func (s *Steer) attachLink(ns *netns, h hook, prog *ebpf.Program) error {
	path := filepath.Join(s.links, h.pinName())
	old, err := link.LoadPinnedLink(path, nil)
	if err == nil {
		err = errors.Join(old.Update(prog), old.Close())
		if err == nil {
			return nil
		}
		// The interface that it was attached to is gone.
		if !errors.Is(err, unix.ENOLINK) {
			return fmt.Errorf("update link %s: %w", h.pinName(), err)
		}
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("link %s: %w", h.pinName(), err)
	}
	return ns.do(func() error {
		l, err := link.AttachTCX(link.TCXOptions{
			Interface: int(h.ifindex),
			Program:   prog,
			Attach:    h.attach,
			Anchor:    link.Head(),
		})
		if errors.Is(err, ebpf.ErrNotSupported) {
			return fmt.Errorf("the kernel has no tcx, which needs Linux 6.6 or later (clsact is the other way to attach): %w", err)
		}
		if err != nil {
			return fmt.Errorf("attach to interface %d: %w", h.ifindex, err)
		}
		return errors.Join(l.Pin(path), l.Close())
	})
}

// detach takes the program off the interface, whichever way it is attached.
func (s *Steer) detach(h hook) error {
	return errors.Join(s.detachLink(h), s.detachFilter(h))
}

// detachLink takes the link off and removes its pin. Removing the pin alone
// would leave the program there for a moment.
func (s *Steer) detachLink(h hook) error { return detachPinned(filepath.Join(s.links, h.pinName())) }

func detachPinned(path string) error {
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = l.Detach()
		if errors.Is(err, unix.ENOLINK) {
			err = nil
		}
		err = errors.Join(err, l.Close())
	}
	return errors.Join(err, os.Remove(path))
}

// pinned reports whether the hook has a link, or a filter.
func (s *Steer) pinned(h hook) bool {
	_, err := os.Stat(filepath.Join(s.links, h.pinName()))
	return err == nil || s.filtered(h)
}

// pinnedHooks lists the hooks that have a pinned link, or a filter's program.
func (s *Steer) pinnedHooks() ([]hook, error) { return hooksIn(s.links) }

func hooksIn(dir string) ([]hook, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var hooks []hook
	for _, e := range entries {
		h, ok := parsePinName(strings.TrimSuffix(e.Name(), filterSuffix))
		if ok && !slices.Contains(hooks, h) {
			hooks = append(hooks, h)
		}
	}
	return hooks, nil
}

// severed reports whether the interface of the hook is gone.
func (s *Steer) severed(h hook) bool {
	if s.filtered(h) {
		there := false
		err := s.inNamespaceOf(h.cookie, func() error {
			_, err := netlink.LinkByIndex(int(h.ifindex))
			there = err == nil
			return nil
		})
		return err == nil && !there
	}
	l, err := link.LoadPinnedLink(filepath.Join(s.links, h.pinName()), nil)
	if err != nil {
		return false
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil || info.TCX() == nil {
		return false
	}
	return info.TCX().Ifindex == 0
}
