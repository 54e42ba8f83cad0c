// Idle is what the test containers run: it lives as long as its first argument
// says, a Go duration, or until it is stopped.
package main

import (
	"os"
	"time"
)

func main() {
	if len(os.Args) > 1 {
		if d, err := time.ParseDuration(os.Args[1]); err == nil {
			time.Sleep(d)
			return
		}
	}
	time.Sleep(time.Hour)
}
