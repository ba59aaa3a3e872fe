/* bound.h: a spec from text, bound to the made-up engine and expanded; for test_job.c and test_plan.c. */
#ifndef TESTS_BOUND_H
#define TESTS_BOUND_H

#include "../../runner/job.h"

#include <setjmp.h>
#include <stdio.h>
/* cmocka needs the headers above it */
#include <cmocka.h>

struct bound {
    struct spec *s;
    struct diag *d;
    arena *mem;
    struct bound_prompt *p;
    struct jobs *j; /* NULL: refused */
    char *said;     /* all diagnostics as text */
};

static inline void bound_free(struct bound *x)
{
    job_free(x->j);
    spec_free(x->s);
    diag_free(x->d);
    arena_free(x->mem);
    free(x->said);
    *x = (struct bound){0};
}

/* Parses, binds and expands; x->said tells what was said, x->j is NULL when there were errors. */
static inline void bound_make_as(struct bound *x, const char *path, const char *yaml)
{
    struct buf said = {0};
    err e = {0};
    bound_free(x);
    x->mem = arena_new();
    if (spec_parse(&x->s, path, yaml, strlen(yaml), &x->d) == 0 && bind_prompts(x->s, &fake, x->mem, x->d, &x->p, &e) == 0)
        job_expand(&x->j, x->s, &fake, x->p, x->d, &e);
    assert_string_equal(e.msg, "");
    diag_text(x->d, &said);
    x->said = buf_take(&said);
}

static inline void bound_make(struct bound *x, const char *yaml)
{
    bound_make_as(x, "x.yaml", yaml);
}

/* The same, and it must succeed. */
static inline void bound_good(struct bound *x, const char *yaml)
{
    bound_make(x, yaml);
    if (!x->j) fail_msg("%s", x->said);
}

#endif
