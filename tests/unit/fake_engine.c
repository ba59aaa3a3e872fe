/* fake_engine.c: as much of engine.h as the store and the readers use, with made-up numbers. Included by their tests, so that
 * these need no model and no kernels. Token i stands for the i-th of fake_words; a cache's values follow from its seed. */
#include "../../engine/engine.h"

#include <math.h>
#include <string.h>

struct engine {
    struct engine_info info;
};

struct cache {
    const engine *en;
    int len;
    uint32_t seed;
    int other_from; /* tokens from here on have values of their own: caches of one seed differ only there; -1: none */
};

static const char *const fake_words[] = {"<s>", " San",     " Francisco", " New", " York", ".",
                                         "\n",  "\xe2\x82", "\xac",       ",",    "\"",    "\x01"};
enum { FAKE_WORDS = sizeof fake_words / sizeof *fake_words };

static const engine fake_engine = {{.arch = "fake",
                                    .name = "Fake \"7B\", small",
                                    .format = "gguf",
                                    .path = "/models/fake.gguf",
                                    .weight_dtype = "f32",
                                    .isa = "scalar",
                                    .kv_dtype = "f32",
                                    .numerics = "n1:cpu:kv-f32",
                                    .threads = 1,
                                    .n_layer = 3,
                                    .n_head = 4,
                                    .n_kv_head = 2,
                                    .head_dim = 8,
                                    .n_embd = 32,
                                    .n_ff = 64,
                                    .n_vocab = FAKE_WORDS,
                                    .n_ctx_train = 512,
                                    .rope_base = 10000,
                                    .file_bytes = 1234,
                                    .kv_bytes_per_token = 3 * 2 * 2 * 8 * 4,
                                    .sha256 = {1, 2, 3},
                                    .tokenizer_kind = "bpe:fake",
                                    .tokenizer_sha256 = {4, 5, 6},
                                    .bos = 0,
                                    .eos = -1}};

const struct engine_info *engine_info(const engine *en)
{
    return &en->info;
}

int engine_lost(const engine *en, err *e)
{
    (void)en, (void)e;
    return 0;
}

const char *engine_token_bytes(const engine *en, int id, size_t *n)
{
    if (id < 0 || id >= FAKE_WORDS || !strcmp(en->info.tokenizer_kind, "none")) return NULL;
    *n = strlen(fake_words[id]);
    return fake_words[id];
}

int cache_len(const cache *c)
{
    return c->len;
}

static float fake_value(const cache *c, int layer, int tensor, int pos, int i)
{
    uint32_t x = c->seed + (c->other_from >= 0 && pos >= c->other_from ? 77 : 0);
    int k, v[] = {layer, tensor, pos, i};
    float sum = 0;
    for (k = 0; k < 4; k++) x = (x ^ (uint32_t)v[k]) * 2654435761u + 12345;
    for (k = 0; k < 4; k++) { /* about normal, as the values of real caches are */
        x = x * 1664525u + 1013904223u;
        sum += (float)(x >> 8) / (float)(1 << 24) - 0.5f;
    }
    return sum * (tensor == CACHE_K ? 3.0f : 0.4f);
}

void cache_read(const cache *c, int layer, int tensor, int first, int n, void *out)
{
    const struct engine_info *m = &c->en->info;
    int g, t, i;
    char *p = out;
    for (g = 0; g < m->n_kv_head; g++)
        for (t = 0; t < n; t++)
            for (i = 0; i < m->head_dim; i++) {
                float f = fake_value(c, layer, tensor, first + t, g * m->head_dim + i);
                uint32_t u;
                memcpy(&u, &f, 4);
                if (!strcmp(m->kv_dtype, "f32"))
                    memcpy(p, &f, 4), p += 4;
                else
                    memcpy(p, (const char *)&u + 2, 2), p += 2; /* bf16: the upper half */
            }
}

void engine_kv_to_f32(enum kv_type t, const void *in, float *out, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) {
        uint32_t u = 0;
        if (t == KV_F32)
            memcpy(&u, (const char *)in + 4 * i, 4);
        else
            memcpy((char *)&u + 2, (const char *)in + 2 * i, 2);
        memcpy(&out[i], &u, 4);
    }
}
