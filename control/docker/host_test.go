package docker

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestResolvers(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	stub := write("resolved", "nameserver 192.0.2.1\n")
	for _, c := range []struct {
		name     string
		daemon   []string
		conf     string
		want     []netip.Addr
		loopback bool
	}{
		{"the host's", nil, "# x\nnameserver 198.51.100.1\nnameserver 2001:db8::1\nsearch a\n", addrs("198.51.100.1", "2001:db8::1"), false},
		{"the daemon's first", []string{"203.0.113.1"}, "nameserver 198.51.100.1\n", addrs("203.0.113.1"), false},
		{"loopback is asked by the host", nil, "nameserver 127.0.0.1\nnameserver 198.51.100.1\n", addrs("198.51.100.1"), false},
		{"systemd-resolved", nil, "nameserver 127.0.0.53\noptions edns0\n", addrs("192.0.2.1"), false},
		{"loopback only", nil, "nameserver ::1\n", defaultResolvers, true},
		{"none", nil, "", defaultResolvers, false},
		{"with a zone", nil, "nameserver fe80::1%eth0\n", addrs("fe80::1"), false},
	} {
		if got, loopback := resolvers(c.daemon, write("conf", c.conf), stub); !slices.Equal(got, c.want) || loopback != c.loopback {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestEngineAPI(t *testing.T) {
	got := engineAPI([]string{"unix:///x", "tcp://192.0.2.1:2375", "tcp://0.0.0.0:12375", "tcp://bad", "fd://"}, prefixes("198.51.100.9/24"))
	if fmt.Sprint(got) != "[192.0.2.1:2375 198.51.100.9:12375]" {
		t.Error(got)
	}
}

func TestDaemonConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "daemon.json")
	if err := os.WriteFile(path, []byte(`{"dns":["192.0.2.9"],"hosts":["tcp://192.0.2.1:1"],"x":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if c := readDaemonConfig(path); len(c.DNS) != 1 || len(c.Hosts) != 1 {
		t.Errorf("%+v", c)
	}
	if c := readDaemonConfig(path + "x"); len(c.DNS) != 0 {
		t.Errorf("%+v", c)
	}
}

func TestHostAddresses(t *testing.T) {
	all, byDevice, err := hostAddresses()
	if err != nil {
		t.Skip("missing capability: netlink: ", err)
	}
	n := 0
	for _, list := range byDevice {
		n += len(list)
	}
	if len(all) > n || !slices.IsSortedFunc(all, comparePrefixes) || slices.ContainsFunc(all, func(p netip.Prefix) bool { return p.Addr().IsLoopback() }) {
		t.Errorf("%v, %v", all, byDevice)
	}
}
