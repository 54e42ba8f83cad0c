package policy

import (
	"fmt"
	"strconv"
	"strings"
)

// Proto is an IP protocol number (IANA protocol-numbers).
type Proto uint8

const (
	ProtoICMP   Proto = 1
	ProtoTCP    Proto = 6
	ProtoUDP    Proto = 17
	ProtoICMPv6 Proto = 58
)

func (p Proto) String() string {
	switch p {
	case ProtoTCP:
		return "tcp"
	case ProtoUDP:
		return "udp"
	case ProtoICMP:
		return "icmp"
	case ProtoICMPv6:
		return "icmpv6"
	}
	return "proto-" + strconv.Itoa(int(p))
}

// MarshalText makes protocols words in JSON and YAML.
func (p Proto) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// PortRange is the TCP or UDP ports Lo to Hi, both included. ICMP echo is the
// range 0-0 of ProtoICMP, in both families.
type PortRange struct {
	Proto  Proto
	Lo, Hi uint16
}

// Port is the range of one port.
func Port(p Proto, n uint16) PortRange { return PortRange{p, n, n} }

// Contains reports whether the range holds that port.
func (r PortRange) Contains(p Proto, n uint16) bool { return r.Proto == p && r.Lo <= n && n <= r.Hi }

func (r PortRange) String() string {
	if r.Proto == ProtoICMP || r.Proto == ProtoICMPv6 {
		return r.Proto.String()
	}
	text := r.Proto.String() + "/" + strconv.Itoa(int(r.Lo))
	if r.Lo == r.Hi {
		return text
	}
	return text + "-" + strconv.Itoa(int(r.Hi))
}

// MarshalText makes ranges words in JSON and YAML.
func (r PortRange) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// ParsePortRange reads "tcp/80", "udp/1000-2000" or "icmp".
func ParsePortRange(s string) (PortRange, error) {
	if s == "icmp" {
		return PortRange{Proto: ProtoICMP}, nil
	}
	name, ports, ok := strings.Cut(s, "/")
	var r PortRange
	switch {
	case ok && name == "tcp":
		r.Proto = ProtoTCP
	case ok && name == "udp":
		r.Proto = ProtoUDP
	default:
		return r, fmt.Errorf("port %q: want tcp/N, udp/N, tcp/N-M, udp/N-M or icmp", s)
	}
	lo, hi, isRange := strings.Cut(ports, "-")
	if !isRange {
		hi = lo
	}
	a, errA := strconv.ParseUint(lo, 10, 16)
	b, errB := strconv.ParseUint(hi, 10, 16)
	if errA != nil || errB != nil || a == 0 || b < a {
		return r, fmt.Errorf("port %q: want numbers from 1 to 65535, the lower first", s)
	}
	r.Lo, r.Hi = uint16(a), uint16(b)
	return r, nil
}

// PortsText joins ranges as statements show them: "tcp/53,udp/53".
func PortsText(rs []PortRange) string {
	parts := make([]string, len(rs))
	for i, r := range rs {
		parts[i] = r.String()
	}
	return strings.Join(parts, ",")
}
