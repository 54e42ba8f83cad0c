package policy

import (
	"slices"
	"strings"
)

// Decision is what policy says of a pair of peers, a protocol and a port, for
// every application. It is immutable and shared by all flows that it fits;
// use Table.Resolve for the peers of one flow. Safe for concurrent use.
type Decision struct {
	verdict Verdict
	denied  bool // of a decided verdict: the no is only recorded
	named   bool // some term, or an exception of one, holds for a name only
	out, in sideDecision
}

// sideDecision is one side's say (V3).
type sideDecision struct {
	guarded bool
	mode    Mode
	// reason of a no that no term gives: ReasonNoRule, ReasonUnknownPeer or
	// ReasonMulticast.
	reason Reason
	// allows: there are terms that allow, so that a no without a deciding term
	// is about the application.
	allows bool
	// terms in the order in which they decide: the first that matches does.
	terms []term
}

// term is one rule as a side weighs it.
type term struct {
	app     AppMatch
	name    string     // the pattern that a name must fit, "" = any destination
	except  []excepted // of a deny: what it does not speak of
	rank    uint8      // V3's order
	verdict Verdict
	always  bool // a deny that acts in observe mode too (V4)
	rule    int32
}

// excepted is what an exception takes out of a deny.
type excepted struct {
	app  AppMatch
	name string // as a term's
}

// matches reports whether the term speaks of the flow; mismatch, that it would
// if the flow were for another server.
func (t *term) matches(sp Spoken, server ServerName) (ok, mismatch bool) {
	if !t.app.Matches(sp) {
		return false, false
	}
	if t.name != "" && !server.fits(t.name, t.app, sp) {
		return false, true
	}
	for i := range t.except {
		e := &t.except[i]
		if e.app.Matches(sp) && (e.name == "" || server.fits(e.name, e.app, sp)) {
			return false, false
		}
	}
	return true, false
}

// rankOf is V3's order; a lower rank decides first.
func rankOf(tier Tier, v Verdict) uint8 {
	rank := 2 * uint8(TierOperator-tier)
	if v == Allow {
		rank++
	}
	return rank
}

// boolOrder sorts true first.
func boolOrder(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// answer is one side's yes or no.
type answer struct {
	no      bool
	verdict Verdict // what the no comes to: Allow where it is only recorded
	rule    int32
	reason  Reason
}

func (s *sideDecision) ask(sp Spoken, server ServerName) answer {
	if !s.guarded {
		return answer{verdict: Allow, rule: -1}
	}
	otherServer := false
	for i := range s.terms {
		t := &s.terms[i]
		ok, mismatch := t.matches(sp, server)
		if !ok {
			otherServer = otherServer || mismatch
			continue
		}
		if t.verdict == Allow {
			return answer{verdict: Allow, rule: t.rule}
		}
		a := answer{no: true, verdict: t.verdict, rule: t.rule, reason: ReasonDenied}
		if s.mode == Observe && !t.always {
			a.verdict = Allow
		}
		return a
	}
	a := answer{no: true, verdict: Drop, rule: -1, reason: s.reason}
	if s.mode == Observe {
		a.verdict = Allow
	}
	switch {
	case otherServer:
		a.reason = ReasonNameMismatch
	case s.allows && sp.App == AppUnknown:
		a.reason = ReasonAppUnknown
	case s.allows:
		a.reason = ReasonApp
	}
	return a
}

// Judge answers for a flow whose application is known; App is AppUnknown when
// it cannot be known any more. It allocates nothing.
//
// A no that is enforced goes before one that is only recorded, the initiator's
// before the responder's. Rule and Side of a yes are the initiator's, or the
// responder's where the initiator is not guarded.
func (d *Decision) Judge(s Spoken) Judgement { return d.JudgeServer(s, ServerName{}) }

// JudgeServer is Judge for a flow that says which server it is for.
func (d *Decision) JudgeServer(s Spoken, server ServerName) Judgement {
	out, in := d.out.ask(s, server), d.in.ask(s, server)
	switch {
	case out.no && out.verdict != Allow:
		return Judgement{out.verdict, true, SideOut, out.rule, out.reason}
	case in.no && in.verdict != Allow:
		return Judgement{in.verdict, true, SideIn, in.rule, in.reason}
	case out.no:
		return Judgement{Allow, true, SideOut, out.rule, out.reason}
	case in.no:
		return Judgement{Allow, true, SideIn, in.rule, in.reason}
	case !d.out.guarded && d.in.guarded:
		return Judgement{Allow, false, SideIn, in.rule, ReasonNone}
	}
	return Judgement{Allow, false, SideOut, out.rule, ReasonNone}
}

// Verdict is what is known before the application is: Drop, Reject or Allow
// where no application could change whether the flow passes and is recorded
// (Judge with the zero Spoken then says why), else Undecided.
func (d *Decision) Verdict() Verdict { return d.verdict }

// Denied reports, where Verdict is not Undecided, whether policy says no
// whatever the application: Allow and Denied is a violation to record.
func (d *Decision) Denied() bool { return d.denied }

// settle computes Verdict by trying every application that could make a
// difference, which it lists in buf.
func (d *Decision) settle(buf []Spoken) []Spoken {
	first := d.Judge(Spoken{})
	d.verdict, d.denied = first.Verdict, first.Denied
	differs := func(s Spoken, server ServerName) bool {
		j := d.JudgeServer(s, server)
		return j.Denied != first.Denied || (j.Verdict == Allow) != (first.Verdict == Allow)
	}
	buf = d.appendSpoken(buf)
	for _, s := range buf {
		if differs(s, ServerName{}) || d.named && s.App.saysServer() && differs(s, ServerName{State: NameHidden}) {
			d.verdict, d.denied = Undecided, false
			break
		}
	}
	return buf
}

// Named reports whether a name of the destination is part of the decision, so
// that what the flow says of its server must be read.
func (d *Decision) Named() bool { return d.named }

// spoken lists one flow of each kind that the terms can tell apart: an
// application that no term names behaves as its nearest named parent does, or
// as an unknown one.
func (d *Decision) spoken() []Spoken { return d.appendSpoken(nil) }

func (d *Decision) appendSpoken(out []Spoken) []Spoken {
	for _, side := range [...]*sideDecision{&d.out, &d.in} {
		for i := range side.terms {
			t := &side.terms[i]
			out = appendTold(out, t.app, t.name)
			for _, e := range t.except {
				out = appendTold(out, e.app, e.name)
			}
		}
	}
	return out
}

// appendTold appends what an application and a name of a term tell apart.
func appendTold(out []Spoken, m AppMatch, name string) []Spoken {
	if m.Any && name == "" {
		return out
	}
	if len(out) == 0 {
		out = append(out, Spoken{App: AppUnknown}, Spoken{App: AppTLS}, Spoken{App: AppDTLS},
			Spoken{App: AppTLS, ALPN: AppUnknown}, Spoken{App: AppDTLS, ALPN: AppUnknown})
	}
	if m.Any { // of what says which server it is for
		m.App = AppHTTP
	}
	return appendForms(out, m.App)
}

// carriers are the protocols that an API is spoken on top of.
var carriers = [...]App{AppHTTP, AppHTTP2, AppGRPC}

// forms are the ways in which an application can be seen.
func forms(a App) []Spoken { return appendForms(nil, a) }

func appendForms(out []Spoken, a App) []Spoken {
	out = append(out, Spoken{App: a}, Spoken{App: a, Inner: AppTLS}, Spoken{App: AppTLS, ALPN: a}, Spoken{App: AppDTLS, ALPN: a})
	if a.IsSub() {
		for _, c := range carriers {
			out = append(out, Spoken{App: c, Sub: a})
		}
	}
	return out
}

// names lists the names by which terms allow. Off the packet path.
func (d *Decision) names() []string {
	var out []string
	for _, t := range slices.Concat(d.out.terms, d.in.terms) {
		if t.verdict == Allow && t.name != "" && !slices.Contains(out, t.name) {
			out = append(out, t.name)
		}
	}
	return out
}

// SubMatters reports whether the answer for s could be another one if an API
// were found on top of it, or that its first request is gRPC. It allocates nothing.
func (d *Decision) SubMatters(s Spoken) bool {
	j := d.Judge(s)
	for _, side := range [...]*sideDecision{&d.out, &d.in} {
		for i := range side.terms {
			a := side.terms[i].app.App
			with := s
			switch {
			case a.IsSub() && !s.Sub.Is(a):
				with.Sub = a
			case s.App == AppHTTP2 && a != s.App && a.Is(AppHTTP2): // grpc shows with the first request
				with.App = a
			default:
				continue
			}
			if k := d.Judge(with); k.Verdict != j.Verdict || k.Denied != j.Denied {
				return true
			}
		}
	}
	return false
}

// InnerMatters reports whether the answer for s could be another one if the
// flow went over to TLS or, where s can open a tunnel, if that carried something
// else than s. It allocates nothing.
func (d *Decision) InnerMatters(s Spoken) bool {
	j := d.Judge(s)
	differs := func(inner App) bool {
		with := s
		with.Inner = inner
		k := d.Judge(with)
		return k.Verdict != j.Verdict || k.Denied != j.Denied
	}
	if differs(AppTLS) {
		return true
	}
	if !s.App.tunnels() {
		return false
	}
	if differs(AppUnknown) {
		return true
	}
	for _, side := range [...]*sideDecision{&d.out, &d.in} {
		for i := range side.terms {
			if a := side.terms[i].app.App; a != AppNone && differs(a) {
				return true
			}
		}
	}
	return false
}

// Apps lists what may be spoken: the applications, in those of their forms,
// that both sides say yes to. Off the packet path.
func (d *Decision) Apps() []AppMatch {
	if !d.out.guarded && !d.in.guarded {
		return []AppMatch{AnyApp}
	}
	var out []AppMatch
	add := func(m AppMatch) {
		if !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	for _, t := range slices.Concat(d.out.terms, d.in.terms) {
		switch {
		case t.verdict != Allow:
		case t.app.Any:
			if !d.Judge(Spoken{App: AppUnknown}).Denied {
				add(AnyApp)
			}
		default:
			if m := d.allowedForms(t.app); m.Forms != 0 {
				add(m)
			}
		}
	}
	return out
}

// passing is Apps as one text: "redis, tls(redis)", "any but ssh", "nothing".
func (d *Decision) passing() string {
	apps := d.Apps()
	var texts []string
	for _, m := range apps {
		texts = append(texts, m.Texts()...)
	}
	if !slices.Contains(apps, AnyApp) {
		return orNothing(texts)
	}
	var denied []string
	for _, t := range slices.Concat(d.out.terms, d.in.terms) {
		if t.verdict == Allow || t.app.Any || !d.Judge(Spoken{App: t.app.App}).Denied {
			continue
		}
		if name := t.app.App.String(); !slices.Contains(denied, name) {
			denied = append(denied, name)
		}
	}
	if len(denied) == 0 {
		return "any"
	}
	return "any but " + strings.Join(denied, ", ")
}

// allowedForms keeps the forms of m in which nobody objects.
func (d *Decision) allowedForms(m AppMatch) AppMatch {
	seen := []struct {
		form TLSForms
		s    Spoken
	}{{TLSPlain, Spoken{App: m.App}}, {TLSUpgraded, Spoken{App: m.App, Inner: AppTLS}}, {TLSDirect, Spoken{App: AppTLS}}}
	for _, f := range seen {
		if d.Judge(f.s).Denied {
			m.Forms &^= f.form
		}
	}
	return m
}
