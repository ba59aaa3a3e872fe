/* cuda_rope.cu: turning queries and keys, and storing keys and values in their pages. The bits are the CPU's. */
#include "cuda_math.h"

static __global__ void rope_head(float *q, float *k, const float *v, const float *cos, const float *sin, int n_rot,
                                 int interleaved, struct cuda_view view, int H, int G, int E, int type)
{
    cuda_start();
    CUDA_SHARED(float, head, [HEAD_MAX]);
    const int b = (int)blockIdx.x, u = (int)blockIdx.y, half = n_rot / 2, e = (int)threadIdx.x;
    float *x =
        u < H ? q + ((size_t)b * (size_t)H + (size_t)u) * (size_t)E : k + ((size_t)b * (size_t)G + (size_t)(u - H)) * (size_t)E;
    float f = 0;
    if (e < E) head[e] = x[e];
    __syncthreads();
    if (e < E) {
        f = head[e];
        if (e < n_rot) {
            int i = e % half;
            float first = head[interleaved ? 2 * i : i], second = head[interleaved ? 2 * i + 1 : i + half];
            float c = cos[(size_t)b * (size_t)half + (size_t)i], s = sin[(size_t)b * (size_t)half + (size_t)i];
            f = e < half ? first * c - second * s : second * c + first * s;
        }
        x[e] = f;
    }
    if (u >= H && e < E) {
        const int slot = view.slot[b], g = u - H;
        const struct cuda_page *page =
            view.pages + (size_t)view.layer * (size_t)view.first[view.B] + view.first[b] + slot / PAGE_TOKENS;
        size_t to = ((size_t)g * PAGE_TOKENS + (size_t)(slot % PAGE_TOKENS)) * (size_t)E + (size_t)e;
        cuda_element_set(page->k, type, to, f);
        cuda_element_set(page->v, type, to, v[((size_t)b * (size_t)G + (size_t)g) * (size_t)E + (size_t)e]);
    }
}

void cuda_rope_append(float *q, float *k, const float *v, const struct rope *rope, const struct rows *r, int layer,
                      const struct attn *a)
{
    struct cuda_op op("rope_append");
    struct cuda_view view;
    dim3 grid((unsigned)r->B, (unsigned)(a->H + a->G));
    if (!op.go || r->B < 1 || !cuda_view_of(&view, op.name, r, layer, a->G)) return;
    CUDA_LAUNCH_EARLY(rope_head, grid, (unsigned)((a->E + 31) / 32 * 32), 0, cuda.stream, q, k, v, rope->cos, rope->sin,
                      rope->n_rot, rope->interleaved, view, a->H, a->G, a->E, (int)a->kv_type);
}
