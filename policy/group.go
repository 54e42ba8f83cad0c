package policy

// Trust says how far an image's name may be believed (T1-T5). The zero value
// is the least.
type Trust uint8

const (
	TrustHint     Trust = iota // T5: only proposed
	TrustName                  // T4: the name fits and nothing proves it; the model is clipped
	TrustRegistry              // T3
	TrustDigest                // T2
	TrustLabel                 // T1: the deployer said so
)

var trustNames = [...]string{"hint", "name", "registry", "digest", "label"}

func (t Trust) String() string { return nameOf(trustNames[:], int(t)) }

// MarshalText makes them words in JSON and YAML.
func (t Trust) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// Group is all workloads equal in policy: one identity. The models package
// makes groups from a snapshot; Compile needs them to number addresses and to
// know each side's mode.
type Group struct {
	Identity Identity   `json:"identity"`
	Service  ServiceKey `json:"service"`
	Model    string     `json:"model"` // "mariadb", "custom"
	Revision int        `json:"revision"`
	Trust    Trust      `json:"trust"`
	Roles    []string   `json:"roles,omitempty"`
	Mode     Mode       `json:"mode"`
	// Guarded is false for what is not enrolled or uncovered: it says yes for
	// its own side (V1).
	Guarded bool `json:"guarded"`
	// Shut is true where what the orchestrator told of the members cannot be
	// used (Problems): no statement means them, by name or by any.
	Shut       bool     `json:"shut,omitempty"`
	Members    []string `json:"members"`    // Workload.ID
	Reasons    []string `json:"reasons"`    // why this model
	Confidence string   `json:"confidence"` // high, medium, low
}
