/* regex.c: see regex.h.
 *
 * PCRE2's own match limit starts again at every place of the text, so that its product with the text's length is what a
 * hostile pattern can cost. Callouts in front of every item of the pattern are counted instead, over the whole search, each
 * with the distance that the item before it has read.
 */
#include "regex.h"

#include "../engine/base.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATTERN_MAX = 4096, WORK = 20000000, WORK_PER_BYTE = 16, HEAP_KIB = 64 << 10 };

static void tell(int code, char why[REGEX_WHY])
{
    PCRE2_UCHAR text[160] = {0};
    pcre2_get_error_message(code, text, sizeof text);
    snprintf(why, REGEX_WHY, "%s", (char *)text);
}

static pcre2_code *compile(const char *pattern, char why[REGEX_WHY])
{
    const uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_AUTO_CALLOUT;
    size_t n = strlen(pattern);
    pcre2_compile_context *c;
    pcre2_code *re;
    PCRE2_SIZE at = 0;
    int code = 0;
    if (n == 0 || n > PATTERN_MAX) {
        snprintf(why, REGEX_WHY, "a pattern has 1 to %d bytes, this has %zu", PATTERN_MAX, n);
        return NULL;
    }
    c = pcre2_compile_context_create(NULL);
    pcre2_set_newline(c, PCRE2_NEWLINE_LF);
    re = pcre2_compile((PCRE2_SPTR)pattern, n, options, &code, &at, c);
    pcre2_compile_context_free(c);
    if (re) return re;
    tell(code, why);
    snprintf(why + strlen(why), REGEX_WHY - strlen(why), ", at byte %zu", (size_t)at);
    return NULL;
}

int regex_check(const char *pattern, char why[REGEX_WHY])
{
    pcre2_code *re = compile(pattern, why);
    pcre2_code_free(re);
    return re ? 0 : -1;
}

struct work {
    size_t done, most, last;
};

static int count_work(pcre2_callout_block *b, void *data)
{
    struct work *w = data;
    w->done += 1 + (b->current_position > w->last ? b->current_position - w->last : w->last - b->current_position);
    w->last = b->current_position;
    return w->done > w->most ? PCRE2_ERROR_CALLOUT : 0;
}

static void hit_add(struct regex_hit **hits, int *n, size_t start, size_t end)
{
    if ((*n & (*n - 1)) == 0) *hits = mem_grow(*hits, *n ? 2 * (size_t)*n : 1, sizeof **hits);
    (*hits)[(*n)++] = (struct regex_hit){(int)start, (int)end};
}

/* Where the next search starts: behind the match, and at least one character on. */
static size_t next_start(const char *text, size_t n, size_t from, size_t end)
{
    size_t next = from;
    if (end > from) return end;
    do next++;
    while (next < n && ((unsigned char)text[next] & 0xc0) == 0x80);
    return next;
}

size_t regex_work(size_t n)
{
    return WORK + WORK_PER_BYTE * n;
}

int regex_find(const char *pattern, const char *text, size_t n, size_t *work, struct regex_hit **hits, int *n_hits,
               char why[REGEX_WHY])
{
    pcre2_code *re = compile(pattern, why);
    pcre2_match_data *match;
    pcre2_match_context *limits;
    struct work w = {0, *work, 0};
    size_t from = 0;
    int code = 0;
    *hits = NULL;
    *n_hits = 0;
    if (!re) return -1;
    match = pcre2_match_data_create(1, NULL);
    limits = pcre2_match_context_create(NULL);
    pcre2_set_callout(limits, count_work, &w);
    pcre2_set_match_limit(limits, WORK);
    pcre2_set_heap_limit(limits, HEAP_KIB);
    while (from < n) {
        const PCRE2_SIZE *span;
        code = pcre2_match(re, (PCRE2_SPTR)text, n, from, PCRE2_NOTEMPTY | (from ? PCRE2_NO_UTF_CHECK : 0), match, limits);
        if (code < 0) break;
        span = pcre2_get_ovector_pointer(match);
        if (span[1] > span[0]) hit_add(hits, n_hits, span[0], span[1]); /* \K can turn a match around */
        from = next_start(text, n, from, span[1]);
    }
    *work -= w.done < *work ? w.done : *work;
    if (code == PCRE2_ERROR_CALLOUT || code == PCRE2_ERROR_MATCHLIMIT || code == PCRE2_ERROR_HEAPLIMIT ||
        code == PCRE2_ERROR_DEPTHLIMIT)
        snprintf(why, REGEX_WHY, "it tries too many ways to match this text");
    else if (code < 0 && code != PCRE2_ERROR_NOMATCH)
        tell(code, why);
    pcre2_match_context_free(limits);
    pcre2_match_data_free(match);
    pcre2_code_free(re);
    if (code >= 0 || code == PCRE2_ERROR_NOMATCH) return 0;
    free(*hits);
    *hits = NULL;
    *n_hits = 0;
    return -1;
}
