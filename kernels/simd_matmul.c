/* simd_matmul.c: y = w x for B rows, two ways with the same bits.
 *
 * Few rows (decode alone) are bound by reading the weights: blocks are widened in registers, 4 rows of weights at a time
 * (AVX2: 2), and used for every row of x at once. More rows are bound by arithmetic: a panel of weight rows is widened into
 * the first-level cache and multiplied with all rows of x, 4 x 4 accumulators at a time (AVX2: 3 x 2), while a chunk of x
 * stays in the second-level cache. What was measured stands in SPEED.md.
 */
#include "simd_vec.h"
#include "widen.h"

#ifdef __AVX512F__
enum { DIRECT_ROWS = 4, DIRECT_MAX = 4, TILE_ROWS = 4, TILE_COLS = 4 };
#else
enum { DIRECT_ROWS = 2, DIRECT_MAX = 2, TILE_ROWS = 3, TILE_COLS = 2 };
#endif

enum {
    ACC_MAX = 16,        /* a constant: an array sized by a parameter stays in memory even when everything is inlined */
    PIECE = 1536,        /* columns of a panel: 4 rows are 24 KB, a multiple of every block */
    X_BYTES = 600 << 10, /* of x that stay in the second-level cache */
    CARRY_ROWS = 64,     /* rows of x whose lanes are carried from piece to piece when there are several */
    DIRECT_PIECE = 3072, /* columns whose scales are converted at once */
    CUT = 12,            /* threads meet at multiples of the tile's rows, whichever they are */
};

/* ---- blocks of 32 weights ---- */

INLINE int bytes32(const enum dtype t)
{
    switch (t) {
    case DTYPE_F32: return 128;
    case DTYPE_Q4_0:
    case DTYPE_IQ4_NL: return 18;
    case DTYPE_Q4_1: return 20;
    case DTYPE_Q5_0: return 22;
    case DTYPE_Q5_1: return 24;
    case DTYPE_Q8_0: return 34;
    default: return 64;
    }
}

/* The scales of n blocks: s[2i] = d, s[2i+1] = m. Every block begins with d and has at least four bytes, so that one load
   takes both; where there is no m the second number means nothing. Four blocks are one conversion. */
INLINE void scales(float *s, const uint8_t *b, const enum dtype t, int n)
{
    const size_t bytes = (size_t)bytes32(t);
    int32_t h[4];
    int i = 0;
    if (t == DTYPE_F32 || t == DTYPE_F16 || t == DTYPE_BF16) return;
    for (; i + 4 <= n; i += 4, b += 4 * bytes) {
        UNROLL for (int j = 0; j < 4; j++) memcpy(&h[j], b + (size_t)j * bytes, 4);
        _mm256_storeu_ps(s + 2 * i, _mm256_cvtph_ps(_mm_setr_epi32(h[0], h[1], h[2], h[3])));
    }
    for (; i < n; i++, b += bytes) {
        memcpy(h, b, 4);
        _mm_storel_pi((void *)(s + 2 * i), _mm_cvtph_ps(_mm_cvtsi32_si128(h[0])));
    }
}

INLINE v16 from_bytes(__m128i q) /* signed */
{
#ifdef __AVX512F__
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q));
#else
    return (v16){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(q, 8)))};
#endif
}
INLINE v16 signed_bytes(const uint8_t *q)
{
    return from_bytes(_mm_loadu_si128((const void *)q));
}
INLINE void nibbles(const uint8_t *q, __m128i *low, __m128i *high)
{
    __m128i i = _mm_loadu_si128((const void *)q), mask = _mm_set1_epi8(15);
    *low = _mm_and_si128(i, mask);
    *high = _mm_and_si128(_mm_srli_epi16(i, 4), mask);
}
/* Nibbles with a fifth bit each: 16 where bit i of the 16 bits at h is set. */
INLINE __m128i fifth_bits(const uint8_t *h)
{
    const __m128i bit = _mm_set1_epi64x((long long)0x8040201008040201u);
    uint16_t bits;
    memcpy(&bits, h, 2);
    __m128i spread =
        _mm_shuffle_epi8(_mm_set1_epi16((short)bits), _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
    return _mm_and_si128(_mm_cmpeq_epi8(_mm_and_si128(spread, bit), bit), _mm_set1_epi8(16));
}

#ifdef __AVX512F__
/* 4 bits have 16 values: all of them are computed once per block (two operations) and looked up; the look-up reads the low
   four bits of an index alone. d * q is exact, 11 bits by 4, so that the fma rounds as the addition does. */
INLINE void look_up(v16 values, const uint8_t *q, v16 *low, v16 *high)
{
    __m512i i = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)q));
    *low = _mm512_permutexvar_ps(i, values);
    *high = _mm512_permutexvar_ps(_mm512_srli_epi32(i, 4), values);
}
INLINE void q4_0_block(const uint8_t *b, const float *s, v16 *low, v16 *high)
{
    const v16 q = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    look_up(v_mul(q, v_set1(s[0])), b + 2, low, high);
}
INLINE void q4_1_block(const uint8_t *b, const float *s, v16 *low, v16 *high)
{
    const v16 q = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    look_up(v_fma(q, v_set1(s[0]), v_set1(s[1])), b + 4, low, high);
}
INLINE void iq4_nl_block(const uint8_t *b, const float *s, v16 *low, v16 *high)
{
    const v16 q = _mm512_setr_ps(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
    look_up(v_mul(q, v_set1(s[0])), b + 2, low, high);
}
#else
INLINE void q4_0_block(const uint8_t *b, const float *s, v16 *low, v16 *high)
{
    const __m128i eight = _mm_set1_epi8(8);
    __m128i l, h;
    nibbles(b + 2, &l, &h);
    *low = v_mul(from_bytes(_mm_sub_epi8(l, eight)), v_set1(s[0]));
    *high = v_mul(from_bytes(_mm_sub_epi8(h, eight)), v_set1(s[0]));
}
INLINE void q4_1_block(const uint8_t *b, const float *s, v16 *low, v16 *high)
{
    __m128i l, h; /* d * q is exact, so the fma rounds as the addition does */
    nibbles(b + 4, &l, &h);
    *low = v_fma(from_bytes(l), v_set1(s[0]), v_set1(s[1]));
    *high = v_fma(from_bytes(h), v_set1(s[0]), v_set1(s[1]));
}
INLINE void iq4_nl_block(const uint8_t *b, const float *s, v16 *low, v16 *high)
{
    const __m128i q = _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
    __m128i l, h;
    nibbles(b + 2, &l, &h);
    *low = v_mul(from_bytes(_mm_shuffle_epi8(q, l)), v_set1(s[0]));
    *high = v_mul(from_bytes(_mm_shuffle_epi8(q, h)), v_set1(s[0]));
}
#endif

INLINE void q5_0_block(const uint8_t *b, const float *s, v16 *low, v16 *high)
{
    const __m128i sixteen = _mm_set1_epi8(16);
    __m128i l, h;
    nibbles(b + 6, &l, &h);
    *low = v_mul(from_bytes(_mm_sub_epi8(_mm_or_si128(l, fifth_bits(b + 2)), sixteen)), v_set1(s[0]));
    *high = v_mul(from_bytes(_mm_sub_epi8(_mm_or_si128(h, fifth_bits(b + 4)), sixteen)), v_set1(s[0]));
}
INLINE void q5_1_block(const uint8_t *b, const float *s, v16 *low, v16 *high)
{
    __m128i l, h;
    nibbles(b + 8, &l, &h);
    *low = v_fma(from_bytes(_mm_or_si128(l, fifth_bits(b + 4))), v_set1(s[0]), v_set1(s[1]));
    *high = v_fma(from_bytes(_mm_or_si128(h, fifth_bits(b + 6))), v_set1(s[0]), v_set1(s[1]));
}

INLINE void block32(const enum dtype t, const uint8_t *b, const float *s, v16 *low, v16 *high)
{
    switch (t) {
    case DTYPE_Q4_0: q4_0_block(b, s, low, high); break;
    case DTYPE_Q4_1: q4_1_block(b, s, low, high); break;
    case DTYPE_Q5_0: q5_0_block(b, s, low, high); break;
    case DTYPE_Q5_1: q5_1_block(b, s, low, high); break;
    case DTYPE_IQ4_NL: iq4_nl_block(b, s, low, high); break;
    case DTYPE_Q8_0:
        *low = v_mul(signed_bytes(b + 2), v_set1(s[0]));
        *high = v_mul(signed_bytes(b + 18), v_set1(s[0]));
        break;
    default: *low = v_from(b, t, 0), *high = v_from(b, t, 16);
    }
}

/* ---- results ---- */

/* Sums of R x C accumulators (C, R) into y (C, ldy). */
INLINE void put(float *y, int ldy, const v16 *acc, const int R, const int C, enum matmul_then then)
{
    float s[ACC_MAX];
    v_sums(s, acc, R * C);
    UNROLL for (int c = 0; c < C; c++)
    {
        float *to = y + (size_t)c * (size_t)ldy;
        UNROLL for (int r = 0; r < R; r++) to[r] = then == MATMUL_ADD ? to[r] + s[c * R + r] : s[c * R + r];
    }
}

/* ---- few rows: widened in registers ---- */

/* DIRECT_ROWS rows of weights from r on, C rows of x; cols is a multiple of 32. */
INLINE void direct(const struct matmul_job *j, long r0, const enum dtype t, const int C)
{
    enum { R = DIRECT_ROWS };
    const size_t K = (size_t)j->w->cols, bytes = (size_t)bytes32(t);
    const uint8_t *w = (const uint8_t *)j->w->data + (size_t)r0 * j->row_bytes;
    float s[R][2 * DIRECT_PIECE / 32];
    v16 acc[ACC_MAX];
    UNROLL for (int i = 0; i < R * C; i++) acc[i] = v_zero();
    for (size_t k = 0; k < K; k += DIRECT_PIECE) {
        size_t n = (K - k < DIRECT_PIECE ? K - k : DIRECT_PIECE) / 32;
        UNROLL for (int r = 0; r < R; r++) scales(s[r], w + (size_t)r * j->row_bytes, t, (int)n);
        for (size_t i = 0; i < n; i++) {
            const float *x = j->x + k + 32 * i;
            v16 low[R], high[R];
            UNROLL for (int r = 0; r < R; r++)
            {
                const uint8_t *b = w + (size_t)r * j->row_bytes + i * bytes;
                _mm_prefetch((const char *)((uintptr_t)b + 2 * R * j->row_bytes), _MM_HINT_T0);
                block32(t, b, s[r] + 2 * i, &low[r], &high[r]);
            }
            UNROLL for (int c = 0; c < C; c++)
            {
                v16 a = v_load(x + (size_t)c * K), b = v_load(x + (size_t)c * K + 16);
                UNROLL for (int r = 0; r < R; r++) acc[c * R + r] = v_fma(low[r], a, acc[c * R + r]);
                UNROLL for (int r = 0; r < R; r++) acc[c * R + r] = v_fma(high[r], b, acc[c * R + r]);
            }
        }
        w += n * bytes;
    }
    put(j->y + r0, j->ldy, acc, R, C, j->then);
}

#define DIRECT_ONE(t, C)                                             \
    static void direct_##t##_##C(const struct matmul_job *j, long r) \
    {                                                                \
        direct(j, r, DTYPE_##t, C);                                  \
    }
#ifdef __AVX512F__
#define DIRECT(t) DIRECT_ONE(t, 1) DIRECT_ONE(t, 2) DIRECT_ONE(t, 3) DIRECT_ONE(t, 4)
#define DIRECT_ROW(t) [DTYPE_##t] = {direct_##t##_1, direct_##t##_2, direct_##t##_3, direct_##t##_4}
#else
#define DIRECT(t) DIRECT_ONE(t, 1) DIRECT_ONE(t, 2)
#define DIRECT_ROW(t) [DTYPE_##t] = {direct_##t##_1, direct_##t##_2}
#endif
DIRECT(F32)
DIRECT(F16)
DIRECT(BF16)
DIRECT(Q4_0)
DIRECT(Q4_1)
DIRECT(Q5_0)
DIRECT(Q5_1)
DIRECT(Q8_0)
DIRECT(IQ4_NL)
static void (*const direct_of[DTYPE_COUNT][DIRECT_MAX])(const struct matmul_job *, long) = {
    DIRECT_ROW(F32),  DIRECT_ROW(F16),  DIRECT_ROW(BF16), DIRECT_ROW(Q4_0),  DIRECT_ROW(Q4_1),
    DIRECT_ROW(Q5_0), DIRECT_ROW(Q5_1), DIRECT_ROW(Q8_0), DIRECT_ROW(IQ4_NL)};

/* ---- more rows: a widened panel ---- */

INLINE void widen_blocks(float *out, const uint8_t *b, const enum dtype t, size_t n)
{
    float s[2 * PIECE / 32];
    scales(s, b, t, (int)n);
    for (size_t i = 0; i < n; i++, b += bytes32(t)) {
        v16 low, high;
        block32(t, b, s + 2 * i, &low, &high);
        v_store(out + 32 * i, low);
        v_store(out + 32 * i + 16, high);
    }
}

/* n weights of a row, at most PIECE, and zeros up to a multiple of 16. */
static void widen(float *out, const uint8_t *b, enum dtype t, size_t n)
{
    const size_t whole = n / 32;
    widen_fn *f = widen_block(t);
    switch (t) {
    case DTYPE_F32: widen_blocks(out, b, DTYPE_F32, whole); break;
    case DTYPE_F16: widen_blocks(out, b, DTYPE_F16, whole); break;
    case DTYPE_BF16: widen_blocks(out, b, DTYPE_BF16, whole); break;
    case DTYPE_Q4_0: widen_blocks(out, b, DTYPE_Q4_0, whole); return;
    case DTYPE_Q4_1: widen_blocks(out, b, DTYPE_Q4_1, whole); return;
    case DTYPE_Q5_0: widen_blocks(out, b, DTYPE_Q5_0, whole); return;
    case DTYPE_Q5_1: widen_blocks(out, b, DTYPE_Q5_1, whole); return;
    case DTYPE_Q8_0: widen_blocks(out, b, DTYPE_Q8_0, whole); return;
    case DTYPE_IQ4_NL: widen_blocks(out, b, DTYPE_IQ4_NL, whole); return;
    default: /* blocks of 256 */
        for (size_t i = 0; i < n; i += (size_t)dtype_block(t), b += dtype_block_bytes(t)) f(out + i, b);
        return;
    }
    for (size_t i = whole * 32; i < n; i += 16) v_store(out + i, v_from_n(b, t, i, n - i < 16 ? (int)(n - i) : 16));
}

/* What the tiles of one panel share. */
struct panel {
    const float *w; /* (R, stride) */
    size_t stride;  /* n rounded up to 16 */
    int n;          /* columns */
    int first, last;
};

/* R rows of the panel by C rows of x; the lanes come from `carry` unless the piece is the first, and go there unless it is
   the last. */
INLINE void tile(const struct matmul_job *j, const struct panel *p, float *y, const float *x, float *carry, const int R,
                 const int C)
{
    const size_t K = (size_t)j->w->cols, stride = p->stride, whole = (size_t)(p->n / 16 * 16);
    const float *panel = p->w;
    v16 acc[ACC_MAX];
    UNROLL for (int a = 0; a < R * C; a++) acc[a] = p->first ? v_zero() : v_load(carry + 16 * a);
    for (size_t i = 0; i < whole; i += 16) {
        v16 w[TILE_ROWS];
        UNROLL for (int r = 0; r < R; r++) w[r] = v_load(panel + (size_t)r * stride + i);
        UNROLL for (int c = 0; c < C; c++)
        {
            v16 a = v_load(x + (size_t)c * K + i);
            UNROLL for (int r = 0; r < R; r++) acc[c * R + r] = v_fma(w[r], a, acc[c * R + r]);
        }
    }
    if (whole < (size_t)p->n) {
        UNROLL for (int c = 0; c < C; c++)
        {
            v16 a = v_load_n(x + (size_t)c * K + whole, p->n - (int)whole);
            UNROLL for (int r = 0; r < R; r++) acc[c * R + r] =
                v_fma(v_load(panel + (size_t)r * stride + whole), a, acc[c * R + r]);
        }
    }
    if (p->last) {
        put(y, j->ldy, acc, R, C, j->then);
    } else {
        UNROLL for (int a = 0; a < R * C; a++) v_store(carry + 16 * a, acc[a]);
    }
}

#define TILE(R, C)                                                                                                        \
    static void tile_##R##_##C(const struct matmul_job *j, const struct panel *p, float *y, const float *x, float *carry) \
    {                                                                                                                     \
        tile(j, p, y, x, carry, R, C);                                                                                    \
    }
TILE(1, 1)
TILE(1, 2)
#ifdef __AVX512F__
TILE(1, 3)
TILE(1, 4)
TILE(4, 1)
TILE(4, 2)
TILE(4, 3)
TILE(4, 4)
#else
TILE(3, 1)
TILE(3, 2)
#endif
typedef void tile_fn(const struct matmul_job *, const struct panel *, float *, const float *, float *);
#ifdef __AVX512F__
static tile_fn *const tile_of[2][TILE_COLS] = {{tile_1_1, tile_1_2, tile_1_3, tile_1_4},
                                               {tile_4_1, tile_4_2, tile_4_3, tile_4_4}};
#else
static tile_fn *const tile_of[2][TILE_COLS] = {{tile_1_1, tile_1_2}, {tile_3_1, tile_3_2}};
#endif

/* R rows of weights from r0 on by the rows b0..b1-1 of x, in pieces of columns. */
static void panel_rows(const struct matmul_job *j, long r0, int R, int b0, int b1)
{
    const size_t K = (size_t)j->w->cols,
                 piece = (size_t)(PIECE / dtype_block(j->w->type)) * (size_t)dtype_block_bytes(j->w->type);
    const uint8_t *w = (const uint8_t *)j->w->data + (size_t)r0 * j->row_bytes;
    float wide[TILE_ROWS * PIECE] __attribute__((aligned(64))), carry[CARRY_ROWS * TILE_ROWS * 16] __attribute__((aligned(64)));
    for (size_t k = 0; k < K; k += PIECE, w += piece) {
        int n = (int)(K - k < PIECE ? K - k : PIECE);
        struct panel p = {.w = wide, .stride = (size_t)(n + 15) / 16 * 16, .n = n, .first = k == 0, .last = k + PIECE >= K};
        for (int r = 0; r < R; r++) {
            const uint8_t *row = w + (size_t)r * j->row_bytes;
            size_t bytes = (size_t)(n / dtype_block(j->w->type)) * (size_t)dtype_block_bytes(j->w->type);
            for (size_t i = 0; i < bytes; i += 64) /* the panel after the next */
                _mm_prefetch((const char *)((uintptr_t)row + 2 * TILE_ROWS * j->row_bytes + i), _MM_HINT_T0);
            widen(wide + (size_t)r * p.stride, row, j->w->type, (size_t)n);
        }
        for (int b = b0; b < b1; b += TILE_COLS) {
            int C = b1 - b < TILE_COLS ? b1 - b : TILE_COLS;
            tile_of[R > 1][C - 1](j, &p, j->y + (size_t)b * (size_t)j->ldy + r0, j->x + (size_t)b * K + k,
                                  carry + (size_t)(p.first && p.last ? 0 : b - b0) * TILE_ROWS * 16);
        }
    }
}

/* ---- a thread's rows ---- */

static void matmul_rows(const void *job, struct cpu_part part)
{
    const struct matmul_job *j = job;
    const size_t K = (size_t)j->w->cols;
    long r = part.from;
    int chunk = j->B;
    if (j->B <= DIRECT_MAX && K % 32 == 0 && direct_of[j->w->type][0])
        for (; r + DIRECT_ROWS <= part.to; r += DIRECT_ROWS) direct_of[j->w->type][j->B - 1](j, r);
    if (K > 0 && (size_t)chunk * (K < PIECE ? K : PIECE) * sizeof(float) > X_BYTES)
        chunk = (int)(X_BYTES / sizeof(float) / (K < PIECE ? K : PIECE)) / TILE_COLS * TILE_COLS;
    if (K > PIECE && chunk > CARRY_ROWS) chunk = CARRY_ROWS;
    for (int b = 0; b < j->B && r < part.to; b += chunk) {
        int end = j->B - b < chunk ? j->B : b + chunk, R;
        for (long i = r; i < part.to; i += R) {
            R = part.to - i >= TILE_ROWS ? TILE_ROWS : 1;
            panel_rows(j, i, R, b, end);
        }
    }
}

void SIMD_FN(matmul)(float *y, int ldy, const struct mat *w, const float *x, int B, enum matmul_then then)
{
    struct matmul_job j = {y, ldy, w, mat_row_bytes(w), x, B, then};
    cpu_run(matmul_rows, &j, w->rows, CUT, (double)B * w->rows * w->cols);
}
