package tun

import (
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// keepQueues has the device put each frame into the queue that the steering
// program has chosen for it, as AF_XDP's device does: both directions of a
// conversation and all pieces of a datagram meet one worker, and the one whose
// heartbeat the program has looked at. By itself a TAP chooses by a hash of its
// own.
func keepQueues(fd int) error {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "gh_queue",
		Type: ebpf.SocketFilter,
		Instructions: asm.Instructions{
			// __sk_buff's queue_mapping is the queue + 1, 0 = none was chosen (linux/bpf.h).
			asm.LoadMem(asm.R0, asm.R1, 12, asm.Word),
			asm.JEq.Imm(asm.R0, 0, "exit"),
			asm.Sub.Imm(asm.R0, 1),
			asm.Return().WithSymbol("exit"),
		},
		License: "Apache-2.0",
	})
	if err != nil {
		return fmt.Errorf("load the program that chooses queues: %w", err)
	}
	defer program.Close() // the device holds it
	n := int32(program.FD())
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETSTEERINGEBPF, uintptr(unsafe.Pointer(&n))); errno != 0 {
		return fmt.Errorf("TUNSETSTEERINGEBPF (Linux 4.16 and later): %w", errno)
	}
	return nil
}
