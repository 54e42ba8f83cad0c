// Package operator is the operator's side of policy: statements in files,
// categories that systems of record give to workloads and addresses, and the
// conditions under which statements hold. Files are decoded and checked whole;
// Policy.Expand turns them into policy.Statements for a population, a moment and
// a threat level.
//
// It does no I/O and reads no clock. Values are immutable once made and safe for
// concurrent use.
package operator

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"gatehouse/policy"
)

// The values of the files' schema keys.
const (
	StatementsSchema = "gatehouse.statements/v1"
	CategoriesSchema = "gatehouse.categories/v1"
)

// Statement is one statement as its file declares it.
type Statement struct {
	ID      string
	Verdict policy.Verdict // Allow, Drop or Reject
	Always  bool           // enforce: always (V4)
	Flows
	Except  []Flows // of a deny
	When    When
	Why     string
	Owner   string
	Expires time.Time // zero = never
	File    string
	Line    int
}

// place is "FILE:LINE".
func (s *Statement) place() string { return fmt.Sprintf("%s:%d", s.File, s.Line) }

// Flows is whom, with what and where a statement or an exception speaks of.
// Empty sets match nothing.
type Flows struct {
	From, To []Term
	Apps     []policy.AppMatch
	Ports    []policy.PortRange
	AnyPort  bool
}

// Within says how far a term reaches, seen from the statement's other end. The
// zero value is everywhere: the operator speaks for all projects.
type Within uint8

const (
	WithinAll      Within = iota
	WithinProject         // the same project (R2)
	WithinShared          // a network in common (R1)
	WithinService         // {peer: self} (R11)
	WithinSiblings        // {peer: siblings} (R11)
)

var withinTexts = [...]string{"", "within/project", "within/shared", "@self", "@siblings"}

// Term is one peer of a statement: all its keys must fit.
type Term struct {
	Role       string
	Model      string
	Service    string // NAME or PROJECT/NAME
	Project    string
	Label      string // KEY=VALUE
	Categories []Comparison
	Front      bool
	Within     Within
	Name       string          // DNS name, may start with "*."
	CIDR       netip.Prefix    // of a name: where its addresses must be
	Peer       policy.PeerKind // PeerNone where another key says who
	Line       int             `json:"-"` // of the file; equal terms stand in many
}

// selectsWorkloads reports whether the term has a key that only workloads have.
func (t *Term) selectsWorkloads() bool {
	return t.Role != "" || t.Model != "" || t.Service != "" || t.Project != "" || t.Label != "" || t.Front || t.Within != WithinAll || t.Peer == policy.PeerWorkload
}

// String is the term as statements show it: "shop/web", "@internet",
// "role/database,project/shop".
func (t *Term) String() string {
	var parts []string
	add := func(what, value string) {
		if value != "" {
			parts = append(parts, what+value)
		}
	}
	add("role/", t.Role)
	add("model/", t.Model)
	add("service/", t.Service)
	add("project/", t.Project)
	add("label/", t.Label)
	for i := range t.Categories {
		add("category/", t.Categories[i].String())
	}
	add("name:", t.Name)
	if t.CIDR.IsValid() {
		add("cidr:", t.CIDR.String())
	}
	if t.Front {
		add("@", "front")
	}
	if t.Peer != policy.PeerNone {
		add("@", t.Peer.String())
	}
	add("", withinTexts[t.Within])
	if len(parts) == 1 && t.Service != "" {
		return t.Service
	}
	return strings.Join(parts, ",")
}
