// Package policy holds Gatehouse's vocabulary (workloads, endpoints, peers,
// statements, verdicts, applications) and the compiler from statements to the
// immutable Table that the packet path looks flows up in.
//
// It is pure: no I/O, no goroutines, no logs, and it imports nothing of ours.
// Values are safe to share once built; nothing here is edited after it was
// published. The rule numbers in comments (A1, R13, V3, ...) are those of
// docs/policy.md.
package policy

// Verdict is what becomes of a flow. The zero value is the safe one.
type Verdict uint8

const (
	Drop      Verdict = iota // discarded silently
	Reject                   // discarded, and the sender is told (RST or ICMP)
	Allow                    // forwarded
	Undecided                // the application must be known first; forwarded within a byte budget
)

var verdictNames = [...]string{"drop", "reject", "allow", "undecided"}

func (v Verdict) String() string { return nameOf(verdictNames[:], int(v)) }

// MarshalText makes verdicts words in JSON and YAML.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// Mode says what a side's "no" becomes (V4). The zero value drops.
type Mode uint8

const (
	Enforce Mode = iota // a no is a drop
	Observe             // a no is only recorded
)

var modeNames = [...]string{"enforce", "observe"}

func (m Mode) String() string { return nameOf(modeNames[:], int(m)) }

// MarshalText makes modes words in JSON and YAML.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// ParseMode reads "enforce" or "observe"; anything else is false.
func ParseMode(s string) (Mode, bool) {
	for i, n := range modeNames {
		if n == s {
			return Mode(i), true
		}
	}
	return Enforce, false
}

// Side is one end's say in a flow (V1).
type Side uint8

const (
	SideOut Side = iota // the initiator's side: may it let this out?
	SideIn              // the responder's side: may it let this in?
)

var sideNames = [...]string{"out", "in"}

func (s Side) String() string { return nameOf(sideNames[:], int(s)) }

// MarshalText makes sides words in JSON and YAML.
func (s Side) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Tier ranks where a statement comes from (V3); a higher tier beats a lower one.
type Tier uint8

const (
	TierModel    Tier = iota // generated from models and metadata; allows only
	TierLabel                // a deployer's gatehouse.allow.* or gatehouse.deny.* label
	TierOperator             // the operator's own statement
)

var tierNames = [...]string{"model", "label", "operator"}

func (t Tier) String() string { return nameOf(tierNames[:], int(t)) }

// MarshalText makes tiers words in JSON and YAML.
func (t Tier) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

func nameOf(names []string, i int) string {
	if i < 0 || i >= len(names) {
		return "invalid"
	}
	return names[i]
}
