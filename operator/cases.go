package operator

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"gatehouse/document"
	"gatehouse/policy"
)

// TestsSchema is the schema key of files with cases.
const TestsSchema = "gatehouse.tests/v1"

// Case is one flow that a test of policy asks about, and the answer it wants.
type Case struct {
	Name       string // "case" in the file; unique among the files
	From, To   string // as policy.Explain reads them
	Port       policy.PortRange
	App        policy.App // AppNone: whatever is spoken
	TLS        string     // none, starttls, only; "" = in whichever form passes
	Sub        policy.App // the API on top; AppNone = none
	Host       string     // "name": the DNS name by which To was found
	Time       time.Time  // zero = now
	Threat     Threat     // of ThreatGiven
	ThreatSet  bool       // Threat is given
	Categories []Record   // in place of what systems of record say
	Want       string     // verdict: allow, deny, drop, reject, record
	Statement  string     // id of what must decide; "" = any
	File       string
	Line       int
}

// Place is "FILE:LINE".
func (c *Case) Place() string { return fmt.Sprintf("%s:%d", c.File, c.Line) }

// Verdicts that a case may want: allow and deny are policy's own answer, whatever
// the modes; the others are what becomes of the flow.
var caseVerdicts = []string{"allow", "deny", "drop", "reject", "record"}

// DecodeCases reads files of cases whole. The error joins all faults, each with
// file and line.
func DecodeCases(files []document.File) ([]Case, error) {
	var faults document.Faults
	var out []Case
	document.Split(files, &faults, func(doc *yaml.Node, file string) {
		d := &decoder{document.NewDecoder(file, &faults)}
		root := d.Root(doc)
		if root == nil {
			return
		}
		d.Object(root, "", map[string]document.Reader{
			"schema": d.schema(TestsSchema),
			"tests": func(n *yaml.Node, key string) {
				d.Sequence(n, key, func(n *yaml.Node, key string) { out = append(out, d.testCase(n, key)) })
			},
		}, "schema", "tests")
	})
	first := make(map[string]*Case)
	for i := range out {
		c := &out[i]
		if other := first[c.Name]; other != nil && c.Name != "" {
			faults.Add(&document.Fault{File: c.File, Line: c.Line, Key: "case", Text: fmt.Sprintf("%q is also in %s", c.Name, other.Place())})
		}
		first[c.Name] = c
	}
	return out, faults.Err()
}

func (d *decoder) testCase(n *yaml.Node, key string) Case {
	c := Case{File: d.File, Line: n.Line}
	ok := d.Object(n, key, map[string]document.Reader{
		"case": d.Text(&c.Name), "from": d.Text(&c.From), "to": d.Text(&c.To),
		"port": d.casePort(&c.Port), "app": d.caseApp(&c.App), "sub": d.caseApp(&c.Sub),
		"tls":        d.oneOf(&c.TLS, "none", "starttls", "only"),
		"name":       d.caseName(&c.Host),
		"time":       d.moment(&c.Time),
		"threat":     d.caseThreat(&c),
		"categories": func(n *yaml.Node, key string) { c.Categories = d.caseCategories(n, key) },
		"verdict":    d.oneOf(&c.Want, caseVerdicts...),
		"statement":  d.Text(&c.Statement),
	}, "case", "from", "port", "verdict")
	switch {
	case !ok:
	case c.To == "" && c.Host == "":
		d.Fault(n, key, "want to, or name where the destination is found by DNS")
	case c.To != "" && c.Host != "":
		d.Fault(n, key, "want to or name, not both: a name leads to an address of its own")
	case c.App == policy.AppNone && (c.TLS != "" || c.Sub != policy.AppNone):
		d.Fault(n, key, "tls and sub are of an app: name it")
	case c.Sub != policy.AppNone && !c.Sub.IsSub():
		d.Fault(n, key, "sub: %s is no API on top of another protocol: write it as app", c.Sub)
	}
	return c
}

func (d *decoder) casePort(dst *policy.PortRange) document.Reader {
	return func(n *yaml.Node, key string) {
		s, ok := d.Scalar(n, key)
		if !ok {
			return
		}
		r, err := policy.ParsePortRange(s)
		switch {
		case err != nil:
			d.Fault(n, key, "%v", err)
		case r.Lo != r.Hi:
			d.Fault(n, key, "%s: want one port", s)
		}
		*dst = r
	}
}

func (d *decoder) caseApp(dst *policy.App) document.Reader {
	return func(n *yaml.Node, key string) {
		s, ok := d.Scalar(n, key)
		if !ok {
			return
		}
		app, known := policy.ParseApp(s)
		if !known && s == policy.AppUnknown.String() {
			app, known = policy.AppUnknown, true
		}
		if !known {
			d.Fault(n, key, "%v", policy.UnknownApp(s))
		}
		*dst = app
	}
}

func (d *decoder) caseName(dst *string) document.Reader {
	return func(n *yaml.Node, key string) {
		s, ok := d.Scalar(n, key)
		if !ok {
			return
		}
		name, err := policy.ParseName(s)
		switch {
		case err != nil:
			d.Fault(n, key, "%v", err)
		case strings.HasPrefix(name, "*."):
			d.Fault(n, key, "%s: want one name that a flow may ask for", s)
		}
		*dst = name
	}
}

func (d *decoder) caseThreat(c *Case) document.Reader {
	return func(n *yaml.Node, key string) {
		s, ok := d.Scalar(n, key)
		if !ok {
			return
		}
		level, err := ParseThreat(s)
		if err != nil {
			d.Fault(n, key, "%v", err)
		}
		c.Threat, c.ThreatSet = level, true
	}
}

// caseCategories reads {shop/web: {risk: high}}; the key is a service, an address
// or a prefix.
func (d *decoder) caseCategories(n *yaml.Node, key string) []Record {
	var out []Record
	d.Named(n, key, func(subject string, n *yaml.Node, key string) {
		r := Record{Set: make(map[string][]string)}
		if ip, err := netip.ParseAddr(subject); err == nil {
			r.CIDR = netip.PrefixFrom(ip, ip.BitLen())
		} else if p, err := netip.ParsePrefix(subject); err == nil {
			r.CIDR = p.Masked()
		} else {
			r.Service = subject
		}
		d.Named(n, key, func(category string, n *yaml.Node, key string) {
			if n.Kind == yaml.SequenceNode {
				var list []string
				d.List(&list, func(n *yaml.Node, key string) (string, bool) { return d.Scalar(n, key) })(n, key)
				r.Set[category] = list
			} else if s, ok := d.Scalar(n, key); ok {
				r.Set[category] = []string{s}
			}
		})
		out = append(out, r)
	})
	return out
}

// CheckCategories reports what a case gives that no category of the policy can
// have.
func (p *Policy) CheckCategories(c *Case) error {
	var errs []error
	for _, r := range c.Categories {
		for _, name := range slices.Sorted(maps.Keys(r.Set)) {
			kind, known := p.Kinds[name]
			switch {
			case !known:
				errs = append(errs, fmt.Errorf("%s: no category %q is declared", c.Place(), name))
			case len(r.Set[name]) > 1 && !kind.Set:
				errs = append(errs, fmt.Errorf("%s: category %s has one value", c.Place(), name))
			case len(kind.Levels) > 0 && !slices.Contains(kind.Levels, r.Set[name][0]):
				errs = append(errs, fmt.Errorf("%s: category %s: %q is none of %s", c.Place(), name, r.Set[name][0], strings.Join(kind.Levels, ", ")))
			}
		}
	}
	return errors.Join(errs...)
}

// Instead lets records speak in place of all others of what they name: of a
// service's category, or of an address's. Call it before the catalog is used.
func (c *Catalog) Instead(records []Record) {
	for i := range records {
		r := &records[i]
		if r.Service != "" {
			c.instead = append(c.instead, r)
			continue
		}
		for name := range r.Set {
			delete(c.places[r.CIDR], name)
		}
		c.add(r)
	}
	c.sortPlaces()
}

// insteadOf is what Instead says of one category of a workload.
func (c *Catalog) insteadOf(w *policy.Workload, category string) ([]value, bool) {
	for _, r := range c.instead {
		if texts, ok := r.Set[category]; ok && isService(r.Service, w.Service) {
			return []value{{texts, true}}, true
		}
	}
	return nil, false
}

func casesSchema() node {
	app := oneOf(appNames(policy.AppUnknown.String())...)
	c := object(node{
		"case": textSchema, "from": describe("service, container, @peer or address", textSchema), "to": textSchema,
		"name": describe("DNS name, in place of to", nameSchema), "port": portSchema, "app": app, "sub": app,
		"tls": oneOf("none", "starttls", "only"), "time": node{"type": "string", "format": "date-time"}, "threat": oneOf(threatNames...),
		"categories": describe("by service or address: what systems of record are taken to say", mapOf(mapOf(either(textSchema, uniqueListOf(textSchema))))),
		"verdict":    describe("allow, deny: policy's answer; drop, reject, record: what becomes of the flow", oneOf(caseVerdicts...)),
		"statement":  describe("id of the statement that decides", textSchema),
	}, "case", "from", "port", "verdict")
	c["oneOf"] = []node{{"required": []string{"to"}}, {"required": []string{"name"}}}
	return object(node{"schema": constant(TestsSchema), "tests": listOf(c)}, "schema", "tests")
}
