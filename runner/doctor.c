/* doctor.c: findings, one line each, in the order in which a run needs them. A finding is good, a note (something that some
 * runs need is missing) or bad (nothing can run). */
#include "doctor.h"

#include "../engine/machine.h"
#include "db.h"
#include "environment.h"

#include <dirent.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <zstd.h>

enum state { GOOD, NOTE, BAD };

struct finding {
    const char *name;
    enum state state;
    char *text;
};

enum { FINDINGS = 24 };

struct findings {
    struct finding f[FINDINGS];
    int n;
    json_t *gpu; /* its details for programs */
};

__attribute__((format(printf, 4, 5))) static void add(struct findings *all, const char *name, enum state state, const char *fmt,
                                                      ...)
{
    struct buf b = {0};
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(&b, fmt, ap);
    va_end(ap);
    if (all->n < FINDINGS) all->f[all->n++] = (struct finding){name, state, buf_take(&b)};
}

static double gib(double bytes)
{
    return bytes / (1 << 30);
}

/* ---- machine and libraries ---- */

static void find_machine(struct findings *all)
{
    char cpu[256];
    double whole = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    environment_cpu(cpu, sizeof cpu);
    add(all, "processor", GOOD, "%s", cpu);
    add(all, "instructions", GOOD, "%s", machine_isas());
    add(all, "threads", GOOD, "%d", machine_threads());
    add(all, "memory", GOOD, "%.1f of %.1f GiB are free", gib(machine_memory_free()), gib(whole));
}

static const char *file_system(const char *folder)
{
    static const struct {
        uint32_t type;
        const char *name;
    } known[] = {{0xef53, "ext4"},        {0x58465342, "xfs"},  {0x9123683e, "btrfs"}, {0x01021994, "tmpfs"},
                 {0x794c7630, "overlay"}, {0x2fc12fc1, "zfs"},  {0x6969, "NFS"},       {0x0bd00bd0, "Lustre"},
                 {0x47504653, "GPFS"},    {0x00c36400, "Ceph"}, {0x65735546, "FUSE"},  {0x01021997, "9P"},
                 {0xff534d42, "CIFS"},    {0xfe534d42, "SMB"},  {0x19830326, "BeeGFS"}};
    struct statfs fs;
    size_t i;
    if (statfs(folder, &fs)) return "unknown";
    for (i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].type == (uint32_t)fs.f_type) return known[i].name;
    return "other";
}

static void find_database(struct findings *all, const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash ? mem_strdup(path) : mem_strdup(".");
    struct statvfs disk;
    sqlite3 *db = NULL;
    err e = {0};
    bool old = sqlite3_libversion_number() < 3037000;
    if (slash) folder[slash == path ? 1 : slash - path] = 0;
    add(all, "sqlite", old ? BAD : GOOD, "%s%s", sqlite3_libversion(), old ? "; 3.37 or later is needed" : "");
    if (access(folder, W_OK) != 0) {
        add(all, "database", BAD, "%s: the folder %s cannot be written to", path, folder);
    } else if (access(path, F_OK) == 0 && db_open_read(&db, path, &e)) {
        add(all, "database", BAD, "%s", e.msg);
    } else {
        add(all, "database", GOOD, "%s%s, file system %s, journal %s", path, db ? "" : " (not made yet)", file_system(folder),
            db_on_network(path) ? "TRUNCATE, one process at a time, since other machines may open it" : "WAL");
    }
    db_close(db);
    if (statvfs(folder, &disk) == 0) {
        double have = (double)disk.f_bavail * (double)disk.f_frsize;
        add(all, "disk", have < 1e9 ? NOTE : GOOD, "%.1f GiB are free where the database is", gib(have));
    }
    add(all, "zstd", GOOD, "%s", ZSTD_versionString());
    free(folder);
}

/* ---- models ---- */

static bool is_model(const char *folder, const char *name, double *bytes)
{
    struct buf path = {0};
    struct stat st;
    size_t n = strlen(name);
    bool is = false;
    *bytes = 0;
    buf_printf(&path, "%s/%s", folder, name);
    if (stat(path.p, &st) == 0 && S_ISREG(st.st_mode) && n > 5 && strcmp(name + n - 5, ".gguf") == 0) {
        *bytes = (double)st.st_size;
        is = true;
    }
    if (name[0] != '.' && stat(path.p, &st) == 0 && S_ISDIR(st.st_mode)) {
        buf_str(&path, "/config.json");
        is = access(path.p, R_OK) == 0;
    }
    buf_free(&path);
    return is;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static void find_models(struct findings *all)
{
    const char *set = getenv("KVRUN_MODELS"), *folder = set && *set ? set : "models";
    struct dirent **list = NULL;
    struct buf b = {0};
    int i, n = scandir(folder, &list, NULL, by_name), found = 0;
    for (i = 0; i < n; i++) {
        double bytes;
        if (is_model(folder, list[i]->d_name, &bytes)) {
            if (found++ < 20) buf_printf(&b, "%s%s", found > 1 ? ", " : "", list[i]->d_name);
            if (bytes > 0 && found <= 20) buf_printf(&b, " (%.0f MB)", bytes / 1e6);
        }
        free(list[i]);
    }
    free(list);
    if (n < 0)
        add(all, "models", NOTE, "there is no folder %s; KVRUN_MODELS names another, ci/fetch-model makes it", folder);
    else if (!found)
        add(all, "models", NOTE, "%s holds none; ci/fetch-model fetches the default model", folder);
    else
        add(all, "models", GOOD, "%s: %s%s", folder, b.p, found > 20 ? ", and more" : "");
    buf_free(&b);
}

/* ---- GPU ---- */

static json_t *said(const char *s)
{
    return *s ? json_stringn_nocheck(s, utf8_valid(s, strlen(s))) : json_null();
}

static void find_gpu(struct findings *all, int device)
{
    struct machine_gpu *g = mem_alloc(sizeof *g);
    json_t *devices = json_array();
    char why[512];
    int i;
    machine_gpu(g, device);
    add(all, "gpu", g->usable ? GOOD : NOTE, "%s%s", g->usable ? "can be used" : "cannot be used: ", g->why);
    add(all, "  plug-in", *g->plugin ? GOOD : NOTE, "%s",
        *g->plugin ? g->plugin : "not found: kvrun was built without the CUDA toolkit");
    add(all, "  cublas", GOOD, "%s; only kvrun bench uses it, to compare", *g->cublas ? g->cublas : "not found");
    if (g->driver > 1)
        add(all, "  driver", GOOD, "for CUDA %d.%d", g->driver / 1000, g->driver % 1000 / 10);
    else
        add(all, "  driver", NOTE, "%s", g->driver ? "there, of unknown version" : g->driver_why);
    if (g->n == 0) add(all, "  device", NOTE, "none");
    for (i = 0; i < g->n; i++) {
        double bytes = (double)g->gpu[i].memory_bytes;
        add(all, "  device", GOOD, "%d: %s, sm_%d%d, %.1f GiB%s", i, g->gpu[i].name, g->gpu[i].cc_major, g->gpu[i].cc_minor,
            gib(bytes), i == device && g->usable ? ", chosen" : "");
        json_array_append_new(devices, json_pack("{s:i,s:o,s:i,s:I}", "index", i, "name", said(g->gpu[i].name), "cc",
                                                 g->gpu[i].cc_major * 10 + g->gpu[i].cc_minor, "memory_bytes",
                                                 (json_int_t)g->gpu[i].memory_bytes));
    }
    if (g->usable && g->memory_free > 0) add(all, "  memory", GOOD, "%.1f GiB are free", gib((double)g->memory_free));
    if (machine_emulator(why, sizeof why))
        add(all, "emulator", GOOD, "can be used: --backend cuda-emu runs the GPU's code on the CPU, slowly");
    all->gpu = json_pack("{s:b,s:o,s:o,s:o,s:i,s:i,s:o,s:o}", "usable", g->usable, "why", said(g->why), "plugin",
                         said(g->plugin), "cublas", said(g->cublas), "driver", g->driver > 1 ? g->driver : 0, "runtime",
                         g->runtime, "driver_why", said(g->driver_why), "devices", devices);
    free(g);
}

/* ---- bits ---- */

static void find_bits(struct findings *all)
{
    const char *bad;
    err e = {0};
    int n;
    if (machine_self_test(&n, &bad, &e))
        add(all, "determinism", BAD, "the self-test does not run: %s", e.msg);
    else if (bad)
        add(all, "determinism", BAD, "%s does not give the bits of scalar code on one thread", bad);
    else
        add(all, "determinism", GOOD, "equal bits in %d ways to compute: instruction sets, one thread and all", n);
}

/* ---- telling ---- */

static void print_text(const struct findings *all, bool ok, FILE *out)
{
    static const char *const marks[] = {" ", "-", "!"};
    int i;
    fprintf(out, "kvrun %s\n", environment_build());
    for (i = 0; i < all->n; i++) fprintf(out, "%s %-13s %s\n", marks[all->f[i].state], all->f[i].name, all->f[i].text);
    fprintf(out, "%s\n", ok ? "kvrun can run here." : "kvrun cannot run here: see the lines with !");
}

static void print_json(const struct findings *all, bool ok, FILE *out)
{
    static const char *const states[] = {"good", "note", "bad"};
    json_t *list = json_array(), *j;
    char *text;
    int i;
    for (i = 0; i < all->n; i++) {
        const char *name = all->f[i].name + strspn(all->f[i].name, " ");
        json_array_append_new(
            list, json_pack("{s:s,s:s,s:o}", "name", name, "state", states[all->f[i].state], "text", said(all->f[i].text)));
    }
    j = json_pack("{s:s,s:b,s:o,s:O}", "kvrun", environment_build(), "ok", ok, "findings", list, "gpu", all->gpu);
    text = json_dumps(j, JSON_COMPACT);
    fprintf(out, "%s\n", text);
    free(text);
    json_decref(j);
}

int doctor(const struct options *o, FILE *out, err *e)
{
    struct findings all = {0};
    bool ok = true;
    int i;
    (void)e;
    find_machine(&all);
    find_database(&all, o->db ? o->db : "results.db");
    find_models(&all);
    find_gpu(&all, o->gpu);
    find_bits(&all);
    for (i = 0; i < all.n; i++) ok = ok && all.f[i].state != BAD;
    if (o->json)
        print_json(&all, ok, out);
    else
        print_text(&all, ok, out);
    for (i = 0; i < all.n; i++) free(all.f[i].text);
    json_decref(all.gpu);
    return ok ? 0 : ERR_ENV;
}
