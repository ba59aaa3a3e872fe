/* spec_donor.c: where an operation takes values from: another prompt, a condition's edits, a file, or what an earlier run
 * stored. */
#include "spec_internal.h"

#include <stdlib.h>
#include <string.h>

/* prompt: `other`, `same`, or a name, whose index is returned; else -1. */
static int read_prompt(struct reader *r, const struct node *v, struct donor *d)
{
    const struct spec_own *o = r->o;
    if (!spec_text(r, v, "prompt", &d->prompt)) return -1;
    if (!strcmp(d->prompt, "same") && names_find(&o->prompts, "same") < 0) {
        d->prompt = NULL;
        return -1;
    }
    if (strcmp(d->prompt, "other")) {
        int i = o->prompts_wrong ? -1 : spec_find(r, v, "prompt", &o->prompts, "prompt");
        if (i < 0 && !o->prompts_wrong) spec_help(r, "or: other, same");
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

/* Values of the condition's axes that are given as keys. */
static void read_values(struct reader *r, const struct field *axes, const struct condition *c, struct donor *d)
{
    const struct spec *s = &r->o->s;
    d->values = arena_array(r->mem, (size_t)s->n_axes, sizeof *d->values);
    for (; axes->key; axes++) {
        int i = axes->v ? names_find(&r->o->axes, axes->key) : -1, k = 0;
        const char *text;
        if (i < 0) continue;
        while (c && k < c->n_over && c->over[k] != i) k++;
        if (!c || k == c->n_over) {
            spec_wrong(r, axes->k, "E229",
                       c ? "condition '%s' does not go over axis '%s'" : "%saxis '%s' needs the key 'condition'",
                       c ? c->name : "", axes->key);
            continue;
        }
        if (spec_text(r, axes->v, axes->key, &text))
            d->values[d->n_values++] = (struct axis_value){.axis = i, .text = text, .at = axes->v->at};
    }
}

/* condition: whose edits are made in the donor. One without edits is the prompt as it is, which is also the default. */
static void read_condition(struct reader *r, const struct node *from, const struct node *v, const struct field *axes,
                           struct donor *d)
{
    const struct spec_own *o = r->o;
    const struct condition *c = NULL;
    int i;
    if (!v && o->first_plain < 0) {
        spec_wrong(r, from, "E229", "a donor's cache comes from a condition without apply, and there is none");
        spec_help(r, "help: conditions: [{ name: baseline }, ...]; or name the donor's: condition: NAME");
    }
    i = v ? spec_find(r, v, "condition", &o->conditions, "condition") : -1;
    if (i >= 0) c = &o->s.conditions[i];
    if (c && c->apply) d->condition = i;
    if (!v || c) read_values(r, axes, c, d);
}

/* label, experiment, moment, db: what an earlier run stored. */
static void read_stored(struct reader *r, const struct field *f, struct donor *d)
{
    static const char *const moments[] = {"prefill", "edited", "end", "pass", NULL};
    static const char *const not_here[] = {"prompt", "condition", NULL};
    static const int bits[] = {MOMENT_PREFILL, MOMENT_EDITED, MOMENT_END, 0};
    struct donor_stored *s = arena_alloc(r->mem, sizeof *s);
    const struct node *moment = spec_field(f, "moment"), *at = spec_field(f, "at");
    int k;
    s->moment = MOMENT_PREFILL;
    spec_text(r, spec_field(f, "label"), "label", &s->label);
    if (spec_field(f, "experiment")) spec_text(r, spec_field(f, "experiment"), "experiment", &s->experiment);
    if (spec_field(f, "db")) spec_text(r, spec_field(f, "db"), "db", &s->db);
    if (moment && (k = spec_word(r, moment, "moment", moments, NULL)) >= 0) s->moment = bits[k];
    for (k = 0; not_here[k]; k++)
        if (spec_field(f, not_here[k]))
            spec_wrong(r, spec_field(f, not_here[k]), "E229", "%s does not go with label: a stored run has its own",
                       not_here[k]);
    d->stored = s;
    d->select = (struct select){.kind = SELECT_TOKENS, .at = d->at, .text = ""};
    if (!at) return;
    spec_select(r, at, -1, "donor", &d->select);
    if (d->select.kind != SELECT_TOKENS) {
        spec_wrong(r, at, "E229", "places of a stored run are token numbers");
        spec_help(r, "help: at: { tokens: [7] }");
    }
}

/* With `stored`, values of a database are taken, too. */
static void read_donor(struct reader *r, const struct node *v, const char *name, bool stored, struct donor *d)
{
    static const struct field fixed[] = {MAY("prompt"),     MAY("condition"), MAY("at"), MAY("label"),
                                         MAY("experiment"), MAY("moment"),    MAY("db")};
    enum { FIXED = sizeof fixed / sizeof *fixed, PLAIN = 3 };
    const struct spec *s = &r->o->s;
    int n = stored ? FIXED : PLAIN, i, only = -1;
    struct field *f = arena_array(r->mem, (size_t)(n + s->n_axes + 1), sizeof *f);
    memcpy(f, fixed, (size_t)n * sizeof *f);
    for (i = 0; i < s->n_axes; i++) f[n + i].key = s->axes[i].name;
    d->at = v->at;
    d->width = v->width;
    d->condition = -1;
    if (!spec_map(r, v, name, f)) return;
    if (stored && spec_field(f, "label")) {
        read_stored(r, f, d);
        return;
    }
    for (i = PLAIN + 1; i < n; i++)
        if (f[i].v) spec_wrong(r, f[i].k, "E229", "%s goes with label: it says which stored run", f[i].key);
    if (spec_field(f, "prompt")) only = read_prompt(r, spec_field(f, "prompt"), d);
    read_condition(r, v, spec_field(f, "condition"), f + n, d);
    if (spec_field(f, "at")) spec_select(r, spec_field(f, "at"), only, "operation", &d->select);
    spec_fixed_places(r, spec_field(f, "at"), &d->select);
}

void spec_fixed_places(struct reader *r, const struct node *v, const struct select *sel)
{
    if (v) spec_select_when(r, v, sel, false);
}

void spec_donor(struct reader *r, const struct node *v, struct donor *d)
{
    read_donor(r, v, "from", true, d);
}

void spec_donors(struct reader *r, const struct node *v, struct donor **refs, int *n)
{
    int i;
    if (v->kind == NODE_MAP) {
        *refs = arena_alloc(r->mem, sizeof **refs);
        *n = 1;
        read_donor(r, v, "from", false, *refs);
    } else if (spec_list(r, v, "from")) {
        *refs = arena_array(r->mem, (size_t)v->n, sizeof **refs);
        *n = v->n;
        for (i = 0; i < v->n; i++) read_donor(r, v->items[i], "from", false, &(*refs)[i]);
    }
    for (i = 0; i < *n; i++)
        if (!(*refs)[i].select.text) {
            spec_wrong(r, v->kind == NODE_MAP ? v : v->items[i], "E202", "a reference needs the key 'at'");
            spec_help(r, "help: from: [{ prompt: NAME, at: { tokens: [7] } }, ...]");
            return;
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
    d->condition = -1;
    if (!spec_map(r, v, name, f)) return;
    if (spec_field(f, "prompt")) only = read_prompt(r, spec_field(f, "prompt"), d);
    if (spec_field(f, "at")) spec_select(r, spec_field(f, "at"), only, "operation", &d->select);
    spec_fixed_places(r, spec_field(f, "at"), &d->select);
}

void spec_vector(struct reader *r, const struct node *v, struct op_vector *x)
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
