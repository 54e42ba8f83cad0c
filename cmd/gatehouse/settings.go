package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"gatehouse/document"
	"gatehouse/policy"
)

const (
	defaultSocket   = "/run/gatehouse/gatehouse.sock"
	defaultSettings = "/etc/gatehouse/gatehouse.yaml"
)

// Settings configure the gateway: flag > environment GATEHOUSE_* > file >
// default. A key is the yaml name; its flag has dashes for dots, its variable
// underscores: trust.local, --trust-local, GATEHOUSE_TRUST_LOCAL.
type Settings struct {
	Docker string `yaml:"docker" help:"the engine's API socket"`
	NetNS  string `yaml:"netns" help:"folder in which the engine keeps network namespaces"`

	SwarmManager string `yaml:"swarm.manager" help:"on a Swarm worker: the API of a manager's engine, to be asked for services and nodes: unix:///path, or tcp://address:port with swarm.tls"`
	SwarmTLS     string `yaml:"swarm.tls" help:"folder with ca.pem, cert.pem and key.pem for swarm.manager"`

	State  string `yaml:"state" help:"folder for what must outlive a restart"`
	Mode   string `yaml:"mode" help:"mode of services that nobody set one for: observe or enforce; of pair and route the default is enforce"`
	Floor  string `yaml:"mode.floor" help:"enforce: labels cannot loosen a service to observe"`
	Enroll string `yaml:"enroll" help:"all: guard every workload whose deployer did not opt out; none: only those with gatehouse.enable=true"`

	TrustLocal      string   `yaml:"trust.local" help:"full: believe the names of local images, as if pulled"`
	TrustRegistries []string `yaml:"trust.registries" help:"further trusted registries; PREFIX=AS maps a mirror"`
	TrustDigests    []string `yaml:"trust.digests" help:"trusted image digests"`
	ModelDir        string   `yaml:"models" help:"file or folder with the operator's own models; changes take effect at once"`
	Statements      string   `yaml:"statements" help:"file or folder with the operator's statements; changes take effect at once"`
	Categories      string   `yaml:"categories" help:"file or folder with categories of systems of record; changes take effect at once"`

	Site     []string `yaml:"site" help:"prefixes that count as site, beside the private ones"`
	Metadata []string `yaml:"metadata" help:"further addresses of metadata services"`

	NamesFloor   int      `yaml:"names.floor" help:"seconds that an address of a DNS answer counts at least, whatever its TTL says"`
	NamesCeiling int      `yaml:"names.ceiling" help:"seconds that an address of a DNS answer counts at most"`
	NamesPrivate []string `yaml:"names.private" help:"private prefixes in which names may have addresses"`

	Refusal string `yaml:"refusal" help:"what a service that enforces meets where it begins what no statement allows: drop, or reject (a TCP reset, else ICMP), so that it fails at once. Lookups are always answered"`

	RefusalLookups string `yaml:"refusal.lookups" help:"what a lookup of an address that policy refuses is answered with: refused, or nxdomain, as if there were no such name, so that programs with musl (Alpine) fail at once. A name of a single label is answered with nxdomain in any case"`

	PolicyMemory int `yaml:"policy.memory" help:"MiB that compiling the policy may take, and its rules; one with more rules is refused, and the last one stays. Where the rules fit and their places in the table do not, a place is laid when a flow first meets it"`

	HistorySize int    `yaml:"history.size" help:"MiB of flows and violations to keep; the oldest flows go first"`
	HistoryAge  string `yaml:"history.age" help:"how long flows and violations are kept, such as 24h or 7d"`

	Pair  []string `yaml:"pair" help:"two interfaces between which the gateway is a bump in the wire; no containers are guarded then, and statements are the only policy"`
	Route []string `yaml:"route" help:"interfaces between which this host routes through the gateway; no containers are guarded then, and statements are the only policy"`

	Metrics string `yaml:"metrics" help:"loopback address for /metrics, /livez, /readyz; empty = off"`
	Workers int    `yaml:"workers" help:"worker threads, one AF_XDP queue each"`
	Flows   int    `yaml:"flows" help:"flows in the kernel's tables, half as many of them IPv6; 256 bytes each"`
	Attach  string `yaml:"attach" help:"how the programs are attached: tcx (Linux 6.6), clsact (older kernels; anybody's tc can remove it, and it is put back), or auto"`
	IO      string `yaml:"io" help:"the slow path's device: afxdp, tap (kernels without AF_XDP, endpoints with an MTU above 3,496), or auto: afxdp where the kernel has it"`
	Pins    string `yaml:"pins" help:"folder on bpffs for pinned links and maps"`
	Devices string `yaml:"devices" help:"name prefix of the slow-path devices"`
	Misses  int    `yaml:"misses" help:"undecided packets a second that one endpoint may send to user space, and as many that are sent to it"`
}

func defaultsOf() Settings {
	return Settings{
		Docker: "/var/run/docker.sock", NetNS: "/var/run/docker/netns", State: "/var/lib/gatehouse",
		Mode: "observe", Floor: "observe", Enroll: "all", TrustLocal: "name",
		NamesFloor: 60, NamesCeiling: 86400,
		Refusal: "drop", RefusalLookups: "refused",
		PolicyMemory: 256,
		HistorySize:  256, HistoryAge: "7d",
		Metrics: "127.0.0.1:9477", Workers: 1, Flows: 131072,
		Attach: "auto", IO: "auto", Pins: "/sys/fs/bpf/gatehouse", Devices: "gh", Misses: 50000,
	}
}

// addSettingFlags declares one flag per setting.
func addSettingFlags(f *pflag.FlagSet) {
	f.String("config", defaultSettings, "settings file")
	d := defaultsOf()
	eachSetting(&d, func(key, help string, v reflect.Value) {
		name := strings.ReplaceAll(key, ".", "-")
		switch p := v.Addr().Interface().(type) {
		case *string:
			f.String(name, *p, help)
		case *int:
			f.Int(name, *p, help)
		case *[]string:
			f.StringSlice(name, nil, help)
		}
	})
}

func eachSetting(s *Settings, visit func(key, help string, v reflect.Value)) {
	v := reflect.ValueOf(s).Elem()
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		visit(tag.Get("yaml"), tag.Get("help"), v.Field(i))
	}
}

// loadSettings merges defaults, file, environment and flags, and checks the
// result; the error names the source of what is wrong.
func loadSettings(cmd *cobra.Command, environ func(string) (string, bool)) (Settings, error) {
	s := defaultsOf()
	mode := s.Mode
	s.Mode = "" // so that it shows whether anybody set it
	path, _ := cmd.Flags().GetString("config")
	if err := readSettings(path, cmd.Flags().Changed("config"), &s); err != nil {
		return s, err
	}
	var errs []error
	eachSetting(&s, func(key, _ string, v reflect.Value) {
		env := "GATEHOUSE_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
		if text, ok := environ(env); ok {
			if err := setSetting(v, text); err != nil {
				errs = append(errs, fmt.Errorf("environment %s: %w", env, err))
			}
		}
		name := strings.ReplaceAll(key, ".", "-")
		if !cmd.Flags().Changed(name) {
			return
		}
		if v.Kind() == reflect.Slice {
			list, _ := cmd.Flags().GetStringSlice(name)
			v.Set(reflect.ValueOf(list))
			return
		}
		if err := setSetting(v, cmd.Flags().Lookup(name).Value.String()); err != nil {
			errs = append(errs, fmt.Errorf("flag --%s: %w", name, err))
		}
	})
	switch {
	case s.Mode != "":
	case s.isPlace():
		s.Mode = "enforce"
	default:
		s.Mode = mode
	}
	errs = append(errs, s.check())
	return s, errors.Join(errs...)
}

func readSettings(path string, named bool, s *Settings) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return nil
	}
	if err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	defer f.Close()
	var doc yaml.Node
	switch err := yaml.NewDecoder(io.LimitReader(f, document.MaxFile)).Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return fmt.Errorf("settings file %s: %w", path, err)
	}
	var faults document.Faults
	d := document.NewDecoder(path, &faults)
	if root := d.Root(&doc); root != nil && root.ShortTag() != "!!null" {
		d.Object(root, "", settingReaders(d, s))
	}
	return faults.Err()
}

// settingReaders has what reads each key of a settings file into s.
func settingReaders(d *document.Decoder, s *Settings) map[string]document.Reader {
	readers := make(map[string]document.Reader)
	eachSetting(s, func(key, _ string, v reflect.Value) {
		switch dst := v.Addr().Interface().(type) {
		case *[]string:
			readers[key] = d.List(dst, d.Scalar)
		case *string:
			readers[key] = func(n *yaml.Node, key string) {
				if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
					d.Fault(n, key, "want text; put it in quotes if it is meant")
					return
				}
				*dst = n.Value // "" turns metrics off
			}
		case *int:
			readers[key] = func(n *yaml.Node, key string) {
				if n.Decode(dst) != nil {
					d.Fault(n, key, "want a number")
				}
			}
		}
	})
	return readers
}

func setSetting(v reflect.Value, text string) error {
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q is no number", text)
		}
		v.SetInt(int64(n))
	case reflect.Slice:
		var list []string
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part != "" {
				list = append(list, part)
			}
		}
		v.Set(reflect.ValueOf(list))
	}
	return nil
}

func (s *Settings) check() error {
	var errs []error
	word := func(key, got string, want ...string) {
		for _, w := range want {
			if got == w {
				return
			}
		}
		errs = append(errs, fmt.Errorf("setting %s: %q is none of %s", key, got, strings.Join(want, ", ")))
	}
	word("mode", s.Mode, "observe", "enforce")
	word("mode.floor", s.Floor, "observe", "enforce")
	word("enroll", s.Enroll, "all", "none")
	word("trust.local", s.TrustLocal, "name", "full")
	word("refusal", s.Refusal, "drop", "reject")
	word("refusal.lookups", s.RefusalLookups, "refused", "nxdomain")
	word("io", s.IO, "auto", "afxdp", "tap")
	word("attach", s.Attach, "auto", "tcx", "clsact")
	between := func(key string, n, lo, hi int) {
		if n < lo || n > hi {
			errs = append(errs, fmt.Errorf("setting %s: %d is not between %d and %d", key, n, lo, hi))
		}
	}
	between("workers", s.Workers, 1, 64)
	between("flows", s.Flows, 1024, 1<<24)
	between("misses", s.Misses, 100, 10_000_000)
	between("policy.memory", s.PolicyMemory, 1, 1<<16)
	between("history.size", s.HistorySize, 1, 1<<20)
	if age, err := parseAge(s.HistoryAge); err != nil || age < time.Hour {
		errs = append(errs, fmt.Errorf("setting history.age: %q: want an hour at least, such as 24h or 7d", s.HistoryAge))
	}
	between("names.floor", s.NamesFloor, 1, 86400)
	between("names.ceiling", s.NamesCeiling, s.NamesFloor, 7*86400)
	for key, list := range map[string][]string{"site": s.Site, "names.private": s.NamesPrivate} {
		for _, p := range list {
			if _, err := netip.ParsePrefix(p); err != nil {
				errs = append(errs, fmt.Errorf("setting %s: %w", key, err))
			}
		}
	}
	for _, a := range s.Metadata {
		if _, err := netip.ParseAddr(a); err != nil {
			errs = append(errs, fmt.Errorf("setting metadata: %w", err))
		}
	}
	errs = append(errs, s.checkPlace())
	if err := modelSettings(*s).Trust.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("setting %w", err))
	}
	if len(s.Devices) < 1 || len(s.Devices) > 8 {
		errs = append(errs, fmt.Errorf("setting devices: %q: want 1 to 8 characters", s.Devices))
	}
	if s.Metrics != "" {
		if a, err := netip.ParseAddrPort(s.Metrics); err != nil || !a.Addr().IsLoopback() {
			errs = append(errs, fmt.Errorf("setting metrics: %q: want a loopback address and port, such as 127.0.0.1:9477", s.Metrics))
		}
	}
	for _, dir := range []*string{&s.State, &s.NetNS, &s.Pins, &s.ModelDir, &s.Statements, &s.Categories, &s.SwarmTLS} {
		if *dir == "" {
			continue
		}
		if abs, err := filepath.Abs(*dir); err == nil {
			*dir = abs
		}
	}
	return errors.Join(errs...)
}

func (s *Settings) historyFile() string { return filepath.Join(s.State, "history.db") }

func (s *Settings) historyAge() time.Duration {
	age, _ := parseAge(s.HistoryAge) // checked by check
	return age
}

// parseAge reads a duration that may be in days: 90m, 24h, 7d.
func parseAge(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("%q: want a number of days before the d", text)
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	age, err := time.ParseDuration(text)
	if err != nil || age < 0 {
		return 0, fmt.Errorf("%q: want a duration such as 90m, 24h or 7d", text)
	}
	return age, nil
}

func (s *Settings) defaultMode() policy.Mode {
	m, _ := policy.ParseMode(s.Mode)
	return m
}
