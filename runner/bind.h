/* bind.h: a spec meets a model: prompts become tokens, selectors become positions, layers and heads become lists.
 *
 * Errors here still carry file:line:col. All of it lives in the arena given to bind_prompts.
 *
 *     struct bound_prompt *p;                              // (spec->n_prompts)
 *     if (bind_prompts(s, en, mem, d, &p, e)) ...           // -1 with e empty: d tells
 *     int *at, n; bind_select(s, &p[0], &op->select, mem, d, &at, &n);
 */
#ifndef RUNNER_BIND_H
#define RUNNER_BIND_H

#include "spec.h"

/* A named stretch of a prompt's text: a slot's value. Half open. */
struct span {
    const char *name;
    int nth; /* from 1 */
    int byte_start, byte_end;
    int tok_start, tok_end; /* tokens touched */
    const char *edges;      /* "exact", "space" (the first token also holds a space before), "partial" (it covers
                               some token in part), "include", "exclude" (the same, and what a selector said about them first) */
    bool filler;            /* a haystack: the text around the needle, which has a span of its own */
};

struct bound_prompt {
    const struct prompt *prompt;
    const engine *en;  /* of the tokens; borrowed */
    int index;         /* of the prompt in the spec */
    const char *label; /* its name; where a prompt depends on axes, "name/axis=value..." */
    const char *text;  /* rendered, with answer_starts; "" for PROMPT_TOKENS */
    int n_bytes;
    struct token *tokens; /* (n_tokens) */
    int *ids;             /* (n_tokens) the same ids alone */
    int n_tokens;
    struct span *spans; /* (n_spans) */
    int n_spans;
    uint8_t sha256[32]; /* of tokenizer hash and ids */
};

/* Renders and tokenises all prompts. *out: (s->n_prompts) in mem. -1: d tells, or e when the engine failed. */
int bind_prompts(const struct spec *s, const engine *en, arena *mem, struct diag *d, struct bound_prompt **out, err *e);
/* Fills ids and sha256 from tokens. */
void bind_hash(const struct engine_info *info, struct bound_prompt *b, arena *mem);
/* Positions, rising and without doubles, that a selector means in a prompt. -1: d tells (with a table when ambiguous). */
int bind_select(const struct bound_prompt *p, const struct select *sel, arena *mem, struct diag *d, int **at, int *n);
/* The same for a selector by a score that only a run can tell (attention, key_norm): the candidates, and how many of them are
   taken; which ones, nobody knows here, and bind_select refuses it. */
int bind_score(const struct bound_prompt *p, const struct select *sel, arena *mem, struct diag *d, int **at, int *n,
               int *count);
/* Appends bytes that are equal for two selectors when they say the same at the same place of the spec. */
void select_key(const struct select *sel, struct buf *out);
/* Writes down in the spans of p what sel decided about tokens that a slot's value covers only in part. */
void bind_decided(struct bound_prompt *p, const struct select *sel);
/* Indices that ranges mean among `count` things; what: "layer", "head". -1: d tells. */
int bind_ranges(const struct ranges *r, int count, const char *what, const char *model, arena *mem, struct diag *d, int **out,
                int *n);

#endif
