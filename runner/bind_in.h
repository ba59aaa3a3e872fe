/* bind_in.h: what the files that bind prompts share. */
#ifndef RUNNER_BIND_IN_H
#define RUNNER_BIND_IN_H

#include "bind.h"

/* Where the value of a slot, or what a turn says, lies in the rendered text; half open. */
struct place {
    int slot, start, end;
};
struct places {
    struct place *p; /* (n) */
    int n;
};

/* Appends t with its slots filled in; first_mark > 0: each value between its two markers; places (or NULL) grows. */
void bind_fill(const struct template *t, const struct prompt *p, int first_mark, struct buf *out, struct places *places);
/* Appends the rendered chat with answer_starts behind it. -1: d tells, or e. */
int bind_chat(const engine *en, const struct prompt *p, arena *mem, struct diag *d, struct buf *out, struct places *places,
              err *e);

/* bind_haystack.c: p with the haystacks of its slots cut so that the whole prompt has at most as many tokens as they say. *at:
   where in the value the needle stands. -1: d tells, or e. */
int bind_haystack(const struct spec *s, const engine *en, const struct prompt *p, arena *mem, struct diag *d,
                  struct prompt **out, int *at, err *e);
/* bind.c: the rendered text, and whether BOS is put in front of it. */
int bind_text(const engine *en, const struct prompt *p, arena *mem, struct diag *d, struct buf *out, struct places *places,
              err *e);
bool bind_adds_bos(const struct engine_info *info, const struct prompt *p);

/* Marks: characters of plane 15 that no text of the prompt uses, an opening and a closing one for each of n_slots. */
void bind_add_mark(struct buf *b, int cp);
int bind_free_marks(const char *text, size_t n, int n_slots); /* the first of them; -1: there is no room */
/* Takes the marks out of b, and the places from them. -1: they are not where a value begins and ends. */
int bind_take_marks(struct buf *b, int first, int n_slots, struct places *out);

/* bind_turn.c: bytes of turn `turn` in the bound chat p: what it says, or with the header and the end that the template gives
   it. Half open. False: that cannot be told, and *why says in words why not. */
bool bind_turn(const struct bound_prompt *p, int turn, bool with_markers, arena *mem, int *start, int *end, const char **why);

#endif
