/* test_store.c: what is put is there whole or not at all, is found again, and is stored once. */
#include "fake_engine.c"
#include "store_fixture.c"

#include "../../runner/db.h"
#include "../../runner/kvcodec.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

#define OK(call)                                            \
    do {                                                    \
        int r_ = (call);                                    \
        if (r_ || e.code) fail_msg("%s: %s", #call, e.msg); \
    } while (0)

static const int says_sf[] = {1, 2, 5, -1}, says_ny[] = {3, 4, 5, -1};
static cache cache_a = {&fake_engine, 150, 1, -1};

static int64_t ask(store *st, const char *sql)
{
    err e = {0};
    int64_t n = db_id(store_sqlite(st), NULL, &e, sql, "");
    if (e.code) fail_msg("%s: %s", sql, e.msg);
    return n;
}

static const char *ask_text(store *st, const char *sql)
{
    static char text[256];
    sqlite3_stmt *stmt = NULL;
    err e = {0};
    assert_int_equal(db_query(store_sqlite(st), &stmt, &e, sql, ""), 1);
    snprintf(text, sizeof text, "%s", (const char *)sqlite3_column_text(stmt, 0));
    sqlite3_finalize(stmt);
    return text;
}

static void assert_clean(store *st)
{
    assert_string_equal(ask_text(st, "PRAGMA integrity_check"), "ok");
    assert_int_equal(ask(st, "SELECT count(*) FROM pragma_foreign_key_check"), 0);
}

static store *opened(const char *path)
{
    err e = {0};
    store *st;
    OK(store_open(&st, path, &e));
    return st;
}

static store *begun(const char *path)
{
    err e = {0};
    struct run_info info = fix_run();
    store *st = opened(path);
    OK(store_begin(st, &info, &e));
    return st;
}

static void a_new_file_has_the_settings_of_the_schema(void **state)
{
    const char *path = fix_path();
    store *st = opened(path);
    (void)state;
    assert_int_equal(ask(st, "PRAGMA application_id"), 0x6B767231);
    assert_int_equal(ask(st, "PRAGMA user_version"), 2);
    assert_int_equal(ask(st, "PRAGMA page_size"), 16384);
    assert_int_equal(ask(st, "PRAGMA auto_vacuum"), 2);
    assert_string_equal(ask_text(st, "PRAGMA journal_mode"), "wal");
    assert_int_equal(ask(st, "PRAGMA foreign_keys"), 1);
    store_close(st);
    fix_remove(path);
}

static void everything_asked_is_registered_before_the_first_answer(void **state)
{
    const char *path = fix_path();
    store *st = begun(path);
    (void)state;
    assert_int_equal(ask(st, "SELECT count(*) FROM spec_job"), 10);
    assert_int_equal(ask(st, "SELECT count(*) FROM job"), 10);
    assert_int_equal(ask(st, "SELECT count(*) FROM intervention"), 8);
    assert_int_equal(ask(st, "SELECT count(*) FROM factor WHERE num=2 AND value='2'"), 2);
    assert_int_equal(ask(st, "SELECT count(*) FROM prompt_span WHERE name='city' AND edges='space'"), 2);
    assert_int_equal(ask(st, "SELECT count(*) FROM v_prompt_token WHERE prompt='ny' AND experiment='needle'"), 4);
    assert_string_equal(ask_text(st, "SELECT token FROM v_prompt_token WHERE prompt='ny' AND pos=2"), " York");
    assert_string_equal(ask_text(st, "SELECT p.name FROM spec_job sj JOIN intervention i USING (job_id)"
                                     " JOIN spec_prompt p ON p.prompt_id=i.donor_prompt_id WHERE sj.label='sf/transplant'"),
                        "ny");
    assert_string_equal(
        ask_text(st, "SELECT b.label FROM spec_job a JOIN spec_job b ON b.id=a.baseline_id WHERE a.label='ny/noop'"),
        "ny/baseline");
    assert_string_equal(ask_text(st, "SELECT status FROM run"), "running");
    assert_int_equal(strlen(store_run_uuid(st)), 36);
    assert_int_equal(store_run_uuid(st)[14], '7');
    assert_clean(st);
    store_close(st);
    fix_remove(path);
}

static void an_answer_is_found_by_key_numerics_and_captures(void **state)
{
    const char *path = fix_path();
    store *st = begun(path);
    struct run_info info = fix_run();
    engine other = fake_engine;
    err e = {0};
    (void)state;
    assert_int_equal(store_has(st, 0, &e), 0);
    OK(fix_put(st, 0, says_sf, &cache_a, &e));
    OK(fix_put(st, 1, says_sf, &cache_a, &e));
    assert_int_equal(store_has(st, 0, &e), 1);
    assert_int_equal(store_has(st, 1, &e), 1);
    assert_int_equal(store_has(st, 5, &e), 0);
    fix_job[1].moments = MOMENT_END; /* what was stored is not enough any more */
    assert_int_equal(store_has(st, 1, &e), 0);
    fix_make_jobs();
    OK(store_end(st, "done", 0, &e));
    store_close(st);

    st = begun(path); /* the same spec again: same rows, another run */
    assert_int_equal(store_has(st, 0, &e), 1);
    assert_int_equal(ask(st, "SELECT count(*) FROM spec"), 1);
    assert_int_equal(ask(st, "SELECT count(*) FROM run"), 2);
    assert_int_equal(ask(st, "SELECT count(*) FROM spec_job"), 10);
    info.fresh = true;
    OK(store_begin(st, &info, &e));
    assert_int_equal(store_has(st, 0, &e), 0);
    info.fresh = false;
    info.en = &other;
    other.info.numerics = "n2:cpu:kv-f32";
    OK(store_begin(st, &info, &e));
    assert_int_equal(store_has(st, 0, &e), 0);
    assert_clean(st);
    store_close(st);
    fix_remove(path);
}

static void views_show_what_was_put(void **state)
{
    const char *path = fix_path();
    store *st = begun(path);
    static const int broken[] = {1, 7, -1}; /* ends inside a character */
    err e = {0};
    (void)state;
    OK(fix_put(st, 0, says_sf, &cache_a, &e));
    OK(fix_put(st, 3, broken, &cache_a, &e));
    assert_string_equal(ask_text(st, "SELECT text FROM v_result WHERE label='sf/baseline'"), " San Francisco.");
    assert_string_equal(ask_text(st, "SELECT text FROM v_result WHERE label='sf/transplant'"), " San\xef\xbf\xbd\xef\xbf\xbd");
    assert_int_equal(ask(st, "SELECT sum(text_lossy) FROM generation"), 1);
    assert_string_equal(ask_text(st, "SELECT group_concat(token,'|') FROM v_token WHERE label='sf/transplant' ORDER BY step"),
                        " San|\\xe2\\x82");
    assert_int_equal(ask(st, "SELECT count(*) FROM v_token WHERE margin IS NULL"), 2); /* an infinite margin */
    assert_int_equal(ask(st, "SELECT first_diff_step FROM v_divergence WHERE label='sf/transplant'"), 1);
    assert_int_equal(ask(st, "SELECT count(*) FROM v_kv WHERE label='sf/transplant' AND moment='end'"), 3 * 2 * 3);
    assert_int_equal(ask(st, "SELECT sum(n_tok) FROM v_kv WHERE label='sf/baseline' AND layer=2 AND tensor='v'"), 150);
    assert_int_equal(ask(st, "SELECT n_prompt*100+n_gen FROM v_result WHERE label='sf/baseline'"), 403);
    assert_clean(st);
    store_close(st);
    fix_remove(path);
}

static void a_text_that_ends_first_leaves_its_baseline_at_its_end(void **state)
{
    const char *path = fix_path();
    static const int shorter[] = {1, 2, -1}, longer[] = {1, 2, 5, 5, -1};
    store *st = begun(path);
    err e = {0};
    (void)state;
    OK(fix_put(st, 0, says_sf, &cache_a, &e));
    OK(fix_put(st, 1, shorter, &cache_a, &e));
    OK(fix_put(st, 2, longer, &cache_a, &e));
    OK(fix_put(st, 4, says_sf, &cache_a, &e));
    assert_int_equal(ask(st, "SELECT first_diff_step FROM v_divergence WHERE label='sf/zero/layer=0'"), 2);
    assert_int_equal(ask(st, "SELECT first_diff_step FROM v_divergence WHERE label='sf/zero/layer=2'"), 3);
    assert_int_equal(ask(st, "SELECT count(*) FROM v_divergence"), 2);
    store_close(st);
    fix_remove(path);
}

static void the_newest_run_decides_which_spec_the_views_show(void **state)
{
    const char *path = fix_path();
    store *st = begun(path);
    struct run_info info = fix_run();
    struct spec second = fix_spec;
    struct jobs fewer = fix_jobs;
    err e = {0};
    (void)state;
    OK(fix_put(st, 0, says_sf, &cache_a, &e));
    OK(fix_put(st, 5, says_ny, &cache_a, &e));
    second.sha256[0] = 8;
    fewer.n = 5;
    info.spec = &second;
    info.jobs = &fewer;
    OK(store_begin(st, &info, &e));
    assert_int_equal(ask(st, "SELECT count(*) FROM spec"), 2);
    assert_string_equal(ask_text(st, "SELECT group_concat(label) FROM v_result"), "sf/baseline");
    info = fix_run();
    OK(store_begin(st, &info, &e)); /* back to the first wording */
    assert_int_equal(ask(st, "SELECT count(*) FROM spec"), 2);
    assert_int_equal(ask(st, "SELECT count(*) FROM v_result"), 2);
    assert_clean(st);
    store_close(st);
    fix_remove(path);
}

static void a_failed_job_is_recorded_and_is_no_answer(void **state)
{
    const char *path = fix_path();
    store *st = begun(path);
    err e = {0}, why = {ERR_FAIL, "logit 3 is not finite"};
    (void)state;
    OK(store_put(st, &(struct result){.job = 2, .failed = &why, .stop = GEN_STOP_FAILED}, &e));
    assert_int_equal(store_has(st, 2, &e), 0);
    assert_string_equal(ask_text(st, "SELECT error_message FROM attempt WHERE status='failed' AND error_code=1"), why.msg);
    OK(fix_put(st, 2, says_sf, &cache_a, &e));
    assert_int_equal(store_has(st, 2, &e), 1);
    store_close(st);
    fix_remove(path);
}

static void a_put_that_fails_leaves_nothing(void **state)
{
    const char *path = fix_path();
    store *st = begun(path);
    static const char *const tables[] = {"attempt", "generation", "step", "kv_capture", "kv_chunk", "blob", "blob_data"};
    static const char *const triggers[] = {
        "ON kv_chunk WHEN NEW.layer=2 AND NEW.tok_start=64 BEGIN SELECT RAISE(ABORT,'boom')",
        "ON blob_data WHEN NEW.blob_id=7 BEGIN SELECT RAISE(ROLLBACK,'boom')",
        "ON step WHEN NEW.step=2 BEGIN SELECT RAISE(FAIL,'boom')",
    };
    char sql[160];
    int i, k;
    (void)state;
    for (i = 0; i < COUNT(triggers); i++) {
        err e = {0};
        snprintf(sql, sizeof sql, "CREATE TEMP TRIGGER boom BEFORE INSERT %s; END", triggers[i]);
        OK(store_exec(st, &e, sql, ""));
        assert_int_equal(fix_put(st, 0, says_sf, &cache_a, &e), -1);
        assert_int_equal(e.code, ERR_DB);
        assert_non_null(strstr(e.msg, "sf/baseline"));
        assert_non_null(strstr(e.msg, "boom"));
        for (k = 0; k < COUNT(tables); k++) {
            snprintf(sql, sizeof sql, "SELECT count(*) FROM %s", tables[k]);
            assert_int_equal(ask(st, sql), 0);
        }
        e = (err){0};
        OK(store_exec(st, &e, "DROP TRIGGER boom", ""));
        assert_int_equal(store_has(st, 0, &e), 0);
    }
    err e = {0};
    OK(fix_put(st, 0, says_sf, &cache_a, &e)); /* and nothing remembered is wrong now */
    assert_int_equal(ask(st, "SELECT count(*) FROM v_kv"), 3 * 2 * 3);
    assert_clean(st);
    store_close(st);
    fix_remove(path);
}

static void a_full_disk_has_its_own_code(void **state)
{
    const char *path = fix_path();
    store *st = begun(path);
    err e = {0};
    (void)state;
    ask(st, "PRAGMA max_page_count=1"); /* SQLite keeps what is there and refuses more */
    assert_int_equal(fix_put(st, 0, says_sf, &cache_a, &e), -1);
    assert_int_equal(e.code, ERR_DISK);
    assert_int_equal(ask(st, "SELECT count(*) FROM attempt"), 0);
    ask(st, "PRAGMA max_page_count=1000000");
    e = (err){0};
    OK(fix_put(st, 0, says_sf, &cache_a, &e));
    store_close(st);
    fix_remove(path);
}

static void equal_chunks_are_stored_once(void **state)
{
    const char *path = fix_path();
    cache sibling = {&fake_engine, 150, 1, 140}; /* differs in the last block alone */
    store *st = begun(path);
    err e = {0};
    (void)state;
    OK(fix_put(st, 0, says_sf, &cache_a, &e));
    assert_int_equal(ask(st, "SELECT count(*) FROM blob"), 18);
    OK(fix_put(st, 5, says_ny, &sibling, &e));
    assert_int_equal(ask(st, "SELECT count(*) FROM blob"), 18 + 6);
    assert_int_equal(ask(st, "SELECT count(*) FROM v_kv"), 36);
    store_close(st);
    st = begun(path); /* with nothing remembered */
    e = (err){0};
    OK(fix_put(st, 3, says_sf, &cache_a, &e));
    assert_int_equal(ask(st, "SELECT count(*) FROM blob"), 18 + 6);
    assert_int_equal(ask(st, "SELECT chunks FROM v_storage"), 36 + 36);
    assert_int_equal(ask(st, "SELECT blobs FROM v_storage"), 24);
    assert_int_equal(ask(st, "SELECT stored_bytes=(SELECT sum(length(data)) FROM blob_data) FROM v_storage"), 1);
    assert_clean(st);
    store_close(st);
    fix_remove(path);
}

static void chunks_unpack_to_the_bytes_of_the_cache(void **state)
{
    const char *path = fix_path();
    store *st = begun(path);
    sqlite3_stmt *stmt = NULL;
    char raw[64 * 16 * 4], back[64 * 16 * 4];
    err e = {0};
    int r, n = 0;
    (void)state;
    OK(fix_put(st, 0, says_sf, &cache_a, &e));
    r = db_query(store_sqlite(st), &stmt, &e,
                 "SELECT layer, tensor, tok_start, n_tok, raw_bytes, codec, data FROM v_kv JOIN blob_data USING (blob_id)", "");
    for (; r == 1; r = db_next(store_sqlite(st), stmt, &e), n++) {
        int tokens = sqlite3_column_int(stmt, 3);
        size_t bytes = (size_t)sqlite3_column_int(stmt, 4);
        enum kv_codec codec;
        assert_int_equal(bytes, tokens * 16 * 4);
        assert_int_equal(kvcodec_from_name((const char *)sqlite3_column_text(stmt, 5), &codec), 0);
        cache_read(&cache_a, sqlite3_column_int(stmt, 0), *sqlite3_column_text(stmt, 1) == 'k' ? CACHE_K : CACHE_V,
                   sqlite3_column_int(stmt, 2), tokens, raw);
        OK(kvcodec_unpack(codec, sqlite3_column_blob(stmt, 6), (size_t)sqlite3_column_bytes(stmt, 6), back, bytes, &e));
        assert_memory_equal(raw, back, bytes);
    }
    sqlite3_finalize(stmt);
    assert_int_equal(r, 0);
    assert_int_equal(n, 18);
    store_close(st);
    fix_remove(path);
}

static void activations_are_stored_in_runs_and_missed_when_more_are_wanted(void **state)
{
    static const int more_at[] = {0, 1, 2, 3}, less_at[] = {1, 3}, layers[] = {0, 1, 2};
    struct job_record wanted = {SITE_RESID, fix_resid_layers, less_at, 2, 2};
    const char *path = fix_path();
    store *st;
    err e = {0};
    (void)state;
    fix_add_flight();
    st = begun(path);
    assert_int_equal(store_has(st, 0, &e), 0);
    OK(fix_put(st, 0, says_sf, &cache_a, &e));
    assert_int_equal(store_has(st, 0, &e), 1);
    assert_string_equal(ask_text(st, "SELECT group_concat(tensor || layer || '@' || tok_start || '+' || n_tok, ' ') FROM"
                                     " (SELECT * FROM v_kv WHERE moment='pass' ORDER BY tensor, layer, tok_start)"),
                        "attn1@2+2 embed-1@3+1 resid0@0+2 resid0@3+1 resid2@0+2 resid2@3+1");
    assert_int_equal(ask(st, "SELECT count(*) FROM v_kv WHERE moment='pass' AND k_space IS NULL AND dtype='f32'"), 6);
    assert_int_equal(ask(st, "SELECT sum(raw_bytes) FROM v_kv WHERE moment='pass'"), (2 * 3 * 32 + 32 + 2 * 16) * 4);
    fix_job[0].records = &wanted;
    fix_job[0].n_records = 1;
    assert_int_equal(store_has(st, 0, &e), 1); /* fewer positions of the same */
    wanted.at = more_at, wanted.n_at = 4;
    assert_int_equal(store_has(st, 0, &e), 0);
    wanted.at = less_at, wanted.n_at = 2, wanted.layers = layers, wanted.n_layers = 3;
    assert_int_equal(store_has(st, 0, &e), 0);
    wanted.layers = fix_resid_layers, wanted.n_layers = 2, wanted.site = SITE_MLP_OUT;
    assert_int_equal(store_has(st, 0, &e), 0);
    fix_job[0].n_records = 0;
    assert_int_equal(store_has(st, 0, &e), 1);
    assert_clean(st);
    store_close(st);
    fix_make_jobs();
    fix_remove(path);
}

static void edits_in_flight_are_registered_with_what_they_take(void **state)
{
    const char *path = fix_path();
    store *st;
    (void)state;
    fix_add_flight();
    st = begun(path);
    assert_string_equal(
        ask_text(st, "SELECT group_concat(op || ' ' || tensor || ' ' || timing || ' ' || layers_json || heads_json ||"
                     " ' ' || printf('%g', amount), '; ') FROM (SELECT i.* FROM intervention i JOIN spec_job"
                     " USING (job_id) WHERE label='ny/transplant' ORDER BY ord)"),
        "add resid prefill [0,1,2][] -2.5; add head_out prefill [2][0,1] 1; scale embed prefill [-1][] 0.1; "
        "scale v finished_cache [0][0,1] 2");
    assert_int_equal(ask(st, "SELECT count(*) FROM intervention WHERE amount IS NULL"), 7);
    assert_string_equal(ask_text(st, "SELECT substr(hex(vector_sha256),1,4) FROM intervention WHERE vector_sha256 IS NOT NULL"),
                        "ABCD");
    assert_string_equal(ask_text(st, "SELECT d.name || donor_positions_json || m.name || minus_positions_json FROM intervention"
                                     " JOIN spec_prompt d ON d.prompt_id=donor_prompt_id JOIN spec_prompt m ON"
                                     " m.prompt_id=minus_prompt_id"),
                        "sf[3]ny[2]");
    assert_clean(st);
    store_close(st);
    fix_make_jobs();
    fix_remove(path);
}

static void a_model_without_a_tokenizer_has_numbers_alone(void **state)
{
    const char *path = fix_path();
    engine none = fake_engine;
    struct run_info info = fix_run();
    store *st = opened(path);
    err e = {0};
    (void)state;
    none.info.tokenizer_kind = "none";
    info.en = &none;
    OK(store_begin(st, &info, &e));
    OK(fix_put(st, 0, says_sf, &cache_a, &e));
    assert_string_equal(ask_text(st, "SELECT kind FROM tokenizer"), "none");
    assert_int_equal(ask(st, "SELECT count(*) FROM token"), 0);
    assert_int_equal(ask(st, "SELECT count(*) FROM v_token WHERE token IS NULL"), 3);
    store_close(st);
    fix_remove(path);
}

static void a_run_whose_process_died_becomes_lost(void **state)
{
    const char *path = fix_path();
    pid_t child = fork();
    int status;
    store *st;
    (void)state;
    if (child == 0) {
        struct run_info info = fix_run();
        err e = {0};
        _exit(store_open(&st, path, &e) || store_begin(st, &info, &e));
    }
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
    st = begun(path);
    assert_string_equal(ask_text(st, "SELECT group_concat(status) FROM (SELECT status FROM run ORDER BY id)"), "lost,running");
    store_close(st);
    fix_remove(path);
}

static void many_processes_may_make_the_file_at_once(void **state)
{
    enum { N = 6, ROUNDS = 5 };
    int round, i, status;
    store *st;
    (void)state;
    for (round = 0; round < ROUNDS; round++) {
        const char *path = fix_path();
        for (i = 0; i < N; i++)
            if (fork() == 0) {
                struct run_info info = fix_run();
                err e = {0};
                int r = store_open(&st, path, &e) || store_begin(st, &info, &e) || fix_put(st, i, says_sf, &cache_a, &e);
                if (r) fprintf(stderr, "%s\n", e.msg);
                _exit(r);
            }
        for (i = 0; i < N; i++) {
            assert_true(wait(&status) > 0);
            assert_int_equal(status, 0);
        }
        st = opened(path);
        assert_int_equal(ask(st, "SELECT count(*) FROM run"), N);
        assert_int_equal(ask(st, "SELECT count(*) FROM spec"), 1);
        assert_int_equal(ask(st, "SELECT count(*) FROM v_result"), N);
        assert_int_equal(ask(st, "SELECT count(*) FROM meta"), 3);
        assert_clean(st);
        store_close(st);
        fix_remove(path);
    }
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void exec_on(const char *path, const char *sql)
{
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static void assert_refused(const char *path, const char *says)
{
    err e = {0};
    store *st = NULL;
    sqlite3 *db = NULL;
    assert_int_equal(store_open(&st, path, &e), -1);
    assert_null(st);
    assert_int_equal(e.code, ERR_DB);
    if (!strstr(e.msg, says)) fail_msg("'%s' does not say '%s'", e.msg, says);
    e = (err){0};
    assert_int_equal(db_open_read(&db, path, &e), -1);
    if (!strstr(e.msg, says)) fail_msg("'%s' does not say '%s'", e.msg, says);
}

static void files_that_are_not_ours_are_refused_and_stay_as_they_are(void **state)
{
    const char *path = fix_path();
    char text[4096] = {0};
    FILE *f;
    (void)state;
    memset(text, 'x', 3000);
    write_file(path, text);
    assert_refused(path, "is not a kvrun database");
    f = fopen(path, "rb");
    assert_int_equal(fread(text, 1, sizeof text, f), 3000);
    fclose(f);
    fix_remove(path);
    exec_on(path, "CREATE TABLE recipes(name); INSERT INTO recipes VALUES('soup')");
    assert_refused(path, "is not a kvrun database");
    exec_on(path, "INSERT INTO recipes VALUES('bread')");
    fix_remove(path);
    assert_refused("/nowhere/at/all.db", "No such file");
    assert_refused("/tmp", "cannot open");
}

static void a_newer_or_unknown_schema_is_told_apart(void **state)
{
    const char *path = fix_path();
    (void)state;
    store_close(opened(path));
    exec_on(path, "PRAGMA user_version=5");
    assert_refused(path, "made by a newer kvrun (schema 5); this one reads up to 2");
    exec_on(path, "PRAGMA user_version=0");
    assert_refused(path, "damaged");
    fix_remove(path);
}

static void altered_tables_give_errors(void **state)
{
    static const char *const harm[] = {
        "DROP TABLE kv_chunk",
        "DROP TABLE attempt",
        "DROP TABLE step; CREATE TABLE step(attempt_id, step, token_id, logprob)",
        "DROP VIEW v_result; DROP TABLE spec_job; CREATE VIEW spec_job AS SELECT 1 AS id",
        "CREATE TRIGGER t BEFORE INSERT ON attempt BEGIN SELECT load_extension('x'); END",
    };
    int i;
    (void)state;
    for (i = 0; i < COUNT(harm); i++) {
        const char *path = fix_path();
        struct run_info info = fix_run();
        err e = {0};
        store *st;
        sqlite3 *db;
        store_close(opened(path));
        assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
        sqlite3_db_config(db, SQLITE_DBCONFIG_LEGACY_ALTER_TABLE, 1, NULL);
        sqlite3_exec(db, harm[i], NULL, NULL, NULL);
        sqlite3_close(db);
        st = opened(path);
        if (!store_begin(st, &info, &e)) fix_put(st, 0, says_sf, &cache_a, &e);
        if (e.code != ERR_DB) fail_msg("no error after: %s", harm[i]);
        store_close(st);
        fix_remove(path);
    }
}

static void damaged_pages_give_errors(void **state)
{
    const char *path = fix_path();
    unsigned seed = 1;
    int i, k;
    char copy[80];
    (void)state;
    store *st = begun(path);
    err e = {0};
    OK(fix_put(st, 0, says_sf, &cache_a, &e));
    store_close(st);
    snprintf(copy, sizeof copy, "%s.copy", path);
    for (i = 0; i < 60; i++) {
        char command[256];
        struct run_info info = fix_run();
        FILE *f;
        snprintf(command, sizeof command, "cp %s %s", path, copy);
        assert_int_equal(system(command), 0);
        f = fopen(copy, "r+b");
        for (k = 0; k < 40; k++) {
            fseek(f, (long)(rand_r(&seed) % (i % 2 ? 16384 * 4 : 16384 * 40)), SEEK_SET);
            fputc(rand_r(&seed) & 0xff, f);
        }
        fclose(f);
        e = (err){0};
        if (!store_open(&st, copy, &e)) {
            if (!store_begin(st, &info, &e) && store_has(st, 0, &e) >= 0) fix_put(st, 1, says_sf, &cache_a, &e);
            store_close(st);
        }
        assert_true(e.code == 0 || e.code == ERR_DB || e.code == ERR_DISK);
        fix_remove(copy);
    }
    fix_remove(path);
}

static void twenty_thousand_jobs_are_registered_in_seconds(void **state)
{
    enum { N = 20000 };
    const char *path = fix_path();
    struct run_info info = fix_run();
    struct jobs many = fix_jobs;
    char(*labels)[24] = mem_array(N, sizeof *labels);
    store *st = opened(path);
    int64_t before = 0, after;
    err e = {0};
    int i;
    (void)state;
    many.jobs = mem_array(N, sizeof *many.jobs);
    many.n = N;
    for (i = 0; i < N; i++) {
        many.jobs[i] = fix_job[2];
        snprintf(labels[i], sizeof labels[i], "sf/zero/n=%d", i);
        many.jobs[i].label = labels[i];
        memcpy(many.jobs[i].key, &i, sizeof i);
        many.jobs[i].key[31] = 200;
    }
    info.jobs = &many;
    before = clock();
    OK(store_begin(st, &info, &e));
    after = clock();
    print_message("%d jobs: %.1f s of CPU\n", N, (double)(after - before) / CLOCKS_PER_SEC);
    assert_true(after - before < 30 * (int64_t)CLOCKS_PER_SEC); /* 2 s with sanitizers, 0.5 s without */
    assert_int_equal(ask(st, "SELECT count(*) FROM spec_job"), N);
    OK(store_begin(st, &info, &e));
    assert_int_equal(store_has(st, N - 1, &e), 0);
    store_close(st);
    free(many.jobs);
    free(labels);
    fix_remove(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_file_has_the_settings_of_the_schema),
        cmocka_unit_test(everything_asked_is_registered_before_the_first_answer),
        cmocka_unit_test(an_answer_is_found_by_key_numerics_and_captures),
        cmocka_unit_test(views_show_what_was_put),
        cmocka_unit_test(a_text_that_ends_first_leaves_its_baseline_at_its_end),
        cmocka_unit_test(the_newest_run_decides_which_spec_the_views_show),
        cmocka_unit_test(a_failed_job_is_recorded_and_is_no_answer),
        cmocka_unit_test(a_put_that_fails_leaves_nothing),
        cmocka_unit_test(a_full_disk_has_its_own_code),
        cmocka_unit_test(equal_chunks_are_stored_once),
        cmocka_unit_test(chunks_unpack_to_the_bytes_of_the_cache),
        cmocka_unit_test(activations_are_stored_in_runs_and_missed_when_more_are_wanted),
        cmocka_unit_test(edits_in_flight_are_registered_with_what_they_take),
        cmocka_unit_test(a_model_without_a_tokenizer_has_numbers_alone),
        cmocka_unit_test(a_run_whose_process_died_becomes_lost),
        cmocka_unit_test(many_processes_may_make_the_file_at_once),
        cmocka_unit_test(files_that_are_not_ours_are_refused_and_stay_as_they_are),
        cmocka_unit_test(a_newer_or_unknown_schema_is_told_apart),
        cmocka_unit_test(altered_tables_give_errors),
        cmocka_unit_test(damaged_pages_give_errors),
        cmocka_unit_test(twenty_thousand_jobs_are_registered_in_seconds),
    };
    fix_make_jobs();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
