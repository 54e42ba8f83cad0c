package models

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"gatehouse/policy"
)

// Statements by label are the deployer's own (V2, V3): they speak for his
// service's side, and for both sides where the peer is of the same project.
//
//	gatehouse.allow.egress[.N]=PEER:PORT[/PROTO][ APP], ...
//	gatehouse.allow.ingress[.N], gatehouse.deny.egress[.N], gatehouse.deny.ingress[.N]
//
// PEER is a DNS name (egress, allow), an address or prefix (IPv6 in brackets),
// SERVICE of the same project, PROJECT/SERVICE, or @site and its like. PORT is a
// number, a range, icmp, or with deny any. Without APP an allow means what is usual
// on that port, with TLS as is usual there, else any; a deny means any.
var labelKey = regexp.MustCompile(`^gatehouse\.(allow|deny)\.(egress|ingress)(\.[0-9]+)?$`)

// Bounds of what one workload's labels may say.
const (
	maxLabelText  = 8 << 10
	maxLabelItems = 64  // of one label
	maxLabels     = 256 // of one workload
)

// isStatementLabel reports keys that are, or try to be, statements.
func isStatementLabel(key string) bool {
	return strings.HasPrefix(key, "gatehouse.allow.") || strings.HasPrefix(key, "gatehouse.deny.")
}

// StatementLabel is the label, KEY=VALUE, by which a service's deployer allows its
// flows to a peer or, if not egress, a peer's to it; "" where none can say so. peer
// is as labels name it: PROJECT/SERVICE, a name, an address, @site.
func StatementLabel(egress bool, peer string, port policy.PortRange, app policy.App) string {
	key, to := "gatehouse.allow.ingress", fmt.Sprint(port.Lo)
	if egress {
		key = "gatehouse.allow.egress"
	}
	switch port.Proto {
	case policy.ProtoTCP:
	case policy.ProtoICMP:
		to = "icmp"
	default:
		to += "/" + port.Proto.String()
	}
	value := fmt.Sprintf("%s:%s %s", peer, to, app)
	if _, err := parseStatementLabel(key, value); err != nil || strings.ContainsAny(peer, ", ") {
		return ""
	}
	return key + "=" + value
}

// labelItem is one PEER:PORT of a label.
type labelItem struct {
	key, text string // where it stands
	allow     bool
	egress    bool
	service   string      // SERVICE or PROJECT/SERVICE
	peer      policy.Peer // else
	app       policy.AppMatch
	ports     []policy.PortRange
	anyPort   bool
}

// parseStatementLabel reads a label; one that is malformed anywhere gives nothing.
func parseStatementLabel(key, value string) ([]labelItem, error) {
	m := labelKey.FindStringSubmatch(key)
	if m == nil {
		return nil, fmt.Errorf("want gatehouse.allow.egress, gatehouse.allow.ingress, gatehouse.deny.egress or gatehouse.deny.ingress, maybe with .N behind it")
	}
	if len(value) > maxLabelText {
		return nil, fmt.Errorf("longer than %d bytes", maxLabelText)
	}
	parts := strings.Split(value, ",")
	if len(parts) > maxLabelItems {
		return nil, fmt.Errorf("more than %d peers: use several labels, with .1, .2 behind the key", maxLabelItems)
	}
	var out []labelItem
	for _, text := range parts {
		item := labelItem{key: key, text: strings.TrimSpace(text), allow: m[1] == "allow", egress: m[2] == "egress"}
		if err := item.parse(); err != nil {
			return nil, fmt.Errorf("%q: %w", item.text, err)
		}
		out = append(out, item)
	}
	return out, nil
}

func (i *labelItem) parse() error {
	target, app, _ := strings.Cut(i.text, " ")
	colon := strings.LastIndexByte(target, ':')
	if colon <= 0 || strings.Contains(strings.TrimSpace(app), " ") {
		return fmt.Errorf("want PEER:PORT[/PROTO][ APP], such as api.example.com:443 or shop/db:5432 postgresql")
	}
	if err := i.parsePort(target[colon+1:]); err != nil {
		return err
	}
	if err := i.parsePeer(target[:colon]); err != nil {
		return err
	}
	return i.parseApp(strings.TrimSpace(app))
}

func (i *labelItem) parsePort(text string) error {
	switch {
	case text == "any" && i.allow:
		return fmt.Errorf("port any is only for deny: name the port")
	case text == "any":
		i.anyPort = true
		return nil
	case text == "icmp":
		i.ports = []policy.PortRange{{Proto: policy.ProtoICMP}}
		return nil
	}
	port, proto, given := strings.Cut(text, "/")
	if !given {
		proto = "tcp"
	}
	r, err := policy.ParsePortRange(proto + "/" + port)
	i.ports = []policy.PortRange{r}
	return err
}

func (i *labelItem) parsePeer(text string) error {
	if word, ok := strings.CutPrefix(text, "@"); ok {
		kind, known := labelPeers[word]
		if !known {
			return fmt.Errorf("no peer is called @%s", word)
		}
		i.peer = policy.Peer{Kind: kind}
		return nil
	}
	address := strings.TrimSuffix(strings.TrimPrefix(text, "["), "]")
	if a, err := netip.ParseAddr(address); err == nil && a.Zone() == "" {
		address = netip.PrefixFrom(a, a.BitLen()).String()
	}
	if strings.Contains(address, ":") && address != text && !strings.HasPrefix(text, "[") && !strings.Contains(text, "/") {
		return fmt.Errorf("write IPv6 in brackets: [%s]", text)
	}
	if IsPrefix(address) {
		i.peer = policy.Peer{Kind: policy.PeerCIDR, Prefix: netip.MustParsePrefix(address)}
		return nil
	}
	if _, err := netip.ParsePrefix(address); err == nil {
		return fmt.Errorf("prefix %s has host bits", address)
	}
	if name, err := policy.ParseName(text); err == nil && strings.Contains(text, ".") && !strings.Contains(text, "/") {
		if !i.allow || !i.egress {
			return fmt.Errorf("a name says where to, and cannot be denied: whoever knows the address need not ask for it")
		}
		i.peer = policy.Peer{Kind: policy.PeerName, Name: name}
		return nil
	}
	if !IsServiceName(text) || strings.ContainsAny(text, "[]:@") {
		return fmt.Errorf("%q is no name, prefix (without host bits), SERVICE or PROJECT/SERVICE", text)
	}
	i.service = text
	return nil
}

// labelPeers are the words behind '@'.
var labelPeers = map[string]policy.PeerKind{
	"host": policy.PeerHost, "node": policy.PeerNode, "site": policy.PeerSite, "internet": policy.PeerInternet, "external": policy.PeerExternal,
	"resolver": policy.PeerResolver, "metadata": policy.PeerMetadata, "orchestrator": policy.PeerOrchestrator, "multicast": policy.PeerMulticast,
	"broadcast": policy.PeerBroadcast, "ingress": policy.PeerIngress, "workload": policy.PeerWorkload, "any": policy.PeerAny,
}

func (i *labelItem) parseApp(name string) error {
	i.app = policy.AnyApp
	switch {
	case name == "any":
	case name != "":
		app, known := policy.ParseApp(name)
		if !known {
			return policy.UnknownApp(name)
		}
		i.app = plainForms(policy.AppMatch{App: app, Forms: policy.TLSOptional})
	case i.allow && len(i.ports) == 1 && i.ports[0].Lo == i.ports[0].Hi && i.ports[0].Proto == policy.ProtoTCP:
		if sc, ok := schemes[usualSchemes[i.ports[0].Lo]]; ok && sc.app != policy.AppNone {
			forms := sc.forms
			if forms == 0 {
				forms = policy.TLSStart
			}
			i.app = plainForms(policy.AppMatch{App: sc.app, Forms: forms})
		}
	}
	return nil
}

// statementLabels are those that count, of all workloads of a namespace: "KEY=VALUE",
// those first that stay where they are too many: the deployer's denies, an image's
// denies, allows; each sorted. They are part of an
// identity (I9).
func (s *subject) statementLabels() []string {
	var denies, baked, allows []string
	for _, w := range slices.Concat(s.members, s.within) {
		for key, l := range w.Labels {
			text := key + "=" + l.Value
			switch {
			case !isStatementLabel(key) || !counts(key, l):
			case !tightens(key, l.Value):
				allows = append(allows, text)
			case l.By == policy.SetByDeployer:
				denies = append(denies, text)
			default:
				baked = append(baked, text)
			}
		}
	}
	var out []string
	for _, some := range [][]string{denies, baked, allows} {
		slices.Sort(some)
		out = append(out, slices.Compact(some)...)
	}
	return out[:min(len(out), maxLabels+1)]
}

// labelled makes the statements that a subject's labels are. Which of them are
// malformed was reported already.
func (g *generator) labelled(s *subject) []policy.Statement {
	var out []policy.Statement
	said := make(map[string]bool)
	for _, label := range s.statementLabels() {
		key, value, _ := strings.Cut(label, "=")
		items, err := parseStatementLabel(key, value)
		if err != nil {
			continue
		}
		for _, i := range items {
			if len(out) == maxLabels {
				g.find(FindingIgnoredLabel, s, fmt.Sprintf("label %s and those behind it: more than %d statements by label", key, maxLabels))
				return out
			}
			if st := g.labelStatement(s, &i); !said[st.ID] {
				said[st.ID] = true
				out = append(out, st)
			}
		}
	}
	return out
}

func (g *generator) labelStatement(s *subject, i *labelItem) policy.Statement {
	own := policy.Peer{Kind: policy.PeerService, Service: s.service, Identity: s.group.Identity}
	peer, sameProject := i.peer, false
	if i.service != "" {
		peer = policy.ServicePeer(g.serviceNamed(s, i.service))
		sameProject = peer.Service.Project == s.service.Project && s.service.Project.Name != ""
	}
	st := policy.Statement{
		Verdict: policy.Drop, Tier: policy.TierLabel, From: []policy.Peer{own}, To: []policy.Peer{peer}, App: i.app, Ports: i.ports, AnyPort: i.anyPort,
		Speaks: policy.SpeaksOut, Origin: []string{"label " + i.key + " of " + s.service.String()},
	}
	if i.allow {
		st.Verdict = policy.Allow
	}
	if !i.egress {
		st.From, st.To, st.Speaks = st.To, st.From, policy.SpeaksIn
	}
	if sameProject {
		st.Speaks = policy.SpeaksBoth
	}
	h := sha256.Sum256([]byte(s.key + "\x00" + i.key + "\x00" + i.text))
	st.ID = "label-" + hex.EncodeToString(h[:8])
	return st
}

// serviceNamed is the service that SERVICE or PROJECT/SERVICE means to s: of its
// own domain where there is one, else of another, else one that may come.
func (g *generator) serviceNamed(s *subject, name string) policy.ServiceKey {
	project, service, both := strings.Cut(name, "/")
	if !both {
		return policy.ServiceKey{Project: s.service.Project, Name: name}
	}
	own := policy.ServiceKey{Project: policy.ProjectKey{Domain: s.service.Project.Domain, Name: project}, Name: service}
	if len(g.index.services[own]) > 0 {
		return own
	}
	for _, other := range g.index.subjects {
		if other.service.String() == name {
			return other.service
		}
	}
	return own
}
