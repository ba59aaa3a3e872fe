/* spec.h: an experiment as typed values, each with the place where it was written.
 *
 * spec_load reads and checks everything that can be checked without the model. All of it lives in spec->mem, freed by
 * spec_free. After load the spec is read-only. Positions become token indices in bind.h, jobs are made in job.h.
 *
 *     struct spec *s; struct diag *d;
 *     if (spec_load(&s, "exp.yaml", &d, e)) { if (d) diag_text(d, &out); ... }   // e is empty when d tells
 *
 * The language: LANGUAGE.md; every unknown key or value is an error that says what is allowed.
 */
#ifndef RUNNER_SPEC_H
#define RUNNER_SPEC_H

#include "../engine/engine.h"
#include "node.h"

/* ---- small values ---- */

/* Whole numbers as written: singles, inclusive ranges "a..b", negatives counting from the end; or all; or so many around a
   centre, as far as there are. */
struct ranges {
    bool all;
    int window; /* how many, r[0] is the centre; 0: no window */
    int n;
    struct range {
        int first, last;
        struct mark at;
    } * r;          /* (n) */
    struct mark at; /* of the whole value */
    int width;
};

/* ---- prompts ---- */

struct axis_value;

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

/* Long text around a needle: as much of a file as makes the whole prompt `tokens` tokens long at most. */
struct haystack {
    int file;                  /* index into spec->files */
    int tokens;                /* of the whole prompt, everything counted */
    float depth;               /* per cent of the text that stands before the needle */
    int seed;                  /* chooses where in the file the text begins; 0: at its beginning */
    const char *needle, *text; /* the needle's name, a slot to selectors, and what it says; NULL: there is none */
    struct mark at;
    int width;
};

struct slot {
    const char *name, *value;         /* the value this prompt puts in */
    struct mark at;                   /* of the value */
    const struct haystack *haystack;  /* the value is made when the prompt is bound; NULL: it stands above */
    const struct node *node, *needle; /* a haystack as written, and its needle's text */
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
    int first; /* index of the first prompt of this name: a prompt that depends on axes is one for each of their values */
    struct axis_value *values; /* (n_values) of the axes it depends on, in declared order; in the label of all its jobs */
    int n_values;
    bool idle;  /* exclude removes all of its jobs: it is not bound */
    bool extra; /* only include has its values */
};

/* Text of one or more files, read when the spec is. */
struct text_file {
    const char *name, *text, *join; /* UTF-8 */
    size_t len;
    struct mark at;
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

/* Where an operation takes values from: places of a prompt as it is, or as a condition with edits leaves it; or what an earlier
   run stored. */
struct donor {
    bool other;                /* the prompt is `other` */
    const char *prompt;        /* else its name; NULL: the prompt that is edited */
    int condition;             /* index of the condition whose edits are made there, or -1: none */
    struct axis_value *values; /* (n_values) of its axes, as given; the job's own values stand for the rest */
    int n_values;
    const struct donor_stored *stored; /* NULL: values of this run */
    struct select select;              /* of a stored one SELECT_TOKENS */
    struct mark at;
    int width;
};

/* Captures of a label of a database. */
struct donor_stored {
    const char *label, *experiment, *db; /* experiment NULL: the label has only one; db NULL: the database of this run */
    int moment;                          /* of K and V: one of MOMENT_*; other tensors are those of the pass */
};

/* What an `add` adds: numbers of a file, or the vector at `from` minus that at `minus`. */
struct op_vector {
    const char *file, *tensor; /* file: as written; NULL: a difference */
    struct donor from, minus;
    struct mark at;
    int width;
};

/* How two selections of different length are laid side by side; the surplus stays as it is. */
enum op_align {
    ALIGN_SAME,  /* they must have one length */
    ALIGN_LEFT,  /* first to first */
    ALIGN_RIGHT, /* last to last */
    ALIGN_MAP,   /* as `map` says, in places within each selection */
};

struct op {
    enum edit_op op;
    int tensors; /* CACHE_K | CACHE_V, or one of SITE_* */
    bool embed;  /* SITE_RESID before the first block; `layers` has no meaning then */
    struct ranges layers, heads;
    struct select select; /* `at` */
    enum op_when when;
    int first_step, last_step; /* WHEN_STEPS */
    float by;                  /* scale, add */
    struct op_vector vector;   /* add */
    struct donor donor;        /* transplant, or swap's `with`, which is of the same prompt; its select defaults to `at` */
    enum op_align align;
    struct op_pair {
        int to, from;
    } * map; /* (n_map) ALIGN_MAP */
    int n_map;
    bool rerotate; /* rope: rerotate; rope_given tells that it was written */
    bool rope_given;
    struct donor *refs; /* (n_refs) mean: the places whose mean is taken */
    int n_refs;
    float sigma; /* noise */
    int seed;
    int bits; /* quantise */
    bool per_channel;
    bool compact;          /* evict */
    struct select queries; /* knockout */
    bool all_queries;      /* every query at the keys and behind them */
    struct mark at, align_at, layers_at, heads_at;
    int align_width;
};

/* ---- axes and conditions ---- */

/* What the values of an axis are. Those of a list, of a numeric range (written out as a list) and of a zip are known here;
   layers and windows of them need the model; positions need the prompt too, and may be others in each. */
enum axis_kind { AXIS_LIST, AXIS_LAYERS, AXIS_WINDOWS, AXIS_POSITIONS, AXIS_ZIP };

struct axis {
    const char *name;
    struct mark at;
    enum axis_kind kind;
    struct node **values; /* (n) AXIS_LIST: scalars; AXIS_ZIP: the names that labels show */
    int n;
    struct axis_member {         /* one list of a zip; `$axis.name` stands for its value */
        const char *name, *full; /* full: "axis.name" */
        struct mark at;
        struct node **values; /* (n) */
    } * members;              /* (n_members) AXIS_ZIP */
    int n_members;
    struct ranges layers; /* AXIS_LAYERS: the values; AXIS_WINDOWS: their centres */
    int size;             /* AXIS_WINDOWS: layers of a window that the model's ends do not cut */
    struct select select; /* AXIS_POSITIONS */
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
    int choice;       /* AXIS_ZIP: index of the value, the same in every member */
    bool has_number;
    double number; /* what the value counts as on a scale: a window by its centre */
};

/* Which combinations of axis values a rule of `exclude` or an item of `include` speaks of. */
struct sweep_key {
    int axis, member;     /* member: index of a zip's list, or -1: the axis itself */
    struct node **values; /* (n) any of them */
    int n;
    struct mark at; /* of the key */
};
struct sweep {
    int *conditions, *prompts; /* (n_*) indices; NULL: all */
    int n_conditions, n_prompts;
    struct sweep_key *keys; /* (n_keys) all must hold; a job without one of the axes is not meant */
    int n_keys;
    const char *why; /* exclude */
    struct mark at;
    int width;
};

/* ---- the rest ---- */

enum after_edit { AFTER_NONE, AFTER_RERUN_LAST, AFTER_REUSE_LOGITS, AFTER_FEED };

struct decode {
    int max_tokens; /* default 100 */
    bool stop_eos;  /* default true */
    enum after_edit after_edit;
    const char *feed; /* AFTER_FEED: the last words of every prompt, fed as one block behind the edit */
    struct mark feed_at;
    int feed_width;
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

enum metric_kind {
    METRIC_MENTIONS,
    METRIC_FIRST_DIVERGENCE,
    METRIC_KL,
    METRIC_LOGPROB_DIFF,
    METRIC_LOGIT,
    METRIC_LOGPROB,
    METRIC_PROB,
    METRIC_RANK,
    METRIC_LOGIT_DIFF,
    METRIC_RECOVERY,
    METRIC_EDIT_DISTANCE,
    METRIC_KV_DELTA,
    METRIC_STATE_SIZE,
    METRIC_KINDS
};
enum metric_which { WHICH_ANY, WHICH_OWN, WHICH_OTHER };
enum metric_norm { NORM_L2, NORM_COSINE, NORM_MAX };
enum { PER_STEP = 1, PER_LAYER = 2, PER_POSITION = 4, PER_HEAD = 8, PER_TENSOR = 16 };

/* The job of a condition that a recovery is measured by: of the same prompt, of its other one, or of a named one. */
struct metric_place {
    int condition;
    bool other;
    int prompt; /* index, or -1 */
    struct mark at;
};

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
    int against; /* index of a condition, or -1 */
    int per;     /* PER_* */
    /* logit .. logit_diff: texts per prompt's name; key NULL: for all prompts, of logit_diff two: the first minus the second */
    struct answer_text {
        const char *key, *text;
        struct mark at;
        int width;
    } * answers; /* (n_answers) */
    int n_answers;
    int step;                           /* of the new token whose logits are read */
    int of_metric;                      /* recovery: index of a metric */
    struct metric_place clean, corrupt; /* recovery */
    bool unit_token;                    /* edit_distance: of tokens, else of characters */
    enum metric_norm norm;              /* kv_delta */
    int moment;                         /* kv_delta: one of MOMENT_* */
    const char *between[2];             /* kv_delta: labels, instead of against */
    struct mark between_at[2];
    int *of, n_of; /* kv_delta: (n_of) conditions; NULL: all but `against` */
    struct mark at;
};

struct spec {
    arena *mem;
    const char *path, *source; /* source: the bytes of the file */
    size_t source_len;
    uint8_t sha256[32];      /* of the source */
    const char *const *sets; /* (n_sets) path=value of the command line, put in over the file; copies */
    int n_sets;
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

    struct text_file *files; /* (n_files) */
    int n_files;
    struct prompt *prompts; /* (n_prompts) the n_written first ones in file order, then the other ones of those that depend on
                               axes, whose `first` is theirs */
    int n_prompts, n_written;
    struct axis *axes; /* (n_axes) */
    int n_axes;
    struct condition *conditions; /* (n_conditions) */
    int n_conditions;
    struct sweep *excludes, *includes; /* (n_*) in their order in the file */
    int n_excludes, n_includes;
    bool control_noop, control_self_transplant, control_non_needle, control_absent;
    int non_needle_seed;
    int *controls_for; /* (n_controls_for) indices of conditions that have controls of their own; else each prompt has them */
    int n_controls_for;
    struct mark controls_at;
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
/* The same with values of the command line in the place of the file's: "decode.max_tokens=20" (n_sets). */
int spec_load_set(struct spec **out, const char *path, const char *const *sets, int n_sets, struct diag **diags, err *e);
/* The same from bytes; for tests and fuzzing. */
int spec_parse(struct spec **out, const char *path, const char *text, size_t n, struct diag **diags);
int spec_parse_set(struct spec **out, const char *path, const char *text, size_t n, const char *const *sets, int n_sets,
                   struct diag **diags);
void spec_free(struct spec *s); /* NULL is fine */

/* Reads the operations of a condition with `values` (n_values) put in for $axis. *ops (n_ops) lives in mem. -1: d tells. */
int spec_ops(const struct spec *s, const struct condition *c, const struct axis_value *values, int n_values, arena *mem,
             struct diag *d, struct op **ops, int *n_ops);

/* How many values are known before the model is, at least 1: where none is, a "0" stands for them. */
int spec_axis_count(const struct axis *a);
struct axis_value spec_axis_value(const struct spec *s, int axis, int i);
/* Whether a value of a zip is the one that is written: by its name, or by its value in the first list. */
bool spec_zip_means(const struct axis *a, int choice, const char *written);
/* Whether a value is what is written: the same text, or the same number. */
bool spec_same_value(const char *value, const char *written);

/* Whether an item of `include` can be a job of this prompt: its values are those that the prompt was made for. */
bool spec_included(const struct spec *s, const struct sweep *w, const struct prompt *p);
/* The key of a metric in the spec: "logit_diff". */
const char *spec_metric_kind(enum metric_kind kind);

/* The file the spec means, decisions.md 5: $KVRUN_MODELS, else models/ beside the spec's parent folder, else models/ in the
   current folder. Caller frees. The file need not exist. */
char *spec_model_path(const struct spec *s);

#endif
