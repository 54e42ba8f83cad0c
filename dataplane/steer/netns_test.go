package steer

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// mainElsewhere makes the test binary do nothing but what
// TestOwnNetNSWithMainThreadElsewhere wants to know.
const mainElsewhere = "GATEHOUSE_TEST_MAIN_ELSEWHERE"

func TestMain(m *testing.M) {
	if os.Getenv(mainElsewhere) == "" {
		os.Exit(m.Run())
	}
	if err := askElsewhere(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func askElsewhere() error {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		return errors.New("this is not the main thread")
	}
	before, err := openNetNS("")
	if err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	after, err := openNetNS("")
	if err != nil {
		return err
	}
	if before.cookie != after.cookie {
		return errors.New("the main thread's namespace is taken for the process's own")
	}
	return nil
}

// A goroutine that is in another namespace may be on the main thread, of which
// /proc/self tells.
func TestOwnNetNSWithMainThreadElsewhere(t *testing.T) {
	needKernel(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), mainElsewhere+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
