/* only.c: see only.h. */
#include "only.h"

#include "map.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

/* ---- which are asked for ---- */

/* The pattern without what stands for anything, to be compared with labels. */
static char *plain(const char *glob)
{
    char *s = mem_strdup(glob), *to = s;
    for (const char *p = glob; *p; p++)
        if (!strchr("*?[]", *p)) *to++ = *p;
    *to = 0;
    return s;
}

/* Labels like the pattern, at most three: those that hold it, else the nearest one, else the first ones. */
static void say_near(const struct jobs *jobs, const char *glob, struct buf *out)
{
    enum { SHOWN = 3 };
    char *like = plain(glob);
    const char **labels = mem_array((size_t)jobs->n + 1, sizeof *labels), *near;
    int i, n = 0;
    for (i = 0; i < jobs->n; i++) labels[i] = jobs->jobs[i].label;
    for (i = 0; i < jobs->n && n < SHOWN && *like; i++)
        if (strstr(labels[i], like)) buf_printf(out, n++ ? ", %s" : "; labels like it: %s", labels[i]);
    near = n || jobs->n > 20000 ? NULL : nearest_word(like, labels); /* comparing is slow */
    if (near) buf_printf(out, "; did you mean '%s'?", near);
    for (i = 0; i < jobs->n && !n && !near && i < SHOWN; i++)
        buf_printf(out, i ? ", %s" : "; the labels begin with %s", labels[i]);
    free(labels);
    free(like);
}

static int ask(struct only *o, const struct jobs *jobs, const char *glob, err *e)
{
    struct buf near = {0};
    int i, found = 0;
    for (i = 0; i < jobs->n; i++) {
        if (fnmatch(glob, jobs->jobs[i].label, 0) != 0) continue;
        found++;
        o->asked[i] = true;
    }
    if (found) return 0;
    say_near(jobs, glob, &near);
    err_set(e, ERR_INPUT, "--only '%s': no job has such a label%s", glob, near.n ? near.p : "");
    buf_free(&near);
    return -1;
}

/* ---- what they need ---- */

static bool shared(const struct condition *c, int axis)
{
    int k;
    for (k = 0; c && k < c->n_over; k++)
        if (c->over[k] == axis) return true;
    return false;
}

static void shared_key(const int pair[2], const struct job *j, const struct condition *with, struct buf *key)
{
    int k;
    key->n = 0;
    buf_add(key, pair, 2 * sizeof *pair);
    buf_add(key, &j->prompt, sizeof j->prompt);
    for (k = 0; k < j->n_values; k++)
        if (shared(with, j->values[k].axis)) buf_add(key, j->values[k].text, strlen(j->values[k].text) + 1);
}

struct needs {
    struct only *o;
    const struct spec *s;
    const struct jobs *jobs;
    struct map *pairs; /* a condition (-1: controls) and the one it is against, for which `first` is filled */
    struct map *first; /* such a pair, prompt and shared values -> job */
    int *queue, n;
};

static void need(struct needs *x, int job)
{
    if (job < 0 || x->o->needed[job]) return;
    x->o->needed[job] = true;
    x->queue[x->n++] = job;
}

/* What a job is measured against: the first job of the condition on the same prompt with the same values of the axes that both
   have. */
static void need_partner(struct needs *x, const struct job *j, int against)
{
    const struct condition *own = j->condition < 0 ? NULL : &x->s->conditions[j->condition];
    const int pair[2] = {j->condition, against};
    struct buf key = {0};
    int i;
    for (i = map_put(x->pairs, pair, sizeof pair, 0) < 0 ? 0 : x->jobs->n; i < x->jobs->n; i++) {
        if (x->jobs->jobs[i].condition != against) continue;
        shared_key(pair, &x->jobs->jobs[i], own, &key);
        map_put(x->first, key.p, key.n, i);
    }
    shared_key(pair, j, &x->s->conditions[against], &key);
    need(x, map_get(x->first, key.p, key.n));
    buf_free(&key);
}

static void need_of(struct needs *x, int job)
{
    const struct job *j = &x->jobs->jobs[job];
    int i;
    need(x, j->same_as);
    need(x, j->against);
    for (i = 0; i < j->n_ops; i++) need(x, j->ops[i].donor_job);
    if (!x->o->asked[job]) return; /* what is only made from is not measured */
    for (i = 0; i < x->s->n_metrics; i++)
        if (x->s->metrics[i].kind == METRIC_FIRST_DIVERGENCE) need_partner(x, j, x->s->metrics[i].against);
}

static void add_needs(struct only *o, const struct spec *s, const struct jobs *jobs)
{
    struct needs x = {.o = o, .s = s, .jobs = jobs, .pairs = map_new(), .first = map_new()};
    int i;
    x.queue = mem_array((size_t)jobs->n, sizeof *x.queue);
    for (i = 0; i < jobs->n; i++)
        if (o->asked[i]) need(&x, i);
    for (i = 0; i < x.n; i++) need_of(&x, x.queue[i]);
    o->n_needed = x.n;
    map_free(x.pairs);
    map_free(x.first);
    free(x.queue);
}

int only_choose(struct only *o, const struct spec *s, const struct jobs *jobs, const char *const *globs, int n, err *e)
{
    int i, rc = 0;
    *o = (struct only){mem_array((size_t)jobs->n, sizeof(bool)), mem_array((size_t)jobs->n, sizeof(bool)), 0, 0};
    if (n == 0) {
        memset(o->asked, true, (size_t)jobs->n);
        memset(o->needed, true, (size_t)jobs->n);
        o->n_asked = o->n_needed = jobs->n;
        return 0;
    }
    for (i = 0; i < n && rc == 0; i++) rc = ask(o, jobs, globs[i], e);
    for (i = 0; i < jobs->n; i++) o->n_asked += o->asked[i];
    if (rc == 0) add_needs(o, s, jobs);
    if (rc) only_free(o);
    return rc;
}

void only_free(struct only *o)
{
    free(o->asked);
    free(o->needed);
    *o = (struct only){0};
}
