/* job_case.h: what tests of jobs against the made-up engine begin with: one spec at a time, in b. */
#ifndef TESTS_JOB_CASE_H
#define TESTS_JOB_CASE_H

#include "bound_case.h"

#define HEAD "kvrun: 1\nexperiment: x\nmodel: { path: fake.gguf }\n"
#define PAIR "prompts:\n  - name: [sf, ny]\n    slots: { city: [SF, NY] }\n    text: 'I go to {{city}} and stay.'\n"
#define DECODE "decode: { greedy: true, max_tokens: 4, after_edit: rerun_last }\n"
#define ZERO "{ op: zero, tensor: kv, layers: all, at: { slot: city }, when: finished_cache }"

static inline const struct job *job_of(const char *label)
{
    int i;
    for (i = 0; i < b.j->n; i++)
        if (strcmp(b.j->jobs[i].label, label) == 0) return &b.j->jobs[i];
    fail_msg("there is no job %s", label);
    return NULL;
}

#endif
