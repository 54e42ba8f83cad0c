package models

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Change is one difference between two libraries, by the model's name. A model
// that only one of them has is one change with an empty Key.
type Change struct {
	Model   string   `json:"model"`
	From    int      `json:"from,omitempty"` // revision in the first; 0 = it lacks the model
	To      int      `json:"to,omitempty"`   // revision in the second
	Key     string   `json:"key,omitempty"`  // "serves.sql.ports"
	Added   []string `json:"added,omitempty"`
	Removed []string `json:"removed,omitempty"`
}

// Widens reports whether the second library may allow more by it: something was
// added to whom a model calls or serves, to ports or images, or a condition fell.
func (c Change) Widens() bool {
	switch {
	case c.Key == "":
		return c.From == 0
	case strings.HasSuffix(c.Key, ".when"), c.Key == "dns", c.Key == "match.clients":
		return true
	}
	return len(c.Added) > 0 && c.Key != "title" && !strings.HasSuffix(c.Key, ".note")
}

// Diff lists what differs between two libraries, with what models inherit
// written out: what an upgrade or an override changes. Documentation does not
// count.
func Diff(from, to *Library) []Change {
	names := make(map[string]bool)
	for _, l := range []*Library{from, to} {
		for name := range l.byName {
			names[name] = true
		}
	}
	var out []Change
	for _, name := range slices.Sorted(maps.Keys(names)) {
		a, b := from.byName[name], to.byName[name]
		switch {
		case a == nil:
			out = append(out, Change{Model: name, To: b.Revision})
		case b == nil:
			out = append(out, Change{Model: name, From: a.Revision})
		default:
			out = append(out, diffModels(a, b)...)
		}
	}
	return out
}

func diffModels(a, b *Model) []Change {
	old, now := a.flat(), b.flat()
	keys := maps.Clone(old)
	maps.Copy(keys, now)
	var out []Change
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		c := Change{Model: a.Name, From: a.Revision, To: b.Revision, Key: key,
			Added: without(now[key], old[key]), Removed: without(old[key], now[key])}
		if len(c.Added)+len(c.Removed) > 0 {
			out = append(out, c)
		}
	}
	return out
}

// without is a's items that b lacks, in a's order.
func without(a, b []string) []string {
	var out []string
	for _, v := range a {
		if !slices.Contains(b, v) {
			out = append(out, v)
		}
	}
	return out
}

// flat is the model's text by key, entries by their id: "serves.sql.ports" →
// tcp/5432. A list that is given and empty holds the word nobody.
func (m *Model) flat() map[string][]string {
	data, err := m.MarshalJSON()
	var v map[string]any
	if err == nil {
		err = json.Unmarshal(data, &v)
	}
	if err != nil { // a loaded model has been written before
		return map[string][]string{"model": {err.Error()}}
	}
	for _, key := range []string{"schema", "model", "revision", "docs", "override", "extends", "remove"} {
		delete(v, key)
	}
	out := make(map[string][]string)
	flatten(out, "", v)
	return out
}

func flatten(out map[string][]string, key string, v any) {
	switch v := v.(type) {
	case map[string]any:
		if strings.HasSuffix(key, ".when") {
			out[key] = []string{compact(v)}
			return
		}
		for k, item := range v {
			flatten(out, join(key, k), item)
		}
	case []any:
		if len(v) == 0 {
			out[key] = []string{"nobody"}
		}
		for _, item := range v {
			if m, ok := item.(map[string]any); ok && m["id"] != nil {
				id := join(key, fmt.Sprint(m["id"]))
				delete(m, "id")
				out[id] = []string{"entry"}
				flatten(out, id, m)
				continue
			}
			out[key] = append(out[key], compact(item))
		}
	default:
		out[key] = []string{compact(v)}
	}
}

// join puts a dot between the parts of a key.
func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

// compact is a value on one line: "role: proxy, within: shared".
func compact(v any) string {
	switch v := v.(type) {
	case map[string]any:
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, k+": "+compact(v[k]))
		}
		return strings.Join(parts, ", ")
	case []any:
		var parts []string
		for _, item := range v {
			parts = append(parts, compact(item))
		}
		return "[" + strings.Join(parts, "; ") + "]"
	}
	return fmt.Sprint(v)
}

func (c Change) String() string {
	switch {
	case c.From == 0:
		return fmt.Sprintf("%s@%d: new", c.Model, c.To)
	case c.To == 0:
		return fmt.Sprintf("%s@%d: gone", c.Model, c.From)
	}
	var parts []string
	for _, v := range c.Removed {
		parts = append(parts, "-"+v)
	}
	for _, v := range c.Added {
		parts = append(parts, "+"+v)
	}
	revision := fmt.Sprint(c.To)
	if c.From != c.To {
		revision = fmt.Sprintf("%d..%d", c.From, c.To)
	}
	return fmt.Sprintf("%s@%s: %s %s", c.Model, revision, cmp.Or(c.Key, "model"), strings.Join(parts, " "))
}
