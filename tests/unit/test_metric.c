/* test_metric.c: words are whole words of any script; a divergence is where the tokens say it is. */
#include "fake_engine.c"
#include "store_fixture.c"

#include "../../runner/db.h"
#include "../../runner/metric.h"
#include "../../runner/words.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const struct mention {
    const char *text, *word;
    bool casefold, found;
} mention_cases[] = {
    {"Any city but NY.", "NY", false, true},
    {"ANY city", "NY", false, false},
    {"NYC", "NY", false, false},
    {"NY", "NY", false, true},
    {"(NY)", "NY", false, true},
    {"ny", "NY", false, false},
    {"ny", "NY", true, true},
    {"to New York!", "New York", false, true},
    {"to New  York!", "New York", false, false},
    {"NY2", "NY", false, false},
    {"2NY", "NY", false, false},
    {"ANY NY", "NY", false, true}, /* the second place counts */
    {"N", "NY", false, false},
    {"", "NY", false, false},
    {"text", "", false, false},
    {"die STRASSE da", "Straße", true, true}, /* one letter folds to two */
    {"Straße", "strasse", true, true},
    {"ΟΔΥΣΣΕΥΣ", "Οδυσσευς", true, true},
    {"Москва", "москва", true, true},
    {"Москва", "Моск", false, false},
    {"東京都", "東京", false, false}, /* letters stand on its right */
    {"東京、", "東京", false, true},
    {"cafe\xcc\x81", "cafe", false, false}, /* the mark belongs to the e */
    {"x²", "x", false, false},
    {"_NY_", "NY", false, true}, /* neither letter nor digit */
    {"\xff NY \xe2\x82", "NY", false, true},
    {"\xffNY", "NY", false, true},
    {"costs $5", "$5", false, true},
    {"costs $55", "$5", false, false},
};

static void a_word_counts_only_as_a_whole(void **state)
{
    size_t i;
    (void)state;
    for (i = 0; i < sizeof mention_cases / sizeof *mention_cases; i++) {
        const struct mention *m = &mention_cases[i];
        if (words_in(m->text, strlen(m->text), m->word, m->casefold) != m->found)
            fail_msg("'%s' in '%s': not %d", m->word, m->text, m->found);
    }
}

static char *all(store *st, const char *sql)
{
    static char text[2048];
    sqlite3_stmt *stmt = NULL;
    err e = {0};
    int r = db_query(store_sqlite(st), &stmt, &e, sql, "");
    *text = 0;
    for (; r == 1; r = db_next(store_sqlite(st), stmt, &e)) {
        const char *v = (const char *)sqlite3_column_text(stmt, 0);
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", *text ? " " : "", v ? v : "NULL");
    }
    if (e.code) fail_msg("%s", e.msg);
    sqlite3_finalize(stmt);
    return text;
}

static const struct spec *computed = &fix_spec;

static void finish(store *st, const char *status, int code)
{
    err e = {0};
    if (metric_compute(st, computed, &fix_jobs, NULL, &e) || store_end(st, status, code, &e)) fail_msg("%s", e.msg);
}

static void metrics_follow_from_what_is_stored(void **state)
{
    static const int sf[] = {1, 2, 5, -1}, ny[] = {3, 4, 5, -1}, sf_short[] = {1, 2, -1}, mix[] = {1, 4, 5, -1};
    cache c = {&fake_engine, 3, 1, -1};
    const char *path = fix_path();
    struct run_info info = fix_run();
    store *st;
    err e = {0};
    (void)state;
    if (store_open(&st, path, &e) || store_begin(st, &info, &e)) fail_msg("%s", e.msg);
    fix_put(st, 0, sf, &c, &e);
    fix_put(st, 1, ny, &c, &e);
    fix_put(st, 2, sf_short, &c, &e);
    fix_put(st, 3, mix, &c, &e);
    fix_put(st, 4, sf, &c, &e);
    fix_put(st, 6, ny, &c, &e); /* its baseline has no answer */
    finish(st, "done", 0);
    assert_string_equal(
        all(st, "SELECT label||'='||cast(value AS int) FROM v_metric WHERE metric='needle_own' ORDER BY spec_job_id"),
        "sf/baseline=1 sf/zero/layer=0=0 sf/zero/layer=2=1 sf/transplant=0 sf/noop=1 ny/zero/layer=0=1");
    assert_string_equal(all(st, "SELECT cast(value AS int) FROM v_metric WHERE metric='needle_other' ORDER BY spec_job_id"),
                        "0 1 0 0 0 0");
    assert_string_equal(all(st, "SELECT cast(value AS int) FROM v_metric WHERE metric='says_york' ORDER BY spec_job_id"),
                        "0 1 0 1 0 1");
    assert_string_equal(
        all(st, "SELECT coalesce(cast(value AS int),flag) FROM v_metric WHERE metric='first_divergence' ORDER BY spec_job_id"),
        "undefined 0 2 1 undefined");
    assert_string_equal(all(st, "SELECT status||exit_code FROM run"), "done0");

    if (store_begin(st, &info, &e)) fail_msg("%s", e.msg); /* the same experiment again: a new answer, values replaced */
    fix_put(st, 0, ny, &c, &e);
    assert_string_equal(all(st, "SELECT count(*) FROM v_metric WHERE label='sf/baseline'"),
                        "0"); /* none of the new answer yet */
    finish(st, "interrupted", 75);
    assert_string_equal(all(st, "SELECT cast(value AS int) FROM v_metric WHERE label='sf/baseline' AND metric LIKE 'needle%'"),
                        "0 1");
    assert_string_equal(all(st, "SELECT count(*) FROM metric_def"), "4");
    assert_string_equal(all(st, "PRAGMA integrity_check"), "ok");
    assert_string_equal(all(st, "SELECT count(*) FROM pragma_foreign_key_check"), "0");
    assert_string_equal(all(st, "SELECT definition_json FROM metric_def WHERE name='first_divergence'"),
                        "{\"against\":\"baseline\",\"metric\":\"first_divergence\"}");
    store_close(st);
    fix_remove(path);
}

static void a_partner_over_an_axis_has_the_same_value(void **state)
{
    static const int sf[] = {1, 2, 5, -1}, ny[] = {3, 4, 5, -1};
    cache c = {&fake_engine, 3, 1, -1};
    const char *path = fix_path();
    struct run_info info = fix_run();
    struct spec against_zero = fix_spec;
    struct metric m = fix_metrics[3];
    store *st;
    err e = {0};
    (void)state;
    m.against = 1; /* zero, over layer */
    against_zero.metrics = &m;
    against_zero.n_metrics = 1;
    info.spec = computed = &against_zero;
    if (store_open(&st, path, &e) || store_begin(st, &info, &e)) fail_msg("%s", e.msg);
    fix_put(st, 1, sf, &c, &e);
    fix_put(st, 2, ny, &c, &e);
    fix_put(st, 3, ny, &c, &e);
    finish(st, "done", 0);
    /* each of the two against itself; a job without the axis against the first */
    assert_string_equal(all(st, "SELECT label||'='||coalesce(cast(value AS int),flag) FROM v_metric ORDER BY spec_job_id"),
                        "sf/zero/layer=0=undefined sf/zero/layer=2=undefined sf/transplant=0");
    computed = &fix_spec;
    store_close(st);
    fix_remove(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_word_counts_only_as_a_whole),
        cmocka_unit_test(metrics_follow_from_what_is_stored),
        cmocka_unit_test(a_partner_over_an_axis_has_the_same_value),
    };
    fix_make_jobs();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
