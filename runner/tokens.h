/* tokens.h: the tokens of a prompt, as a table and as JSON, and what the selectors of a spec hit in it: what every needle
 * experiment looks at first. */
#ifndef RUNNER_TOKENS_H
#define RUNNER_TOKENS_H

#include "bind.h"

/* A line per token: position, id, text, bytes, the slots it belongs to. Bytes that are no UTF-8 show as \xNN. */
void tokens_text(const struct bound_prompt *p, const engine *en, struct buf *out);
/* {"text":"..","tokens":[{"id":1,"text":"..","start":0,"end":2},..],"selectors":[..]}; bytes that are no UTF-8 become U+FFFD.
   s may be NULL: no selectors. */
int tokens_json(const struct spec *s, const struct bound_prompt *p, const engine *en, struct buf *out, err *e);

/* A line per selector of an operation or capture: what it says, and the positions that it means. */
void tokens_selectors(const struct spec *s, const struct bound_prompt *p, struct buf *out);
/* [{"condition":"zero","nth":1,"op":"zero","key":"at","axes":"","select":"slot city","at":[7],"note":null},..] */
struct json_t *tokens_selectors_json(const struct spec *s, const struct bound_prompt *p);

/* tokens_compare.c: two prompts side by side, equal tokens on one line, those that differ marked. */
void tokens_compare(const struct bound_prompt *a, const struct bound_prompt *b, const engine *en, struct buf *out);
/* [{"a":7,"b":7,"same":false},..]: positions on one line; null where the other side has no token. */
int tokens_compare_json(const struct bound_prompt *a, const struct bound_prompt *b, struct buf *out, err *e);
/* The bytes of the prompt's text that token i covers; what the token stands for when it covers none (BOS, ids given). */
const char *tokens_bytes(const struct bound_prompt *p, const engine *en, int i, size_t *n);

#endif
