/* spec_op.c: operations with the values of the axes put in: what is changed, how, when, and where other values come from. */
#include "spec_internal.h"

#include <limits.h>
#include <string.h>

/* What can be changed, in the order of messages. */
static const struct tensor {
    const char *name;
    int bits;
} tensors[] = {{"k", CACHE_K},
               {"v", CACHE_V},
               {"kv", CACHE_K | CACHE_V},
               {"k_pre", SITE_K_PRE},
               {"resid", SITE_RESID},
               {"embed", SITE_RESID},
               {"attn_out", SITE_ATTN_OUT},
               {"mlp_out", SITE_MLP_OUT},
               {"head_out", SITE_HEAD_OUT}};
static const char *const tensor_words[] = {"k", "v", "kv", "k_pre", "resid", "embed", "attn_out", "mlp_out", "head_out", NULL};
#define IN_FLIGHT "k v kv k_pre resid embed attn_out mlp_out head_out"

enum { KEPT = CACHE_K | CACHE_V, WITH_HEADS = KEPT | SITE_K_PRE | SITE_HEAD_OUT };

/* ---- keys that some operations have ---- */

static void not_of(struct reader *r, const struct field *f, const char *const *own, const char *whose)
{
    for (; *own; own++)
        if (spec_field(f, *own)) spec_wrong(r, spec_field(f, *own), "E229", "%s belongs to %s", *own, whose);
}

/* map: pairs of places within the two selections. */
static void read_map(struct reader *r, const struct node *v, struct op *op)
{
    if (!spec_list(r, v, "map")) return;
    op->map = arena_array(r->mem, (size_t)v->n, sizeof *op->map);
    for (int i = 0; i < v->n; i++) {
        const struct node *pair = v->items[i];
        struct op_pair *p = &op->map[op->n_map];
        if (pair->kind != NODE_LIST || pair->n != 2) {
            spec_wrong(r, pair, "E203", "map: a pair [target, donor] is wanted, this is %s", spec_shown(r, pair));
            spec_help(r, "help: map: [[0, 0], [1, 2]] counts from 0 within each selection");
        } else if (spec_int(r, pair->items[0], "map", 0, 1000000, &p->to) &&
                   spec_int(r, pair->items[1], "map", 0, 1000000, &p->from)) {
            for (int k = 0; k < op->n_map; k++)
                if (op->map[k].to == p->to) spec_wrong(r, pair, "E214", "map: target %d stands twice", p->to);
            op->n_map++;
        }
    }
}

static void read_align(struct reader *r, const struct field *f, struct op *op)
{
    static const char *const aligns[] = {"same_length", "left", "right", "map", NULL};
    const struct node *align = spec_field(f, "align"), *map = spec_field(f, "map");
    int word = align ? spec_word(r, align, "align", aligns, NULL) : 0;
    op->align_at = align ? align->at : op->at;
    op->align_width = align ? align->width : 0;
    if (word >= 0) op->align = (enum op_align)word;
    if (!map && op->align == ALIGN_MAP) {
        spec_wrong(r, align, "E202", "align: map needs the key 'map'");
        spec_help(r, "help: map: [[0, 0], [1, 2]] are pairs of target and donor, counted from 0 within each selection");
    } else if (map && op->align != ALIGN_MAP) {
        spec_wrong(r, map, "E229", "map goes with align: map");
    } else if (map) {
        read_map(r, map, op);
    }
}

/* from, with, align, map, rope: they say where values come from. */
static void read_source(struct reader *r, const struct field *f, struct op *op)
{
    static const char *const ropes[] = {"keep", "rerotate", NULL};
    static const char *const from[] = {"from", NULL}, *const with[] = {"with", NULL},
                             *const own[] = {"align", "map", "rope", NULL};
    bool transplant = op->op == EDIT_TRANSPLANT, swap = op->op == EDIT_SWAP;
    const struct node *rope;
    if (!transplant && op->op != EDIT_MEAN) not_of(r, f, from, "transplant and mean");
    if (!swap) not_of(r, f, with, "swap");
    if (!transplant && !swap) {
        not_of(r, f, own, "transplant and swap");
        return;
    }
    if (transplant && spec_field(f, "from")) {
        spec_donor(r, spec_field(f, "from"), &op->donor);
    } else if (transplant) {
        spec_wrong(r, spec_field(f, "op"), "E202", "a transplant needs the key 'from'");
        spec_help(r, "help: from: { prompt: other }");
    } else if (spec_field(f, "with")) {
        op->donor.at = spec_field(f, "with")->at;
        spec_select(r, spec_field(f, "with"), -1, "operation", &op->donor.select);
        spec_fixed_places(r, spec_field(f, "with"), &op->donor.select);
    } else {
        spec_wrong(r, spec_field(f, "op"), "E202", "a swap needs the key 'with'");
        spec_help(r, "help: with: { text: \"...\" }, the places that the edited ones change with");
    }
    read_align(r, f, op);
    rope = spec_field(f, "rope");
    op->rope_given = rope != NULL;
    if (rope) op->rerotate = spec_word(r, rope, "rope", ropes, NULL) == 1;
}

/* by and vector. */
static void read_amount(struct reader *r, const struct field *f, struct op *op)
{
    static const char *const by[] = {"by", NULL}, *const vector[] = {"vector", NULL};
    bool add = op->op == EDIT_ADD, scale = op->op == EDIT_SCALE;
    op->by = 1;
    if (!add && !scale)
        not_of(r, f, by, "scale and add");
    else if (spec_field(f, "by"))
        spec_number(r, spec_field(f, "by"), "by", &op->by);
    else if (scale) {
        spec_wrong(r, spec_field(f, "op"), "E202", "scale needs the key 'by'");
        spec_help(r, "help: by: 0.5");
    }
    if (!add)
        not_of(r, f, vector, "add");
    else if (spec_field(f, "vector"))
        spec_vector(r, spec_field(f, "vector"), &op->vector);
    else {
        spec_wrong(r, spec_field(f, "op"), "E202", "add needs the key 'vector'");
        spec_help(r, "help: vector: { file: steer.safetensors, tensor: direction }");
    }
}

/* over or from of a mean; left out, it is that of the edited places themselves. */
static void read_mean(struct reader *r, const struct field *f, struct op *op)
{
    static const char *const own[] = {"over", NULL};
    const struct node *over = spec_field(f, "over"), *from = spec_field(f, "from");
    if (op->op != EDIT_MEAN) {
        not_of(r, f, own, "mean");
    } else if (over && from) {
        spec_wrong(r, over, "E223", "a mean is over places of this prompt, or from places of others, not both");
    } else if (from) {
        spec_donors(r, from, &op->refs, &op->n_refs);
    } else {
        op->refs = arena_alloc(r->mem, sizeof *op->refs);
        op->n_refs = 1;
        *op->refs = (struct donor){.condition = -1, .select = op->select, .at = op->at};
        if (over) spec_select(r, over, -1, "operation", &op->refs->select);
        spec_fixed_places(r, over, &op->refs->select);
    }
}

/* sigma, seed, bits, per, position_policy, queries. */
static void read_own(struct reader *r, const struct field *f, struct op *op)
{
    static const char *const noise[] = {"sigma", "seed", NULL}, *const quantise[] = {"bits", "per", NULL},
                             *const evict[] = {"position_policy", NULL}, *const knockout[] = {"queries", NULL};
    static const char *const pers[] = {"token", "channel", NULL}, *const policies[] = {"keep_holes", "compact_rerotate", NULL};
    const struct node *op_word = spec_field(f, "op");
    op->bits = 8;
    if (op->op != EDIT_NOISE) not_of(r, f, noise, "noise");
    if (op->op != EDIT_QUANTISE) not_of(r, f, quantise, "quantise");
    if (op->op != EDIT_EVICT) not_of(r, f, evict, "evict");
    if (op->op != EDIT_KNOCKOUT) not_of(r, f, knockout, "knockout");
    if (op->op == EDIT_NOISE && !spec_field(f, "sigma")) {
        spec_wrong(r, op_word, "E202", "noise needs the key 'sigma'");
        spec_help(r, "help: sigma: 0.5 times a normal number is added");
    } else if (op->op == EDIT_NOISE) {
        if (spec_number(r, spec_field(f, "sigma"), "sigma", &op->sigma) && op->sigma < 0)
            spec_wrong(r, spec_field(f, "sigma"), "E212", "sigma: a spread is not negative");
        if (spec_field(f, "seed")) spec_int(r, spec_field(f, "seed"), "seed", 0, INT_MAX, &op->seed);
    } else if (op->op == EDIT_QUANTISE) {
        if (spec_field(f, "bits")) spec_int(r, spec_field(f, "bits"), "bits", 2, 8, &op->bits);
        if (spec_field(f, "per")) op->per_channel = spec_word(r, spec_field(f, "per"), "per", pers, NULL) == 1;
    } else if (op->op == EDIT_EVICT && !spec_field(f, "position_policy")) {
        spec_wrong(r, op_word, "E202", "evict needs the key 'position_policy': what becomes of the positions behind");
        spec_help(r, "position_policy: keep_holes        all others keep their positions");
        spec_help(r, "position_policy: compact_rerotate  those behind move up, as if the evicted had never been there");
    } else if (op->op == EDIT_EVICT) {
        op->compact = spec_word(r, spec_field(f, "position_policy"), "position_policy", policies, NULL) == 1;
    } else if (op->op == EDIT_KNOCKOUT) {
        op->all_queries = !spec_field(f, "queries");
        if (!op->all_queries) spec_select(r, spec_field(f, "queries"), -1, "operation", &op->queries);
        spec_fixed_places(r, spec_field(f, "queries"), &op->queries);
    }
}

/* ---- what goes together ---- */

/* Operations in the order of messages, and where they can be made. */
enum { FINISHED = 1, PREFILL = 2, STEPS = 4, CACHED = FINISHED | PREFILL | STEPS };
static const struct kind {
    const char *name;
    enum edit_op op;
    int when;
} kinds[] = {{"zero", EDIT_ZERO, CACHED},
             {"scale", EDIT_SCALE, CACHED},
             {"mean", EDIT_MEAN, CACHED},
             {"noise", EDIT_NOISE, CACHED},
             {"transplant", EDIT_TRANSPLANT, CACHED},
             {"swap", EDIT_SWAP, FINISHED | STEPS},
             {"add", EDIT_ADD, CACHED},
             {"mask", EDIT_MASK, CACHED},
             {"evict", EDIT_EVICT, CACHED},
             {"quantise", EDIT_QUANTISE, CACHED},
             {"knockout", EDIT_KNOCKOUT, PREFILL | STEPS},
             {"noop", EDIT_NOOP, CACHED}};
enum { KINDS = sizeof kinds / sizeof *kinds };

static const struct kind *kind_of(const struct op *op)
{
    const struct kind *k = kinds;
    while (k->op != op->op) k++;
    return k;
}

static bool whole_position(const struct op *op)
{
    return op->op == EDIT_MASK || op->op == EDIT_EVICT || op->op == EDIT_KNOCKOUT;
}

static void help_when(struct reader *r)
{
    static const char *const names[] = {"finished_cache", "prefill       ", "steps         "};
    for (int w = 0; w < 3; w++) {
        struct buf b = {0};
        for (int k = 0; k < KINDS; k++)
            if (kinds[k].when >> w & 1) buf_printf(&b, " %s", kinds[k].name);
        spec_help(r, "with when: %s %s", names[w], b.p);
        buf_free(&b);
    }
}

static void tensor_with_op(struct reader *r, const struct node *v, const struct op *op)
{
    bool places = op->when == WHEN_STEPS && op->select.kind != SELECT_GEN;
    if (whole_position(op) && op->tensors != KEPT) {
        spec_wrong(r, v, "E229",
                   op->op == EDIT_KNOCKOUT ? "a knockout hides keys from queries: tensor can only be kv, or left out"
                   : op->op == EDIT_MASK   ? "a mask hides the whole position: tensor can only be kv"
                                           : "an evict takes the whole position: tensor can only be kv");
    } else if (op->op == EDIT_SWAP && op->tensors & ~KEPT) {
        spec_wrong(r, v, "E229", "tensor: %s does not go with op: swap: what changes places is what a cache holds", v->text);
        spec_help(r, "with op: swap  k v kv");
    } else if (!whole_position(op) && op->when == WHEN_FINISHED_CACHE && op->tensors & ~KEPT) {
        spec_wrong(r, v, "E229", "tensor: %s does not go with when: finished_cache: a cache holds keys and values alone",
                   v->text);
        spec_help(r, "with when: finished_cache  k v kv");
        spec_help(r, "with when: prefill         " IN_FLIGHT);
    } else if (!whole_position(op) && places && op->tensors & ~KEPT) {
        spec_wrong(r, v, "E229",
                   "tensor: %s of the prompt's tokens is gone when new tokens are fed: a cache holds keys and values alone",
                   v->text);
        spec_help(r, "with places of the prompt  k v kv");
        spec_help(r, "with at: { gen: \"0..9\" }   " IN_FLIGHT);
    } else if (op->op == EDIT_ADD && op->tensors == KEPT) {
        spec_wrong(r, v, "E229", "tensor: kv does not go with op: add: one vector cannot be for both");
        spec_help(r, "with op: add  k v k_pre resid embed attn_out mlp_out head_out");
    }
}

/* What new tokens and scores can be the places of. */
static void check_places(struct reader *r, const struct field *f, const struct op *op)
{
    const struct node *at = spec_field(f, "at");
    bool gen = op->select.kind == SELECT_GEN, given = op->op != EDIT_MEAN || spec_field(f, "over") || spec_field(f, "from");
    if (gen && op->when != WHEN_STEPS) {
        spec_select_when(r, at, &op->select, false);
    } else if (gen && (op->op == EDIT_SWAP || (op->op == EDIT_TRANSPLANT && op->donor.select.kind == SELECT_GEN) || !given)) {
        spec_wrong(r, at, "E229", "%s of new tokens has nothing to take values from", kind_of(op)->name);
        spec_help(r, op->op == EDIT_TRANSPLANT ? "help: from: { prompt: NAME, at: { tokens: [7] } }"
                     : op->op == EDIT_MEAN     ? "help: over: { tokens: [1, 2] }"
                                               : "help: transplant takes values of the prompt");
    } else if (op->select.kind == SELECT_SCORE && op->select.score != SCORE_POSITION &&
               (op->op == EDIT_SWAP || op->op == EDIT_TRANSPLANT || !given)) {
        spec_wrong(r, at, "E229", "a score says only while it runs which places it takes; %s needs them before",
                   kind_of(op)->name);
        spec_help(r, "with a score  zero scale mean (over, from) noise add mask evict quantise knockout noop");
    }
}

static void check_steps(struct reader *r, const struct field *f, const struct op *op)
{
    if (op->op == EDIT_QUANTISE && op->per_channel && (op->when == WHEN_PREFILL || op->select.kind == SELECT_GEN)) {
        spec_wrong(r, spec_field(f, "per"), "E229",
                   "per: channel needs all positions of a channel at once, which a pass does not have");
        spec_help(r, "help: per: token, or when: finished_cache");
    }
    if (op->compact && op->when == WHEN_STEPS)
        spec_wrong(
            r, spec_field(f, "position_policy"), "E229",
            "position_policy: compact_rerotate goes with when: finished_cache and prefill: at later steps other tokens would "
            "stand at these positions");
    if (op->op == EDIT_KNOCKOUT && op->when == WHEN_STEPS && !op->all_queries)
        spec_wrong(r, spec_field(f, "queries"), "E229",
                   "the queries at steps are the new tokens that they feed: leave queries out");
}

/* Which operation, moment, tensor, layers and heads make sense together; f as read. */
static void check_together(struct reader *r, const struct field *f, const struct op *op)
{
    const struct node *when = spec_field(f, "when"), *tensor = spec_field(f, "tensor"), *layers = spec_field(f, "layers"),
                      *heads = spec_field(f, "heads"), *rope = spec_field(f, "rope");
    if (when && !(kind_of(op)->when >> (int)op->when & 1)) {
        when = spec_put(r, when);
        spec_wrong(r, when, "E229", "when: %s does not go with op: %s", when->kind == NODE_SCALAR ? when->text : "steps",
                   kind_of(op)->name);
        help_when(r);
    } else if (tensor) {
        tensor_with_op(r, spec_put(r, tensor), op);
    } else if (op->op == EDIT_ADD) {
        spec_wrong(r, spec_field(f, "op"), "E202", "add needs the key 'tensor'");
        spec_help(r, "help: tensor: resid");
    }
    if (heads && !(op->tensors & WITH_HEADS)) {
        spec_wrong(r, heads, "E229", "tensor: %s has no heads", spec_put(r, tensor)->text);
        spec_help(r, "with heads  k v kv k_pre (kv heads), head_out (query heads)");
    }
    if (layers && op->embed) spec_wrong(r, layers, "E229", "tensor: embed stands before the first layer and has none");
    if (rope && op->tensors & ~KEPT) spec_wrong(r, rope, "E229", "rope is for k and kv: other tensors carry no rotation");
    check_places(r, f, op);
    check_steps(r, f, op);
}

/* ---- operations ---- */

/* False when the key has a value that is not known, and so not what goes with it. */
static bool read_tensor(struct reader *r, const struct node *v, struct op *op)
{
    int word = spec_word(r, v, "tensor", tensor_words, NULL);
    if (word < 0) return false;
    op->tensors = tensors[word].bits;
    op->embed = !strcmp(tensors[word].name, "embed");
    return true;
}

static bool read_kind(struct reader *r, const struct node *v, struct op *op)
{
    const char *words[KINDS + 1] = {0};
    int word;
    for (int i = 0; i < KINDS; i++) words[i] = kinds[i].name;
    word = v ? spec_word(r, v, "op", words, NULL) : -1;
    if (word >= 0) op->op = kinds[word].op;
    return word >= 0;
}

/* "2..5", "3", also behind the word: "steps: 2..5", which is how an axis says it. */
static bool read_steps(struct reader *r, const struct node *v, struct op *op)
{
    struct ranges x = {0};
    struct node text = *v;
    if (v->kind == NODE_SCALAR && !strncmp(v->text, "steps:", 6)) {
        text.text = arena_strdup(r->mem, v->text + 6 + strspn(v->text + 6, " "));
        text.len = strlen(text.text);
    }
    if (!spec_ranges(r, &text, "steps", false, &x)) return false;
    if (x.n != 1 || x.r[0].first < 0 || x.r[0].last < 0) {
        spec_wrong(r, v, "E212", "steps: one range is wanted, counted from 0: the pass that feeds the first new token");
        spec_help(r, "help: when: { steps: \"0..9\" }");
        return false;
    }
    op->when = WHEN_STEPS;
    op->first_step = x.r[0].first;
    op->last_step = x.r[0].last;
    return true;
}

static bool read_when(struct reader *r, const struct node *v, struct op *op)
{
    static const char *const words[] = {"finished_cache", "prefill", "every_step", "steps", NULL};
    static const enum op_when values[] = {WHEN_FINISHED_CACHE, WHEN_PREFILL, WHEN_STEPS};
    struct field f[] = {NEEDED("steps", "when: { steps: \"0..9\" }"), {0}};
    const struct node *put = spec_put(r, v);
    int word;
    if (put && put->kind == NODE_MAP) return spec_map(r, put, "when", f) && f[0].v && read_steps(r, f[0].v, op);
    if (put && put->kind == NODE_SCALAR && !strncmp(put->text, "steps:", 6)) return read_steps(r, put, op);
    word = spec_word(r, v, "when", words, NULL);
    if (word == 3) {
        spec_wrong(r, put, "E202", "when: steps needs to know which");
        spec_help(r, "help: when: { steps: \"0..9\" }, or every_step");
        return false;
    }
    if (word >= 0) op->when = values[word];
    if (word == 2) op->last_step = INT_MAX;
    return word >= 0;
}

/* What every operation has. False when a value is not known, and so not what goes with it. */
static bool read_common(struct reader *r, const struct field *f, struct op *op)
{
    const struct node *layers = spec_field(f, "layers"), *heads = spec_field(f, "heads");
    bool known = true;
    if (spec_field(f, "when") && !read_when(r, spec_field(f, "when"), op)) known = false;
    if (spec_field(f, "tensor") && !read_tensor(r, spec_field(f, "tensor"), op)) known = false;
    if (layers) {
        op->layers_at = layers->at;
        spec_ranges(r, layers, "layers", true, &op->layers);
    }
    if (heads) {
        op->heads_at = heads->at;
        spec_ranges(r, heads, "heads", true, &op->heads);
    }
    if (spec_field(f, "at")) spec_select(r, spec_field(f, "at"), -1, "operation", &op->select);
    return known;
}

static void read_op(struct reader *r, const struct node *v, struct op *op)
{
    struct field f[] = {NEEDED("op", "op: zero, scale, transplant, mask, ..."),
                        MAY("tensor"),
                        MAY("layers"),
                        MAY("heads"),
                        NEEDED("at", "at: { slot: NAME }, { text: \"...\" } or { tokens: [7] }"),
                        MAY("from"),
                        MAY("over"),
                        MAY("with"),
                        MAY("align"),
                        MAY("map"),
                        MAY("rope"),
                        MAY("by"),
                        MAY("vector"),
                        MAY("sigma"),
                        MAY("seed"),
                        MAY("bits"),
                        MAY("per"),
                        MAY("position_policy"),
                        MAY("queries"),
                        NEEDED("when", "when: finished_cache, prefill, every_step or { steps: \"0..9\" }"),
                        {0}};
    bool known, together;
    *op = (struct op){.tensors = KEPT, .at = v->at, .layers_at = v->at, .heads_at = v->at, .donor.condition = -1};
    op->layers = op->heads = (struct ranges){.all = true, .at = v->at, .width = v->width};
    if (!spec_map(r, v, "an operation", f)) return;
    known = read_kind(r, spec_field(f, "op"), op);
    together = read_common(r, f, op);
    op->donor.select = op->select;
    if (!known) return;
    read_source(r, f, op);
    read_amount(r, f, op);
    read_mean(r, f, op);
    read_own(r, f, op);
    if (together) check_together(r, f, op);
}

bool spec_read_ops(struct reader *r, const struct node *v, struct op **ops, int *n)
{
    int wrong = r->wrong;
    if (!spec_list(r, v, "apply")) return false;
    *ops = arena_array(r->mem, (size_t)v->n, sizeof **ops);
    *n = v->n;
    for (int i = 0; i < v->n; i++) read_op(r, v->items[i], &(*ops)[i]);
    return r->wrong == wrong;
}

/* The values that stand for $axis become nodes, so that a typed reader sees no difference. */
void spec_put_values(struct reader *r, const struct axis_value *values, int n)
{
    r->values = values;
    r->n_values = n;
    r->puts = arena_array(r->mem, (size_t)n, sizeof *r->puts);
    for (int i = 0; i < n; i++) {
        struct node *v = &r->puts[i].value;
        v->kind = NODE_SCALAR;
        v->style = NODE_DOUBLE;
        v->at = values[i].at;
        v->text = values[i].text;
        v->len = strlen(v->text);
        for (const char *p = v->text; *p && *p != '\n'; p++) v->width += ((unsigned char)*p & 0xc0) != 0x80;
    }
}

int spec_ops(const struct spec *s, const struct condition *c, const struct axis_value *values, int n_values, arena *mem,
             struct diag *d, struct op **ops, int *n_ops)
{
    struct reader r = {.o = (const struct spec_own *)s, .d = d, .mem = mem, .condition = c};
    *ops = NULL;
    *n_ops = 0;
    if (!c->apply) return 0;
    spec_put_values(&r, values, n_values);
    return spec_read_ops(&r, c->apply, ops, n_ops) ? 0 : -1;
}
