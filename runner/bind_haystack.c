/* bind_haystack.c: as much of a long text as a prompt has room for, with the needle in it.
 *
 * The budget is that of the whole prompt as the model reads it: it is rendered and tokenised with one cut after another, each
 * shorter by what the last one was too long, until it fits. Text, seed and tokenizer decide; nothing is drawn at random.
 */
#include "bind_in.h"

#include <stdlib.h>
#include <string.h>

enum { BYTES_PER_TOKEN = 6, TRIES = 200, NEAR = 4 /* a border is near when less than one part in NEAR is lost to it */ };

struct stack {
    const struct spec *s;
    const engine *en;
    const struct prompt *p;
    arena *mem; /* of what lasts */
    struct diag *d;
    const struct haystack *h;
    int slot;
    const char *text; /* (len) the whole text, from where the seed lets it begin */
    size_t len;
};

/* ---- borders ---- */

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Bytes of the sentence's end at s: a full stop in its script, or 0. */
static int stop_len(const char *s, size_t n)
{
    static const char *const wide[] = {"\xe3\x80\x82", "\xef\xbc\x81", "\xef\xbc\x9f", "\xe0\xa5\xa4"}; /* 。！？। */
    size_t i;
    if (n && (*s == '.' || *s == '!' || *s == '?')) return 1;
    for (i = 0; i < sizeof wide / sizeof *wide; i++)
        if (n >= 3 && memcmp(s, wide[i], 3) == 0) return 3;
    return 0;
}

/* Bytes of a closing quote or bracket at s, or 0. */
static int close_len(const char *s, size_t n)
{
    if (n && memchr("\"')]", *s, 4)) return 1;
    if (n >= 3 && (memcmp(s, "\xe2\x80\x99", 3) == 0 || memcmp(s, "\xe2\x80\x9d", 3) == 0)) return 3; /* ’ ” */
    return n >= 2 && memcmp(s, "\xc2\xbb", 2) == 0 ? 2 : 0;                                           /* » */
}

/* The first end of a sentence or paragraph behind `from`: the place behind its last character; n when there is none. */
static size_t next_end(const char *s, size_t n, size_t from)
{
    size_t i = from;
    while (i < n) {
        int stop = stop_len(s + i, n - i), k;
        if (!stop) {
            if (s[i] == '\n' && i + 1 < n && s[i + 1] == '\n' && i > from) return i;
            i++;
            continue;
        }
        i += (size_t)stop;
        while ((k = close_len(s + i, n - i))) i += (size_t)k;
        if (i == n || is_space(s[i]) || stop == 3) return i;
    }
    return n;
}

/* The last border of a sentence in s at or before n; of a word where none is near; of a character where no word ends. */
static size_t cut_at(const char *s, size_t len, size_t n)
{
    size_t end = 0, next, i;
    if (n >= len) return len;
    for (i = 0; (next = next_end(s, len, i)) <= n && next < len; i = next + 1) end = next;
    if (n - end < n / NEAR) return end;
    for (i = n; i > 0 && !is_space(s[i]); i--)
        ;
    if (i == 0)
        for (i = n; i > 0 && ((unsigned char)s[i] & 0xc0) == 0x80; i--)
            ;
    while (i > 0 && is_space(s[i - 1])) i--;
    return i;
}

/* Where in the n bytes of s the needle goes: the end of a sentence nearest to the depth, inside unless the depth is an end. */
static size_t needle_at(const char *s, size_t n, float depth)
{
    size_t want = (size_t)((double)n * (double)depth / 100.0 + 0.5), best = 0, i, next;
    if (depth <= 0) return 0;
    if (depth >= 100) return n;
    for (i = 0; (next = next_end(s, n, i)) < n; i = next + 1)
        if (best == 0 || (next > want ? next - want : want - next) < (best > want ? best - want : want - best)) best = next;
    if (best && (best > want ? best - want : want - best) < n / NEAR) return best;
    for (i = want; i < n && !is_space(s[i]); i++)
        ;
    return i;
}

/* ---- the text ---- */

static uint64_t mixed(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* The file's text turned so that it begins at the sentence that the seed chooses. */
static void turn_text(struct stack *k, arena *scratch)
{
    const struct text_file *f = &k->s->files[k->h->file];
    size_t n = 0, i, next, start = 0, skip = 0;
    struct buf b = {0};
    while (is_space(f->text[skip])) skip++;
    for (i = skip; (next = next_end(f->text, f->len, i)) < f->len; i = next + 1) n++;
    if (k->h->seed > 0 && n > 0) {
        n = (size_t)(mixed((uint64_t)k->h->seed) % n);
        for (i = skip; n-- > 0; i = next_end(f->text, f->len, i) + 1)
            ;
        start = next_end(f->text, f->len, i);
        while (start < f->len && is_space(f->text[start])) start++;
    }
    if (start == 0 || start == f->len) start = skip;
    buf_add(&b, f->text + start, f->len - start);
    if (start > skip) {
        buf_str(&b, f->join);
        buf_add(&b, f->text + skip, start - skip);
        while (b.n && is_space(b.p[b.n - 1])) b.n--;
    }
    k->text = arena_strndup(scratch, b.p, b.n);
    k->len = b.n;
    buf_free(&b);
}

/* The first n bytes of the text with the needle in them. */
static void make_value(const struct stack *k, size_t n, struct buf *out, int *needle)
{
    const char *text = k->h->text;
    size_t at = text ? needle_at(k->text, n, k->h->depth) : n;
    out->n = 0;
    buf_add(out, k->text, at);
    if (text) {
        if (at > 0) buf_char(out, ' ');
        *needle = (int)out->n;
        buf_str(out, text);
        if (at < n && !is_space(k->text[at])) buf_char(out, ' ');
    }
    buf_add(out, k->text + at, n - at);
    buf_char(out, 0); /* a slot's value ends with NUL */
    out->n--;
}

/* ---- fitting ---- */

/* Tokens of the whole prompt with this value; -1: d tells, or e. */
static int count_tokens(const struct stack *k, const char *value, err *e)
{
    struct prompt p = *k->p;
    struct places places = {0};
    struct tokens t = {0};
    struct buf text = {0};
    arena *scratch = arena_new();
    int n = -1;
    p.slots = arena_array(scratch, (size_t)p.n_slots, sizeof *p.slots);
    memcpy(p.slots, k->p->slots, (size_t)p.n_slots * sizeof *p.slots);
    p.slots[k->slot].value = value;
    if (bind_text(k->en, &p, scratch, k->d, &text, &places, e)) goto out;
    if (engine_tokenize(k->en, text.p ? text.p : "", text.n, bind_adds_bos(engine_info(k->en), &p) ? TOKENIZE_BOS : 0, &t, e)) {
        err_in(e, "prompt '%s'", p.name);
        goto out;
    }
    n = t.n;
out:
    free(t.t);
    free(places.p);
    buf_free(&text);
    arena_free(scratch);
    return n;
}

static int no_room(const struct stack *k, int frame)
{
    diag_add(k->d, DIAG_ERROR, "E335", k->h->at, k->h->width,
             "tokens: %d leaves no room for a haystack in prompt '%s': without one it has %d tokens", k->h->tokens, k->p->name,
             frame);
    return -1;
}

static int too_short(const struct stack *k, int have, int wanted)
{
    const struct text_file *f = &k->s->files[k->h->file];
    diag_add(k->d, DIAG_ERROR, "E336", k->h->at, k->h->width,
             "file '%s' has text for %d tokens; a prompt of %d tokens has room for %d", f->name, have, k->h->tokens, wanted);
    return -1;
}

/* How many bytes the first `wanted` tokens of the text take; 0: d tells, or e. */
static size_t bytes_of(const struct stack *k, int wanted, err *e)
{
    size_t most = (size_t)wanted * BYTES_PER_TOKEN + 64, end;
    for (;; most *= 2) {
        struct tokens t = {0};
        size_t n = most < k->len ? utf8_valid(k->text, most) : k->len;
        if (engine_tokenize(k->en, k->text, n, 0, &t, e)) return 0;
        end = t.n > wanted ? (size_t)t.t[wanted - 1].end : 0;
        if (end == 0 && n == k->len && t.n == wanted) end = k->len;
        if (end == 0 && n == k->len) too_short(k, t.n, wanted);
        free(t.t);
        if (end || n == k->len) return end;
    }
}

static int fit(const struct stack *k, struct buf *value, int *needle, err *e)
{
    int frame, n = 0, i;
    size_t bytes;
    make_value(k, 0, value, needle);
    frame = count_tokens(k, value->p, e);
    if (frame < 0) return -1;
    if (frame >= k->h->tokens) return no_room(k, frame);
    bytes = bytes_of(k, k->h->tokens - frame, e);
    if (bytes == 0) return -1;
    for (i = 0; i < TRIES && bytes > 0; i++) {
        size_t over;
        bytes = cut_at(k->text, k->len, bytes);
        if (bytes == 0) break;
        make_value(k, bytes, value, needle);
        n = count_tokens(k, value->p, e);
        if (n < 0) return -1;
        if (n <= k->h->tokens) return 0;
        over = (size_t)(n - k->h->tokens) * 2; /* a token has two bytes and more, mostly */
        bytes = over < bytes ? bytes - over : 0;
    }
    return no_room(k, frame);
}

int bind_haystack(const struct spec *s, const engine *en, const struct prompt *p, arena *mem, struct diag *d,
                  struct prompt **out, int *at, err *e)
{
    struct stack k = {.s = s, .en = en, .p = p, .mem = mem, .d = d};
    arena *scratch = arena_new();
    struct buf value = {0};
    struct prompt *cut;
    int rc;
    while (!p->slots[k.slot].haystack) k.slot++;
    k.h = p->slots[k.slot].haystack;
    turn_text(&k, scratch);
    rc = fit(&k, &value, at, e);
    if (rc == 0) {
        cut = arena_alloc(mem, sizeof *cut);
        *cut = *p;
        cut->slots = arena_array(mem, (size_t)p->n_slots, sizeof *cut->slots);
        memcpy(cut->slots, p->slots, (size_t)p->n_slots * sizeof *p->slots);
        cut->slots[k.slot].value = arena_strndup(mem, value.p, value.n);
        *out = cut;
    }
    buf_free(&value);
    arena_free(scratch);
    return rc;
}
