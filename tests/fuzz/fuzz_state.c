/* fuzz_state.c: any config.json or GGUF file has a state of some size, or is an error.
 *
 *     mkdir corpus && cp tests/fuzz/fuzz_state/?* corpus && build/clang/fuzz_state -max_len=4096 corpus
 */
#include "../../engine/state_in.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static int read_any(struct state *s, const uint8_t *bytes, size_t n, err *e)
{
    gguf *g;
    int rc;
    if (n < 4 || memcmp(bytes, "GGUF", 4) != 0) return state_parse(s, bytes, n, e);
    memset(s, 0, sizeof *s);
    if (gguf_parse(&g, bytes, n, e)) return -1;
    rc = state_gguf(s, g, e);
    gguf_close(g);
    return rc;
}

/* The parts make sense, and more tokens or wider numbers never need less. */
static void check(const struct state *s)
{
    int64_t tokens, last = 0, bytes;
    int i;
    err e = {0};
    if (s->layers < 1 || s->layers > STATE_LAYERS_MAX || s->n_parts < 0 || s->n_parts > STATE_PARTS) abort();
    for (i = 0; i < s->n_parts; i++) {
        const struct state_part *p = &s->parts[i];
        if (p->layers < 1 || p->layers > s->layers || p->window < 0 || !p->kind || !p->shape[0]) abort();
        if (p->per_token < 0 || p->written_out < 0 || p->fixed < 0 || p->fixed_f32 < 0 || p->sums < 0) abort();
        if (p->per_token + p->fixed + p->fixed_f32 == 0) abort();
    }
    for (tokens = 0; tokens <= STATE_CONTEXT_MAX; tokens = tokens * 8 + 1) {
        if (state_bytes(s, tokens, 1, STATE_STORED, &bytes, &e)) return;
        if (bytes < last) abort();
        last = bytes;
        if (state_bytes(s, tokens, 4, STATE_WRITTEN_OUT, &bytes, &e)) return;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    uint8_t *bytes = mem_alloc(n); /* exactly as long as the file */
    struct state s;
    err e = {0};
    memcpy(bytes, data, n);
    if (read_any(&s, bytes, n, &e) == 0)
        check(&s);
    else if (!e.code || !e.msg[0])
        abort();
    free(bytes);
    return 0;
}
