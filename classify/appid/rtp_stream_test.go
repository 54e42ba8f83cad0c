package appid

import (
	"testing"

	"gatehouse/policy"
)

// Numbered packets in a stream are what two that agree on it can write before
// anything else: they show what the flow behaves like and name nothing.
func TestMediaOverTCP(t *testing.T) {
	packet := func(seq, source int) string {
		return be16(16) + "\x80\x08" + be16(seq) + be32(160*seq) + be32(source) + "aaaa"
	}
	media := packet(7, 77) + packet(8, 77) + packet(9, 77)
	for _, tt := range []struct {
		name           string
		client, server string
		mid            bool
		likely         policy.App
	}{
		{"the client's", media, "", false, policy.AppRTP},
		{"the server's", "", media, false, policy.AppRTP},
		{"both", media, packet(1, 9), false, policy.AppRTP},
		{"mid-stream", media, "", true, policy.AppRTP},
		{"two packets", packet(7, 77) + packet(8, 77), "", false, policy.AppNone},
		{"a gap", packet(7, 77) + packet(8, 77) + packet(10, 77), "", false, policy.AppNone},
		{"an answer of another kind", media, "SSH-2.0-x\r\n", false, policy.AppRTP},
		{"a question of another kind", "GET / HTTP/1.1\r\n\r\n", media, false, policy.AppNone},
	} {
		var s State
		s.Reset(policy.ProtoTCP, 5004, tt.mid)
		testEngine.Feed(&s, FromClient, 1, []byte(tt.client))
		testEngine.Feed(&s, FromServer, 1, []byte(tt.server))
		o := testEngine.Finish(&s)
		if o.Likely != tt.likely || o.Spoken.App > policy.AppUnknown {
			t.Errorf("%s: %+v", tt.name, o)
		}
	}
}
