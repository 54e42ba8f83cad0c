package afxdp

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests and flags of linux/ethtool.h.
const (
	getFlags    = 0x25 // ETHTOOL_GFLAGS
	getGRO      = 0x2b
	getChannels = 0x3c
	flagRxVLAN  = 1 << 8
	flagLRO     = 1 << 15
)

// ethtoolValue is the answer to a request for one number.
func ethtoolValue(name string, command uint32) (uint32, error) {
	value := struct{ command, data uint32 }{command: command} // struct ethtool_value
	err := ethtool(name, unsafe.Pointer(&value))
	return value.data, err
}

// rxQueues is how many receive queues a device uses.
func rxQueues(name string) (int, error) {
	channels := struct { // struct ethtool_channels
		command                             uint32
		maxRX, maxTX, maxOther, maxCombined uint32
		rx, tx, other, combined             uint32
	}{command: getChannels}
	err := ethtool(name, unsafe.Pointer(&channels))
	return max(int(channels.rx+channels.combined), 1), err
}

func ethtool(name string, data unsafe.Pointer) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var request struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	request.data = data
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return errno
	}
	return nil
}
