// SPDX-License-Identifier: Apache-2.0
//
// A peer of the classifier: librte_acl over the rules and headers that the
// benchmark hands in. On standard input: struct start, its rules, its headers.
// Then one letter a command, each answered on standard output:
//   1  classify every header, one packet a call: nanoseconds of processor
//     time as a double
//   b  the same in batches of 64
//   r  the rule of each header, one uint32 each: index + 1, 0 = none
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_acl.h>
#include <rte_eal.h>

#define BATCH 64

struct start {
	uint32_t rules, headers, v6, reserved;
};

struct rule {
	uint8_t src[16], dst[16];
	uint16_t src_lo, src_hi, dst_lo, dst_hi;
	uint8_t src_len, dst_len, proto, any_proto;
};

// What is classified, in network byte order; IPv4 uses the first 4 of 16 bytes.
struct header {
	uint8_t proto, pad[3];
	uint8_t src[16], dst[16];
	uint16_t src_port, dst_port;
};

#define FIELDS_MAX 11
RTE_ACL_RULE_DEF(acl_rule, FIELDS_MAX);

static void fail(const char *what)
{
	fprintf(stderr, "%s\n", what);
	exit(1);
}

static void *read_all(size_t n)
{
	void *p = malloc(n ? n : 1);
	if (p == NULL || fread(p, 1, n, stdin) != n)
		fail("short input");
	return p;
}

static uint32_t fields(struct rte_acl_field_def *d, int words)
{
	uint32_t n = 0, group = 0;

	d[n] = (struct rte_acl_field_def){RTE_ACL_FIELD_TYPE_BITMASK, 1, n, group++, offsetof(struct header, proto)};
	n++;
	for (int side = 0; side < 2; side++)
		for (int w = 0; w < words; w++, n++)
			d[n] = (struct rte_acl_field_def){RTE_ACL_FIELD_TYPE_MASK, 4, n, group++,
				(side ? offsetof(struct header, dst) : offsetof(struct header, src)) + 4 * w};
	d[n] = (struct rte_acl_field_def){RTE_ACL_FIELD_TYPE_RANGE, 2, n, group, offsetof(struct header, src_port)};
	n++;
	d[n] = (struct rte_acl_field_def){RTE_ACL_FIELD_TYPE_RANGE, 2, n, group, offsetof(struct header, dst_port)};
	return n + 1;
}

static uint32_t word(const uint8_t *a)
{
	return (uint32_t)a[0] << 24 | a[1] << 16 | a[2] << 8 | a[3];
}

static void fill(struct acl_rule *to, const struct rule *r, uint32_t index, int words)
{
	uint32_t n = 0;

	memset(to, 0, sizeof(*to));
	to->data.category_mask = 1;
	to->data.priority = RTE_ACL_MAX_PRIORITY - index;
	to->data.userdata = index + 1;
	to->field[n].value.u8 = r->proto;
	to->field[n++].mask_range.u8 = r->any_proto ? 0 : 0xff;
	for (int side = 0; side < 2; side++) {
		const uint8_t *a = side ? r->dst : r->src;
		int len = side ? r->dst_len : r->src_len;
		for (int w = 0; w < words; w++, n++) {
			int bits = len - 32 * w;
			to->field[n].value.u32 = word(a + 4 * w);
			to->field[n].mask_range.u32 = bits < 0 ? 0 : bits > 32 ? 32 : bits;
		}
	}
	to->field[n].value.u16 = r->src_lo;
	to->field[n++].mask_range.u16 = r->src_hi;
	to->field[n].value.u16 = r->dst_lo;
	to->field[n].mask_range.u16 = r->dst_hi;
}

static struct rte_acl_ctx *build(const struct start *s, const struct rule *rules)
{
	struct rte_acl_config config = {.num_categories = 1};
	int words = s->v6 ? 4 : 1;
	struct rte_acl_param param = {.name = "peer", .socket_id = SOCKET_ID_ANY, .max_rule_num = s->rules};

	config.num_fields = fields(config.defs, words);
	param.rule_size = RTE_ACL_RULE_SZ(config.num_fields);
	struct rte_acl_ctx *ctx = rte_acl_create(&param);
	if (ctx == NULL)
		fail("rte_acl_create");
	for (uint32_t i = 0; i < s->rules; i++) {
		struct acl_rule r;
		fill(&r, &rules[i], i, words);
		if (rte_acl_add_rules(ctx, (struct rte_acl_rule *)&r, 1) != 0)
			fail("rte_acl_add_rules");
	}
	if (rte_acl_build(ctx, &config) != 0)
		fail("rte_acl_build");
	return ctx;
}

static void classify(struct rte_acl_ctx *ctx, const uint8_t **data, uint32_t *results, uint32_t n, uint32_t batch)
{
	for (uint32_t i = 0; i < n; i += batch)
		rte_acl_classify(ctx, data + i, results + i, n - i < batch ? n - i : batch, 1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

int main(int argc, char **argv)
{
	char *eal[] = {argv[0], "--no-huge", "--no-pci", "--no-shconf", "--no-telemetry", "-m", "4096", "--log-level=error", NULL};

	(void)argc;
	// What DPDK prints must not meet the answers.
	if (rte_eal_init(sizeof(eal) / sizeof(eal[0]) - 1, eal) < 0)
		fail("rte_eal_init");
	struct start *s = read_all(sizeof(*s));
	struct rule *rules = read_all(sizeof(*rules) * s->rules);
	struct header *headers = read_all(sizeof(*headers) * s->headers);
	struct rte_acl_ctx *ctx = build(s, rules);
	const uint8_t **data = calloc(s->headers + 1, sizeof(*data));
	uint32_t *results = calloc(s->headers + 1, sizeof(*results));
	for (uint32_t i = 0; i < s->headers; i++)
		data[i] = (const uint8_t *)&headers[i];
	for (int c; (c = getchar()) != EOF;) {
		double begin = now();
		classify(ctx, data, results, s->headers, c == '1' ? 1 : BATCH);
		double took = now() - begin;
		if (c == 'r')
			fwrite(results, sizeof(*results), s->headers, stdout);
		else
			fwrite(&took, sizeof(took), 1, stdout);
		fflush(stdout);
	}
	return 0;
}
