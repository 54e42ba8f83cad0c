package policy

import "slices"

// Statements admit the network's balancer before services that have virtual addresses
// (R16). A service gets its first such address, and loses its last, without their
// being written again.

// behindLost are the rules that admit balancers before those who have no virtual
// addresses any more, but for those of statements that are written anew. It is false
// where a statement names the balancer itself.
func (e *edit) behindLost(isWritten func(statement int32) bool) (rules []int32, ok bool) {
	c := e.compiler
	for id := range e.lost {
		for _, peer := range c.peersOf(e.before.denseOf(id)) {
			for _, proto := range nameProtos {
				for _, rule := range c.buckets[toward{peer, proto}][uint32(IDLB)] {
					n := int32(c.table.rules[rule].Statement)
					if isWritten(n) || e.isTakenOut(rule) {
						continue
					}
					if namesBalancer(c.table.statements[n]) || !e.concern(rule) {
						return nil, false
					}
					rules = append(rules, rule)
				}
			}
		}
	}
	return rules, true
}

// isTakenOut: an amendment takes the rule out.
func (e *edit) isTakenOut(rule int32) bool {
	return slices.ContainsFunc(e.amended, func(a amendment) bool { return slices.Contains(a.out, rule) })
}

func namesBalancer(s *Statement) bool {
	for p := range s.peers {
		if p.Kind == PeerLB {
			return true
		}
	}
	return false
}

// takeOutOf takes one rule out of its statement.
func (e *edit) takeOutOf(rule int32) {
	n := e.compiler.table.rules[rule].Statement
	e.takeOutRule(rule)
	e.written[n] = slices.DeleteFunc(slices.Clone(e.written[n]), func(r int32) bool { return r == rule })
}

// rebalance notes who has virtual addresses.
func (e *edit) rebalance() {
	c := e.compiler
	for id := range e.lost {
		dense := e.before.denseOf(id)
		c.balanced = slices.DeleteFunc(c.balanced, func(d uint32) bool { return d == dense })
	}
	for id := range e.gained {
		c.balanced = append(c.balanced, e.table.denseOf(id))
	}
}

// admitBalancers has statements that mean those who have virtual addresses now, and are
// not written or amended by this update, admit balancers before them.
func (e *edit) admitBalancers() bool {
	written := make(map[int32]bool)
	for _, n := range e.rewrite {
		written[n] = true
	}
	for i := range e.amended {
		written[e.amended[i].n] = true
	}
	meant := make(map[int32]bool)
	for id := range e.gained {
		for n := range e.meaning(e.table.denseOf(id)) {
			if !written[n] {
				meant[n] = true
			}
		}
	}
	for n := range meant {
		if !e.admitBalancer(n) {
			return false
		}
	}
	return true
}

// meaning are the statements with rules toward a peer.
func (e *edit) meaning(peer uint32) map[int32]bool {
	c := e.compiler
	out := make(map[int32]bool)
	for _, p := range c.peersOf(peer) {
		for _, end := range c.parties[p].ends {
			for _, proto := range nameProtos {
				for _, rules := range c.buckets[toward{end, proto}] {
					for _, rule := range rules {
						out[int32(c.table.rules[rule].Statement)] = true
					}
				}
			}
		}
	}
	return out
}

func (e *edit) admitBalancer(n int32) bool {
	c, first := e.compiler, len(e.table.rules)
	s := e.table.statements[n]
	clauses := s.clauses()
	ends, ok := e.endsWritten(&amendment{n: n, before: s})
	if !ok {
		return false
	}
	c.expanding = int(n)
	for i := range clauses {
		x, r := &clauses[i], ruleOf(s, i, &clauses[i])
		r.Statement = int(n)
		if !x.speaks() {
			continue
		}
		admitted := slices.Clone(c.behindBalancer(&r, ends[i][SideOut], ends[i][SideIn]))
		admitted = slices.DeleteFunc(admitted, func(peer uint32) bool { return e.gained[e.table.ids[peer]] })
		c.expandEnds(r, x, ends[i], func(uint32, uint32) bool { return false }, admitted)
	}
	return e.takeIn(n, first)
}
