package bench

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gatehouse/dataplane/namespace"
)

const postgresqlPort = 5432

// postgresql is Debian's server in B; its client asks for one row.
var postgresql = server{port: postgresqlPort, start: startPostgreSQL, ask: askPostgreSQL}

// postgresqlPrograms is the folder of the newest release that is installed.
func postgresqlPrograms() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres") // the pattern is good
	if len(found) == 0 {
		return "", fmt.Errorf("PostgreSQL, Debian's package postgresql: %w", exec.ErrNotFound)
	}
	return filepath.Dir(slices.Max(found)), nil
}

func needPostgreSQL() error {
	_, err := postgresqlPrograms()
	return err
}

// postgresqlSettings are for connections that are made and ended by the thousand,
// with nothing to keep.
var postgresqlSettings = []string{"listen_addresses=" + addrB.String(), fmt.Sprint("port=", postgresqlPort), "unix_socket_directories=", "max_connections=200",
	"shared_buffers=16MB", "fsync=off", "autovacuum=off", "jit=off", "log_min_messages=panic"}

const postgresqlPatience = 20 * time.Second

// startPostgreSQL returns when the server in B answers. It refuses to run as root.
// The shell ends it when its input ends, which it does with the harness.
func startPostgreSQL(s *site) (stop func() error, err error) {
	programs, err := postgresqlPrograms()
	if err != nil {
		return nil, err
	}
	owner, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	as := []string{"--setuid", owner.Uid, "--setgid", owner.Gid}
	if s.database == "" {
		if s.database, err = newDatabase(s.b, programs, as); err != nil {
			return nil, err
		}
		s.teardown = append(s.teardown, func() error { return os.RemoveAll(s.database) })
	}
	const script = `program=$1; shift; "$program" "$@" </dev/null & read -r _; kill -QUIT $!; wait $!; exit 0`
	args := []string{"sh", "-c", script, "sh", filepath.Join(programs, "postgres"), "-D", s.database}
	for _, setting := range postgresqlSettings {
		args = append(args, "-c", setting)
	}
	cmd := exec.Command("nsenter", append(append([]string{"--net=" + s.b}, as...), args...)...)
	cmd.Dir = s.database
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() error { return errors.Join(in.Close(), cmd.Wait()) }
	client := server{port: postgresqlPort, ask: askPostgreSQL}
	for end := time.Now().Add(postgresqlPatience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = namespace.Run(s.a, client.request); err == nil {
			return stop, nil
		}
	}
	err = errors.Join(err, stop())
	return nil, fmt.Errorf("PostgreSQL does not answer after %v: %w: %s", postgresqlPatience, err, strings.TrimSpace(said.String()))
}

func newDatabase(netns, programs string, as []string) (string, error) {
	dir, err := os.MkdirTemp("", "bench-postgresql")
	if err != nil {
		return "", err
	}
	if err := command(netns, "", "chown", "postgres:", dir); err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	initdb := append(append(slices.Clone(as), filepath.Join(programs, "initdb")), "--pgdata", dir, "--username=bench", "--no-sync", "--locale=C")
	if out, err := exec.Command("nsenter", append([]string{"--net=" + netns}, initdb...)...).CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("initdb: %w: %s", err, bytes.TrimSpace(out)), os.RemoveAll(dir))
	}
	if err := os.WriteFile(filepath.Join(dir, "pg_hba.conf"), []byte("host all all all trust\n"), 0o600); err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, nil
}

// Messages of the protocol, version 3.0 (PostgreSQL's manual, 55.7).
var (
	postgresqlStartup = message("", "\x00\x03\x00\x00user\x00bench\x00database\x00postgres\x00\x00")
	postgresqlSelect  = message("Q", "SELECT 1\x00")
)

const (
	readyForQuery  = 'Z'
	dataRow        = 'D'
	errorResponse  = 'E'
	postgresqlHead = 5       // type and length
	postgresqlMost = 1 << 16 // bytes of a message that is read
)

func message(kind, body string) string {
	return kind + string(binary.BigEndian.AppendUint32(nil, uint32(4+len(body)))) + body
}

func askPostgreSQL(c net.Conn) error {
	if _, err := io.WriteString(c, postgresqlStartup); err != nil {
		return err
	}
	if _, err := untilReady(c); err != nil {
		return err
	}
	if _, err := io.WriteString(c, postgresqlSelect); err != nil {
		return err
	}
	rows, err := untilReady(c)
	if err == nil && rows != 1 {
		err = fmt.Errorf("%d rows came, want one", rows)
	}
	return err
}

// untilReady reads what the server says until it waits for a query.
func untilReady(c net.Conn) (rows int, err error) {
	var head [postgresqlHead]byte
	for head[0] != readyForQuery {
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return rows, err
		}
		n := int(binary.BigEndian.Uint32(head[1:])) - 4
		if n < 0 || n > postgresqlMost {
			return rows, fmt.Errorf("a message of %d bytes", n)
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(c, body); err != nil {
			return rows, err
		}
		switch head[0] {
		case dataRow:
			rows++
		case errorResponse:
			return rows, fmt.Errorf("the server says %q", body)
		}
	}
	return rows, nil
}
