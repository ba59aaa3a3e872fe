/* test_safetensors.c: weights of one file or of many shards are found by name; every broken file is refused with its reason. */
#include "../../engine/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* Header and data as a file, in memory of exactly its size. */
static unsigned char *build(const char *json, size_t data, size_t *n)
{
    uint64_t header = strlen(json);
    unsigned char *bytes;
    size_t i;
    *n = 8 + header + data;
    bytes = mem_alloc(*n);
    memcpy(bytes, &header, 8);
    memcpy(bytes + 8, json, header);
    for (i = 0; i < data; i++) bytes[8 + header + i] = (unsigned char)i;
    return bytes;
}

static void write_file(const char *folder, const char *name, const void *bytes, size_t n)
{
    char path[128];
    FILE *f;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

static void write_weights(const char *folder, const char *name, const char *json, size_t data)
{
    size_t n;
    unsigned char *bytes = build(json, data, &n);
    write_file(folder, name, bytes, n);
    free(bytes);
}

static void remove_files(const char *folder, const char *const *names)
{
    char path[128];
    for (; *names; names++) {
        snprintf(path, sizeof path, "%s/%s", folder, *names);
        unlink(path);
    }
    rmdir(folder);
}

/* F16 in front, so that the F32 behind it begins at an odd multiple of 2. */
static const char good[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                           "\"w\":{\"dtype\":\"F32\",\"shape\":[3,2],\"data_offsets\":[10,34]},"
                           "\"a.norm\":{\"dtype\":\"F16\",\"shape\":[5],\"data_offsets\":[0,10]},"
                           "\"b\":{\"shape\":[1,2,1,1],\"data_offsets\":[34,38],\"dtype\":\"BF16\"}}   ";
enum { GOOD_DATA = 38 };

static void a_good_file_gives_its_tensors_by_name_and_in_order(void **state)
{
    safetensors *s = NULL;
    const struct safetensor *t;
    err e = {0};
    size_t n, whole;
    unsigned char *bytes = build(good, GOOD_DATA, &n);
    (void)state;
    if (safetensors_parse(&s, bytes, n, &e)) fail_msg("%s", e.msg);
    assert_int_equal(safetensors_n(s), 3);
    assert_string_equal(safetensors_at(s, 0)->name, "a.norm");
    assert_string_equal(safetensors_at(s, 1)->name, "b");
    assert_string_equal(safetensors_at(s, 2)->name, "w");
    assert_null(safetensors_at(s, 3));
    assert_null(safetensors_at(s, -1));
    t = safetensors_find(s, "w");
    assert_ptr_equal(t, safetensors_at(s, 2));
    assert_int_equal(t->type, DTYPE_F32);
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->dims[0], 3);
    assert_int_equal(t->dims[1], 2);
    assert_int_equal(t->dims[2], 1);
    assert_int_equal(t->bytes, 24);
    assert_ptr_equal(t->data, bytes + n - GOOD_DATA + 10);
    assert_int_equal(safetensors_find(s, "a.norm")->type, DTYPE_F16);
    assert_int_equal(safetensors_find(s, "b")->type, DTYPE_BF16);
    assert_int_equal(safetensors_find(s, "b")->n_dims, 4);
    assert_null(safetensors_find(s, "__metadata__"));
    assert_null(safetensors_find(s, ""));
    assert_int_equal(safetensors_n_files(s), 1);
    assert_ptr_equal(safetensors_bytes(s, 0, &whole), bytes);
    assert_int_equal(whole, n);
    safetensors_close(s);
    safetensors_close(NULL);
    free(bytes);
}

static void refused_bytes(const void *bytes, size_t n, const char *text)
{
    safetensors *s = NULL;
    err e = {0};
    unsigned char *exact = mem_alloc(n);
    memcpy(exact, bytes, n);
    assert_int_equal(safetensors_parse(&s, exact, n, &e), -1);
    assert_null(s);
    assert_int_equal(e.code, ERR_ENV);
    if (!strstr(e.msg, text)) fail_msg("'%s' does not say '%s'", e.msg, text);
    free(exact);
}

static void refused(const char *json, size_t data, const char *text)
{
    size_t n;
    unsigned char *bytes = build(json, data, &n);
    refused_bytes(bytes, n, text);
    free(bytes);
}

static void what_is_no_safetensors_file_is_refused(void **state)
{
    unsigned char *huge = mem_alloc(100000100);
    uint64_t size = 100000001;
    (void)state;
    refused_bytes("", 0, "not a safetensors file");
    refused_bytes("GGUF\3\0\0", 7, "not a safetensors file");
    refused_bytes("GGUF\3\0\0\0\1\0\0\0", 12, "not a safetensors file");
    refused_bytes("\2\0\0\0\0\0\0\0", 8, "not a safetensors file");
    refused_bytes("\3\0\0\0\0\0\0\0{}", 10, "a header of 3 bytes, the file has 10");
    refused_bytes("\377\377\377\377\377\377\377\377{}", 10, "a header of 18446744073709551615 bytes, the file has 10");
    memset(huge, ' ', 100000100);
    memcpy(huge, &size, 8);
    huge[8] = '{';
    refused_bytes(huge, 100000100, "header: 100000001 bytes of JSON, at most 100000000 are allowed");
    free(huge);
}

static void a_header_that_is_no_object_of_tensors_is_refused(void **state)
{
    struct buf deep = {0}, name = {0};
    int i;
    (void)state;
    refused("{\"a\":", 0, "header: not valid JSON (line 1, column 5)");
    refused("{} x", 0, "header: not valid JSON");
    refused("{\"a\":1,\"a\":2}", 0, "header: the JSON has a key twice");
    refused("{\"a\xff\":1}", 0, "header: not valid JSON");
    refused("{\"a\":18446744073709551616}", 0, "header: not valid JSON");
    refused("{\"a\":1}", 0, "tensor 'a': not an object");
    refused("{\"\":{}}", 0, "the name of a tensor is empty, too long or has control characters");
    refused("{\"\\u001b[31m\":{}}", 0, "the name of a tensor is empty, too long or has control characters");
    refused("{\"a\\u0000b\":{}}", 0, "header: not valid JSON");
    for (i = 0; i < 600; i++) buf_char(&name, i == 0 ? '{' : i == 1 || i == 598 ? '"' : 'x');
    buf_str(&name, ":{}}");
    name.p[599] = ' ';
    refused(name.p, 0, "the name of a tensor is empty, too long or has control characters");
    buf_str(&deep, "{\"a\":");
    for (i = 0; i < 100000; i++) buf_char(&deep, '[');
    refused(deep.p, 0, "header: not valid JSON");
    buf_free(&deep);
    buf_free(&name);
}

static void a_tensor_that_does_not_fit_is_named(void **state)
{
    static const struct {
        const char *tensor, *message;
    } cases[] = {
        {"\"shape\":[2],\"data_offsets\":[0,8]", "no dtype"},
        {"\"dtype\":7,\"shape\":[2],\"data_offsets\":[0,8]", "no dtype"},
        {"\"dtype\":\"I63\",\"shape\":[1],\"data_offsets\":[0,8]", "dtype I63 is not known"},
        {"\"dtype\":\"F7_E4M3\",\"shape\":[8],\"data_offsets\":[0,8]", "dtype F7_E4M3 is not known"},
        {"\"dtype\":\"\\u001b[31m\",\"shape\":[8],\"data_offsets\":[0,8]", "dtype ? is not known"},
        {"\"dtype\":\"F32\",\"data_offsets\":[0,8]", "no shape"},
        {"\"dtype\":\"F32\",\"shape\":[1,1,1,1,2],\"data_offsets\":[0,8]", "5 dimensions, at most 4 are allowed"},
        {"\"dtype\":\"F32\",\"shape\":[2,0],\"data_offsets\":[0,0]", "dimension 1 is no positive integer"},
        {"\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]", "dimension 0 is no positive integer"},
        {"\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]", "dimension 0 is no positive integer"},
        {"\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,8]", "its size overflows"},
        {"\"dtype\":\"F32\",\"shape\":[9223372036854775807],\"data_offsets\":[0,8]", "its size overflows"},
        {"\"dtype\":\"F32\",\"shape\":[2]", "data_offsets are not two rising integers"},
        {"\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]", "data_offsets are not two rising integers"},
        {"\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,\"8\"]", "data_offsets are not two rising integers"},
        {"\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]", "data_offsets are not two rising integers"},
        {"\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]", "data_offsets are not two rising integers"},
        {"\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]", "its shape needs 12 bytes, the file gives it 8"},
        {"\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,8]", "its shape needs 4 bytes, the file gives it 8"},
        {"\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,12]", "its data ends at byte 12, the file has 8"},
        {"\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]", "its data begins at byte 4, the one before ends at 0"},
        {"\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[9223372036854775803,9223372036854775807]",
         "its data begins at byte 9223372036854775803, the one before ends at 0"},
    };
    char json[256], text[256];
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(json, sizeof json, "{\"x.y\":{%s}}", cases[i].tensor);
        snprintf(text, sizeof text, "tensor 'x.y': %s", cases[i].message);
        refused(json, 8, text);
    }
}

static void data_with_gaps_overlaps_or_a_rest_is_refused(void **state)
{
    (void)state;
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
            "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
            12, "tensor 'b': its data begins at byte 4, the one before ends at 8");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
            "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[12,20]}}",
            20, "tensor 'b': its data begins at byte 12, the one before ends at 8");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 9,
            "the tensors end at byte 8 of the data, the file has 9");
    refused("{}", 1, "the tensors end at byte 0 of the data, the file has 1");
}

static void every_truncation_of_a_good_file_is_refused(void **state)
{
    size_t n, cut;
    unsigned char *bytes = build(good, GOOD_DATA, &n);
    (void)state;
    for (cut = 0; cut < n; cut++) refused_bytes(bytes, cut, "");
    free(bytes);
}

/* ---- folders ---- */

static const char shard_a[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";
static const char shard_b[] = "{\"b\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}}";

static void a_folder_is_one_file_or_the_shards_of_its_index(void **state)
{
    static const char *const names[] = {"model.safetensors", "model.safetensors.index.json", "m-1.safetensors",
                                        "m-2.safetensors", NULL};
    static const char index[] = "{\"metadata\":{\"total_size\":12},"
                                "\"weight_map\":{\"a\":\"m-1.safetensors\",\"b\":\"m-2.safetensors\"}}";
    char dir[] = "/tmp/test_safetensors.XXXXXX", path[128];
    safetensors *s = NULL;
    err e = {0};
    size_t n;
    (void)state;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(safetensors_open(&s, dir, &e), -1);
    assert_string_equal(e.msg, "the folder has neither model.safetensors nor model.safetensors.index.json");
    write_weights(dir, names[2], shard_a, 8);
    write_weights(dir, names[3], shard_b, 4);
    write_file(dir, names[1], index, strlen(index));
    e = (err){0};
    if (safetensors_open(&s, dir, &e)) fail_msg("%s", e.msg);
    assert_int_equal(safetensors_n(s), 2);
    assert_int_equal(safetensors_n_files(s), 2);
    assert_memory_equal(safetensors_find(s, "a")->data, "\0\1\2\3\4\5\6\7", 8);
    assert_memory_equal(safetensors_find(s, "b")->data, "\0\1\2\3", 4);
    assert_non_null(safetensors_bytes(s, 1, &n));
    assert_int_equal(n, 8 + strlen(shard_b) + 4);
    safetensors_close(s);
    snprintf(path, sizeof path, "%s/%s", dir, names[1]);
    assert_int_equal(safetensors_open(&s, path, &e), 0);
    safetensors_close(s);
    snprintf(path, sizeof path, "%s/%s", dir, names[3]);
    assert_int_equal(safetensors_open(&s, path, &e), 0);
    assert_int_equal(safetensors_n(s), 1);
    safetensors_close(s);
    write_weights(dir, names[0], good, GOOD_DATA);
    assert_int_equal(safetensors_open(&s, dir, &e), 0);
    assert_int_equal(safetensors_n(s), 3);
    safetensors_close(s);
    remove_files(dir, names);
    assert_int_equal(safetensors_open(&s, dir, &e), -1);
    assert_string_equal(e.msg, "cannot be opened: No such file or directory");
}

static void an_index_that_does_not_fit_its_shards_is_refused(void **state)
{
    static const char *const names[] = {"model.safetensors.index.json", "1.safetensors", "2.safetensors", "3.safetensors",
                                        NULL};
    static const struct {
        const char *index, *message;
    } cases[] = {
        {"[]", "the JSON is not an object"},
        {"{\"weight_map\":", "not valid JSON (line 1, column 14)"},
        {"{\"metadata\":{}}", "no weight_map"},
        {"{\"weight_map\":{}}", "weight_map is empty"},
        {"{\"weight_map\":{\"a\":1}}", "weight_map: every value is the name of a file in the same folder"},
        {"{\"weight_map\":{\"a\":\"../x\"}}", "weight_map: every value is the name of a file in the same folder"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "weight_map: every value is the name of a file in the same folder"},
        {"{\"weight_map\":{\"a\":\"\"}}", "weight_map: every value is the name of a file in the same folder"},
        {"{\"weight_map\":{\"a\":\"gone\"}}", "shard 'gone': cannot be opened: No such file or directory"},
        {"{\"weight_map\":{\"a\":\"1.safetensors\",\"c\":\"1.safetensors\"}}", "tensor 'c' is not in shard '1.safetensors'"},
        {"{\"weight_map\":{\"a\":\"2.safetensors\",\"b\":\"1.safetensors\"}}", "tensor 'a' is not in shard '2.safetensors'"},
        {"{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"3.safetensors\"}}", "tensor 'a' is in two shards"},
        {"{\"weight_map\":{\"a\":\"1.safetensors\",\"i\":\"model.safetensors.index.json\"}}",
         "shard 'model.safetensors.index.json': not a safetensors file"},
    };
    char dir[] = "/tmp/test_safetensors.XXXXXX";
    size_t i;
    (void)state;
    assert_non_null(mkdtemp(dir));
    write_weights(dir, names[1], shard_a, 8);
    write_weights(dir, names[2], shard_b, 4);
    write_weights(dir, names[3], shard_a, 8);
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        safetensors *s = NULL;
        err e = {0};
        write_file(dir, names[0], cases[i].index, strlen(cases[i].index));
        assert_int_equal(safetensors_open(&s, dir, &e), -1);
        assert_int_equal(e.code, ERR_ENV);
        assert_string_equal(e.msg, cases[i].message);
    }
    remove_files(dir, names);
}

/* ---- hostile bytes ---- */

static uint64_t next(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

/* Mostly bytes that JSON knows, so that the mutants reach behind the JSON parser. */
static void mutate(unsigned char *bytes, size_t *n, uint64_t *seed)
{
    static const char letters[] = "0123456789-[]{}\",:. \x1b\xff";
    size_t header = 8 + strlen(good), at;
    uint64_t i, count = 1 + next(seed) % 3;
    for (i = 0; i < count; i++) {
        at = next(seed) % header;
        switch (next(seed) % 8) {
        case 0: *n = next(seed) % (*n + 1); break;
        case 1: bytes[at] ^= (unsigned char)(1u << next(seed) % 8); break;
        case 2: bytes[next(seed) % 8] = (unsigned char)next(seed); break;
        default:
            if (at >= 8) bytes[at] = (unsigned char)letters[next(seed) % (sizeof letters - 1)];
        }
    }
}

static void two_thousand_damaged_headers_give_tensors_or_an_error(void **state)
{
    size_t n;
    unsigned char *bytes = build(good, GOOD_DATA, &n);
    uint64_t seed = 20240726;
    int round, parsed = 0, past_json = 0;
    (void)state;
    for (round = 0; round < 2000; round++) {
        size_t size = n;
        unsigned char *part, *damaged = mem_alloc(n);
        safetensors *s = NULL;
        err e = {0};
        memcpy(damaged, bytes, n);
        mutate(damaged, &size, &seed);
        part = mem_alloc(size); /* exactly as long as the file: a read behind its end is seen */
        memcpy(part, damaged, size);
        if (safetensors_parse(&s, part, size, &e) == 0)
            parsed++;
        else
            assert_true(e.code == ERR_ENV && e.msg[0]);
        past_json += strncmp(e.msg, "tensor '", 8) == 0;
        safetensors_close(s);
        free(part);
        free(damaged);
    }
    assert_true(parsed > 20 && parsed < 1000);
    assert_true(past_json > 100);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_file_gives_its_tensors_by_name_and_in_order),
        cmocka_unit_test(what_is_no_safetensors_file_is_refused),
        cmocka_unit_test(a_header_that_is_no_object_of_tensors_is_refused),
        cmocka_unit_test(a_tensor_that_does_not_fit_is_named),
        cmocka_unit_test(data_with_gaps_overlaps_or_a_rest_is_refused),
        cmocka_unit_test(every_truncation_of_a_good_file_is_refused),
        cmocka_unit_test(a_folder_is_one_file_or_the_shards_of_its_index),
        cmocka_unit_test(an_index_that_does_not_fit_its_shards_is_refused),
        cmocka_unit_test(two_thousand_damaged_headers_give_tensors_or_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
