package models

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"gatehouse/document"
	"gatehouse/policy"
)

// withOperator is the library with one file of the operator's on top.
func withOperator(t *testing.T, text string) *Library {
	t.Helper()
	l, err := loadOperator(text)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func loadOperator(text string) (*Library, error) {
	builtin, err := Builtin()
	if err != nil {
		return nil, err
	}
	own, err := Load(fstest.MapFS{"own.yaml": {Data: []byte(text)}}, true)
	if err != nil {
		return nil, err
	}
	return NewLibrary(builtin, own)
}

const modelHead = "schema: gatehouse.model/v1\nmodel: own\nrevision: 1\ntitle: own\nmatch: {images: [acme/own]}\n"

// withServes is a model with one serves entry; its keys start on line 7.
func withServes(keys string) string {
	return modelHead + "serves:\n  - " + strings.ReplaceAll(keys, "\n", "\n    ")
}

func withCalls(keys string) string { return strings.Replace(withServes(keys), "serves:", "calls:", 1) }

const webKeys = "id: web\napp: http\nports: [tcp/80]\n"

func TestLoadFaults(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"not YAML":             {"schema: [", "own.yaml:1: not YAML"},
		"empty file":           {"", "own.yaml: no document"},
		"a list":               {"- a", "own.yaml:1: want a map"},
		"unknown key":          {modelHead + "servs: []\n", "own.yaml:6: servs: unknown key; known are calls, dns,"},
		"key twice":            {modelHead + "title: x\n", "own.yaml:6: title: is also in line 4"},
		"anchor":               {modelHead + "docs: &a [x]\n", "own.yaml:6: anchors and aliases"},
		"tag":                  {modelHead + "docs: !x [x]\n", "own.yaml:6: tags such as !x"},
		"wrong schema":         {strings.Replace(modelHead, "/v1", "/v2", 1), `own.yaml:1: schema: "gatehouse.model/v2": want gatehouse.model/v1`},
		"no schema":            {strings.Replace(modelHead, "schema: gatehouse.model/v1\n", "", 1), "schema: is required"},
		"no revision":          {strings.Replace(modelHead, "revision: 1\n", "", 1), "revision: is required"},
		"revision 0":           {strings.Replace(modelHead, "revision: 1", "revision: 0", 1), "own.yaml:3: revision: want a whole number from 1"},
		"no title":             {strings.Replace(modelHead, "title: own\n", "", 1), "title: is required"},
		"model name":           {strings.Replace(modelHead, "model: own", "model: Own_1", 1), `own.yaml:2: model: "Own_1": want lower-case`},
		"number as text":       {strings.Replace(modelHead, "title: own", "title: 7", 1), `own.yaml:4: title: want text; put "7" in quotes`},
		"empty match":          {strings.Replace(modelHead, "images: [acme/own]", "", 1), "own.yaml:5: match: empty"},
		"no match":             {strings.Replace(modelHead, "match: {images: [acme/own]}\n", "", 1), "match: empty"},
		"image with tag":       {strings.Replace(modelHead, "acme/own", "acme/own:1", 1), `own.yaml:5: match.images[0]: "acme/own:1": want a repository without tag`},
		"image pattern":        {strings.Replace(modelHead, "acme/own", "acme/*", 1), "own.yaml:5: match.images[0]"},
		"image twice":          {strings.Replace(modelHead, "acme/own", "acme/own, docker.io/acme/own", 1), "is in the list twice"},
		"image of the library": {strings.Replace(modelHead, "acme/own", "docker.io/nginx", 1), "own.yaml:5: match.images[0]: docker.io/library/nginx is also matched by model nginx (library/nginx.yaml:"},
		"label value":          {modelHead[:len(modelHead)-2] + ", labels: {tier: 1}}\n", "own.yaml:5: match.labels.tier: want text"},
		"unknown role":         {modelHead + "roles: [databse]\n", `own.yaml:6: roles[0]: unknown role "databse"; known are database, cache`},
		"document":             {modelHead + "docs: [\"ftp://x/y\"]\n", "own.yaml:6: docs[0]"},
		"dns":                  {modelHead + "dns: some\n", `own.yaml:6: dns: "some": want resolver, names, none`},
		"override of nothing":  {modelHead + "override: true\n", "own.yaml:6: override: there is no model own to replace"},
		"name of the library":  {strings.Replace(modelHead, "model: own", "model: nginx", 1), "own.yaml:2: model: nginx is also in library/nginx.yaml:2; to replace that one, write override: true"},
		"extends nobody":       {modelHead + "extends: ngnix\n", "own.yaml:6: extends: no model named ngnix: is nginx meant?"},
		"extends itself":       {modelHead + "extends: own\n", "own.yaml:6: extends: a model cannot extend itself"},
		"remove unknown":       {modelHead + "extends: nginx\nremove: [webb]\n", "own.yaml:7: remove[0]: nginx has no entry webb"},
		"remove without":       {modelHead + "remove: [web]\n", "own.yaml:6: remove: nothing to remove from"},
		"remove and give":      {modelHead + "extends: nginx\nremove: [web]\nserves: [{id: web, app: http, ports: [tcp/80], to: []}]\n", "own.yaml:7: remove[0]: web is given below"},
		"routes":               {modelHead + "routes: {}\n", "own.yaml:6: routes: names no key"},
		"feature":              {modelHead + "features: {updates: {calls: []}}\n", "own.yaml:6: features.updates.default: is required"},
		"hint of another":      {modelHead[:len(modelHead)-2] + ", hints: {env: [NGINX_VERSION]}}\n", "NGINX_VERSION is already a hint of model nginx"},
		"empty text":           {modelHead + "roles: [\"\"]\n", "want text, and this is empty"},
		"a tab":                {modelHead + "roles:\n\t- database\n", "a tab, most often"},
		"client with a path":   {modelHead[:len(modelHead)-2] + ", clients: [/bin/own]}\n", `own.yaml:5: match.clients[0]: "/bin/own": want the base name of a program`},
		"clients with match":   {strings.NewReplacer("model: own", "model: client-program\noverride: true").Replace(modelHead), "client-program is what fits where a model's match.clients run"},
		"control character":    {modelHead + "roles: [\"a\\u0007\"]\n", "want text without control characters"},
		"custom with match":    {strings.NewReplacer("model: own", "model: custom\noverride: true").Replace(modelHead), "custom is what fits when no model does"},

		"absent to":             {withServes(webKeys), "own.yaml:7: serves[0].to: is required"},
		"to without value":      {withServes(webKeys + "to:"), "own.yaml:10: serves[0].to: has no value; leave the key out, or write []"},
		"no ports":              {withServes("id: a\napp: http\nto: []"), "own.yaml:7: serves[0].ports: is required"},
		"empty ports":           {withServes("id: a\napp: http\nports: []\nto: []"), "own.yaml:9: serves[0].ports: want at least one port"},
		"no app":                {withServes("id: a\nports: [tcp/1]\nto: []"), "serves[0].app: is required"},
		"no id":                 {withServes("app: http\nports: [tcp/1]\nto: []"), "serves[0].id: is required"},
		"port 0":                {withServes("id: a\napp: http\nports: [tcp/0]\nto: []"), `own.yaml:9: serves[0].ports[0]: port "tcp/0": want numbers from 1 to 65535`},
		"port too big":          {withServes("id: a\napp: http\nports: [tcp/65536]\nto: []"), "serves[0].ports[0]"},
		"ports reversed":        {withServes("id: a\napp: http\nports: [tcp/9-8]\nto: []"), "the lower first"},
		"port without protocol": {withServes("id: a\napp: http\nports: [80]\nto: []"), "own.yaml:9: serves[0].ports[0]"},
		"callee in serves":      {withServes("id: a\napp: callee\nports: [tcp/1]\nto: []"), "serves[0].app: callee is only for calls"},
		"callee port in serves": {withServes("id: a\napp: http\nports: [callee]\nto: []"), "serves[0].ports[0]"},
		"published in calls":    {withCalls("id: a\napp: http\nports: [published]\nto: []"), "calls[0].ports[0]"},
		"publish in calls":      {withCalls(webKeys + "to: []\npublish: any"), "own.yaml:11: calls[0].publish: only for serves"},
		"publish default":       {withServes(webKeys + "to: []\npublish: default"), `serves[0].publish: "default": want none, host, site, any`},
		"unknown app":           {withServes("id: a\napp: htpp\nports: [tcp/1]\nto: []"), `own.yaml:8: serves[0].app: unknown application "htpp"`},
		"app none":              {withServes("id: a\napp: none\nports: [tcp/1]\nto: []"), "unknown application"},
		"tls of any":            {withServes("id: a\napp: any\ntls: only\nports: [tcp/1]\nto: []"), "own.yaml:9: serves[0].tls: says nothing with app any"},
		"starttls of http":      {withServes("id: a\napp: http\ntls: starttls\nports: [tcp/1]\nto: []"), "http has no upgrade"},
		"unknown tls":           {withServes("id: a\napp: http\ntls: maybe\nports: [tcp/1]\nto: []"), `"maybe": want none, starttls, optional, only`},
		"id twice":              {modelHead + "serves:\n  - {id: a, app: http, ports: [tcp/1], to: []}\n  - {id: a, app: http, ports: [tcp/2], to: []}\n", "own.yaml:8: serves[1].id: a is already the id"},
		"port_from both":        {withServes(webKeys + "to: []\nport_from: [{env: A, arg: --a}]"), "serves[0].port_from[0]: want one of env"},
		"port_from parse":       {withServes(webKeys + "to: []\nport_from: [{env: A, parse: urls}]"), `"urls": want listeners`},
		"port_from add":         {withServes(webKeys + "to: []\nport_from: [{env: A, add: 0}]"), "serves[0].port_from[0].add: want a whole number from 1 to 65535"},
		"port_from when":        {withServes(webKeys + "to: []\nport_from: [{env: A, when: {}}]"), "serves[0].port_from[0].when: want exactly one condition"},
		"arg value":             {withServes(webKeys + "to: []\nwhen: {arg: --mode=cluster}"), `serves[0].when.arg: "cluster": of an argument's value only`},
		"secret arg":            {withServes(webKeys + "to: []\nwhen: {arg: --requirepass=no}"), "serves[0].when.arg: "},
		"secret key":            {withServes(webKeys + "to: []\nport_from: [{env: DB_PASSWORD}]"), "DB_PASSWORD may hold a secret"},
		"secret flag":           {withServes(webKeys + "to: []\nwhen: {arg: --requirepass}"), "serves[0].when.arg"},
		"when of two":           {withServes(webKeys + "to: []\nwhen: {env: A, arg: --a}"), "serves[0].when: want exactly one condition"},
		"when of none":          {withServes(webKeys + "to: []\nwhen: {}"), "want exactly one condition"},
		"when any of none":      {withServes(webKeys + "to: []\nwhen: {any: []}"), "serves[0].when.any: want at least one condition"},
		"when unknown":          {withServes(webKeys + "to: []\nwhen: {label: a}"), "serves[0].when.label: unknown key"},
		"when too deep":         {withServes(webKeys + "to: []\nwhen: " + strings.Repeat("{not: ", 12) + "{env: A}" + strings.Repeat("}", 12)), "nested more than 8 deep"},

		"peer any":              {withServes(webKeys + "to: [{peer: any}]"), "own.yaml:10: serves[0].to[0]: models never say any"},
		"peer unknown":          {withServes(webKeys + "to: [{peer: lan}]"), `own.yaml:10: serves[0].to[0].peer: "lan": want one of self, siblings`},
		"peer empty":            {withServes(webKeys + "to: [{}]"), "serves[0].to[0]: selects nobody in particular"},
		"peer within only":      {withServes(webKeys + "to: [{within: shared}]"), "selects nobody in particular"},
		"peer word":             {withServes(webKeys + "to: [internet]"), "serves[0].to[0]: want a map"},
		"peer text":             {withServes(webKeys + "to: internet"), "serves[0].to: want a list"},
		"workload":              {withServes(webKeys + "to: [{peer: workload}]"), "peer workload is only for entries of kind metrics"},
		"internet without note": {withCalls(webKeys + "to: [{peer: internet}]"), "own.yaml:10: calls[0].to[0]: internet needs a note"},
		"external without note": {withCalls(webKeys + "to: [{peer: external}]"), "external needs a note"},
		"category":              {withServes(webKeys + "to: [{category: {risk: low}}]"), "categories are for the operator's statements"},
		"unknown model":         {withServes(webKeys + "to: [{model: ngnix}]"), "own.yaml:10: serves[0].to[0].model: no model named ngnix: is nginx meant?"},
		"ref false":             {withServes(webKeys + "to: [{role: database, ref: false}]"), "write true, or leave the key out"},
		"within":                {withServes(webKeys + "to: [{role: database, within: all}]"), `"all": want project or shared`},
		"within outside":        {withCalls(webKeys + "to: [{peer: site, within: shared}]"), "within is for peers that are workloads"},
		"role and name":         {withCalls(webKeys + "to: [{role: database, name: a.example.com}]"), "no peer is all of this at once"},
		"DNS name":              {withCalls(webKeys + "to: [{name: \"https://a.example.com\"}]"), "want a DNS name"},
		"name in the middle":    {withCalls(webKeys + "to: [{name: \"a.*.example.com\"}]"), "want a DNS name"},
		"cidr with host bits":   {withCalls(webKeys + "to: [{cidr: 10.0.0.1/8}]"), "without host bits"},
		"cluster":               {withServes(webKeys + "kind: cluster\nto: [{role: app-server}]"), "cluster entries serve only"},
		"unknown kind":          {withServes(webKeys + "kind: extra\nto: []"), `"extra": want data, admin, metrics, cluster`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := loadOperator(c.text)
			if err == nil {
				t.Fatal("was accepted")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v\nlacks %q", err, c.want)
			}
			var f *Fault
			if !errors.As(err, &f) || f.File != "own.yaml" {
				t.Errorf("no Fault of own.yaml: %#v", f)
			}
		})
	}
}

// All faults come at once, in the order of the file.
func TestLoadReportsAll(t *testing.T) {
	_, err := Load(fstest.MapFS{
		"a.yaml":      {Data: []byte(withServes("id: a\napp: htpp\nports: [tcp/0]\nto: [{peer: any}, {role: dba}]"))},
		"sub/b.yml":   {Data: []byte(strings.Replace(modelHead, "own", "Own", 1))},
		"README.md":   {Data: []byte("no model")},
		".hidden.yml": {Data: []byte("]")},
	}, true)
	if err == nil {
		t.Fatal("was accepted")
	}
	got := err.Error()
	for _, want := range []string{"a.yaml:8: serves[0].app", "a.yaml:9: serves[0].ports[0]", "a.yaml:10: serves[0].to[0]: models never", "a.yaml:10: serves[0].to[1].role", "sub/b.yml:2: model"} {
		i := strings.Index(got, want)
		if i < 0 {
			t.Fatalf("%q is not in, or not in order in\n%s", want, err)
		}
		got = got[i:]
	}
}

func TestLoadGarbageIsBounded(t *testing.T) {
	_, err := Load(fstest.MapFS{"a.yaml": {Data: []byte(modelHead + strings.Repeat("x: 1\n", 10_000))}}, true)
	if err == nil || strings.Count(err.Error(), "\n") > document.MaxFaults {
		t.Errorf("%d lines of error", strings.Count(fmt.Sprint(err), "\n"))
	}
	_, err = Load(fstest.MapFS{"a.yaml": {Data: make([]byte, document.MaxFile+1)}}, true)
	if err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Error(err)
	}
}

// Two models of one tier, in one file or in two.
func TestLoadNamesTwice(t *testing.T) {
	_, err := Load(fstest.MapFS{"a.yaml": {Data: []byte(modelHead)}, "b.yaml": {Data: []byte(modelHead)}}, true)
	if err == nil || !strings.Contains(err.Error(), "b.yaml:2: model: own is also in a.yaml:2") {
		t.Error(err)
	}
	_, err = Load(fstest.MapFS{"a.yaml": {Data: []byte(modelHead + "---\n" + modelHead)}}, true)
	if err == nil || !strings.Contains(err.Error(), "a.yaml:8: model: own is also in a.yaml:2") {
		t.Error(err)
	}
}

// The library's models must name documentation and may not override.
func TestLoadLibraryTier(t *testing.T) {
	for text, want := range map[string]string{
		modelHead:                "docs: the library's models name",
		modelHead + "docs: []\n": "docs: the library's models name",
		modelHead + "docs: [x]\noverride: true\n": "override: only for the operator's",
	} {
		if _, err := Load(fstest.MapFS{"a.yaml": {Data: []byte(text)}}, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

// Nobody and absent are different things, through load and inheritance.
func TestLoadNobody(t *testing.T) {
	l := withOperator(t, withServes(webKeys+"to: []"))
	if e := l.Model("own").Serves[0]; e.To == nil || len(e.To) != 0 {
		t.Errorf("to: %#v", e.To)
	}
}

func TestInherit(t *testing.T) {
	l := withOperator(t, `
schema: gatehouse.model/v1
model: pg-locked
revision: 3
extends: postgresql
match: {images: [acme/pg]}
remove: [standby, primary]
serves:
  - {id: sql, app: postgresql, tls: only, ports: [tcp/6543], to: []}
  - {id: extra, app: http, ports: [tcp/80], to: []}
---
schema: gatehouse.model/v1
model: nginx
revision: 7
override: true
extends: nginx
roles: [web-server]
remove: [fastcgi]
features: {acme: {default: true}}
`)
	m := l.Model("pg-locked")
	if m.Title != "PostgreSQL" || m.DNS != DNSNone || m.Revision != 3 || len(m.Docs) == 0 || m.Ancestors[0] != "postgresql" {
		t.Errorf("%+v", m)
	}
	if len(m.Serves) != 2 || m.Serves[0].TLS != policy.TLSOnly || len(m.Serves[0].To) != 0 || m.Serves[1].ID != "extra" || len(m.Calls) != 0 {
		t.Errorf("serves %+v, calls %+v", m.Serves, m.Calls)
	}
	if len(m.Images) != 1 || m.Images[0] != "docker.io/acme/pg" {
		t.Errorf("images %v", m.Images)
	}
	nginx := l.Model("nginx")
	if nginx.Revision != 7 || len(nginx.Roles) != 1 || hasEntry(nginx.Calls, "fastcgi") || !hasEntry(nginx.Calls, "upstream") || len(nginx.Images) < 3 || !nginx.Operator {
		t.Errorf("%+v", nginx)
	}
	if f := nginx.Features["acme"]; !f.Default || len(f.Calls) != 0 {
		t.Errorf("feature %+v", f)
	}
	original := builtinLibrary(t)
	if m := original.Model("nginx"); m.Revision == 7 || !hasEntry(m.Calls, "fastcgi") || m.Features["acme"].Default {
		t.Error("the library's own model was changed")
	}
	got := l.Match(&policy.Workload{Image: policy.Image{Ref: "nginx"}}, TrustSettings{})
	if got.Model != nginx {
		t.Error("the override is not what matches")
	}
}

func TestInheritCycleAndDepth(t *testing.T) {
	model := func(name, extends string) string {
		text := strings.NewReplacer("own", name).Replace(modelHead)
		if extends != "" {
			text += "extends: " + extends + "\n"
		}
		return text + "---\n"
	}
	_, err := loadOperator(strings.TrimSuffix(model("a", "b")+model("b", "c")+model("c", "a"), "---\n"))
	if err == nil || !strings.Contains(err.Error(), "a cycle") || strings.Count(err.Error(), "\n") != 0 {
		t.Errorf("cycle: %v", err)
	}
	chain := model("a0", "")
	for i := 1; i <= 4; i++ {
		chain += model(fmt.Sprint("a", i), fmt.Sprint("a", i-1))
	}
	if _, err := loadOperator(strings.TrimSuffix(chain, "---\n")); err != nil {
		t.Errorf("depth 4: %v", err)
	}
	chain += model("a5", "a4")
	_, err = loadOperator(strings.TrimSuffix(chain, "---\n"))
	if err == nil || !strings.Contains(err.Error(), "longer than 4") {
		t.Errorf("depth 5: %v", err)
	}
}

func TestValidate(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	right := write("right.yaml", modelHead)
	if err := Validate(right); err != nil {
		t.Error(err)
	}
	if err := Validate(dir); err != nil {
		t.Error(err)
	}
	wrong := write("wrong.yaml", strings.ReplaceAll(modelHead, "own", "other")+"extends: nobody\n")
	for _, name := range []string{wrong, dir} {
		err := Validate(name)
		if err == nil || !strings.Contains(err.Error(), wrong+":6: extends: no model named nobody") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Validate(filepath.Join(dir, "absent.yaml")); err == nil {
		t.Error("a file that does not exist is valid")
	}
}

func FuzzLoad(f *testing.F) {
	for _, name := range []string{"redis", "traefik", "kafka", "custom"} {
		data, err := libraryFiles.ReadFile("library/" + name + ".yaml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for _, text := range []string{"a: &a [*a]", "---\n---\n", modelHead, withServes(webKeys + "to: []"), "? [a]\n: b", "{a: {a: {a: b}}}", "!!binary x", "\xff\xfe", "<<: {a: b}"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ms, err := Load(fstest.MapFS{"a.yaml": {Data: data}}, true)
		if err != nil {
			if len(ms) > 0 {
				t.Fatal("models beside an error")
			}
			return
		}
		for _, m := range ms {
			sameAfterYAML(t, m)
		}
		builtin, err := Builtin()
		if err != nil {
			t.Fatal(err)
		}
		if l, err := NewLibrary(builtin, ms); err == nil {
			for _, m := range l.Models() {
				if m.Operator {
					sameAfterYAML(t, m)
				}
			}
		}
	})
}
