package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Recorded is a flow as it was seen, or many that are equal, under the names of
// that time.
type Recorded struct {
	From, To RecordedEnd
	Zone     Zone
	Proto    Proto
	DstPort  uint16 // that was asked for
	Port     uint16 // the responder's own
	Spoken   Spoken
	Name     string // the host that the flow asked for, "" = not known
	Passed   bool   // it was let by then
	Flows    uint64 // how many it stands for
	Packets  uint64
	First    time.Time
	Last     time.Time
}

// RecordedEnd is one end: a service ("shop/db") or a peer of section 1
// ("@internet"), and its address.
type RecordedEnd struct {
	Name  string
	Model string     // "mariadb@1"; tells the identities of one service apart
	Addr  netip.Addr // zero = not known
}

// Replayed is what a table says of a recorded flow.
type Replayed struct {
	// Unknown is the name of an end that nobody has in the table; the flow is
	// not judged then.
	Unknown string
	From    Identity
	To      Identity
	// Sides are the answers, out and in: where the application was not read, those
	// for one that no statement there names.
	Sides [2]ReplayedSide
	// others are the answers for the applications that it may have been, where it
	// was not read; passes is what may be spoken.
	others []Replayed
	passes string
}

// ReplayedSide is one side's answer.
type ReplayedSide struct {
	Service   string // whose side, "" where no group has it
	No        bool
	Drops     bool // the no is a drop, by mode or because the statement always acts
	Varies    bool // the application was not read, and would decide whether it is a no
	Verdict   Verdict
	Reason    Reason
	Statement int // index into Table.Statements of what decided, -1 = none
}

// Replayer judges recorded flows by a table: workloads by the names that they
// had, addresses outside by who is there in the table. Safe for concurrent use.
type Replayer struct {
	table  *Table
	byName map[string][]uint32 // dense numbers by the text of the service
	named  []int               // statements that allow DNS names
}

// NewReplayer indexes a table.
func NewReplayer(t *Table) *Replayer {
	t = t.Whole()
	r := &Replayer{table: t, byName: make(map[string][]uint32)}
	for i := range t.groups {
		name := t.groups[i].Service.String()
		r.byName[name] = append(r.byName[name], uint32(FirstWorkloadIdentity)+uint32(i))
	}
	for i, s := range t.statements {
		if s.Verdict == Allow && s.Pending == "" && slices.ContainsFunc(s.To, func(p Peer) bool { return p.Kind == PeerName }) {
			r.named = append(r.named, i)
		}
	}
	return r
}

// Judge answers for one flow.
func (r *Replayer) Judge(f *Recorded) Replayed {
	t := r.table
	q := Query{Zone: f.Zone, Src: addr16(f.From.Addr), Dst: addr16(f.To.Addr), Proto: f.Proto.normal(), DstPort: f.DstPort}
	atFrom, atTo, atPort := t.resolver.peers(&q)
	from, ok := r.end(&f.From, atFrom)
	if !ok {
		return Replayed{Unknown: cmp.Or(f.From.Name, "@unknown")}
	}
	to, ok := r.end(&f.To, atTo)
	if !ok {
		return Replayed{Unknown: cmp.Or(f.To.Name, "@unknown")}
	}
	port := f.Port
	if strings.HasPrefix(f.To.Name, "@") || port == 0 {
		port = atPort
	}
	d := t.decide(from, to, q.Proto, port)
	out := Replayed{From: t.ids[from], To: t.ids[to], Sides: r.sides(d, from, to, f.Spoken)}
	if f.Spoken.App == AppNone {
		r.unread(&out, d, from, to)
	}
	if side := &out.Sides[SideOut]; side.No && side.Statement < 0 {
		if i := r.byDNS(from, f, port); i >= 0 {
			*side = ReplayedSide{Service: side.Service, Verdict: Allow, Statement: i}
		}
	}
	return out
}

// sides asks both.
func (r *Replayer) sides(d *Decision, from, to uint32, s Spoken) [2]ReplayedSide {
	return [2]ReplayedSide{r.side(&Decision{out: d.out}, from, s), r.side(&Decision{in: d.in}, to, s)}
}

// unread asks for each application that statements can tell apart there: a flow that
// its port alone decided, or that carried nothing, shows none.
func (r *Replayer) unread(j *Replayed, d *Decision, from, to uint32) {
	for _, s := range d.spoken() {
		other := Replayed{From: j.From, To: j.To, Sides: r.sides(d, from, to, s)}
		for i := range other.Sides {
			j.Sides[i].Varies = j.Sides[i].Varies || other.Sides[i].No != j.Sides[i].No
		}
		j.others = append(j.others, other)
	}
	j.passes = d.passing()
}

// side asks one side alone.
func (r *Replayer) side(d *Decision, who uint32, s Spoken) ReplayedSide {
	j := d.Judge(s)
	out := ReplayedSide{No: j.Denied, Drops: j.Denied && j.Verdict != Allow, Verdict: j.Verdict, Reason: j.Reason, Statement: -1}
	if g, ok := r.table.Group(r.table.ids[who]); ok {
		out.Service = g.Service.String()
	}
	if j.Rule >= 0 {
		out.Statement = r.table.rules[j.Rule].Statement
	}
	return out
}

// byDNS finds a statement that lets the caller reach the host that the flow
// asked for: which addresses that name had then is not recorded.
func (r *Replayer) byDNS(from uint32, f *Recorded, port uint16) int {
	if f.Name == "" {
		return -1
	}
	for _, i := range r.named {
		s := r.table.statements[i]
		fits := r.table.mayMean(s.From, from) && s.App.Matches(f.Spoken) &&
			slices.ContainsFunc(s.Ports, func(p PortRange) bool { return p.Contains(f.Proto, port) }) &&
			slices.ContainsFunc(s.To, func(p Peer) bool { return p.Kind == PeerName && nameFits(p.Name, f.Name) })
		if fits {
			return i
		}
	}
	return -1
}

// end finds who an end is in the table: of several identities of one service
// that which has the address, else that of the same model, else the first.
func (r *Replayer) end(e *RecordedEnd, at uint32) (who uint32, ok bool) {
	t := r.table
	if strings.HasPrefix(e.Name, "@") {
		if e.Addr.IsValid() {
			return at, true
		}
		for id, n := range identityNames {
			if n == e.Name && id < IDEverybody {
				return uint32(id), true
			}
		}
		return 0, false
	}
	all := r.byName[e.Name]
	if len(all) == 0 {
		return 0, false
	}
	who = all[0]
	for _, d := range all {
		if g := &t.groups[d-uint32(FirstWorkloadIdentity)]; e.Model != "" && strings.HasPrefix(e.Model, g.Model+"@") {
			who = d
			break
		}
	}
	for _, d := range all {
		if t.ids[at] == t.ids[d] {
			return at, true
		}
	}
	if e.Addr.IsValid() {
		who = t.placed(who, e.Addr)
	}
	return who, true
}

func addr16(a netip.Addr) [16]byte {
	if !a.IsValid() {
		return [16]byte{}
	}
	return a.As16()
}

// ReplayReport is what a table makes of recorded flows.
type ReplayReport struct {
	Judged uint64 `json:"judged"` // flows
	Passed uint64 `json:"passed"`
	// Dropped would be dropped, Recorded only recorded: by modes as they are,
	// and as Replay's enforce says.
	Dropped  []ReplayedGroup `json:"dropped"`
	Recorded []ReplayedGroup `json:"recorded"`
	// Depends are flows of which no byte was read, and that would pass with one
	// application and not with another.
	Depends []ReplayedGroup `json:"depends"`
	Unknown []UnknownEnd    `json:"unknown"` // flows that were not judged
}

// ReplayedGroup is flows that meet the same answer for the same cause.
type ReplayedGroup struct {
	From      string    `json:"from"`
	To        string    `json:"to"`
	Name      string    `json:"name,omitempty"`   // the host that was asked for
	App       string    `json:"app"`              // "none": it was not read
	Passes    string    `json:"passes,omitempty"` // of Depends: what would pass there
	Else      string    `json:"else,omitempty"`   // of Depends: what becomes of the rest, drop or record
	Port      PortRange `json:"port"`             // the responder's own
	By        string    `json:"by"`               // whose no it is
	Side      Side      `json:"side"`
	Reason    Reason    `json:"reason"`
	Statement string    `json:"statement,omitempty"` // the text of what denies it
	// Already: dropped by modes as they are, not only by what Replay's enforce says.
	Already bool `json:"already"`
	// Passed: such flows were let by when they were recorded.
	Passed  bool      `json:"passed"`
	Flows   uint64    `json:"flows"`
	Packets uint64    `json:"packets"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
}

// UnknownEnd is a name in the records that nobody has in the table.
type UnknownEnd struct {
	Name  string `json:"name"`
	Flows uint64 `json:"flows"`
}

// Replay judges recorded flows by a table. enforce, if not nil, says which
// services count as enforcing whatever their mode is. It changes nothing.
func Replay(t *Table, flows []Recorded, enforce func(service string) bool) ReplayReport {
	r := NewReplayer(t)
	report := ReplayReport{Unknown: []UnknownEnd{}}
	dropped, recorded, depends := map[ReplayedGroup]*ReplayedGroup{}, map[ReplayedGroup]*ReplayedGroup{}, map[ReplayedGroup]*ReplayedGroup{}
	unknown := map[string]uint64{}
	for i := range flows {
		f := &flows[i]
		j := r.Judge(f)
		if j.Unknown != "" {
			unknown[j.Unknown] += f.Flows
			continue
		}
		report.Judged += f.Flows
		side, drops := j.Deciding(enforce)
		switch {
		case j.Depends(enforce):
			countIn(depends, r.dependingOf(f, &j, enforce))
		case side == nil:
			report.Passed += f.Flows
		case drops:
			countIn(dropped, r.groupOf(f, &j, side))
		default:
			countIn(recorded, r.groupOf(f, &j, side))
		}
	}
	report.Dropped, report.Recorded, report.Depends = sortedGroups(dropped), sortedGroups(recorded), sortedGroups(depends)
	for name, n := range unknown {
		report.Unknown = append(report.Unknown, UnknownEnd{name, n})
	}
	slices.SortFunc(report.Unknown, func(a, b UnknownEnd) int { return cmp.Or(cmp.Compare(b.Flows, a.Flows), cmp.Compare(a.Name, b.Name)) })
	return report
}

// Deciding returns the side whose no counts, nil where both say yes, and
// whether it comes to a drop: a drop before a record, a no that holds whatever was
// spoken before one that does not, the initiator's before the responder's.
func (j *Replayed) Deciding(enforce func(service string) bool) (side *ReplayedSide, drops bool) {
	for i := range j.Sides {
		s := &j.Sides[i]
		if !s.No {
			continue
		}
		comes := s.Drops || enforce != nil && s.Service != "" && enforce(s.Service)
		if side == nil || comes && !drops || comes == drops && side.Varies && !s.Varies {
			side, drops = s, comes
		}
	}
	return side, drops
}

// Depends reports whether what becomes of the flow, of which the application was not
// read, differs by that.
func (j *Replayed) Depends(enforce func(service string) bool) bool {
	side, drops := j.Deciding(enforce)
	return slices.ContainsFunc(j.others, func(other Replayed) bool {
		otherSide, otherDrops := other.Deciding(enforce)
		return (otherSide != nil) != (side != nil) || otherDrops != drops
	})
}

// dependingOf is the group of a flow that Depends, under the worst answer that it may
// have met.
func (r *Replayer) dependingOf(f *Recorded, j *Replayed, enforce func(service string) bool) ReplayedGroup {
	worst := j
	side, drops := j.Deciding(enforce)
	for i := range j.others {
		if s, d := j.others[i].Deciding(enforce); side == nil && s != nil || d && !drops {
			worst, side, drops = &j.others[i], s, d
		}
	}
	g := r.groupOf(f, worst, side)
	g.Passes, g.Else = j.passes, "record"
	if drops {
		g.Else = "drop"
	}
	return g
}

func (r *Replayer) groupOf(f *Recorded, j *Replayed, side *ReplayedSide) ReplayedGroup {
	g := ReplayedGroup{
		From: r.table.IdentityName(j.From), To: r.table.IdentityName(j.To), Name: f.Name, App: f.Spoken.String(),
		Port: Port(f.Proto.normal(), f.Port), By: side.Service, Reason: side.Reason, Passed: f.Passed,
		Flows: f.Flows, Packets: f.Packets, First: f.First, Last: f.Last,
	}
	_, g.Already = j.Deciding(nil)
	if side == &j.Sides[SideIn] {
		g.Side = SideIn
	}
	if side.Statement >= 0 {
		g.Statement = strings.Join(r.table.statements[side.Statement].Lines(false), "; ")
	}
	return g
}

// countIn adds g to the group that is equal but for its numbers.
func countIn(groups map[ReplayedGroup]*ReplayedGroup, g ReplayedGroup) {
	key := g
	key.Flows, key.Packets, key.First, key.Last = 0, 0, time.Time{}, time.Time{}
	have := groups[key]
	if have == nil {
		groups[key] = &g
		return
	}
	have.Flows += g.Flows
	have.Packets += g.Packets
	if g.First.Before(have.First) {
		have.First = g.First
	}
	if g.Last.After(have.Last) {
		have.Last = g.Last
	}
}

func sortedGroups(groups map[ReplayedGroup]*ReplayedGroup) []ReplayedGroup {
	out := make([]ReplayedGroup, 0, len(groups))
	for _, g := range groups {
		out = append(out, *g)
	}
	slices.SortFunc(out, func(a, b ReplayedGroup) int {
		return cmp.Or(cmp.Compare(b.Flows, a.Flows), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To), cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.Port.String(), b.Port.String()), cmp.Compare(a.App, b.App), cmp.Compare(a.By, b.By))
	})
	return out
}
