/* upload.c: hands every number of a loaded model to the backend, once. On the CPU nothing moves: the backend gives back the
 * mapping of the file itself.
 *
 * Parts of one matrix may lie inside each other's bytes (a transposed matrix that holds q, k and v side by side, a head that is
 * the embedding), so tensors are first collected as ranges of bytes, and what overlaps goes up as one.
 */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

struct range {
    const char *from, *to; /* on the host */
    const char *there;     /* where `from` is in the backend's memory */
};

struct ranges {
    struct range *r; /* sorted, disjoint after `merge` */
    int n, cap;
};

static void add(struct ranges *all, const void *from, size_t bytes)
{
    if (!from || !bytes) return;
    if (all->n == all->cap) {
        all->cap = all->cap ? 2 * all->cap : 256;
        all->r = mem_grow(all->r, (size_t)all->cap, sizeof *all->r);
    }
    all->r[all->n++] = (struct range){from, (const char *)from + bytes, NULL};
}

static int by_address(const void *a, const void *b)
{
    const struct range *x = a, *y = b;
    if (x->from != y->from) return x->from < y->from ? -1 : 1;
    return (x->to > y->to) - (x->to < y->to);
}

static void merge(struct ranges *all)
{
    int i, kept = 0;
    if (all->n == 0) return;
    qsort(all->r, (size_t)all->n, sizeof *all->r, by_address);
    for (i = 1; i < all->n; i++) {
        struct range *last = &all->r[kept];
        if (all->r[i].from >= last->to)
            all->r[++kept] = all->r[i];
        else if (all->r[i].to > last->to)
            last->to = all->r[i].to;
    }
    all->n = kept + 1;
}

static const void *moved(const struct ranges *all, const void *host)
{
    const char *p = host;
    int low = 0, high = all->n - 1;
    if (!p) return NULL;
    while (low < high) { /* the last range that begins at or before p */
        int mid = (low + high + 1) / 2;
        if (all->r[mid].from <= p)
            low = mid;
        else
            high = mid - 1;
    }
    return all->r[low].there + (p - all->r[low].from);
}

/* ---- every tensor of a model: collected first, moved after that ---- */

struct visit {
    struct ranges *all;
    bool move;
};

static void matrix(const struct visit *v, struct mat *w)
{
    size_t bytes = mat_row_bytes(w) * (size_t)w->rows;
    if (!w->data) return;
    if (w->ldt) bytes = ((size_t)(w->cols - 1) * (size_t)w->ldt + (size_t)w->rows) * (size_t)dtype_block_bytes(w->type);
    if (v->move)
        w->data = moved(v->all, w->data);
    else
        add(v->all, w->data, bytes);
}

static void vector(const struct visit *v, const float **x, int n)
{
    if (v->move)
        *x = moved(v->all, *x);
    else
        add(v->all, *x, (size_t)n * sizeof **x);
}

static void linear(const struct visit *v, struct linear *l)
{
    matrix(v, &l->w);
    vector(v, &l->b, l->w.rows);
}

static void norm(const struct visit *v, struct norm *n, int width)
{
    vector(v, &n->w, width);
    vector(v, &n->b, width);
}

static void visit_model(const struct visit *v, struct model *m)
{
    bool all = m->qk_norm == QK_NORM_ALL;
    int i;
    matrix(v, &m->embed);
    matrix(v, &m->head);
    matrix(v, &m->pos_embed);
    norm(v, &m->out_norm, m->D);
    for (i = 0; i < m->n_layer; i++) {
        struct layer *y = &m->layers[i];
        norm(v, &y->attn_norm, m->D);
        norm(v, &y->ffn_norm, m->D);
        norm(v, &y->attn_post, m->D);
        norm(v, &y->ffn_post, m->D);
        norm(v, &y->q_norm, all ? m->H * m->E : m->E);
        norm(v, &y->k_norm, all ? m->G * m->E : m->E);
        linear(v, &y->q);
        linear(v, &y->k);
        linear(v, &y->v);
        linear(v, &y->qkv);
        linear(v, &y->o);
        linear(v, &y->gate);
        linear(v, &y->up);
        linear(v, &y->down);
    }
}

static double gib(double bytes)
{
    return bytes / (1 << 30);
}

/* Says no before minutes are spent on copying what cannot fit. */
static int check_room(const engine *en, double bytes, err *e)
{
    double all = (double)en->gpu.device.memory_bytes, have = (double)en->gpu.device.memory_free;
    if (!en->gpu.k || have <= 0 || bytes <= have) return 0;
    return err_set(e, ERR_ENV, "its weights need %.2f GiB of memory on the GPU; %.2f of %.2f GiB are free", gib(bytes),
                   gib(have), gib(all));
}

int upload(engine *en, err *e)
{
    struct ranges all = {0};
    struct visit v = {&all, false};
    double bytes = 0, done = 0;
    err why = {0};
    int i, rc = -1;
    visit_model(&v, &en->model);
    merge(&all);
    for (i = 0; i < all.n; i++) bytes += (double)(all.r[i].to - all.r[i].from);
    if (check_room(en, bytes, e)) goto out;
    en->uploaded = mem_array((size_t)all.n, sizeof *en->uploaded);
    for (i = 0; i < all.n; i++) {
        struct range *r = &all.r[i];
        r->there = en->k->weights(r->from, (size_t)(r->to - r->from));
        if (!r->there) {
            err_set(e, ERR_ENV, "no memory for the weights: %.2f of %.2f GiB are on the GPU", gib(done), gib(bytes));
            goto out;
        }
        en->uploaded[en->n_uploaded++] = r->there;
        done += (double)(r->to - r->from);
    }
    if (trouble_take(en, &why)) {
        err_set(e, ERR_ENV, "copying the weights to the GPU: %s", why.msg);
        goto out;
    }
    v.move = true;
    visit_model(&v, &en->model);
    en->weight_bytes = (int64_t)bytes;
    rc = 0;
out:
    free(all.r);
    return rc;
}

void upload_drop(engine *en)
{
    int i;
    for (i = 0; i < en->n_uploaded; i++) en->k->drop_weights(en->uploaded[i]);
    free(en->uploaded);
}
