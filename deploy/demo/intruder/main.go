// Command intruder is what the demo copies into a container that it takes for
// compromised. It has what Docker gives a container by default, NET_RAW
// included, and no more.
//
//	intruder connect ADDR:PORT [TEXT]   connect, and say TEXT
//	intruder scan ADDR FIRST-LAST       connect to every port
//	intruder frame INTERFACE HEX        send a frame as it is, three times
package main

import (
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	patience = time.Second
	scanners = 128 // at a time
	quick    = 250 * time.Millisecond
	repeats  = 3
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "intruder:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) >= 2 && args[0] == "connect":
		return connect(args[1], strings.Join(args[2:], " "))
	case len(args) == 3 && args[0] == "scan":
		return scan(args[1], args[2])
	case len(args) == 3 && args[0] == "frame":
		return frame(args[1], args[2])
	}
	return fmt.Errorf("usage: connect ADDR:PORT [TEXT] | scan ADDR FIRST-LAST | frame INTERFACE HEX")
}

func connect(address, text string) error {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if text != "" {
		if _, err := conn.Write([]byte(text + "\r\n")); err != nil {
			return err
		}
	}
	answer := make([]byte, 256)
	n, err := conn.Read(answer)
	if err != nil {
		return fmt.Errorf("connected, no answer: %w", err)
	}
	fmt.Printf("answered %q\n", answer[:n])
	return nil
}

func scan(address, ports string) error {
	first, last, ok := strings.Cut(ports, "-")
	from, err1 := strconv.Atoi(first)
	to, err2 := strconv.Atoi(last)
	if !ok || err1 != nil || err2 != nil {
		return fmt.Errorf("ports %q: want FIRST-LAST", ports)
	}
	var (
		wait sync.WaitGroup
		free = make(chan struct{}, scanners)
	)
	for port := from; port <= to; port++ {
		free <- struct{}{}
		wait.Go(func() {
			defer func() { <-free }()
			conn, err := net.DialTimeout("tcp", net.JoinHostPort(address, strconv.Itoa(port)), quick)
			if err != nil {
				return
			}
			conn.Close()
			fmt.Println("open", port)
		})
	}
	wait.Wait()
	return nil
}

func frame(name, text string) error {
	data, err := hex.DecodeString(text)
	if err != nil {
		return err
	}
	device, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW, 0)
	if err != nil {
		return fmt.Errorf("packet socket: %w", err)
	}
	defer syscall.Close(fd)
	for range repeats {
		if err := syscall.Sendto(fd, data, 0, &syscall.SockaddrLinklayer{Ifindex: device.Index}); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}
