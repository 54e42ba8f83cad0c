//go:build !linux

package policy

// WantHugePages does nothing where the kernel is not Linux.
func WantHugePages[T any]([]T) {}
