package docker

import (
	"path"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// Bounds of the scripts that are understood: what is nested in them is recursion here.
const (
	maxScript      = 16 << 10 // bytes
	maxScriptDepth = 3        // sh -c in sh -c
)

// starter is a program that starts the one that its arguments name, behind its options.
type starter struct {
	before  int    // words of its own between those and the program
	alone   string // the letters of options without a value
	valued  string // of those with one, in the same word or the next
	assigns bool   // variables, too, stand before the program
}

// starters have the options of their manuals: of bash, busybox, coreutils, GNU time, tini
// and dumb-init.
var starters = map[string]starter{
	"exec": {alone: "cl", valued: "a"}, "command": {alone: "p"}, "env": {alone: "i0v", valued: "uC", assigns: true}, "nohup": {},
	"time": {alone: "apqv", valued: "fo"}, "nice": {alone: "0123456789", valued: "n"}, "tini": {alone: "gsvw", valued: "ep"}, "dumb-init": {alone: "cv", valued: "r"},
	"docker-entrypoint.sh": {}, "entrypoint.sh": {}, "timeout": {before: 1, alone: "fpv", valued: "ks"}, "gosu": {before: 1}, "su-exec": {before: 1},
}

// long are the options of starters that are one word, and whether a value is part of it.
var long = map[string]bool{
	"--ignore-environment": false, "--preserve-status": false, "--foreground": false, "--verbose": false, "--single-child": false,
	"--unset": true, "--chdir": true, "--signal": true, "--kill-after": true, "--adjustment": true, "--rewrite": true,
}

// helpers wait, tell, or handle files. None starts a program, but for find on files, or
// talks to others; command only where it is left as a starter of nothing (command -v).
var helpers = []string{
	":", "[", "basename", "break", "bzip2", "cat", "cd", "chmod", "chown", "command", "continue", "cp", "cut", "date", "dirname", "du", "echo",
	"exit", "export", "false", "find", "grep", "gunzip", "gzip", "head", "hostname", "id", "ls", "mkdir", "mv", "printf", "pwd", "read", "return", "rm", "rmdir",
	"sed", "set", "shift", "sleep", "sort", "tail", "tee", "test", "touch", "tr", "true", "umask", "uniq", "unset", "unzip", "wait", "wc", "xz", "zcat", "zstd",
}

// programs are the base names of those that a deployer's command starts, each once,
// in order: of a shell's script all that it calls. Helpers are left out, curl and wget
// are told. For one that is not known, for scripts in files and for what only the shell
// will know, there is one *** in the list: it is then not all of it.
func programs(args []string, known map[string]bool) []string {
	r := programReader{known: known}
	if len(args) > 0 {
		r.call(args, 0)
	}
	return r.found
}

type programReader struct {
	known map[string]bool
	found []string
}

func (r *programReader) add(name string) {
	if !slices.Contains(r.found, name) {
		r.found = append(r.found, name)
	}
}

// call reads one command with its arguments.
func (r *programReader) call(words []string, depth int) {
	words = started(words)
	name := path.Base(words[0])
	script, ok := scriptOf(words)
	switch {
	case ok:
		r.script(script, depth+1)
	case slices.Contains(helpers, name):
	case r.known[name], name == "curl", name == "wget":
		r.add(name)
	default:
		r.add(redacted)
	}
}

// started leaves out what only starts the rest. It leaves one word at least: a starter,
// where it is not known what that starts.
func started(words []string) []string {
	for {
		s, ok := starters[path.Base(words[0])]
		if !ok {
			return words
		}
		rest, ok := s.behindOptions(words[1:])
		if !ok || len(rest) <= s.before {
			return words[:1]
		}
		words = rest[s.before:]
	}
}

// behindOptions are the words behind options and variables, false where an option is not
// known: the next word may be its value, which names no program.
func (s *starter) behindOptions(words []string) (rest []string, ok bool) {
	for len(words) > 0 && strings.HasPrefix(words[0], "-") {
		own, ok := s.option(words[0])
		if !ok || own > len(words) {
			return nil, false
		}
		last := words[0] == "--"
		if words = words[own:]; last {
			break
		}
	}
	for s.assigns && len(words) > 0 && strings.Contains(words[0], "=") {
		words = words[1:]
	}
	return words, true
}

// option is how many words an option and its value are, false where it is not known.
func (s *starter) option(word string) (words int, ok bool) {
	if strings.HasPrefix(word, "--") {
		name, _, valued := strings.Cut(word, "=")
		has, known := long[name]
		return 1, word == "--" || known && has == valued
	}
	letters := word[1:]
	for i, c := range letters {
		switch {
		case strings.ContainsRune(s.valued, c) && i == len(letters)-1:
			return 2, true
		case strings.ContainsRune(s.valued, c):
			return 1, true
		case !strings.ContainsRune(s.alone, c):
			return 0, false
		}
	}
	return 1, letters != ""
}

// scriptOf is what follows a shell's -c, or -ec, or -o pipefail -c.
func scriptOf(words []string) (script string, ok bool) {
	if !isShell(words[0]) {
		return "", false
	}
	for i := 1; i+1 < len(words) && strings.HasPrefix(words[i], "-"); i++ {
		switch {
		case isScriptFlag(words[i]):
			return words[i+1], true
		case words[i] == "-o":
			i++
		}
	}
	return "", false
}

// isScriptFlag reports whether the word behind a shell's flag is its script.
func isScriptFlag(flag string) bool {
	return strings.HasPrefix(flag, "-") && !strings.HasPrefix(flag, "--") && strings.HasSuffix(flag, "c")
}

func (r *programReader) script(text string, depth int) {
	if depth > maxScriptDepth || len(text) > maxScript {
		r.add(redacted)
		return
	}
	file, err := syntax.NewParser().Parse(strings.NewReader(text), "")
	if err != nil {
		r.add(redacted)
		return
	}
	syntax.Walk(file, func(n syntax.Node) bool {
		if c, ok := n.(*syntax.CallExpr); ok && len(c.Args) > 0 {
			r.call(literals(c.Args), depth)
		}
		return true
	})
}

// literals are words as the shell would pass them on, "" for what it computes.
func literals(words []*syntax.Word) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = literal(w.Parts)
	}
	return out
}

func literal(parts []syntax.WordPart) string {
	var b strings.Builder
	for _, part := range parts {
		switch p := part.(type) {
		case *syntax.Lit:
			b.WriteString(p.Value)
		case *syntax.SglQuoted:
			b.WriteString(p.Value)
		case *syntax.DblQuoted:
			inner := literal(p.Parts)
			if inner == "" {
				return ""
			}
			b.WriteString(inner)
		default:
			return ""
		}
	}
	return b.String()
}
