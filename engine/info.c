/* info.c: see info.h. Metadata names: ggml's docs/gguf.md. */
#include "info.h"

#include <jansson.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIZE_MAX_SAID = 1 << 30, KEY_BYTES = 128 };

static void copy_text(char *out, size_t cap, struct gguf_str s)
{
    size_t i, n = utf8_valid(s.p, s.n < cap ? s.n : cap - 1);
    for (i = 0; i < n; i++) out[i] = (unsigned char)s.p[i] < 0x20 || s.p[i] == 0x7f ? '?' : s.p[i];
    out[n] = 0;
}

/* The string of a key, or "". */
static void get_text(const gguf *g, const char *key, char *out, size_t cap)
{
    struct gguf_str s = {"", 0};
    err e = {0};
    if (gguf_has(g, key) && gguf_string(g, key, &s, &e)) s.n = 0;
    copy_text(out, cap, s);
}

static const char *key_of(char *key, const char *arch, const char *name)
{
    snprintf(key, KEY_BYTES, "%s.%s", arch, name);
    return key;
}

/* ---- weights ---- */

static int more_bytes_first(const void *a, const void *b)
{
    const struct engine_weights *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return strcmp(x->type, y->type);
}

static struct engine_weights *of_type(struct info_own *own, int *n, const char *type)
{
    int i;
    for (i = 0; i < *n; i++)
        if (strcmp(own->weights[i].type, type) == 0) return &own->weights[i];
    if (*n == INFO_TYPES) return NULL;
    own->weights[*n] = (struct engine_weights){.type = type};
    return &own->weights[(*n)++];
}

static void describe_scaling(struct info_own *own, const gguf *g)
{
    char arch[32], key[KEY_BYTES], type[32];
    double factor = 1;
    err e = {0};
    get_text(g, "general.architecture", arch, sizeof arch);
    get_text(g, key_of(key, arch, "rope.scaling.type"), type, sizeof type);
    if (gguf_has(g, key_of(key, arch, "rope.scaling.factor")) && gguf_f64(g, key, &factor, &e)) factor = 1;
    if (gguf_find_tensor(g, "rope_freqs.weight"))
        snprintf(own->rope_scaling, sizeof own->rope_scaling, "llama3");
    else if (strcmp(type, "none") == 0 || (!*type && (factor == 1 || factor == 0)))
        snprintf(own->rope_scaling, sizeof own->rope_scaling, "none");
    else
        snprintf(own->rope_scaling, sizeof own->rope_scaling, "%s %g", *type ? type : "linear", factor);
}

/* One tensor more of its type. */
static void count_tensor(struct info_own *own, int *n, const char *type, const uint64_t *dims, int n_dims, size_t bytes)
{
    struct engine_weights *w = of_type(own, n, type);
    int64_t elements = 1;
    int d;
    if (!w) return;
    for (d = 0; d < n_dims; d++) elements *= (int64_t)dims[d];
    w->n_tensors++;
    w->elements += elements;
    w->bytes += (int64_t)bytes;
}

static void give_weights(struct engine_info *i, struct info_own *own, int n)
{
    qsort(own->weights, (size_t)n, sizeof *own->weights, more_bytes_first);
    i->weights = own->weights;
    i->n_weights = n;
}

/* The string of a key of a JSON object, printable, or "". */
static void get_json_text(const json_t *object, const char *key, char *out, size_t cap)
{
    const json_t *v = json_object_get(object, key);
    copy_text(out, cap, (struct gguf_str){json_is_string(v) ? json_string_value(v) : "", json_string_length(v)});
}

/* Scaling of all layers, or of the layers without a window, from one of two keys. */
static void folder_scaling(struct info_own *own, const json_t *config)
{
    const json_t *rope = json_object_get(config, "rope_scaling");
    char type[32];
    double factor;
    if (!json_is_object(rope)) rope = json_object_get(config, "rope_parameters");
    if (json_object_get(rope, "full_attention")) rope = json_object_get(rope, "full_attention");
    factor = json_number_value(json_object_get(rope, "factor"));
    get_json_text(rope, json_object_get(rope, "rope_type") ? "rope_type" : "type", type, sizeof type);
    if (!*type || strcmp(type, "default") == 0)
        snprintf(own->rope_scaling, sizeof own->rope_scaling, "none");
    else if (factor > 0)
        snprintf(own->rope_scaling, sizeof own->rope_scaling, "%s %g", type, factor);
    else
        snprintf(own->rope_scaling, sizeof own->rope_scaling, "%s", type);
}

void info_folder(struct engine_info *i, struct info_own *own, const void *config, size_t bytes, const safetensors *s)
{
    json_t *root = json_loadb(config, bytes, 0, NULL);
    int k, n = 0;
    for (k = 0; s && k < safetensors_n(s); k++) {
        const struct safetensor *t = safetensors_at(s, k);
        count_tensor(own, &n, t->type < DTYPE_COUNT ? dtype_name(t->type) : t->type_name, t->dims, t->n_dims, t->bytes);
    }
    give_weights(i, own, n);
    folder_scaling(own, root);
    i->rope_scaling = own->rope_scaling;
    get_json_text(root, "model_type", own->arch, sizeof own->arch);
    if (!*i->arch) i->arch = own->arch;
    json_decref(root);
}

void info_weights(struct engine_info *i, struct info_own *own, const gguf *g)
{
    int k, n = 0;
    for (k = 0; k < gguf_n_tensors(g); k++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, k);
        count_tensor(own, &n, t->type_name, t->dims, t->n_dims, t->bytes);
    }
    give_weights(i, own, n);
    describe_scaling(own, g);
    i->rope_scaling = own->rope_scaling;
}

/* ---- sizes ---- */

/* A size within 1..SIZE_MAX_SAID, else *out stays. */
static void get_size(const gguf *g, const char *arch, const char *name, int *out)
{
    char key[KEY_BYTES];
    uint64_t u;
    err e = {0};
    if (gguf_has(g, key_of(key, arch, name)) && gguf_u64(g, key, &u, &e) == 0 && u >= 1 && u <= SIZE_MAX_SAID) *out = (int)u;
}

void info_metadata(struct engine_info *i, struct info_own *own, const gguf *g)
{
    const struct gguf_tensor *embed = gguf_find_tensor(g, "token_embd.weight");
    char key[KEY_BYTES];
    double base;
    err e = {0};
    get_text(g, "general.architecture", own->arch, sizeof own->arch);
    get_text(g, "general.name", own->name, sizeof own->name);
    i->arch = own->arch;
    i->name = own->name;
    if (embed && embed->dims[1] <= SIZE_MAX_SAID) i->n_vocab = (int)embed->dims[1];
    get_size(g, own->arch, "block_count", &i->n_layer);
    get_size(g, own->arch, "embedding_length", &i->n_embd);
    get_size(g, own->arch, "feed_forward_length", &i->n_ff);
    get_size(g, own->arch, "context_length", &i->n_ctx_train);
    get_size(g, own->arch, "attention.head_count", &i->n_head);
    i->n_kv_head = i->n_head;
    get_size(g, own->arch, "attention.head_count_kv", &i->n_kv_head);
    if (i->n_head) i->head_dim = i->n_embd / i->n_head;
    get_size(g, own->arch, "attention.key_length", &i->head_dim);
    if (gguf_has(g, key_of(key, own->arch, "rope.freq_base")) && gguf_f64(g, key, &base, &e) == 0) i->rope_base = base;
}
