/* main.c: options to a command, and the only exit. */
#include "environment.h"
#include "model_info.h"
#include "options.h"
#include "query.h"
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

/* The first prompt of this name that has jobs, or -1. */
static int prompt_named(const struct run *r, const char *name, err *e)
{
    const struct spec *s = r->spec;
    const char *names[64] = {0}, *near;
    int i;
    for (i = 0; i < s->n_prompts; i++) {
        if (i < 63 && i < s->n_written) names[i] = s->prompts[i].name;
        if (r->prompts[i].n_tokens && (!strcmp(r->prompts[i].label, name) || !strcmp(s->prompts[i].name, name))) return i;
    }
    near = nearest_word(name, names);
    return near ? err_set(e, ERR_INPUT, "no prompt '%s'; did you mean '%s'?", name, near)
                : err_set(e, ERR_INPUT, "no prompt '%s' in %s", name, r->o->args[0]);
}

/* Two prompts side by side: those named; one and its other; the first two. */
static int compare_tokens(const struct run *r, struct buf *b, err *e)
{
    int n = r->o->n_args, i = n > 1 ? prompt_named(r, r->o->args[1], e) : 0, k;
    if (i < 0) return -1;
    k = n > 2 ? prompt_named(r, r->o->args[2], e) : r->spec->prompts[i].other >= 0 ? r->spec->prompts[i].other : n > 1 ? 0 : 1;
    if (k < 0) return -1;
    if (k >= r->spec->n_prompts || k == i || !r->prompts[i].n_tokens || !r->prompts[k].n_tokens)
        return err_set(e, ERR_INPUT, "--compare needs two prompts: kvrun tokens %s A B --compare", r->o->args[0]);
    if (r->o->json) return tokens_compare_json(&r->prompts[i], &r->prompts[k], b, e);
    tokens_compare(&r->prompts[i], &r->prompts[k], r->en, b);
    return 0;
}

static int show_tokens(const struct run *r, int i, struct buf *b, err *e)
{
    if (r->o->json) return tokens_json(r->spec, &r->prompts[i], r->en, b, e);
    tokens_text(&r->prompts[i], r->en, b);
    tokens_selectors(r->spec, &r->prompts[i], b);
    return 0;
}

/* All prompts, or one; of a prompt that depends on axes the first, and how many more there are. */
static int command_tokens(const struct run *r, err *e)
{
    const struct spec *s = r->spec;
    struct buf b = {0};
    int i, k, rc = 0;
    if (r->o->compare) {
        rc = compare_tokens(r, &b, e);
    } else if (r->o->n_args > 2) {
        rc = err_set(e, ERR_INPUT, "two prompts go with --compare");
    } else if (r->o->n_args > 1) {
        i = prompt_named(r, r->o->args[1], e);
        rc = i < 0 ? -1 : show_tokens(r, i, &b, e);
    } else if (r->o->json && s->n_written > 1) {
        rc = err_set(e, ERR_INPUT, "--json prints one prompt; name it: kvrun tokens %s %s --json", r->o->args[0],
                     s->prompts[0].name);
    } else {
        for (i = 0; i < s->n_written && !rc; i++) {
            int more = 0, first = prompt_named(r, s->prompts[i].name, e);
            if (first < 0) return buf_free(&b), e->code;
            rc = show_tokens(r, first, &b, e);
            for (k = s->n_written; k < s->n_prompts; k++) more += s->prompts[k].first == i;
            if (more && !r->o->json)
                buf_printf(&b, "… and %d more prompts of this name along axes; name one: kvrun tokens %s %s\n", more,
                           r->o->args[0], r->prompts[s->n_prompts - 1].label);
        }
    }
    if (rc) return buf_free(&b), e->code;
    return print(&b);
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
    case COMMAND_SQL: return command_sql(o, db, e);
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
