package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Identity is the number that stands for all workloads equal in policy (I9),
// or for one of the peers that are no workload.
type Identity uint32

// The identities of section 1 that are not workloads. Workload identities
// start at FirstWorkloadIdentity.
const (
	IDUnknown             Identity = iota // A12; matched by no selector
	IDHost                                // A10
	IDNode                                // A10
	IDResolver                            // A7
	IDMetadata                            // A8
	IDOrchestrator                        // A9
	IDMulticast                           // A11
	IDBroadcast                           // A11
	IDSite                                // A13
	IDInternet                            // A14
	IDLB                                  // A3
	IDIngress                             // A4
	FirstWorkloadIdentity Identity = 64
)

// PeerKind says what a peer of a statement is. The zero value matches nothing.
type PeerKind uint8

const (
	PeerNone PeerKind = iota
	PeerService
	PeerHost
	PeerNode
	PeerResolver
	PeerMetadata
	PeerOrchestrator
	PeerMulticast
	PeerBroadcast
	PeerSite
	PeerInternet
	PeerExternal // site and internet
	PeerLB
	PeerIngress
	PeerWorkload // any workload
	PeerAny      // every peer but unknown, metadata, orchestrator, multicast, broadcast
	PeerName     // a DNS name: compiles to nothing until names do
	PeerCIDR
)

var peerNames = [...]string{"none", "service", "host", "node", "resolver", "metadata", "orchestrator", "multicast",
	"broadcast", "site", "internet", "external", "lb", "ingress", "workload", "any", "name", "cidr"}

func (k PeerKind) String() string { return nameOf(peerNames[:], int(k)) }

// MarshalText makes kinds words in JSON and YAML.
func (k PeerKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Peer is one end of a statement.
type Peer struct {
	Kind    PeerKind   `json:"kind"`
	Service ServiceKey `json:"service,omitzero"` // PeerService
	// Identity narrows PeerService to one identity of that service; 0 = all of it.
	Identity Identity     `json:"identity,omitempty"`
	Name     string       `json:"name,omitempty"`  // PeerName
	Prefix   netip.Prefix `json:"prefix,omitzero"` // PeerCIDR
}

// ServicePeer is the peer of one service.
func ServicePeer(k ServiceKey) Peer { return Peer{Kind: PeerService, Service: k} }

func (p Peer) String() string {
	switch p.Kind {
	case PeerService:
		return p.Service.String()
	case PeerName:
		return "name:" + p.Name
	case PeerCIDR:
		return "cidr:" + p.Prefix.String()
	}
	return "@" + p.Kind.String()
}

// Speaks says for which sides a statement gives its answer (V2).
type Speaks uint8

const (
	SpeaksBoth Speaks = iota // model statements that both sides' entries agreed on; the operator's
	SpeaksOut                // the initiator's side only
	SpeaksIn                 // the responder's side only
)

var speaksNames = [...]string{"both", "out", "in"}

func (s Speaks) String() string { return nameOf(speaksNames[:], int(s)) }

// MarshalText makes them words in JSON and YAML.
func (s Speaks) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Statement is one high-level line: who may talk to whom, with which
// application on which ports, and why. Empty From, To or Ports match nothing,
// through every encode and decode.
type Statement struct {
	ID      string      `json:"id"`      // unique and stable while what it says is the same
	Verdict Verdict     `json:"verdict"` // Allow, Drop or Reject
	Tier    Tier        `json:"tier"`
	From    []Peer      `json:"from"`
	To      []Peer      `json:"to"`
	App     AppMatch    `json:"app"`
	Ports   []PortRange `json:"ports"`             // of the responder itself, behind any publishing
	AnyPort bool        `json:"anyPort,omitempty"` // written out, deny only
	Speaks  Speaks      `json:"speaks"`
	// EnforceAlways acts where the side's mode is observe too (V4).
	EnforceAlways bool     `json:"enforceAlways,omitempty"`
	Origin        []string `json:"origin"` // "mariadb@1#sql serves app-server", "env WORDPRESS_DB_HOST"
	// Pending says what this statement waits for (names, fronts, ...); while
	// it is not empty the statement is listed and allows nothing.
	Pending string `json:"pending,omitempty"`
}

// Lines are the statement's text, one a line, without and with its origin:
// "allow shop/a -> shop/b : mysql+starttls tcp/3306".
func (s Statement) Lines(withOrigin bool) []string {
	var out []string
	verb := s.Verdict.String()
	if s.Verdict != Allow {
		verb = "deny"
	}
	ports := PortsText(s.Ports)
	if s.AnyPort {
		ports = "any"
	}
	for _, from := range s.From {
		for _, to := range s.To {
			for _, app := range s.App.Texts() {
				line := fmt.Sprintf("%s %s -> %s : %s %s", verb, from, to, app, ports)
				if withOrigin {
					line += "  # " + strings.Join(s.Origin, "; ")
				}
				out = append(out, line)
			}
		}
	}
	return out
}

// SortStatements orders by from, to, application, port, as they are printed.
func SortStatements(ss []Statement) {
	text := func(ps []Peer) string {
		if len(ps) == 0 {
			return ""
		}
		return ps[0].String()
	}
	slices.SortStableFunc(ss, func(a, b Statement) int {
		return cmp.Or(
			cmp.Compare(text(a.From), text(b.From)),
			cmp.Compare(text(a.To), text(b.To)),
			cmp.Compare(a.App.String(), b.App.String()),
			cmp.Compare(PortsText(a.Ports), PortsText(b.Ports)),
			cmp.Compare(a.ID, b.ID))
	})
}
