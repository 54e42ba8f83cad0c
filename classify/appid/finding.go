package appid

import "gatehouse/policy"

// Finding marks what is odd about a flow beside its application, a set of bits.
// None is proof; none lets a flow pass.
type Finding uint8

const (
	FindingEncrypted  Finding = 1 << iota // unknown, and as even as a cipher's output
	FindingDNSTunnel                      // names or a volume that no lookup needs
	FindingICMPTunnel                     // replies that do not return the data, or a volume that no ping needs
)

var findingNames = [...]string{"encrypted", "dns-tunnel", "icmp-tunnel"}

func (f Finding) String() string { return bitNames(uint8(f), findingNames[:]) }

// bitNames lists the names of the bits that are set.
func bitNames(bits uint8, names []string) string {
	out := ""
	for i, name := range names {
		if bits>>i&1 == 0 {
			continue
		}
		if out != "" {
			out += ","
		}
		out += name
	}
	return out
}

// Findings is what is odd about what was kept of the flow.
func (s *State) Findings() Finding {
	c, r := s.buf[:s.dir[FromClient].n], s.buf[clientKeep:][:s.dir[FromServer].n]
	switch {
	case s.isUnknown() && s.outcome.Likely == policy.AppNone && (looksEncrypted(c) || looksEncrypted(r)):
		return FindingEncrypted
	case s.udp && s.outcome.Spoken.App == policy.AppDNS && carriesData(c):
		return FindingDNSTunnel
	}
	return 0
}

// carriesData reports whether a DNS query's name is more likely data than a name:
// long, of long labels, and as even as text encodings of data are. Also a query
// of type NULL (RFC 1035 3.3.10), which has no other use any more.
func carriesData(query []byte) bool {
	const (
		typeNull    = 10
		longName    = 100
		longLabel   = 30
		bitsPerByte = 3.6 // of 16 evenly used characters 4, of a language's words about 4 in all and fewer in one name
	)
	if len(query) < dnsHead {
		return false
	}
	b := query[dnsHead:]
	var name [255]byte
	n, longest := 0, 0
	for len(b) > 0 && b[0] > 0 && b[0] < 64 && int(b[0]) < len(b) {
		size := int(b[0])
		n += copy(name[n:], b[1:1+size])
		longest = max(longest, size)
		b = b[1+size:]
	}
	if len(b) >= 3 && be.Uint16(b[1:]) == typeNull {
		return true
	}
	return n >= longName && longest >= longLabel && entropy(name[:n]) >= bitsPerByte
}
