package steer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	mdlnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Report is something that an operator should know, and no call returned.
type Report struct {
	NetNS string // path of the namespace
	Text  string
	Err   error // nil = mended
}

// Reports is where Watch tells what it had to mend. What nobody reads is
// dropped.
func (s *Steer) Reports() <-chan Report { return s.reports }

func (s *Steer) report(r Report) {
	select {
	case s.reports <- r:
	default:
	}
}

func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// checkEvery is how often the standing default is looked at without an event.
const checkEvery = 5 * time.Second

// Watch looks after the guarded namespaces until ctx ends: it puts the programs
// on new ports of guarded bridges before anyone admits them, lets the ports of
// open and unguarded bridges by, and puts the standing default back when others
// remove it. Each change of an interface there, and of the engine's directory
// of namespaces, is hinted to hints, which should hold one: what changed is for
// FindVeth to say.
func (s *Steer) Watch(ctx context.Context, hints chan<- struct{}) error {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { s.watchDir(ctx, hints) })

	watched := make(map[*Space]bool)
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		for _, sp := range s.unwatched(watched) {
			running.Go(func() { s.watchSpace(ctx, sp, hints) })
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.more:
		case <-tick.C:
			s.checkDefaults()
		}
	}
}

// unwatched lists the spaces that are not in watched, and puts them in.
func (s *Steer) unwatched(watched map[*Space]bool) []*Space {
	s.mu.Lock()
	defer s.mu.Unlock()
	for sp := range watched {
		if s.spaces[sp.ns.cookie] != sp {
			delete(watched, sp)
		}
	}
	var fresh []*Space
	for _, sp := range s.spaces {
		if !watched[sp] {
			watched[sp] = true
			fresh = append(fresh, sp)
		}
	}
	return fresh
}

func (s *Steer) checkDefaults() {
	if err := s.dropGone(); err != nil {
		s.report(Report{Text: "a namespace that is gone", Err: err})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for cookie := range s.defaults {
		s.checkDefault(s.spaces[cookie])
	}
}

// checkDefault mends a namespace's standing default. s.mu is held.
func (s *Steer) checkDefault(sp *Space) {
	d := s.defaults[sp.ns.cookie]
	if d == nil {
		return
	}
	mended, err := d.check()
	if mended || err != nil {
		s.report(Report{sp.NetNS, "the standing default was removed by others", err})
	}
}

// watchSpace ends with the namespace: its sockets would keep it alive.
func (s *Steer) watchSpace(ctx context.Context, sp *Space, hints chan<- struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { s.watchLinks(ctx, sp, hints) })
	running.Go(func() { s.watchRules(ctx, sp) })
	running.Go(func() { s.watchFilters(ctx, sp) })
	select {
	case <-ctx.Done():
	case <-sp.done:
	}
	cancel()
	running.Wait()
}

// watchLinks follows the interfaces of one namespace. When events were lost it
// starts over from a full list.
func (s *Steer) watchLinks(ctx context.Context, sp *Space, hints chan<- struct{}) {
	for ctx.Err() == nil {
		err := s.followLinks(ctx, sp, hints)
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
			s.report(Report{sp.NetNS, "events of interfaces were lost", err})
		}
	}
}

func (s *Steer) followLinks(ctx context.Context, sp *Space, hints chan<- struct{}) error {
	stop := make(chan struct{})
	defer close(stop)
	updates := make(chan netlink.LinkUpdate, 256)
	err := sp.ns.do(func() error {
		return netlink.LinkSubscribeWithOptions(updates, stop, netlink.LinkSubscribeOptions{
			ListExisting:      true,
			ReceiveBufferSize: 1 << 20,
		})
	})
	if err != nil {
		return fmt.Errorf("follow interfaces: %w", err)
	}
	if sp.lostPair() { // before the subscription
		s.pairGone(sp)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case u, ok := <-updates:
			if !ok {
				return errors.New("the subscription ended")
			}
			s.linkChanged(sp, u)
			notify(hints)
		}
	}
}

// linkChanged deals with one interface that came, changed or went.
func (s *Steer) linkChanged(sp *Space, u netlink.LinkUpdate) {
	a := u.Link.Attrs()
	if u.Header.Type == unix.RTM_DELLINK {
		// A port that only leaves its bridge is told by the bridge's own message.
		switch i := uint32(a.Index); {
		case u.IfInfomsg.Family != unix.AF_UNSPEC:
		case i == sp.gh0 || i == sp.gh1:
			s.pairGone(sp)
		default:
			s.linkGone(sp, i)
		}
		return
	}
	if i := uint32(a.Index); (i == sp.gh0 || i == sp.gh1) && a.RawFlags&unix.IFF_UP == 0 {
		// Sockets do not outlive that in every kernel. What follows is pairGone.
		if err := sp.ns.do(sp.removeDown); err != nil {
			s.report(Report{sp.NetNS, "somebody took " + a.Name + " down", err})
		}
		return
	}
	if u.Link.Type() != "veth" || a.MasterIndex == 0 {
		return
	}
	if err := s.prepare(sp, uint32(a.Index), uint32(a.MasterIndex)); err != nil && !gone(err) {
		s.report(Report{sp.NetNS, "new port " + a.Name, err})
	}
}

// gone: the interface went while we looked at it.
func gone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) || errors.As(err, &netlink.LinkNotFoundError{})
}

// prepare meets a port before anyone admits it.
func (s *Steer) prepare(sp *Space, ifindex, bridge uint32) error {
	n, err := s.letPass(sp, ifindex, bridge)
	if err != nil || n == nil {
		return err
	}
	s.attaching.Lock()
	defer s.attaching.Unlock()
	for attach, program := range map[ebpf.AttachType]*ebpf.Program{
		ebpf.AttachTCXIngress: n.from,
		ebpf.AttachTCXEgress:  n.to,
	} {
		h := hook{sp.ns.cookie, ifindex, attach}
		if s.pinned(h) {
			continue
		}
		if err := s.attach(sp.ns, h, program); err != nil {
			return err
		}
	}
	return nil
}

// letPass admits a port in the standing default unless its bridge is closed; n
// is the network of the bridge, nil if it is not guarded.
func (s *Steer) letPass(sp *Space, ifindex, bridge uint32) (n *network, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, have := range s.networks {
		if have.space == sp && have.bridge == bridge {
			n = have
		}
	}
	d := s.defaults[sp.ns.cookie]
	if d == nil || n != nil && n.Closed {
		return n, nil
	}
	return n, d.admit(ifindex)
}

func (s *Steer) linkGone(sp *Space, ifindex uint32) {
	s.mu.Lock()
	if d := s.defaults[sp.ns.cookie]; d != nil {
		if err := d.revoke(ifindex); err != nil {
			s.report(Report{sp.NetNS, "a port that is gone", err})
		}
	}
	s.mu.Unlock()
	if err := s.detachBoth(sp.ns.cookie, ifindex); err != nil {
		s.report(Report{sp.NetNS, "a port that is gone", err})
	}
}

// watchFilters follows the tc events of one namespace, where filters of ours may
// be, and puts back those that others remove.
func (s *Steer) watchFilters(ctx context.Context, sp *Space) {
	if s.cfg.Attach == AttachTCX {
		return
	}
	for ctx.Err() == nil {
		err := s.followFilters(ctx, sp)
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
			s.report(Report{sp.NetNS, "events of tc were lost", err})
		}
	}
}

// watchRules follows the nftables events of one namespace and mends the
// standing default after each removal that is not ours.
func (s *Steer) watchRules(ctx context.Context, sp *Space) {
	for ctx.Err() == nil {
		err := s.followRules(ctx, sp)
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
			s.report(Report{sp.NetNS, "events of nftables were lost", err})
		}
	}
}

func (s *Steer) followRules(ctx context.Context, sp *Space) error {
	var c *mdlnetlink.Conn
	err := sp.ns.do(func() (err error) {
		c, err = mdlnetlink.Dial(unix.NETLINK_NETFILTER, nil)
		return err
	})
	if err != nil {
		return fmt.Errorf("follow nftables: %w", err)
	}
	defer c.Close()
	if err := c.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("follow nftables: %w", err)
	}
	closer := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Now()) })
	defer closer()
	for changed := true; ; { // until now nobody told
		if changed {
			s.mu.Lock()
			s.checkDefault(sp)
			s.mu.Unlock()
		}
		messages, err := c.Receive()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		changed = err != nil || removes(messages)
	}
}

func removes(messages []mdlnetlink.Message) bool {
	for _, m := range messages {
		if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES {
			continue
		}
		switch m.Header.Type & 0xff {
		case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELSET, unix.NFT_MSG_DELSETELEM:
			return true
		}
	}
	return false
}

// watchDir hints when the engine makes or removes a namespace.
func (s *Steer) watchDir(ctx context.Context, hints chan<- struct{}) {
	for ctx.Err() == nil {
		// Without the directory there is no engine yet.
		_ = s.followDir(ctx, hints)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func (s *Steer) followDir(ctx context.Context, hints chan<- struct{}) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return err
	}
	// A file whose descriptor is in non-blocking mode takes deadlines.
	f := os.NewFile(uintptr(fd), "inotify")
	defer f.Close()
	_, err = unix.InotifyAddWatch(fd, s.cfg.NetNSDir, unix.IN_CREATE|unix.IN_DELETE|unix.IN_MOVED_TO|unix.IN_DELETE_SELF|unix.IN_ATTRIB|unix.IN_ONLYDIR)
	if err != nil {
		return err
	}
	closer := context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Now()) })
	defer closer()
	buf := make([]byte, 16<<10)
	for {
		// Once before the first event: what changed until now was told to nobody.
		if err := s.dropGone(); err != nil {
			s.report(Report{Text: "a namespace that is gone", Err: err})
		}
		notify(hints)
		if _, err := f.Read(buf); err != nil {
			return err
		}
	}
}
