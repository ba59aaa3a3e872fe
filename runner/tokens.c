/* tokens.c: see tokens.h. */
#include "tokens.h"

#include "snippet.h"
#include "width.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

const char *tokens_bytes(const struct bound_prompt *p, const engine *en, int i, size_t *n)
{
    const struct token *t = &p->tokens[i];
    const char *s = NULL;
    *n = (size_t)(t->end - t->start);
    if (*n) return p->text + t->start;
    s = engine_token_bytes(en, t->id, n);
    if (!s) *n = 0;
    return s ? s : "";
}

/* ---- table ---- */

static void pad_to(struct buf *b, size_t line, int column)
{
    int n = column - width_text(b->p + line, b->n - line);
    do buf_char(b, ' ');
    while (--n > 0);
}

static void add_slots(struct buf *b, const struct bound_prompt *p, int i, size_t line, int column)
{
    int k, n = 0;
    for (k = 0; k < p->n_spans; k++) {
        const struct span *s = &p->spans[k];
        if (i < s->tok_start || i >= s->tok_end) continue;
        if (n++ == 0)
            pad_to(b, line, column);
        else
            buf_char(b, ' ');
        buf_str(b, s->name);
        if (s->nth > 1) buf_printf(b, " (nth %d)", s->nth);
        if (strcmp(s->edges, "partial") == 0) buf_str(b, " (in part)");
    }
}

void tokens_text(const struct bound_prompt *p, const engine *en, struct buf *out)
{
    enum { TEXT = 13, WIDTH_MAX = 40, CHARS = 60 };
    arena *mem = arena_new();
    const char **text = arena_array(mem, (size_t)p->n_tokens, sizeof *text);
    int i, width = 5, bytes, slots;
    for (i = 0; i < p->n_tokens; i++) {
        size_t n;
        const char *s = tokens_bytes(p, en, i, &n);
        text[i] = snippet_text(mem, s, n, CHARS);
        int w = width_text(text[i], strlen(text[i])) + 2;
        if (w > width && w <= WIDTH_MAX) width = w;
    }
    bytes = TEXT + width + 2;
    slots = bytes + 14;
    buf_printf(out, "%s: %d tokens, %d bytes\n", p->label, p->n_tokens, p->n_bytes);
    buf_printf(out, "  pos     id  %-*s  bytes         slot\n", width, "text");
    for (i = 0; i < p->n_tokens; i++) {
        const struct token *t = &p->tokens[i];
        size_t line = out->n;
        buf_printf(out, "%5d %6d  [%s]", i, t->id, text[i]);
        pad_to(out, line, bytes + 1);
        buf_printf(out, "%d..%d", t->start, t->end);
        add_slots(out, p, i, line, slots + 1);
        buf_char(out, '\n');
    }
    arena_free(mem);
}

/* ---- JSON ---- */

/* A JSON string, with U+FFFD for each byte that is no part of UTF-8. */
static json_t *text_json(const char *s, size_t n)
{
    struct buf b = {0};
    json_t *v;
    size_t i = 0;
    while (i < n) {
        int len = utf8_len(s + i, n - i);
        if (len)
            buf_add(&b, s + i, (size_t)len);
        else
            buf_str(&b, "\xef\xbf\xbd");
        i += len ? (size_t)len : 1;
    }
    v = json_stringn(b.p ? b.p : "", b.n);
    buf_free(&b);
    return v;
}

int tokens_json(const struct spec *s, const struct bound_prompt *p, const engine *en, struct buf *out, err *e)
{
    json_t *list = json_array(), *all = json_object();
    char *text;
    int i;
    for (i = 0; i < p->n_tokens; i++) {
        const struct token *t = &p->tokens[i];
        json_t *o = json_object();
        size_t n;
        const char *bytes = tokens_bytes(p, en, i, &n);
        json_object_set_new(o, "id", json_integer(t->id));
        json_object_set_new(o, "text", text_json(bytes, n));
        json_object_set_new(o, "start", json_integer(t->start));
        json_object_set_new(o, "end", json_integer(t->end));
        json_array_append_new(list, o);
    }
    json_object_set_new(all, "text", text_json(p->text, (size_t)p->n_bytes));
    json_object_set_new(all, "tokens", list);
    if (s) json_object_set_new(all, "selectors", tokens_selectors_json(s, p));
    text = json_dumps(all, 0);
    json_decref(all);
    if (!text) return err_set(e, ERR_INTERNAL, "the tokens could not be written as JSON");
    buf_str(out, text);
    buf_char(out, '\n');
    free(text);
    return 0;
}
