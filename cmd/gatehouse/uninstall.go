package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"gatehouse/dataplane/steer"
)

func newUninstallCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove programs, maps, devices and rules: the network as it was found. Needs root",
		Long: "Uninstall opens every network that the gateway guarded. Stop the gateway first. Modes and zones in the state folder stay.\n\n" +
			"With --pair or --route it opens those interfaces, and leaves what guards containers. Every setting of\n" +
			"`gatehouse run` is taken; those that say what there is to remove are listed.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			set, err := loadSettings(cmd, os.LookupEnv)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			if os.Geteuid() != 0 {
				return fail(exitReach, "uninstall needs root")
			}
			socket, _ := cmd.Flags().GetString("socket")
			if c, err := net.DialTimeout("unix", socket, time.Second); err == nil {
				c.Close()
				return fail(exitNo, "a gateway answers on %s: stop it first", socket)
			}
			text, err := uninstall(set)
			if err != nil {
				return &exitError{exitReach, err}
			}
			fmt.Fprintln(cmd.OutOrStdout(), text)
			return nil
		},
	}
	addSettingFlags(cmd.Flags())
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		f.Hidden = !slices.Contains(uninstallSettings, f.Name)
	})
	return cmd
}

// uninstallSettings are those that say what there is to remove; the others, that a
// unit may give to run and uninstall alike, are taken and not listed.
var uninstallSettings = []string{"config", "devices", "netns", "pair", "pins", "route"}

// leftSomething reports whether a gateway has been here: what it puts into other
// namespaces has its pins too.
func leftSomething(set Settings) bool {
	pins, _ := os.ReadDir(set.Pins)
	_, err := net.InterfaceByName(set.Devices + "0")
	return len(pins) > 0 || err == nil
}

// uninstall says what it found.
func uninstall(set Settings) (text string, err error) {
	if set.isPlace() {
		return uninstallPlace(set)
	}
	text = "removed"
	if !leftSomething(set) {
		text = fmt.Sprintf("no pins in %s and no device %s0: removed what else there was, if anything", set.Pins, set.Devices)
	}
	kernel, err := steer.Open(steerConfig(set))
	if err != nil {
		return "", err
	}
	return text, kernel.Uninstall() // it looks into all namespaces
}

func uninstallPlace(set Settings) (text string, err error) {
	stand, err := newPlace(set)
	if err != nil {
		return "", err
	}
	found, err := stand.remove()
	text = stand.name + ": removed"
	if !found {
		text = stand.name + ": nothing of a gateway is there"
	}
	return text, errors.Join(err, stand.close())
}
