package main

import (
	"bytes"
	"encoding/json"
	"testing"

	"gatehouse/control"
	"gatehouse/control/suggest"
	"gatehouse/document"
	"gatehouse/policy"
)

// What is read as workloads compiles, or is refused with an error: as `get
// snapshot` and `get workloads` print it, and whatever somebody made of that.
func FuzzSnapshot(f *testing.F) {
	snapshot, err := json.Marshal(cannedSnapshot())
	if err != nil {
		f.Fatal(err)
	}
	b, err := cannedSnapshot().basis()
	if err != nil {
		f.Fatal(err)
	}
	st, err := b.State()
	if err != nil {
		f.Fatal(err)
	}
	workloads, err := json.Marshal(workloadViews(st, nil))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(snapshot)
	f.Add(workloads)
	f.Add([]byte("schema: gatehouse.snapshot/v1\nworkloads:\n  - {id: a, sharedWith: a, endpoints: [{id: e, network: none, addresses: ['']}]}\n"))
	f.Add([]byte("schema: gatehouse.snapshot/v1\nnetworks: [{id: n, zone: 1}, {id: n, zone: 1}]\nhost: {addresses: [172.16.0.1/12]}\nsettings: {site: [10.0.0.0/8]}\n"))
	f.Add([]byte("- &a [*a]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		s, err := decodeSnapshot(data)
		if err != nil {
			return
		}
		b, err := s.basis()
		if err != nil {
			return
		}
		if st, err := b.State(); err == nil && st.Table == nil {
			t.Errorf("neither a table nor an error: %s", data)
		}
	})
}

// What is read as flows is judged, and makes suggestions, or is refused.
func FuzzFlows(f *testing.F) {
	for _, seed := range []string{
		`[{"from": "shop/redis", "to": "shop/db", "source": "172.20.0.3:40000", "destination": "172.20.0.2:3306", "proto": "tcp", "app": "mysql", "port": 3306, "verdict": "recorded", "flows": 5, "packets": 60, "replies": 70}]`,
		`{"from": "@internet", "to": "shop/db", "proto": "udp", "app": "tls", "alpn": "http", "name": "a.example", "summed": true, "reason": "no-rule"}` + "\n" + `{"from": "a", "to": "b", "proto": "icmp", "app": "none"}`,
		`{"from": "", "to": 1}`, `[null, {}]`, `null`,
	} {
		f.Add([]byte(seed))
	}
	b, err := cannedSnapshot().basis()
	if err != nil {
		f.Fatal(err)
	}
	st, err := b.State()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		views, err := decodeFlows(bytes.NewReader(data))
		if err != nil {
			return
		}
		records, err := recordsOfViews(views)
		if err != nil {
			return
		}
		policy.Replay(st.Table, recordedOf(records), nil)
		answer := SuggestAnswer{Answer: suggest.Make(st.Table, records, "", st.Population.Spoken), Since: earliest(records), Until: latest(records)}
		text, err := answer.file(true)
		if err != nil {
			t.Fatal(err)
		}
		if len(answer.Suggestions) == 0 {
			return
		}
		if _, err := (control.Sources{Statements: []document.File{{Name: "s.yaml", Data: text}}}).Rules(); err != nil {
			t.Errorf("what is suggested is no file of statements: %v\n%s", err, text)
		}
	})
}
