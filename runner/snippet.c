/* snippet.c: see snippet.h. */
#include "snippet.h"

enum { BEFORE = 2, AFTER = 3, LONG = 8, TOKEN_CHARS = 40 };

/* Appends the character at s (n bytes are left), escaped. Returns its length. */
static size_t add_char(struct buf *b, const char *s, size_t n)
{
    unsigned char c = (unsigned char)*s;
    int len = utf8_len(s, n);
    if (c == '\n')
        buf_str(b, "\\n");
    else if (c == '\t')
        buf_str(b, "\\t");
    else if (c == '\r')
        buf_str(b, "\\r");
    else if (c == '\\')
        buf_str(b, "\\\\");
    else if (len == 0 || c < 0x20 || c == 0x7f)
        buf_printf(b, "\\x%02x", c);
    else if (len == 2 && c == 0xc2 && (unsigned char)s[1] < 0xa0) /* C1 controls: terminals obey them */
        buf_printf(b, "\\x%02x\\x%02x", c, (unsigned char)s[1]);
    else
        buf_add(b, s, (size_t)len);
    return len ? (size_t)len : 1;
}

static const char *to_arena(arena *mem, struct buf *b)
{
    const char *s = arena_strndup(mem, b->p ? b->p : "", b->n);
    buf_free(b);
    return s;
}

const char *snippet_text(arena *mem, const char *s, size_t n, int max)
{
    struct buf b = {0};
    size_t i = 0;
    int chars = 0;
    while (i < n && (max == 0 || chars++ < max)) i += add_char(&b, s + i, n - i);
    if (i < n) buf_str(&b, "…");
    return to_arena(mem, &b);
}

const char *snippet_token(arena *mem, const struct bound_prompt *p, int i)
{
    const struct token *t = &p->tokens[i];
    if (p->prompt->kind == PROMPT_TOKENS) return arena_printf(mem, "#%d", t->id);
    if (t->start == t->end) return "";
    return snippet_text(mem, p->text + t->start, (size_t)(t->end - t->start), TOKEN_CHARS);
}

const char *snippet_at(arena *mem, const struct bound_prompt *p, const int *at, int n)
{
    struct buf b = {0};
    int first = at[0], last = at[n - 1], k = 0, i;
    int a = first > BEFORE ? first - BEFORE : 0, z = last + AFTER < p->n_tokens ? last + AFTER : p->n_tokens - 1;
    if (a > 0) buf_str(&b, "…");
    for (i = a; i <= z; i++) {
        if (i == first + LONG / 2 && last - first >= LONG) {
            i = last - LONG / 2 + 1;
            buf_str(&b, "…|");
        }
        while (k < n && at[k] < i) k++;
        buf_printf(&b, k < n && at[k] == i ? "[%s]|" : "%s|", snippet_token(mem, p, i));
    }
    if (z < p->n_tokens - 1) buf_str(&b, " …");
    return to_arena(mem, &b);
}

const char *snippet_span(arena *mem, const struct bound_prompt *p, int first, int end)
{
    int n = end - first, *at = arena_array(mem, (size_t)n, sizeof *at), i;
    for (i = 0; i < n; i++) at[i] = first + i;
    return snippet_at(mem, p, at, n);
}

const char *snippet_positions(arena *mem, const int *at, int n)
{
    struct buf b = {0};
    int i, end;
    for (i = 0; i < n; i = end) {
        for (end = i + 1; end < n && at[end] == at[end - 1] + 1;) end++;
        if (i) buf_str(&b, ", ");
        if (b.n > 60) {
            buf_printf(&b, "… (%d in all)", n);
            break;
        }
        buf_printf(&b, end - i > 1 ? "%d..%d" : "%d", at[i], at[end - 1]);
    }
    return to_arena(mem, &b);
}
