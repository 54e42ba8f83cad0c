package policy

import "fmt"

// Problems says, by workload id, what of the snapshot cannot be used: what the
// orchestrator told of those workloads contradicts itself. It is no fault of the
// others, so Compile leaves out what does not fit, and whoever makes the groups
// shuts such a workload (Group.Shut).
func (s *Snapshot) Problems() map[string][]string {
	problems := s.Check()
	out := make(map[string][]string)
	for i := range s.Workloads {
		if found := problems(&s.Workloads[i]); found != nil {
			out[s.Workloads[i].ID] = found
		}
	}
	return out
}

// Check returns what tells the same of one workload, be it of the snapshot or one
// that starts beside those.
func (s *Snapshot) Check() func(*Workload) []string {
	networks := make(map[string]*Network, len(s.Networks))
	twice := make(map[string]bool)
	for i := range s.Networks {
		n := &s.Networks[i]
		if networks[n.ID] != nil {
			twice[n.ID] = true
			continue
		}
		networks[n.ID] = n
	}
	return func(w *Workload) (out []string) {
		for j := range w.Endpoints {
			if p := w.Endpoints[j].problem(networks, twice); p != "" {
				out = append(out, p)
			}
		}
		for _, r := range w.Exposed {
			if r.Hi < r.Lo {
				out = append(out, fmt.Sprintf("exposed ports %v: the lower number comes first", r))
			}
		}
		return out
	}
}

func (e *Endpoint) problem(networks map[string]*Network, twice map[string]bool) string {
	n := networks[e.Network]
	switch {
	case n == nil && len(e.Addresses) > 0:
		return fmt.Sprintf("endpoint %.12s is on network %.12s, which the engine does not list", e.ID, e.Network)
	case n == nil:
		return ""
	case twice[e.Network]:
		return fmt.Sprintf("network %s (%.12s) is listed twice", n.Name, n.ID)
	}
	for _, p := range n.Subnets {
		if !p.IsValid() {
			return fmt.Sprintf("network %s has a subnet that is none", n.Name)
		}
	}
	for _, a := range e.Addresses {
		if !a.IsValid() {
			return fmt.Sprintf("endpoint %.12s on network %s has an empty address", e.ID, n.Name)
		}
	}
	return ""
}
