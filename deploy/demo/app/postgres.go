package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

// maxMessage bounds what a server may announce.
const maxMessage = 1 << 20

// postgres speaks the frontend/backend protocol 3.0 with trust
// authentication and simple queries
// (https://www.postgresql.org/docs/current/protocol-message-formats.html).
type postgres struct {
	conn net.Conn
	in   *bufio.Reader
}

func startPostgres(conn net.Conn, user, name string) (database, error) {
	p := &postgres{conn: conn, in: bufio.NewReader(conn)}
	body := binary.BigEndian.AppendUint32(nil, 3<<16)
	for _, s := range []string{"user", user, "database", name} {
		body = append(append(body, s...), 0)
	}
	body = append(body, 0)
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body)+4)), body...)); err != nil {
		conn.Close()
		return nil, err
	}
	if _, err := p.untilReady(); err != nil {
		conn.Close()
		return nil, err
	}
	return p, nil
}

// untilReady reads messages up to ReadyForQuery and returns the first column
// of the last row.
func (p *postgres) untilReady() (string, error) {
	var value string
	for {
		var head [5]byte
		if _, err := io.ReadFull(p.in, head[:]); err != nil {
			return "", err
		}
		n := binary.BigEndian.Uint32(head[1:])
		if n < 4 || n > maxMessage {
			return "", fmt.Errorf("postgresql: message of %d bytes", n)
		}
		body := make([]byte, n-4)
		if _, err := io.ReadFull(p.in, body); err != nil {
			return "", err
		}
		switch head[0] {
		case 'Z':
			return value, nil
		case 'E':
			return "", fmt.Errorf("postgresql: %q", body)
		case 'R':
			if len(body) < 4 || binary.BigEndian.Uint32(body) != 0 {
				return "", fmt.Errorf("postgresql: wants a password, and only trust authentication is known here")
			}
		case 'D':
			if len(body) < 6 {
				continue
			}
			if size := int(int32(binary.BigEndian.Uint32(body[2:]))); size >= 0 && 6+size <= len(body) {
				value = string(body[6 : 6+size])
			}
		}
	}
}

// Query runs sql, which may be several statements, and returns the first
// column of the last row.
func (p *postgres) Query(sql string) (string, error) {
	if err := p.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	message := binary.BigEndian.AppendUint32([]byte{'Q'}, uint32(len(sql)+5))
	if _, err := p.conn.Write(append(append(message, sql...), 0)); err != nil {
		return "", err
	}
	return p.untilReady()
}

func (p *postgres) Close() error {
	p.conn.Write([]byte{'X', 0, 0, 0, 4}) // Terminate; a server that is gone needs none
	return p.conn.Close()
}
