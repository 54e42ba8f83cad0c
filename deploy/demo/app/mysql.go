package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Capabilities sent in the handshake response
// (https://mariadb.com/kb/en/connection/).
const (
	mysqlConnectWithDB  = 0x0008
	mysqlProtocol41     = 0x0200
	mysqlSecureConn     = 0x8000
	mysqlPluginAuth     = 0x80000
	mysqlUTF8           = 33
	mysqlQueryCommand   = 3
	mysqlQuitCommand    = 1
	mysqlEOF            = 0xfe
	mysqlErr            = 0xff
	mysqlLocalInfile    = 0xfb
	mysqlMaxColumnCount = 0xfa // above it, a length-encoded integer has more bytes
)

// mysql speaks the client/server protocol with an empty password.
type mysql struct {
	conn net.Conn
	in   *bufio.Reader
}

func startMySQL(conn net.Conn, user, name string) (database, error) {
	m := &mysql{conn: conn, in: bufio.NewReader(conn)}
	if err := m.login(user, name); err != nil {
		conn.Close()
		return nil, err
	}
	return m, nil
}

func (m *mysql) login(user, name string) error {
	if _, _, err := m.read(); err != nil { // the server's greeting
		return err
	}
	const flags = mysqlConnectWithDB | mysqlProtocol41 | mysqlSecureConn | mysqlPluginAuth
	response := []byte{flags & 0xff, flags >> 8 & 0xff, flags >> 16, 0, 0, 0, 0, 1, mysqlUTF8}
	response = append(response, make([]byte, 23)...)
	response = append(append(response, user...), 0, 0) // 0 bytes of scramble: no password
	response = append(append(response, name...), 0)
	response = append(append(response, "mysql_native_password"...), 0)
	if err := m.write(1, response); err != nil {
		return err
	}
	body, seq, err := m.read()
	if err != nil {
		return err
	}
	if body[0] == mysqlEOF { // switch of the method: an empty password stays empty
		if err := m.write(seq+1, nil); err != nil {
			return err
		}
		if body, _, err = m.read(); err != nil {
			return err
		}
	}
	if body[0] != 0 {
		return fmt.Errorf("mysql: login answered with %#x", body[0])
	}
	return nil
}

// read returns the next packet, never empty, and its number.
func (m *mysql) read() ([]byte, byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(m.in, head[:]); err != nil {
		return nil, 0, err
	}
	n := int(head[0]) | int(head[1])<<8 | int(head[2])<<16
	if n == 0 || n > maxMessage {
		return nil, 0, fmt.Errorf("mysql: packet of %d bytes", n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(m.in, body); err != nil {
		return nil, 0, err
	}
	if body[0] == mysqlErr {
		return nil, 0, fmt.Errorf("mysql: %q", body[min(len(body), 9):])
	}
	return body, head[3], nil
}

func (m *mysql) write(seq byte, body []byte) error {
	n := len(body)
	_, err := m.conn.Write(append([]byte{byte(n), byte(n >> 8), byte(n >> 16), seq}, body...))
	return err
}

// Query returns the first column of the last row.
func (m *mysql) Query(sql string) (string, error) {
	if err := m.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if err := m.write(0, append([]byte{mysqlQueryCommand}, sql...)); err != nil {
		return "", err
	}
	head, _, err := m.read()
	if err != nil {
		return "", err
	}
	if head[0] == 0 {
		return "", nil
	}
	if head[0] == mysqlLocalInfile || head[0] > mysqlMaxColumnCount {
		return "", errors.New("mysql: not a plain result")
	}
	var value string
	for ends := 0; ends < 2; { // the columns' definitions, then the rows, each list with its end
		body, _, err := m.read()
		if err != nil {
			return "", err
		}
		switch {
		case body[0] == mysqlEOF && len(body) < 9:
			ends++
		case ends == 1 && int(body[0]) < len(body):
			value = string(body[1 : 1+body[0]])
		}
	}
	return value, nil
}

func (m *mysql) Close() error {
	m.write(0, []byte{mysqlQuitCommand}) // a server that is gone needs no goodbye
	return m.conn.Close()
}
