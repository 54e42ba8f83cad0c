package policy

import "slices"

// What rules are laid anew lies beside what Compile laid, and is looked for first. It is
// laid for pairs of peers between which rules came or went, and for the layers of peers
// that such rules mean (see layers.go).

// concern notes between whom a rule changes what is laid.
func (e *edit) concern(rule int32) bool {
	c, ends := e.compiler, e.compiler.ruleEnds[rule]
	proto := c.table.rules[rule].Ports.Proto
	largeFrom, largeTo := c.isLarge(ends.from), c.isLarge(ends.to)
	switch {
	case largeFrom && largeTo:
		return false
	case largeFrom:
		e.touch(ends.to)
	case largeTo:
		e.touch(ends.from)
	default:
		for _, f := range c.peersOf(ends.from) {
			for _, t := range c.peersOf(ends.to) {
				e.relaid[keyOf(f, t, proto)] = true
			}
		}
	}
	return true
}

func (e *edit) touch(end uint32) {
	for _, peer := range e.compiler.peersOf(end) {
		e.touched[peer] = true
	}
}

// listLaid notes what is, or is to be, laid for those touched. It may note more.
func (e *edit) listLaid() bool {
	for peer := range e.touched {
		if !e.listOf(peer) || len(e.relaid) > maxRelaid {
			return false
		}
	}
	return len(e.relaid) <= maxRelaid
}

func (e *edit) listOf(peer uint32) bool {
	c := e.compiler
	if len(c.placed.variants[peer]) > 0 || c.placed.base[peer] != peer {
		return false
	}
	for _, proto := range nameProtos {
		fromLarge, toLarge := e.hasLarge(peer, proto)
		for _, end := range c.parties[peer].ends {
			large := c.isLarge(end)
			if large && !fromLarge {
				continue
			}
			for f := range c.buckets[toward{end, proto}] {
				if c.isLarge(f) {
					continue
				}
				for _, other := range c.peersOf(f) {
					e.relaid[keyOf(other, peer, proto)] = true
				}
			}
		}
		for _, end := range c.parties[peer].ends {
			large := c.isLarge(end)
			if large && !toLarge {
				continue
			}
			for k := range e.byFrom[end] {
				if k.proto != proto || c.isLarge(k.to) {
					continue
				}
				for _, other := range c.peersOf(k.to) {
					e.relaid[keyOf(peer, other, proto)] = true
				}
			}
		}
	}
	return true
}

// hasLarge reports whether rules lead from a large end to a peer, and from it to one.
func (e *edit) hasLarge(peer uint32, proto Proto) (from, to bool) {
	c := e.compiler
	for _, end := range c.parties[peer].ends {
		if c.isLarge(end) {
			continue
		}
		for f := range c.buckets[toward{end, proto}] {
			from = from || c.isLarge(f)
		}
		for k := range e.byFrom[end] {
			to = to || k.proto == proto && c.isLarge(k.to)
		}
	}
	return from, to
}

// lay lays what is to be laid anew.
func (e *edit) lay() bool {
	c, t := e.compiler, e.table
	places := make(map[pairKey][]span, len(e.relaid))
	put := func(k pairKey, p pairing, needs names) {
		var spans []span
		if c.isGuarded(p.caller.class) || c.isGuarded(p.callee.class) {
			c.laidCells(&laidPlace{key: k, pairing: p, needs: needs}, func(lo, hi uint16, _ []int32, d *Decision) {
				spans = appendSpan(spans, span{lo, hi, d})
			})
		}
		places[k] = spans
	}
	for k := range e.relaid {
		from, to := k.from(), k.to()
		if e.gone[from] || e.gone[to] {
			continue
		}
		put(k, c.pairing(k), namesCaller|namesCallee)
		t.peers[from].layers |= lately
		t.peers[to].layers |= lately
		if len(places[k]) > 0 {
			t.peers[from].layers |= pairFrom
			t.peers[to].layers |= pairTo
		}
	}
	e.layCrowds(put)
	for peer := range e.touched {
		if !e.gone[peer] {
			e.layParts(peer, put)
		}
	}
	if len(places) > 4*maxRelaid {
		return false
	}
	t.late = t.late.with(places, e.gone)
	e.places = t.late.count
	return true
}

// layParts lays the second and the third layer of a peer.
func (e *edit) layParts(peer uint32, put func(pairKey, pairing, names)) {
	c, t := e.compiler, e.table
	self := c.parties[peer]
	var from, to [len(nameProtos)]bool
	for i, proto := range nameProtos {
		from[i], to[i] = e.hasLarge(peer, proto)
	}
	info := &t.peers[peer]
	info.layers |= lately
	if slices.Contains(from[:], true) {
		d := c.divide(SideOut, c.facing(self.ends, c.wide.froms))
		info.asCallee.division = d.first
		for i, caller := range d.parts {
			for _, proto := range nameProtos {
				put(keyOf(firstPart+uint32(i+1), peer, proto), pairing{caller, self, proto}, namesCallee)
			}
		}
	} else {
		info.asCallee.division = 0
	}
	if slices.Contains(to[:], true) {
		d := c.divide(SideIn, c.facing(self.ends, c.wide.tos))
		info.asCaller.division = d.first
		for i, callee := range d.parts {
			for _, proto := range nameProtos {
				put(keyOf(peer, firstPart+uint32(i+1), proto), pairing{self, callee, proto}, namesCaller)
			}
		}
	} else {
		info.asCaller.division = 0
	}
}

// layCrowds finds the parts of crowds that there were not, and lays those parts that
// there were not either.
func (e *edit) layCrowds(put func(pairKey, pairing, names)) {
	var anew [2]map[uint32][]uint32 // by Side: new parts, by the division
	for side, formed := range e.formed {
		anew[side] = make(map[uint32][]uint32)
		for key, d := range e.compiler.wide.divisions[side] {
			if len(formed) == 0 {
				break
			}
			old := len(d.parts)
			for _, crowd := range formed {
				e.compiler.partOf(&d, e.compiler.wide.crowds[side][crowd], crowd)
			}
			for i := old; i < len(d.parts); i++ {
				anew[side][d.first] = append(anew[side][d.first], uint32(i+1))
			}
			e.compiler.wide.divisions[side][key] = d
		}
	}
	e.layFormed(put)
	e.layNewParts(anew, put)
}

// partOf notes of which part of a division a new crowd is.
func (c *compiler) partOf(d *division, p party, crowd uint32) {
	p.ends = common(p.ends, d.ends)
	if len(p.ends) == 0 {
		return
	}
	at := slices.IndexFunc(d.parts, func(o party) bool { return o.class == p.class && slices.Equal(o.ends, p.ends) })
	if at < 0 {
		at, d.parts = len(d.parts), append(slices.Clip(d.parts), p)
	}
	c.table.parts[d.first+crowd] = uint32(at + 1) // no peer of an older table is of the crowd
}

// layFormed lays the fourth layer of callees' crowds that there were not.
func (e *edit) layFormed(put func(pairKey, pairing, names)) {
	c, t := e.compiler, e.table
	if t.crowds == nil {
		return
	}
	for _, crowd := range e.formed[SideIn] {
		callee := c.wide.crowds[SideIn][crowd]
		d := c.divide(SideOut, c.facing(callee.ends, c.wide.froms))
		t.crowds = append(t.crowds, d.first)
		for i, caller := range d.parts {
			for _, proto := range nameProtos {
				put(keyOf(firstPart+uint32(i+1), firstCrowd+crowd, proto), pairing{caller, callee, proto}, 0)
			}
		}
	}
}

// layNewParts lays the parts of divisions that there were not, for all who have those
// divisions.
func (e *edit) layNewParts(anew [2]map[uint32][]uint32, put func(pairKey, pairing, names)) {
	c, t := e.compiler, e.table
	if len(anew[SideOut])+len(anew[SideIn]) == 0 {
		return
	}
	parts := make(map[uint32][]party)
	for side := range c.wide.divisions {
		for _, d := range c.wide.divisions[side] {
			parts[d.first] = d.parts
		}
	}
	for dense := range t.peers {
		peer, self := uint32(dense), c.parties[dense]
		if e.gone[peer] {
			continue
		}
		callee, caller := t.peers[dense].asCallee.division, t.peers[dense].asCaller.division
		for _, proto := range nameProtos {
			for _, i := range anew[SideOut][callee] {
				put(keyOf(firstPart+i, peer, proto), pairing{parts[callee][i-1], self, proto}, namesCallee)
			}
			for _, i := range anew[SideIn][caller] {
				put(keyOf(peer, firstPart+i, proto), pairing{self, parts[caller][i-1], proto}, namesCaller)
			}
		}
	}
	for crowd, division := range t.crowds {
		for _, i := range anew[SideOut][division] {
			for _, proto := range nameProtos {
				put(keyOf(firstPart+i, firstCrowd+uint32(crowd), proto), pairing{parts[division][i-1], c.wide.crowds[SideIn][crowd], proto}, 0)
			}
		}
	}
}

// latePairs are places that are others than those that Compile made; immutable.
type latePairs struct {
	seed   hashSeed
	shards [lateShards][]latePlace
	count  int
}

const lateShards = 256

// latePlace without spans is one that is none any more.
type latePlace struct {
	key   pairKey
	spans []span
}

func (l *latePairs) shard(k pairKey) uint8 { return uint8(fold(uint64(k)^l.seed.a, l.seed.b) >> 56) }

func (l *latePairs) get(k pairKey) (spans []span, found bool) {
	s := l.shards[l.shard(k)]
	for i := range s {
		if s[i].key == k {
			return s[i].spans, true
		}
	}
	return nil, false
}

// with is what there is after these places, without those of who is gone.
func (l *latePairs) with(places map[pairKey][]span, gone map[uint32]bool) *latePairs {
	out := &latePairs{seed: newHashSeed()}
	if l != nil {
		*out = *l
	}
	if len(gone) > 0 {
		for i, s := range out.shards {
			left := slices.DeleteFunc(slices.Clone(s), func(p latePlace) bool { return gone[p.key.from()] || gone[p.key.to()] })
			out.count -= len(s) - len(left)
			out.shards[i] = left
		}
	}
	var fresh [lateShards]bool // a shard that is out's own
	for k, spans := range places {
		i := out.shard(k)
		if !fresh[i] {
			out.shards[i], fresh[i] = slices.Clone(out.shards[i]), true
		}
		s := &out.shards[i]
		if at := slices.IndexFunc(*s, func(p latePlace) bool { return p.key == k }); at >= 0 {
			(*s)[at].spans = spans
			continue
		}
		*s = append(*s, latePlace{k, spans})
		out.count++
	}
	return out
}
