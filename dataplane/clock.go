package dataplane

import (
	"time"

	"golang.org/x/sys/unix"
)

// clock gives nanoseconds of CLOCK_MONOTONIC, the clock of the kernel programs,
// without a system call: Go's monotonic time is the same clock from another
// start.
type clock struct {
	start  time.Time
	offset int64
}

func newClock() clock {
	var ts unix.Timespec
	start := time.Now()
	// CLOCK_MONOTONIC cannot fail with a valid pointer (clock_gettime(2)).
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return clock{start: start, offset: ts.Nano()}
}

func (c clock) now() int64 { return c.offset + int64(time.Since(c.start)) }

// wall turns a moment of this clock into a time to show.
func (c clock) wall(at int64) time.Time { return time.Now().Add(time.Duration(at - c.now())).Round(0) }
