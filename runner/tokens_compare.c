/* tokens_compare.c: see tokens.h.
 *
 * Equal beginnings and ends are laid beside each other; between them the longest row of tokens that both have in this order.
 */
#include "tokens.h"

#include "snippet.h"
#include "width.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { CELLS_MAX = 16 << 20 }; /* of the table between beginning and end; beyond it lines are laid by their number */

struct line {
    int a, b; /* positions, or -1 */
    bool same;
};
struct lines {
    struct line *l; /* (n) */
    int n;
};

static void add(struct lines *out, int a, int b, bool same)
{
    out->l[out->n++] = (struct line){a, b, same};
}

/* What lies between: n_a tokens from a0 on and n_b from b0 on. */
static void between(const struct bound_prompt *a, int a0, int n_a, const struct bound_prompt *b, int b0, int n_b,
                    struct lines *out)
{
    size_t w = (size_t)n_b + 1;
    unsigned short *longest; /* (n_a + 1, n_b + 1) from i and k on */
    int i, k;
    if ((size_t)n_a * w > CELLS_MAX || n_a > 65000) {
        for (i = 0; i < n_a || i < n_b; i++) add(out, i < n_a ? a0 + i : -1, i < n_b ? b0 + i : -1, false);
        return;
    }
    longest = mem_array(((size_t)n_a + 1) * w, sizeof *longest);
    for (i = n_a - 1; i >= 0; i--)
        for (k = n_b - 1; k >= 0; k--) {
            unsigned short down = longest[(size_t)(i + 1) * w + (size_t)k], right = longest[(size_t)i * w + (size_t)k + 1];
            longest[(size_t)i * w + (size_t)k] = a->ids[a0 + i] == b->ids[b0 + k]
                                                     ? (unsigned short)(longest[(size_t)(i + 1) * w + (size_t)k + 1] + 1)
                                                 : down > right ? down
                                                                : right;
        }
    for (i = k = 0; i < n_a || k < n_b;) {
        int da = i, db = k; /* a stretch that differs: its tokens stand side by side */
        while ((i < n_a || k < n_b) && !(i < n_a && k < n_b && a->ids[a0 + i] == b->ids[b0 + k])) {
            if (i < n_a && (k == n_b || longest[(size_t)(i + 1) * w + (size_t)k] >= longest[(size_t)i * w + (size_t)k + 1]))
                i++;
            else
                k++;
        }
        for (; da < i || db < k; da++, db++) add(out, da < i ? a0 + da : -1, db < k ? b0 + db : -1, false);
        for (; i < n_a && k < n_b && a->ids[a0 + i] == b->ids[b0 + k]; i++, k++) add(out, a0 + i, b0 + k, true);
    }
    free(longest);
}

static struct lines align(const struct bound_prompt *a, const struct bound_prompt *b)
{
    struct lines out = {mem_array((size_t)a->n_tokens + (size_t)b->n_tokens, sizeof *out.l), 0};
    int n = a->n_tokens < b->n_tokens ? a->n_tokens : b->n_tokens, first = 0, last = 0, i;
    while (first < n && a->ids[first] == b->ids[first]) first++;
    while (last < n - first && a->ids[a->n_tokens - 1 - last] == b->ids[b->n_tokens - 1 - last]) last++;
    for (i = 0; i < first; i++) add(&out, i, i, true);
    between(a, first, a->n_tokens - first - last, b, first, b->n_tokens - first - last, &out);
    for (i = last; i > 0; i--) add(&out, a->n_tokens - i, b->n_tokens - i, true);
    return out;
}

/* "   7  30082  [ San]" or nothing, `width` columns wide. */
static void add_side(struct buf *out, arena *mem, const struct bound_prompt *p, const engine *en, int i, int width)
{
    struct buf b = {0};
    size_t n;
    if (i >= 0) {
        const char *s = tokens_bytes(p, en, i, &n);
        buf_printf(&b, "%5d %6d  [%s]", i, p->ids[i], snippet_text(mem, s, n, 24));
    }
    buf_str(out, b.p ? b.p : "");
    for (i = b.p ? width_text(b.p, b.n) : 0; i < width; i++) buf_char(out, ' ');
    buf_free(&b);
}

void tokens_compare(const struct bound_prompt *a, const struct bound_prompt *b, const engine *en, struct buf *out)
{
    enum { SIDE = 44 };
    struct lines l = align(a, b);
    arena *mem = arena_new();
    int i, differ = 0;
    for (i = 0; i < l.n; i++) differ += !l.l[i].same;
    buf_printf(out, "%s: %d tokens · %s: %d tokens · %d line%s differ%s\n", a->label, a->n_tokens, b->label, b->n_tokens,
               differ, differ == 1 ? "" : "s", differ == 1 ? "s" : "");
    for (i = 0; i < l.n; i++) {
        buf_str(out, l.l[i].same ? "  " : "* ");
        add_side(out, mem, a, en, l.l[i].a, SIDE);
        add_side(out, mem, b, en, l.l[i].b, 0);
        while (out->n && out->p[out->n - 1] == ' ') out->n--;
        buf_char(out, '\n');
    }
    arena_free(mem);
    free(l.l);
}

int tokens_compare_json(const struct bound_prompt *a, const struct bound_prompt *b, struct buf *out, err *e)
{
    struct lines l = align(a, b);
    json_t *all = json_array();
    char *text;
    int i;
    for (i = 0; i < l.n; i++) {
        json_t *o = json_object();
        json_object_set_new(o, "a", l.l[i].a < 0 ? json_null() : json_integer(l.l[i].a));
        json_object_set_new(o, "b", l.l[i].b < 0 ? json_null() : json_integer(l.l[i].b));
        json_object_set_new(o, "same", json_boolean(l.l[i].same));
        json_array_append_new(all, o);
    }
    text = json_dumps(all, 0);
    json_decref(all);
    free(l.l);
    if (!text) return err_set(e, ERR_INTERNAL, "the tokens could not be written as JSON");
    buf_printf(out, "%s\n", text);
    free(text);
    return 0;
}
