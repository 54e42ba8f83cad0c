package main

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// leg is one interface of a container.
type leg struct {
	v4, v6 netip.Addr
	mac    net.HardwareAddr
}

// container is one that runs.
type container struct {
	id, name, netns string
	legs            map[string]leg // by network
}

// play says what to run. With a project it carries the labels that docker
// compose gives.
type play struct {
	name             string // container; default project-service-1
	project, service string
	image            string // default: the probe
	network          string
	env, labels      []string
	options          []string // of docker create
	command          []string
	files            map[string]string // path inside → content
}

func (c play) full() string {
	if c.name != "" {
		return c.name
	}
	return c.project + "-" + c.service + "-1"
}

func (c play) args() []string {
	args := []string{"create", "--name", c.full(), "--label", liveLabel}
	if c.network != "" {
		args = append(args, "--network", c.network)
	}
	labels := c.labels
	if c.project != "" {
		labels = append(composeLabels(c.project, c.service), labels...)
		if c.network != "" && !strings.HasPrefix(c.network, "container:") && c.network != "host" {
			args = append(args, "--network-alias", c.service)
		}
	}
	for _, l := range labels {
		args = append(args, "--label", l)
	}
	for _, e := range c.env {
		args = append(args, "--env", e)
	}
	image := c.image
	if image == "" {
		image = probeImage
	}
	return append(append(append(args, c.options...), image), c.command...)
}

func composeLabels(project, service string) []string {
	return []string{
		"com.docker.compose.project=" + project, "com.docker.compose.service=" + service, "com.docker.compose.container-number=1",
		"com.docker.compose.oneoff=False", "com.docker.compose.config-hash=" + strings.Repeat("9e", 32),
	}
}

// perform runs a container until the test ends.
func perform(t *testing.T, c play) *container {
	t.Helper()
	name := prepare(t, c)
	mustRun(t, "docker", "start", name)
	return inspect(t, name)
}

// prepare creates a container that is not started.
func prepare(t *testing.T, c play) string {
	t.Helper()
	id := mustRun(t, "docker", c.args()...)
	t.Cleanup(func() { _, _ = command("docker", "rm", "-fv", id) })
	for path, content := range c.files {
		file := filepath.Join(t.TempDir(), filepath.Base(path))
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		mustRun(t, "docker", "cp", file, id+":"+path)
	}
	return c.full()
}

func inspect(t testing.TB, name string) *container {
	t.Helper()
	var all []struct {
		ID              string `json:"Id"`
		Name            string
		NetworkSettings struct {
			SandboxKey string
			Networks   map[string]struct {
				IPAddress, GlobalIPv6Address, MacAddress string
			}
		}
	}
	if err := json.Unmarshal([]byte(mustRun(t, "docker", "inspect", name)), &all); err != nil {
		t.Fatal(err)
	}
	i := all[0]
	c := &container{id: i.ID, name: strings.TrimPrefix(i.Name, "/"), netns: i.NetworkSettings.SandboxKey, legs: map[string]leg{}}
	for name, n := range i.NetworkSettings.Networks {
		var l leg
		l.v4, _ = netip.ParseAddr(n.IPAddress)
		l.v6, _ = netip.ParseAddr(n.GlobalIPv6Address)
		l.mac, _ = net.ParseMAC(n.MacAddress)
		c.legs[name] = l
	}
	return c
}

// leg is the one of the container's only network, or of the one named.
func (c *container) leg(network ...string) leg {
	for name, l := range c.legs {
		if len(network) == 0 || name == network[0] {
			return l
		}
	}
	return leg{}
}

// at is the address in one family.
func (l leg) at(family int) netip.Addr {
	if family == 6 {
		return l.v6
	}
	return l.v4
}

// makeNetwork makes a bridge network with both families until the test ends,
// or takes the one that an earlier test could not remove. A name always has
// the same prefix, or that one could be in another's way.
func makeNetwork(t *testing.T, name string, options ...string) string {
	t.Helper()
	t.Cleanup(func() { removeNetwork(t, name) })
	if _, err := command("docker", "network", "inspect", name); err == nil {
		return name
	}
	args := []string{"network", "create", "--label", liveLabel, "--ipv6", "--subnet", prefixOf(name) + "::/64"}
	mustRun(t, "docker", append(append(args, options...), name)...)
	return name
}

// prefixOf is the first half of a network's IPv6 addresses.
func prefixOf(network string) string {
	h := fnv.New32a()
	h.Write([]byte(network))
	return fmt.Sprintf("fd00:6768:6500:%x", uint16(h.Sum32()))
}

// removeNetwork waits for the engine, which refuses while it still takes
// containers down, and disconnects those that it forgot.
func removeNetwork(t *testing.T, name string) {
	var err error
	for until := time.Now().Add(livePatience); time.Now().Before(until); time.Sleep(200 * time.Millisecond) {
		if _, err = command("docker", "network", "rm", name); err == nil {
			return
		}
		for _, c := range attached(name) {
			_, _ = command("docker", "network", "disconnect", "-f", name, c)
		}
	}
	if miscounted(name, err) {
		t.Log("left, for the engine to count anew:", err)
		return
	}
	t.Error(err)
}

// miscounted says whether the engine keeps a network for endpoints that it
// does not list. Docker 20.10 loses count at times when hundreds of containers
// come and go at once, and counts anew when it starts.
func miscounted(network string, refusal error) bool {
	return refusal != nil && strings.Contains(refusal.Error(), "has active endpoints") && len(attached(network)) == 0
}

// attached is the names of the containers that the engine lists on a network.
func attached(network string) []string {
	out, _ := command("docker", "network", "inspect", "-f", "{{range .Containers}}{{.Name}} {{end}}", network)
	return strings.Fields(out)
}

func ofProject(project string) []string {
	return []string{"--label", "com.docker.compose.project=" + project, "--label", "com.docker.compose.network=default"}
}

// inside runs f in a network namespace: "" is the host's. Sockets that f opens
// stay in it.
func inside(path string, f func() error) error {
	if path == "" {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		ns, err := os.Open(path)
		if err != nil {
			done <- err
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter %s: %w", path, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// dial connects as a process in the container at path would.
func dial(path, network, address string, patience time.Duration) (conn net.Conn, err error) {
	err = inside(path, func() (err error) {
		conn, err = net.DialTimeout(network, address, patience)
		return err
	})
	return conn, err
}

func listen(t *testing.T, path, network, address string) net.Listener {
	t.Helper()
	var l net.Listener
	if err := inside(path, func() (err error) {
		l, err = net.Listen(network, address)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// echo answers on a port in a container's namespace, in both families.
func echo(t *testing.T, c *container, port int) {
	t.Helper()
	l := listen(t, c.netns, "tcp", fmt.Sprintf(":%d", port))
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buffer := make([]byte, 64<<10)
				for {
					n, err := conn.Read(buffer)
					if err != nil {
						return
					}
					if _, err := conn.Write(buffer[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
}

// says sends a line over a new connection and reports whether it comes back.
func says(c *container, to netip.AddrPort, line string, patience time.Duration) error {
	conn, err := dial(c.netns, "tcp", to.String(), patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	return sayOn(conn, line, patience)
}

func sayOn(conn net.Conn, line string, patience time.Duration) error {
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte(line)); err != nil {
		return err
	}
	got := make([]byte, len(line))
	for n := 0; n < len(got); {
		m, err := conn.Read(got[n:])
		if err != nil {
			return err
		}
		n += m
	}
	if string(got) != line {
		return fmt.Errorf("%q came back as %q", line, got)
	}
	return nil
}

func port(a netip.Addr, p int) netip.AddrPort { return netip.AddrPortFrom(a, uint16(p)) }
