//go:build ignore

// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
//
// The steering programs: three tcx programs that carry what is decided and hand
// the rest to user space.
//
//   from_endpoint  tcx ingress of the host end of an endpoint's veth
//   to_endpoint    tcx egress of it
//   gh_return      tcx ingress of gh0, where the worker's frames come back
//
// A frame of a decided flow costs one lookup in the flow tables. All else takes the way
// through miss: the port is looked up, the sender is checked, and what user
// space can judge leaves through gh0 with a VLAN tag that says which endpoint
// and which hook it came from.
//
// from_endpoint and to_endpoint are loaded once per network, gh_return once per
// network namespace: what is constant there is in .rodata. Every program
// returns TCX_NEXT for "on with the kernel's path", never TC_ACT_OK, which
// would hide the tc programs that others have put on the same hook.

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// From linux/icmp.h, icmpv6.h, if_arp.h and if_packet.h, which include libc's headers.
#define ARPHRD_ETHER 1
#define ARPOP_REPLY 2 // the last of the two that resolve
#define ND_OPT_SOURCE_LL_ADDR 1
#define ND_OPT_TARGET_LL_ADDR 2
#define ND_OPT_NONCE 14
#define PACKET_HOST 0
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_SOURCE_QUENCH 4
#define ICMP_REDIRECT 5
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMPV6_PARAMPROB 4 // the last of the errors
#define ICMPV6_ECHO_REQUEST 128
#define ICMPV6_ECHO_REPLY 129
#define MLD_QUERY 130
#define MLD_REPORT 131
#define MLD_DONE 132
#define ND_ROUTER_SOLICIT 133
#define ND_NEIGHBOR_SOLICIT 135
#define ND_NEIGHBOR_ADVERT 136
#define ND_REDIRECT 137
#define MLD2_REPORT 143

#define NEXT -1 // TCX_NEXT, in linux/bpf.h from 6.6 on

// The mark of a frame that the slow path has judged. The upper half is one of
// these, the lower half a slot. A mark is compared whole: the host's own MLD
// packets carry garbage in it.
//
// MARK_IN stands on frames that go through the bridge after from_endpoint's
// hook; its slot is the destination's, 0 = no endpoint of this network, which
// the second pass of the ingress hook clears. MARK_PROVE is the same of a flow with
// a line, which wants to be told that the frame was delivered. MARK_OUT stands only
// between gh_return and the egress hook that it transmits to.
#define MARK_IN 0x4757u
#define MARK_OUT 0x4758u
#define MARK_PROVE 0x4759u

// The steering tag is slot << 1 | hook. With this bit, which user space sets, a
// frame is of a flow that was handed over.
#define TAG_SLOT 0xfff
#define TAG_LINE 0x8000

#define HEARTBEAT_NS 200000000ull // a worker that has not shown itself for longer is gone
#define BURST_NS 100000000ull     // the miss budget's depth
#define GRAIN_NS (1ull << 21)     // the time in steps of which it is given
#define TICK_SHIFT 30             // a tick is 2^30 ns, the unit of seen and via
#define VIA_TICKS 56              // 60 s
#define ECHO_MAX 1472             // bytes of an echo's payload (R21)

// The numbers are policy.Reason's.
enum reason {
	REASON_NONE,
	REASON_NO_RULE,
	REASON_DENIED,
	REASON_APP,
	REASON_APP_UNKNOWN,
	REASON_UNKNOWN_PEER,
	REASON_POLICY_CHANGED,
	REASON_MULTICAST,
	REASON_SOURCE_MAC,
	REASON_SOURCE_ADDRESS,
	REASON_DESTINATION_MAC,
	REASON_ARP_SENDER,
	REASON_ND_SENDER,
	REASON_ROUTER_ADVERTISEMENT,
	REASON_ROUTER_SOLICITATION,
	REASON_VLAN,
	REASON_ETHERTYPE,
	REASON_TRUNCATED,
	REASON_BAD_HEADER,
	REASON_IP_OPTIONS,
	REASON_EXTENSION_HEADER,
	REASON_FRAGMENT,
	REASON_PROTOCOL,
	REASON_ICMP_TYPE,
	REASON_ICMP_UNRELATED,
	REASON_ICMP_SIZE,
	REASON_NO_FLOW,
	REASON_CONFLICT,
	REASON_PROTOCOL_MISMATCH,
	REASON_NOT_ADMITTED,
	REASON_GATEWAY_DOWN,
	REASON_STALE,
	REASON_FLOW_QUOTA,
	REASON_MISS_BUDGET,
	REASON_INTERNAL,
	REASON_NAME_MISMATCH,
	REASON_NAME_REFUSED,
	REASON_NAME_TUNNEL,
	REASON_SOURCE_INTERFACE,
	REASON_COUNT,
};

// Where a frame was met: at the hook of what an endpoint sends or at that of what is
// sent to it, the numbers of dataplane.Direction.
#define FROM 0
#define TO 1
#define NEITHER 2 // a bump in the wire, or a frame of which nobody knows
#define DIRECTIONS 3
#define REASONS 64 // room for every reason

// What counters counts beside the drops by direction and reason.
enum counter {
	COUNT_HIT = DIRECTIONS * REASONS, // carried by an entry of the flow map
	COUNT_PEER,      // of those and of what came back, put into the peer's namespace at once
	COUNT_STEERED,   // handed to user space
	COUNT_RETURNED,  // came back from it
	COUNT_OPEN,      // passed unjudged: the gateway is down or busy and the endpoint is open then
	COUNT_UNGUARDED, // passed: the port is not guarded, or not admitted in an open network
	COUNT_NOISE,     // dropped without blame: the host's own MLD chatter
	COUNT_MAX,
};

struct flow_key {
	__be32 addr_a[4]; // IPv4 is v4-mapped; (address, port) of A sorts first
	__be32 addr_b[4];
	__u16 port_a; // host order
	__u16 port_b;
	__u16 zone;
	__u8 proto;
	__u8 pad;
};

#define FLOW_INITIATOR 1 // side 1 opened it, else side 0
#define FLOW_PEER 2      // redirect_peer may be used
#define FLOW_ALLOW 4     // its packets pass; without this and the next they are dropped
#define FLOW_BARE 8      // undecided: acknowledgements without payload pass, user space sees the rest
#define FLOW_OPENING 16  // with FLOW_BARE: only once the answer to the SYN has passed, which passes too
#define FLOW_STAYS 32    // with FLOW_ALLOW and FLOW_PEER: user space sees its packets, and the line proves delivery alone
#define FLOW_OLD 64      // with FLOW_ALLOW, for user space: it was met in its middle

#define CLOSED_FIN 1
#define CLOSED_RST 2

// One connection: a line of the flow tables, as long as a cache line. Index 0 of
// the pairs is side A of the key. User space writes all but what is marked; the
// marked fields are written by one direction's packets each, so that plain
// stores do. It writes head last, and clears it first; a line that was taken out
// stays so for longer than any program runs. Of a line that it writes anew while
// it is in force it clears the epoch first and writes it last.
//
// Both sides keep to an order, on processors that keep none by themselves too:
//  - User space stores head and epoch with release (Go's atomics), so that what was
//    stored before is seen by whoever loads them and then, in order, the rest.
//    Behind the clearing of an epoch it loads it again: an acquire, which what is
//    written then cannot pass, and which cannot pass the release before it.
//  - The programs look a key up in any order and, with order() between, once more;
//    what they go by is loaded behind that, and behind the epoch with another. An
//    answer's length is stored before its number, with order() between.
//  - An end is written before the line that has its number is, and found by that
//    number: a load of an address that a load gave keeps its place everywhere.
struct flow {
	__u32 head;  // FLOW_USED | proto << 8 | zone << 16
	__u32 ports; // a | b << 16, host order
	__be32 a4, b4;
	__u32 epoch;
	__u16 ends[2]; // index into ends, of the end on that side
	__u16 via[2];  // kernel: tick when that side's frame was last delivered through the bridge, 0 = never
	__u8 flags;
	__u8 reason;    // what a drop counts as
	__u8 closed[2]; // kernel: FIN and RST seen from that side
	__u8 app;       // policy.App, for user space, like the next three
	__u8 sub;
	__u8 inner;
	__u8 alpn;
	__u32 seen;       // kernel: tick of the last packet
	__u32 packets[2]; // kernel
	__u64 bytes[2];   // kernel
};

// With FLOW_OPENING three fields have another use. Sequence numbers lie there as
// in the packet. User space counts the answer when it reads its number.
typedef __u32 __attribute__((may_alias)) sequence;
#define AWAITED(f) (*(sequence *)&(f)->app) // what the answer acknowledges
#define ANSWER(f) (*(volatile sequence *)(f)->via) // kernel: the answer's number, 0 = none has passed
#define ANSWER_LENGTH(f) ((f)->reason)             // kernel: its IP packet's

// The same for IPv6: two cache lines.
struct flow6 {
	struct flow flow; // a4 and b4 are zero
	__be32 a[4], b[4];
	__u64 pad[4];
};

#define FLOW_USED 1
#define LINES 4 // of a bucket

struct bucket {
	struct flow line[LINES];
};

struct bucket6 {
	struct flow6 line[LINES];
};

// Who is at an end of flows.
struct end {
	__u32 ifindex; // of the local endpoint, 0 = not local
	__u8 mac[6];   // that frames from and to it carry
	__u8 pad[2];
};

struct port_key {
	__u32 space;
	__u32 ifindex;
};

#define PORT_OBSERVE 1   // its mode is observe
#define PORT_OPEN 2      // passes what nobody can judge
#define PORT_UNGUARDED 4 // not enrolled: only the sender is checked
#define PORT_GROUPS 8
#define PORT_REASONS 48 // room for every reason

// One admitted endpoint. User space writes all but what is marked.
struct port {
	__u64 due[2];   // kernel: when the miss budget of each hook is used up to
	__u64 steered;  // kernel
	__u64 attached; // CLOCK_MONOTONIC ns, for user space
	__u32 cost;     // ns of budget that a steered frame takes, 0 = no limit
	__u32 dropped[2][PORT_REASONS]; // kernel: FROM it and TO it, by reason; wraps
	__u16 slot;
	__u16 zone;
	__u8 mac[6];
	__u8 flags;
	__u32 groups[PORT_GROUPS]; // last 24 bits of its IPv6 addresses, host order, | 1<<24; 0 = none
};

struct owner_key {
	__be32 addr[4];
	__u32 zone;
};

struct owner {
	__u32 ifindex;
	__u16 slot;
	__u8 mac[6];
};

struct slot {
	__u32 ifindex;
	__u32 zone;
};

struct state {
	__u32 epoch;
	__u32 pad;
	__u64 seed[3]; // of the flow tables; 1 and 2 are odd
};

// The flow tables. User space alone puts lines in and takes them out, through
// its own mapping of this memory. A flow is in one of the two buckets that its
// hash names, mostly at the first place that is looked at: a lookup costs one
// access to memory that is in no cache. Array, because its lookup is inlined.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 131072);
	__type(key, __u32);
	__type(value, struct bucket);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct bucket6);
} flows6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct end);
} ends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, struct port_key);
	__type(value, struct port);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct owner_key);
	__type(value, struct owner);
} owners SEC(".maps");

// Key: space << 16 | slot.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

// Zones whose unadmitted ports pass. What is not in it is closed.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u32);
} open_zones SEC(".maps");

// What of a port's drops was told. Only user space reads it: over a restart nothing
// is told twice. A gateway that is killed may leave out what it had just noted.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 8192);
	__type(key, struct port_key);
	__type(value, __u32[2][PORT_REASONS]);
} told SEC(".maps");

// Numbers of network namespaces, by their cookie. Only user space reads it: it
// keeps the numbers over a restart.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u32);
} spaces SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct state);
} states SEC(".maps");

// When each worker last showed itself, CLOCK_MONOTONIC ns. Index: queue.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} beats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNT_MAX);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

const volatile __u16 zone;         // of the network
const volatile __u32 space;        // of the network namespace
const volatile __u32 gh0;          // ifindex of the slow-path device there
const volatile __u32 queues = 1;   // how many it has
const volatile __u16 gateway[3];   // MAC of the network's bridge, as it lies in memory
const volatile __u32 bridge;       // its ifindex
const volatile __u32 mask4, mask6; // buckets of the flow tables - 1
const volatile bool unordered;     // the processor may let loads pass loads and stores pass stores

// bpf2go generates Go types from these.
const enum counter *unused_counter __attribute__((unused));
const enum reason *unused_reason __attribute__((unused));

static __always_inline void count(__u32 i)
{
	__u64 *c = bpf_map_lookup_elem(&counters, &i);
	if (c)
		*c += 1;
}

static __always_inline int drop(__u32 dir, __u32 reason)
{
	count(dir * REASONS + reason);
	return TC_ACT_SHOT;
}

static __always_inline int noise(void)
{
	count(COUNT_NOISE);
	return TC_ACT_SHOT;
}

static __always_inline int pass(__u32 counter)
{
	count(counter);
	return NEXT;
}

// blame counts a drop at the port too, which sent the frame or, TO it, was to have it:
// of that frame's sender nothing is known.
static __always_inline int blame(struct port *port, __u32 dir, __u32 reason)
{
	if (reason < PORT_REASONS)
		port->dropped[dir & 1][reason]++;
	return drop(dir, reason);
}

// same_mac compares two addresses that are 2-aligned.
static __always_inline bool same_mac(const void *a, const void *b)
{
	const __u16 *x = a, *y = b;
	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]));
}

// Loads that the compiler must not narrow: the verifier knows a packet pointer
// only in a whole register.
#define LOAD(field)                                                                                  \
	({                                                                                           \
		void *v;                                                                             \
		asm volatile("%0 = *(u32 *)(%1 + %2)"                                                \
			     : "=r"(v)                                                               \
			     : "r"(skb), "i"(__builtin_offsetof(struct __sk_buff, field)));          \
		v;                                                                                   \
	})

static __always_inline void *packet_start(struct __sk_buff *skb) { return LOAD(data); }

static __always_inline void *packet_end(struct __sk_buff *skb) { return LOAD(data_end); }

// The values are known at load time only: a read that is not volatile would be
// folded to zero.
static __always_inline bool is_gateway(const void *mac)
{
	const __u16 *x = mac;
	return x[0] == gateway[0] && x[1] == gateway[1] && x[2] == gateway[2];
}

// order keeps what memory is asked for before it before what is asked for after
// it. An atomic exchange is a full barrier on every machine (the kernel's
// Documentation/atomic_t.txt, which its BPF JITs follow); where loads and stores
// keep their order anyhow the verifier takes it out.
static __always_inline void order(void)
{
	if (unordered) {
		__u64 any = 0, *word = &any;
		asm volatile("" : "+r"(word)); // or the compiler would drop what nobody else sees
		__sync_lock_test_and_set(word, 1);
	}
	asm volatile("" ::: "memory");
}

// frame is what carries a packet, a socket buffer's or a device's own.
struct frame {
	void *data, *end;
	__u32 len;
	__u32 ifindex;
	__u32 segments;
	bool super; // more than one segment, to be cut by who transmits it
};

static __always_inline struct frame frame_of(struct __sk_buff *skb)
{
	return (struct frame){packet_start(skb), packet_end(skb), skb->len, skb->ifindex,
			      skb->gso_segs ? skb->gso_segs : 1, skb->gso_size != 0};
}

enum kind {
	KIND_FLOW,  // has a key to look up
	KIND_OTHER, // IP, for user space to judge
	KIND_ARP,
	KIND_ND,  // neighbour and router discovery
	KIND_MLD, // multicast listener reports
	KIND_BAD, // dropped for reason
};

struct packet {
	struct flow_key key; // addresses of everything that is IP; ports of flows
	__u32 hash;          // the same for both directions
	__u8 side;           // whose address the source is
	__u8 v6;
	__u8 kind;
	__u8 reason; // of KIND_BAD
	__u8 tcp;    // flags
	__u8 request; // of an echo
	__u8 icmp;    // type, of KIND_ND and KIND_MLD
	__u8 answer;  // it is the SYN-ACK that its flow has noted
};

// The first 8 bytes of ICMP and of ICMPv6.
struct icmp {
	__u8 type, code;
	__be16 checksum;
	__be16 id, sequence;
};

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

struct tcp {
	__be16 source, dest;
	__be32 seq, ack;
	__u8 offset, flags;
};

static __always_inline void bad(struct packet *p, __u8 reason)
{
	p->kind = KIND_BAD;
	p->reason = reason;
}

// set_sides puts the two ends into the key in their order. sport and dport are
// host order. An address that talks to itself is never on a wire.
static __always_inline void set_sides4(struct packet *p, __be32 s, __be32 d, __u16 sport, __u16 dport)
{
	struct flow_key *k = &p->key;

	k->addr_a[2] = k->addr_b[2] = bpf_htonl(0xffff);
	p->hash = s ^ d;
	if (bpf_ntohl(s) < bpf_ntohl(d)) {
		k->addr_a[3] = s;
		k->addr_b[3] = d;
		k->port_a = sport;
		k->port_b = dport;
		return;
	}
	p->side = 1;
	k->addr_a[3] = d;
	k->addr_b[3] = s;
	k->port_a = dport;
	k->port_b = sport;
	if (s == d)
		bad(p, REASON_BAD_HEADER);
}

static __always_inline bool before6(const __be32 *a, const __be32 *b)
{
#pragma unroll
	for (int i = 0; i < 4; i++)
		if (a[i] != b[i])
			return bpf_ntohl(a[i]) < bpf_ntohl(b[i]);
	return false;
}

static __always_inline bool mapped(const __be32 *a)
{
	return !a[0] && !a[1] && a[2] == bpf_htonl(0xffff);
}

static __always_inline void set_sides6(struct packet *p, struct ipv6hdr *ip, __u16 sport, __u16 dport)
{
	const __be32 *s = ip->saddr.in6_u.u6_addr32, *d = ip->daddr.in6_u.u6_addr32;
	struct flow_key *k = &p->key;

	p->v6 = 1;
	p->hash = s[0] ^ s[1] ^ s[2] ^ s[3] ^ d[0] ^ d[1] ^ d[2] ^ d[3];
	if (before6(s, d)) {
		__builtin_memcpy(k->addr_a, s, 16);
		__builtin_memcpy(k->addr_b, d, 16);
		k->port_a = sport;
		k->port_b = dport;
	} else {
		p->side = 1;
		__builtin_memcpy(k->addr_a, d, 16);
		__builtin_memcpy(k->addr_b, s, 16);
		k->port_a = dport;
		k->port_b = sport;
		if (!before6(d, s))
			bad(p, REASON_BAD_HEADER);
	}
	// They would share keys with IPv4 flows.
	if (mapped(s) || mapped(d))
		bad(p, REASON_BAD_HEADER);
}

// transport reads ports, or the echo identifier, and says whether there is a
// flow to look up.
static __always_inline bool transport(struct packet *p, __u8 proto, void *l4, void *end, __u16 *sport, __u16 *dport)
{
	struct icmp *icmp = l4;
	__be16 *port = l4;

	switch (proto) {
	case IPPROTO_TCP:
		if (l4 + 20 > end)
			goto truncated;
		p->tcp = *(__u8 *)(l4 + 13);
		break;
	case IPPROTO_UDP:
		if (l4 + 8 > end)
			goto truncated;
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if (l4 + 8 > end)
			goto truncated;
		p->icmp = icmp->type;
		if (proto == IPPROTO_ICMP && (icmp->type == ICMP_ECHO || icmp->type == ICMP_ECHOREPLY))
			p->request = icmp->type == ICMP_ECHO;
		else if (proto == IPPROTO_ICMPV6 && (icmp->type == ICMPV6_ECHO_REQUEST || icmp->type == ICMPV6_ECHO_REPLY))
			p->request = icmp->type == ICMPV6_ECHO_REQUEST;
		else
			return false;
		*sport = *dport = bpf_ntohs(icmp->id);
		p->key.proto = IPPROTO_ICMP;
		return true;
	default:
		return false;
	}
	*sport = bpf_ntohs(port[0]);
	*dport = bpf_ntohs(port[1]);
	p->key.proto = proto;
	return true;

truncated:
	bad(p, REASON_TRUNCATED);
	return false;
}

static __always_inline void parse4(struct packet *p, void *l3, void *end)
{
	struct iphdr *ip = l3;
	__u16 sport = 0, dport = 0;
	bool flow = false;

	if (l3 + sizeof(*ip) > end)
		return bad(p, REASON_TRUNCATED);
	p->kind = KIND_OTHER;
	if (*(__u8 *)l3 == 0x45) {
		if (!(ip->frag_off & bpf_htons(0x3fff)))
			flow = transport(p, ip->protocol, l3 + sizeof(*ip), end, &sport, &dport);
	} else if (ip->version != 4 || ip->ihl < 5) {
		return bad(p, REASON_BAD_HEADER);
	}
	if (p->kind == KIND_BAD)
		return;
	if (flow)
		p->kind = KIND_FLOW;
	set_sides4(p, ip->saddr, ip->daddr, sport, dport);
	if (flow || ip->protocol != IPPROTO_ICMP || *(__u8 *)l3 != 0x45)
		return;
	// An error belongs to the flow that it quotes, and so to that flow's worker.
	if (p->icmp != ICMP_DEST_UNREACH && p->icmp != ICMP_SOURCE_QUENCH && p->icmp != ICMP_REDIRECT &&
	    p->icmp != ICMP_TIME_EXCEEDED && p->icmp != ICMP_PARAMETERPROB)
		return;
	if (l3 + 20 + 8 + sizeof(*ip) > end)
		return;
	ip = l3 + 20 + 8;
	p->hash = ip->saddr ^ ip->daddr;
}

static __always_inline bool is_mld(__u8 type)
{
	return (type >= MLD_QUERY && type <= MLD_DONE) || type == MLD2_REPORT;
}

static __always_inline void parse6(struct packet *p, void *l3, void *end)
{
	struct ipv6hdr *ip = l3;
	void *l4 = l3 + sizeof(*ip);
	__u16 sport = 0, dport = 0;
	bool flow;

	if (l4 > end)
		return bad(p, REASON_TRUNCATED);
	if (ip->version != 6)
		return bad(p, REASON_BAD_HEADER);
	p->kind = KIND_OTHER;
	flow = ip->nexthdr != IPPROTO_ICMP && transport(p, ip->nexthdr, l4, end, &sport, &dport);
	if (p->kind == KIND_BAD)
		return;
	if (flow)
		p->kind = KIND_FLOW;
	set_sides6(p, ip, sport, dport);
	if (flow || p->kind == KIND_BAD)
		return;
	if (ip->nexthdr == IPPROTO_ICMPV6) {
		if (p->icmp >= ND_ROUTER_SOLICIT && p->icmp <= ND_REDIRECT) {
			p->kind = KIND_ND;
		} else if (is_mld(p->icmp)) {
			p->kind = KIND_MLD;
		} else if (p->icmp >= 1 && p->icmp <= ICMPV6_PARAMPROB && l4 + 8 + sizeof(*ip) <= end) {
			__be32 *w = l4 + 8 + 8;
			p->hash = w[0] ^ w[1] ^ w[2] ^ w[3] ^ w[4] ^ w[5] ^ w[6] ^ w[7];
		}
		return;
	}
	// MLD comes behind a hop-by-hop header that holds the router alert alone.
	if (ip->nexthdr == IPPROTO_HOPOPTS && l4 + 9 <= end && ((__u8 *)l4)[0] == IPPROTO_ICMPV6 && ((__u8 *)l4)[1] == 0) {
		__u8 type = ((__u8 *)l4)[8];
		if (is_mld(type)) {
			p->icmp = type;
			p->kind = KIND_MLD;
		}
	}
}

static __always_inline void ether(struct packet *p, void *data, void *end)
{
	struct ethhdr *eth = data;

	if (data + sizeof(*eth) > end)
		return bad(p, REASON_TRUNCATED);
	switch (eth->h_proto) {
	case bpf_htons(ETH_P_IP):
		return parse4(p, data + sizeof(*eth), end);
	case bpf_htons(ETH_P_IPV6):
		return parse6(p, data + sizeof(*eth), end);
	case bpf_htons(ETH_P_ARP):
		p->kind = KIND_ARP;
		return;
	case bpf_htons(ETH_P_8021Q):
	case bpf_htons(ETH_P_8021AD):
		return bad(p, REASON_VLAN);
	}
	bad(p, REASON_ETHERTYPE);
}

// Headers of at most this size are read in place: an IPv6 header and what an
// ICMPv6 error quotes.
#define LINEAR (ETH_HLEN + 40 + 8 + 40)

static __always_inline void parse(struct __sk_buff *skb, struct packet *p)
{
	void *data = packet_start(skb), *end = packet_end(skb);

	__builtin_memset(p, 0, sizeof(*p));
	p->key.zone = zone;
	// The tag is out of the packet here: a tagged frame would parse as plain IP.
	if (skb->vlan_present)
		return bad(p, REASON_VLAN);
	if (data + LINEAR > end && end - data < skb->len) {
		bpf_skb_pull_data(skb, skb->len < LINEAR ? skb->len : LINEAR);
		data = packet_start(skb);
		end = packet_end(skb);
	}
	ether(p, data, end);
}

// bare returns the header of a TCP segment that carries nothing, by its IP length
// and by its size, else 0. A super-packet is never one: its header's length would
// be written anew for each segment.
static __always_inline struct tcp *bare(struct frame *fr)
{
	void *data = fr->data, *end = fr->end;
	struct ethhdr *eth = data;
	struct ipv6hdr *ip6 = data + sizeof(*eth);
	struct iphdr *ip = data + sizeof(*eth);
	__u32 header, size, payload;
	__u8 *tcp = data + sizeof(*eth) + sizeof(*ip);

	if (data + sizeof(*eth) + sizeof(*ip6) + 20 > end) {
		if (eth->h_proto != bpf_htons(ETH_P_IP) || data + sizeof(*eth) + sizeof(*ip) + 20 > end)
			return 0;
		header = sizeof(*ip);
		payload = bpf_ntohs(ip->tot_len) - header;
	} else if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		header = sizeof(*ip);
		payload = bpf_ntohs(ip->tot_len) - header;
	} else {
		header = sizeof(*ip6);
		payload = bpf_ntohs(ip6->payload_len);
		tcp = data + sizeof(*eth) + sizeof(*ip6);
	}
	size = (tcp[12] >> 4) * 4;
	if (size < 20 || payload != size || fr->super)
		return 0;
	if (fr->len != sizeof(*eth) + header + size && fr->len > ETH_ZLEN) // padded
		return 0;
	return (struct tcp *)tcp;
}

static __always_inline __u64 mix(__u64 h, __u64 word, __u64 seed)
{
	h = (h ^ word) * seed;
	return h ^ h >> 32;
}

static __always_inline __u32 head_of(struct packet *p) { return FLOW_USED | p->key.proto << 8 | (__u32)p->key.zone << 16; }

static __always_inline __u32 ports_of(struct packet *p) { return p->key.port_a | (__u32)p->key.port_b << 16; }

static __always_inline __u64 words(const __be32 *x) { return x[0] | (__u64)x[1] << 32; }

// A hash names two buckets and the place in them that is looked at first.
#define FIRST_BUCKET(h, mask) ((__u32)(h) & (mask))
#define SECOND_BUCKET(h, mask) ((__u32)((h) ^ ((h) >> 24 | 1)) & (mask))
#define PLACE(h) ((__u32)((h) >> 62))

static __always_inline bool is4(const volatile struct flow *f, __u32 head, __u32 ports, __be32 a, __be32 b)
{
	return f->head == head && f->ports == ports && f->a4 == a && f->b4 == b;
}

static __always_inline struct flow *find4(struct packet *p, struct state *state)
{
	__u32 head = head_of(p), ports = ports_of(p), n;
	__be32 a = p->key.addr_a[3], b = p->key.addr_b[3];
	struct bucket *bucket;
	struct flow *f;
	__u64 h;

	h = mix(state->seed[0], a | (__u64)b << 32, state->seed[1]);
	h = mix(h, head | (__u64)ports << 32, state->seed[2]) * state->seed[1];
#pragma unroll
	for (int second = 0; second < 2; second++) {
		n = second ? SECOND_BUCKET(h, mask4) : FIRST_BUCKET(h, mask4);
		bucket = bpf_map_lookup_elem(&flows, &n);
		if (!bucket)
			return 0;
#pragma unroll
		for (int i = 0; i < LINES; i++) {
			f = &bucket->line[(PLACE(h) ^ i) & (LINES - 1)];
			if (is4(f, head, ports, a, b))
				goto found;
		}
	}
	return 0;

found:
	if (!unordered)
		return f;
	order();
	return is4(f, head, ports, a, b) ? f : 0;
}

// words6 is a key with IPv6 addresses.
struct words6 {
	__u32 head, ports;
	__u64 a[2], b[2];
};

typedef const volatile __u64 __attribute__((may_alias)) word;

static __always_inline bool is6(const volatile struct flow6 *f, struct words6 *w)
{
	word *a = (word *)f->a, *b = (word *)f->b;

	return f->flow.head == w->head && f->flow.ports == w->ports && a[0] == w->a[0] && a[1] == w->a[1] && b[0] == w->b[0] && b[1] == w->b[1];
}

static __always_inline struct flow *find6(struct packet *p, struct state *state)
{
	struct words6 w = {
		head_of(p), ports_of(p),
		{words(p->key.addr_a), words(p->key.addr_a + 2)},
		{words(p->key.addr_b), words(p->key.addr_b + 2)},
	};
	struct bucket6 *bucket;
	struct flow6 *f;
	__u32 n;
	__u64 h;

	h = mix(state->seed[0], w.a[0], state->seed[1]);
	h = mix(h, w.a[1], state->seed[2]);
	h = mix(h, w.b[0], state->seed[1]);
	h = mix(h, w.b[1], state->seed[2]);
	h = mix(h, w.head | (__u64)w.ports << 32, state->seed[2]) * state->seed[1];
#pragma unroll
	for (int second = 0; second < 2; second++) {
		n = second ? SECOND_BUCKET(h, mask6) : FIRST_BUCKET(h, mask6);
		bucket = bpf_map_lookup_elem(&flows6, &n);
		if (!bucket)
			return 0;
#pragma unroll
		for (int i = 0; i < LINES; i++) {
			f = &bucket->line[(PLACE(h) ^ i) & (LINES - 1)];
			if (is6(f, &w))
				goto found;
		}
	}
	return 0;

found:
	if (!unordered)
		return &f->flow;
	order();
	return is6(f, &w) ? &f->flow : 0;
}

static __always_inline struct end *end_of(struct flow *f, __u32 side)
{
	__u32 n = f->ends[side & 1];
	return bpf_map_lookup_elem(&ends, &n);
}

// is_mute reports whether a segment of an undecided connection says nothing of its
// application: a bare acknowledgement once the SYN is answered, or that answer, a
// SYN-ACK of the responder that acknowledges this very SYN. The first is noted, for
// user space reads the responder's bytes by its number; another than that is for
// user space to see.
static __always_inline bool is_mute(struct frame *fr, struct packet *p, struct flow *f)
{
	struct tcp *tcp;

	if (p->tcp != TCP_ACK && p->tcp != (TCP_SYN | TCP_ACK))
		return false;
	tcp = bare(fr);
	if (!tcp)
		return false;
	if (p->tcp == TCP_ACK)
		return !(f->flags & FLOW_OPENING) || ANSWER(f);
	if (!(f->flags & FLOW_OPENING) || (p->side & 1) == (f->flags & FLOW_INITIATOR) || tcp->ack != AWAITED(f) || !tcp->seq)
		return false;
	if (!ANSWER(f)) {
		ANSWER_LENGTH(f) = (p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) + (tcp->offset >> 4) * 4;
		order();
		ANSWER(f) = tcp->seq;
		p->answer = 1;
	}
	return ANSWER(f) == tcp->seq;
}

// line returns the flow's line if it speaks for this very frame at this port.
static __always_inline struct flow *line(struct frame *fr, struct packet *p, __u32 own)
{
	__u32 zero = 0, side = p->side & 1;
	struct ethhdr *eth = fr->data;
	struct end *from, *to;
	struct state *state;
	struct flow *f;

	if (p->kind != KIND_FLOW || (p->tcp & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		return 0;
	state = bpf_map_lookup_elem(&states, &zero);
	if (!state)
		return 0;
	f = p->v6 ? find6(p, state) : find4(p, state);
	// No table has the number 0.
	if (!f || !state->epoch || *(volatile __u32 *)&f->epoch != state->epoch)
		return 0;
	order(); // what follows was written before the epoch
	from = end_of(f, side);
	to = end_of(f, !side);
	if (!from || !to || (own == p->side ? from : to)->ifindex != fr->ifindex)
		return 0;
	if (fr->data + sizeof(*eth) > fr->end)
		return 0;
	if (!same_mac(eth->h_source, from->mac) || !same_mac(eth->h_dest, to->mac))
		return 0;
	return f;
}

// decides reports whether the line says what becomes of the frame: else user space
// does.
static __always_inline bool decides(struct flow *f, struct frame *fr, struct packet *p)
{
	__u32 side = p->side & 1;

	if (f->flags & FLOW_STAYS)
		return false;
	if (f->flags & FLOW_BARE && !is_mute(fr, p, f))
		return false;
	// What was refused to one side must not stand in the way of the other.
	if (!(f->flags & (FLOW_ALLOW | FLOW_BARE)) && p->key.proto == IPPROTO_UDP && side != (f->flags & FLOW_INITIATOR))
		return false;
	// An identifier is the initiator's for asking and the other's for answering.
	return p->key.proto != IPPROTO_ICMP ||
	       (p->request == (side == (f->flags & FLOW_INITIATOR)) && fr->len <= ETH_HLEN + 20 + 8 + ECHO_MAX);
}

// hit returns the line that says what becomes of the frame.
static __always_inline struct flow *hit(struct frame *fr, struct packet *p, __u32 own)
{
	struct flow *f = line(fr, p, own);

	return f && decides(f, fr, p) ? f : 0;
}

static __always_inline void account(struct frame *fr, struct packet *p, struct flow *f, __u32 tick)
{
	__u32 side = p->side & 1;

	if (!p->answer) {
		f->packets[side] += fr->segments;
		f->bytes[side] += fr->len;
	}
	if (f->seen != tick)
		f->seen = tick;
	if (p->tcp & (TCP_FIN | TCP_RST))
		f->closed[side] |= (p->tcp & TCP_FIN ? CLOSED_FIN : 0) | (p->tcp & TCP_RST ? CLOSED_RST : 0);
}

static __always_inline __u32 now_tick(void) { return bpf_ktime_get_coarse_ns() >> TICK_SHIFT; }

static __always_inline struct port *find_port(struct __sk_buff *skb)
{
	struct port_key k = {.space = space, .ifindex = skb->ifindex};
	return bpf_map_lookup_elem(&ports, &k);
}

static __always_inline int unadmitted(__u32 dir)
{
	__u32 z = zone;
	if (bpf_map_lookup_elem(&open_zones, &z))
		return pass(COUNT_UNGUARDED);
	return drop(dir, REASON_NOT_ADMITTED);
}

// owns reports whether an address is this port's.
static __always_inline bool owns(struct __sk_buff *skb, const __be32 *addr)
{
	struct owner_key k = {.zone = zone};
	struct owner *o;

	__builtin_memcpy(k.addr, addr, 16);
	o = bpf_map_lookup_elem(&owners, &k);
	return o && o->ifindex == skb->ifindex;
}

// token stands in tc_index for the hook to which a frame has come back from user
// space, by the slow-path device and the steering tag. Never 0.
static __always_inline __u32 token(__u32 device, __u32 tag)
{
	return 0x8000 | (((device * 0x9e3779b1u) >> 17) ^ tag);
}

// steer hands the frame, met FROM or TO the endpoint, to user space. One that has
// been there from this very hook has lost its mark: a program of somebody else stands
// before this one. It would go round for ever.
static __always_inline int steer(struct __sk_buff *skb, struct port *port, __u32 hash, __u32 dir)
{
	__u32 q = ((__u64)(hash * 0x9e3779b1u) * queues) >> 32;
	__u64 now = bpf_ktime_get_ns(), due = port->due[dir & 1];
	__u64 *beat = bpf_map_lookup_elem(&beats, &q);
	__u16 tag = (port->slot << 1 | dir) & TAG_SLOT;

	if (skb->tc_index == token(gh0, tag))
		return blame(port, dir, REASON_INTERNAL);
	if (!beat || now > *beat + HEARTBEAT_NS) {
		if (port->flags & PORT_OPEN)
			return pass(COUNT_OPEN);
		return blame(port, dir, REASON_GATEWAY_DOWN);
	}
	// Whoever has used it up gets the next frames at once and then none for a
	// grain, so that the worker wakes up for many and not for each.
	if (due > (now & ~(GRAIN_NS - 1)) + BURST_NS) {
		if (port->flags & PORT_OPEN)
			return pass(COUNT_OPEN);
		return blame(port, dir, REASON_MISS_BUDGET);
	}
	if (due < now)
		due = now;
	// A super-packet arrives in user space as its segments.
	port->due[dir & 1] = due + (__u64)port->cost * (skb->gso_segs ? skb->gso_segs : 1);
	port->steered++;
	skb->queue_mapping = q + 1;
	if (bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), tag))
		return blame(port, dir, REASON_INTERNAL);
	count(COUNT_STEERED);
	return bpf_redirect(gh0, 0);
}

struct arp_ipv4 {
	__be16 htype, ptype;
	__u8 hlen, plen;
	__be16 op;
	__u8 sha[6];
	__u8 spa[4];
	__u8 tha[6];
	__u8 tpa[4];
} __attribute__((packed));

// Chatter between neighbours is not judged, so it must have no room for anything
// else: no bytes behind it, no options that nobody asks for.
#define ARP_MAX 60 // an Ethernet frame is padded to that

// arp_sent: the sender must be this endpoint; a probe asks for its own address.
static __always_inline bool arp_sent(struct __sk_buff *skb, struct port *port)
{
	__be32 addr[4] = {0, 0, bpf_htonl(0xffff), 0};
	struct arp_ipv4 arp __attribute__((aligned(4)));

	if (skb->len > ARP_MAX || bpf_skb_load_bytes(skb, ETH_HLEN, &arp, sizeof(arp)))
		return false;
	if (arp.op == 0 || bpf_ntohs(arp.op) > ARPOP_REPLY)
		return false;
	if (arp.htype != bpf_htons(ARPHRD_ETHER) || arp.ptype != bpf_htons(ETH_P_IP) || arp.hlen != 6 || arp.plen != 4)
		return false;
	if (!same_mac(arp.sha, port->mac))
		return false;
	__builtin_memcpy(&addr[3], arp.spa, 4);
	if (!addr[3])
		__builtin_memcpy(&addr[3], arp.tpa, 4);
	return owns(skb, addr);
}

struct nd {
	__u8 type, code;
	__be16 checksum;
	__be32 flags;
	__be32 target[4];
};

#define ND_OPTIONS 4 // a solicitation has one, with a nonce two

// nd_sent: solicitations and advertisements whose addresses, target and
// link-layer option are this endpoint's.
static __always_inline bool nd_sent(struct __sk_buff *skb, struct port *port, __u8 type)
{
	struct ipv6hdr ip;
	struct nd nd;
	__u32 off = ETH_HLEN + sizeof(ip) + sizeof(nd), end;
	bool unspecified;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(ip), &nd, sizeof(nd)))
		return false;
	if (ip.hop_limit != 255 || nd.code != 0)
		return false;
	const __be32 *s = ip.saddr.in6_u.u6_addr32;
	unspecified = !(s[0] | s[1] | s[2] | s[3]);
	if (unspecified ? type != ND_NEIGHBOR_SOLICIT : !owns(skb, s))
		return false;
	if ((unspecified || type == ND_NEIGHBOR_ADVERT) && !owns(skb, nd.target))
		return false;
	end = ETH_HLEN + sizeof(ip) + bpf_ntohs(ip.payload_len);
	for (int i = 0; i < ND_OPTIONS && off < end; i++) {
		__u8 option[8] __attribute__((aligned(8)));
		if (bpf_skb_load_bytes(skb, off, option, sizeof(option)))
			return false;
		if (option[1] != 1)
			return false;
		if (option[0] == ND_OPT_SOURCE_LL_ADDR || option[0] == ND_OPT_TARGET_LL_ADDR) {
			if (unspecified || !same_mac(option + 2, port->mac))
				return false;
		} else if (option[0] != ND_OPT_NONCE) {
			return false;
		}
		off += 8;
	}
	return off == end && end == skb->len;
}

static __always_inline bool own_group(struct port *port, const __be32 *group)
{
	__u32 low = bpf_ntohl(group[3]);
	bool found = false;

	if (group[0] != bpf_htonl(0xff020000) || group[1] || group[2] != bpf_htonl(1) || low >> 24 != 0xff)
		return false;
	low = (low & 0xffffff) | 1 << 24;
#pragma unroll
	for (int i = 0; i < PORT_GROUPS; i++)
		if (port->groups[i] == low)
			found = true;
	return found;
}

struct mld_record {
	__u8 type, aux;
	__be16 sources;
	__be32 group[4];
};

#define MLD_RECORDS 8

// mld_sent: reports of the solicited-node groups of the endpoint's own addresses.
static __always_inline bool mld_sent(struct __sk_buff *skb, struct port *port, struct packet *p)
{
	__u32 icmp = ETH_HLEN + sizeof(struct ipv6hdr);
	__be16 records;
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return false;
	const __be32 *s = ip.saddr.in6_u.u6_addr32;
	if (ip.hop_limit != 1 || ((s[0] | s[1] | s[2] | s[3]) && !owns(skb, s)))
		return false;
	if (ip.nexthdr == IPPROTO_HOPOPTS)
		icmp += 8;
	if (ETH_HLEN + sizeof(ip) + bpf_ntohs(ip.payload_len) != skb->len)
		return false;
	if (p->icmp == MLD_REPORT || p->icmp == MLD_DONE) {
		__be32 group[4];
		return skb->len == icmp + 8 + sizeof(group) && !bpf_skb_load_bytes(skb, icmp + 8, group, sizeof(group)) && own_group(port, group);
	}
	if (p->icmp != MLD2_REPORT || bpf_skb_load_bytes(skb, icmp + 6, &records, sizeof(records)))
		return false;
	if (bpf_ntohs(records) > MLD_RECORDS || skb->len != icmp + 8 + bpf_ntohs(records) * sizeof(struct mld_record))
		return false;
	for (int i = 0; i < MLD_RECORDS && i < bpf_ntohs(records); i++) {
		struct mld_record r;
		if (bpf_skb_load_bytes(skb, icmp + 8 + i * sizeof(r), &r, sizeof(r)))
			return false;
		if (r.aux || r.sources || !own_group(port, r.group))
			return false;
	}
	return true;
}

// from_miss: what no entry of the flow map speaks for. The sender is checked
// for everything that leaves here alive.
static __noinline int from_miss(struct __sk_buff *skb, struct packet *p)
{
	struct port *port = find_port(skb);
	__be32 src[4];
	__u8 mac[6] __attribute__((aligned(2)));

	if (!p)
		return TC_ACT_SHOT;
	if (!port)
		return unadmitted(FROM);
	if (bpf_skb_load_bytes(skb, 6, mac, sizeof(mac)))
		return blame(port, FROM, REASON_TRUNCATED);
	if (!same_mac(mac, port->mac))
		return blame(port, FROM, REASON_SOURCE_MAC);
	switch (p->kind) {
	case KIND_BAD:
		if (port->flags & PORT_UNGUARDED)
			return pass(COUNT_UNGUARDED);
		return blame(port, FROM, p->reason);
	case KIND_ARP:
		return arp_sent(skb, port) ? NEXT : blame(port, FROM, REASON_ARP_SENDER);
	case KIND_ND:
		if (p->icmp == ND_ROUTER_SOLICIT)
			return blame(port, FROM, REASON_ROUTER_SOLICITATION);
		if (p->icmp != ND_NEIGHBOR_SOLICIT && p->icmp != ND_NEIGHBOR_ADVERT)
			return blame(port, FROM, REASON_ROUTER_ADVERTISEMENT);
		return nd_sent(skb, port, p->icmp) ? NEXT : blame(port, FROM, REASON_ND_SENDER);
	case KIND_MLD:
		if (mld_sent(skb, port, p) || port->flags & (PORT_OBSERVE | PORT_UNGUARDED))
			return NEXT;
		return blame(port, FROM, REASON_MULTICAST);
	}
	if (p->side & 1)
		__builtin_memcpy(src, p->key.addr_b, 16);
	else
		__builtin_memcpy(src, p->key.addr_a, 16);
	if (!owns(skb, src))
		return blame(port, FROM, REASON_SOURCE_ADDRESS);
	if (port->flags & PORT_UNGUARDED)
		return pass(COUNT_UNGUARDED);
	return steer(skb, port, p->hash, FROM);
}

// past_bridge puts the frame into the receiver's namespace where the bridge
// delivered this very direction a minute ago at most: then netfilter and isolation
// let it by, and the bridge's table of addresses stays fresh. Else it returns NEXT.
// gh_return does not know a network's gateway: user space makes nobody with its MAC
// a peer.
static __always_inline int past_bridge(struct __sk_buff *skb, struct flow *f, __u32 side, __u32 tick)
{
	struct end *to;

	if (!(f->flags & FLOW_PEER) || !f->via[side] || (__u16)((__u16)tick - f->via[side]) > VIA_TICKS)
		return NEXT;
	to = end_of(f, !side);
	if (!to || !to->ifindex || is_gateway(to->mac))
		return NEXT;
	count(COUNT_PEER);
	bpf_skb_change_type(skb, PACKET_HOST);
	skb->mark = 0; // kernels before 6.16 do not scrub it on the way into the container
	return bpf_redirect_peer(to->ifindex, 0);
}

// delivered notes that the bridge has delivered a frame of that side.
static __always_inline void delivered(struct flow *f, __u32 side, __u32 tick)
{
	__u16 stamp = (__u16)tick ? (__u16)tick : 1;

	if (f->flags & FLOW_ALLOW && f->via[side] != stamp)
		f->via[side] = stamp;
}

SEC("tcx/ingress")
int from_endpoint(struct __sk_buff *skb)
{
	__u32 side, tick, high = skb->mark >> 16;
	struct frame fr;
	struct packet p;
	struct flow *f;

	if (high == MARK_IN || high == MARK_PROVE) {
		if (!(skb->mark & 0xffff))
			skb->mark = 0;
		return NEXT;
	}
	parse(skb, &p);
	fr = frame_of(skb);
	f = hit(&fr, &p, p.side);
	if (!f)
		return from_miss(skb, &p);
	side = p.side & 1;
	tick = now_tick();
	account(&fr, &p, f, tick);
	if (!(f->flags & (FLOW_ALLOW | FLOW_BARE)))
		return drop(FROM, f->reason < REASON_COUNT ? f->reason : REASON_DENIED);
	count(COUNT_HIT);
	return past_bridge(skb, f, side, tick);
}

// to_marked: a frame that the slow path has judged passes here only if it was
// judged for this endpoint.
static __noinline int to_marked(struct __sk_buff *skb, struct packet *p)
{
	struct port *port = find_port(skb);
	__be32 dst[4];
	__u8 mac[6] __attribute__((aligned(2)));

	if (!p || !port || bpf_skb_load_bytes(skb, 0, mac, sizeof(mac)))
		return 0;
	if (skb->mark == (MARK_OUT << 16 | port->slot))
		return 1;
	if (skb->mark != (MARK_IN << 16 | port->slot) && skb->mark != (MARK_PROVE << 16 | port->slot))
		return 0;
	if (!same_mac(mac, port->mac))
		return 0;
	if (p->kind != KIND_FLOW && p->kind != KIND_OTHER)
		return 0;
	if (p->side & 1)
		__builtin_memcpy(dst, p->key.addr_a, 16);
	else
		__builtin_memcpy(dst, p->key.addr_b, 16);
	return owns(skb, dst);
}

// elsewhere reports whether a frame whose sender is the endpoint at a port came into
// the bridge by another way: skb_iif is the last device that received it (net/core/dev.c,
// __netif_receive_skb_core). That is the sender's own port; the bridge, where the host
// routes between; or none, where the host itself sends.
static __always_inline bool elsewhere(struct __sk_buff *skb, __u32 port)
{
	__u32 in = skb->ingress_ifindex;
	return in && in != port && in != bridge;
}

// is_forged reports whether a frame says that it is from an endpoint of this network
// that it does not come from: such as one of another node's, through the overlay's
// tunnel. What comes from an endpoint was checked there.
static __always_inline bool is_forged(struct __sk_buff *skb, struct packet *p)
{
	struct owner_key k = {.zone = zone};
	struct owner *o;

	if (p->kind == KIND_ARP) {
		k.addr[2] = bpf_htonl(0xffff);
		bpf_skb_load_bytes(skb, ETH_HLEN + __builtin_offsetof(struct arp_ipv4, spa), &k.addr[3], 4);
	} else if (p->kind == KIND_ND && p->icmp == ND_NEIGHBOR_ADVERT) {
		bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct ipv6hdr) + __builtin_offsetof(struct nd, target), k.addr, 16);
	} else if (p->side & 1) {
		__builtin_memcpy(k.addr, p->key.addr_b, 16);
	} else {
		__builtin_memcpy(k.addr, p->key.addr_a, 16);
	}
	o = bpf_map_lookup_elem(&owners, &k);
	return o && elsewhere(skb, o->ifindex);
}

static __noinline int to_miss(struct __sk_buff *skb, struct packet *p)
{
	struct port *port = find_port(skb);
	struct ethhdr eth;

	if (!p)
		return TC_ACT_SHOT;
	if (!port)
		return unadmitted(TO);
	if (port->flags & PORT_UNGUARDED)
		return pass(COUNT_UNGUARDED);
	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return blame(port, TO, REASON_TRUNCATED);
	if (!(eth.h_dest[0] & 1) && !same_mac(eth.h_dest, port->mac))
		return drop(TO, REASON_DESTINATION_MAC); // flooded: nobody's fault
	if (p->kind == KIND_BAD)
		return blame(port, TO, p->reason);
	if (is_forged(skb, p))
		return blame(port, TO, REASON_SOURCE_INTERFACE);
	switch (p->kind) {
	case KIND_ARP:
		return NEXT;
	case KIND_ND:
		if (p->icmp == ND_NEIGHBOR_SOLICIT || p->icmp == ND_NEIGHBOR_ADVERT)
			return NEXT;
		if (p->icmp == ND_ROUTER_SOLICIT)
			return noise();
		if (is_gateway(eth.h_source))
			return NEXT;
		return blame(port, TO, REASON_ROUTER_ADVERTISEMENT);
	case KIND_MLD:
		return port->flags & PORT_OBSERVE ? NEXT : noise();
	}
	if (eth.h_dest[0] & 1) {
		if (port->flags & PORT_OBSERVE)
			return NEXT;
		return blame(port, TO, REASON_MULTICAST);
	}
	return steer(skb, port, p->hash, TO);
}

SEC("tcx/egress")
int to_endpoint(struct __sk_buff *skb)
{
	__u32 side, tick, high = skb->mark >> 16;
	struct end *from;
	struct frame fr;
	struct packet p;
	struct flow *f;
	int judged = 0;

	parse(skb, &p);
	if (high == MARK_IN || high == MARK_OUT || high == MARK_PROVE) {
		judged = to_marked(skb, &p);
		skb->mark = 0;
		if (judged && high != MARK_PROVE)
			return NEXT;
	}
	fr = frame_of(skb);
	f = line(&fr, &p, !p.side);
	side = p.side & 1;
	if (judged) {
		if (f)
			delivered(f, side, now_tick());
		return NEXT;
	}
	from = f ? end_of(f, side) : 0;
	if (!from || (from->ifindex && elsewhere(skb, from->ifindex)) || !decides(f, &fr, &p))
		return to_miss(skb, &p);
	tick = now_tick();
	if (!from->ifindex)
		account(&fr, &p, f, tick);
	if (!(f->flags & (FLOW_ALLOW | FLOW_BARE)))
		return drop(TO, f->reason < REASON_COUNT ? f->reason : REASON_DENIED);
	if (from->ifindex) {
		delivered(f, side, tick);
		return NEXT;
	}
	count(COUNT_HIT);
	return NEXT;
}

// gh_return takes what the worker let pass back to where it came from, or past the
// bridge where a line proves that the bridge delivers it.
SEC("tcx/ingress")
int gh_return(struct __sk_buff *skb)
{
	struct owner_key k = {};
	__u32 key, mark = MARK_IN << 16;
	struct owner *o;
	struct slot *s;
	__be16 proto;
	__u8 mac[6] __attribute__((aligned(2)));
	__u16 tag = skb->vlan_tci, tci = tag & TAG_SLOT;

	if (!skb->vlan_present)
		return drop(NEITHER, REASON_INTERNAL);
	key = space << 16 | tci >> 1;
	s = bpf_map_lookup_elem(&slots, &key);
	if (!s || bpf_skb_vlan_pop(skb))
		return drop(tci & 1, REASON_INTERNAL);
	count(COUNT_RETURNED);
	skb->tc_index = token(skb->ifindex, tci);
	if (tci & 1) {
		skb->mark = MARK_OUT << 16 | tci >> 1;
		return bpf_redirect(s->ifindex, 0);
	}
	if (tag & TAG_LINE) {
		struct packet p;
		struct frame fr;
		struct flow *f;
		int action;

		parse(skb, &p);
		p.key.zone = s->zone;
		fr = frame_of(skb);
		fr.ifindex = s->ifindex;
		f = line(&fr, &p, p.side);
		if (f && f->flags & FLOW_ALLOW) {
			action = past_bridge(skb, f, p.side & 1, now_tick());
			if (action != NEXT)
				return action;
			mark = MARK_PROVE << 16;
		}
	}
	if (bpf_skb_load_bytes(skb, 0, mac, sizeof(mac)) || bpf_skb_load_bytes(skb, 12, &proto, sizeof(proto)))
		return drop(tci & 1, REASON_INTERNAL);
	k.zone = s->zone;
	if (proto == bpf_htons(ETH_P_IP)) {
		k.addr[2] = bpf_htonl(0xffff);
		bpf_skb_load_bytes(skb, ETH_HLEN + 16, &k.addr[3], 4);
	} else {
		bpf_skb_load_bytes(skb, ETH_HLEN + 24, k.addr, 16);
	}
	o = bpf_map_lookup_elem(&owners, &k);
	if (o && same_mac(o->mac, mac))
		mark |= o->slot;
	skb->mark = mark;
	return bpf_redirect(s->ifindex, BPF_F_INGRESS);
}

// The sockets of an interface's queues in a bump in the wire, as long as a gateway
// has them open.
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

// The other interface of a bump in the wire. The kernel takes it out when the
// interface goes: another one that is given its index is not meant.
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} far SEC(".maps");

// is_whole reports whether all that IP's header speaks of is there.
static __always_inline bool is_whole(struct frame *fr, struct packet *p)
{
	struct ipv6hdr *ip6 = fr->data + ETH_HLEN;
	struct iphdr *ip = fr->data + ETH_HLEN;

	if (p->v6)
		return (void *)(ip6 + 1) <= fr->end && ETH_HLEN + sizeof(*ip6) + bpf_ntohs(ip6->payload_len) <= fr->len;
	return (void *)(ip + 1) <= fr->end && bpf_ntohs(ip->tot_len) >= sizeof(*ip) && ETH_HLEN + bpf_ntohs(ip->tot_len) <= fr->len;
}

// wire stands on both interfaces of a bump in the wire: frames of decided flows
// leave by the other, the rest is for user space to judge. Without a gateway
// nothing passes.
SEC("xdp")
int wire(struct xdp_md *ctx)
{
	struct frame fr = {(void *)(long)ctx->data, (void *)(long)ctx->data_end, .ifindex = ctx->ingress_ifindex, .segments = 1};
	__u32 queue = ctx->rx_queue_index;
	struct packet p = {};
	struct flow *f;

	if (!bpf_map_lookup_elem(&sockets, &queue))
		return XDP_DROP;
	fr.len = fr.end - fr.data;
	ether(&p, fr.data, fr.end);
	f = hit(&fr, &p, p.side);
	if (!f || !is_whole(&fr, &p))
		return bpf_redirect_map(&sockets, queue, XDP_DROP);
	account(&fr, &p, f, now_tick());
	if (!(f->flags & (FLOW_ALLOW | FLOW_BARE))) {
		drop(NEITHER, f->reason < REASON_COUNT ? f->reason : REASON_DENIED);
		return XDP_DROP;
	}
	count(COUNT_HIT);
	return bpf_redirect_map(&far, 0, XDP_DROP);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
