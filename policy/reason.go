package policy

// Reason says why a packet was dropped or a flow recorded: a constant that is
// counted, never a string built per packet. The kernel programs count by the
// same numbers (dataplane/steer/steer.bpf.c, enum reason; a test compares
// them): append, never reorder.
type Reason uint8

const (
	ReasonNone Reason = iota
	// What policy says.
	ReasonNoRule        // no statement lets it pass
	ReasonDenied        // a statement denies it
	ReasonApp           // the application is not the one allowed there
	ReasonAppUnknown    // the budget ran out before the application was known
	ReasonUnknownPeer   // an end is in a container subnet but nobody's (A12)
	ReasonPolicyChanged // the flow lived and a new table forbids it (V8)
	ReasonMulticast     // multicast or broadcast that nobody named (R20)
	// What does not belong to the endpoint.
	ReasonSourceMAC
	ReasonSourceAddress
	ReasonDestinationMAC
	ReasonARPSender
	ReasonNDSender
	ReasonRouterAdvertisement // RA, redirect (R22)
	ReasonRouterSolicitation
	// What cannot or must not be parsed.
	ReasonVLAN
	ReasonEtherType
	ReasonTruncated
	ReasonBadHeader // lengths, versions, checksums, flag combinations that no stack sends
	ReasonIPOptions
	ReasonExtensionHeader
	ReasonFragment         // overlapping, tiny, without its first, or of an undecided TCP flow
	ReasonProtocol         // an IP protocol that no statement can name
	ReasonICMPType         // ICMP that is neither echo nor an error for a live flow (R21)
	ReasonICMPUnrelated    // an ICMP error that matches no live flow
	ReasonICMPSize         // echo above 1,472 bytes, or too fast (R21)
	ReasonNoFlow           // a TCP segment without SYN that is no reply (V9)
	ReasonConflict         // a retransmission with other bytes
	ReasonProtocolMismatch // client and server speak different protocols
	// The machine's own limits.
	ReasonNotAdmitted // nobody has admitted this port yet
	ReasonGatewayDown // heartbeat stale, and the endpoint is closed then
	ReasonStale       // it waited too long in a ring
	ReasonFlowQuota   // the endpoint's share of the flow table is used up
	ReasonMissBudget  // too many undecided packets from this endpoint
	ReasonInternal    // the slow path could not carry it (no frame, device gone)
	// What names say.
	ReasonNameMismatch // the name it was allowed by is not the one it asks the server for
	ReasonNameRefused  // a DNS query for a name that no statement allows (R18)
	ReasonNameTunnel   // more and longer DNS queries below one domain than names need
	// ReasonSourceInterface: it says that it is from an endpoint here, and came by another way.
	ReasonSourceInterface
	ReasonCount // not a reason: how many there are
)

var reasonNames = [ReasonCount]string{"none",
	"no-rule", "denied", "app", "app-unknown", "unknown-peer", "policy-changed", "multicast",
	"source-mac", "source-address", "destination-mac", "arp-sender", "nd-sender", "router-advertisement", "router-solicitation",
	"vlan", "ethertype", "truncated", "bad-header", "ip-options", "extension-header", "fragment", "protocol",
	"icmp-type", "icmp-unrelated", "icmp-size", "no-flow", "conflict", "protocol-mismatch",
	"not-admitted", "gateway-down", "stale", "flow-quota", "miss-budget", "internal",
	"name-mismatch", "name-refused", "name-tunnel", "source-interface",
}

func (r Reason) String() string { return nameOf(reasonNames[:], int(r)) }

// MarshalText makes reasons words in JSON and YAML.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }
