/* job_moment.c: which stored cache of a job a metric means. Apart from what binds, since readers of results need no engine for
 * it. */
#include "job.h"

int job_moment(const struct jobs *all, int job, int moment)
{
    const struct job *j = &all->jobs[job], *kept = j->same_as >= 0 ? &all->jobs[j->same_as] : j;
    int i, twin = moment == MOMENT_PREFILL ? MOMENT_EDITED : moment == MOMENT_EDITED ? MOMENT_PREFILL : 0;
    if (kept->moments & moment) return moment;
    for (i = 0; i < j->n_ops; i++)
        if (j->ops[i].when == WHEN_FINISHED_CACHE) return 0;
    return kept->moments & twin;
}

bool job_in_delta(const struct spec *s, const struct metric *m, const struct job *j)
{
    int i;
    (void)s;
    if (j->condition < 0 || j->condition == m->against) return false;
    for (i = 0; i < m->n_of; i++)
        if (m->of[i] == j->condition) return true;
    return m->n_of == 0;
}
