package steer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// standing is the standing default of one network namespace: an nftables table
// that drops the frames of bridge ports nobody has admitted, whether or not a
// gateway runs. It is there only while a network of the namespace is closed.
//
// Where the kernel knows `meta ibrname` the rules name the closed bridges.
// Where it does not they hold every port that is named like a container's, and
// the ports of all other bridges are admitted as they appear.
type standing struct {
	ns     *netns
	table  *nftables.Table
	byName bool // the kernel has meta ibrname

	mu       sync.Mutex
	admitted map[uint32]bool
	bridges  []string // the closed ones
}

// vethPrefix is how the engine names the host ends, in every namespace.
const vethPrefix = "veth"

// Chains of the table. Prerouting and postrouting see what the bridge carries,
// input also link-local protocols such as EAPOL that prerouting never meets.
var standingChains = []struct {
	name     string
	hook     *nftables.ChainHook
	port     expr.MetaKey // index of the port that the chain judges
	portName expr.MetaKey
	bridge   expr.MetaKey
}{
	{"prerouting", nftables.ChainHookPrerouting, expr.MetaKeyIIF, expr.MetaKeyIIFNAME, expr.MetaKeyBRIIIFNAME},
	{"input", nftables.ChainHookInput, expr.MetaKeyIIF, expr.MetaKeyIIFNAME, expr.MetaKeyBRIIIFNAME},
	{"postrouting", nftables.ChainHookPostrouting, expr.MetaKeyOIF, expr.MetaKeyOIFNAME, expr.MetaKeyBRIOIFNAME},
}

const standingPriority nftables.ChainPriority = -300 // before Docker's and firewalld's own

// newStanding takes over the namespace's table if there is one; it puts none in.
func newStanding(ns *netns, table string) (*standing, error) {
	d := &standing{
		ns:       ns,
		table:    &nftables.Table{Name: table, Family: nftables.TableFamilyBridge},
		admitted: make(map[uint32]bool),
	}
	err := withTables(ns, func(c *nftables.Conn) (err error) {
		if d.byName, err = d.probe(c); err != nil {
			return err
		}
		present, _, err := d.elements(c)
		for i := range present {
			d.admitted[i] = true
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

// withTables runs f with a connection to the namespace's nftables.
func withTables(ns *netns, f func(*nftables.Conn) error) error {
	return ns.do(func() error {
		c, err := nftables.New()
		if err != nil {
			return fmt.Errorf("nftables: %w", err)
		}
		return f(c)
	})
}

// probe asks the kernel for a rule with meta ibrname, in a table that is
// deleted by the same transaction.
func (d *standing) probe(c *nftables.Conn) (bool, error) {
	t := c.AddTable(&nftables.Table{Name: d.table.Name + "-probe", Family: nftables.TableFamilyBridge})
	chain := c.AddChain(&nftables.Chain{Name: "probe", Table: t})
	c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyBRIIIFNAME, Register: 1},
	}})
	c.DelTable(t)
	err := c.Flush()
	if err == nil {
		return true, nil
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil
	}
	return false, fmt.Errorf("nftables, bridge family: %w", err)
}

// elements reads the admitted set and whether all chains hold their rules.
func (d *standing) elements(c *nftables.Conn) (present map[uint32]bool, whole bool, err error) {
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyBridge)
	if err != nil {
		return nil, false, fmt.Errorf("list nftables: %w", err)
	}
	if !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == d.table.Name }) {
		return nil, false, nil
	}
	set, err := c.GetSetByName(d.table, admittedSet)
	if err != nil {
		return nil, false, nil // a table without its set is not whole
	}
	elements, err := c.GetSetElements(set)
	if err != nil {
		if _, gone := c.GetSetByName(d.table, admittedSet); gone != nil {
			return nil, false, nil
		}
		return nil, false, fmt.Errorf("read admitted ports: %w", err)
	}
	present = make(map[uint32]bool)
	for _, e := range elements {
		if len(e.Key) == 4 {
			present[binary.NativeEndian.Uint32(e.Key)] = true
		}
	}
	for _, ch := range standingChains {
		rules, err := c.GetRules(d.table, &nftables.Chain{Name: ch.name, Table: d.table})
		if err != nil || len(rules) != d.rules() {
			return present, false, nil
		}
	}
	return present, true, nil
}

const admittedSet = "admitted"

// rules is how many each chain holds.
func (d *standing) rules() int {
	if d.byName {
		return 1 + len(d.bridges)
	}
	return 2
}

// hold puts the table in so that exactly those ports are admitted, or corrects
// it. What is right already is not touched.
func (d *standing) hold(admitted map[uint32]bool, bridges []string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.admitted = admitted
	d.bridges = bridges
	_, err := d.correct()
	return err
}

// check puts back what others removed, and reports whether it had to.
func (d *standing) check() (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.bridges) == 0 {
		return false, nil
	}
	return d.correct()
}

// correct makes the table as it must be; true if rules were missing.
func (d *standing) correct() (missing bool, err error) {
	err = withTables(d.ns, func(c *nftables.Conn) error {
		present, whole, err := d.elements(c)
		if err != nil {
			return err
		}
		if whole && (!d.byName || d.namesBridges(c)) {
			return d.correctSet(c, present)
		}
		missing = true
		d.write(c)
		if err := c.Flush(); err != nil {
			return fmt.Errorf("install the standing default: %w", err)
		}
		return nil
	})
	return missing, err
}

// namesBridges: the rules that are there name the bridges that are closed now.
func (d *standing) namesBridges(c *nftables.Conn) bool {
	rules, err := c.GetRules(d.table, &nftables.Chain{Name: standingChains[0].name, Table: d.table})
	if err != nil {
		return false
	}
	var names []string
	for _, r := range rules {
		names = append(names, string(r.UserData))
	}
	return slices.Equal(names, append([]string{""}, d.bridges...)) // the first lets admitted ports by
}

func (d *standing) correctSet(c *nftables.Conn, present map[uint32]bool) error {
	var missing, stale []uint32
	for i := range d.admitted {
		if !present[i] {
			missing = append(missing, i)
		}
	}
	for i := range present {
		if !d.admitted[i] {
			stale = append(stale, i)
		}
	}
	set := d.set()
	if len(missing) > 0 {
		if err := c.SetAddElements(set, setElements(missing)); err != nil {
			return err
		}
	}
	if len(stale) > 0 {
		if err := c.SetDeleteElements(set, setElements(stale)); err != nil {
			return err
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("admit ports in the standing default: %w", err)
	}
	return nil
}

func (d *standing) set() *nftables.Set {
	// The library would take an id from a global counter that nothing guards; it
	// need only be unique in a transaction.
	return &nftables.Set{Table: d.table, Name: admittedSet, ID: 1, KeyType: nftables.TypeIFIndex}
}

func setElements(ifindexes []uint32) []nftables.SetElement {
	elements := make([]nftables.SetElement, 0, len(ifindexes))
	for _, i := range ifindexes {
		elements = append(elements, nftables.SetElement{Key: binary.NativeEndian.AppendUint32(nil, i)})
	}
	return elements
}

// write replaces the table in one transaction; there is no moment without it.
func (d *standing) write(c *nftables.Conn) {
	c.AddTable(d.table)
	c.DelTable(d.table)
	c.AddTable(d.table)
	set := d.set()
	// It fails only for anonymous and interval sets.
	if err := c.AddSet(set, setElements(slices.Collect(maps.Keys(d.admitted)))); err != nil {
		panic("steer: " + err.Error())
	}
	for _, ch := range standingChains {
		priority := standingPriority
		chain := c.AddChain(&nftables.Chain{
			Name:     ch.name,
			Table:    d.table,
			Type:     nftables.ChainTypeFilter,
			Hooknum:  ch.hook,
			Priority: &priority,
		})
		c.AddRule(&nftables.Rule{Table: d.table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: ch.port, Register: 1},
			&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
			&expr.Verdict{Kind: expr.VerdictAccept},
		}})
		if !d.byName {
			c.AddRule(dropRule(d.table, chain, ch.portName, []byte(vethPrefix), ""))
			continue
		}
		for _, b := range d.bridges {
			c.AddRule(dropRule(d.table, chain, ch.bridge, ifname(b), b))
		}
	}
}

// dropRule compares as many bytes of the name as are given.
func dropRule(t *nftables.Table, chain *nftables.Chain, key expr.MetaKey, name []byte, note string) *nftables.Rule {
	return &nftables.Rule{Table: t, Chain: chain, UserData: []byte(note), Exprs: []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
		&expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}}
}

func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// admit lets a port by. Without a table there is nothing to do.
func (d *standing) admit(ifindex uint32) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.admitted[ifindex] {
		return nil
	}
	d.admitted[ifindex] = true
	return d.change(func(c *nftables.Conn) error { return c.SetAddElements(d.set(), setElements([]uint32{ifindex})) })
}

// revoke holds a port again.
func (d *standing) revoke(ifindex uint32) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.admitted[ifindex] {
		return nil
	}
	delete(d.admitted, ifindex)
	return d.change(func(c *nftables.Conn) error {
		return c.SetDeleteElements(d.set(), setElements([]uint32{ifindex}))
	})
}

// change makes one change to the set. Where that fails the table is not as it
// was left, and is corrected as a whole.
func (d *standing) change(f func(*nftables.Conn) error) error {
	if len(d.bridges) == 0 {
		return nil
	}
	err := withTables(d.ns, func(c *nftables.Conn) error { return errors.Join(f(c), c.Flush()) })
	if err == nil {
		return nil
	}
	_, err = d.correct()
	return err
}

// remove deletes the table: nothing is held any more.
func (d *standing) remove() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bridges = nil
	return removeStanding(d.ns, d.table.Name)
}

func removeStanding(ns *netns, table string) error {
	return withTables(ns, func(c *nftables.Conn) error {
		t := c.AddTable(&nftables.Table{Name: table, Family: nftables.TableFamilyBridge})
		c.DelTable(t) // which fails where there is none
		if err := c.Flush(); err != nil {
			return fmt.Errorf("remove the standing default: %w", err)
		}
		return nil
	})
}

// syncDefault makes the standing default of a namespace what its networks ask
// for. Admitted are the endpoints, and every port that no closed bridge has.
func (s *Steer) syncDefault(sp *Space) error {
	d := s.defaults[sp.ns.cookie]
	if d == nil {
		var err error
		if d, err = newStanding(sp.ns, StandingTable(s.cfg.Prefix)); err != nil {
			return err
		}
		s.defaults[sp.ns.cookie] = d
	}
	var bridges []string
	closed := make(map[uint32]bool)
	for _, n := range s.networks {
		if n.space == sp && n.Closed {
			bridges = append(bridges, n.Bridge)
			closed[n.bridge] = true
		}
	}
	if len(bridges) == 0 {
		return d.remove()
	}
	slices.Sort(bridges)
	admitted, err := openPorts(sp.ns, closed)
	if err != nil {
		return err
	}
	for _, e := range s.endpoints {
		if e.space == sp {
			admitted[e.Ifindex] = true
		}
	}
	for k := range s.found {
		if k.Space == uint32(sp.Number) {
			admitted[k.Ifindex] = true
		}
	}
	return d.hold(admitted, bridges)
}
