/* folder.c: a model as Hugging Face publishes it: config.json, weights as safetensors, tokenizer.json, a chat template in
 * chat_template.jinja or tokenizer_config.json. A folder without tokenizer.json is a model without a tokenizer.
 */
#include "internal.h"
#include "map.h"
#include "model_parts.h"

#include <jansson.h>
#include <openssl/sha.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CONFIG_MAX = 16 << 20, TEMPLATE_MAX = 1 << 20, EOS_MAX = 64 };

/* The folder's file of that name: 1 when it is mapped, 0 when there is none, -1: error. */
static int map_inside(const char *folder, const char *name, const void **bytes, size_t *n, err *e)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        return err_set(e, ERR_ENV, "the path is too long");
    if (access(path, F_OK) != 0) return 0;
    return map_file(bytes, n, path, e) ? err_in(e, "%s", name) : 1;
}

/* The digest of the digests of config.json and of each weight file, in the order of the files' names. */
void folder_describe(engine *en)
{
    int f, n = en->weights ? safetensors_n_files(en->weights) : 0;
    uint8_t *digests = mem_array((size_t)n + 1, SHA256_DIGEST_LENGTH);
    size_t bytes;
    SHA256(en->config, en->config_bytes, digests);
    en->info.file_bytes = (int64_t)en->config_bytes;
    for (f = 0; f < n; f++) {
        const void *all = safetensors_bytes(en->weights, f, &bytes);
        SHA256(all, bytes, digests + (size_t)(f + 1) * SHA256_DIGEST_LENGTH);
        en->info.file_bytes += (int64_t)bytes;
    }
    SHA256(digests, (size_t)(n + 1) * SHA256_DIGEST_LENGTH, en->info.sha256);
    free(digests);
}

/* ---- tokenizer and template ---- */

/* A JSON object of the folder; NULL without e: there is no such file. */
static json_t *load_json(const char *folder, const char *name, err *e)
{
    const void *bytes;
    json_error_t why;
    json_t *j = NULL;
    size_t n;
    if (map_inside(folder, name, &bytes, &n, e) <= 0) return NULL;
    if (n > CONFIG_MAX)
        err_set(e, ERR_ENV, "%s has %zu bytes, more than %d", name, n, CONFIG_MAX);
    else if (!(j = json_loadb(bytes, n, JSON_REJECT_DUPLICATES, &why)))
        err_set(e, ERR_ENV, "%s:%d:%d: %s", name, why.line, why.column, why.text);
    map_release(bytes, n);
    return j;
}

/* The ids of config.json's key, one or a list; returns how many. */
static int config_ids(const json_t *config, const char *key, int *ids)
{
    const json_t *v = json_object_get(config, key);
    size_t i;
    int n = 0;
    if (json_is_integer(v)) ids[n++] = (int)json_integer_value(v);
    for (i = 0; i < json_array_size(v) && n < EOS_MAX; i++)
        if (json_is_integer(json_array_get(v, i))) ids[n++] = (int)json_integer_value(json_array_get(v, i));
    return n;
}

static int open_tokenizer(engine *en, const char *folder, err *e)
{
    int bos[EOS_MAX], eos[EOS_MAX], n_bos, n_eos, there, rc;
    const void *bytes;
    json_t *config;
    size_t n;
    there = map_inside(folder, "tokenizer.json", &bytes, &n, e);
    if (there <= 0) return there;
    rc = tokenizer_load_json(&en->tok, bytes, n, e);
    map_release(bytes, n);
    if (rc) return err_in(e, "tokenizer.json");
    config = json_loadb(en->config, en->config_bytes, 0, NULL);
    n_bos = config_ids(config, "bos_token_id", bos);
    n_eos = config_ids(config, "eos_token_id", eos);
    json_decref(config);
    return tokenizer_set_ids(en->tok, n_bos ? bos[0] : -1, eos, n_eos, e);
}

/* The template of tokenizer_config.json: a text, or the one called "default" of a list. */
static const char *template_of(const json_t *config)
{
    const json_t *t = json_object_get(config, "chat_template");
    size_t i;
    for (i = 0; i < json_array_size(t); i++) {
        const json_t *one = json_array_get(t, i);
        const char *name = json_string_value(json_object_get(one, "name"));
        if (name && strcmp(name, "default") == 0) return json_string_value(json_object_get(one, "template"));
    }
    return json_string_value(t);
}

static int open_template(engine *en, const char *folder, err *e)
{
    const void *bytes;
    const char *text;
    json_t *config;
    size_t n;
    int there = map_inside(folder, "chat_template.jinja", &bytes, &n, e);
    if (there < 0) return -1;
    if (there) {
        struct buf b = {0};
        bool whole = n <= TEMPLATE_MAX && !memchr(bytes, 0, n);
        if (whole) buf_add(&b, bytes, n);
        map_release(bytes, n);
        if (!whole) return err_set(e, ERR_ENV, "chat_template.jinja is no text of at most %d bytes", TEMPLATE_MAX);
        en->folder_template = buf_take(&b);
        return 0;
    }
    config = load_json(folder, "tokenizer_config.json", e);
    if (!config) return e->code ? -1 : 0;
    text = template_of(config);
    if (text) en->folder_template = mem_strdup(text);
    json_decref(config);
    return 0;
}

/* ---- opening ---- */

static int open_weights(engine *en, const char *folder, err *e)
{
    const char *end = folder + strlen(folder), *name;
    if (safetensors_open(&en->weights, folder, e)) return -1;
    if (model_load_folder(&en->model, en->config, en->config_bytes, en->weights, e)) return -1;
    while (end > folder && end[-1] == '/') end--;
    for (name = end; name > folder && name[-1] != '/'; name--) continue;
    model_text(en->model.name, sizeof en->model.name, name, (size_t)(end - name));
    return 0;
}

int folder_open(engine *en, const struct engine_opts *o, err *e)
{
    int there = map_inside(o->path, "config.json", &en->config, &en->config_bytes, e);
    err none = {0};
    if (there < 0) return -1;
    if (!there) return err_set(e, ERR_ENV, "the folder has no config.json");
    if (open_tokenizer(en, o->path, e) || open_template(en, o->path, e)) return -1;
    if (!o->vocab_only) return open_weights(en, o->path, e);
    (void)open_weights(en, o->path, &none); /* where they are, they belong to the digest and say the sizes */
    return 0;
}
