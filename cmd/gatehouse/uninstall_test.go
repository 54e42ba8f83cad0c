package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestLeftSomething(t *testing.T) {
	set := defaultsOf()
	set.Pins, set.Devices = filepath.Join(t.TempDir(), "pins"), "ghnone"
	if leftSomething(set) {
		t.Error("something, where nothing is")
	}
	if err := os.MkdirAll(filepath.Join(set.Pins, "v3"), 0o755); err != nil {
		t.Fatal(err)
	}
	if !leftSomething(set) {
		t.Error("pins are nothing")
	}
	if set.Pins, set.Devices = t.TempDir(), "l"; leftSomething(set) {
		t.Error("an empty folder is something")
	}
}
