package bench

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

// TestTable: every contender finds what is there and not what is not.
func TestTable(t *testing.T) {
	c, err := Table(context.Background(), TableConfig{Rounds: 1, Flows: []int{3000}, Workloads: []int{2000}})
	if err != nil {
		t.Fatal(err)
	}
	var page bytes.Buffer
	if err := c.Markdown(&page); err != nil {
		t.Fatal(err)
	}
	for _, who := range []string{ours, lruPeer, mapPeer} {
		for _, what := range []string{"ns a hit", "ns a miss", "ns a turnover", "bytes a flow, key and index", "bytes a flow, heap"} {
			if !strings.Contains(page.String(), "| "+who+" | "+what+" |") {
				t.Errorf("the page lacks %s of %s:\n%s", what, who, &page)
			}
		}
	}
	for _, want := range []string{"| golang-lru (simplelru), once more | ns a hit |", "| " + floorPeer + " | ns a hit |", "| Go maps, once more | ns a verdict |", "## 2000 workloads", "| Go maps | ns a verdict |", "| Gatehouse | ns a verdict |", "one container's start or stop", "full compile", "memory of the table", "A statement of one service to another"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q:\n%s", want, &page)
		}
	}
	if _, err := Table(context.Background(), TableConfig{Rounds: 1, Flows: []int{0}}); err == nil {
		t.Error("no flows were taken")
	}
}
