package policy

import (
	"maps"
	"slices"
)

// Who asks for names (see named.go) may come and go like others: what his rules are laid
// from is kept for him alone. What is said of names to those who are there is Compile's.

// concernsNames reports whether what is said of names that somebody learned, or may
// learn, could be something else afterwards: that is laid by what Compile made.
func (e *edit) concernsNames() bool {
	c, of := e.compiler, e.table.names.of
	if of == nil {
		return false
	}
	outside := func(peer uint32) bool { return c.placed.base[peer] < uint32(FirstWorkloadIdentity) }
	asks := func(peer uint32) bool {
		_, is := of[c.placed.base[peer]]
		return is
	}
	for peer := range e.touched {
		if outside(peer) || asks(peer) && !e.gone[peer] {
			return true
		}
	}
	for k := range e.relaid {
		if asks(k.from()) && !e.gone[k.from()] && outside(k.to()) {
			return true
		}
	}
	return false
}

// ask notes who asks for names by a statement whose rules begin at first. It is false
// where that is somebody who was there before.
func (e *edit) ask(s *Statement, first int32) bool {
	c := e.compiler
	for rule := first; int(rule) < len(c.table.rules); rule++ {
		ends := c.ruleEnds[rule]
		if !e.came[ends.from] {
			return false
		}
		if isNameEnd(ends.to) {
			e.asking[ends.from] = append(e.asking[ends.from], ends.to-firstName)
		} else if s.NamesOnly && e.asking[ends.from] == nil {
			e.asking[ends.from] = []uint32{}
		}
	}
	return true
}

// askAsAll notes the names that those who came ask for as all workloads do.
func (e *edit) askAsAll() {
	for k := range e.compiler.toNames {
		if !isWildcard(k.from()) {
			continue
		}
		for dense := range e.came {
			e.asking[dense] = append(e.asking[dense], k.to()-firstName)
		}
	}
}

// Bounds of the places to which rules lead from one who asks for names, and from all
// who came to ask since Compile.
const (
	maxAsked    = 1 << 12
	maxAskedAll = 1 << 16
)

// layNames notes what those who came may ask, and keeps what their rules are laid
// from when an answer comes: that stands until they are gone.
func (e *edit) layNames() bool {
	n := e.table.names
	gone := maps.Clone(e.gone)
	maps.DeleteFunc(gone, func(dense uint32, _ bool) bool { return !n.asks(dense) })
	if len(gone)+len(e.asking) == 0 {
		return true
	}
	n.of, n.apart = maps.Clone(n.of), maps.Clone(n.apart)
	for dense := range gone {
		delete(n.of, dense)
		delete(n.apart, dense)
	}
	if n.of == nil {
		n.of, n.made, n.private = make(map[uint32][]uint32), make(map[string]nameRules), e.compiler.in.PrivateNames
		n.found = &namedAddresses{m: make(map[addrKey]*named)}
	}
	if n.apart == nil {
		n.apart = make(map[uint32]*compiler)
	}
	for dense, patterns := range e.asking {
		slices.Sort(patterns)
		n.of[dense] = slices.Compact(patterns)
		if n.apart[dense] = e.asked(dense, n.of[dense]); n.apart[dense] == nil {
			return false
		}
		e.table.peers[dense].layers |= nameFrom
	}
	places := 0
	for _, c := range n.apart {
		places += len(c.buckets)
	}
	return places <= maxAskedAll
}

// asked is a compiler that knows of the rules of one peer to whoever is no workload by
// itself, and to names; nil where they are too many.
func (e *edit) asked(dense uint32, patterns []uint32) *compiler {
	c := e.compiler
	o := &compiler{in: c.in, table: &Table{rules: e.table.rules, statements: e.table.statements, sets: e.table.sets},
		parties: c.parties, orders: c.orders, wide: wideEnds{ofRule: c.wide.ofRule}, inUse: true,
		buckets: make(map[toward]map[uint32][]int32), toNames: make(map[pairKey][]int32)}
	for _, end := range c.parties[dense].ends {
		for k := range e.byFrom[end] {
			if uint32(FirstWorkloadIdentity) <= k.to && k.to < uint32(len(e.table.ids)) && c.placed.base[k.to] >= uint32(FirstWorkloadIdentity) {
				continue
			}
			if o.buckets[k] == nil {
				o.buckets[k] = make(map[uint32][]int32)
			}
			o.buckets[k][end] = slices.Clone(c.buckets[k][end])
		}
	}
	if len(o.buckets) > maxAsked {
		return nil
	}
	for _, end := range c.parties[dense].ends {
		for _, p := range patterns {
			for _, proto := range nameProtos {
				k := keyOf(end, firstName+p, proto)
				if rules := c.toNames[k]; len(rules) > 0 {
					o.toNames[k] = slices.Clone(rules)
				}
			}
		}
	}
	return o
}
