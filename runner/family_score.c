/* family_score.c: which positions an operation by score takes: known when the prompt's unedited pass is. Sums run over layers,
 * then heads, in double; of equal scores the lower position comes first, so that a choice is the same on every machine. */
#include "family_in.h"

#include <math.h>
#include <stdlib.h>

/* Attention that each key got from all queries of the prompt: (n_layer, n_head, n_tokens). */
static int attention(struct families *f, int prompt, double *out, err *e)
{
    const struct bound_prompt *p = &f->jobs->prompts[prompt];
    size_t n = (size_t)f->n_layer * (size_t)engine_site_width(f->en, SITE_RECEIVED, p->n_tokens), i;
    int *layers = mem_array((size_t)f->n_layer, sizeof *layers), at = 0, l, rc;
    float *got = mem_array(n, sizeof *got);
    struct record rec = {SITE_RECEIVED, layers, &at, f->n_layer, 1, p->n_tokens, got};
    struct watch w = {.records = &rec, .n_records = 1};
    cache *c = NULL;
    for (l = 0; l < f->n_layer; l++) layers[l] = l;
    rc = cache_new(&c, f->en, e) || cache_feed_watched(c, p->ids, p->n_tokens, &w, NULL, e) ? -1 : 0;
    for (i = 0; i < n; i++) out[i] = (double)got[i];
    cache_free(c);
    free(got);
    free(layers);
    return rc;
}

/* L2 norms of the keys in the cache: (n_layer, n_kv_head, n_tokens). */
static int key_norms(struct families *f, int prompt, double *out, err *e)
{
    const struct engine_info *info = engine_info(f->en);
    const struct bound_prompt *p = &f->jobs->prompts[prompt];
    size_t T = (size_t)p->n_tokens, G = (size_t)info->n_kv_head, E = (size_t)info->head_dim, i, k;
    float *raw, *x;
    struct base *b;
    int l;
    if (family_whole(f, prompt, &b, e)) return -1;
    raw = mem_array(G * T * E, sizeof *raw);
    x = mem_array(G * T * E, sizeof *x);
    for (l = 0; l < f->n_layer; l++) {
        cache_read(b->whole, l, CACHE_K, 0, p->n_tokens, raw);
        engine_kv_to_f32(info->kv, raw, x, G * T * E);
        for (i = 0; i < G * T; i++) {
            double sum = 0;
            for (k = 0; k < E; k++) sum += (double)x[i * E + k] * (double)x[i * E + k];
            *out++ = sqrt(sum);
        }
    }
    free(raw);
    free(x);
    return 0;
}

/* (n_layer, heads, n_tokens), computed once per prompt. */
static int scores_of(struct families *f, int prompt, enum select_score score, int *heads, const double **out, err *e)
{
    const struct engine_info *info = engine_info(f->en);
    bool by_attention = score == SCORE_ATTENTION;
    double **slot = &f->scores[2 * prompt + by_attention];
    *heads = by_attention ? info->n_head : info->n_kv_head;
    if (!*slot) {
        size_t n = (size_t)f->n_layer * (size_t)*heads * (size_t)f->jobs->prompts[prompt].n_tokens;
        *slot = mem_array(n, sizeof **slot);
        if (by_attention ? attention(f, prompt, *slot, e) : key_norms(f, prompt, *slot, e)) {
            free(*slot);
            *slot = NULL;
            return -1;
        }
    }
    *out = *slot;
    return 0;
}

/* Whether a head counts: the operation's own kv heads; of query heads those that read them. A knockout names query heads. */
static bool counts(const struct families *f, const struct job_op *op, int h, int heads)
{
    const struct engine_info *info = engine_info(f->en);
    int of_op = op->op == EDIT_KNOCKOUT || op->tensors == SITE_HEAD_OUT ? info->n_head : info->n_kv_head, i, mine;
    mine = heads >= of_op ? h / (heads / of_op) : h;
    if (op->n_heads == 0) return true;
    for (i = 0; i < op->n_heads; i++)
        if (heads >= of_op ? op->heads[i] == mine : op->heads[i] / (of_op / heads) == mine) return true;
    return false;
}

struct place {
    double score;
    int at;
};

static int best_first(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return (x->at > y->at) - (x->at < y->at);
}

static int by_place(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

int family_score(struct families *f, int prompt, const struct job_op *op, int *at, err *e)
{
    size_t T = (size_t)f->jobs->prompts[prompt].n_tokens;
    struct place *places;
    const double *all;
    int heads, i, l, h;
    bool embed = op->layers[0] < 0; /* no layer of its own: all count */
    if (scores_of(f, prompt, op->score->score, &heads, &all, e)) return -1;
    places = mem_array((size_t)op->n_at, sizeof *places);
    for (i = 0; i < op->n_at; i++) {
        double sum = 0;
        for (l = 0; l < (embed ? f->n_layer : op->n_layers); l++)
            for (h = 0; h < heads; h++)
                if (counts(f, op, h, heads))
                    sum += all[((size_t)(embed ? l : op->layers[l]) * (size_t)heads + (size_t)h) * T + (size_t)op->at[i]];
        places[i] = (struct place){op->score->highest ? sum : -sum, op->at[i]};
    }
    qsort(places, (size_t)op->n_at, sizeof *places, best_first);
    for (i = 0; i < op->score->count; i++) at[i] = places[i].at;
    qsort(at, (size_t)op->score->count, sizeof *at, by_place);
    free(places);
    return 0;
}
