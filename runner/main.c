/* main.c: options to a command, and the only exit. */
#include "bench.h"
#include "doctor.h"
#include "environment.h"
#include "model_info.h"
#include "options.h"
#include "query.h"
#include "report.h"
#include "run.h"
#include "tokens.h"
#include "width.h"

#include <stdlib.h>
#include <string.h>

static int print(struct buf *b)
{
    if (b->n) fwrite(b->p, 1, b->n, stdout);
    buf_free(b);
    return 0;
}

static int command_help(const struct options *o, err *e)
{
    struct options page;
    char *argv[] = {(char *)"kvrun", NULL, (char *)"--help", NULL};
    if (o->n_args == 0) {
        options_help(COMMAND_HELP, stdout);
        return 0;
    }
    memcpy(&argv[1], &o->args[0], sizeof argv[1]);
    if (options_parse(&page, 3, argv, e)) return e->code;
    options_help(page.command, stdout);
    return 0;
}

static int command_tokens(const struct run *r, err *e)
{
    struct buf b = {0};
    const char *names[64] = {0};
    int i, found = 0, rc = 0;
    for (i = 0; i < r->spec->n_prompts; i++) {
        const char *name = r->spec->prompts[i].name;
        if (i < 63) names[i] = name;
        if (r->o->n_args > 1 && strcmp(r->o->args[1], name) != 0) continue;
        if (r->o->json && found) {
            buf_free(&b);
            return err_set(e, ERR_INPUT, "--json prints one prompt; name it: kvrun tokens %s %s --json", r->o->args[0],
                           names[0]);
        }
        found++;
        if (r->o->json)
            rc |= tokens_json(&r->prompts[i], r->en, &b, e);
        else
            tokens_text(&r->prompts[i], r->en, &b);
    }
    if (rc) return buf_free(&b), e->code;
    if (rc) return buf_free(&b), e->code;
    if (found) return print(&b);
    if (nearest_word(r->o->args[1], names))
        return err_set(e, ERR_INPUT, "no prompt '%s'; did you mean '%s'?", r->o->args[1], nearest_word(r->o->args[1], names)),
               e->code;
    return err_set(e, ERR_INPUT, "no prompt '%s' in %s", r->o->args[1], r->o->args[0]), e->code;
}

static int command_spec(const struct options *o, int argc, char **argv, err *e)
{
    struct run r;
    int code = run_open(&r, o, e);
    if (code == 0 && o->command == COMMAND_RUN) code = run_jobs(&r, argc, argv, e);
    if (code == 0 && o->command == COMMAND_TOKENS) code = command_tokens(&r, e);
    if (code == 0 && o->command == COMMAND_PLAN) code = run_plan(&r, e);
    run_close(&r);
    return code;
}

/* Standard input as one query. */
static char *read_stdin(void)
{
    struct buf b = {0};
    char chunk[4096];
    size_t n;
    while ((n = fread(chunk, 1, sizeof chunk, stdin)) > 0) buf_add(&b, chunk, n);
    return buf_take(&b);
}

static int command_sql(const struct options *o, const char *db, err *e)
{
    enum query_format f = o->json ? QUERY_JSON : o->jsonl ? QUERY_JSONL : o->csv ? QUERY_CSV : o->md ? QUERY_MD : QUERY_TABLE;
    const char *title = NULL, *query = o->n_args ? o->args[0] : query_example(o->example, &title);
    char *typed = o->n_args && strcmp(o->args[0], "-") == 0 ? read_stdin() : NULL;
    int rc;
    if (!query) return err_set(e, ERR_INPUT, "there is no example %d", o->example), e->code;
    if (title) fprintf(stderr, "-- %s\n%s\n\n", title, query);
    rc = query_sql(db, typed ? typed : query, f, width_terminal(0), stdout, e);
    free(typed);
    return rc ? e->code : 0;
}

static int command_model(const struct options *o, err *e)
{
    struct buf b = {0};
    engine *en;
    if (model_info_open(&en, o->args[0], e)) return e->code;
    if (o->json)
        model_info_json(en, &b);
    else
        model_info_text(en, &b);
    engine_free(en);
    return print(&b);
}

/* A spec names its experiment and its database; anything else is a database. */
static int command_report(const struct options *o, err *e)
{
    const char *in = o->args[0], *dot = strrchr(in, '.'), *db = in, *experiment = o->experiment;
    struct spec *s = NULL;
    struct diag *d = NULL;
    struct buf said = {0};
    int rc = 0;
    if (dot && (!strcmp(dot, ".yaml") || !strcmp(dot, ".yml"))) {
        rc = spec_load(&s, in, &d, e);
        if (rc && d) diag_text(d, &said);
        if (!rc) db = o->db ? o->db : s->db ? s->db : "results.db";
        if (!rc && !experiment) experiment = s->experiment;
    }
    fputs(said.p ? said.p : "", stderr);
    buf_free(&said);
    if (!rc) rc = report_write(db, experiment, o->out, e);
    diag_free(d);
    spec_free(s);
    if (rc) return e->code ? e->code : ERR_INPUT;
    fprintf(stderr, "wrote %s\n", o->out);
    return 0;
}

static int command_version(const struct options *o)
{
    struct buf b = {0};
    environment_version(o->json, &b);
    return print(&b);
}

static int run_command(const struct options *o, int argc, char **argv, err *e)
{
    const char *db = o->db ? o->db : "results.db";
    if (o->help) {
        options_help(o->command, stdout);
        return 0;
    }
    switch (o->command) {
    case COMMAND_HELP: return command_help(o, e);
    case COMMAND_VERSION: return command_version(o);
    case COMMAND_MODEL: return command_model(o, e);
    case COMMAND_REPORT: return command_report(o, e);
    case COMMAND_SQL: return command_sql(o, db, e);
    case COMMAND_DOCTOR: return doctor(o, stdout, e);
    case COMMAND_BENCH: return bench(o, stdout, e) ? e->code : 0;
    case COMMAND_SHOW: return query_show(db, o->experiment, o->args[0], stdout, e) ? e->code : 0;
    case COMMAND_EXPORT: return query_export(db, o->experiment, o->label, o->moment, o->out, e) ? e->code : 0;
    default: return command_spec(o, argc, argv, e);
    }
}

int main(int argc, char **argv)
{
    struct options o;
    err e = {0};
    int code = options_parse(&o, argc, argv, &e) ? e.code : run_command(&o, argc, argv, &e);
    if (e.code) fprintf(stderr, "kvrun: %s\n", e.msg);
    if (fflush(stdout) != 0 && code == 0) code = ERR_DISK;
    return code;
}
