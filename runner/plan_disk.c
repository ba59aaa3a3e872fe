/* plan_disk.c: how much of the caches that a run stores is new, and how much room there is. */
#include "plan_in.h"

#include "map.h"

#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

enum { BLOCK = 64 /* tokens of a chunk */ };

/* Chunks of one layer and tensor are counted in tokens, as if each were as large as the mean of all layers. */
struct counting {
    const struct plan *p;
    struct map *prompts; /* ids and moment whose unedited chunks are counted */
    double tokens;       /* of one layer and tensor */
};

static double all_rows(const struct plan *p)
{
    return 2.0 * p->info->n_layer;
}

/* Tokens of the blocks of 0..n-1 that hold one of the positions. */
static double touched(const int *at, int n_at, int n)
{
    int i, last = -1;
    double tokens = 0;
    for (i = 0; i < n_at; i++) {
        int block = at[i] / BLOCK, first = block * BLOCK;
        if (block == last || first >= n) continue;
        last = block;
        tokens += n - first < BLOCK ? n - first : BLOCK;
    }
    return tokens;
}

/* What the edits of a job change among the tokens 0..n-1 of its prompt, at most. */
static double changed(const struct plan *p, const struct job *j, int n, bool finished)
{
    double most = all_rows(p) * n, tokens = 0;
    int i;
    for (i = 0; i < j->n_ops; i++) {
        const struct job_op *o = &j->ops[i];
        int first = o->n_at ? o->at[0] / BLOCK * BLOCK : n;
        double tensors = (o->tensors & CACHE_K ? 1 : 0) + (o->tensors & CACHE_V ? 1 : 0);
        if (o->when == WHEN_PREFILL)
            tokens += first < n ? all_rows(p) * (n - first) : 0; /* what comes behind it may change in all layers */
        else if (finished && o->op != EDIT_MASK)
            tokens += tensors * o->n_layers * touched(o->at, o->n_at, n);
    }
    return tokens < most ? tokens : most;
}

/* The chunks of the prompt as it is without edits, once. */
static void count_prompt(struct counting *c, const struct job *j, int n)
{
    struct buf key = {0};
    buf_add(&key, c->p->jobs->prompts[j->prompt].sha256, 32);
    map_key_int(&key, n);
    if (map_put(c->prompts, key.p, key.n, 0) < 0) c->tokens += all_rows(c->p) * n;
    buf_free(&key);
}

static void count_captures(struct counting *c, const struct job *j)
{
    const struct plan *p = c->p;
    int n = p->jobs->prompts[j->prompt].n_tokens, held = n - 1, end = n + p->s->decode.max_tokens - 1;
    int shared = held / BLOCK * BLOCK; /* the last block of the prompt is filled up by new tokens */
    if (j->moments & (MOMENT_PREFILL | MOMENT_EDITED)) count_prompt(c, j, held);
    if (j->moments & MOMENT_PREFILL) c->tokens += changed(p, j, held, false);
    if (j->moments & MOMENT_EDITED) c->tokens += changed(p, j, held, true);
    if (!(j->moments & MOMENT_END)) return;
    count_prompt(c, j, shared);
    c->tokens += changed(p, j, shared, true) + all_rows(p) * (end - shared);
}

double plan_unique_bytes(const struct plan *p)
{
    struct counting c = {.p = p, .prompts = map_new()};
    int i;
    for (i = 0; i < p->jobs->n; i++)
        if (plan_fate(p, i) == FATE_RUN) count_captures(&c, &p->jobs->jobs[i]);
    map_free(c.prompts);
    return c.tokens / all_rows(p) * (double)p->info->kv_bytes_per_token;
}

double plan_free_bytes(const char *db)
{
    const char *slash = strrchr(db, '/');
    struct statvfs v;
    char *folder = mem_strdup(slash ? db : ".");
    int rc;
    if (slash) folder[slash == db ? 1 : slash - db] = 0;
    rc = statvfs(folder, &v);
    free(folder);
    return rc ? -1 : (double)v.f_bavail * (double)v.f_frsize;
}
