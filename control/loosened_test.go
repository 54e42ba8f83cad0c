package control

import (
	"bytes"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"gatehouse/document"
	"gatehouse/models"
	"gatehouse/operator"
	"gatehouse/policy"
)

// logged has the loop log into the buffer that it returns.
func (l *loop) logged() *bytes.Buffer {
	var b bytes.Buffer
	l.cfg.Log = slog.New(slog.NewTextHandler(&b, nil))
	return &b
}

// Widening by label is its deployer's act and logged, and so is what ends with a
// label that denied or enforced; tightening is none of that (V10).
func TestLabelsThatLoosenAreLogged(t *testing.T) {
	l := newLoop(t, filepath.Join(t.TempDir(), "modes.json"))
	l.put("db", "172.30.0.2")
	l.put("web", "172.30.0.3")
	l.refresh(t)
	log := l.logged()
	for _, c := range []struct {
		what   string
		labels map[string]string
		want   string // "" = nothing that loosens
	}{
		{"an allow", map[string]string{"gatehouse.allow.egress": "@site:9100 http"}, "a label allows"},
		{"the same again", map[string]string{"gatehouse.allow.egress": "@site:9100 http"}, ""},
		{"a deny beside it", map[string]string{"gatehouse.allow.egress": "@site:9100 http", "gatehouse.deny.ingress": "db:80"}, ""},
		{"the deny is gone", map[string]string{"gatehouse.allow.egress": "@site:9100 http"}, "a label denies no more"},
		{"the allow is gone", nil, ""},
		{"a model", map[string]string{"gatehouse.model": "traefik"}, "a label gives the model"},
		{"enforce", map[string]string{"gatehouse.mode": "enforce"}, ""},
		{"observe", map[string]string{"gatehouse.mode": "observe"}, "observed only"},
		{"off", map[string]string{"gatehouse.enable": "false"}, "not guarded any more"},
	} {
		log.Reset()
		w := l.workload("web", "172.30.0.3")
		w.Labels = make(map[string]policy.Label)
		for k, v := range c.labels {
			w.Labels[k] = policy.Label{Value: v, By: policy.SetByDeployer}
		}
		l.inv.Put(w)
		l.refresh(t)
		if got := log.String(); strings.Contains(got, "loosened") != (c.want != "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: logged %q, want %q", c.what, got, c.want)
		}
	}
}

// A record by which an allow means more, or a deny less, is logged; one that
// tightens is not (V10).
func TestRecordsThatLoosenAreLogged(t *testing.T) {
	l := newLoop(t, filepath.Join(t.TempDir(), "modes.json"))
	l.put("db", "172.30.0.2")
	l.put("web", "172.30.0.3")
	library, err := models.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	statements := `schema: gatehouse.statements/v1
statements:
  - {id: risky, verdict: deny, from: [{category: {risk: {eq: high}}, peer: workload}], to: [{service: shop/db}], app: [any], ports: [any]}
  - {id: trusted, verdict: allow, from: [{category: {risk: {eq: low}}}], to: [{peer: internet}], app: [http], ports: [tcp/80], why: a test}
`
	say := func(records string) string {
		t.Helper()
		log := l.logged()
		p, err := operator.Decode([]document.File{{Name: "s.yaml", Data: []byte(statements)}}, []document.File{{Name: "c.yaml", Data: []byte(
			"schema: gatehouse.categories/v1\nsource: cmdb\ncategories: {risk: {ordered: [low, high]}}\nrecords: [" + records + "]\n")}}, library)
		if err != nil {
			t.Fatal(err)
		}
		var said []operator.Records
		for _, s := range p.Sources {
			said = append(said, s.Records)
		}
		if l.rules.Policy.Statements == nil {
			l.rules = &Rules{Library: library, Policy: p}
		}
		l.catalog = operator.NewCatalog(p.Kinds, said)
		l.refresh(t)
		return log.String()
	}
	const web = "{match: {service: shop/web}, set: {risk: %}}"
	place := ", {match: {cidr: " + netip.MustParsePrefix("10.9.0.0/24").String() + "}, set: {risk: low}}"
	say(strings.Replace(web, "%", "high", 1))
	for _, c := range []struct{ records, want string }{
		{strings.Replace(web, "%", "high", 1) + place, "statement=trusted concerns=[10.9.0.0/24]"},
		{strings.Replace(web, "%", "high", 1), ""},
		{strings.Replace(web, "%", "low", 1), "statement=risky concerns=[shop/web]"},
		{strings.Replace(web, "%", "high", 1), ""},
		{"", "statement=risky concerns=[shop/web]"},
	} {
		if got := say(c.records); strings.Contains(got, "loosened") != (c.want != "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: logged %q, want %q", c.records, got, c.want)
		}
	}
}
