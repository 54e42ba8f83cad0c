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
	PeerWorkload  // any workload
	PeerAny       // every peer but unknown, metadata, orchestrator, multicast, broadcast
	PeerEverybody // those too; of a deny only
	PeerName      // a DNS name, or with *. every name below a domain; To only
	PeerCIDR      // an address, whoever has it
	PeerSelector  // what the operator selects by role, label, category, ...
)

var peerNames = [...]string{"none", "service", "host", "node", "resolver", "metadata", "orchestrator", "multicast",
	"broadcast", "site", "internet", "external", "lb", "ingress", "workload", "any", "everybody", "name", "cidr", "selector"}

func (k PeerKind) String() string { return nameOf(peerNames[:], int(k)) }

// MarshalText makes kinds words in JSON and YAML.
func (k PeerKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Peer is one end of a statement.
type Peer struct {
	Kind    PeerKind   `json:"kind"`
	Service ServiceKey `json:"service,omitzero"` // PeerService
	// Identity narrows PeerService to one identity of that service; 0 = all of it.
	Identity Identity `json:"identity,omitempty"`
	Name     string   `json:"name,omitempty"` // PeerName; of PeerSelector its text: "role/database"
	// Prefix is that of PeerCIDR. Of PeerName it is where the name's addresses
	// must be; without it they must not be private.
	Prefix   netip.Prefix `json:"prefix,omitzero"`
	Selected *Selection   `json:"selected,omitempty"` // PeerSelector; nil = nobody
}

// Selection is whom a selector of the operator means at the moment.
type Selection struct {
	Identities []Identity `json:"identities"`
	// Prefixes are addresses that a system of record places. Whoever is there is
	// meant, unless it is a workload: those are in Identities.
	Prefixes []netip.Prefix `json:"prefixes"`
}

// ServicePeer is the peer of one service.
func ServicePeer(k ServiceKey) Peer { return Peer{Kind: PeerService, Service: k} }

func (p Peer) String() string {
	switch p.Kind {
	case PeerService:
		return p.Service.String()
	case PeerName:
		if p.Prefix.IsValid() {
			return "name:" + p.Name + " in " + p.Prefix.String()
		}
		return "name:" + p.Name
	case PeerCIDR:
		return "cidr:" + p.Prefix.String()
	case PeerSelector:
		return p.Name
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
	EnforceAlways bool `json:"enforceAlways,omitempty"`
	// NamesOnly lets only those DNS queries pass that ask for a name which some
	// statement allows the same workload (R18, dns: names).
	NamesOnly bool `json:"namesOnly,omitempty"`
	// Except is what a deny does not speak of.
	Except []Exception `json:"except,omitzero"`
	Origin []string    `json:"origin"` // "mariadb@1#sql serves app-server", "env WORDPRESS_DB_HOST"
	// While says what keeps a conditional statement in force, and until when; "" =
	// no condition. One whose condition does not hold is pending.
	While string `json:"while,omitempty"`
	// Pending says what this statement waits for (names, fronts, ...); while
	// it is not empty the statement is listed and allows nothing.
	Pending string `json:"pending,omitempty"`
}

// Exception is a flow that a deny leaves to the other statements. Empty From, To
// or Ports match nothing, and so except nothing.
type Exception struct {
	From    []Peer      `json:"from"`
	To      []Peer      `json:"to"`
	App     AppMatch    `json:"app"`
	Ports   []PortRange `json:"ports"`
	AnyPort bool        `json:"anyPort,omitempty"` // written out
}

// Lines are the statement's text, one a line, without and with its origin:
// "allow shop/a -> shop/b : mysql+starttls tcp/3306".
func (s Statement) Lines(withOrigin bool) []string {
	var out []string
	verb := s.Verdict.String()
	if s.Verdict != Allow {
		verb = "deny"
	}
	ports := portsText(s.Ports, s.AnyPort)
	except := ""
	if s.NamesOnly {
		except = " names only"
	}
	for _, e := range s.Except {
		except += " except " + e.String()
	}
	for _, from := range s.From {
		for _, to := range s.To {
			for _, app := range s.App.Texts() {
				line := fmt.Sprintf("%s %s -> %s : %s %s%s", verb, from, to, app, ports, except)
				if withOrigin {
					line += "  # " + strings.Join(s.Origin, "; ")
				}
				out = append(out, line)
			}
		}
	}
	return out
}

// String is the exception as statements show it: "role/monitoring -> @any : http any".
func (e Exception) String() string {
	peers := func(ps []Peer) string {
		texts := make([]string, len(ps))
		for i, p := range ps {
			texts[i] = p.String()
		}
		return "[" + strings.Join(texts, ", ") + "]"
	}
	return fmt.Sprintf("%s -> %s : %s %s", peers(e.From), peers(e.To), e.App, portsText(e.Ports, e.AnyPort))
}

func portsText(ports []PortRange, anyPort bool) string {
	if anyPort {
		return "any"
	}
	return PortsText(ports)
}

// SortStatements orders by from, to, application, port, as they are printed.
func SortStatements(ss []Statement) {
	keys, order := make([][5]string, len(ss)), make([]int32, len(ss))
	for i := range ss {
		keys[i], order[i] = ss[i].sortKey(), int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int { return cmp.Or(slices.Compare(keys[a][:], keys[b][:]), cmp.Compare(a, b)) })
	sorted := make([]Statement, len(ss))
	for i, at := range order {
		sorted[i] = ss[at]
	}
	copy(ss, sorted)
}

func (s *Statement) sortKey() (key [5]string) {
	for i := range key {
		key[i] = s.sortText(i)
	}
	return key
}

// sortText is one of the texts of sortKey.
func (s *Statement) sortText(i int) string {
	first := func(ps []Peer) string {
		if len(ps) == 0 {
			return ""
		}
		return ps[0].String()
	}
	switch i {
	case 0:
		return first(s.From)
	case 1:
		return first(s.To)
	case 2:
		return s.App.String()
	case 3:
		return PortsText(s.Ports)
	}
	return s.ID
}

// FindStatement returns where a statement stands, or would stand, among sorted ones.
func FindStatement(sorted []*Statement, s *Statement) int {
	key := s.sortKey()
	at, _ := slices.BinarySearchFunc(sorted, key, func(o *Statement, key [5]string) int {
		for i, text := range key { // writing all of o's would take most of the time
			if c := strings.Compare(o.sortText(i), text); c != 0 {
				return c
			}
		}
		return 0
	})
	return at
}

// Pointers are to the statements of a list, which nobody may change any more.
func Pointers(list []Statement) []*Statement {
	out := make([]*Statement, len(list))
	for i := range list {
		out[i] = &list[i]
	}
	return out
}

// Listed are the statements that a list points to.
func Listed(list []*Statement) []Statement {
	out := make([]Statement, len(list))
	for i, s := range list {
		out[i] = *s
	}
	return out
}
