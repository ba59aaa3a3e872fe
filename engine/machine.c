/* machine.c: what there is to compute with; see machine.h. */
#include "machine.h"

#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

double mem_available(void)
{
    char line[256];
    double kib = 0;
    FILE *f = fopen("/proc/meminfo", "r");
    if (!f) return 0;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %lf kB", &kib) == 1) break;
    fclose(f);
    return kib * 1024;
}

double machine_memory_free(void)
{
    return mem_available();
}

const char *machine_isas(void)
{
    return kernels_cpu(KERNELS_AVX512) ? "avx512 avx2 scalar" : kernels_cpu(KERNELS_AVX2) ? "avx2 scalar" : "scalar";
}

int machine_threads(void)
{
    return kernels_cpu_threads(0);
}

void machine_gpu(struct machine_gpu *out, int device)
{
    struct backend_gpus gpus;
    struct backend b;
    int i;
    memset(out, 0, sizeof *out);
    out->usable = backend_open(&b, "cuda", device) == 0;
    backend_gpus(&gpus);
    snprintf(out->why, sizeof out->why, "%s", b.why);
    snprintf(out->plugin, sizeof out->plugin, "%s", b.path);
    backend_cublas(out->cublas, sizeof out->cublas);
    snprintf(out->driver_why, sizeof out->driver_why, "%s", gpus.why);
    out->driver = gpus.driver;
    out->runtime = b.device.runtime;
    out->memory_free = b.device.memory_free;
    out->n = gpus.n;
    for (i = 0; i < gpus.n; i++) {
        snprintf(out->gpu[i].name, sizeof out->gpu[i].name, "%s", gpus.gpu[i].name);
        out->gpu[i].cc_major = gpus.gpu[i].cc_major;
        out->gpu[i].cc_minor = gpus.gpu[i].cc_minor;
        out->gpu[i].memory_bytes = gpus.gpu[i].memory_bytes;
    }
}

bool machine_emulator(char *why, size_t n)
{
    struct backend b;
    int rc = backend_open(&b, "cuda-emu", 0);
    snprintf(why, n, "%s", b.why);
    return rc == 0;
}

/* ---- self-test ---- */

enum { TEST_ROWS = 3, TEST_PROMPT = 70, TEST_TOKENS = 8 };

struct answer {
    struct gen_pick picks[TEST_ROWS][TEST_TOKENS];
    float kv[2 * TEST_PROMPT];
};

/* Two pages, one, and hardly any. */
static const int lengths[TEST_ROWS] = {TEST_PROMPT, 9, 1};

static int compute(const char *isa, int threads, struct answer *a, err *e)
{
    struct engine_opts o = {
        .isa = isa, .threads = threads, .backend = "cpu", .shape = engine_shape_named("tiny"), .shape_weights = "q8_0"};
    struct gen_opts go = {.max_tokens = TEST_TOKENS};
    struct gen_row rows[TEST_ROWS] = {{0}};
    int prompt[TEST_PROMPT], i, rc = -1;
    engine *en = NULL;
    memset(a, 0, sizeof *a);
    for (i = 0; i < TEST_PROMPT; i++) prompt[i] = (i * 37 + i * i * 11) % 512;
    if (engine_open(&en, &o, e)) return -1;
    for (i = 0; i < TEST_ROWS; i++) {
        if (cache_new(&rows[i].cache, en, e)) goto out;
        rows[i].feed = prompt;
        rows[i].n_feed = lengths[i];
    }
    if (generate(en, rows, TEST_ROWS, &go, e)) goto out;
    for (i = 0; i < TEST_ROWS; i++) memcpy(a->picks[i], rows[i].picks, (size_t)rows[i].n * sizeof *rows[i].picks);
    cache_read(rows[0].cache, 2, CACHE_V, TEST_PROMPT - 4, 1, a->kv);
    rc = 0;
out:
    for (i = 0; i < TEST_ROWS; i++) {
        cache_free(rows[i].cache);
        gen_row_clear(&rows[i]);
    }
    engine_free(en);
    return rc;
}

int machine_self_test(int *variants, const char **first_bad, err *e)
{
    static const struct {
        const char *isa;
        enum kernels_isa has;
        const char *one, *all;
    } isas[] = {{"scalar", KERNELS_SCALAR, "scalar, one thread", "scalar, all threads"},
                {"avx2", KERNELS_AVX2, "avx2, one thread", "avx2, all threads"},
                {"avx512", KERNELS_AVX512, "avx512, one thread", "avx512, all threads"}};
    struct answer want, got;
    int all = machine_threads(), t;
    size_t i;
    *variants = 0;
    *first_bad = NULL;
    for (i = 0; i < sizeof isas / sizeof *isas; i++) {
        if (!kernels_cpu(isas[i].has)) continue;
        for (t = 0; t < (all > 1 ? 2 : 1); t++) {
            if (compute(isas[i].isa, t ? all : 1, *variants ? &got : &want, e)) return -1;
            if (*variants && memcmp(&want, &got, sizeof want) != 0 && !*first_bad) *first_bad = t ? isas[i].all : isas[i].one;
            ++*variants;
        }
    }
    kernels_cpu_threads(all);
    return 0;
}
