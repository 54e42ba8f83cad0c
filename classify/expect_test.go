package classify

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"gatehouse/classify/appid"
	"gatehouse/policy"
)

func controlStatements() []policy.Statement {
	return []policy.Statement{
		allow(webIdx, dbIdx, policy.AppMatch{App: policy.AppFTP, Forms: policy.TLSStart}, tcpPort(21)),
		allow(webIdx, dbIdx, plain(policy.AppSIP), udpPort(5060)),
		allow(webIdx, dbIdx, plain(policy.AppRTSP), tcpPort(554)),
	}
}

// ftp logs in, so that the control flow is decided.
func ftp(t *testing.T, b *bench, v6 bool, port uint16) *conn {
	t.Helper()
	k := b.conn(wire{v6, webIdx, dbIdx}, port, 21)
	k.open()
	k.server("220 ready\r\n")
	k.client("USER a\r\n")
	for range 12 {
		if b.out.Verdict == policy.Allow {
			return k
		}
		k.server("331 go on\r\n")
		k.client("NOOP\r\n")
	}
	t.Fatalf("control flow: %+v", b.out)
	return nil
}

// ftpPort asks the server to connect to an address and a port.
func ftpPort(v6 bool, i int, port uint16) string {
	if v6 {
		return fmt.Sprintf("EPRT |2|%s|%d|\r\n", addr(i, true), port)
	}
	return fmt.Sprintf("PORT %s,%d,%d\r\n", strings.ReplaceAll(addr(i, false).String(), ".", ","), port>>8, port&255)
}

func ftpPasv(v6 bool, port uint16) string {
	if v6 {
		return fmt.Sprintf("229 Entering Extended Passive Mode (|||%d|)\r\n", port)
	}
	return fmt.Sprintf("227 Entering Passive Mode (172,18,0,3,%d,%d)\r\n", port>>8, port&255)
}

// TestFTPData: the data connection that a control flow announced is part of it (R23).
func TestFTPData(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		syn := func(b *bench, w wire, from, to uint16) Result { return b.send(w.tcp(t, from, to, SYN, 1, 0, "")) }
		start := func() (*bench, *conn) {
			b := newBench(t, world{statements: controlStatements()}, Config{})
			return b, ftp(t, b, v6, 40000)
		}
		t.Run("passive, once", func(t *testing.T) {
			b, k := start()
			want(t, "unannounced", syn(b, out, 41000, 50000), false, policy.ReasonNoRule)
			want(t, "control", k.server(ftpPasv(v6, 50001)), true, policy.ReasonNone)
			if b.out.Offload {
				t.Error("the control flow was handed to the kernel")
			}
			r := syn(b, out, 41001, 50001)
			if want(t, "data", r, true, policy.ReasonNone); r.Verdict != policy.Allow || !r.Offload || r.Judgement.Denied || r.Judgement.Rule != k.find().Judgement.Rule {
				t.Errorf("%+v", r)
			}
			if f := r.Flow; f.Spoken.App != policy.AppFTPData || f.Confidence != appid.ConfidenceExpected || f.Evidence != appid.EvidenceExpectation {
				t.Errorf("%+v", f)
			}
			if q, ok := r.Flow.Control(); !ok || q != k.find().Query() {
				t.Errorf("control flow %v, %v", q, ok)
			}
			want(t, "sent again", syn(b, out, 41001, 50001), true, policy.ReasonNone)
			want(t, "data's answer", b.send(out.back().tcp(t, 50001, 41001, SYN|ACK, 9, 2, "")), true, policy.ReasonNone)
			want(t, "a second", syn(b, out, 41002, 50001), false, policy.ReasonNoRule)
		})
		t.Run("a long control flow is still heard", func(t *testing.T) {
			b, k := start()
			offered := false
			for range 5 {
				b.now += offerAgain
				k.client("NOOP\r\n")
				if b.out.Offload && !b.out.Stays {
					t.Error("the control flow was handed to the kernel")
				}
				offered = offered || b.out.Offload
			}
			if !offered {
				t.Error("no way past the bridge was offered")
			}
			want(t, "control", k.server(ftpPasv(v6, 50001)), true, policy.ReasonNone)
			want(t, "data", syn(b, out, 41001, 50001), true, policy.ReasonNone)
		})
		t.Run("active", func(t *testing.T) {
			b, k := start()
			want(t, "control", k.client(ftpPort(v6, webIdx, 50002)), true, policy.ReasonNone)
			want(t, "from the client", syn(b, out, 20, 50002), false, policy.ReasonNoRule)
			want(t, "another's", syn(b, wire{v6, strangerIdx, webIdx}, 20, 50002), false, policy.ReasonNoRule)
			want(t, "data", syn(b, out.back(), 20, 50002), true, policy.ReasonNone)
		})
		t.Run("bounce", func(t *testing.T) {
			b, k := start()
			k.client(ftpPort(v6, strangerIdx, 50003))
			want(t, "to a third", syn(b, wire{v6, dbIdx, strangerIdx}, 20, 50003), false, policy.ReasonNoRule)
			want(t, "to the client", syn(b, out.back(), 20, 50003), false, policy.ReasonNoRule)
			k.client(ftpPort(v6, webIdx, 22))
			want(t, "to a service", syn(b, out.back(), 20, 22), false, policy.ReasonNoRule)
		})
		t.Run("too late", func(t *testing.T) {
			b, k := start()
			k.server(ftpPasv(v6, 50004))
			b.now += int64(time.Minute)
			want(t, "data", syn(b, out, 41000, 50004), false, policy.ReasonNoRule)
		})
		t.Run("after the control flow's end", func(t *testing.T) {
			b, k := start()
			k.server(ftpPasv(v6, 50005))
			b.c.Retire(k.find().Key)
			want(t, "data", syn(b, out, 41000, 50005), false, policy.ReasonNoRule)
		})
		t.Run("another zone", func(t *testing.T) {
			b, k := start()
			k.server(ftpPasv(v6, 50006))
			b.in.Zone = zone + 1
			if r := syn(b, out, 41000, 50006); r.Forward {
				t.Errorf("%+v", r)
			}
		})
		t.Run("denied by a statement", func(t *testing.T) {
			no := allow(webIdx, dbIdx, policy.AnyApp, policy.PortRange{Proto: policy.ProtoTCP, Lo: 50000, Hi: 51000})
			no.Verdict, no.Tier = policy.Drop, policy.TierOperator
			b := newBench(t, world{statements: append(controlStatements(), no)}, Config{})
			ftp(t, b, v6, 40000).server(ftpPasv(v6, 50007))
			want(t, "data", syn(b, out, 41000, 50007), false, policy.ReasonDenied)
		})
		t.Run("a new table", func(t *testing.T) {
			b, k := start()
			k.server(ftpPasv(v6, 50008))
			syn(b, out, 41000, 50008)
			b.c.SetTable(world{statements: controlStatements(), epoch: 2}.table(t))
			want(t, "the same", b.send(out.back().tcp(t, 50008, 41000, SYN|ACK, 9, 2, "")), true, policy.ReasonNone)
			b.c.SetTable(world{epoch: 3}.table(t))
			want(t, "control forbidden", b.send(out.tcp(t, 41000, 50008, ACK, 2, 10, "")), false, policy.ReasonPolicyChanged)
		})
		t.Run("behind AUTH TLS", func(t *testing.T) {
			b := newBench(t, world{statements: controlStatements()}, Config{})
			k := b.conn(out, 40000, 21)
			k.open()
			k.play(t, []step{s("220 ready\r\n"), c("AUTH TLS\r\n"), s("234 go\r\n"), c(clientHello), s(serverHello).ok()})
			if !b.out.Offload {
				t.Error("nothing can be read there any more, and it is not handed over")
			}
		})
	})
}

func (k *conn) find() *Flow {
	src, dst := addr(k.w.from, k.w.v6).As16(), addr(k.w.to, k.w.v6).As16()
	key, _ := MakeKey(zone, policy.ProtoTCP, src, dst, k.sport, k.dport)
	return k.b.c.Find(key)
}

const rtpPacket = "\x80\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x07payload"

func TestMedia(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		sdp := func(i int, port int) string {
			family := "IP4"
			if v6 {
				family = "IP6"
			}
			return fmt.Sprintf("\r\n\r\nv=0\r\nc=IN %s %s\r\nm=audio %d RTP/AVP 0\r\n", family, addr(i, v6), port)
		}
		t.Run("sip", func(t *testing.T) {
			b := newBench(t, world{statements: controlStatements()}, Config{})
			b.send(out.udp(t, 5060, 5060, "INVITE sip:a@db SIP/2.0"+sdp(webIdx, 40000)))
			want(t, "before the answer", b.send(out.udp(t, 40000, 42000, rtpPacket)), false, policy.ReasonNoRule)
			r := b.send(out.back().udp(t, 5060, 5060, "SIP/2.0 200 OK"+sdp(dbIdx, 42010)))
			if want(t, "answer", r, true, policy.ReasonNone); r.Verdict != policy.Allow || r.Offload {
				t.Fatalf("%+v", r)
			}
			want(t, "something else", b.send(out.udp(t, 40000, 42010, "Zzzzzzzzzzzz")), false, policy.ReasonNoRule)
			r = b.send(out.udp(t, 40002, 42010, rtpPacket))
			if want(t, "rtp", r, true, policy.ReasonNone); r.Flow.Spoken.App != policy.AppRTP || !r.Offload {
				t.Errorf("%+v", r)
			}
			want(t, "rtp back", b.send(out.back().udp(t, 42010, 40002, rtpPacket)), true, policy.ReasonNone)
			want(t, "towards the caller", b.send(out.back().udp(t, 42012, 40000, rtpPacket)), true, policy.ReasonNone)
			r = b.send(out.udp(t, 40001, 42011, "\x80\xc8\x00\x01\x00\x00\x00\x01"))
			if want(t, "rtcp", r, true, policy.ReasonNone); r.Flow.Spoken.App != policy.AppRTCP {
				t.Errorf("%+v", r.Flow.Spoken)
			}
			want(t, "a third", b.send(wire{v6, strangerIdx, webIdx}.udp(t, 1, 40001, rtpPacket)), false, policy.ReasonNoRule)
		})
		t.Run("sip for a third", func(t *testing.T) {
			b := newBench(t, world{statements: controlStatements()}, Config{})
			b.send(out.udp(t, 5060, 5060, "INVITE sip:a@db SIP/2.0"+sdp(strangerIdx, 40000)))
			b.send(out.back().udp(t, 5060, 5060, "SIP/2.0 200 OK"+sdp(strangerIdx, 42000)))
			want(t, "to it", b.send(wire{v6, dbIdx, strangerIdx}.udp(t, 42000, 40000, rtpPacket)), false, policy.ReasonNoRule)
			want(t, "to the caller", b.send(out.back().udp(t, 42000, 40000, rtpPacket)), false, policy.ReasonNoRule)
		})
		t.Run("rtsp", func(t *testing.T) {
			b := newBench(t, world{statements: controlStatements()}, Config{})
			k := b.conn(out, 40000, 554)
			k.open()
			k.client("OPTIONS rtsp://db/a RTSP/1.0\r\n\r\n")
			k.server("RTSP/1.0 200 OK\r\n\r\n")
			k.client("SETUP rtsp://db/a RTSP/1.0\r\nTransport: RTP/AVP;unicast;client_port=41000-41001\r\n\r\n")
			k.server("RTSP/1.0 200 OK\r\nTransport: RTP/AVP;unicast;client_port=41000-41001;server_port=6970-6971\r\n\r\n")
			want(t, "rtp", b.send(out.back().udp(t, 6970, 41000, rtpPacket)), true, policy.ReasonNone)
			want(t, "rtcp", b.send(out.udp(t, 41001, 6971, "\x80\xc9\x00\x01\x00\x00\x00\x01")), true, policy.ReasonNone)
			want(t, "more", b.send(out.back().udp(t, 6972, 41000, rtpPacket)), false, policy.ReasonNoRule)
		})
	})
}

// TestExpectationsBound: one endpoint's announcements neither grow without end
// nor push out another's.
func TestExpectationsBound(t *testing.T) {
	b := newBench(t, world{statements: controlStatements()}, Config{})
	k := ftp(t, b, false, 40000)
	k.server(ftpPasv(false, 50000))
	b.in.Slot = 2
	other := ftp(t, b, false, 40001)
	for port := range 20_000 {
		other.server(ftpPasv(false, uint16(2000+port)))
	}
	if n := b.c.expected.live; n > expectedMax/4+1 {
		t.Errorf("%d expectations", n)
	}
	b.in.Slot = 1
	r := b.send(wire{false, webIdx, dbIdx}.tcp(t, 41000, 50000, SYN, 1, 0, ""))
	want(t, "the first one's data", r, true, policy.ReasonNone)
	if raceEnabled {
		return
	}
	frame := wire{false, dbIdx, webIdx}.tcp(t, 21, 40000, PSH|ACK, k.ack, k.seq, ftpPasv(false, 50001))
	if n := testing.AllocsPerRun(100, func() { b.send(frame) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestFTPDataEarly: clients ask for a data connection within a few commands, while
// they could still go over to TLS.
func TestFTPDataEarly(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		out := wire{v6, webIdx, dbIdx}
		b := newBench(t, world{statements: controlStatements()}, Config{})
		k := b.conn(out, 40000, 21)
		k.open()
		k.server("220 ready\r\n")
		k.client("USER anonymous\r\n")
		k.server("331 go on\r\n")
		k.client("PASS a\r\n")
		k.server("230 in\r\n")
		k.client("EPSV\r\n")
		want(t, "control", k.server(ftpPasv(v6, 50001)), true, policy.ReasonNone)
		want(t, "another port", b.send(out.tcp(t, 41000, 50009, SYN, 1, 0, "")), false, policy.ReasonNoRule)
		r := b.send(out.tcp(t, 41001, 50001, SYN, 1, 0, ""))
		if want(t, "data", r, true, policy.ReasonNone); r.Verdict != policy.Allow || r.Flow.Spoken.App != policy.AppFTPData {
			t.Errorf("%+v", r.Flow)
		}
		k.client("AUTH TLS\r\n")
		k.server("234 go on\r\n")
		want(t, "hello", k.client("\x16\x03\x01\x00\x30\x01\x00\x00\x2c\x03\x03"+strings.Repeat("\x00", 40)), true, policy.ReasonNone)
		k.server(ftpPasv(v6, 50002))
		want(t, "announced in TLS", b.send(out.tcp(t, 41002, 50002, SYN, 1, 0, "")), false, policy.ReasonNoRule)
	})
}
