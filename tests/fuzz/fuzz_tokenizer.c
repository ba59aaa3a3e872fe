/* fuzz_tokenizer.c: a vocabulary and a text from the same bytes.
 *
 * Byte 0 chooses the model and its pre-tokeniser, byte 1 the number of tokens, byte 2 the number of merges. Each token is a
 * byte (low three bits: length, next three: type) and its text; each merge two bytes, the tokens it joins. The rest is the
 * text. Tokens must cover the text without gap or overlap, and byte-level ones must be the bytes they cover.
 */
#include "../../engine/tokenizer.h"
#include "../make_gguf.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

struct input {
    const uint8_t *p;
    size_t n;
};

static unsigned take(struct input *in)
{
    if (in->n == 0) return 0;
    in->n--;
    return *in->p++;
}

static bool put_vocab(struct make_gguf *m, struct input *in)
{
    static const char *const pre[] = {"gpt-2", "smollm", "llama-bpe", "qwen2", "deepseek-llm", "falcon", "gpt-4o", "chameleon"};
    struct gguf_str token[256];
    uint8_t type[256];
    unsigned n_tokens, n_merges, i, kind = take(in) % 12;
    make_text(m, "tokenizer.ggml.model", kind < 8 ? "gpt2" : kind < 10 ? "llama" : "t5");
    if (kind < 8)
        make_text(m, "tokenizer.ggml.pre", pre[kind]);
    else
        make_bool(m, "tokenizer.ggml.add_space_prefix", kind % 2);
    if (kind >= 10) make_bool(m, "tokenizer.ggml.remove_extra_whitespaces", kind % 2);
    n_tokens = take(in);
    n_merges = take(in);
    make_array(m, "tokenizer.ggml.tokens", MAKE_STRING, n_tokens);
    for (i = 0; i < n_tokens; i++) {
        unsigned head = take(in);
        size_t len = head & 7;
        if (len > in->n) len = in->n;
        type[i] = head >> 3 & 7;
        if (type[i] == 0) type[i] = 1;
        token[i] = (struct gguf_str){(const char *)in->p, len};
        make_bytes(&m->pairs, in->p, len);
        in->p += len;
        in->n -= len;
    }
    make_array(m, "tokenizer.ggml.token_type", MAKE_I32, n_tokens);
    for (i = 0; i < n_tokens; i++) make_le(&m->pairs, type[i], 4);
    make_array(m, "tokenizer.ggml.merges", MAKE_STRING, n_merges);
    for (i = 0; i < n_merges; i++) {
        unsigned left = take(in), right = take(in);
        struct buf both = {0};
        if (left < n_tokens) buf_add(&both, token[left].p, token[left].n);
        buf_char(&both, ' ');
        if (right < n_tokens) buf_add(&both, token[right].p, token[right].n);
        make_bytes(&m->pairs, both.p, both.n);
        buf_free(&both);
    }
    make_array(m, "tokenizer.ggml.scores", MAKE_F32, n_tokens);
    for (i = 0; i < n_tokens; i++) make_le(&m->pairs, 0x3f800000u | take(in) << 18 | (uint32_t)(i & 1) << 31, 4);
    make_u32(m, "tokenizer.ggml.eos_token_id", take(in));
    make_u32(m, "tokenizer.ggml.unknown_token_id", take(in));
    return kind < 8;
}

static void check(const tokenizer *t, const char *text, size_t n, bool byte_level)
{
    struct tokens out;
    err e = {0};
    int i, at = 0;
    if (tokenizer_encode(t, text, n, 0, &out, &e)) return;
    for (i = 0; i < out.n; i++) {
        size_t len = 0;
        const char *bytes = tokenizer_bytes(t, out.t[i].id, &len);
        if (!bytes || out.t[i].start != at || out.t[i].end < at || (size_t)out.t[i].end > n) abort();
        if (byte_level && ((size_t)(out.t[i].end - at) != len || memcmp(bytes, text + at, len) != 0)) abort();
        at = out.t[i].end;
    }
    if (out.n && (size_t)at != n) abort();
    if (byte_level && n && !out.n) abort();
    free(out.t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct input in = {data, n};
    struct make_gguf m = {0};
    tokenizer *t = NULL;
    gguf *g = NULL;
    err e = {0};
    bool byte_level = put_vocab(&m, &in);
    make_finish(&m);
    if (gguf_parse(&g, m.file.p, m.file.n, &e) == 0 && tokenizer_load(&t, g, &e) == 0 && t)
        check(t, (const char *)in.p, in.n, byte_level);
    tokenizer_free(t);
    gguf_close(g);
    make_free(&m);
    return 0;
}
