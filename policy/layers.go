package policy

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
	"unsafe"
)

// How rules are laid out for lookup. A rule whose ends mean few peers has a place
// in the table for each pair of them. An end that means many, a large one (any, a
// category, the internet in all its regions), is not taken apart: peers that the
// same large ends of callers mean, and that are guarded alike, are one crowd of
// callers, and so for callees. There are four layers of places, by which ends of
// their rules are large: (peer, peer), (part of the callers' crowds, peer), (peer,
// part of the callees' crowds), (part of the callers' crowds, crowd of callees).
//
// Parts are what one peer, or one crowd of callees, must tell apart of the crowds
// at the other end: those that the same of its rules mean. So a crowd that differs
// from others only in what concerns somebody else costs nothing.
//
// The spans of a place hold the rules of all layers that apply there, but lie only
// at ports at which a rule of its own layer does; a pair of peers is also laid
// where a rule of the second layer and one of the third apply at one port. So the
// first layer that has a span at a port decides.

// fewEnds is up to how many peers an end is not large.
const fewEnds = 8

// These number parts and crowds in the keys of Table.pairs, apart from all peers.
const (
	firstPart  = 1 << (pairBits - 1)
	firstCrowd = 1 << (pairBits - 2)
)

// party is who stands at one end of a place: the ends of rules that mean them,
// ascending, and what they have in common that no rule names.
type party struct {
	ends  []uint32
	class class
}

// pairing is two parties between whom rules are looked for.
type pairing struct {
	caller, callee party
	proto          Proto
}

func (c *compiler) pairing(k pairKey) pairing {
	return pairing{c.parties[k.from()], c.parties[k.to()], k.proto()}
}

// names are the ends of a rule that are not large: it is laid where those are peers.
type names uint8

const (
	namesCaller names = 1 << iota
	namesCallee
)

// laidPlace is a place with a key in the table. Its spans lie where, of the rules
// that apply, all that it needs is named by some.
type laidPlace struct {
	key       pairKey
	pairing   pairing
	needs     names
	ofVariant bool
	unnamed   bool // no rule names it by itself
}

// laidPlaceBytes is what the list of places, as it grows, and the keys of those
// that are pairs take.
const laidPlaceBytes = 2 * int(unsafe.Sizeof(laidPlace{}))

// wideEnds is what the compiler knows of large ends.
type wideEnds struct {
	froms, tos map[uint32][]uint32 // by an end: the large ones that rules have at the other
	ofRule     []names
	crowds     [2][]party             // by Side
	crowdsOf   [2]map[uint32][]uint32 // by a large end: the crowds that it means
	room       [2]int                 // for so many crowds rows of Table.parts are made
	divisions  [2]map[string]division // by the large ends that they are made by
	forks      []fork                 // of the division that is being made
	touched    []uint32
}

// division is how a peer tells crowds of the other end apart.
type division struct {
	first uint32 // index into Table.parts, for crowd 0
	parts []party
	ends  []uint32 // that it is made by
}

// crowdRoom is how many crowds of one side may come to be after a compile.
const crowdRoom = 32

type sideProto struct {
	peer  uint32
	proto Proto
}

func (c *compiler) few() int { return cmp.Or(c.in.few, fewEnds) }

func (c *compiler) isLarge(end uint32) bool {
	switch {
	case isWildcard(end):
		return true
	case isCollective(end) && c.collective(end).set > 0:
		return true
	case c.onMeeting != metNobodys:
		return false
	case isCollective(end):
		return len(c.collective(end).peers) > c.few()
	}
	return len(c.placed.variants[end]) >= c.few()
}

// gathered makes one end of many; wildcards and names stay by themselves.
func (c *compiler) gathered(ends []uint32) []uint32 {
	if len(ends) <= c.few() {
		return ends
	}
	var out, many []uint32
	for _, e := range ends {
		if isWildcard(e) || isNameEnd(e) {
			out = append(out, e)
		} else {
			many = append(many, e)
		}
	}
	if len(many) <= c.few() {
		return ends
	}
	return append(out, c.setEnd(many))
}

// whoseMet says whose places are laid when flows meet them.
type whoseMet uint8

const (
	metNobodys  whoseMet = iota
	metVariants          // see prefixes.go
	metAll
)

// layRules turns the buckets into the spans of the four layers. Where those are too
// many or take more than the memory budget, places are laid when flows meet them
// (see met.go), if need be all: what they are made of, the rules, is within the
// budget.
func (c *compiler) layRules() {
	for dense := range c.table.peers { // their rules are all written
		c.parties = append(c.parties, party{c.endsOf(uint32(dense)), c.table.peers[dense].class})
	}
	spent, costs := c.spent, slices.Clone(c.costs)
	for c.onMeeting = metNobodys; !c.layAhead(); c.onMeeting++ {
		c.spent, c.decisions = spent, decisions{}
		copy(c.costs, costs)
	}
	if c.onMeeting != metNobodys {
		c.table.met = c.metPairs()
		c.decisions.reserve(len(c.table.rules))
	}
}

// layAhead lays what is not laid when flows meet it. It is false where that is too
// much.
func (c *compiler) layAhead() bool {
	for f := range classCount {
		for t := range classCount {
			c.table.unruled[f][t] = c.decision(f, t, nil)
		}
	}
	c.forgetPlaces()
	c.findLarge()
	switch {
	case c.onMeeting == metAll:
		c.table.pairs = newPairTable(nil, nil)
		return true
	case c.onMeeting == metVariants && c.regions == nil:
		return false
	}
	if !c.findPlaces() || !c.lay() {
		return false
	}
	c.spent -= laidPlaceBytes * len(c.laid) // which are let go
	return true
}

// rulesAPair is how many rules, in the mean, may apply to pairs of variants that
// are laid ahead.
const rulesAPair = 16

// lay makes the spans of all places. It is false where the memory budget is spent,
// or where more rules meet at places of variants, or at those that none names by
// itself, than are laid ahead.
func (c *compiler) lay() bool {
	var slots []pairSlot
	var spans []span
	t, left, unnamedLeft := c.table, rulesAPair*c.pairsAhead(), rulesAPlace*c.placesAhead()
	for i := range c.laid {
		p := &c.laid[i]
		first := len(spans)
		c.laidCells(p, func(lo, hi uint16, rules []int32, d *Decision) {
			n := len(spans)
			if joined := appendSpan(spans[first:], span{lo, hi, d}); len(joined) > n-first {
				spans = append(spans[:n], joined[n-first])
			}
			c.charge(rules, int(unsafe.Sizeof(span{})), 1)
			if p.ofVariant {
				left -= len(rules)
			}
			if p.unnamed {
				unnamedLeft -= len(rules)
			}
		})
		if left < 0 || unnamedLeft < 0 || c.isSpent() {
			return false
		}
		if len(spans) == first {
			continue
		}
		slots = append(slots, pairSlot{key: p.key, first: uint32(first), n: uint32(len(spans) - first)})
		if p.needs == namesCaller|namesCallee {
			t.peers[p.key.from()].layers |= pairFrom
			t.peers[p.key.to()].layers |= pairTo
		}
		c.spent += slotBytes
	}
	t.pairs = newPairTable(slots, spans)
	return true
}

// pairsAhead is how many pairs of variants are laid ahead.
func (c *compiler) pairsAhead() int {
	return cmp.Or(c.in.PairsAhead, pairsAhead)
}

// placesAhead is how many places that no rule names by itself are laid ahead.
func (c *compiler) placesAhead() int {
	return cmp.Or(c.in.placesAhead, pairsAhead+placesARule*len(c.table.rules))
}

// placesARule is how many of those there may be for each rule, beside those that
// any policy may have, and rulesAPlace how many rules may apply there in the mean.
const (
	placesARule = 4
	rulesAPlace = 4
)

// slotBytes is what a key takes in a table that is between a quarter and half full.
const slotBytes = 3 * int(unsafe.Sizeof(pairSlot{}))

// laidCells is cells of what a place needs.
func (c *compiler) laidCells(p *laidPlace, emit func(lo, hi uint16, rules []int32, d *Decision)) {
	c.cellsNaming(p.pairing, nil, p.needs, emit)
}

// forgetPlaces takes back what findPlaces says in the table.
func (c *compiler) forgetPlaces() {
	c.laid, c.table.crowds, c.table.parts = nil, nil, []uint32{0} // no division is 0
	for i := range c.table.peers {
		c.table.peers[i] = peerInfo{class: c.table.peers[i].class}
	}
}

// findPlaces lists the places of all layers. It is false where there would be more
// than are laid ahead.
func (c *compiler) findPlaces() bool {
	c.numberCrowds()
	c.wide.divisions = [2]map[string]division{{}, {}}
	l := placeList{compiler: c, have: newPairSet(), left: c.pairsAhead(), again: 2 * c.pairsAhead(), unnamed: c.placesAhead()}
	ok := l.addNamed() && l.addMeeting() && l.addOfParts() && l.addOfCrowds()
	c.laid = l.places
	return ok
}

// findLarge notes, of each end of rules, the large ones that rules have at their
// other end, and which ends of each rule are not large.
func (c *compiler) findLarge() {
	w := &c.wide
	w.froms, w.tos = make(map[uint32][]uint32), make(map[uint32][]uint32)
	w.ofRule = make([]names, len(c.table.rules))
	for k, from := range c.buckets {
		for f, rules := range from {
			var named names
			if !c.isLarge(f) {
				named |= namesCaller
			} else {
				w.froms[k.to] = append(w.froms[k.to], f)
			}
			if !c.isLarge(k.to) {
				named |= namesCallee
			} else {
				w.tos[f] = append(w.tos[f], k.to)
			}
			for _, r := range rules {
				w.ofRule[r] = named
			}
		}
	}
	for _, others := range [...]map[uint32][]uint32{w.froms, w.tos} {
		for end, large := range others {
			slices.Sort(large)
			others[end] = slices.Compact(large) // an end has rules of several protocols
		}
	}
}

// numberCrowds numbers the crowds of both sides and notes who is of which.
func (c *compiler) numberCrowds() {
	for side, others := range [2]map[uint32][]uint32{SideOut: c.wide.froms, SideIn: c.wide.tos} {
		used := usedEnds(others)
		numbers := make(map[string]uint32)
		c.wide.crowds[side], c.wide.crowdsOf[side] = nil, make(map[uint32][]uint32)
		for dense := range c.parties {
			p := party{class: c.parties[dense].class}
			if !c.isMet(uint32(dense)) {
				for _, e := range c.parties[dense].ends {
					if used[e] {
						p.ends = append(p.ends, e)
					}
				}
			}
			key := p.key()
			n, known := numbers[key]
			if !known {
				n = uint32(len(c.wide.crowds[side]))
				numbers[key] = n
				c.addCrowd(Side(side), p)
			}
			c.table.peers[dense].side(Side(side)).crowd = n
		}
		c.wide.room[side] = len(c.wide.crowds[side]) + crowdRoom
	}
}

// usedEnds are the large ends that tell crowds apart. Wildcards tell none apart that
// are guarded alike, so that they are, whether rules have them yet or not.
func usedEnds(others map[uint32][]uint32) map[uint32]bool {
	used := make(map[uint32]bool)
	for _, wildcard := range wildcards {
		used[wildcard] = true
	}
	for _, ends := range others {
		for _, e := range ends {
			used[e] = true
		}
	}
	return used
}

func (c *compiler) addCrowd(side Side, p party) {
	w := &c.wide
	for _, e := range p.ends {
		w.crowdsOf[side][e] = append(w.crowdsOf[side][e], uint32(len(w.crowds[side])))
	}
	w.crowds[side] = append(w.crowds[side], p)
	c.spent += 3*int(unsafe.Sizeof(party{})) + 12*len(p.ends)
}

func (p *peerInfo) side(s Side) *sideInfo {
	if s == SideOut {
		return &p.asCaller
	}
	return &p.asCallee
}

func (p *party) key() string {
	key := append(make([]byte, 0, 1+4*len(p.ends)), byte(p.class))
	for _, e := range p.ends {
		key = binary.LittleEndian.AppendUint32(key, e)
	}
	return string(key)
}

// isMet reports whether the pairs of a peer are laid when they are met.
func (c *compiler) isMet(dense uint32) bool { return c.onMeeting != metNobodys && c.isVariant(dense) }

// isGuarded reports whether a class has a say.
func (c *compiler) isGuarded(k class) bool { return c.table.unruled[k][k].out.guarded }

// placeList collects the places that are laid.
type placeList struct {
	*compiler
	places  []laidPlace
	have    pairSet // pairs of peers
	left    int     // how many pairs of variants may yet be laid
	again   int     // how often one of those may yet be found again
	unnamed int     // how many places may yet be laid that no rule names by itself, or such pairs found again
	callers map[sideProto]bool
	callees map[sideProto]bool // who has rules of the third layer, and of the second
}

// add appends a place, unless nobody there is guarded: whatever rules say, those
// flows pass. It is false where there are too many.
func (l *placeList) add(k pairKey, p pairing, needs names, ofVariant, unnamed bool) bool {
	if !l.isGuarded(p.caller.class) && !l.isGuarded(p.callee.class) {
		return true
	}
	if ofVariant {
		l.left--
	}
	if unnamed {
		l.unnamed--
	}
	l.places = append(l.places, laidPlace{k, p, needs, ofVariant, unnamed})
	l.spent += laidPlaceBytes
	return l.left >= 0 && l.unnamed >= 0 && !l.isSpent()
}

func (l *placeList) addPair(from, to uint32, proto Proto, unnamed bool) bool {
	k := keyOf(from, to, proto)
	ofVariant := l.isVariant(from) || l.isVariant(to)
	if !l.have.add(k) {
		if ofVariant {
			l.again--
		} else if unnamed {
			l.unnamed--
		}
		return l.again >= 0 && l.unnamed >= 0
	}
	return l.add(k, l.pairing(k), namesCaller|namesCallee, ofVariant, unnamed)
}

func (c *compiler) isVariant(dense uint32) bool { return c.placed.base[dense] != dense }

// laidAhead lists those of peersOf that have places in the table.
func (c *compiler) laidAhead(end uint32) []uint32 {
	if c.onMeeting == metNobodys {
		return c.peersOf(end)
	}
	if !isCollective(end) {
		return []uint32{end}
	}
	e := c.collective(end)
	if e.ahead == nil {
		e.ahead = make([]uint32, 0, len(e.ends))
		for _, peer := range e.peers {
			if !c.isVariant(peer) {
				e.ahead = append(e.ahead, peer)
			}
		}
	}
	return e.ahead
}

// addNamed adds the pairs that rules of the first layer name, and notes who has
// rules of the second and the third.
func (l *placeList) addNamed() bool {
	l.callers, l.callees = make(map[sideProto]bool), make(map[sideProto]bool)
	for k, from := range l.buckets {
		largeTo := l.isLarge(k.to)
		for f := range from {
			switch largeFrom := l.isLarge(f); {
			case largeFrom && largeTo:
			case largeFrom:
				for _, t := range l.laidAhead(k.to) {
					l.callees[sideProto{t, k.proto}] = true
				}
			case largeTo:
				for _, f := range l.laidAhead(f) {
					l.callers[sideProto{f, k.proto}] = true
				}
			default:
				for _, f := range l.laidAhead(f) {
					for _, t := range l.laidAhead(k.to) {
						if !l.addPair(f, t, k.proto, false) {
							return false
						}
					}
				}
			}
		}
	}
	return true
}

// meeting is a range of ports of rules by which a peer and a large end meet.
type meeting struct {
	peer   uint32
	lo, hi uint16
	side   Side // of the peer
}

// addMeeting adds the pairs for which a rule of the second layer and one of the
// third apply at one port.
func (l *placeList) addMeeting() bool {
	type between struct {
		large uint32
		proto Proto
	}
	var byLarge [2]map[between][]meeting // of a peer's side: by the large end at the other
	note := func(side Side, large, small uint32, proto Proto, rules []int32) {
		if byLarge[side] == nil {
			byLarge[side] = make(map[between][]meeting)
		}
		k := between{large, proto}
		for _, peer := range l.laidAhead(small) {
			for _, r := range rules {
				ports := l.table.rules[r].Ports
				byLarge[side][k] = append(byLarge[side][k], meeting{peer, ports.Lo, ports.Hi, side})
			}
		}
	}
	for k, from := range l.buckets {
		for f, rules := range from {
			switch largeFrom, largeTo := l.isLarge(f), l.isLarge(k.to); {
			case largeFrom && !largeTo:
				note(SideIn, f, k.to, k.proto, rules)
			case !largeFrom && largeTo:
				note(SideOut, k.to, f, k.proto, rules)
			}
		}
	}
	for k, callers := range byLarge[SideOut] {
		for o, callees := range byLarge[SideIn] {
			if k.proto != o.proto {
				continue
			}
			both := slices.Concat(l.meant(callers, o.large), l.meant(callees, k.large))
			if !l.addOverlaps(both, k.proto) {
				return false
			}
		}
	}
	return true
}

// meant are those whose peer the end means.
func (c *compiler) meant(list []meeting, end uint32) []meeting {
	var out []meeting
	for _, m := range list {
		if _, is := slices.BinarySearch(c.parties[m.peer].ends, end); is {
			out = append(out, m)
		}
	}
	return out
}

func (l *placeList) addOverlaps(both []meeting, proto Proto) bool {
	slices.SortFunc(both, func(a, b meeting) int { return cmp.Compare(a.lo, b.lo) })
	var open [2][]meeting
	for _, m := range both {
		other := 1 - m.side
		open[other] = slices.DeleteFunc(open[other], func(o meeting) bool { return o.hi < m.lo })
		for _, o := range open[other] {
			from, to := m.peer, o.peer
			if m.side == SideIn {
				from, to = to, from
			}
			if !l.addPair(from, to, proto, true) {
				return false
			}
		}
		open[m.side] = append(open[m.side], m)
	}
	return true
}

// addOfParts adds the second and the third layer.
func (l *placeList) addOfParts() bool {
	for k := range l.callees {
		callee := l.parties[k.peer]
		d := l.divide(SideOut, l.facing(callee.ends, l.wide.froms))
		l.table.peers[k.peer].asCallee.division = d.first
		for i, caller := range d.parts {
			if !l.add(keyOf(firstPart+uint32(i+1), k.peer, k.proto), pairing{caller, callee, k.proto}, namesCallee, l.isVariant(k.peer), true) {
				return false
			}
		}
	}
	for k := range l.callers {
		caller := l.parties[k.peer]
		d := l.divide(SideIn, l.facing(caller.ends, l.wide.tos))
		l.table.peers[k.peer].asCaller.division = d.first
		for i, callee := range d.parts {
			if !l.add(keyOf(k.peer, firstPart+uint32(i+1), k.proto), pairing{caller, callee, k.proto}, namesCaller, l.isVariant(k.peer), true) {
				return false
			}
		}
	}
	return true
}

// addOfCrowds adds the fourth layer.
func (l *placeList) addOfCrowds() bool {
	l.table.crowds = nil
	protos := make(map[Proto]bool)
	for k, from := range l.buckets {
		if l.isLarge(k.to) && slices.ContainsFunc(slices.Collect(maps.Keys(from)), l.isLarge) {
			protos[k.proto] = true
		}
	}
	if len(protos) == 0 {
		return true
	}
	for i, callee := range l.wide.crowds[SideIn] {
		d := l.divide(SideOut, l.facing(callee.ends, l.wide.froms))
		l.table.crowds = append(l.table.crowds, d.first)
		for j, caller := range d.parts {
			for proto := range protos {
				if !l.add(keyOf(firstPart+uint32(j+1), firstCrowd+uint32(i), proto), pairing{caller, callee, proto}, 0, l.regions != nil && l.onMeeting == metNobodys, true) {
					return false
				}
			}
		}
	}
	return true
}

// facing are the large ends, ascending, that rules have at their other end.
func (c *compiler) facing(ends []uint32, others map[uint32][]uint32) []uint32 {
	var out []uint32
	for _, e := range ends {
		out = append(out, others[e]...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// fork is a set of ends by which crowds are told apart. The first stand for no ends,
// one for each class.
type fork struct {
	next, by uint32 // that with one end more that was made last, and that end
	part     uint32
}

// divide parts the crowds of one side by which of the ends mean them. Nobody is
// of a part whom none means.
func (c *compiler) divide(side Side, ends []uint32) division {
	key := (&party{ends: ends}).key()
	w, t := &c.wide, c.table
	if d, known := w.divisions[side][key]; known {
		return d
	}
	crowds := w.crowds[side]
	d := division{first: uint32(len(t.parts)), ends: ends}
	t.parts = append(t.parts, make([]uint32, w.room[side])...)
	row := t.parts[d.first:] // forks first, parts when all are known
	w.forks, w.touched = append(w.forks[:0], make([]fork, classCount)...), w.touched[:0]
	for _, e := range ends {
		for _, i := range w.crowdsOf[side][e] {
			if row[i] == 0 {
				w.touched = append(w.touched, i)
				row[i] = uint32(crowds[i].class) + 1
			}
			row[i] = w.forked(row[i]-1, e) + 1
		}
	}
	bytes := 8*w.room[side] + 4*len(ends) // as t.parts grows
	for _, i := range w.touched {
		f := &w.forks[row[i]-1]
		if f.part == 0 {
			d.parts = append(d.parts, party{common(crowds[i].ends, ends), crowds[i].class})
			f.part = uint32(len(d.parts))
			bytes += int(unsafe.Sizeof(party{})) + 4*min(len(crowds[i].ends), len(ends))
		}
		row[i] = f.part
	}
	w.divisions[side][key] = d
	c.spent += bytes
	return d
}

// forked is the fork of the ends of another and one more.
func (w *wideEnds) forked(from, end uint32) uint32 {
	f := &w.forks[from]
	if f.by == end && f.next != 0 {
		return f.next
	}
	n := uint32(len(w.forks))
	f.next, f.by = n, end
	w.forks = append(w.forks, fork{})
	return n
}

// common is what both ascending lists have.
func common(a, b []uint32) []uint32 {
	out := make([]uint32, 0, min(len(a), len(b)))
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0] < b[0]:
			a = a[1:]
		case a[0] > b[0]:
			b = b[1:]
		default:
			out = append(out, a[0])
			a, b = a[1:], b[1:]
		}
	}
	return out
}
