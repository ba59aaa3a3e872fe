/* tokenizer.h: text to token ids and back, from a GGUF file's metadata or a tokenizer.json.
 *
 * Owns all its tables (the gguf may be closed afterwards). Read-only after loading, so any thread may use it.
 * encode gives each token's bytes in the text; the tokens cover the text without gap or overlap.
 * decode(encode(x)) == x for every byte string a tokeniser can represent.
 *
 *     tokenizer *t; struct tokens out;
 *     tokenizer_load(&t, g, e);                                // NULL *t and 0: the file has no tokenizer
 *     tokenizer_encode(t, "hi", 2, 0, &out, e);  ... free(out.t);
 *     tokenizer_free(t);
 */
#ifndef ENGINE_TOKENIZER_H
#define ENGINE_TOKENIZER_H

#include "engine.h"
#include "gguf.h"

typedef struct tokenizer tokenizer;

/* An unknown model or pre-tokeniser is an error that names it, never a guess. */
int tokenizer_load(tokenizer **out, const gguf *g, err *e);
/* The same from the n bytes of a tokenizer.json (the `tokenizers` library): BPE and Unigram. What it asks for and this file
   does not do is an error that names it. Such a file knows no eos; stop ids are control tokens known by their names. */
int tokenizer_load_json(tokenizer **out, const char *json, size_t n, err *e);
/* What a tokenizer.json does not say and the model's config does: bos (-1: none) unless it is known, eos and stop ids. */
int tokenizer_set_ids(tokenizer *t, int bos, const int *eos, int n_eos, err *e);
void tokenizer_free(tokenizer *t); /* NULL is fine */

int tokenizer_encode(const tokenizer *t, const char *text, size_t n, unsigned flags /* enum tokenize_flags */,
                     struct tokens *out, err *e);
const char *tokenizer_bytes(const tokenizer *t, int id, size_t *n); /* NULL: no such id */
bool tokenizer_special(const tokenizer *t, int id);

int tokenizer_n_vocab(const tokenizer *t);
int tokenizer_bos(const tokenizer *t); /* -1: none */
int tokenizer_eos(const tokenizer *t); /* -1: none */
bool tokenizer_add_bos(const tokenizer *t);
const char *tokenizer_kind(const tokenizer *t);        /* "bpe:smollm" */
const int *tokenizer_stop(const tokenizer *t, int *n); /* eos, eot, end-of-message ids; sorted, no doubles */
/* SHA-256 over all that decides ids and bytes: kind, tokens, types, merges, flags, special ids. */
void tokenizer_sha256(const tokenizer *t, uint8_t out[32]);

#endif
