package appid

import (
	"bytes"
	"testing"

	"gatehouse/policy"
)

// ask calls every function of a protocol on what both sides have sent.
func (p *protocol) ask(v *view, a *Attrs) (c, s match) {
	if len(v.c) > 0 && p.clientFirsts.has(v.c[0]) {
		c = p.client(v)
	}
	if len(v.s) > 0 && p.serverFirsts.has(v.s[0]) {
		s = p.server(v)
	}
	if p.mid != nil && len(v.c) > 0 {
		p.mid(v.c)
		if len(v.s) > 0 {
			p.mid(v.s)
		}
	}
	if c == no && s == no {
		return c, s
	}
	if p.refine != nil {
		p.refine(v)
	}
	if p.alpn != nil {
		p.alpn(v)
	}
	if p.sub != nil {
		p.sub(v)
	}
	if p.upgraded != nil {
		p.upgraded(v)
	}
	if p.tunnel != nil {
		if _, c, s := p.tunnel(v); c < 0 || s < 0 || c > len(v.c) || s > len(v.s) {
			panic("tunnel outside of the bytes")
		}
	}
	if p.holds != nil {
		p.holds(v)
	}
	if p.sub != nil {
		p.sub(v)
	}
	if p.attrs != nil {
		p.attrs(v, a)
	}
	return c, s
}

func seeds(f *testing.F, add func(c, s []byte, udp bool)) {
	for _, sm := range samples() {
		var side [2][]byte
		for i, b := range sm.turns {
			side[sm.dir(i)] = append(side[sm.dir(i)], b...)
		}
		add(side[0], side[1], sm.udp)
	}
	hello := records(tlsHello("db", "", 0), 1<<14)
	add([]byte(mysqlSSLBytes+hello), []byte(mysqlGreetingBytes), false)
	add([]byte("EHLO a\r\nSTARTTLS\r\n"+hello), []byte("220 a\r\n250 a\r\n220 a\r\n"), false)
	add([]byte(be32(8)+be32(postgresqlSSL)+hello), []byte("S"+serverHello), false)
	add([]byte("\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10"), []byte("\x15\x03\x01\x00\x02\x02\x28"), false)
}

// FuzzSignatures: no signature reads past its bytes, and what one says no to
// stays no when more bytes come, however a stream is cut.
func FuzzSignatures(f *testing.F) {
	seeds(f, func(c, s []byte, udp bool) { f.Add(c, s, uint16(5353), byte(0)); f.Add(c, s, uint16(80), byte(3)) })
	f.Fuzz(func(t *testing.T, c, s []byte, port uint16, flags byte) {
		exact := func(b []byte, n int) []byte { return bytes.Clone(b[:min(len(b), n)]) }
		c, s = exact(c, clientKeep), exact(s, serverKeep)
		var a Attrs
		for i := range protocols {
			p := &protocols[i]
			whole := view{c: c, s: s, port: port, udp: p.udp, serverFirst: flags&1 != 0, cFull: flags&2 != 0, sFull: flags&4 != 0}
			wc, ws := p.ask(&whole, &a)
			if p.udp {
				continue
			}
			part := whole
			part.cFull, part.sFull = false, false
			for _, n := range [...]int{1, 2, 3, 4, 5, 7, 8, 12, 16, 20, 33, 64} {
				part.c, part.s = exact(c, n), exact(s, n)
				pc, ps := p.ask(&part, &a)
				if len(c) > n && pc == no && wc >= fits {
					t.Fatalf("%v: client's first %d bytes are refused, %q is not", p.app, n, c)
				}
				part.c = c
				_, ps2 := p.ask(&part, &a)
				if len(s) > n && (ps == no || ps2 == no) && ws >= fits && len(c) > n {
					// Judged with as much of the client as there will be.
					if ps2 == no {
						t.Fatalf("%v: server's first %d bytes are refused, %q is not", p.app, n, s)
					}
				}
			}
		}
	})
}

// FuzzFeed drives whole flows: direction, offset and length of each segment
// come from the input.
func FuzzFeed(f *testing.F) {
	seeds(f, func(c, s []byte, udp bool) {
		f.Add(append(append([]byte{}, c...), s...), []byte{0, 0, byte(len(c)), 1, 0, byte(len(s))}, udp, false)
		f.Add(append(append([]byte{}, c...), s...), []byte{0, 3, 9, 0, 0, 3, 1, 0, 5, 1, 2, 30}, udp, true)
	})
	e := New()
	f.Fuzz(func(t *testing.T, data, plan []byte, udp, mid bool) {
		var s State
		proto := policy.ProtoTCP
		if udp {
			proto = policy.ProtoUDP
		}
		s.Reset(proto, 5353, mid)
		s.Open(FromClient, 0xfffffff0)
		packets := 0
		for len(plan) >= 3 && len(data) > 0 {
			dir, off, n := Dir(plan[0]&1), uint32(plan[1]), min(int(plan[2]), len(data))
			plan = plan[3:]
			base := uint32(0)
			if dir == FromClient {
				base = 0xfffffff0
			}
			was := s.Outcome()
			o := e.Feed(&s, dir, base+off, bytes.Clone(data[:n]))
			data = data[n:]
			packets++
			if was.Decided && o != was {
				t.Fatalf("decided %+v, then %+v", was, o)
			}
			if o.Decided && o.Spoken.App == policy.AppNone {
				t.Fatalf("decided on nothing: %+v", o)
			}
			if o.Decided && s.MayName() {
				s.AwaitSub()
			}
			if s.MayUpgrade() {
				e.Watch(&s)
			}
			for d := range s.dir {
				if k := &s.dir[d]; int(k.n) > len(s.kept(Dir(d))) || k.nspans > maxSpans {
					t.Fatalf("%+v", k)
				}
			}
		}
		var a Attrs
		s.Attrs(&a)
		if o := e.Finish(&s); !o.Decided {
			t.Fatalf("not finished: %+v", o)
		}
	})
}
