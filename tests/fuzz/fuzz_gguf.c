/* fuzz_gguf.c: any bytes are a model or an error. Memory is bounded by the input, so a small -rss_limit_mb holds.
 *
 *     mkdir corpus && python3 tests/tiny_gguf.py corpus/a.gguf --layers 1 --dim 8 --heads 2 --kv-heads 1 --ffn 8 --vocab 260
 *     build-fuzz/fuzz_gguf -max_len=65536 corpus
 */
#include "../../engine/model.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void read_arrays(const gguf *g, const char *key)
{
    struct gguf_str *strings;
    int32_t *ints;
    float *floats;
    size_t n;
    err e = {0};
    if (gguf_strings(g, key, &strings, &n, &e) == 0) free(strings);
    if (gguf_i32s(g, key, &ints, &n, &e) == 0) free(ints);
    if (gguf_f32s(g, key, &floats, &n, &e) == 0) free(floats);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    uint8_t *bytes = mem_alloc(n); /* aligned, and exactly as long as the file */
    gguf *g = NULL;
    struct model m = {0};
    err e = {0};
    memcpy(bytes, data, n);
    if (gguf_parse(&g, bytes, n, &e) == 0) {
        read_arrays(g, "tokenizer.ggml.tokens");
        read_arrays(g, "tokenizer.ggml.token_type");
        read_arrays(g, "tokenizer.ggml.scores");
        model_load(&m, g, &e);
        model_clear(&m);
    }
    gguf_close(g);
    free(bytes);
    return 0;
}
