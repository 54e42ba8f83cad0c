package main

import (
	"encoding/json"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

type listedPackage struct {
	ImportPath string
	Dir        string
	Imports    []string
	GoFiles    []string
}

func listPackages(t *testing.T) []listedPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,Imports,GoFiles", "gatehouse/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listedPackage
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for dec.More() {
		var p listedPackage
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

// arrows are the imports of ours that each package may have.
var arrows = map[string][]string{
	"policy":                  {},
	"policy/ruleset":          {},
	"document":                {},
	"models":                  {"document", "policy"},
	"operator":                {"document", "models", "policy"},
	"classify/appid":          {"policy"},
	"control/inventory":       {"policy"},
	"classify":                {"classify/appid", "policy"},
	"control/statefile":       {},
	"control/history":         {"policy"},
	"control/suggest":         {"control/history", "policy"},
	"control/docker":          {"control/inventory", "control/statefile", "policy"},
	"control/compose":         {"control/docker", "policy"},
	"control":                 {"control/inventory", "control/statefile", "document", "models", "operator", "policy"},
	"classify/lookup":         {"classify", "policy"},
	"dataplane":               {"classify", "classify/lookup", "policy"},
	"dataplane/dataplanetest": {"classify", "dataplane", "policy"},
	"dataplane/steer":         {"classify", "dataplane", "policy"},
	"dataplane/afxdp":         {"classify", "dataplane", "dataplane/namespace", "policy"},
	"dataplane/tun":           {"classify", "dataplane", "dataplane/namespace", "policy"},
	"bench":                   {"classify", "classify/appid", "control", "control/inventory", "dataplane", "dataplane/afxdp", "dataplane/capture", "dataplane/namespace", "dataplane/replay", "dataplane/steer", "dataplane/tun", "document", "models", "policy", "policy/ruleset", "policy/ruleset/rulesettest"},

	"policy/ruleset/rulesettest":    {"policy/ruleset"},
	"dataplane/capture":             {},
	"dataplane/namespace":           {},
	"dataplane/capture/capturetest": {},
	"dataplane/replay":              {"classify", "classify/appid", "dataplane/capture", "policy"},
}

func TestImportArrows(t *testing.T) {
	for _, p := range listPackages(t) {
		name := strings.TrimPrefix(p.ImportPath, "gatehouse/")
		if strings.HasPrefix(name, "cmd/") || strings.HasPrefix(name, "deploy/") {
			continue
		}
		allowed, ok := arrows[name]
		if !ok {
			t.Errorf("package %s has no arrows: add it to the map, or fold it into a package that has", name)
			continue
		}
		for _, i := range p.Imports {
			if ours, isOurs := strings.CutPrefix(i, "gatehouse/"); isOurs && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s", name, ours)
			}
		}
	}
}

// outside packages that one package of ours wraps, so that swapping one
// touches one folder.
var wrapped = map[string][]string{
	"github.com/asavie/xdp":               {"dataplane/afxdp"},
	"github.com/songgao/water":            {"dataplane/tun"},
	"github.com/fsouza/go-dockerclient":   {"control/docker"},
	"github.com/moby/moby/client":         {"control/docker"},
	"github.com/google/gopacket/pcapgo":   {"dataplane/capture"},
	"github.com/google/nftables":          {"dataplane/steer", "dataplane/tun"}, // of bridges; of routes
	"github.com/gaissmai/bart":            {"policy"},
	"go.etcd.io/bbolt":                    {"control/history"},
	"github.com/prometheus/client_golang": {"cmd/gatehouse"},
	"github.com/spf13/cobra":              {"cmd/gatehouse"},
	"mvdan.cc/sh/v3":                      {"control/docker"},
}

func TestOneImporter(t *testing.T) {
	for _, p := range listPackages(t) {
		name := strings.TrimPrefix(p.ImportPath, "gatehouse/")
		for _, i := range p.Imports {
			for module, owners := range wrapped {
				if (i == module || strings.HasPrefix(i, module+"/")) && !slices.Contains(owners, name) {
					t.Errorf("%s imports %s; only %v may", name, i, owners)
				}
			}
		}
	}
}

// Each package starts with a paragraph that says what it is for.
func TestPackageDocs(t *testing.T) {
	for _, p := range listPackages(t) {
		doc := ""
		for _, file := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if f.Doc != nil {
				doc += f.Doc.Text()
			}
		}
		if len(p.GoFiles) > 0 && len(strings.Fields(doc)) < 8 {
			t.Errorf("%s: no package comment, or one that says nothing: %q", p.ImportPath, doc)
		}
	}
}
