package policy

import (
	"cmp"
	"slices"
	"strings"
)

// mostNear is how many names Near returns at most.
const mostNear = 3

// Near lists those of the names that a typing mistake may have made word of, the
// nearest first. Names of several parts, such as shop/web and tier=front, are
// compared part by part; a service of that name in another project, or written
// without its project, is near too, and so is another value of the same label.
func Near(word string, names []string) []string {
	type near struct {
		name string
		off  int
	}
	var found []near
	for _, name := range names {
		if off, ok := offBy(strings.ToLower(word), strings.ToLower(name)); ok {
			found = append(found, near{name, off})
		}
	}
	slices.SortFunc(found, func(a, b near) int { return cmp.Or(cmp.Compare(a.off, b.off), strings.Compare(a.name, b.name)) })
	found = slices.Compact(found)
	var out []string
	for _, n := range found[:min(len(found), mostNear)] {
		out = append(out, n.name)
	}
	return out
}

// Meant is what an error or a note says of the names near to word: ": is shop/web
// meant?"; "" where there is none.
func Meant(word string, names []string) string {
	near := Near(word, names)
	if len(near) == 0 {
		return ""
	}
	return ": is " + strings.Join(near, " or ") + " meant?"
}

// elsewhere is how far off a name counts that has a part in common.
const elsewhere = 100

// offBy is in how many letters two names differ; false where those are too many for
// a typing mistake.
func offBy(word, name string) (off int, ok bool) {
	for _, sep := range []string{"=", "/"} {
		inWord, inName := strings.Contains(word, sep), strings.Contains(name, sep)
		if !inWord && !inName {
			continue
		}
		head, tail := cutLast(word, sep)
		nameHead, nameTail := cutLast(name, sep)
		heads, okHeads := lettersOff(head, nameHead)
		tails, okTails := lettersOff(tail, nameTail)
		switch {
		case inWord == inName && okHeads && okTails:
			return heads + tails, true
		case sep == "=" && head == nameHead, sep == "/" && tail == nameTail:
			return elsewhere, true
		case sep == "/" && inWord != inName && okTails:
			return elsewhere + tails, true
		}
		return 0, false
	}
	return lettersOff(word, name)
}

// cutLast cuts before the last part; without a separator all is that part.
func cutLast(s, sep string) (head, tail string) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", s
	}
	return s[:i], s[i+len(sep):]
}

// longestName bounds, in bytes, what is compared letter by letter: names of DNS are
// no longer (RFC 1035 2.3.4).
const longestName = 255

// lettersOff is in how many letters two words differ that may be the same, one of
// them mistyped: one letter of short ones, two of others.
func lettersOff(a, b string) (int, bool) {
	if min(len(a), len(b)) > longestName || max(len(a), len(b)) > min(len(a), len(b))+8 { // a rune has four bytes at most
		return 0, false
	}
	off := distance([]rune(a), []rune(b))
	most := 1
	if min(len(a), len(b)) > 5 {
		most = 2
	}
	return off, off <= most && off < max(len(a), 1)
}

// distance counts letters too many, too few, other, or swapped with the next one
// (optimal string alignment). It takes time by the product of the lengths.
func distance(a, b []rune) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range a {
		before, last, row = last, row, before
		row[0] = i + 1
		for j := range b {
			other := 1
			if a[i] == b[j] {
				other = 0
			}
			row[j+1] = min(last[j]+other, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
