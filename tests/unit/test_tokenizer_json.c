/* test_tokenizer_json.c: the goldens' vocabularies written as tokenizer.json give the same ids; each member by a small
   file of its own; what is not supported is refused by name. */
#include "../tokenizer_golden.h"

#include <math.h>

/* ---- a golden as tokenizer.json ---- */

struct source {
    char *bytes;
    gguf *g;
    struct gguf_str *tokens;
    int32_t *types;
    size_t n;
};

static void open_source(struct source *s, const char *name)
{
    err e = {0};
    size_t n_types;
    s->g = open_golden(name, &s->bytes);
    assert_int_equal(gguf_strings(s->g, "tokenizer.ggml.tokens", &s->tokens, &s->n, &e), 0);
    assert_int_equal(gguf_i32s(s->g, "tokenizer.ggml.token_type", &s->types, &n_types, &e), 0);
    assert_int_equal(n_types, s->n);
}

static void close_source(struct source *s)
{
    free(s->tokens);
    free(s->types);
    gguf_close(s->g);
    free(s->bytes);
}

/* Types 3 and 4 become added tokens; the others are the model's. Those without text get a name, as real files do. */
static void put_tokens(json_t *root, const struct source *s)
{
    json_t *vocab = json_object(), *added = json_array();
    size_t i;
    for (i = 0; i < s->n; i++) {
        json_t *text = s->tokens[i].n ? json_stringn(s->tokens[i].p, s->tokens[i].n) : json_sprintf("[unused%zu]", i);
        assert_non_null(text);
        if (s->types[i] == 3 || s->types[i] == 4)
            json_array_append_new(added, json_pack("{s:I, s:O, s:b, s:b}", "id", (json_int_t)i, "content", text, "special",
                                                   s->types[i] == 3, "normalized", 0));
        else
            json_object_set_new(vocab, json_string_value(text), json_integer((json_int_t)i));
        json_decref(text);
    }
    json_object_set_new(json_object_get(root, "model"), "vocab", vocab);
    json_object_set_new(root, "added_tokens", added);
}

static void put_merges(json_t *root, const struct source *s)
{
    struct gguf_str *merges;
    json_t *list = json_array();
    size_t n, i;
    err e = {0};
    assert_int_equal(gguf_strings(s->g, "tokenizer.ggml.merges", &merges, &n, &e), 0);
    for (i = 0; i < n; i++) json_array_append_new(list, json_stringn(merges[i].p, merges[i].n));
    json_object_set_new(json_object_get(root, "model"), "merges", list);
    free(merges);
}

static tokenizer *load_text(const char *json)
{
    tokenizer *t;
    err e = {0};
    if (tokenizer_load_json(&t, json, strlen(json), &e)) fail_msg("%s", e.msg);
    return t;
}

static tokenizer *load_root(json_t *root)
{
    char *json = json_dumps(root, 0);
    tokenizer *t = load_text(json);
    free(json);
    json_decref(root);
    return t;
}

static json_t *parse(const char *json)
{
    json_error_t e;
    json_t *root = json_loads(json, 0, &e);
    if (!root) fail_msg("%s", e.text);
    return root;
}

static tokenizer *byte_level(const char *name, const char *json)
{
    json_t *root = parse(json);
    struct source s;
    tokenizer *t;
    open_source(&s, name);
    put_tokens(root, &s);
    put_merges(root, &s);
    t = load_root(root);
    close_source(&s);
    return t;
}

/* Offsets cover the text in order; for tokenisers whose tokens are not the bytes of the text. */
static void check_cover(const tokenizer *t, const struct tokens *out, const char *text, size_t n)
{
    int i, at = 0;
    (void)t;
    (void)text;
    for (i = 0; i < out->n; i++) {
        assert_int_equal(out->t[i].start, at);
        assert_in_range(out->t[i].end, at, n);
        at = out->t[i].end;
    }
    assert_int_equal(at, n);
}

/* ---- against the models' own tokenizers ---- */

#define BYTE_LEVEL(regex) "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":" regex "}"

static void gpt_2_as_json_gives_its_ids(void **s)
{
    tokenizer *t =
        byte_level("gpt-2", "{\"model\":{\"type\":\"BPE\"},\"decoder\":" BYTE_LEVEL("true") ",\"pre_tokenizer\":" BYTE_LEVEL(
                                "true") ",\"post_processor\":{\"type\":\"ByteLevel\"}}");
    (void)s;
    check_rows("gpt-2", t, 500, check_bytes);
    assert_string_equal(tokenizer_kind(t), "bpe:tokenizer.json");
    assert_false(tokenizer_add_bos(t));
    assert_true(tokenizer_special(t, 50256));
    tokenizer_free(t);
}

static void starcoder_as_json_with_single_digits_gives_its_ids(void **s)
{
    tokenizer *t =
        byte_level("starcoder", "{\"model\":{\"type\":\"BPE\"},\"decoder\":" BYTE_LEVEL(
                                    "true") ",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\","
                                            "\"individual_digits\":true}," BYTE_LEVEL("true") "]}}");
    (void)s;
    check_rows("starcoder", t, 500, check_bytes);
    tokenizer_free(t);
}

static void qwen_2_as_json_normalises_and_keeps_offsets_of_the_original(void **s)
{
    tokenizer *t = byte_level(
        "qwen2",
        "{\"model\":{\"type\":\"BPE\"},\"normalizer\":{\"type\":\"NFC\"},\"decoder\":" BYTE_LEVEL(
            "true") ",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"behavior\":"
                    "\"Isolated\","
                    "\"invert\":false,\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?"
                    "\\\\p{L}+|\\\\p{N}| "
                    "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}}," BYTE_LEVEL(
                        "false") "]}}");
    struct tokens out;
    int n;
    (void)s;
    check_rows("qwen2", t, 350, check_cover);
    check_rows("qwen2.nfc", t, 130, check_cover);
    out = encode(t, "ae\xcc\x81z", 5); /* e and a combining acute accent, one character in NFC */
    check_cover(t, &out, NULL, 5);
    free(out.t);
    assert_int_equal(tokenizer_stop(t, &n)[0], 151643);
    assert_int_equal(n, 2);
    tokenizer_free(t);
}

/* ---- a SentencePiece model as its converters write it: ranked merges in the order of the scores ---- */

struct scored {
    float score;
    int id, cut;
};

static int compare_scored(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score) - (x->score > y->score)
           : x->id != y->id     ? (x->id > y->id) - (x->id < y->id)
                                : (x->cut > y->cut) - (x->cut < y->cut);
}

static void put_scored_merges(json_t *root, const struct source *s)
{
    json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab"), *list = json_array();
    struct scored *all = NULL;
    float *score;
    size_t n = 0, n_scores, i, k;
    err e = {0};
    assert_int_equal(gguf_f32s(s->g, "tokenizer.ggml.scores", &score, &n_scores, &e), 0);
    for (i = 0; i < s->n; i++)
        for (k = 1; s->types[i] == 1 && k < s->tokens[i].n; k++) {
            char left[256] = {0}, right[256] = {0};
            assert_true(s->tokens[i].n < sizeof left);
            if ((s->tokens[i].p[k] & 0xc0) == 0x80) continue;
            memcpy(left, s->tokens[i].p, k);
            memcpy(right, s->tokens[i].p + k, s->tokens[i].n - k);
            if (!json_object_get(vocab, left) || !json_object_get(vocab, right)) continue;
            all = mem_grow(all, n + 1, sizeof *all);
            all[n++] = (struct scored){score[i], (int)i, (int)k};
        }
    qsort(all, n, sizeof *all, compare_scored);
    for (i = 0; i < n; i++) {
        const struct gguf_str *t = &s->tokens[all[i].id];
        size_t cut = (size_t)all[i].cut;
        json_array_append_new(list, json_pack("[s#, s#]", t->p, cut, t->p + cut, t->n - cut));
    }
    json_object_set_new(model, "merges", list);
    free(all);
    free(score);
}

static void llama_as_json_with_byte_fallback_gives_its_ids(void **s)
{
    json_t *root = parse(
        "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"fuse_unk\":true,\"unk_token\":\"<unk>\"},"
        "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"},"
        "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xe2\x96\x81\"}]},"
        "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},"
        "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[1]}}},"
        "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xe2\x96\x81\"},"
        "\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \"}]}}");
    struct source src;
    tokenizer *t;
    (void)s;
    open_source(&src, "llama-spm");
    put_tokens(root, &src);
    put_scored_merges(root, &src);
    t = load_root(root);
    close_source(&src);
    check_rows("llama-spm", t, 46, check_bytes_after_space);
    assert_true(tokenizer_add_bos(t));
    assert_int_equal(tokenizer_bos(t), 1);
    tokenizer_free(t);
}

/* ---- one member at a time ---- */

static void check_ids(const char *json, const char *text, const int *want /* until -1 */)
{
    tokenizer *t = load_text(json);
    struct tokens out = encode(t, text, strlen(text));
    int i;
    for (i = 0; i < out.n; i++)
        if (out.t[i].id != want[i]) fail_msg("'%s': token %d is %d, not %d", text, i, out.t[i].id, want[i]);
    assert_int_equal(want[out.n], -1);
    check_cover(t, &out, text, strlen(text));
    free(out.t);
    tokenizer_free(t);
}

/* Every join of a and b is a token, so the ids show the pieces. */
#define JOINS(split)                                                                                                      \
    "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"ba\":3,\"aa\":4,\"bb\":5},"                       \
    "\"merges\":[\"a b\",\"b a\",\"a a\",\"b b\"]},\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"b\"}," \
    "\"invert\":false,\"behavior\":\"" split "\"}}"

static void split_joins_matches_with_their_neighbours_as_asked(void **s)
{
    (void)s;
    check_ids(JOINS("Isolated"), "aabba", (int[]){4, 1, 1, 0, -1});
    check_ids(JOINS("MergedWithPrevious"), "abba", (int[]){2, 1, 0, -1});
    check_ids(JOINS("MergedWithNext"), "abba", (int[]){0, 1, 3, -1});
    check_ids(JOINS("Contiguous"), "abba", (int[]){0, 5, 0, -1});
}

static void text_that_the_pre_tokeniser_drops_is_an_error(void **s)
{
    tokenizer *t = load_text(JOINS("Removed"));
    struct tokens out;
    err e = {0};
    (void)s;
    assert_int_equal(tokenizer_encode(t, "aab", 3, 0, &out, &e), -1);
    assert_non_null(strstr(e.msg, "drops 1 bytes, at 2"));
    tokenizer_free(t);
}

static void added_tokens_take_the_blanks_beside_them_when_asked(void **s)
{
    static const char json[] = "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\" \":1},\"merges\":[]},\"added_tokens\":["
                               "{\"id\":2,\"content\":\"<l>\",\"lstrip\":true,\"rstrip\":false,\"special\":true},"
                               "{\"id\":3,\"content\":\"<r>\",\"lstrip\":false,\"rstrip\":true,\"special\":false}]}";
    (void)s;
    check_ids(json, "a \xe2\x80\x83\t<l> a", (int[]){0, 2, 1, 0, -1});
    check_ids(json, "a <r> \xc2\xa0 a", (int[]){0, 1, 3, 0, -1});
    check_ids(json, "<r> <l>", (int[]){3, 2, -1});
}

static void metaspace_puts_its_space_in_front_once_or_always(void **s)
{
#define METASPACE(scheme)                                                                                            \
    "{\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"<unk>\",0],[\"\xe2\x96\x81\",-2],[\"a\",-2],"       \
    "[\"\xe2\x96\x81"                                                                                                \
    "a\",-3],[\"a\xe2\x96\x81\",-1]]},\"added_tokens\":[{\"id\":5,\"content\":\"<x>\",\"special\":true}],"           \
    "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_scheme\":\"" scheme "\"}," \
    "\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_scheme\":\"" scheme "\"}}"
    (void)s;
    check_ids(METASPACE("always"), "a a<x>a", (int[]){3, 3, 5, 3, -1});
    check_ids(METASPACE("first"), "a a<x>a", (int[]){3, 3, 5, 2, -1});
    check_ids(METASPACE("never"), "a az<x>\xc3\xa9\xc3\xa9", (int[]){2, 3, 0, 5, 0, -1});
}

static void refuses(const char *json, const char *part)
{
    tokenizer *t;
    err e = {0};
    if (tokenizer_load_json(&t, json, strlen(json), &e) == 0) fail_msg("taken: %s", json);
    assert_null(t);
    assert_int_equal(e.code, ERR_ENV);
    if (!strstr(e.msg, part)) fail_msg("'%s' does not say '%s'", e.msg, part);
}

#define BPE "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}"

static void what_is_not_supported_is_refused_by_name(void **s)
{
    (void)s;
    refuses("{\"model\":{\"type\":\"WordPiece\"}}", "WordPiece");
    refuses("{\"model\":{\"type\":\"BPE\",\"dropout\":0.1}}", "dropout");
    refuses("{\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\"}}", "end_of_word_suffix");
    refuses("{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true}}", "byte_fallback");
    refuses("{" BPE ",\"truncation\":{}}", "truncation");
    refuses("{" BPE ",\"normalizer\":{\"type\":\"Lowercase\"}}", "Lowercase");
    refuses("{" BPE ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKC\"}]}}", "NFKC");
    refuses("{" BPE ",\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"x\"}}}", "Replace");
    refuses("{" BPE ",\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"}}", "BertPreTokenizer");
    refuses("{" BPE ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a&&b]\"}}}", "&&");
    refuses("{" BPE ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"}}",
            "parenthesis");
    refuses("{" BPE ",\"pre_tokenizer\":" BYTE_LEVEL("true") "}", "ByteLevel");
    refuses("{" BPE ",\"decoder\":{\"type\":\"CTC\"}}", "CTC");
    refuses("{" BPE ",\"post_processor\":{\"type\":\"RobertaProcessing\"}}", "RobertaProcessing");
    refuses("{" BPE ",\"added_tokens\":[{\"id\":1,\"content\":\"x\",\"single_word\":true}]}", "single_word");
    refuses("{" BPE ",\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"x\"},\"added_tokens\":[{\"id\":1,\"content\":\"x\","
            "\"normalized\":true}]}",
            "normalized");
}

static void files_that_lie_are_errors(void **s)
{
    (void)s;
    refuses("{", "line 1");
    refuses("[]", "model");
    refuses("{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}", "without tokens");
    refuses("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", "id of a token");
    refuses("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":99999999},\"merges\":[]}}", "id of a token");
    refuses("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", "two tokens");
    refuses("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}}", "duplicate");
    refuses("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a c\"]}}", "'a c'");
    refuses("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", "merge 0");
    refuses("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":{}}}", "merges");
    refuses("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"unk_token\":\"x\",\"merges\":[]}}", "unk_token");
    refuses("{" BPE ",\"added_tokens\":[{\"content\":\"x\"}]}", "id of a token");
    refuses("{" BPE ",\"added_tokens\":[{\"id\":0,\"content\":\"x\"}]}", "two tokens");
    refuses("{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0],[1,0]]}}", "a token of model.vocab");
    refuses("{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]],\"unk_id\":7}}", "unk_id");
    refuses("{" BPE ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}],"
            "\"special_tokens\":{\"x\":{\"ids\":[5]}}}}",
            "an id of TemplateProcessing");
}

/* xorshift64; the seed is not zero. */
static uint64_t next_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    return *x ^= *x << 17;
}

/* Small files with most of what the format has, damaged byte by byte and cut short: a tokenizer or an error, never a crash. */
static void two_thousand_damaged_files_give_a_tokenizer_or_an_error(void **s)
{
    static const char *const files[] = {
        METASPACE("first"),
        "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"fuse_unk\":true,\"unk_token\":\"<unk>\",\"vocab\":{\"<unk>\":0,"
        "\"a\":1,\"b\":2,\"ab\":3,\"<0x0A>\":4,\"c\":5,\"abc\":6},\"merges\":[\"a b\",\"ab c\"]},"
        "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Prepend\",\"prepend\":\"a\"}]},"
        "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":true},"
        "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[ab]+|c\"},\"behavior\":\"Isolated\",\"invert\":false}]},"
        "\"added_tokens\":[{\"id\":7,\"content\":\"<x>\",\"special\":true,\"lstrip\":true,\"rstrip\":false}]}",
    };
    uint64_t seed = 5;
    int round, loaded = 0;
    (void)s;
    for (round = 0; round < 2000; round++) {
        const char *file = files[round % 2];
        size_t n = strlen(file), cut = next_random(&seed) % 8 ? n : next_random(&seed) % n, k;
        char *bytes = mem_alloc(n + 1);
        tokenizer *t = NULL;
        err e = {0};
        memcpy(bytes, file, n);
        for (k = next_random(&seed) % 4; k > 0; k--) bytes[next_random(&seed) % n] = (char)next_random(&seed);
        if (tokenizer_load_json(&t, bytes, cut, &e) == 0) {
            struct tokens out;
            if (tokenizer_encode(t, "abc a<x> 12\n", 12, 0, &out, &e) == 0) free(out.t);
            loaded++;
        }
        tokenizer_free(t);
        free(bytes);
    }
    assert_in_range(loaded, 100, 1900);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gpt_2_as_json_gives_its_ids),
        cmocka_unit_test(starcoder_as_json_with_single_digits_gives_its_ids),
        cmocka_unit_test(qwen_2_as_json_normalises_and_keeps_offsets_of_the_original),
        cmocka_unit_test(llama_as_json_with_byte_fallback_gives_its_ids),
        cmocka_unit_test(split_joins_matches_with_their_neighbours_as_asked),
        cmocka_unit_test(text_that_the_pre_tokeniser_drops_is_an_error),
        cmocka_unit_test(added_tokens_take_the_blanks_beside_them_when_asked),
        cmocka_unit_test(metaspace_puts_its_space_in_front_once_or_always),
        cmocka_unit_test(what_is_not_supported_is_refused_by_name),
        cmocka_unit_test(files_that_lie_are_errors),
        cmocka_unit_test(two_thousand_damaged_files_give_a_tokenizer_or_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
