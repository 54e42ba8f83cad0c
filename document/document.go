// Package document reads the YAML files that people write for Gatehouse
// (models, statements, categories) strictly: unknown keys, anchors, repeated
// keys and values of the wrong kind are faults, and each names file, line and
// key. What a key means is its caller's.
//
// A Decoder is for one document and one goroutine.
package document

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxDepth bounds nested collections.
const maxDepth = 32

var identifierPattern = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

// Reader decodes one value; key is its path in the document.
type Reader func(n *yaml.Node, key string)

// Decoder reads one document.
type Decoder struct {
	File   string
	Lines  map[string]int // where the keys that were met stand: "serves[1].ports[0]" → line
	Faults *Faults
}

// NewDecoder returns a Decoder for a document of that file.
func NewDecoder(file string, faults *Faults) *Decoder {
	return &Decoder{File: file, Lines: make(map[string]int), Faults: faults}
}

// Fault adds what is wrong with the value n at key.
func (d *Decoder) Fault(n *yaml.Node, key, format string, args ...any) {
	// n may be the map that should have had the key, or that has it further down.
	line := max(n.Line, d.Lines[key])
	d.Faults.Add(&Fault{File: d.File, Line: line, Key: key, Text: fmt.Sprintf(format, args...)})
}

// Root returns the document's one value, nil where there is none or it has
// what no file of ours has a use for and a reader could be hurt by: anchors,
// aliases, tags of its own, depth.
func (d *Decoder) Root(doc *yaml.Node) *yaml.Node {
	if len(doc.Content) != 1 || !d.plain(doc, 0) {
		return nil
	}
	return doc.Content[0]
}

func (d *Decoder) plain(n *yaml.Node, depth int) bool {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.Fault(n, "", "anchors and aliases are not allowed; write the value out")
		return false
	case n.Style&yaml.TaggedStyle != 0:
		d.Fault(n, "", "tags such as %s are not allowed", n.Tag)
		return false
	case depth > maxDepth:
		d.Fault(n, "", "nested more than %d deep", maxDepth)
		return false
	}
	for _, c := range n.Content {
		if !d.plain(c, depth+1) {
			return false
		}
	}
	return true
}

// Object reads a mapping with exactly the keys of fields; false where it is no
// mapping.
func (d *Decoder) Object(n *yaml.Node, key string, fields map[string]Reader, required ...string) bool {
	if n.Kind != yaml.MappingNode {
		d.Fault(n, key, "want a map with the keys %s", strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
		return false
	}
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		path := Join(key, name.Value)
		read, known := fields[name.Value]
		switch line, twice := seen[name.Value]; {
		case name.Kind != yaml.ScalarNode || !known:
			d.Fault(name, path, "unknown key; known are %s", strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
			continue
		case twice:
			d.Fault(name, path, "is also in line %d", line)
			continue
		}
		seen[name.Value] = name.Line
		d.Lines[path] = name.Line
		if value.ShortTag() == "!!null" {
			d.Fault(name, path, "has no value; leave the key out, or write [] for an empty list")
			continue
		}
		read(value, path)
	}
	for _, name := range required {
		if _, ok := seen[name]; !ok {
			d.Fault(n, Join(key, name), "is required")
		}
	}
	return true
}

// Named reads a mapping whose keys the document's author chooses; each name is
// text, and is there once.
func (d *Decoder) Named(n *yaml.Node, key string, read func(name string, n *yaml.Node, key string)) bool {
	if n.Kind != yaml.MappingNode {
		d.Fault(n, key, "want a map")
		return false
	}
	seen := make(map[string]bool, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, ok := d.Scalar(n.Content[i], key)
		if !ok {
			continue
		}
		path := Join(key, name)
		if seen[name] {
			d.Fault(n.Content[i], path, "is in the map twice")
			continue
		}
		seen[name] = true
		d.Lines[path] = n.Content[i].Line
		read(name, n.Content[i+1], path)
	}
	return true
}

// Join is the path of a key inside key.
func Join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

// Sequence calls read for each item of a list.
func (d *Decoder) Sequence(n *yaml.Node, key string, read Reader) {
	if n.Kind != yaml.SequenceNode {
		d.Fault(n, key, "want a list")
		return
	}
	for i, item := range n.Content {
		path := fmt.Sprintf("%s[%d]", key, i)
		d.Lines[path] = item.Line
		read(item, path)
	}
}

// Scalar returns a text value; numbers, truth values and nothing are not text.
func (d *Decoder) Scalar(n *yaml.Node, key string) (string, bool) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
		d.Fault(n, key, "want text; put %q in quotes if it is meant", n.Value)
		return "", false
	}
	if strings.TrimSpace(n.Value) == "" {
		d.Fault(n, key, "want text, and this is empty")
		return "", false
	}
	if strings.ContainsFunc(n.Value, func(r rune) bool { return r < ' ' && r != '\n' || r == 0x7f }) {
		d.Fault(n, key, "want text without control characters, not %q", n.Value)
		return "", false
	}
	return n.Value, true
}

// Text reads any text.
func (d *Decoder) Text(dst *string) Reader {
	return func(n *yaml.Node, key string) { *dst, _ = d.Scalar(n, key) }
}

// Matching is text that ok accepts; want says what that is.
func (d *Decoder) Matching(dst *string, want string, ok func(string) bool) Reader {
	return func(n *yaml.Node, key string) {
		s, isText := d.Scalar(n, key)
		if !isText {
			return
		}
		if !ok(s) {
			d.Fault(n, key, "%q: want %s", s, want)
			return
		}
		*dst = s
	}
}

// Identifier reads lower-case letters, digits and '-'.
func (d *Decoder) Identifier(dst *string) Reader {
	return d.Matching(dst, "lower-case letters, digits and '-', at most 63", identifierPattern.MatchString)
}

// ID is Identifier as the item of a List.
func (d *Decoder) ID(n *yaml.Node, key string) (string, bool) {
	var s string
	d.Identifier(&s)(n, key)
	return s, s != ""
}

// Boolean reads true or false.
func (d *Decoder) Boolean(dst *bool) Reader {
	return func(n *yaml.Node, key string) {
		if n.Kind != yaml.ScalarNode || n.Value != "true" && n.Value != "false" {
			d.Fault(n, key, "want true or false")
			return
		}
		*dst = n.Value == "true"
	}
}

// Choice reads one of names, of which the index is the value. A "default" in
// names stands for an absent key and cannot be written.
func Choice[T ~uint8](d *Decoder, dst *T, names []string) Reader {
	return func(n *yaml.Node, key string) {
		s, ok := d.Scalar(n, key)
		if !ok {
			return
		}
		i := slices.Index(names, s)
		if i < 0 || s == "default" {
			d.Fault(n, key, "%q: want %s", s, strings.Join(slices.DeleteFunc(slices.Clone(names), func(s string) bool { return s == "default" }), ", "))
			return
		}
		*dst = T(i)
	}
}

// List reads a list of texts without repetition.
func (d *Decoder) List(dst *[]string, item func(n *yaml.Node, key string) (string, bool)) Reader {
	return func(n *yaml.Node, key string) {
		out := []string{}
		d.Sequence(n, key, func(n *yaml.Node, key string) {
			s, ok := item(n, key)
			if !ok {
				return
			}
			if slices.Contains(out, s) {
				d.Fault(n, key, "%s is in the list twice", s)
				return
			}
			out = append(out, s)
		})
		*dst = out
	}
}

// Fault is one thing wrong with a file. Errors that join several keep each;
// errors.As finds the first.
type Fault struct {
	File string
	Line int    // 0 = the file as a whole
	Key  string // "serves[1].ports[0]"; "" = the document as a whole
	Text string // what is wrong and what to write instead
}

func (f *Fault) Error() string {
	var b strings.Builder
	if f.File != "" {
		b.WriteString(f.File)
		if f.Line > 0 {
			fmt.Fprintf(&b, ":%d", f.Line)
		}
		b.WriteString(": ")
	}
	if f.Key != "" {
		b.WriteString(f.Key + ": ")
	}
	b.WriteString(f.Text)
	return b.String()
}

// Faults collects what is wrong, bounded so that a file of garbage gives a
// readable error.
type Faults []error

// MaxFaults is how many faults are kept.
const MaxFaults = 100

// Add adds a fault, up to a bound.
func (l *Faults) Add(f *Fault) {
	switch {
	case len(*l) < MaxFaults:
		*l = append(*l, f)
	case len(*l) == MaxFaults:
		*l = append(*l, errors.New("more faults are not shown"))
	}
}

// Err joins the faults; nil if there are none.
func (l Faults) Err() error { return errors.Join(l...) }
