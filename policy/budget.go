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

// chargeRules notes what n rules that differ in ports alone take before they are
// laid: themselves, and their entries in what they are found by.
func (c *compiler) chargeRules(r *Rule, n int) {
	const bytes = int(unsafe.Sizeof(Rule{})) + int(unsafe.Sizeof(ruleEnds{})) + 48
	c.spent += n * bytes
	cost := &c.costs[r.Statement]
	cost.Rules += n * c.table.flatCount(r)
	cost.Bytes += n * bytes
}

// chargeSet notes what an end of many peers takes, for the statement that is
// expanded.
func (c *compiler) chargeSet(e *collective) {
	bytes := int(unsafe.Sizeof(collective{})) + 16*len(e.peers) + (4+int(unsafe.Sizeof(RuleEnd{})))*len(e.ends)
	c.spent += bytes
	c.costs[c.expanding].Bytes += bytes
}

func (c *compiler) budget() int { return cmp.Or(c.in.MemoryBudget, memoryBudget) }

func (c *compiler) isSpent() bool { return c.spent > c.budget() }

// overBudget names the statement that takes most once the budget is spent.
func (c *compiler) overBudget() error {
	if !c.isSpent() {
		return nil
	}
	most := 0
	for i := range c.costs {
		if c.costs[i].Bytes > c.costs[most].Bytes {
			most = i
		}
	}
	s, cost := c.table.statements[most], &c.costs[most]
	return fmt.Errorf("statement %q%s: the compiled policy takes more than its memory budget of %s, this statement most of it, %s (%d rules): name fewer peers or ports there, or raise the budget",
		s.ID, originText(s), bytesText(c.budget()), bytesText(cost.Bytes), cost.Rules)
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
