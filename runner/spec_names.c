/* spec_names.c: names that are declared once and looked up often. */
#include "spec_internal.h"

#include <stdlib.h>
#include <string.h>

void names_add(struct names *x, const char *name, int index, const struct node *at)
{
    if (x->n == x->cap) {
        x->cap = x->cap ? 2 * x->cap : 16;
        x->v = mem_grow(x->v, (size_t)x->cap, sizeof *x->v);
    }
    x->v[x->n++] = (struct name_ref){.name = name, .index = index, .at = at->at, .width = at->width};
}

static int by_name(const void *a, const void *b)
{
    const struct name_ref *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : (x->index > y->index) - (x->index < y->index);
}

void names_sort(struct names *x, struct reader *r, const char *what)
{
    struct name_ref *old = x->v, *first;
    struct buf where = {0};
    if (x->n == 0) return;
    x->v = arena_array(r->mem, (size_t)x->n, sizeof *x->v);
    memcpy(x->v, old, (size_t)x->n * sizeof *x->v);
    x->cap = 0;
    free(old);
    qsort(x->v, (size_t)x->n, sizeof *x->v, by_name);
    first = x->v;
    for (struct name_ref *p = x->v + 1; what && p < x->v + x->n; p++) {
        if (strcmp(p->name, first->name)) {
            first = p;
            continue;
        }
        r->wrong++;
        where.n = 0;
        spec_where(r, first->at, &where);
        diag_add(r->d, DIAG_ERROR, "E214", p->at, p->width, "%s '%s' stands twice (first at %s)", what, p->name, where.p);
    }
    buf_free(&where);
}

/* Names in v before `name`; with `past`, and those equal to it. */
static int before(const struct names *x, const char *name, bool past)
{
    int lo = 0, hi = x->n;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2, order = strcmp(x->v[mid].name, name);
        if (order < 0 || (past && order == 0))
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

int names_find(const struct names *x, const char *name)
{
    int i = before(x, name, false);
    return i < x->n && !strcmp(x->v[i].name, name) ? x->v[i].index : -1;
}

int names_count(const struct names *x, const char *name)
{
    return before(x, name, true) - before(x, name, false);
}

/* The first `max` names, each once, and a NULL behind them. */
static void distinct(const struct names *x, const char **words, int max)
{
    int n = 0;
    for (int i = 0; i < x->n && n < max; i++)
        if (i == 0 || strcmp(x->v[i].name, x->v[i - 1].name)) words[n++] = x->v[i].name;
    words[n] = NULL;
}

int spec_find(struct reader *r, const struct node *v, const char *name, const struct names *x, const char *what)
{
    enum { SHOWN = 24 };
    const char *s = NULL, *words[SHOWN + 1], *near;
    struct buf b = {0};
    int i;
    if (!spec_text(r, v, name, &s)) return -1;
    i = names_find(x, s);
    if (i >= 0 || spec_quiet(r)) {
        if (i < 0) spec_wrong(r, v, "E220", "unknown %s", what);
        return i;
    }
    v = spec_put(r, v);
    distinct(x, words, SHOWN);
    near = nearest_word(s, words);
    spec_wrong(r, v, "E220", "%s: there is no %s %s%s%s%s", name, what, spec_shown(r, v), near ? "; did you mean '" : "",
               near ? near : "", near ? "'?" : "");
    for (i = 0; words[i]; i++) buf_printf(&b, " %s", words[i]);
    if (b.n) spec_help(r, "allowed here:%s%s", b.p, x->n > SHOWN ? " ..." : "");
    buf_free(&b);
    return -1;
}
