/* job_record.c: what the captures of a spec record of a job: sites, layers and positions, each pair of site and layer once. */
#include "job_parts.h"

#include <stdlib.h>
#include <string.h>

enum { SITES = 7 };
static const int sites[SITES] = {SITE_K_PRE, SITE_RESID, SITE_ATTN_OUT, SITE_MLP_OUT, SITE_HEAD_OUT, SITE_ATTN, SITE_LOGITS};
static const double BYTES_MAX = 4e9; /* of one job: they are in memory until they are stored */

/* Records of the jobs of one condition on one prompt, whatever the values of its axes. */
struct job_wanted {
    enum { WANTED_NOT_MADE, WANTED_MADE, WANTED_BAD } state;
    const struct job_record *records;
    int n;
};

/* ---- a set of layers and positions per site ---- */

struct marks {
    int n_layers, n_tokens;
    unsigned char *on[SITES]; /* (n_layers + 1, n_tokens) or NULL: none; row 0 is layer -1 */
};

static void mark(struct marks *m, int site, const int *layers, int n_layers, const int *at, int n_at)
{
    int s = 0, l, i;
    while (sites[s] != site) s++;
    if (!m->on[s]) m->on[s] = mem_array((size_t)(m->n_layers + 1), (size_t)m->n_tokens);
    for (l = 0; l < n_layers; l++) {
        unsigned char *row = m->on[s] + (size_t)(layers[l] + 1) * (size_t)m->n_tokens;
        for (i = 0; i < n_at; i++) row[at[i]] = 1;
    }
}

static void mark_records(struct marks *m, const struct job_record *r, int n)
{
    int i;
    for (i = 0; i < n; i++) mark(m, r[i].site, r[i].layers, r[i].n_layers, r[i].at, r[i].n_at);
}

static void marks_free(struct marks *m)
{
    int s;
    for (s = 0; s < SITES; s++) free(m->on[s]);
}

static int count(const unsigned char *row, int n)
{
    int i, c = 0;
    for (i = 0; i < n; i++) c += row[i];
    return c;
}

/* Layers of one site with the same positions are one record. Appends to out, which has room; returns how many. */
static int site_records(const struct marks *m, int s, arena *mem, struct job_record *out)
{
    size_t n = (size_t)m->n_tokens;
    bool *taken = mem_array((size_t)(m->n_layers + 1), sizeof *taken);
    int records = 0, l, k, i;
    for (l = 0; l <= m->n_layers; l++) {
        const unsigned char *row = m->on[s] + (size_t)l * n;
        int n_at = taken[l] ? 0 : count(row, m->n_tokens), n_layers = 0, *layers, *at;
        if (n_at == 0) continue;
        layers = arena_array(mem, (size_t)(m->n_layers + 1 - l), sizeof *layers);
        at = arena_array(mem, (size_t)n_at, sizeof *at);
        for (i = n_at = 0; i < m->n_tokens; i++)
            if (row[i]) at[n_at++] = i;
        for (k = l; k <= (l == 0 ? 0 : m->n_layers); k++) { /* the embeddings have a name of their own */
            if (taken[k] || memcmp(row, m->on[s] + (size_t)k * n, n) != 0) continue;
            taken[k] = true;
            layers[n_layers++] = k - 1;
        }
        out[records++] = (struct job_record){sites[s], layers, at, n_layers, n_at};
    }
    free(taken);
    return records;
}

static const struct job_record *records_of(const struct marks *m, arena *mem, int *n)
{
    struct job_record *all = mem_array((size_t)(m->n_layers + 1) * SITES, sizeof *all), *out;
    int s;
    for (s = *n = 0; s < SITES; s++)
        if (m->on[s]) *n += site_records(m, s, mem, all + *n);
    out = arena_array(mem, (size_t)*n, sizeof *out);
    if (*n) memcpy(out, all, (size_t)*n * sizeof *out);
    free(all);
    return out;
}

/* ---- the captures of the spec ---- */

static double bytes_of(const engine *en, int n_tokens, const struct job_record *r, int n)
{
    double bytes = 0;
    int i;
    for (i = 0; i < n; i++) bytes += 4.0 * r[i].n_layers * r[i].n_at * engine_site_width(en, r[i].site, n_tokens);
    return bytes;
}

int64_t job_record_bytes(const engine *en, const struct jobs *jobs, const struct job *j)
{
    return (int64_t)bytes_of(en, jobs->prompts[j->prompt].n_tokens, j->records, j->n_records);
}

static bool is_for(const struct tensors *t, int condition)
{
    int i;
    for (i = 0; i < t->n; i++)
        if (t->conditions[i] == condition) return true;
    return !t->conditions;
}

static int mark_capture(struct expand *x, int prompt, const struct tensors *t, struct marks *m)
{
    static const int before = -1, behind = 0; /* layers of the embeddings and of the logits */
    struct chosen c = job_choose(x, prompt, &t->select, false);
    int *layers, n_layers, s;
    if (c.n < 0) return -1;
    if (bind_ranges(&t->layers, x->info->n_layer, "layer", x->model, x->mem, x->d, &layers, &n_layers)) return -1;
    if (t->embed) mark(m, SITE_RESID, &before, 1, c.at, c.n);
    for (s = 0; s < SITES; s++) {
        if (!(t->sites & sites[s])) continue;
        if (sites[s] == SITE_LOGITS)
            mark(m, SITE_LOGITS, &behind, 1, c.at, c.n);
        else
            mark(m, sites[s], layers, n_layers, c.at, c.n);
    }
    return 0;
}

static int make_wanted(struct expand *x, int prompt, int condition, struct job_wanted *w)
{
    struct marks m = {.n_layers = x->info->n_layer, .n_tokens = x->prompts[prompt].n_tokens};
    const struct tensors *first = NULL;
    double bytes;
    int i, rc = 0;
    for (i = 0; i < x->s->n_tensors; i++) {
        if (!is_for(&x->s->tensors[i], condition)) continue;
        if (!first) first = &x->s->tensors[i];
        if (mark_capture(x, prompt, &x->s->tensors[i], &m)) rc = -1;
    }
    if (!rc) w->records = records_of(&m, x->mem, &w->n);
    marks_free(&m);
    bytes = bytes_of(x->en, x->prompts[prompt].n_tokens, w->records, w->n);
    if (bytes <= BYTES_MAX) return rc;
    diag_add(x->d, DIAG_ERROR, "E360", first->at, 1,
             "what is recorded of one job of prompt '%s' takes %.1f GB; at most %.0f GB", x->s->prompts[prompt].name,
             bytes / 1e9, BYTES_MAX / 1e9);
    diag_help(x->d, "help: fewer layers, or positions: at: { tokens: [-1] }");
    return -1;
}

int job_records(struct expand *x, struct job *j)
{
    int n = x->s->n_conditions;
    struct job_wanted *w;
    if (x->s->n_tensors == 0) return 0;
    if (!x->wanted) x->wanted = arena_array(x->mem, (size_t)x->s->n_prompts * (size_t)(n + 1), sizeof *x->wanted);
    w = &x->wanted[(size_t)j->prompt * (size_t)(n + 1) + (size_t)(j->condition < 0 ? n : j->condition)];
    if (w->state == WANTED_NOT_MADE) w->state = make_wanted(x, j->prompt, j->condition, w) ? WANTED_BAD : WANTED_MADE;
    j->records = w->records;
    j->n_records = w->n;
    return w->state == WANTED_BAD ? -1 : 0;
}

void job_records_join(struct expand *x, struct job *to, const struct job *from)
{
    struct marks m = {.n_layers = x->info->n_layer, .n_tokens = x->prompts[to->prompt].n_tokens};
    if (from->n_records == 0 || from->records == to->records) return;
    mark_records(&m, to->records, to->n_records);
    mark_records(&m, from->records, from->n_records);
    to->records = records_of(&m, x->mem, &to->n_records);
    marks_free(&m);
}
