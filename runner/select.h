/* select.h: which tokens a stretch of a prompt's text touches; shared by bind.c and select.c. */
#ifndef RUNNER_SELECT_H
#define RUNNER_SELECT_H

#include "bind.h"

/* Fills tok_start, tok_end and edges of s from its bytes. Needs the tokens of p, which cover the text without gap. */
void select_touch(const struct bound_prompt *p, struct span *s);

#endif
