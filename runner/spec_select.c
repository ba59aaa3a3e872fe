/* spec_select.c: positions of a prompt as written: a form, what narrows it, and parts of set algebra. What they mean: select.c.
 */
#include "spec_internal.h"

#include "regex.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

enum { EXPAND_MAX = 1 << 24 };

/* Whose positions these are, for the names of slots. */
struct whose {
    int only; /* index of the one prompt that counts, or -1 */
    const char *what;
};

/* The forms of a position, each with the key that names it; SELECT_TOKENS stands for `last`, too. */
static const struct form {
    const char *key;
    enum select_kind kind;
} forms[] = {{"slot", SELECT_SLOT},   {"text", SELECT_TEXT},     {"regex", SELECT_REGEX}, {"tokens", SELECT_TOKENS},
             {"role", SELECT_ROLE},   {"bos", SELECT_BOS},       {"last", SELECT_TOKENS}, {"all", SELECT_ALL_OF},
             {"after", SELECT_AFTER}, {"before", SELECT_BEFORE}, {"not", SELECT_NOT},     {"between", SELECT_BETWEEN},
             {"any", SELECT_ANY},     {"both", SELECT_BOTH},     {"gen", SELECT_GEN},     {"score", SELECT_SCORE}};
#define FORMS "slot, text, regex, tokens, role, bos, last, all, after, before, between, not, any, both, gen and score"
enum { N_FORMS = sizeof forms / sizeof *forms };

static void select_read(struct reader *r, const struct node *v, const struct whose *w, bool part, struct select *out);

static void read_nth(struct reader *r, const struct node *v, const char *name, int *nth)
{
    const struct node *put = spec_put(r, v);
    if (put && put->kind == NODE_SCALAR && !strcmp(put->text, "last"))
        *nth = SELECT_LAST;
    else if (put && put->kind == NODE_SCALAR && !strcmp(put->text, "all"))
        *nth = SELECT_ALL;
    else if (put && !spec_int(r, v, name, 1, INT_MAX, nth))
        spec_help(r, "allowed here: 1 2 3 ... last all");
}

static bool has_slot(const struct prompt *p, const char *name)
{
    for (int i = 0; i < p->n_slots; i++) {
        const struct node *needle = p->slots[i].node ? node_get(node_get(p->slots[i].node, "needle"), "name") : NULL;
        if (!strcmp(p->slots[i].name, name) || (needle && !strcmp(needle->text, name))) return true;
    }
    return false;
}

/* What is for every prompt needs the slot in every prompt. */
static void check_slot(struct reader *r, const struct node *v, const char *name, const struct whose *w)
{
    const struct spec_own *o = r->o;
    const struct spec *s = &o->s;
    int only = w->only, i = only < 0 ? 0 : only;
    if (o->prompts_wrong || spec_find(r, v, "slot", &o->slots, "slot") < 0) return;
    if (only < 0 ? names_count(&o->slots, name) == s->n_written : has_slot(&s->prompts[only], name)) return;
    while (only < 0 && !spec_quiet(r) && has_slot(&s->prompts[i], name)) i++;
    spec_wrong(r, spec_put(r, v), "E220", "prompt '%s' has no slot '%s'%s%s%s", s->prompts[i].name, name,
               only < 0 ? ", and the " : "", only < 0 ? w->what : "", only < 0 ? " is for every prompt" : "");
}

/* ---- forms ---- */

static void read_regex(struct reader *r, const struct node *v, struct select *out)
{
    char why[REGEX_WHY];
    if (!spec_text(r, v, "regex", &out->text) || regex_check(out->text, why) == 0) return;
    spec_wrong(r, spec_put(r, v), "E230", "regex: %s", why);
    spec_help(r, "help: the syntax is that of PCRE2, with Unicode; in double quotes a backslash is written twice");
}

/* bos, last, all: their only value is true. */
static void read_true(struct reader *r, const struct node *v, const char *key)
{
    bool on = true;
    if (spec_bool(r, v, key, &on) && !on) spec_wrong(r, spec_put(r, v), "E223", "%s: false selects nothing; leave it out", key);
}

static void read_last(struct reader *r, const struct node *v, struct select *out)
{
    read_true(r, v, "last");
    out->tokens = (struct ranges){.n = 1, .r = arena_array(r->mem, 1, sizeof *out->tokens.r), .at = v->at, .width = v->width};
    out->tokens.r[0] = (struct range){-1, -1, v->at};
}

static void read_gen(struct reader *r, const struct node *v, bool part, struct select *out)
{
    if (part) {
        spec_wrong(r, v, "E229", "gen stands alone: new tokens are no positions of the prompt");
        return;
    }
    if (!spec_ranges(r, v, "gen", false, &out->tokens)) return;
    for (int i = 0; i < out->tokens.n; i++) {
        const struct range *g = &out->tokens.r[i];
        if (g->first >= 0 && g->last >= 0) continue;
        spec_wrong(r, spec_put(r, v), "E212", "gen: new tokens are counted from 0; where they end is not known before");
        return;
    }
}

/* lowest or highest: a number of positions, or a share of them. */
static void read_share(struct reader *r, const struct node *v, const char *name, struct select *out)
{
    const struct node *put = spec_put(r, v);
    int width = 0, share = 0;
    if (put && put->kind == NODE_SCALAR && put->len && put->len < 8 && put->text[put->len - 1] == '%') {
        if (sscanf(put->text, "%3d%n", &share, &width) == 1 && put->text[0] >= '1' && put->text[0] <= '9' && share <= 100 &&
            (put->len == (size_t)width + 1 || (put->len == (size_t)width + 2 && put->text[width] == ' '))) {
            out->per_cent = share;
            return;
        }
        spec_wrong(r, put, "E211", "%s: %s is not a share of 1 %% to 100 %%", name, spec_shown(r, put));
        return;
    }
    if (put && !spec_int(r, v, name, 1, INT_MAX, &out->count))
        spec_help(r, "allowed here: a number of positions, or a share of them: \"50 %%\"");
}

static void read_score(struct reader *r, const struct field *f, const struct whose *w, bool part, struct select *out)
{
    static const char *const words[] = {"position", "attention", "key_norm", NULL};
    const struct node *score = spec_field(f, "score"), *low = spec_field(f, "lowest"), *high = spec_field(f, "highest"),
                      *among = spec_field(f, "among");
    int word = spec_word(r, score, "score", words, NULL);
    if (word >= 0) out->score = (enum select_score)word;
    if (part && word > 0) {
        spec_wrong(r, score, "E229", "score: %s is known only when the job runs and cannot be a part of other positions",
                   words[word]);
        spec_help(r, "help: say with among which positions are compared; score: position can be a part");
    }
    if (!low == !high) {
        spec_wrong(r, score, "E223", "a score needs lowest or highest: how many positions are taken");
        spec_help(r, "help: { score: key_norm, lowest: 4 }, or lowest: \"50 %%\" of those compared");
    } else {
        out->highest = high != NULL;
        read_share(r, low ? low : high, low ? "lowest" : "highest", out);
    }
    out->parts = arena_array(r->mem, 1, sizeof *out->parts);
    out->n_parts = 1;
    if (among) {
        select_read(r, among, w, true, &out->parts[0]);
        return;
    }
    out->parts[0] = (struct select){.kind = SELECT_TOKENS, .text = "", .at = out->at, .width = out->width};
    out->parts[0].tokens = (struct ranges){.n = 1, .r = arena_array(r->mem, 1, sizeof(struct range)), .at = out->at};
    out->parts[0].tokens.r[0] = (struct range){0, -2, out->at};
}

/* ---- set algebra ---- */

static void read_parts(struct reader *r, const struct node *v, const struct form *form, const struct whose *w,
                       struct select *out)
{
    bool list = form->kind == SELECT_BETWEEN || form->kind == SELECT_ANY || form->kind == SELECT_BOTH;
    if (list && !spec_list(r, v, form->key)) return;
    if (form->kind == SELECT_BETWEEN && v->n != 2) {
        spec_wrong(r, v, "E223", "between has two parts, not %d", v->n);
        spec_help(r, "help: between: [SLOT, { text: \"...\" }]");
        return;
    }
    out->n_parts = list ? v->n : 1;
    out->parts = arena_array(r->mem, (size_t)out->n_parts, sizeof *out->parts);
    for (int i = 0; i < out->n_parts; i++) select_read(r, list ? v->items[i] : v, w, true, &out->parts[i]);
}

static void read_form(struct reader *r, const struct field *f, const struct form *form, const struct whose *w, bool part,
                      struct select *out)
{
    static const char *const roles[] = {"system", "user", "assistant", NULL};
    const struct node *v = spec_field(f, form->key);
    switch (form->kind) {
    case SELECT_SLOT:
        if (spec_text(r, v, "slot", &out->text)) check_slot(r, v, out->text, w);
        break;
    case SELECT_TEXT: spec_text(r, v, "text", &out->text); break;
    case SELECT_REGEX: read_regex(r, v, out); break;
    case SELECT_TOKENS:
        if (!strcmp(form->key, "last"))
            read_last(r, v, out);
        else
            spec_ranges(r, v, "tokens", true, &out->tokens);
        break;
    case SELECT_ROLE: {
        int word = spec_word(r, v, "role", roles, NULL);
        if (word >= 0) out->text = roles[word];
        break;
    }
    case SELECT_BOS:
    case SELECT_ALL_OF: read_true(r, v, form->key); break;
    case SELECT_GEN: read_gen(r, v, part, out); break;
    case SELECT_SCORE: read_score(r, f, w, part, out); break;
    default: read_parts(r, v, form, w, out);
    }
}

/* ---- what goes with which form ---- */

/* Keys that narrow or widen, and the forms they go with. */
static const struct narrow {
    const char *key, *with;
    unsigned kinds; /* bits of enum select_kind */
} narrows[] = {
    {"nth", "slot, text and regex", 1u << SELECT_SLOT | 1u << SELECT_TEXT | 1u << SELECT_REGEX},
    {"turn", "role", 1u << SELECT_ROLE},
    {"with_markers", "role", 1u << SELECT_ROLE},
    {"edges", "slot, text, regex and role", 1u << SELECT_SLOT | 1u << SELECT_TEXT | 1u << SELECT_REGEX | 1u << SELECT_ROLE},
    {"lowest", "score", 1u << SELECT_SCORE},
    {"highest", "score", 1u << SELECT_SCORE},
    {"among", "score", 1u << SELECT_SCORE},
    {"expand", "positions of the prompt", ~(1u << SELECT_GEN | 1u << SELECT_SCORE)},
};

static void read_expand(struct reader *r, const struct node *v, struct select *out)
{
    if (v->kind != NODE_LIST || v->n != 2) {
        spec_wrong(r, v, "E203", "expand: two numbers are wanted, tokens more to the left and to the right");
        spec_help(r, "help: expand: [1, 1]");
        return;
    }
    spec_int(r, v->items[0], "expand", 0, EXPAND_MAX, &out->expand[0]);
    spec_int(r, v->items[1], "expand", 0, EXPAND_MAX, &out->expand[1]);
}

static void read_narrows(struct reader *r, const struct field *f, struct select *out)
{
    static const char *const edges[] = {"space", "exact", "include", "exclude", NULL};
    for (size_t i = 0; i < sizeof narrows / sizeof *narrows; i++) {
        const struct narrow *n = &narrows[i];
        const struct node *v = spec_field(f, n->key);
        int word;
        if (!v) continue;
        if (!(n->kinds & 1u << out->kind))
            spec_wrong(r, v, "E223", "%s goes with %s", n->key, n->with);
        else if (!strcmp(n->key, "nth") || !strcmp(n->key, "turn"))
            read_nth(r, v, n->key, &out->nth);
        else if (!strcmp(n->key, "with_markers"))
            spec_bool(r, v, n->key, &out->with_markers);
        else if (!strcmp(n->key, "expand"))
            read_expand(r, v, out);
        else if (!strcmp(n->key, "edges") && (word = spec_word(r, v, n->key, edges, NULL)) >= 0)
            out->edges = (enum select_edges)word;
    }
}

static void select_read(struct reader *r, const struct node *v, const struct whose *w, bool part, struct select *out)
{
    struct field f[] = {MAY("slot"),    MAY("text"),   MAY("regex"),   MAY("tokens"),       MAY("role"),
                        MAY("bos"),     MAY("last"),   MAY("all"),     MAY("after"),        MAY("before"),
                        MAY("between"), MAY("not"),    MAY("any"),     MAY("both"),         MAY("gen"),
                        MAY("score"),   MAY("nth"),    MAY("turn"),    MAY("with_markers"), MAY("edges"),
                        MAY("expand"),  MAY("lowest"), MAY("highest"), MAY("among"),        {0}};
    const struct form *form = NULL;
    int wrong = r->wrong, n = 0;
    *out = (struct select){.at = v->at, .width = v->width, .nth = SELECT_ONLY, .text = ""};
    if (part && v->kind == NODE_SCALAR) { /* a slot's name */
        if (spec_text(r, v, "slot", &out->text)) check_slot(r, v, out->text, w);
        return;
    }
    if (!spec_map(r, v, "a position", f) || r->wrong > wrong) return;
    for (int i = 0; i < N_FORMS; i++)
        if (spec_field(f, forms[i].key)) form = &forms[i], n++;
    if (n != 1) {
        spec_wrong(r, v, "E223", "a position has exactly one of " FORMS);
        return;
    }
    out->kind = form->kind;
    read_form(r, f, form, w, part, out);
    read_narrows(r, f, out);
}

void spec_select(struct reader *r, const struct node *v, int only, const char *what, struct select *out)
{
    select_read(r, v, &(struct whose){only, what}, false, out);
}

void spec_select_when(struct reader *r, const struct node *v, const struct select *sel, bool steps)
{
    if (sel->kind != SELECT_GEN || steps) return;
    spec_wrong(r, v, "E229", "gen selects new tokens, which there are only with when: every_step or steps");
}
