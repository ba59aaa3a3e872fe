/* tokenizer_impl.h: what the tokenizer's own files share; nobody else includes it.
 *
 * A text passes these stages: special tokens are cut out (tokenizer_vocab.c); what is between them, a segment, is
 * normalised (tokenizer_norm.c) and split into pieces by regular expressions (tokenizer_pre.c), and the model turns each
 * piece into tokens (tokenizer_bpe.c, tokenizer_unigram.c). Inside a segment positions are those of the normalised
 * text; tokenizer_emit turns them into positions of the whole original text.
 */
#ifndef ENGINE_TOKENIZER_IMPL_H
#define ENGINE_TOKENIZER_IMPL_H

#include "tokenizer.h"

/* The numbers are those of tokenizer.ggml.token_type. */
enum token_type { TOKEN_NORMAL = 1, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_USER, TOKEN_UNUSED, TOKEN_BYTE };

/* How a vocabulary writes its tokens. */
enum spelling {
    SPELLING_BYTES,  /* byte by byte as in GPT-2 */
    SPELLING_SPACES, /* UTF-8 with U+2581 for a space and <0x0A> for a byte; found by their text with spaces, but see
                        merge_spaces */
    SPELLING_TEXT,   /* the same, but found as they are written */
};

/* One entry of the vocabulary. key: what the model finds it by (NULL: the model never finds it); bytes: what it stands for. */
struct vocab_token {
    const char *key, *bytes;
    int n_key, n_bytes;
    enum token_type type;
};

/* A token that is matched as text before all else; the strips also take the blanks beside it. */
struct vocab_special {
    const char *p;
    int n, id;
    bool lstrip, rstrip;
};

struct vocab {
    arena *a;
    struct vocab_token *t; /* (n) */
    int n, unk;            /* unk: -1: none */
    enum spelling spelling;
    bool keep_meta;    /* SPELLING_TEXT: U+2581 stands for itself */
    bool merge_spaces; /* merges make the user-defined tokens of spaces; in a text only U+2581 is matched as them */
    int *slots;        /* (mask + 1) hash table of keys: id or -1 */
    size_t mask;
    int max_key;                   /* bytes of the longest key */
    struct vocab_special *special; /* (n_special) sorted by bytes */
    int n_special, cap_special;
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

enum norm_kind {
    NORM_PREPEND,  /* `to` in front */
    NORM_REPLACE,  /* every `from` becomes `to` */
    NORM_COLLAPSE, /* no space at either end, one where there were several */
    NORM_NFC,      /* Unicode's canonical composition */
};
struct norm_op {
    enum norm_kind kind;
    const char *from, *to;
    bool unless_there; /* NORM_PREPEND: not when the text begins with it */
    bool first_only;   /* NORM_PREPEND: not after a special token */
};

enum { NORM_MAX = 8 };
struct norm {
    struct norm_op op[NORM_MAX];
    int n;
};

/* A text and where its bytes come from: byte i is of the original's byte at[i]; at[n] is where the segment ends. */
struct norm_text {
    struct buf text;
    int *at;
    size_t cap;
};

struct tokenizer_pre;
struct tokenizer_job;
struct lattice;

struct tokenizer {
    char kind[48];
    struct vocab vocab;
    struct norm norm;
    struct tokenizer_pre *pre; /* NULL: a segment is one piece */
    int (*piece)(struct tokenizer_job *j, int start, int end);
    struct bpe bpe;
    uint32_t *rank; /* (vocab.n) of SentencePiece: order of the scores, best first; else NULL */
    float *score;   /* (vocab.n) of SentencePiece and Unigram, else NULL */
    int bos, eos;
    bool add_bos, fuse_unk; /* fuse_unk: neighbouring unknown characters become one token */
    float min_score;        /* of Unigram: the least of the normal tokens */
    int *stop;              /* (n_stop) */
    int n_stop;
    uint8_t sha256[32];
};

/* A symbol of the piece being merged: bytes start..end of the text. id -1: not in the vocabulary. */
struct symbol {
    int id, start, end, prev, next;
};

/* One call of tokenizer_encode. */
struct tokenizer_job {
    const tokenizer *t;
    struct tokens out;
    int cap;
    const char *text; /* of the current segment */
    const int *at;    /* NULL: byte i comes from byte base + i of the original */
    int base;
    struct norm_text norm[2];
    struct symbol *sym;
    uint64_t *heap; /* (n_heap) rank << 32 | index of the left symbol; smallest first */
    size_t cap_sym, n_heap;
    struct lattice *lattice; /* (cap_lattice) of tokenizer_unigram.c */
    size_t cap_lattice;
    int after_unknown; /* out.n after the last unknown token */
    err *e;
};

/* The last of loading: stop ids (end: the n_end ids known so far, -1 for none) and the hash, over `source` too. */
int tokenizer_finish(tokenizer *t, const int *end, int n_end, const char *source, size_t n_source, err *e);

/* Appends token id for bytes start..end of the segment. */
void tokenizer_emit(struct tokenizer_job *j, int id, int start, int end);
/* Appends what stands for text without a token: its bytes' tokens, else the unknown token, else it is an error. */
int tokenizer_emit_unknown(struct tokenizer_job *j, int start, int end);

/* Byte-level spelling (Radford et al. 2019, encoder.py): every byte is written as one printable character. Gives the
   bytes that the n bytes at s spell, in `out` (n), and their number; -1: a character that stands for no byte. */
int tokenizer_vocab_unspell(const char *s, int n, char *out);
/* Makes room for n tokens, and the arena unless it is there. */
void tokenizer_vocab_new(struct vocab *v, int n, enum spelling spelling);
int tokenizer_vocab_set(struct vocab *v, int id, struct gguf_str s, enum token_type type, err *e);
int tokenizer_vocab_add_special(struct vocab *v, const struct vocab_special *s, err *e);
/* Whether the token is user-defined, of spaces alone, and made by merges. */
bool tokenizer_vocab_merges_spaces(const struct vocab *v, int id);
/* Adds each token whose type says that it is matched as text. */
int tokenizer_vocab_add_markers(struct vocab *v, err *e);
/* Builds the hash table and the byte table, and sorts the special tokens, once all tokens and unk are set. */
void tokenizer_vocab_index(struct vocab *v);
void tokenizer_vocab_free(struct vocab *v);
int tokenizer_vocab_find(const struct vocab *v, const char *key, int n); /* -1: not there */
/* The same in steps, for one prefix after the other: the hash of nothing, of one byte more, and the key with that hash. */
#define VOCAB_HASH_EMPTY 0xcbf29ce484222325u
uint64_t tokenizer_vocab_hash(uint64_t h, char c);
int tokenizer_vocab_find_hashed(const struct vocab *v, const char *key, int n, uint64_t h);
/* First special token at or after `from`, the longest of those that begin there; *at: where. NULL: none. */
const struct vocab_special *tokenizer_vocab_special(const struct vocab *v, const char *text, int from, int n, int *at);

/* What becomes of the matches of an expression and of what lies between them: a piece each, or joined. */
enum pre_behaviour { PRE_ISOLATED, PRE_MERGE_PREVIOUS, PRE_MERGE_NEXT, PRE_CONTIGUOUS, PRE_REMOVED };
enum pre_flags {
    PRE_LITERAL = 1, /* the pattern is a text */
    PRE_LINES = 2,   /* $ and ^ also match at line ends */
    PRE_INVERT = 4,  /* the matches are what lies between the matches */
};
extern const char tokenizer_pre_gpt2[]; /* the expression of GPT-2 */
int tokenizer_pre_steps(const struct tokenizer_pre *p);
struct tokenizer_pre *tokenizer_pre_new(void); /* no step: every text is one piece */
int tokenizer_pre_add(struct tokenizer_pre *p, const char *pattern, size_t n, enum pre_behaviour behaviour, unsigned flags,
                      err *e);
/* The pre-tokeniser of that name in tokenizer.ggml.pre. NULL: unknown, the error lists those known. */
struct pre_traits {
    const char *name; /* (n_name) the one of its names that tokenizer_kind shows */
    int n_name;
    bool ignore_merges, add_bos, nfc; /* nfc: the text is composed (NFC) first, as the models' tokenizer.json asks */
};
struct tokenizer_pre *tokenizer_pre_named(struct gguf_str name, struct pre_traits *traits, err *e);
void tokenizer_pre_free(struct tokenizer_pre *p); /* NULL is fine */
/* Calls piece for each piece of text in order; bytes that are no UTF-8 are pieces of their own. */
int tokenizer_pre_split(const struct tokenizer_pre *p, const char *text, int n,
                        int (*piece)(struct tokenizer_job *j, int start, int end), struct tokenizer_job *j);

/* Adds a step; its strings outlive the tokenizer. */
int tokenizer_norm_add(struct norm *norm, struct norm_op op, err *e);
/* text: n bytes that begin at byte `base` of the original. Sets j->text and j->at; *n_out: bytes there. */
int tokenizer_norm_apply(struct tokenizer_job *j, const char *text, int n, int base, int *n_out);

/* The two sides of a merge, as the vocabulary writes them. */
struct bpe_pair {
    struct gguf_str left, right;
};
/* "left right", cut at the first space that is not the first byte. -1: there is none. */
int tokenizer_bpe_cut(struct gguf_str s, struct bpe_pair *out);
/* merges: best first. */
int tokenizer_bpe_load(struct bpe *b, const struct vocab *v, const struct bpe_pair *merges, size_t n, err *e);
void tokenizer_bpe_free(struct bpe *b);
/* Byte pair encoding by rank of merges, or by score of the merged token (SentencePiece) when t->rank is there. */
int tokenizer_bpe_piece(struct tokenizer_job *j, int start, int end);
/* The tokens with the greatest sum of scores. */
int tokenizer_unigram_piece(struct tokenizer_job *j, int start, int end);

#endif
