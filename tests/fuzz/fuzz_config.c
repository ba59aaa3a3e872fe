/* fuzz_config.c: any config.json is settings or an error; without weights the load ends at the first tensor.
 *
 *     mkdir corpus && for f in tests/golden/tiny/?*; do cp $f/config.json corpus/$(basename $f); done
 *     build/clang/fuzz_config -max_len=4096 corpus
 */
#include "../../engine/model.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const char none[] = "\2\0\0\0\0\0\0\0{}"; /* a file with no tensors */
    char *json = mem_alloc(n);                       /* exactly as long as the file */
    safetensors *s = NULL;
    struct model m = {0};
    err e = {0};
    memcpy(json, data, n);
    if (safetensors_parse(&s, none, sizeof none - 1, &e) || model_load_folder(&m, json, n, s, &e) == 0) abort();
    if (!e.code || !e.msg[0]) abort();
    model_clear(&m);
    safetensors_close(s);
    free(json);
    return 0;
}
