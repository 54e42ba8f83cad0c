package ruleset

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
)

// addrAxis maps the addresses of one family to classes: one for each distinct
// prefix, numbered in preorder, so that a prefix is the interval from its own
// class to its last descendant's. Class 0 is what no prefix but the family's
// whole holds.
type addrAxis struct {
	prefixes []netip.Prefix // by class
	last     []uint32       // by class: its last descendant
	parent   []uint32       // by class; 0's is 0
	starts   []uint128      // where the longest matching prefix changes
	classes  []uint32       // from there on
	direct   directTable    // IPv4 alone
}

type uint128 struct{ hi, lo uint64 }

func addr128(a netip.Addr) uint128 {
	b := a.As16()
	return uint128{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// after is the address behind the last of p; ok is false behind the last of all.
func after(p netip.Prefix) (a uint128, ok bool) {
	a = addr128(p.Addr())
	n := p.Bits()
	if p.Addr().Is4() {
		n += 96
	}
	carry := uint64(0)
	if n > 64 {
		a.lo, carry = bits.Add64(a.lo, 1<<(128-n), 0)
		a.hi, carry = bits.Add64(a.hi, 0, carry)
	} else if n > 0 {
		a.hi, carry = bits.Add64(a.hi, 1<<(64-n), 0)
	} else {
		return a, false
	}
	if p.Addr().Is4() && a.lo>>32 != mappedLo>>32 {
		return a, false
	}
	return a, carry == 0
}

const mappedLo = uint64(0xffff) << 32

// whole is the prefix of all addresses of a family.
func whole(f family) netip.Prefix {
	if f == family4 {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// normal is p as an axis of family f has it.
func normal(p netip.Prefix, f family) netip.Prefix {
	if !p.IsValid() {
		return whole(f)
	}
	return unmapped(p).Masked()
}

// preorder sorts a prefix behind those that hold it, and before its neighbours.
func preorder(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), a.Bits()-b.Bits())
}

// newAddrAxis takes prefixes over.
func newAddrAxis(f family, prefixes []netip.Prefix, p *pace) *addrAxis {
	prefixes = append(prefixes, whole(f))
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int {
		p.step()
		return preorder(a, b)
	})
	x := &addrAxis{prefixes: slices.Compact(prefixes)}
	n := len(x.prefixes)
	x.last, x.parent = make([]uint32, n), make([]uint32, n)
	x.starts, x.classes = make([]uint128, 0, 2*n), make([]uint32, 0, 2*n)
	var open []uint32
	leave := func() {
		n := len(open) - 1
		c := open[n]
		open = open[:n]
		if n == 0 {
			return
		}
		if end, ok := after(x.prefixes[c]); ok {
			x.change(end, open[n-1])
		}
	}
	for i, p := range x.prefixes {
		c := uint32(i)
		for len(open) > 0 && !x.prefixes[open[len(open)-1]].Contains(p.Addr()) {
			leave()
		}
		if len(open) > 0 {
			x.parent[c] = open[len(open)-1]
		}
		open = append(open, c)
		x.change(addr128(p.Addr()), c)
		for _, o := range open {
			x.last[o] = c
		}
	}
	for len(open) > 0 {
		leave()
	}
	if f == family4 {
		x.direct.build(x, p)
	}
	return x
}

// change notes that class c begins at a, which is not below the last change.
func (x *addrAxis) change(a uint128, c uint32) {
	if n := len(x.starts); n > 0 && x.starts[n-1] == a {
		x.classes[n-1] = c
		return
	}
	x.starts, x.classes = append(x.starts, a), append(x.classes, c)
}

// interval is the classes inside p, which is one of the axis' prefixes.
func (x *addrAxis) interval(p netip.Prefix) (lo, hi uint32) {
	i, _ := slices.BinarySearchFunc(x.prefixes, p, preorder)
	return uint32(i), x.last[i]
}

func (x *addrAxis) size() int { return len(x.prefixes) }

func (x *addrAxis) bytes() int {
	return 32*len(x.prefixes) + 8*len(x.last) + 20*len(x.starts) + x.direct.bytes()
}

// search is the class of an address, found without branches that depend on it.
func (x *addrAxis) search(hi, lo uint64) uint32 {
	base, n := 0, len(x.starts)
	for n > 1 {
		half := n >> 1
		s := &x.starts[base+half]
		_, borrow := bits.Sub64(lo, s.lo, 0)
		_, borrow = bits.Sub64(hi, s.hi, borrow)
		base += half & (int(borrow) - 1)
		n -= half
	}
	return x.classes[base]
}

// directTable maps an IPv4 address to its class without a branch: 16 bits
// through top, then 8 and 8 through nodes. A step is a class shifted left, or a
// node shifted left, plus one; a step that is a class passes through node 0.
type directTable struct {
	top   []uint32 // -> step
	nodes []radix
	steps []uint32 // of all nodes
}

// radix is a node: a bit stands at each byte where another step begins than for
// the byte before. Its size is a cache line's.
type radix struct {
	bits [4]uint64
	at   [4]uint32 // index into steps, less one, of the first bit of each word
	_    [4]uint32
}

func (d *directTable) build(x *addrAxis, p *pace) {
	d.top, d.nodes, d.steps = make([]uint32, 1<<16), make([]radix, 1), make([]uint32, 1)
	at := 0
	// within reports the class of the whole block, if it has but one, after
	// moving at to the block's first interval.
	within := func(first, last uint32) (uint32, bool) {
		for at+1 < len(x.starts) && uint32(x.starts[at+1].lo) <= first {
			at++
		}
		return x.classes[at], at+1 == len(x.starts) || uint32(x.starts[at+1].lo) > last
	}
	for t := range uint32(1 << 16) {
		c, one := within(t<<16, t<<16|0xffff)
		if one {
			d.top[t] = c << 1
			continue
		}
		p.giveWay()
		var mid [256]uint32
		for m := range uint32(256) {
			c, one := within(t<<16|m<<8, t<<16|m<<8|0xff)
			if one {
				mid[m] = c << 1
				continue
			}
			var low [256]uint32
			for l := range uint32(256) {
				c, _ := within(t<<16|m<<8|l, t<<16|m<<8|l)
				low[l] = c << 1
			}
			mid[m] = d.node(&low)
		}
		d.top[t] = d.node(&mid)
	}
}

// node stores one and returns the step to it.
func (d *directTable) node(to *[256]uint32) uint32 {
	var n radix
	for b, step := range to {
		if b%64 == 0 {
			n.at[b/64] = uint32(len(d.steps)) - 1
		}
		if b == 0 || step != to[b-1] {
			n.bits[b/64] |= 1 << (b % 64)
			d.steps = append(d.steps, step)
		}
	}
	d.nodes = append(d.nodes, n)
	return uint32(len(d.nodes)-1)<<1 | 1
}

func (d *directTable) class(a uint32) uint32 {
	return d.step(d.step(d.top[a>>16], a>>8), a) >> 1
}

// step goes on from e by the low byte of a.
func (d *directTable) step(e, a uint32) uint32 {
	inner := e & 1
	n := &d.nodes[e>>1&-inner]
	w := a >> 6 & 3
	x := d.steps[n.at[w]+uint32(bits.OnesCount64(n.bits[w]&(2<<(a&63)-1)))]
	return x ^ (x^e)&(inner-1)
}

func (d *directTable) bytes() int { return 4*len(d.top) + 64*len(d.nodes) + 4*len(d.steps) }

// portAxis maps a port number to the class of all ports that no rule tells
// apart in this field: pages of 256, equal ones kept once.
type portAxis struct {
	pages   [256]uint16
	classes []uint16
	starts  []uint32 // where each class begins
}

func newPortAxis(edges []uint32) *portAxis {
	x := &portAxis{starts: []uint32{0}}
	slices.Sort(edges)
	for _, e := range edges {
		if e != x.starts[len(x.starts)-1] && e < 1<<16 {
			x.starts = append(x.starts, e)
		}
	}
	seen := map[[256]uint16]uint16{}
	c := 0
	for hi := range 256 {
		var page [256]uint16
		for lo := range 256 {
			for c+1 < len(x.starts) && x.starts[c+1] <= uint32(hi<<8|lo) {
				c++
			}
			page[lo] = uint16(c)
		}
		at, ok := seen[page]
		if !ok {
			at = uint16(len(x.classes) >> 8)
			seen[page] = at
			x.classes = append(x.classes, page[:]...)
		}
		x.pages[hi] = at
	}
	return x
}

func (x *portAxis) class(port uint16) uint32 {
	return uint32(x.classes[uint32(x.pages[port>>8])<<8|uint32(port&0xff)])
}

func (x *portAxis) size() int { return len(x.starts) }

// space is the five axes of one family, and its rules on them.
type space struct {
	src, dst         *addrAxis
	srcPort, dstPort *portAxis
	proto            [256]uint16
	protos           int
	boxes            []box    // in the order in which they match
	keys             []uint64 // by box: its rule's key
}

// newSpace lays out the rules of one family; they are in order.
func newSpace(f family, rules []Rule, p *pace) *space {
	n := len(rules)
	src, dst := make([]netip.Prefix, 0, n+1), make([]netip.Prefix, 0, n+1)
	srcPorts, dstPorts := make([]uint32, 0, 2*n), make([]uint32, 0, 2*n)
	for i := range rules {
		r := &rules[i]
		src, dst = append(src, normal(r.Src, f)), append(dst, normal(r.Dst, f))
		srcPorts = append(srcPorts, uint32(r.SrcPorts.Lo), uint32(r.SrcPorts.Hi)+1)
		dstPorts = append(dstPorts, uint32(r.DstPorts.Lo), uint32(r.DstPorts.Hi)+1)
	}
	s := &space{src: newAddrAxis(f, src, p), dst: newAddrAxis(f, dst, p), srcPort: newPortAxis(srcPorts), dstPort: newPortAxis(dstPorts), protos: 1, boxes: make([]box, n), keys: make([]uint64, n)}
	s.numberProtocols(rules)
	for i := range rules {
		p.step()
		s.boxes[i], s.keys[i] = s.box(f, &rules[i]), rules[i].key()
	}
	return s
}

// numberProtocols gives each protocol that a rule names a class; 0 is the rest.
func (s *space) numberProtocols(rules []Rule) {
	for i := range rules {
		if r := &rules[i]; !r.AnyProto && s.proto[r.Proto] == 0 {
			s.proto[r.Proto] = uint16(s.protos)
			s.protos++
		}
	}
}

func (s *space) box(f family, r *Rule) box {
	var b box
	b.lo[axisSrc], b.hi[axisSrc] = s.src.interval(normal(r.Src, f))
	b.lo[axisDst], b.hi[axisDst] = s.dst.interval(normal(r.Dst, f))
	b.lo[axisSrcPort], b.hi[axisSrcPort] = s.srcPort.class(r.SrcPorts.Lo), s.srcPort.class(r.SrcPorts.Hi)
	b.lo[axisDstPort], b.hi[axisDstPort] = s.dstPort.class(r.DstPorts.Lo), s.dstPort.class(r.DstPorts.Hi)
	b.hi[axisProto] = uint32(s.protos - 1)
	if !r.AnyProto {
		b.lo[axisProto] = uint32(s.proto[r.Proto])
		b.hi[axisProto] = b.lo[axisProto]
	}
	return b
}

// sizes is how many classes each axis has.
func (s *space) sizes() [axes]uint32 {
	return [axes]uint32{uint32(s.src.size()), uint32(s.dst.size()), uint32(s.srcPort.size()), uint32(s.dstPort.size()), uint32(s.protos)}
}

func (s *space) bytes() int {
	return s.src.bytes() + s.dst.bytes() + 2*(len(s.srcPort.classes)+len(s.dstPort.classes)+3*256) + 48*len(s.boxes)
}

// point4 is where an IPv4 header lies.
func (s *space) point4(h *Header, p *point) {
	p[axisSrc] = s.src.direct.class(binary.BigEndian.Uint32(h.Src[12:]))
	p[axisDst] = s.dst.direct.class(binary.BigEndian.Uint32(h.Dst[12:]))
	s.pointPorts(h, p)
}

func (s *space) point6(h *Header, p *point) {
	p[axisSrc] = s.src.search(binary.BigEndian.Uint64(h.Src[:8]), binary.BigEndian.Uint64(h.Src[8:]))
	p[axisDst] = s.dst.search(binary.BigEndian.Uint64(h.Dst[:8]), binary.BigEndian.Uint64(h.Dst[8:]))
	s.pointPorts(h, p)
}

func (s *space) pointPorts(h *Header, p *point) {
	p[axisSrcPort] = s.srcPort.class(h.SrcPort)
	p[axisDstPort] = s.dstPort.class(h.DstPort)
	p[axisProto] = uint32(s.proto[h.Proto])
}
