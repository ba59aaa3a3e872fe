/* whole_file.h: a file that takes its name only when it is whole; until then it stands beside it under another one.
 *
 *     struct whole_file w;
 *     if (whole_open(&w, path, e)) return -1;
 *     rc = write_all(w.f) ? whole_error(path, e) : 0;
 *     return whole_close(&w, rc, e);              // nothing is left of a file that failed
 */
#ifndef RUNNER_WHOLE_FILE_H
#define RUNNER_WHOLE_FILE_H

#include "../engine/base.h"

#include <stdio.h>

struct whole_file {
    FILE *f;
    const char *path; /* borrowed */
    struct buf part;  /* its name until it is whole */
};

int whole_open(struct whole_file *w, const char *path, err *e);
/* Gives the file its name, or with rc != 0 removes it. 0, or -1. */
int whole_close(struct whole_file *w, int rc, err *e);
/* What errno says of writing path: ERR_DISK when the disk is full, else ERR_INPUT. Always -1. */
int whole_error(const char *path, err *e);

#endif
