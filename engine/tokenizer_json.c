/* tokenizer_json.c: a tokenizer from the tokenizer.json of the `tokenizers` library (its Rust sources define the format).
 *
 * Every member that decides ids is either obeyed or refused by name. The decoder is read first: it says how the
 * vocabulary writes bytes and spaces.
 */
#include "tokenizer_impl.h"

#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define META "\xe2\x96\x81" /* U+2581, SentencePiece's space */

struct reader {
    tokenizer *t;
    json_t *root;
    bool spaces, byte_fallback; /* what the decoder does */
    bool byte_level;            /* the pre-tokeniser is byte-level */
    bool unigram;
    bool rewrites; /* the normalizer does more than NFC */
    err *e;
};

/* ---- members ---- */

static int refuse(struct reader *r, const char *where, const char *what)
{
    return err_set(r->e, ERR_ENV, "tokenizer.json: %s '%.80s' is not supported", where, what ? what : "(none)");
}

static int broken(struct reader *r, const char *where)
{
    return err_set(r->e, ERR_ENV, "tokenizer.json: %s is not as it should be", where);
}

/* The object `key` of o, NULL when it is missing or null. */
static json_t *child(json_t *o, const char *key)
{
    json_t *c = json_object_get(o, key);
    return json_is_null(c) ? NULL : c;
}

static const char *text(json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static bool flag(json_t *o, const char *key, bool otherwise)
{
    json_t *c = child(o, key);
    return c ? json_is_true(c) : otherwise;
}

static bool is_type(json_t *o, const char *type)
{
    return strcmp(text(o, "type"), type) == 0;
}

/* Calls step for each member of a Sequence, or for o alone. */
static int each(struct reader *r, json_t *o, const char *list, int (*step)(struct reader *r, json_t *o))
{
    json_t *all;
    size_t i;
    if (!o) return 0;
    if (!is_type(o, "Sequence")) return step(r, o);
    all = json_object_get(o, list);
    if (!json_is_array(all)) return broken(r, list);
    for (i = 0; i < json_array_size(all); i++)
        if (step(r, json_array_get(all, i))) return -1;
    return 0;
}

static const char *keep_text(struct reader *r, const char *s)
{
    return arena_strdup(r->t->vocab.a, s);
}

/* The text of {"String": "..."}; NULL: a regular expression, or none. */
static const char *literal(json_t *pattern)
{
    return json_string_value(json_object_get(pattern, "String"));
}

/* ---- decoder ---- */

static int read_decoder(struct reader *r, json_t *d)
{
    if (is_type(d, "ByteLevel")) {
        r->byte_level = true;
    } else if (is_type(d, "Metaspace")) {
        if (strcmp(text(d, "replacement"), META) != 0) return refuse(r, "Metaspace with", text(d, "replacement"));
        r->spaces = true;
    } else if (is_type(d, "Replace")) {
        const char *from = literal(json_object_get(d, "pattern"));
        if (!from || strcmp(from, META) != 0 || strcmp(text(d, "content"), " ") != 0) return refuse(r, "decoder", "Replace");
        r->spaces = true;
    } else if (is_type(d, "ByteFallback")) {
        r->byte_fallback = true;
    } else if (!is_type(d, "Fuse") && !is_type(d, "Strip")) { /* Strip: of the whole text, not of a token */
        return refuse(r, "decoder", text(d, "type"));
    }
    return 0;
}

/* ---- normalizer ---- */

static int read_normalizer(struct reader *r, json_t *n)
{
    struct norm_op op = {0};
    if (is_type(n, "NFC")) {
        op.kind = NORM_NFC;
    } else if (is_type(n, "Prepend")) {
        r->rewrites = true;
        op.kind = NORM_PREPEND;
        op.to = keep_text(r, text(n, "prepend"));
    } else if (is_type(n, "Replace")) {
        const char *from = literal(json_object_get(n, "pattern"));
        if (!from || !*from) return refuse(r, "normalizer", "Replace of a regular expression");
        r->rewrites = true;
        op.kind = NORM_REPLACE;
        op.from = keep_text(r, from);
        op.to = keep_text(r, text(n, "content"));
    } else {
        return refuse(r, "normalizer", text(n, "type"));
    }
    return tokenizer_norm_add(&r->t->norm, op, r->e);
}

/* ---- pre-tokeniser ---- */

static int read_split(struct reader *r, json_t *p)
{
    static const struct {
        const char *name;
        enum pre_behaviour behaviour;
    } behaviours[] = {{"Isolated", PRE_ISOLATED},
                      {"Removed", PRE_REMOVED},
                      {"MergedWithPrevious", PRE_MERGE_PREVIOUS},
                      {"MergedWithNext", PRE_MERGE_NEXT},
                      {"Contiguous", PRE_CONTIGUOUS}};
    /* Where Oniguruma, for which these expressions are written, means another thing than PCRE2 does. */
    static const char *const dialect[] = {"&&", "\\h", "\\H", "(?m"};
    json_t *pattern = json_object_get(p, "pattern");
    const char *regex = json_string_value(json_object_get(pattern, "Regex")), *s = regex ? regex : literal(pattern);
    unsigned flags = (regex ? PRE_LINES : PRE_LITERAL) | (flag(p, "invert", false) ? PRE_INVERT : 0);
    size_t i;
    if (!s) return broken(r, "the pattern of Split");
    for (i = 0; regex && i < sizeof dialect / sizeof *dialect; i++)
        if (strstr(regex, dialect[i])) return refuse(r, "in a regular expression", dialect[i]);
    for (i = 0; i < sizeof behaviours / sizeof *behaviours; i++)
        if (strcmp(text(p, "behavior"), behaviours[i].name) == 0)
            return tokenizer_pre_add(r->t->pre, s, strlen(s), behaviours[i].behaviour, flags, r->e);
    return refuse(r, "Split with behavior", text(p, "behavior"));
}

/* What changes the text is done to a whole segment, so it has to come before the first split. */
static int prepend_space(struct reader *r, const char *type, const char *space, bool first_only)
{
    struct norm_op op = {.kind = NORM_PREPEND, .to = space, .unless_there = true, .first_only = first_only};
    if (tokenizer_pre_steps(r->t->pre)) return refuse(r, "after other pre-tokenisers", type);
    return tokenizer_norm_add(&r->t->norm, op, r->e);
}

static int read_metaspace(struct reader *r, json_t *p)
{
    struct norm_op op = {.kind = NORM_REPLACE, .from = " ", .to = META};
    const char *scheme = text(p, "prepend_scheme");
    if (strcmp(text(p, "replacement"), META) != 0) return refuse(r, "Metaspace with", text(p, "replacement"));
    if (!*scheme) scheme = flag(p, "add_prefix_space", true) ? "always" : "never";
    if (strcmp(scheme, "always") != 0 && strcmp(scheme, "first") != 0 && strcmp(scheme, "never") != 0)
        return refuse(r, "Metaspace with prepend_scheme", scheme);
    if (tokenizer_pre_steps(r->t->pre)) return refuse(r, "after other pre-tokenisers", "Metaspace");
    if (tokenizer_norm_add(&r->t->norm, op, r->e)) return -1;
    if (*scheme != 'n' && prepend_space(r, "Metaspace", META, *scheme == 'f')) return -1;
    if (!flag(p, "split", true)) return 0;
    return tokenizer_pre_add(r->t->pre, META, strlen(META), PRE_MERGE_NEXT, PRE_LITERAL, r->e);
}

static int read_byte_level(struct reader *r, json_t *p)
{
    r->byte_level = true;
    if (flag(p, "add_prefix_space", true) && prepend_space(r, "ByteLevel with add_prefix_space", " ", false)) return -1;
    if (!flag(p, "use_regex", true)) return 0;
    return tokenizer_pre_add(r->t->pre, tokenizer_pre_gpt2, strlen(tokenizer_pre_gpt2), PRE_ISOLATED, 0, r->e);
}

static int read_pre_tokenizer(struct reader *r, json_t *p)
{
    if (r->byte_level) return refuse(r, "after ByteLevel", text(p, "type")); /* it would see bytes in their spelling */
    if (is_type(p, "Split")) return read_split(r, p);
    if (is_type(p, "Metaspace")) return read_metaspace(r, p);
    if (is_type(p, "ByteLevel")) return read_byte_level(r, p);
    if (is_type(p, "Digits")) {
        const char *digits = flag(p, "individual_digits", false) ? "\\p{N}" : "\\p{N}+";
        return tokenizer_pre_add(r->t->pre, digits, strlen(digits), PRE_ISOLATED, 0, r->e);
    }
    return refuse(r, "pre_tokenizer", text(p, "type"));
}

/* ---- post-processor: whether a begin token stands in front ---- */

static int read_template(struct reader *r, json_t *p)
{
    json_t *single = json_object_get(p, "single"), *special, *ids;
    size_t i;
    for (i = 0; i < json_array_size(single); i++) {
        json_t *item = json_array_get(single, i);
        if (child(item, "Sequence")) return 0; /* what follows the text is not for prompts */
        special = json_object_get(json_object_get(p, "special_tokens"), text(json_object_get(item, "SpecialToken"), "id"));
        ids = json_object_get(special, "ids");
        if (json_array_size(ids) != 1 || !json_is_integer(json_array_get(ids, 0))) return broken(r, "TemplateProcessing");
        if (r->t->bos >= 0) return refuse(r, "TemplateProcessing with", "several tokens in front");
        if (json_integer_value(json_array_get(ids, 0)) < 0 || json_integer_value(json_array_get(ids, 0)) >= r->t->vocab.n)
            return broken(r, "an id of TemplateProcessing");
        r->t->bos = (int)json_integer_value(json_array_get(ids, 0));
        r->t->add_bos = true;
    }
    return 0;
}

static int read_post_processor(struct reader *r, json_t *p)
{
    if (is_type(p, "ByteLevel")) return 0; /* trims offsets only */
    if (is_type(p, "TemplateProcessing")) return read_template(r, p);
    return refuse(r, "post_processor", text(p, "type"));
}

/* ---- vocabulary ---- */

static bool same(const char *p, int n, const char *s)
{
    return p && (size_t)n == strlen(s) && memcmp(p, s, (size_t)n) == 0;
}

/* Ids may have holes, but few: room for the largest one is what a hostile file would ask for. */
static int check_id(struct reader *r, json_t *id, size_t n_tokens, int *most)
{
    json_int_t x = json_integer_value(id);
    if (!json_is_integer(id) || x < 0 || x > INT_MAX / 8 || (size_t)x > 2 * n_tokens + 65536)
        return broken(r, "the id of a token");
    if (x > *most) *most = (int)x;
    return 0;
}

static int set_token(struct reader *r, int id, const char *s)
{
    struct vocab *v = &r->t->vocab;
    bool byte = r->byte_fallback && strlen(s) == 6 && strncmp(s, "<0x", 3) == 0 && s[5] == '>';
    if (v->t[id].type) return err_set(r->e, ERR_ENV, "tokenizer.json: two tokens with id %d", id);
    return tokenizer_vocab_set(v, id, (struct gguf_str){s, strlen(s)}, byte ? TOKEN_BYTE : TOKEN_NORMAL, r->e);
}

/* Room for the model's tokens, n of them with ids up to `most`, and the added ones. */
static int new_vocab(struct reader *r, json_t *added, size_t n, int most)
{
    struct vocab *v = &r->t->vocab;
    size_t i;
    n += json_array_size(added);
    for (i = 0; i < json_array_size(added); i++)
        if (check_id(r, json_object_get(json_array_get(added, i), "id"), n, &most)) return -1;
    if (most < 0) return broken(r, "a vocabulary without tokens");
    v->keep_meta = !r->spaces;
    tokenizer_vocab_new(v, most + 1, r->byte_level ? SPELLING_BYTES : SPELLING_TEXT);
    return 0;
}

static int read_bpe_vocab(struct reader *r, json_t *model, json_t *added)
{
    json_t *vocab = json_object_get(model, "vocab"), *id;
    const char *name, *unk = text(model, "unk_token");
    int most = -1;
    if (!json_is_object(vocab)) return broken(r, "model.vocab");
    json_object_foreach(vocab, name, id) if (check_id(r, id, json_object_size(vocab), &most)) return -1;
    if (new_vocab(r, added, json_object_size(vocab), most)) return -1;
    json_object_foreach(vocab, name, id) if (set_token(r, (int)json_integer_value(id), name)) return -1;
    if (!*unk) return 0;
    id = json_object_get(vocab, unk);
    if (!id) return broken(r, "unk_token, which is not in the vocabulary,");
    r->t->vocab.unk = (int)json_integer_value(id);
    return 0;
}

static int read_unigram_vocab(struct reader *r, json_t *model, json_t *added)
{
    json_t *vocab = json_object_get(model, "vocab"), *unk = child(model, "unk_id"), *token, *name;
    tokenizer *t = r->t;
    size_t n = json_array_size(vocab), i;
    if (n == 0 || n > INT_MAX / 8) return broken(r, "model.vocab");
    if (new_vocab(r, added, n, (int)n - 1)) return -1;
    t->score = mem_array((size_t)t->vocab.n, sizeof *t->score);
    for (i = 0; i < n; i++) {
        token = json_array_get(vocab, i);
        name = json_array_get(token, 0);
        t->score[i] = (float)json_number_value(json_array_get(token, 1));
        if (!json_is_string(name) || !isfinite(t->score[i])) return broken(r, "a token of model.vocab");
        if (set_token(r, (int)i, json_string_value(name))) return -1;
        if (t->score[i] < t->min_score) t->min_score = t->score[i];
    }
    if (!unk) return 0;
    if (json_integer_value(unk) < 0 || (size_t)json_integer_value(unk) >= n) return broken(r, "unk_id");
    t->vocab.unk = (int)json_integer_value(unk);
    return 0;
}

/* A token that is matched as text: in the original text, so normalisation must not be able to make or unmake it. */
static int add_token(struct reader *r, json_t *a)
{
    struct vocab *v = &r->t->vocab;
    int id = (int)json_integer_value(json_object_get(a, "id"));
    struct vocab_token *t = &v->t[id];
    const char *s = keep_text(r, text(a, "content"));
    struct vocab_special special = {.p = s, .id = id, .lstrip = flag(a, "lstrip", false), .rstrip = flag(a, "rstrip", false)};
    bool control = flag(a, "special", false);
    if (flag(a, "single_word", false)) return refuse(r, "single_word of added token", s);
    if (r->rewrites && flag(a, "normalized", !control)) return refuse(r, "normalized, of added token", s);
    if (strlen(s) > INT_MAX / 8) return broken(r, "an added token");
    if (t->type && !same(t->key, t->n_key, s) && !same(t->bytes, t->n_bytes, s))
        return err_set(r->e, ERR_ENV, "tokenizer.json: two tokens with id %d", id);
    if (control || !t->type) {
        t->bytes = s;
        t->n_bytes = (int)strlen(s);
    }
    t->type = control ? TOKEN_CONTROL : TOKEN_USER;
    special.n = (int)strlen(s);
    return tokenizer_vocab_add_special(v, &special, r->e);
}

static int read_merges(struct reader *r, json_t *merges)
{
    size_t n = json_array_size(merges), i;
    struct bpe_pair *pair = mem_array(n, sizeof *pair);
    int rc = 0;
    if (!json_is_array(merges)) rc = broken(r, "model.merges");
    for (i = 0; i < n && !rc; i++) {
        json_t *m = json_array_get(merges, i), *left = json_array_get(m, 0), *right = json_array_get(m, 1);
        if (json_array_size(m) == 2 && json_is_string(left) && json_is_string(right)) {
            pair[i].left = (struct gguf_str){json_string_value(left), json_string_length(left)};
            pair[i].right = (struct gguf_str){json_string_value(right), json_string_length(right)};
        } else if (!json_is_string(m) ||
                   tokenizer_bpe_cut((struct gguf_str){json_string_value(m), json_string_length(m)}, &pair[i])) {
            rc = err_set(r->e, ERR_ENV, "tokenizer.json: merge %zu is not of two tokens", i);
        }
    }
    if (!rc) rc = tokenizer_bpe_load(&r->t->bpe, &r->t->vocab, pair, n, r->e);
    free(pair);
    return rc;
}

/* ---- the whole ---- */

static int check_model(struct reader *r, json_t *model)
{
    r->unigram = is_type(model, "Unigram");
    if (!r->unigram && !is_type(model, "BPE")) return refuse(r, "model", text(model, "type"));
    if (r->unigram && r->byte_level) return refuse(r, "with a Unigram model", "ByteLevel");
    if (child(model, "dropout") && json_number_value(child(model, "dropout")) != 0) return refuse(r, "model with", "dropout");
    if (*text(model, "continuing_subword_prefix")) return refuse(r, "model with", "continuing_subword_prefix");
    if (*text(model, "end_of_word_suffix")) return refuse(r, "model with", "end_of_word_suffix");
    if (flag(model, "byte_fallback", false) && !r->byte_fallback)
        return refuse(r, "without a decoder for it,", "byte_fallback");
    return 0;
}

static int read_model(struct reader *r, json_t *model)
{
    json_t *added = child(r->root, "added_tokens");
    tokenizer *t = r->t;
    size_t i;
    if (check_model(r, model)) return -1;
    snprintf(t->kind, sizeof t->kind, "%s:tokenizer.json", r->unigram ? "unigram" : "bpe");
    t->piece = r->unigram ? tokenizer_unigram_piece : tokenizer_bpe_piece;
    t->fuse_unk = r->unigram || flag(model, "fuse_unk", false);
    t->bpe.ignore_merges = flag(model, "ignore_merges", false);
    if (r->unigram ? read_unigram_vocab(r, model, added) : read_bpe_vocab(r, model, added)) return -1;
    if (!flag(model, "byte_fallback", false)) memset(t->vocab.byte, 0xff, sizeof t->vocab.byte);
    for (i = 0; i < json_array_size(added); i++)
        if (add_token(r, json_array_get(added, i))) return -1;
    for (i = 0; i < (size_t)t->vocab.n; i++)
        if (!t->vocab.t[i].type) t->vocab.t[i] = (struct vocab_token){.bytes = "", .type = TOKEN_UNUSED};
    tokenizer_vocab_index(&t->vocab);
    return r->unigram ? 0 : read_merges(r, json_object_get(model, "merges"));
}

static int read_all(struct reader *r)
{
    bool decodes_bytes;
    if (child(r->root, "truncation")) return refuse(r, "member", "truncation");
    if (child(r->root, "padding")) return refuse(r, "member", "padding");
    if (each(r, child(r->root, "decoder"), "decoders", read_decoder)) return -1;
    decodes_bytes = r->byte_level;
    r->byte_level = false;
    if (each(r, child(r->root, "normalizer"), "normalizers", read_normalizer)) return -1;
    if (each(r, child(r->root, "pre_tokenizer"), "pretokenizers", read_pre_tokenizer)) return -1;
    if (decodes_bytes != r->byte_level) return refuse(r, "on one side only,", "ByteLevel");
    if (!child(r->root, "model")) return broken(r, "model");
    if (read_model(r, child(r->root, "model"))) return -1;
    return each(r, child(r->root, "post_processor"), "processors", read_post_processor);
}

int tokenizer_load_json(tokenizer **out, const char *json, size_t n, err *e)
{
    struct reader r = {.e = e};
    json_error_t je;
    int rc;
    *out = NULL;
    r.root = json_loadb(json, n, JSON_REJECT_DUPLICATES, &je);
    if (!r.root) return err_set(e, ERR_ENV, "tokenizer.json: line %d: %s", je.line, je.text);
    r.t = mem_alloc(sizeof *r.t);
    r.t->vocab.a = arena_new();
    r.t->pre = tokenizer_pre_new();
    r.t->bos = r.t->eos = -1;
    rc = read_all(&r);
    if (!rc) rc = tokenizer_finish(r.t, NULL, 0, json, n, e);
    json_decref(r.root);
    if (rc)
        tokenizer_free(r.t);
    else
        *out = r.t;
    return rc;
}
