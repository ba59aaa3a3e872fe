/* spec_op.c: operations and position selectors, with the values of the axes put in. */
#include "spec_internal.h"

#include <limits.h>
#include <string.h>

/* ---- selectors ---- */

static void read_nth(struct reader *r, const struct node *v, int *nth)
{
    const struct node *put = spec_put(r, v);
    if (put && put->kind == NODE_SCALAR && !strcmp(put->text, "last"))
        *nth = SELECT_LAST;
    else if (put && put->kind == NODE_SCALAR && !strcmp(put->text, "all"))
        *nth = SELECT_ALL;
    else if (put && !spec_int(r, v, "nth", 1, INT_MAX, nth))
        spec_help(r, "allowed here: 1 2 3 ... last all");
}

static bool has_slot(const struct prompt *p, const char *name)
{
    for (int i = 0; i < p->n_slots; i++)
        if (!strcmp(p->slots[i].name, name)) return true;
    return false;
}

/* Every prompt gets the edit, so every prompt needs the slot. `only`: the one prompt that counts, or -1. */
static void check_slot(struct reader *r, const struct node *v, const char *name, int only)
{
    const struct spec_own *o = r->o;
    const struct spec *s = &o->s;
    int i = only < 0 ? 0 : only;
    if (o->prompts_wrong || spec_find(r, v, "slot", &o->slots, "slot") < 0) return;
    if (only < 0 ? names_count(&o->slots, name) == s->n_prompts : has_slot(&s->prompts[only], name)) return;
    while (only < 0 && !spec_quiet(r) && has_slot(&s->prompts[i], name)) i++;
    spec_wrong(r, spec_put(r, v), "E220", "prompt '%s' has no slot '%s'%s", s->prompts[i].name, name,
               only < 0 ? ", and the operation is for every prompt" : "");
}

static void read_select(struct reader *r, const struct node *v, int only, struct select *out)
{
    struct field f[] = {MAY("slot"),   MAY("text"),    MAY("tokens"),         MAY("nth"),       LATER("regex"),
                        LATER("role"), LATER("turn"),  LATER("with_markers"), LATER("bos"),     LATER("last"),
                        LATER("all"),  LATER("after"), LATER("before"),       LATER("between"), LATER("not"),
                        LATER("any"),  LATER("gen"),   LATER("expand"),       LATER("edges"),   {0}};
    const struct node *slot, *text, *tokens, *nth;
    int wrong = r->wrong;
    if (!spec_map(r, v, "a position", f) || r->wrong > wrong) return;
    slot = spec_field(f, "slot");
    text = spec_field(f, "text");
    tokens = spec_field(f, "tokens");
    nth = spec_field(f, "nth");
    *out = (struct select){.at = v->at, .width = v->width, .nth = SELECT_ONLY, .text = ""};
    if (!!slot + !!text + !!tokens != 1) {
        spec_wrong(r, v, "E223", "a position has exactly one of slot, text and tokens");
        return;
    }
    out->kind = slot ? SELECT_SLOT : text ? SELECT_TEXT : SELECT_TOKENS;
    if (slot && spec_text(r, slot, "slot", &out->text)) check_slot(r, slot, out->text, only);
    if (text) spec_text(r, text, "text", &out->text);
    if (tokens) spec_ranges(r, tokens, "tokens", false, &out->tokens);
    if (nth && tokens)
        spec_wrong(r, nth, "E223", "nth goes with slot and text; tokens are counted already");
    else if (nth)
        read_nth(r, nth, &out->nth);
}

/* ---- the donor ---- */

/* from.prompt: `other`, or a name, whose index is returned; else -1. */
static int read_donor_prompt(struct reader *r, const struct node *v, struct op *op)
{
    const struct spec_own *o = r->o;
    if (!spec_text(r, v, "prompt", &op->donor_prompt)) return -1;
    if (strcmp(op->donor_prompt, "other")) {
        int i = o->prompts_wrong ? -1 : spec_find(r, v, "prompt", &o->prompts, "prompt");
        if (i < 0 && !o->prompts_wrong) spec_help(r, "or: other");
        return i;
    }
    op->donor_other = 1;
    op->donor_prompt = NULL;
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

static void read_from(struct reader *r, const struct node *v, struct op *op)
{
    struct field f[] = {NEEDED("prompt", "prompt: other, or the name of a prompt"), MAY("condition"), MAY("at"), {0}};
    const struct node *prompt, *at;
    int only = -1;
    op->from_at = v->at;
    if (!spec_map(r, v, "from", f)) return;
    prompt = spec_field(f, "prompt");
    at = spec_field(f, "at");
    if (prompt) only = read_donor_prompt(r, prompt, op);
    check_donor_condition(r, v, spec_field(f, "condition"));
    if (at) read_select(r, at, only, &op->donor_select);
}

/* ---- operations ---- */

/* from, align, rope: they say where values come from, which only a transplant has. */
static void read_transplant(struct reader *r, const struct field *f, struct op *op)
{
    static const char *const aligns[] = {"same_length", NULL}, *const aligns_later[] = {"left", "right", "map", NULL};
    static const char *const ropes[] = {"keep", "rerotate", NULL};
    static const char *const own[] = {"from", "align", "rope"};
    const struct node *from = spec_field(f, "from"), *align = spec_field(f, "align"), *rope = spec_field(f, "rope");
    if (op->op != EDIT_TRANSPLANT) {
        for (size_t i = 0; i < sizeof own / sizeof *own; i++)
            if (spec_field(f, own[i])) spec_wrong(r, spec_field(f, own[i]), "E229", "%s belongs to a transplant", own[i]);
        return;
    }
    if (from) {
        read_from(r, from, op);
    } else {
        spec_wrong(r, spec_field(f, "op"), "E202", "a transplant needs the key 'from'");
        spec_help(r, "help: from: { prompt: other }");
    }
    op->align_at = align ? align->at : op->at;
    if (align) spec_word(r, align, "align", aligns, aligns_later);
    op->rope_given = rope != NULL;
    if (rope) op->rerotate = spec_word(r, rope, "rope", ropes, NULL) == 1;
}

static void read_tensor(struct reader *r, const struct node *v, struct op *op)
{
    static const char *const words[] = {"k", "v", "kv", NULL};
    static const int values[] = {CACHE_K, CACHE_V, CACHE_K | CACHE_V};
    int word = spec_word(r, v, "tensor", words, NULL);
    if (word < 0) return;
    op->tensors = values[word];
    if (op->op == EDIT_MASK && op->tensors != (CACHE_K | CACHE_V))
        spec_wrong(r, spec_put(r, v), "E229", "a mask hides the whole position: tensor can only be kv");
}

/* False when the operation is not known, and so not what else belongs to it. */
static bool read_kind(struct reader *r, const struct node *v, struct op *op)
{
    static const char *const words[] = {"zero", "transplant", "mask", "noop", NULL};
    static const enum edit_op values[] = {EDIT_ZERO, EDIT_TRANSPLANT, EDIT_MASK, EDIT_NOOP};
    static const char *const later[] = {"scale", "noise", "evict", "swap", NULL};
    int word = v ? spec_word(r, v, "op", words, later) : -1;
    if (word >= 0) op->op = values[word];
    return word >= 0;
}

static void read_op(struct reader *r, const struct node *v, struct op *op)
{
    static const char *const whens[] = {"finished_cache", NULL};
    static const char *const whens_later[] = {"prefill", "every_step", "steps", NULL};
    struct field f[] = {NEEDED("op", "op: zero, transplant, mask or noop"),
                        MAY("tensor"),
                        MAY("layers"),
                        MAY("heads"),
                        NEEDED("at", "at: { slot: NAME }, { text: \"...\" } or { tokens: [7] }"),
                        MAY("from"),
                        MAY("align"),
                        MAY("rope"),
                        NEEDED("when", "when: finished_cache"),
                        LATER("by"),
                        LATER("sigma"),
                        LATER("seed"),
                        LATER("position_policy"),
                        {0}};
    const struct node *layers, *heads;
    bool known;
    *op = (struct op){.tensors = CACHE_K | CACHE_V, .at = v->at, .layers_at = v->at, .heads_at = v->at};
    op->layers = op->heads = (struct ranges){.all = true, .at = v->at, .width = v->width};
    if (!spec_map(r, v, "an operation", f)) return;
    known = read_kind(r, spec_field(f, "op"), op);
    if (spec_field(f, "when")) spec_word(r, spec_field(f, "when"), "when", whens, whens_later);
    if (spec_field(f, "tensor")) read_tensor(r, spec_field(f, "tensor"), op);
    if ((layers = spec_field(f, "layers"))) {
        op->layers_at = layers->at;
        spec_ranges(r, layers, "layers", true, &op->layers);
    }
    if ((heads = spec_field(f, "heads"))) {
        op->heads_at = heads->at;
        spec_ranges(r, heads, "heads", true, &op->heads);
    }
    if (spec_field(f, "at")) read_select(r, spec_field(f, "at"), -1, &op->select);
    op->donor_select = op->select;
    if (known) read_transplant(r, f, op);
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
    r->put_at = arena_array(r->mem, (size_t)n, sizeof *r->put_at);
    for (int i = 0; i < n; i++) {
        struct node *v = &r->puts[i];
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
