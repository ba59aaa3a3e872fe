/* model_info.c: see model_info.h. */
#include "model_info.h"

#include "snippet.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

int model_info_open(engine **out, const char *path, err *e)
{
    struct engine_opts o = {.path = path, .backend = "cpu", .max_rows = 1, .threads = 1};
    err first = {0}, second = {0};
    if (engine_open(out, &o, &first) == 0) return 0;
    o.vocab_only = true;
    if (engine_open(out, &o, &second) == 0) {
        if (engine_info(*out)->n_weights == 0 && strcmp(engine_info(*out)->tokenizer_kind, "none") != 0) return 0;
        engine_free(*out);
    }
    return err_set(e, first.code, "%s", first.msg);
}

/* Bytes of K and V of one token in all layers; 0: not known. */
static int64_t kv_bytes(const struct engine_info *i, int element)
{
    __int128 n = (__int128)2 * i->n_layer * i->n_kv_head * i->head_dim * element;
    return n > INT64_MAX ? 0 : (int64_t)n;
}

static int64_t parameters(const struct engine_info *i)
{
    int64_t n = 0;
    int k;
    for (k = 0; k < i->n_weights; k++) n += i->weights[k].elements;
    return n;
}

/* ---- for people ---- */

static void line(struct buf *b, const char *name)
{
    buf_printf(b, "  %-15s", name);
}

static void size_line(struct buf *b, const char *name, int n)
{
    if (n <= 0) return;
    line(b, name);
    buf_printf(b, "%d\n", n);
}

/* 46080 as "46,080". */
static void grouped(struct buf *b, int64_t n)
{
    char s[32];
    int i, len = snprintf(s, sizeof s, "%lld", (long long)n);
    for (i = 0; i < len; i++) {
        if (i && (len - i) % 3 == 0) buf_char(b, ',');
        buf_char(b, s[i]);
    }
}

/* What comes from a file or a command line, with control characters written out. */
static void shown(struct buf *b, const char *s, size_t n)
{
    arena *mem = arena_new();
    buf_str(b, snippet_text(mem, s, n, 0));
    arena_free(mem);
}

/* "2 <|im_end|>" */
static void token(struct buf *b, const engine *en, int id)
{
    size_t n = 0;
    const char *p = engine_token_bytes(en, id, &n);
    buf_printf(b, "%d ", id);
    shown(b, p ? p : "", n);
}

static void add_file(struct buf *b, const struct engine_info *i)
{
    char sha256[65];
    hex_text(sha256, i->sha256, 32);
    line(b, "file");
    shown(b, i->path, strlen(i->path));
    buf_char(b, '\n');
    line(b, "format");
    buf_printf(b, "%s, ", i->format);
    grouped(b, i->file_bytes);
    buf_str(b, " bytes\n");
    line(b, "sha256");
    buf_printf(b, "%s\n", sha256);
    line(b, "architecture");
    shown(b, *i->arch ? i->arch : "not said", *i->arch ? strlen(i->arch) : 8);
    buf_char(b, '\n');
}

static void add_weights(struct buf *b, const struct engine_info *i)
{
    int k;
    line(b, "weights");
    if (i->n_weights == 0) buf_str(b, "none: the file is a vocabulary alone\n");
    for (k = 0; k < i->n_weights; k++) {
        struct buf bytes = {0};
        grouped(&bytes, i->weights[k].bytes);
        if (k) line(b, "");
        buf_printf(b, "%-7s %15s bytes in %d tensor%s\n", i->weights[k].type, bytes.p, i->weights[k].n_tensors,
                   i->weights[k].n_tensors > 1 ? "s" : "");
        buf_free(&bytes);
    }
    if (i->n_weights == 0) return;
    line(b, "parameters");
    grouped(b, parameters(i));
    buf_char(b, '\n');
}

static void add_sizes(struct buf *b, const struct engine_info *i)
{
    size_line(b, "layers", i->n_layer);
    size_line(b, "width", i->n_embd);
    if (i->n_head > 0) {
        line(b, "heads");
        buf_printf(b, "%d query, %d kv, %d elements each\n", i->n_head, i->n_kv_head, i->head_dim);
    }
    size_line(b, "ffn", i->n_ff);
    size_line(b, "vocabulary", i->n_vocab);
    size_line(b, "context", i->n_ctx_train);
    if (i->rope_base > 0) {
        line(b, "rope");
        buf_printf(b, "base %.10g, scaling %s\n", i->rope_base, i->rope_scaling);
    }
    if (kv_bytes(i, 2) <= 0) return;
    line(b, "kv per token");
    grouped(b, kv_bytes(i, 4));
    buf_str(b, " bytes f32, ");
    grouped(b, kv_bytes(i, 2));
    buf_str(b, " bytes f16 or bf16\n");
}

static void add_tokenizer(struct buf *b, const engine *en)
{
    const struct engine_info *i = engine_info(en);
    int k;
    line(b, "tokenizer");
    buf_printf(b, "%s\n", i->tokenizer_kind);
    if (strcmp(i->tokenizer_kind, "none") != 0) {
        line(b, "bos");
        if (i->bos >= 0) token(b, en, i->bos);
        buf_str(b, i->bos < 0 ? "none\n" : i->add_bos ? ", in front of plain text\n" : ", not in front of plain text\n");
        line(b, "eos");
        if (i->eos >= 0) token(b, en, i->eos);
        buf_str(b, i->eos < 0 ? "none\n" : "\n");
    }
    if (i->n_stop) line(b, "stop");
    for (k = 0; k < i->n_stop; k++) {
        if (k) buf_str(b, ", ");
        token(b, en, i->stop[k]);
    }
    if (i->n_stop) buf_char(b, '\n');
    line(b, "chat template");
    buf_str(b, i->chat_error ? "cannot be used: " : i->has_chat_template ? "yes" : "no");
    if (i->chat_error) shown(b, i->chat_error, strlen(i->chat_error));
    buf_char(b, '\n');
}

void model_info_text(const engine *en, struct buf *out)
{
    const struct engine_info *i = engine_info(en);
    if (*i->name)
        shown(out, i->name, strlen(i->name));
    else
        buf_str(out, "a model without a name");
    buf_char(out, '\n');
    add_file(out, i);
    add_weights(out, i);
    add_sizes(out, i);
    add_tokenizer(out, en);
}

/* ---- for programs ---- */

static json_t *text(const char *s)
{
    return s && *s ? json_stringn_nocheck(s, utf8_valid(s, strlen(s))) : json_null();
}

static json_t *known(int64_t n)
{
    return n > 0 ? json_integer(n) : json_null();
}

static json_t *id(int n)
{
    return n >= 0 ? json_integer(n) : json_null();
}

static json_t *weights_json(const struct engine_info *i)
{
    json_t *list = json_array();
    int k;
    for (k = 0; k < i->n_weights; k++) {
        const struct engine_weights *w = &i->weights[k];
        json_array_append_new(list, json_pack("{s:s,s:i,s:I,s:I}", "type", w->type, "tensors", w->n_tensors, "elements",
                                              (json_int_t)w->elements, "bytes", (json_int_t)w->bytes));
    }
    return list;
}

static json_t *tokenizer_json(const struct engine_info *i)
{
    json_t *stop = json_array();
    char sha256[65];
    int k;
    if (strcmp(i->tokenizer_kind, "none") == 0) return json_decref(stop), json_null();
    for (k = 0; k < i->n_stop; k++) json_array_append_new(stop, json_integer(i->stop[k]));
    hex_text(sha256, i->tokenizer_sha256, 32);
    return json_pack("{s:s,s:s,s:o,s:o,s:b,s:o}", "kind", i->tokenizer_kind, "sha256", sha256, "bos", id(i->bos), "eos",
                     id(i->eos), "add_bos", i->add_bos, "stop", stop);
}

void model_info_json(const engine *en, struct buf *out)
{
    const struct engine_info *i = engine_info(en);
    char sha256[65], *s;
    json_t *j = json_object();
    hex_text(sha256, i->sha256, 32);
    json_object_set_new(j, "name", text(i->name));
    json_object_set_new(j, "path", text(i->path));
    json_object_set_new(j, "format", text(i->format));
    json_object_set_new(j, "file_bytes", json_integer(i->file_bytes));
    json_object_set_new(j, "sha256", text(sha256));
    json_object_set_new(j, "architecture", text(i->arch));
    json_object_set_new(j, "weights", weights_json(i));
    json_object_set_new(j, "parameters", known(parameters(i)));
    json_object_set_new(j, "layers", known(i->n_layer));
    json_object_set_new(j, "width", known(i->n_embd));
    json_object_set_new(j, "query_heads", known(i->n_head));
    json_object_set_new(j, "kv_heads", known(i->n_kv_head));
    json_object_set_new(j, "head_size", known(i->head_dim));
    json_object_set_new(j, "ffn", known(i->n_ff));
    json_object_set_new(j, "vocabulary", known(i->n_vocab));
    json_object_set_new(j, "context", known(i->n_ctx_train));
    json_object_set_new(j, "rope_base", i->rope_base > 0 ? json_real(i->rope_base) : json_null());
    json_object_set_new(j, "rope_scaling", i->rope_base > 0 ? text(i->rope_scaling) : json_null());
    json_object_set_new(
        j, "kv_bytes_per_token",
        json_pack("{s:o,s:o,s:o}", "f32", known(kv_bytes(i, 4)), "f16", known(kv_bytes(i, 2)), "bf16", known(kv_bytes(i, 2))));
    json_object_set_new(j, "tokenizer", tokenizer_json(i));
    json_object_set_new(j, "chat_template", json_boolean(i->has_chat_template));
    json_object_set_new(j, "chat_template_error", text(i->chat_error));
    s = json_dumps(j, JSON_COMPACT);
    buf_printf(out, "%s\n", s);
    free(s);
    json_decref(j);
}
