//go:build !linux

package policy

func wantHugePages[T any]([]T) {}
