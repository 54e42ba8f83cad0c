package classify

import "gatehouse/policy"

const (
	etherHead = 14
	// etherMin is the least length of an Ethernet frame without its checksum:
	// shorter ones are padded.
	etherMin = 60
	arpSize  = 28 // RFC 826, of Ethernet and IPv4

	// Neighbour discovery (RFC 4861 4, 4.6; the nonce is RFC 3971 5.3.2).
	ndRouterSolicit   = 133
	ndRouterAdvert    = 134
	ndNeighborSolicit = 135
	ndNeighborAdvert  = 136
	ndRedirect        = 137
	ndSize            = 24 // a solicitation or advertisement without options
	ndOptions         = 4  // a solicitation has one, with a nonce two
	ndSourceAddress   = 1
	ndTargetAddress   = 2
	ndNonce           = 14
)

// Neighbours judges what hosts of one link say to find each other, where
// nobody knows who they are: is reports a packet of that kind, ReasonNone that it
// may pass, because it is ARP or a neighbour's solicitation or advertisement,
// nothing else, and has no room for anything else. p is frame's, from Decode.
// It allocates nothing.
func Neighbours(frame []byte, p *Packet) (is bool, r policy.Reason) {
	if p.ARP {
		if isARP(frame, p.L3) {
			return true, policy.ReasonNone
		}
		return true, policy.ReasonARPSender
	}
	if p.Proto != policy.ProtoICMPv6 || !p.V6 || p.Fragment != Whole {
		return false, policy.ReasonNone
	}
	switch p.ICMPType {
	case ndRouterSolicit:
		return true, policy.ReasonRouterSolicitation
	case ndRouterAdvert, ndRedirect:
		return true, policy.ReasonRouterAdvertisement
	case ndNeighborSolicit, ndNeighborAdvert:
		if p.L3 != 0 && p.isNeighbourDiscovery(frame) {
			return true, policy.ReasonNone
		}
		return true, policy.ReasonNDSender
	}
	return false, policy.ReasonNone
}

// isARP: a request or reply for IPv4 over Ethernet, by the sender that the frame
// names, with no more behind it than padding needs.
func isARP(frame []byte, l3 int) bool {
	if len(frame) < l3+arpSize || len(frame) > etherMin+l3-etherHead {
		return false
	}
	a := frame[l3:]
	op := be.Uint16(a[6:])
	return be.Uint16(a) == 1 && be.Uint16(a[2:]) == etherIPv4 && a[4] == 6 && a[5] == 4 && (op == 1 || op == 2) &&
		string(a[8:14]) == string(frame[6:12]) && a[8]&1 == 0
}

func (p *Packet) isNeighbourDiscovery(frame []byte) bool {
	if p.TTL != 255 || p.ICMPCode != 0 || len(p.segment) < ndSize || len(frame) != p.L3+p.Length {
		return false
	}
	solicit, unspecified := p.ICMPType == ndNeighborSolicit, p.Src == [16]byte{}
	if unspecified && !solicit || p.segment[8] == 0xff {
		return false
	}
	options := p.segment[ndSize:]
	for n := 0; len(options) > 0; n++ {
		if n == ndOptions || len(options) < 8 || options[1] != 1 {
			return false
		}
		switch options[0] {
		case ndSourceAddress, ndTargetAddress:
			if unspecified || string(options[2:8]) != string(frame[6:12]) {
				return false
			}
		case ndNonce:
		default:
			return false
		}
		options = options[8:]
	}
	return true
}
