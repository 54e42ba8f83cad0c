package models

import (
	"slices"
	"strings"
	"testing"
)

const diffHead = `schema: gatehouse.model/v1
model: custom
revision: 1
title: custom
---
`

func aloneWith(t *testing.T, text string) *Library {
	t.Helper()
	l, err := NewLibrary(loadModels(t, diffHead+text))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// What an upgrade changes is told key by key, and whether it may allow more.
func TestDiff(t *testing.T) {
	old := aloneWith(t, `schema: gatehouse.model/v1
model: store
revision: 1
title: Store
roles: [database]
docs: ["https://example.org/1"]
dns: none
match: {images: [a/store]}
serves:
  - {id: sql, app: postgresql, ports: [tcp/5432], to: [{role: app-server}, {role: web-server}]}
  - {id: admin, kind: admin, app: http, ports: [tcp/8080], to: []}
---
{schema: gatehouse.model/v1, model: gone, revision: 3, title: gone, match: {images: [a/gone]}}
`)
	now := aloneWith(t, `schema: gatehouse.model/v1
model: store
revision: 2
title: Store
roles: [database]
docs: ["https://example.org/2"]
match: {images: [a/store, b/store]}
serves:
  - {id: sql, app: postgresql, tls: only, ports: [tcp/5432], to: [{role: app-server}], when: {exposed: tcp/5432}}
  - {id: admin, kind: admin, app: http, ports: [tcp/8080], to: [{role: management, within: shared}]}
  - {id: more, app: http, ports: [tcp/80], to: []}
---
{schema: gatehouse.model/v1, model: new, revision: 1, title: new, match: {images: [a/new]}}
`)
	var got []string
	for _, c := range Diff(old, now) {
		line := c.String()
		if c.Widens() {
			line += " !"
		}
		got = append(got, line)
	}
	expect(t, got, []string{
		"gone@3: gone",
		"new@1: new !",
		"store@1..2: dns -none !",
		"store@1..2: match.images +b/store !",
		"store@1..2: serves.admin.to -nobody +role: management, within: shared !",
		"store@1..2: serves.more +entry !",
		"store@1..2: serves.more.app +http !",
		"store@1..2: serves.more.ports +tcp/80 !",
		"store@1..2: serves.more.to +nobody !",
		"store@1..2: serves.sql.tls +only !",
		"store@1..2: serves.sql.to -role: web-server",
		"store@1..2: serves.sql.when +exposed: tcp/5432 !",
	})
	if d := Diff(now, now); len(d) > 0 {
		t.Errorf("from itself: %v", d)
	}
}

// What an operator's override does to the library is what it says.
func TestDiffOverride(t *testing.T) {
	own := withOperator(t, `schema: gatehouse.model/v1
model: redis
revision: 9
override: true
extends: redis
remove: [resp-tls]
`)
	var keys []string
	for _, c := range Diff(builtinLibrary(t), own) {
		if c.Model == "redis" {
			keys = append(keys, c.Key)
		}
	}
	if !slices.Contains(keys, "serves.resp-tls") || slices.ContainsFunc(keys, func(k string) bool { return !strings.HasPrefix(k, "serves.resp-tls") }) {
		t.Errorf("%v", keys)
	}
}
