package bench

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"gatehouse/dataplane/namespace"
)

// suricataSettings run it as inline engine: every packet by NFQUEUE, verdicts of
// its own, nothing logged. Checksums are not looked at: on a veth they are
// partial.
const suricataSettings = `%YAML 1.1
---
stats: {enabled: no}
outputs: []
logging: {default-log-level: error, outputs: [{console: {enabled: yes}}]}
nfq: {mode: accept, fail-open: no, batchcount: 20}
stream: {checksum-validation: no, inline: yes}
app-layer: {protocols: {http: {enabled: yes}, tls: {enabled: yes}}}
default-rule-path: .
rule-files: [bench.rules]
classification-file: classification.config
reference-config-file: reference.config
`

// suricataRules hold the port of HTTP to HTTP, as Gatehouse's statement does.
const suricataRules = `drop tcp any any -> any 8080 (msg:"not HTTP"; flow:established,to_server; app-layer-protocol:!http; sid:1;)
`

const suricataPatience = 30 * time.Second

// suricata makes a site's bridge hand every packet to Suricata, which decides.
// Debian's package suricata has it.
func suricata(s *site) error {
	program, err := exec.LookPath("suricata")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bench-suricata")
	if err != nil {
		return err
	}
	s.teardown = append(s.teardown, func() error { return os.RemoveAll(dir) })
	for name, text := range map[string]string{"suricata.yaml": suricataSettings, "bench.rules": suricataRules, "classification.config": "", "reference.config": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	if err := namespace.Run(s.host, func() error { return bridgeNetfilter("1") }); err != nil {
		return err
	}
	for _, restore := range []string{"iptables-restore", "ip6tables-restore"} {
		if err := s.command("*filter\n:FORWARD DROP [0:0]\n-A FORWARD -j NFQUEUE --queue-num 0\nCOMMIT\n", restore); err != nil {
			return err
		}
	}
	return s.startSuricata(program, dir)
}

// startSuricata returns when the queue has its reader. The shell ends Suricata
// when its input ends, which it does with the harness, however that ends.
func (s *site) startSuricata(program, dir string) error {
	const script = `cd "$2"; "$1" -c suricata.yaml --runmode workers -q 0 -l "$2" </dev/null & read -r _; kill -TERM $!; wait $!; exit 0`
	cmd := exec.Command("nsenter", "--net="+s.host, "sh", "-c", script, "sh", program, dir)
	log, err := os.Create(filepath.Join(dir, "console"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.teardown = append(s.teardown, func() error { return errors.Join(in.Close(), cmd.Wait()) })
	for end := time.Now().Add(suricataPatience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		var queues []byte
		err := namespace.Run(s.host, func() (err error) {
			queues, err = os.ReadFile("/proc/thread-self/net/netfilter/nfnetlink_queue")
			return err
		})
		if err != nil {
			return err
		}
		if len(queues) > 0 {
			return nil
		}
	}
	said, _ := os.ReadFile(log.Name()) // where it fails there is nothing to tell
	return fmt.Errorf("no reader of the queue after %v: %s", suricataPatience, bytes.TrimSpace(said))
}
