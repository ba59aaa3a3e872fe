/* chat.h: chat templates, by a small Jinja interpreter (no kept C library exists).
 *
 * A template is untrusted: rendering is bounded in steps, depth and output. A template that uses what is not
 * implemented is an error with line and construct, never a wrong prompt.
 *
 *     chat *c; chat_compile(&c, source, n, e);
 *     chat_render(c, &(struct chat_env){.bos_token = "<s>", ...}, msgs, n, &out, e);
 *     chat_free(c);
 */
#ifndef ENGINE_CHAT_H
#define ENGINE_CHAT_H

#include "engine.h"

typedef struct chat chat;

struct chat_env {
    const char *bos_token, *eos_token; /* never NULL; "" when the tokenizer has none */
    bool add_generation_prompt;
    int year, month, day;     /* strftime_now; 0: 2024-07-26 */
    const char *strftime_now; /* tests: what strftime_now(...) gives; NULL: the date above, formatted */
};

int chat_compile(chat **out, const char *source, size_t n, err *e); /* ERR_INPUT: "line 3: ..." */
void chat_free(chat *c);                                            /* NULL is fine */
/* Appends the text to out. `tools` and `documents` are undefined. ERR_INPUT when the template raises or cannot run. */
int chat_render(const chat *c, const struct chat_env *env, const struct chat_msg *msgs, int n, struct buf *out, err *e);

#endif
