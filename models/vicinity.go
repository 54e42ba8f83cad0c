package models

import (
	"iter"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/btree"

	"gatehouse/policy"
)

// How far a change reaches. What is said of a project's services follows from the
// project and from those that it is tied to: by a network, by who lives in whose
// network namespace, by a name or a port of the host that one looks for and another
// has. All that are tied, one by the other, are a vicinity: it is understood by
// itself as it is among all others. Of workloads of one kind two stand for all.

// kind is what workloads of one group have in common by which others may depend on
// them.
type kind struct {
	print string   // "" = more than can be said: it is one workload's
	ties  []string // see tiesOf
}

// standing is a group with the kinds of its workloads; immutable.
type standing struct {
	subject *subject
	kinds   []counted
	said    *sayings // nil where its vicinity was never understood by itself
}

// sayings is what a vicinity came to: it holds for as long as all its groups refer to it,
// and no others are there.
type sayings struct {
	groups     int
	statements []policy.Statement
	findings   []Finding // of services
}

// counted is a kind with the ids of who is of it, ascending.
type counted struct {
	*kind
	ids []string
}

// kindOf counts a workload in.
func (st *standing) kindOf(id, print string, ties func() []string) *kind {
	if print != "" {
		for i := range st.kinds {
			if st.kinds[i].print == print {
				st.kinds[i].ids = append(st.kinds[i].ids, id)
				return st.kinds[i].kind
			}
		}
	}
	k := &kind{print, ties()}
	st.kinds = append(st.kinds, counted{k, []string{id}})
	return k
}

// of are the ids of a kind. The caller must not change them.
func (st *standing) of(k *kind) []string {
	if st == nil {
		return nil
	}
	if at := st.find(k); at >= 0 {
		return st.kinds[at].ids
	}
	return nil
}

func (st *standing) find(k *kind) int {
	return slices.IndexFunc(st.kinds, func(c counted) bool { return c.kind == k })
}

// staying are the first most of ids, -1 = all, that are not among those who leave.
func staying(ids []string, leave map[string]bool, most int) []string {
	out := make([]string, 0, min(uint(len(ids)), uint(most)))
	for _, id := range ids {
		if len(out) == most {
			break
		}
		if !leave[id] {
			out = append(out, id)
		}
	}
	return out
}

// inserted and deleted are ascending ids with one more and one less.
func inserted(ids []string, id string) []string {
	at, _ := slices.BinarySearch(ids, id)
	return slices.Concat(ids[:at], []string{id}, ids[at:])
}

func deleted(ids []string, id string) []string {
	at, found := slices.BinarySearch(ids, id)
	if !found {
		return ids
	}
	return slices.Concat(ids[:at], ids[at+1:])
}

// like is the kind of the group that says the same as k, or k.
func (st *standing) like(k *kind) *kind {
	if st == nil || k.print == "" {
		return k
	}
	for i := range st.kinds {
		if st.kinds[i].print == k.print {
			return st.kinds[i].kind
		}
	}
	return k
}

func (st *standing) count() int {
	n := 0
	for i := range st.kinds {
		n += len(st.kinds[i].ids)
	}
	return n
}

// projectText tells projects apart as projectID does.
func projectText(k policy.ServiceKey) string {
	solo := ""
	if k.Project.Name == "" {
		solo = k.Name
	}
	return k.Project.Domain + "\x1f" + k.Project.Name + "\x1f" + solo
}

// A tie begins with one of these: its project has what others look for, or looks for it.
const (
	has   = "<"
	seeks = ">"
)

// tiesOf are those of a workload.
func (p *Population) tiesOf(w *policy.Workload) []string {
	var out []string
	add := func(side, what string) {
		if t := side + what; !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	both := func(what string) { add(has, what); add(seeks, what) }
	links := slices.ContainsFunc(w.References, func(r policy.Reference) bool { return strings.HasPrefix(r.Source, "link") })
	for i := range w.Endpoints {
		n := p.network(w.Endpoints[i].Network)
		switch {
		case n == nil:
		case n.Driver == "host":
			add(has, "host port")
		case n.System:
			add(has, "system "+n.ID)
			if links {
				add(seeks, "system "+n.ID)
			}
		default:
			both("network " + n.ID)
		}
	}
	for id := range w.VIPs {
		both("network " + id)
	}
	if w.SharedWith != "" {
		both("namespace " + w.SharedWith)
	}
	if p.isShared(w.ID) {
		both("namespace " + w.ID)
	}
	if isHostMode(w) {
		add(has, "host port")
	}
	for _, o := range w.Published {
		add(has, hostPort(o.HostPort))
	}
	p.tiesByReference(w, func(what string) { add(seeks, what) })
	add(has, "service "+w.Service.String())
	for key, l := range w.Labels {
		if !isStatementLabel(key) || !counts(key, l) {
			continue
		}
		items, _ := parseStatementLabel(key, l.Value)
		for i := range items {
			if strings.Contains(items[i].service, "/") {
				add(seeks, "service "+items[i].service)
			}
		}
	}
	return out
}

func hostPort(n uint16) string { return "host port " + strconv.Itoa(int(n)) }

// tiesByReference are those to ports of the host: published ones, and what software
// on its network serves.
func (p *Population) tiesByReference(w *policy.Workload, seek func(string)) {
	isHost := func(a netip.Addr) bool {
		return slices.ContainsFunc(p.around.Host.Addresses, func(h netip.Prefix) bool { return h.Addr().Unmap() == a })
	}
	for _, r := range w.References {
		host := strings.Trim(plainName(r.Host), "[]")
		a, err := netip.ParseAddr(host)
		if !isDockerHost(host) && (err != nil || !isHost(a.Unmap().WithZone(""))) {
			continue
		}
		port := r.Port
		if port == 0 {
			sc, _ := schemeOf(r.Scheme)
			port = sc.port
		}
		seek(hostPort(port))
		seek("host port")
	}
	servers := w.DNS
	if len(servers) == 0 {
		servers = p.around.Host.Resolvers
	}
	if slices.ContainsFunc(servers, func(a netip.Addr) bool { return isHost(a.Unmap()) }) {
		seek(hostPort(53))
	}
}

func (p *Population) network(id string) *policy.Network {
	at := slices.IndexFunc(p.around.Networks, func(n policy.Network) bool { return n.ID == id })
	if at < 0 {
		return nil
	}
	return &p.around.Networks[at]
}

// tie notes the ties of all groups.
func (p *Population) tie() {
	p.ties = new(btree.Map[string, int])
	p.standing.Scan(func(key string, st *standing) bool {
		p.tieGroup(key, st, 1)
		return true
	})
}

// Population.ties counts what ties a project, and whom something ties, and the
// groups of each project.
const (
	tiesOfProject  = "p\x00"
	groupOfProject = "g\x00"
)

func (p *Population) tieGroup(key string, st *standing, n int) {
	for _, project := range st.projects() {
		p.tally(groupOfProject+project+"\x00"+key, n)
		for i := range st.kinds {
			for _, t := range st.kinds[i].ties {
				p.tally(tiesOfProject+project+"\x00"+t, n)
				p.tally(t+"\x00"+project, n)
			}
		}
	}
}

func (p *Population) tally(key string, n int) {
	if count, _ := p.ties.Get(key); count+n == 0 {
		p.ties.Delete(key)
	} else {
		p.ties.Set(key, count+n)
	}
}

// projects are those of all who live in the group's network namespaces.
func (st *standing) projects() []string {
	out := []string{projectText(st.subject.service)}
	for _, w := range st.subject.within {
		if t := projectText(w.Service); !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out
}

// listed are the ends of the keys in ties that begin so.
func (p *Population) listed(prefix string) []string {
	var out []string
	p.ties.Ascend(prefix, func(key string, _ int) bool {
		if !strings.HasPrefix(key, prefix) {
			return false
		}
		out = append(out, key[len(prefix):])
		return true
	})
	return out
}

// keysOf are the keys of the groups of a project.
func (p *Population) keysOf(project string) []string {
	return p.listed(groupOfProject + project + "\x00")
}

// vicinity are the keys of all groups that projects are tied to, theirs included,
// where those who come have these ties too. It is false where they are more than most.
func (p *Population) vicinity(projects, ties []string, most int) (keys []string, ok bool) {
	seen, met := make(map[string]bool), make(map[string]bool)
	have := make(map[string]bool)
	follow := func(t string) {
		other := has + t[1:]
		if t[:1] == has {
			other = seeks + t[1:]
		}
		if met[other] {
			return
		}
		met[other] = true
		projects = append(projects, p.listed(other+"\x00")...)
	}
	for _, t := range ties {
		follow(t)
	}
	for len(projects) > 0 {
		project := projects[len(projects)-1]
		projects = projects[:len(projects)-1]
		if seen[project] {
			continue
		}
		seen[project] = true
		for _, key := range p.keysOf(project) {
			if have[key] {
				continue
			}
			have[key] = true
			if keys = append(keys, key); len(keys) > most {
				return nil, false
			}
			st, _ := p.standing.Get(key)
			projects = append(projects, st.projects()...)
		}
		for _, t := range p.listed(tiesOfProject + project + "\x00") {
			follow(t)
		}
	}
	return keys, true
}

// stands is how many workloads stand for all of a kind: whether there are more is all
// that is said of their number.
const stands = 2

// some are workloads that stand for all of a group, without those who leave: of each
// kind the first ones.
func (p *Population) some(key string, leave map[string]bool) []*known {
	st, _ := p.standing.Get(key)
	var some []*known
	for i := range st.kinds {
		for _, id := range staying(st.kinds[i].ids, leave, stands) {
			k, _ := p.known.Get(id)
			some = append(some, k)
		}
	}
	return some
}

// others calls yield for those of a group for whom others stand, once they left who
// leave.
func (p *Population) others(key string, leave map[string]bool) iter.Seq[*known] {
	return func(yield func(*known) bool) {
		st, _ := p.standing.Get(key)
		for i := range st.kinds {
			for n, id := range staying(st.kinds[i].ids, leave, -1) {
				if k, _ := p.known.Get(id); n >= stands && !yield(k) {
					return
				}
			}
		}
	}
}

// alike is a population of these workloads among the same networks. Those that have a
// key and a kind stay as they are.
func (p *Population) alike(of []*known, number func(string) policy.Identity) *Population {
	next := &Population{known: new(btree.Map[string, *known]), offers: p.offers, match: p.match, identify: p.identify, number: number,
		around: p.around, networks: p.networks, sought: p.sought, late: p.late, sharing: p.sharing}
	snap := &policy.Snapshot{Host: p.around.Host, Networks: p.around.Networks, Workloads: make([]policy.Workload, len(of))}
	slices.SortFunc(of, func(a, b *known) int { return strings.Compare(a.ID, b.ID) })
	for i, k := range of {
		snap.Workloads[i] = *k.Workload
		next.known.Set(k.ID, &known{Workload: k.Workload, match: k.match, key: k.key, kind: k.kind, findings: k.findings})
	}
	a := *p.assembly
	a.population = next
	next.join(&a, snap)
	return next
}

// near is a population of the vicinity of services, and of these workloads, that has
// an index: p itself where that has one.
func (p *Population) near(services []policy.ServiceKey, with ...*policy.Workload) *Population {
	if p.index != nil {
		return p
	}
	var projects []string
	for _, k := range services {
		projects = append(projects, projectText(k))
	}
	keys, _ := p.vicinity(projects, nil, len(p.keys))
	var of []*known
	for _, key := range keys {
		of = append(of, p.some(key, nil)...)
	}
	for _, w := range with {
		k, there := p.known.Get(w.ID)
		if there && slices.Contains(keys, k.key) && !slices.Contains(of, k) {
			of = append(of, k)
		}
	}
	return p.alike(of, func(key string) policy.Identity {
		st, ok := p.standing.Get(key)
		if !ok {
			return 0
		}
		return st.subject.group.Identity
	})
}
