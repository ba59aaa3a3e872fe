/* base.h: what every file above kernels/ stands on: errors, memory, text.
 *
 * Errors. A function that can fail takes `err *` last and returns 0 or -1. The first cause stays;
 * callers put context in front of it on the way up:
 *
 *     if (gguf_open(&g, path, e)) return err_in(e, "model '%s'", path);
 *     -> "model 'x.gguf': tensor 'blk.3.attn_q.weight' ends at byte 9000, the file has 8192"
 *
 * Memory. mem_alloc and friends never return NULL: sizes that come from a file are checked before
 * they get here, so running out means a bug or a full machine, and the process aborts with a line on
 * stderr. An arena owns everything taken from it and is freed in one call. A buf is growing text.
 */
#ifndef ENGINE_BASE_H
#define ENGINE_BASE_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

/* The numbers are the program's exit codes, so that no table translates between them. */
enum err_code {
    ERR_FAIL = 1,      /* single jobs failed, or a verdict is bad */
    ERR_INPUT = 2,     /* usage, spec: nothing was run */
    ERR_ENV = 3,       /* model missing, broken or not the pinned one; device lost */
    ERR_DB = 4,        /* database: not ours, newer, corrupt, locked */
    ERR_NOTHING = 5,   /* nothing to run, nothing found */
    ERR_DISK = 6,      /* disk full or quota */
    ERR_INTERNAL = 70, /* a bug */
    ERR_MEMORY = 71,   /* memory ran out; fewer rows at once may fit. No exit code: who gives up makes it ERR_FAIL */
};

typedef struct err {
    int code; /* 0: empty; else enum err_code */
    char msg[1024];
} err;

/* Sets code and message unless an earlier cause is there. Always -1. */
int err_set(err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Puts "context: " in front of the message. Always -1. */
int err_in(err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

void *mem_alloc(size_t bytes);                  /* zeroed; caller frees with free() */
void *mem_array(size_t n, size_t size);         /* zeroed, n * size checked for overflow */
void *mem_grow(void *p, size_t n, size_t size); /* realloc to n * size, checked; new part not zeroed */
char *mem_strdup(const char *s);

typedef struct arena arena;
arena *arena_new(void);
void arena_free(arena *a);                 /* NULL is fine */
void *arena_alloc(arena *a, size_t bytes); /* zeroed, aligned to 16 */
void *arena_array(arena *a, size_t n, size_t size);
char *arena_strndup(arena *a, const char *s, size_t n); /* adds the final NUL */
char *arena_strdup(arena *a, const char *s);
char *arena_printf(arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Growing bytes, always NUL-terminated behind `n`. {0} is an empty buf; buf_free leaves {0}. */
struct buf {
    char *p;
    size_t n, cap;
};
void buf_room(struct buf *b, size_t more); /* `more` bytes and the NUL fit behind n without moving */
void buf_add(struct buf *b, const void *bytes, size_t n);
void buf_str(struct buf *b, const char *s);
void buf_char(struct buf *b, char c);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_vprintf(struct buf *b, const char *fmt, va_list ap);
char *buf_take(struct buf *b); /* hands the bytes over (never NULL), leaves {0}; caller frees */
void buf_free(struct buf *b);

/* n bytes as 2 n lower-case digits and a NUL; returns out. */
char *hex_text(char *out, const uint8_t *bytes, size_t n);
/* For qsort: rising ints. */
int order_ints(const void *a, const void *b);

/* Bytes of the valid UTF-8 character at s (1..4), or 0 when the bytes there are not one. */
int utf8_len(const char *s, size_t n);
/* Length of the longest prefix of s that is valid UTF-8. */
size_t utf8_valid(const char *s, size_t n);

/* The word of `words` (NULL-terminated) nearest to s by edits, or NULL when none is near: "did you mean". */
const char *nearest_word(const char *s, const char *const *words);

#endif
