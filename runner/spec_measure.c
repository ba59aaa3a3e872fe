/* spec_measure.c: what is kept of a job: caches at moments, activations of a pass. */
#include "spec_internal.h"

#include <string.h>

/* ---- capture ---- */

void spec_of(struct reader *r, const struct node *of, int **conditions, int *n)
{
    if (!of || !spec_words(r, of, "of")) return;
    *conditions = arena_array(r->mem, (size_t)of->n, sizeof **conditions);
    for (int i = 0; i < of->n; i++) {
        int k = spec_find(r, of->items[i], "of", &r->o->conditions, "condition");
        if (k >= 0) (*conditions)[(*n)++] = k;
    }
}

static void read_capture(struct reader *r, const struct node *v, struct capture *c)
{
    static const char *const moments[] = {"prefill", "edited", "end", NULL};
    static const int bits[] = {MOMENT_PREFILL, MOMENT_EDITED, MOMENT_END};
    struct field f[] = {MAY("of"),
                        NEEDED("moments", "moments: [prefill, edited, end]"),
                        LATER("tensors"),
                        LATER("layers"),
                        LATER("positions"),
                        LATER("keep"),
                        {0}};
    const struct node *list;
    c->at = v->at;
    if (!spec_map(r, v, "a capture", f)) return;
    spec_of(r, spec_field(f, "of"), &c->conditions, &c->n);
    list = spec_field(f, "moments");
    if (!list || !spec_words(r, list, "moments")) return;
    for (int i = 0; i < list->n; i++) {
        const struct node *m = list->items[i];
        int k;
        if (m->kind == NODE_SCALAR && !strncmp(m->text, "step:", 5)) {
            spec_wrong(r, m, "E206", "moments: %s is not supported yet", spec_shown(r, m));
            continue;
        }
        k = spec_word(r, m, "moments", moments, NULL);
        if (k >= 0) c->moments |= bits[k];
    }
}

static void read_tensors(struct reader *r, const struct node *v, struct tensors *c)
{
    static const char *const words[] = {"k_pre", "resid", "embed", "attn_out", "mlp_out", "head_out", "attn", "logits", NULL};
    static const int bits[] = {SITE_K_PRE, SITE_RESID, 0, SITE_ATTN_OUT, SITE_MLP_OUT, SITE_HEAD_OUT, SITE_ATTN, SITE_LOGITS};
    struct field f[] = {
        MAY("of"), NEEDED("tensors", "tensors: [resid]"), MAY("layers"), MAY("at"), LATER("moments"), LATER("keep"), {0}};
    const struct node *list, *layers;
    int wrong = r->wrong;
    c->at = v->at;
    c->layers = (struct ranges){.all = true, .at = v->at, .width = v->width};
    c->select = (struct select){.kind = SELECT_TOKENS, .tokens = c->layers, .text = "", .at = v->at, .width = v->width};
    if (!spec_map(r, v, "a capture of tensors", f)) return;
    spec_of(r, spec_field(f, "of"), &c->conditions, &c->n);
    list = spec_field(f, "tensors");
    if (list && spec_words(r, list, "tensors"))
        for (int i = 0; i < list->n; i++) {
            int k = spec_word(r, list->items[i], "tensors", words, NULL);
            if (k >= 0 && !bits[k])
                c->embed = true;
            else if (k >= 0)
                c->sites |= bits[k];
        }
    layers = spec_field(f, "layers");
    if (layers) spec_ranges(r, layers, "layers", true, &c->layers);
    if (layers && r->wrong == wrong && !(c->sites & ~SITE_LOGITS))
        spec_wrong(r, layers, "E229", "embed and logits are no layer's: leave layers out");
    if (!spec_field(f, "at")) return;
    spec_select(r, spec_field(f, "at"), -1, "capture", &c->select);
    spec_select_when(r, spec_field(f, "at"), &c->select, false);
}

void spec_captures(struct reader *r, struct spec *s, const struct node *v)
{
    struct field f[] = {MAY("kv"), MAY("tensors"), LATER("steps"), LATER("state"), {0}};
    const struct node *kv, *tensors;
    if (!spec_map(r, v, "capture", f)) return;
    kv = spec_field(f, "kv");
    tensors = spec_field(f, "tensors");
    if (!kv && !tensors) {
        spec_wrong(r, v, "E202", "capture needs the key 'kv' or 'tensors'");
        spec_help(r, "help: kv: [{ of: [baseline], moments: [prefill] }]");
        spec_help(r, "help: tensors: [{ of: [baseline], tensors: [resid], layers: [0, -1], at: { tokens: [-1] } }]");
    }
    if (kv && spec_list(r, kv, "kv")) {
        s->captures = arena_array(r->mem, (size_t)kv->n, sizeof *s->captures);
        s->n_captures = kv->n;
        for (int i = 0; i < kv->n; i++) read_capture(r, kv->items[i], &s->captures[i]);
    }
    if (tensors && spec_list(r, tensors, "tensors")) {
        s->tensors = arena_array(r->mem, (size_t)tensors->n, sizeof *s->tensors);
        s->n_tensors = tensors->n;
        for (int i = 0; i < tensors->n; i++) read_tensors(r, tensors->items[i], &s->tensors[i]);
    }
}
