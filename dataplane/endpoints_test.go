package dataplane

import (
	"fmt"
	"testing"
)

// TestNumbers: all interfaces of a workload have one number for what is counted by
// workload, as long as one of them is there; nobody else has it, nor soon after.
func TestNumbers(t *testing.T) {
	endpoint := func(workload string, network int, attached int64) Endpoint {
		return Endpoint{ID: fmt.Sprint(workload, "/", network), Workload: workload, Slot: uint16(network), Space: network, Attached: attached}
	}
	numbers := func(e *endpoints) (workload map[string]uint16) {
		t.Helper()
		workload = make(map[string]uint16)
		seen := make(map[uint16]string)
		own := make(map[uint16]bool)
		for _, x := range e.all {
			if n, known := workload[x.owner()]; known && n != x.workload {
				t.Errorf("%s is %d at one network and %d at another", x.owner(), n, x.workload)
			}
			if other, taken := seen[x.workload]; taken && other != x.owner() {
				t.Errorf("%s and %s share the number %d", other, x.owner(), x.workload)
			}
			if own[x.number] {
				t.Errorf("%s has the number %d, as another interface has", x.ID, x.number)
			}
			workload[x.owner()], seen[x.workload], own[x.number] = x.workload, x.owner(), true
		}
		return workload
	}
	first := newEndpoints([]Endpoint{endpoint("a", 1, 1), endpoint("b", 1, 1), endpoint("a", 2, 1), {ID: "eth1"}, {ID: "eth2"}}, noEndpoints())
	before := numbers(first)
	if len(before) != 4 {
		t.Errorf("numbers %v", before)
	}
	// Its first interface goes, a third comes, and so does a stranger.
	second := newEndpoints([]Endpoint{endpoint("c", 1, 2), endpoint("a", 3, 2), endpoint("a", 2, 1)}, first)
	after := numbers(second)
	if after["a"] != before["a"] {
		t.Errorf("a was %d and is %d", before["a"], after["a"])
	}
	for who, n := range before {
		if who != "a" && n == after["c"] {
			t.Errorf("c has the number of %s, who has just gone", who)
		}
	}
}
