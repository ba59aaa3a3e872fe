/* test_metric.c: words are whole words of any script; a divergence is where the tokens say it is; distances, logits and
 * partners are what their definitions say; what was computed before a stop stays; controls that differ fail. */
#include "fake_engine.c"
#include "store_fixture.c"

#include "../../runner/control.h"
#include "../../runner/db.h"
#include "../../runner/distance.h"
#include "../../runner/metric.h"
#include "../../runner/partner.h"
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

/* ---- distances ---- */

static int64_t plain_distance(const int32_t *a, size_t n, const int32_t *b, size_t m)
{
    int64_t row[256], corner, up;
    size_t i, j;
    for (j = 0; j <= m; j++) row[j] = (int64_t)j;
    for (i = 1; i <= n; i++) {
        corner = row[0];
        row[0] = (int64_t)i;
        for (j = 1; j <= m; j++) {
            up = row[j];
            row[j] = corner + (a[i - 1] != b[j - 1]);
            if (row[j - 1] + 1 < row[j]) row[j] = row[j - 1] + 1;
            if (up + 1 < row[j]) row[j] = up + 1;
            corner = up;
        }
    }
    return row[m];
}

static void distances_are_levenshteins(void **state)
{
    unsigned seed = 3;
    int round;
    (void)state;
    for (round = 0; round < 3000; round++) {
        int32_t a[200], b[200];
        size_t n = (size_t)rand_r(&seed) % 200, m = 0, i;
        int letters = 1 + rand_r(&seed) % 6, change = rand_r(&seed) % 100;
        for (i = 0; i < n; i++) a[i] = rand_r(&seed) % letters;
        for (i = 0; i < n && m < 200; i++) { /* a with changes, from none to all of it */
            int what = rand_r(&seed) % 300;
            if (what >= change)
                b[m++] = a[i];
            else if (what % 3 == 0)
                b[m++] = rand_r(&seed) % letters;
            else if (what % 3 == 1 && m + 2 < 200)
                b[m++] = a[i], b[m++] = rand_r(&seed) % letters;
        }
        if (distance_of(a, n, b, m) != plain_distance(a, n, b, m) || distance_of(b, m, a, n) != plain_distance(a, n, b, m))
            fail_msg("round %d: %d", round, (int)distance_of(a, n, b, m));
    }
    assert_int_equal(distance_of(NULL, 0, NULL, 0), 0);
}

static void characters_are_code_points(void **state)
{
    size_t n, m;
    int32_t *a = distance_points("Stra\xc3\x9f"
                                 "e\xff",
                                 8, &n),
            *b = distance_points("Strasse", 7, &m);
    (void)state;
    assert_int_equal(n, 7);
    assert_int_equal(a[4], 0xdf);
    assert_int_equal(a[6], -0xff);
    assert_int_equal(distance_of(a, n, b, m), 3);
    free(a);
    free(b);
}

/* ---- logits ---- */

static void logits_say_what_they_say(void **state)
{
    const float p[4] = {1, 3, 3, -2}, q[4] = {0, 0, 0, 0};
    double sum = logits_sum(p, 4), expected = 0;
    struct answer a = logits_answer(p, 4, sum, 2);
    float margin;
    int i;
    (void)state;
    assert_true(fabs(sum - log(exp(1) + 2 * exp(3) + exp(-2))) < 1e-12);
    assert_int_equal(a.rank, 1); /* as large as the largest */
    assert_int_equal(logits_answer(p, 4, sum, 0).rank, 3);
    assert_true(fabs(a.logprob - (3 - sum)) < 1e-12 && a.logit == 3);
    for (i = 0; i < 4; i++) expected += exp((double)p[i] - sum) * ((double)p[i] - sum - log(0.25));
    assert_true(fabs(logits_kl(p, sum, q, logits_sum(q, 4), 4) - expected) < 1e-12);
    assert_true(logits_kl(p, sum, p, sum, 4) == 0);
    assert_int_equal(logits_best(p, 4, &margin), 1);
    assert_true(margin == 0);
    assert_int_equal(logits_best((const float[]){-1, 2, 7}, 3, &margin), 2);
    assert_true(margin == 5);
}

/* ---- partners ---- */

/* Two prompts x (a baseline over the first axis, a sweep over both): a hundred thousand jobs. */
static void a_hundred_thousand_partners_are_found_at_once(void **state)
{
    enum { A = 50, B = 1000 };
    static struct axis axes[2] = {{.name = "a"}, {.name = "b"}};
    static int over[2] = {0, 1};
    static struct condition conditions[3] = {
        {.name = "base", .over = over, .n_over = 1}, {.name = "sweep", .over = over, .n_over = 2}, {.name = "none"}};
    static char texts[B][12];
    struct spec s = fix_spec;
    struct jobs jobs = {.prompts = fix_prompts, .n_prompts = 2};
    struct axis_value *values = mem_array(2 * (size_t)A * (B + 1), 2 * sizeof *values), *v = values;
    struct partners *p;
    int prompt, a, b, i;
    (void)state;
    s.axes = axes, s.n_axes = 2, s.conditions = conditions, s.n_conditions = 3;
    jobs.jobs = mem_array(2 * (size_t)A * (B + 1), sizeof *jobs.jobs);
    for (i = 0; i < B; i++) snprintf(texts[i], sizeof texts[i], "%d", i);
    for (prompt = 0; prompt < 2; prompt++)
        for (b = -1; b < B; b++)
            for (a = 0; a < A; a++) {
                v[0] = (struct axis_value){.axis = 0, .text = texts[a]};
                if (b >= 0) v[1] = (struct axis_value){.axis = 1, .text = texts[b]};
                jobs.jobs[jobs.n++] =
                    (struct job){.prompt = prompt, .condition = b >= 0, .values = v, .n_values = b < 0 ? 1 : 2};
                v += 2;
            }
    assert_true(jobs.n > 100000);
    p = partner_new(&s, &jobs);
    for (i = 0; i < jobs.n; i++) {
        int own = jobs.jobs[i].prompt, other = i & 1 ? 0 : 1, half = jobs.n / 2, a_of = i % half % A;
        if (partner_of(p, i, own, 0) != i / half * half + a_of) fail_msg("job %d: %d", i, partner_of(p, i, own, 0));
        if (partner_of(p, i, other, 0) != other * half + a_of) fail_msg("job %d on the other prompt", i);
        if (jobs.jobs[i].n_values == 2 && partner_of(p, i, own, 1) != i) fail_msg("job %d is not its own partner", i);
    }
    assert_int_equal(partner_of(p, 0, 0, 2), -1);
    assert_int_equal(partner_of(p, 7, 0, 1), A + 7); /* without the axis: the first one */
    partner_free(p);
    free(jobs.jobs);
    free(values);
}

/* ---- passes ---- */

static struct fake_passes {
    int feeds, stop_after, opened;
    int own[10]; /* the only token of each job's answer */
} fed;

static int fake_open(void *arg, const int *jobs, int n, err *e)
{
    (void)arg, (void)jobs, (void)e;
    fed.opened += n;
    return 0;
}

/* Every job's logits choose its own token by 1.5, as fix_put stores it. */
static int fake_feed(void *arg, const struct forced *f, err *e)
{
    int k;
    (void)arg;
    if (fed.feeds++ == fed.stop_after) return 1;
    assert_int_equal(f->n_steps, 1);
    for (k = 0; k < f->n; k++) {
        float ref[FAKE_WORDS] = {0}, row[FAKE_WORDS] = {0};
        ref[f->tokens[0]] = 1.5f;
        row[fed.own[f->jobs[k]]] = 1.5f;
        if (f->visit(f->arg, k, 0, ref, row, e)) return -1;
    }
    return 0;
}

static void fake_close(void *arg)
{
    (void)arg;
}

static void fake_progress(void *arg, const char *what, int done, int all)
{
    (void)arg, (void)what;
    assert_true(done <= all);
}

static void what_was_computed_before_a_stop_stays(void **state)
{
    static const struct metric_passes passes = {NULL, fake_open, fake_feed, fake_close, fake_progress};
    static struct metric metrics[2] = {{.name = "kl", .kind = METRIC_KL, .per = PER_STEP},
                                       {.name = "diff", .kind = METRIC_LOGPROB_DIFF, .per = PER_STEP}};
    cache c = {&fake_engine, 3, 1, -1};
    const char *path = fix_path();
    struct run_info info = fix_run();
    struct spec s = fix_spec;
    store *st;
    err e = {0};
    int i;
    (void)state;
    s.metrics = metrics, s.n_metrics = 2;
    info.spec = &s;
    if (store_open(&st, path, &e) || store_begin(st, &info, &e)) fail_msg("%s", e.msg);
    for (i = 0; i < 10; i++) {
        int tokens[2] = {fed.own[i] = 1 + i % 5, -1};
        fix_put(st, i, tokens, &c, &e);
    }
    fed.feeds = fed.opened = 0, fed.stop_after = 1;
    assert_int_equal(metric_compute(st, &s, &fix_jobs, &passes, &e), 1);
    assert_int_equal(fed.opened, 10); /* each prompt's four jobs beside its baseline */
    assert_string_equal(
        all(st, "SELECT group_concat(DISTINCT prompt)||count(*) FROM v_metric WHERE label NOT LIKE '%baseline'"), "sf8");
    fed.feeds = 0, fed.stop_after = -1;
    assert_int_equal(metric_compute(st, &s, &fix_jobs, &passes, &e), 0);
    assert_int_equal(fed.feeds, 1); /* the other prompt's */
    assert_string_equal(all(st, "SELECT count(*)||' '||count(DISTINCT label) FROM v_metric"), "20 10");
    assert_string_equal(all(st, "SELECT count(*)||' '||sum(step) FROM v_metric_part"), "20 0");
    assert_string_equal(all(st, "SELECT value=0 FROM v_metric WHERE label LIKE '%baseline'"), "1 1 1 1");
    fed.feeds = 0;
    assert_int_equal(metric_compute(st, &s, &fix_jobs, &passes, &e), 0);
    assert_int_equal(fed.feeds, 0);
    if (store_begin(st, &info, &e)) fail_msg("%s", e.msg);
    fix_put(st, 3, (const int[]){4, -1}, &c, &e); /* a new answer: what is of it is made anew */
    assert_int_equal(metric_compute(st, &s, &fix_jobs, &passes, &e), 0);
    assert_int_equal(fed.feeds, 1);
    fed.own[3] = 2; /* no longer what is stored */
    if (store_begin(st, &info, &e)) fail_msg("%s", e.msg);
    fix_put(st, 3, (const int[]){4, -1}, &c, &e);
    assert_int_equal(metric_compute(st, &s, &fix_jobs, &passes, &e), -1);
    assert_non_null(strstr(e.msg, "'sf/transplant', made again"));
    assert_string_equal(all(st, "PRAGMA integrity_check"), "ok");
    store_close(st);
    fix_remove(path);
}

/* ---- bytes ---- */

static void evicted_tokens_do_not_count(void **state)
{
    static struct metric m = {.name = "bytes", .kind = METRIC_STATE_SIZE, .per = PER_LAYER, .against = -1};
    static int ends[] = {0, 2}, first_head[] = {0}, fed_new[] = {0, 2};
    static const struct job_score two = {SCORE_POSITION, false, 2};
    /* At the prompt's tokens 1 and 2 in two layers of one head; two of three by a score; the first new token and one that is
       never fed; one when the fourth new token is fed, which does not come. */
    struct job_op ops[] = {
        {.op = EDIT_EVICT, .layers = ends, .n_layers = 2, .heads = first_head, .n_heads = 1, .at = fix_at, .n_at = 2},
        {.op = EDIT_EVICT,
         .layers = ends,
         .n_layers = 1,
         .heads = fix_heads,
         .n_heads = 2,
         .at = fix_at,
         .n_at = 2,
         .score = &two},
        {.op = EDIT_EVICT,
         .when = WHEN_STEPS,
         .layers = ends,
         .n_layers = 1,
         .heads = fix_heads,
         .n_heads = 2,
         .gen_at = fed_new,
         .n_gen_at = 2},
        {.op = EDIT_EVICT,
         .when = WHEN_STEPS,
         .first_step = 3,
         .layers = fix_all_layers,
         .n_layers = 3,
         .heads = fix_heads,
         .n_heads = 2,
         .at = fix_late,
         .n_at = 1}};
    cache c = {&fake_engine, 3, 1, -1};
    const char *path = fix_path();
    struct run_info info = fix_run();
    struct spec s = fix_spec;
    struct job was = fix_job[3];
    store *st;
    err e = {0};
    (void)state;
    s.metrics = &m, s.n_metrics = 1;
    info.spec = &s;
    if (store_open(&st, path, &e) || store_begin(st, &info, &e)) fail_msg("%s", e.msg);
    fix_put(st, 0, (const int[]){1, 2, 5, -1}, &c, &e); /* 4 + 3 - 1 tokens are in the cache: 6 * 8 * 4 bytes for each head */
    fix_put(st, 3, (const int[]){1, 2, 5, -1}, &c, &e);
    fix_job[3].ops = ops;
    fix_job[3].n_ops = COUNT(ops);
    assert_int_equal(metric_compute(st, &s, &fix_jobs, NULL, &e), 0);
    fix_job[3] = was;
    assert_string_equal(all(st, "SELECT CAST(value AS int) FROM v_metric ORDER BY label"), "2304 1664");
    assert_string_equal(all(st, "SELECT CAST(value AS int) FROM v_metric_part WHERE label='sf/baseline' AND layer=0"),
                        "384 384 512 64");
    /* layer 0: 2 of head 0, 2 more of each by the score, 1 new token of each; layer 2: 2 of head 0 */
    assert_string_equal(
        all(st, "SELECT CAST(value/32 AS int) FROM v_metric_part WHERE label='sf/transplant' AND tensor='k' ORDER BY layer"),
        "4 12 10");
    store_close(st);
    fix_remove(path);
}

/* ---- controls ---- */

static char *verdict_of(const struct job *control, const struct gen_pick *a, int n_a, const struct gen_pick *b, int n_b)
{
    const char *path = fix_path();
    struct run_info info = fix_run();
    struct control_sum sum;
    struct job was = fix_job[4];
    store *st;
    err e = {0};
    char *text;
    fix_job[4].control = control->control;
    if (store_open(&st, path, &e) || store_begin(st, &info, &e)) fail_msg("%s", e.msg);
    if (a) store_put(st, &(struct result){.job = 0, .picks = a, .n = n_a, .text = ""}, &e);
    if (b) store_put(st, &(struct result){.job = 4, .picks = b, .n = n_b, .text = ""}, &e);
    if (e.code || control_judge(st, &fix_jobs, &sum, &e)) fail_msg("%s", e.msg);
    text = all(st, "SELECT verdict||': '||detail FROM v_control WHERE label='sf/noop'");
    assert_int_equal(sum.fail, !strncmp(text, "fail", 4));
    assert_int_equal(sum.fail > 0, *sum.failed != 0);
    store_close(st);
    fix_remove(path);
    fix_job[4] = was;
    return text;
}

static void verdicts(void **state)
{
    static const struct gen_pick base[3] = {{1, -0.5f, 2}, {2, -0.25f, 0.001f}, {5, -1, 3}};
    static const struct gen_pick near[3] = {{1, -0.5005f, 2}, {2, -0.2501f, 0.0011f}, {5, -1, 3}};
    static const struct gen_pick tie[3] = {{1, -0.5f, 2}, {3, -0.9f, 0.001f}, {7, -1, 3}};
    static const struct gen_pick far[3] = {{1, -0.5f, 2}, {2, -0.2f, 0.001f}, {5, -1, 3}};
    static const struct gen_pick other[3] = {{4, -0.5f, 2}, {2, -0.25f, 0.001f}, {5, -1, 3}};
    static const struct job same = {.control = CONTROL_SAME}, close = {.control = CONTROL_CLOSE},
                            shown = {.control = CONTROL_SHOWN};
    (void)state;
    assert_string_equal(verdict_of(&same, base, 3, base, 3), "pass: bit-equal to sf/baseline");
    assert_string_equal(verdict_of(&same, base, 3, near, 3), "fail: step 0: log-probability -0.500500023, not -0.5");
    assert_string_equal(verdict_of(&same, base, 3, base, 2), "fail: step 2: one text has ended, the other has not");
    assert_string_equal(verdict_of(&close, base, 3, near, 3), "pass: as sf/baseline");
    assert_string_equal(verdict_of(&close, base, 3, tie, 3), "pass: equal up to a tie at step 1 (margin 0.001)");
    assert_string_equal(verdict_of(&close, base, 3, far, 3), "fail: step 1: log-probability -0.2, not -0.25");
    assert_string_equal(verdict_of(&close, base, 3, other, 3), "fail: step 0: token 4, not 1, which led by 2");
    assert_string_equal(verdict_of(&close, base, 2, base, 3), "fail: step 2: one text has ended, the other has not");
    assert_string_equal(verdict_of(&shown, base, 3, other, 3), "shown: to be compared by the reader");
    assert_string_equal(verdict_of(&same, NULL, 0, base, 3), "missing: 'sf/baseline' has no answer");
    assert_string_equal(verdict_of(&same, base, 3, NULL, 0), "missing: it has no answer");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_word_counts_only_as_a_whole),
        cmocka_unit_test(metrics_follow_from_what_is_stored),
        cmocka_unit_test(a_partner_over_an_axis_has_the_same_value),
        cmocka_unit_test(distances_are_levenshteins),
        cmocka_unit_test(characters_are_code_points),
        cmocka_unit_test(logits_say_what_they_say),
        cmocka_unit_test(a_hundred_thousand_partners_are_found_at_once),
        cmocka_unit_test(what_was_computed_before_a_stop_stays),
        cmocka_unit_test(evicted_tokens_do_not_count),
        cmocka_unit_test(verdicts),
    };
    fix_make_jobs();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
