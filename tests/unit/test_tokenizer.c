/* test_tokenizer.c: ids against the models' own tokenizers (tests/golden/tokenizer), bytes and offsets by property,
   and metadata that lies. */
#include "../make_gguf.h"
#include "../tokenizer_golden.h"

#include <limits.h>
#include <math.h>
#include <time.h>

/* ---- against the models' own tokenizers ---- */

static void check_golden(const char *name, size_t least_rows, check_fn *check)
{
    tokenizer *t = load_golden(name);
    check_rows(name, t, least_rows, check);
    tokenizer_free(t);
}

static void ids_are_those_of_gpt_2(void **s)
{
    (void)s;
    check_golden("gpt-2", 500, check_bytes);
}

static void ids_are_those_of_llama_3(void **s)
{
    (void)s;
    check_golden("llama-bpe", 500, check_bytes);
}

static void ids_are_those_of_qwen_2_for_texts_in_nfc(void **s)
{
    (void)s;
    check_golden("qwen2", 350, check_bytes);
}

static void ids_are_those_of_starcoder_whose_digits_stand_alone_as_smollm_s(void **s)
{
    (void)s;
    check_golden("starcoder", 500, check_bytes);
}

static void ids_are_those_of_the_other_byte_level_models(void **s)
{
    static const char *const names[] = {"deepseek-llm", "deepseek-coder", "falcon", "refact", "command-r", "mpt"};
    size_t i;
    (void)s;
    for (i = 0; i < sizeof names / sizeof *names; i++) check_golden(names[i], 46, check_bytes);
}

static void ids_are_those_of_sentencepiece_models(void **s)
{
    (void)s;
    check_golden("llama-spm", 46, check_bytes_after_space);
    check_golden("phi-3", 46, check_bytes_after_space);
}

/* ---- properties ---- */

/* xorshift64*, so that a failure can be repeated anywhere */
static uint64_t next_random(uint64_t *x)
{
    *x ^= *x >> 12;
    *x ^= *x << 25;
    *x ^= *x >> 27;
    return *x * 0x2545f4914f6cdd1du;
}

static size_t put_utf8(char *p, unsigned c)
{
    if (c < 0x80) return p[0] = (char)c, 1;
    if (c < 0x800) return p[0] = (char)(0xc0 | c >> 6), p[1] = (char)(0x80 | (c & 63)), 2;
    if (c < 0x10000)
        return p[0] = (char)(0xe0 | c >> 12), p[1] = (char)(0x80 | (c >> 6 & 63)), p[2] = (char)(0x80 | (c & 63)), 3;
    return p[0] = (char)(0xf0 | c >> 18), p[1] = (char)(0x80 | (c >> 12 & 63)), p[2] = (char)(0x80 | (c >> 6 & 63)),
           p[3] = (char)(0x80 | (c & 63)), 4;
}

static size_t random_text(char *p, size_t max, uint64_t *seed)
{
    /* Characters from U+40000 on begin with bytes that some vocabularies lack. */
    static const unsigned limit[] = {0x80, 0x80, 0x250, 0x3100, 0x11000, 0x40000};
    size_t n = 0, want = next_random(seed) % max;
    while (n < want) {
        unsigned c = (unsigned)(next_random(seed) % limit[next_random(seed) % 6]);
        if (next_random(seed) % 4 == 0) c = " \n\r\t 0"[c % 6];
        if ((c >= 0xd800 && c <= 0xdfff) || c == 0x2581) c = 0x4e2d; /* U+2581 is a space to SentencePiece */
        n += put_utf8(p + n, c);
    }
    return n;
}

/* qwen2 composes the text first (NFC): what comes back is the composed text, and that is its own. */
static void check_composed(const tokenizer *t, const struct tokens *out)
{
    struct buf composed = {0};
    struct tokens again;
    int i;
    buf_add(&composed, "", 0);
    for (i = 0; i < out->n; i++) {
        size_t n;
        const char *bytes = tokenizer_bytes(t, out->t[i].id, &n);
        buf_add(&composed, bytes, n);
    }
    again = encode(t, composed.p, composed.n);
    check_bytes(t, &again, composed.p, composed.n);
    assert_int_equal(again.n, out->n);
    for (i = 0; i < out->n; i++) assert_int_equal(again.t[i].id, out->t[i].id);
    free(again.t);
    buf_free(&composed);
}

static void random_utf_8_comes_back_from_its_tokens(void **s)
{
    static const char *const names[] = {"gpt-2", "llama-bpe", "qwen2", "starcoder", "deepseek-llm"};
    uint64_t seed = 20240726;
    char text[260];
    size_t i;
    int k;
    (void)s;
    for (i = 0; i < sizeof names / sizeof *names; i++) {
        tokenizer *t = load_golden(names[i]);
        for (k = 0; k < 1000; k++) {
            size_t n = random_text(text, 256, &seed);
            struct tokens out = encode(t, text, n);
            if (strcmp(names[i], "qwen2") == 0)
                check_composed(t, &out);
            else
                check_bytes(t, &out, text, n);
            free(out.t);
        }
        tokenizer_free(t);
    }
}

static void random_bytes_come_back_from_their_tokens(void **s)
{
    static const char *const names[] = {"gpt-2", "llama-bpe", "qwen2"};
    uint64_t seed = 1;
    char text[128];
    size_t i, b;
    int k;
    (void)s;
    for (i = 0; i < sizeof names / sizeof *names; i++) {
        tokenizer *t = load_golden(names[i]);
        for (k = 0; k < 1000; k++) {
            size_t n = next_random(&seed) % sizeof text;
            struct tokens out;
            for (b = 0; b < n; b++) text[b] = (char)(next_random(&seed) >> (next_random(&seed) % 2 ? 57 : 56));
            out = encode(t, text, n);
            if (strcmp(names[i], "qwen2") == 0)
                check_composed(t, &out);
            else
                check_bytes(t, &out, text, n);
            free(out.t);
        }
        tokenizer_free(t);
    }
}

static void any_text_comes_back_from_sentencepiece_after_a_space(void **s)
{
    tokenizer *t = load_golden("llama-spm");
    uint64_t seed = 7;
    char text[260];
    size_t b;
    int k;
    (void)s;
    for (k = 0; k < 2000; k++) {
        size_t n = random_text(text, 256, &seed);
        struct tokens out;
        for (b = 0; k % 2 && b < n; b++)
            if (next_random(&seed) % 8 == 0) text[b] = (char)next_random(&seed);
        out = encode(t, text, n);
        check_bytes_after_space(t, &out, text, n);
        free(out.t);
    }
    tokenizer_free(t);
}

static void a_byte_without_a_token_is_an_error_that_says_where(void **s)
{
    tokenizer *t = load_golden("starcoder");
    struct tokens out;
    err e = {0};
    (void)s;
    assert_int_equal(tokenizer_encode(t, "ab <|endoftext|>\xf1", 17, 0, &out, &e), -1);
    assert_int_equal(e.code, ERR_FAIL);
    assert_null(out.t);
    if (!strstr(e.msg, "byte 0xf1, at 16")) fail_msg("%s", e.msg);
    tokenizer_free(t);
}

/* A quadratic merge loop over 200 000 equal letters would take minutes. */
static void check_long_pieces(const char *name, check_fn *check)
{
    static const char *const fill[] = {"a", " ", "\xff", "ab", "\n"};
    enum { N = 200000 };
    tokenizer *t = load_golden(name);
    char *text = mem_alloc(N);
    clock_t start = clock();
    size_t i, k;
    for (i = 0; i < sizeof fill / sizeof *fill; i++) {
        struct tokens out;
        for (k = 0; k < N; k++) text[k] = fill[i][k % strlen(fill[i])];
        out = encode(t, text, N);
        check(t, &out, text, N);
        free(out.t);
    }
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 20);
    free(text);
    tokenizer_free(t);
}

static void a_long_piece_takes_no_quadratic_time(void **s)
{
    (void)s;
    check_long_pieces("llama-bpe", check_bytes);
    check_long_pieces("llama-spm", check_bytes_after_space);
}

static void special_tokens_in_the_text_are_matched_the_longest_first(void **s)
{
    static const char text[] = "a<|eot_id|><|eot_id|<|begin_of_text|>\n";
    tokenizer *t = load_golden("llama-bpe");
    struct tokens out = encode(t, text, strlen(text));
    (void)s;
    assert_int_equal(out.t[1].id, 128009);
    assert_int_equal(out.t[1].start, 1);
    assert_int_equal(out.t[1].end, 11);
    assert_int_equal(out.t[out.n - 2].id, 128000);
    assert_true(tokenizer_special(t, 128009));
    assert_false(tokenizer_special(t, 64));
    check_bytes(t, &out, text, strlen(text));
    free(out.t);
    tokenizer_free(t);
}

/* ---- what the metadata says ---- */

static void a_begin_token_stands_for_no_bytes(void **s)
{
    tokenizer *t = load_golden("llama-bpe");
    struct tokens out;
    err e = {0};
    (void)s;
    assert_int_equal(tokenizer_encode(t, "a", 1, TOKENIZE_BOS, &out, &e), 0);
    assert_int_equal(out.n, 2);
    assert_int_equal(out.t[0].id, 128000);
    assert_int_equal(out.t[0].end, 0);
    assert_int_equal(out.t[1].end, 1);
    free(out.t);
    assert_true(tokenizer_add_bos(t));
    tokenizer_free(t);
}

static void stop_ids_are_sorted_and_include_the_end_of_a_turn(void **s)
{
    tokenizer *t = load_golden("llama-bpe");
    const int *stop;
    int n;
    (void)s;
    stop = tokenizer_stop(t, &n);
    assert_int_equal(n, 2);
    assert_int_equal(stop[0], 128001);
    assert_int_equal(stop[1], 128009);
    tokenizer_free(t);
    t = load_golden("qwen2");
    stop = tokenizer_stop(t, &n);
    assert_int_equal(n, 2);
    assert_int_equal(stop[0], 151643);
    assert_int_equal(stop[1], 151645);
    assert_false(tokenizer_add_bos(t));
    assert_string_equal(tokenizer_kind(t), "bpe:qwen2");
    tokenizer_free(t);
}

static void ids_outside_the_vocabulary_have_no_bytes(void **s)
{
    tokenizer *t = load_golden("gpt-2");
    size_t n;
    (void)s;
    assert_int_equal(tokenizer_n_vocab(t), 50257);
    assert_null(tokenizer_bytes(t, -1, &n));
    assert_null(tokenizer_bytes(t, 50257, &n));
    assert_null(tokenizer_bytes(t, INT_MAX, &n));
    assert_false(tokenizer_special(t, 50257));
    assert_true(tokenizer_special(t, 50256));
    tokenizer_free(t);
}

static void the_hash_tells_vocabularies_apart_and_not_two_loads(void **s)
{
    tokenizer *a = load_golden("refact"), *b = load_golden("refact"), *c = load_golden("starcoder");
    uint8_t x[32], y[32], z[32];
    (void)s;
    tokenizer_sha256(a, x);
    tokenizer_sha256(b, y);
    tokenizer_sha256(c, z);
    assert_memory_equal(x, y, 32);
    assert_memory_not_equal(x, z, 32);
    tokenizer_free(a);
    tokenizer_free(b);
    tokenizer_free(c);
}

/* ---- small made-up files ---- */

struct small {
    const char *model, *pre;
    const char *tokens[12], *merges[8];
    int types[12], n_types; /* n_types 0: no token_type */
    float scores[12];
    int n_scores;
    uint32_t eos, unk; /* 0: none */
    bool no_prefix, collapse;
};

static void put_strings(struct make_gguf *m, const char *key, const char *const *text)
{
    size_t n = 0, i;
    while (text[n]) n++;
    make_array(m, key, MAKE_STRING, n);
    for (i = 0; i < n; i++) make_bytes(&m->pairs, text[i], strlen(text[i]));
}

static int load_small(tokenizer **t, const struct small *f, err *e)
{
    struct make_gguf m = {0};
    gguf *g;
    int i, rc;
    if (f->model) make_text(&m, "tokenizer.ggml.model", f->model);
    if (f->pre) make_text(&m, "tokenizer.ggml.pre", f->pre);
    put_strings(&m, "tokenizer.ggml.tokens", f->tokens);
    put_strings(&m, "tokenizer.ggml.merges", f->merges);
    if (f->n_types) make_array(&m, "tokenizer.ggml.token_type", MAKE_I32, (size_t)f->n_types);
    for (i = 0; i < f->n_types; i++) make_le(&m.pairs, (uint32_t)f->types[i], 4);
    if (f->n_scores) make_array(&m, "tokenizer.ggml.scores", MAKE_F32, (size_t)f->n_scores);
    for (i = 0; i < f->n_scores; i++) {
        uint32_t bits;
        memcpy(&bits, &f->scores[i], sizeof bits);
        make_le(&m.pairs, bits, 4);
    }
    if (f->eos) make_u32(&m, "tokenizer.ggml.eos_token_id", f->eos);
    if (f->unk) make_u32(&m, "tokenizer.ggml.unknown_token_id", f->unk);
    if (f->no_prefix) make_bool(&m, "tokenizer.ggml.add_space_prefix", false);
    if (f->collapse) make_bool(&m, "tokenizer.ggml.remove_extra_whitespaces", true);
    make_finish(&m);
    assert_int_equal(gguf_parse(&g, m.file.p, m.file.n, e), 0);
    rc = tokenizer_load(t, g, e);
    gguf_close(g);
    make_free(&m);
    return rc;
}

static void fails_with(const struct small *f, const char *part)
{
    tokenizer *t = NULL;
    err e = {0};
    assert_int_equal(load_small(&t, f, &e), -1);
    assert_null(t);
    assert_int_equal(e.code, ERR_ENV);
    if (!strstr(e.msg, part)) fail_msg("'%s' does not say '%s'", e.msg, part);
}

static void a_file_without_a_tokenizer_gives_none(void **s)
{
    tokenizer *t = (tokenizer *)s;
    err e = {0};
    assert_int_equal(load_small(&t, &(struct small){.tokens = {"a"}}, &e), 0);
    assert_null(t);
    assert_int_equal(load_small(&t, &(struct small){.model = "no_vocab"}, &e), 0);
    assert_null(t);
}

static void metadata_that_lies_is_an_error_that_says_so(void **s)
{
    (void)s;
    fails_with(&(struct small){.model = "wordpiece", .tokens = {"a"}}, "wordpiece");
    fails_with(&(struct small){.model = "gpt2", .tokens = {"a"}}, "tokenizer.ggml.pre");
    fails_with(&(struct small){.model = "gpt2", .pre = "mystery", .tokens = {"a"}}, "'mystery'");
    fails_with(&(struct small){.model = "gpt2", .pre = "mystery", .tokens = {"a"}}, "smollm");
    fails_with(&(struct small){.model = "gpt2", .pre = "gpt-2"}, "0 tokens");
    fails_with(&(struct small){.model = "gpt2", .pre = "gpt-2", .tokens = {"a", "b"}, .types = {1}, .n_types = 1}, "1 entries");
    fails_with(&(struct small){.model = "gpt2", .pre = "gpt-2", .tokens = {"a", "b"}, .types = {1, 9}, .n_types = 2}, "type 9");
    fails_with(&(struct small){.model = "gpt2", .pre = "gpt-2", .tokens = {"a", "b"}, .eos = 2}, "eos_token_id is 2");
    fails_with(&(struct small){.model = "gpt2", .pre = "gpt-2", .tokens = {"a", "b"}, .merges = {"a c"}}, "'a c'");
    fails_with(&(struct small){.model = "gpt2", .pre = "gpt-2", .tokens = {"a", "b"}, .merges = {"a b"}}, "'a b'");
    fails_with(&(struct small){.model = "gpt2", .pre = "gpt-2", .tokens = {"a", "b"}, .merges = {"ab"}}, "'ab'");
    fails_with(&(struct small){.model = "gpt2", .pre = "gpt-2", .tokens = {"a", "b"}, .merges = {""}}, "merge 0");
    fails_with(&(struct small){.model = "gpt2", .pre = "gpt-2", .tokens = {"a", "b"}, .merges = {" b"}}, "merge 0");
}

static void merges_are_applied_by_rank_and_not_from_the_left(void **s)
{
    static const struct small f = {.model = "gpt2",
                                   .pre = "gpt-2",
                                   .tokens = {"a", "b", "c", "bc", "ab", "abc", "\xc4\xa0"},
                                   .merges = {"b c", "a b", "a bc"}};
    static const int want[] = {5, 4, 6, 5};
    tokenizer *t;
    struct tokens out;
    err e = {0};
    int i;
    (void)s;
    assert_int_equal(load_small(&t, &f, &e), 0);
    out = encode(t, "abcab abc", 9);
    assert_int_equal(out.n, 4);
    for (i = 0; i < 4; i++) assert_int_equal(out.t[i].id, want[i]);
    check_bytes(t, &out, "abcab abc", 9);
    free(out.t);
    assert_int_equal(tokenizer_encode(t, "ad", 2, 0, &out, &e), -1);
    assert_non_null(strstr(e.msg, "0x64"));
    e = (err){0};
    assert_int_equal(tokenizer_encode(t, "a", 1, TOKENIZE_BOS, &out, &e), -1);
    assert_non_null(strstr(e.msg, "BOS"));
    e = (err){0};
    assert_int_equal(tokenizer_encode(t, "a", (size_t)INT_MAX / 8 + 1, 0, &out, &e), -1);
    assert_int_equal(e.code, ERR_INPUT);
    tokenizer_free(t);
}

/* The byte 0xf5 is spelled like the text of the user-defined token, but it is another thing. */
static void a_user_defined_token_is_its_text_and_never_the_bytes_it_would_spell(void **s)
{
    static const struct small f = {.model = "gpt2",
                                   .pre = "gpt-2",
                                   .tokens = {"a", "\xc3\xb5", "aa", "\xc3\x83", "\xc2\xb5"},
                                   .types = {1, 4, 4, 1, 1},
                                   .n_types = 5};
    tokenizer *t;
    struct tokens out;
    err e = {0};
    (void)s;
    assert_int_equal(load_small(&t, &f, &e), 0);
    out = encode(t, "aaa\xc3\xb5", 5);
    assert_int_equal(out.n, 3);
    assert_int_equal(out.t[0].id, 2);
    assert_int_equal(out.t[1].id, 0);
    assert_int_equal(out.t[2].id, 1);
    check_bytes(t, &out, "aaa\xc3\xb5", 5);
    free(out.t);
    assert_int_equal(tokenizer_encode(t, "\xf5", 1, 0, &out, &e), -1);
    assert_non_null(strstr(e.msg, "0xf5"));
    tokenizer_free(t);
}

static void check_ids(const struct small *f, const char *text, const int *want /* until -1 */)
{
    tokenizer *t;
    struct tokens out;
    err e = {0};
    int i;
    if (load_small(&t, f, &e)) fail_msg("%s", e.msg);
    out = encode(t, text, strlen(text));
    for (i = 0; i < out.n; i++)
        if (out.t[i].id != want[i]) fail_msg("'%s': token %d is %d, not %d", text, i, out.t[i].id, want[i]);
    assert_int_equal(want[out.n], -1);
    assert_int_equal(out.n ? out.t[out.n - 1].end : 0, strlen(text));
    free(out.t);
    tokenizer_free(t);
}

#define SPACE "\xe2\x96\x81"

static void sentencepiece_merges_the_best_score_first_and_falls_back_to_bytes(void **s)
{
    static const struct small f = {.model = "llama",
                                   .tokens = {"<unk>", "a", "b", "ab", "bb", SPACE, SPACE "a", "<0xE4>", "<0xB8>", "<0xAD>"},
                                   .types = {2, 1, 1, 1, 1, 1, 1, 6, 6, 6},
                                   .n_types = 10,
                                   .scores = {0, -9, -9, -3, -2, -9, -4},
                                   .n_scores = 10};
    (void)s;
    check_ids(&f, "abb", (int[]){6, 4, -1});
    check_ids(&f, " ab", (int[]){5, 5, 3, -1});
    check_ids(&f,
              "\xe4\xb8\xad"
              "b",
              (int[]){5, 7, 8, 9, 2, -1});
}

/* Written as U+2581 a run is a token before all else; made of spaces, or of both, it comes of merges, before any word. */
static void user_defined_runs_are_matched_as_u_2581_and_merged_as_spaces(void **s)
{
    static const struct small f = {.model = "llama",
                                   .tokens = {SPACE, "x", "y", SPACE "y", "  ", SPACE SPACE SPACE, "<unk>"},
                                   .types = {1, 1, 1, 1, 4, 4, 2},
                                   .n_types = 7,
                                   .scores = {-9, -8, -7, -1, -1000, -1000, 0},
                                   .n_scores = 7,
                                   .unk = 6,
                                   .no_prefix = true};
    static const struct token want[] = {{.id = 1, .start = 0, .end = 1},
                                        {.id = 0, .start = 1, .end = 2},
                                        {.id = 4, .start = 2, .end = 8},
                                        {.id = 3, .start = 8, .end = 10}};
    tokenizer *t;
    struct tokens out;
    err e = {0};
    int i;
    (void)s;
    check_ids(&f, "x y", (int[]){1, 3, -1});
    check_ids(&f, "x" SPACE "y", (int[]){1, 3, -1});
    check_ids(&f, "  y", (int[]){4, 2, -1});
    check_ids(&f, SPACE " y", (int[]){4, 2, -1});
    check_ids(&f, "x" SPACE "  y", (int[]){1, 5, 2, -1});
    check_ids(&f, "x" SPACE SPACE SPACE "  y", (int[]){1, 5, 4, 2, -1});
    check_ids(&f, "       y", (int[]){5, 5, 3, -1});
    check_ids(&f, "     ", (int[]){5, 4, -1});
    assert_int_equal(load_small(&t, &f, &e), 0);
    out = encode(t, "x " SPACE SPACE " y", 10);
    assert_int_equal(out.n, 4);
    for (i = 0; i < 4; i++) {
        assert_int_equal(out.t[i].id, want[i].id);
        assert_int_equal(out.t[i].start, want[i].start);
        assert_int_equal(out.t[i].end, want[i].end);
    }
    free(out.t);
    out = encode(t, "   x  y x     ", 14);
    check_bytes(t, &out, "   x  y x     ", 14);
    free(out.t);
    tokenizer_free(t);
}

static void unknown_neighbours_become_one_token_that_covers_them(void **s)
{
    static const struct small f = {.model = "llama",
                                   .tokens = {"a", "<unk>", "b"},
                                   .types = {1, 2, 1},
                                   .n_types = 3,
                                   .scores = {-1, 0, -1},
                                   .n_scores = 3,
                                   .unk = 1,
                                   .no_prefix = true};
    (void)s;
    check_ids(&f, "axyzb", (int[]){0, 1, 2, -1});
    check_ids(&f, "a<unk>b", (int[]){0, 1, 2, -1});
}

/* By score, not by length: -1 - 1 - 1 is more than -4, and less than -2. */
static void unigram_takes_the_greatest_sum_of_scores(void **s)
{
    static struct small f = {.model = "t5",
                             .tokens = {"<pad>", "<unk>", "a", "b", "c", "abc", "bc", SPACE},
                             .types = {3, 2, 1, 1, 1, 1, 1, 1},
                             .n_types = 8,
                             .scores = {0, 0, -1, -1, -1, -4, -3, -1},
                             .n_scores = 8,
                             .unk = 1,
                             .collapse = true};
    (void)s;
    check_ids(&f, "abc", (int[]){7, 2, 3, 4, -1});
    check_ids(&f, "  a \xe4\xb8\xad\xc3\xa9  b ", (int[]){7, 2, 7, 1, 7, 3, -1});
    check_ids(&f, "<pad>  ", (int[]){0, -1});
    f.scores[5] = -2;
    check_ids(&f, "abc", (int[]){7, 5, -1});
}

static void scores_that_are_missing_or_no_numbers_are_errors(void **s)
{
    (void)s;
    fails_with(&(struct small){.model = "llama", .tokens = {"a"}}, "tokenizer.ggml.scores");
    fails_with(&(struct small){.model = "llama", .tokens = {"a", "b"}, .scores = {1}, .n_scores = 1}, "1 entries for 2");
    fails_with(&(struct small){.model = "llama", .tokens = {"a"}, .scores = {NAN}, .n_scores = 1}, "not finite");
    fails_with(&(struct small){.model = "llama", .tokens = {"a"}, .types = {6}, .n_types = 1, .scores = {1}, .n_scores = 1},
               "type byte");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_are_those_of_gpt_2),
        cmocka_unit_test(ids_are_those_of_llama_3),
        cmocka_unit_test(ids_are_those_of_qwen_2_for_texts_in_nfc),
        cmocka_unit_test(ids_are_those_of_starcoder_whose_digits_stand_alone_as_smollm_s),
        cmocka_unit_test(ids_are_those_of_the_other_byte_level_models),
        cmocka_unit_test(ids_are_those_of_sentencepiece_models),
        cmocka_unit_test(any_text_comes_back_from_sentencepiece_after_a_space),
        cmocka_unit_test(random_utf_8_comes_back_from_its_tokens),
        cmocka_unit_test(random_bytes_come_back_from_their_tokens),
        cmocka_unit_test(a_byte_without_a_token_is_an_error_that_says_where),
        cmocka_unit_test(a_long_piece_takes_no_quadratic_time),
        cmocka_unit_test(special_tokens_in_the_text_are_matched_the_longest_first),
        cmocka_unit_test(a_begin_token_stands_for_no_bytes),
        cmocka_unit_test(stop_ids_are_sorted_and_include_the_end_of_a_turn),
        cmocka_unit_test(ids_outside_the_vocabulary_have_no_bytes),
        cmocka_unit_test(the_hash_tells_vocabularies_apart_and_not_two_loads),
        cmocka_unit_test(a_file_without_a_tokenizer_gives_none),
        cmocka_unit_test(metadata_that_lies_is_an_error_that_says_so),
        cmocka_unit_test(merges_are_applied_by_rank_and_not_from_the_left),
        cmocka_unit_test(a_user_defined_token_is_its_text_and_never_the_bytes_it_would_spell),
        cmocka_unit_test(sentencepiece_merges_the_best_score_first_and_falls_back_to_bytes),
        cmocka_unit_test(user_defined_runs_are_matched_as_u_2581_and_merged_as_spaces),
        cmocka_unit_test(unknown_neighbours_become_one_token_that_covers_them),
        cmocka_unit_test(unigram_takes_the_greatest_sum_of_scores),
        cmocka_unit_test(scores_that_are_missing_or_no_numbers_are_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
