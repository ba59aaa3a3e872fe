/* partner.c: the index behind partner_of; see partner.h. For each condition asked for and each list of axes that a job may
 * have, the jobs of the condition are entered once, under their prompt and their values of these axes. */
#include "partner.h"

#include "map.h"

#include <stdlib.h>
#include <string.h>

struct partners {
    const struct spec *s;
    const struct jobs *jobs;
    struct map *index;
    struct map *made; /* which conditions are entered for which lists of axes */
};

struct partners *partner_new(const struct spec *s, const struct jobs *jobs)
{
    struct partners *p = mem_alloc(sizeof *p);
    p->s = s;
    p->jobs = jobs;
    p->index = map_new();
    p->made = map_new();
    return p;
}

void partner_free(struct partners *p)
{
    if (!p) return;
    map_free(p->index);
    map_free(p->made);
    free(p);
}

static void add_int(struct buf *b, int v)
{
    buf_add(b, &v, sizeof v);
}

/* Condition, prompt, and the values of those axes of x that `of` has, too. */
static void add_key(struct buf *b, int condition, int prompt, const struct job *x, const struct job *of)
{
    int i, k;
    b->n = 0;
    add_int(b, condition);
    for (i = 0; i < of->n_values; i++) add_int(b, of->values[i].axis);
    add_int(b, -1);
    add_int(b, prompt);
    for (i = 0; i < x->n_values; i++)
        for (k = 0; k < of->n_values; k++)
            if (x->values[i].axis == of->values[k].axis) {
                add_int(b, x->values[i].axis);
                buf_add(b, x->values[i].text, strlen(x->values[i].text) + 1);
            }
}

/* Enters the jobs of the condition for jobs with the axes of `of`, when that was not done yet. */
static void enter(struct partners *p, int condition, const struct job *of, struct buf *key)
{
    int i;
    key->n = 0;
    add_int(key, condition);
    for (i = 0; i < of->n_values; i++) add_int(key, of->values[i].axis);
    if (map_put(p->made, key->p, key->n, 0) >= 0) return;
    for (i = 0; i < p->jobs->n; i++) {
        const struct job *x = &p->jobs->jobs[i];
        if (x->condition != condition) continue;
        add_key(key, condition, x->prompt, x, of);
        map_put(p->index, key->p, key->n, i);
    }
}

static bool has_axis(const struct condition *c, int axis)
{
    int i;
    for (i = 0; i < c->n_over; i++)
        if (c->over[i] == axis) return true;
    return false;
}

int partner_of(struct partners *p, int job, int prompt, int condition)
{
    enum { NONE = 0x7fffffff };
    const struct job *of = &p->jobs->jobs[job];
    struct axis_value *shared = mem_array((size_t)of->n_values, sizeof *shared);
    struct job ask = {.values = shared};
    struct buf key = {0};
    int i, found;
    if (condition < 0) {
        free(shared);
        return -1;
    }
    enter(p, condition, of, &key);
    for (i = 0; i < of->n_values; i++)
        if (has_axis(&p->s->conditions[condition], of->values[i].axis)) shared[ask.n_values++] = of->values[i];
    add_key(&key, condition, prompt, &ask, of);
    found = map_put(p->index, key.p, key.n, NONE); /* one that is not there is entered as that */
    buf_free(&key);
    free(shared);
    return found == NONE ? -1 : found;
}
