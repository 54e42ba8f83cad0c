// Package models knows how software of known kinds behaves on the network:
// the Library of models (library/*.yaml, embedded), the matcher from a
// workload to its model, and the statements that follow from models and
// metadata (docs/policy.md sections 2, 3 and 5).
//
// A Library is immutable once loaded; everything here is pure and safe for
// concurrent use.
package models

import "gatehouse/policy"

// Kind says who gets an entry without asking (R6, R10).
type Kind uint8

const (
	KindData Kind = iota
	KindAdmin
	KindMetrics
	KindCluster
)

var kindNames = [...]string{"data", "admin", "metrics", "cluster"}

func (k Kind) String() string { return kindNames[k] }

// Publish is how far a published port may reach (R13).
type Publish uint8

const (
	PublishDefault Publish = iota // by role, the narrowest of several
	PublishNone
	PublishHost
	PublishSite
	PublishAny
)

var publishNames = [...]string{"default", "none", "host", "site", "any"}

func (p Publish) String() string { return publishNames[p] }

// DNS says which name lookups a model's workloads may make (R18).
type DNS uint8

const (
	DNSResolver DNS = iota
	DNSNames
	DNSNone
)

var dnsNames = [...]string{"resolver", "names", "none"}

func (d DNS) String() string { return dnsNames[d] }

// Model is how software of one kind is expected to behave (section 5).
type Model struct {
	Name     string
	Revision int
	Title    string
	Docs     []string
	Roles    []string
	Images   []string          // match.images, normalised: docker.io/library/nginx
	Labels   map[string]string // match.labels
	Extends  string
	Remove   []string
	Override bool
	DNS      DNS
	Routes   *Routes
	Features map[string]Feature
	Serves   []Entry
	Calls    []Entry
	Clients  []string // programs of these images that only call: what starts nothing else is of model ClientProgram
	Hints    Hints    // what proposes this model where no name fits (T5)
	File     string   // where it was read from, for errors and explain
	Operator bool     // from the operator's folder, not the library
	// Ancestors are the models that a Library's model was resolved from, the
	// nearest first. Extends and Remove are empty then.
	Ancestors []string

	decl *declaration // where its keys stand in File; nil if built by hand
}

// Hints are signs of a kind of software that prove nothing: they propose a
// model, and give one only to images that the workload's own project built (T5).
type Hints struct {
	Env      []string // keys in the image's own environment: NGINX_VERSION
	Commands []string // base names of the program that the deployer starts
}

// Routes are the label or environment keys by which callees offer themselves
// to this proxy (R9); '*' stands for one key part.
type Routes struct {
	Enable, Port, Host, Network, Env string
}

// Feature is a set of entries switched on or off by name.
type Feature struct {
	Default bool
	Serves  []Entry
	Calls   []Entry
}

// Entry is one thing that a model serves or calls.
type Entry struct {
	ID       string
	Kind     Kind
	App      policy.App // AppNone where AnyApp or Callee
	AnyApp   bool
	Callee   bool // app: callee, calls only
	TLS      policy.TLSForms
	Ports    []PortTerm
	PortFrom []PortSource
	To       []PeerTerm // empty = nobody
	Publish  Publish
	When     *When // nil = always
	Note     string
}

// PortTerm is one item of an entry's ports: a fixed range, or a word.
type PortTerm struct {
	Range policy.PortRange // where Word is ""
	Word  string           // published, exposed, routed, referenced, callee
}

// PortSource is one item of port_from: a deployer-set value that replaces ports.
type PortSource struct {
	Env, Arg string
	Parse    string // "" or "listeners"
	Add      uint16 // to the value's port: a bus 10,000 above it
	When     *When  // it counts; nil = always
}

// PeerTerm is one peer of an entry: all its keys must fit.
type PeerTerm struct {
	Role    string
	Model   string
	Service string // NAME or PROJECT/NAME
	Project string // "same" or a name
	Label   string // k=v
	Ref     bool
	Routed  bool
	Shared  bool   // within: shared; default within: project
	Name    string // DNS name, may start with "*."
	CIDR    string
	Peer    string // self siblings cluster front workload host ... ("any" is an error in models)
}

// When is a condition on the workload's own metadata. Exactly one field is set.
type When struct {
	Exposed, Published *policy.PortRange
	Env                string // KEY or KEY=VALUE, deployer-set
	Arg                string // --flag, or --flag=VALUE in any case, deployer-set
	Command            string
	Tag                string // pattern with '*'
	Any, All           []When
	Not                *When
}

// Match is what the matcher says of one workload, and why.
type Match struct {
	Model      *Model
	Trust      policy.Trust
	Confidence string // high, medium, low
	Reasons    []string
	// Proposed names a model that a hint suggests while Model stays custom (T5).
	Proposed string
	// Notes are findings for the workload's owner: labels that an image bakes,
	// names of models that do not exist.
	Notes []string
}
