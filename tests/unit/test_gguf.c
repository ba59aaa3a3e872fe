/* test_gguf.c: GGUF files are read as they are meant, and every broken one is refused with its reason. */
#include "../../engine/gguf.h"
#include "gguf_build.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

static const float numbers[] = {1.5f, -2.25f, 3e30f};
static const int16_t shorts[] = {-32768, 0, 32767};
static const char *const words[] = {"", "one", "zwei\xc3\xa4"};

static void add_values(struct gguf_build *b)
{
    build_raw(b, "u8", META_U8, (uint8_t[]){250}, 1);
    build_raw(b, "i8", META_I8, (int8_t[]){-5}, 1);
    build_raw(b, "u16", META_U16, (uint16_t[]){65535}, 2);
    build_raw(b, "i16", META_I16, (int16_t[]){300}, 2);
    build_u32(b, "u32", 4000000000u);
    build_raw(b, "i32", META_I32, (int32_t[]){-7}, 4);
    build_f32(b, "f32", 0.5f);
    build_raw(b, "yes", META_BOOL, "\1", 1);
    build_raw(b, "no", META_BOOL, "\0", 1);
    build_string(b, "text", "hello");
    build_raw(b, "u64", META_U64, (uint64_t[]){UINT64_MAX}, 8);
    build_raw(b, "i64", META_I64, (int64_t[]){INT64_MIN}, 8);
    build_raw(b, "f64", META_F64, (double[]){1e300}, 8);
    build_array(b, "shorts", META_I16, 3, shorts, sizeof shorts);
    build_array(b, "floats", META_F32, 3, numbers, sizeof numbers);
    build_array(b, "doubles", META_F64, 1, (double[]){0.25}, 8);
    build_array(b, "large", META_U32, 1, (uint32_t[]){1u << 31}, 4);
    build_array(b, "empty", META_I32, 0, "", 0);
    build_strings(b, "words", words, 3);
}

static unsigned char *good_file(uint32_t version, size_t *n)
{
    struct gguf_build b = {.version = version};
    float rows[12];
    int i;
    for (i = 0; i < 12; i++) rows[i] = (float)i;
    add_values(&b);
    build_tensor(&b, "b.second", GGML_F32, 2, (uint64_t[]){4, 3}, rows, sizeof rows);
    build_tensor(&b, "a.first", GGML_Q4_1, 2, (uint64_t[]){64, 5}, NULL, 5 * 2 * 20);
    build_tensor(&b, "c", GGML_IQ2_XXS, 1, (uint64_t[]){512}, NULL, 2 * 66);
    return build_done(&b, n);
}

static void check_values(const gguf *g)
{
    uint64_t u;
    double d;
    bool flag;
    struct gguf_str s, *list;
    int32_t *ints;
    float *floats;
    size_t n;
    err e = {0};
    assert_int_equal(gguf_u64(g, "u8", &u, &e), 0);
    assert_int_equal(u, 250);
    assert_int_equal(gguf_u64(g, "u16", &u, &e), 0);
    assert_int_equal(u, 65535);
    assert_int_equal(gguf_u64(g, "i16", &u, &e), 0);
    assert_int_equal(u, 300);
    assert_int_equal(gguf_u64(g, "u64", &u, &e), 0);
    assert_true(u == UINT64_MAX);
    assert_int_equal(gguf_f64(g, "f32", &d, &e), 0);
    assert_true(d == 0.5);
    assert_int_equal(gguf_f64(g, "f64", &d, &e), 0);
    assert_true(d == 1e300);
    assert_int_equal(gguf_f64(g, "i8", &d, &e), 0);
    assert_true(d == -5);
    assert_int_equal(gguf_f64(g, "i64", &d, &e), 0);
    assert_true(d == -0x1p63);
    assert_int_equal(gguf_f64(g, "u32", &d, &e), 0);
    assert_true(d == 4e9);
    assert_int_equal(gguf_bool(g, "yes", &flag, &e), 0);
    assert_true(flag);
    assert_int_equal(gguf_bool(g, "no", &flag, &e), 0);
    assert_false(flag);
    assert_int_equal(gguf_string(g, "text", &s, &e), 0);
    assert_int_equal(s.n, 5);
    assert_memory_equal(s.p, "hello", 5);
    assert_int_equal(gguf_array_len(g, "words"), 3);
    assert_int_equal(gguf_array_len(g, "empty"), 0);
    assert_int_equal(gguf_array_len(g, "text"), -1);
    assert_int_equal(gguf_array_len(g, "nothing"), -1);
    assert_int_equal(gguf_strings(g, "words", &list, &n, &e), 0);
    assert_int_equal(n, 3);
    assert_int_equal(list[0].n, 0);
    assert_int_equal(list[2].n, strlen(words[2]));
    assert_memory_equal(list[2].p, words[2], list[2].n);
    free(list);
    assert_int_equal(gguf_i32s(g, "shorts", &ints, &n, &e), 0);
    assert_int_equal(n, 3);
    assert_int_equal(ints[0], -32768);
    assert_int_equal(ints[2], 32767);
    free(ints);
    assert_int_equal(gguf_i32s(g, "empty", &ints, &n, &e), 0);
    assert_int_equal(n, 0);
    free(ints);
    assert_int_equal(gguf_f32s(g, "floats", &floats, &n, &e), 0);
    assert_int_equal(n, 3);
    assert_memory_equal(floats, numbers, sizeof numbers);
    free(floats);
    assert_int_equal(gguf_f32s(g, "doubles", &floats, &n, &e), 0);
    assert_true(floats[0] == 0.25f);
    free(floats);
    assert_int_equal(e.code, 0);
}

static void check_tensors(const gguf *g)
{
    const struct gguf_tensor *t;
    float x;
    assert_int_equal(gguf_n_tensors(g), 3);
    assert_null(gguf_tensor_at(g, 3));
    assert_null(gguf_tensor_at(g, -1));
    t = gguf_tensor_at(g, 0);
    assert_ptr_equal(t, gguf_find_tensor(g, "b.second"));
    assert_int_equal(t->type, DTYPE_F32);
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->dims[0], 4);
    assert_int_equal(t->dims[1], 3);
    assert_int_equal(t->dims[2], 1);
    assert_int_equal(t->bytes, 48);
    memcpy(&x, (const char *)t->data + 44, sizeof x);
    assert_true(x == 11);
    t = gguf_find_tensor(g, "a.first");
    assert_int_equal(t->type, DTYPE_Q4_1);
    assert_int_equal(t->bytes, 200);
    assert_string_equal(t->type_name, "q4_1");
    assert_null(gguf_find_tensor(g, "a.firs"));
    assert_null(gguf_find_tensor(g, "a.first2"));
}

static void a_good_file_of_both_versions_gives_all_its_values_and_tensors(void **state)
{
    uint32_t version;
    (void)state;
    for (version = 2; version <= 3; version++) {
        gguf *g = NULL;
        err e = {0};
        size_t n, whole;
        unsigned char *bytes = good_file(version, &n);
        assert_int_equal(gguf_parse(&g, bytes, n, &e), 0);
        assert_ptr_equal(gguf_bytes(g, &whole), bytes);
        assert_int_equal(whole, n);
        check_values(g);
        check_tensors(g);
        gguf_close(g);
        free(bytes);
    }
}

static void a_tensor_without_a_kernel_stays_in_the_index_under_its_type_s_name(void **state)
{
    gguf *g = NULL;
    err e = {0};
    size_t n;
    unsigned char *bytes = good_file(3, &n);
    (void)state;
    assert_int_equal(gguf_parse(&g, bytes, n, &e), 0);
    assert_int_equal(gguf_find_tensor(g, "c")->type, DTYPE_COUNT);
    assert_string_equal(gguf_find_tensor(g, "c")->type_name, "iq2_xxs");
    assert_int_equal(gguf_find_tensor(g, "c")->bytes, 132);
    gguf_close(g);
    free(bytes);
}

static void a_getter_names_the_key_that_is_missing_or_of_another_type(void **state)
{
    gguf *g = NULL;
    size_t n;
    unsigned char *bytes = good_file(3, &n);
    uint64_t u;
    double d;
    bool flag;
    struct gguf_str s, *list;
    int32_t *ints;
    float *floats;
    err e = {0};
    (void)state;
#define REFUSES(call, text)                \
    do {                                   \
        e = (err){0};                      \
        assert_int_equal(call, -1);        \
        assert_int_equal(e.code, ERR_ENV); \
        assert_string_equal(e.msg, text);  \
    } while (0)
    assert_int_equal(gguf_parse(&g, bytes, n, &e), 0);
    REFUSES(gguf_u64(g, "gone", &u, &e), "metadata key 'gone' is missing");
    REFUSES(gguf_u64(g, "text", &u, &e), "metadata key 'text' is of type string, expected an integer");
    REFUSES(gguf_u64(g, "yes", &u, &e), "metadata key 'yes' is of type bool, expected an integer");
    REFUSES(gguf_u64(g, "i8", &u, &e), "metadata key 'i8' is -5");
    REFUSES(gguf_f64(g, "words", &d, &e), "metadata key 'words' is an array of string, expected a number");
    REFUSES(gguf_bool(g, "u8", &flag, &e), "metadata key 'u8' is of type u8, expected a bool");
    REFUSES(gguf_string(g, "words", &s, &e), "metadata key 'words' is an array of string, expected a string");
    REFUSES(gguf_strings(g, "floats", &list, &n, &e), "metadata key 'floats' is an array of f32, expected an array of strings");
    REFUSES(gguf_i32s(g, "u8", &ints, &n, &e), "metadata key 'u8' is of type u8, expected an array of integers");
    REFUSES(gguf_i32s(g, "floats", &ints, &n, &e), "metadata key 'floats' is an array of f32, expected an array of integers");
    REFUSES(gguf_i32s(g, "large", &ints, &n, &e), "metadata key 'large': element 0 does not fit into 32 bits");
    REFUSES(gguf_f32s(g, "shorts", &floats, &n, &e), "metadata key 'shorts' is an array of i16, expected an array of floats");
#undef REFUSES
    gguf_close(g);
    free(bytes);
}

/* ---- broken files ---- */

static void refused(unsigned char *bytes, size_t n, const char *text)
{
    gguf *g = NULL;
    err e = {0};
    assert_int_equal(gguf_parse(&g, bytes, n, &e), -1);
    assert_null(g);
    assert_int_equal(e.code, ERR_ENV);
    if (!strstr(e.msg, text)) fail_msg("'%s' does not say '%s'", e.msg, text);
    free(bytes);
}

static void refused_build(struct gguf_build *b, const char *text)
{
    size_t n;
    unsigned char *bytes = build_done(b, &n);
    refused(bytes, n, text);
}

static void refused_tensor(uint32_t type, uint32_t n_dims, const uint64_t *dims, uint64_t offset, const char *text)
{
    struct gguf_build b = {.version = 3};
    build_info(&b, "w", type, n_dims, dims, offset);
    buf_add(&b.data, (char[64]){0}, 64);
    refused_build(&b, text);
}

static void magic_and_version_mistakes_are_told_apart(void **state)
{
    static const struct {
        const char *bytes;
        size_t n;
        const char *text;
    } cases[] = {
        {"", 0, "not a GGUF file"},
        {"GGU", 3, "not a GGUF file"},
        {"GGML\3\0\0\0", 8, "not a GGUF file"},
        {"PK\3\4 and so on ...........", 26, "not a GGUF file"},
        {"GGUF\1\0\0\0", 8, "GGUF version 1 is not supported"},
        {"GGUF\4\0\0\0", 8, "GGUF version 4 is not supported"},
        {"GGUF\0\0\0\0", 8, "GGUF version 0 is not supported"},
        {"GGUF\0\0\0\3", 8, "big-endian"},
        {"GGUF\3\0", 6, "header: 4 bytes are needed at byte 4, the file has 2 left"},
        {"GGUF\3\0\0\0\0\0\0\0\0\0\0\0", 16, "header: 8 bytes are needed at byte 16, the file has 0 left"},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        unsigned char *bytes = mem_alloc(cases[i].n);
        memcpy(bytes, cases[i].bytes, cases[i].n);
        refused(bytes, cases[i].n, cases[i].text);
    }
}

static void lying_counts_are_refused_before_memory_is_taken(void **state)
{
    struct gguf_build b = {.version = 3};
    (void)state;
    b.n_entries = UINT64_MAX;
    refused_build(&b, "18446744073709551615 metadata keys do not fit into a file of 24 bytes");
    b = (struct gguf_build){.version = 3, .n_tensors = 1ull << 60};
    refused_build(&b, "1152921504606846976 tensors do not fit");
    b = (struct gguf_build){.version = 3};
    build_array(&b, "a", META_U64, UINT64_MAX / 8 + 2, "12345678", 8);
    refused_build(&b, "metadata key 'a': array of 2305843009213693953 elements, the file has 8 bytes left");
    b = (struct gguf_build){.version = 3};
    build_array(&b, "a", META_STRING, 1ull << 40, "12345678", 8);
    refused_build(&b, "metadata key 'a': array of 1099511627776 elements");
    b = (struct gguf_build){.version = 3};
    build_raw(&b, "a", META_STRING, (uint64_t[]){UINT64_MAX}, 8);
    refused_build(&b, "metadata key 'a': 18446744073709551615 bytes are needed");
    b = (struct gguf_build){.version = 3};
    build_array(&b, "a", META_STRING, 1, (uint64_t[]){1}, 8);
    refused_build(&b, "metadata key 'a': 1 bytes are needed");
}

static void bad_metadata_is_refused(void **state)
{
    struct gguf_build b = {.version = 3};
    char *long_name = mem_alloc(65537);
    (void)state;
    build_u32(&b, "a", 1);
    build_u32(&b, "b", 1);
    build_u32(&b, "a", 1);
    refused_build(&b, "metadata key 'a' is there twice");
    b = (struct gguf_build){.version = 3};
    build_raw(&b, "a", 13, "12345678", 8);
    refused_build(&b, "metadata key 'a': value of the unknown type 13");
    b = (struct gguf_build){.version = 3};
    build_array(&b, "a", 13, 1, "12345678", 8);
    refused_build(&b, "array of the unknown type 13");
    b = (struct gguf_build){.version = 3};
    build_array(&b, "a", META_ARRAY, 1, "12345678", 8);
    refused_build(&b, "arrays inside arrays are not supported");
    b = (struct gguf_build){.version = 3};
    build_u32(&b, "", 1);
    refused_build(&b, "metadata key 0: its name is empty");
    b = (struct gguf_build){.version = 3};
    build_u32(&b, "red\033[31m", 1);
    refused_build(&b, "metadata key 0: its name has a control character");
    b = (struct gguf_build){.version = 3};
    build_u32(&b, "caf\xe9", 1);
    refused_build(&b, "metadata key 0: its name is not UTF-8");
    memset(long_name, 'x', 65536);
    b = (struct gguf_build){.version = 3};
    build_u32(&b, long_name, 1);
    refused_build(&b, "metadata key 0: its name has 65536 bytes, at most 65535 are allowed");
    free(long_name);
}

static void bad_alignment_is_refused(void **state)
{
    static const uint32_t wrong[] = {0, 1, 4, 24, 33, 0xffffffff};
    struct gguf_build b;
    size_t i;
    (void)state;
    for (i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        b = (struct gguf_build){.version = 3};
        build_u32(&b, "general.alignment", wrong[i]);
        refused_build(&b, "expected a power of two from 8 on");
    }
    b = (struct gguf_build){.version = 3};
    build_string(&b, "general.alignment", "32");
    refused_build(&b, "metadata key 'general.alignment' is of type string");
}

static void the_file_s_own_alignment_places_the_tensors(void **state)
{
    struct gguf_build b = {.version = 3, .align = 256};
    gguf *g = NULL;
    err e = {0};
    size_t n;
    unsigned char *bytes;
    (void)state;
    build_u32(&b, "general.alignment", 256);
    build_tensor(&b, "x", GGML_F32, 1, (uint64_t[]){1}, (float[]){7}, 4);
    build_tensor(&b, "y", GGML_F32, 1, (uint64_t[]){1}, (float[]){8}, 4);
    bytes = build_done(&b, &n);
    assert_int_equal(gguf_parse(&g, bytes, n, &e), 0);
    assert_ptr_equal(gguf_find_tensor(g, "x")->data, bytes + 256);
    assert_memory_equal(gguf_find_tensor(g, "y")->data, &(float){8}, 4);
    gguf_close(g);
    free(bytes);
}

static void bad_tensors_are_refused_by_name(void **state)
{
    struct gguf_build b = {.version = 3};
    char name[66] = {0};
    (void)state;
    refused_tensor(GGML_F32, 0, (uint64_t[]){0}, 0, "tensor 'w': 0 dimensions, expected 1 to 4");
    refused_tensor(GGML_F32, 5, (uint64_t[]){1, 1, 1, 1, 1}, 0, "tensor 'w': 5 dimensions, expected 1 to 4");
    refused_tensor(GGML_F32, 2, (uint64_t[]){4, 0}, 0, "tensor 'w': dimension 1 is 0");
    refused_tensor(4, 1, (uint64_t[]){32}, 0, "tensor 'w': unknown type 4");
    refused_tensor(0xffffffff, 1, (uint64_t[]){32}, 0, "tensor 'w': unknown type 4294967295");
    refused_tensor(GGML_Q4_1, 1, (uint64_t[]){33}, 0,
                   "tensor 'w': rows of 33 elements are no whole number of q4_1 blocks of 32");
    refused_tensor(GGML_F32, 2, (uint64_t[]){1ull << 33, 1ull << 33}, 0, "tensor 'w': its size overflows");
    refused_tensor(GGML_F32, 1, (uint64_t[]){1ull << 62}, 0, "tensor 'w': its size overflows");
    refused_tensor(GGML_F32, 4, (uint64_t[]){1 << 16, 1 << 16, 1 << 16, 1 << 16}, 0, "tensor 'w': its size overflows");
    refused_tensor(GGML_F32, 1, (uint64_t[]){17}, 0, "tensor 'w': its data ends at byte 132, the file has 128");
    refused_tensor(GGML_F32, 1, (uint64_t[]){1}, 64, "tensor 'w': its data ends at byte 132, the file has 128");
    refused_tensor(GGML_F32, 1, (uint64_t[]){1}, 8, "tensor 'w': offset 8 is no multiple of the alignment 32");
    refused_tensor(GGML_F32, 1, (uint64_t[]){1}, UINT64_MAX - 31, "tensor 'w': its data lies outside of the file");
    build_tensor(&b, "w", GGML_F32, 1, (uint64_t[]){1}, NULL, 4);
    build_tensor(&b, "v", GGML_F32, 1, (uint64_t[]){1}, NULL, 4);
    build_tensor(&b, "w", GGML_F32, 1, (uint64_t[]){1}, NULL, 4);
    refused_build(&b, "tensor 'w' is there twice");
    memset(name, 'n', 65);
    b = (struct gguf_build){.version = 3};
    build_tensor(&b, name, GGML_F32, 1, (uint64_t[]){1}, NULL, 4);
    refused_build(&b, "tensor 0: its name has 65 bytes, at most 64 are allowed");
}

static void every_truncation_of_a_good_file_is_refused(void **state)
{
    size_t n, cut;
    unsigned char *bytes = good_file(3, &n);
    (void)state;
    for (cut = 0; cut < n; cut++) {
        unsigned char *part = mem_alloc(cut);
        memcpy(part, bytes, cut);
        refused(part, cut, cut < 4 ? "not a GGUF file" : "");
    }
    free(bytes);
}

static void types_have_the_sizes_the_kernels_read(void **state)
{
    static const struct {
        uint32_t type;
        enum dtype expected;
    } cases[] = {{GGML_F32, DTYPE_F32},   {GGML_F16, DTYPE_F16},   {GGML_BF16, DTYPE_BF16}, {GGML_Q4_0, DTYPE_Q4_0},
                 {GGML_Q4_1, DTYPE_Q4_1}, {GGML_Q8_0, DTYPE_Q8_0}, {6, DTYPE_Q5_0},         {7, DTYPE_Q5_1},
                 {10, DTYPE_Q2_K},        {11, DTYPE_Q3_K},        {12, DTYPE_Q4_K},        {13, DTYPE_Q5_K},
                 {14, DTYPE_Q6_K},        {20, DTYPE_IQ4_NL}};
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct gguf_build b = {.version = 3};
        struct mat w = {cases[i].expected, 3, 256, ""};
        gguf *g = NULL;
        err e = {0};
        size_t n;
        unsigned char *bytes;
        build_tensor(&b, "w", cases[i].type, 2, (uint64_t[]){256, 3}, NULL, 3 * 256 * 4);
        bytes = build_done(&b, &n);
        assert_int_equal(gguf_parse(&g, bytes, n, &e), 0);
        assert_int_equal(gguf_tensor_at(g, 0)->type, cases[i].expected);
        assert_int_equal(gguf_tensor_at(g, 0)->bytes, 3 * mat_row_bytes(&w));
        assert_string_equal(gguf_tensor_at(g, 0)->type_name, dtype_name(cases[i].expected));
        gguf_close(g);
        free(bytes);
    }
}

/* ---- files ---- */

static void a_file_is_mapped_and_what_is_no_file_is_refused(void **state)
{
    char dir[] = "/tmp/test_gguf.XXXXXX", path[64];
    gguf *g = NULL;
    err e = {0};
    size_t n;
    unsigned char *bytes = good_file(3, &n);
    FILE *f;
    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/x.gguf", dir);
    assert_int_equal(gguf_open(&g, path, &e), -1);
    assert_string_equal(e.msg, "cannot be opened: No such file or directory");
    e = (err){0};
    assert_int_equal(gguf_open(&g, dir, &e), -1);
    assert_string_equal(e.msg, "not a file");
    f = fopen(path, "wb");
    assert_non_null(f);
    fclose(f);
    e = (err){0};
    assert_int_equal(gguf_open(&g, path, &e), -1);
    assert_string_equal(e.msg, "the file is empty");
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
    e = (err){0};
    assert_int_equal(gguf_open(&g, path, &e), 0);
    check_values(g);
    check_tensors(g);
    gguf_close(g);
    gguf_close(NULL);
    unlink(path);
    rmdir(dir);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_file_of_both_versions_gives_all_its_values_and_tensors),
        cmocka_unit_test(a_tensor_without_a_kernel_stays_in_the_index_under_its_type_s_name),
        cmocka_unit_test(a_getter_names_the_key_that_is_missing_or_of_another_type),
        cmocka_unit_test(magic_and_version_mistakes_are_told_apart),
        cmocka_unit_test(lying_counts_are_refused_before_memory_is_taken),
        cmocka_unit_test(bad_metadata_is_refused),
        cmocka_unit_test(bad_alignment_is_refused),
        cmocka_unit_test(the_file_s_own_alignment_places_the_tensors),
        cmocka_unit_test(bad_tensors_are_refused_by_name),
        cmocka_unit_test(every_truncation_of_a_good_file_is_refused),
        cmocka_unit_test(types_have_the_sizes_the_kernels_read),
        cmocka_unit_test(a_file_is_mapped_and_what_is_no_file_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
