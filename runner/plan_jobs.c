/* plan_jobs.c: the jobs of a plan, counted: which run and why, by condition and prompt, and how sweeps add up. */
#include "plan_in.h"

#include "map.h"
#include "width.h"

#include <stdlib.h>
#include <string.h>

enum { COLUMNS = 6, GRID_PROMPTS = 24, ROWS = 40, RUNS = 4, LACKS = 8 };

enum fate plan_fate(const struct plan *p, int job)
{
    const struct planned *w = p->what;
    if (w->only && !w->only->needed[job]) return FATE_NONE;
    if (p->jobs->jobs[job].same_as >= 0) return FATE_SAME;
    return w->peek && w->peek->what[job] == STORED_ANSWER ? FATE_REUSE : FATE_RUN;
}

void plan_pad(struct buf *b, const char *s, int width)
{
    int n = width - width_text(s, strlen(s));
    buf_str(b, s);
    while (n-- > 0) buf_char(b, ' ');
}

/* ---- why jobs run ---- */

struct reasons {
    int run, reuse, same;
    int state[STORED_ANSWER]; /* of those that run */
    int lacks[LACKS];         /* of STORED_LESS, by moments */
};

static void count_job(const struct plan *p, int job, struct reasons *r)
{
    const struct peek *peek = p->what->peek;
    enum fate f = plan_fate(p, job);
    enum stored what = peek ? peek->what[job] : STORED_NOTHING;
    r->reuse += f == FATE_REUSE;
    r->same += f == FATE_SAME;
    if (f != FATE_RUN) return;
    r->run++;
    r->state[what]++;
    if (what == STORED_LESS) r->lacks[peek->lacks[job] % LACKS]++;
}

static void lack_text(int lacks, struct buf *b)
{
    static const char *const names[] = {"prefill", "edited", "end"};
    int i;
    if (!lacks) buf_str(b, " of activations");
    for (i = 0; i < 3; i++)
        if (lacks & (MOMENT_PREFILL << i)) buf_printf(b, " %s", names[i]);
}

/* Nothing when all are new: then there is nothing to explain. */
static void reason_text(const struct reasons *r, struct buf *b)
{
    int i;
    size_t start = b->n;
    if (r->state[STORED_NOTHING] == r->run) return;
    if (r->state[STORED_NOTHING]) buf_printf(b, "%d new", r->state[STORED_NOTHING]);
    for (i = 0; i < LACKS; i++) {
        if (!r->lacks[i]) continue;
        buf_printf(b, "%s%d need%s capture", b->n > start ? " · " : "", r->lacks[i], r->lacks[i] == 1 ? "s" : "");
        lack_text(i, b);
    }
    if (r->state[STORED_ELSEWHERE])
        buf_printf(b, "%s%d answered under other numerics", b->n > start ? " · " : "", r->state[STORED_ELSEWHERE]);
    if (r->state[STORED_FAILED]) buf_printf(b, "%s%d failed before", b->n > start ? " · " : "", r->state[STORED_FAILED]);
}

const char *plan_why(const struct plan *p, int job)
{
    const struct peek *peek = p->what->peek;
    struct buf b = {0};
    const char *text;
    switch (peek ? peek->what[job] : STORED_NOTHING) {
    case STORED_NOTHING: return "new";
    case STORED_FAILED: return "failed before";
    case STORED_ELSEWHERE: return "other numerics";
    case STORED_ANSWER: return "stored";
    case STORED_LESS: break;
    }
    buf_str(&b, "needs capture");
    lack_text(peek->lacks[job], &b);
    text = arena_strdup(p->mem, b.p);
    buf_free(&b);
    return text;
}

/* "answers are in the database: 8 from run 0193a7c2 (2026-11-20)" */
static void show_runs(const struct plan *p)
{
    const struct peek *peek = p->what->peek;
    int i, shown = 0, more = 0, *n = arena_array(p->mem, (size_t)peek->n_runs, sizeof *n);
    for (i = 0; i < p->jobs->n; i++)
        if (plan_fate(p, i) == FATE_REUSE) n[peek->run[i]]++;
    for (i = peek->n_runs - 1; i >= 0; i--) {
        if (!n[i]) continue;
        if (shown++ < RUNS)
            buf_printf(p->out, "%s%d from run %.8s (%s)", shown > 1 ? ", " : ": ", n[i], peek->runs[i].uuid, peek->runs[i].day);
        else
            more += n[i];
    }
    if (more) buf_printf(p->out, ", %d from others", more);
}

void plan_counts(const struct plan *p)
{
    const struct only *only = p->what->only;
    struct reasons r = {0};
    struct buf why = {0};
    int i;
    for (i = 0; i < p->jobs->n; i++) count_job(p, i, &r);
    buf_printf(p->out, "%s: %d job%s", p->s->experiment, p->jobs->n, p->jobs->n == 1 ? "" : "s");
    if (only && only->n_needed < p->jobs->n) buf_printf(p->out, ", %d of them asked for", only->n_asked);
    if (only && only->n_needed > only->n_asked) buf_printf(p->out, " and %d that they need", only->n_needed - only->n_asked);
    reason_text(&r, &why);
    buf_printf(p->out, "\n  run   %6d%s%s\n", r.run, why.n ? "  " : "", why.n ? why.p : "");
    if (r.reuse) {
        buf_printf(p->out, "  reuse %6d  answers are in the database", r.reuse);
        show_runs(p);
        buf_char(p->out, '\n');
    }
    if (r.same) buf_printf(p->out, "  same  %6d  as a job above, one answer for both labels\n", r.same);
    buf_free(&why);
}

/* ---- rows: conditions in their order, then controls ---- */

struct rows {
    const char **names; /* (n) */
    int n, width;
    int *of; /* (jobs->n) the row of a job, or -1: it is not asked for */
};

static void find_rows(const struct plan *p, struct rows *r)
{
    struct map *names = map_new();
    bool *used;
    int i, k, *row;
    r->n = p->s->n_conditions;
    for (i = 0; i < p->s->n_conditions; i++) map_put(names, p->s->conditions[i].name, strlen(p->s->conditions[i].name), i);
    r->of = arena_array(p->mem, (size_t)p->jobs->n, sizeof *r->of);
    r->names = arena_array(p->mem, (size_t)p->s->n_conditions + (size_t)p->jobs->n, sizeof *r->names);
    used = arena_array(p->mem, (size_t)p->s->n_conditions + (size_t)p->jobs->n, sizeof *used);
    for (i = 0; i < p->s->n_conditions; i++) r->names[i] = p->s->conditions[i].name;
    for (i = 0; i < p->jobs->n; i++) {
        const char *name = p->jobs->jobs[i].condition_name;
        r->of[i] = -1;
        if (p->what->only && !p->what->only->asked[i]) continue;
        k = p->jobs->jobs[i].condition;
        if (k < 0) k = map_put(names, name, strlen(name), r->n);
        if (k < 0) r->names[k = r->n++] = name;
        r->of[i] = k;
        used[k] = true;
    }
    row = arena_array(p->mem, (size_t)r->n, sizeof *row); /* those without jobs go */
    for (i = k = 0; i < r->n; i++)
        if (used[i]) {
            r->names[k] = r->names[i];
            row[i] = k++;
        }
    r->n = k;
    for (i = 0; i < p->jobs->n; i++)
        if (r->of[i] >= 0) r->of[i] = row[r->of[i]];
    r->width = 4;
    for (i = 0; i < r->n; i++)
        if (width_text(r->names[i], strlen(r->names[i])) > r->width) r->width = width_text(r->names[i], strlen(r->names[i]));
    map_free(names);
}

/* Columns: prompts first..last. */
static void show_grid(const struct plan *p, const struct rows *r, const int *counts, int first, int last)
{
    int i, k;
    plan_pad(p->out, "jobs", r->width + 2);
    for (k = first; k <= last; k++) buf_printf(p->out, "  %s", p->s->prompts[k].name);
    buf_char(p->out, '\n');
    for (i = 0; i < r->n; i++) {
        buf_str(p->out, "  ");
        plan_pad(p->out, r->names[i], r->width);
        for (k = first; k <= last; k++)
            buf_printf(p->out, "  %*d", width_text(p->s->prompts[k].name, strlen(p->s->prompts[k].name)),
                       counts[(size_t)i * (size_t)p->s->n_written + (size_t)k]);
        buf_char(p->out, '\n');
    }
}

void plan_grid(const struct plan *p)
{
    int i, n = p->s->n_written, shown = n <= GRID_PROMPTS ? n : COLUMNS, *counts;
    struct rows r = {0};
    find_rows(p, &r);
    counts = arena_array(p->mem, (size_t)r.n * (size_t)n, sizeof *counts);
    for (i = 0; i < p->jobs->n; i++)
        if (r.of[i] >= 0) counts[(size_t)r.of[i] * (size_t)n + (size_t)job_spec_prompt(p->s, p->jobs, i)]++;
    for (i = 0; i < shown; i += COLUMNS) show_grid(p, &r, counts, i, i + COLUMNS < shown ? i + COLUMNS - 1 : shown - 1);
    if (shown < n) buf_printf(p->out, "  … and %d more prompts\n", n - shown);
}

void plan_reasons(const struct plan *p)
{
    struct rows r = {0};
    struct reasons *all;
    int i;
    find_rows(p, &r);
    all = arena_array(p->mem, (size_t)r.n, sizeof *all);
    for (i = 0; i < p->jobs->n; i++)
        if (r.of[i] >= 0) count_job(p, i, &all[r.of[i]]);
    plan_pad(p->out, "why", r.width + 2);
    buf_str(p->out, "     run   reuse    same\n");
    for (i = 0; i < r.n; i++) {
        struct buf why = {0};
        reason_text(&all[i], &why);
        buf_str(p->out, "  ");
        plan_pad(p->out, r.names[i], r.width);
        buf_printf(p->out, "  %6d  %6d  %6d%s%s\n", all[i].run, all[i].reuse, all[i].same, why.n ? "  " : "",
                   why.n ? why.p : "");
        buf_free(&why);
    }
}

/* ---- how sweeps add up ---- */

/* "2 prompts x 3 ctx x (2 + 5) pos"; an axis that has other values on each prompt stands for the prompts, too. */
static void show_product(const struct plan *p, const struct condition *c, const struct job_sum *sum)
{
    enum { TERMS = 6 };
    const struct spec *s = p->s;
    const char *by = "";
    int k, i, varying = 0;
    bool *varies = arena_array(p->mem, (size_t)c->n_over, sizeof *varies);
    for (k = 0; k < c->n_over; k++) {
        for (i = 1; i < s->n_written; i++) varies[k] |= sum->counts[i * c->n_over + k] != sum->counts[k];
        varying += varies[k];
    }
    if (varying != 1 && s->n_written > 1) {
        buf_printf(p->out, "%d prompts", s->n_written);
        by = " x ";
    }
    for (k = 0; k < c->n_over; k++) {
        buf_str(p->out, by);
        by = " x ";
        if (!varies[k]) {
            buf_printf(p->out, "%d %s", sum->counts[k], s->axes[c->over[k]].name);
        } else if (varying == 1 && s->n_written <= TERMS) {
            for (i = 0; i < s->n_written; i++) buf_printf(p->out, "%s%d", i ? " + " : "(", sum->counts[i * c->n_over + k]);
            buf_printf(p->out, ") %s", s->axes[c->over[k]].name);
        } else {
            buf_printf(p->out, "its own %s", s->axes[c->over[k]].name);
        }
    }
    buf_printf(p->out, " = %lld", (long long)sum->product);
}

void plan_sums(const struct plan *p)
{
    const struct spec *s = p->s;
    int i, k, rows = 0, width = 0;
    for (i = 0; i < s->n_conditions; i++) {
        int w = width_text(s->conditions[i].name, strlen(s->conditions[i].name));
        if (s->conditions[i].n_over && w > width) width = w;
    }
    for (i = 0; i < s->n_conditions; i++) {
        const struct condition *c = &s->conditions[i];
        const struct job_sum *sum = &p->jobs->sums[i];
        int64_t left = sum->product + sum->included;
        for (k = 0; k < s->n_excludes; k++) left -= sum->removed[k];
        if ((!c->n_over && left == sum->product) || rows++ >= ROWS) continue;
        if (rows == 1) buf_str(p->out, "sweeps\n");
        buf_str(p->out, "  ");
        plan_pad(p->out, c->name, width);
        buf_str(p->out, "  ");
        show_product(p, c, sum);
        for (k = 0; k < s->n_excludes; k++)
            if (sum->removed[k]) buf_printf(p->out, ", -%d (%s)", sum->removed[k], s->excludes[k].why);
        if (sum->included) buf_printf(p->out, ", +%d include", sum->included);
        if (left != sum->product || sum->included) buf_printf(p->out, " = %lld jobs", (long long)left);
        buf_char(p->out, '\n');
    }
    if (rows > ROWS) buf_printf(p->out, "  … and %d more conditions\n", rows - ROWS);
}
