package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse/dataplane/namespace"
)

// Ports of the servers in B.
const (
	bulkPort  = 7001
	echoPort  = 7002
	httpPort  = 8080
	redisPort = 6379

	dialers   = 8
	ioTimeout = 10 * time.Second
)

// listenInside opens a listener in the namespace at path.
func listenInside(path string, port uint16) (l net.Listener, err error) {
	err = namespace.Run(path, func() error {
		l, err = net.Listen("tcp", netip.AddrPortFrom(addrB, port).String())
		return err
	})
	return l, err
}

// dialInside connects from the namespace at path. The address is a literal, so
// that net dials on the calling thread.
func dialInside(path string, port uint16) (c net.Conn, err error) {
	err = namespace.Run(path, func() error {
		c, err = dial(port)
		return err
	})
	return c, err
}

func dial(port uint16) (net.Conn, error) {
	c, err := net.DialTimeout("tcp", netip.AddrPortFrom(addrB, port).String(), ioTimeout)
	if err != nil {
		return nil, err
	}
	return c, c.SetDeadline(time.Now().Add(2 * ioTimeout))
}

// stream is one connection from A to B, both ends with system calls that block:
// a thread that keeps to its core is not woken by way of another.
type stream struct {
	client, server   int // descriptors
	clientF, serverF *os.File
}

func openStream(s *site, port uint16) (*stream, error) {
	l, err := listenInside(s.b, port)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	client, err := dialInside(s.a, port)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	server, err := l.Accept() // the handshake is done
	if err != nil {
		return nil, err
	}
	defer server.Close()
	x := &stream{}
	if x.clientF, x.client, err = blocking(client); err != nil {
		return nil, err
	}
	if x.serverF, x.server, err = blocking(server); err != nil {
		return nil, errors.Join(err, x.clientF.Close())
	}
	return x, nil
}

// blocking duplicates a connection; Fd makes the duplicate block. A peer that
// falls silent is not waited for longer than ioTimeout.
func blocking(c net.Conn) (*os.File, int, error) {
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		return nil, 0, err
	}
	fd := int(f.Fd())
	patience := unix.NsecToTimeval(ioTimeout.Nanoseconds())
	return f, fd, errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience))
}

// closeClient lets the server's reads end.
func (x *stream) closeClient() error { return x.clientF.Close() }

func (x *stream) closeServer() error { return x.serverF.Close() }

// bulkRate is one TCP stream from A to B, in Mbit/s as B received it.
func bulkRate(s *site) (float64, error) {
	x, err := openStream(s, bulkPort)
	if err != nil {
		return 0, fmt.Errorf("bulk: %w", err)
	}
	var received int
	var took time.Duration
	done := make(chan error, 1)
	go func() {
		done <- pinned(1, func() error {
			buf := make([]byte, 1<<18)
			for start := time.Now(); ; took = time.Since(start) {
				n, err := readBlocking(x.server, buf)
				if n == 0 || err != nil {
					return err
				}
				received += n
			}
		})
	}()
	err = pinned(0, func() error {
		buf := make([]byte, 1<<18)
		for end := time.Now().Add(s.load.bulk); time.Now().Before(end); {
			if err := writeAll(x.client, buf); err != nil {
				return err
			}
		}
		return nil
	})
	if err = errors.Join(err, x.closeClient(), <-done, x.closeServer()); err != nil {
		return 0, fmt.Errorf("bulk: %w", err)
	}
	return float64(received) * 8 / took.Seconds() / 1e6, nil
}

// readBlocking is read(2), which Go's own signals may interrupt.
func readBlocking(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err != nil && err != unix.EINTR {
			return err
		}
		b = b[max(n, 0):]
	}
	return nil
}

// readFull fills b; the end of the stream is io.EOF.
func readFull(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := readBlocking(fd, b)
		if err != nil {
			return err
		}
		if n == 0 {
			return io.EOF
		}
		b = b[n:]
	}
	return nil
}

// roundTrips are the p50 and p99 of 64-byte requests and answers on one
// connection, in µs.
func roundTrips(s *site) (p50, p99 float64, err error) {
	x, err := openStream(s, echoPort)
	if err != nil {
		return 0, 0, fmt.Errorf("round trips: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- pinned(0, func() error { return echo(x.server) }) }()
	var times []time.Duration
	err = pinned(0, func() (err error) {
		times, err = roundTripTimes(x.client, s.load.echoes)
		return err
	})
	if err = errors.Join(err, x.closeClient(), <-done, x.closeServer()); err != nil {
		return 0, 0, fmt.Errorf("round trips: %w", err)
	}
	slices.Sort(times)
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
	return us(times[len(times)/2]), us(times[len(times)*99/100]), nil
}

func echo(fd int) error {
	buf := make([]byte, 64)
	for {
		err := readFull(fd, buf)
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = writeAll(fd, buf)
		}
		if err != nil {
			return err
		}
	}
}

// roundTripTimes are those of n requests, after a tenth as many that warm up.
func roundTripTimes(fd, n int) ([]time.Duration, error) {
	buf := make([]byte, 64)
	times := make([]time.Duration, 0, n)
	for i := range n + n/10 {
		start := time.Now()
		if err := writeAll(fd, buf); err != nil {
			return nil, err
		}
		if err := readFull(fd, buf); err != nil {
			return nil, err
		}
		if i >= n/10 {
			times = append(times, time.Since(start))
		}
	}
	return times, nil
}

// server is what answers in B, and how a client asks it.
type server struct {
	port  uint16
	start func(*site) (stop func() error, err error)
	ask   func(net.Conn) error
}

// inProcess starts a server of this very process.
func inProcess(port uint16, serve func(net.Listener)) func(*site) (func() error, error) {
	return func(s *site) (func() error, error) {
		l, err := listenInside(s.b, port)
		if err != nil {
			return nil, err
		}
		go serve(l) // ends with l
		return l.Close, nil
	}
}

var httpServer = server{
	port: httpPort,
	start: inProcess(httpPort, func(l net.Listener) {
		_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) }))
	}),
	ask: func(c net.Conn) error {
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: b\r\n\r\n"); err != nil {
			return err
		}
		answer, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, answer.Body)
		return errors.Join(err, answer.Body.Close())
	},
}

const (
	redisPing = "*1\r\n$4\r\nPING\r\n"
	redisPong = "+PONG\r\n"
)

var redisServer = server{
	port: redisPort,
	start: inProcess(redisPort, func(l net.Listener) {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if expect(c, redisPing) == nil {
					_, _ = io.WriteString(c, redisPong)
					_, _ = c.Read(make([]byte, 1)) // the client closes
				}
			}()
		}
	}),
	ask: func(c net.Conn) error {
		if _, err := io.WriteString(c, redisPing); err != nil {
			return err
		}
		return expect(c, redisPong)
	},
}

func expect(c net.Conn, text string) error {
	b := make([]byte, len(text))
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if string(b) != text {
		return fmt.Errorf("got %q for %q", b, text)
	}
	return nil
}

// connectionRate is requests a second, each on a connection of its own, from
// eight dialers: the application of each flow must be found. Its second value is
// the processors' time for each, in µs.
func connectionRate(s *site, srv server) (r reading, err error) {
	stop, err := srv.start(s)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	before, err := busy()
	if err != nil {
		return r, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.load.http)
	defer cancel()
	var served atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, dialers)
	start := time.Now()
	for i := range dialers {
		wg.Go(func() {
			errs[i] = namespace.Run(s.a, func() error {
				for ctx.Err() == nil {
					if err := srv.request(); err != nil {
						return err
					}
					served.Add(1)
				}
				return nil
			})
		})
	}
	wg.Wait()
	took := time.Since(start)
	after, err := busy()
	if err := errors.Join(append(errs, err)...); err != nil {
		return r, fmt.Errorf("connections: %w", err)
	}
	n := max(float64(served.Load()), 1)
	return reading{values: []float64{n / took.Seconds(), float64((after - before).Microseconds()) / n}}, nil
}

// busy is how long all processors together have worked, in user space, in the
// kernel and in interrupts (proc(5)). It grows in steps of 10 ms.
func busy() (time.Duration, error) {
	const tick = 10 * time.Millisecond // USER_HZ, 100 on every architecture that Go has
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	var user, nice, system, idle, wait, irq, softirq int64
	if _, err := fmt.Sscanf(string(data), "cpu %d %d %d %d %d %d %d", &user, &nice, &system, &idle, &wait, &irq, &softirq); err != nil {
		return 0, fmt.Errorf("/proc/stat: %w", err)
	}
	return time.Duration(user+nice+system+irq+softirq) * tick, nil
}

// request is one connection with one request. It closes with RST, so that ports
// do not run out in TIME_WAIT.
func (srv *server) request() error {
	c, err := dial(srv.port)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.(*net.TCPConn).SetLinger(0); err != nil {
		return err
	}
	return srv.ask(c)
}
