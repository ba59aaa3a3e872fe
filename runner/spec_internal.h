/* spec_internal.h: what the parts of the spec reader share; nobody outside runner/spec*.c includes it.
 *
 * A reader carries the spec being filled and, while operations are read, the values that stand for $axis. Each typed reader
 * takes the node and the key's name for messages, says what is wrong and returns false, and leaves *out as it was.
 *
 *     struct field f[] = {NEEDED("path", "path: $KVRUN_MODELS/x.gguf"), MAY("kv"), LATER("dtype"), {0}};
 *     if (!spec_map(r, v, "model", f)) return;
 *     spec_text(r, spec_field(f, "path"), "path", &s->model_path);
 */
#ifndef RUNNER_SPEC_INTERNAL_H
#define RUNNER_SPEC_INTERNAL_H

#include "spec.h"

/* Names with their indices, sorted, so that a file of many names is not searched from end to end for each of them. */
struct names {
    struct name_ref {
        const char *name;
        int index, width;
        struct mark at;
    } * v; /* (n) */
    int n, cap;
};

/* The public spec and what later calls of spec_ops look up. */
struct spec_own {
    struct spec s; /* first: a struct spec * is a struct spec_own * */
    struct names prompts, axes, conditions, slots, files;
    struct names members;         /* of zips, "axis.member": index ZIP_MEMBERS * axis + member */
    const struct node **at_nodes; /* (n_axes) AXIS_POSITIONS: the selector as written */
    bool *prompt_uses;            /* (n_axes) prompts depend on it: a condition may be over it without naming it */
    int first_plain;              /* index of the first condition without edits, or -1 */
    int unpaired;                 /* index of the first prompt without an `other`, or -1 */
    bool prompts_wrong;           /* slots and names of prompts cannot be trusted: say nothing that follows from them */
    bool *inherits;               /* (n_conditions) its apply is another condition's */
};

struct reader {
    const struct spec_own *o;
    struct diag *d;
    arena *mem;
    unsigned allowed; /* warnings silenced: bit c of code W100 + c */
    int wrong;        /* errors said, also those that diag drops as repeated: unchanged means all went well */
    /* while operations are read: */
    const struct condition *condition;
    const struct axis_value *values; /* (n_values) */
    struct put {
        struct node value;
        const struct node *node;  /* what was put in last: the value, or a member's of a zip */
        const struct node *where; /* the `$axis` it was put in for */
    } * puts;                     /* (n_values) */
    int n_values;
    bool *axis_used; /* (n_axes) or NULL: which axes a `$axis` named */
};

/* ---- spec_read.c: typed readers ---- */

enum { FIELD_NEEDED = 1, FIELD_LATER = 2 };
struct field {
    const char *key, *note; /* note: an example of a needed key, for the help */
    unsigned flags;
    const struct node *v, *k; /* value and key as found, or NULL */
};
#define NEEDED(name, example)                                   \
    {                                                           \
        .key = (name), .note = (example), .flags = FIELD_NEEDED \
    }
#define MAY(name)     \
    {                 \
        .key = (name) \
    }
#define LATER(name)                         \
    {                                       \
        .key = (name), .flags = FIELD_LATER \
    }

void spec_wrong(struct reader *r, const struct node *v, const char *code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void spec_where(const struct reader *r, struct mark at, struct buf *out);
void spec_help(struct reader *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
const char *spec_shown(struct reader *r, const struct node *v); /* 'text', cut when long, or "a list" */
bool spec_quiet(const struct reader *r);                        /* no more errors are kept: spare the work for texts */

/* The node, or the axis value it stands for; NULL: said why. */
const struct node *spec_put(struct reader *r, const struct node *v);

/* Sorts the keys of map v into f, which ends with a key NULL. False when v is no map; wrong keys are said and passed over. */
bool spec_map(struct reader *r, const struct node *v, const char *what, struct field *f);
const struct node *spec_field(const struct field *f, const char *key);     /* NULL: not there */
bool spec_list(struct reader *r, const struct node *v, const char *name);  /* a list with items */
bool spec_words(struct reader *r, const struct node *v, const char *name); /* the same; the help shows a word as a list */
bool spec_text(struct reader *r, const struct node *v, const char *name, const char **out); /* not empty */
bool spec_text_or_empty(struct reader *r, const struct node *v, const char *name, const char **out);
bool spec_int(struct reader *r, const struct node *v, const char *name, int lo, int hi, int *out);
/* A decimal number that a float can hold. */
bool spec_number(struct reader *r, const struct node *v, const char *name, float *out);
bool spec_bool(struct reader *r, const struct node *v, const char *name, bool *out);
/* Index of the word among `words`, or -1. `later` (may be NULL): words of the language that are not supported yet. */
int spec_word(struct reader *r, const struct node *v, const char *name, const char *const *words, const char *const *later);
/* A name of the characters [a-z0-9_], with `wide` [A-Za-z0-9_.-], that is none of `reserved` (may be NULL). */
bool spec_name(struct reader *r, const struct node *v, const char *name, bool wide, const char *const *reserved,
               const char **out);
bool spec_ranges(struct reader *r, const struct node *v, const char *name, bool all, struct ranges *out);

/* ---- spec_names.c: names that are looked up ---- */

void names_add(struct names *x, const char *name, int index, const struct node *at); /* until names_sort */
/* Moves the names into mem, sorts them; with `what`, names that stand twice are errors. */
void names_sort(struct names *x, struct reader *r, const char *what);
int names_find(const struct names *x, const char *name);  /* the lowest index, or -1 */
int names_count(const struct names *x, const char *name); /* how often it stands there */
/* names_find for a reference in the spec: says "unknown <what>", lists what there is. */
int spec_find(struct reader *r, const struct node *v, const char *name, const struct names *x, const char *what);

/* ---- the sections ---- */

void spec_prompts(struct reader *r, struct spec_own *o, const struct node *v);    /* spec_prompt.c */
void spec_axes(struct reader *r, struct spec_own *o, const struct node *v);       /* spec_axis.c */
void spec_axis_positions(struct reader *r, struct spec_own *o);                   /* spec_axis.c: prompts are known */
void spec_conditions(struct reader *r, struct spec_own *o, const struct node *v); /* spec_condition.c */
void spec_try_ops(struct reader *r, struct spec_own *o);                          /* spec_condition.c */
void spec_captures(struct reader *r, struct spec *s, const struct node *v);       /* spec_measure.c */
void spec_excludes(struct reader *r, struct spec_own *o, const struct node *v);   /* spec_sweep.c */
void spec_includes(struct reader *r, struct spec_own *o, const struct node *v);   /* spec_sweep.c */
void spec_files(struct reader *r, struct spec_own *o, const struct node *v);      /* spec_file.c */
/* spec_haystack.c. A slot's value that is a map: checks its keys, finds the needle's name (NULL: none) and text. */
bool spec_haystack(struct reader *r, const struct node *v, const struct node **name, const struct node **text);
/* Adds the axes that prompts depend on to what every condition is over. */
void spec_over_prompts(struct reader *r, struct spec_own *o);
/* Makes a prompt of each combination of the axes that haystacks name; all axes and rules are known. */
void spec_variants(struct reader *r, struct spec_own *o);
void spec_metrics(struct reader *r, struct spec *s, const struct node *v); /* spec_metric.c */
/* The conditions that `of` lists; NULL: none are named. */
void spec_of(struct reader *r, const struct node *of, int **conditions, int *n); /* spec_measure.c */
/* A position selector; `only`: index of the one prompt it is for, or -1: all, for the sake of `what`. */
void spec_select(struct reader *r, const struct node *v, int only, const char *what, struct select *out); /* spec_select.c */
/* Says so when sel, written at v, names new tokens where there are none: steps tells whether there are. */
void spec_select_when(struct reader *r, const struct node *v, const struct select *sel, bool steps); /* spec_select.c */
bool spec_read_ops(struct reader *r, const struct node *v, struct op **ops, int *n);                 /* spec_op.c */
void spec_put_values(struct reader *r, const struct axis_value *values, int n);                      /* spec_op.c */

void spec_controls(struct reader *r, struct spec *s, const struct node *v, const struct node *of); /* spec_control.c */

/* The tree with the values of the command line put in; what is wrong with them is said. */
struct node *spec_set(struct reader *r, struct node *root, const char *const *sets, int n); /* spec_set.c */

/* ---- spec_axis.c: values of axes ---- */

enum { ZIP_MEMBERS = 64 };
/* The axis that `$axis` or `$axis.member` names; member -1: the axis itself, or (a zip) no list of this name. False: a text. */
bool spec_axis_find(const struct spec_own *o, const char *dollar, int *axis, int *member);
/* The scalars that a `$axis` or `$axis.member` may stand for (n); NULL: it is no axis, or they are not known yet. */
struct node **spec_axis_texts(const struct spec_own *o, const char *dollar, int *n);
/* ---- spec_donor.c: where values come from ---- */

void spec_donor(struct reader *r, const struct node *v, struct donor *d);              /* from of a transplant */
void spec_donors(struct reader *r, const struct node *v, struct donor **refs, int *n); /* from of a mean */
void spec_vector(struct reader *r, const struct node *v, struct op_vector *x);
/* Places of a prompt: new tokens are none. v NULL: not given. */
void spec_fixed_places(struct reader *r, const struct node *v, const struct select *sel);

/* ---- spec_lint.c: warnings ---- */

bool spec_warn(struct reader *r, int code, struct mark at, int width, const char *fmt, ...)
    __attribute__((format(printf, 5, 6))); /* false: silenced */
void spec_read_allowed(struct reader *r, const struct node *v);
void spec_lint_file(struct reader *r);
void spec_lint_text(struct reader *r, const struct node *v, const char *name); /* a piece of a prompt */

#endif
