/* db.c: opening our files and running statements; see db.h.
 *
 * Who makes the file: everybody who finds it empty takes the write lock, looks again, and writes the schema if nobody did in
 * the meantime. So no lock file is needed and a process that dies half-way leaves an empty file, not a broken one.
 */
#include "db.h"
#include "build_info.h"
#include "db_migrate.h"
#include "schema_sql.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

enum {
    APPLICATION_ID = 0x6B767231, /* 'kvr1' */
    BUSY_MS = 30000,
    LENGTH_MAX = 256 << 20, /* bytes of a row: far above any chunk, so that a wrong size fails early */
};

/* ---- errors ---- */

int db_error(sqlite3 *db, err *e)
{
    int code = sqlite3_extended_errcode(db), os = sqlite3_system_errno(db);
    const char *path = sqlite3_db_filename(db, "main");
    if (!path || !*path) path = "the database";
    switch (code & 0xff) {
    case SQLITE_FULL: return err_set(e, ERR_DISK, "%s: the disk is full", path);
    case SQLITE_IOERR:
        if (os == ENOSPC || os == EDQUOT) return err_set(e, ERR_DISK, "%s: %s", path, strerror(os));
        return err_set(e, ERR_DB, "%s: %s%s%s", path, sqlite3_errmsg(db), os ? ": " : "", os ? strerror(os) : "");
    case SQLITE_BUSY: return err_set(e, ERR_DB, "%s is locked by another process (waited %d s)", path, BUSY_MS / 1000);
    case SQLITE_NOTADB: return err_set(e, ERR_DB, "%s is not a kvrun database", path);
    case SQLITE_CORRUPT: return err_set(e, ERR_DB, "%s is damaged: %s", path, sqlite3_errmsg(db));
    case SQLITE_CANTOPEN: return err_set(e, ERR_DB, "cannot open %s: %s", path, os ? strerror(os) : sqlite3_errmsg(db));
    default: return err_set(e, ERR_DB, "%s: %s", path, sqlite3_errmsg(db));
    }
}

void db_rollback(sqlite3 *db)
{
    if (!sqlite3_get_autocommit(db)) sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
}

/* ---- statements ---- */

static int bind(sqlite3_stmt *stmt, const char *types, va_list ap)
{
    int i, rc = SQLITE_OK;
    for (i = 1; *types && rc == SQLITE_OK; types++, i++) {
        const void *p;
        size_t n;
        switch (*types) {
        case 'i': rc = sqlite3_bind_int64(stmt, i, va_arg(ap, int64_t)); break;
        case 'd': rc = sqlite3_bind_double(stmt, i, va_arg(ap, double)); break;
        case 's': rc = sqlite3_bind_text(stmt, i, va_arg(ap, const char *), -1, SQLITE_STATIC); break;
        case 'b':
            p = va_arg(ap, const void *);
            n = va_arg(ap, size_t);
            rc = p && !n ? sqlite3_bind_zeroblob(stmt, i, 0) : sqlite3_bind_blob64(stmt, i, p, n, SQLITE_STATIC);
            break;
        case 't':
            p = va_arg(ap, const void *);
            n = va_arg(ap, size_t);
            rc = sqlite3_bind_text64(stmt, i, p, n, SQLITE_STATIC, SQLITE_UTF8);
            break;
        case 'n': rc = sqlite3_bind_null(stmt, i); break;
        default: rc = SQLITE_MISUSE;
        }
    }
    return rc;
}

int db_next(sqlite3 *db, sqlite3_stmt *stmt, err *e)
{
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW) return 1;
    if (rc != SQLITE_DONE) db_error(db, e);
    sqlite3_reset(stmt);
    return rc == SQLITE_DONE ? 0 : -1;
}

static int query(sqlite3 *db, sqlite3_stmt **slot, err *e, const char *sql, const char *types, va_list ap)
{
    if (!*slot && sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, slot, NULL) != SQLITE_OK) return db_error(db, e);
    sqlite3_reset(*slot);
    if (bind(*slot, types, ap) != SQLITE_OK) return db_error(db, e);
    return db_next(db, *slot, e);
}

int db_query(sqlite3 *db, sqlite3_stmt **slot, err *e, const char *sql, const char *types, ...)
{
    va_list ap;
    int r;
    va_start(ap, types);
    r = query(db, slot, e, sql, types, ap);
    va_end(ap);
    return r;
}

int db_run_list(sqlite3 *db, sqlite3_stmt **slot, err *e, const char *sql, const char *types, va_list ap)
{
    sqlite3_stmt *once = NULL;
    sqlite3_stmt **s = slot ? slot : &once;
    int r = query(db, s, e, sql, types, ap);
    while (r == 1) r = db_next(db, *s, e);
    sqlite3_finalize(once);
    return r;
}

int db_run(sqlite3 *db, sqlite3_stmt **slot, err *e, const char *sql, const char *types, ...)
{
    va_list ap;
    int r;
    va_start(ap, types);
    r = db_run_list(db, slot, e, sql, types, ap);
    va_end(ap);
    return r;
}

int64_t db_id(sqlite3 *db, sqlite3_stmt **slot, err *e, const char *sql, const char *types, ...)
{
    sqlite3_stmt *once = NULL;
    sqlite3_stmt **s = slot ? slot : &once;
    int64_t id = -1;
    va_list ap;
    int r;
    va_start(ap, types);
    r = query(db, s, e, sql, types, ap);
    va_end(ap);
    if (r == 0) err_set(e, ERR_DB, "the database gave no row for: %.60s", sql);
    if (r == 1) {
        id = sqlite3_column_int64(*s, 0);
        if (sqlite3_reset(*s) != SQLITE_OK) {
            db_error(db, e);
            id = -1;
        }
    }
    sqlite3_finalize(once);
    return id;
}

/* ---- opening ---- */

static int pragma_int(sqlite3 *db, const char *sql, int64_t *out, err *e)
{
    sqlite3_stmt *stmt = NULL;
    int r = db_query(db, &stmt, e, sql, "");
    *out = r == 1 ? sqlite3_column_int64(stmt, 0) : 0;
    sqlite3_finalize(stmt);
    return r < 0 ? -1 : 0;
}

static int exec(sqlite3 *db, const char *sql, err *e)
{
    return sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_error(db, e);
}

/* 0: ours, 1: holds nothing yet, -1, or -2: SQLite could not open what it needs for reading. */
static int check(sqlite3 *db, const char *path, int *schema, err *e)
{
    bool alone = sqlite3_get_autocommit(db);
    int64_t app, version, n;
    int code, r = alone ? exec(db, "BEGIN", e) : 0; /* one state of the file, also while another process makes the schema */
    if (!r) r = pragma_int(db, "PRAGMA application_id", &app, e);
    if (!r) r = pragma_int(db, "PRAGMA user_version", &version, e);
    if (!r) r = pragma_int(db, "SELECT count(*) FROM sqlite_schema", &n, e);
    code = sqlite3_errcode(db) & 0xff;
    if (r && (code == SQLITE_CANTOPEN || code == SQLITE_READONLY)) r = -2; /* no shared memory of WAL, and no way to make it */
    if (alone) db_rollback(db);
    if (r) return r;
    if (app == 0 && version == 0 && n == 0) return 1;
    if (app != APPLICATION_ID) return err_set(e, ERR_DB, "%s is not a kvrun database", path);
    if (version > DB_SCHEMA)
        return err_set(e, ERR_DB, "%s was made by a newer kvrun (schema %d); this one reads up to %d", path, (int)version,
                       DB_SCHEMA);
    *schema = (int)version;
    if (version < 1 || n == 0) return err_set(e, ERR_DB, "%s is damaged: schema %d is not known", path, (int)version);
    return 0;
}

bool db_on_network(const char *path)
{
    static const uint32_t kinds[] = {
        0x6969,     0x517b,     0xff534d42, 0xfe534d42, 0x65735546, /* NFS, SMB, CIFS, SMB2, FUSE */
        0x0bd00bd0, 0x47504653, 0x19830326, 0x00c36400, 0x5346414f, /* Lustre, GPFS, BeeGFS, Ceph, AFS */
        0x01021997, 0x01161970, 0x7461636f, 0x20030528,             /* 9P, GFS2, OCFS2, OrangeFS */
    };
    struct statfs fs;
    char *dir;
    char *slash;
    size_t i;
    int r = statfs(path, &fs);
    if (r) { /* not made yet */
        dir = mem_strdup(path);
        slash = strrchr(dir, '/');
        if (slash) slash[slash == dir] = 0;
        r = statfs(slash ? dir : ".", &fs);
        free(dir);
    }
    for (i = 0; !r && i < sizeof kinds / sizeof *kinds; i++)
        if ((uint32_t)fs.f_type == kinds[i]) return true;
    return false;
}

/* Asks for a journal mode. SQLite's own waiting does not cover the switch to WAL, so we wait here, only when it must be. */
static int set_journal(sqlite3 *db, const char *mode, bool must, err *e)
{
    char sql[64];
    int waited;
    snprintf(sql, sizeof sql, "PRAGMA journal_mode=%s", mode);
    for (waited = 0;; waited += 20) {
        err why = {0};
        sqlite3_stmt *stmt = NULL;
        const struct timespec pause = {0, 20 * 1000000};
        int r = db_query(db, &stmt, &why, sql, ""), code = sqlite3_errcode(db) & 0xff;
        bool is = r == 1 && !sqlite3_stricmp((const char *)sqlite3_column_text(stmt, 0), mode);
        sqlite3_finalize(stmt);
        if (is) return 0;
        if (r < 0 && code != SQLITE_BUSY) return err_set(e, why.code, "%s", why.msg);
        if (!must) return 0;
        if (waited >= BUSY_MS) return err_set(e, ERR_DB, "the database is locked by another process");
        nanosleep(&pause, NULL);
    }
}

static int make_schema(sqlite3 *db, const char *path, err *e)
{
    struct timespec now;
    uint8_t id[16];
    char hex[33], ms[24];
    int r, schema;
    if (exec(db, "BEGIN IMMEDIATE", e)) return -1;
    r = check(db, path, &schema, e);
    if (r < 0) goto out;
    if (r == 1) {
        clock_gettime(CLOCK_REALTIME, &now);
        snprintf(ms, sizeof ms, "%lld", (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000);
        if (getrandom(id, sizeof id, 0) != sizeof id) memset(id, 0, sizeof id);
        hex_text(hex, id, sizeof id);
        r = exec(db, schema_sql, e);
        if (r) goto out;
        r = db_run(db, NULL, e, "INSERT INTO meta VALUES('db_uuid',?),('created_ms',?),('created_by',?)", "sss", hex, ms,
                   "kvrun " BUILD_VERSION);
        if (r) goto out;
    }
    r = exec(db, "COMMIT", e);
out:
    if (r) db_rollback(db);
    return r;
}

/* Settings of every connection. A schema is data here: functions that are not harmless may not run from it. */
static int connect(sqlite3 **out, const char *path, int flags, err *e)
{
    sqlite3 *db = NULL;
    int on;
    if (sqlite3_open_v2(path, &db, flags | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, NULL) != SQLITE_OK) {
        if (db)
            err_set(e, ERR_DB, "cannot open %s: %s", path,
                    sqlite3_system_errno(db) ? strerror(sqlite3_system_errno(db)) : sqlite3_errmsg(db));
        else
            err_set(e, ERR_DB, "cannot open %s: no memory", path);
        sqlite3_close(db);
        return -1;
    }
    sqlite3_busy_timeout(db, BUSY_MS);
    sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, &on);
    sqlite3_db_config(db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, &on);
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_FKEY, 1, &on);
    sqlite3_limit(db, SQLITE_LIMIT_LENGTH, LENGTH_MAX);
    *out = db;
    return 0;
}

int db_open(sqlite3 **out, const char *path, err *e)
{
    bool network = db_on_network(path);
    const char *journal = network ? "TRUNCATE" : "WAL";
    sqlite3 *db;
    int r, schema = DB_SCHEMA;
    if (connect(&db, path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, e)) return -1;
    r = check(db, path, &schema, e);
    if (r == 1) {
        r = exec(db, "PRAGMA page_size=16384; PRAGMA auto_vacuum=INCREMENTAL", e);
        if (!r) r = set_journal(db, journal, true, e);
        if (!r) r = make_schema(db, path, e);
    } else if (r == 0)
        r = set_journal(db, journal, false, e);
    /* A power cut may cost the last commits in WAL mode with NORMAL; it never damages the file. */
    if (!r) r = exec(db, network ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL", e);
    if (!r)
        r = exec(db,
                 "PRAGMA cache_size=-16384; PRAGMA journal_size_limit=268435456; PRAGMA wal_autocheckpoint=4000;"
                 "PRAGMA temp_store=MEMORY; PRAGMA secure_delete=OFF",
                 e);
    if (!r && schema < DB_SCHEMA) r = db_migrate(db, path, schema, schema_sql, e);
    if (r) {
        sqlite3_close(db);
        return -1;
    }
    *out = db;
    return 0;
}

/* file: URI of a path, with what means something in a URI escaped. */
static char *uri_of(const char *path, const char *query)
{
    struct buf b = {0};
    buf_str(&b, "file:");
    for (; *path; path++) {
        if (strchr("?#%", *path))
            buf_printf(&b, "%%%02X", (unsigned char)*path);
        else
            buf_char(&b, *path);
    }
    buf_str(&b, query);
    return buf_take(&b);
}

int db_open_read(sqlite3 **out, const char *path, err *e)
{
    sqlite3 *db;
    struct buf wal = {0};
    char *uri;
    int r, cannot, schema;
    err why = {0};
    if (access(path, F_OK)) return err_set(e, ERR_DB, "cannot open %s: %s", path, strerror(errno));
    if (connect(&db, path, SQLITE_OPEN_READONLY, e)) return -1;
    r = check(db, path, &schema, &why);
    cannot = r == -2;
    if (cannot) { /* WAL mode in a folder we may not write to: without a log nothing can be in flight */
        buf_printf(&wal, "%s-wal", path);
        cannot = access(wal.p, F_OK) != 0;
        buf_free(&wal);
    }
    if (cannot) {
        sqlite3_close(db);
        uri = uri_of(path, "?immutable=1");
        r = connect(&db, uri, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, e);
        free(uri);
        if (r) return -1;
        why = (err){0};
        r = check(db, path, &schema, &why);
    }
    if (r == 1) r = err_set(&why, ERR_DB, "%s is not a kvrun database: it is empty", path);
    if (!r) r = exec(db, "PRAGMA query_only=ON; PRAGMA cache_size=-16384; PRAGMA temp_store=MEMORY", &why);
    if (r) {
        sqlite3_close(db);
        return err_set(e, why.code, "%s", why.msg);
    }
    *out = db;
    return 0;
}

void db_close(sqlite3 *db)
{
    sqlite3_close(db);
}
