// Command probe is the one program of the test containers.
//
//	probe idle                     wait to be stopped
//	probe first SECONDS ADDR...    as its first act try every ADDR by TCP and UDP, again and again
//	probe call ADDR                connect, until it succeeds; say when it began
//	probe serve PORT               answer what is sent with itself
//	probe frames INTERFACE         send each line of standard input, hexadecimal, as a frame
package main

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func main() {
	began := time.Now()
	if err := run(began, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(began time.Time, args []string) error {
	switch {
	case len(args) == 0 || args[0] == "idle":
		return idle()
	case len(args) > 2 && args[0] == "first":
		seconds, err := strconv.ParseFloat(args[1], 64)
		if err != nil {
			return err
		}
		return first(began.Add(time.Duration(seconds*float64(time.Second))), args[2:])
	case len(args) == 2 && args[0] == "call":
		return call(began, args[1])
	case len(args) == 2 && args[0] == "serve":
		return serve(args[1])
	case len(args) == 2 && args[0] == "frames":
		return frames(args[1], os.Stdin)
	}
	return fmt.Errorf("arguments %q make no sense", args)
}

func idle() error {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, os.Interrupt)
	<-end
	return nil
}

// first does not wait for an answer before it tries the next address.
func first(until time.Time, addresses []string) error {
	for _, a := range addresses {
		go func() {
			for time.Now().Before(until) {
				if c, err := net.DialTimeout("tcp", a, time.Second); err == nil {
					fmt.Fprintln(c, "leak")
					c.Close()
				}
			}
		}()
	}
	for time.Now().Before(until) {
		for _, a := range addresses {
			if c, err := net.Dial("udp", a); err == nil {
				fmt.Fprintln(c, "leak")
				c.Close()
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

func call(began time.Time, address string) error {
	var last error
	for time.Since(began) < time.Minute {
		c, err := net.DialTimeout("tcp", address, 20*time.Second)
		if err != nil {
			last = err
			time.Sleep(10 * time.Millisecond)
			continue
		}
		defer c.Close()
		fmt.Fprintln(c, began.UnixNano())
		_, err = io.Copy(io.Discard, c)
		return err
	}
	return last
}

func serve(port string) error {
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
	}
}

func frames(name string, in io.Reader) error {
	device, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW, 0)
	if err != nil {
		return fmt.Errorf("packet socket: %w", err)
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, err := hex.DecodeString(lines.Text())
		if err != nil {
			return err
		}
		if err := syscall.Sendto(fd, data, 0, &syscall.SockaddrLinklayer{Ifindex: device.Index}); err != nil {
			fmt.Println("error", err)
			continue
		}
		fmt.Println("sent")
	}
	return lines.Err()
}
