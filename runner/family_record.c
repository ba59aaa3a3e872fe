/* family_record.c: vectors that an edit in flight takes from an unedited pass of a prompt, recorded once for all jobs that
 * take the same ones. */
#include "family_in.h"

#include <stdlib.h>
#include <string.h>

static void add_ints(struct buf *b, const int *v, int n)
{
    buf_add(b, &n, sizeof n);
    buf_add(b, v, (size_t)n * sizeof *v);
}

/* Index of the recording with these layers and positions; what it points to must live as long as the jobs. */
static int find(struct families *f, const struct recording *want)
{
    struct buf key = {0};
    int found;
    add_ints(&key, &want->prompt, 1);
    add_ints(&key, &want->site, 1);
    add_ints(&key, want->layers, want->n_layers);
    add_ints(&key, want->at, want->n_at);
    found = map_put(f->known, key.p, key.n, f->n_recordings);
    buf_free(&key);
    if (found >= 0) return found;
    if ((f->n_recordings & (f->n_recordings - 1)) == 0)
        f->recordings = mem_grow(f->recordings, f->n_recordings ? 2 * (size_t)f->n_recordings : 1, sizeof *f->recordings);
    f->recordings[f->n_recordings] = *want;
    return f->n_recordings++;
}

static int of_transplant(struct families *f, const struct job_op *op)
{
    return find(f, &(struct recording){.prompt = op->donor_prompt,
                                       .site = op->tensors,
                                       .layers = op->layers,
                                       .at = op->donor_at,
                                       .n_layers = op->n_layers,
                                       .n_at = op->n_at});
}

static int of_place(struct families *f, const struct job_op *op, const struct job_place *p)
{
    return find(
        f,
        &(struct recording){
            .prompt = p->prompt, .site = op->tensors, .layers = op->layers, .at = &p->at, .n_layers = op->n_layers, .n_at = 1});
}

static void count(struct families *f, int i, int by)
{
    struct recording *r = &f->recordings[i];
    r->users += by;
    if (r->users) return;
    free(r->values);
    r->values = NULL;
}

void family_count_recordings(struct families *f, const struct job_op *op, int by)
{
    if (op->op == EDIT_TRANSPLANT && op->tensors & ~(CACHE_K | CACHE_V)) count(f, of_transplant(f, op), by);
    if (op->op != EDIT_ADD || op->vector->rows) return;
    count(f, of_place(f, op, &op->vector->from), by);
    count(f, of_place(f, op, &op->vector->minus), by);
}

/* Feeds the prompt from the first position wanted to the last; what lies before is the family's cache. */
static int record(struct families *f, struct recording *r, err *e)
{
    const struct bound_prompt *p = &f->jobs->prompts[r->prompt];
    size_t width = (size_t)engine_site_width(f->en, r->site, p->n_tokens);
    int first = r->at[0], n = r->at[r->n_at - 1] + 1 - first, rc;
    float *values = mem_array((size_t)r->n_layers * (size_t)r->n_at, width * sizeof *values);
    struct record rec = {r->site, r->layers, r->at, r->n_layers, r->n_at, p->n_tokens, values};
    struct watch w = {.records = &rec, .n_records = 1};
    struct base *b;
    cache *c = NULL;
    rc = family_base(f, r->prompt, &b, e) || cache_fork_at(&c, b->cache, first, e) ||
         cache_feed_watched(c, p->ids + first, n, &w, NULL, e);
    cache_free(c);
    if (rc) {
        free(values);
        return err_in(e, "recording prompt '%s'", p->prompt->name);
    }
    r->values = values;
    return 0;
}

static int get(struct families *f, int i, const float **out, err *e)
{
    struct recording *r = &f->recordings[i];
    if (!r->values && record(f, r, e)) return -1;
    *out = r->values;
    return 0;
}

int family_recorded(struct families *f, const struct job_op *op, const float **out, err *e)
{
    return get(f, of_transplant(f, op), out, e);
}

int family_vector(struct families *f, const struct job_op *op, float **out, err *e)
{
    const struct job_vector *v = op->vector;
    size_t width = (size_t)engine_site_width(f->en, op->tensors, 0), n = (size_t)op->n_layers * width, i;
    const float *from = NULL, *minus = NULL;
    if (!v->rows && (get(f, of_place(f, op, &v->from), &from, e) || get(f, of_place(f, op, &v->minus), &minus, e))) return -1;
    *out = mem_array(n, sizeof **out);
    for (i = 0; i < n; i++) (*out)[i] = v->rows ? v->rows[v->n_rows == 1 ? i % width : i] : from[i] - minus[i];
    return 0;
}
