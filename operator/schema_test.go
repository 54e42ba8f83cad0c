package operator

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

func compiledSchema(t *testing.T, kind string) *jsonschema.Schema {
	t.Helper()
	data, ok := Schema(kind)
	if !ok {
		t.Fatalf("no schema of %s", kind)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(kind+".json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(kind + ".json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// valid says what the schema thinks of a YAML document.
func valid(t *testing.T, s *jsonschema.Schema, text string) error {
	t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		return err
	}
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(doc)
}

// The schema accepts what the decoder does, and refuses what is wrong in form.
func TestSchemas(t *testing.T) {
	statements, categories := compiledSchema(t, "statements"), compiledSchema(t, "categories")
	for _, text := range []string{
		allowing(""), denying("    when: {threat: {gte: high}, time: {days: [mon], from: '22:00', to: '06:00', zone: UTC}}\n    except: [{app: [http]}]\n    expires: '2027-01-01T00:00:00Z'\n"),
		denying("") + "modes: {shop/db: enforce}\n", strings.Replace(denying(""), "from: [{peer: any}]", "from: []", 1),
		strings.Replace(denying(""), "{peer: any}", "{category: {risk: {gte: high, unknown: true}, value: {has: x}}}", 1),
	} {
		if err := valid(t, statements, text); err != nil {
			t.Errorf("%v of\n%s", err, text)
		}
	}
	for _, text := range []string{
		allowing("    unless: x\n"), strings.Replace(allowing(""), "/v1", "/v9", 1), strings.Replace(allowing(""), "    why: a test\n", "", 1),
		strings.Replace(allowing(""), "[tcp/80]", "[any]", 1), strings.Replace(allowing(""), "[http]", "[htp]", 1), strings.Replace(allowing(""), "{peer: internet}", "{}", 1),
		strings.Replace(allowing(""), "    from: [{service: shop/web}]\n", "", 1), allowing("    except: [{app: [ssh]}]\n"), denying("    except: [{}]\n"), denying("    when: {}\n"),
		denying("    when: {time: {days: [mon]}}\n"), strings.Replace(allowing(""), "service: shop/web", "role: databse", 1), strings.Replace(allowing(""), "a test", `"a\x1b"`, 1),
	} {
		if _, err := decode(t, text, catalogText); err == nil {
			t.Errorf("the decoder accepts\n%s", text)
		}
		if valid(t, statements, text) == nil {
			t.Errorf("the schema accepts\n%s", text)
		}
	}
	for _, text := range []string{catalogText, strings.Replace(catalogText, "cmdb", "{url: 'https://cmdb.example/r', every: 1m, timeout: 5s, max_bytes: 100}", 1), strings.Replace(catalogText, "cmdb", "{file: r.csv}", 1)} {
		if err := valid(t, categories, text); err != nil {
			t.Errorf("%v of\n%s", err, text)
		}
	}
	for old, new := range map[string]string{"source: cmdb\n": "", "{text: true}": "{}", "[low, medium, high]": "[low]", "{image: redis}": "{}", "cmdb": "{every: 1m}", "{set: true}": "{set: 1}"} {
		if valid(t, categories, strings.Replace(catalogText, old, new, 1)) == nil {
			t.Errorf("the schema accepts %q in place of %q", new, old)
		}
	}
}

func TestModelSchema(t *testing.T) {
	s := compiledSchema(t, "models")
	files, err := filepath.Glob("../models/library/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no library: %v", err)
	}
	var first string
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for doc := range strings.SplitSeq(string(text), "\n---\n") {
			if err := valid(t, s, doc); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		first = string(text)
	}
	for old, new := range map[string]string{"schema: gatehouse.model/v1": "schema: x", "revision: ": "revision: x", "match:": "mtch:", "title:": "roles: [king]\nx:"} {
		if valid(t, s, strings.Replace(first, old, new, 1)) == nil {
			t.Errorf("the schema accepts %q in place of %q", new, old)
		}
	}
}
