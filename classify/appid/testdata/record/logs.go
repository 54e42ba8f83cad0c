package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
)

func logs() []scenario {
	logger := func(args ...string) func(context.Context) error {
		return func(ctx context.Context) error {
			for _, line := range []string{"till opened", "one lamp sold"} {
				if err := exec.CommandContext(ctx, "logger", append(args, "-t", "shop", line)...).Run(); err != nil {
					return err
				}
			}
			return nil
		}
	}
	made := []string{"rsyslog", "bsdutils"}
	return []scenario{
		{name: "syslog-udp", ports: []int{514}, labels: []label{{"udp", 514, "syslog", ""}}, made: made, note: "RFC 5424",
			serve: rsyslog, call: logger("-n", serverIP, "-P", "514", "-d", "--rfc5424")},
		{name: "syslog-bsd", ports: []int{514}, labels: []label{{"udp", 514, "syslog", ""}}, made: made, note: "RFC 3164",
			serve: rsyslog, call: logger("-n", serverIP, "-P", "514", "-d", "--rfc3164")},
		{name: "syslog-tcp", ports: []int{514}, labels: []label{{"tcp", 514, "syslog", ""}}, made: made, note: "RFC 5424 over TCP, octet counting",
			serve: rsyslog, call: logger("-n", serverIP, "-P", "514", "-T", "--rfc5424", "--octet-count")},
	}
}

func rsyslog(ctx context.Context, dir string) error {
	conf := filepath.Join(dir, "rsyslog.conf")
	text := `module(load="imudp")
module(load="imtcp")
input(type="imudp" port="514" address="` + serverIP + `")
input(type="imtcp" port="514" address="` + serverIP + `")
*.* action(type="omfile" file="` + filepath.Join(dir, "log") + `")
`
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return err
	}
	return execute(ctx, dir, nil, "rsyslogd", "-n", "-f", conf, "-i", filepath.Join(dir, "pid"))
}
