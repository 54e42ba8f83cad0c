package afxdp

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"gatehouse/dataplane/namespace"
)

// leg is an interface of an open pair. Another one may have its name by now; its
// index is its own as long as it is there.
type leg struct {
	name    string
	index   int
	program ebpf.ProgramID
}

// Indexes are those of the interfaces, in the order of PairConfig.
func (p *Pair) Indexes() [2]int { return [2]int{p.legs[0].index, p.legs[1].index} }

// Check says what has happened to the interfaces that the sockets do not notice:
// an error wants the pair to be opened anew.
func (p *Pair) Check() error { return namespace.Run(p.netns, p.check) }

func (p *Pair) check() error {
	return errors.Join(p.legs[0].check(), p.legs[1].check())
}

func (l *leg) check() error {
	link, err := netlink.LinkByName(l.name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return fmt.Errorf("interface %s is gone", l.name)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", l.name, err)
	}
	switch a := link.Attrs(); {
	case a.Index != l.index:
		return fmt.Errorf("%s is another interface now", l.name)
	case a.RawFlags&unix.IFF_UP == 0:
		return fmt.Errorf("%s is down", l.name)
	case a.Xdp == nil || !a.Xdp.Attached:
		return fmt.Errorf("somebody took the XDP program off %s", l.name)
	case a.Xdp.ProgId != uint32(l.program):
		return fmt.Errorf("%s has another XDP program now", l.name)
	}
	return nil
}

// Carries reports whether the XDP program of each of the two interfaces can send
// frames out of the other, and if not, why. Its answer is what the interfaces are
// now: a veth's other end may change its mind.
func (p *Pair) Carries() (why string, err error) {
	err = namespace.Run(p.netns, func() error {
		for i := range p.legs {
			if why, err = takes(p.legs[i].index, p.legs[1-i].index); why != "" || err != nil {
				return err
			}
		}
		return nil
	})
	return why, err
}

// takes says why an interface takes no frames from the XDP program of another.
func takes(index, from int) (why string, err error) {
	link, err := netlink.LinkByIndex(from)
	if err != nil {
		return "", fmt.Errorf("interface %d: %w", from, err)
	}
	if x := link.Attrs().Xdp; x != nil && x.AttachMode == nl.XDP_ATTACHED_SKB {
		return "", nil // generic mode asks nothing of the interface it sends by
	}
	if link, err = netlink.LinkByIndex(index); err != nil {
		return "", fmt.Errorf("interface %d: %w", index, err)
	}
	return linkTakes(link)
}

// linkTakes is takes for a program in native mode.
func linkTakes(link netlink.Link) (why string, err error) {
	name := link.Attrs().Name
	features, _, err := xdpFeatures(link.Attrs().Index)
	if err != nil {
		return "", fmt.Errorf("XDP features of %s: %w", name, err)
	}
	if features&xdpTransmit != 0 {
		return "", nil
	}
	why = name + " takes no frames from XDP programs"
	if link.Type() == "veth" {
		why += ", as a veth whose other end has generic receive offload off: ethtool -K DEVICE gro on"
	}
	return why, nil
}

// PairsLeft lists the interfaces, of the caller's network namespace, that a pair
// has shut and nobody has open: its program is there and drops all that comes,
// and the interface is not promiscuous, as an open pair makes it.
func PairsLeft() (names []string, err error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	for _, link := range links {
		a := link.Attrs()
		if a.Promisc == 0 && a.Xdp != nil && a.Xdp.Attached && isWire(ebpf.ProgramID(a.Xdp.ProgId)) {
			names = append(names, a.Name)
		}
	}
	return names, nil
}

// isWire reports whether a program is one that steer's Wire loads.
func isWire(id ebpf.ProgramID) bool {
	program, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return false
	}
	defer program.Close()
	info, err := program.Info()
	return err == nil && info.Name == "wire" && hasSockets(info)
}

// WatchPair hints at each change of an interface that has, or had, one of the two
// names, until ctx ends or events are lost. hints should hold one: what changed is
// for Check to say.
func WatchPair(ctx context.Context, c PairConfig, hints chan<- struct{}) error {
	updates := make(chan netlink.LinkUpdate, 256)
	err := namespace.Run(c.NetNS, func() error {
		return netlink.LinkSubscribeWithOptions(updates, ctx.Done(), netlink.LinkSubscribeOptions{ListExisting: true, ReceiveBufferSize: 1 << 20})
	})
	if err != nil {
		return fmt.Errorf("follow interfaces: %w", err)
	}
	known := make(map[int32]bool)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case u, ok := <-updates:
			if !ok {
				return errors.New("events of interfaces were lost")
			}
			named := slices.Contains(c.Interfaces[:], u.Link.Attrs().Name)
			if !named && !known[u.Index] {
				continue
			}
			known[u.Index] = true
			if u.Header.Type == unix.RTM_DELLINK {
				delete(known, u.Index)
			}
			select {
			case hints <- struct{}{}:
			default:
			}
		}
	}
}
