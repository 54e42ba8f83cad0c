package main

import (
	"testing"
	"time"
)

// Somebody deletes the slow-path devices or takes them down: the gateway puts
// them back, and what was guarded is guarded again, allowed and forbidden as
// before.
func TestLostSlowPathIsMadeAnew(t *testing.T) {
	for _, io := range []string{"afxdp", "tap"} {
		t.Run(io, func(t *testing.T) {
			gw := startGateway(t, "--io", io)
			network := makeNetwork(t, "ghe-heal_default", ofProject("ghe-heal")...)
			server := perform(t, play{project: "ghe-heal", service: "server", network: network, options: []string{"--expose", "8000"}})
			client := perform(t, play{project: "ghe-heal", service: "client", network: network, env: []string{"SERVER_HOST=server", "SERVER_PORT=8000"}})
			echo(t, server, 8000)
			echo(t, server, 8001)
			gw.admitted(server, client)
			gw.enforce("ghe-heal/server", "ghe-heal/client")

			check := func(when string) {
				t.Helper()
				var err error
				gw.as(t).eventually("a call that policy allows, "+when, func() bool {
					err = says(client, port(server.leg().v4, 8000), "hello", time.Second)
					return err == nil
				}, func() string { return err.Error() + "\n" + gw.log() })
				if err := says(client, port(server.leg().v4, 8001), "hello", 300*time.Millisecond); err == nil {
					t.Errorf("a call that policy forbids went through, %s", when)
				}
			}
			check("at first")
			mustRun(t, "ip", "link", "del", livePrefix+"0")
			check("after the devices were deleted")
			mustRun(t, "ip", "link", "set", livePrefix+"0", "down")
			check("after a device was taken down")
			gw.admitted(server, client)
			gw.waitReady()
		})
	}
}
