package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"gatehouse/control"
	"gatehouse/control/docker"
	"gatehouse/control/history"
	"gatehouse/dataplane"
	"gatehouse/dataplane/steer"
	"gatehouse/models"
	"gatehouse/policy"
)

// gateway is the running whole, as the API sees it.
type gateway struct {
	settings  Settings
	names     *knownNames
	inputs    inputs
	watcher   *docker.Watcher
	control   *control.Control
	guard     *guard
	steer     *steer.Steer
	dataplane *dataplane.Dataplane
	place     *place // nil where containers are guarded; else watcher, guard and steer are
	recorder  *recorder
	started   time.Time
	nobodies  nobodies
}

// library is that of the models in force.
func (g *gateway) library() *models.Library {
	if st := g.control.State(); st != nil {
		return st.Rules.Library
	}
	return g.inputs.rules.Library
}

var errNoState = errors.New("the gateway has no policy yet: Docker has not answered since it started; see `gatehouse status`")

func (g *gateway) status() Status {
	s := Status{
		Version: buildVersion(), Started: g.started, Mode: g.settings.defaultMode(),
		Packets: map[string]uint64{}, Drops: map[string]uint64{}, DropsBy: map[string]map[string]uint64{},
		Problems: g.unready(), Closed: []string{}, Uncovered: []Uncovered{}, Findings: []Finding{},
	}
	s.Ready = len(s.Problems) == 0
	if g.place != nil {
		s.Place = g.place.name
	} else {
		d := g.watcher.Status()
		if d.Unkept != "" {
			s.Problems = append(s.Problems, "the numbers of networks cannot be kept for a restart: "+d.Unkept)
		}
		s.Docker = DockerStatus{Connected: d.Connected, LastSync: d.LastList, Swarm: d.Swarm, Error: d.Error}
	}
	r := g.report()
	s.Closed = append(s.Closed, r.closed...)
	s.Endpoints = EndpointCounts{Admitted: len(r.devices), Waiting: r.waiting}
	g.countPackets(&s)
	s.Situation = g.situation(g.control.State())
	s.Problems = append(s.Problems, s.Situation.problems()...)
	if text := g.inputs.files.Unkept(); text != "" {
		s.Problems = append(s.Problems, "the operator's files are in force, and cannot be kept for a restart at which they have faults: "+text)
	}
	if st := g.control.State(); st != nil {
		s.Epoch = st.Table.Epoch()
		describe(&s, st)
		s.Findings = append(s.Findings, nameFindings(st, g.names.Refused())...)
		s.Findings = append(s.Findings, g.nobodies.findings(st)...)
		s.Findings = append(s.Findings, g.recorder.drift.findings(g.library(), st.Population.Groups)...)
	}
	s.Flows = len(g.dataplane.Flows())
	s.History = g.recorder.status()
	return s
}

// report is what the side of the network has to say.
func (g *gateway) report() guarding {
	if g.place != nil {
		return g.place.report()
	}
	return g.guard.report()
}

func (g *gateway) countPackets(s *Status) {
	worker := g.dataplane.Counters()
	if g.place != nil {
		var kernel steer.Counters
		if g.place.wire != nil {
			var err error
			if kernel, err = g.place.wire.Counters(); err != nil {
				s.Problems = append(s.Problems, err.Error())
			}
			s.Packets["decided"] = kernel.Hits
		}
		if g.place.drops != nil {
			lost, err := g.place.drops()
			if err != nil {
				s.Problems = append(s.Problems, err.Error())
			}
			kernel.Drops[dataplane.Neither][policy.ReasonInternal] += lost
		}
		s.Packets["forwarded"], s.Packets["recorded"] = worker.Forwarded, worker.Observed
		s.countDrops(&kernel, &worker)
		return
	}
	kernel, err := g.steer.Counters()
	if err != nil {
		s.Problems = append(s.Problems, err.Error())
	}
	lost, err := g.steer.SlowPathDrops()
	if err != nil {
		s.Problems = append(s.Problems, err.Error())
	}
	kernel.Drops[dataplane.Neither][policy.ReasonInternal] += lost
	s.Packets["decided"] = kernel.Hits
	s.Packets["peered"] = kernel.Peer
	s.Packets["steered"] = kernel.Steered
	s.Packets["returned"] = kernel.Returned
	s.Packets["unjudged"] = kernel.Open
	s.Packets["unguarded"] = kernel.Unguarded
	s.Packets["recorded"] = worker.Observed
	s.countDrops(&kernel, &worker)
}

func (s *Status) countDrops(kernel *steer.Counters, worker *dataplane.Counters) {
	for dir := range dataplane.Directions {
		by := map[string]uint64{}
		for r := range policy.ReasonCount {
			if n := kernel.Drops[dir][r] + worker.Reasons[dir][r]; n > 0 {
				by[r.String()] = n
				s.Drops[r.String()] += n
			}
		}
		if len(by) > 0 {
			s.DropsBy[dir.String()] = by
		}
	}
}

func describe(s *Status, st *control.State) {
	for i := range st.Population.Groups {
		g := &st.Population.Groups[i]
		switch {
		case st.IsAway(g):
			s.Services.Away++
		case !g.Guarded:
			s.Services.Unenrolled++
		case g.Mode == policy.Enforce:
			s.Services.Enforce++
		default:
			s.Services.Observe++
		}
	}
	for w := range st.View.Workloads {
		if w.Uncovered != "" {
			s.Uncovered = append(s.Uncovered, Uncovered{w.Service.String(), w.Uncovered})
		}
	}
	for _, f := range st.Findings() {
		s.Findings = append(s.Findings, Finding{Kind: string(f.Kind), Subject: f.Service.String(), Text: f.Text})
	}
}

// unready says why the gateway is not doing all its work.
func (g *gateway) unready() []string {
	problems := []string{}
	if g.place == nil {
		if err := g.watcher.Ready(); err != nil {
			problems = append(problems, err.Error())
		}
	}
	if g.control.State() == nil {
		problems = append(problems, "no policy yet")
	}
	if text := g.control.Fault(); text != "" {
		problems = append(problems, text)
	}
	r := g.report()
	problems = append(problems, r.faults...)
	return append(problems, r.late...)
}

func (g *gateway) workloads() []WorkloadView {
	st := g.control.State()
	if st == nil {
		return []WorkloadView{}
	}
	views := workloadViews(st, g.report().devices)
	drifted := map[string][]string{}
	for _, f := range g.recorder.drift.findings(g.library(), st.Population.Groups) {
		drifted[f.Subject] = append(drifted[f.Subject], f.Kind+": "+f.Text)
	}
	for i := range views {
		views[i].Drift = drifted[views[i].Service]
	}
	return views
}

func (g *gateway) services() []ServiceView {
	if st := g.control.State(); st != nil {
		return serviceViews(st)
	}
	return []ServiceView{}
}

func (g *gateway) statements() []StatementView {
	if st := g.control.State(); st != nil {
		return statementViews(st)
	}
	return []StatementView{}
}

func (g *gateway) rules() []RuleView {
	if st := g.control.State(); st != nil {
		return ruleViews(st)
	}
	return []RuleView{}
}

func (g *gateway) ruleCount() int {
	if st := g.control.State(); st != nil {
		return st.Table.FlatCount()
	}
	return 0
}

// violationCount is how many records were made, or lost, since the start.
func (g *gateway) violationCount() uint64 {
	return g.dataplane.Violations().Made() + g.dataplane.Violations().Lost()
}

// whyText is each reason in words.
var whyText = [policy.ReasonCount]string{
	policy.ReasonNoRule:              "no statement lets this pass",
	policy.ReasonDenied:              "a statement denies this",
	policy.ReasonApp:                 "what is spoken there is not what the statement allows",
	policy.ReasonAppUnknown:          "what is spoken there was not recognised in time",
	policy.ReasonUnknownPeer:         "an address of a container network that is nobody's",
	policy.ReasonPolicyChanged:       "the policy changed while the flow lived",
	policy.ReasonMulticast:           "multicast or broadcast that no statement names",
	policy.ReasonSourceMAC:           "the source MAC is not this interface's",
	policy.ReasonSourceAddress:       "the source address is not this interface's",
	policy.ReasonSourceInterface:     "it says that it is from an interface here, and came by another way",
	policy.ReasonDestinationMAC:      "the destination MAC is neither the address's owner nor the gateway",
	policy.ReasonARPSender:           "ARP in another's name",
	policy.ReasonNDSender:            "neighbour discovery in another's name",
	policy.ReasonRouterAdvertisement: "another than the network's gateway announces routes, or redirects",
	policy.ReasonRouterSolicitation:  "router solicitations are not answered here",
	policy.ReasonVLAN:                "VLAN tags do not belong on a container network",
	policy.ReasonEtherType:           "neither IPv4, IPv6 nor ARP",
	policy.ReasonTruncated:           "the packet is shorter than its headers say",
	policy.ReasonBadHeader:           "headers that no honest stack sends",
	policy.ReasonIPOptions:           "IP options",
	policy.ReasonExtensionHeader:     "IPv6 extension headers",
	policy.ReasonFragment:            "a fragment that cannot be judged",
	policy.ReasonProtocol:            "an IP protocol that no statement can name",
	policy.ReasonICMPType:            "ICMP that is neither echo nor an error of a live flow",
	policy.ReasonICMPUnrelated:       "an ICMP error that belongs to no live flow",
	policy.ReasonICMPSize:            "echo requests that are too large or too many",
	policy.ReasonNoFlow:              "a TCP segment of no known connection",
	policy.ReasonConflict:            "a retransmission with other content",
	policy.ReasonProtocolMismatch:    "client and server speak different protocols",
	policy.ReasonNotAdmitted:         "an interface that is not admitted yet",
	policy.ReasonGatewayDown:         "no gateway was there to decide",
	policy.ReasonStale:               "it waited too long for a decision",
	policy.ReasonFlowQuota:           "this interface has used up its share of flows",
	policy.ReasonMissBudget:          "more undecided packets than an interface may send, or be sent",
	policy.ReasonInternal:            "the slow path could not carry it; a few are of interfaces that came or went",
	policy.ReasonNameMismatch:        "it asks the server for another name than the one that the address was allowed by, or for none",
	policy.ReasonNameRefused:         "a DNS query for a name that no statement allows",
	policy.ReasonNameTunnel:          "DNS queries below one domain that carry more than names: data may leave by them",
}

// whyByDirection are the words where it matters which way a packet went: what an
// endpoint sent, and what was sent to it.
var whyByDirection = map[policy.Reason][2]string{
	policy.ReasonRouterAdvertisement: {"a container must not announce routes", "another than the network's gateway announces routes to it, or redirects it"},
	policy.ReasonMissBudget:          {"this interface sends too many undecided packets", "this interface is sent too many undecided packets"},
}

// why is the reason of a violation in words.
func why(r *history.Record) string {
	if words, ok := whyByDirection[r.Reason]; ok {
		return words[directionOf(r)]
	}
	return whyText[r.Reason]
}

func (g *gateway) setMode(req ModeRequest) ([]string, error) {
	st := g.control.State()
	if st == nil {
		return nil, errNoState
	}
	services, err := modeServices(st, req)
	if err != nil {
		return nil, err
	}
	mode, _ := policy.ParseMode(req.Mode) // modeServices did
	if err := modeOfFile(st, services, mode); err != nil {
		return nil, err
	}
	return services, g.control.SetModes(services, mode)
}

// modeServices are the services that a request for a mode is about.
func modeServices(st *control.State, req ModeRequest) ([]string, error) {
	if _, ok := policy.ParseMode(req.Mode); !ok {
		return nil, badRequest{fmt.Errorf("mode %q is none of observe, enforce", req.Mode)}
	}
	known := map[string]bool{}
	for _, grp := range st.Population.Groups {
		known[grp.Service.String()] = true
	}
	switch {
	case req.Service == "all" && !known["all"]:
		return slices.Sorted(maps.Keys(known)), nil
	case !known[req.Service]:
		return nil, noSuchService(st, req.Service)
	}
	return []string{req.Service}, nil
}
