package main

import (
	"time"

	"gatehouse/control/history"
	"gatehouse/models"
	"gatehouse/policy"
)

// The API that CLI and gateway speak over the Unix socket: HTTP, JSON, paths
// under /v1; docs/api.md describes it. Within v1 fields are only added.

// Status is GET /v1/status.
type Status struct {
	Version   string            `json:"version"`
	Started   time.Time         `json:"started"`
	Ready     bool              `json:"ready"`
	Problems  []string          `json:"problems"` // why it is not ready, or what needs a person
	Docker    DockerStatus      `json:"docker"`
	Place     string            `json:"place,omitempty"` // of a gateway that guards no containers: the interfaces that it is between
	Epoch     uint32            `json:"epoch"`
	Mode      policy.Mode       `json:"mode"` // the default for services without one
	Services  ServiceCounts     `json:"services"`
	Endpoints EndpointCounts    `json:"endpoints"`
	Closed    []string          `json:"closed"` // networks whose ports stay shut until admitted
	Uncovered []Uncovered       `json:"uncovered"`
	Findings  []Finding         `json:"findings"`
	Situation SituationStatus   `json:"situation"`
	Flows     int               `json:"flows"`
	History   HistoryStatus     `json:"history"`
	Packets   map[string]uint64 `json:"packets"` // hits, peered, steered, returned
	Drops     map[string]uint64 `json:"drops"`   // by reason
	// DropsBy is Drops by direction: egress, what endpoints sent, and ingress, what was
	// sent to them; "" of a place, and of what is not known.
	DropsBy map[string]map[string]uint64 `json:"dropsByDirection"`
}

// DockerStatus tells how the engine is reached.
type DockerStatus struct {
	Connected bool      `json:"connected"`
	LastSync  time.Time `json:"lastSync"`
	Swarm     string    `json:"swarm,omitempty"`
	Error     string    `json:"error,omitempty"`
}

// ServiceCounts counts services by mode.
type ServiceCounts struct {
	Enforce    int `json:"enforce"`
	Observe    int `json:"observe"`
	Unenrolled int `json:"unenrolled"`
	Away       int `json:"away"` // on other nodes only
}

// EndpointCounts counts endpoints of guarded workloads.
type EndpointCounts struct {
	Admitted int `json:"admitted"`
	Waiting  int `json:"waiting"` // known to the engine, interface not found yet
}

// Uncovered is a workload that cannot be guarded, and why.
type Uncovered struct {
	Workload string `json:"workload"`
	Why      string `json:"why"`
}

// Finding is something that a person should know of the metadata.
type Finding struct {
	Kind    string `json:"kind"`
	Subject string `json:"subject"`
	Text    string `json:"text"`
	// Of what the operator's files name: where, and what there is of a like name.
	File string   `json:"file,omitempty"`
	Line int      `json:"line,omitempty"`
	Near []string `json:"near,omitempty"`
}

// WorkloadView is one item of GET /v1/workloads.
type WorkloadView struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Service    string            `json:"service"`
	Image      string            `json:"image"`
	Model      string            `json:"model"`
	Trust      string            `json:"trust"`
	Confidence string            `json:"confidence"`
	Reasons    []string          `json:"reasons"`
	Proposed   string            `json:"proposed,omitempty"`
	Drift      []string          `json:"drift,omitempty"` // what it serves beside its model
	Evidence   []models.Evidence `json:"evidence"`
	Mode       policy.Mode       `json:"mode"`
	Guarded    bool              `json:"guarded"`
	Uncovered  string            `json:"uncovered,omitempty"`
	SharedWith string            `json:"sharedWith,omitempty"`
	Node       string            `json:"node,omitempty"` // where that is another one
	Identity   policy.Identity   `json:"identity"`
	Endpoints  []EndpointView    `json:"endpoints"`
	Metadata   *policy.Workload  `json:"metadata"`
}

// EndpointView is one interface of a workload.
type EndpointView struct {
	ID        string   `json:"id"`
	Network   string   `json:"network"`
	MAC       string   `json:"mac"`
	Addresses []string `json:"addresses"`
	Admitted  bool     `json:"admitted"`
	Interface string   `json:"interface,omitempty"` // the host side's index, with its namespace where it is not the host's
	// On is the network itself, so that what is printed can be worked on elsewhere.
	On *policy.Network `json:"on,omitempty"`
}

// ServiceView is one item of GET /v1/services: one identity.
type ServiceView struct {
	Service  string          `json:"service"`
	Identity policy.Identity `json:"identity"`
	Model    string          `json:"model"`
	Trust    string          `json:"trust"`
	Roles    []string        `json:"roles"`
	Mode     policy.Mode     `json:"mode"`
	Guarded  bool            `json:"guarded"`
	Away     bool            `json:"away,omitempty"` // all members run on other nodes
	Members  int             `json:"members"`
	Reasons  []string        `json:"reasons"`
}

// StatementView is one item of GET /v1/statements.
type StatementView struct {
	Text    []string         `json:"text"` // one line per application form
	Pending string           `json:"pending,omitempty"`
	Origin  []string         `json:"origin"`
	What    policy.Statement `json:"statement"`
}

// RuleView is one item of GET /v1/rules.
type RuleView struct {
	From      string `json:"from"`
	To        string `json:"to"`
	App       string `json:"app"`
	Ports     string `json:"ports"`
	Verdict   string `json:"verdict"`
	Tier      string `json:"tier"`
	Speaks    string `json:"speaks"`
	Statement string `json:"statement"` // its id
	Text      string `json:"text"`
	Origin    string `json:"origin"`
}

// HistoryStatus tells of the store of flows and violations.
type HistoryStatus struct {
	File           string    `json:"file"`
	Bytes          int64     `json:"bytes"`     // of the file
	Since          time.Time `json:"since"`     // nothing is known of what was before
	LostFlows      uint64    `json:"lostFlows"` // since the gateway's start, as the others
	LostViolations uint64    `json:"lostViolations"`
	Summed         uint64    `json:"summed"`  // kept without addresses: one workload had too many peers
	Damaged        uint64    `json:"damaged"` // could not be read back
	Problem        string    `json:"problem,omitempty"`
}

// FlowView is one item of GET /v1/flows. What is equal but for the source port
// is one item where it comes from the history.
type FlowView struct {
	ID          string         `json:"id"`
	From        string         `json:"from"`
	To          string         `json:"to"`
	Source      string         `json:"source"`      // address:port, of the last one
	Dest        string         `json:"destination"` // address:port
	Proto       string         `json:"proto"`
	App         string         `json:"app"`
	Sub         string         `json:"sub,omitempty"`
	Inner       string         `json:"inner,omitempty"`
	ALPN        string         `json:"alpn,omitempty"`
	Name        string         `json:"name,omitempty"`   // the host that was asked for: server name of a TLS hello, HTTP's host, the name looked up
	Detail      string         `json:"detail,omitempty"` // server name, ALPN, version
	Verdict     string         `json:"verdict"`
	Reason      string         `json:"reason,omitempty"`
	Where       string         `json:"where"` // kernel, worker or history
	Flows       uint64         `json:"flows"` // conversations
	Packets     uint64         `json:"packets"`
	Replies     uint64         `json:"replies"` // those of the packets that the responder sent
	Bytes       uint64         `json:"bytes"`
	First       time.Time      `json:"first,omitzero"`
	Last        time.Time      `json:"last,omitzero"`
	Zone        policy.Zone    `json:"zone"`
	Port        uint16         `json:"port"` // the responder's own, behind any publishing
	FromIs      *history.Party `json:"fromIs,omitempty"`
	ToIs        *history.Party `json:"toIs,omitempty"`
	ControlPort uint16         `json:"controlPort,omitempty"` // of the flow that announced it
	Statement   string         `json:"statement,omitempty"`   // its id
	Text        string         `json:"text,omitempty"`
	Epoch       uint32         `json:"epoch"`
	Summed      bool           `json:"summed,omitempty"` // many peers of one workload, without their addresses
}

// ViolationView is one item of GET /v1/violations and one line of /v1/observe.
type ViolationView struct {
	ID        string         `json:"id"`
	First     time.Time      `json:"first"`
	Last      time.Time      `json:"last"`
	Count     uint64         `json:"count"` // packets
	From      string         `json:"from"`
	To        string         `json:"to"`
	Source    string         `json:"source"` // address:port, of the last one
	Dest      string         `json:"destination"`
	Proto     string         `json:"proto"`
	App       string         `json:"app"`
	Name      string         `json:"name,omitempty"` // that was looked up, or asked of the server
	Verdict   string         `json:"verdict"`        // dropped, rejected or recorded
	Side      string         `json:"side,omitempty"`
	Reason    string         `json:"reason"`
	Why       string         `json:"why"`
	Workload  string         `json:"workload,omitempty"`  // whose interface it was seen at
	Direction string         `json:"direction,omitempty"` // egress: that interface sent the packet which gave the reason; ingress: it was sent to it
	Zone      policy.Zone    `json:"zone"`
	Port      uint16         `json:"port"` // the responder's own, behind any publishing
	FromIs    *history.Party `json:"fromIs,omitempty"`
	ToIs      *history.Party `json:"toIs,omitempty"`
	Statement string         `json:"statement,omitempty"`
	Text      string         `json:"text,omitempty"`
	Epoch     uint32         `json:"epoch"`
	Summed    bool           `json:"summed,omitempty"`
}

// ExplainRequest is POST /v1/explain: a violation's id, or a flow.
type ExplainRequest struct {
	ID   string `json:"id,omitempty"`
	From string `json:"from,omitempty"` // service, address or @peer
	To   string `json:"to,omitempty"`
	Port string `json:"port,omitempty"`
	App  string `json:"app,omitempty"`
}

// ModeRequest is POST /v1/mode.
type ModeRequest struct {
	Service string `json:"service"`
	Mode    string `json:"mode"`
}

// apiError is the body of every answer that is not 2xx.
type apiError struct {
	Error string `json:"error"`
}
