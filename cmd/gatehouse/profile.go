package main

import (
	"github.com/pkg/profile"
	"github.com/spf13/cobra"
)

var profileKinds = map[string]func(*profile.Profile){
	"cpu": profile.CPUProfile, "mem": profile.MemProfile, "block": profile.BlockProfile,
	"mutex": profile.MutexProfile, "trace": profile.TraceProfile,
}

func addProfileFlags(cmd *cobra.Command) {
	cmd.Flags().String("profile", "", "write a profile: cpu, mem, block, mutex or trace (read it with go tool pprof or go tool trace)")
	cmd.Flags().String("profile-dir", ".", "folder for the profile")
}

// startProfile starts what --profile asks for; the caller calls stop once.
func startProfile(cmd *cobra.Command) (stop func(), err error) {
	kind, _ := cmd.Flags().GetString("profile")
	if kind == "" {
		return func() {}, nil
	}
	option, ok := profileKinds[kind]
	if !ok {
		return nil, fail(exitUsage, "profile %q is none of cpu, mem, block, mutex, trace", kind)
	}
	dir, _ := cmd.Flags().GetString("profile-dir")
	return profile.Start(option, profile.ProfilePath(dir), profile.NoShutdownHook, profile.Quiet).Stop, nil
}
