/* progress.h: how a run tells how far it is, on stderr: a bar that is redrawn on a terminal, else a line now and then.
 *
 *     struct progress p;
 *     progress_start(&p, "needle_sf_ny", n_jobs, tokens_per_job, PROGRESS_AUTO);
 *     progress_tokens(&p, 16);                    // after each step of a batch
 *     progress_jobs(&p, 16, "city_sf/zero");      // jobs finished; the last one's label
 *     progress_say(&p, "job x failed: ...");      // a line that stays
 *     progress_end(&p);
 */
#ifndef RUNNER_PROGRESS_H
#define RUNNER_PROGRESS_H

#include <stdint.h>

enum progress_how { PROGRESS_AUTO, PROGRESS_BAR, PROGRESS_LINE, PROGRESS_NONE };

struct progress {
    const char *name;
    enum progress_how how; /* never PROGRESS_AUTO once started */
    int jobs, done, failed;
    int64_t tokens, tokens_per_job;
    int64_t started_ms, drawn_ms;
    char last[96];
};

int64_t progress_now_ms(void); /* of a clock that only goes forward */
void progress_start(struct progress *p, const char *name, int jobs, int tokens_per_job, enum progress_how how);
void progress_tokens(struct progress *p, int n);
void progress_jobs(struct progress *p, int n, int failed, const char *label);
void progress_say(struct progress *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void progress_end(struct progress *p);

#endif
