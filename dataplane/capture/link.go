package capture

import "encoding/binary"

// linkType is a LINKTYPE_ value of pcap-linktype(7), or one of the DLT_ values
// that older captures have in its place.
type linkType uint16

const (
	linkNull      linkType = 0
	linkEthernet  linkType = 1
	linkPPP       linkType = 9
	linkRaw12     linkType = 12
	linkRaw14     linkType = 14
	linkPPPSerial linkType = 50
	linkPPPEther  linkType = 51
	linkRaw       linkType = 101
	linkCiscoHDLC linkType = 104
	linkLoop      linkType = 108
	linkSLL       linkType = 113
	linkIPv4      linkType = 228
	linkIPv6      linkType = 229
	linkSLL2      linkType = 276
)

const (
	etherIPv4  = 0x0800
	etherIPv6  = 0x86dd
	etherPPPoE = 0x8864
	etherMPLS  = 0x8847

	pppIPv4 = 0x0021 // RFC 1332
	pppIPv6 = 0x0057 // RFC 5072

	labelLast = 1 << 8 // bottom of stack (RFC 3032 2.1)
)

// network is the IP packet in a frame, nil if there is none. Tags are taken
// off, as the hooks of live traffic never see them.
func (l linkType) network(b []byte) []byte {
	switch l {
	case linkEthernet:
		return etherType(b, 12)
	case linkRaw12, linkRaw14, linkRaw, linkIPv4, linkIPv6:
		return ip(b, 0)
	case linkNull, linkLoop: // the address family's number is the host's own
		return ip(b, 4)
	case linkSLL:
		return etherType(b, 14)
	case linkSLL2:
		if len(b) < 2 {
			return nil
		}
		return payload(binary.BigEndian.Uint16(b), b, 20)
	case linkPPP, linkPPPSerial:
		return ppp(b)
	case linkPPPEther:
		return ppp(after(b, 6))
	case linkCiscoHDLC:
		return etherType(b, 2)
	}
	return nil
}

func after(b []byte, n int) []byte {
	if len(b) < n {
		return nil
	}
	return b[n:]
}

// ip is what begins at n, if it looks like IP.
func ip(b []byte, n int) []byte {
	if b = after(b, n); len(b) == 0 || b[0]>>4 != 4 && b[0]>>4 != 6 {
		return nil
	}
	return b
}

// etherType follows the EtherType at n.
func etherType(b []byte, n int) []byte {
	if len(b) < n+2 {
		return nil
	}
	return payload(binary.BigEndian.Uint16(b[n:]), b, n+2)
}

// payload is the IP packet in what begins at n and is of that EtherType.
func payload(kind uint16, b []byte, n int) []byte {
	for {
		switch kind {
		case etherIPv4, etherIPv6:
			return ip(b, n)
		case 0x8100, 0x88a8, 0x9100, 0x9200: // 802.1Q, 802.1ad, and QinQ before it
			if len(b) < n+4 {
				return nil
			}
			kind = binary.BigEndian.Uint16(b[n+2:])
			n += 4
		case etherPPPoE: // RFC 2516 4
			return ppp(after(b, n+6))
		case etherMPLS:
			return mpls(after(b, n))
		default:
			return nil
		}
	}
}

func mpls(b []byte) []byte {
	for len(b) >= 4 {
		last := binary.BigEndian.Uint32(b)&labelLast != 0
		if b = b[4:]; last {
			return ip(b, 0)
		}
	}
	return nil
}

// ppp reads what RFC 1661 and RFC 1662 have: address and control may stand
// before the protocol, and the protocol may be one byte.
func ppp(b []byte) []byte {
	if len(b) >= 2 && b[0] == 0xff && b[1] == 3 {
		b = b[2:]
	}
	if len(b) == 0 {
		return nil
	}
	kind, n := uint16(b[0]), 1
	if b[0]&1 == 0 {
		if len(b) < 2 {
			return nil
		}
		kind, n = binary.BigEndian.Uint16(b), 2
	}
	if kind != pppIPv4 && kind != pppIPv6 {
		return nil
	}
	return ip(b, n)
}
