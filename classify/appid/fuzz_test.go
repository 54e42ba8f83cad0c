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

// FuzzConversation drives whole conversations as the classifier does: in turns,
// with receipts, into upgrades and tunnels, for the API on top, and with what is
// announced read. A plan of bytes says who speaks, how much, and what is awaited.
func FuzzConversation(f *testing.F) {
	for _, sm := range samples() {
		plan, data := []byte{}, []byte{}
		for i, b := range sm.turns {
			data = append(data, b...)
			plan = append(plan, byte(sm.dir(i))|0x3c, byte(min(len(b), 255)))
		}
		f.Add(data, plan, sm.udp)
	}
	connect, reply := "CONNECT a:1 HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"
	for _, inner := range []string{"SSH-2.0-a\r\n", connect, "*1\r\n$4\r\nPING\r\n", records(tlsHello("a", "", 0), 100)} {
		f.Add([]byte(connect+reply+inner), []byte{0x3c, byte(len(connect)), 0x3d, byte(len(reply)), 0x3c, 255}, false)
	}
	socks := "\x05\x01\x02\x05\x02\x01\x01u\x01p\x01\x00\x05\x01\x00\x03\x01a\x00\x50\x05\x00\x00\x01abcd\x00\x50GET / HTTP/1.1\r\n\r\n"
	f.Add([]byte(socks), []byte{0x3c, 3, 0x3d, 2, 0x3c, 5, 0x3d, 2, 0x3c, 8, 0x3d, 10, 0x3c, 255}, false)
	e := New()
	f.Fuzz(func(t *testing.T, data, plan []byte, udp bool) {
		var s State
		proto := policy.ProtoTCP
		if udp {
			proto = policy.ProtoUDP
		}
		s.Reset(proto, 80, false)
		s.Open(FromClient, 0xffffff00)
		s.Open(FromServer, 7)
		if len(plan) > 0 && plan[0]&0x40 != 0 && !udp {
			s.WantReceipts()
		}
		seq := [2]uint32{0xffffff00, 7}
		var heard Announcer
		heard.Reset(policy.AppFTP, proto)
		for ; len(plan) >= 2 && len(data) > 0; plan = plan[2:] {
			how, n := plan[0], min(int(plan[1]), len(data))
			dir := Dir(how & 1)
			if how&4 != 0 {
				s.Acknowledged(1-dir, seq[1-dir])
			}
			payload := bytes.Clone(data[:n])
			o := e.Feed(&s, dir, seq[dir], payload)
			if how&2 != 0 { // sent again, perhaps with other bytes
				payload = append(payload[:0:0], data[len(data)-n:]...)
				o = e.Feed(&s, dir, seq[dir], payload)
			}
			heard.Feed(dir, seq[dir], payload)
			seq[dir] += uint32(n)
			data = data[n:]
			if o.Decided && s.MayName() && how&8 != 0 {
				o = s.AwaitSub()
			}
			for i := 0; s.MayUpgrade() && how&16 != 0; i++ {
				if o = e.Watch(&s); i > 2*depthMax {
					t.Fatalf("watched without end: %+v", o)
				}
			}
			_, tunnel := o.Spoken.Tunnelled()
			switch {
			case o.Decided && o.Spoken.App == policy.AppNone:
				t.Fatalf("decided on nothing: %+v", o)
			case tunnel && s.depth == 0 && o.Spoken.Inner != policy.AppTLS:
				t.Fatalf("in no tunnel: %+v", o)
			case o.Likely != policy.AppNone && o.Spoken.App != policy.AppUnknown:
				t.Fatalf("named and likely: %+v", o)
			}
			for d := range s.dir {
				if k := &s.dir[d]; int(k.n) > len(s.kept(Dir(d))) || k.nspans > maxSpans {
					t.Fatalf("%+v", k)
				}
				for _, p := range s.dir[d].spans[:s.dir[d].nspans] {
					if p.lo > p.hi || int(p.hi) > len(s.kept(Dir(d))) {
						t.Fatalf("%+v", s.dir[d])
					}
				}
			}
		}
		heard.Adopt(&s)
		var a Attrs
		s.Attrs(&a)
		for range a.All() {
		}
		s.Findings()
		if o := e.Finish(&s); !o.Decided {
			t.Fatalf("not finished: %+v", o)
		}
	})
}
