// Package replay reads captures through the decode, the flow table and the
// application identification that live traffic meets, and says what flows there
// were. The replay verb and the benchmark call it. A Replay belongs to one
// goroutine; its memory does not grow with the capture.
package replay

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"time"

	"gatehouse/classify"
	"gatehouse/classify/appid"
	"gatehouse/dataplane/capture"
	"gatehouse/policy"
)

// Limits of what is kept at once. Flows beyond go as if they had ended.
const (
	flows     = 1 << 16
	undecided = 1 << 13
	// sweepEvery is after how many packets one more place is looked at for a
	// flow that is silent for too long.
	sweepEvery = 4
)

// Flow is one conversation, or a part of one that was silent for too long in
// between. Src is who began it, as far as the packets say.
type Flow struct {
	File  string     `json:"file"`
	Src   netip.Addr `json:"src"`
	Sport uint16     `json:"sport"`
	Dst   netip.Addr `json:"dst"`
	Dport uint16     `json:"dport"`
	// Proto is tcp, udp, icmp, icmpv6, sctp, or the IP protocol's number. Only TCP
	// and UDP have ports here.
	Proto string `json:"proto"`
	// App, Sub, Inner and ALPN are what app-ID found: the protocol, the API or
	// product on top, what an upgrade or a tunnel leads to, and what a TLS hello
	// announces.
	App        string            `json:"app"`
	Sub        string            `json:"sub"`
	Inner      string            `json:"inner,omitempty"`
	ALPN       string            `json:"alpn,omitempty"`
	Attrs      map[string]string `json:"attrs"`
	Confidence string            `json:"confidence"`
	Evidence   string            `json:"evidence,omitempty"`
	Status     string            `json:"status,omitempty"`
	Anomaly    string            `json:"anomaly,omitempty"`
	Findings   string            `json:"findings,omitempty"` // what is odd about it
	Packets    uint64            `json:"packets"`            // of both sides
	Replies    uint64            `json:"replies"`            // those of them that Dst sent
	Bytes      uint64            `json:"bytes"`              // of IP
	FirstSeen  time.Time         `json:"first_seen"`
	LastSeen   time.Time         `json:"last_seen"`
	// AppPacket is which packet with payload, of both sides, gave the application
	// away; 0 = none.
	AppPacket uint32 `json:"app_packet"`
}

// Replay reads captures one after the other.
type Replay struct {
	flow       func(*Flow)
	classifier *classify.Classifier
	file       string
	out        Flow
	noted      map[classify.FlowKey]note
}

// note is what app-ID said of a flow that is decided and still known.
type note struct {
	sub   string
	attrs map[string]string
}

// New returns a Replay that calls flow for every flow as it ends, drops out of
// a full table, or its capture does. The Flow is valid during the call.
func New(flow func(*Flow)) *Replay { return sized(flow, flows, undecided) }

func sized(flow func(*Flow), flows, undecided int) *Replay {
	r := &Replay{flow: flow, noted: map[classify.FlowKey]note{}}
	r.classifier = classify.New(classify.Config{Flows: flows, PerEndpoint: flows, Undecided: undecided, Capture: true, Ended: r.ended, Decided: r.decided})
	r.classifier.SetTable(policy.AskingTable(1))
	return r
}

// Counts are the packets of a capture.
type Counts struct {
	Packets uint64 // all
	Other   uint64 // of those: not IP, or cut off within their headers
}

// File reads a capture to its end or to where it is at fault; the flows up to
// there were reported then, and the error names file and offset.
func (r *Replay) File(name string, in io.Reader) (n Counts, err error) {
	r.file = name
	defer r.classifier.Drain()
	reader, err := capture.NewReader(in)
	if err != nil {
		return n, fmt.Errorf("%s: %w", name, err)
	}
	var (
		frame   capture.Packet
		packet  classify.Packet
		result  classify.Result
		ingress = classify.Ingress{Mode: policy.Observe}
	)
	for {
		if err := reader.Next(&frame); errors.Is(err, io.EOF) {
			return n, nil
		} else if err != nil {
			return n, fmt.Errorf("%s: %w", name, err)
		}
		n.Packets++
		if classify.DecodeCaptured(frame.IP, &packet) != policy.ReasonNone {
			n.Other++
			continue
		}
		r.classifier.Packet(&packet, &ingress, frame.Time, &result)
		if n.Packets%sweepEvery == 0 {
			r.classifier.Sweep(frame.Time, 1)
		}
	}
}

func (r *Replay) decided(f *classify.Flow, a *appid.Attrs) {
	n := note{sub: a.Sub(f.Spoken)}
	for key, value := range a.All() {
		if n.attrs == nil {
			n.attrs = map[string]string{}
		}
		n.attrs[key.String()] = string(value)
	}
	if n.sub != "" || n.attrs != nil {
		r.noted[f.Key] = n
	}
}

func (r *Replay) ended(f *classify.Flow) {
	n := r.noted[f.Key]
	delete(r.noted, f.Key)
	r.out = Flow{
		File: r.file, Proto: protoName(f), App: f.Spoken.App.String(), Sub: n.sub, Inner: named(f.Spoken.Inner), ALPN: named(f.Spoken.ALPN),
		Attrs: n.attrs, Confidence: f.Confidence.String(), Evidence: f.Evidence.String(), Status: f.Status.String(),
		Packets: f.Packets[0] + f.Packets[1], Replies: f.Packets[f.Initiator^1], Bytes: f.Bytes[0] + f.Bytes[1],
		FirstSeen: time.Unix(0, f.First).UTC(), LastSeen: time.Unix(0, f.Seen).UTC(), AppPacket: f.NamedAt,
	}
	out := &r.out
	out.Src, out.Sport, out.Dst, out.Dport = address(f.Key.AddrA), f.Key.PortA, address(f.Key.AddrB), f.Key.PortB
	if f.Initiator == 1 {
		out.Src, out.Sport, out.Dst, out.Dport = out.Dst, out.Dport, out.Src, out.Sport
	}
	if f.Anomaly != appid.AnomalyNone {
		out.Anomaly = f.Anomaly.String()
	}
	if f.Findings != 0 {
		out.Findings = f.Findings.String()
	}
	switch {
	case f.Likely != policy.AppNone:
		out.App = f.Likely.String()
	case f.Spoken.App <= policy.AppUnknown:
		out.App, out.AppPacket = policy.AppUnknown.String(), 0
	}
	if out.Attrs == nil {
		out.Attrs = map[string]string{}
	}
	r.flow(out)
}

func address(a [16]byte) netip.Addr { return netip.AddrFrom16(a).Unmap() }

// named is an application's name, empty for none.
func named(a policy.App) string {
	if a == policy.AppNone {
		return ""
	}
	return a.String()
}

func protoName(f *classify.Flow) string {
	switch p := f.Key.Proto; {
	case p == policy.ProtoTCP:
		return "tcp"
	case p == policy.ProtoUDP:
		return "udp"
	case p == policy.ProtoICMP && f.V6():
		return "icmpv6"
	case p == policy.ProtoICMP:
		return "icmp"
	case p == 132:
		return "sctp"
	default:
		return strconv.Itoa(int(p))
	}
}
