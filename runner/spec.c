/* spec.c: the file as a whole: its top level, model, decode, run, and the checks that go across sections. */
#include "spec_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_MAX = 16 << 20, TEMPLATE_MAX = 1 << 20, MAX_TOKENS = 1000000 };

/* ---- model ---- */

static void read_path(struct reader *r, struct spec *s, const struct node *v)
{
    static const char models[] = "$KVRUN_MODELS/";
    if (!spec_text(r, v, "path", &s->model_path)) return;
    if (s->model_path[0] == '$' && strchr(s->model_path, '/') && strncmp(s->model_path, models, sizeof models - 1)) {
        spec_wrong(r, v, "E217", "path: %.*s is not known here", (int)strcspn(s->model_path, "/"), s->model_path);
        spec_help(r, "help: a path can start with $KVRUN_MODELS/");
    } else if (s->model_path[0] == '~') {
        spec_wrong(r, v, "E217", "path: ~ is not expanded");
        spec_help(r, "help: write the whole path, or $KVRUN_MODELS/ in front of the file's name");
    } else if (!strcmp(s->model_path, models)) {
        spec_wrong(r, v, "E217", "path: the name of the file is missing");
    }
}

static void read_sha256(struct reader *r, struct spec *s, const struct node *v)
{
    const char *text;
    char *lower;
    s->model_sha256_at = v->at;
    if (!spec_text(r, v, "sha256", &text)) return;
    if (strlen(text) != 64 || strspn(text, "0123456789abcdefABCDEF") != 64) {
        spec_wrong(r, v, "E218", "sha256: %s is not 64 hex digits", spec_shown(r, v));
        spec_help(r, "help: sha256sum FILE prints it; without the key any file is taken");
        return;
    }
    lower = arena_strdup(r->mem, text);
    for (char *p = lower; *p; p++)
        if (*p >= 'A' && *p <= 'F') *p = (char)(*p - 'A' + 'a');
    s->model_sha256 = lower;
}

/* What the open file holds, in mem; NULL: said why. */
static const char *template_text(struct reader *r, const struct node *v, int file)
{
    struct buf b = {0};
    struct stat st;
    char chunk[1 << 14];
    const char *text = NULL;
    ssize_t n = 0;
    if (fstat(file, &st) || !S_ISREG(st.st_mode)) {
        spec_wrong(r, v, "E219", "chat_template: %s is not a file", spec_shown(r, v));
        return NULL;
    }
    while (b.n <= TEMPLATE_MAX && (n = read(file, chunk, sizeof chunk)) > 0) buf_add(&b, chunk, (size_t)n);
    if (n < 0)
        spec_wrong(r, v, "E219", "chat_template: %s cannot be read: %s", spec_shown(r, v), strerror(errno));
    else if (b.n > TEMPLATE_MAX)
        spec_wrong(r, v, "E219", "chat_template: %s is larger than %d MiB", spec_shown(r, v), TEMPLATE_MAX >> 20);
    else if (b.n == 0)
        spec_wrong(r, v, "E219", "chat_template: %s is empty", spec_shown(r, v));
    else if (utf8_valid(b.p, b.n) < b.n || memchr(b.p, 0, b.n))
        spec_wrong(r, v, "E219", "chat_template: %s is not a text in UTF-8", spec_shown(r, v));
    else
        text = arena_strndup(r->mem, b.p, b.n);
    buf_free(&b);
    return text;
}

static void read_chat_template(struct reader *r, struct spec *s, const struct node *v)
{
    const char *name, *slash = strrchr(s->path, '/');
    int file;
    s->chat_template_path = v;
    if (!spec_text(r, v, "chat_template", &name)) return;
    if (name[0] != '/' && slash) name = arena_printf(r->mem, "%.*s/%s", (int)(slash - s->path), s->path, name);
    file = open(name, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* a FIFO without a writer would block */
    if (file < 0) {
        spec_wrong(r, v, "E219", "chat_template: %s cannot be read: %s", spec_shown(r, v), strerror(errno));
        spec_help(r, "help: the path of a file with a Jinja template, from the spec's own folder");
        return;
    }
    s->chat_template = template_text(r, v, file);
    close(file);
}

static void read_date(struct reader *r, struct spec *s, const struct node *v)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    const char *text;
    int year, month, day;
    bool leap;
    if (!spec_text(r, v, "date", &text)) return;
    if (strlen(text) == 10 && strspn(text, "0123456789-") == 10 && sscanf(text, "%4d-%2d-%2d", &year, &month, &day) == 3 &&
        text[4] == '-' && text[7] == '-' && year >= 1 && month >= 1 && month <= 12) {
        leap = month == 2 && ((year % 4 == 0 && year % 100 != 0) || year % 400 == 0);
        if (day >= 1 && day <= days[month - 1] + leap) {
            s->year = year;
            s->month = month;
            s->day = day;
            return;
        }
    }
    spec_wrong(r, v, "E218", "date: %s is not a day YYYY-MM-DD", spec_shown(r, v));
    spec_help(r, "help: the day that the chat template takes for today, e.g. 2024-07-26");
}

static void read_model(struct reader *r, struct spec *s, const struct node *v)
{
    static const char *const types[] = {"f32", "f16", "bf16", NULL};
    static const enum kv_type values[] = {KV_F32, KV_F16, KV_BF16};
    struct field f[] = {
        NEEDED("path", "path: $KVRUN_MODELS/FILE.gguf"), MAY("sha256"), MAY("kv"), MAY("chat_template"), MAY("date"), {0}};
    int kv;
    s->model_at = v->at;
    if (!spec_map(r, v, "model", f)) return;
    if (spec_field(f, "path")) {
        s->model_at = spec_field(f, "path")->at;
        read_path(r, s, spec_field(f, "path"));
    }
    if (spec_field(f, "sha256")) read_sha256(r, s, spec_field(f, "sha256"));
    if (spec_field(f, "chat_template")) read_chat_template(r, s, spec_field(f, "chat_template"));
    if (spec_field(f, "date")) read_date(r, s, spec_field(f, "date"));
    s->kv = KV_AUTO;
    kv = spec_field(f, "kv") ? spec_word(r, spec_field(f, "kv"), "kv", types, NULL) : -1;
    if (kv >= 0) s->kv = values[kv];
}

/* The file itself when it exists there, else NULL. `base` may be "". */
static char *model_in(const char *base, size_t n, const char *between, const char *name)
{
    struct buf b = {0};
    buf_add(&b, base, n);
    buf_str(&b, between);
    buf_str(&b, name);
    if (access(b.p, F_OK) == 0) return buf_take(&b);
    buf_free(&b);
    return NULL;
}

char *spec_model_path(const struct spec *s)
{
    static const char prefix[] = "$KVRUN_MODELS/";
    const char *path = s->model_path, *folder = getenv("KVRUN_MODELS"), *slash = strrchr(s->path, '/');
    size_t n = slash ? (size_t)(slash - s->path) + 1 : 0;
    struct buf b = {0};
    char *found;
    if (strncmp(path, prefix, sizeof prefix - 1)) {
        found = path[0] == '/' ? NULL : model_in(s->path, n, "", path);
        return found ? found : mem_strdup(path);
    }
    path += sizeof prefix - 1;
    if (folder && *folder) {
        buf_printf(&b, "%s%s%s", folder, folder[strlen(folder) - 1] == '/' ? "" : "/", path);
        return buf_take(&b);
    }
    found = model_in(s->path, n, "../models/", path);
    if (found) return found;
    buf_printf(&b, "models/%s", path);
    return buf_take(&b);
}

/* ---- decode, controls, run ---- */

static void read_decode(struct reader *r, struct spec *s, const struct node *v)
{
    static const char *const stops[] = {"eos", "none", NULL};
    static const char *const afters[] = {"rerun_last", "reuse_logits", NULL};
    static const enum after_edit values[] = {AFTER_RERUN_LAST, AFTER_REUSE_LOGITS};
    struct field feed[] = {NEEDED("feed", "after_edit: { feed: \"the last words of the prompt\" }"), {0}};
    struct field f[] = {MAY("greedy"), MAY("max_tokens"),    MAY("stop"), MAY("after_edit"),
                        LATER("seed"), LATER("temperature"), {0}};
    const struct node *greedy, *max, *stop, *after;
    bool is_greedy = true;
    int k;
    s->decode.at = v->at;
    if (!spec_map(r, v, "decode", f)) return;
    greedy = spec_field(f, "greedy");
    max = spec_field(f, "max_tokens");
    stop = spec_field(f, "stop");
    after = spec_field(f, "after_edit");
    if (greedy && spec_bool(r, greedy, "greedy", &is_greedy) && !is_greedy)
        spec_wrong(r, greedy, "E206", "greedy: false is not supported yet; decoding is greedy");
    if (max && max->kind == NODE_SCALAR && !strcmp(max->text, "0"))
        spec_wrong(r, max, "E206", "max_tokens: 0 (prefill only) is not supported yet");
    else if (max)
        spec_int(r, max, "max_tokens", 1, MAX_TOKENS, &s->decode.max_tokens);
    if (stop && stop->kind == NODE_LIST)
        spec_wrong(r, stop, "E206", "stop: a list of texts is not supported yet; eos or none");
    else if (stop && (k = spec_word(r, stop, "stop", stops, NULL)) >= 0)
        s->decode.stop_eos = k == 0;
    if (!after) return;
    s->decode.after_edit = AFTER_RERUN_LAST; /* not "missing" below when it is only wrong */
    if (after->kind == NODE_MAP) {
        s->decode.feed_at = after->at;
        if (!spec_map(r, after, "after_edit", feed) || !feed[0].v) return;
        s->decode.after_edit = AFTER_FEED;
        s->decode.feed_at = feed[0].v->at;
        s->decode.feed_width = feed[0].v->width;
        spec_text(r, feed[0].v, "feed", &s->decode.feed);
    } else if ((k = spec_word(r, after, "after_edit", afters, NULL)) >= 0)
        s->decode.after_edit = values[k];
}

static void read_run(struct reader *r, struct spec *s, const struct node *v)
{
    struct field f[] = {MAY("db"), LATER("on_error"), LATER("retries"), LATER("keep_free"), LATER("shard_by"), LATER("keep_kv"),
                        {0}};
    if (spec_map(r, v, "run", f) && spec_field(f, "db")) spec_text(r, spec_field(f, "db"), "db", &s->db);
}

/* ---- across sections ---- */

static bool is_in_flight(const char *when)
{
    return !strcmp(when, "prefill") || !strcmp(when, "every_step") || !strncmp(when, "steps", 5);
}

/* Whether an operation may be one on a finished cache: all that are made at no other time, whatever value an axis puts in. */
static bool on_finished_cache(const struct spec_own *o, const struct node *op)
{
    const struct node *when = op->kind == NODE_MAP ? node_get(op, "when") : NULL;
    struct node **texts;
    int n, axis, member;
    if (!when) return true;
    if (when->kind != NODE_SCALAR) return false;
    if (!spec_axis_find(o, when->text, &axis, &member)) return !is_in_flight(when->text);
    texts = spec_axis_texts(o, when->text, &n);
    for (int i = 0; texts && i < n; i++)
        if (!is_in_flight(texts[i]->text)) return true;
    return n == 0;
}

/* An edit of a finished cache needs `after_edit`, controls need an edit. */
static void check_edits(struct reader *r, const struct spec_own *o, const struct node *decode, const struct node *controls)
{
    const struct spec *s = &o->s;
    const struct condition *edited = NULL, *finished = NULL;
    for (int i = 0; i < s->n_conditions && !finished; i++) {
        const struct condition *c = &s->conditions[i];
        if (!c->apply) continue;
        if (!edited) edited = c;
        for (int k = 0; k < c->apply->n && !finished; k++)
            if (c->apply->kind != NODE_LIST || on_finished_cache(o, c->apply->items[k])) finished = c;
    }
    if (controls && !edited && s->n_conditions)
        spec_wrong(r, controls, "E229", "controls repeat the edits of the conditions, and no condition has one");
    if (!finished || s->decode.after_edit != AFTER_NONE) return;
    spec_wrong(
        r, decode ? decode : finished->apply, "E226",
        "decode needs the key 'after_edit': condition '%s' edits a finished cache, and the first new token depends on it",
        finished->name);
    spec_help(r,
              "after_edit: rerun_last    the last prompt token is fed again after the edit; the first new token sees the edit");
    spec_help(r, "after_edit: reuse_logits  the first new token comes from the logits before the edit; only later ones see it");
}

static bool check_version(struct reader *r, const struct node *root)
{
    const struct node *first = root->n ? root->keys[0] : root, *v = node_get(root, "kvrun");
    if (root->n == 0 || strcmp(first->text, "kvrun")) {
        spec_wrong(r, v ? root->keys[0] : first, "E207", "the first key is kvrun, the version of this language");
        spec_help(r, "help: kvrun: 1");
    }
    if (!v || (v->kind == NODE_SCALAR && !strcmp(v->text, "1"))) return true;
    spec_wrong(r, v, "E207", "kvrun: %s is not a version of this language that this program reads", spec_shown(r, v));
    spec_help(r, "help: kvrun: 1");
    return v->kind != NODE_SCALAR; /* another version has other keys: their errors would say nothing */
}

static void read_root(struct reader *r, struct spec_own *o, const struct node *root)
{
    struct field f[] = {MAY("kvrun"),
                        NEEDED("experiment", "experiment: needle_sf_ny"),
                        MAY("title"),
                        NEEDED("model", "model: { path: $KVRUN_MODELS/FILE.gguf }"),
                        NEEDED("prompts", "prompts: [{ name: hello, text: \"Hello\" }]"),
                        MAY("files"),
                        MAY("axes"),
                        NEEDED("conditions", "conditions: [{ name: baseline }]"),
                        MAY("exclude"),
                        MAY("include"),
                        MAY("controls"),
                        MAY("controls_for"),
                        MAY("decode"),
                        MAY("capture"),
                        MAY("metrics"),
                        MAY("run"),
                        MAY("allow"),
                        LATER("report"),
                        LATER("datasets"),
                        {0}};
    struct spec *s = &o->s;
    const struct node *v;
    if (root->kind == NODE_MAP && !check_version(r, root)) return;
    if (!spec_map(r, root, "a spec", f)) return;
    if ((v = spec_field(f, "allow"))) spec_read_allowed(r, v);
    spec_lint_file(r);
    s->allowed = r->allowed;
    if ((v = spec_field(f, "experiment"))) {
        s->experiment_at = v->at;
        spec_name(r, v, "experiment", false, NULL, &s->experiment);
    }
    s->title = s->experiment;
    if ((v = spec_field(f, "title"))) spec_text(r, v, "title", &s->title);
    if ((v = spec_field(f, "model"))) read_model(r, s, v);
    if ((v = spec_field(f, "axes"))) spec_axes(r, o, v);
    if ((v = spec_field(f, "files"))) spec_files(r, o, v);
    if ((v = spec_field(f, "prompts"))) spec_prompts(r, o, v);
    spec_axis_positions(r, o);
    if ((v = spec_field(f, "conditions"))) spec_conditions(r, o, v);
    if ((v = spec_field(f, "exclude"))) spec_excludes(r, o, v);
    if ((v = spec_field(f, "include"))) spec_includes(r, o, v);
    if (spec_field(f, "controls") || spec_field(f, "controls_for"))
        spec_controls(r, s, spec_field(f, "controls"), spec_field(f, "controls_for"));
    if ((v = spec_field(f, "decode"))) read_decode(r, s, v);
    if ((v = spec_field(f, "capture"))) spec_captures(r, s, v);
    if ((v = spec_field(f, "metrics"))) spec_metrics(r, s, v);
    if ((v = spec_field(f, "run"))) read_run(r, s, v);
    check_edits(r, o, spec_field(f, "decode"), spec_field(f, "controls"));
    if (!r->wrong) spec_variants(r, o);
    spec_try_ops(r, o);
}

static void keep_sets(struct spec *s, const char *const *sets, int n)
{
    const char **copies = arena_array(s->mem, (size_t)n, sizeof *copies);
    for (int i = 0; i < n; i++) copies[i] = arena_strdup(s->mem, sets[i]);
    s->sets = copies;
    s->n_sets = n;
}

int spec_parse(struct spec **out, const char *path, const char *text, size_t n, struct diag **diags)
{
    return spec_parse_set(out, path, text, n, NULL, 0, diags);
}

int spec_parse_set(struct spec **out, const char *path, const char *text, size_t n, const char *const *sets, int n_sets,
                   struct diag **diags)
{
    arena *mem = arena_new();
    struct spec_own *o = arena_alloc(mem, sizeof *o);
    struct diag *d = diag_new(path, text, n > FILE_MAX ? 0 : n);
    struct reader r = {.o = o, .d = d, .mem = mem};
    struct node *root;
    o->s.mem = mem;
    o->s.path = arena_strdup(mem, path);
    o->s.experiment = "";
    o->s.decode = (struct decode){.max_tokens = 100, .stop_eos = true};
    o->first_plain = o->unpaired = -1;
    o->prompts_wrong = true; /* until they are read */
    *diags = d;
    if (n > FILE_MAX) {
        diag_add(d, DIAG_ERROR, "E105", (struct mark){0, 0}, 1, "the file is larger than %d MiB", FILE_MAX >> 20);
        arena_free(mem);
        return -1;
    }
    o->s.source = arena_strndup(mem, text, n);
    o->s.source_len = n;
    SHA256((const unsigned char *)o->s.source, n, o->s.sha256);
    keep_sets(&o->s, sets, n_sets);
    root = node_parse(o->s.source, n, mem, d);
    if (root) root = spec_set(&r, root, sets, n_sets);
    if (root) read_root(&r, o, root);
    if (!root || diag_errors(d)) {
        arena_free(mem);
        return -1;
    }
    *out = &o->s;
    return 0;
}

int spec_load(struct spec **out, const char *path, struct diag **diags, err *e)
{
    return spec_load_set(out, path, NULL, 0, diags, e);
}

int spec_load_set(struct spec **out, const char *path, const char *const *sets, int n_sets, struct diag **diags, err *e)
{
    FILE *f = fopen(path, "rb");
    char *text;
    size_t n;
    int result;
    *diags = NULL;
    if (!f) return err_set(e, ERR_INPUT, "cannot read '%s': %s", path, strerror(errno));
    text = mem_alloc(FILE_MAX + 1);
    n = fread(text, 1, FILE_MAX + 1, f);
    result = ferror(f) ? err_set(e, ERR_INPUT, "cannot read '%s': %s", path, strerror(errno)) : 0;
    fclose(f);
    if (!result) result = spec_parse_set(out, path, text, n, sets, n_sets, diags);
    free(text);
    return result;
}

void spec_free(struct spec *s)
{
    if (s) arena_free(s->mem);
}
