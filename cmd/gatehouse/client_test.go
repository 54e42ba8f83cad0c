package main

import (
	"errors"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
)

// Who cannot reach the gateway is told why in one line, and what to do.
func TestUnreachable(t *testing.T) {
	dial := func(errno syscall.Errno) error {
		return &url.Error{Op: "Get", URL: "http://gatehouse/v1/status", Err: &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", errno)}}
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{dial(syscall.ENOENT), "cannot reach the gateway at /run/g.sock: no such file or directory (is `gatehouse run` running? --socket names another)"},
		{dial(syscall.ECONNREFUSED), "cannot reach the gateway at /run/g.sock: connection refused (is `gatehouse run` running? --socket names another)"},
		{dial(syscall.EACCES), "cannot reach the gateway at /run/g.sock: permission denied (the socket is for root and its group: run it with sudo)"},
		{&url.Error{Op: "Get", URL: "http://gatehouse/v1/status", Err: errors.New("EOF")}, "cannot reach the gateway at /run/g.sock: EOF (is"},
	} {
		err := clientAt("/run/g.sock").unreachable(c.err)
		if coded := new(exitError); !errors.As(err, &coded) || coded.code != exitReach || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}
