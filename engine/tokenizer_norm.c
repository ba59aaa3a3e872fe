/* tokenizer_norm.c: what a tokeniser does to a text before splitting it, with the way back to the original's bytes. */
#include "tokenizer_impl.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* Both sides of a step, so that no step may let a text grow beyond ints. */
enum { NORM_TEXT_MAX = INT_MAX / 2 };

static void put(struct norm_text *t, const char *bytes, size_t n, int at, bool each)
{
    size_t i;
    if (t->text.n + n + 1 > t->cap) {
        t->cap = (t->text.n + n + 1) * 2;
        t->at = mem_grow(t->at, t->cap, sizeof *t->at);
    }
    for (i = 0; i < n; i++) t->at[t->text.n + i] = each ? at + (int)i : at;
    buf_add(&t->text, bytes, n);
}

/* A byte of `in` goes over as it is, from the same place. */
static void keep(struct norm_text *out, const struct norm_text *in, size_t i)
{
    put(out, in->text.p + i, 1, in->at[i], false);
}

static void replace(const struct norm_op *op, const struct norm_text *in, struct norm_text *out)
{
    size_t n = strlen(op->from), i = 0;
    while (i < in->text.n) {
        if (in->text.n - i >= n && memcmp(in->text.p + i, op->from, n) == 0) {
            put(out, op->to, strlen(op->to), in->at[i], false);
            i += n;
        } else {
            keep(out, in, i++);
        }
    }
}

static void prepend(const struct norm_op *op, const struct norm_text *in, struct norm_text *out)
{
    size_t i;
    put(out, op->to, strlen(op->to), in->at[0], false);
    for (i = 0; i < in->text.n; i++) keep(out, in, i);
}

static void collapse(const struct norm_text *in, struct norm_text *out)
{
    size_t i, end = in->text.n;
    while (end > 0 && in->text.p[end - 1] == ' ') end--;
    for (i = 0; i < end; i++)
        if (in->text.p[i] != ' ' || (i > 0 && in->text.p[i - 1] != ' ')) keep(out, in, i);
}

static void apply(const struct norm_op *op, const struct norm_text *in, struct norm_text *out)
{
    switch (op->kind) {
    case NORM_PREPEND: prepend(op, in, out); break;
    case NORM_REPLACE: replace(op, in, out); break;
    case NORM_COLLAPSE: collapse(in, out); break;
    }
}

int tokenizer_norm_apply(struct tokenizer_job *j, const char *text, int n, int base, int *n_out)
{
    const struct norm *norm = &j->t->norm;
    struct norm_text *in = &j->norm[0], *out = &j->norm[1], *swap;
    int i;
    j->text = text;
    j->base = base;
    j->at = NULL;
    *n_out = n;
    if (norm->n == 0) return 0;
    in->text.n = 0;
    put(in, text, (size_t)n, base, true);
    in->at[in->text.n] = base + n;
    for (i = 0; i < norm->n && in->text.n; i++) {
        out->text.n = 0;
        apply(&norm->op[i], in, out);
        put(out, "", 0, 0, false);
        out->at[out->text.n] = base + n;
        if (out->text.n > NORM_TEXT_MAX) return err_set(j->e, ERR_INPUT, "the text is too long once it is normalised");
        swap = in;
        in = out;
        out = swap;
    }
    j->text = in->text.p;
    j->at = in->at;
    *n_out = (int)in->text.n;
    return 0;
}
