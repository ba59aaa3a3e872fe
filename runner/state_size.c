/* state_size.c: see state_size.h. */
#include "state_size.h"

#include "snippet.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { CONTEXTS_MAX = 32 };

/* ---- numbers ---- */

int state_size_element(const char *dtype)
{
    if (dtype && strcmp(dtype, "f32") == 0) return 4;
    return dtype && strcmp(dtype, "int8") == 0 ? 1 : 2;
}

void state_size_grouped(char out[32], int64_t n)
{
    char s[32];
    int i, k = 0, len = snprintf(s, sizeof s, "%lld", (long long)n);
    for (i = 0; i < len; i++) {
        if (i && (len - i) % 3 == 0) out[k++] = ',';
        out[k++] = s[i];
    }
    out[k] = 0;
}

void state_size_human(char out[32], int64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double n = (double)bytes;
    int unit = 0;
    for (; n >= 1024; n /= 1024) unit++;
    if (unit)
        snprintf(out, 32, "%.2f %s", n, units[unit]);
    else
        snprintf(out, 32, "%lld B", (long long)bytes);
}

/* "2048,8192" */
static int contexts(const char *list, int64_t *ctx, int *n, err *e)
{
    const char *p = list ? list : "2048,8192,32768";
    for (*n = 0;; p++) {
        char *end;
        long tokens = strtol(p, &end, 10);
        if (*p < '0' || *p > '9' || tokens < 1 || tokens > STATE_CONTEXT_MAX || (*end && *end != ','))
            return err_set(e, ERR_INPUT, "--ctx '%s': at '%s' is no number of tokens from 1 to %d; write --ctx 2048,8192", list,
                           p, STATE_CONTEXT_MAX);
        if (*n == CONTEXTS_MAX) return err_set(e, ERR_INPUT, "--ctx: more than %d contexts", CONTEXTS_MAX);
        ctx[(*n)++] = tokens;
        p = end;
        if (!*p) return 0;
    }
}

/* All that is said of one model. */
struct sizes {
    struct state s;
    int element, n_ctx;
    bool latent, windows;        /* some layer is MLA; some layer has a window */
    int64_t token, token_late;   /* one token more; once all windows are full */
    int64_t fixed, sums;         /* whatever the length; S and z */
    int64_t token_out;           /* written out */
    int64_t ctx[CONTEXTS_MAX];   /* tokens */
    int64_t bytes[CONTEXTS_MAX]; /* of that many */
    int64_t out[CONTEXTS_MAX];   /* written out */
};

static int count(struct sizes *z, const char *path, err *e)
{
    int64_t one;
    int i;
    if (state_open(&z->s, path, e) || state_bytes(&z->s, 0, z->element, STATE_STORED, &z->fixed, e) ||
        state_token_bytes(&z->s, z->element, 0, &z->token, e) || state_token_bytes(&z->s, z->element, 1, &z->token_late, e) ||
        state_sums_bytes(&z->s, z->element, &z->sums, e) || state_bytes(&z->s, 1, z->element, STATE_WRITTEN_OUT, &one, e))
        return err_in(e, "model '%s'", path);
    z->token_out = one - z->fixed;
    z->latent = z->windows = false;
    for (i = 0; i < z->s.n_parts; i++) {
        z->latent |= z->s.parts[i].written_out != z->s.parts[i].per_token;
        z->windows |= z->s.parts[i].window != 0;
    }
    for (i = 0; i < z->n_ctx; i++)
        if (state_bytes(&z->s, z->ctx[i], z->element, STATE_STORED, &z->bytes[i], e) ||
            state_bytes(&z->s, z->ctx[i], z->element, STATE_WRITTEN_OUT, &z->out[i], e))
            return err_in(e, "model '%s'", path);
    return 0;
}

/* ---- for people ---- */

static void row(struct buf *b, const char *name, int64_t bytes)
{
    char n[32], human[32];
    state_size_grouped(n, bytes);
    state_size_human(human, bytes);
    buf_printf(b, "  %-26s %18s %12s", name, n, human);
}

static void row_out(struct buf *b, const struct sizes *z, int64_t bytes)
{
    char n[32], human[32];
    state_size_grouped(n, bytes);
    state_size_human(human, bytes);
    if (z->latent) buf_printf(b, " %20s %12s", n, human);
    buf_char(b, '\n');
}

static void add_parts(struct buf *b, const struct state *s)
{
    int i;
    for (i = 0; i < s->n_parts; i++) {
        const struct state_part *p = &s->parts[i];
        char n[32];
        buf_printf(b, "  %d x %s: %s", p->layers, p->kind, p->shape);
        state_size_grouped(n, p->window);
        if (p->window) buf_printf(b, ", the last %s tokens", n);
        buf_char(b, '\n');
    }
}

/* S and z, with what a layer has of them where all have the same. */
static void add_sums(struct buf *b, const struct sizes *z)
{
    int64_t of_layer = 0;
    char n[32];
    int i;
    row(b, "S and z in its place", z->sums);
    for (i = 0; i < z->s.n_parts; i++) {
        int64_t sums = z->s.parts[i].sums * z->element;
        if (!sums) continue;
        if (of_layer && of_layer != sums) break;
        of_layer = sums;
    }
    state_size_grouped(n, of_layer);
    if (i == z->s.n_parts) buf_printf(b, ", %s a layer", n);
    buf_char(b, '\n');
}

static void add_text(struct buf *b, const struct sizes *z, const char *path, const char *dtype)
{
    const struct state *s = &z->s;
    char n[32], name[48];
    int i;
    arena *mem = arena_new();
    buf_printf(b, "%s: %s%s%s, %d layer%s\n", snippet_text(mem, path, strlen(path), 0), s->name, *s->name ? ", " : "", s->arch,
               s->layers, s->layers == 1 ? "" : "s");
    arena_free(mem);
    add_parts(b, s);
    buf_printf(b, "  %-26s %18s%s\n", dtype, "bytes", z->latent ? "                       written out" : "");
    if (z->token) {
        row(b, "a token", z->token);
        row_out(b, z, z->token_out);
    }
    if (z->windows) {
        row(b, "a token, windows full", z->token_late);
        buf_char(b, '\n');
    }
    if (z->fixed) {
        row(b, "whatever the length", z->fixed);
        buf_char(b, '\n');
    }
    for (i = 0; i < z->n_ctx; i++) {
        state_size_grouped(n, z->ctx[i]);
        snprintf(name, sizeof name, "%s token%s%s", n, z->ctx[i] == 1 ? "" : "s",
                 s->context && z->ctx[i] > s->context ? " *" : "");
        row(b, name, z->bytes[i]);
        row_out(b, z, z->out[i]);
    }
    if (z->sums) add_sums(b, z);
    state_size_grouped(n, s->context);
    for (i = 0; i < z->n_ctx && !(s->context && z->ctx[i] > s->context); i++) continue;
    if (i < z->n_ctx) buf_printf(b, "  * beyond the model's context of %s\n", n);
}

/* ---- for programs ---- */

static json_t *parts_json(const struct state *s)
{
    json_t *list = json_array();
    int i;
    for (i = 0; i < s->n_parts; i++) {
        const struct state_part *p = &s->parts[i];
        json_array_append_new(list,
                              json_pack("{s:s,s:i,s:s,s:o,s:I,s:I,s:I,s:I,s:I}", "kind", p->kind, "layers", p->layers, "shape",
                                        p->shape, "window", p->window ? json_integer(p->window) : json_null(),
                                        "numbers_per_token", (json_int_t)p->per_token, "numbers_per_token_written_out",
                                        (json_int_t)p->written_out, "numbers_fixed", (json_int_t)p->fixed, "numbers_fixed_f32",
                                        (json_int_t)p->fixed_f32, "numbers_s_and_z", (json_int_t)p->sums));
    }
    return list;
}

static json_t *model_json(const struct sizes *z, const char *path, const char *dtype)
{
    json_t *contexts = json_array();
    int i;
    for (i = 0; i < z->n_ctx; i++)
        json_array_append_new(contexts, json_pack("{s:I,s:I,s:I}", "tokens", (json_int_t)z->ctx[i], "bytes",
                                                  (json_int_t)z->bytes[i], "bytes_written_out", (json_int_t)z->out[i]));
    return json_pack("{s:o,s:s,s:o,s:i,s:o,s:s,s:o,s:I,s:I,s:I,s:I,s:I,s:o}", "path",
                     json_stringn_nocheck(path, utf8_valid(path, strlen(path))), "architecture", z->s.arch, "name",
                     *z->s.name ? json_string(z->s.name) : json_null(), "layers", z->s.layers, "context",
                     z->s.context ? json_integer(z->s.context) : json_null(), "dtype", dtype, "parts", parts_json(&z->s),
                     "bytes_per_token", (json_int_t)z->token, "bytes_per_token_windows_full", (json_int_t)z->token_late,
                     "bytes_per_token_written_out", (json_int_t)z->token_out, "bytes_fixed", (json_int_t)z->fixed,
                     "bytes_s_and_z", (json_int_t)z->sums, "contexts", contexts);
}

int state_size(const struct options *o, struct buf *out, err *e)
{
    struct sizes z = {.element = state_size_element(o->dtype)};
    const char *dtype = o->dtype ? o->dtype : "f16";
    json_t *all;
    char *text;
    int i;
    if (contexts(o->ctx, z.ctx, &z.n_ctx, e)) return -1;
    all = json_array();
    for (i = 0; i < o->n_args; i++) {
        if (count(&z, o->args[i], e)) return json_decref(all), -1;
        if (!o->json && i) buf_char(out, '\n');
        if (!o->json) add_text(out, &z, o->args[i], dtype);
        if (o->json) json_array_append_new(all, model_json(&z, o->args[i], dtype));
    }
    if (o->json) {
        text = json_dumps(all, JSON_COMPACT);
        buf_printf(out, "%s\n", text);
        free(text);
    }
    json_decref(all);
    return 0;
}
