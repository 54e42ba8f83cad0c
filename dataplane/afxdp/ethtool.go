package afxdp

import (
	"encoding/binary"
	"errors"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
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

// Of linux/netdev.h, since Linux 6.3.
const (
	netdevGet      = 1 // NETDEV_CMD_DEV_GET
	netdevIfindex  = 1 // NETDEV_A_DEV_IFINDEX
	netdevFeatures = 3 // NETDEV_A_DEV_XDP_FEATURES
	xdpBasic       = 1 // NETDEV_XDP_ACT_BASIC
	xdpTransmit    = 4 // NETDEV_XDP_ACT_NDO_XMIT
)

// xdpFeatures is what a device can do for XDP at this moment; known says whether
// the kernel tells.
func xdpFeatures(ifindex int) (features uint64, known bool, err error) {
	family, err := netlink.GenlFamilyGet("netdev")
	if errors.Is(err, unix.ENOENT) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	request := nl.NewNetlinkRequest(int(family.ID), 0)
	header := []byte{netdevGet, 1, 0, 0} // struct genlmsghdr, of version 1
	request.AddRawData(append(header, nl.NewRtAttr(netdevIfindex, nl.Uint32Attr(uint32(ifindex))).Serialize()...))
	answers, err := request.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return 0, false, err
	}
	for _, a := range answers {
		attributes, err := nl.ParseRouteAttr(a[nl.SizeofGenlmsg:])
		if err != nil {
			return 0, false, err
		}
		for _, x := range attributes {
			if x.Attr.Type == netdevFeatures && len(x.Value) == 8 {
				return binary.NativeEndian.Uint64(x.Value), true, nil
			}
		}
	}
	return 0, false, nil
}
