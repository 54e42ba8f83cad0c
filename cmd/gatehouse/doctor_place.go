package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"gatehouse/dataplane/afxdp"
	"gatehouse/dataplane/steer"
	"gatehouse/dataplane/tun"
)

// kernelNeed is a kernel that something asks for.
type kernelNeed struct {
	major, minor int
	what         string
}

var (
	// needAtomics is for BPF_XCHG, which the flow tables' order needs on processors
	// that keep none (arch/arm64/net/bpf_jit_comp.c) and the loader knows everywhere.
	needAtomics = map[bool]kernelNeed{
		true:  {5, 12, "the programs have instructions that older kernels do not know"},
		false: {5, 18, "the programs order memory by atomic instructions, which older kernels do not have on " + runtime.GOARCH},
	}[runtime.GOARCH == "amd64"]
	needCookies  = kernelNeed{5, 14, "network namespaces are told apart by cookies, which older kernels do not give"}
	needTCX      = kernelNeed{6, 6, "the programs are attached by clsact without tcx: anybody's tc can remove them, and they are put back"}
	needFeatures = kernelNeed{6, 3, "older kernels do not say what a driver can do for XDP: every packet of a pair goes through user space"}
)

func (n kernelNeed) isMet(major, minor int) bool {
	return major > n.major || major == n.major && minor >= n.minor
}

// release compares the kernel's number with what the place needs.
func (d *doctor) release(set Settings) {
	release := d.read("proc/sys/kernel/osrelease")
	major, minor, ok := parseRelease(release)
	short := func(level string, n kernelNeed) {
		d.say(level, "kernel", fmt.Sprintf("boot Linux %d.%d or later", n.major, n.minor), "%s: %s", release, n.what)
	}
	switch {
	case !ok:
		d.say(levelWarn, "kernel", "", "release %q cannot be read", release)
	case len(set.Route) == 0 && !needAtomics.isMet(major, minor):
		short(levelFail, needAtomics)
	case !set.isPlace() && !needCookies.isMet(major, minor):
		short(levelFail, needCookies)
	case len(set.Pair) > 0 && !needFeatures.isMet(major, minor):
		short(levelWarn, needFeatures)
	case !set.isPlace() && set.Attach == "tcx" && !needTCX.isMet(major, minor):
		d.say(levelFail, "kernel", "boot Linux 6.6 or later, or say --attach clsact", "%s: no tcx, and the setting attach asks for it", release)
	case !set.isPlace() && !needTCX.isMet(major, minor):
		short(levelWarn, needTCX)
	default:
		d.say(levelOK, "kernel", "", "%s", release)
	}
}

// slowPath looks at what carries frames to user space.
func (d *doctor) slowPath(set Settings) {
	lacks := afxdp.Available()
	switch {
	case set.IO == "tap":
	case lacks == nil:
		d.say(levelOK, "slow path", "", "AF_XDP")
		return
	case errors.Is(lacks, unix.EPERM):
		d.say(levelWarn, "slow path", "run it with sudo", "%v", lacks)
		return
	case set.IO == "afxdp":
		d.say(levelFail, "slow path", "use such a kernel, or say --io tap", "%v", lacks)
		return
	}
	if err := tun.Available(); err != nil {
		d.say(levelFail, "slow path", "", "TAP: %v", err)
		return
	}
	if set.IO == "tap" {
		d.say(levelOK, "slow path", "", "TAP")
		return
	}
	d.say(levelWarn, "slow path", "use such a kernel, or leave it at that", "a TAP, at two thirds of the rate: %v", lacks)
}

// pair looks at the interfaces of a bump in the wire. It loads the programs and
// attaches none.
func (d *doctor) pair(set Settings) {
	switch err := afxdp.Available(); {
	case errors.Is(err, unix.EPERM):
		d.say(levelWarn, "AF_XDP", "run it with sudo", "%v", err)
		return
	case err != nil:
		d.say(levelFail, "AF_XDP", "use such a kernel", "%v", err)
		return
	case os.Geteuid() != 0:
		return
	}
	wire, err := steer.OpenWire(1)
	if err != nil {
		d.say(levelFail, "XDP program", "", "%v", err)
		return
	}
	defer wire.Close()
	notes, err := afxdp.FitPair(afxdp.PairConfig{Interfaces: [2]string(set.Pair), Load: wire.Load})
	d.place("pair "+strings.Join(set.Pair, ", "), notes, err)
}

func (d *doctor) route(set Settings) {
	notes, err := tun.FitRoute(routeOf(set))
	d.place("route "+strings.Join(set.Route, ", "), notes, err)
}

// place says a line for each fault and note, which say what to do themselves.
func (d *doctor) place(name string, notes []string, err error) {
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			d.say(levelFail, "place", "", "%s: %s", name, strings.TrimSpace(line))
		}
	}
	for _, n := range notes {
		d.say(levelWarn, "place", "", "%s: %s", name, n)
	}
	if err == nil && len(notes) == 0 {
		d.say(levelOK, "place", "", "%s", name)
	}
}

// leftBehind tells of interfaces that a place without a gateway keeps shut.
func (d *doctor) leftBehind() {
	if os.Geteuid() != 0 {
		return
	}
	for _, left := range []struct {
		flag string
		find func() ([]string, error)
	}{{"--pair", afxdp.PairsLeft}, {"--route", tun.RoutesLeft}} {
		names, err := left.find()
		if err != nil {
			d.say(levelWarn, "places", "", "%v", err)
		}
		if len(names) == 0 {
			continue
		}
		list := strings.Join(names, ",")
		d.say(levelWarn, "places", "start `gatehouse run "+left.flag+" "+list+"`, or `gatehouse uninstall "+left.flag+" "+list+"`",
			"nothing passes %s: what a gateway with %s left is there, and no gateway runs", strings.Join(names, ", "), left.flag)
	}
}
