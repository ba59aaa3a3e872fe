/* spec_op.c: operations with the values of the axes put in: what is changed, how, when, and where other values come from. */
#include "spec_internal.h"

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

/* ---- other prompts ---- */

/* prompt: `other`, or a name, whose index is returned; else -1. */
static int read_donor_prompt(struct reader *r, const struct node *v, struct donor *d)
{
    const struct spec_own *o = r->o;
    if (!spec_text(r, v, "prompt", &d->prompt)) return -1;
    if (strcmp(d->prompt, "other")) {
        int i = o->prompts_wrong ? -1 : spec_find(r, v, "prompt", &o->prompts, "prompt");
        if (i < 0 && !o->prompts_wrong) spec_help(r, "or: other");
        return i;
    }
    d->other = true;
    d->prompt = NULL;
    if (o->prompts_wrong || o->unpaired < 0) return -1;
    spec_wrong(r, spec_put(r, v), "E225", "prompt: other needs pairs, and prompt '%s' has no other",
               o->s.prompts[o->unpaired].name);
    spec_help(r, "help: two prompts of one text are a pair: name: [sf, ny]; or name the donor: prompt: NAME");
    return -1;
}

/* from.condition: whose cache is taken; one without edits, by default the first. */
static void check_donor_condition(struct reader *r, const struct node *from, const struct node *v)
{
    const struct spec_own *o = r->o;
    int i;
    if (!v && o->first_plain < 0) {
        spec_wrong(r, from, "E229", "a donor's cache comes from a condition without apply, and there is none");
        spec_help(r, "help: conditions: [{ name: baseline }, ...]");
    }
    if (!v) return;
    i = spec_find(r, v, "condition", &o->conditions, "condition");
    if (i >= 0 && o->s.conditions[i].apply)
        spec_wrong(r, spec_put(r, v), "E206", "condition: '%s' has edits of its own; a donor with edits is not supported yet",
                   o->s.conditions[i].name);
}

static void read_from(struct reader *r, const struct node *v, struct donor *d)
{
    struct field f[] = {NEEDED("prompt", "prompt: other, or the name of a prompt"), MAY("condition"), MAY("at"), {0}};
    const struct node *prompt, *at;
    int only = -1;
    d->at = v->at;
    if (!spec_map(r, v, "from", f)) return;
    prompt = spec_field(f, "prompt");
    at = spec_field(f, "at");
    if (prompt) only = read_donor_prompt(r, prompt, d);
    check_donor_condition(r, v, spec_field(f, "condition"));
    if (at) {
        spec_select(r, at, only, "operation", &d->select);
        spec_select_when(r, at, &d->select, false);
    }
}

/* One side of a difference of recorded vectors. */
static void read_side(struct reader *r, const struct node *v, const char *name, struct donor *d)
{
    struct field f[] = {NEEDED("prompt", "prompt: other, or the name of a prompt"),
                        NEEDED("at", "at: { text: \"...\" } or { tokens: [-1] }"),
                        {0}};
    int only = -1;
    d->at = v->at;
    if (!spec_map(r, v, name, f)) return;
    if (spec_field(f, "prompt")) only = read_donor_prompt(r, spec_field(f, "prompt"), d);
    if (!spec_field(f, "at")) return;
    spec_select(r, spec_field(f, "at"), only, "operation", &d->select);
    spec_select_when(r, spec_field(f, "at"), &d->select, false);
}

static void read_vector(struct reader *r, const struct node *v, struct op_vector *x)
{
    struct field f[] = {MAY("file"), MAY("tensor"), MAY("from"), MAY("minus"), {0}};
    const struct node *file, *tensor, *from, *minus;
    int wrong = r->wrong;
    x->at = v->at;
    x->width = v->width;
    if (!spec_map(r, v, "vector", f) || r->wrong > wrong) return;
    file = spec_field(f, "file");
    tensor = spec_field(f, "tensor");
    from = spec_field(f, "from");
    minus = spec_field(f, "minus");
    if (!file != !tensor || !from != !minus || !file == !from) {
        spec_wrong(r, v, "E223", "a vector has file and tensor, or from and minus");
        spec_help(r, "help: vector: { file: steer.safetensors, tensor: direction }");
        spec_help(r, "help: vector: { from: { prompt: A, at: { tokens: [-1] } }, minus: { prompt: B, at: { tokens: [-1] } } }");
        return;
    }
    if (file) {
        spec_text(r, file, "file", &x->file);
        spec_text(r, tensor, "tensor", &x->tensor);
        return;
    }
    read_side(r, from, "from", &x->from);
    read_side(r, minus, "minus", &x->minus);
}

/* ---- keys that some operations have ---- */

static void not_of(struct reader *r, const struct field *f, const char *const *own, const char *whose)
{
    for (; *own; own++)
        if (spec_field(f, *own)) spec_wrong(r, spec_field(f, *own), "E229", "%s belongs to %s", *own, whose);
}

/* from, align, rope: they say where values come from, which only a transplant has. */
static void read_transplant(struct reader *r, const struct field *f, struct op *op)
{
    static const char *const aligns[] = {"same_length", NULL}, *const aligns_later[] = {"left", "right", "map", NULL};
    static const char *const ropes[] = {"keep", "rerotate", NULL};
    static const char *const own[] = {"from", "align", "rope", NULL};
    const struct node *from = spec_field(f, "from"), *align = spec_field(f, "align"), *rope = spec_field(f, "rope");
    if (op->op != EDIT_TRANSPLANT) {
        not_of(r, f, own, "a transplant");
        return;
    }
    if (from) {
        read_from(r, from, &op->donor);
    } else {
        spec_wrong(r, spec_field(f, "op"), "E202", "a transplant needs the key 'from'");
        spec_help(r, "help: from: { prompt: other }");
    }
    op->align_at = align ? align->at : op->at;
    if (align) spec_word(r, align, "align", aligns, aligns_later);
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
        read_vector(r, spec_field(f, "vector"), &op->vector);
    else {
        spec_wrong(r, spec_field(f, "op"), "E202", "add needs the key 'vector'");
        spec_help(r, "help: vector: { file: steer.safetensors, tensor: direction }");
    }
}

/* ---- what goes together ---- */

static void tensor_with_op(struct reader *r, const struct node *v, const struct op *op)
{
    if (op->op == EDIT_MASK && op->tensors != KEPT) {
        spec_wrong(r, v, "E229", "a mask hides the whole position: tensor can only be kv");
    } else if (op->op != EDIT_MASK && op->when == WHEN_FINISHED_CACHE && op->tensors & ~KEPT) {
        spec_wrong(r, v, "E229", "tensor: %s does not go with when: finished_cache: a cache holds keys and values alone",
                   v->text);
        spec_help(r, "with when: finished_cache  k v kv");
        spec_help(r, "with when: prefill         " IN_FLIGHT);
    } else if (op->op == EDIT_ADD && op->tensors == KEPT) {
        spec_wrong(r, v, "E229", "tensor: kv does not go with op: add: one vector cannot be for both");
        spec_help(r, "with op: add  k v k_pre resid embed attn_out mlp_out head_out");
    }
}

/* Which operation, moment, tensor, layers and heads make sense together; f as read. */
static void check_together(struct reader *r, const struct field *f, const struct op *op)
{
    const struct node *when = spec_field(f, "when"), *tensor = spec_field(f, "tensor"), *layers = spec_field(f, "layers"),
                      *heads = spec_field(f, "heads"), *rope = spec_field(f, "rope");
    if (when && ((op->op == EDIT_MASK && op->when == WHEN_PREFILL) || (op->op == EDIT_ADD && op->when != WHEN_PREFILL))) {
        when = spec_put(r, when);
        spec_wrong(r, when, "E229", "when: %s does not go with op: %s", when->text, op->op == EDIT_MASK ? "mask" : "add");
        spec_help(r, "with when: finished_cache  zero scale transplant mask noop");
        spec_help(r, "with when: prefill         zero scale transplant add noop");
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
    static const char *const words[] = {"zero", "scale", "transplant", "add", "mask", "noop", NULL};
    static const enum edit_op values[] = {EDIT_ZERO, EDIT_SCALE, EDIT_TRANSPLANT, EDIT_ADD, EDIT_MASK, EDIT_NOOP};
    static const char *const later[] = {"mean", "noise", "swap", "evict", "quantise", "knockout", NULL};
    int word = v ? spec_word(r, v, "op", words, later) : -1;
    if (word >= 0) op->op = values[word];
    return word >= 0;
}

static bool read_when(struct reader *r, const struct node *v, struct op *op)
{
    static const char *const words[] = {"finished_cache", "prefill", NULL}, *const later[] = {"every_step", "steps", NULL};
    int word = spec_word(r, v, "when", words, later);
    if (word >= 0) op->when = word == 1 ? WHEN_PREFILL : WHEN_FINISHED_CACHE;
    return word >= 0;
}

static void read_op(struct reader *r, const struct node *v, struct op *op)
{
    struct field f[] = {NEEDED("op", "op: zero, scale, transplant, add, mask or noop"),
                        MAY("tensor"),
                        MAY("layers"),
                        MAY("heads"),
                        NEEDED("at", "at: { slot: NAME }, { text: \"...\" } or { tokens: [7] }"),
                        MAY("from"),
                        MAY("align"),
                        MAY("rope"),
                        MAY("by"),
                        MAY("vector"),
                        NEEDED("when", "when: finished_cache or prefill"),
                        LATER("sigma"),
                        LATER("seed"),
                        LATER("position_policy"),
                        {0}};
    const struct node *layers, *heads;
    bool known, together = true;
    *op = (struct op){.tensors = KEPT, .at = v->at, .layers_at = v->at, .heads_at = v->at};
    op->layers = op->heads = (struct ranges){.all = true, .at = v->at, .width = v->width};
    if (!spec_map(r, v, "an operation", f)) return;
    known = read_kind(r, spec_field(f, "op"), op);
    if (spec_field(f, "when") && !read_when(r, spec_field(f, "when"), op)) together = false;
    if (spec_field(f, "tensor") && !read_tensor(r, spec_field(f, "tensor"), op)) together = false;
    if ((layers = spec_field(f, "layers"))) {
        op->layers_at = layers->at;
        spec_ranges(r, layers, "layers", true, &op->layers);
    }
    if ((heads = spec_field(f, "heads"))) {
        op->heads_at = heads->at;
        spec_ranges(r, heads, "heads", true, &op->heads);
    }
    if (spec_field(f, "at")) {
        spec_select(r, spec_field(f, "at"), -1, "operation", &op->select);
        if (together) spec_select_when(r, spec_field(f, "at"), &op->select, op->when == WHEN_STEPS);
    }
    op->donor.select = op->select;
    if (!known) return;
    read_transplant(r, f, op);
    read_amount(r, f, op);
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
