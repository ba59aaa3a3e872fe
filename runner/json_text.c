/* json_text.c: see json_text.h. */
#include "json_text.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static const char *escape_of(unsigned char c, char text[8])
{
    static const char hex[] = "0123456789ABCDEF";
    switch (c) {
    case '"': return "\\\"";
    case '\\': return "\\\\";
    case '\b': return "\\b";
    case '\f': return "\\f";
    case '\n': return "\\n";
    case '\r': return "\\r";
    case '\t': return "\\t";
    default: memcpy(text, "\\u00", 4); break;
    }
    text[4] = hex[c >> 4];
    text[5] = hex[c & 15];
    text[6] = 0;
    return text;
}

/* What stands in a string as it is. */
static bool is_plain(unsigned char c)
{
    return c >= 0x20 && c != '"' && c != '\\';
}

void json_text_string(struct buf *out, const char *s, size_t n)
{
    enum { PART = 1024, WORST = 6 };
    const char *end = s + n;
    char text[8], *to;
    buf_char(out, '"');
    while (s < end) {
        const char *stop = end - s > PART ? s + PART : end;
        buf_room(out, (size_t)(stop - s) * WORST);
        for (to = out->p + out->n; s < stop; s++) {
            const char *escape;
            if (is_plain((unsigned char)*s)) {
                *to++ = *s;
                continue;
            }
            for (escape = escape_of((unsigned char)*s, text); *escape;) *to++ = *escape++;
        }
        out->n = (size_t)(to - out->p);
    }
    buf_char(out, '"');
}

void json_text_int(struct buf *out, int64_t v)
{
    char digits[24], *p = digits + sizeof digits;
    uint64_t x = v < 0 ? -(uint64_t)v : (uint64_t)v;
    do *--p = (char)('0' + x % 10);
    while (x /= 10);
    if (v < 0) *--p = '-';
    buf_add(out, p, (size_t)(digits + sizeof digits - p));
}

struct pair {
    const char *key;
    const json_t *value;
};

static int by_key(const void *a, const void *b)
{
    return strcmp(((const struct pair *)a)->key, ((const struct pair *)b)->key);
}

/* Few keys, which stand nearly in order: insertion. */
static void sort_pairs(struct pair *p, size_t n)
{
    enum { FEW = 16 };
    size_t i, k;
    if (n > FEW) {
        qsort(p, n, sizeof *p, by_key);
        return;
    }
    for (i = 1; i < n; i++) {
        struct pair one = p[i];
        for (k = i; k > 0 && strcmp(p[k - 1].key, one.key) > 0; k--) p[k] = p[k - 1];
        p[k] = one;
    }
}

static void object_text(const json_t *v, struct buf *out)
{
    enum { ROOM = 32 };
    json_t *object = (json_t *)v; /* iterators do not change it */
    struct pair few[ROOM], *p = json_object_size(v) > ROOM ? mem_array(json_object_size(v), sizeof *p) : few;
    size_t n = 0, i;
    void *at;
    for (at = json_object_iter(object); at; at = json_object_iter_next(object, at))
        p[n++] = (struct pair){json_object_iter_key(at), json_object_iter_value(at)};
    sort_pairs(p, n);
    buf_char(out, '{');
    for (i = 0; i < n; i++) {
        if (i) buf_char(out, ',');
        json_text_string(out, p[i].key, strlen(p[i].key));
        buf_char(out, ':');
        json_text(p[i].value, out);
    }
    buf_char(out, '}');
    if (p != few) free(p);
}

void json_text(const json_t *v, struct buf *out)
{
    char *real;
    size_t i;
    switch (json_typeof(v)) {
    case JSON_OBJECT: object_text(v, out); return;
    case JSON_ARRAY:
        buf_char(out, '[');
        for (i = 0; i < json_array_size(v); i++) {
            if (i) buf_char(out, ',');
            json_text(json_array_get(v, i), out);
        }
        buf_char(out, ']');
        return;
    case JSON_STRING: json_text_string(out, json_string_value(v), json_string_length(v)); return;
    case JSON_INTEGER: json_text_int(out, json_integer_value(v)); return;
    case JSON_TRUE: buf_str(out, "true"); return;
    case JSON_FALSE: buf_str(out, "false"); return;
    case JSON_NULL: buf_str(out, "null"); return;
    case JSON_REAL: break;
    }
    real = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
    buf_str(out, real ? real : "null");
    free(real);
}
