package lookup

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"gatehouse/policy"
)

const (
	chainMax     = 16 // names from the question to its addresses; resolvers follow fewer
	addressesMax = 64 // that one answer is taken for
)

var errNoQuery = errors.New("no query, or answer to one, with one question for the internet class")

// Query is one question.
type Query struct {
	// Name is canonical; "" where it is none that a statement could mean, or where
	// the message could not be read.
	Name string
	Type uint16
	id   uint16
}

// message is what is of interest in one.
type message struct {
	Query
	parser   dnsmessage.Parser // at the records
	isAnswer bool
	ok       bool // an answer's code is no error
	cnames   map[string]link
	found    []address
	more     bool // there were more addresses than are taken
}

// link is a CNAME, or the alias form of an HTTPS record.
type link struct {
	to  string
	ttl uint32
}

type address struct {
	owner string
	ip    netip.Addr
	ttl   uint32
}

// parse reads the head of a message and its question (RFC 1035 4).
func parse(b []byte) (m message, err error) {
	p := &m.parser
	h, err := p.Start(b)
	if err != nil {
		return m, err
	}
	q, err := p.Question()
	if err != nil {
		return m, err
	}
	if _, err := p.Question(); !errors.Is(err, dnsmessage.ErrSectionDone) || h.OpCode != 0 || q.Class != dnsmessage.ClassINET {
		return m, errNoQuery
	}
	m.Query = Query{Type: uint16(q.Type), id: h.ID}
	if name, ok := policy.CanonicalName(q.Name.String()); ok {
		m.Name = name
	}
	m.isAnswer, m.ok = h.Response, h.RCode == dnsmessage.RCodeSuccess
	return m, nil
}

// readRecords reads the records of an answer, once; of a message in pieces those
// that are whole (RFC 9460 for HTTPS and SVCB with their address hints).
func (m *message) readRecords(part bool) (err error) {
	if !m.ok {
		return nil
	}
	m.cnames = make(map[string]link)
	for err == nil {
		err = m.record(&m.parser)
	}
	if errors.Is(err, dnsmessage.ErrSectionDone) || part {
		return nil
	}
	return err
}

func (m *message) record(p *dnsmessage.Parser) error {
	h, err := p.AnswerHeader()
	if err != nil {
		return err
	}
	owner, ok := policy.CanonicalName(h.Name.String())
	if !ok || h.Class != dnsmessage.ClassINET {
		return p.SkipAnswer()
	}
	switch h.Type {
	case dnsmessage.TypeA:
		r, err := p.AResource()
		m.add(owner, netip.AddrFrom4(r.A), h.TTL, err)
		return err
	case dnsmessage.TypeAAAA:
		r, err := p.AAAAResource()
		m.add(owner, netip.AddrFrom16(r.AAAA), h.TTL, err)
		return err
	case dnsmessage.TypeCNAME:
		r, err := p.CNAMEResource()
		m.lead(owner, r.CNAME, h.TTL, err)
		return err
	case dnsmessage.TypeHTTPS:
		r, err := p.HTTPSResource()
		m.service(owner, &r.SVCBResource, h.TTL, err)
		return err
	case dnsmessage.TypeSVCB:
		r, err := p.SVCBResource()
		m.service(owner, &r, h.TTL, err)
		return err
	}
	return p.SkipAnswer()
}

func (m *message) add(owner string, ip netip.Addr, ttl uint32, err error) {
	switch {
	case err != nil:
	case len(m.found) == addressesMax:
		m.more = true
	default:
		m.found = append(m.found, address{owner, ip, ttl})
	}
}

func (m *message) lead(owner string, to dnsmessage.Name, ttl uint32, err error) {
	if name, ok := policy.CanonicalName(to.String()); ok && err == nil {
		m.cnames[owner] = link{name, ttl}
	}
}

// service reads the hints of a record in service mode; without a priority it is
// an alias (RFC 9460 2.4.2).
func (m *message) service(owner string, r *dnsmessage.SVCBResource, ttl uint32, err error) {
	if err != nil {
		return
	}
	if r.Priority == 0 {
		m.lead(owner, r.Target, ttl, nil)
		return
	}
	for _, p := range r.Params {
		size := map[dnsmessage.SVCParamKey]int{dnsmessage.SVCParamIPv4Hint: 4, dnsmessage.SVCParamIPv6Hint: 16}[p.Key]
		for v := p.Value; size > 0 && len(v) >= size; v = v[size:] {
			ip, _ := netip.AddrFromSlice(v[:size])
			m.add(owner, ip, ttl, nil)
		}
	}
}

// answer follows the names from the question on. What the question's name does
// not lead to counts for nothing.
func (m *message) answer() policy.Answer {
	a := policy.Answer{Name: m.Name}
	ttls := map[string]uint32{m.Name: 1<<32 - 1}
	for at := m.Name; len(a.Chain) < chainMax; {
		next, ok := m.cnames[at]
		if _, been := ttls[next.to]; !ok || been {
			break
		}
		ttls[next.to] = min(ttls[at], next.ttl)
		a.Chain, at = append(a.Chain, next.to), next.to
	}
	for _, f := range m.found {
		if least, ok := ttls[f.owner]; ok {
			a.Addresses = append(a.Addresses, policy.AnswerAddress{IP: f.ip, TTL: time.Duration(min(least, f.ttl)) * time.Second})
		}
	}
	return a
}

const (
	messageHeader = 12  // RFC 1035 4.1.1
	labelMax      = 63  // RFC 1035 3.1; above are pointers, and what nobody defined
	nameMax       = 255 // RFC 1035 3.1, with the root's octet
	recordHead    = 10  // type, class, TTL, length (RFC 1035 4.1.3)
	typeOPT       = 41  // RFC 6891 6.1.1
	// refusalOPT is the length of the OPT record of a refusal, with the option
	// that says why.
	refusalOPT = 1 + recordHead + 6
)

// Refusal writes the answer to a query that policy refuses into out and returns
// its length; 0 where there is no room, or what is asked is no query with one
// question (RFC 1035 4.1.1, RFC 9619). It does not allocate.
//
// The answer is REFUSED. For an address (A or AAAA) of a name of one label, which no
// host has on the internet (SAC053), it is NXDOMAIN: an engine asks for such a name
// outside where the container of that name does not run, and C libraries that
// overlook REFUSED and wait take NXDOMAIN. Other types exist for such names, and a
// resolver that asks for them would take a whole domain for gone. With absent it is
// NXDOMAIN for an address of any name.
func Refusal(out, query []byte, absent bool) int {
	const (
		response, recursion    = 0x80, 0x80 // QR and RA
		opcodeAndDesired       = 0x79
		checkingDisabled       = 0x10 // returned as it came (RFC 4035 3.2.2)
		refused, nameError     = 5, 3
		extendedError, because = 15, 18 // Prohibited (RFC 8914 4.19)
		size                   = 1280 - 40 - 8
	)
	end, labels := onlyQuestion(query)
	if end == 0 || len(out) < end+refusalOPT {
		return 0
	}
	code := byte(refused)
	if kind := binary.BigEndian.Uint16(query[end-4:]); (labels == 1 || absent && labels > 0) && (kind == uint16(dnsmessage.TypeA) || kind == uint16(dnsmessage.TypeAAAA)) {
		code = nameError
	}
	copy(out, query[:end])
	out[2] = query[2]&opcodeAndDesired | response
	out[3] = query[3]&checkingDisabled | recursion | code
	clear(out[6:messageHeader])
	wantsDNSSEC, ok := extended(query, end)
	if !ok {
		return end
	}
	out[11] = 1
	return end + copy(out[end:], []byte{0, 0, typeOPT, size >> 8, size & 0xff, 0, 0, wantsDNSSEC, 0, 0, 6, 0, extendedError, 0, 2, 0, because})
}

// onlyQuestion is where the question of a query with one ends, and how many labels
// its name has; 0 where b is none, or the name is compressed, which nobody does.
func onlyQuestion(b []byte) (end, labels int) {
	const response = 0x80
	if len(b) < messageHeader || b[2]&response != 0 || binary.BigEndian.Uint16(b[4:]) != 1 {
		return 0, 0
	}
	end = messageHeader
	for ; end < len(b) && b[end] != 0; end += 1 + int(b[end]) {
		if b[end] > labelMax {
			return 0, 0
		}
		labels++
	}
	if end-messageHeader >= nameMax || end+5 > len(b) {
		return 0, 0
	}
	return end + 5, labels
}

// nameEnd is where the name at i ends, 0 where it does not end in b. A pointer
// ends it (RFC 1035 4.1.4), and is not followed.
func nameEnd(b []byte, i int) int {
	const pointer = 0xc0
	for start := i; i < len(b) && i-start < nameMax; i += 1 + int(b[i]) {
		switch {
		case b[i] == 0:
			return i + 1
		case b[i]&pointer == pointer && i+1 < len(b):
			return i + 2
		case b[i]&pointer != 0:
			return 0
		}
	}
	return 0
}

// extended looks for the OPT record of a query whose records begin at i: an
// answer has one where its query has (RFC 6891 6.1.1), and its DO bit (RFC 3225 3).
func extended(b []byte, i int) (wantsDNSSEC byte, ok bool) {
	const do = 0x80
	records := 0
	for at := 6; at < messageHeader; at += 2 {
		records += int(binary.BigEndian.Uint16(b[at:]))
	}
	for ; records > 0; records-- {
		end := nameEnd(b, i)
		if end == 0 || end+recordHead > len(b) {
			return 0, false
		}
		if binary.BigEndian.Uint16(b[end:]) == typeOPT && end == i+1 {
			return b[end+6] & do, true
		}
		i = end + recordHead + int(binary.BigEndian.Uint16(b[end+8:]))
	}
	return 0, false
}
