package main

import (
	"os"
	"runtime/debug"
)

// garbagePercent is how far the heap may grow between collections. Most of what
// lives there are flow tables and frames, which never change: the runtime's
// own measure would let as much garbage gather beside them as they are large.
const garbagePercent = 50

// boundHeap sets the collector's measure where the environment does not.
func boundHeap() {
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetGCPercent(garbagePercent)
	}
}
