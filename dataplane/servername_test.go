package dataplane_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"gatehouse/policy"
)

// initial is a client's first QUIC datagram with that hello, protected as RFC 9001
// sections 5.2 to 5.4 say; of a version that nobody has keys for, it only looks so.
func initial(t testing.TB, version uint32, hello string) string {
	t.Helper()
	must := func(b []byte, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	const id = "\x83\x94\xc8\xf0\x3e\x51\x57\x08"
	salt := []byte("\x38\x76\x2c\xf7\xf5\x59\x34\xb3\x4d\x17\x9a\xe6\xa4\xc8\x0c\xad\xcc\xbb\x7f\x0a")
	expand := func(secret []byte, label string, n int) []byte {
		info := append([]byte{0, byte(n), byte(6 + len(label))}, "tls13 "+label+"\x00"...)
		return must(hkdf.Expand(sha256.New, secret, string(info), n))
	}
	secret := expand(must(hkdf.Extract(sha256.New, []byte(id), salt)), "client in", 32)
	frames := "\x06\x00" + string(binary.BigEndian.AppendUint16(nil, 0x4000|uint16(len(hello)))) + hello
	frames += strings.Repeat("\x00", max(0, 1170-len(frames)))
	head := append([]byte{0xc0}, string(binary.BigEndian.AppendUint32(nil, version))+"\x08"+id+"\x00\x00"...)
	head = append(binary.BigEndian.AppendUint16(head, 0x4000|uint16(len(frames)+17)), 0)
	block, err := aes.NewCipher(expand(secret, "quic key", 16))
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	packet := append(head, gcm.Seal(nil, expand(secret, "quic iv", 12), []byte(frames), head)...)
	if block, err = aes.NewCipher(expand(secret, "quic hp", 16)); err != nil {
		t.Fatal(err)
	}
	mask, at := make([]byte, 16), len(head)-1
	block.Encrypt(mask, packet[at+4:at+20])
	packet[0] ^= mask[0] & 0x0f
	packet[at] ^= mask[1]
	return string(packet)
}

// handshake is a hello without its TLS record, as QUIC carries it.
func handshake(name string) string { return hello(name)[5:] }

// request is the beginning of an HTTP/2 connection in clear (RFC 9113 3.3).
func request(t testing.TB, fields ...string) string {
	t.Helper()
	var block, out strings.Builder
	enc := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		if err := enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}); err != nil {
			t.Fatal(err)
		}
	}
	out.WriteString(http2.ClientPreface)
	f := http2.NewFramer(&out, nil)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(block.String()), EndHeaders: true, EndStream: true}); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// What a connection asks the server for counts in HTTP/2 and QUIC too (N6).
func TestNameMismatchHTTP2AndQUIC(t *testing.T) {
	h2 := func(authority ...string) string {
		return request(t, append([]string{":method", "GET", ":scheme", "http", ":path", "/"}, authority...)...)
	}
	for _, c := range []struct {
		what, app, payload string
		passes             bool
	}{
		{"http2", "http", h2(":authority", "api.example.com"), true},
		{"http2 and port", "http", h2(":authority", "API.example.com:443"), true},
		{"http2, another name", "http", h2(":authority", "evil.example.net"), false},
		{"http2, no name", "http", h2(), false},
		{"quic", "quic", initial(t, 1, handshake("api.example.com")), true},
		{"quic, another name", "quic", initial(t, 1, handshake("evil.example.net")), false},
		{"quic, no name", "quic", initial(t, 1, handshake("")), false},
		{"quic of a version that cannot be read", "quic", initial(t, 0xfaceb00f, handshake("evil.example.net")), false},
	} {
		t.Run(c.what, func(t *testing.T) {
			families(t, func(t *testing.T, v6 bool) {
				l, _ := namesLane(t, policy.Enforce, false, func(s *policy.Statement) {
					if c.app == "quic" {
						s.App, s.Ports = policy.AppMatch{App: policy.AppQUIC, Forms: policy.TLSNone}, []policy.PortRange{policy.Port(policy.ProtoUDP, 443)}
					}
				})
				resolveAPI(t, l)
				const answer = "\xc0\x00\x00\x00\x01\x00\x08abcdefgh\x00\x40\x20\x00" + "0123456789abcdef0123456789abcde"
				var client, server []byte
				if c.app == "quic" {
					client, server = udp(t, web, api, v6, 40000, 443, c.payload), udp(t, api, web, v6, 443, 40000, answer)
				} else {
					conn := newConn(t, web, api, v6, 40000, 443)
					conn.open(l)
					client, server = conn.segment(false, "A", c.payload), conn.segment(true, "A", "\x00\x00\x00\x04\x00\x00\x00\x00\x00")
				}
				if !c.passes {
					first, second := l.send(web, api, client), l.send(api, web, server)
					if len(first) > 0 && len(second) > 0 {
						t.Fatal("passes")
					}
					l.d.Settle()
					if vs := l.d.Violations().List(); len(vs) != 1 || vs[0].Reason != policy.ReasonNameMismatch || strings.Contains(c.what, "another") != (vs[0].Name == "evil.example.net") {
						t.Errorf("violations %+v", vs)
					}
					return
				}
				l.passes(web, api, client)
				l.passes(api, web, server)
			})
		})
	}
}
