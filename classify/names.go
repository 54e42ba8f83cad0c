package classify

import "gatehouse/policy"

// flowName is what a flow keeps that policy let pass by a name.
type flowName struct {
	use *policy.NameUse
	// fitted is the statement's name that the server asked for fitted; "" = none was
	// read.
	fitted string
}

func (f *Flow) held() *policy.NameUse {
	if f.name == nil {
		return nil
	}
	return f.name.use
}

// noteNames looks at what a new decision on f means for names: a flow that may
// pass by the name of its destination holds the address, and one that carries
// the DNS queries of such a workload stays in user space.
func (c *Classifier) noteNames(f *Flow) {
	q := f.Query()
	_, f.Lookups = c.table.Asker(q)
	v := f.Decision.Verdict()
	switch {
	case !f.Decision.Named(), v != policy.Allow && v != policy.Undecided:
		c.letGo(f)
	case f.name == nil:
		if use := c.table.NameUse(q); use != nil {
			use.Hold()
			f.name = c.newName(use)
		}
	}
}

// letGo gives back the address that f holds.
func (c *Classifier) letGo(f *Flow) {
	if f.name == nil {
		return
	}
	f.name.use.Release()
	*f.name = flowName{}
	c.freeNames = append(c.freeNames, f.name)
	f.name = nil
}

// newName allocates only until there are as many as flows by name at once.
func (c *Classifier) newName(use *policy.NameUse) *flowName {
	n := len(c.freeNames)
	if n == 0 {
		return &flowName{use: use}
	}
	name := c.freeNames[n-1]
	c.freeNames = c.freeNames[:n-1]
	name.use = use
	return name
}

// serverOf is what f says of the server that it is for, where policy wants to
// know.
func (c *Classifier) serverOf(f *Flow) policy.ServerName {
	switch {
	case !f.Decision.Named():
		return policy.ServerName{}
	case f.app >= 0:
		server, _ := c.states[f.app].ServerName(&c.hello)
		return server
	case f.misnamed:
		return policy.ServerName{State: policy.NameHidden}
	case f.name != nil && f.name.fitted != "":
		return policy.ServerName{State: policy.NameFitted, Pattern: f.name.fitted}
	}
	return policy.ServerName{}
}

// DataStart is the sequence number of the first byte of a side of Key; false if
// the beginning of the TCP connection was not seen.
func (f *Flow) DataStart(side uint8) (seq uint32, ok bool) { return f.isn[side] + 1, f.hasISN[side] }
