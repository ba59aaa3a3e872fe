/* fake_cuda.c: a plug-in that is no GPU, for tests of everything around one: the loader, the engine's respect for memory that
 * is not its own, errors in the middle of a batch, memory that runs out.
 *
 * It computes with the scalar table of the CPU, but its memory has addresses with a bit set that no process can read: the
 * engine dies when it looks into it, and an operation that is given host memory instead says so as trouble. The environment
 * says what goes wrong:
 *
 *     KVRUN_FAKE_OPEN=TEXT       opening is refused with this reason
 *     KVRUN_FAKE_FAIL=OP:N       the N-th call of OP fails ("attend:5"), and every operation after it
 *     KVRUN_FAKE_ROWS=N          a decoding pass of more than N rows runs out of memory
 *     KVRUN_FAKE_MEMORY=BYTES    so much memory in all
 *
 * and KVRUN_FAKE_LOG=FILE has the names of the operations added to a file, a line each.
 */
#include "../../kernels/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct kernels *kvrun_cuda_open(int abi, int device, struct cuda_device *about, char *why, size_t n)
    __attribute__((visibility("default")));

static const struct kernels *cpu;
static long long capacity = -1, used;
static char trouble_text[128], asked_text[128];
static int trouble_memory, lost;

static const uintptr_t FAR = (uintptr_t)1 << 62;

/* ---- what goes wrong ---- */

static void fail(const char *op, const char *cause, int memory)
{
    if (!trouble_text[0]) {
        snprintf(trouble_text, sizeof trouble_text, "%s: %s", op, cause);
        trouble_memory = memory;
    }
    if (!memory) lost = 1;
}

/* Every operation asks first; 0: it is not made. */
static int goes(const char *op)
{
    static int calls;
    const char *plan = getenv("KVRUN_FAKE_FAIL"), *log = getenv("KVRUN_FAKE_LOG");
    size_t n = strlen(op);
    FILE *f = log ? fopen(log, "a") : NULL;
    if (f) fprintf(f, "%s\n", op), fclose(f);
    if (plan && strncmp(plan, op, n) == 0 && plan[n] == ':' && ++calls == atoi(plan + n + 1))
        fail(op, "the fake device fell off the bus", 0);
    if (lost && !trouble_text[0]) fail(op, "the fake device is lost", 0);
    return !lost && !trouble_text[0];
}

static void *host(const char *op, const void *far_away)
{
    uintptr_t p = (uintptr_t)far_away;
    if (!p) return NULL;
    if (!(p & FAR)) fail(op, "was given the host's memory", 0);
    return (void *)(p & ~FAR);
}

#define NEAR(op, p) ((p) = host(op, p))

/* ---- memory ---- */

static void *f_alloc(size_t bytes)
{
    size_t *p;
    if (lost || (capacity >= 0 && used + (long long)bytes > capacity)) return NULL;
    p = cpu->alloc(bytes + 64);
    if (!p) return NULL;
    p[0] = bytes;
    used += (long long)bytes;
    return (void *)(((uintptr_t)p + 64) | FAR);
}

static void f_release(void *far_away)
{
    char *p = host("release", far_away);
    if (!p) return;
    used -= (long long)*(size_t *)(void *)(p - 64);
    cpu->release(p - 64);
}

static void f_copy(void *dst, const void *src, size_t bytes)
{
    if (goes("copy")) cpu->copy(host("copy", dst), host("copy", src), bytes);
}

static void f_zero(void *dst, size_t bytes)
{
    if (goes("zero")) cpu->zero(host("zero", dst), bytes);
}

static void f_get(void *to, const void *src, size_t bytes)
{
    if (goes("get")) memcpy(to, host("get", src), bytes);
}

static void f_put(void *dst, const void *from, size_t bytes)
{
    if (goes("put")) memcpy(host("put", dst), from, bytes);
}

static void f_copy_rows(void *dst, size_t dst_step, const void *src, size_t src_step, size_t bytes, size_t n)
{
    if (goes("copy_rows")) cpu->copy_rows(host("copy_rows", dst), dst_step, host("copy_rows", src), src_step, bytes, n);
}

static size_t run_bytes;

static int by_address(const void *a, const void *b)
{
    uintptr_t x = *(const uintptr_t *)a, y = *(const uintptr_t *)b;
    return (x > y) - (x < y);
}

/* 0: the runs meet. */
static int apart(const void *a, const void *b)
{
    uintptr_t x = *(const uintptr_t *)a, y = *(const uintptr_t *)b;
    return x + run_bytes <= y ? -1 : y + run_bytes <= x;
}

static void f_move_rows(void *const *to, const void *const *from, size_t bytes, size_t n)
{
    uintptr_t *written = malloc((n + 1) * sizeof *written);
    size_t i;
    if (!written) abort();
    run_bytes = bytes;
    for (i = 0; i < n; i++) written[i] = (uintptr_t)to[i];
    qsort(written, n, sizeof *written, by_address);
    for (i = 1; i < n; i++)
        if (!apart(&written[i - 1], &written[i])) fail("move_rows", "a run is written twice", 0);
    for (i = 0; i < n; i++) {
        uintptr_t source = (uintptr_t)from[i];
        if (source && bsearch(&source, written, n, sizeof *written, apart))
            fail("move_rows", "a run is read that is written", 0);
        host("move_rows", to[i]), host("move_rows", from[i]);
    }
    free(written);
    if (!goes("move_rows")) return;
    for (i = 0; i < n; i++) {
        void *t = host("move_rows", to[i]);
        const void *f = host("move_rows", from[i]);
        cpu->move_rows(&t, &f, bytes, 1);
    }
}

static const void *f_weights(const void *from, size_t bytes)
{
    void *p = f_alloc(bytes);
    if (p) f_put(p, from, bytes);
    return p;
}

static void f_drop_weights(const void *copy)
{
    void *p;
    memcpy(&p, &copy, sizeof p); /* nobody else has it */
    f_release(p);
}

/* ---- a pass: the pages of all rows with addresses the CPU can read ---- */

static struct {
    struct rows r;
    struct kv_page *pages, **table;
    struct kv_page *const *const **rows;
    struct kv_page *const **layers;
} pass;

static void pass_free(void)
{
    free(pass.pages);
    free(pass.table);
    free(pass.rows);
    free(pass.layers);
    memset(&pass, 0, sizeof pass);
}

static int f_begin(const struct rows *r, int L, int plain)
{
    const char *most = getenv("KVRUN_FAKE_ROWS");
    size_t n = 0, at = 0;
    int b, l, p;
    pass_free();
    if (plain && most && r->B > atoi(most)) fail("begin", "out of memory", 1);
    for (b = 0; b < r->B; b++) n += (size_t)L * (size_t)(r->slot[b] / PAGE_TOKENS + 1);
    pass.pages = calloc(n, sizeof *pass.pages);
    pass.table = calloc(n, sizeof *pass.table);
    pass.layers = calloc((size_t)r->B * (size_t)L, sizeof *pass.layers);
    pass.rows = calloc((size_t)r->B, sizeof *pass.rows);
    if (!pass.pages || !pass.table || !pass.layers || !pass.rows) abort();
    for (b = 0; b < r->B; b++) {
        pass.rows[b] = pass.layers + (size_t)b * (size_t)L;
        for (l = 0; l < L; l++) {
            pass.layers[(size_t)b * (size_t)L + (size_t)l] = pass.table + at;
            for (p = 0; p <= r->slot[b] / PAGE_TOKENS; p++, at++) {
                const struct kv_page *from = r->pages[b][l][p];
                pass.pages[at] = (struct kv_page){host("begin", from->k), host("begin", from->v), from->hidden};
                pass.table[at] = &pass.pages[at];
            }
        }
    }
    pass.r = (struct rows){r->B, r->slot, (struct kv_page *const *const *const *)pass.rows};
    return 0;
}

static void f_end(void)
{
}

static const char *f_trouble(int *memory)
{
    if (!trouble_text[0]) return NULL;
    memcpy(asked_text, trouble_text, sizeof asked_text);
    trouble_text[0] = 0;
    *memory = trouble_memory;
    return asked_text;
}

/* ---- operations ---- */

static struct mat near_mat(const char *op, const struct mat *w)
{
    struct mat m = *w;
    m.data = host(op, w->data);
    return m;
}

static void f_embed(float *x, const struct mat *table, const int *ids, int B)
{
    struct mat m = near_mat("embed", table);
    NEAR("embed", x), NEAR("embed", ids);
    if (goes("embed")) cpu->embed(x, &m, ids, B);
}

static void f_rmsnorm(float *y, const float *x, const float *w, float eps, int B, int D)
{
    NEAR("rmsnorm", y), NEAR("rmsnorm", x), NEAR("rmsnorm", w);
    if (goes("rmsnorm")) cpu->rmsnorm(y, x, w, eps, B, D);
}

static void f_layernorm(float *y, const float *x, const float *w, const float *b, float eps, int B, int D)
{
    NEAR("layernorm", y), NEAR("layernorm", x), NEAR("layernorm", w), NEAR("layernorm", b);
    if (goes("layernorm")) cpu->layernorm(y, x, w, b, eps, B, D);
}

static void f_matmul(float *y, int ldy, const struct mat *w, const float *x, int B, enum matmul_then then)
{
    struct mat m = near_mat("matmul", w);
    NEAR("matmul", y), NEAR("matmul", x);
    if (goes("matmul")) cpu->matmul(y, ldy, &m, x, B, then);
}

static void f_matmul_t(float *y, int ldy, const struct mat *w, const float *x, int B, enum matmul_then then)
{
    struct mat m = near_mat("matmul_t", w);
    NEAR("matmul_t", y), NEAR("matmul_t", x);
    if (goes("matmul_t")) cpu->matmul_t(y, ldy, &m, x, B, then);
}

static void f_rope_append(float *q, float *k, const float *v, const struct rope *rope, const struct rows *r, int layer,
                          const struct attn *a)
{
    struct rope turn = *rope;
    (void)r;
    turn.cos = host("rope_append", rope->cos), turn.sin = host("rope_append", rope->sin);
    NEAR("rope_append", q), NEAR("rope_append", k), NEAR("rope_append", v);
    if (goes("rope_append")) cpu->rope_append(q, k, v, &turn, &pass.r, layer, a);
}

static void f_attend(float *out, const float *q, const struct rows *r, int layer, const uint64_t *const *blocked,
                     const struct attn *a)
{
    (void)r;
    NEAR("attend", out), NEAR("attend", q);
    if (goes("attend")) cpu->attend(out, q, &pass.r, layer, blocked, a);
}

static void f_swiglu(float *y, const float *gate, const float *up, int B, int F)
{
    NEAR("swiglu", y), NEAR("swiglu", gate), NEAR("swiglu", up);
    if (goes("swiglu")) cpu->swiglu(y, gate, up, B, F);
}

static void f_gelu(float *y, const float *x, const float *up, enum gelu form, int B, int F)
{
    NEAR("gelu", y), NEAR("gelu", x), NEAR("gelu", up);
    if (goes("gelu")) cpu->gelu(y, x, up, form, B, F);
}

static void f_softcap(float *y, const float *x, float cap, size_t n)
{
    NEAR("softcap", y), NEAR("softcap", x);
    if (goes("softcap")) cpu->softcap(y, x, cap, n);
}

static void f_scale(float *y, const float *x, float f, size_t n)
{
    NEAR("scale", y), NEAR("scale", x);
    if (goes("scale")) cpu->scale(y, x, f, n);
}

static void f_add(float *y, const float *x, int ldx, int B, int N)
{
    NEAR("add", y), NEAR("add", x);
    if (goes("add")) cpu->add(y, x, ldx, B, N);
}

static void f_pick(struct pick *out, const float *logits, int B, int V)
{
    NEAR("pick", out), NEAR("pick", logits);
    if (goes("pick")) cpu->pick(out, logits, B, V);
}

static const struct kernels table = {
    .name = "fake",
    .numerics = "cuda-fake",
    .alloc = f_alloc,
    .release = f_release,
    .copy = f_copy,
    .zero = f_zero,
    .get = f_get,
    .put = f_put,
    .copy_rows = f_copy_rows,
    .move_rows = f_move_rows,
    .weights = f_weights,
    .drop_weights = f_drop_weights,
    .begin = f_begin,
    .end = f_end,
    .trouble = f_trouble,
    .embed = f_embed,
    .rmsnorm = f_rmsnorm,
    .layernorm = f_layernorm,
    .matmul = f_matmul,
    .matmul_t = f_matmul_t,
    .rope_append = f_rope_append,
    .attend = f_attend,
    .swiglu = f_swiglu,
    .gelu = f_gelu,
    .softcap = f_softcap,
    .scale = f_scale,
    .add = f_add,
    .pick = f_pick,
};

const struct kernels *kvrun_cuda_open(int abi, int device, struct cuda_device *about, char *why, size_t n)
{
    const char *refusal = getenv("KVRUN_FAKE_OPEN"), *memory = getenv("KVRUN_FAKE_MEMORY");
    if (refusal) return snprintf(why, n, "%s", refusal), NULL;
    if (abi != KVRUN_CUDA_ABI) return snprintf(why, n, "ABI %d, asked for %d", KVRUN_CUDA_ABI, abi), NULL;
    if (device != 0) return snprintf(why, n, "there is no device %d, only 1", device), NULL;
    cpu = kernels_cpu(KERNELS_SCALAR);
    kernels_cpu_threads(1);
    capacity = memory ? atoll(memory) : -1;
    *about = (struct cuda_device){.name = "Fake GPU", .cc_major = 9, .sm_count = 1, .runtime = 13000};
    about->memory_bytes = about->memory_free = capacity >= 0 ? capacity - used : 1 << 30;
    return &table;
}
