/* tokenizer_norm.c: what a tokeniser does to a text before splitting it, with the way back to the original's bytes. */
#include "tokenizer_impl.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

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
    size_t n = strlen(op->to), i;
    bool there = in->text.n >= n && memcmp(in->text.p, op->to, n) == 0;
    if (!(op->unless_there && there) && !(op->first_only && in->at[0] > 0)) put(out, op->to, n, in->at[0], false);
    for (i = 0; i < in->text.n; i++) keep(out, in, i);
}

static void collapse(const struct norm_text *in, struct norm_text *out)
{
    size_t i, end = in->text.n;
    while (end > 0 && in->text.p[end - 1] == ' ') end--;
    for (i = 0; i < end; i++)
        if (in->text.p[i] != ' ' || (i > 0 && in->text.p[i - 1] != ' ')) keep(out, in, i);
}

/* Whether normalisation may join the character to what stands before it: combining marks, and vowels and finals of
   Hangul. Nothing else is the second part of a composition (Unicode 15.0, UnicodeData.txt). */
static bool joins(utf8proc_int32_t c)
{
    utf8proc_category_t k = utf8proc_category(c);
    return k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_MC || k == UTF8PROC_CATEGORY_ME || (c >= 0x1160 && c <= 0x11ff);
}

/* Bytes of the character at s and those that join it. */
static size_t cluster(const char *s, size_t n)
{
    size_t i = (size_t)utf8_len(s, n), len;
    if (i == 0) return 1;
    while ((len = (size_t)utf8_len(s + i, n - i)) > 0) {
        utf8proc_int32_t c;
        utf8proc_iterate((const utf8proc_uint8_t *)s + i, (utf8proc_ssize_t)len, &c);
        if (!joins(c)) break;
        i += len;
    }
    return i;
}

/* Cluster by cluster. One that changes comes as a whole from where it began; bytes that are no UTF-8 stay. */
static int compose(const struct norm_text *in, struct norm_text *out, err *e)
{
    size_t i = 0, k, n;
    while (i < in->text.n) {
        const char *s = in->text.p + i;
        utf8proc_uint8_t *to = NULL;
        utf8proc_ssize_t n_to;
        n = cluster(s, in->text.n - i);
        if (n == 1) { /* ASCII is never changed */
            keep(out, in, i++);
            continue;
        }
        n_to = utf8proc_map((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &to, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        if (n_to < 0) return err_set(e, ERR_FAIL, "normalisation failed: %s", utf8proc_errmsg(n_to));
        if ((size_t)n_to == n && memcmp(to, s, n) == 0)
            for (k = 0; k < n; k++) keep(out, in, i + k);
        else
            put(out, (const char *)to, (size_t)n_to, in->at[i], false);
        free(to);
        i += n;
    }
    return 0;
}

int tokenizer_norm_add(struct norm *norm, struct norm_op op, err *e)
{
    if (norm->n == NORM_MAX) return err_set(e, ERR_ENV, "more than %d steps of normalisation", NORM_MAX);
    norm->op[norm->n++] = op;
    return 0;
}

static int apply(const struct norm_op *op, const struct norm_text *in, struct norm_text *out, err *e)
{
    switch (op->kind) {
    case NORM_PREPEND: prepend(op, in, out); break;
    case NORM_REPLACE: replace(op, in, out); break;
    case NORM_COLLAPSE: collapse(in, out); break;
    case NORM_NFC: return compose(in, out, e);
    }
    return 0;
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
        if (apply(&norm->op[i], in, out, j->e)) return -1;
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
