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

// Refusal writes the answer REFUSED to a query into out and returns its length;
// 0 where there is no room, or the query has no question (RFC 1035 4.1.1).
func Refusal(out, query []byte) int {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil || h.Response {
		return 0
	}
	if _, err := p.Question(); err != nil {
		return 0
	}
	end := questionEnd(query)
	if end == 0 || end > len(out) {
		return 0
	}
	copy(out, query[:end])
	const response, recursion, refused = 0x80, 0x80, 5
	out[2] = query[2]&0x79 | response // opcode and recursion desired stay
	out[3] = recursion | refused
	clear(out[4:12])
	binary.BigEndian.PutUint16(out[4:], 1)
	return end
}

// questionEnd is where the first question of a message that was parsed ends; 0
// if its name is compressed, which nobody does.
func questionEnd(b []byte) int {
	for i := 12; i < len(b); i += 1 + int(b[i]) {
		switch {
		case b[i]&0xc0 != 0:
			return 0
		case b[i] == 0 && i+5 <= len(b):
			return i + 5
		}
	}
	return 0
}
