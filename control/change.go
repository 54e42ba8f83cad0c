package control

import (
	"reflect"
	"slices"

	"gatehouse/policy"
)

// table compiles s, or changes the last table where one workload's start or stop
// is all that is new.
func (c *Control) table(in policy.Input, s *State) (*policy.Table, error) {
	if last := c.state.Load(); last != nil {
		if change, ok := onlyChange(last, s); ok {
			if t, ok := last.Table.With(in.Epoch, in.Snapshot, in.Groups, change); ok {
				return t, nil
			}
		}
	}
	return policy.Compile(in)
}

// onlyChange is the start or stop in a group that there was before by which b
// differs from a; ok is false if there is more, or nothing.
func onlyChange(a, b *State) (change policy.Change, ok bool) {
	more, fewer := b.Snapshot.Workloads, a.Snapshot.Workloads
	if change.Gone = len(more) < len(fewer); change.Gone {
		more, fewer = fewer, more
	}
	if len(more) != len(fewer)+1 {
		return change, false
	}
	at := 0
	for at < len(fewer) && more[at].ID == fewer[at].ID {
		at++
	}
	change.Workload = &more[at]
	if !reflect.DeepEqual(more[:at], fewer[:at]) || !reflect.DeepEqual(more[at+1:], fewer[at:]) ||
		!reflect.DeepEqual(a.Snapshot.Networks, b.Snapshot.Networks) || !reflect.DeepEqual(a.Snapshot.Host, b.Snapshot.Host) ||
		!reflect.DeepEqual(a.Statements, b.Statements) {
		return change, false
	}
	change.Group, ok = joined(a.Population.Groups, b.Population.Groups, change.Workload.ID)
	return change, ok
}

// joined is the one group that has id in one of two lists of groups that are
// equal but for that.
func joined(a, b []policy.Group, id string) (in policy.Identity, ok bool) {
	if len(a) != len(b) {
		return 0, false
	}
	for i := range a {
		x, y := a[i], b[i]
		hadIt, hasIt := slices.Contains(x.Members, id), slices.Contains(y.Members, id)
		if hadIt != hasIt {
			if in != 0 {
				return 0, false
			}
			in = x.Identity
		}
		isIt := func(m string) bool { return m == id }
		x.Members, y.Members = slices.DeleteFunc(slices.Clone(x.Members), isIt), slices.DeleteFunc(slices.Clone(y.Members), isIt)
		if !reflect.DeepEqual(x, y) {
			return 0, false
		}
	}
	return in, in != 0
}
