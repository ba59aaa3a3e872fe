/* spec_lint.c: warnings about specs that are right and probably not what was meant. Each has a code and can be silenced. */
#include "spec_internal.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* All codes of the language; those that need the model are given elsewhere. */
static const char *const codes[] = {"W101", "W102", "W103", "W104", "W105", "W106",
                                    "W107", "W108", "W109", "W111", "W116", NULL};

bool spec_warn(struct reader *r, int code, struct mark at, int width, const char *fmt, ...)
{
    struct buf b = {0};
    char text[8] = "W";
    va_list ap;
    if (r->allowed & (1u << (code - 100))) return false;
    va_start(ap, fmt);
    buf_vprintf(&b, fmt, ap);
    va_end(ap);
    for (int i = 3, x = code; i > 0; i--, x /= 10) text[i] = (char)('0' + x % 10);
    diag_add(r->d, DIAG_WARNING, text, at, width, "%s", b.p ? b.p : "");
    buf_free(&b);
    return true;
}

void spec_read_allowed(struct reader *r, const struct node *v)
{
    if (!spec_words(r, v, "allow")) return;
    for (int i = 0; i < v->n; i++) {
        int k = spec_word(r, v->items[i], "allow", codes, NULL);
        if (k >= 0) r->allowed |= 1u << atoi(codes[k] + 2);
    }
}

/* W104: once for the file. YAML reads \r\n as \n, but the file's hash and any tool that copies its text see it. */
void spec_lint_file(struct reader *r)
{
    const struct spec *s = &r->o->s;
    const char *p = s->source_len ? memchr(s->source, '\n', s->source_len) : NULL;
    int col = 1;
    if (!p || p == s->source || p[-1] != '\r') return;
    for (const char *q = s->source; q < p - 1; q++) col += ((unsigned char)*q & 0xc0) != 0x80;
    if (s->source_len >= 3 && !memcmp(s->source, "\xef\xbb\xbf", 3)) col--;
    if (spec_warn(r, 104, (struct mark){1, col}, 1, "lines end in CR LF"))
        diag_help(r->d, "help: save the file with plain line feeds");
}

static bool is_nfc(const struct node *v)
{
    utf8proc_uint8_t *nfc = NULL;
    utf8proc_ssize_t n =
        utf8proc_map((const utf8proc_uint8_t *)v->text, (utf8proc_ssize_t)v->len, &nfc, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    bool same = n < 0 || ((size_t)n == v->len && !memcmp(nfc, v->text, v->len));
    free(nfc);
    return same;
}

void spec_lint_text(struct reader *r, const struct node *v, const char *name)
{
    bool block = v->style == NODE_LITERAL || v->style == NODE_FOLDED;
    if (block && v->len && v->text[v->len - 1] == '\n' &&
        spec_warn(r, 101, v->at, v->width, "%s ends in a line feed, which is part of the prompt", name))
        diag_help(r->d, "help: write |- to end the text with its last word");
    if (v->style == NODE_FOLDED && spec_warn(r, 102, v->at, v->width, "%s is folded: line feeds become spaces", name))
        diag_help(r->d, "help: write |- to keep the lines as they are");
    if (strchr(v->text, '\r')) spec_warn(r, 104, v->at, v->width, "%s holds a carriage return", name);
    if (!is_nfc(v) && spec_warn(r, 105, v->at, v->width, "%s is not in Unicode normal form C", name))
        diag_help(r->d, "help: letters with combining marks tokenise differently from the same letters in one piece");
    if ((v->style == NODE_PLAIN || v->style == NODE_SINGLE) && strstr(v->text, "\\n") &&
        spec_warn(r, 111, v->at, v->width, "%s holds a backslash and an n, not a line feed", name))
        diag_help(r->d, "help: \\n means a line feed in double quotes only; or use a |- block");
}
