package policy

// Query is one flow to look up: addresses as they are at the hook, in the
// zone of the endpoint that the packet was seen at; IPv4 v4-mapped. ICMP echo
// has DstPort 0 and ProtoICMP in both families.
type Query struct {
	Zone     Zone
	Src, Dst [16]byte
	Proto    Proto
	DstPort  uint16
}

// Judgement is the answer for a flow whose application is known, or cannot be.
type Judgement struct {
	Verdict Verdict // what to do, modes applied
	// Denied is policy's own answer before modes: true and Verdict Allow is a
	// violation that is only recorded.
	Denied bool
	Side   Side  // whose no it is
	Rule   int32 // index into Table.Rules of what decided, -1 = no rule
	Reason Reason
}
