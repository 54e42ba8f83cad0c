package docker

import (
	"maps"
	"slices"
	"strings"

	dockerclient "github.com/fsouza/go-dockerclient"

	"gatehouse/policy"
)

// publish brings one workload in the inventory up to date. Until a first state
// is complete, publishAll does it for all at once.
func (s *session) publish(c *container) {
	if s.state.hold {
		return
	}
	s.moveRemotes()
	w, ok := s.workload(c)
	if !ok {
		s.inv.Delete(c.id)
		return
	}
	s.inv.Put(w)
}

// moveRemotes: an address or a service may be here now that was another node's, or
// not be here any more.
func (s *session) moveRemotes() {
	if len(s.state.remotes) > 0 {
		s.state.remotesMoved = true
	}
}

// publishAll makes the inventory equal to the state, as one change.
func (s *session) publishAll() {
	s.state.hold = false
	for _, n := range s.state.networks {
		s.describe(n)
	}
	snap := &policy.Snapshot{Host: s.host(), Networks: slices.Collect(maps.Values(s.state.described))}
	for _, c := range s.state.containers {
		if w, ok := s.workload(c); ok {
			snap.Workloads = append(snap.Workloads, w)
		}
	}
	away := s.remoteWorkloads()
	s.state.remoteIDs = make(map[string]bool, len(away))
	for _, w := range away {
		s.state.remoteIDs[w.ID] = true
	}
	snap.Workloads = append(snap.Workloads, away...)
	s.inv.Replace(snap)
	s.note(func(st *Status) { st.Synced = true })
	s.log.Info("docker: connected", "host", s.config.Host, "workloads", len(snap.Workloads), "networks", len(snap.Networks))
}

// redescribe follows a change that may touch everything.
func (s *session) redescribe() {
	swarm := ""
	if s.state.swarm.active {
		swarm = "worker"
	}
	if s.state.swarm.manager {
		swarm = "manager"
	}
	s.note(func(st *Status) { st.Swarm = swarm })
	if s.state.hold {
		return
	}
	s.inv.PutHost(s.host())
	for _, n := range s.state.networks {
		if s.describe(n) {
			s.inv.PutNetwork(s.state.described[n.id])
		}
	}
	for _, c := range s.state.containers {
		s.publish(c)
	}
	s.publishRemotes()
}

// workload derives a container's workload; ok is false while it is none: not
// running and without endpoints, or not known well enough to judge it by.
func (s *session) workload(c *container) (w policy.Workload, ok bool) {
	if c.inspected == nil {
		return w, false
	}
	see := sight{
		container: c.inspected, image: c.image, networks: s.state.described, byName: s.names(),
		manager: s.state.swarm.told, classic: s.state.classic, domains: s.domains(), running: c.running && c.inspected.State.Running,
		keep: s.state.keep,
	}
	for _, n := range s.state.networks {
		if e, member := n.members[c.id]; member {
			see.endpoints = append(see.endpoints, endpoint{n.id, e})
		}
	}
	if !c.running && len(see.endpoints) == 0 {
		return w, false
	}
	if see.service, ok = s.serviceOf(c); !ok {
		return w, false
	}
	w = describeWorkload(see)
	if w.Swarm && see.service == nil {
		w.VIPs = s.state.toldVIPs(c.inspected.Config.Labels[swarmServiceName], w.Endpoints)
	}
	s.cover(c, &w)
	return w, true
}

// serviceOf is what was told last of a task's service, nil of a container that is
// none's; ok is false while a manager is to be asked for it.
func (s *session) serviceOf(c *container) (told *swarmService, ok bool) {
	id := swarmServiceOf(c.inspected)
	if id == "" {
		return nil, true
	}
	told = s.state.swarm.services[id]
	if told == nil && c.service == nil && s.state.swarm.told && !c.askedSwarm {
		s.askSwarm(true)
		return nil, false
	}
	if told == nil {
		told = c.service.untold()
	}
	c.service = told
	return told, true
}

// cover says of a workload why it cannot be guarded, and logs that once.
func (s *session) cover(c *container, w *policy.Workload) {
	if owner := s.state.containers[w.SharedWith]; owner != nil && owner.inspected != nil && owner.inspected.HostConfig != nil && owner.inspected.HostConfig.NetworkMode == "host" {
		w.Uncovered = "shares the namespace of " + strings.TrimPrefix(owner.inspected.Name, "/") + ": network_mode host"
	}
	if w.Uncovered != c.uncovered && w.Uncovered != "" {
		s.log.Warn("docker: a workload cannot be guarded", "workload", w.Service.String(), "container", w.Name, "why", w.Uncovered)
	}
	c.uncovered = w.Uncovered
}

func swarmServiceOf(c *dockerclient.Container) string {
	if c.Config == nil {
		return ""
	}
	return c.Config.Labels[swarmServiceID]
}

func (s *session) names() map[string]string {
	if s.state.names != nil {
		return s.state.names
	}
	names := make(map[string]string, len(s.state.containers)+len(s.state.described))
	for id, c := range s.state.containers {
		if c.inspected != nil {
			names[strings.TrimPrefix(c.inspected.Name, "/")] = id
		}
	}
	for id, n := range s.state.described {
		names[networkName(n.Name)] = id
	}
	s.state.names = names
	return names
}

func (s *session) domains() domains {
	engine := s.config.Domain
	if engine == "" {
		engine = s.state.engineID
	}
	return domains{engine: engine, swarm: s.state.swarm.cluster}
}
