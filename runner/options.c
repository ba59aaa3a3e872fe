/* options.c: the tables of commands and options, their parser and their help pages. */
#include "options.h"

#include <stdlib.h>
#include <string.h>

struct command_row {
    const char *name;
    enum command command;
    const char *usage, *does, *example;
    int min_args, max_args;
};

static const struct command_row commands[] = {
    {"run", COMMAND_RUN, "kvrun [run] FILE.yaml [options]",
     "Runs the jobs of an experiment that have no answer yet and prints the outcome table.\n"
     "Stopped or killed, run it again: only the missing jobs run.",
     "kvrun experiments/needle_sf_ny.yaml --db results.db", 1, 1},
    {"plan", COMMAND_PLAN, "kvrun plan FILE.yaml [options]",
     "Shows the jobs, the token positions the selectors hit, and what it all costs. Computes nothing.",
     "kvrun plan experiments/needle_sf_ny.yaml --json | python3 -m json.tool", 1, 1},
    {"tokens", COMMAND_TOKENS, "kvrun tokens FILE.yaml [PROMPT [PROMPT]] [options]",
     "Prints the tokens of the prompts with their bytes, which slot each belongs to, and what every selector hits.",
     "kvrun tokens experiments/needle_sf_ny.yaml city_sf", 1, 3},
    {"model", COMMAND_MODEL, "kvrun model PATH [options]",
     "Prints what a model is: architecture, sizes, types of the weights, tokenizer, SHA-256. Computes nothing.",
     "kvrun model models/SmolLM2-135M-Instruct.Q4_1.gguf --json | python3 -m json.tool", 1, 1},
    {"state-size", COMMAND_STATE_SIZE, "kvrun state-size MODEL... [options]",
     "How much a model keeps of the tokens it has seen: bytes a token, a context, and whatever the length.\n"
     "MODEL is a GGUF file, a Hugging Face folder or a config.json, also of models that kvrun cannot run: attention with any\n"
     "number of kv heads, windows, latent vectors (MLA), RWKV 4 to 6, Mamba 1 and 2, mixtures. No weights are read.\n"
     "RWKV's sums and matrices are f32 whatever the type. int8 is one byte a number, without its scales.\n"
     "--seed-table needs no MODEL: state sizes as the article \"QKV Transformers are RNN models with extra steps and memory\n"
     "capacity\" gives them (README of PicoCreator/QKV-Transformers-are-RNNs, commit ad3c268), beside computed ones.",
     "kvrun state-size models/SmolLM2-135M-Instruct.Q4_1.gguf --ctx 2048,8192 --dtype f16", 0, OPTIONS_ARGS},
    {"sql", COMMAND_SQL, "kvrun sql [QUERY] [options]",
     "Asks the results database, read-only. Views: v_result v_token v_prompt_token v_metric v_metric_part v_control v_kv\n"
     "v_divergence v_storage.\n"
     "QUERY - reads it from standard input.",
     "kvrun sql \"SELECT label, text FROM v_result\" --csv", 0, 1},
    {"show", COMMAND_SHOW, "kvrun show LABEL [options]", "One job: prompt, operations, text, metrics, captures, provenance.",
     "kvrun show city_sf/zero", 1, 1},
    {"export", COMMAND_EXPORT, "kvrun export safetensors --label L --moment M -o FILE [options]",
     "Writes a captured cache as safetensors: k.{layer} and v.{layer}, kv heads x tokens x head size, f32.",
     "kvrun export safetensors --label city_sf/zero --moment edited -o zero.safetensors", 1, 1},
    {"report", COMMAND_REPORT, "kvrun report FILE.yaml|FILE.db -o PAGE.html [options]",
     "Writes an experiment's results as one HTML page that opens from disk: answers, cache differences, sweeps, controls.\n"
     "A spec stands for its own experiment in its database; a database with several experiments needs --experiment.",
     "kvrun report experiments/needle_sf_ny.yaml -o needle.html", 1, 1},
    {"doctor", COMMAND_DOCTOR, "kvrun doctor [options]",
     "Says what kvrun finds on this machine: processor, memory, disk, libraries, models, GPU, and whether a tiny computation\n"
     "gives the same bits on every instruction set and number of threads. Exit 0 when kvrun can run here, else 3.",
     "kvrun doctor --json | python3 -m json.tool", 0, 0},
    {"bench", COMMAND_BENCH, "kvrun bench MODEL [options], or kvrun bench --shape NAME [options]",
     "Measures decoding, prefill and every operation of a pass, beside what this machine does at most, which is measured, "
     "too.\n"
     "On a GPU cuBLAS's times for the same products stand beside ours, where it is installed; nothing else uses it.\n"
     "The tables are Markdown. A shape is a model with made-up weights: llama-3.1-8b, smollm2-135m or tiny.",
     "kvrun bench --shape smollm2-135m --weights q4_1", 0, 1},
    {"help", COMMAND_HELP, "kvrun help [COMMAND]", "The page of a command.", "kvrun help run", 0, 1},
    {"version", COMMAND_VERSION, "kvrun version", "Version, commit, compiler, libraries.", "kvrun --version", 0, 0},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

enum kind { KIND_FLAG, KIND_INT, KIND_TEXT, KIND_LIST };

struct option_row {
    const char *name, *arg;
    char letter;
    enum kind kind;
    size_t offset;
    int commands; /* set of enum command */
    int least;    /* KIND_INT: smallest value allowed */
    const char *help;
};

enum { SPEC_COMMANDS = COMMAND_RUN | COMMAND_PLAN | COMMAND_TOKENS, READERS = COMMAND_SQL | COMMAND_SHOW | COMMAND_EXPORT };
#define AT(field) offsetof(struct options, field)

static const struct option_row rows[] = {
    {"db", "FILE", 0, KIND_TEXT, AT(db), COMMAND_RUN | COMMAND_PLAN | COMMAND_REPORT | COMMAND_DOCTOR | READERS, 0,
     "results database; default: the spec's run.db, else results.db"},
    {"set", "PATH=YAML", 's', KIND_LIST, AT(sets), SPEC_COMMANDS, 0,
     "a value of the spec: decode.max_tokens=20, axes.layer=[0,1]; as often as you like"},
    {"only", "GLOB", 0, KIND_LIST, AT(only), COMMAND_RUN | COMMAND_PLAN, 0,
     "jobs with such labels and what they need: --only 'sf/zero*'; as often as you like"},
    {"reasons", NULL, 0, KIND_FLAG, AT(reasons), COMMAND_PLAN, 0, "condition by condition, why jobs run or do not"},
    {"threads", "N", 't', KIND_INT, AT(threads), COMMAND_RUN | COMMAND_BENCH, 1,
     "threads of the engine; default: OMP_NUM_THREADS or all processors"},
    {"batch", "N", 'b', KIND_INT, AT(batch), COMMAND_RUN, 1,
     "jobs decoded together; default: by memory. No result depends on it"},
    {"isa", "NAME", 0, KIND_TEXT, AT(isa), COMMAND_RUN | COMMAND_BENCH, 0,
     "scalar, avx2 or avx512; default: the best. No result depends on it"},
    {"backend", "NAME", 0, KIND_TEXT, AT(backend), COMMAND_RUN | COMMAND_PLAN | COMMAND_BENCH, 0,
     "cpu, cuda, cuda-emu (a GPU's code on the CPU, slow) or auto; default: auto"},
    {"gpu", "N", 0, KIND_INT, AT(gpu), COMMAND_RUN | COMMAND_PLAN | COMMAND_BENCH | COMMAND_DOCTOR, 0,
     "number of the GPU; default: 0"},
    {"shuffle", "SEED", 0, KIND_INT, AT(shuffle), COMMAND_RUN, 1, "run the jobs in a random order. No result depends on it"},
    {"fresh", NULL, 0, KIND_FLAG, AT(fresh), COMMAND_RUN, 0, "run all jobs again; older answers stay in the database"},
    {"progress", "HOW", 0, KIND_TEXT, AT(progress), COMMAND_RUN, 0, "auto, bar, line or none"},
    {"quiet", NULL, 'q', KIND_FLAG, AT(quiet), COMMAND_RUN, 0, "no progress, no table; errors only"},
    {"color", "WHEN", 0, KIND_TEXT, AT(color), COMMAND_RUN | COMMAND_SHOW, 0, "auto, always or never; NO_COLOR counts"},
    {"json", NULL, 0, KIND_FLAG, AT(json),
     SPEC_COMMANDS | COMMAND_MODEL | COMMAND_STATE_SIZE | COMMAND_SQL | COMMAND_VERSION | COMMAND_DOCTOR | COMMAND_BENCH, 0,
     "JSON on standard output; rows as one array of objects"},
    {"compare", NULL, 0, KIND_FLAG, AT(compare), COMMAND_TOKENS, 0,
     "two prompts side by side, tokens that differ marked: the two named, or one and its other"},
    {"jsonl", NULL, 0, KIND_FLAG, AT(jsonl), COMMAND_SQL, 0, "one JSON object per line"},
    {"csv", NULL, 0, KIND_FLAG, AT(csv), COMMAND_SQL, 0, "comma-separated values (RFC 4180) with a header"},
    {"md", NULL, 0, KIND_FLAG, AT(md), COMMAND_SQL, 0, "a Markdown table"},
    {"example", "N", 0, KIND_INT, AT(example), COMMAND_SQL, 1, "one of the questions that come with kvrun; 1, 2, ..."},
    {"experiment", "NAME", 0, KIND_TEXT, AT(experiment), COMMAND_SHOW | COMMAND_EXPORT | COMMAND_REPORT, 0,
     "which experiment, when several have the label"},
    {"label", "L", 'l', KIND_TEXT, AT(label), COMMAND_EXPORT, 0, "the job: prompt/condition[/axis=value...]"},
    {"moment", "M", 'm', KIND_TEXT, AT(moment), COMMAND_EXPORT, 0, "prefill, edited, end or pass (activations)"},
    {"output", "FILE", 'o', KIND_TEXT, AT(out), COMMAND_EXPORT | COMMAND_REPORT | COMMAND_BENCH, 0,
     "the file to write; of bench: the numbers as JSON, beside the tables"},
    {"ctx", "N,N,...", 0, KIND_TEXT, AT(ctx), COMMAND_STATE_SIZE, 0, "contexts in tokens; default: 2048,8192,32768"},
    {"dtype", "TYPE", 0, KIND_TEXT, AT(dtype), COMMAND_STATE_SIZE, 0, "f16 (default), bf16, f32 or int8"},
    {"seed-table", NULL, 0, KIND_FLAG, AT(seed_table), COMMAND_STATE_SIZE, 0,
     "the table of the original article beside computed values"},
    {"shape", "NAME", 0, KIND_TEXT, AT(shape), COMMAND_BENCH, 0, "made-up weights: llama-3.1-8b, smollm2-135m or tiny"},
    {"weights", "TYPE", 0, KIND_TEXT, AT(weights), COMMAND_BENCH, 0,
     "of a shape: bf16 (default), f16, f32, q4_0, q4_1, q8_0, q4_k, q6_k"},
    {"layers", "N", 0, KIND_INT, AT(layers), COMMAND_BENCH, 1, "of a shape: fewer layers than it has"},
    {"kv", "TYPE", 0, KIND_TEXT, AT(kv), COMMAND_BENCH, 0, "of the caches: bf16 (default), f16 or f32"},
    {"prefix", "N", 0, KIND_INT, AT(prefix), COMMAND_BENCH, 1, "tokens that all rows share; default: 2048 on a GPU, else 512"},
    {"seconds", "N", 0, KIND_INT, AT(seconds), COMMAND_BENCH, 1, "for each table and row; default: 1"},
    {"help", NULL, 'h', KIND_FLAG, AT(help), -1, 0, "this page"},
};
enum { N_ROWS = sizeof rows / sizeof *rows };

static const struct command_row *command_row(enum command c)
{
    int i;
    for (i = 0; i < N_COMMANDS; i++)
        if (commands[i].command == c) return &commands[i];
    return NULL;
}

static const struct command_row *command_named(const char *name)
{
    int i;
    for (i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0) return &commands[i];
    return NULL;
}

static const struct option_row *find(const char *arg, size_t n)
{
    int i;
    for (i = 0; i < N_ROWS; i++) {
        if (n == 2 && arg[0] == '-' && rows[i].letter && arg[1] == rows[i].letter) return &rows[i];
        if (n > 2 && strlen(rows[i].name) == n - 2 && memcmp(arg + 2, rows[i].name, n - 2) == 0) return &rows[i];
    }
    return NULL;
}

static int unknown_option(const char *arg, enum command c, err *e)
{
    const char *names[N_ROWS + 1], *near;
    int i, n = 0;
    for (i = 0; i < N_ROWS; i++)
        if (rows[i].commands & (int)c) names[n++] = rows[i].name;
    names[n] = NULL;
    near = arg[1] == '-' ? nearest_word(arg + 2, names) : NULL;
    if (near) return err_set(e, ERR_INPUT, "unknown option '%s'; did you mean '--%s'?", arg, near);
    return err_set(e, ERR_INPUT, "unknown option '%s'; see kvrun help %s", arg, command_row(c)->name);
}

static int set_value(struct options *o, const struct option_row *r, const char *value, err *e)
{
    char *at = (char *)o + r->offset, *end;
    long n;
    if (r->kind == KIND_LIST) {
        struct option_list *l = (struct option_list *)(void *)at;
        if (l->n == OPTIONS_LIST) return err_set(e, ERR_INPUT, "--%s can stand %d times", r->name, OPTIONS_LIST);
        l->v[l->n++] = value;
        return 0;
    }
    if (r->kind == KIND_TEXT) {
        memcpy(at, &value, sizeof value);
        return 0;
    }
    n = strtol(value, &end, 10);
    if (end == value || *end || n < r->least || n > 1 << 30)
        return err_set(e, ERR_INPUT, "--%s: '%s' is not a whole number from %d", r->name, value, r->least);
    *(int *)(void *)at = (int)n;
    return 0;
}

/* Takes the option at argv[i]; returns how many words it used, or -1. */
static int take_option(struct options *o, int argc, char **argv, int i, err *e)
{
    const char *arg = argv[i], *eq = strncmp(arg, "--", 2) == 0 ? strchr(arg, '=') : NULL;
    const struct option_row *r = find(arg, eq ? (size_t)(eq - arg) : strlen(arg));
    if (!r || !(r->commands & (int)o->command)) return unknown_option(arg, o->command, e);
    if (r->kind == KIND_FLAG) {
        if (eq) return err_set(e, ERR_INPUT, "--%s takes no value", r->name);
        *((bool *)o + r->offset) = true;
        return 1;
    }
    if (eq) return set_value(o, r, eq + 1, e) ? -1 : 1;
    if (i + 1 >= argc) return err_set(e, ERR_INPUT, "--%s needs a value: --%s %s", r->name, r->name, r->arg);
    return set_value(o, r, argv[i + 1], e) ? -1 : 2;
}

static int one_of(const char *option, const char *value, const char *allowed, err *e)
{
    size_t n = value ? strlen(value) : 0;
    const char *p;
    if (!value) return 0;
    for (p = allowed; p; p = strchr(p, ' ') ? strchr(p, ' ') + 1 : NULL)
        if (strncmp(p, value, n) == 0 && (p[n] == ' ' || !p[n])) return 0;
    return err_set(e, ERR_INPUT, "--%s: '%s' is not one of: %s", option, value, allowed);
}

static int check(const struct options *o, err *e)
{
    const struct command_row *c = command_row(o->command);
    if (o->help) return 0;
    if (o->n_args < c->min_args) return err_set(e, ERR_INPUT, "usage: %s", c->usage);
    if (o->n_args > c->max_args) return err_set(e, ERR_INPUT, "too many words; usage: %s", c->usage);
    if (o->command == COMMAND_STATE_SIZE && (o->n_args == 0) != o->seed_table)
        return err_set(e, ERR_INPUT, o->seed_table ? "--seed-table takes no MODEL; usage: %s" : "usage: %s", c->usage);
    if (o->seed_table && o->ctx) return err_set(e, ERR_INPUT, "--seed-table has contexts of its own; leave out --ctx");
    if (one_of("dtype", o->dtype, "f16 bf16 f32 int8", e)) return -1;
    if (one_of("isa", o->isa, "scalar avx2 avx512", e)) return -1;
    if (one_of("backend", o->backend, "cpu cuda cuda-emu auto", e)) return -1;
    if (one_of("color", o->color, "auto always never", e)) return -1;
    if (one_of("progress", o->progress, "auto bar line none", e)) return -1;
    if (one_of("shape", o->shape, "llama-3.1-8b smollm2-135m tiny", e)) return -1;
    if (one_of("kv", o->kv, "bf16 f16 f32", e)) return -1;
    if (o->command == COMMAND_BENCH && (o->n_args == 1) == (o->shape != NULL))
        return err_set(e, ERR_INPUT, "give a model or --shape; usage: %s", c->usage);
    if (o->command == COMMAND_BENCH && !o->shape && (o->weights || o->layers))
        return err_set(e, ERR_INPUT, "--weights and --layers go with --shape; usage: %s", c->usage);
    if (o->command == COMMAND_SQL && o->n_args == 0 && !o->example)
        return err_set(e, ERR_INPUT, "give a query, or --example N; usage: %s", c->usage);
    if (o->command == COMMAND_REPORT && !o->out) return err_set(e, ERR_INPUT, "report needs -o; usage: %s", c->usage);
    if (o->command != COMMAND_EXPORT) return 0;
    if (strcmp(o->args[0], "safetensors") != 0)
        return err_set(e, ERR_INPUT, "export '%s': the one format is safetensors; usage: %s", o->args[0], c->usage);
    if (!o->label || !o->moment || !o->out)
        return err_set(e, ERR_INPUT, "export needs --label, --moment and -o; usage: %s", c->usage);
    return one_of("moment", o->moment, "prefill edited end pass", e);
}

/* The first word that is no option chooses the command, unless it is a file: then the command is run. */
static int choose_command(struct options *o, int argc, char **argv, int *first, err *e)
{
    const char *names[N_COMMANDS + 1], *word, *near;
    const struct command_row *c;
    int i;
    *first = 1;
    o->command = COMMAND_RUN;
    if (argc < 2) {
        o->command = COMMAND_HELP;
        return 0;
    }
    word = argv[1];
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) word = "help";
    if (strcmp(word, "--version") == 0) word = "version";
    c = command_named(word);
    if (c) {
        o->command = c->command;
        *first = 2;
        return 0;
    }
    if (word[0] == '-' || strchr(word, '.') || strchr(word, '/')) return 0;
    for (i = 0; i < N_COMMANDS; i++) names[i] = commands[i].name;
    names[N_COMMANDS] = NULL;
    near = nearest_word(word, names);
    if (near) return err_set(e, ERR_INPUT, "'%s' is neither a command nor a .yaml file; did you mean '%s'?", word, near);
    return err_set(e, ERR_INPUT, "'%s' is neither a command nor a .yaml file; see kvrun help", word);
}

int options_parse(struct options *o, int argc, char **argv, err *e)
{
    int i, used, words_only = 0;
    memset(o, 0, sizeof *o);
    if (choose_command(o, argc, argv, &i, e)) return -1;
    for (; i < argc; i += used) {
        used = 1;
        if (!words_only && strcmp(argv[i], "--") == 0) {
            words_only = 1;
        } else if (!words_only && argv[i][0] == '-' && argv[i][1]) {
            used = take_option(o, argc, argv, i, e);
            if (used < 0) return -1;
        } else if (o->n_args == OPTIONS_ARGS) {
            return err_set(e, ERR_INPUT, "too many words; usage: %s", command_row(o->command)->usage);
        } else {
            o->args[o->n_args++] = argv[i];
        }
    }
    return check(o, e);
}

static void help_program(FILE *out)
{
    int i;
    fputs("kvrun: experiments on the state of a transformer. A YAML file says which prompts, token positions and edits of the\n"
          "KV cache; kvrun runs the jobs on its own engine and keeps texts, numbers and caches in one SQLite file.\n\n"
          "usage: kvrun FILE.yaml [options]        run an experiment\n"
          "       kvrun COMMAND ... [options]\n\ncommands:\n",
          out);
    for (i = 0; i < N_COMMANDS; i++) {
        const char *line = strchr(commands[i].does, '\n');
        int n = line ? (int)(line - commands[i].does) : (int)strlen(commands[i].does);
        fprintf(out, "  %-11s %.*s\n", commands[i].name, n, commands[i].does);
    }
    fputs(
        "\nkvrun COMMAND --help tells a command's options and an example.\n\n"
        "models: $KVRUN_MODELS is the folder a spec's $KVRUN_MODELS/ means; without it, models/ beside the spec's parent "
        "folder\n"
        "exit codes: 0 done  1 some jobs or controls failed  2 usage or spec  3 model or machine  4 database  5 nothing found\n"
        "            6 disk full  70 a bug in kvrun  75 stopped by a signal, run it again  130 Ctrl-C\n\n"
        "example: kvrun experiments/needle_sf_ny.yaml && kvrun sql \"SELECT label, text FROM v_result\"\n",
        out);
}

void options_help(enum command c, FILE *out)
{
    const struct command_row *row = command_row(c);
    int i;
    if (c == COMMAND_HELP) {
        help_program(out);
        return;
    }
    fprintf(out, "usage: %s\n\n%s\n\noptions:\n", row->usage, row->does);
    for (i = 0; i < N_ROWS; i++) {
        char left[64], letter[8] = "";
        if (!(rows[i].commands & (int)c)) continue;
        if (rows[i].letter) snprintf(letter, sizeof letter, "-%c, ", rows[i].letter);
        snprintf(left, sizeof left, "%s--%s %s", letter, rows[i].name, rows[i].arg ? rows[i].arg : "");
        fprintf(out, "  %-22s %s\n", left, rows[i].help);
    }
    fprintf(out, "\nexample: %s\n", row->example);
}
