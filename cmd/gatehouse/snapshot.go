package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"gatehouse/control"
	"gatehouse/control/inventory"
	"gatehouse/document"
	"gatehouse/operator"
	"gatehouse/policy"
)

const snapshotSchema = "gatehouse.snapshot/v1"

// SnapshotFile is GET /v1/snapshot: all that a gateway's policy follows from, so
// that verbs can work it out elsewhere. The library of models is not in it: that
// is the program's.
type SnapshotFile struct {
	Schema      string                  `json:"schema"`
	Version     string                  `json:"version"` // of the gateway
	Taken       time.Time               `json:"taken"`
	Settings    SnapshotSettings        `json:"settings"`
	Modes       map[string]policy.Mode  `json:"modes"` // that people set, by service
	Threat      control.ThreatHold      `json:"threat"`
	Quarantines map[string]control.Hold `json:"quarantines"`
	Records     []operator.Records      `json:"records"`
	Models      []SnapshotSource        `json:"models"` // the operator's own files
	Statements  []SnapshotSource        `json:"statements"`
	Categories  []SnapshotSource        `json:"categories"`
	policy.Snapshot
}

// SnapshotSource is the content of one of the operator's files.
type SnapshotSource struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// SnapshotSettings are those settings that policy depends on.
type SnapshotSettings struct {
	Mode            string         `json:"mode"`
	Floor           string         `json:"mode.floor"`
	Enroll          string         `json:"enroll"`
	TrustLocal      string         `json:"trust.local"`
	TrustRegistries []string       `json:"trust.registries"`
	TrustDigests    []string       `json:"trust.digests"`
	Site            []netip.Prefix `json:"site"`
	Metadata        []netip.Addr   `json:"metadata"`
	NamesPrivate    []netip.Prefix `json:"names.private"`
}

func newGetSnapshot() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "All that policy follows from, for verbs to work on elsewhere: --workloads FILE",
		Long: "Snapshot prints workloads, networks, modes, the operator's files, what systems of record say and the settings that policy depends\n" +
			"on. `policy compile`, `diff`, `test`, `replay`, `export` and `explain` read it where no gateway is. It holds what `get workloads`\n" +
			"shows, and no secret that the gateway does not keep.",
		Example: "  gatehouse get snapshot -o yaml > host.yaml\n  gatehouse policy compile --workloads host.yaml --policy ./policy",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s SnapshotFile
			if err := newClient(cmd).get(cmd.Context(), "/v1/snapshot", &s); err != nil {
				return err
			}
			return show(cmd, s, func(w io.Writer) {
				row(w, fmt.Sprintf("taken %s of %s: %d workloads on %d networks, %d files of the operator", s.Taken.Format(time.RFC3339), s.Host.Name,
					len(s.Workloads), len(s.Networks), len(s.Models)+len(s.Statements)+len(s.Categories)))
			})
		},
	}
	addOutputFlag(cmd)
	return cmd
}

// snapshot answers GET /v1/snapshot.
func (g *gateway) snapshot() (*SnapshotFile, error) {
	if g.control.State() == nil {
		return nil, errNoState
	}
	return snapshotOf(g.control.Basis(), g.settings), nil
}

func snapshotOf(b *control.Basis, set Settings) *SnapshotFile {
	in := compileSettings(set, 0)
	return &SnapshotFile{
		Schema: snapshotSchema, Version: buildVersion(), Taken: b.Situation.Time.Truncate(time.Second),
		Settings: SnapshotSettings{Mode: set.Mode, Floor: set.Floor, Enroll: set.Enroll, TrustLocal: set.TrustLocal,
			TrustRegistries: listed(set.TrustRegistries), TrustDigests: listed(set.TrustDigests),
			Site: listed(in.ExtraSite), Metadata: listed(in.ExtraMetadata), NamesPrivate: listed(in.PrivateNames)},
		Modes: b.Modes, Threat: b.Situation.Threat, Quarantines: b.Situation.Quarantines, Records: listed(b.Records),
		Models: sourcesOut(b.Rules.Sources.Models), Statements: sourcesOut(b.Rules.Sources.Statements), Categories: sourcesOut(b.Rules.Sources.Categories),
		Snapshot: *b.View.Snapshot(),
	}
}

// listed is the list, empty and not absent where there is none.
func listed[T any](list []T) []T { return append([]T{}, list...) }

func sourcesOut(files []document.File) []SnapshotSource {
	out := []SnapshotSource{}
	for _, f := range files {
		out = append(out, SnapshotSource{f.Name, string(f.Data)})
	}
	return out
}

func sourcesIn(files []SnapshotSource) []document.File {
	var out []document.File
	for _, f := range files {
		out = append(out, document.File{Name: f.Name, Data: []byte(f.Text)})
	}
	return out
}

// basis is what the snapshot's policy follows from.
func (s *SnapshotFile) basis() (*control.Basis, error) {
	set := defaultsOf()
	for text, dst := range map[*string]*string{&s.Settings.Mode: &set.Mode, &s.Settings.Floor: &set.Floor, &s.Settings.Enroll: &set.Enroll, &s.Settings.TrustLocal: &set.TrustLocal} {
		if *text != "" {
			*dst = *text
		}
	}
	set.TrustRegistries, set.TrustDigests = s.Settings.TrustRegistries, s.Settings.TrustDigests
	if err := set.check(); err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	rules, err := control.Sources{Models: sourcesIn(s.Models), Statements: sourcesIn(s.Statements), Categories: sourcesIn(s.Categories)}.Rules()
	if err != nil {
		return nil, err
	}
	b := &control.Basis{
		View: inventory.ViewOf(&s.Snapshot), Rules: rules, Records: s.Records, Modes: s.Modes, Settings: modelSettings(set),
		Compile:   policy.Input{ExtraSite: s.Settings.Site, ExtraMetadata: s.Settings.Metadata, PrivateNames: s.Settings.NamesPrivate},
		Situation: control.Situation{Threat: s.Threat, Quarantines: s.Quarantines},
	}
	b.Situation.Time, b.Situation.Moment.Threat = s.Taken, s.Threat.Level
	for _, r := range s.Records {
		b.Situation.Moment.Threat = max(b.Situation.Moment.Threat, r.Threat)
	}
	return b, nil
}

// mostSnapshotBytes bounds a file of workloads.
const mostSnapshotBytes = 256 << 20

// readSnapshot reads what `get snapshot` or `get workloads` printed, as JSON or
// YAML; the error names file and line.
func readSnapshot(in io.Reader, path string) (*SnapshotFile, error) {
	data, name, err := readInput(in, path, mostSnapshotBytes)
	if err != nil {
		return nil, fail(exitUsage, "workloads: %w", err)
	}
	s, err := decodeSnapshot(data)
	if err != nil {
		return nil, fail(exitUsage, "workloads: %s: %w (want what `gatehouse get snapshot -o yaml` or `gatehouse get workloads -o yaml` prints)", name, err)
	}
	return s, nil
}

// readInput reads a file, or standard input for "-".
func readInput(in io.Reader, path string, limit int64) (data []byte, name string, err error) {
	name = path
	if path == "-" {
		name = "standard input"
	} else {
		f, err := os.Open(path)
		if err != nil {
			return nil, name, err
		}
		defer f.Close()
		in = f
	}
	data, err = io.ReadAll(io.LimitReader(in, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s: more than %d bytes", name, limit)
	}
	return data, name, err
}

func decodeSnapshot(data []byte) (*SnapshotFile, error) {
	s := new(SnapshotFile)
	var root yaml.Node
	if err := yaml.Unmarshal(data, &root); err != nil { // JSON is YAML too
		return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if root.Kind != yaml.DocumentNode {
		return nil, errors.New("it is empty")
	}
	if root.Content[0].Kind == yaml.SequenceNode {
		var views []WorkloadView
		if err := decodeStrict(root.Content[0], &views); err != nil {
			return nil, err
		}
		return s, s.fromViews(views)
	}
	if err := decodeStrict(root.Content[0], s); err != nil {
		return nil, err
	}
	if s.Schema != snapshotSchema {
		return nil, fmt.Errorf("schema %q: want %s", s.Schema, snapshotSchema)
	}
	return s, nil
}

// decodeStrict reads a node by the JSON names of v's fields; a key that there is
// not is an error with its line.
func decodeStrict(n *yaml.Node, v any) error {
	var plain any
	if err := n.Decode(&plain); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	data, err := json.Marshal(plain)
	if err != nil {
		return fmt.Errorf("line %d: a key of a map is no text: %w", n.Line, err)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	err = dec.Decode(v)
	if err == nil {
		return nil
	}
	key := ""
	if _, quoted, ok := strings.Cut(err.Error(), "unknown field "); ok {
		key = strings.Trim(quoted, `"`)
	} else if typed := (*json.UnmarshalTypeError)(nil); errors.As(err, &typed) {
		key = typed.Field[strings.LastIndexByte(typed.Field, '.')+1:]
	}
	return fmt.Errorf("line %d: %s", max(lineOf(n, key), n.Line), strings.TrimPrefix(err.Error(), "json: "))
}

// lineOf is where a key is first, 0 where it is not.
func lineOf(n *yaml.Node, key string) int {
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && c.Value == key && key != "" {
			return c.Line
		}
		if line := lineOf(c, key); line > 0 {
			return line
		}
	}
	return 0
}

// fromViews takes what `get workloads` printed: of the host it knows only the
// networks' gateways, and each mode counts as set by hand.
func (s *SnapshotFile) fromViews(views []WorkloadView) error {
	s.Schema, s.Modes = snapshotSchema, map[string]policy.Mode{}
	s.Host.Name = "file"
	networks := map[string]bool{}
	for _, v := range views {
		if v.Metadata == nil || v.Metadata.ID == "" {
			return fmt.Errorf("workload %q: it has no metadata", v.Name)
		}
		s.Workloads = append(s.Workloads, *v.Metadata)
		if v.Guarded {
			s.Modes[v.Service] = v.Mode
		}
		for _, e := range v.Endpoints {
			if e.On == nil {
				return fmt.Errorf("workload %q: endpoint %s does not say what network it is on; an older gateway printed this", v.Name, e.ID)
			}
			if !networks[e.On.ID] {
				networks[e.On.ID] = true
				s.Networks = append(s.Networks, *e.On)
			}
		}
	}
	slices.SortFunc(s.Workloads, func(a, b policy.Workload) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(s.Networks, func(a, b policy.Network) int { return strings.Compare(a.ID, b.ID) })
	return nil
}
