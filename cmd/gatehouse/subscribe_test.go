package main

import (
	"runtime"
	"testing"

	"gatehouse/dataplane"
	"gatehouse/dataplane/dataplanetest"
)

// Each `observe -f` that ends leaves nothing behind, however quiet it is.
func TestSubscriptionEnds(t *testing.T) {
	plane, err := dataplane.New(dataplane.Config{FlowMap: new(dataplanetest.FlowMap)})
	if err != nil {
		t.Fatal(err)
	}
	gw := &gateway{dataplane: plane}
	before := runtime.NumGoroutine()
	for range 50 {
		_, stop := gw.subscribe()
		stop()
	}
	eventually(t, "the goroutines of subscriptions end", func() bool { return runtime.NumGoroutine() <= before+5 }, nil)
}
