/* base.c: errors, memory, text; see base.h. */
#include "base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- errors ---- */

int err_set(err *e, int code, const char *fmt, ...)
{
    va_list ap;
    if (!e || e->code) return -1;
    e->code = code;
    va_start(ap, fmt);
    vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    va_end(ap);
    return -1;
}

int err_in(err *e, const char *fmt, ...)
{
    char context[sizeof e->msg];
    size_t n, old;
    va_list ap;
    if (!e) return -1;
    va_start(ap, fmt);
    vsnprintf(context, sizeof context - 2, fmt, ap);
    va_end(ap);
    strcat(context, ": ");
    n = strlen(context);
    old = strlen(e->msg);
    if (old > sizeof e->msg - 1 - n) old = sizeof e->msg - 1 - n; /* the end of a long cause is what gives way */
    memmove(e->msg + n, e->msg, old);
    memcpy(e->msg, context, n);
    e->msg[n + old] = 0;
    return -1;
}

/* ---- memory ---- */

static void *mem_check(void *p, size_t n)
{
    if (p || n == 0) return p;
    fprintf(stderr, "kvrun: out of memory (%zu bytes)\n", n);
    abort();
}

void *mem_alloc(size_t bytes)
{
    if (bytes == 0) bytes = 1;
    return mem_check(calloc(1, bytes), bytes);
}

void *mem_array(size_t n, size_t size)
{
    if (size && n > SIZE_MAX / size) return mem_check(NULL, SIZE_MAX);
    return mem_alloc(n * size);
}

void *mem_grow(void *p, size_t n, size_t size)
{
    if (size && n > SIZE_MAX / size) return mem_check(NULL, SIZE_MAX);
    if (n * size == 0) n = size = 1;
    return mem_check(realloc(p, n * size), n * size);
}

char *mem_strdup(const char *s)
{
    size_t n = strlen(s) + 1;
    return memcpy(mem_alloc(n), s, n);
}

/* Blocks in a list; a request larger than a block gets one of its own. */
enum { ARENA_BLOCK = 1 << 16, ARENA_ALIGN = 16 };

struct block {
    struct block *next;
    size_t used, cap;
    _Alignas(ARENA_ALIGN) unsigned char bytes[];
};

struct arena {
    struct block *head;
};

arena *arena_new(void)
{
    return mem_alloc(sizeof(arena));
}

void arena_free(arena *a)
{
    struct block *b, *next;
    if (!a) return;
    for (b = a->head; b; b = next) {
        next = b->next;
        free(b);
    }
    free(a);
}

void *arena_alloc(arena *a, size_t bytes)
{
    struct block *b = a->head;
    size_t n;
    void *p;
    if (bytes > SIZE_MAX - sizeof *b - ARENA_ALIGN) return mem_check(NULL, SIZE_MAX);
    n = (bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    if (!b || b->cap - b->used < n) {
        size_t cap = n > ARENA_BLOCK ? n : ARENA_BLOCK;
        b = mem_alloc(sizeof *b + cap);
        b->cap = cap;
        b->next = a->head;
        a->head = b;
    }
    p = b->bytes + b->used;
    b->used += n;
    return p;
}

void *arena_array(arena *a, size_t n, size_t size)
{
    if (size && n > SIZE_MAX / size) return mem_check(NULL, SIZE_MAX);
    return arena_alloc(a, n * size);
}

char *arena_strndup(arena *a, const char *s, size_t n)
{
    char *p = arena_alloc(a, n + 1);
    if (n) memcpy(p, s, n);
    return p;
}

char *arena_strdup(arena *a, const char *s)
{
    return arena_strndup(a, s, strlen(s));
}

char *arena_printf(arena *a, const char *fmt, ...)
{
    struct buf b = {0};
    va_list ap;
    char *p;
    va_start(ap, fmt);
    buf_vprintf(&b, fmt, ap);
    va_end(ap);
    p = arena_strndup(a, b.p ? b.p : "", b.n);
    buf_free(&b);
    return p;
}

/* ---- text ---- */

void buf_room(struct buf *b, size_t more)
{
    size_t need, cap;
    if (more > SIZE_MAX - 1 - b->n) mem_check(NULL, SIZE_MAX);
    need = b->n + more + 1;
    if (need <= b->cap) return;
    cap = b->cap ? b->cap : 64;
    while (cap < need) cap = cap > SIZE_MAX / 2 ? need : cap * 2;
    b->p = mem_grow(b->p, cap, 1);
    b->cap = cap;
}

void buf_add(struct buf *b, const void *bytes, size_t n)
{
    buf_room(b, n);
    if (n) memcpy(b->p + b->n, bytes, n);
    b->n += n;
    b->p[b->n] = 0;
}

void buf_str(struct buf *b, const char *s)
{
    buf_add(b, s, strlen(s));
}

void buf_char(struct buf *b, char c)
{
    buf_add(b, &c, 1);
}

void buf_vprintf(struct buf *b, const char *fmt, va_list ap)
{
    va_list again;
    int n;
    va_copy(again, ap);
    buf_room(b, 32); /* most are written at once */
    n = vsnprintf(b->p + b->n, b->cap - b->n, fmt, ap);
    if (n > 0 && (size_t)n >= b->cap - b->n) {
        buf_room(b, (size_t)n);
        vsnprintf(b->p + b->n, (size_t)n + 1, fmt, again);
    }
    if (n > 0) b->n += (size_t)n;
    b->p[b->n] = 0;
    va_end(again);
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(b, fmt, ap);
    va_end(ap);
}

char *buf_take(struct buf *b)
{
    char *p;
    buf_room(b, 0);
    p = b->p;
    p[b->n] = 0;
    *b = (struct buf){0};
    return p;
}

void buf_free(struct buf *b)
{
    free(b->p);
    *b = (struct buf){0};
}

char *hex_text(char *out, const uint8_t *bytes, size_t n)
{
    static const char digits[] = "0123456789abcdef";
    size_t i;
    for (i = 0; i < n; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * n] = 0;
    return out;
}

int order_ints(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

/* Table 3-7 of the Unicode standard: no overlong forms, no surrogates, nothing above U+10FFFF. */
int utf8_len(const char *s, size_t n)
{
    const unsigned char *u = (const unsigned char *)s;
    int len, i;
    if (n == 0) return 0;
    if (u[0] < 0x80) return 1;
    len = u[0] >= 0xf0 ? 4 : u[0] >= 0xe0 ? 3 : 2;
    if (u[0] < 0xc2 || u[0] > 0xf4 || n < (size_t)len) return 0;
    for (i = 1; i < len; i++)
        if ((u[i] & 0xc0) != 0x80) return 0;
    if (u[0] == 0xe0 && u[1] < 0xa0) return 0;
    if (u[0] == 0xed && u[1] > 0x9f) return 0;
    if (u[0] == 0xf0 && u[1] < 0x90) return 0;
    if (u[0] == 0xf4 && u[1] > 0x8f) return 0;
    return len;
}

size_t utf8_valid(const char *s, size_t n)
{
    size_t i = 0;
    int len;
    while (i < n && (len = utf8_len(s + i, n - i)) > 0) i += (size_t)len;
    return i;
}

/* Levenshtein distance over bytes, cut off at words of 64 bytes: names of keys and commands. */
static int edit_distance(const char *a, const char *b)
{
    enum { MAX = 64 };
    int row[MAX + 1], n = (int)strlen(b), i, j;
    if (strlen(a) > MAX || n > MAX) return MAX;
    for (j = 0; j <= n; j++) row[j] = j;
    for (i = 1; a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (j = 1; j <= n; j++) {
            int above = row[j], best = diagonal + (a[i - 1] != b[j - 1]);
            if (above + 1 < best) best = above + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = above;
            row[j] = best;
        }
    }
    return row[n];
}

const char *nearest_word(const char *s, const char *const *words)
{
    const char *best = NULL;
    int limit = (int)strlen(s) / 3 + 1, least = limit + 1;
    for (; *words; words++) {
        int d = edit_distance(s, *words);
        if (d < least) {
            least = d;
            best = *words;
        }
    }
    return best;
}
