package docker

import (
	"slices"
	"strings"
	"testing"
)

var databasePrograms = []string{"postgres", "pg_dump", "pg_isready", "pg_basebackup", "psql", "redis-cli", "redis-server"}

func TestPrograms(t *testing.T) {
	sh := func(script string) []string { return []string{"sh", "-c", script} }
	for _, c := range []struct {
		args []string
		want []string
	}{
		{nil, nil},
		{[]string{"pg_dump", "-h", "db"}, []string{"pg_dump"}},
		{[]string{"/usr/lib/postgresql/15/bin/pg_dump", "postgres"}, []string{"pg_dump"}},
		{[]string{"docker-entrypoint.sh", "pg_dump", "-U", "postgres", "postgres"}, []string{"pg_dump"}},
		{[]string{"docker-entrypoint.sh"}, []string{"***"}},
		{[]string{"gosu", "postgres", "pg_dump"}, []string{"pg_dump"}},
		{[]string{"timeout", "-s", "KILL", "60", "pg_dump"}, []string{"pg_dump"}},
		{[]string{"timeout", "--kill-after=5", "-fsKILL", "60", "pg_dump"}, []string{"pg_dump"}},
		{[]string{"timeout", "--signal", "KILL", "60", "pg_dump"}, []string{"***"}},
		{[]string{"tini", "-p", "TERM", "-g", "--", "pg_dump"}, []string{"pg_dump"}},
		{[]string{"nice", "-10", "pg_dump"}, []string{"pg_dump"}},
		{[]string{"env", "-i", "-u", "psql", "-C", "sleep", "A=1", "postgres"}, []string{"postgres"}},
		{[]string{"env", "-S", "psql", "postgres"}, []string{"***"}},
		{[]string{"env", "-Spostgres", "psql"}, []string{"***"}},
		{[]string{"env", "--split-string=postgres", "psql"}, []string{"***"}},
		{[]string{"docker-entrypoint.sh", "-c", "psql"}, []string{"***"}},
		{[]string{"timeout", "60", "pg_dump"}, []string{"pg_dump"}},
		{[]string{"env", "PGHOST=db", "pg_dump"}, []string{"pg_dump"}},
		{[]string{"my-backup", "pg_dump"}, []string{"***"}},
		{[]string{"-c", "shared_buffers=1"}, []string{"***"}},
		{[]string{"/bin/sh", "/backup.sh"}, []string{"***"}},
		{[]string{"/bin/bash", "-o", "pipefail", "-ec", "pg_dump | gzip > /b"}, []string{"pg_dump"}},
		{sh("while true; do pg_dump -h db -U postgres shop > /b; sleep 3600; done"), []string{"pg_dump"}},
		{sh("until pg_isready -h db; do sleep 1; done && psql -h db -c 'select 1; select postgres'"), []string{"pg_isready", "psql"}},
		{sh("until pg_basebackup --host=db; do sleep 1; done; exec postgres"), []string{"pg_basebackup", "postgres"}},
		{sh("pg_isready -h db; exec /start.sh"), []string{"pg_isready", "***"}},
		{sh("pg_isready -h db; $SERVER"), []string{"pg_isready", "***"}},
		{sh("pg_isready -h db; exec gosu postgres postgres"), []string{"pg_isready", "postgres"}},
		{sh("pg_isready -h db; docker-entrypoint.sh"), []string{"pg_isready", "***"}},
		{sh("exec -a psql postgres"), []string{"postgres"}},
		{sh("exec -a sleep postgres"), []string{"postgres"}},
		{sh("exec -apsql postgres"), []string{"postgres"}},
		{sh("exec -cla psql postgres"), []string{"postgres"}},
		{sh("exec -c -l -- pg_dump"), []string{"pg_dump"}},
		{sh("exec -a \"$NAME\" pg_dump"), []string{"pg_dump"}},
		{sh("exec $OPTIONS pg_dump"), []string{"***"}},
		{sh("exec -a psql"), []string{"***"}},
		{sh("exec -x psql postgres"), []string{"***"}},
		{sh("command -v psql || exit; command -p pg_dump"), []string{"pg_dump"}},
		{sh("pg_dump \"$(redis-cli get x)\""), []string{"pg_dump", "redis-cli"}},
		{sh("pg_dump $(/evil)"), []string{"pg_dump", "***"}},
		{sh("psql -h db <<EOF\ncreate database postgres;\nEOF\n"), []string{"psql"}},
		{sh("sh -c 'redis-server &'; redis-cli ping"), []string{"redis-server", "redis-cli"}},
		{sh("eval pg_dump"), []string{"***"}},
		{sh("pg_dump; trap /evil EXIT"), []string{"pg_dump", "***"}},
		{sh("f() { postgres; }; pg_dump; f"), []string{"postgres", "pg_dump", "***"}},
		{sh("pg_dump 'unterminated"), []string{"***"}},
		{sh("'pg_'\"dump\" -h db"), []string{"pg_dump"}},
		{sh("echo nothing; sleep 1"), nil},
		{sh("until curl -s https://es01:9200 | grep -q x; do sleep 1; done"), []string{"curl"}},
		{sh("until wget -q config/x; do sleep 1; done; exec postgres"), []string{"wget", "postgres"}},
		{sh(strings.Repeat("pg_dump;", maxScript)), []string{"***"}},
		{sh(`sh -c "sh -c 'sh -c \"postgres\"'"`), []string{"***"}},
	} {
		if got := programs(c.args, set(databasePrograms)); !slices.Equal(got, c.want) {
			t.Errorf("%.100q\n got %q\nwant %q", c.args, got, c.want)
		}
	}
}

// Of a command only programs that models ask for are told.
func FuzzPrograms(f *testing.F) {
	for _, s := range []string{"", "pg_dump -h db", "a; b | c && (d) || { e; }", "$(", "`x`", "<<E\n", "sh -c 'sh -c x'", "((((((", "case x in x) y;; esac", "\x00", "exec", "env A=1"} {
		f.Add(s)
	}
	known := set(databasePrograms)
	f.Fuzz(func(t *testing.T, script string) {
		for _, args := range [][]string{{"sh", "-c", script}, {script, script}, {"exec", script}} {
			found := programs(args, known)
			for _, name := range found {
				if name != redacted && name != "curl" && name != "wget" && !known[name] {
					t.Fatalf("%q tells %q", args, name)
				}
			}
			if len(found) > len(known)+3 {
				t.Fatalf("%q: %q", args, found)
			}
		}
	})
}
