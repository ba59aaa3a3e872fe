/* outcome.h: what the model said, as a table: a row per condition, a column per prompt, the words looked for marked.
 *
 * Prompts that do not fit side by side go into a second block of columns; columns of one group (the two names of an entry)
 * stay together. A text is cut to its column; a newline shows as ⏎.
 *
 *     struct outcome o = {.rows = rows, .n_rows = 3, .columns = prompts, .n_columns = 2, .cells = cells, .width = 100};
 *     o.n_marks = outcome_marks(spec, mem, &o.marks);
 *     outcome_text(&o, &out);
 */
#ifndef RUNNER_OUTCOME_H
#define RUNNER_OUTCOME_H

#include "spec.h"

struct outcome_cell {
    const char *text; /* NULL: show note */
    size_t n;
    const char *note; /* "failed"; NULL: no such job */
};

/* Words to mark where they stand as whole words. */
struct outcome_mark {
    const char *name;         /* of the metric */
    const char *const *words; /* (n) */
    int n;
    bool casefold;
    int colour; /* marks of one metric have one colour: 0, 1, .. */
    int column; /* the column they are for, or -1: all */
};

struct outcome {
    const char *const *rows, *const *columns; /* (n_rows), (n_columns) names */
    int n_rows, n_columns;
    const int *groups;                /* (n_columns) equal neighbours stay together; NULL: each is alone */
    const struct outcome_cell *cells; /* (n_rows, n_columns) */
    const struct outcome_mark *marks; /* (n_marks) */
    int n_marks;
    const char *corner; /* what stands above the names of the rows; NULL: nothing */
    int width;          /* columns of the terminal; < 40 counts as 40 */
    bool colour;        /* ANSI colours; else «words» */
};

void outcome_text(const struct outcome *o, struct buf *out);

/* The words of the spec's mentions metrics, for a table whose columns are the spec's prompts. Returns their number. */
int outcome_marks(const struct spec *s, arena *mem, const struct outcome_mark **out);

#endif
