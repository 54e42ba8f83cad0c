//go:build !linux

package classify

func wantHugePages[T any]([]T) {}
