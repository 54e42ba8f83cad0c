package afxdp

import (
	"os"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestNewPairFails: memory or a queue that the kernel refuses is an error, and no
// socket stays open.
func TestNewPairFails(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("missing capability: root")
	}
	gone := end{link: &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "gone", Index: 1 << 30}}, queues: 1}
	before := openFiles(t)
	for _, size := range []int{2048, 3000} { // the second is no size of frames
		if p, err := newPair("", [2]end{gone, gone}, size, 256); err == nil || p != nil {
			t.Fatalf("frames of %d bytes, an interface that is not there: %v, %v", size, p, err)
		}
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d files are open, %d were", after, before)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
