/* tokenizer_vocab.c: the table of tokens: found by key, by byte, and as special tokens in a text. */
#include "tokenizer_impl.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* No real token is longer, and matching costs text length times this at worst. */
enum { MATCH_MAX = 1024 };

/* The 188 bytes that are printable in Latin-1 stand for themselves, the other 68 for U+0100 on, in order. */
static int unspell_char(unsigned c)
{
    if (c < 0x100) return (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c != 0xad) ? (int)c : -1;
    c -= 0x100;
    if (c <= 0x20) return (int)c;
    if (c <= 0x42) return (int)(c - 0x21 + 0x7f);
    return c == 0x43 ? 0xad : -1;
}

int tokenizer_vocab_unspell(const char *s, int n, char *out)
{
    int i = 0, m = 0;
    while (i < n) {
        const unsigned char *u = (const unsigned char *)s + i;
        int len = utf8_len(s + i, (size_t)(n - i)), byte;
        if (len != 1 && len != 2) return -1;
        byte = unspell_char(len == 1 ? u[0] : (u[0] & 0x1fu) << 6 | (u[1] & 0x3fu));
        if (byte < 0) return -1;
        out[m++] = (char)byte;
        i += len;
    }
    return m;
}

void tokenizer_vocab_new(struct vocab *v, int n, enum spelling spelling)
{
    if (!v->a) v->a = arena_new();
    v->t = arena_array(v->a, (size_t)n, sizeof *v->t);
    v->n = n;
    v->unk = -1;
    v->spelling = spelling;
    memset(v->byte, 0xff, sizeof v->byte);
}

/* Tokens that merges make are spelled byte by byte, the others are written as they are. A normal token with characters
   that stand for no byte is its own text when decoded, and never the result of encoding. */
static void set_bytes(struct vocab *v, struct vocab_token *t)
{
    char *bytes;
    int n;
    if (t->type == TOKEN_CONTROL || t->type == TOKEN_USER) return;
    bytes = arena_alloc(v->a, (size_t)t->n_bytes + 1);
    n = tokenizer_vocab_unspell(t->bytes, t->n_bytes, bytes);
    t->key = NULL;
    if (n < 0) return;
    t->key = t->bytes = bytes;
    t->n_key = t->n_bytes = n;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "<0x0A>" to 10; -1: not of this form. */
static int byte_value(const char *s, int n)
{
    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>' || hex_digit(s[3]) < 0 || hex_digit(s[4]) < 0) return -1;
    return hex_digit(s[3]) * 16 + hex_digit(s[4]);
}

static int set_spaces(struct vocab *v, int id, err *e)
{
    struct vocab_token *t = &v->t[id];
    char *bytes;
    int i, n = 0;
    if (t->type == TOKEN_CONTROL) return 0;
    bytes = arena_alloc(v->a, (size_t)t->n_bytes + 1);
    if (t->type == TOKEN_BYTE) {
        int byte = byte_value(t->bytes, t->n_bytes);
        if (byte < 0) return err_set(e, ERR_ENV, "token %d is of type byte but is not written as <0x..>", id);
        if (v->byte[byte] < 0) v->byte[byte] = id;
        bytes[n++] = (char)byte;
        t->key = NULL;
    } else {
        for (i = 0; i < t->n_bytes; n++) {
            bool space = !v->keep_meta && t->n_bytes - i >= 3 && memcmp(t->bytes + i, "\xe2\x96\x81", 3) == 0;
            bytes[n] = space ? ' ' : t->bytes[i];
            i += space ? 3 : 1;
        }
        if (v->spelling == SPELLING_SPACES) {
            t->key = bytes;
            t->n_key = n;
        }
    }
    t->bytes = bytes;
    t->n_bytes = n;
    return 0;
}

int tokenizer_vocab_set(struct vocab *v, int id, struct gguf_str s, enum token_type type, err *e)
{
    struct vocab_token *t = &v->t[id];
    if (s.n > INT_MAX / 4) return err_set(e, ERR_ENV, "token %d has %zu bytes", id, s.n);
    t->type = type;
    t->key = t->bytes = arena_strndup(v->a, s.p, s.n);
    t->n_key = t->n_bytes = (int)s.n;
    if (type == TOKEN_UNKNOWN && v->spelling != SPELLING_TEXT)
        t->key = NULL;
    else if (v->spelling == SPELLING_BYTES)
        set_bytes(v, t);
    else
        return set_spaces(v, id, e);
    return 0;
}

/* FNV-1a */
uint64_t tokenizer_vocab_hash(uint64_t h, char c)
{
    return (h ^ (unsigned char)c) * 0x100000001b3u;
}

/* The finaliser of murmur3 spreads the hash over the low bits, which the table takes. */
static int *find_slot(const struct vocab *v, const char *key, int n, uint64_t h)
{
    size_t i;
    h = (h ^ h >> 33) * 0xff51afd7ed558ccdu;
    for (i = (size_t)(h ^ h >> 33) & v->mask;; i = (i + 1) & v->mask) {
        int id = v->slots[i];
        if (id < 0 || (v->t[id].n_key == n && memcmp(v->t[id].key, key, (size_t)n) == 0)) return &v->slots[i];
    }
}

static uint64_t hash_bytes(const char *p, int n)
{
    uint64_t h = VOCAB_HASH_EMPTY;
    int i;
    for (i = 0; i < n; i++) h = tokenizer_vocab_hash(h, p[i]);
    return h;
}

int tokenizer_vocab_find_hashed(const struct vocab *v, const char *key, int n, uint64_t h)
{
    return *find_slot(v, key, n, h);
}

int tokenizer_vocab_find(const struct vocab *v, const char *key, int n)
{
    return *find_slot(v, key, n, hash_bytes(key, n));
}

/* Tokens that are matched as text. Files fill up their vocabulary with tokens of type unknown; only one is meant. */
static bool is_marker(const struct vocab *v, int id)
{
    enum token_type type = v->t[id].type;
    return type == TOKEN_CONTROL || type == TOKEN_USER || (type == TOKEN_UNKNOWN && id == v->unk);
}

/* Of tokens with the same key the first counts, and one that merges make comes before one that is matched as text. */
static void index_keys(struct vocab *v)
{
    size_t size = 16, i;
    int id, markers;
    while (size < (size_t)v->n * 2) size *= 2;
    v->mask = size - 1;
    v->slots = arena_array(v->a, size, sizeof *v->slots);
    for (i = 0; i < size; i++) v->slots[i] = -1;
    for (markers = 0; markers < 2; markers++)
        for (id = 0; id < v->n; id++) {
            const struct vocab_token *t = &v->t[id];
            int *slot;
            if (!t->key || t->n_key == 0 || is_marker(v, id) != markers) continue;
            slot = find_slot(v, t->key, t->n_key, hash_bytes(t->key, t->n_key));
            if (*slot < 0) *slot = id;
            if (t->n_key > v->max_key) v->max_key = t->n_key;
        }
    if (v->max_key > MATCH_MAX) v->max_key = MATCH_MAX;
    for (i = 0; i < 256 && v->spelling == SPELLING_BYTES; i++) {
        char c = (char)i;
        v->byte[i] = tokenizer_vocab_find(v, &c, 1);
    }
}

static int compare_bytes(const void *a, const void *b)
{
    const struct vocab_special *x = a, *y = b;
    int c = memcmp(x->p, y->p, (size_t)(x->n < y->n ? x->n : y->n));
    if (c) return c;
    return x->n != y->n ? (x->n > y->n) - (x->n < y->n) : (x->id > y->id) - (x->id < y->id);
}

int tokenizer_vocab_add_special(struct vocab *v, const struct vocab_special *s, err *e)
{
    if (s->n == 0) return 0;
    if (s->n > MATCH_MAX)
        return err_set(e, ERR_ENV, "special token %d has %d bytes, at most %d are allowed", s->id, s->n, MATCH_MAX);
    if (v->n_special == v->cap_special) {
        v->cap_special = v->cap_special ? v->cap_special * 2 : 64;
        v->special = mem_grow(v->special, (size_t)v->cap_special, sizeof *v->special);
    }
    v->special[v->n_special++] = *s;
    v->special_first[(unsigned char)s->p[0]] = true;
    return 0;
}

bool tokenizer_vocab_merges_spaces(const struct vocab *v, int id)
{
    const struct vocab_token *t = &v->t[id];
    int i;
    if (!v->merge_spaces || t->type != TOKEN_USER) return false;
    for (i = 0; i < t->n_bytes; i++)
        if (t->bytes[i] != ' ') return false;
    return true;
}

/* As many U+2581 as the token has spaces. */
static void write_meta(struct vocab *v, struct vocab_special *s)
{
    char *p = arena_alloc(v->a, (size_t)s->n * 3 + 1);
    int i;
    for (i = 0; i < s->n; i++) memcpy(p + 3 * i, "\xe2\x96\x81", 3);
    s->p = p;
    s->n *= 3;
}

int tokenizer_vocab_add_markers(struct vocab *v, err *e)
{
    int id;
    for (id = 0; id < v->n; id++) {
        struct vocab_special s = {.p = v->t[id].bytes, .n = v->t[id].n_bytes, .id = id};
        if (!is_marker(v, id)) continue;
        if (s.n <= MATCH_MAX && tokenizer_vocab_merges_spaces(v, id)) write_meta(v, &s);
        if (tokenizer_vocab_add_special(v, &s, e)) return -1;
    }
    return 0;
}

void tokenizer_vocab_index(struct vocab *v)
{
    index_keys(v);
    if (v->n_special) qsort(v->special, (size_t)v->n_special, sizeof *v->special, compare_bytes);
}

void tokenizer_vocab_free(struct vocab *v)
{
    arena_free(v->a);
    free(v->special);
}

/* First index in lo..hi whose special token has, at position k, a byte of at least c; tokens of k bytes come first. */
static int lower_bound(const struct vocab *v, int lo, int hi, int k, int c)
{
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        const struct vocab_special *s = &v->special[mid];
        if (s->n <= k || (unsigned char)s->p[k] < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* The longest special token that the text begins with: the sorted list is narrowed byte by byte. */
static const struct vocab_special *longest(const struct vocab *v, const char *text, int n)
{
    const struct vocab_special *best = NULL;
    int lo = 0, hi = v->n_special, k;
    for (k = 0; k < n && lo < hi; k++) {
        int c = (unsigned char)text[k];
        lo = lower_bound(v, lo, hi, k, c);
        hi = lower_bound(v, lo, hi, k, c + 1);
        if (lo < hi && v->special[lo].n == k + 1) best = &v->special[lo];
    }
    return best;
}

const struct vocab_special *tokenizer_vocab_special(const struct vocab *v, const char *text, int from, int n, int *at)
{
    int i;
    for (i = from; i < n; i++) {
        const struct vocab_special *s;
        if (!v->special_first[(unsigned char)text[i]]) continue;
        s = longest(v, text + i, n - i);
        if (!s) continue;
        *at = i;
        return s;
    }
    return NULL;
}
