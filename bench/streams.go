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
	"slices"
	"sync"
	"sync/atomic"
	"time"
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
	err = inside(path, func() error {
		l, err = net.Listen("tcp", netip.AddrPortFrom(addrB, port).String())
		return err
	})
	return l, err
}

// dialInside connects from the namespace at path. The address is a literal, so
// that net dials on the calling thread.
func dialInside(path string, port uint16) (c net.Conn, err error) {
	err = inside(path, func() error {
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

// bulkRate is one TCP stream from A to B, in Mbit/s as B received it.
func bulkRate(s *site) (float64, error) {
	l, err := listenInside(s.b, bulkPort)
	if err != nil {
		return 0, err
	}
	defer l.Close()
	type result struct {
		mbps float64
		err  error
	}
	done := make(chan result, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			done <- result{err: err}
			return
		}
		defer c.Close()
		start := time.Now()
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 1<<18))
		done <- result{float64(n) * 8 / time.Since(start).Seconds() / 1e6, err}
	}()
	c, err := dialInside(s.a, bulkPort)
	if err != nil {
		return 0, fmt.Errorf("bulk: %w", err)
	}
	buf := make([]byte, 1<<18)
	for end := time.Now().Add(s.load.bulk); err == nil && time.Now().Before(end); {
		_, err = c.Write(buf)
	}
	err = errors.Join(err, c.Close())
	r := <-done
	return r.mbps, errors.Join(err, r.err)
}

// roundTrips are the p50 and p99 of 64-byte requests and answers on one
// connection, in µs.
func roundTrips(s *site) (p50, p99 float64, err error) {
	l, err := listenInside(s.b, echoPort)
	if err != nil {
		return 0, 0, err
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 64)) // ends with the client
	}()
	c, err := dialInside(s.a, echoPort)
	if err != nil {
		return 0, 0, fmt.Errorf("round trips: %w", err)
	}
	defer c.Close()
	buf := make([]byte, 64)
	times := make([]time.Duration, 0, s.load.echoes)
	for i := range s.load.echoes + s.load.echoes/10 {
		start := time.Now()
		if _, err := c.Write(buf); err != nil {
			return 0, 0, err
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return 0, 0, err
		}
		if i >= s.load.echoes/10 {
			times = append(times, time.Since(start))
		}
	}
	slices.Sort(times)
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
	return us(times[len(times)/2]), us(times[len(times)*99/100]), nil
}

// server is what answers in B, and how a client asks it.
type server struct {
	port  uint16
	serve func(net.Listener)
	ask   func(net.Conn) error
}

var httpServer = server{
	port: httpPort,
	serve: func(l net.Listener) {
		_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })) // ends with l
	},
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
	serve: func(l net.Listener) {
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
	},
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
// eight dialers: the application of each flow must be found.
func connectionRate(s *site, srv server) (float64, error) {
	l, err := listenInside(s.b, srv.port)
	if err != nil {
		return 0, err
	}
	defer l.Close()
	go srv.serve(l)

	ctx, cancel := context.WithTimeout(context.Background(), s.load.http)
	defer cancel()
	var served atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, dialers)
	start := time.Now()
	for i := range dialers {
		wg.Go(func() {
			errs[i] = inside(s.a, func() error {
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
	if err := errors.Join(errs...); err != nil {
		return 0, fmt.Errorf("connections: %w", err)
	}
	return float64(served.Load()) / time.Since(start).Seconds(), nil
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
