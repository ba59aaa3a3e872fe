/* db_migrate.h: a database of an older schema is brought to the present one, in one transaction: all of it or nothing.
 *
 * A copy as it was is made first, beside the file, unless it is large: path.v1.bak.
 */
#ifndef RUNNER_DB_MIGRATE_H
#define RUNNER_DB_MIGRATE_H

#include "db.h"

/* db is open for writing and of schema `from`; schema: the text of the present one. Tells on stderr. ERR_DB, ERR_DISK. */
int db_migrate(sqlite3 *db, const char *path, int from, const char *schema, err *e);

#endif
