/* partner.c: the index behind partner_of; see partner.h. For each condition asked for and each list of axes that a job may
 * have, the jobs of the condition are entered once, under their prompt and their values of these axes. */
#include "partner.h"

#include "map.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { NONE = INT_MAX };

struct partners {
    const struct spec *s;
    const struct jobs *jobs;
    struct map *index;
    struct map *made;  /* which conditions are entered for which lists of axes */
    struct map *first; /* condition and prompt -> its first job, which tells which axes it has there */
    struct buf key;
};

static const char *name_of(const struct partners *p, int prompt)
{
    return p->jobs->prompts[prompt].prompt->name;
}

/* The first job of a condition on a prompt; `put`: this one, unless there is one. */
static int first_of(struct partners *p, int condition, const char *prompt, int put)
{
    p->key.n = 0;
    map_key_int(&p->key, condition);
    buf_str(&p->key, prompt);
    return map_put(p->first, p->key.p, p->key.n, put);
}

struct partners *partner_new(const struct spec *s, const struct jobs *jobs)
{
    struct partners *p = mem_alloc(sizeof *p);
    int i;
    p->s = s;
    p->jobs = jobs;
    p->index = map_new();
    p->made = map_new();
    p->first = map_new();
    for (i = 0; i < jobs->n; i++)
        if (jobs->jobs[i].condition >= 0) first_of(p, jobs->jobs[i].condition, name_of(p, jobs->jobs[i].prompt), i);
    return p;
}

void partner_free(struct partners *p)
{
    if (!p) return;
    map_free(p->index);
    map_free(p->made);
    map_free(p->first);
    buf_free(&p->key);
    free(p);
}

static bool has_axis(const struct job *j, int axis)
{
    int i;
    for (i = 0; i < j->n_values; i++)
        if (j->values[i].axis == axis) return true;
    return false;
}

/* p->key: condition, the axes of `of`, prompt, and the values of x of the axes that both `of` and `with` have. */
static void make_key(struct partners *p, int condition, const char *prompt, const struct job *x, const struct job *of,
                     const struct job *with)
{
    int i;
    p->key.n = 0;
    map_key_int(&p->key, condition);
    for (i = 0; i < of->n_values; i++) map_key_int(&p->key, of->values[i].axis);
    map_key_int(&p->key, -1);
    buf_add(&p->key, prompt, strlen(prompt) + 1);
    for (i = 0; i < x->n_values; i++) {
        if (!has_axis(of, x->values[i].axis) || !has_axis(with, x->values[i].axis)) continue;
        map_key_int(&p->key, x->values[i].axis);
        buf_add(&p->key, x->values[i].text, strlen(x->values[i].text) + 1);
    }
}

/* Enters the jobs of the condition for jobs with the axes of `of`, when that was not done yet. */
static void enter(struct partners *p, int condition, const struct job *of)
{
    int i;
    p->key.n = 0;
    map_key_int(&p->key, condition);
    for (i = 0; i < of->n_values; i++) map_key_int(&p->key, of->values[i].axis);
    if (map_put(p->made, p->key.p, p->key.n, 0) >= 0) return;
    for (i = 0; i < p->jobs->n; i++) {
        const struct job *x = &p->jobs->jobs[i];
        if (x->condition != condition) continue;
        make_key(p, condition, name_of(p, x->prompt), x, of, x);
        map_put(p->index, p->key.p, p->key.n, i);
    }
}

int partner_of(struct partners *p, int job, int prompt, int condition)
{
    const struct job *of = &p->jobs->jobs[job];
    const char *name = name_of(p, prompt);
    int first, found;
    if (condition < 0) return -1;
    first = first_of(p, condition, name, NONE); /* one that is not there is entered as that */
    if (first < 0 || first == NONE) return -1;
    enter(p, condition, of);
    make_key(p, condition, name, of, of, &p->jobs->jobs[first]);
    found = map_put(p->index, p->key.p, p->key.n, NONE);
    return found < 0 || found == NONE ? -1 : found;
}
