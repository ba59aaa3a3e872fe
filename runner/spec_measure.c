/* spec_measure.c: what is kept (capture) and what is computed from it (metrics). */
#include "spec_internal.h"

#include <string.h>

/* ---- capture ---- */

/* of: the conditions that are kept; without it, all. */
static void read_of(struct reader *r, const struct node *of, int **conditions, int *n)
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
    read_of(r, spec_field(f, "of"), &c->conditions, &c->n);
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
    read_of(r, spec_field(f, "of"), &c->conditions, &c->n);
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

/* ---- metrics ---- */

static void read_words(struct reader *r, const struct node *v, const char *key, struct words *w)
{
    w->key = key;
    if (!spec_words(r, v, key ? key : "any")) return;
    w->words = arena_array(r->mem, (size_t)v->n, sizeof *w->words);
    for (int i = 0; i < v->n; i++)
        if (spec_text(r, v->items[i], "a word", &w->words[w->n])) w->n++;
}

/* A key of mentions that is the name of a prompt. */
static void read_prompt_words(struct reader *r, const struct node *k, const struct node *v, struct metric *m)
{
    const struct spec_own *o = r->o;
    int prompt = o->prompts_wrong ? -1 : spec_find(r, k, "mentions", &o->prompts, "prompt");
    if (prompt < 0 && !o->prompts_wrong) {
        spec_help(r, "or: any normalise which");
        return;
    }
    read_words(r, v, k->text, &m->words[m->n_words++]);
    if (prompt >= 0 && m->which == WHICH_OTHER && o->s.prompts[prompt].other < 0)
        spec_wrong(r, k, "E225", "which: other needs pairs, and prompt '%s' has no other", k->text);
}

static void read_mentions(struct reader *r, const struct node *v, struct metric *m)
{
    static const char *const whichs[] = {"any", "own", "other", NULL}, *const normalises[] = {"casefold", NULL};
    const struct node *any, *which;
    if (v->kind != NODE_MAP) {
        spec_wrong(r, v, "E203", "mentions: a map of words is wanted, this is %s", spec_shown(r, v));
        spec_help(r, "help: mentions: { any: [word, other word] }");
        return;
    }
    any = node_get(v, "any");
    which = node_get(v, "which");
    if (node_get(v, "normalise")) m->casefold = spec_word(r, node_get(v, "normalise"), "normalise", normalises, NULL) == 0;
    if (which) {
        int word = spec_word(r, which, "which", whichs, NULL);
        m->which = word < 0 ? WHICH_ANY : (enum metric_which)word;
    }
    m->words = arena_array(r->mem, (size_t)v->n, sizeof *m->words);
    for (int i = 0; i < v->n; i++) {
        const char *k = v->keys[i]->text;
        if (!strcmp(k, "any"))
            read_words(r, v->items[i], NULL, &m->words[m->n_words++]);
        else if (strcmp(k, "which") && strcmp(k, "normalise"))
            read_prompt_words(r, v->keys[i], v->items[i], m);
    }
    if (any && m->n_words > 1)
        spec_wrong(r, v, "E223", "mentions has words for any prompt or words per prompt, not both");
    else if (any && m->which != WHICH_ANY)
        spec_wrong(r, which, "E223", "which: %s needs words per prompt, not any", which->text);
    if (m->n_words == 0) spec_wrong(r, v, "E202", "mentions needs words: any: [..], or a list per prompt");
    if (any || which || m->n_words == 0) return;
    spec_wrong(r, v, "E202", "words per prompt need the key 'which'");
    spec_help(r, "help: which: own (the prompt's own words), other (those of its pair) or any");
}

static void read_divergence(struct reader *r, const struct node *v, const struct node *kind, const struct node *against,
                            struct metric *m)
{
    struct field f[] = {NEEDED("against", "against: baseline"), {0}};
    m->kind = METRIC_FIRST_DIVERGENCE;
    if (kind && kind->kind == NODE_MAP) {
        if (!spec_map(r, kind, "first_divergence", f) || !spec_field(f, "against")) return;
        against = spec_field(f, "against");
    } else if (kind && (kind->kind != NODE_SCALAR || kind->len)) {
        spec_wrong(r, kind, "E203", "first_divergence takes no value of its own, or { against: CONDITION }");
        return;
    }
    if (against) {
        m->against = spec_find(r, against, "against", &r->o->conditions, "condition");
    } else {
        spec_wrong(r, v, "E202", "first_divergence needs the key 'against'");
        spec_help(r, "help: against: baseline");
    }
}

static void read_metric(struct reader *r, const struct node *v, struct metric *m)
{
    static const char *const later[] = {"kl", "kv_delta", "state_size", "mahalanobis", "auroc", NULL};
    struct field f[] = {NEEDED("name", "name: says_sf"),
                        MAY("mentions"),
                        MAY("first_divergence"),
                        MAY("against"),
                        LATER("per"),
                        LATER("between"),
                        LATER("norm"),
                        LATER("of"),
                        LATER("input"),
                        LATER("fit"),
                        LATER("score"),
                        LATER("positive"),
                        LATER("ci"),
                        {0}};
    const struct node *name = node_get(v, "name"), *mentions, *divergence, *against;
    m->name = "";
    m->at = name ? name->at : v->at;
    if (!spec_map(r, v, "a metric", f)) return;
    if (name) spec_name(r, name, "name", false, NULL, &m->name);
    mentions = spec_field(f, "mentions");
    divergence = spec_field(f, "first_divergence");
    against = spec_field(f, "against");
    if (mentions && divergence) {
        spec_wrong(r, v, "E223", "a metric is mentions or first_divergence, not both");
    } else if (mentions) {
        read_mentions(r, mentions, m);
        if (against) spec_wrong(r, against, "E223", "against goes with first_divergence");
    } else if (divergence || !strcmp(m->name, "first_divergence")) {
        read_divergence(r, v, divergence, against, m);
    } else if (name) {
        for (int i = 0; later[i]; i++) {
            if (strcmp(m->name, later[i])) continue;
            spec_wrong(r, name, "E206", "metric '%s' is not supported yet", m->name);
            return;
        }
        spec_wrong(r, v, "E202", "metric '%s' needs the key 'mentions' or 'first_divergence'", m->name);
        spec_help(r, "help: mentions: { any: [word] }, or first_divergence with against: CONDITION");
    }
}

void spec_metrics(struct reader *r, struct spec *s, const struct node *v)
{
    struct names names = {0};
    if (!spec_list(r, v, "metrics")) return;
    s->metrics = arena_array(r->mem, (size_t)v->n, sizeof *s->metrics);
    s->n_metrics = v->n;
    for (int i = 0; i < v->n; i++) {
        const struct node *name = node_get(v->items[i], "name");
        read_metric(r, v->items[i], &s->metrics[i]);
        if (name && *s->metrics[i].name) names_add(&names, s->metrics[i].name, i, name);
    }
    names_sort(&names, r, "metric");
}
