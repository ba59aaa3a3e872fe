/* family_in.h: the inside of the families, for family*.c alone. */
#ifndef RUNNER_FAMILY_IN_H
#define RUNNER_FAMILY_IN_H

#include "family.h"
#include "map.h"

/* What a pass over a base's prompt records once for all that need it: one site, all their layers x all their positions. */
struct recording {
    int base, site;
    bool input;        /* what enters a layer: for jobs that are computed from there on; else values that are put elsewhere */
    bool off;          /* more than memory may hold, or not worth it: jobs do without */
    unsigned char *on; /* (n_layer + 1, n_tokens) wanted; row 0 is layer -1 */
    int *layers, *at;  /* (n_layers), (n_at) rising, once it is known what all need */
    int n_layers, n_at;
    int *row, *col; /* (n_layer + 1), (n_tokens) places in layers and at */
    float *values;  /* (n_layers, n_at, width), or NULL: not recorded yet, or no longer needed */
    int users;
};

/* A pass over a prompt whose results several jobs use: as it is, with the leading edits in flight of a job, or all that a job
   makes of it. The first n_prompts bases are the prompts as they are. */
struct base {
    int prompt;
    const struct job *of;  /* NULL: unedited */
    int n_ops;             /* of its operations that are made, all of them in flight; -1: all of every kind */
    cache *cache;          /* unedited: what an edit of the finished cache finds; NULL: not computed yet, or no longer needed */
    cache *whole;          /* all tokens fed */
    struct gen_pick first; /* with reuse_logits: the pick before any edit */
    struct gen_pick last;  /* of whole */
    float *logits;         /* (V) behind the prompt, or NULL */
    bool want_logits;
    int64_t us; /* that nobody has been told of yet, see family_us */
    int users;  /* jobs to run that need it */
};

struct families {
    const struct spec *spec;
    const struct jobs *jobs;
    engine *en;
    int n_layer;
    struct base *bases; /* (n_bases) */
    int n_bases;
    struct map *known; /* what a base is -> its index */
    struct map *sites; /* base, site, input -> index into recordings */
    struct recording *recordings;
    int n_recordings;
    int *prefix;     /* (jobs->n) base that a job starts from, when it is not its prompt */
    double **scores; /* (n_prompts, 2) each (n_layer, heads, n_tokens): attention received, norms of keys; or NULL */
    bool logits;     /* those behind the prompt are wanted of every job */
};

/* What it took, for the first job that asks: summed over all jobs, each second counts once. */
int64_t family_us(struct base *b);

/* ---- family_base.c ---- */

/* Tokens that a finished cache holds when it is edited. */
int family_held(const struct families *f, int prompt);
/* The base of all that a job makes of its prompt; made when it is not known. */
int family_of_job(struct families *f, int job);
/* The base that leading operations of a job make; known only when count_prefixes has found several jobs with them. */
int family_of_ops(struct families *f, const struct job *j, int n_ops);
/* The unedited prompt's finished cache, computed when it is not there. */
int family_cache(struct families *f, int prompt, struct base **out, err *e);
/* A base with all its tokens fed and everything recorded. */
int family_whole(struct families *f, int base, struct base **out, err *e);
void family_base_clear(struct families *f, int base);

/* Says that layers and positions of a base are wanted. */
void family_want(struct families *f, int base, int site, bool input, const int *layers, int n_layers, const int *at, int n_at);
/* Whether there is such a recording, and memory for it. */
bool family_has(const struct families *f, int base, int site, bool input);
/* When everything wanted is known: lists, and what memory cannot hold is switched off. */
void family_plan_recordings(struct families *f);
/* Whether that has, or will have, the vector of a place. */
bool family_holds(const struct families *f, int base, int site, bool input, int layer, int at);
/* The recorded vector of a place, or NULL: it is not held. The base is whole. */
const float *family_recorded(const struct families *f, int base, int site, bool input, int layer, int at);
/* Vectors of places, copied to out (n_layers, n_at, width): recorded for all, or by a pass of their own. */
int family_vectors(struct families *f, int base, int site, const int *layers, int n_layers, const int *at, int n_at, float *out,
                   err *e);

/* ---- family_edit.c ---- */

/* Edits for the engine, and the numbers and lists that were made for them. */
struct edits {
    struct edit *v; /* (n) */
    void **made;    /* (n_made) */
    int n, n_made;
};
void family_edits_free(struct edits *x);
/* The base that a donor of an operation means. */
int family_donor(struct families *f, int prompt, int job);
/* Appends what an operation on places `at` (n_at) is for the engine. */
int family_edit(struct families *f, const struct job *j, const struct job_op *op, const int *at, int n_at, struct edits *out,
                err *e);
/* The places of an operation, those that a score takes among them: (n), owned by out. */
int family_places(struct families *f, const struct job *j, const struct job_op *op, struct edits *out, const int **at, int *n,
                  err *e);
/* What of a job is done while new tokens are fed, when `len` tokens lie before them. */
struct flight;
int family_decode(struct families *f, const struct job *j, int len, struct flight *out, err *e);

/* ---- family_score.c ---- */

/* The places of an operation that a score takes, rising, to at (op->score->count). */
int family_score(struct families *f, int prompt, const struct job_op *op, int *at, err *e);

/* ---- family_pass.c: passes over prompts ---- */

/* One pass over a prompt: a job's own, or one that makes a base. */
struct flight {
    const struct job *j; /* NULL: nothing is edited */
    int prompt;
    int n_ops;   /* of j's operations; those behind are not made */
    bool finish; /* edits of the finished cache are made, too */
    int base;    /* where it starts */
    int made;    /* operations that the base has made already */
    bool alone;  /* it starts from nothing: it makes an unedited base */
    struct edits flying, done;
    struct record *records; /* (n_records) */
    int n_records, last;    /* last: position of the last token, for a record of its logits */
    struct watch watch;
    int first, layer, before; /* computed from here; `before` tokens are held when the finished cache is edited */
    cache *cache;
    struct gen_pick pick;
    struct finished *out; /* the job's; NULL: a base */
    int64_t us;
    err error;
    /* while new tokens are fed */
    struct edits decode;
    struct watch later;
    struct step_edit *steps;
};

/* Whether the logits behind the job's prompt are wanted. */
bool family_wants_logits(const struct families *f, const struct job *j);
/* The positions and the layer from which on an operation in flight changes something. */
void family_reach(const struct families *f, const struct job_op *op, int *first, int *layer);
/* Flies them together: fl->cache and fl->pick, or fl->error. */
int family_fly(struct families *f, struct flight *fl, int n, err *e);
void family_flight_clear(struct flight *fl);
void family_snapshot(struct finished *out, int moment, cache *c, int n_tok);
/* Applies the operations on a finished cache, which makes the moments before and after them. */
int family_finish(struct families *f, const struct job *j, struct edits *room, cache *c, struct finished *out, err *e);

#endif
