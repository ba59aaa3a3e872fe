/* family_edit.c: operations become edits of the engine: donors become caches or numbers, means are taken, places of scores are
 * looked up. */
#include "family_in.h"

#include <stdlib.h>
#include <string.h>

enum { KEPT = CACHE_K | CACHE_V };

void family_edits_free(struct edits *x)
{
    while (x->n_made > 0) free(x->made[--x->n_made]);
    free(x->made);
    free(x->v);
    *x = (struct edits){0};
}

static void *keep(struct edits *x, void *p)
{
    if ((x->n_made & (x->n_made - 1)) == 0) x->made = mem_grow(x->made, x->n_made ? 2 * (size_t)x->n_made : 1, sizeof *x->made);
    return x->made[x->n_made++] = p;
}

static void add(struct edits *x, const struct edit *ed)
{
    if ((x->n & (x->n - 1)) == 0) x->v = mem_grow(x->v, x->n ? 2 * (size_t)x->n : 1, sizeof *x->v);
    x->v[x->n++] = *ed;
}

int family_donor(struct families *f, int prompt, int job)
{
    return job >= 0 ? family_of_job(f, job) : prompt;
}

/* ---- values ---- */

/* One site's vectors of places of a base, as f32: (n_layers, n_at, width). */
static int vectors(struct families *f, int base, int site, const struct job_op *op, const int *at, int n, float *out, err *e)
{
    const struct engine_info *info = engine_info(f->en);
    size_t width = (size_t)engine_site_width(f->en, site, 0), E = (size_t)info->head_dim;
    char *raw;
    struct base *b;
    int l, i;
    if (site & ~KEPT) return family_vectors(f, base, site, op->layers, op->n_layers, at, n, out, e);
    if (family_whole(f, base, &b, e)) return -1;
    raw = mem_array((size_t)info->n_kv_head * E, sizeof *out);
    for (l = 0; l < op->n_layers; l++)
        for (i = 0; i < n; i++, out += width) {
            cache_read(b->whole, op->layers[l], site, at[i], 1, raw);
            engine_kv_to_f32(info->kv, raw, out, width);
        }
    free(raw);
    return 0;
}

/* The mean over all sets, summed in their order in double: (n_layers, width). */
static int mean(struct families *f, const struct job_op *op, int site, float *out, err *e)
{
    const struct job_vector *v = op->vector;
    size_t width = (size_t)engine_site_width(f->en, site, 0), all = (size_t)op->n_layers * width, k;
    double *sum = mem_array(all, sizeof *sum);
    int s, i, l, count = 0, rc = 0;
    for (s = 0; s < v->n_sets && !rc; s++) {
        const struct job_set *set = &v->sets[s];
        float *x = mem_array((size_t)set->n * all, sizeof *x);
        rc = vectors(f, family_donor(f, set->prompt, set->job), site, op, set->at, set->n, x, e);
        for (l = 0; l < op->n_layers && !rc; l++)
            for (i = 0; i < set->n; i++)
                for (k = 0; k < width; k++)
                    sum[(size_t)l * width + k] += (double)x[((size_t)l * (size_t)set->n + (size_t)i) * width + k];
        count += set->n;
        free(x);
    }
    for (k = 0; k < all && !rc; k++) out[k] = (float)(sum[k] / count);
    free(sum);
    return rc;
}

/* What an `add` adds: (n_layers, width). */
static int added(struct families *f, const struct job_op *op, float *out, err *e)
{
    const struct job_vector *v = op->vector;
    size_t width = (size_t)engine_site_width(f->en, op->tensors, 0), n = (size_t)op->n_layers * width, i;
    float *minus;
    int rc = 0;
    if (v->rows) {
        for (i = 0; i < n; i++) out[i] = v->rows[v->n_rows == 1 ? i % width : i];
        return 0;
    }
    minus = mem_array(n, sizeof *minus);
    rc = family_vectors(f, v->from.prompt, op->tensors, op->layers, op->n_layers, &v->from.at, 1, out, e) ||
                 family_vectors(f, v->minus.prompt, op->tensors, op->layers, op->n_layers, &v->minus.at, 1, minus, e)
             ? -1
             : 0;
    for (i = 0; i < n && !rc; i++) out[i] -= minus[i];
    free(minus);
    return rc;
}

/* ---- one operation ---- */

/* The numbers that an edit of one site brings along, or NULL: none. */
static int numbers(struct families *f, const struct job_op *op, int site, int n_at, struct edits *out, const float **v, err *e)
{
    size_t width = (size_t)engine_site_width(f->en, site, 0), places = (size_t)op->n_layers * (size_t)n_at;
    float *x;
    *v = NULL;
    if (op->op == EDIT_TRANSPLANT && op->vector) { /* stored: K before V */
        *v = op->vector->rows + (op->tensors == KEPT && site == CACHE_V ? places * width : 0);
        return 0;
    }
    if (op->op == EDIT_MEAN) {
        *v = x = keep(out, mem_array((size_t)op->n_layers * width, sizeof *x));
        return mean(f, op, site, x, e);
    }
    if (op->op == EDIT_ADD) {
        *v = x = keep(out, mem_array((size_t)op->n_layers * width, sizeof *x));
        return added(f, op, x, e);
    }
    if (op->op != EDIT_TRANSPLANT || !(site & ~KEPT)) return 0;
    *v = x = keep(out, mem_array(places * width, sizeof *x));
    return family_vectors(f, family_donor(f, op->donor_prompt, op->donor_job), site, op->layers, op->n_layers, op->donor_at,
                          n_at, x, e);
}

int family_edit(struct families *f, const struct job *j, const struct job_op *op, const int *at, int n_at, struct edits *out,
                err *e)
{
    bool by_site = op->op == EDIT_MEAN || op->op == EDIT_ADD || (op->op == EDIT_TRANSPLANT && op->vector);
    struct edit ed = {.op = op->op,
                      .tensors = op->tensors,
                      .layers = op->layers,
                      .heads = op->heads,
                      .at = at,
                      .n_layers = op->n_layers,
                      .n_heads = op->n_heads,
                      .n_at = n_at,
                      .donor_at = op->donor_at,
                      .rerotate = op->rerotate,
                      .by = op->by,
                      .sigma = op->sigma,
                      .seed = op->seed,
                      .bits = op->bits,
                      .per_channel = op->per_channel,
                      .compact = op->compact,
                      .queries = op->queries,
                      .n_queries = op->n_queries};
    struct base *b;
    int site;
    (void)j;
    if (op->op == EDIT_TRANSPLANT && !op->vector && !(op->tensors & ~KEPT)) {
        if (family_whole(f, family_donor(f, op->donor_prompt, op->donor_job), &b, e)) return -1;
        ed.donor = b->whole;
        add(out, &ed);
        return 0;
    }
    if (!by_site) {
        if (op->op == EDIT_TRANSPLANT && numbers(f, op, op->tensors, n_at, out, &ed.vector, e)) return -1;
        add(out, &ed);
        return 0;
    }
    for (site = op->tensors & -op->tensors; site && site <= op->tensors; site *= 2) {
        ed.tensors = site;
        if (numbers(f, op, site, n_at, out, &ed.vector, e)) return -1;
        add(out, &ed);
    }
    return 0;
}

int family_places(struct families *f, const struct job *j, const struct job_op *op, struct edits *out, const int **at, int *n,
                  err *e)
{
    int *taken;
    *at = op->at;
    *n = op->n_at;
    if (!op->score) return 0;
    *n = op->score->count;
    *at = taken = keep(out, mem_array((size_t)*n, sizeof *taken));
    return family_score(f, j->prompt, op, taken, e);
}

/* ---- new tokens ---- */

/* Numbers count from len on, where the first new token will stand. */
static int *shifted(struct edits *out, const int *v, int n, int len)
{
    int *at = keep(out, mem_array((size_t)n, sizeof *at)), i;
    for (i = 0; i < n; i++) at[i] = v[i] + len;
    return at;
}

static int *run(struct edits *out, int first, int last, int *n)
{
    int *at, i;
    *n = last - first + 1;
    at = keep(out, mem_array((size_t)*n, sizeof *at));
    for (i = 0; i < *n; i++) at[i] = first + i;
    return at;
}

/* A knockout of the whole prompt goes on for new tokens, and one at steps is of these alone. */
static void query_edit(struct edits *out, const struct job_op *op, int len)
{
    struct edit *ed = &out->v[out->n - 1];
    if (op->when != WHEN_STEPS) return;
    ed->queries = run(out, len + op->first_step, len + op->last_step, &ed->n_queries);
}

static bool goes_on(const struct job_op *op)
{
    return op->op == EDIT_KNOCKOUT && ((op->when == WHEN_PREFILL && !op->queries) || op->when == WHEN_STEPS);
}

static int decode_op(struct families *f, const struct job *j, const struct job_op *op, int len, struct flight *out, err *e)
{
    const int *at;
    int n, first, i;
    if (op->n_gen_at || goes_on(op)) {
        if (op->n_gen_at) {
            n = op->n_gen_at;
            at = shifted(&out->decode, op->gen_at, n, len);
        } else if (family_places(f, j, op, &out->decode, &at, &n, e)) {
            return -1;
        }
        if (family_edit(f, j, op, at, n, &out->decode, e)) return -1;
        if (op->op == EDIT_KNOCKOUT) query_edit(&out->decode, op, len);
        return 0;
    }
    if (op->when != WHEN_STEPS) return 0;
    first = out->done.n;
    if (family_places(f, j, op, &out->done, &at, &n, e) || family_edit(f, j, op, at, n, &out->done, e)) return -1;
    out->steps = mem_grow(out->steps, (size_t)out->done.n, sizeof *out->steps);
    for (i = first; i < out->done.n; i++) out->steps[i] = (struct step_edit){op->first_step, op->last_step, out->done.v[i]};
    return 0;
}

int family_decode(struct families *f, const struct job *j, int len, struct flight *out, err *e)
{
    int i;
    family_edits_free(&out->done); /* edits of the finished cache are made */
    for (i = 0; i < j->n_ops; i++)
        if (decode_op(f, j, &j->ops[i], len, out, e)) return -1;
    out->later = (struct watch){.edits = out->decode.v, .n_edits = out->decode.n};
    out->out->row.watch = out->decode.n ? &out->later : NULL;
    out->out->row.steps = out->steps;
    out->out->row.n_steps = out->done.n;
    return 0;
}
