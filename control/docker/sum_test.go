package docker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// shuffled is the JSON text of v, with the elements of its arrays in any order.
func shuffled(t testing.TB, v any) []byte {
	t.Helper()
	text, err := json.Marshal(disordered(v))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func disordered(v any) any {
	switch v := v.(type) {
	case []any:
		out := make([]any, len(v))
		for i, at := range rand.Perm(len(v)) {
			out[i] = disordered(v[at])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, member := range v {
			out[k] = disordered(member)
		}
		return out
	}
	return v
}

// ordered is v with its arrays in the order of their elements' texts: what two values
// that differ in their order alone have in common.
func ordered(v any) any {
	switch v := v.(type) {
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = ordered(v[i])
		}
		slices.SortFunc(out, func(a, b any) int {
			x, _ := json.Marshal(a)
			y, _ := json.Marshal(b)
			return bytes.Compare(x, y)
		})
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, member := range v {
			out[k] = ordered(member)
		}
		return out
	}
	return v
}

// anyJSON draws a value from few names and words, so that two are often alike.
func anyJSON(depth int) any {
	words := []string{"", "a", "b", `a"b`, `\`, `\"`, "}", "]{", "10.0.1.3"}
	switch n := rand.IntN(9); {
	case n < 2 && depth > 0:
		list := make([]any, rand.IntN(4))
		for i := range list {
			list[i] = anyJSON(depth - 1)
		}
		return list
	case n < 5 && depth > 0:
		object := map[string]any{}
		for range rand.IntN(4) {
			object[words[rand.IntN(len(words))]] = anyJSON(depth - 1)
		}
		return object
	case n == 5:
		return nil
	case n == 6:
		return rand.IntN(2) == 0
	case n == 7:
		return float64(rand.IntN(3))
	}
	return words[rand.IntN(len(words))]
}

// TestSumIsOfWhatIsTold: two texts have one sum exactly if they say the same, in
// whatever order.
func TestSumIsOfWhatIsTold(t *testing.T) {
	equal, other := 0, 0
	for i := 0; i < 1_000_000 && (i < 20_000 || equal < 500 || other < 500); i++ {
		depth := 1 + rand.IntN(3)
		a, b := anyJSON(depth), anyJSON(depth)
		if rand.IntN(3) == 0 {
			b = a
		}
		x, y := shuffled(t, a), shuffled(t, b)
		if rand.IntN(2) == 0 {
			var spaced bytes.Buffer
			if err := json.Indent(&spaced, y, "", "\t"); err != nil {
				t.Fatal(err)
			}
			y = spaced.Bytes()
		}
		sx, ok := sumJSON(x)
		sy, oy := sumJSON(y)
		if !ok || !oy {
			t.Fatalf("%s %v, %s %v", x, ok, y, oy)
		}
		same := reflect.DeepEqual(ordered(a), ordered(b))
		if same != (sx == sy) {
			t.Fatalf("%s and %s: same %v, sums %x and %x", x, y, same, sx, sy)
		}
		if same {
			equal++
		} else {
			other++
		}
	}
	for _, text := range []string{"", " ", "{", "[", `"`, `"\"`, `{"a"}`, `{"a":}`, `{"a":1,}`, `[1,]`, `[1 2]`, `{"a":1]`, "[1}", "[]]", `{a:1}`, strings.Repeat("[", sumDepth+2) + strings.Repeat("]", sumDepth+2)} {
		if _, ok := sumJSON([]byte(text)); ok {
			t.Errorf("%q has a sum", text)
		}
	}
}

// FuzzSum: whatever comes, it does not panic, and what is read as JSON and has a sum
// has it in any order.
func FuzzSum(f *testing.F) {
	files, err := filepath.Glob("testdata/swarm-nodes-*/network-*.json")
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(`{"a\"}]":[1,[],{}, null ,"\\"]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		sum, ok := sumJSON(text)
		if again, still := sumJSON(text); again != sum || still != ok {
			t.Fatal("it has two sums")
		}
		var compact bytes.Buffer
		if json.Compact(&compact, text) != nil {
			return
		}
		if other, also := sumJSON(compact.Bytes()); ok != also || other != sum {
			t.Fatalf("without white space: %v %x, with it %v %x", also, other, ok, sum)
		}
	})
}

// manyTasks is an answer about a network with that many tasks on other nodes.
func manyTasks(n int) map[string]any {
	services := map[string]any{}
	for i := range n {
		name := fmt.Sprintf("shop_s%d", i/50)
		s, _ := services[name].(map[string]any)
		if s == nil {
			s = map[string]any{"VIP": fmt.Sprintf("10.8.%d.1", i/50), "Ports": []any{}, "LocalLBIndex": 300 + i/50, "Tasks": []any{}}
			services[name] = s
		}
		s["Tasks"] = append(s["Tasks"].([]any), map[string]any{"Name": fmt.Sprintf("%s.%d.yusum0o7guvvcxazrm6w0r9ot", name, i), "EndpointID": fmt.Sprintf("%064x", i),
			"EndpointIP": fmt.Sprintf("10.9.%d.%d", i/250, 2+i%250), "Info": map[string]any{"Host IP": fmt.Sprintf("10.77.0.%d", 2+i%3)}})
	}
	return map[string]any{"Name": "shop_default", "Peers": []any{map[string]any{"Name": "a", "IP": "10.77.0.2"}}, "Services": services}
}

// TestSumTakesNoMemory: an answer that says what the last one said costs reading it.
func TestSumTakesNoMemory(t *testing.T) {
	text := shuffled(t, manyTasks(500))
	if n := testing.AllocsPerRun(20, func() {
		if _, ok := sumJSON(text); !ok {
			t.Fatal("no sum")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkGossip is an answer about 5,000 tasks: summed up, as it is where it says
// what the last one said, and read as news.
func BenchmarkGossip(b *testing.B) {
	text := shuffled(b, manyTasks(5000))
	b.Run("same", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			if _, ok := sumJSON(text); !ok {
				b.Fatal("no sum")
			}
		}
	})
	b.Run("read", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			if g, err := decodeGossip(text, netip.Addr{}); err != nil || len(g.members) != 5000 {
				b.Fatal(len(g.members), err)
			}
		}
	})
}
