package main

import (
	"time"

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
	Epoch     uint32            `json:"epoch"`
	Mode      policy.Mode       `json:"mode"` // the default for services without one
	Services  ServiceCounts     `json:"services"`
	Endpoints EndpointCounts    `json:"endpoints"`
	Closed    []string          `json:"closed"` // networks whose ports stay shut until admitted
	Uncovered []Uncovered       `json:"uncovered"`
	Findings  []Finding         `json:"findings"`
	Flows     int               `json:"flows"`
	Packets   map[string]uint64 `json:"packets"` // hits, peered, steered, returned
	Drops     map[string]uint64 `json:"drops"`   // by reason
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
}

// WorkloadView is one item of GET /v1/workloads.
type WorkloadView struct {
	ID         string           `json:"id"`
	Name       string           `json:"name"`
	Service    string           `json:"service"`
	Image      string           `json:"image"`
	Model      string           `json:"model"`
	Trust      string           `json:"trust"`
	Confidence string           `json:"confidence"`
	Reasons    []string         `json:"reasons"`
	Proposed   string           `json:"proposed,omitempty"`
	Mode       policy.Mode      `json:"mode"`
	Guarded    bool             `json:"guarded"`
	Uncovered  string           `json:"uncovered,omitempty"`
	SharedWith string           `json:"sharedWith,omitempty"`
	Identity   policy.Identity  `json:"identity"`
	Endpoints  []EndpointView   `json:"endpoints"`
	Metadata   *policy.Workload `json:"metadata"`
}

// EndpointView is one interface of a workload.
type EndpointView struct {
	ID        string   `json:"id"`
	Network   string   `json:"network"`
	MAC       string   `json:"mac"`
	Addresses []string `json:"addresses"`
	Admitted  bool     `json:"admitted"`
	Interface string   `json:"interface,omitempty"` // the host side's index, with its namespace where it is not the host's
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

// FlowView is one item of GET /v1/flows.
type FlowView struct {
	From    string    `json:"from"`
	To      string    `json:"to"`
	Source  string    `json:"source"`      // address:port
	Dest    string    `json:"destination"` // address:port
	Proto   string    `json:"proto"`
	App     string    `json:"app"`
	Sub     string    `json:"sub,omitempty"` // the API or product on top
	Inner   string    `json:"inner,omitempty"`
	Detail  string    `json:"detail,omitempty"` // server name, ALPN, version
	Verdict string    `json:"verdict"`
	Where   string    `json:"where"` // kernel or worker
	Packets uint64    `json:"packets"`
	Bytes   uint64    `json:"bytes"`
	First   time.Time `json:"first,omitzero"`
	Last    time.Time `json:"last,omitzero"`
}

// ViolationView is one item of GET /v1/violations and one line of /v1/observe.
type ViolationView struct {
	ID       string    `json:"id"`
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
	Count    uint64    `json:"count"` // packets
	From     string    `json:"from"`
	To       string    `json:"to"`
	Source   string    `json:"source"`
	Dest     string    `json:"destination"`
	Proto    string    `json:"proto"`
	App      string    `json:"app"`
	Verdict  string    `json:"verdict"` // dropped, rejected or recorded
	Side     string    `json:"side,omitempty"`
	Reason   string    `json:"reason"`
	Why      string    `json:"why"`
	Workload string    `json:"workload,omitempty"` // whose interface it was seen at
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
