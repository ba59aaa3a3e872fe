/* test_query.c: questions are answered in every format whatever the values are, and nothing but questions. */
#include "fake_engine.c"
#include "store_fixture.c"

#include "../../runner/control.h"
#include "../../runner/db.h"
#include "../../runner/metric.h"
#include "../../runner/query.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>

#include <cmocka.h>

static char *db_path; /* one database for the tests that only read */
static cache cache_a = {&fake_engine, 150, 1, -1}, cache_b = {&fake_engine, 150, 1, 100};

static const int says_sf[] = {1, 2, 5, -1}, says_ny[] = {3, 4, 5, -1}, nasty[] = {9, 10, 6, 11, 7, -1};

static void fill(const char *path)
{
    struct run_info info = fix_run();
    struct control_sum sum;
    struct metric metrics[COUNT(fix_metrics) + 1];
    struct spec spec = fix_spec;
    err e = {0}, why = {ERR_FAIL, "a logit is not finite"};
    store *st;
    int run;
    memcpy(metrics, fix_metrics, sizeof fix_metrics);
    metrics[COUNT(fix_metrics)] = (struct metric){.name = "recovery",
                                                  .kind = METRIC_RECOVERY,
                                                  .against = -1,
                                                  .of_metric = 1,
                                                  .clean = {.condition = 2, .prompt = -1},
                                                  .corrupt = {.condition = 0, .prompt = -1}};
    spec.metrics = metrics;
    spec.n_metrics = COUNT(metrics);
    info.spec = &spec;
    if (store_open(&st, path, &e)) fail_msg("%s", e.msg);
    for (run = 0; run < 2; run++) {
        if (store_begin(st, &info, &e)) fail_msg("%s", e.msg);
        fix_put(st, 0, says_sf, &cache_a, &e);
        fix_put(st, 1, run ? says_ny : says_sf, &cache_a, &e);
        fix_put(st, 3, says_ny, &cache_b, &e);
        fix_put(st, 4, nasty, &cache_a, &e);
        store_put(st, &(struct result){.job = 7, .failed = &why}, &e);
        if (metric_compute(st, info.spec, info.jobs, NULL, &e) || control_judge(st, info.jobs, &sum, &e) ||
            store_end(st, "done", 0, &e))
            fail_msg("%s", e.msg);
    }
    store_close(st);
}

static int setup(void **state)
{
    (void)state;
    db_path = mem_strdup(fix_path());
    fill(db_path);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fix_remove(db_path);
    free(db_path);
    return 0;
}

/* The rows as written, or the message of the error. Caller frees. */
static char *rows(const char *path, const char *sql, enum query_format format, int width, int *code)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    err e = {0};
    int r = query_sql(path, sql, format, width, f, &e);
    fclose(f);
    if (code) *code = e.code;
    if (r) {
        assert_int_not_equal(e.code, 0);
        free(text);
        return mem_strdup(e.msg);
    }
    assert_int_equal(e.code, 0);
    return text;
}

static void assert_rows(const char *sql, enum query_format format, int width, const char *expected)
{
    int code;
    char *text = rows(db_path, sql, format, width, &code);
    if (strcmp(text, expected)) fail_msg("%s gave\n%s\ninstead of\n%s", sql, text, expected);
    assert_int_equal(code, 0);
    free(text);
}

#define NASTY                                                                                                                   \
    "SELECT 'a,b' AS \"x,y\", 'say \"hi\"' AS q, 'two' || char(10) || 'lines' AS l, NULL AS n, x'00ff' AS b, 'é東|\\' AS u, " \
    "'' AS e"

static void csv_is_rfc_4180(void **state)
{
    (void)state;
    assert_rows(NASTY, QUERY_CSV, 0, "\"x,y\",q,l,n,b,u,e\r\n\"a,b\",\"say \"\"hi\"\"\",\"two\nlines\",,00ff,é東|\\,\"\"\r\n");
    assert_rows("SELECT 1 AS a WHERE 0", QUERY_CSV, 0, "a\r\n");
    assert_rows("SELECT 0.1 AS a, 1e300 AS b, -5 AS c, 2.0 AS d, 9223372036854775807 AS e", QUERY_CSV, 0,
                "a,b,c,d,e\r\n0.1,1e+300,-5,2.0,9223372036854775807\r\n");
}

static void json_is_one_array_of_objects(void **state)
{
    json_t *all, *row;
    char *text;
    (void)state;
    assert_rows("SELECT 1 AS a UNION ALL SELECT 2", QUERY_JSON, 0, "[\n {\"a\": 1},\n {\"a\": 2}\n]\n");
    assert_rows("SELECT 1 AS a WHERE 0", QUERY_JSON, 0, "[]\n");
    assert_rows("SELECT 1 AS a UNION ALL SELECT 2", QUERY_JSONL, 0, "{\"a\": 1}\n{\"a\": 2}\n");
    text = rows(db_path, NASTY ", char(1,27,127) AS control, cast(x'61ff62' AS TEXT) AS broken, 9e999 AS inf", QUERY_JSON, 0,
                NULL);
    all = json_loads(text, 0, NULL);
    assert_non_null(all);
    row = json_array_get(all, 0);
    assert_string_equal(json_string_value(json_object_get(row, "x,y")), "a,b");
    assert_string_equal(json_string_value(json_object_get(row, "q")), "say \"hi\"");
    assert_string_equal(json_string_value(json_object_get(row, "l")), "two\nlines");
    assert_true(json_is_null(json_object_get(row, "n")));
    assert_string_equal(json_string_value(json_object_get(row, "b")), "00ff");
    assert_string_equal(json_string_value(json_object_get(row, "u")), "é東|\\");
    assert_string_equal(json_string_value(json_object_get(row, "control")), "\x01\x1b\x7f");
    assert_string_equal(json_string_value(json_object_get(row, "broken")), "a\xef\xbf\xbd"
                                                                           "b");
    assert_true(json_is_null(json_object_get(row, "inf")));
    json_decref(all);
    free(text);
    assert_rows("SELECT 1 AS a, 2 AS a", QUERY_CSV, 0, "a,a\r\n1,2\r\n");
    text = rows(db_path, "SELECT 1 AS a, 2 AS a", QUERY_JSON, 0, NULL);
    assert_non_null(strstr(text, "two columns are named 'a'"));
    free(text);
}

static void json_numbers_read_back_as_the_same_numbers(void **state)
{
    static const double numbers[] = {0.1, 1.0 / 3, 1e22, 123456789.123456789, 5e-324, 1.7976931348623157e308, -0.1f, 2.5};
    size_t i;
    (void)state;
    for (i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        char sql[64], *text;
        json_t *all;
        snprintf(sql, sizeof sql, "SELECT %.17g AS x", numbers[i]);
        text = rows(db_path, sql, QUERY_JSON, 0, NULL);
        all = json_loads(text, 0, NULL);
        assert_true(json_real_value(json_object_get(json_array_get(all, 0), "x")) == numbers[i]);
        json_decref(all);
        free(text);
    }
    assert_rows("SELECT 0.1 AS x", QUERY_JSONL, 0, "{\"x\": 0.1}\n");
}

static void markdown_escapes_bars(void **state)
{
    (void)state;
    assert_rows("SELECT 'a|b\\' AS \"c|d\", NULL AS n, char(10) AS l", QUERY_MD, 0,
                "| c\\|d | n | l |\n| --- | --- | --- |\n| a\\|b\\\\ |  | \\\\n |\n");
}

static void tables_align_by_the_columns_a_terminal_uses(void **state)
{
    (void)state;
    assert_rows("SELECT '東京' AS city, 5 AS n UNION ALL SELECT 'Rome', NULL UNION ALL SELECT 'e\xcc\x81t', 1000", QUERY_TABLE,
                0, "city     n\n----  ----\n東京     5\nRome  \ne\xcc\x81t    1000\n");
    assert_rows("SELECT 'abcdefghijkl' AS a, 'short' AS b", QUERY_TABLE, 14, "a        b\n-------  -----\nabcdef…  short\n");
    assert_rows("SELECT '東東東東東東' AS a", QUERY_TABLE, 6, "a\n------\n東東…\n");
    assert_rows("SELECT char(27) || '[31m' || char(9) AS a", QUERY_TABLE, 0, "a\n----------\n\\x1b[31m\\t\n");
    assert_rows("SELECT 1.5 AS a, 3.0 AS b, 1e-9 AS c", QUERY_TABLE, 0, "  a    b      c\n---  ---  -----\n1.5  3.0  1e-09\n");
    assert_rows("SELECT 1 AS a WHERE 0", QUERY_TABLE, 80, "a\n-\n");
}

static void long_tables_stream_behind_the_rows_that_decide_the_widths(void **state)
{
    char *text = rows(db_path, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<5000) SELECT i FROM n",
                      QUERY_TABLE, 0, NULL);
    int lines = 0;
    char *p;
    (void)state;
    for (p = text; *p; p++) lines += *p == '\n';
    assert_int_equal(lines, 5002);
    assert_string_equal(text + strlen(text) - 5, "5000\n");
    free(text);
}

static void anything_but_one_question_is_refused(void **state)
{
    static const char *const bad[][2] = {
        {"DELETE FROM attempt", "only questions"},
        {"INSERT INTO meta VALUES('a','b')", "only questions"},
        {"UPDATE run SET status='done' RETURNING id", "only questions"},
        {"CREATE TABLE t(a)", "only questions"},
        {"CREATE TEMP TABLE t AS SELECT 1", "only questions"},
        {"ATTACH '/tmp/kvrun-test-other.db' AS o", "only questions"},
        {"VACUUM INTO '/tmp/kvrun-test-other.db'", "only questions"},
        {"PRAGMA query_only=OFF", "only questions"},
        {"PRAGMA writable_schema=ON", "only questions"},
        {"BEGIN", "only questions"},
        {"SELECT 1; SELECT 2", "one statement"},
        {"SELECT 1; DROP TABLE run", "one statement"},
        {"SELECT 1; nonsense", "one statement"},
        {"", "no statement"},
        {" -- nothing", "no statement"},
        {"SELEC 1", "syntax error"},
        {"SELECT nowhere FROM v_result", "no such column"},
        {"SELECT * FROM v_result WHERE label=:label", ":label"},
        {"SELECT load_extension('x')", "SQL"},
        {"SELECT vec_l2(x'00000000', x'0000000000000000')", "one length"},
        {"SELECT vec_l2('text', 'text')", "float32"},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        int code;
        char *text = rows(db_path, bad[i][0], QUERY_CSV, 0, &code);
        if (!strstr(text, bad[i][1])) fail_msg("%s: %s", bad[i][0], text);
        assert_int_equal(code, ERR_INPUT);
        free(text);
    }
    assert_int_equal(access("/tmp/kvrun-test-other.db", F_OK), -1);
    assert_rows("SELECT 1 AS a; ; -- that was all\n /* really */ ", QUERY_CSV, 0, "a\r\n1\r\n");
    assert_rows("PRAGMA user_version", QUERY_CSV, 0, "user_version\r\n2\r\n");
    assert_rows("SELECT count(*) AS n FROM attempt", QUERY_CSV, 0, "n\r\n10\r\n");
}

static void every_example_runs(void **state)
{
    const char *sql, *title;
    int n;
    (void)state;
    for (n = 1; (sql = query_example(n, &title)); n++) {
        int code, lines = 0;
        char *text = rows(db_path, sql, QUERY_CSV, 0, &code), *p;
        if (code) fail_msg("example %d: %s", n, text);
        for (p = text; *p; p++) lines += *p == '\r';
        if (lines < 2) fail_msg("example %d finds nothing", n);
        assert_true(strlen(title) > 0);
        free(text);
        text = rows(db_path, sql, QUERY_JSON, 0, &code);
        if (code) fail_msg("example %d: %s", n, text);
        free(text);
    }
    assert_true(n > 8);
    assert_null(query_example(0, NULL));
}

static void functions_compute_with_what_caches_hold(void **state)
{
    float a[64 * 16], b[64 * 16];
    double sum = 0, ab = 0, aa = 0, bb = 0;
    char *text;
    int i;
    (void)state;
    cache_read(&cache_a, 1, CACHE_V, 64, 64, a);
    cache_read(&cache_b, 1, CACHE_V, 64, 64, b);
    for (i = 0; i < 64 * 16; i++) {
        sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        ab += (double)a[i] * b[i], aa += (double)a[i] * a[i], bb += (double)b[i] * b[i];
    }
    text = rows(db_path,
                "SELECT vec_l2(kv_decode(a.blob_id), kv_decode(b.blob_id)), vec_cos(kv_decode(a.blob_id), kv_decode(b.blob_id))"
                " FROM v_kv a JOIN v_kv b USING (layer, tensor, tok_start)"
                " WHERE a.label='sf/baseline' AND b.label='sf/transplant' AND b.moment='edited'"
                " AND layer=1 AND tensor='v' AND tok_start=64",
                QUERY_CSV, 0, NULL);
    double l2, cosine;
    assert_int_equal(sscanf(strstr(text, "\r\n"), "%lf,%lf", &l2, &cosine), 2);
    assert_true(sum > 0 && fabs(l2 - sqrt(sum)) < 1e-9 && fabs(cosine - ab / sqrt(aa * bb)) < 1e-9);
    free(text);
    assert_rows("SELECT token_text(1, 1) AS a, token_text(1, 999) AS b, vec_l2(NULL, x'') AS c, vec_cos(x'', x'') AS d",
                QUERY_CSV, 0, "a,b,c,d\r\n San,,,\r\n");
    text = rows(db_path, "SELECT kv_decode(99999)", QUERY_CSV, 0, NULL);
    assert_non_null(strstr(text, "blob 99999: it is not there"));
    free(text);
}

static char *show(const char *path, const char *experiment, const char *label, int *code)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    err e = {0};
    int r = query_show(path, experiment, label, f, &e);
    fclose(f);
    *code = e.code;
    assert_int_equal(r, e.code ? -1 : 0);
    if (!r) return text;
    free(text);
    return mem_strdup(e.msg);
}

static void assert_shows(const char *label, int code, const char *const *parts)
{
    int got;
    char *text = show(db_path, NULL, label, &got);
    assert_int_equal(got, code);
    for (; *parts; parts++)
        if (!strstr(text, *parts)) fail_msg("'%s' is not in\n%s", *parts, text);
    free(text);
}

static void a_job_is_shown_as_a_page(void **state)
{
    (void)state;
    assert_shows("sf/transplant", 0,
                 (const char *const[]){"sf/transplant\n", "experiment  needle", "baseline    sf/baseline",
                                       "prompt sf, 4 tokens", "  <s>\xe2\x9f\xa6 San Francisco\xe2\x9f\xa7.\n",
                                       "transplant v  layers 0..2  heads 0..1  at 1..2  from ny at 1..2",
                                       "answer, 3 tokens, stop length", "   New York.", "first_divergence",
                                       "edited    150 tokens  f32  18 chunks", "n1:cpu:kv-f32", "commit abc", NULL});
    assert_shows("sf/noop", 0, (const char *const[]){"\\x01", "not UTF-8", NULL});
    assert_shows("ny/zero/layer=2", 0, (const char *const[]){"failed: a logit is not finite", NULL});
    assert_shows("ny/baseline", 0, (const char *const[]){"no answer yet", NULL});
}

static void an_unknown_label_is_answered_with_near_ones(void **state)
{
    int code;
    char *text;
    (void)state;
    assert_shows("sf/baselin", ERR_NOTHING, (const char *const[]){"no job 'sf/baselin'", "did you mean sf/baseline", NULL});
    assert_shows("zero", ERR_NOTHING, (const char *const[]){"sf/zero/layer=0, sf/zero/layer=2", NULL});
    assert_shows("qqqqqqqqqqqqqqqqqqqqqqqqqqqqqq", ERR_NOTHING, (const char *const[]){"there are sf/baseline", NULL});
    text = show(db_path, "other", "sf/baseline", &code);
    assert_int_equal(code, ERR_NOTHING);
    free(text);
}

static void a_label_of_two_experiments_needs_the_experiment(void **state)
{
    const char *path = fix_path();
    struct run_info info = fix_run();
    struct spec second = fix_spec;
    store *st;
    err e = {0};
    char *text;
    int code;
    (void)state;
    fill(path);
    second.experiment = "second";
    info.spec = &second;
    assert_int_equal(store_open(&st, path, &e) || store_begin(st, &info, &e), 0);
    store_close(st);
    text = show(path, NULL, "sf/baseline", &code);
    assert_int_equal(code, ERR_INPUT);
    assert_non_null(strstr(text, "several experiments have a job 'sf/baseline' (needle, second)"));
    free(text);
    text = show(path, "second", "sf/baseline", &code);
    assert_int_equal(code, 0);
    assert_non_null(strstr(text, "   San Francisco.")); /* the same job: the answer is shared */
    free(text);
    fix_remove(path);
}

static void a_cache_is_exported_as_safetensors(void **state)
{
    const char *path = fix_path();
    err e = {0};
    uint64_t n_head;
    float *k = malloc(2 * 150 * 8 * 4), *expected = malloc(2 * 150 * 8 * 4);
    char *head;
    json_t *root, *t;
    FILE *f;
    (void)state;
    assert_int_equal(query_export(db_path, NULL, "sf/transplant", "edited", path, &e), 0);
    f = fopen(path, "rb");
    assert_int_equal(fread(&n_head, 8, 1, f), 1);
    assert_int_equal(n_head % 8, 0);
    head = mem_alloc(n_head + 1);
    assert_int_equal(fread(head, 1, n_head, f), n_head);
    root = json_loads(head, 0, NULL);
    assert_non_null(root);
    t = json_object_get(root, "__metadata__");
    assert_string_equal(json_string_value(json_object_get(t, "label")), "sf/transplant");
    assert_string_equal(json_string_value(json_object_get(t, "moment")), "edited");
    assert_string_equal(json_string_value(json_object_get(t, "experiment")), "needle");
    assert_string_equal(json_string_value(json_object_get(t, "tokens")), "[0,1,2,5,3,4,5]");
    assert_int_equal(strlen(json_string_value(json_object_get(t, "model_sha256"))), 64);
    assert_int_equal(json_object_size(root), 1 + 3 * 2);
    t = json_object_get(root, "v.2");
    assert_string_equal(json_string_value(json_object_get(t, "dtype")), "F32");
    assert_int_equal(json_integer_value(json_array_get(json_object_get(t, "shape"), 1)), 150);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(t, "data_offsets"), 1)), 6 * 2 * 150 * 8 * 4);
    fseek(f, (long)(8 + n_head + (uint64_t)json_integer_value(json_array_get(json_object_get(t, "data_offsets"), 0))),
          SEEK_SET);
    assert_int_equal(fread(k, 4, 2 * 150 * 8, f), 2 * 150 * 8);
    cache_read(&cache_b, 2, CACHE_V, 0, 150, expected);
    assert_memory_equal(k, expected, 2 * 150 * 8 * 4);
    assert_int_equal(fgetc(f), EOF);
    fclose(f);
    json_decref(root);
    free(head);
    free(k);
    free(expected);
    unlink(path);
}

static void edits_in_flight_are_shown_apart(void **state)
{
    (void)state;
    assert_shows("ny/transplant", 0,
                 (const char *const[]){"edits while the prompt was fed\n"
                                       "  add resid  layers 0..2  at 3  by -2.5  vector abcd00000000…\n"
                                       "  add head_out  layers 2  heads 0..1  at 3  by 1  from sf at 3 minus ny at 2\n"
                                       "  scale embed  at 1..2  by 0.1\n",
                                       "operations on the finished cache\n  scale v  layers 0  heads 0..1  at 1..2  by 2\n",
                                       "  <s>\xe2\x9f\xa6 New York.\xe2\x9f\xa7\n", NULL});
    assert_shows("sf/baseline", 0, (const char *const[]){"pass      4 tokens  f32  6 chunks", "  attn,embed,resid\n", NULL});
}

static void activations_are_exported_as_safetensors(void **state)
{
    static const struct {
        const char *name, *positions;
        int record, layer, n, dims[2];
        const int *at;
    } pieces[] = {{"attn.1", "\"attn.1\":[2,3]", 2, 1, 2, {4, 4}, fix_attn_at},
                  {"embed", "\"embed\":[3]", 1, -1, 1, {32, 0}, fix_last},
                  {"resid.0", "\"resid.0\":[0,1,3]", 0, 0, 3, {32, 0}, fix_resid_at},
                  {"resid.2", "\"resid.2\":[0,1,3]", 0, 2, 3, {32, 0}, fix_resid_at}};
    const char *path = fix_path(), *positions;
    err e = {0};
    uint64_t n_head;
    char *head;
    json_t *root, *t, *shape;
    FILE *f;
    int p, k, i;
    (void)state;
    if (query_export(db_path, NULL, "sf/transplant", "pass", path, &e)) fail_msg("%s", e.msg);
    f = fopen(path, "rb");
    assert_int_equal(fread(&n_head, 8, 1, f), 1);
    head = mem_alloc(n_head + 1);
    assert_int_equal(fread(head, 1, n_head, f), n_head);
    root = json_loads(head, 0, NULL);
    assert_int_equal(json_object_size(root), 1 + COUNT(pieces));
    t = json_object_get(root, "__metadata__");
    assert_string_equal(json_string_value(json_object_get(t, "moment")), "pass");
    assert_string_equal(json_string_value(json_object_get(t, "tokens")), "[0,1,2,5]");
    assert_null(json_object_get(t, "k_space"));
    positions = json_string_value(json_object_get(t, "positions"));
    for (p = 0; p < COUNT(pieces); p++) { /* in the order of the file: read one after the other */
        int width = pieces[p].dims[0] * (pieces[p].dims[1] ? pieces[p].dims[1] : 1);
        assert_non_null(strstr(positions, pieces[p].positions));
        shape = json_object_get(json_object_get(root, pieces[p].name), "shape");
        assert_int_equal(json_array_size(shape), pieces[p].dims[1] ? 3 : 2);
        assert_int_equal(json_integer_value(json_array_get(shape, 0)), pieces[p].n);
        assert_int_equal(json_integer_value(json_array_get(shape, 1)), pieces[p].dims[0]);
        for (k = 0; k < pieces[p].n; k++)
            for (i = 0; i < width; i++) {
                float x;
                assert_int_equal(fread(&x, 4, 1, f), 1);
                assert_float_equal(x, fix_activation(3, pieces[p].record, pieces[p].layer, pieces[p].at[k], i), 0);
            }
    }
    assert_int_equal(fgetc(f), EOF);
    fclose(f);
    json_decref(root);
    free(head);
    unlink(path);
}

static void a_cache_that_is_not_there_is_told(void **state)
{
    const char *path = fix_path();
    static const char *const cases[][3] = {{"sf/transplant", "prefill", "there are: edited, end, pass"},
                                           {"sf/noop", "end", "no cache of 'sf/noop' was kept"},
                                           {"ny/baseline", "prefill", "no answer yet"},
                                           {"ny/nothing", "prefill", "no job 'ny/nothing'"}};
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        err e = {0};
        assert_int_equal(query_export(db_path, NULL, cases[i][0], cases[i][1], path, &e), -1);
        assert_int_equal(e.code, ERR_NOTHING);
        if (!strstr(e.msg, cases[i][2])) fail_msg("%s", e.msg);
        assert_int_equal(access(path, F_OK), -1);
    }
    err e = {0};
    assert_int_equal(query_export(db_path, NULL, "sf/transplant", "end", "/nowhere/x.safetensors", &e), -1);
    assert_non_null(strstr(e.msg, "/nowhere"));
}

static void exec_on(const char *path, const char *sql)
{
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK) fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    sqlite3_close(db);
}

static void hostile_databases_give_errors(void **state)
{
    static const char *const harm[] = {
        "UPDATE blob_data SET data=substr(data, 1, length(data)-1)",
        "UPDATE blob_data SET data=zeroblob(length(data))",
        "UPDATE blob_data SET data=x''",
        "UPDATE blob SET raw_bytes=raw_bytes*1000000+(id<<10)",
        "UPDATE blob SET raw_bytes=-1",
        "UPDATE blob SET raw_bytes=raw_bytes/2",
        "UPDATE blob SET codec='sib2'",
        "UPDATE blob SET codec='stored'",
        "UPDATE blob SET dtype='bf16'",
        "UPDATE blob SET xxh128=zeroblob(16) WHERE id=3; UPDATE blob SET xxh128=randomblob(16) WHERE id<>3",
        "DELETE FROM kv_chunk WHERE layer=1",
        "UPDATE kv_chunk SET n_tok=1000000000",
        "UPDATE kv_chunk SET tok_start=tok_start+1",
        "UPDATE kv_capture SET tok_end=9000000000000000000",
        "UPDATE kv_capture SET tok_end=100000000",
        "UPDATE model SET head_dim=0",
        "UPDATE model SET n_kv_head=99999, head_dim=99999",
        "UPDATE model SET n_layer=1000000000",
        "DROP VIEW v_latest; CREATE VIEW v_latest AS SELECT 'x' spec_job_id, 'y' spec_id, x'00' job_id, NULL attempt_id",
        "DROP VIEW v_spec; CREATE VIEW v_spec AS SELECT x'ff' AS experiment, max(spec_id) AS spec_id FROM spec_job, v_spec",
        "DROP VIEW v_spec; CREATE VIEW v_spec AS SELECT kv_decode(1) AS experiment, 1 AS spec_id",
        "PRAGMA foreign_keys=OFF; DROP TABLE blob",
        "PRAGMA foreign_keys=OFF; DROP TABLE spec_job; CREATE TABLE spec_job(id, spec_id, label)",
        "PRAGMA foreign_keys=OFF; DELETE FROM prompt; DELETE FROM run; DELETE FROM model",
    };
    int i;
    (void)state;
    for (i = 0; i < COUNT(harm); i++) {
        const char *path = fix_path();
        char target[80], command[256];
        err e = {0};
        char *text;
        int code;
        snprintf(command, sizeof command, "cp %s %s", db_path, path);
        assert_int_equal(system(command), 0);
        snprintf(target, sizeof target, "%s.safetensors", path);
        exec_on(path, "PRAGMA foreign_keys=OFF");
        exec_on(path, harm[i]);
        if (!query_export(path, NULL, "sf/transplant", "edited", target, &e)) fail_msg("exported after: %s", harm[i]);
        assert_true(e.code == ERR_DB || e.code == ERR_NOTHING);
        assert_int_equal(access(target, F_OK), -1);
        text = show(path, NULL, "sf/transplant", &code);
        assert_true(code == 0 || code == ERR_DB || code == ERR_NOTHING);
        free(text);
        free(rows(path, "SELECT vec_l2(kv_decode(blob_id), kv_decode(blob_id)) FROM v_kv", QUERY_JSON, 0, &code));
        assert_true(code == 0 || code == ERR_DB || code == ERR_INPUT);
        fix_remove(path);
    }
}

static void hostile_activations_give_errors(void **state)
{
    static const char *const harm[] = {
        "UPDATE kv_chunk SET n_tok=1000000000 WHERE tensor='resid'",
        "UPDATE kv_chunk SET n_tok=n_tok+1 WHERE tensor='attn'",
        "UPDATE kv_chunk SET n_tok=0 WHERE tensor='embed'",
        "UPDATE kv_chunk SET tok_start=-1 WHERE tensor='resid' AND tok_start=0",
        "UPDATE kv_chunk SET tok_start=tok_start+100 WHERE tensor='resid'",
        "UPDATE kv_chunk SET tok_start=9223372036854775807 WHERE tensor='embed'",
        "UPDATE kv_chunk SET tok_start=1 WHERE tensor='resid' AND tok_start=3",
        "UPDATE kv_chunk SET layer=99 WHERE tensor='attn'",
        "UPDATE kv_chunk SET layer=-5 WHERE tensor='attn'",
        "UPDATE kv_chunk SET tensor='logits' WHERE tensor='attn'",
        "UPDATE kv_chunk SET tensor='k' WHERE tensor='attn'",
        "UPDATE kv_chunk SET blob_id=(SELECT blob_id FROM kv_chunk WHERE tensor='embed' LIMIT 1) WHERE tensor='resid'",
        "UPDATE kv_capture SET tok_end=2 WHERE moment='pass'",
        "UPDATE blob SET dtype='f16'",
        "UPDATE model SET n_embd=31",
        "UPDATE model SET n_head=1000000000",
        "UPDATE model SET n_embd=0",
    };
    int i;
    (void)state;
    for (i = 0; i < COUNT(harm); i++) {
        const char *path = fix_path();
        char target[80], command[256];
        err e = {0};
        snprintf(command, sizeof command, "cp %s %s", db_path, path);
        assert_int_equal(system(command), 0);
        snprintf(target, sizeof target, "%s.safetensors", path);
        exec_on(path, harm[i]);
        if (!query_export(path, NULL, "sf/transplant", "pass", target, &e)) fail_msg("exported after: %s", harm[i]);
        assert_int_equal(e.code, ERR_DB);
        assert_int_equal(access(target, F_OK), -1);
        fix_remove(path);
    }
}

static void damaged_pages_give_errors(void **state)
{
    const char *path = fix_path();
    char copy[80], target[80];
    unsigned seed = 3;
    struct stat info;
    int i, k, n, code;
    (void)state;
    fill(path);
    stat(path, &info);
    snprintf(copy, sizeof copy, "%s.copy", path);
    snprintf(target, sizeof target, "%s.safetensors", path);
    for (i = 0; i < 60; i++) {
        char command[256];
        err e = {0};
        FILE *f;
        snprintf(command, sizeof command, "cp %s %s", path, copy);
        assert_int_equal(system(command), 0);
        f = fopen(copy, "r+b");
        for (k = 0; k < 60; k++) {
            fseek(f, i % 2 ? rand_r(&seed) % 65536 : (long)(rand_r(&seed) % (unsigned)info.st_size), SEEK_SET);
            fputc(rand_r(&seed) & 0xff, f);
        }
        fclose(f);
        free(show(copy, NULL, "sf/transplant", &code));
        for (n = 1; query_example(n, NULL); n++) free(rows(copy, query_example(n, NULL), QUERY_TABLE, 80, &code));
        query_export(copy, NULL, "sf/transplant", "edited", target, &e);
        unlink(target);
        fix_remove(copy);
    }
    fix_remove(path);
}

static void files_that_are_not_ours_are_refused(void **state)
{
    int code;
    char *text = rows("/nowhere/x.db", "SELECT 1", QUERY_CSV, 0, &code);
    const char *path = fix_path();
    FILE *f;
    (void)state;
    assert_int_equal(code, ERR_DB);
    assert_non_null(strstr(text, "No such file"));
    free(text);
    f = fopen(path, "wb");
    fclose(f);
    text = rows(path, "SELECT 1", QUERY_CSV, 0, &code);
    assert_int_equal(code, ERR_DB);
    assert_non_null(strstr(text, "is not a kvrun database"));
    free(text);
    fix_remove(path);
}

static void a_database_in_a_folder_one_may_not_write_to_can_be_read(void **state)
{
    char dir[256], path[300], command[1024];
    int code;
    char *text;
    (void)state;
    if (getuid() == 0) skip(); /* root may write everywhere */
    snprintf(dir, sizeof dir, "%s.d", fix_path());
    snprintf(path, sizeof path, "%s/x.db", dir);
    mkdir(dir, 0700);
    snprintf(command, sizeof command, "cp %s %s", db_path, path);
    assert_int_equal(system(command), 0);
    chmod(path, 0400);
    chmod(dir, 0500);
    text = rows(path, "SELECT count(*) AS n FROM v_result", QUERY_CSV, 0, &code);
    chmod(dir, 0700);
    fix_remove(path);
    rmdir(dir);
    assert_string_equal(text, "n\r\n4\r\n");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(csv_is_rfc_4180),
        cmocka_unit_test(json_is_one_array_of_objects),
        cmocka_unit_test(json_numbers_read_back_as_the_same_numbers),
        cmocka_unit_test(markdown_escapes_bars),
        cmocka_unit_test(tables_align_by_the_columns_a_terminal_uses),
        cmocka_unit_test(long_tables_stream_behind_the_rows_that_decide_the_widths),
        cmocka_unit_test(anything_but_one_question_is_refused),
        cmocka_unit_test(every_example_runs),
        cmocka_unit_test(functions_compute_with_what_caches_hold),
        cmocka_unit_test(a_job_is_shown_as_a_page),
        cmocka_unit_test(an_unknown_label_is_answered_with_near_ones),
        cmocka_unit_test(a_label_of_two_experiments_needs_the_experiment),
        cmocka_unit_test(a_cache_is_exported_as_safetensors),
        cmocka_unit_test(edits_in_flight_are_shown_apart),
        cmocka_unit_test(activations_are_exported_as_safetensors),
        cmocka_unit_test(a_cache_that_is_not_there_is_told),
        cmocka_unit_test(hostile_databases_give_errors),
        cmocka_unit_test(hostile_activations_give_errors),
        cmocka_unit_test(damaged_pages_give_errors),
        cmocka_unit_test(files_that_are_not_ours_are_refused),
        cmocka_unit_test(a_database_in_a_folder_one_may_not_write_to_can_be_read),
    };
    fix_make_jobs();
    fix_add_flight();
    return cmocka_run_group_tests(tests, setup, teardown);
}
