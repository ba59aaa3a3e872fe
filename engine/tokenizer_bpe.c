/* tokenizer_bpe.c: byte pair encoding of one piece (Sennrich et al. 2016): byte-level as in GPT-2, with ranked merges, or
 * SentencePiece's kind, where any two neighbours merge that make a token, the one with the best score first.
 *
 * The pair of neighbours with the best rank is merged, the leftmost first, until no pair has a rank. A heap of pairs over
 * a doubly linked list of symbols makes this O(n log n); pairs that went stale are recognised when they are taken out.
 */
#include "tokenizer_impl.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

static size_t hash_pair(int left, int right)
{
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u;
    return (size_t)(h ^ h >> 32);
}

static int *find_slot(const struct bpe *b, int left, int right)
{
    size_t i = hash_pair(left, right) & b->mask;
    for (;; i = (i + 1) & b->mask) {
        int rank = b->slots[i];
        if (rank < 0 || (b->merge[rank].left == left && b->merge[rank].right == right)) return &b->slots[i];
    }
}

int tokenizer_bpe_cut(struct gguf_str s, struct bpe_pair *out)
{
    const char *space = s.n > 2 ? memchr(s.p + 1, ' ', s.n - 1) : NULL;
    if (!space) return -1;
    out->left = (struct gguf_str){s.p, (size_t)(space - s.p)};
    out->right = (struct gguf_str){space + 1, (size_t)(s.p + s.n - space - 1)};
    return 0;
}

/* Appends a side of a merge as the keys of the vocabulary write it; -1: it cannot be one. */
static int add_side(struct buf *both, const struct vocab *v, struct gguf_str side)
{
    size_t at = both->n;
    int n = (int)side.n;
    if (side.n == 0 || side.n > INT_MAX / 4) return -1;
    buf_add(both, side.p, side.n);
    if (v->spelling == SPELLING_BYTES) n = tokenizer_vocab_unspell(side.p, n, both->p + at);
    both->n = at + (size_t)(n < 0 ? 0 : n);
    return n;
}

static int load_merge(struct bpe_merge *m, const struct vocab *v, const struct bpe_pair *pair, struct buf *both)
{
    int left, right;
    both->n = 0;
    left = add_side(both, v, pair->left);
    if (left < 0) return -1;
    right = add_side(both, v, pair->right);
    if (right < 0) return -1;
    m->left = tokenizer_vocab_find(v, both->p, left);
    m->right = tokenizer_vocab_find(v, both->p + left, right);
    m->id = tokenizer_vocab_find(v, both->p, left + right);
    return m->left < 0 || m->right < 0 || m->id < 0 ? -1 : 0;
}

static int shown(struct gguf_str s)
{
    return s.n > 80 ? 80 : (int)s.n;
}

int tokenizer_bpe_load(struct bpe *b, const struct vocab *v, const struct bpe_pair *merges, size_t n, err *e)
{
    struct buf both = {0};
    size_t size = 16, i;
    int rc = 0;
    if (n > INT_MAX) return err_set(e, ERR_ENV, "%zu merges", n);
    while (size < n * 2) size *= 2;
    b->mask = size - 1;
    b->slots = mem_array(size, sizeof *b->slots);
    memset(b->slots, 0xff, size * sizeof *b->slots);
    b->merge = mem_array(n, sizeof *b->merge);
    b->n = n;
    for (i = 0; i < n && !rc; i++) {
        int *slot;
        if (load_merge(&b->merge[i], v, &merges[i], &both)) {
            rc = err_set(e, ERR_ENV, "merge %zu '%.*s %.*s' is not of two tokens that make a third", i, shown(merges[i].left),
                         merges[i].left.p, shown(merges[i].right), merges[i].right.p);
            break;
        }
        slot = find_slot(b, b->merge[i].left, b->merge[i].right);
        if (*slot < 0) *slot = (int)i; /* a pair written twice has its better rank */
    }
    buf_free(&both);
    return rc;
}

void tokenizer_bpe_free(struct bpe *b)
{
    free(b->merge);
    free(b->slots);
}

static void heap_push(struct tokenizer_job *j, uint64_t x)
{
    size_t i = j->n_heap++;
    while (i > 0 && j->heap[(i - 1) / 2] > x) {
        j->heap[i] = j->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    j->heap[i] = x;
}

static uint64_t heap_pop(struct tokenizer_job *j)
{
    uint64_t top = j->heap[0], x = j->heap[--j->n_heap];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < j->n_heap) {
        if (child + 1 < j->n_heap && j->heap[child + 1] < j->heap[child]) child++;
        if (j->heap[child] >= x) break;
        j->heap[i] = j->heap[child];
        i = child;
    }
    j->heap[i] = x;
    return top;
}

enum { NO_RANK = -1 };

/* Rank of the pair and the token it becomes, or NO_RANK. */
static int64_t pair_rank(const struct tokenizer_job *j, const struct symbol *l, const struct symbol *r, int *id)
{
    int rank;
    if (j->t->rank) {
        int n = r->end - l->start;
        *id = n > j->t->vocab.max_key ? -1 : tokenizer_vocab_find(&j->t->vocab, j->text + l->start, n);
        if (*id < 0) return NO_RANK;
        return j->t->rank[*id];
    }
    if (j->t->bpe.n == 0) return NO_RANK;
    rank = *find_slot(&j->t->bpe, l->id, r->id);
    if (rank < 0) return NO_RANK;
    *id = j->t->bpe.merge[rank].id;
    return rank;
}

static void push_pair(struct tokenizer_job *j, int left)
{
    int64_t rank;
    int id;
    if (left < 0 || j->sym[left].next < 0) return;
    rank = pair_rank(j, &j->sym[left], &j->sym[j->sym[left].next], &id);
    if (rank >= 0) heap_push(j, (uint64_t)rank << 32 | (uint32_t)left);
}

/* Every symbol has one pair with its right neighbour, and a merge makes two new pairs: fewer than 3n in all. */
static void room(struct tokenizer_job *j, int n)
{
    if ((size_t)n <= j->cap_sym) return;
    j->cap_sym = (size_t)n < 64 ? 64 : (size_t)n + (size_t)n / 2;
    j->sym = mem_grow(j->sym, j->cap_sym, sizeof *j->sym);
    j->heap = mem_grow(j->heap, 3 * j->cap_sym, sizeof *j->heap);
}

/* A pair taken from the heap counts only if the symbols there now have that very rank. */
static void merge_all(struct tokenizer_job *j)
{
    while (j->n_heap) {
        uint64_t top = heap_pop(j);
        int left = (int)(uint32_t)top, id;
        struct symbol *s = &j->sym[left], *right;
        if (s->next < 0) continue;
        right = &j->sym[s->next];
        if (pair_rank(j, s, right, &id) != (int64_t)(top >> 32)) continue;
        s->id = id;
        s->end = right->end;
        s->next = right->next;
        if (s->next >= 0) j->sym[s->next].prev = left;
        right->next = -1; /* merged away: no pair begins here any more */
        push_pair(j, s->prev);
        push_pair(j, left);
    }
}

/* Bytes, or characters, of the piece. Without a token they stay as symbols that merge with nothing, or only by text. */
static int first_symbols(struct tokenizer_job *j, int start, int end)
{
    const struct vocab *v = &j->t->vocab;
    int at = start, n = 0, len, id;
    for (; at < end; at += len, n++) {
        if (v->spelling == SPELLING_BYTES) {
            len = 1;
            id = v->byte[(unsigned char)j->text[at]];
        } else {
            len = utf8_len(j->text + at, (size_t)(end - at));
            if (len == 0) len = 1;
            id = tokenizer_vocab_find(v, j->text + at, len);
        }
        j->sym[n] = (struct symbol){.id = id, .start = at, .end = at + len, .prev = n - 1, .next = n + 1};
    }
    j->sym[n - 1].next = -1;
    return n;
}

int tokenizer_bpe_piece(struct tokenizer_job *j, int start, int end)
{
    int n, i;
    if (j->t->bpe.ignore_merges) {
        int id = tokenizer_vocab_find(&j->t->vocab, j->text + start, end - start);
        if (id >= 0) {
            tokenizer_emit(j, id, start, end);
            return 0;
        }
    }
    room(j, end - start);
    n = first_symbols(j, start, end);
    for (i = 0; i < n; i++) push_pair(j, i);
    merge_all(j);
    for (i = 0; i >= 0; i = j->sym[i].next) {
        const struct symbol *s = &j->sym[i];
        if (s->id >= 0)
            tokenizer_emit(j, s->id, s->start, s->end);
        else if (tokenizer_emit_unknown(j, s->start, s->end))
            return -1;
    }
    return 0;
}
