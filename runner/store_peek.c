/* store_peek.c: which jobs have an answer already, for a plan: reads, and makes no file. */
#include "db.h"
#include "store.h"

#include <unistd.h>

int store_peek(const char *path, const struct jobs *j, const char *numerics, bool *answered, err *e)
{
    sqlite3_stmt *find = NULL;
    sqlite3 *db;
    int i, r = 0;
    for (i = 0; i < j->n; i++) answered[i] = false;
    if (access(path, F_OK) != 0) return 0;
    if (db_open_read(&db, path, e)) return -1;
    for (i = 0; i < j->n && r >= 0; i++) {
        r = db_query(db, &find, e,
                     "SELECT 1 FROM job JOIN attempt a ON a.job_id=job.id WHERE job.key=? AND a.status='done' AND a.numerics=?",
                     "bs", j->jobs[i].key, sizeof j->jobs[i].key, numerics);
        answered[i] = r == 1;
    }
    sqlite3_finalize(find);
    db_close(db);
    return r < 0 ? -1 : 0;
}
