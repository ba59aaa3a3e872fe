/* bound_case.h: what tests against the made-up engine begin with: one spec at a time, in b. */
#ifndef TESTS_BOUND_CASE_H
#define TESTS_BOUND_CASE_H

#include "bound.h"

static struct bound b;

static int setup(void **state)
{
    (void)state;
    fake_reset();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    bound_free(&b);
    fake_reset();
    return 0;
}

#endif
