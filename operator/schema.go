package operator

import (
	"encoding/json"
	"maps"
	"slices"

	"gatehouse/models"
	"gatehouse/policy"
)

// node is a JSON Schema, or a part of one.
type node = map[string]any

// Schema returns the JSON Schema (draft 2020-12) of the files of a kind: models,
// statements, categories or tests; false for another. A schema holds the form of a file:
// what spans keys or files (names of models, unique ids, kinds of categories) only
// the gateway checks.
func Schema(kind string) ([]byte, bool) {
	make, ok := map[string]func() node{"models": modelSchema, "statements": statementsSchema, "categories": categoriesSchema, "tests": casesSchema}[kind]
	if !ok {
		return nil, false
	}
	s := make()
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "Gatehouse " + kind
	data, err := json.MarshalIndent(s, "", "  ")
	return append(data, '\n'), err == nil
}

// object is a map with these keys and no others.
func object(keys node, required ...string) node {
	out := node{"type": "object", "properties": keys, "additionalProperties": false}
	if len(required) > 0 {
		out["required"] = required
	}
	return out
}

func listOf(item node) node             { return node{"type": "array", "items": item} }
func oneOf(words ...string) node        { return node{"enum": words} }
func either(schemas ...node) node       { return node{"anyOf": schemas} }
func matching(pattern string) node      { return node{"type": "string", "pattern": pattern} }
func with(a, b node) node               { out := maps.Clone(a); maps.Copy(out, b); return out }
func constant(value string) node        { return node{"const": value} }
func mapOf(value node) node             { return node{"type": "object", "additionalProperties": value} }
func uniqueListOf(item node) node       { return with(listOf(item), node{"uniqueItems": true}) }
func filled(list node) node             { return with(list, node{"minItems": 1}) }
func describe(text string, n node) node { return with(n, node{"description": text}) }

var (
	textSchema       = node{"type": "string", "allOf": []node{{"pattern": `^[^\x00-\x09\x0b-\x1f\x7f]*$`}, {"pattern": `\S`}}}
	identifierSchema = matching(`^[a-z0-9-]{1,63}$`)
	booleanSchema    = node{"type": "boolean"}
	portSchema       = matching(`^(icmp|(tcp|udp)/[0-9]{1,5}(-[0-9]{1,5})?)$`)
	labelSchema      = matching(`^[^=]+=`)
	prefixSchema     = matching(`^[0-9a-fA-F:.]+/[0-9]{1,3}$`)
	serviceSchema    = matching(`^[^ */]+(/[^ */]+)?$`)
	nameSchema       = matching(`^(\*\.)?[^ /*]+\.[^ /*]+$`)
	tlsSchema        = oneOf("none", "starttls", "optional", "only")
)

// appNames are the applications that a file may name, any among them.
func appNames(more ...string) []string {
	out := append([]string{"any"}, more...)
	for a := policy.AppUnknown + 1; a < policy.AppCount; a++ {
		if _, known := policy.ParseApp(a.String()); known {
			out = append(out, a.String())
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func testsSchema(more node) node {
	keys := node{"eq": textSchema, "ne": textSchema, "has": textSchema, "gte": textSchema, "lte": textSchema, "in": uniqueListOf(textSchema)}
	return with(object(with(keys, more)), node{"minProperties": 1})
}

func statementsSchema() node {
	peer := with(object(node{
		"role": oneOf(models.RoleNames()...), "model": identifierSchema, "service": serviceSchema, "project": textSchema, "label": labelSchema,
		"category": with(mapOf(testsSchema(node{"unknown": booleanSchema})), node{"minProperties": 1}),
		"within":   oneOf("project", "shared"), "name": nameSchema, "cidr": prefixSchema, "peer": oneOf(peerWords...),
	}), node{"minProperties": 1})
	flows := node{
		"from": describe("who begins; [] is nobody", listOf(peer)),
		"to":   describe("who is called; [] is nobody", listOf(peer)),
		"app":  uniqueListOf(oneOf(appNames()...)), "tls": tlsSchema,
		"ports": uniqueListOf(either(constant("any"), portSchema)),
	}
	clock := matching(`^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$`)
	statement := object(with(flows, node{
		"id": identifierSchema, "verdict": oneOf("allow", "deny"), "action": oneOf("drop", "reject"), "enforce": oneOf("mode", "always"),
		"except": listOf(with(object(flows), node{"minProperties": 1})),
		"when": with(object(node{
			"threat": testsSchema(nil),
			"time":   object(node{"days": uniqueListOf(oneOf(dayNames...)), "from": clock, "to": clock, "zone": textSchema}, "zone"),
		}), node{"minProperties": 1}),
		"why": textSchema, "owner": textSchema, "expires": node{"type": "string", "format": "date-time"},
	}), "id", "verdict", "from", "to", "app", "ports")
	statement["if"] = node{"properties": node{"verdict": constant("allow")}}
	statement["then"] = node{"required": []string{"why"}, "properties": node{
		"action": false, "enforce": false, "except": false, "ports": node{"not": node{"contains": constant("any")}}}}
	return object(node{
		"schema": constant(StatementsSchema), "statements": listOf(statement), "modes": mapOf(oneOf("observe", "enforce")),
	}, "schema", "statements")
}

func categoriesSchema() node {
	duration := matching(`^([0-9.]+(ns|us|ms|s|m|h))+$`)
	from := node{"name": identifierSchema, "every": duration, "timeout": duration, "max_bytes": node{"type": "integer", "minimum": 1, "maximum": maxMaxBytes}}
	record := object(node{
		"match": with(object(node{"image": textSchema, "service": serviceSchema, "label": labelSchema, "cidr": matching(`^[0-9a-fA-F:.]+(/[0-9]{1,3})?$`)}), node{"minProperties": 1}),
		"set":   mapOf(either(textSchema, uniqueListOf(textSchema))),
	}, "match", "set")
	kind := either(
		object(node{"ordered": with(uniqueListOf(textSchema), node{"minItems": 2})}, "ordered"),
		object(node{"set": node{"const": true}}, "set"),
		object(node{"text": node{"const": true}}, "text"))
	return object(node{
		"schema":     constant(CategoriesSchema),
		"source":     either(identifierSchema, object(with(from, node{"file": textSchema}), "file"), object(with(from, node{"url": matching(`^https?://[^@]+$`)}), "url")),
		"categories": with(mapOf(kind), node{"propertyNames": identifierSchema}),
		"records":    with(listOf(record), node{"maxItems": MaxRecords}),
		"threat":     oneOf(threatNames...),
	}, "schema", "source", "categories")
}

func modelSchema() node {
	words := slices.DeleteFunc(append(slices.Clone(peerWords), "cluster"), func(s string) bool { return s == "any" || s == "lb" })
	yes := node{"const": true}
	peer := with(object(node{
		"role": oneOf(models.RoleNames()...), "model": identifierSchema, "service": serviceSchema, "project": textSchema, "label": labelSchema,
		"ref": yes, "routed": yes, "within": oneOf("project", "shared"), "name": nameSchema, "cidr": prefixSchema, "peer": oneOf(words...),
	}), node{"minProperties": 1})
	when := with(object(node{
		"exposed": portSchema, "published": portSchema, "env": textSchema, "arg": textSchema, "command": textSchema, "tag": textSchema,
		"any": filled(listOf(node{"$ref": "#/$defs/when"})), "all": filled(listOf(node{"$ref": "#/$defs/when"})), "not": node{"$ref": "#/$defs/when"},
	}), node{"minProperties": 1, "maxProperties": 1})
	offset := node{"type": "integer", "minimum": 1, "maximum": 65535}
	source := either(
		object(node{"env": textSchema, "parse": constant("listeners"), "add": offset, "when": node{"$ref": "#/$defs/when"}}, "env"),
		object(node{"arg": textSchema, "parse": constant("listeners"), "add": offset, "when": node{"$ref": "#/$defs/when"}}, "arg"))
	entry := func(apps, ports []string, more node) node {
		return listOf(object(with(node{
			"id": identifierSchema, "kind": oneOf("data", "admin", "metrics", "cluster"), "app": oneOf(appNames(apps...)...), "tls": tlsSchema,
			"ports": filled(uniqueListOf(either(oneOf(ports...), portSchema))), "port_from": listOf(source), "to": listOf(peer),
			"when": node{"$ref": "#/$defs/when"}, "note": textSchema,
		}, more), "id", "app", "ports", "to"))
	}
	serves := entry(nil, []string{"published", "exposed", "routed", "referenced"}, node{"publish": oneOf("none", "host", "site", "any")})
	calls := entry([]string{"callee"}, []string{"callee", "routed", "referenced"}, nil)
	out := object(node{
		"schema": constant(models.Schema), "model": identifierSchema, "revision": node{"type": "integer", "minimum": 1}, "title": textSchema,
		"docs": uniqueListOf(textSchema), "roles": uniqueListOf(oneOf(models.RoleNames()...)),
		"match": object(node{
			"images": uniqueListOf(textSchema), "labels": mapOf(textSchema), "clients": uniqueListOf(textSchema),
			"hints": object(node{"env": uniqueListOf(textSchema), "commands": uniqueListOf(textSchema)}),
		}),
		"extends": identifierSchema, "remove": uniqueListOf(identifierSchema), "override": booleanSchema, "dns": oneOf("resolver", "names", "none"),
		"routes":   with(object(node{"enable": textSchema, "port": textSchema, "host": textSchema, "network": textSchema, "env": textSchema}), node{"minProperties": 1}),
		"features": mapOf(object(node{"default": booleanSchema, "serves": serves, "calls": calls}, "default")),
		"serves":   serves, "calls": calls,
	}, "schema", "model", "revision")
	out["$defs"] = node{"when": when}
	return out
}
