package appid

import (
	"path/filepath"
	"strings"
	"testing"

	"gatehouse/policy"
)

// TestCorpusPieces: of every flow of the corpus only one side, or all from a
// later packet on, as if the gateway had met it there: it may stay unknown, and
// has no other's name. What went over to TLS before is TLS.
func TestCorpusPieces(t *testing.T) {
	dir := corpusDir(t)
	pieces, wrong := 0, 0
	byFile := map[string]map[corpusKey][]ipPacket{}
	for _, l := range readExpected(t, dir) {
		if strings.HasPrefix(l.key.proto, "icmp") {
			continue
		}
		flows, ok := byFile[l.file]
		if !ok {
			flows = payloads(t, filepath.Join(dir, "captures", l.file))
			byFile[l.file] = flows
		}
		for from := range 10 {
			for sides := range 3 { // both, that of the first packet, the other
				o := piece(flows[l.key], from, sides)
				if pieces++; o.Spoken.App <= policy.AppUnknown || accepted(o.Spoken.App.String(), l) {
					continue
				}
				if app, _ := policy.ParseApp(l.expected); o.Spoken.App == policy.AppTLS && app.CanStartTLS() {
					continue
				}
				wrong++
				t.Logf("%s %s %s from payload %d, sides %d: %s, expected %s", l.file, l.key.a, l.key.b, from, sides, o.Spoken.App, l.expected)
			}
		}
	}
	if float64(wrong) > 0.001*float64(pieces) {
		t.Errorf("%d of %d pieces have a wrong name", wrong, pieces)
	}
}

func payloads(t *testing.T, path string) map[corpusKey][]ipPacket {
	frames, err := readCapture(path)
	if err != nil {
		t.Fatal(err)
	}
	flows := map[corpusKey][]ipPacket{}
	for _, fr := range frames {
		if p, ok := parseIP(network(fr)); ok && len(p.payload) > 0 {
			k := makeCorpusKey(p.proto, p.src, p.dst)
			flows[k] = append(flows[k], p)
		}
	}
	return flows
}

// piece feeds what is left of a flow.
func piece(packets []ipPacket, from, sides int) Outcome {
	var s State
	var first ipPacket
	for i, p := range packets[min(from, len(packets)):] {
		if sides > 0 && (p.src == packets[0].src) != (sides == 1) {
			continue
		}
		if first.payload == nil {
			first = p
			proto := policy.ProtoTCP
			if p.proto == "udp" {
				proto = policy.ProtoUDP
			}
			s.Reset(proto, p.dst.Port(), true)
		}
		dir := FromClient
		if p.src != first.src {
			dir = FromServer
		}
		if testEngine.Feed(&s, dir, p.seq, p.payload); i > 40 {
			break
		}
	}
	if first.payload == nil {
		return Outcome{}
	}
	return testEngine.Finish(&s)
}
