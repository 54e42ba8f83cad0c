package bench

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"gatehouse/policy/ruleset"
)

//go:embed peers/librte_acl.c
var aclSource []byte

// buildACL compiles the librte_acl peer into dir. It needs gcc, pkg-config and
// DPDK's headers (Debian: libdpdk-dev).
func buildACL(ctx context.Context, dir string) (program string, err error) {
	flags, err := exec.CommandContext(ctx, "pkg-config", "--cflags", "--libs", "libdpdk").Output()
	if err != nil {
		return "", errors.New("pkg-config does not know libdpdk: install libdpdk-dev and pkg-config")
	}
	source := filepath.Join(dir, "librte_acl.c")
	program = filepath.Join(dir, "librte_acl")
	if err := os.WriteFile(source, aclSource, 0o600); err != nil {
		return "", err
	}
	args := append([]string{"-O3", "-march=native", "-o", program, source}, strings.Fields(string(flags))...)
	if out, err := exec.CommandContext(ctx, "gcc", args...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("gcc: %w: %s", err, bytes.TrimSpace(out))
	}
	return program, nil
}

// aclPeer is a running librte_acl over one set.
type aclPeer struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     io.Reader
	log     bytes.Buffer
	headers int
}

func startACL(ctx context.Context, program string, rules []ruleset.Rule, headers []ruleset.Header) (*aclPeer, error) {
	p := &aclPeer{cmd: exec.CommandContext(ctx, program), headers: len(headers)}
	p.cmd.Stderr = &p.log
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if p.out, err = p.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := p.in.Write(aclInput(rules, headers)); err != nil {
		p.stop()
		return nil, fmt.Errorf("%w: %s", err, bytes.TrimSpace(p.log.Bytes()))
	}
	return p, nil
}

// aclInput is struct start, rules and headers of peers/librte_acl.c.
func aclInput(rules []ruleset.Rule, headers []ruleset.Header) []byte {
	v6 := uint32(0)
	for i := range rules {
		if rules[i].Src.IsValid() && rules[i].Src.Addr().Is6() {
			v6 = 1
		}
	}
	var b []byte
	for _, n := range []uint32{uint32(len(rules)), uint32(len(headers)), v6, 0} {
		b = binary.NativeEndian.AppendUint32(b, n)
	}
	for i := range rules {
		r := &rules[i]
		b = append(append(b, aclAddress(r.Src.Addr())...), aclAddress(r.Dst.Addr())...)
		for _, n := range []uint16{r.SrcPorts.Lo, r.SrcPorts.Hi, r.DstPorts.Lo, r.DstPorts.Hi} {
			b = binary.NativeEndian.AppendUint16(b, n)
		}
		anyProto := byte(0)
		if r.AnyProto {
			anyProto = 1
		}
		b = append(b, byte(r.Src.Bits()), byte(r.Dst.Bits()), r.Proto, anyProto)
	}
	for i := range headers {
		h := &headers[i]
		b = append(b, h.Proto, 0, 0, 0)
		b = append(append(b, aclAddress(netip.AddrFrom16(h.Src).Unmap())...), aclAddress(netip.AddrFrom16(h.Dst).Unmap())...)
		b = binary.BigEndian.AppendUint16(b, h.SrcPort)
		b = binary.BigEndian.AppendUint16(b, h.DstPort)
	}
	return b
}

// aclAddress is an address in 16 bytes, IPv4 in the first four.
func aclAddress(a netip.Addr) []byte { return append(a.AsSlice(), make([]byte, 16-a.BitLen()/8)...) }

func (p *aclPeer) ask(command byte, answer []byte) error {
	if _, err := p.in.Write([]byte{command}); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(p.log.Bytes()))
	}
	if _, err := io.ReadFull(p.out, answer); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(p.log.Bytes()))
	}
	return nil
}

// time is nanoseconds a header, of passes that together take long enough.
func (p *aclPeer) time(command byte) (float64, error) {
	var answer [8]byte
	sum, done := 0.0, 0
	for sum < 40e6 {
		if err := p.ask(command, answer[:]); err != nil {
			return 0, err
		}
		sum += math.Float64frombits(binary.NativeEndian.Uint64(answer[:]))
		done += p.headers
	}
	return sum / float64(done), nil
}

// rules is the rule that each header gets: its index, or ruleset.NoRule.
func (p *aclPeer) rules() ([]uint32, error) {
	answer := make([]byte, 4*p.headers)
	if err := p.ask('r', answer); err != nil {
		return nil, err
	}
	out := make([]uint32, p.headers)
	for i := range out {
		out[i] = binary.NativeEndian.Uint32(answer[4*i:]) - 1 // 0 wraps to NoRule
	}
	return out, nil
}

func (p *aclPeer) stop() {
	p.in.Close()
	_ = p.cmd.Wait() // what it has to say was asked for
}
