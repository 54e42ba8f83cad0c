package replay

import (
	"bufio"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// corpusDir is where the labelled captures lie that are no part of the
// repository: expected.tsv, captures/ and a README of its columns.
const corpusDir = "../../../shared/data/appid"

// flowKey is a flow's two ends, sorted.
type flowKey struct {
	file, proto string
	a, b        netip.AddrPort
}

func makeFlowKey(file, proto string, src, dst netip.AddrPort) flowKey {
	if dst.Compare(src) < 0 {
		src, dst = dst, src
	}
	return flowKey{file, proto, src, dst}
}

type label struct {
	flowKey
	expected string
	accepted []string
	positive bool
}

// implied: the right-hand name for the left-hand one is right too.
var implied = map[string][]string{
	"grpc": {"http2"}, "elasticsearch": {"http"}, "etcd": {"grpc", "http2", "http"}, "websocket": {"http"}, "nfs": {"sunrpc"},
	"rtcp": {"rtp"}, "smb": {"netbios"},
}

func readLabels(t *testing.T) (out []label) {
	f, err := os.Open(filepath.Join(corpusDir, "expected.tsv"))
	if os.IsNotExist(err) {
		t.Skip("left out: no labelled captures beside the repository")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		c := strings.Split(sc.Text(), "\t")
		if len(c) < 10 || c[0] == "file" {
			continue
		}
		end := func(addr, port string) netip.AddrPort {
			n, err := strconv.ParseUint(port, 10, 16)
			if err != nil || strings.HasPrefix(c[1], "icmp") {
				n = 0
			}
			return netip.AddrPortFrom(netip.MustParseAddr(addr).Unmap(), uint16(n))
		}
		name, negative := strings.CutPrefix(c[6], "other:")
		accepted := append([]string{name}, implied[name]...)
		for _, a := range strings.Split(c[7], ",") {
			if a != "" {
				accepted = append(accepted, a)
			}
		}
		out = append(out, label{makeFlowKey(c[0], c[1], end(c[2], c[3]), end(c[4], c[5])), c[6], accepted, !negative})
	}
	return out
}

// rightPercent is the least share of labelled flows with the right name.
const rightPercent = 98

// TestCorpus: captures that others made and labelled, read as the replay verb
// reads them. Every labelled flow is found, and a wrong name weighs more than
// none. Bounds are classify/appid's.
func TestCorpus(t *testing.T) {
	labels := readLabels(t)
	files, err := filepath.Glob(filepath.Join(corpusDir, "captures", "*"))
	if err != nil {
		t.Fatal(err)
	}
	got := map[flowKey]string{}
	name := ""
	r := New(func(f *Flow) {
		k := makeFlowKey(name, f.Proto, netip.AddrPortFrom(f.Src, f.Sport), netip.AddrPortFrom(f.Dst, f.Dport))
		if f.App != "unknown" || got[k] == "" {
			got[k] = f.App
		}
	})
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		name = filepath.Base(path)
		if _, err := r.File(path, f); err != nil {
			t.Errorf("%v", err)
		}
		f.Close()
	}
	var positive, right, wrong, falsePositives int
	for _, l := range labels {
		app, found := got[l.flowKey]
		hit := slices.Contains(l.accepted, app)
		switch {
		case !found:
			t.Errorf("no flow %v (%s)", l.flowKey, l.expected)
		case l.positive && hit:
			right++
		case app != "unknown" && !hit:
			t.Logf("%v: %s, expected %s", l.flowKey, app, l.expected)
			if wrong++; !l.positive {
				wrong--
				falsePositives++
			}
		}
		if l.positive {
			positive++
		}
	}
	t.Logf("right %d, wrong %d of %d; false positives %d of %d", right, wrong, positive, falsePositives, len(labels)-positive)
	if right*100 < rightPercent*positive || wrong*1000 > 3*positive || falsePositives > 0 {
		t.Errorf("below %d %% right, above 0.3 %% wrong, or any false positive", rightPercent)
	}
}
