/* spec.h: an experiment as typed values, each with the place where it was written.
 *
 * spec_load reads and checks everything that can be checked without the model. All of it lives in spec->mem, freed by
 * spec_free. After load the spec is read-only. Positions become token indices in bind.h, jobs are made in job.h.
 *
 *     struct spec *s; struct diag *d;
 *     if (spec_load(&s, "exp.yaml", &d, e)) { if (d) diag_text(d, &out); ... }   // e is empty when d tells
 *
 * The language: docs in README.md; every unknown key or value is an error that says what is allowed.
 */
#ifndef RUNNER_SPEC_H
#define RUNNER_SPEC_H

#include "../engine/engine.h"
#include "node.h"

/* ---- small values ---- */

/* Whole numbers as written: singles, inclusive ranges "a..b", negatives counting from the end; or all. */
struct ranges {
    bool all;
    int n;
    struct range {
        int first, last;
        struct mark at;
    } * r;          /* (n) */
    struct mark at; /* of the whole value */
    int width;
};

/* ---- prompts ---- */

/* Text with slots: literal parts and slot references in order. {{{{ is a literal {{. */
struct piece {
    int slot;         /* index into the prompt's slots, or -1: literal */
    const char *text; /* literal bytes */
    size_t len;
};
struct template
{
    struct piece *pieces; /* (n) */
    int n;
    struct mark at;
};

struct slot {
    const char *name, *value; /* the value this prompt puts in */
    struct mark at;           /* of the value */
};

enum prompt_kind { PROMPT_TEXT, PROMPT_CHAT, PROMPT_TOKENS };

struct turn {
    const char *role; /* "system", "user", "assistant" */
    struct template content;
    struct mark at;
};

/* One name = one prompt: an entry `name: [sf, ny]` becomes two, which know each other as `other`. */
struct prompt {
    const char *name;
    struct mark at;
    int other; /* index of the other name of a two-name entry, else -1 */
    enum prompt_kind kind;
    struct template text; /* PROMPT_TEXT */
    struct turn *turns;   /* (n_turns) PROMPT_CHAT */
    int n_turns;
    struct template answer; /* answer_starts, behind the rendered chat; n = 0: none */
    int *tokens;            /* (n_tokens) PROMPT_TOKENS */
    int n_tokens;
    int add_bos;        /* 0, 1; -1: the default (decisions.md 6) */
    struct slot *slots; /* (n_slots) */
    int n_slots;
};

/* ---- positions ---- */

enum select_kind {
    SELECT_SLOT,    /* text: the slot's name, nth */
    SELECT_TEXT,    /* text: a substring, nth */
    SELECT_TOKENS,  /* tokens */
    SELECT_REGEX,   /* text: PCRE2 with UTF, nth */
    SELECT_ROLE,    /* text: the role of chat turns, nth the turn among those of that role; with_markers */
    SELECT_BOS,     /* the token in front that stands for no text */
    SELECT_ALL_OF,  /* every position */
    SELECT_AFTER,   /* behind the last position of parts[0] */
    SELECT_BEFORE,  /* before the first position of parts[0] */
    SELECT_BETWEEN, /* behind parts[0], before parts[1] */
    SELECT_NOT,     /* all but parts[0] */
    SELECT_ANY,     /* in one of the parts */
    SELECT_BOTH,    /* in all of the parts */
    SELECT_GEN,     /* new tokens, tokens counts them from 0; only with when: every_step or steps */
    SELECT_SCORE,   /* those among parts[0] with the least or the largest scores; known only when the job runs */
};
enum { SELECT_ONLY = 0, SELECT_LAST = -1, SELECT_ALL = -2 }; /* nth: 1.. or one of these; ONLY: must occur once */
enum select_edges { EDGES_SPACE, EDGES_EXACT, EDGES_INCLUDE, EDGES_EXCLUDE }; /* of tokens that are partly inside */
enum select_score {
    SCORE_POSITION,
    SCORE_ATTENTION,
    SCORE_KEY_NORM
}; /* attention: received in the unedited pass, summed over
      layers, heads and later queries; key norm: L2, the same sums */

struct select {
    enum select_kind kind;
    const char *text;
    int nth;
    struct ranges tokens; /* SELECT_TOKENS: indices, negatives from the end of the prompt */
    bool with_markers;
    enum select_edges edges;
    int expand[2];        /* tokens more to the left and to the right */
    struct select *parts; /* (n_parts) */
    int n_parts;
    enum select_score score;
    bool highest;        /* of the scores, else the lowest */
    int count, per_cent; /* how many are taken: a number, or a share of the candidates in per cent (0: count says it) */
    struct mark at;
    int width;
};

/* ---- edits ---- */

enum op_when { WHEN_FINISHED_CACHE, WHEN_PREFILL, WHEN_STEPS }; /* STEPS: every_step is 0..INT_MAX */

/* A place of a prompt whose unedited values are taken. */
struct donor {
    bool other;         /* the prompt is `other` */
    const char *prompt; /* else its name */
    struct select select;
    struct mark at;
};

/* What an `add` adds: numbers of a file, or the vector at `from` minus that at `minus`. */
struct op_vector {
    const char *file, *tensor; /* file: as written; NULL: a difference */
    struct donor from, minus;
    struct mark at;
    int width;
};

struct op {
    enum edit_op op;
    int tensors; /* CACHE_K | CACHE_V, or one of SITE_* */
    bool embed;  /* SITE_RESID before the first block; `layers` has no meaning then */
    struct ranges layers, heads;
    struct select select; /* `at` */
    enum op_when when;
    float by;                /* scale, add */
    struct op_vector vector; /* add */
    struct donor donor;      /* transplant; its select defaults to `at` */
    bool rerotate;           /* rope: rerotate; rope_given tells that it was written */
    bool rope_given;
    struct mark at, align_at, layers_at, heads_at;
};

/* ---- axes and conditions ---- */

enum axis_kind { AXIS_LIST, AXIS_LAYERS };

struct axis {
    const char *name;
    struct mark at;
    enum axis_kind kind;
    struct node **values; /* (n) AXIS_LIST: scalars */
    int n;
    struct ranges layers; /* AXIS_LAYERS: resolved with the model's number of layers */
};

struct condition {
    const char *name;
    struct mark at;
    int *over; /* (n_over) indices of axes, in the axes' declared order */
    int n_over;
    struct node *apply; /* list of operations, or NULL: a condition without edits */
};

/* A value of an axis in one job. */
struct axis_value {
    int axis;         /* index into spec->axes */
    const char *text; /* what `$axis` stands for, and what the label says */
    struct mark at;   /* of the value in the spec */
};

/* ---- the rest ---- */

enum after_edit { AFTER_NONE, AFTER_RERUN_LAST, AFTER_REUSE_LOGITS, AFTER_FEED };

struct decode {
    int max_tokens; /* default 100 */
    bool stop_eos;  /* default true */
    enum after_edit after_edit;
    const char *feed; /* AFTER_FEED: the last words of every prompt, fed as one block behind the edit */
    struct mark feed_at;
    struct mark at;
};

enum { MOMENT_PREFILL = 1, MOMENT_EDITED = 2, MOMENT_END = 4 };

struct capture {
    int *conditions; /* (n) indices; NULL: all */
    int n;
    int moments;
    struct mark at;
};

/* What is recorded while the prompt is fed. */
struct tensors {
    int *conditions; /* (n) indices; NULL: all */
    int n;
    int sites;  /* SITE_* bits */
    bool embed; /* SITE_RESID before the first block, beside sites */
    struct ranges layers;
    struct select select; /* `at` */
    struct mark at;
};

enum metric_kind { METRIC_MENTIONS, METRIC_FIRST_DIVERGENCE };
enum metric_which { WHICH_ANY, WHICH_OWN, WHICH_OTHER };

struct metric {
    const char *name;
    enum metric_kind kind;
    enum metric_which which;
    /* mentions: words per key; key NULL: `any` */
    struct words {
        const char *key;
        const char **words; /* (n) */
        int n;
    } * words; /* (n_words) */
    int n_words;
    bool casefold;
    int against; /* first_divergence: index of a condition */
    struct mark at;
};

struct spec {
    arena *mem;
    const char *path, *source; /* source: the bytes of the file */
    size_t source_len;
    uint8_t sha256[32];             /* of the source */
    const char *experiment, *title; /* title: the experiment's name when it has none */
    struct mark experiment_at;

    const char *model_path; /* as written */
    struct mark model_at;
    const char *model_sha256; /* 64 lower-case hex digits or NULL */
    struct mark model_sha256_at;
    const char *chat_template;             /* the Jinja source that model.chat_template names, or NULL: the model's own */
    const struct node *chat_template_path; /* as written */
    int year, month, day;                  /* model.date; 0: not given */
    enum kv_type kv;

    struct prompt *prompts; /* (n_prompts) file order */
    int n_prompts;
    struct axis *axes; /* (n_axes) */
    int n_axes;
    struct condition *conditions; /* (n_conditions) */
    int n_conditions;
    bool control_noop, control_self_transplant;
    struct decode decode;
    struct capture *captures; /* (n_captures) */
    int n_captures;
    struct tensors *tensors; /* (n_tensors) */
    int n_tensors;
    struct metric *metrics; /* (n_metrics) */
    int n_metrics;
    const char *db;   /* run.db or NULL */
    unsigned allowed; /* warnings silenced by `allow`: bit c of code W100 + c */
};

/* *out only on success. Fails with e set when the file cannot be read (ERR_INPUT); with e empty and *diags filled when the
   spec is wrong. *diags is set whenever the file could be read (warnings); the caller frees it. */
int spec_load(struct spec **out, const char *path, struct diag **diags, err *e);
/* The same from bytes; for tests and fuzzing. */
int spec_parse(struct spec **out, const char *path, const char *text, size_t n, struct diag **diags);
void spec_free(struct spec *s); /* NULL is fine */

/* Reads the operations of a condition with `values` (n_values) put in for $axis. *ops (n_ops) lives in mem. -1: d tells. */
int spec_ops(const struct spec *s, const struct condition *c, const struct axis_value *values, int n_values, arena *mem,
             struct diag *d, struct op **ops, int *n_ops);

/* The file the spec means, decisions.md 5: $KVRUN_MODELS, else models/ beside the spec's parent folder, else models/ in the
   current folder. Caller frees. The file need not exist. */
char *spec_model_path(const struct spec *s);

#endif
