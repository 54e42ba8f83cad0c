// Package steer puts the kernel's part of Gatehouse in place: the tcx programs
// at each endpoint's veth that carry decided flows and hand the rest to user
// space, the maps they share with it, the slow-path device pair of each network
// namespace, and the standing default that holds what nobody has admitted.
//
// cmd opens one Steer, guards networks, admits endpoints as the orchestrator
// tells of them, and gives the FlowMap to the dataplane's workers. Everything
// is pinned and outlives the process: closed stays closed and decided flows go
// on while no gateway runs, and the next Open takes over. All methods are safe
// for concurrent use.
package steer

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"gatehouse/dataplane"
	"gatehouse/policy"
)

// What Config's zero values stand for, and its limits.
const (
	DefaultPinDir      = "/sys/fs/bpf/gatehouse"
	DefaultPrefix      = "gh"
	DefaultNetNSDir    = "/var/run/docker/netns"
	DefaultFlowEntries = 131072
	DefaultMissBudget  = 50000
	MaxQueues          = 64 // entries of the map beats

	// PairMTU is the MTU of the slow-path devices: native XDP takes no larger
	// one without multi-buffer support.
	PairMTU = 3500
	// MaxEndpointMTU leaves room for the steering tag. A larger endpoint's
	// frames would vanish on the way to user space, so it is refused.
	MaxEndpointMTU = PairMTU - 4
	// TAPMTU is the same of a TAP: jumbo frames fit.
	TAPMTU = 9216
)

// Config says how to run. Zero values are defaults.
type Config struct {
	PinDir      string // in a BPF file system, for this gateway alone
	Prefix      string // of the slow-path devices: gh is gh0 and gh1
	NetNSDir    string // where the engine keeps its network namespaces
	FlowEntries uint32 // flows in the kernel's tables, of which half may be IPv6; the memory, 256 bytes each, is taken in advance
	Attach      Attach // how the programs are attached
	TAP         bool   // the slow-path device is a TAP, where there is no XDP
	Queues      int    // of the slow-path devices, one worker each
	MissBudget  uint32 // frames a second that each hook of an endpoint may send to user space
}

func (c *Config) setDefaults() error {
	c.PinDir = or(c.PinDir, DefaultPinDir)
	c.Prefix = or(c.Prefix, DefaultPrefix)
	c.NetNSDir = or(c.NetNSDir, DefaultNetNSDir)
	c.FlowEntries = or(c.FlowEntries, DefaultFlowEntries)
	c.MissBudget = or(c.MissBudget, DefaultMissBudget)
	c.Queues = or(c.Queues, 1)
	if c.Queues < 1 || c.Queues > MaxQueues {
		return fmt.Errorf("%d queues: want 1 to %d", c.Queues, MaxQueues)
	}
	if len(c.Prefix)+1 >= unix.IFNAMSIZ {
		return fmt.Errorf("device prefix %q is too long", c.Prefix)
	}
	return nil
}

// StandingTable names the nftables table of the standing default. Gateways that
// share a kernel, as in tests, differ in their devices and so in it: Uninstall looks
// into every namespace, the host's too.
func StandingTable(prefix string) string {
	if prefix == DefaultPrefix {
		return "gatehouse"
	}
	return "gatehouse-" + prefix
}

// maxMTU is the largest that an endpoint may have.
func (c *Config) maxMTU() int {
	if c.TAP {
		return TAPMTU - 4
	}
	return MaxEndpointMTU
}

func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// Steer is the kernel's side of one gateway.
type Steer struct {
	lock  *os.File // of the pin directory: one gateway at a time writes the flow tables
	cfg   Config
	links string // directory of pinned links
	// others are directories of other layouts that were there at Open.
	others []string
	maps   steerMaps
	flows  *FlowMap
	cache  *btf.Cache

	attaching sync.Mutex // one attachment at a time: the kernel's own lock allows no more
	noTCX     atomic.Bool
	held      sync.Map // *netns of each space, by cookie

	mu        sync.Mutex
	spaces    map[uint64]*Space // by cookie of the namespace
	lastSpace uint32
	lost      uint64 // what the pairs of spaces that are gone had no room for
	networks  map[policy.Zone]*network
	endpoints map[string]*endpoint
	ports     map[steerPortKey]string // ids of endpoints
	found     map[steerPortKey]uint16 // slots that an earlier gateway gave
	defaults  map[uint64]*standing    // by cookie
	reports   chan Report
	more      chan struct{} // a space was added; Watch looks at it
}

// Open loads what the kernel needs, or takes over what an earlier gateway has
// pinned. It needs root and Linux 5.14.
func Open(cfg Config) (*Steer, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("lift the limit on locked memory (needs root): %w", err)
	}
	if err := mountBPF(cfg.PinDir); err != nil {
		return nil, err
	}
	lock, err := lockDir(cfg.PinDir)
	if err != nil {
		return nil, err
	}
	s := &Steer{
		lock:      lock,
		cfg:       cfg,
		links:     filepath.Join(cfg.PinDir, layout, linksDir),
		cache:     btf.NewCache(),
		spaces:    make(map[uint64]*Space),
		networks:  make(map[policy.Zone]*network),
		endpoints: make(map[string]*endpoint),
		ports:     make(map[steerPortKey]string),
		found:     make(map[steerPortKey]uint16),
		defaults:  make(map[uint64]*standing),
		reports:   make(chan Report, 64),
		more:      make(chan struct{}, 1),
	}
	if err := s.pinDirs(); err != nil {
		return nil, errors.Join(fmt.Errorf("pin directory %s: %w", cfg.PinDir, err), s.Close())
	}
	if err := s.openMaps(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	seed, err := flowSeed(s.maps.States)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if s.flows, err = openFlowMap(flowMaps{s.maps.Flows, s.maps.Flows6, s.maps.Ends}, seed, int(cfg.FlowEntries)); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.recall(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Steer) openMaps() error {
	spec, err := specFor(s.cfg.FlowEntries)
	if err != nil {
		return err
	}
	if err := s.dropOtherTables(spec); err != nil {
		return err
	}
	for name, to := range map[string]**ebpf.Map{
		"beats":      &s.maps.Beats,
		"counters":   &s.maps.Counters,
		"ends":       &s.maps.Ends,
		"flows":      &s.maps.Flows,
		"flows6":     &s.maps.Flows6,
		"open_zones": &s.maps.OpenZones,
		"owners":     &s.maps.Owners,
		"ports":      &s.maps.Ports,
		"slots":      &s.maps.Slots,
		"spaces":     &s.maps.Spaces,
		"states":     &s.maps.States,
		"told":       &s.maps.Told,
	} {
		*to, err = takeMap(spec.Maps[name], filepath.Join(s.cfg.PinDir, layout, mapsDir, name))
		if err != nil {
			return err
		}
	}
	return nil
}

// dropOtherTables unpins flow tables of another size, and the ends with them:
// programs that an earlier gateway attached read both until they are replaced,
// and a number must not mean somebody else in a line of theirs. The ends go
// first, so that they never outlive the tables.
func (s *Steer) dropOtherTables(spec *ebpf.CollectionSpec) error {
	dir := filepath.Join(s.cfg.PinDir, layout, mapsDir)
	fits := fitsPinned(spec.Maps["flows"], filepath.Join(dir, "flows")) && fitsPinned(spec.Maps["flows6"], filepath.Join(dir, "flows6"))
	if fits {
		return nil
	}
	for _, name := range []string{"ends", "flows", "flows6"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove flow tables of another size: %w", err)
		}
	}
	return nil
}

// fitsPinned reports whether a map of that spec is pinned there.
func fitsPinned(spec *ebpf.MapSpec, path string) bool {
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		return false
	}
	defer m.Close()
	return spec.Compatible(m) == nil
}

// unordered says that the processor may let loads pass loads and stores pass
// stores. x86 does not (Intel SDM volume 3, 9.2.2).
var unordered = runtime.GOARCH != "amd64"

// specFor is what to load for tables of so many flows.
func specFor(flows uint32) (*ebpf.CollectionSpec, error) {
	spec, err := loadSteer()
	if err != nil {
		return nil, fmt.Errorf("steering programs: %w", err)
	}
	v4, v6 := tableSizes(flows)
	spec.Maps["flows"].MaxEntries, spec.Maps["flows6"].MaxEntries = v4, v6
	return spec, errors.Join(spec.Variables["mask4"].Set(v4-1), spec.Variables["mask6"].Set(v6-1),
		spec.Variables["unordered"].Set(unordered))
}

// flowSeed is what the flow tables' hash is seeded with: drawn once, so that
// nobody can prepare flows that collide.
func flowSeed(states *ebpf.Map) ([3]uint64, error) {
	var st steerState
	if err := states.Lookup(uint32(0), &st); err != nil {
		return st.Seed, fmt.Errorf("read the flow tables' seed: %w", err)
	}
	if st.Seed != [3]uint64{} {
		return st.Seed, nil
	}
	var b [24]byte
	_, _ = rand.Read(b[:]) // never fails
	for i := range st.Seed {
		st.Seed[i] = binary.NativeEndian.Uint64(b[8*i:]) | 1
	}
	if err := states.Put(uint32(0), st); err != nil {
		return st.Seed, fmt.Errorf("seed the flow tables: %w", err)
	}
	return st.Seed, nil
}

// load makes programs with these values for their variables, on the shared maps.
func (s *Steer) load(to any, variables map[string]any) error {
	spec, err := specFor(s.cfg.FlowEntries)
	if err != nil {
		return err
	}
	for name, value := range variables {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("variable %s of the steering programs: %w", name, err)
		}
	}
	err = spec.LoadAndAssign(to, &ebpf.CollectionOptions{
		Cache: s.cache,
		MapReplacements: map[string]*ebpf.Map{
			"beats":      s.maps.Beats,
			"counters":   s.maps.Counters,
			"ends":       s.maps.Ends,
			"flows":      s.maps.Flows,
			"flows6":     s.maps.Flows6,
			"open_zones": s.maps.OpenZones,
			"owners":     s.maps.Owners,
			"ports":      s.maps.Ports,
			"slots":      s.maps.Slots,
			"spaces":     s.maps.Spaces,
			"states":     s.maps.States,
			"told":       s.maps.Told,
		},
	})
	if err != nil {
		return fmt.Errorf("load the steering programs, which need Linux 5.12 (on other processors than amd64 5.18): %w", err)
	}
	return nil
}

// recall remembers the slots of an earlier gateway's endpoints, so that frames
// that wait in rings keep their meaning.
func (s *Steer) recall() error {
	var k steerPortKey
	var v steerPort
	it := s.maps.Ports.Iterate()
	for it.Next(&k, &v) {
		s.found[k] = v.Slot
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("take over endpoints: %w", err)
	}
	return nil
}

// Flows is the kernel's flow map.
func (s *Steer) Flows() *FlowMap { return s.flows }

// SetEpoch tells the programs the number of the present table: entries of
// another epoch are no longer valid. It never goes back.
func (s *Steer) SetEpoch(epoch uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var st steerState
	if err := s.maps.States.Lookup(uint32(0), &st); err != nil {
		return fmt.Errorf("read epoch: %w", err)
	}
	if epoch < st.Epoch {
		return fmt.Errorf("epoch %d is behind the present one, %d", epoch, st.Epoch)
	}
	st.Epoch = epoch
	if err := s.maps.States.Put(uint32(0), st); err != nil {
		return fmt.Errorf("set epoch: %w", err)
	}
	return nil
}

// Epoch is the number that the programs go by, 0 if none was ever set. After a
// takeover the next table's must be greater.
func (s *Steer) Epoch() (uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch()
}

func (s *Steer) epoch() (uint32, error) {
	var st steerState
	if err := s.maps.States.Lookup(uint32(0), &st); err != nil {
		return 0, fmt.Errorf("read epoch: %w", err)
	}
	return st.Epoch, nil
}

// Beat says that the worker of that queue was alive at now, CLOCK_MONOTONIC in
// nanoseconds. Only the worker's own loop may call it, every 50 ms at least:
// after 200 ms without, new flows find no gateway.
func (s *Steer) Beat(queue int, now int64) error {
	return s.maps.Beats.Put(uint32(queue), uint64(now))
}

// Close lets go of the kernel's side and leaves it working: everything is
// pinned for the next gateway.
func (s *Steer) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	errs := []error{s.flows.close(), s.lock.Close()}
	for _, n := range s.networks {
		errs = append(errs, n.close())
	}
	for _, sp := range s.spaces {
		errs = append(errs, sp.ns.close())
	}
	return errors.Join(append(errs, s.maps.Close())...)
}

// Endpoints lists what is admitted now, in no order. Endpoints also go when
// their namespace does.
func (s *Steer) Endpoints() []dataplane.Endpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]dataplane.Endpoint, 0, len(s.endpoints))
	for _, e := range s.endpoints {
		list = append(list, e.dataplane())
	}
	return list
}

// Uninstall removes everything from the kernel, also what an earlier gateway
// left in namespaces that this one does not guard: the network is as it was
// found. Nothing but Close may be called afterwards.
func (s *Steer) Uninstall() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, sp := range s.spaces {
		errs = append(errs, s.clean(sp.ns))
	}
	for _, path := range s.namespaces() {
		ns, err := openNetNS(path)
		if err != nil {
			continue // gone, or no namespace: nothing of ours is there
		}
		errs = append(errs, s.clean(ns), ns.close())
	}
	hooks, err := s.pinnedHooks()
	errs = append(errs, err, s.detachAll(hooks), s.dropOthers())
	return errors.Join(append(errs, removePins(s.cfg.PinDir))...)
}

// namespaces lists where a gateway may have left something.
func (s *Steer) namespaces() []string {
	paths := []string{""}
	files, err := os.ReadDir(s.cfg.NetNSDir)
	if err != nil {
		return paths
	}
	for _, f := range files {
		paths = append(paths, filepath.Join(s.cfg.NetNSDir, f.Name()))
	}
	return paths
}

// clean removes the standing default and the slow-path pair from a namespace.
func (s *Steer) clean(ns *netns) error {
	return errors.Join(removeStanding(ns, StandingTable(s.cfg.Prefix)), ns.do(func() error {
		return removePair(s.cfg.Prefix)
	}))
}
