/* fake_engine.h: the part of engine.h that binding needs, made up, so that its tests need no model file.
 *
 * A token is a word with the space before it, or one other character, or <|x|>; ids are given in order of appearance.
 * The chat template is ChatML; fake.trim makes it trim each turn's content, fake.refuse makes it raise. Linked instead of
 * the engine (CMakeLists.txt), with every function defined here.
 */
#ifndef TESTS_FAKE_ENGINE_H
#define TESTS_FAKE_ENGINE_H

#include "../../engine/engine.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { FAKE_VOCAB = 1000 };

struct engine {
    struct engine_info info;
    int stop[3];
    bool trim, refuse;
    char *words[FAKE_VOCAB];
    int n_words;
};

static struct engine fake;

static int fake_id(const char *s, size_t n)
{
    int i;
    for (i = 0; i < fake.n_words; i++)
        if (strlen(fake.words[i]) == n && memcmp(fake.words[i], s, n) == 0) return i;
    if (fake.n_words == FAKE_VOCAB) abort();
    fake.words[i] = mem_alloc(n + 1);
    memcpy(fake.words[i], s, n);
    return fake.n_words++;
}

static void fake_reset(void)
{
    int i;
    for (i = 0; i < fake.n_words; i++) free(fake.words[i]);
    memset(&fake, 0, sizeof fake);
    fake.info = (struct engine_info){.arch = "llama",
                                     .name = "fake-8b",
                                     .format = "gguf",
                                     .path = "fake.gguf",
                                     .weight_dtype = "f32",
                                     .isa = "scalar",
                                     .kv_dtype = "f32",
                                     .numerics = "n1:cpu:kv-f32",
                                     .threads = 1,
                                     .n_layer = 32,
                                     .n_head = 4,
                                     .n_kv_head = 2,
                                     .head_dim = 4,
                                     .n_embd = 16,
                                     .n_ff = 32,
                                     .n_vocab = FAKE_VOCAB,
                                     .n_ctx_train = 100,
                                     .rope_base = 10000,
                                     .kv_bytes_per_token = 2048,
                                     .tokenizer_kind = "fake",
                                     .bos = 0,
                                     .eos = 2,
                                     .n_stop = 3,
                                     .has_chat_template = true};
    fake.stop[0] = 2, fake.stop[1] = 0, fake.stop[2] = 2;
    fake.info.stop = fake.stop;
    memset(fake.info.sha256, 0xaa, 32);
    memset(fake.info.tokenizer_sha256, 0xbb, 32);
    fake_id("<|bos|>", 7);
    fake_id("<|im_start|>", 12);
    fake_id("<|im_end|>", 10);
}

const struct engine_info *engine_info(const engine *en)
{
    return &en->info;
}

int engine_site_width(const engine *en, int site, int n_tokens)
{
    const struct engine_info *m = &en->info;
    if (site & (CACHE_K | CACHE_V | SITE_K_PRE)) return m->n_kv_head * m->head_dim;
    if (site == SITE_HEAD_OUT) return m->n_head * m->head_dim;
    if (site == SITE_ATTN) return m->n_head * n_tokens;
    return site == SITE_LOGITS ? m->n_vocab : m->n_embd;
}

/* Only the widest type: the fake files of vectors have no other. */
void engine_kv_to_f32(enum kv_type t, const void *in, float *out, size_t n)
{
    if (t != KV_F32) abort();
    memcpy(out, in, n * sizeof *out);
}

static size_t fake_token(const char *s, size_t n)
{
    const char *end = n > 4 && memcmp(s, "<|", 2) == 0 ? memmem(s + 2, n - 2, "|>", 2) : NULL;
    size_t i = n > 1 && s[0] == ' ' && s[1] != ' ' && s[1] != '\n';
    if (end) return (size_t)(end - s) + 2;
    if (!isalnum((unsigned char)s[i])) return i + 1; /* also one byte of a longer character, as byte-level BPE may do */
    while (i < n && isalnum((unsigned char)s[i])) i++;
    return i;
}

int engine_tokenize(const engine *en, const char *text, size_t n, unsigned flags, struct tokens *out, err *e)
{
    size_t i = 0, len;
    (void)e;
    *out = (struct tokens){mem_array(n + 1, sizeof *out->t), 0};
    if (flags & TOKENIZE_BOS) out->t[out->n++] = (struct token){en->info.bos, 0, 0};
    for (; i < n; i += len) {
        len = fake_token(text + i, n - i);
        out->t[out->n++] = (struct token){fake_id(text + i, len), (int)i, (int)(i + len)};
    }
    return 0;
}

const char *engine_token_bytes(const engine *en, int id, size_t *n)
{
    if (id < 0 || id >= en->n_words) return NULL;
    *n = strlen(en->words[id]);
    return en->words[id];
}

int engine_chat(const engine *en, const struct chat_msg *msgs, int n, bool add_generation_prompt, struct buf *out, err *e)
{
    int i;
    if (en->refuse) return err_set(e, ERR_INPUT, "line 3: roles must alternate");
    for (i = 0; i < n; i++) {
        const char *s = msgs[i].content;
        size_t len = strlen(s);
        while (en->trim && len && *s == ' ') s++, len--;
        while (en->trim && len && s[len - 1] == ' ') len--;
        buf_printf(out, "<|im_start|>%s\n%.*s<|im_end|>\n", msgs[i].role, (int)len, s);
    }
    if (add_generation_prompt) buf_str(out, "<|im_start|>assistant\n");
    return 0;
}

#endif
