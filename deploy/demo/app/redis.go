package main

import (
	"bufio"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// increment adds one to a key and returns the new value (RESP2,
// https://redis.io/docs/latest/develop/reference/protocol-spec/).
func increment(u *url.URL, key string) (int, error) {
	conn, err := dial(u, "6379")
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "*2\r\n$4\r\nINCR\r\n$%d\r\n%s\r\n", len(key), key); err != nil {
		return 0, err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return 0, err
	}
	if !strings.HasPrefix(line, ":") {
		return 0, fmt.Errorf("answered %q", line)
	}
	return strconv.Atoi(strings.TrimSpace(line[1:]))
}
