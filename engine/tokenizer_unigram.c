/* tokenizer_unigram.c: the segmentation of a piece with the greatest sum of scores (Kudo 2018), by Viterbi's algorithm. */
#include "tokenizer_impl.h"

#include <math.h>

/* What a character without a token costs beyond the least score; SentencePiece's kUnkPenalty. */
static const float unk_penalty = 10.0f;

/* The best way to a position of the piece: its last token (-1: an unknown character) and where that begins. */
struct lattice {
    double score;
    int from, id;
};

static void reach(struct lattice *at, double score, int from, int id)
{
    if (score <= at->score) return;
    *at = (struct lattice){.score = score, .from = from, .id = id};
}

/* All tokens that begin at i; a character that is no token itself can be passed as an unknown one. */
static void extend(const struct tokenizer_job *j, struct lattice *way, int start, int i, int n)
{
    const struct vocab *v = &j->t->vocab;
    const char *text = j->text + start;
    int len = utf8_len(text + i, (size_t)(n - i)), k, id;
    int most = n - i < v->max_key ? n - i : v->max_key;
    uint64_t h = VOCAB_HASH_EMPTY;
    bool single = false;
    if (len == 0) len = 1;
    for (k = 1; k <= most; k++) {
        h = tokenizer_vocab_hash(h, text[i + k - 1]);
        id = tokenizer_vocab_find_hashed(v, text + i, k, h);
        if (id < 0) continue;
        reach(&way[i + k], way[i].score + (double)j->t->score[id], i, id);
        single |= k == len;
    }
    if (!single) reach(&way[i + len], way[i].score + (double)(j->t->min_score - unk_penalty), i, -1);
}

int tokenizer_unigram_piece(struct tokenizer_job *j, int start, int end)
{
    int n = end - start, i, next;
    struct lattice *way;
    if ((size_t)n + 1 > j->cap_lattice) {
        j->cap_lattice = ((size_t)n + 1) * 2;
        j->lattice = mem_grow(j->lattice, j->cap_lattice, sizeof *j->lattice);
    }
    way = j->lattice;
    way[0].score = 0;
    for (i = 1; i <= n; i++) way[i].score = -INFINITY;
    for (i = 0; i < n; i++)
        if (way[i].score > -INFINITY) extend(j, way, start, i, n);
    /* The way back: `from` becomes the position that follows. */
    for (i = n, next = -1; i >= 0;) {
        int from = i > 0 ? way[i].from : -1;
        way[i].from = next;
        next = i;
        i = from;
    }
    for (i = 0; i < n; i = next) {
        next = way[i].from;
        if (way[next].id >= 0)
            tokenizer_emit(j, way[next].id, start + i, start + next);
        else if (tokenizer_emit_unknown(j, start + i, start + next))
            return -1;
    }
    return 0;
}
