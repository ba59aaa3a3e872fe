/* tokenizer_vocab.c: the table of tokens: found by key, by byte, and as special tokens in a text. */
#include "tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

/* Longer ones are no markers, and matching costs text length times this at worst. */
enum { SPECIAL_MAX = 1024 };

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

/* FNV-1a with the murmur3 finaliser: the table takes the low bits. */
static size_t hash_bytes(const char *p, int n)
{
    uint64_t h = 0xcbf29ce484222325u;
    int i;
    for (i = 0; i < n; i++) h = (h ^ (unsigned char)p[i]) * 0x100000001b3u;
    h ^= h >> 33;
    h *= 0xff51afd7ed558ccdu;
    return (size_t)(h ^ h >> 33);
}

static int *find_slot(const struct vocab *v, const char *key, int n)
{
    size_t i = hash_bytes(key, n) & v->mask;
    for (;; i = (i + 1) & v->mask) {
        int id = v->slots[i];
        if (id < 0 || (v->t[id].n_key == n && memcmp(v->t[id].key, key, (size_t)n) == 0)) return &v->slots[i];
    }
}

int tokenizer_vocab_find(const struct vocab *v, const char *key, int n)
{
    return *find_slot(v, key, n);
}

static bool is_marker(const struct vocab_token *t)
{
    return t->type == TOKEN_CONTROL || t->type == TOKEN_USER;
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
            if (!t->key || t->n_key == 0 || is_marker(t) != markers) continue;
            slot = find_slot(v, t->key, t->n_key);
            if (*slot < 0) *slot = id;
        }
    for (i = 0; i < 256; i++) {
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

static int index_special(struct vocab *v, err *e)
{
    int id, n = 0;
    for (id = 0; id < v->n; id++) n += is_marker(&v->t[id]);
    v->special = arena_array(v->a, (size_t)n, sizeof *v->special);
    for (id = 0; id < v->n; id++) {
        const struct vocab_token *t = &v->t[id];
        if (!is_marker(t) || t->n_bytes == 0) continue;
        if (t->n_bytes > SPECIAL_MAX)
            return err_set(e, ERR_ENV, "special token %d has %d bytes, at most %d are allowed", id, t->n_bytes, SPECIAL_MAX);
        v->special[v->n_special++] = (struct vocab_special){.p = t->bytes, .n = t->n_bytes, .id = id};
        v->special_first[(unsigned char)t->bytes[0]] = true;
    }
    if (v->n_special) qsort(v->special, (size_t)v->n_special, sizeof *v->special, compare_bytes);
    return 0;
}

int tokenizer_vocab_index(struct vocab *v, err *e)
{
    index_keys(v);
    return index_special(v, e);
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
