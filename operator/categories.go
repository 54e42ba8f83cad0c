package operator

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"gatehouse/document"
	"gatehouse/models"
	"gatehouse/policy"
)

// Kind says what values a category has. The zero value is one text.
type Kind struct {
	Levels []string // ordered, the lowest first
	Set    bool     // any number of texts
}

func ordered(levels []string) Kind { return Kind{Levels: levels} }

// faults are what is wrong with comparing a value of the kind so.
func (k Kind) faults(tests []Test) []string {
	var out []string
	for _, t := range tests {
		switch {
		case t.Op == OpHas && !k.Set:
			out = append(out, "has is for sets; want eq, ne or in")
		case t.Op != OpHas && k.Set:
			out = append(out, fmt.Sprintf("%s is not for sets; want has", t.Op))
		case (t.Op == OpGte || t.Op == OpLte) && k.Levels == nil:
			out = append(out, fmt.Sprintf("%s is for what is ordered; want eq, ne or in", t.Op))
		}
		for _, v := range t.Values {
			if k.Levels != nil && !slices.Contains(k.Levels, v) {
				out = append(out, fmt.Sprintf("%q is none of %s", v, strings.Join(k.Levels, ", ")))
			}
		}
	}
	return out
}

// Comparison is what a term asks of one category.
type Comparison struct {
	Category string
	Tests    []Test
	Unknown  bool // a deny that means what has no value too
}

func (c *Comparison) String() string {
	var parts []string
	for _, t := range c.Tests {
		parts = append(parts, c.Category+t.String())
	}
	if c.Unknown {
		return strings.Join(parts, "&") + "|unknown"
	}
	return strings.Join(parts, "&")
}

func (d *decoder) comparisons(n *yaml.Node, key string) []Comparison {
	var out []Comparison
	d.Named(n, key, func(name string, n *yaml.Node, key string) {
		c := Comparison{Category: name}
		c.Tests = d.tests(n, key, &c.Unknown)
		out = append(out, c)
	})
	slices.SortFunc(out, func(a, b Comparison) int { return strings.Compare(a.Category, b.Category) })
	if n.Kind == yaml.MappingNode && len(n.Content) == 0 {
		d.Fault(n, key, "names no category")
	}
	return out
}

// Source is one system of record as its file declares it. Its records stand in
// the file itself, or in another file or behind a URL.
type Source struct {
	Name    string
	Kinds   map[string]Kind
	Records Records
	// Path names the file with the records, URL where they are fetched.
	Path, URL string
	Every     time.Duration // between two fetches
	Timeout   time.Duration // of one
	MaxBytes  int64         // of an answer
	File      string        // where it is declared
	Line      int
}

// Records is what a system of record says.
type Records struct {
	Records []Record `json:"records"`
	Threat  Threat   `json:"threat"`
}

// Record gives values to what fits all keys of its match that are not empty.
type Record struct {
	Image   string              `json:"image,omitempty"`   // normalised repository
	Service string              `json:"service,omitempty"` // NAME or PROJECT/NAME
	Label   string              `json:"label,omitempty"`   // KEY=VALUE
	CIDR    netip.Prefix        `json:"cidr,omitzero"`
	Set     map[string][]string `json:"set"` // category -> values; several only in sets
}

// Bounds of what a system of record may say.
const (
	MaxRecords = 100_000
	// maxPlaces bounds records of addresses outside: each is a prefix in the table.
	maxPlaces = 10_000

	defaultEvery    = 5 * time.Minute
	defaultTimeout  = 10 * time.Second
	defaultMaxBytes = 4 << 20
	maxMaxBytes     = 64 << 20
)

// decodeSources reads the files with categories.
func decodeSources(files []document.File, faults *document.Faults) []Source {
	var out []Source
	document.Split(files, faults, func(doc *yaml.Node, file string) {
		d := &decoder{document.NewDecoder(file, faults)}
		root := d.Root(doc)
		if root == nil {
			return
		}
		s := Source{Name: strings.TrimSuffix(filepath.Base(file), filepath.Ext(file)), File: file, Line: root.Line,
			Every: defaultEvery, Timeout: defaultTimeout, MaxBytes: defaultMaxBytes, Kinds: make(map[string]Kind)}
		var threat string
		d.Object(root, "", map[string]document.Reader{
			"schema":     d.schema(CategoriesSchema),
			"source":     func(n *yaml.Node, key string) { d.source(n, key, &s) },
			"categories": func(n *yaml.Node, key string) { d.kinds(n, key, s.Kinds) },
			"records":    func(*yaml.Node, string) {}, // read once the kinds are known
			"threat":     d.oneOf(&threat, threatNames...),
		}, "schema", "source", "categories")
		s.Records.Threat, _ = ParseThreat(threat)
		if records := valueOf(root, "records"); records != nil {
			s.Records.Records = d.records(records, "records", s.Kinds)
		}
		for _, other := range out {
			if other.Name == s.Name {
				d.Fault(root, "source", "%s is also declared in %s:%d", s.Name, other.File, other.Line)
			}
			for name, kind := range s.Kinds {
				if k, ok := other.Kinds[name]; ok && (k.Set != kind.Set || !slices.Equal(k.Levels, kind.Levels)) {
					d.Fault(root, "categories."+name, "is of another kind in %s:%d", other.File, other.Line)
				}
			}
		}
		out = append(out, s)
	})
	return out
}

func (d *decoder) source(n *yaml.Node, key string, s *Source) {
	if n.Kind == yaml.ScalarNode {
		d.Identifier(&s.Name)(n, key)
		return
	}
	var path string
	d.Object(n, key, map[string]document.Reader{
		"name":      d.Identifier(&s.Name),
		"file":      d.Text(&path),
		"url":       d.Matching(&s.URL, "an http or https URL without user and password", isRecordURL),
		"every":     d.duration(&s.Every, 10*time.Second, 24*time.Hour),
		"timeout":   d.duration(&s.Timeout, time.Second, time.Minute),
		"max_bytes": d.size(&s.MaxBytes),
	})
	if (path == "") == (s.URL == "") {
		d.Fault(n, key, "want one of file and url")
	}
	if path != "" {
		s.Path = path
		if !filepath.IsAbs(path) {
			s.Path = filepath.Join(filepath.Dir(d.File), path)
		}
	}
}

func isRecordURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil
}

func (d *decoder) duration(dst *time.Duration, lo, hi time.Duration) document.Reader {
	return func(n *yaml.Node, key string) {
		v, err := time.ParseDuration(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil || v < lo || v > hi {
			d.Fault(n, key, "%q: want a duration from %s to %s", n.Value, lo, hi)
			return
		}
		*dst = v
	}
}

func (d *decoder) size(dst *int64) document.Reader {
	return func(n *yaml.Node, key string) {
		v, err := strconv.ParseInt(n.Value, 10, 64)
		if n.Kind != yaml.ScalarNode || err != nil || v < 1 || v > maxMaxBytes {
			d.Fault(n, key, "%q: want a number of bytes up to %d", n.Value, maxMaxBytes)
			return
		}
		*dst = v
	}
}

func (d *decoder) kinds(n *yaml.Node, key string, kinds map[string]Kind) {
	d.Named(n, key, func(name string, n *yaml.Node, key string) {
		var k Kind
		var text bool
		var id string
		d.Identifier(&id)(&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: name, Line: n.Line}, key)
		d.Object(n, key, map[string]document.Reader{
			"ordered": d.List(&k.Levels, d.Scalar),
			"set":     d.Boolean(&k.Set),
			"text":    d.Boolean(&text),
		})
		if len(n.Content) != 2 || k.Levels == nil && !k.Set && !text {
			d.Fault(n, key, "want one of ordered: [LOWEST, ...], set: true and text: true")
		}
		if k.Levels != nil && len(k.Levels) < 2 {
			d.Fault(n, key+".ordered", "want at least two levels")
		}
		kinds[name] = k
	})
}

func (d *decoder) records(n *yaml.Node, key string, kinds map[string]Kind) []Record {
	var out []Record
	if len(n.Content) > MaxRecords {
		d.Fault(n, key, "%d records: more than %d", len(n.Content), MaxRecords)
		return nil
	}
	d.Sequence(n, key, func(n *yaml.Node, key string) {
		r := Record{Set: make(map[string][]string)}
		d.Object(n, key, map[string]document.Reader{
			"match": func(n *yaml.Node, key string) {
				var image, cidr string
				d.Object(n, key, map[string]document.Reader{
					"image": d.Text(&image), "service": d.Text(&r.Service), "label": d.Text(&r.Label), "cidr": d.Text(&cidr),
				})
				if problem := r.setMatch(image, cidr); problem != "" {
					d.Fault(n, key, "%s", problem)
				}
			},
			"set": func(n *yaml.Node, key string) {
				d.Named(n, key, func(name string, n *yaml.Node, key string) {
					values := []string{}
					if kinds[name].Set && n.Kind == yaml.SequenceNode {
						d.List(&values, d.Scalar)(n, key)
					} else if v, ok := d.Scalar(n, key); ok {
						values = append(values, v)
					}
					if problem := r.setValues(name, values, kinds); problem != "" {
						d.Fault(n, key, "%s", problem)
					}
				})
			},
		}, "match", "set")
		out = append(out, r)
	})
	if places := slices.DeleteFunc(slices.Clone(out), func(r Record) bool { return !r.isPlace() }); len(places) > maxPlaces {
		d.Fault(n, key, "%d records of addresses: more than %d", len(places), maxPlaces)
	}
	return out
}

// isPlace reports whether the record places addresses, whoever has them.
func (r *Record) isPlace() bool {
	return r.CIDR.IsValid() && r.Image == "" && r.Service == "" && r.Label == ""
}

// setMatch checks the keys of a match; what is wrong comes back as text.
func (r *Record) setMatch(image, cidr string) string {
	if image != "" {
		repository, tag, digest, err := policy.NormalizeImage(image)
		if err != nil || tag != "" || digest != "" {
			return fmt.Sprintf("image %q: want a repository without tag and digest", image)
		}
		r.Image = repository
	}
	if r.Service != "" && !models.IsServiceName(r.Service) {
		return fmt.Sprintf("service %q: want NAME or PROJECT/NAME", r.Service)
	}
	if r.Label != "" && strings.Index(r.Label, "=") < 1 {
		return fmt.Sprintf("label %q: want KEY=VALUE", r.Label)
	}
	if cidr != "" {
		if !strings.Contains(cidr, "/") {
			if a, err := netip.ParseAddr(cidr); err == nil {
				cidr = netip.PrefixFrom(a, a.BitLen()).String()
			}
		}
		if !models.IsPrefix(cidr) {
			return fmt.Sprintf("cidr %q: want an address, or a prefix without host bits", cidr)
		}
		r.CIDR = netip.MustParsePrefix(cidr)
		if r.CIDR.Addr().Is4In6() {
			return fmt.Sprintf("cidr %q: write IPv4 as IPv4", cidr)
		}
	}
	if r.Image == "" && r.Service == "" && r.Label == "" && !r.CIDR.IsValid() {
		return "matches everything; name an image, a service, a label or a cidr"
	}
	return ""
}

func (r *Record) setValues(name string, values []string, kinds map[string]Kind) string {
	kind, known := kinds[name]
	if !known {
		return fmt.Sprintf("no category %q is declared", name)
	}
	for _, v := range values {
		if kind.Levels != nil && !slices.Contains(kind.Levels, v) {
			return fmt.Sprintf("%q is none of %s", v, strings.Join(kind.Levels, ", "))
		}
	}
	r.Set[name] = values
	return ""
}

// ParseRecords reads what a system of record answered or what its file holds: a
// document with records and threat in YAML or JSON, or CSV where isCSV. name
// stands for it in faults.
func ParseRecords(data []byte, name string, isCSV bool, kinds map[string]Kind) (Records, error) {
	var faults document.Faults
	var out Records
	if isCSV {
		out.Records = parseCSV(data, name, kinds, &faults)
		return out, faults.Err()
	}
	if json.Valid(data) { // YAML's reader minds tabs; JSON has none inside strings
		data = bytes.ReplaceAll(data, []byte{'\t'}, []byte{' '})
	}
	document.Split([]document.File{{Name: name, Data: data}}, &faults, func(doc *yaml.Node, file string) {
		d := &decoder{document.NewDecoder(file, &faults)}
		root := d.Root(doc)
		if root == nil {
			d.Fault(doc, "", "want one document with records")
			return
		}
		var threat string
		d.Object(root, "", map[string]document.Reader{
			"schema":  d.schema(CategoriesSchema),
			"records": func(n *yaml.Node, key string) { out.Records = append(out.Records, d.records(n, key, kinds)...) },
			"threat":  d.oneOf(&threat, threatNames...),
		}, "records")
		level, _ := ParseThreat(threat)
		out.Threat = max(out.Threat, level)
	})
	return out, faults.Err()
}

// parseCSV reads a table with a line of names: image, service, label and cidr are
// what a record matches, the others are categories. The values of a set are
// separated by '|'; an empty field says nothing.
func parseCSV(data []byte, name string, kinds map[string]Kind, faults *document.Faults) []Record {
	r := csv.NewReader(bytes.NewReader(data))
	r.TrimLeadingSpace = true
	rows, err := r.ReadAll()
	if err != nil || len(rows) == 0 {
		faults.Add(&document.Fault{File: name, Text: fmt.Sprintf("not CSV with a first line of names: %v", err)})
		return nil
	}
	if len(rows) > MaxRecords {
		faults.Add(&document.Fault{File: name, Text: fmt.Sprintf("%d records: more than %d", len(rows), MaxRecords)})
		return nil
	}
	header := rows[0]
	var out []Record
	for i, row := range rows[1:] {
		rec := Record{Set: make(map[string][]string)}
		var image, cidr string
		match := map[string]*string{"image": &image, "service": &rec.Service, "label": &rec.Label, "cidr": &cidr}
		problem := ""
		for col, field := range row {
			key, field := strings.TrimSpace(header[col]), strings.TrimSpace(field)
			dst, isMatch := match[key]
			switch {
			case field == "":
			case strings.ContainsFunc(field, func(r rune) bool { return r < ' ' || r == 0x7f }):
				problem = fmt.Sprintf("%s: want text without control characters, not %q", key, field)
			case isMatch:
				*dst = field
			case kinds[key].Set:
				problem = max(problem, rec.setValues(key, strings.Split(field, "|"), kinds))
			default:
				problem = max(problem, rec.setValues(key, []string{field}, kinds))
			}
		}
		if problem = max(problem, rec.setMatch(image, cidr)); problem != "" {
			faults.Add(&document.Fault{File: name, Line: i + 2, Text: problem})
		}
		out = append(out, rec)
	}
	return out
}

// value is one thing that records say of a category of somebody.
type value struct {
	texts  []string
	proven bool // not only an image's name says so (T4)
}

// Catalog is what all systems of record say at the moment. The zero value says
// nothing.
type Catalog struct {
	kinds    map[string]Kind
	records  map[string][]*Record // by the key that they match first: "image x", "service x", "label x"
	places   map[netip.Prefix]map[string]value
	lengths  [2][]int           // lengths of places, the longest first, of IPv4 and IPv6
	prefixes []netip.Prefix     // of places, and the whole of each family
	said     []map[string]value // what is said of the addresses of prefixes[i] that are in no longer one
	instead  []*Record
}

// NewCatalog joins what the sources say.
func NewCatalog(kinds map[string]Kind, all []Records) *Catalog {
	c := &Catalog{kinds: kinds, records: make(map[string][]*Record), places: make(map[netip.Prefix]map[string]value)}
	for i := range all {
		for j := range all[i].Records {
			c.add(&all[i].Records[j])
		}
	}
	c.sortPlaces()
	return c
}

// maxDiffering bounds the records that Differ has workloads held against.
const maxDiffering = 64

// Differ tells of whom another catalog of the same kinds may say something else. It is
// false where that is somebody outside, or where too many records differ.
func (c *Catalog) Differ(o *Catalog) (of func(*policy.Workload) bool, ok bool) {
	same := func(a, b value) bool { return a.proven == b.proven && slices.Equal(a.texts, b.texts) }
	if len(c.instead)+len(o.instead) > 0 || !maps.EqualFunc(c.places, o.places, func(a, b map[string]value) bool { return maps.EqualFunc(a, b, same) }) {
		return nil, false
	}
	var differing []*Record
	note := func(c, o *Catalog) {
		for key, records := range c.records {
			if !slices.EqualFunc(records, o.records[key], (*Record).equal) {
				differing = append(differing, records...)
			}
		}
	}
	note(c, o)
	note(o, c)
	return func(w *policy.Workload) bool {
		return slices.ContainsFunc(differing, func(r *Record) bool { return r.fits(w) })
	}, len(differing) <= maxDiffering
}

func (r *Record) equal(o *Record) bool {
	return r.Image == o.Image && r.Service == o.Service && r.Label == o.Label && r.CIDR == o.CIDR && maps.EqualFunc(r.Set, o.Set, slices.Equal)
}

// sortPlaces prepares prefixes for at.
func (c *Catalog) sortPlaces() {
	prefixes := map[netip.Prefix]bool{netip.PrefixFrom(netip.IPv4Unspecified(), 0): true, netip.PrefixFrom(netip.IPv6Unspecified(), 0): true}
	for p := range c.places {
		prefixes[p] = true
		family := 0
		if p.Addr().Is6() {
			family = 1
		}
		if !slices.Contains(c.lengths[family], p.Bits()) {
			c.lengths[family] = append(c.lengths[family], p.Bits())
		}
	}
	for _, l := range c.lengths {
		slices.SortFunc(l, func(a, b int) int { return b - a })
	}
	c.prefixes = slices.SortedFunc(maps.Keys(prefixes), func(a, b netip.Prefix) int {
		if d := a.Addr().Compare(b.Addr()); d != 0 {
			return d
		}
		return a.Bits() - b.Bits()
	})
	c.said = nil
	for _, p := range c.prefixes {
		c.said = append(c.said, c.within(p))
	}
}

func (c *Catalog) add(r *Record) {
	if r.isPlace() {
		p := r.CIDR
		if c.places[p] == nil {
			c.places[p] = make(map[string]value)
		}
		for name, texts := range r.Set {
			old := c.places[p][name]
			c.places[p][name] = value{append(slices.Clone(old.texts), texts...), true}
		}
		return
	}
	key := "label " + r.Label
	switch {
	case r.Image != "":
		key = "image " + r.Image
	case r.Service != "":
		key = "service " + r.Service
	}
	c.records[key] = append(c.records[key], r)
}

// ofWorkload lists what is said of one category of a workload; proven says that
// the image is what its name says.
func (c *Catalog) ofWorkload(w *policy.Workload, category string, proven bool) []value {
	if said, ok := c.insteadOf(w, category); ok {
		return said
	}
	var out []value
	keys := []string{"image " + w.Image.Repository, "service " + w.Service.Name, "service " + w.Service.String()}
	for k, l := range w.Labels {
		if l.By == policy.SetByDeployer {
			keys = append(keys, "label "+k+"="+l.Value)
		}
	}
	slices.Sort(keys)
	for _, key := range slices.Compact(keys) {
		for _, r := range c.records[key] {
			if texts, ok := r.Set[category]; ok && r.fits(w) {
				out = append(out, value{texts, proven || r.Image == ""})
			}
		}
	}
	for _, e := range w.Endpoints {
		for _, ip := range e.Addresses {
			if v, ok := c.at(ip.Unmap())[category]; ok {
				out = append(out, v)
			}
		}
	}
	return out
}

// fits compares all that the record matches.
func (r *Record) fits(w *policy.Workload) bool {
	if r.Image != "" && r.Image != w.Image.Repository || r.Service != "" && r.Service != w.Service.Name && !w.Service.Is(r.Service) {
		return false
	}
	if k, v, _ := strings.Cut(r.Label, "="); r.Label != "" && w.Labels[k] != (policy.Label{Value: v, By: policy.SetByDeployer}) {
		return false
	}
	return !r.CIDR.IsValid() || slices.ContainsFunc(w.Endpoints, func(e policy.Endpoint) bool {
		return slices.ContainsFunc(e.Addresses, func(ip netip.Addr) bool { return r.CIDR.Contains(ip.Unmap()) })
	})
}

// isService: NAME is a service of that name in any project, PROJECT/NAME one.
func isService(name string, k policy.ServiceKey) bool {
	return name == k.String() || name == k.Name
}

// at is what is said of an address: of each category what the longest prefix
// says that says anything of it.
func (c *Catalog) at(ip netip.Addr) map[string]value {
	family := 0
	if ip.Is6() {
		family = 1
	}
	var out map[string]value
	for _, bits := range c.lengths[family] {
		p, _ := ip.Prefix(bits)
		for name, v := range c.places[p] {
			if _, have := out[name]; !have {
				if out == nil {
					out = make(map[string]value)
				}
				out[name] = v
			}
		}
	}
	return out
}

// compare reports whether what is said passes a comparison. What several records
// say differently counts against an allow and for a deny: an allow wants all of
// it to pass and something of it proven, a deny any.
func (c *Catalog) compare(said []value, want *Comparison, loosens bool) bool {
	kind := c.kinds[want.Category]
	if loosens && !slices.ContainsFunc(said, func(v value) bool { return v.proven }) {
		return false
	}
	if len(said) == 0 {
		return want.Unknown
	}
	if kind.Set {
		have := make(map[string]bool)
		for _, v := range said {
			for _, text := range v.texts {
				have[text] = have[text] || v.proven || !loosens
			}
		}
		return !slices.ContainsFunc(want.Tests, func(t Test) bool { return !have[t.Values[0]] })
	}
	passes := func(text string) bool {
		return !slices.ContainsFunc(want.Tests, func(t Test) bool { return !t.holds(text, kind.Levels) })
	}
	for _, v := range said {
		for _, text := range v.texts {
			if passes(text) != loosens {
				return !loosens
			}
		}
	}
	return loosens
}

// outside lists the addresses, of those outside all workloads, that pass all
// comparisons: disjoint prefixes.
func (c *Catalog) outside(want []Comparison, loosens bool) []netip.Prefix {
	passes := func(said map[string]value) bool {
		return !slices.ContainsFunc(want, func(w Comparison) bool {
			var values []value
			if v, ok := said[w.Category]; ok {
				values = []value{v}
			}
			return !c.compare(values, &w, loosens)
		})
	}
	var out []netip.Prefix
	for i, p := range c.prefixes {
		if !passes(c.said[i]) {
			continue
		}
		inside := i + 1 // those inside it follow it
		for inside < len(c.prefixes) && p.Contains(c.prefixes[inside].Addr()) {
			inside++
		}
		out = append(out, subtract(p, c.prefixes[i+1:inside])...)
	}
	return out
}

// within is what is said of the addresses of p that are in no longer prefix.
func (c *Catalog) within(p netip.Prefix) map[string]value {
	out := make(map[string]value)
	for bits := p.Bits(); bits >= 0; bits-- {
		outer, _ := p.Addr().Prefix(bits)
		for name, v := range c.places[outer] {
			if _, have := out[name]; !have {
				out[name] = v
			}
		}
	}
	return out
}

// subtract cuts the holes, which are inside it, out of a prefix.
func subtract(p netip.Prefix, holes []netip.Prefix) []netip.Prefix {
	if len(holes) == 0 {
		return []netip.Prefix{p}
	}
	if slices.ContainsFunc(holes, func(h netip.Prefix) bool { return h.Bits() <= p.Bits() }) {
		return nil
	}
	var out []netip.Prefix
	for _, half := range halves(p) {
		out = append(out, subtract(half, slices.DeleteFunc(slices.Clone(holes), func(h netip.Prefix) bool { return !half.Overlaps(h) }))...)
	}
	return out
}

func halves(p netip.Prefix) [2]netip.Prefix {
	lower := netip.PrefixFrom(p.Addr(), p.Bits()+1)
	b := p.Addr().AsSlice()
	b[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	upper, _ := netip.AddrFromSlice(b)
	return [2]netip.Prefix{lower, netip.PrefixFrom(upper, p.Bits()+1)}
}

// Fits reports whether records say only what categories of these kinds can hold.
func Fits(r Records, kinds map[string]Kind) bool {
	for _, rec := range r.Records {
		for name, values := range rec.Set {
			probe := Record{Set: make(map[string][]string)}
			if probe.setValues(name, values, kinds) != "" || len(values) != 1 && !kinds[name].Set {
				return false
			}
		}
	}
	return true
}
