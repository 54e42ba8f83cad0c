package appid

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"sync"
)

// QUIC's Initial packets are protected with keys that follow from a number of the
// version and the connection id that the client chose (RFC 9001 section 5.2), so
// that whoever sees them can read them. That is done for a flow's first packets
// until its hello is there; it is all that app-ID does that allocates, as the
// standard library's ciphers do: four small objects for one Initial packet.

const (
	quicVersion2 = 0x6b3343cf
	quicQ050     = 0x51303530
	quicT050     = 0x54303530
	quicT051     = 0x54303531

	// quicHelloKeep is how much of a hello is kept: one with post-quantum key
	// shares fits.
	quicHelloKeep = 2048
	quicDatagram  = clientKeep - quicHelloKeep
)

// quicSalt is the version's initial salt: RFC 9001 5.2, RFC 9369 3.3.1, the same
// section of draft-ietf-quic-tls 17 to 29; of Google's the constants of Chromium.
func quicSalt(version uint32) string {
	switch draft := version & 0xff; {
	case version == 1, version>>8 == 0xff0000 && draft >= 33:
		return "\x38\x76\x2c\xf7\xf5\x59\x34\xb3\x4d\x17\x9a\xe6\xa4\xc8\x0c\xad\xcc\xbb\x7f\x0a"
	case version == quicVersion2:
		return "\x0d\xed\xe3\xde\xf7\x00\xa6\xdb\x81\x93\x81\xbe\x6e\x26\x9d\xcb\xf9\xbd\x2e\xd9"
	case version>>8 == 0xff0000 && draft >= 29:
		return "\xaf\xbf\xec\x28\x99\x93\xd2\x4c\x9e\x97\x86\xf1\x9c\x61\x11\xe0\x43\x90\xa8\x99"
	case version>>8 == 0xff0000 && draft >= 23, version>>8 == 0xfaceb0 && draft > 1:
		return "\xc3\xee\xf7\x12\xc7\x2e\xbb\x5a\x11\xa7\xd2\x43\x2b\xb4\x63\x65\xbe\xf9\xf5\x02"
	case version>>8 == 0xff0000 && draft >= 21, version == 0xfaceb001:
		return "\x7f\xbc\xdb\x0e\x7c\x66\xbb\xe9\x19\x3a\x96\xcd\x21\x51\x9e\xbd\x7a\x02\x64\x4a"
	case version == quicQ050:
		return "\x50\x45\x74\xef\xd0\x66\xfe\x2f\x9d\x94\x5c\xfc\xdb\xd3\xa7\xf0\xd3\xb5\x6b\x45"
	case version == quicT050:
		return "\x7f\xf5\x79\xe5\xac\xd0\x72\x91\x55\x80\x30\x4c\x43\xa2\x36\x7c\x60\x48\x83\x10"
	case version == quicT051:
		return "\x7a\x4e\xde\xf4\xe7\xcc\xee\x5f\xa4\x50\x6c\x19\x12\x4f\xc8\xcc\xda\x6e\x03\x3d"
	}
	return ""
}

// quicHello collects the CRYPTO frames of a client: the prefix of its hello.
type quicHello struct {
	keep []byte
	stream
	answered bool   // the server has sent a long header to the client's connection id
	opened   uint16 // Initial packets that were decrypted, or tried to be
}

func (q *quicHello) bytes() []byte { return q.keep[:q.n] }

// complete reports whether the hello is there to the length that it says.
func (q *quicHello) complete() bool {
	b := q.bytes()
	return q.full || len(b) >= 4 && len(b) >= 4+int(be.Uint32(b)&0xffffff)
}

// quicScratch are buffers for packets in clear.
var quicScratch = sync.Pool{New: func() any { return new([quicDatagram]byte) }}

// quicRead decrypts the Initial packets at the beginning of a client's datagram.
func quicRead(b []byte, q *quicHello) {
	scratch := quicScratch.Get().(*[quicDatagram]byte)
	for !q.complete() {
		n, ok := quicPacket(b, scratch, q)
		if !ok || n >= len(b) {
			break
		}
		b = b[n:]
	}
	quicScratch.Put(scratch)
}

// quicVarint: RFC 9000 section 16; n is 0 where it is cut.
func quicVarint(b []byte) (v, n int) {
	if len(b) == 0 {
		return 0, 0
	}
	n = 1 << (b[0] >> 6)
	if len(b) < n {
		return 0, 0
	}
	v = int(b[0] & 0x3f)
	for _, c := range b[1:n] {
		v = v<<8 | int(c)
	}
	return v, n
}

// quicInitial reports a long header of the type Initial, of a version whose salt
// is known.
func quicInitial(b []byte) (version uint32, salt string, ok bool) {
	version, ok = quicLong(b)
	salt = quicSalt(version)
	kind := byte(0)
	if version == quicVersion2 {
		kind = 1
	}
	return version, salt, ok && salt != "" && b[0]>>4&3 == kind
}

// MayDecrypt reports whether Feed of that datagram may decrypt Initial packets of
// QUIC, in it or in one that is kept: what costs much more than other bytes.
func (s *State) MayDecrypt(payload []byte) bool {
	if !s.udp || s.isOver() || s.hello.complete() {
		return false
	}
	for _, b := range [3][]byte{payload, s.buf[:s.dir[FromClient].n], s.buf[clientKeep : clientKeep+int(s.dir[FromServer].n)]} {
		if _, _, ok := quicInitial(b); ok {
			return true
		}
	}
	return false
}

// Decrypted is how many Initial packets of the flow were decrypted so far.
func (s *State) Decrypted() int { return int(s.hello.opened) }

// quicPacket reads one Initial packet (RFC 9000 section 17.2.2); size is where
// the next packet of the datagram begins.
func quicPacket(b []byte, scratch *[quicDatagram]byte, q *quicHello) (size int, ok bool) {
	version, salt, ok := quicInitial(b)
	if !ok || len(b) > len(scratch) {
		return 0, false
	}
	id := b[6 : 6+int(b[5])]
	at := 6 + len(id)
	at += 1 + int(b[at])
	if at > len(b) {
		return 0, false
	}
	token, n := quicVarint(b[at:])
	if at += n + token; n == 0 || token < 0 || at > len(b) {
		return 0, false
	}
	length, n := quicVarint(b[at:])
	at += n
	const sample, tag = 16, 16
	if n == 0 || length < 4+sample || length > len(b)-at {
		return 0, false
	}
	size = at + length
	q.opened++
	body, ok := quicOpen(b[:size], at, version, salt, id, scratch)
	if !ok {
		return 0, false
	}
	quicFrames(body, q)
	return size, true
}

// quicOpen removes header protection (RFC 9001 section 5.4) and decrypts; number
// is where the packet number begins.
func quicOpen(b []byte, number int, version uint32, salt string, id []byte, scratch *[quicDatagram]byte) (body []byte, ok bool) {
	var key, hp [16]byte
	var iv [12]byte
	quicKeys(version, salt, id, &key, &iv, &hp)
	packet := scratch[:copy(scratch[:], b)]
	block, err := aes.NewCipher(hp[:])
	if err != nil {
		return nil, false
	}
	// The sample stands where a packet number of four bytes would end.
	mask := packet[number+4 : number+4+16]
	var was [16]byte
	copy(was[:], mask)
	block.Encrypt(mask, mask)
	first := packet[0] ^ mask[0]&0x0f
	n := int(first&3) + 1
	for i := range n {
		packet[number+i] ^= mask[1+i]
		iv[12-n+i] ^= packet[number+i]
	}
	packet[0] = first
	copy(mask, was[:])
	if block, err = aes.NewCipher(key[:]); err != nil {
		return nil, false
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, false
	}
	sealed := packet[number+n:]
	body, err = gcm.Open(sealed[:0], iv[:], sealed, packet[:number+n])
	return body, err == nil
}

// quicKeys derives a client's Initial keys (RFC 9001 section 5.2).
func quicKeys(version uint32, salt string, id []byte, key *[16]byte, iv *[12]byte, hp *[16]byte) {
	var b hmacInput
	secret := b.sum([]byte(salt), id)
	secret = b.expand(secret, "client in", 32)
	prefix := "quic "
	if version == quicVersion2 {
		prefix = "quicv2 "
	}
	k := b.expand(secret, prefix+"key", 16)
	copy(key[:], k[:])
	k = b.expand(secret, prefix+"iv", 12)
	copy(iv[:], k[:])
	k = b.expand(secret, prefix+"hp", 16)
	copy(hp[:], k[:])
}

// hmacInput is room for what HMAC-SHA-256 (RFC 2104) hashes, so that nothing
// allocates.
type hmacInput [sha256.BlockSize + 64]byte

func (b *hmacInput) sum(key, message []byte) [32]byte {
	pad := func(with byte) {
		clear(b[:sha256.BlockSize])
		copy(b[:], key)
		for i := range sha256.BlockSize {
			b[i] ^= with
		}
	}
	pad(0x36)
	n := sha256.BlockSize + copy(b[sha256.BlockSize:], message)
	inner := sha256.Sum256(b[:n])
	pad(0x5c)
	n = sha256.BlockSize + copy(b[sha256.BlockSize:], inner[:])
	return sha256.Sum256(b[:n])
}

// expand is HKDF-Expand-Label (RFC 8446 section 7.1) of at most 32 bytes with an
// empty context.
func (b *hmacInput) expand(secret [32]byte, label string, size byte) [32]byte {
	var info [40]byte
	info[1], info[2] = size, byte(len("tls13 ")+len(label))
	n := 3 + copy(info[3:], "tls13 ")
	n += copy(info[n:], label)
	info[n+1] = 1 // after the empty context the block's number
	return b.sum(secret[:], info[:n+2])
}

// quicFrames keeps the data of CRYPTO frames (RFC 9000 section 19.6); of others
// only those that a first packet may have are stepped over.
func quicFrames(b []byte, q *quicHello) {
	const padding, ping, ack, ackECN, crypto = 0, 1, 2, 3, 6
	for len(b) > 0 {
		switch kind := b[0]; kind {
		case padding, ping:
			b = b[1:]
		case crypto:
			off, n := quicVarint(b[1:])
			b = b[1+n:]
			size, k := quicVarint(b)
			if n == 0 || k == 0 || size > len(b)-k {
				return
			}
			q.add(off, b[k:k+size])
			b = b[k+size:]
		case ack, ackECN:
			// Largest, delay, how many ranges, the first; two numbers for each; counts.
			b = b[1:]
			fields := 4
			for i := 0; i < fields; i++ {
				v, n := quicVarint(b)
				if n == 0 {
					return
				}
				if i == 2 {
					if v > 64 {
						return
					}
					fields += 2 * v
					if kind == ackECN {
						fields += 3
					}
				}
				b = b[n:]
			}
		default:
			return
		}
	}
}

// add keeps what there is room for.
func (q *quicHello) add(off int, data []byte) {
	if off < 0 || off >= len(q.keep) || len(data) == 0 {
		return
	}
	data = data[:min(len(data), len(q.keep)-off)]
	if !q.conflicts(q.keep, off, data) {
		q.insert(q.keep, off, data)
	}
}
