/* progress.c: the bar, the lines and their pace. A carriage return never reaches a file: only a terminal gets the bar. */
#include "progress.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* A bar is redrawn at most 10 times a second; in a log one line per half minute says that the run is alive. */
enum { BAR_MS = 100, LINE_MS = 30000, BAR_CELLS = 24 };

int64_t progress_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static enum progress_how choose(enum progress_how how)
{
    const char *term = getenv("TERM");
    if (how != PROGRESS_AUTO) return how;
    return isatty(2) && !getenv("CI") && !(term && strcmp(term, "dumb") == 0) ? PROGRESS_BAR : PROGRESS_LINE;
}

void progress_start(struct progress *p, const char *name, int jobs, int tokens_per_job, enum progress_how how)
{
    memset(p, 0, sizeof *p);
    p->name = name;
    p->jobs = jobs;
    p->tokens_per_job = tokens_per_job > 0 ? tokens_per_job : 1;
    p->how = choose(how);
    p->started_ms = p->drawn_ms = progress_now_ms();
}

/* Share of the work done, by tokens; a job that ended early counts as whole. */
static double share(const struct progress *p)
{
    double whole = (double)p->jobs * (double)p->tokens_per_job, now = (double)p->tokens, least;
    least = (double)p->done * (double)p->tokens_per_job;
    if (now < least) now = least;
    return whole > 0 && now < whole ? now / whole : 1.0;
}

static void eta(const struct progress *p, char out[16])
{
    double s = share(p), passed = (double)(progress_now_ms() - p->started_ms) / 1000;
    int left = s > 0.001 ? (int)(passed / s - passed + 0.5) : -1;
    if (left < 0)
        snprintf(out, 16, "-");
    else if (left >= 3600)
        snprintf(out, 16, "%dh%02d", left / 3600 % 1000, left / 60 % 60);
    else if (left >= 60)
        snprintf(out, 16, "%dm%02d", left / 60, left % 60);
    else
        snprintf(out, 16, "%ds", left);
}

static void stamp(char out[32])
{
    time_t now = time(NULL);
    struct tm t;
    gmtime_r(&now, &t);
    strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &t);
}

static void draw(struct progress *p)
{
    double seconds = (double)(progress_now_ms() - p->started_ms) / 1000, s = share(p);
    char left[16], when[32], speed[32] = "", bar[BAR_CELLS * 3 + 1] = "";
    int i;
    eta(p, left);
    if (p->tokens && seconds > 0) snprintf(speed, sizeof speed, "%.0f tok/s  ", (double)p->tokens / seconds);
    if (p->how == PROGRESS_BAR) {
        for (i = 0; i < BAR_CELLS; i++) strcat(bar, (i + 0.5) / BAR_CELLS <= s ? "█" : "·");
        fprintf(stderr, "\r\033[K%s %d/%d  %.0f %%  %sETA %s  %d failed  %.40s", bar, p->done, p->jobs, 100 * s, speed, left,
                p->failed, p->last);
        fflush(stderr);
    } else {
        stamp(when);
        fprintf(stderr, "%s %s %d/%d %.0f%% %seta %s failed %d\n", when, p->name, p->done, p->jobs, 100 * s, speed, left,
                p->failed);
    }
    p->drawn_ms = progress_now_ms();
}

static void tick(struct progress *p)
{
    int64_t since = progress_now_ms() - p->drawn_ms;
    if (p->how == PROGRESS_NONE || since < (p->how == PROGRESS_BAR ? BAR_MS : LINE_MS)) return;
    draw(p);
}

void progress_tokens(struct progress *p, int n)
{
    p->tokens += n;
    tick(p);
}

void progress_jobs(struct progress *p, int n, int failed, const char *label)
{
    p->done += n;
    p->failed += failed;
    snprintf(p->last, sizeof p->last, "%s", label);
    tick(p);
}

void progress_say(struct progress *p, const char *fmt, ...)
{
    va_list ap;
    char when[32];
    if (p->how == PROGRESS_BAR) fputs("\r\033[K", stderr);
    stamp(when);
    fprintf(stderr, "%s ", when);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

void progress_end(struct progress *p)
{
    if (p->how == PROGRESS_BAR) fputs("\r\033[K", stderr);
}
