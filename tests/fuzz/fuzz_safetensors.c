/* fuzz_safetensors.c: any bytes are a set of tensors inside the file, or an error.
 *
 *     mkdir corpus && printf '\2\0\0\0\0\0\0\0{}' >corpus/a && build-fuzz/fuzz_safetensors -max_len=4096 corpus
 */
#include "../../engine/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    uint8_t *bytes = mem_alloc(n); /* exactly as long as the file */
    safetensors *s = NULL;
    err e = {0};
    int i;
    memcpy(bytes, data, n);
    if (safetensors_parse(&s, bytes, n, &e) == 0) {
        for (i = 0; i < safetensors_n(s); i++) {
            const struct safetensor *t = safetensors_at(s, i);
            const uint8_t *p = t->data;
            if (safetensors_find(s, t->name) != t || p < bytes || t->bytes > n - (size_t)(p - bytes)) abort();
        }
    }
    safetensors_close(s);
    free(bytes);
    return 0;
}
