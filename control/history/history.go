// Package history keeps what happened: flows and violations with the names
// that their ends had at that time, bounded by size and age, over restarts and
// power cuts. The dataplane's readers Add to it, off the packet path; the API
// reads it.
//
// What is equal but for the source port becomes one Record a minute, so that a
// million connections cost little. A Store is safe for concurrent use.
//
// The records live in go.etcd.io/bbolt: one file, copy-on-write pages with two
// checksummed roots, so that a power cut leaves the last commit; keys in order
// of time; pure Go.
package history

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"
	"time"

	"gatehouse/policy"
)

// Kind says what a record is of.
type Kind uint8

const (
	Flow      Kind = iota // conversations, passed or not
	Violation             // what policy did not allow, packets of no flow included
	kinds
)

var kindNames = [kinds]string{"flow", "violation"}

func (k Kind) String() string {
	if k < kinds {
		return kindNames[k]
	}
	return "invalid"
}

// MarshalText makes kinds words in JSON.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads a kind's word.
func (k *Kind) UnmarshalText(text []byte) error {
	for i, n := range kindNames {
		if n == string(text) {
			*k = Kind(i)
			return nil
		}
	}
	return fmt.Errorf("record kind %q: want flow or violation", text)
}

// Key is all that the conversations of one record have in common. Addresses
// that could not be read are the zero Addr.
type Key struct {
	Kind    Kind         `json:"kind"`
	Zone    policy.Zone  `json:"zone"`
	Proto   policy.Proto `json:"proto"`
	Src     netip.Addr   `json:"src"` // the initiator
	Dst     netip.Addr   `json:"dst"` // the responder
	DstPort uint16       `json:"dstPort"`
	// ControlPort is the responder's port of the flow that announced this one, as
	// FTP announces its data; policy judges it as that flow. 0 = none did.
	ControlPort uint16 `json:"controlPort,omitempty"`
	// Workload are the container ids of the local ends, "" = not here. Of a
	// packet that is no flow's the first is that of the interface.
	Workload [2]string     `json:"workload"`
	Spoken   policy.Spoken `json:"spoken"`
	// Name is the host that was asked for, as the flow said it: the server name
	// of a TLS hello, HTTP's host, the name that was looked up.
	Name     string         `json:"name,omitempty"`
	Verdict  policy.Verdict `json:"verdict"`
	Denied   bool           `json:"denied,omitempty"` // policy said no, whatever the modes made of it
	Reason   policy.Reason  `json:"reason"`
	Side     policy.Side    `json:"side"` // whose no it was
	Outgoing bool           `json:"outgoing,omitempty"`
	Rule     int32          `json:"rule"` // in the table of Epoch, -1 = none
	Epoch    uint32         `json:"epoch"`
	// Summed: the workload had too many peers or ports in that minute to keep
	// each; addresses and port are zero.
	Summed bool `json:"summed,omitempty"`
}

// Sample is one conversation that ended, or what one has grown by.
type Sample struct {
	Key
	SrcPort        uint16
	First, Last    time.Time
	Packets, Bytes [2]uint64 // of the initiator, of the responder
	Flows          uint64    // conversations that this sample is the first of: 0 or 1
}

// Party is who was at one end, by the names of that time.
type Party struct {
	Name     string            `json:"name"` // shop/db, @internet
	Service  policy.ServiceKey `json:"service,omitzero"`
	Identity policy.Identity   `json:"identity,omitempty"`
	Model    string            `json:"model,omitempty"` // mariadb@1
	Image    string            `json:"image,omitempty"` // as the deployer wrote it
}

// Record is what the store keeps: the conversations of one minute that are
// equal in their Key.
type Record struct {
	Key
	// ID is the same for the same ends, port, application and answer, also
	// over restarts.
	ID      string    `json:"id"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	SrcPort uint16    `json:"srcPort"` // of the last one
	From    Party     `json:"from"`
	To      Party     `json:"to"`
	Port    uint16    `json:"port"` // the responder's own, behind any publishing
	// Statement is what decided: its id and its text, "" where nothing did.
	Statement     string    `json:"statement,omitempty"`
	StatementText string    `json:"statementText,omitempty"`
	Packets       [2]uint64 `json:"packets"`
	Bytes         [2]uint64 `json:"bytes"`
	Flows         uint64    `json:"flows"`
}

// SetID gives a record that was built by hand its id.
func (r *Record) SetID() { r.ID = r.Key.id() }

// lasting is the key without what changes with the table.
func (k Key) lasting() Key {
	k.Rule, k.Epoch = 0, 0
	return k
}

// id is a digest of the lasting key, short enough to type.
func (k Key) id() string {
	h := fnv.New64a()
	k = k.lasting()
	src, dst := k.Src.As16(), k.Dst.As16()
	h.Write(src[:])
	h.Write(dst[:])
	h.Write([]byte(k.Workload[0] + "\x00" + k.Workload[1]))
	fmt.Fprintf(h, "\x00%#v\x00%s", k.Spoken, k.Name)
	var b [16]byte
	binary.BigEndian.PutUint32(b[:], uint32(k.Zone))
	binary.BigEndian.PutUint16(b[4:], k.DstPort)
	b[6], b[7], b[8] = byte(k.Kind), byte(k.Proto), byte(k.Reason)
	b[9], b[10], b[11] = byte(k.Verdict), byte(k.Side), 0
	for i, bit := range [...]bool{k.Denied, k.Outgoing, k.Summed} {
		if bit {
			b[11] |= 1 << i
		}
	}
	binary.BigEndian.PutUint16(b[12:], k.ControlPort)
	h.Write(b[:])
	return fmt.Sprintf("%012x", h.Sum64()>>16)
}

// add counts a sample in.
func (r *Record) add(s *Sample) {
	if r.First.IsZero() || s.First.Before(r.First) {
		r.First = s.First
	}
	if s.Last.After(r.Last) {
		r.Last = s.Last
	}
	r.SrcPort = s.SrcPort
	for i := range 2 {
		r.Packets[i] += s.Packets[i]
		r.Bytes[i] += s.Bytes[i]
	}
	r.Flows += s.Flows
}

// Merge counts another record of the same lasting key in: the names of the
// later one stay.
func (r *Record) Merge(o *Record) {
	later := r
	if o.Last.After(r.Last) {
		later = o
	}
	sum := *later
	if r.First.Before(o.First) {
		sum.First = r.First
	} else {
		sum.First = o.First
	}
	for i := range 2 {
		sum.Packets[i] = r.Packets[i] + o.Packets[i]
		sum.Bytes[i] = r.Bytes[i] + o.Bytes[i]
	}
	sum.Flows = r.Flows + o.Flows
	*r = sum
}
