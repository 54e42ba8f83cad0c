package policy

import (
	"cmp"
	"fmt"
	"unsafe"
)

// memoryBudget is Input.MemoryBudget where that is 0.
const memoryBudget = 256 << 20

// Cost is what a statement adds to a table.
type Cost struct {
	// Rules are one for each pair of its peers, or prefixes, and each range of
	// ports, as Table.Flat lists them.
	Rules int `json:"rules"`
	// Spans are the places of the table, pairs of peers or of crowds of them and
	// ranges of ports, in which it has a say, but those that are laid when flows
	// meet them or names are learned.
	Spans int `json:"spans"`
	// Bytes is what its rules take, and its share of the places in which it has a
	// say.
	Bytes int `json:"bytes"`
	// Undecided are the places in which flows wait for their application because
	// this is a deny of one (V7). Only an Audit counts them.
	Undecided int `json:"undecided"`
}

// charge notes bytes that rules, ascending, take in common.
func (c *compiler) charge(rules []int32, bytes, spans int) {
	if c.inUse {
		return
	}
	c.spent += bytes
	last := -1
	for _, i := range rules {
		r := &c.table.rules[i]
		cost := &c.costs[r.Statement]
		cost.Bytes += bytes / len(rules)
		if r.Statement != last && !r.Except {
			cost.Spans += spans
			last = r.Statement
		}
	}
}

// chargeRule notes what a rule takes before it is laid: itself, and its entry in
// what it is found by.
func (c *compiler) chargeRule(r *Rule) {
	const bytes = int(unsafe.Sizeof(Rule{})) + 48
	c.spent += bytes
	cost := &c.costs[r.Statement]
	cost.Rules += c.table.flatCount(r)
	cost.Bytes += bytes
}

// chargeSet notes what an end of many peers takes, for the statement that is
// expanded.
func (c *compiler) chargeSet(e *collective) {
	bytes := int(unsafe.Sizeof(collective{})) + 8*len(e.peers) + 4*len(e.ends)
	c.spent += bytes
	c.costs[c.expanding].Bytes += bytes
}

// overBudget names the statement that takes most once the budget is spent.
func (c *compiler) overBudget() error {
	budget := cmp.Or(c.in.MemoryBudget, memoryBudget)
	if c.spent <= budget {
		return nil
	}
	most := 0
	for i := range c.costs {
		if c.costs[i].Bytes > c.costs[most].Bytes {
			most = i
		}
	}
	s, cost := &c.table.statements[most], &c.costs[most]
	return fmt.Errorf("statement %q%s: the compiled policy takes more than its memory budget of %s, this statement most of it, %s (%d rules): name fewer peers or ports there, or raise the budget",
		s.ID, originText(s), bytesText(budget), bytesText(cost.Bytes), cost.Rules)
}

func bytesText(n int) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}
