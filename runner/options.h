/* options.h: the command line as one table, from which parser and help are made.
 *
 *     struct options o;
 *     if (options_parse(&o, argc, argv, e)) ...      // ERR_INPUT, the message names the argument
 *     if (o.help) options_help(o.command, stdout);
 */
#ifndef RUNNER_OPTIONS_H
#define RUNNER_OPTIONS_H

#include "../engine/base.h"

#include <stdbool.h>
#include <stdio.h>

enum command {
    COMMAND_RUN = 1,
    COMMAND_PLAN = 2,
    COMMAND_TOKENS = 4,
    COMMAND_SQL = 8,
    COMMAND_SHOW = 16,
    COMMAND_EXPORT = 32,
    COMMAND_HELP = 64,
    COMMAND_VERSION = 128,
    COMMAND_MODEL = 256,
};

enum { OPTIONS_ARGS = 3, OPTIONS_LIST = 256 };

/* The values of an option that may be given many times. */
struct option_list {
    const char *v[OPTIONS_LIST]; /* (n) */
    int n;
};

struct options {
    enum command command;
    const char *args[OPTIONS_ARGS]; /* the words that are not options, behind the command */
    int n_args;
    bool help;

    const char *db, *isa, *color, *progress;
    int threads, batch, shuffle; /* shuffle: 0 is the plain order */
    bool compare;
    bool fresh, quiet, reasons;
    bool json, jsonl, csv, md;
    int example;
    const char *experiment, *label, *moment, *out;
    struct option_list sets, only; /* -s path=value; labels with * ? [..] */
};

int options_parse(struct options *o, int argc, char **argv, err *e);
/* The page of one command; COMMAND_HELP: the page of the program. */
void options_help(enum command c, FILE *out);

#endif
