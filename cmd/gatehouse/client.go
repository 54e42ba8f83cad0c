package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"

	"github.com/spf13/cobra"
)

// client speaks to the gateway over its socket.
type client struct {
	socket string
	http   http.Client
}

func newClient(cmd *cobra.Command) *client {
	socket, _ := cmd.Flags().GetString("socket")
	return clientAt(socket)
}

func clientAt(socket string) *client {
	c := &client{socket: socket}
	c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	return c
}

// get decodes GET path into v.
func (c *client) get(ctx context.Context, path string, v any) error {
	return c.do(ctx, http.MethodGet, path, nil, v)
}

// list is get for what may be cut at a limit, and noted on, which the header says.
func (c *client) list(ctx context.Context, path string, v any) (http.Header, error) {
	answer, err := c.ask(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	return answer.Header, decode(answer.Body, path, v)
}

// post sends body and decodes the answer into v.
func (c *client) post(ctx context.Context, path string, body, v any) error {
	return c.do(ctx, http.MethodPost, path, body, v)
}

func (c *client) do(ctx context.Context, method, path string, body, v any) error {
	answer, err := c.open(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer answer.Close()
	return decode(answer, path, v)
}

func decode(body io.Reader, path string, v any) error {
	if err := json.NewDecoder(body).Decode(v); err != nil {
		return fail(exitReach, "the gateway's answer to %s is cut short: %w", path, err)
	}
	return nil
}

// open returns the body of a good answer; the caller closes it.
func (c *client) open(ctx context.Context, method, path string, body any) (io.ReadCloser, error) {
	answer, err := c.ask(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	return answer.Body, nil
}

// unreachable says what to do about a socket that gives no answer.
func (c *client) unreachable(err error) error {
	if cause := new(url.Error); errors.As(err, &cause) {
		err = cause.Err // the URL is nothing that anybody asked for
	}
	change := "is `gatehouse run` running? --socket names another"
	if cause := new(os.SyscallError); errors.As(err, &cause) {
		err = cause.Err
	}
	if errors.Is(err, fs.ErrPermission) {
		change = "the socket is for root and its group: run it with sudo"
	}
	return fail(exitReach, "cannot reach the gateway at %s: %w (%s)", c.socket, err, change)
}

// ask returns a good answer; the caller closes its body.
func (c *client) ask(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var data bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&data).Encode(body); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://gatehouse"+path, &data)
	if err != nil {
		return nil, fail(exitUsage, "%w", err)
	}
	answer, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if answer.StatusCode/100 == 2 {
		return answer, nil
	}
	defer answer.Body.Close()
	var e apiError
	if json.NewDecoder(io.LimitReader(answer.Body, 1<<20)).Decode(&e) != nil || e.Error == "" {
		e.Error = answer.Status
	}
	code := exitUsage
	if answer.StatusCode >= 500 {
		code = exitReach
	}
	return nil, &exitError{code, fmt.Errorf("%s", e.Error)}
}
