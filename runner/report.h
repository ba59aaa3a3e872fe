/* report.h: an experiment's results as one HTML page that opens from disk: no network, no library, no other file.
 *
 * On it: the controls' verdicts, the outcome table, K and V difference maps layer by layer, maps and lines over the axes of
 * sweeps, storage and speed, where it all comes from, the spec. Under each part stands the SQL that gave its numbers, word for
 * word, to be asked again with kvrun sql; a number on the page is a <data> element with all its digits.
 *
 *     report_write("results.db", NULL, "needle.html", e);
 */
#ifndef RUNNER_REPORT_H
#define RUNNER_REPORT_H

#include "../engine/base.h"

/* experiment: NULL where the database has one. The file takes its name only when it is whole. ERR_NOTHING: no such experiment,
   or several and none named. */
int report_write(const char *db, const char *experiment, const char *path, err *e);

#endif
