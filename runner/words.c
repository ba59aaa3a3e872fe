/* words.c: see words.h. */
#include "words.h"

#include <string.h>
#include <utf8proc.h>

enum { FOLDED = 8 }; /* more code points than one ever folds to */

int32_t words_point(const char *s, size_t n, size_t *bytes)
{
    utf8proc_int32_t point = -(int32_t)(unsigned char)*s;
    int len = utf8_len(s, n);
    *bytes = len ? (size_t)len : 1;
    if (len) utf8proc_iterate((const utf8proc_uint8_t *)s, len, &point);
    return point;
}

bool words_letter(int32_t point)
{
    if (point < 0) return false;
    switch (utf8proc_category(point)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO: return true;
    default: return false;
    }
}

/* Code points of a text one by one, folded if asked: one of the text may give several. */
struct points {
    const char *s;
    size_t n, i; /* bytes, bytes taken */
    bool casefold;
    utf8proc_int32_t held[FOLDED];
    int first, n_held;
};

static bool points_left(const struct points *p)
{
    return p->first < p->n_held || p->i < p->n;
}

static int32_t points_next(struct points *p)
{
    size_t bytes;
    int32_t point;
    utf8proc_ssize_t k;
    int boundary = 0;
    if (p->first < p->n_held) return p->held[p->first++];
    point = words_point(p->s + p->i, p->n - p->i, &bytes);
    p->i += bytes;
    if (!p->casefold || point < 0) return point;
    k = utf8proc_decompose_char(point, p->held, FOLDED, UTF8PROC_CASEFOLD, &boundary);
    if (k < 1 || k > FOLDED) return point;
    p->n_held = (int)k;
    p->first = 1;
    return p->held[0];
}

size_t words_at(const char *s, size_t n, const char *word, bool casefold)
{
    struct points text = {.s = s, .n = n, .casefold = casefold}, want = {.s = word, .n = strlen(word), .casefold = casefold};
    size_t bytes;
    if (want.n == 0) return 0;
    while (points_left(&want))
        if (!points_left(&text) || points_next(&text) != points_next(&want)) return 0;
    if (text.first < text.n_held) return 0; /* the word ends inside what one character folds to */
    return text.i < n && words_letter(words_point(s + text.i, n - text.i, &bytes)) ? 0 : text.i;
}

bool words_in(const char *text, size_t n, const char *word, bool casefold)
{
    bool inside = false; /* the character before is part of a word */
    size_t i, bytes;
    for (i = 0; i < n; i += bytes) {
        if (!inside && words_at(text + i, n - i, word, casefold)) return true;
        inside = words_letter(words_point(text + i, n - i, &bytes));
    }
    return false;
}
