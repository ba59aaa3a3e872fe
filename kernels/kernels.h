/* kernels.h: the operations of a transformer pass, as a table that each backend fills.
 *
 * Kernels know pointers and sizes: no model, no cache object, no file; they never print, never exit.
 * Whoever calls owns every pointer. A table is constant for the life of the process.
 *
 *     const struct kernels *k = kernels_cpu(KERNELS_BEST);
 *     kernels_cpu_threads(2);
 *     k->embed(x, &table, ids, B);
 *     k->rmsnorm(h, x, w, 1e-5f, B, D);
 *     k->matmul(q, H * E, &wq, h, B, MATMUL_STORE);
 *
 * Shapes, slowest first, row-major:
 *   B rows computed together   T tokens   L layers   D model width   H query heads   G kv heads
 *   E head size   F ffn width   V vocabulary   P = 64 tokens of a page
 *
 * ARITHMETIC CONTRACT. Row b of every result depends on row b of the inputs alone, and its bits do not depend on
 * B, on the number of threads or on the instruction set. All arithmetic is f32, no contraction but the fma's named:
 *  - dot(a, b, n): sixteen lanes, lane j takes fma(a[i], b[i], lane) for i = j, j+16, ... in rising order (a missing
 *    tail is zeros); then lane j += lane j+8 (j < 8), += j+4 (j < 4), += j+2 (j < 2), += j+1 (j = 0).
 *  - sum(a, n): the same with lane += a[i].
 *  - exp: one polynomial for all instruction sets (cpu_exp in cpu.h; results below 2^-126 are +0), tanh and gelu likewise
 *    (cpu_ops.h); division and square root are IEEE.
 *  - weights are widened to f32 exactly as their format defines (d*q, or d*q + m with the addition rounded).
 *  - attention: pages in rising order; each page is one tile of exactly 64 keys, see attend below.
 * cpu_scalar.c spells the contract as plain loops; the SIMD files must equal it bit for bit (tests/unit/test_kernels.c).
 */
#ifndef KERNELS_KERNELS_H
#define KERNELS_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* P: tokens of a page and keys of an attention tile. One number, since a tile never crosses a page.
   HEAD_MAX: the largest E. */
enum { PAGE_TOKENS = 64, HEAD_MAX = 256 };

/* Plain types, then ggml's blocks (widen.h has their layouts). */
enum dtype {
    DTYPE_F32,
    DTYPE_F16,
    DTYPE_BF16,
    DTYPE_Q4_0,
    DTYPE_Q4_1,
    DTYPE_Q8_0,
    DTYPE_Q5_0,
    DTYPE_Q5_1,
    DTYPE_Q2_K,
    DTYPE_Q3_K,
    DTYPE_Q4_K,
    DTYPE_Q5_K,
    DTYPE_Q6_K,
    DTYPE_IQ4_NL,
    DTYPE_COUNT
};

/* Elements per block and bytes per block of a type (1 element for the plain ones). */
int dtype_block(enum dtype t);
int dtype_block_bytes(enum dtype t);
const char *dtype_name(enum dtype t); /* "f32", "q4_1", ... */

/* A weight matrix as it lies in the file: rows x cols, each row a whole number of blocks. Borrowed, aligned to nothing.
   GPT-2 stores the transpose: then ldt is the distance of its rows, of which this matrix takes `rows` columns. */
struct mat {
    enum dtype type;
    int rows, cols;
    const void *data; /* (rows, cols), or (cols, ldt); NULL: absent */
    int ldt;          /* 0: not transposed; else >= rows, and the type is f32, f16 or bf16 */
};
size_t mat_row_bytes(const struct mat *w);

/* One page: 64 tokens of one layer. Elements are f32, f16 or bf16 (kv_type); unused tokens are zero, never garbage. */
struct kv_page {
    void *k;          /* (G, P, E) keys after rotary embedding, rotate-half order */
    void *v;          /* (G, P, E) */
    uint64_t *hidden; /* (G) on the host; bit t set: no query attends to token t; NULL: nothing hidden */
};

/* The rows of a pass, each a token with the pages that hold what it sees. On the host; nothing changes from begin to end. */
struct rows {
    int B;
    const int *slot;                            /* (B) the token's place in its pages: its query sees slots 0..slot */
    struct kv_page *const *const *const *pages; /* (B)(L)(slot/P + 1) */
};

/* Rotary embedding of one step's rows; cos and sin are made by kernels_rope_table. */
struct rope {
    const float *cos, *sin; /* (B, n_rot / 2) rows of the position of each row */
    int n_rot;              /* leading elements of a head that turn; even, <= E */
    int interleaved;        /* input pairs are (2i, 2i+1), as GGUF llama files have them; output is always (i, i + n_rot/2) */
};

/* Sizes of attention, the same for all rows. */
struct attn {
    int H, G, E;
    enum dtype kv_type;
    float scale;
    float cap;  /* 0: none; else scores s become cap * tanh(s / cap) */
    int window; /* 0: none; else a query at slot p sees the slots p - window + 1 .. p */
};

/* What greedy decoding needs of a row of logits. */
struct pick {
    int token;     /* index of the largest, the lowest one of equals; -1 when a logit is not finite, the rest NaN then */
    float logprob; /* natural logarithm of its softmax */
    float margin;  /* largest minus second largest logit */
};

enum matmul_then { MATMUL_STORE, MATMUL_ADD };
enum gelu { GELU_TANH, GELU_EXACT };

struct kernels {
    const char *name;     /* "avx512", "avx2", "scalar", "cuda" */
    const char *numerics; /* what of the backend may change a bit: "cpu", "cuda-sm90" */

    /* Memory of the backend. alloc: zeroed, aligned to 64, NULL when there is none. */
    void *(*alloc)(size_t bytes);
    void (*release)(void *p);                               /* NULL is fine */
    void (*copy)(void *dst, const void *src, size_t bytes); /* within the backend */
    void (*zero)(void *dst, size_t bytes);
    void (*get)(void *host, const void *src, size_t bytes);
    void (*put)(void *dst, const void *host, size_t bytes);
    /* n runs of `bytes` bytes, dst_step and src_step bytes apart. */
    void (*copy_rows)(void *dst, size_t dst_step, const void *src, size_t src_step, size_t bytes, size_t n);

    /* n runs of `bytes` bytes, each between addresses of its own; a run from NULL becomes zeros. `to` and `from` lie on the
       host and may change after the call. No run is written twice, none is read that another one writes. */
    void (*move_rows)(void *const *to /* (n) */, const void *const *from /* (n) */, size_t bytes, size_t n);

    /* What every row of a model's weights goes through once: the backend's own copy, or the host's memory itself. NULL: no
       memory. Equal ranges share a copy, which lives until drop_weights was called as often as weights. */
    const void *(*weights)(const void *host, size_t bytes);
    void (*drop_weights)(const void *copy); /* NULL is fine */
    /* A pass over L layers of these rows. `plain`: nobody looks into it, so it consists of the same operations on the same
       buffers as every plain pass of as many rows; a backend that has recorded one replays it and answers 1: the caller leaves
       out everything up to `end`. */
    int (*begin)(const struct rows *r, int L, int plain);
    /* The pass is queued; after it `get` gives what it made. */
    void (*end)(void);
    /* NULL, or what failed first since it was last asked, naming the operation: "attend: out of memory". Operations after a
       failure do nothing. *memory: 1 when memory ran out. */
    const char *(*trouble)(int *memory);

    /* x[b] = row ids[b] of the table, widened. ids are inside 0..rows-1. */
    void (*embed)(float *x /* (B, cols) */, const struct mat *table, const int *ids /* (B) of the backend */, int B);

    /* y = x / sqrt(dot(x, x, D) / D + eps) * w: Zhang & Sennrich 2019, eq. 4. y may be x. */
    void (*rmsnorm)(float *y /* (B, D) */, const float *x /* (B, D) */, const float *w /* (D) */, float eps, int B, int D);

    /* y = (x - m) / sqrt(dot(x - m, x - m, D) / D + eps) * w + b with m = sum(x, D) / D: Ba et al. 2016. y may be x. */
    void (*layernorm)(float *y /* (B, D) */, const float *x /* (B, D) */, const float *w /* (D) */, const float *b /* (D) */,
                      float eps, int B, int D);

    /* y[b][r] = (or +=) dot(w[r], x[b], cols). Reads the weights once for all B rows. `+=` is y + dot, rounded once, so that
       storing and adding later gives the same bits. */
    void (*matmul)(float *y /* (B, ldy), the first w->rows of each */, int ldy, const struct mat *w,
                   const float *x /* (B, cols) */, int B, enum matmul_then then);
    /* The same for a matrix with ldt > 0. */
    void (*matmul_t)(float *y /* (B, ldy) */, int ldy, const struct mat *w, const float *x /* (B, cols) */, int B,
                     enum matmul_then then);

    /* Turns q in place and k, then writes k and v (rounded to kv_type) into token slot[b] % P of the layer's page slot[b] / P
       of row b. Su et al. 2021, eq. 34, in rotate-half order. The pages written are owned by one row alone. */
    void (*rope_append)(float *q /* (B, H, E) */, float *k /* (B, G, E) */, const float *v /* (B, G, E) */,
                        const struct rope *rope, const struct rows *r, int layer, const struct attn *a);

    /* out[b] = softmax(q . k * scale) v over tokens 0..slot[b] of row b's pages in this layer that are neither hidden nor
       blocked: bit t of blocked[b][h * (slot[b]/P + 1) + p] keeps query head h from token t of page p; blocked, or a row's
       entry, may be NULL. Query head h reads kv head h / (H/G). Per page, always 64 keys: s = dot(q, k, E) * scale, then the
       cap; unseen keys get s = -inf; m' = max(m, all s); if m' is -inf the page changes nothing (a NaN among the scores makes
       the result NaN); p = exp(s - m'), +0 for unseen keys; c = exp(m - m') (0 when m is -inf); d = d * c + sum(p, 64); o = o *
       c, then o = fma(p[t], v[t], o) for t = 0..63. At the end out = o * (1 / d), or zeros when nothing was seen. Pages wholly
       before the window are left out, which by the rule above changes nothing. Rows next to each other whose page pointers are
       equal load that page once. */
    void (*attend)(float *out /* (B, H, E) */, const float *q /* (B, H, E) */, const struct rows *r, int layer,
                   const uint64_t *const *blocked /* (B)(H, slot/P + 1), on the host */, const struct attn *a);

    /* y = silu(gate) * up, silu(x) = x / (1 + exp(-x)): Shazeer 2020, eq. 6. */
    void (*swiglu)(float *y /* (B, F) */, const float *gate /* (B, F) */, const float *up /* (B, F) */, int B, int F);

    /* y = gelu(x), times up when there is one (may be NULL): Hendrycks & Gimpel 2016, exact or with tanh. y may be x. */
    void (*gelu)(float *y /* (B, F) */, const float *x /* (B, F) */, const float *up /* (B, F) */, enum gelu form, int B,
                 int F);

    void (*softcap)(float *y /* (n) */, const float *x /* (n) */, float cap,
                    size_t n);                                                      /* y = tanh(x / cap) * cap; y may be x */
    void (*scale)(float *y /* (n) */, const float *x /* (n) */, float f, size_t n); /* y = x * f; y may be x */
    /* y[b] += x[b]; with ldx 0 the one row x is added to all: a bias. */
    void (*add)(float *y /* (B, N) */, const float *x /* (B, ldx), the first N of each */, int ldx, int B, int N);

    void (*pick)(struct pick *out /* (B) of the backend */, const float *logits /* (B, V) */, int B, int V);

    /* For kvrun bench to compare matmul with: seconds that the vendor's own library (cuBLAS, GemmEx) takes for a bf16 product
       of B rows, the median of some; negative when there is no such library, and why says so. NULL: the backend has no vendor.
       Its bits may follow B, which is why no pass uses it (cuda_matmul.cu). */
    double (*library_matmul)(int rows, int cols, int B, const char **why);
};

enum kernels_isa { KERNELS_BEST, KERNELS_SCALAR, KERNELS_AVX2, KERNELS_AVX512 };

/* The CPU's table for an instruction set, or NULL when this processor lacks it. */
const struct kernels *kernels_cpu(enum kernels_isa isa);
/* Threads of all CPU operations from now on; n < 1: OMP_NUM_THREADS, else one per processor this process may use. Returns the
   number. */
int kernels_cpu_threads(int n);

/* Inverse frequencies base^(-2i/n_rot), i = 0..n_rot/2-1, each correctly rounded from double; no libm, so equal everywhere. */
void kernels_rope_freqs(float *inv_freq /* (n_rot / 2) */, double base, int n_rot);
/* cos and sin of f32(pos) * inv_freq (the product rounded to f32, as transformers does), for B positions. No libm. */
void kernels_rope_table(float *cos /* (B, n) */, float *sin /* (B, n) */, const float *inv_freq /* (n) */,
                        const int *pos /* (B) */, int n, int B);

/* One query's attention weights, for captures: softmax over the seen ones of n keys, scored as in attend; unseen ones get 0.
   Equal to what attend uses up to rounding, since it sums n keys at once. On the host. */
void kernels_attention_row(float *weights /* (n) */, const float *q /* (E) */, const float *keys /* (n, E) */,
                           const unsigned char *seen /* (n) 0 or 1 */, int n, const struct attn *a);

/* Widens from any type, and rounds to nearest even to f32, f16 or bf16; on the host, for edits and exports. */
void kernels_widen(float *out /* (n) */, const void *in, enum dtype t, size_t n); /* n: a whole number of blocks */
void kernels_narrow(void *out, enum dtype t, const float *in, size_t n);

#endif
