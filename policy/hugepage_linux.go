package policy

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// hugePage is what x86-64 and arm64 map at once with 4 KiB pages beneath.
const hugePage = 2 << 20

// WantHugePages asks the kernel for huge pages under memory that was never
// touched: random lookups in many small pages wait for page tables more than
// for the memory, most of all in a guest. It is a hint; without, all works. The
// flow table of classify asks by it too.
func WantHugePages[T any](s []T) {
	first := uintptr(unsafe.Pointer(unsafe.SliceData(s)))
	end := first + uintptr(len(s))*unsafe.Sizeof(*new(T))
	begin := (first + hugePage - 1) &^ (hugePage - 1)
	if end = end &^ (hugePage - 1); end <= begin {
		return
	}
	_ = unix.Madvise(unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(s)), begin-first)), end-begin), unix.MADV_HUGEPAGE)
}
