/* spec_file.c: `files`: texts that haystacks are cut from, read when the spec is. */
#include "spec_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILES_MAX = 64, PARTS_MAX = 10000, BYTES_MAX = 64 << 20 };

/* The path that v means: from the spec's own folder, or from $NAME/ or ~/. NULL: said why. */
static const char *whole_path(struct reader *r, const struct node *v, const char *path)
{
    const char *slash = strrchr(r->o->s.path, '/'), *rest = strchr(path, '/'), *name, *base;
    if (path[0] == '/') return path;
    if ((path[0] != '$' && path[0] != '~') || !rest)
        return slash ? arena_printf(r->mem, "%.*s/%s", (int)(slash - r->o->s.path), r->o->s.path, path) : path;
    name = path[0] == '~' ? "HOME" : arena_strndup(r->mem, path + 1, (size_t)(rest - path - 1));
    base = path[0] == '~' && rest != path + 1 ? NULL : getenv(name);
    if (base && *base) return arena_printf(r->mem, "%s%s", base, rest);
    spec_wrong(r, v, "E217", "path: %.*s is not known here", (int)(rest - path), path);
    spec_help(r, "help: set it in the environment, or write a path from the spec's own folder");
    return NULL;
}

/* Appends what the file holds, less the line feeds at its end. False: said why. */
static bool add_file(struct reader *r, const struct node *v, const char *path, struct buf *out)
{
    int file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* a FIFO without a writer would block */
    struct stat st;
    char chunk[1 << 14];
    size_t start = out->n, valid;
    ssize_t n = 0;
    if (file < 0 || fstat(file, &st)) {
        spec_wrong(r, v, "E231", "'%s' cannot be read: %s", path, strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        spec_wrong(r, v, "E231", "'%s' is not a file", path);
    } else {
        while (out->n <= BYTES_MAX && (n = read(file, chunk, sizeof chunk)) > 0) buf_add(out, chunk, (size_t)n);
        if (n < 0) spec_wrong(r, v, "E231", "'%s' cannot be read: %s", path, strerror(errno));
        if (out->n > BYTES_MAX) spec_wrong(r, v, "E231", "these files are larger than %d MiB together", BYTES_MAX >> 20);
    }
    if (file >= 0) close(file);
    if (file < 0 || n < 0 || out->n > BYTES_MAX || !S_ISREG(st.st_mode)) return false;
    if (out->n == start) return true;
    valid = utf8_valid(out->p + start, out->n - start);
    if (valid < out->n - start || memchr(out->p + start, 0, out->n - start)) {
        if (valid == out->n - start) valid = (size_t)((char *)memchr(out->p + start, 0, valid) - (out->p + start));
        spec_wrong(r, v, "E231", "'%s' is not a text in UTF-8: see its byte %zu", path, valid);
        return false;
    }
    if (out->n - start >= 3 && !memcmp(out->p + start, "\xef\xbb\xbf", 3)) {
        memmove(out->p + start, out->p + start + 3, out->n - start - 3);
        out->n -= 3;
    }
    while (out->n > start && (out->p[out->n - 1] == '\n' || out->p[out->n - 1] == '\r')) out->n--;
    return true;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The names in the folder that the pattern means, sorted by their bytes; -1: said why. */
static int names_in(struct reader *r, const struct node *v, const char *folder, const char *pattern, const char ***out)
{
    DIR *dir = opendir(folder);
    const char **names;
    const struct dirent *one;
    bool plain = true;
    int n = 0;
    if (!dir) {
        spec_wrong(r, v, "E231", "'%s' cannot be read: %s", folder, strerror(errno));
        return -1;
    }
    *out = names = arena_array(r->mem, PARTS_MAX + 1, sizeof *names);
    while (n <= PARTS_MAX && (one = readdir(dir)))
        if (fnmatch(pattern, one->d_name, FNM_PERIOD) == 0) {
            names[n++] = arena_strdup(r->mem, one->d_name);
            plain = plain && utf8_valid(one->d_name, strlen(one->d_name)) == strlen(one->d_name);
        }
    closedir(dir);
    if (n > PARTS_MAX) {
        spec_wrong(r, v, "E231", "more than %d files in '%s' are named %s", PARTS_MAX, folder, pattern);
        return -1;
    }
    if (!plain) {
        spec_wrong(r, v, "E231", "a file's name in '%s' is not UTF-8", folder);
        return -1;
    }
    qsort(names, (size_t)n, sizeof *names, by_name);
    if (n == 0) spec_wrong(r, v, "E231", "no file in '%s' is named %s", folder, pattern);
    return n ? n : -1;
}

static bool read_parts(struct reader *r, const struct node *path, const struct node *glob, const char *join, struct buf *out)
{
    const char *text = NULL, *whole, *pattern = "*.txt", **names;
    struct stat st;
    int n, i;
    if (!spec_text(r, path, "path", &text) || (glob && !spec_text(r, glob, "glob", &pattern))) return false;
    whole = whole_path(r, path, text);
    if (!whole) return false;
    if (stat(whole, &st)) {
        spec_wrong(r, path, "E231", "'%s' cannot be read: %s", whole, strerror(errno));
        return false;
    }
    if (!S_ISDIR(st.st_mode)) {
        if (!glob) return add_file(r, path, whole, out);
        spec_wrong(r, glob, "E223", "glob goes with a folder, and '%s' is none", whole);
        return false;
    }
    n = names_in(r, glob ? glob : path, whole, pattern, &names);
    for (i = 0; i < n; i++) {
        if (i) buf_str(out, join);
        if (!add_file(r, path, arena_printf(r->mem, "%s/%s", whole, names[i]), out)) return false;
    }
    return n > 0;
}

static void read_file(struct reader *r, const struct node *v, struct text_file *out)
{
    struct field f[] = {NEEDED("path", "path: FILE.txt, or a folder with glob: \"*.txt\""), MAY("glob"), MAY("join"), {0}};
    struct buf b = {0};
    out->join = "\n\n";
    if (!spec_map(r, v, "a file", f) || !spec_field(f, "path")) return;
    if (spec_field(f, "join") && !spec_text_or_empty(r, spec_field(f, "join"), "join", &out->join)) return;
    if (read_parts(r, spec_field(f, "path"), spec_field(f, "glob"), out->join, &b)) {
        out->text = arena_strndup(r->mem, b.p ? b.p : "", b.n);
        out->len = b.n;
        if (strspn(out->text, " \t\r\n") == b.n) spec_wrong(r, v, "E231", "file '%s' holds no text", out->name);
    }
    buf_free(&b);
}

void spec_files(struct reader *r, struct spec_own *o, const struct node *v)
{
    if (v->kind != NODE_MAP || v->n == 0 || v->n > FILES_MAX) {
        spec_wrong(r, v, "E203", "files: a map of up to %d names and files is wanted, this is %s", FILES_MAX,
                   v->kind != NODE_MAP ? spec_shown(r, v)
                   : v->n == 0         ? "empty"
                                       : "longer");
        spec_help(r, "help: files: { essay: { path: essays, glob: \"*.txt\" } }");
        return;
    }
    o->s.files = arena_array(r->mem, (size_t)v->n, sizeof *o->s.files);
    o->s.n_files = v->n;
    for (int i = 0; i < v->n; i++) {
        struct text_file *t = &o->s.files[i];
        t->text = t->name = "";
        t->at = v->keys[i]->at;
        spec_name(r, v->keys[i], "file", true, NULL, &t->name);
        names_add(&o->files, t->name, i, v->keys[i]);
        read_file(r, v->items[i], t);
    }
    names_sort(&o->files, r, NULL);
}
