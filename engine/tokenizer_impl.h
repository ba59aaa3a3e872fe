/* tokenizer_impl.h: what the tokenizer's own files share; nobody else includes it.
 *
 * A text passes these stages: special tokens are cut out (tokenizer_vocab.c), what is between them is split into
 * pieces by regular expressions (tokenizer_pre.c), and the model turns each piece into tokens (tokenizer_bpe.c).
 * Offsets inside a segment are positions in `text`; tokenizer_emit turns them into positions of the whole text.
 */
#ifndef ENGINE_TOKENIZER_IMPL_H
#define ENGINE_TOKENIZER_IMPL_H

#include "tokenizer.h"

/* The numbers are those of tokenizer.ggml.token_type. */
enum token_type { TOKEN_NORMAL = 1, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_USER, TOKEN_UNUSED, TOKEN_BYTE };

/* One entry of the vocabulary. key: what the model finds it by (NULL: the model never finds it); bytes: what it stands for. */
struct vocab_token {
    const char *key, *bytes;
    int n_key, n_bytes;
    enum token_type type;
};

struct vocab_special {
    const char *p;
    int n, id;
};

struct vocab {
    arena *a;
    struct vocab_token *t; /* (n) */
    int n;
    int *slots; /* (mask + 1) hash table of keys: id or -1 */
    size_t mask;
    struct vocab_special *special; /* (n_special) sorted by bytes */
    int n_special;
    bool special_first[256]; /* bytes that begin a special token */
    int byte[256];           /* token of a single byte, or -1 */
};

/* A merge rule: the pair (left, right) becomes the token id. Its index is its rank. */
struct bpe_merge {
    int left, right, id;
};

struct bpe {
    struct bpe_merge *merge; /* (n) by rank */
    size_t n;
    int *slots; /* (mask + 1) hash table of pairs: rank or -1 */
    size_t mask;
    bool ignore_merges; /* a piece that is in the vocabulary is that token, whatever the merges say */
};

struct tokenizer_pre;

struct tokenizer {
    char kind[48];
    struct vocab vocab;
    struct bpe bpe;
    struct tokenizer_pre *pre;
    int bos, eos;
    bool add_bos;
    int *stop; /* (n_stop) */
    int n_stop;
    uint8_t sha256[32];
};

/* A symbol of the piece being merged: bytes start..end of the text. */
struct symbol {
    int id, start, end, prev, next;
};

/* One call of tokenizer_encode. */
struct tokenizer_job {
    const tokenizer *t;
    struct tokens out;
    int cap;
    const char *text; /* of the current segment */
    int base;         /* where the segment begins in the whole text */
    struct symbol *sym;
    uint64_t *heap; /* (n_heap) rank << 32 | index of the left symbol; smallest first */
    size_t cap_sym, n_heap;
    err *e;
};

/* Appends token id for bytes start..end of the segment. */
void tokenizer_emit(struct tokenizer_job *j, int id, int start, int end);

/* Byte-level spelling (Radford et al. 2019, encoder.py): every byte is written as one printable character. Gives the
   bytes that the n bytes at s spell, in `out` (n), and their number; -1: a character that stands for no byte. */
int tokenizer_vocab_unspell(const char *s, int n, char *out);
/* Builds the hash table, the byte table and the list of special tokens once `t` is filled. */
int tokenizer_vocab_index(struct vocab *v, err *e);
int tokenizer_vocab_find(const struct vocab *v, const char *key, int n); /* -1: not there */
/* First special token at or after `from`, the longest of those that begin there; *at: where. NULL: none. */
const struct vocab_special *tokenizer_vocab_special(const struct vocab *v, const char *text, int from, int n, int *at);

/* The pre-tokeniser of that name in tokenizer.ggml.pre. NULL: unknown, the error lists those known. */
struct pre_traits {
    const char *name; /* (n_name) the one of its names that tokenizer_kind shows */
    int n_name;
    bool ignore_merges, add_bos;
};
struct tokenizer_pre *tokenizer_pre_new(struct gguf_str name, struct pre_traits *traits, err *e);
void tokenizer_pre_free(struct tokenizer_pre *p); /* NULL is fine */
/* Calls piece for each piece of text in order; bytes that are no UTF-8 are pieces of their own. */
int tokenizer_pre_split(const struct tokenizer_pre *p, const char *text, int n,
                        int (*piece)(struct tokenizer_job *j, int start, int end), struct tokenizer_job *j);

/* merges: "left right" in byte-level spelling, best first. */
int tokenizer_bpe_load(struct bpe *b, const struct vocab *v, const struct gguf_str *merges, size_t n, err *e);
void tokenizer_bpe_free(struct bpe *b);
int tokenizer_bpe_piece(struct tokenizer_job *j, int start, int end);

#endif
