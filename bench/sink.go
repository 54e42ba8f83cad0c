package bench

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"gatehouse/dataplane/namespace"
)

// sink counts and drops all that arrives at a device, before any IP stack: the
// cheapest receiver, so that what is measured is the way to it.
type sink struct {
	counts *ebpf.Map
	link   link.Link
	prog   *ebpf.Program
}

// newSink attaches to a device of the namespace at path.
func newSink(path, device string) (*sink, error) {
	counts, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return nil, fmt.Errorf("sink: %w", err)
	}
	const drop = 2 // TC_ACT_SHOT, linux/pkt_cls.h
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "Dual BSD/GPL", Name: "sink",
		Instructions: asm.Instructions{
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.LoadMapPtr(asm.R1, counts.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
			asm.Add.Imm(asm.R1, 1),
			asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
			asm.Mov.Imm(asm.R0, drop).WithSymbol("out"),
			asm.Return(),
		},
	})
	if err != nil {
		counts.Close()
		return nil, fmt.Errorf("sink: %w", err)
	}
	s := &sink{counts: counts, prog: prog}
	err = namespace.Run(path, func() error {
		l, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		s.link, err = link.AttachTCX(link.TCXOptions{Interface: l.Attrs().Index, Program: prog, Attach: ebpf.AttachTCXIngress})
		return err
	})
	if err != nil {
		s.close()
		return nil, fmt.Errorf("sink: %w", err)
	}
	return s, nil
}

func (s *sink) count() (uint64, error) {
	var per []uint64
	if err := s.counts.Lookup(uint32(0), &per); err != nil {
		return 0, err
	}
	var sum uint64
	for _, n := range per {
		sum += n
	}
	return sum, nil
}

func (s *sink) close() {
	if s.link != nil {
		s.link.Close()
	}
	s.prog.Close()
	s.counts.Close()
}
