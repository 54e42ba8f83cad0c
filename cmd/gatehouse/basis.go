package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/control"
	"gatehouse/control/compose"
	"gatehouse/control/docker"
	"gatehouse/control/inventory"
	"gatehouse/document"
	"gatehouse/models"
	"gatehouse/operator"
	"gatehouse/policy"
)

// addBasisFlags declares what verbs work on: the running gateway's policy, or
// files, or the gateway's with a part exchanged.
func addBasisFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.String("workloads", "", "work on this `file`, which get snapshot or get workloads printed, and not on the running gateway")
	f.StringArray("compose", nil, "work on what `[PROJECT=]FILE`, a Compose file, would run; may be repeated")
	f.StringArray("stack", nil, "work on what `NAME=FILE`, a Swarm stack, would run; may be repeated")
	f.String("policy", "", "`path` of a file or folder with statements, and categories and models if they are there, in place of the gateway's")
	f.String("models", "", "`path` of a file or folder with models of your own, in place of the gateway's")
	f.String("settings", "", "a `file` of settings, as the gateway's, whose settings on policy count: mode, trust, site, metadata, names.private, ...")
	f.String("mode", "", "observe or enforce: the mode of services that nobody set one for")
	f.String("threat", "", "the threat level: normal, elevated, high or critical")
	f.String("at", "", "the time at which conditions are judged, in RFC 3339 (default: now)")
}

// basisOf reads the flags of addBasisFlags.
func basisOf(cmd *cobra.Command) (*control.Basis, error) {
	own, err := givenOf(cmd)
	if err != nil {
		return nil, err
	}
	b, err := workloadsOf(cmd)
	if err != nil {
		return nil, err
	}
	if own.settings != nil {
		b.Settings, b.Compile = modelSettings(*own.settings), compileSettings(*own.settings, 0)
	}
	if err := own.exchange(cmd, b); err != nil {
		return nil, err
	}
	own.situate(b)
	return b, nil
}

// given is what the flags say in place of what the gateway or a file of workloads
// does. It is read before either: a fault in it is told although no gateway runs.
type given struct {
	settings *Settings
	sources  *control.Sources // of --policy
	models   *[]document.File // of --models
	at       time.Time
	threat   *operator.Threat
	mode     *policy.Mode
}

func givenOf(cmd *cobra.Command) (*given, error) {
	own := &given{at: time.Now()}
	if path, _ := cmd.Flags().GetString("settings"); path != "" {
		set := defaultsOf()
		if err := readSettings(path, true, &set); err != nil {
			return nil, &exitError{exitUsage, err}
		}
		if err := set.check(); err != nil {
			return nil, fail(exitUsage, "%s: %w", path, err)
		}
		own.settings = &set
	}
	if path, _ := cmd.Flags().GetString("policy"); path != "" {
		sources, err := control.ReadSources(path)
		if err != nil {
			return nil, &exitError{exitUsage, err}
		}
		own.sources = &sources
	}
	if path, _ := cmd.Flags().GetString("models"); path != "" {
		var faults document.Faults
		files := document.Collect(path, &faults)
		if err := faults.Err(); err != nil {
			return nil, &exitError{exitUsage, err}
		}
		own.models = &files
	}
	return own, own.readSituation(cmd)
}

func (own *given) readSituation(cmd *cobra.Command) error {
	if at, _ := cmd.Flags().GetString("at"); at != "" {
		t, err := time.Parse(time.RFC3339, at)
		if err != nil {
			return fail(exitUsage, "--at %q: want a time such as 2026-01-31T08:00:00+01:00", at)
		}
		own.at = t
	}
	if word, _ := cmd.Flags().GetString("threat"); word != "" {
		level, err := operator.ParseThreat(word)
		if err != nil {
			return &exitError{exitUsage, err}
		}
		own.threat = &level
	}
	if word, _ := cmd.Flags().GetString("mode"); word != "" {
		mode, ok := policy.ParseMode(word)
		if !ok {
			return fail(exitUsage, "--mode %q is none of observe, enforce", word)
		}
		own.mode = &mode
	}
	return nil
}

// workloadsOf is the basis before flags exchange parts of it.
func workloadsOf(cmd *cobra.Command) (*control.Basis, error) {
	path, _ := cmd.Flags().GetString("workloads")
	planned, err := plannedFiles(cmd)
	switch {
	case err != nil:
		return nil, err
	case path != "" && len(planned) > 0:
		return nil, fail(exitUsage, "--workloads or --compose and --stack: one of the two")
	case len(planned) > 0:
		return plannedBasis(cmd, planned)
	}
	var s *SnapshotFile
	if path != "" {
		s, err = readSnapshot(cmd.InOrStdin(), path)
	} else {
		s = new(SnapshotFile)
		err = newClient(cmd).get(cmd.Context(), "/v1/snapshot", s)
	}
	if err != nil {
		return nil, err
	}
	b, err := s.basis()
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	return b, nil
}

// plannedBasis is that of what files would run.
func plannedBasis(cmd *cobra.Command, files []compose.File) (*control.Basis, error) {
	rules, err := control.Sources{}.Rules()
	if err != nil {
		return nil, err
	}
	own, _ := cmd.Flags().GetString("models")
	lib, err := models.Open(own)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	snap, err := compose.Load(cmd.Context(), files, compose.Options{
		Keep: docker.Keep{Env: lib.EnvKeys(), Args: lib.ArgKeys(), Words: lib.CommandWords()}})
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	noteAssumed(cmd, &snap)
	return &control.Basis{View: inventory.ViewOf(&snap), Rules: rules, Settings: modelSettings(defaultsOf())}, nil
}

// exchange puts what --policy and --models name in place of what the basis has.
func (own *given) exchange(cmd *cobra.Command, b *control.Basis) error {
	if own.sources == nil && own.models == nil {
		return nil
	}
	c := b.Rules.Sources
	if own.sources != nil {
		c.Statements = own.sources.Statements
		if len(own.sources.Categories) > 0 {
			c.Categories = own.sources.Categories
		}
		if len(own.sources.Models) > 0 {
			c.Models = own.sources.Models
		}
	}
	if own.models != nil {
		c.Models = *own.models
	}
	return useSources(cmd, b, c)
}

// useSources checks the files whole and lets the basis follow from them.
func useSources(cmd *cobra.Command, b *control.Basis, c control.Sources) error {
	rules, err := c.Rules()
	if err != nil {
		return &exitError{exitUsage, err}
	}
	if !sameFiles(c.Categories, b.Rules.Sources.Categories) {
		records, unread, err := control.ReadRecords(rules.Policy.Sources)
		if err != nil {
			return &exitError{exitUsage, err}
		}
		for _, name := range unread {
			row(cmd.ErrOrStderr(), fmt.Sprintf("gatehouse: the system of record %s is an endpoint, and was not asked: what it says is unknown here", name))
		}
		b.Records = records
	}
	b.Rules = rules
	return nil
}

func sameFiles(a, b []document.File) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if string(a[i].Data) != string(b[i].Data) {
			return false
		}
	}
	return true
}

// situate sets the moment and the default mode.
func (own *given) situate(b *control.Basis) {
	b.Situation.Time = own.at
	for _, r := range b.Records {
		b.Situation.Moment.Threat = max(b.Situation.Moment.Threat, r.Threat)
	}
	if own.threat != nil {
		b.Situation.Moment.Threat = *own.threat
	}
	if own.mode != nil {
		b.Settings.DefaultMode = *own.mode
	}
}

// stateOf makes the state that the flags ask for. What does not compile is the
// caller's to mend.
func stateOf(cmd *cobra.Command) (*control.State, error) {
	b, err := basisOf(cmd)
	if err != nil {
		return nil, err
	}
	st, err := b.State()
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	return st, nil
}
