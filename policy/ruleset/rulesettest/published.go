package rulesettest

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"gatehouse/policy/ruleset"
)

// ReadRules reads rules in the format of ClassBench: a line is
// "@src/len TAB dst/len TAB lo : hi TAB lo : hi TAB proto/mask [TAB flags/mask]",
// first line first. Flags are left out of account.
func ReadRules(r io.Reader) ([]ruleset.Rule, error) {
	var out []ruleset.Rule
	err := lines(r, func(line string) error {
		rule := ruleset.Rule{ID: uint32(len(out)), Priority: uint32(len(out))}
		fields := strings.Split(strings.TrimPrefix(line, "@"), "\t")
		if len(fields) < 5 {
			return fmt.Errorf("%d fields, want five at least, parted by tabs", len(fields))
		}
		var err error
		if rule.Src, err = netip.ParsePrefix(fields[0]); err != nil {
			return err
		}
		if rule.Dst, err = netip.ParsePrefix(fields[1]); err != nil {
			return err
		}
		for i, p := range []*ruleset.Ports{&rule.SrcPorts, &rule.DstPorts} {
			if _, err := fmt.Sscanf(fields[2+i], "%d : %d", &p.Lo, &p.Hi); err != nil {
				return fmt.Errorf("ports %q: %w", fields[2+i], err)
			}
		}
		var proto, mask uint8
		if _, err := fmt.Sscanf(fields[4], "0x%x/0x%x", &proto, &mask); err != nil {
			return fmt.Errorf("protocol %q: %w", fields[4], err)
		}
		if mask != 0 && mask != 0xff {
			return fmt.Errorf("protocol %q: want mask 0x00 or 0xFF", fields[4])
		}
		rule.Proto, rule.AnyProto = proto&mask, mask == 0
		out = append(out, rule)
		return nil
	})
	return out, err
}

// ReadTrace reads IPv4 headers, a line "src dst sport dport proto" in unsigned
// decimals; more columns are left out of account.
func ReadTrace(r io.Reader) ([]ruleset.Header, error) {
	var out []ruleset.Header
	err := lines(r, func(line string) error {
		var src, dst uint32
		h := ruleset.Header{Src: [16]byte{10: 0xff, 11: 0xff}, Dst: [16]byte{10: 0xff, 11: 0xff}}
		if _, err := fmt.Sscan(line, &src, &dst, &h.SrcPort, &h.DstPort, &h.Proto); err != nil {
			return err
		}
		binary.BigEndian.PutUint32(h.Src[12:], src)
		binary.BigEndian.PutUint32(h.Dst[12:], dst)
		out = append(out, h)
		return nil
	})
	return out, err
}

// lines calls f with each line that is not empty; errors name the line.
func lines(r io.Reader, f func(string) error) error {
	sc := bufio.NewScanner(r)
	for n := 1; sc.Scan(); n++ {
		if line := strings.TrimSpace(sc.Text()); line != "" {
			if err := f(line); err != nil {
				return fmt.Errorf("line %d: %w", n, err)
			}
		}
	}
	return sc.Err()
}
