/* state.c: opening a model's metadata and adding up its state; see state.h. */
#include "map.h"
#include "model_parts.h"
#include "state_in.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { CONFIG_MAX = 16 << 20 };

/* ---- adding up ---- */

static bool alike(const struct state_part *a, const struct state_part *b)
{
    return a->kind == b->kind && strcmp(a->shape, b->shape) == 0 && a->window == b->window && a->per_token == b->per_token &&
           a->written_out == b->written_out && a->fixed == b->fixed && a->fixed_f32 == b->fixed_f32 && a->sums == b->sums;
}

int state_add(struct state *s, const struct state_part *p, err *e)
{
    int i;
    for (i = 0; i < s->n_parts && !alike(&s->parts[i], p); i++) continue;
    if (i == STATE_PARTS) return err_set(e, ERR_ENV, "layers of more than %d different sizes", STATE_PARTS);
    if (i == s->n_parts) s->parts[s->n_parts++] = *p;
    s->parts[i].layers++;
    return 0;
}

static int give(int64_t *out, __int128 bytes, err *e)
{
    if (bytes > INT64_MAX) return err_set(e, ERR_ENV, "the state has more than 2^63 bytes");
    *out = (int64_t)bytes;
    return 0;
}

int state_bytes(const struct state *s, int64_t tokens, int element, enum state_form form, int64_t *bytes, err *e)
{
    __int128 sum = 0;
    int i;
    for (i = 0; i < s->n_parts; i++) {
        const struct state_part *p = &s->parts[i];
        int64_t kept = p->window && tokens > p->window ? p->window : tokens;
        __int128 grown = (__int128)(form == STATE_STORED ? p->per_token : p->written_out) * kept;
        sum += p->layers * ((grown + p->fixed) * element + (__int128)p->fixed_f32 * 4);
    }
    return give(bytes, sum, e);
}

int state_token_bytes(const struct state *s, int element, int windows_full, int64_t *bytes, err *e)
{
    __int128 sum = 0;
    int i;
    for (i = 0; i < s->n_parts; i++) {
        const struct state_part *p = &s->parts[i];
        if (!p->window || !windows_full) sum += (__int128)p->layers * p->per_token * element;
    }
    return give(bytes, sum, e);
}

int state_sums_bytes(const struct state *s, int element, int64_t *bytes, err *e)
{
    __int128 sum = 0;
    int i;
    for (i = 0; i < s->n_parts; i++) sum += (__int128)s->parts[i].layers * s->parts[i].sums * element;
    return give(bytes, sum, e);
}

void state_text(char *out, size_t cap, const char *text, size_t n)
{
    model_text(out, cap, text, n);
}

/* ---- opening ---- */

int state_parse(struct state *out, const void *json, size_t n, err *e)
{
    json_error_t why;
    json_t *root = NULL;
    int rc;
    memset(out, 0, sizeof *out);
    if (n > CONFIG_MAX) return err_set(e, ERR_ENV, "%zu bytes, more than %d", n, CONFIG_MAX);
    root = json_loadb(json, n, JSON_REJECT_DUPLICATES, &why);
    if (!root) return err_set(e, ERR_ENV, "%d:%d: %s", why.line, why.column, why.text);
    rc = state_config(out, root, e);
    json_decref(root);
    return rc;
}

static int open_gguf(struct state *out, const char *path, err *e)
{
    gguf *g;
    int rc;
    memset(out, 0, sizeof *out);
    if (gguf_open(&g, path, e)) return -1;
    rc = state_gguf(out, g, e);
    gguf_close(g);
    return rc;
}

/* GGUF files say so in their first four bytes; anything else is read as config.json. */
static int open_file(struct state *out, const char *path, err *e)
{
    const void *bytes;
    size_t n;
    bool is_gguf;
    int rc;
    if (map_file(&bytes, &n, path, e)) return -1;
    is_gguf = n >= 4 && memcmp(bytes, "GGUF", 4) == 0;
    rc = is_gguf ? 0 : state_parse(out, bytes, n, e);
    map_release(bytes, n);
    return is_gguf ? open_gguf(out, path, e) : rc;
}

int state_open(struct state *out, const char *path, err *e)
{
    char config[4096];
    struct stat st;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        if (snprintf(config, sizeof config, "%s/config.json", path) >= (int)sizeof config)
            return err_set(e, ERR_ENV, "the path is too long");
        return open_file(out, config, e) ? err_in(e, "config.json") : 0;
    }
    return open_file(out, path, e);
}
