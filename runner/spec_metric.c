/* spec_metric.c: what is computed from the answers. A metric is a name and one key that says what it is; the other keys go with
 * some of these. Metrics that need no value of their own may be called by their kind: { name: kl, against: baseline }. */
#include "spec_internal.h"

#include <string.h>

enum {
    KEY_AGAINST = 1,
    KEY_PER = 2,
    KEY_STEP = 4,
    KEY_PLACES = 8, /* clean, corrupt */
    KEY_UNIT = 16,
    KEY_CACHE = 32, /* between, moment, of */
};

/* What a metric is, by the order of enum metric_kind. */
static const struct kind {
    const char *key;
    bool bare; /* it has no value of its own */
    int keys;  /* that go with it */
} kinds[METRIC_KINDS] = {{"mentions", false, 0},
                         {"first_divergence", true, KEY_AGAINST},
                         {"kl", true, KEY_AGAINST | KEY_PER},
                         {"logprob_diff", true, KEY_AGAINST | KEY_PER},
                         {"logit", false, KEY_STEP},
                         {"logprob", false, KEY_STEP},
                         {"prob", false, KEY_STEP},
                         {"rank", false, KEY_STEP},
                         {"logit_diff", false, KEY_STEP},
                         {"recovery", false, KEY_PLACES},
                         {"edit_distance", true, KEY_AGAINST | KEY_UNIT},
                         {"kv_delta", false, KEY_AGAINST | KEY_PER | KEY_CACHE},
                         {"state_size", true, KEY_PER}};

static const struct {
    const char *key;
    int bit;
} others[] = {{"against", KEY_AGAINST}, {"per", KEY_PER},        {"step", KEY_STEP},
              {"clean", KEY_PLACES},    {"corrupt", KEY_PLACES}, {"unit", KEY_UNIT},
              {"between", KEY_CACHE},   {"moment", KEY_CACHE},   {"of", KEY_CACHE}};
enum { N_OTHERS = sizeof others / sizeof *others };

/* ---- mentions ---- */

static void read_words(struct reader *r, const struct node *v, const char *key, struct words *w)
{
    w->key = key;
    if (!spec_words(r, v, key ? key : "any")) return;
    w->words = arena_array(r->mem, (size_t)v->n, sizeof *w->words);
    for (int i = 0; i < v->n; i++)
        if (spec_text(r, v->items[i], "a word", &w->words[w->n])) w->n++;
}

/* A key that is the name of a prompt, which has an other where that matters. False: said why not. */
static bool prompt_key(struct reader *r, const struct node *k, const char *what, const char *more, bool pairs)
{
    const struct spec_own *o = r->o;
    int prompt = o->prompts_wrong ? -1 : spec_find(r, k, what, &o->prompts, "prompt");
    if (prompt < 0 && !o->prompts_wrong) {
        spec_help(r, "or: %s", more);
        return false;
    }
    if (prompt >= 0 && pairs && o->s.prompts[prompt].other < 0)
        spec_wrong(r, k, "E225", "%s needs pairs, and prompt '%s' has no other",
                   strcmp(what, "logit_diff") ? "which: other" : "logit_diff", k->text);
    return true;
}

static void read_which(struct reader *r, const struct node *which, bool any, struct metric *m)
{
    static const char *const all[] = {"any", "own", "other", NULL};
    int word = which ? spec_word(r, which, "which", any ? all : all + 1, NULL) : -1;
    if (word >= 0) m->which = (enum metric_which)(word + !any);
}

static void read_mentions(struct reader *r, const struct node *v, struct metric *m)
{
    static const char *const normalises[] = {"casefold", NULL};
    const struct node *any, *which;
    if (v->kind != NODE_MAP) {
        spec_wrong(r, v, "E203", "mentions: a map of words is wanted, this is %s", spec_shown(r, v));
        spec_help(r, "help: mentions: { any: [word, other word] }");
        return;
    }
    any = node_get(v, "any");
    which = node_get(v, "which");
    if (node_get(v, "normalise")) m->casefold = spec_word(r, node_get(v, "normalise"), "normalise", normalises, NULL) == 0;
    read_which(r, which, true, m);
    m->words = arena_array(r->mem, (size_t)v->n, sizeof *m->words);
    for (int i = 0; i < v->n; i++) {
        const char *k = v->keys[i]->text;
        if (!strcmp(k, "any"))
            read_words(r, v->items[i], NULL, &m->words[m->n_words++]);
        else if (strcmp(k, "which") && strcmp(k, "normalise") &&
                 prompt_key(r, v->keys[i], "mentions", "any normalise which", m->which == WHICH_OTHER))
            read_words(r, v->items[i], k, &m->words[m->n_words++]);
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

/* ---- answers ---- */

static void add_answer(struct reader *r, const struct node *v, const char *key, struct metric *m)
{
    struct answer_text *a = &m->answers[m->n_answers];
    *a = (struct answer_text){.key = key, .at = v->at, .width = v->width};
    if (spec_text(r, v, "an answer", &a->text)) m->n_answers++;
}

/* An answer per prompt: the prompt's own, or that of its pair. */
static void read_answers(struct reader *r, const struct node *v, const char *what, struct metric *m)
{
    bool diff = m->kind == METRIC_LOGIT_DIFF;
    const struct node *which = node_get(v, "which");
    m->which = WHICH_OWN;
    read_which(r, which, false, m);
    m->answers = arena_array(r->mem, (size_t)v->n, sizeof *m->answers);
    for (int i = 0; i < v->n; i++)
        if (strcmp(v->keys[i]->text, "which") && prompt_key(r, v->keys[i], what, "which", diff || m->which == WHICH_OTHER))
            add_answer(r, v->items[i], v->keys[i]->text, m);
    if (v->n == (which ? 1 : 0)) spec_wrong(r, v, "E202", "%s needs an answer per prompt", what);
    if (which || diff) return;
    spec_wrong(r, v, "E202", "answers per prompt need the key 'which'");
    spec_help(r, "help: which: own (the prompt's own answer) or other (that of its pair)");
}

static void read_answer(struct reader *r, const struct node *v, const char *what, struct metric *m)
{
    bool diff = m->kind == METRIC_LOGIT_DIFF;
    if (v->kind == NODE_MAP) {
        read_answers(r, v, what, m);
    } else if (diff && v->kind == NODE_LIST && v->n == 2) {
        m->answers = arena_array(r->mem, 2, sizeof *m->answers);
        for (int i = 0; i < 2; i++) add_answer(r, v->items[i], NULL, m);
    } else if (!diff && v->kind == NODE_SCALAR) {
        m->answers = arena_array(r->mem, 1, sizeof *m->answers);
        add_answer(r, v, NULL, m);
    } else {
        spec_wrong(r, v, "E203", "%s: %s is wanted, this is %s", what, diff ? "a list of two answers" : "an answer",
                   v->kind == NODE_LIST && diff ? "a list of another length" : spec_shown(r, v));
        if (diff)
            spec_help(r, "help: logit_diff: [\" Mary\", \" John\"], or an answer per prompt: { sf: \" San\", ny: \" New\" }");
        else
            spec_help(r, "help: %s: \" Mary\", or an answer per prompt: { sf: \" San\", ny: \" New\", which: own }", what);
    }
}

/* ---- recovery ---- */

static void read_place(struct reader *r, const struct node *m, const char *key, struct metric_place *p)
{
    const struct node *v = node_get(m, key), *prompt;
    struct field f[] = {MAY("prompt"), NEEDED("condition", "condition: baseline"), {0}};
    *p = (struct metric_place){.condition = -1, .prompt = -1};
    if (!v) return;
    p->at = v->at;
    if (v->kind != NODE_MAP) {
        p->condition = spec_find(r, v, key, &r->o->conditions, "condition");
        return;
    }
    if (!spec_map(r, v, key, f)) return;
    if (spec_field(f, "condition"))
        p->condition = spec_find(r, spec_field(f, "condition"), key, &r->o->conditions, "condition");
    prompt = spec_field(f, "prompt");
    if (!prompt) return;
    p->other = prompt->kind == NODE_SCALAR && !strcmp(prompt->text, "other");
    if (p->other && r->o->unpaired >= 0 && !r->o->prompts_wrong)
        spec_wrong(r, prompt, "E225", "prompt: other needs pairs, and prompt '%s' has no other",
                   r->o->s.prompts[r->o->unpaired].name);
    else if (!p->other && !r->o->prompts_wrong)
        p->prompt = spec_find(r, prompt, key, &r->o->prompts, "prompt");
}

static void read_recovery(struct reader *r, const struct node *v, struct metric *m)
{
    const char *const keys[] = {"clean", "corrupt"};
    struct metric_place *const places[] = {&m->clean, &m->corrupt};
    for (int i = 0; i < 2; i++) {
        if (!node_get(v, keys[i])) {
            spec_wrong(r, v, "E202", "recovery needs the key '%s'", keys[i]);
            spec_help(r, "help: clean: CONDITION, corrupt: CONDITION, or { prompt: other, condition: CONDITION }");
        }
        read_place(r, v, keys[i], places[i]);
    }
}

/* The metric that a recovery is of, once all names are known. */
static void find_recovery(struct reader *r, struct spec *s, const struct node *v, struct metric *m, const struct names *names)
{
    const struct node *of = node_get(v, "recovery");
    const struct metric *x;
    bool elsewhere = m->clean.other || m->corrupt.other || m->clean.prompt >= 0 || m->corrupt.prompt >= 0;
    m->of_metric = of->kind == NODE_SCALAR && of->len ? spec_find(r, of, "recovery", names, "metric") : -1;
    if (of->kind != NODE_SCALAR || !of->len) {
        spec_wrong(r, of, "E203", "recovery: the name of a metric is wanted");
        spec_help(r, "help: recovery: diff, with { name: diff, logit_diff: [..] } in the list");
    }
    if (m->of_metric < 0) return;
    x = &s->metrics[m->of_metric];
    if (x->kind == METRIC_RECOVERY)
        spec_wrong(r, of, "E223", "a recovery of a recovery says nothing");
    else if (elsewhere && (x->which != WHICH_ANY || (x->n_answers && x->answers[0].key)))
        spec_wrong(r, of, "E223", "metric '%s' asks each prompt for something else: it cannot be compared across prompts",
                   x->name);
}

/* ---- the other keys ---- */

static void read_against(struct reader *r, const struct node *v, const struct node *own, const char *what, struct metric *m)
{
    struct field f[] = {NEEDED("against", "against: baseline"), {0}};
    const struct node *against = node_get(v, "against");
    m->against = -1;
    if (m->kind == METRIC_FIRST_DIVERGENCE && own && own->kind == NODE_MAP) {
        if (!spec_map(r, own, what, f)) return;
        against = spec_field(f, "against");
        if (!against) return;
    }
    if (against) {
        m->against = spec_find(r, against, "against", &r->o->conditions, "condition");
    } else if (!node_get(v, "between")) {
        spec_wrong(r, v, "E202", "%s needs the key 'against'", what);
        spec_help(r, "help: against: baseline%s", m->kind == METRIC_KV_DELTA ? ", or between: [LABEL, LABEL]" : "");
    }
}

static void read_per(struct reader *r, const struct node *v, struct metric *m)
{
    static const char *const step[] = {"step", NULL}, *const layer[] = {"layer", NULL},
                             *const cache[] = {"layer", "position", "head", "tensor", NULL};
    static const int bits[] = {PER_LAYER, PER_POSITION, PER_HEAD, PER_TENSOR};
    bool kv = m->kind == METRIC_KV_DELTA, state = m->kind == METRIC_STATE_SIZE;
    const struct node *const one[] = {v}, *const *items = v->kind == NODE_LIST ? (const struct node *const *)v->items : one;
    int n = v->kind == NODE_LIST ? v->n : 1;
    if (v->kind == NODE_LIST && !spec_list(r, v, "per")) return;
    for (int i = 0; i < n; i++) {
        int k = spec_word(r, items[i], "per", kv ? cache : state ? layer : step, NULL);
        if (k >= 0) m->per |= kv ? bits[k] : state ? PER_LAYER : PER_STEP;
    }
}

static void read_cache_keys(struct reader *r, const struct node *v, struct metric *m)
{
    static const char *const moments[] = {"prefill", "edited", "end", NULL};
    const struct node *between = node_get(v, "between"), *moment = node_get(v, "moment"), *of = node_get(v, "of");
    int k = moment ? spec_word(r, moment, "moment", moments, NULL) : -1;
    m->moment = k >= 0 ? MOMENT_PREFILL << k : MOMENT_EDITED;
    if (of && between) spec_wrong(r, of, "E223", "of goes with against; between names its two jobs itself");
    if (of) spec_of(r, of, &m->of, &m->n_of);
    if (!between) return;
    if (node_get(v, "against"))
        spec_wrong(r, between, "E223", "kv_delta is against a condition or between two labels, not both");
    if (between->kind != NODE_LIST || between->n != 2) {
        spec_wrong(r, between, "E203", "between: a list of two labels is wanted");
        spec_help(r, "help: between: [sf/baseline, ny/baseline]");
        return;
    }
    for (k = 0; k < 2; k++)
        if (spec_text(r, between->items[k], "a label", &m->between[k])) m->between_at[k] = between->items[k]->at;
}

static void read_unit(struct reader *r, const struct node *v, struct metric *m)
{
    static const char *const units[] = {"character", "token", NULL};
    m->unit_token = spec_word(r, v, "unit", units, NULL) == 1;
}

/* ---- a metric ---- */

/* Every key that is there but does not go with the kind. */
static void check_keys(struct reader *r, const struct node *v, const struct kind *kind)
{
    for (int i = 0; i < N_OTHERS; i++) {
        const struct node *x = node_get(v, others[i].key);
        struct buf b = {0};
        if (!x || kind->keys & others[i].bit) continue;
        for (int k = 0; k < METRIC_KINDS; k++)
            if (kinds[k].keys & others[i].bit) buf_printf(&b, "%s%s", b.n ? ", " : "", kinds[k].key);
        spec_wrong(r, x, "E223", "%s goes with %s", others[i].key, b.p);
        buf_free(&b);
    }
}

/* The kind's key, or for a metric called by its kind none. NULL: said why. */
static const struct kind *find_kind(struct reader *r, const struct node *v, const char *name, const struct node **own)
{
    static const char *const later[] = {"mahalanobis", "auroc", NULL};
    const struct kind *found = NULL;
    struct buf b = {0};
    *own = NULL;
    for (int i = 0; i < METRIC_KINDS; i++) {
        const struct node *x = node_get(v, kinds[i].key);
        if (x && found) {
            spec_wrong(r, v, "E223", "a metric is %s or %s, not both", found->key, kinds[i].key);
            return NULL;
        }
        if (!x) continue;
        found = &kinds[i];
        *own = x;
    }
    for (int i = 0; !found && i < METRIC_KINDS; i++)
        if (kinds[i].bare && !strcmp(name, kinds[i].key)) found = &kinds[i];
    if (found || !node_get(v, "name")) return found;
    for (int i = 0; later[i]; i++) {
        if (strcmp(name, later[i])) continue;
        spec_wrong(r, node_get(v, "name"), "E206", "metric '%s' is not supported yet", name);
        return NULL;
    }
    for (int i = 0; i < METRIC_KINDS; i++) buf_printf(&b, " %s", kinds[i].key);
    spec_wrong(r, v, "E202", "metric '%s' does not say what it is", name);
    spec_help(r, "one of these keys is wanted:%s", b.p);
    spec_help(r, "help: mentions: { any: [word] }, or first_divergence with against: CONDITION");
    buf_free(&b);
    return NULL;
}

static void read_kind(struct reader *r, const struct node *v, const struct kind *kind, const struct node *own, struct metric *m)
{
    static const char *const norms[] = {"l2", "cosine", "max", NULL};
    const struct node *per = node_get(v, "per"), *step = node_get(v, "step"), *unit = node_get(v, "unit");
    bool map = m->kind == METRIC_FIRST_DIVERGENCE && own && own->kind == NODE_MAP;
    int norm;
    check_keys(r, v, kind);
    if (kind->bare && own && !map && (own->kind != NODE_SCALAR || own->len)) {
        spec_wrong(r, own, "E203", "%s takes no value of its own%s", kind->key,
                   m->kind == METRIC_FIRST_DIVERGENCE ? ", or { against: CONDITION }" : "");
        return;
    }
    if (kind->keys & KEY_AGAINST) read_against(r, v, own, kind->key, m);
    if (kind->keys & KEY_PER && per) read_per(r, per, m);
    if (kind->keys & KEY_STEP && step) spec_int(r, step, "step", 0, r->o->s.decode.max_tokens - 1, &m->step);
    if (kind->keys & KEY_UNIT && unit) read_unit(r, unit, m);
    if (kind->keys & KEY_CACHE) read_cache_keys(r, v, m);
    if (m->kind == METRIC_MENTIONS)
        read_mentions(r, own, m);
    else if (kind->keys & KEY_STEP)
        read_answer(r, own, kind->key, m);
    else if (m->kind == METRIC_RECOVERY)
        read_recovery(r, v, m);
    else if (m->kind == METRIC_KV_DELTA && (norm = spec_word(r, own, "kv_delta", norms, NULL)) >= 0)
        m->norm = (enum metric_norm)norm;
}

/* The kind that was read, or NULL. */
static const struct kind *read_metric(struct reader *r, const struct node *v, struct metric *m)
{
    struct field f[] = {NEEDED("name", "name: says_sf"),
                        MAY("mentions"),
                        MAY("first_divergence"),
                        MAY("kl"),
                        MAY("logprob_diff"),
                        MAY("logit"),
                        MAY("logprob"),
                        MAY("prob"),
                        MAY("rank"),
                        MAY("logit_diff"),
                        MAY("recovery"),
                        MAY("edit_distance"),
                        MAY("kv_delta"),
                        MAY("state_size"),
                        MAY("against"),
                        MAY("per"),
                        MAY("step"),
                        MAY("clean"),
                        MAY("corrupt"),
                        MAY("unit"),
                        MAY("between"),
                        MAY("moment"),
                        MAY("of"),
                        LATER("input"),
                        LATER("fit"),
                        LATER("score"),
                        LATER("positive"),
                        LATER("ci"),
                        {0}};
    const struct node *name = node_get(v, "name"), *own;
    const struct kind *kind;
    m->name = "";
    m->at = name ? name->at : v->at;
    m->against = m->of_metric = -1;
    if (!spec_map(r, v, "a metric", f)) return NULL;
    if (name) spec_name(r, name, "name", false, NULL, &m->name);
    kind = find_kind(r, v, m->name, &own);
    if (!kind) return NULL;
    m->kind = (enum metric_kind)(kind - kinds);
    read_kind(r, v, kind, own, m);
    return kind;
}

void spec_metrics(struct reader *r, struct spec *s, const struct node *v)
{
    struct names names = {0};
    const struct kind **read;
    if (!spec_list(r, v, "metrics")) return;
    s->metrics = arena_array(r->mem, (size_t)v->n, sizeof *s->metrics);
    s->n_metrics = v->n;
    read = arena_array(r->mem, (size_t)v->n, sizeof *read);
    for (int i = 0; i < v->n; i++) {
        const struct node *name = node_get(v->items[i], "name");
        read[i] = read_metric(r, v->items[i], &s->metrics[i]);
        if (name && *s->metrics[i].name) names_add(&names, s->metrics[i].name, i, name);
    }
    names_sort(&names, r, "metric");
    for (int i = 0; i < v->n; i++)
        if (read[i] && s->metrics[i].kind == METRIC_RECOVERY) find_recovery(r, s, v->items[i], &s->metrics[i], &names);
}

const char *spec_metric_kind(enum metric_kind kind)
{
    return kinds[kind].key;
}
