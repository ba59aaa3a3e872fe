/* tokens.h: the tokens of a prompt, as a table and as JSON: what every needle experiment looks at first. */
#ifndef RUNNER_TOKENS_H
#define RUNNER_TOKENS_H

#include "bind.h"

/* A line per token: position, id, text, bytes, the slots it belongs to. Bytes that are no UTF-8 show as \xNN. */
void tokens_text(const struct bound_prompt *p, const engine *en, struct buf *out);
/* {"text":"..","tokens":[{"id":1,"text":"..","start":0,"end":2},..]}; bytes that are no UTF-8 become U+FFFD. */
int tokens_json(const struct bound_prompt *p, const engine *en, struct buf *out, err *e);

#endif
