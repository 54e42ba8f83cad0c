package appid

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"strings"
	"testing"

	"gatehouse/policy"
)

// TestQUICKeys: the examples of RFC 9001 appendix A.1 and RFC 9369 appendix A.1.
func TestQUICKeys(t *testing.T) {
	id, _ := hex.DecodeString("8394c8f03e515708")
	for _, tt := range []struct {
		version     uint32
		key, iv, hp string
	}{
		{1, "1f369613dd76d5467730efcbe3b1a22d", "fa044b2f42a3fd3b46fb255c", "9f50449e04a0e810283a1e9933adedd2"},
		{quicVersion2, "8b1a0bc121284290a29e0971b5cd045d", "91f73e2351d8fa91660e909f", "45b95e15235d6f45a6b19cbcb0294ba9"},
	} {
		var key, hp [16]byte
		var iv [12]byte
		quicKeys(tt.version, quicSalt(tt.version), id, &key, &iv, &hp)
		if hex.EncodeToString(key[:]) != tt.key || hex.EncodeToString(iv[:]) != tt.iv || hex.EncodeToString(hp[:]) != tt.hp {
			t.Errorf("version %x: key %x, iv %x, hp %x", tt.version, key, iv, hp)
		}
	}
}

// quicInitialOf seals frames in an Initial packet as a client does; number is the
// packet's.
func quicInitialOf(version uint32, number byte, frames string) string {
	const id = "dddddddd"
	frames += strings.Repeat("\x00", max(0, 1170-len(frames)))
	first := byte(0xc0)
	if version == quicVersion2 {
		first = 0xd0
	}
	n := len(frames) + 16 + 1
	head := string([]byte{first}) + be32(int(version)) + "\x08" + id + "\x00\x00" + string([]byte{0x40 | byte(n>>8), byte(n)}) + string([]byte{number})
	var key, hp [16]byte
	var iv [12]byte
	quicKeys(version, quicSalt(version), []byte(id), &key, &iv, &hp)
	iv[11] ^= number
	block, _ := aes.NewCipher(key[:])
	gcm, _ := cipher.NewGCM(block)
	packet := []byte(head + string(gcm.Seal(nil, iv[:], []byte(frames), []byte(head))))
	at := len(head) - 1
	mask := make([]byte, 16)
	block, _ = aes.NewCipher(hp[:])
	block.Encrypt(mask, packet[at+4:at+20])
	packet[0] ^= mask[0] & 0x0f
	packet[at] ^= mask[1]
	return string(packet)
}

func cryptoFrame(off int, data string) string {
	return "\x06" + string([]byte{0x40 | byte(off>>8), byte(off), 0x40 | byte(len(data)>>8), byte(len(data))}) + data
}

// TestQUICHello: server name and ALPN, also of a hello over several Initials in
// any order; nothing where a packet was altered.
func TestQUICHello(t *testing.T) {
	hello, long := tlsHello("shop.example", "h3", 0), tlsHello("shop.example", "h3", 1300)
	tests := []struct {
		name      string
		datagrams []string
		sni       string
	}{
		{"one", []string{quicInitialOf(1, 0, cryptoFrame(0, hello))}, "shop.example"},
		{"version 2", []string{quicInitialOf(quicVersion2, 0, cryptoFrame(0, hello))}, "shop.example"},
		{"a draft", []string{quicInitialOf(0xff00001d, 0, cryptoFrame(0, hello))}, "shop.example"},
		{"frames out of order", []string{quicInitialOf(1, 0, "\x01"+cryptoFrame(50, hello[50:])+"\x00\x00"+cryptoFrame(0, hello[:50]))}, "shop.example"},
		{"two", []string{quicInitialOf(1, 0, cryptoFrame(0, long[:1000])), quicInitialOf(1, 1, cryptoFrame(1000, long[1000:]))}, "shop.example"},
		{"two swapped", []string{quicInitialOf(1, 1, cryptoFrame(1000, long[1000:])), quicInitialOf(1, 0, cryptoFrame(0, long[:1000]))}, "shop.example"},
		{"altered", []string{strings.Replace(quicInitialOf(1, 0, cryptoFrame(0, hello)), "dddddddd", "ddddeddd", 1)}, ""},
	}
	for _, tt := range tests {
		k := newTalk(&sample{udp: true})
		for _, d := range tt.datagrams {
			k.turn(FromClient, d)
		}
		var a Attrs
		k.s.Attrs(&a)
		if string(a.Get(AttrSNI)) != tt.sni || k.out.Spoken.App != policy.AppQUIC {
			t.Errorf("%s: sni %q, %+v", tt.name, a.Get(AttrSNI), k.out)
		}
		if tt.sni != "" && string(a.Get(AttrALPN)) != "h3" {
			t.Errorf("%s: alpn %q", tt.name, a.Get(AttrALPN))
		}
	}
}

// TestQUICAllocations: an Initial packet costs the objects of its two ciphers, any
// other datagram nothing.
func TestQUICAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("allocations are counted without the race detector")
	}
	d := []byte(quicInitialOf(1, 0, cryptoFrame(0, tlsHello("shop.example", "h3", 0))))
	var s State
	if n := testing.AllocsPerRun(50, func() {
		s.Reset(policy.ProtoUDP, 443, false)
		testEngine.Feed(&s, FromClient, 0, d)
	}); n > 4 {
		t.Errorf("%v allocations", n)
	}
	short := append([]byte{0x40}, d[:200]...)
	if n := testing.AllocsPerRun(50, func() { testEngine.Feed(&s, FromServer, 0, short) }); n != 0 {
		t.Errorf("%v allocations for a short header", n)
	}
}

func BenchmarkQUICInitial(b *testing.B) {
	d := []byte(quicInitialOf(1, 0, cryptoFrame(0, tlsHello("shop.example", "h3", 0))))
	var s State
	b.ReportAllocs()
	for b.Loop() {
		s.Reset(policy.ProtoUDP, 443, false)
		testEngine.Feed(&s, FromClient, 0, d)
	}
}

// FuzzQUICFrames: whatever an Initial packet holds, no more than there is room
// for is kept.
func FuzzQUICFrames(f *testing.F) {
	f.Add([]byte(cryptoFrame(0, "hello") + "\x02\x01\x00\x00\x00"))
	f.Add([]byte(cryptoFrame(2000, strings.Repeat("a", 500))))
	f.Fuzz(func(t *testing.T, frames []byte) {
		q := quicHello{keep: make([]byte, quicHelloKeep)}
		quicFrames(frames, &q)
		q.complete()
		h := hello{b: q.bytes(), rec: bareHandshake, left: 4}
		var a Attrs
		h.client(&a, false)
		quicTags(q.bytes(), &a)
	})
}
