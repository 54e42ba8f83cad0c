package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/net/idna"
)

// asciiNames turns names as people write them into what DNS asks (RFC 5891).
// Underscores are allowed: service names have them.
var asciiNames = idna.New(idna.MapForLookup(), idna.StrictDomainName(false))

// nameMax is the length of a DNS name without its last dot (RFC 1035 3.1).
const nameMax = 253

// ParseName reads the name of a statement: literal, or "*.DOMAIN", which is
// every name below DOMAIN, however deep, and not DOMAIN itself. Case, a last
// dot and the form of international names make no difference; the result is as
// DNS asks for it.
func ParseName(s string) (string, error) {
	text := strings.TrimSuffix(s, ".")
	wild, isWild := strings.CutPrefix(text, "*.")
	if isWild {
		text = wild
	}
	ascii, err := asciiNames.ToASCII(text)
	if err != nil {
		return "", fmt.Errorf("name %q: %w", s, err)
	}
	if !isName(ascii) {
		return "", fmt.Errorf("name %q: want labels of a-z, 0-9, - and _ with dots between, as api.example.com; *.example.com is every name below example.com", s)
	}
	if _, err := netip.ParseAddr(ascii); err == nil {
		return "", fmt.Errorf("name %q is an address: name it as cidr", s)
	}
	if isWild {
		if len(ascii)+2 > nameMax {
			return "", errors.New("name " + s + " is too long")
		}
		return "*." + ascii, nil
	}
	return ascii, nil
}

// isName reports whether s is a lower-case name whose labels every resolver
// and certificate can have; others are neither learned nor shown.
func isName[T string | []byte](s T) bool {
	if len(s) == 0 || len(s) > nameMax {
		return false
	}
	label := 0
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '.':
			if label == 0 {
				return false
			}
			label = 0
			continue
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return false
		}
		if label++; label > 63 {
			return false
		}
	}
	return label > 0
}

// lower is an ASCII letter in lower case.
func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// CanonicalName is a name as it comes in a query, in lower case without its
// last dot; false if it is none that a statement could mean.
func CanonicalName(name string) (string, bool) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	return name, isName(name)
}

// nameFits reports whether a name, in any case and with or without its last
// dot, is what pattern says. Allocates nothing.
func nameFits[T string | []byte](pattern string, name T) bool {
	if n := len(name); n > 0 && name[n-1] == '.' {
		name = name[:n-1]
	}
	if rest, isWild := strings.CutPrefix(pattern, "*"); isWild {
		cut := len(name) - len(rest)
		if cut <= 0 || name[0] == '.' {
			return false
		}
		pattern, name = rest, name[cut:]
	}
	if len(pattern) != len(name) {
		return false
	}
	for i := range len(pattern) {
		if pattern[i] != lower(name[i]) {
			return false
		}
	}
	return true
}

// namePattern is a name of a statement, and where it narrows or, for private
// addresses, widens what the name may stand for, the prefix.
type namePattern struct {
	text   string
	within netip.Prefix
}

// ServerName is what a flow says of the name it was opened for: the server name
// of a TLS hello (RFC 6066 3), the host of an HTTP request. The zero value says
// that nothing was read.
type ServerName struct {
	State NameState
	// Text is what was sent, of NameGiven: borrowed, in any case.
	Text []byte
	// Pattern is the name of a statement that it fitted, of NameFitted.
	Pattern string
}

// NameState says what became of reading a server name.
type NameState uint8

const (
	NameUnread NameState = iota // not read, or the protocol says none
	NameNone                    // read to the end: there is none
	NameGiven
	NameFitted // read under an older table
	NameHidden // one may be there and cannot be read: cut too fine, two that differ
)

// fits reports whether a flow that speaks s and says this name may be what a
// statement for the pattern allows as m. Of HTTP a missing name does not fit:
// whoever was given a name sends it there, in clear and inside TLS, and a
// server that many share would take the next best. Other protocols inside TLS
// often send none.
func (n *ServerName) fits(pattern string, m AppMatch, s Spoken) bool {
	switch n.State {
	case NameUnread:
		return true
	case NameGiven:
		return nameFits(pattern, n.Text)
	case NameFitted:
		return nameFits(pattern, n.Pattern)
	case NameNone:
		return m.Any && !s.App.Is(AppHTTP) || !m.Any && !m.App.Is(AppHTTP)
	}
	return false
}
