/* map.c: open addressing, linear probing, at most half full; see map.h. */
#include "map.h"

#include "../engine/base.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct entry {
    const char *key; /* NULL: free */
    size_t n;
    uint64_t hash;
    int value;
};

struct map {
    arena *mem; /* the keys */
    struct entry *entries;
    size_t cap, used; /* cap is a power of two */
};

struct map *map_new(void)
{
    struct map *m = mem_alloc(sizeof *m);
    m->mem = arena_new();
    m->cap = 64;
    m->entries = mem_array(m->cap, sizeof *m->entries);
    return m;
}

void map_free(struct map *m)
{
    if (!m) return;
    arena_free(m->mem);
    free(m->entries);
    free(m);
}

static struct entry *map_find(struct map *m, const void *key, size_t n, uint64_t hash)
{
    size_t i = (size_t)hash & (m->cap - 1);
    for (;; i = (i + 1) & (m->cap - 1)) {
        struct entry *t = &m->entries[i];
        if (!t->key || (t->hash == hash && t->n == n && memcmp(t->key, key, n) == 0)) return t;
    }
}

static void map_double(struct map *m)
{
    struct entry *old = m->entries;
    size_t i, n = m->cap;
    m->cap = n * 2;
    m->entries = mem_array(m->cap, sizeof *m->entries);
    for (i = 0; i < n; i++)
        if (old[i].key) *map_find(m, old[i].key, old[i].n, old[i].hash) = old[i];
    free(old);
}

int map_put(struct map *m, const void *key, size_t n, int value)
{
    uint64_t hash = XXH3_64bits(key, n);
    struct entry *t = map_find(m, key, n, hash);
    if (t->key) return t->value;
    *t = (struct entry){arena_strndup(m->mem, key, n), n, hash, value};
    if (++m->used * 2 > m->cap) map_double(m);
    return -1;
}

int map_get(struct map *m, const void *key, size_t n)
{
    struct entry *t = map_find(m, key, n, XXH3_64bits(key, n));
    return t->key ? t->value : -1;
}

void map_key_int(struct buf *key, int v)
{
    buf_add(key, &v, sizeof v);
}

void map_key_ints(struct buf *key, const int *v, int n)
{
    map_key_int(key, n);
    buf_add(key, v, (size_t)n * sizeof *v);
}
