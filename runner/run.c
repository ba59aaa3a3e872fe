/* run.c: a run from its spec to its exit code: what is to run, the batches (batch.c), metrics and verdicts, what is told. */
#include "run.h"

#include "batch.h"
#include "environment.h"
#include "metric_pass.h"
#include "plan.h"
#include "signals.h"
#include "table.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- opening ---- */

/* Prints what diag holds; the exit code it asks for. */
static int tell(struct diag *d)
{
    struct buf b = {0};
    if (d) diag_text(d, &b);
    if (b.n) fwrite(b.p, 1, b.n, stderr);
    buf_free(&b);
    return d && diag_errors(d) ? ERR_INPUT : 0;
}

static int fail(struct run *r, const err *e)
{
    int shown = tell(r->diag);
    return e->code ? e->code : shown ? shown : ERR_INTERNAL;
}

static const char *place(const struct run *r, struct mark at)
{
    struct buf b = {0};
    const char *text;
    diag_where(r->diag, at, &b);
    text = arena_strdup(r->mem, b.p);
    buf_free(&b);
    return text;
}

static int check_pin(const struct run *r, err *e)
{
    char hex[65];
    if (!r->spec->model_sha256) return 0;
    hex_text(hex, engine_info(r->en)->sha256, 32);
    if (strcmp(hex, r->spec->model_sha256) == 0) return 0;
    return err_set(e, ERR_ENV, "%s: the model file '%s' is not the pinned one\n  pinned  %s\n  found   %s",
                   place(r, r->spec->model_sha256_at), engine_info(r->en)->path, r->spec->model_sha256, hex);
}

/* The spec's own template must be right also when no prompt is a chat: it stands there to be used. */
static int check_template(struct run *r)
{
    const struct node *v = r->spec->chat_template_path;
    const char *why = engine_info(r->en)->chat_error;
    if (!r->spec->chat_template || !why) return 0;
    diag_add(r->diag, DIAG_ERROR, "E219", v->at, v->width, "chat_template: '%s': %s", v->text, why);
    return -1;
}

static int open_model(struct run *r, err *e)
{
    struct engine_opts eo = {0};
    char *path = spec_model_path(r->spec);
    int rc = -1;
    if (access(path, R_OK) != 0) {
        err_set(e, ERR_ENV,
                "%s: no model at '%s'\n  ci/fetch-model fetches the default model; $KVRUN_MODELS says where models are",
                place(r, r->spec->model_at), path);
        goto out;
    }
    eo.path = path;
    eo.isa = r->o->isa;
    eo.backend = r->o->backend;
    eo.gpu = r->o->gpu;
    eo.look_only = r->o->command == COMMAND_PLAN;
    eo.kv = r->spec->kv;
    eo.threads = r->o->threads;
    eo.chat_template = r->spec->chat_template;
    eo.year = r->spec->year;
    eo.month = r->spec->month;
    eo.day = r->spec->day;
    eo.vocab_only = r->o->command == COMMAND_TOKENS;
    if (engine_open(&r->en, &eo, e)) goto out;
    rc = check_pin(r, e) || check_template(r) ? -1 : 0;
out:
    free(path);
    return rc;
}

static int open_all(struct run *r, const struct options *o, err *e)
{
    r->o = o;
    r->mem = arena_new();
    if (spec_load_set(&r->spec, o->args[0], o->sets.v, o->sets.n, &r->diag, e)) return fail(r, e);
    r->spec->db = r->db = o->db ? o->db : r->spec->db ? r->spec->db : "results.db"; /* stored donors are looked for there */
    if (open_model(r, e)) return fail(r, e);
    if (bind_prompts(r->spec, r->en, r->mem, r->diag, &r->prompts, e)) return fail(r, e);
    if (o->command == COMMAND_TOKENS) return 0;
    if (job_expand(&r->jobs, r->spec, r->en, r->prompts, r->diag, e)) return fail(r, e);
    if (only_choose(&r->only, r->spec, r->jobs, o->only.v, o->only.n, e)) return fail(r, e);
    tell(r->diag);
    return 0;
}

int run_open(struct run *r, const struct options *o, err *e)
{
    int64_t from = progress_now_ms();
    int rc;
    memset(r, 0, sizeof *r);
    rc = open_all(r, o, e);
    r->loading_ms = progress_now_ms() - from;
    return rc;
}

void run_close(struct run *r)
{
    only_free(&r->only);
    job_free(r->jobs);
    engine_free(r->en);
    spec_free(r->spec);
    diag_free(r->diag);
    arena_free(r->mem);
}

int run_plan(struct run *r, err *e)
{
    struct peek peek;
    struct planned what = {.s = r->spec,
                           .en = r->en,
                           .jobs = r->jobs,
                           .peek = &peek,
                           .only = r->o->only.n ? &r->only : NULL,
                           .reasons = r->o->reasons,
                           .db = r->db};
    struct buf b = {0};
    if (store_peek(r->db, r->jobs, engine_info(r->en)->numerics, &peek, e)) return e->code;
    if (r->o->json)
        plan_json(&what, &b);
    else
        plan_text(&what, &b);
    if (b.n) fwrite(b.p, 1, b.n, stdout);
    buf_free(&b);
    peek_free(&peek);
    return 0;
}

/* ---- running ---- */

/* A seeded Fisher-Yates shuffle; only the order of work changes. */
static void shuffle(int *list, int n, unsigned seed)
{
    uint64_t x = seed * 0x9E3779B97F4A7C15u + 1;
    int i;
    for (i = n - 1; i > 0; i--) {
        int j, t;
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        j = (int)(x % (uint64_t)(i + 1));
        t = list[i], list[i] = list[j], list[j] = t;
    }
}

static int find_pending(struct loop *l, err *e)
{
    const struct jobs *jobs = l->r->jobs;
    int i;
    l->pending = mem_array((size_t)jobs->n, sizeof *l->pending);
    for (i = 0; i < jobs->n; i++) {
        int has;
        if (jobs->jobs[i].same_as >= 0 || !l->r->only.needed[i]) continue;
        has = store_has(l->st, i, e);
        if (has < 0) return -1;
        if (has)
            l->n_reused++;
        else
            l->pending[l->n_pending++] = i;
    }
    if (l->r->o->shuffle) shuffle(l->pending, l->n_pending, (unsigned)l->r->o->shuffle);
    return 0;
}

/* ---- telling ---- */

static void headline(const struct loop *l)
{
    const struct run *r = l->r;
    const struct engine_info *i = engine_info(r->en);
    if (r->o->quiet) return;
    fprintf(stderr, "%s  %d jobs", r->spec->experiment, r->only.n_asked);
    if (r->only.n_needed > r->only.n_asked) fprintf(stderr, " and %d that they need", r->only.n_needed - r->only.n_asked);
    if (r->only.n_needed < r->jobs->n) fprintf(stderr, " of %d", r->jobs->n);
    fprintf(stderr, ": %d to run, %d stored · %d prompts · %s %s (%02x%02x%02x…)\n", l->n_pending,
            r->only.n_needed - l->n_pending, r->spec->n_prompts, i->name, i->weight_dtype, i->sha256[0], i->sha256[1],
            i->sha256[2]);
    if (i->gpu_name)
        fprintf(stderr, "numerics %s · %s (%s), GPU %d · db %s\n", i->numerics, i->gpu_name, i->isa, r->o->gpu, r->db);
    else
        fprintf(stderr, "numerics %s · %s, %d threads · db %s\n", i->numerics, i->isa, i->threads, r->db);
    if (i->gpu_odd) fprintf(stderr, "note   computing on the CPU: %s\n", i->no_gpu);
}

static void tell_controls(const struct loop *l)
{
    const struct control_sum *c = &l->controls;
    if (c->same + c->close + c->shown == 0) return;
    fprintf(stderr, "       controls:");
    if (c->same) fprintf(stderr, " %d of %d bit-equal", c->same_pass, c->same);
    if (c->close) fprintf(stderr, "%s %d of %d close", c->same ? "," : "", c->close_pass, c->close);
    if (c->shown) fprintf(stderr, "%s %d to compare by eye", c->same + c->close ? "," : "", c->shown);
    if (c->missing) fprintf(stderr, "; %d cannot be judged, an answer is missing", c->missing);
    fputc('\n', stderr);
}

/* Told also to who wants it quiet. */
static void tell_failed_controls(const struct loop *l)
{
    if (!l->controls.fail) return;
    fprintf(stderr,
            "error  %d control%s failed: this experiment is not to be trusted\n       %s\n"
            "       all of them: kvrun sql --db %s \"SELECT * FROM v_control WHERE verdict='fail'\"\n",
            l->controls.fail, l->controls.fail > 1 ? "s" : "", l->controls.failed, l->r->db);
}

/* Two times, which together are the program's: that of the jobs, until the last answer and verdict is stored, is what a larger
   experiment has more of; the loading comes once. */
static void summary(const struct loop *l, int code)
{
    const struct run *r = l->r;
    double s = (double)(progress_now_ms() - l->started_ms) / 1000, loading = (double)r->loading_ms / 1000;
    int done = l->progress.done - l->n_failed, stored = r->only.n_needed - l->n_pending;
    if (r->o->quiet) return;
    fprintf(stderr, "%s  %d of %d jobs in %.1f s (loading %.1f s): %d new, %d stored before, %d failed · %lld tokens\n",
            code == 0 || code == ERR_FAIL ? "done" : "stop", done + stored, r->only.n_needed, s, loading, done, stored,
            l->n_failed, (long long)l->progress.tokens);
    tell_controls(l);
    if (l->n_failed) fprintf(stderr, "       what failed: kvrun sql --example 6 --db %s\n", r->db);
    if (code == EXIT_STOPPED || code == EXIT_INTERRUPTED)
        fprintf(stderr, "       safe to run again: only the missing jobs will run\n");
}

static int print_outcome(const struct loop *l, err *e)
{
    const struct run *r = l->r;
    struct buf b = {0};
    int rc = 0;
    if (r->o->json) {
        json_t *j = json_pack("{s:s,s:s,s:i,s:i,s:i}", "db", r->db, "run", store_run_uuid(l->st), "jobs", r->only.n_needed,
                              "failed", l->n_failed, "controls_failed", l->controls.fail);
        char *text = json_dumps(j, JSON_COMPACT);
        buf_printf(&b, "%s\n", text);
        free(text);
        json_decref(j);
    } else if (!r->o->quiet) {
        rc = table_outcome(r->spec, r->jobs, r->only.asked, l->st, r->o->color, &b, e);
        if (!rc) rc = table_metrics(r->spec, r->jobs, r->only.asked, l->st, &b, e);
    }
    if (b.n) fwrite(b.p, 1, b.n, stdout);
    buf_free(&b);
    return rc;
}

static enum progress_how how(const struct options *o)
{
    if (o->quiet || (o->progress && strcmp(o->progress, "none") == 0)) return PROGRESS_NONE;
    if (o->progress && strcmp(o->progress, "bar") == 0) return PROGRESS_BAR;
    if (o->progress && strcmp(o->progress, "line") == 0) return PROGRESS_LINE;
    return PROGRESS_AUTO;
}

static char *argv_json(int argc, char **argv)
{
    json_t *list = json_array();
    char *text;
    int i;
    for (i = 0; i < argc; i++) json_array_append_new(list, json_stringn_nocheck(argv[i], utf8_valid(argv[i], strlen(argv[i]))));
    text = json_dumps(list, JSON_COMPACT);
    json_decref(list);
    return text;
}

/* Computes everything; e holds what stopped it, if something did. */
static int compute(struct loop *l, err *e)
{
    err stored = {0};
    int rc;
    l->fam = family_open(l->r->spec, l->r->en, l->r->jobs, l->pending, l->n_pending);
    l->w = writer_start(l->st, batch_writer_room(l));
    progress_start(&l->progress, l->r->spec->experiment, l->n_pending, l->r->spec->decode.max_tokens, how(l->r->o));
    rc = batch_run(l, e);
    progress_end(&l->progress);
    if (writer_finish(l->w, &stored)) { /* the cause, where both failed; but a lost device is the computation's to tell */
        if (!e->code || stored.code != ERR_ENV) *e = stored;
        rc = -1;
    }
    family_close(l->fam);
    return rc;
}

static int exit_code(const struct loop *l, int rc, const err *e)
{
    if (rc && *signals_flag()) return signals_exit_code();
    if (rc) return e->code ? e->code : ERR_INTERNAL;
    return l->n_failed ? ERR_FAIL : 0;
}

static const char *run_status(int code)
{
    return code == 0 ? "done" : code == EXIT_STOPPED || code == EXIT_INTERRUPTED ? "interrupted" : "failed";
}

/* Metrics and verdicts from what is stored, as much as there is; then the run's end. Returns the exit code. */
static int conclude(struct loop *l, int code, err *e)
{
    const struct run *r = l->r;
    struct pass_feeder feeder = {.spec = r->spec, .en = r->en, .jobs = r->jobs, .how = how(r->o)};
    struct metric_passes passes = metric_pass_with(&feeder);
    err late = {0};
    int rc = metric_compute(l->st, r->spec, r->jobs, *signals_flag() ? NULL : &passes, &late);
    if (rc > 0 && code == 0) code = signals_exit_code();
    if (rc < 0) err_in(&late, "metrics");
    if (rc >= 0) rc = control_judge(l->st, r->jobs, &l->controls, &late);
    if (rc < 0 && code == 0) code = late.code;
    if (l->controls.fail && code == 0) code = ERR_FAIL;
    if (store_end(l->st, run_status(code), code, &late) && code == 0) code = late.code;
    if (late.code && !e->code) *e = late;
    return code;
}

int run_jobs(struct run *r, int argc, char **argv, err *e)
{
    struct loop l = {.r = r, .started_ms = progress_now_ms()};
    struct run_info info = {.spec = r->spec, .en = r->en, .jobs = r->jobs, .env = environment_get(r->en), .fresh = r->o->fresh};
    char *args = argv_json(argc, argv), *cwd = getcwd(NULL, 0);
    int rc, code = -1;
    info.argv_json = args;
    info.cwd = cwd ? cwd : "";
    if (store_open(&l.st, r->db, e)) goto out;
    if (store_begin(l.st, &info, e)) goto out;
    if (find_pending(&l, e)) goto out;
    headline(&l);
    signals_catch();
    rc = compute(&l, e);
    code = exit_code(&l, rc, e);
    if (code == EXIT_STOPPED || code == EXIT_INTERRUPTED) *e = (err){0};
    code = conclude(&l, code, e);
    summary(&l, code);
    if (!e->code && print_outcome(&l, e) && code == 0) code = e->code;
    tell_failed_controls(&l);
out:
    store_close(l.st);
    free(l.pending);
    free(args);
    free(cwd);
    return code < 0 ? e->code : code;
}
