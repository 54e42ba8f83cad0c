package appid

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"gatehouse/policy"
)

func TestAnnouncements(t *testing.T) {
	const (
		sdp4 = "v=0\r\no=- 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\n"
		sdp6 = "v=0\r\nc=IN IP6 2001:db8::1\r\n"
	)
	invite := "INVITE sip:b@b SIP/2.0\r\nContent-Type: application/sdp\r\n\r\n"
	tests := []struct {
		name string
		app  policy.App
		from Dir
		text string
		want string // by, address, port, application
	}{
		{"pasv", policy.AppFTP, FromServer, "227 Entering Passive Mode (10,0,0,2,195,80)\r\n", "[1 invalid IP 50000 ftp-data]"},
		{"pasv without brackets", policy.AppFTP, FromServer, "227 =10,0,0,2,195,80\r\n", "[1 invalid IP 50000 ftp-data]"},
		{"epsv", policy.AppFTP, FromServer, "229 Entering Extended Passive Mode (|||50001|)\r\n", "[1 invalid IP 50001 ftp-data]"},
		{"epsv, another bar", policy.AppFTP, FromServer, "229 ok (!!!50001!)\r\n", "[1 invalid IP 50001 ftp-data]"},
		{"port", policy.AppFTP, FromClient, "PORT 10,0,0,1,195,80\r\n", "[0 10.0.0.1 50000 ftp-data]"},
		{"eprt", policy.AppFTP, FromClient, "eprt |2|2001:db8::1|50002|\r\n", "[0 2001:db8::1 50002 ftp-data]"},
		{"a client says 227", policy.AppFTP, FromClient, "227 (10,0,0,2,195,80)\r\n", "[]"},
		{"a server says PORT", policy.AppFTP, FromServer, "PORT 10,0,0,1,195,80\r\n", "[]"},
		{"a service's port", policy.AppFTP, FromClient, "PORT 10,0,0,1,0,22\r\n", "[]"},
		{"no number", policy.AppFTP, FromClient, "PORT 10,0,0,1,300,22\r\n", "[]"},
		{"half a number", policy.AppFTP, FromServer, "227 (10,0,0,2,195\r\n", "[]"},
		{"sip, session's address", policy.AppSIP, FromClient, invite + sdp4 + "m=audio 40000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n", "[0 10.0.0.1 40000 rtp] [0 10.0.0.1 40001 rtcp]"},
		{"sip, media's address", policy.AppSIP, FromServer, "SIP/2.0 200 OK\r\n\r\nv=0\r\nm=audio 40000 RTP/AVP 0\r\nc=IN IP4 10.0.0.9\r\n", "[1 10.0.0.9 40000 rtp] [1 10.0.0.9 40001 rtcp]"},
		{"sip, IPv6, two media, one off", policy.AppSIP, FromClient, invite + sdp6 + "m=audio 0 RTP/AVP 0\r\nm=video 40002/2 RTP/SAVPF 96\r\na=rtcp:40009\r\n", "[0 2001:db8::1 40002 rtp] [0 2001:db8::1 40003 rtcp] [0 2001:db8::1 40009 rtcp]"},
		{"sip, something else", policy.AppSIP, FromClient, invite + sdp4 + "m=message 40000 TCP/MSRP *\r\n", "[]"},
		{"rtsp setup", policy.AppRTSP, FromClient, "SETUP rtsp://a RTSP/1.0\r\nTransport: RTP/AVP;unicast;client_port=40000-40001\r\n\r\n", "[0 invalid IP 40000 rtp] [0 invalid IP 40001 rtcp]"},
		{"rtsp answer", policy.AppRTSP, FromServer, "RTSP/1.0 200 OK\r\ntransport: RTP/AVP/UDP;unicast;client_port=40000-40001;server_port=6970-6971\r\n\r\n", "[1 invalid IP 6970 rtp] [1 invalid IP 6971 rtcp]"},
		{"rtsp interleaved", policy.AppRTSP, FromClient, "Transport: RTP/AVP/TCP;interleaved=0-1;client_port=40000-40001\r\n", "[]"},
		{"rtsp elsewhere", policy.AppRTSP, FromClient, "Transport: RTP/AVP;destination=10.9.9.9;client_port=40000-40001\r\n", "[]"},
	}
	for _, tt := range tests {
		for _, cut := range []int{0, 1, 7} {
			t.Run(fmt.Sprint(tt.name, "/", cut), func(t *testing.T) {
				var a Announcer
				a.Reset(tt.app, policy.ProtoTCP)
				got, seq := "", uint32(0xfffffff0)
				feed := func(b string) {
					for _, x := range a.Feed(tt.from, seq, []byte(b)) {
						got += fmt.Sprintf(" [%d %v %d %v]", x.By, x.Addr, x.Port, x.App)
					}
					seq += uint32(len(b))
				}
				if cut == 0 {
					feed(tt.text)
				}
				for i := 0; cut > 0 && i < len(tt.text); i += cut {
					feed(tt.text[i:min(i+cut, len(tt.text))])
				}
				if got == "" {
					got = " []"
				}
				if got[1:] != tt.want {
					t.Errorf("got %s, want %s", got[1:], tt.want)
				}
			})
		}
	}
}

// TestAnnouncementsOnce: what is sent again announces nothing again, and what
// comes behind a gap is read from the next line on.
func TestAnnouncementsOnce(t *testing.T) {
	var a Announcer
	a.Reset(policy.AppFTP, policy.ProtoTCP)
	port := []byte("PORT 10,0,0,1,195,80\r\n")
	if n := len(a.Feed(FromClient, 100, port)); n != 1 {
		t.Fatalf("%d", n)
	}
	if n := len(a.Feed(FromClient, 100, port)); n != 0 {
		t.Errorf("sent again: %d", n)
	}
	if n := len(a.Feed(FromClient, 1000, append([]byte("ORT 10,0,0,1,195,80\r\n"), port...))); n != 1 {
		t.Errorf("behind a gap: %d", n)
	}
	if n := len(a.Feed(FromClient, 500, port)); n != 0 {
		t.Errorf("in the gap: %d", n)
	}
}

// TestAddress compares with the standard library on random and damaged texts.
func TestAddress(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200_000 {
		var v [16]byte
		for i := range v {
			if rng.IntN(3) == 0 {
				v[i] = byte(rng.Uint32())
			}
		}
		text := netip.AddrFrom16(v).String()
		if rng.IntN(4) == 0 {
			text = netip.AddrFrom4([4]byte(v[:4])).String()
		}
		b := []byte(text)
		for range rng.IntN(3) {
			if i := rng.IntN(len(b)); rng.IntN(2) == 0 && len(b) > 1 {
				b = append(b[:i:i], b[i+1:]...)
			} else {
				b[i] = ":.0f1%g"[rng.IntN(7)]
			}
		}
		want, err := netip.ParseAddr(string(b))
		if err == nil && want.Zone() != "" {
			continue
		}
		got, ok := address(b)
		if ok != (err == nil) || ok && err == nil && got != want.Unmap() {
			t.Fatalf("%q: %v %v, want %v %v", b, got, ok, want, err)
		}
	}
}

func FuzzAnnouncer(f *testing.F) {
	f.Add([]byte("227 (10,0,0,2,195,80)\r\n229 (|||50001|)\r\nPORT 1,2,3,4,5,6\r\nEPRT |2|::1|1|\r\n"), byte(0), byte(3))
	f.Add([]byte("v=0\r\nc=IN IP6 ::1\r\nm=audio 40000 RTP/AVP 0\r\na=rtcp:1\r\n"), byte(1), byte(0))
	f.Add([]byte("Transport: RTP/AVP;client_port=40000-40001\r\n"), byte(2), byte(9))
	f.Fuzz(func(t *testing.T, b []byte, app, cut byte) {
		var a Announcer
		apps := [...]policy.App{policy.AppFTP, policy.AppSIP, policy.AppRTSP}
		a.Reset(apps[int(app)%len(apps)], [...]policy.Proto{policy.ProtoTCP, policy.ProtoUDP}[app>>7])
		seq := uint32(0)
		for len(b) > 0 {
			n := min(len(b), 1+int(cut))
			for _, x := range a.Feed(Dir(app>>6&1), seq, b[:n:n]) {
				if x.Port < 1024 {
					t.Fatalf("%+v", x)
				}
			}
			seq += uint32(n)
			b = b[n:]
		}
	})
}
