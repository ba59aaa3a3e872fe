/* family_base.c: passes over prompts that several jobs use: prompts as they are, donors with edits, and the leading edits that
 * jobs of a sweep share. What jobs take from such a pass is recorded in it, once for all of them. */
#include "family_in.h"

#include "progress.h"

#include <stdlib.h>
#include <string.h>

/* What the recordings of one base may take. What enters layers is worth less than the rest: without it jobs compute more. */
static const double RECORDED_MAX = 192e6;

int family_held(const struct families *f, int prompt)
{
    return f->jobs->prompts[prompt].n_tokens - f->jobs->feed[prompt];
}

/* ---- which base ---- */

static int base_add(struct families *f, const struct base *b)
{
    if ((f->n_bases & (f->n_bases - 1)) == 0 || f->n_bases == f->jobs->n_prompts)
        f->bases = mem_grow(f->bases, 2 * (size_t)f->n_bases + 1, sizeof *f->bases);
    f->bases[f->n_bases] = *b;
    return f->n_bases++;
}

int family_of_job(struct families *f, int job)
{
    const struct job *j = &f->jobs->jobs[job];
    int found = map_put(f->known, j->key, sizeof j->key, f->n_bases);
    if (found >= 0) return found;
    return base_add(f, &(struct base){.prompt = j->prompt, .of = j, .n_ops = -1});
}

int family_of_ops(struct families *f, const struct job *j, int n_ops)
{
    struct buf b = {0};
    int i, found;
    map_key_int(&b, j->prompt);
    map_key_int(&b, n_ops);
    for (i = 0; i < n_ops; i++) job_op_bytes(&j->ops[i], &b);
    found = map_put(f->known, b.p, b.n, f->n_bases);
    buf_free(&b);
    if (found >= 0) return found;
    return base_add(f, &(struct base){.prompt = j->prompt, .of = j, .n_ops = n_ops});
}

/* ---- recordings ---- */

static int n_tokens(const struct families *f, int base)
{
    return f->jobs->prompts[f->bases[base].prompt].n_tokens;
}

static struct recording *recording_of(const struct families *f, int base, int site, bool input, int *index)
{
    const int key[3] = {base, site, input};
    *index = map_get(f->sites, key, sizeof key);
    return *index < 0 ? NULL : &f->recordings[*index];
}

void family_want(struct families *f, int base, int site, bool input, const int *layers, int n_layers, const int *at, int n_at)
{
    const int key[3] = {base, site, input};
    int i = map_put(f->sites, key, sizeof key, f->n_recordings), l, k;
    size_t n = (size_t)n_tokens(f, base);
    struct recording *r;
    if (i < 0) {
        if ((f->n_recordings & (f->n_recordings - 1)) == 0)
            f->recordings = mem_grow(f->recordings, f->n_recordings ? 2 * (size_t)f->n_recordings : 1, sizeof *f->recordings);
        i = f->n_recordings++;
        f->recordings[i] = (struct recording){.base = base, .site = site, .input = input};
    }
    r = &f->recordings[i];
    if (r->layers) return;                                        /* planned already */
    if (!r->on) r->on = mem_array((size_t)f->n_layer + 1 + n, 1); /* layers, then positions */
    for (l = 0; l < n_layers; l++) r->on[layers[l] + 1] = 1;
    for (k = 0; k < n_at; k++) r->on[f->n_layer + 1 + at[k]] = 1;
    r->users++;
}

static int *list_of(const unsigned char *on, int n, int offset, int **place, int *count)
{
    int *list = mem_array((size_t)n, sizeof *list), i;
    *place = mem_array((size_t)n, sizeof **place);
    for (i = *count = 0; i < n; i++) {
        (*place)[i] = on[i] ? *count : -1;
        if (on[i]) list[(*count)++] = i + offset;
    }
    return list;
}

static double bytes_of(const struct families *f, const struct recording *r)
{
    return 4.0 * r->n_layers * r->n_at * engine_site_width(f->en, r->site, 0);
}

void family_plan_recordings(struct families *f)
{
    double *bytes = mem_array((size_t)f->n_bases, sizeof *bytes);
    int i, pass;
    for (i = 0; i < f->n_recordings; i++) {
        struct recording *r = &f->recordings[i];
        if (r->layers) continue;
        r->layers = list_of(r->on, f->n_layer + 1, -1, &r->row, &r->n_layers);
        r->at = list_of(r->on + f->n_layer + 1, n_tokens(f, r->base), 0, &r->col, &r->n_at);
    }
    for (pass = 0; pass < 2; pass++) /* values first: what they cost is gone for inputs */
        for (i = 0; i < f->n_recordings; i++) {
            struct recording *r = &f->recordings[i];
            if (r->input != (pass == 1)) continue;
            r->off = bytes[r->base] + bytes_of(f, r) > RECORDED_MAX;
            if (!r->off) bytes[r->base] += bytes_of(f, r);
        }
    free(bytes);
}

const float *family_recorded(const struct families *f, int base, int site, bool input, int layer, int at)
{
    int i;
    const struct recording *r = recording_of(f, base, site, input, &i);
    int row = r && r->values ? r->row[layer + 1] : -1, col = row >= 0 ? r->col[at] : -1;
    if (col < 0) return NULL;
    return r->values + ((size_t)row * (size_t)r->n_at + (size_t)col) * (size_t)engine_site_width(f->en, site, 0);
}

bool family_has(const struct families *f, int base, int site, bool input)
{
    int i;
    const struct recording *r = recording_of(f, base, site, input, &i);
    return r && r->layers && !r->off;
}

bool family_holds(const struct families *f, int base, int site, bool input, int layer, int at)
{
    int i;
    const struct recording *r = recording_of(f, base, site, input, &i);
    return r && r->layers && !r->off && r->row[layer + 1] >= 0 && r->col[at] >= 0;
}

/* ---- making a base ---- */

/* The pass that makes a base: everything recorded of it, and what jobs of their own want. */
static int fly_base(struct families *f, int base, const struct record *more, int n_more, struct flight *fl, err *e)
{
    const struct base *b = &f->bases[base];
    int n = n_tokens(f, base), i, rc;
    int last = n - 1;
    static const int layer = 0;
    *fl = (struct flight){.j = b->of, .prompt = b->prompt, .base = b->prompt, .finish = b->of && b->n_ops < 0, .alone = !b->of};
    if (b->of) fl->n_ops = b->n_ops < 0 ? b->of->n_ops : b->n_ops;
    fl->records = mem_array((size_t)f->n_recordings + (size_t)n_more + 1, sizeof *fl->records);
    for (i = 0; i < n_more; i++) fl->records[fl->n_records++] = more[i];
    for (i = 0; i < f->n_recordings && !n_more; i++) {
        struct recording *r = &f->recordings[i];
        if (r->base != base || r->off || r->users == 0 || !r->layers || r->values) continue;
        r->values =
            mem_array((size_t)r->n_layers * (size_t)r->n_at, (size_t)engine_site_width(f->en, r->site, n) * sizeof *r->values);
        fl->records[fl->n_records++] = (struct record){r->site, r->layers, r->at, r->n_layers, r->n_at, n, r->values};
    }
    if (b->want_logits && !n_more) {
        f->bases[base].logits = mem_array((size_t)engine_info(f->en)->n_vocab, sizeof *b->logits);
        fl->records[fl->n_records++] = (struct record){SITE_LOGITS, &layer, &last, 1, 1, n, f->bases[base].logits};
    }
    rc = family_fly(f, fl, 1, e);
    if (!rc && fl->error.code) rc = err_set(e, fl->error.code, "%s", fl->error.msg);
    return rc ? err_in(e, "prompt '%s'", f->jobs->prompts[f->bases[base].prompt].prompt->name) : 0;
}

static bool has_recordings(const struct families *f, int base)
{
    int i;
    for (i = 0; i < f->n_recordings; i++)
        if (f->recordings[i].base == base && !f->recordings[i].off && f->recordings[i].users) return true;
    return f->bases[base].want_logits;
}

static void forget(struct families *f, int base)
{
    int i;
    for (i = 0; i < f->n_recordings; i++) {
        if (f->recordings[i].base != base) continue;
        free(f->recordings[i].values);
        f->recordings[i].values = NULL;
    }
    free(f->bases[base].logits);
    f->bases[base].logits = NULL;
}

int family_whole(struct families *f, int base, struct base **out, err *e)
{
    struct flight fl = {0};
    struct base *b = &f->bases[base];
    int rc = 0, last = n_tokens(f, base) - 1;
    *out = b;
    if (b->whole) return 0;
    if (!b->of && b->cache && !has_recordings(f, base)) { /* what is held is a part of it */
        b->whole = cache_fork(b->cache);
        if (cache_len(b->whole) <= last)
            rc = cache_feed(b->whole, f->jobs->prompts[b->prompt].ids + cache_len(b->whole), last + 1 - cache_len(b->whole),
                            &b->last, e);
        else
            b->last = b->first;
        if (rc) cache_free(b->whole);
        if (rc) b->whole = NULL;
        return rc ? err_in(e, "prompt '%s'", f->jobs->prompts[b->prompt].prompt->name) : 0;
    }
    rc = fly_base(f, base, NULL, 0, &fl, e);
    b = *out = &f->bases[base]; /* donors may have been added */
    if (!rc) {
        b->whole = fl.cache;
        b->last = fl.pick;
        b->us += fl.us;
        fl.cache = NULL;
    } else {
        forget(f, base);
    }
    family_flight_clear(&fl);
    return rc;
}

/* With reuse_logits the finished cache holds the whole prompt and the first token is picked before any edit; else all but those
   which are fed after the edit. */
int family_cache(struct families *f, int prompt, struct base **out, err *e)
{
    const struct bound_prompt *p = &f->jobs->prompts[prompt];
    struct base *b = &f->bases[prompt];
    int held = family_held(f, prompt);
    bool reuse = held == p->n_tokens;
    int64_t before = progress_now_ms();
    *out = b;
    if (b->cache) return 0;
    if (b->whole || has_recordings(f, prompt)) { /* one pass for both */
        if (family_whole(f, prompt, &b, e)) return -1;
        *out = b;
        b->first = b->last;
        return cache_fork_at(&b->cache, b->whole, held, e);
    }
    if (cache_new(&b->cache, f->en, e)) return -1;
    if (held && cache_feed(b->cache, p->ids, held, reuse ? &b->first : NULL, e)) {
        cache_free(b->cache);
        b->cache = NULL;
        return err_in(e, "prompt '%s'", p->prompt->name);
    }
    b->us = (progress_now_ms() - before) * 1000;
    return 0;
}

/* False: not all of it is recorded. */
static bool copy_recorded(const struct families *f, int base, int site, const int *layers, int n_layers, const int *at,
                          int n_at, float *out)
{
    size_t width = (size_t)engine_site_width(f->en, site, 0);
    int l, i;
    for (l = 0; l < n_layers; l++)
        for (i = 0; i < n_at; i++, out += width) {
            const float *x = family_recorded(f, base, site, false, layers[l], at[i]);
            if (!x) return false;
            memcpy(out, x, width * sizeof *out);
        }
    return true;
}

/* Positions may repeat and come in any order here; a record's are rising. */
static int record_alone(struct families *f, int base, int site, const int *layers, int n_layers, const int *at, int n_at,
                        float *out, err *e)
{
    size_t width = (size_t)engine_site_width(f->en, site, 0);
    unsigned char *on = mem_alloc((size_t)n_tokens(f, base));
    int *place, *list, n, i, l, rc;
    struct flight fl = {0};
    float *values;
    for (i = 0; i < n_at; i++) on[at[i]] = 1;
    list = list_of(on, n_tokens(f, base), 0, &place, &n);
    values = mem_array((size_t)n_layers * (size_t)n, width * sizeof *values);
    rc = fly_base(f, base, &(struct record){site, layers, list, n_layers, n, n_tokens(f, base), values}, 1, &fl, e);
    for (l = 0; l < n_layers && !rc; l++)
        for (i = 0; i < n_at; i++, out += width)
            memcpy(out, values + ((size_t)l * (size_t)n + (size_t)place[at[i]]) * width, width * sizeof *out);
    family_flight_clear(&fl);
    free(values);
    free(place);
    free(list);
    free(on);
    return rc;
}

int family_vectors(struct families *f, int base, int site, const int *layers, int n_layers, const int *at, int n_at, float *out,
                   err *e)
{
    struct base *b;
    if (family_has(f, base, site, false)) {
        if (family_whole(f, base, &b, e)) return -1;
        if (copy_recorded(f, base, site, layers, n_layers, at, n_at, out)) return 0;
    }
    return record_alone(f, base, site, layers, n_layers, at, n_at, out, e);
}

int64_t family_us(struct base *b)
{
    int64_t us = b->us;
    b->us = 0;
    return us;
}

void family_base_clear(struct families *f, int base)
{
    struct base *b = &f->bases[base];
    cache_free(b->cache);
    cache_free(b->whole);
    b->cache = b->whole = NULL;
    forget(f, base);
}
