package policy

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// The words of the vocabulary read back: what MarshalText wrote, and nothing
// else. An unknown word is an error, never the zero value.

// parseName finds the index of a word.
func parseName(what string, names []string, text []byte) (int, error) {
	for i, n := range names {
		if n == string(text) {
			return i, nil
		}
	}
	return 0, fmt.Errorf("%s %q: want one of %s", what, text, strings.Join(names, ", "))
}

// UnmarshalText reads a verdict's word.
func (v *Verdict) UnmarshalText(text []byte) error {
	i, err := parseName("verdict", verdictNames[:], text)
	if err == nil {
		*v = Verdict(i)
	}
	return err
}

// UnmarshalText reads a mode's word.
func (m *Mode) UnmarshalText(text []byte) error {
	i, err := parseName("mode", modeNames[:], text)
	if err == nil {
		*m = Mode(i)
	}
	return err
}

// UnmarshalText reads a side's word.
func (s *Side) UnmarshalText(text []byte) error {
	i, err := parseName("side", sideNames[:], text)
	if err == nil {
		*s = Side(i)
	}
	return err
}

// UnmarshalText reads a tier's word.
func (t *Tier) UnmarshalText(text []byte) error {
	i, err := parseName("tier", tierNames[:], text)
	if err == nil {
		*t = Tier(i)
	}
	return err
}

// UnmarshalText reads a peer kind's word.
func (k *PeerKind) UnmarshalText(text []byte) error {
	i, err := parseName("peer kind", peerNames[:], text)
	if err == nil {
		*k = PeerKind(i)
	}
	return err
}

// UnmarshalText reads the word for the sides that a statement speaks for.
func (s *Speaks) UnmarshalText(text []byte) error {
	i, err := parseName("speaks", speaksNames[:], text)
	if err == nil {
		*s = Speaks(i)
	}
	return err
}

// UnmarshalText reads a trust's word.
func (t *Trust) UnmarshalText(text []byte) error {
	i, err := parseName("trust", trustNames[:], text)
	if err == nil {
		*t = Trust(i)
	}
	return err
}

// UnmarshalText reads a reason's word.
func (r *Reason) UnmarshalText(text []byte) error {
	i, err := parseName("reason", reasonNames[:], text)
	if err == nil {
		*r = Reason(i)
	}
	return err
}

// UnmarshalText reads an application's name; "none" and "unknown", which no
// statement may name, are read too.
func (a *App) UnmarshalText(text []byte) error {
	for i, n := range appNames {
		if n == string(text) {
			*a = App(i)
			return nil
		}
	}
	return fmt.Errorf("application %q is not known", text)
}

var formNames = [...]string{"plain", "upgraded", "direct"}

func (f TLSForms) String() string {
	var parts []string
	for i, n := range formNames {
		if f&(1<<i) != 0 {
			parts = append(parts, n)
		}
	}
	return strings.Join(parts, "+")
}

// MarshalText writes the forms joined by '+', nothing for none.
func (f TLSForms) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (f *TLSForms) UnmarshalText(text []byte) error {
	var out TLSForms
	if len(text) > 0 {
		for n := range strings.SplitSeq(string(text), "+") {
			i, err := parseName("TLS form", formNames[:], []byte(n))
			if err != nil {
				return err
			}
			out |= 1 << i
		}
	}
	*f = out
	return nil
}

// UnmarshalText reads a protocol's word, or "proto-N".
func (p *Proto) UnmarshalText(text []byte) error {
	for _, known := range [...]Proto{ProtoTCP, ProtoUDP, ProtoICMP, ProtoICMPv6} {
		if known.String() == string(text) {
			*p = known
			return nil
		}
	}
	number, found := strings.CutPrefix(string(text), "proto-")
	n, err := strconv.ParseUint(number, 10, 8)
	if !found || err != nil {
		return fmt.Errorf("protocol %q: want tcp, udp, icmp, icmpv6 or proto-N", text)
	}
	*p = Proto(n)
	return nil
}

// UnmarshalText reads what ParsePortRange reads, and the forms that only a
// compiled rule has: "icmpv6", and TCP or UDP ranges that begin at 0.
func (r *PortRange) UnmarshalText(text []byte) error {
	switch s := string(text); s {
	case "icmpv6":
		*r = PortRange{Proto: ProtoICMPv6}
		return nil
	case "tcp/0-65535", "udp/0-65535":
		p := ProtoTCP
		if s[0] == 'u' {
			p = ProtoUDP
		}
		*r = PortRange{p, 0, 65535}
		return nil
	}
	got, err := ParsePortRange(string(text))
	if err == nil {
		*r = got
	}
	return err
}

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MarshalText writes the usual form, 02:42:ac:12:00:03.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads any form that net.ParseMAC reads, of 48 bits.
func (m *MAC) UnmarshalText(text []byte) error {
	hw, err := net.ParseMAC(string(text))
	if err != nil || len(hw) != len(m) {
		return fmt.Errorf("MAC %q: want six bytes such as 02:42:ac:12:00:03", text)
	}
	copy(m[:], hw)
	return nil
}
