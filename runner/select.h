/* select.h: what the files that turn selectors into positions share. */
#ifndef RUNNER_SELECT_H
#define RUNNER_SELECT_H

#include "bind.h"

/* Fills tok_start, tok_end and edges of s from its bytes. Needs the tokens of p, which cover the text without gap. */
void select_touch(const struct bound_prompt *p, struct span *s);
/* Sets on (n_tokens) for the tokens that a slot, text, regex or role means. What it costs is taken off *work. -1: d tells. */
int select_hits(const struct bound_prompt *p, const struct select *sel, arena *mem, struct diag *d, size_t *work,
                unsigned char *on);

#endif
