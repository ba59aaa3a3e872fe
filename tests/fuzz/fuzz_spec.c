/* fuzz_spec.c: any bytes as a spec. What is right is read out to the last operation, and its positions are looked for in the
 * prompts, three bytes to a token; what is wrong is printed. */
#include "../../runner/bind.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* A prompt as text without an engine: its literal parts, cut into tokens. Slots are its spans. */
static struct bound_prompt made_up(const struct prompt *p, arena *mem)
{
    struct prompt *plain = arena_alloc(mem, sizeof *plain);
    struct bound_prompt b = {.prompt = plain, .label = p->name};
    struct buf text = {0};
    int i;
    *plain = *p;
    plain->kind = PROMPT_TEXT;
    b.spans = arena_array(mem, (size_t)p->text.n, sizeof *b.spans);
    for (i = 0; i < p->text.n; i++) {
        const struct piece *piece = &p->text.pieces[i];
        int start = (int)text.n;
        buf_add(&text, piece->slot < 0 ? piece->text : p->slots[piece->slot].value,
                piece->slot < 0 ? piece->len : strlen(p->slots[piece->slot].value));
        if (piece->slot < 0) continue;
        b.spans[b.n_spans++] = (struct span){.name = p->slots[piece->slot].name,
                                             .nth = 1,
                                             .byte_start = start,
                                             .byte_end = (int)text.n,
                                             .tok_start = start / 3,
                                             .tok_end = ((int)text.n + 2) / 3,
                                             .edges = "partial"};
        if (start == (int)text.n) b.spans[b.n_spans - 1].tok_end = start / 3;
    }
    buf_str(&text, ".");
    b.text = arena_strndup(mem, text.p, text.n);
    b.n_bytes = (int)text.n;
    b.n_tokens = (b.n_bytes + 2) / 3;
    b.tokens = arena_array(mem, (size_t)b.n_tokens, sizeof *b.tokens);
    b.ids = arena_array(mem, (size_t)b.n_tokens, sizeof *b.ids);
    for (i = 0; i < b.n_tokens; i++) b.tokens[i] = (struct token){0, 3 * i, 3 * i + 3 < b.n_bytes ? 3 * i + 3 : b.n_bytes};
    buf_free(&text);
    return b;
}

static void find_positions(const struct spec *s, const struct select *sel, arena *mem, struct diag *d)
{
    enum { PROMPTS = 4, BYTES = 1 << 16 };
    for (int i = 0; i < s->n_prompts && i < PROMPTS; i++) {
        struct bound_prompt p = made_up(&s->prompts[i], mem);
        int *at, n, count, rc;
        if (p.n_bytes > BYTES) continue;
        rc = sel->kind == SELECT_SCORE ? bind_score(&p, sel, mem, d, &at, &n, &count) : bind_select(&p, sel, mem, d, &at, &n);
        if (rc) continue;
        if (n < 1 || at[0] < 0 || at[n - 1] >= p.n_tokens) __builtin_trap();
        for (int k = 1; k < n; k++)
            if (at[k] <= at[k - 1]) __builtin_trap();
        bind_decided(&p, sel);
    }
}

static void read_all_ops(const struct spec *s, struct diag *d)
{
    for (int i = 0; i < s->n_conditions; i++) {
        const struct condition *c = &s->conditions[i];
        struct axis_value values[64];
        arena *mem = arena_new();
        struct op *ops;
        int n, n_values = 0;
        for (int k = 0; k < c->n_over && n_values < 64; k++) {
            const struct axis *a = &s->axes[c->over[k]];
            const char *text = a->kind == AXIS_LIST ? a->values[a->n - 1]->text : "0";
            values[n_values++] = (struct axis_value){c->over[k], text, a->at};
        }
        if (spec_ops(s, c, values, n_values, mem, d, &ops, &n) == 0)
            for (int k = 0; k < n && k < 8; k++) find_positions(s, &ops[k].select, mem, d);
        arena_free(mem);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct spec *s = NULL;
    struct diag *d = NULL;
    struct buf text = {0};
    int result = spec_parse(&s, "fuzz.yaml", (const char *)data, n, &d);
    if ((result == 0) != (diag_errors(d) == 0)) __builtin_trap();
    if (result == 0) read_all_ops(s, d);
    diag_text(d, &text);
    if (utf8_valid(text.p ? text.p : "", text.n) != text.n) __builtin_trap();
    buf_free(&text);
    diag_free(d);
    spec_free(s);
    return 0;
}
