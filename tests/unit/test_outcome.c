/* test_outcome.c: the table of outcomes, to the byte. */
#include "../../runner/outcome.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
/* cmocka needs the headers above it */
#include <cmocka.h>

static const char *const rows[] = {"baseline", "zero layer=3"}, *const columns[] = {"city_sf", "city_ny", "trip_sf", "trip_ny"};
static const char *const sf_words[] = {"San Francisco", "SF"}, *const ny_words[] = {"new york", "NYC", "New York City"};
static const struct outcome_mark marks[] = {{"says_sf", sf_words, 2, false, 0, -1}, {"says_ny", ny_words, 3, true, 1, -1}};

#define CELL(s)                  \
    {                            \
        (s), sizeof(s) - 1, NULL \
    }

static char *table(const struct outcome *o)
{
    struct buf out = {0};
    outcome_text(o, &out);
    return buf_take(&out);
}

static void assert_table(const struct outcome *o, const char *want)
{
    char *got = table(o);
    assert_string_equal(got, want);
    free(got);
}

static void words_are_marked_where_they_stand_alone(void **state)
{
    const struct outcome_cell cells[] = {
        CELL(" San Francisco.\nSFO is in SF"), CELL(" New York City, not NYCX"), CELL("the newest york"), {NULL, 0, "failed"}};
    struct outcome o = {.rows = rows,
                        .columns = columns,
                        .n_rows = 2,
                        .n_columns = 2,
                        .cells = cells,
                        .marks = marks,
                        .n_marks = 2,
                        .width = 80};
    (void)state;
    assert_table(&o, "              city_sf                          city_ny\n"
                     "baseline      «San Francisco».⏎SFO is in «SF»  «New York City», not NYCX\n"
                     "zero layer=3  the newest york                  failed\n"
                     "marked: says_sf, says_ny\n");
}

static void colours_take_no_room(void **state)
{
    const struct outcome_cell cells[] = {CELL("In SF now")};
    struct outcome o = {.rows = rows,
                        .columns = columns,
                        .n_rows = 1,
                        .n_columns = 1,
                        .cells = cells,
                        .marks = marks,
                        .n_marks = 2,
                        .width = 80,
                        .colour = true};
    (void)state;
    assert_table(
        &o, "          city_sf\nbaseline  In \033[32mSF\033[0m now\nmarked: \033[32msays_sf\033[0m, \033[33msays_ny\033[0m\n");
}

static void a_long_text_is_cut_to_its_column(void **state)
{
    const struct outcome_cell cells[] = {
        CELL("0123456789012345678901234567890123456789"), CELL("012345678901234567890123456 SF x"),
        CELL("東京東京東京東京東京東京東京東京東京東京"), CELL("exactly thirty columns are 30!")};
    struct outcome o = {.rows = rows,
                        .columns = columns,
                        .n_rows = 2,
                        .n_columns = 2,
                        .cells = cells,
                        .marks = marks,
                        .n_marks = 2,
                        .width = 76};
    (void)state;
    assert_table(&o, "              city_sf                         city_ny\n"
                     "baseline      01234567890123456789012345678…  012345678901234567890123456 …\n"
                     "zero layer=3  東京東京東京東京東京東京東京…   exactly thirty columns are 30!\n"
                     "marked: says_sf, says_ny\n");
}

static void a_mark_is_closed_where_the_text_is_cut(void **state)
{
    const struct outcome_cell cells[] = {CELL("In the far and foggy city of San Francisco")};
    struct outcome o = {.rows = rows,
                        .columns = columns,
                        .n_rows = 1,
                        .n_columns = 1,
                        .cells = cells,
                        .marks = marks,
                        .n_marks = 2,
                        .width = 44};
    (void)state;
    assert_table(&o, "          city_sf\nbaseline  In the far and foggy city of «Sa»…\nmarked: says_sf, says_ny\n");
}

static void pairs_of_prompts_stay_together_in_blocks(void **state)
{
    const int groups[] = {0, 0, 1, 1};
    const struct outcome_cell cells[] = {CELL("a text that goes on and on for long"), CELL("b"),
                                         CELL("a third text that goes on and on"), CELL("a fourth text of the same length")};
    struct outcome o = {
        .rows = rows, .columns = columns, .n_rows = 1, .n_columns = 4, .groups = groups, .cells = cells, .width = 70};
    (void)state;
    assert_table(&o, "          city_sf                              city_ny\n"
                     "baseline  a text that goes on and on for long  b\n"
                     "\n"
                     "          trip_sf                        trip_ny\n"
                     "baseline  a third text that goes on an…  a fourth text of the same le…\n");
    o.width = 100;
    assert_table(&o, "          city_sf                    city_ny  trip_sf                    trip_ny\n"
                     "baseline  a text that goes on and …  b        a third text that goes o…  a fourth text of the sam…\n");
}

static void bytes_that_drive_a_terminal_do_not_reach_it(void **state)
{
    const struct outcome_cell cells[] = {CELL("a\033[2Jb\xff\t\xe2\x80\xae c")};
    struct outcome o = {.rows = rows, .columns = columns, .n_rows = 1, .n_columns = 1, .cells = cells, .width = 80};
    (void)state;
    assert_table(&o, "          city_sf\nbaseline  a�[2Jb� � c\n");
}

static void a_narrow_terminal_still_gets_a_table(void **state)
{
    const int groups[] = {0, 0, 0, 0};
    const struct outcome_cell cells[] = {CELL("a"), CELL("b"), CELL("c"), CELL("d")};
    struct outcome o = {
        .rows = rows, .columns = columns, .n_rows = 1, .n_columns = 4, .groups = groups, .cells = cells, .width = 1};
    (void)state;
    assert_table(&o, "          city_sf  city_ny  trip_sf\nbaseline  a        b        c\n\n          trip_ny\nbaseline  d\n");
}

static void marks_of_a_spec_follow_own_and_other(void **state)
{
    static const char spec[] = "kvrun: 1\nexperiment: x\nmodel: { path: m.gguf }\nprompts:\n  - name: [sf, ny]\n    slots: { "
                               "c: [SF, NY] }\n    text: 'to {{c}}'\n"
                               "conditions: [{ name: baseline }]\ndecode: { greedy: true, max_tokens: 4 }\nmetrics:\n"
                               "  - { name: own, mentions: { sf: [SF], ny: [NY], which: own } }\n  - { name: other, mentions: "
                               "{ sf: [SF], ny: [NY], which: other } }\n"
                               "  - { name: any, mentions: { any: [LA], normalise: casefold } }\n";
    const struct outcome_mark *m;
    struct diag *d = NULL;
    struct spec *s = NULL;
    (void)state;
    assert_int_equal(spec_parse(&s, "x.yaml", spec, strlen(spec), &d), 0);
    assert_int_equal(outcome_marks(s, s->mem, &m), 5);
    assert_int_equal(m[0].column, 0);
    assert_int_equal(m[1].column, 1);
    assert_int_equal(m[2].column, 1);
    assert_string_equal(m[2].words[0], "SF");
    assert_int_equal(m[2].colour, 1);
    assert_int_equal(m[4].column, -1);
    assert_true(m[4].casefold);
    assert_int_equal(m[4].colour, 2);
    spec_free(s);
    diag_free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_marked_where_they_stand_alone),
        cmocka_unit_test(colours_take_no_room),
        cmocka_unit_test(a_long_text_is_cut_to_its_column),
        cmocka_unit_test(a_mark_is_closed_where_the_text_is_cut),
        cmocka_unit_test(pairs_of_prompts_stay_together_in_blocks),
        cmocka_unit_test(bytes_that_drive_a_terminal_do_not_reach_it),
        cmocka_unit_test(a_narrow_terminal_still_gets_a_table),
        cmocka_unit_test(marks_of_a_spec_follow_own_and_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
