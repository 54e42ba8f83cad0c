package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
)

// ours marks what the demo made, so that it takes nothing else away.
const ours = "demo.stage=gatehouse"

// command runs a program and returns what it printed; the error has its
// complaint.
func command(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

func docker(ctx context.Context, args ...string) (string, error) {
	return command(ctx, "docker", args...)
}

// container is what the demo needs to know of a running one.
type container struct {
	id, name string
	netns    string          // path of its network namespace
	legs     map[string]*leg // by network name
}

// leg is a container's interface on one network.
type leg struct {
	v4, v6 netip.Addr
	mac    string
}

func inspect(ctx context.Context, id string) (*container, error) {
	out, err := docker(ctx, "inspect", id)
	if err != nil {
		return nil, err
	}
	var found []struct {
		ID              string `json:"Id"`
		Name            string
		State           struct{ Running bool }
		NetworkSettings struct {
			SandboxKey string
			Networks   map[string]struct {
				IPAddress, GlobalIPv6Address, MacAddress string
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &found); err != nil || len(found) != 1 {
		return nil, fmt.Errorf("docker inspect %s: %d found, %w", id, len(found), err)
	}
	f := found[0]
	if !f.State.Running {
		logs, _ := docker(ctx, "logs", "--tail", "5", id)
		return nil, fmt.Errorf("container %s does not run: %s", f.Name, logs)
	}
	c := &container{id: f.ID, name: strings.TrimPrefix(f.Name, "/"), netns: f.NetworkSettings.SandboxKey, legs: map[string]*leg{}}
	for name, n := range f.NetworkSettings.Networks {
		l := &leg{mac: n.MacAddress}
		l.v4, _ = netip.ParseAddr(n.IPAddress)
		l.v6, _ = netip.ParseAddr(n.GlobalIPv6Address)
		c.legs[name] = l
	}
	return c, nil
}
