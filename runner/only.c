/* only.c: see only.h. */
#include "only.h"

#include "partner.h"

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

struct needs {
    struct only *o;
    const struct spec *s;
    const struct jobs *jobs;
    struct partners *partners;
    bool *measured; /* (jobs->n) needed for a number: what that is made from is needed, too */
    int *queue, n;  /* may hold a job twice: first made, then measured */
};

static void need(struct needs *x, int job, bool measured)
{
    if (job < 0 || (x->o->needed[job] && (!measured || x->measured[job]))) return;
    x->o->n_needed += !x->o->needed[job];
    x->o->needed[job] = true;
    x->measured[job] |= measured;
    x->queue[x->n++] = job;
}

/* The job that a recovery of this one is measured by. */
static int place_of(struct needs *x, const struct metric_place *p, int job)
{
    int prompt = x->jobs->jobs[job].prompt;
    if (p->other) prompt = x->jobs->prompts[prompt].prompt->other;
    if (p->prompt >= 0) prompt = p->prompt;
    return prompt < 0 ? -1 : partner_of(x->partners, job, prompt, p->condition);
}

static int labelled(const struct jobs *jobs, const char *label)
{
    int i;
    for (i = 0; i < jobs->n; i++)
        if (strcmp(jobs->jobs[i].label, label) == 0) return i;
    return -1;
}

static void need_measures(struct needs *x, const struct metric *m, int job)
{
    const struct job *j = &x->jobs->jobs[job];
    if (m->kind == METRIC_RECOVERY) {
        need(x, place_of(x, &m->clean, job), true);
        need(x, place_of(x, &m->corrupt, job), true);
    } else if (m->kind == METRIC_KV_DELTA && m->between[0]) {
        if (strcmp(j->label, m->between[0]) == 0) need(x, labelled(x->jobs, m->between[1]), true);
    } else if (m->kind != METRIC_MENTIONS && m->against >= 0 && (m->kind != METRIC_KV_DELTA || job_in_delta(x->s, m, j))) {
        need(x, partner_of(x->partners, job, j->prompt, m->against), true);
    }
}

static void need_of(struct needs *x, int job)
{
    const struct job *j = &x->jobs->jobs[job];
    int i, k;
    need(x, j->same_as, false);
    need(x, j->against, false);
    for (i = 0; i < j->n_ops; i++) {
        const struct job_vector *v = j->ops[i].vector;
        need(x, j->ops[i].donor_job, false);
        for (k = 0; v && k < v->n_sets; k++) need(x, v->sets[k].job, false);
    }
    for (i = 0; x->measured[job] && i < x->s->n_metrics; i++) need_measures(x, &x->s->metrics[i], job);
}

static void add_needs(struct only *o, const struct spec *s, const struct jobs *jobs)
{
    struct needs x = {.o = o, .s = s, .jobs = jobs, .partners = partner_new(s, jobs)};
    int i;
    x.measured = mem_array((size_t)jobs->n, sizeof *x.measured);
    x.queue = mem_array(2 * (size_t)jobs->n, sizeof *x.queue);
    for (i = 0; i < jobs->n; i++)
        if (o->asked[i]) need(&x, i, true);
    for (i = 0; i < x.n; i++) need_of(&x, x.queue[i]);
    partner_free(x.partners);
    free(x.measured);
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
