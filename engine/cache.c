/* cache.c: pages of K and V, shared by reference and copied by whoever writes.
 *
 * A page is 64 tokens of one layer. Sharing is identity: two caches share a page iff their pointers are equal; attention
 * loads such a page once for both, and a stored cache finds the same bytes. Tokens that a page does not hold yet are zero
 * (kernels.h asks for that), so a page that is taken from the pool is cleared.
 */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

size_t cache_page_elements(const engine *en)
{
    return (size_t)en->model.G * PAGE_TOKENS * (size_t)en->model.E;
}

static size_t page_bytes(const engine *en)
{
    return cache_page_elements(en) * (size_t)dtype_block_bytes(en->attn.kv_type);
}

/* A zero page with one reference, or NULL when memory is out. */
static struct page *page_new(engine *en)
{
    size_t bytes = page_bytes(en), hidden = (size_t)en->model.G * sizeof(uint64_t);
    struct page *p;
    char *mem;
    pthread_mutex_lock(&en->pool_lock);
    p = en->pool;
    if (p) en->pool = p->next;
    pthread_mutex_unlock(&en->pool_lock);
    if (p) {
        en->k->zero(p->kv.k, 2 * bytes);
        memset(p->hidden_bits, 0, hidden);
    } else {
        mem = en->k->alloc(2 * bytes);
        if (!mem) return NULL;
        p = mem_alloc(sizeof *p + hidden);
        p->kv.k = mem;
        p->kv.v = mem + bytes;
    }
    p->kv.hidden = NULL;
    p->next = NULL;
    atomic_init(&p->refs, 1);
    return p;
}

static void page_release(engine *en, struct page *p)
{
    if (!p || atomic_fetch_sub(&p->refs, 1) > 1) return;
    pthread_mutex_lock(&en->pool_lock);
    p->next = en->pool;
    en->pool = p;
    pthread_mutex_unlock(&en->pool_lock);
}

void cache_pool_free(engine *en)
{
    struct page *p, *next;
    for (p = en->pool; p; p = next) {
        next = p->next;
        en->k->release(p->kv.k);
        free(p);
    }
    en->pool = NULL;
}

static void cache_room(cache *c, int n_pages)
{
    int l, cap = c->cap ? c->cap : 4;
    if (n_pages <= c->cap) return;
    while (cap < n_pages) cap *= 2;
    for (l = 0; l < c->en->model.n_layer; l++) c->pages[l] = mem_grow(c->pages[l], (size_t)cap, sizeof **c->pages);
    c->cap = cap;
}

int cache_new(cache **out, engine *en, err *e)
{
    cache *c;
    if (en->model.n_layer == 0) return err_set(e, ERR_INTERNAL, "the engine was opened for its vocabulary only");
    c = mem_alloc(sizeof *c);
    c->en = en;
    c->pages = mem_array((size_t)en->model.n_layer, sizeof *c->pages);
    *out = c;
    return 0;
}

cache *cache_fork(cache *c)
{
    int l, i, used = (c->n + PAGE_TOKENS - 1) / PAGE_TOKENS;
    cache *f = mem_alloc(sizeof *f);
    f->en = c->en;
    f->pages = mem_array((size_t)c->en->model.n_layer, sizeof *f->pages);
    cache_room(f, used);
    f->n = c->n;
    f->n_pages = used;
    f->n_closed = c->n_closed;
    if (c->n_closed) {
        f->closed = mem_array((size_t)c->n_closed, sizeof *f->closed);
        memcpy(f->closed, c->closed, (size_t)c->n_closed * sizeof *f->closed);
    }
    for (l = 0; l < c->en->model.n_layer; l++)
        for (i = 0; i < used; i++) {
            f->pages[l][i] = c->pages[l][i];
            atomic_fetch_add(&((struct page *)(void *)c->pages[l][i])->refs, 1);
        }
    return f;
}

/* So that a shorter cache keeps the promise that unused tokens are zero. */
void cache_clear_tail(const engine *en, struct page *p, int from)
{
    size_t row = (size_t)en->model.E * (size_t)dtype_block_bytes(en->attn.kv_type), head = PAGE_TOKENS * row;
    int g;
    for (g = 0; g < en->model.G; g++) {
        en->k->zero((char *)p->kv.k + (size_t)g * head + (size_t)from * row, head - (size_t)from * row);
        en->k->zero((char *)p->kv.v + (size_t)g * head + (size_t)from * row, head - (size_t)from * row);
        p->hidden_bits[g] &= ((uint64_t)1 << from) - 1;
    }
}

int cache_fork_at(cache **out, cache *c, int n, err *e)
{
    int l, i, tail = n % PAGE_TOKENS, last = n / PAGE_TOKENS;
    cache *f;
    if (n < 0 || n > c->n) return err_set(e, ERR_INTERNAL, "a fork of %d tokens from a cache of %d", n, c->n);
    f = cache_fork(c);
    for (l = 0; l < c->en->model.n_layer; l++)
        for (i = (n + PAGE_TOKENS - 1) / PAGE_TOKENS; i < f->n_pages; i++)
            page_release(c->en, (struct page *)(void *)f->pages[l][i]);
    f->n_pages = (n + PAGE_TOKENS - 1) / PAGE_TOKENS;
    f->n = n;
    while (f->n_closed > 0 && f->closed[f->n_closed - 1] >= n) f->n_closed--;
    for (l = 0; tail && n < c->n && l < c->en->model.n_layer; l++) {
        struct page *p = cache_own(f, l, last);
        if (!p) {
            cache_free(f);
            return err_set(e, ERR_FAIL, "no memory to copy a page of the cache");
        }
        cache_clear_tail(c->en, p, tail);
    }
    *out = f;
    return 0;
}

void cache_free(cache *c)
{
    int l, i;
    if (!c) return;
    for (l = 0; l < c->en->model.n_layer; l++) {
        for (i = 0; i < c->n_pages; i++) page_release(c->en, (struct page *)(void *)c->pages[l][i]);
        free(c->pages[l]);
    }
    free(c->pages);
    free(c->closed);
    free(c);
}

int cache_len(const cache *c)
{
    return c->n;
}

struct page *cache_own(cache *c, int layer, int page)
{
    engine *en = c->en;
    struct page *old = (struct page *)(void *)c->pages[layer][page], *own;
    if (atomic_load(&old->refs) == 1) return old;
    own = page_new(en);
    if (!own) return NULL;
    en->k->copy(own->kv.k, old->kv.k, 2 * page_bytes(en));
    memcpy(own->hidden_bits, old->hidden_bits, (size_t)en->model.G * sizeof *own->hidden_bits);
    if (old->kv.hidden) own->kv.hidden = own->hidden_bits;
    c->pages[layer][page] = &own->kv;
    page_release(en, old);
    return own;
}

int cache_reserve(cache *c, int more, err *e)
{
    int need = (c->n + more + PAGE_TOKENS - 1) / PAGE_TOKENS, l, i;
    cache_room(c, need);
    for (i = c->n_pages; i < need; i++) {
        for (l = 0; l < c->en->model.n_layer; l++) {
            struct page *p = page_new(c->en);
            if (!p) {
                while (l-- > 0) page_release(c->en, (struct page *)(void *)c->pages[l][i]);
                return err_set(e, ERR_FAIL, "no memory for the cache of %d tokens", c->n + more);
            }
            c->pages[l][i] = &p->kv;
        }
        c->n_pages = i + 1;
    }
    for (i = c->n / PAGE_TOKENS; i < need; i++)
        for (l = 0; l < c->en->model.n_layer; l++)
            if (!cache_own(c, l, i)) return err_set(e, ERR_FAIL, "no memory to copy a page of the cache");
    return 0;
}

/* A page of its own with the first `kept` tokens of an old one: no more is copied than stays. NULL: out of memory. */
static struct page *page_begun(engine *en, const struct page *old, int kept)
{
    size_t row = (size_t)en->model.E * (size_t)dtype_block_bytes(en->attn.kv_type), head = PAGE_TOKENS * row;
    struct page *p = page_new(en);
    int g;
    if (!p || kept == 0) return p;
    en->k->copy_rows(p->kv.k, head, old->kv.k, head, (size_t)kept * row, 2 * (size_t)en->model.G); /* v lies behind k */
    for (g = 0; g < en->model.G; g++) p->hidden_bits[g] = old->hidden_bits[g] & (((uint64_t)1 << kept) - 1);
    if (old->kv.hidden) p->kv.hidden = p->hidden_bits;
    return p;
}

int cache_renew(cache *c, int layer, int first, err *e)
{
    int l, i;
    for (l = layer; l < c->en->model.n_layer; l++)
        for (i = first / PAGE_TOKENS; i < c->n_pages; i++) {
            struct page *old = (struct page *)(void *)c->pages[l][i], *p;
            int kept = i > first / PAGE_TOKENS ? 0 : first % PAGE_TOKENS;
            if (atomic_load(&old->refs) == 1) {
                cache_clear_tail(c->en, old, kept);
                continue;
            }
            p = page_begun(c->en, old, kept);
            if (!p) return err_set(e, ERR_FAIL, "no memory to copy a page of the cache");
            c->pages[l][i] = &p->kv;
            page_release(c->en, old);
        }
    return 0;
}

void cache_read(const cache *c, int layer, int tensor, int first, int n, void *out)
{
    const engine *en = c->en;
    size_t size = (size_t)dtype_block_bytes(en->attn.kv_type), E = (size_t)en->model.E;
    int g, t, run;
    for (g = 0; g < en->model.G; g++)
        for (t = 0; t < n; t += run) {
            int pos = first + t, at = pos % PAGE_TOKENS;
            const struct kv_page *p = c->pages[layer][pos / PAGE_TOKENS];
            const char *src = tensor == CACHE_K ? p->k : p->v;
            run = PAGE_TOKENS - at < n - t ? PAGE_TOKENS - at : n - t;
            en->k->get((char *)out + ((size_t)g * n + t) * E * size, src + ((size_t)g * PAGE_TOKENS + at) * E * size,
                       (size_t)run * E * size);
        }
}

bool cache_shares(const cache *a, const cache *b, int layer, int pos)
{
    return a->pages[layer][pos / PAGE_TOKENS] == b->pages[layer][pos / PAGE_TOKENS];
}
