/* engine.c: opens a model and answers what it is; text goes through to the tokenizer and the chat template. */
#include "internal.h"
#include "map.h"
#include "model_parts.h"

#include <openssl/sha.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const enum dtype kv_dtypes[] = {[KV_F32] = DTYPE_F32, [KV_F16] = DTYPE_F16, [KV_BF16] = DTYPE_BF16};

static int choose_cpu(engine *en, const struct engine_opts *o, err *e)
{
    static const struct {
        const char *name;
        enum kernels_isa isa;
    } names[] = {{"scalar", KERNELS_SCALAR}, {"avx2", KERNELS_AVX2}, {"avx512", KERNELS_AVX512}};
    enum kernels_isa isa = KERNELS_BEST;
    size_t i;
    if (o->isa) {
        for (i = 0; i < sizeof names / sizeof *names; i++)
            if (strcmp(o->isa, names[i].name) == 0) isa = names[i].isa;
        if (isa == KERNELS_BEST)
            return err_set(e, ERR_INPUT, "instruction set '%s' is not one of scalar, avx2, avx512", o->isa);
    }
    en->k = kernels_cpu(isa);
    if (!en->k) return err_set(e, ERR_ENV, "this processor does not have %s", o->isa);
    en->info.isa = en->k->name;
    return 0;
}

static void take_gpu(engine *en, const char *backend)
{
    const struct cuda_device *d = &en->gpu.device;
    en->k = en->gpu.k;
    en->info.backend = backend;
    en->info.gpu_name = d->name;
    snprintf(en->isa, sizeof en->isa, "sm_%d%d", d->cc_major, d->cc_minor);
    en->info.isa = en->isa;
}

static int choose_kernels(engine *en, const struct engine_opts *o, err *e)
{
    bool automatic = !o->backend || strcmp(o->backend, "auto") == 0,
         emulated = !automatic && strcmp(o->backend, "cuda-emu") == 0;
    en->info.threads = kernels_cpu_threads(o->threads);
    en->info.backend = "cpu";
    if (!automatic && !emulated && strcmp(o->backend, "cpu") != 0 && strcmp(o->backend, "cuda") != 0)
        return err_set(e, ERR_INPUT, "backend '%s' is not one of cpu, cuda, cuda-emu, auto", o->backend);
    /* Nothing is computed, or the instruction set of the CPU is asked for. */
    if (automatic && (o->isa || o->vocab_only)) return choose_cpu(en, o, e);
    if (!automatic && strcmp(o->backend, "cpu") == 0) return choose_cpu(en, o, e);
    if (o->isa) return err_set(e, ERR_INPUT, "an instruction set is the CPU's: it does not go with backend %s", o->backend);
    if (backend_open(&en->gpu, emulated ? "cuda-emu" : "cuda", o->gpu) == 0) {
        take_gpu(en, emulated ? "cuda-emu" : "cuda");
        return 0;
    }
    if (!automatic) return err_set(e, ERR_ENV, "backend %s: %s", o->backend, en->gpu.why);
    en->info.no_gpu = en->gpu.why;
    en->info.gpu_odd =
        en->gpu.state == BACKEND_NO_LIBRARY || en->gpu.state == BACKEND_BROKEN || en->gpu.state == BACKEND_REFUSED;
    return choose_cpu(en, o, e);
}

static int open_chat(engine *en, const struct engine_opts *o, err *e)
{
    struct gguf_str s = {0};
    if (o->chat_template) {
        s.p = o->chat_template;
        s.n = strlen(s.p);
    } else if (en->folder_template) {
        s.p = en->folder_template;
        s.n = strlen(s.p);
    } else if (en->file && gguf_has(en->file, "tokenizer.chat_template")) {
        if (gguf_string(en->file, "tokenizer.chat_template", &s, e)) return -1;
    } else {
        return 0;
    }
    /* A template that cannot be compiled matters only to a spec with `chat`; engine_chat tells the reason then. */
    if (chat_compile(&en->chat, s.p, s.n, &en->chat_error)) en->info.chat_error = en->chat_error.msg;
    return 0;
}

/* A made-up model is what it was made from. */
static void describe_made(engine *en, const struct engine_opts *o)
{
    struct buf b = {0};
    buf_printf(&b, "%s %s %d", o->shape->name, dtype_name(en->model.weight_type), en->model.n_layer);
    SHA256((const unsigned char *)b.p, b.n, en->info.sha256);
    buf_free(&b);
    en->info.file_bytes = en->weight_bytes;
    en->info.rope_scaling = "none";
}

static void describe(engine *en, const struct engine_opts *o)
{
    struct engine_info *i = &en->info;
    const struct model *m = &en->model;
    size_t bytes;
    int l;
    if (en->file) {
        const void *all = gguf_bytes(en->file, &bytes);
        SHA256(all, bytes, i->sha256);
        i->file_bytes = (int64_t)bytes;
    } else if (o->shape) {
        describe_made(en, o);
    } else {
        folder_describe(en);
    }
    i->path = en->path;
    i->format = en->file ? "gguf" : o->shape ? "made" : "safetensors";
    i->weight_bytes = en->weight_bytes;
    i->gpu_free = en->gpu.device.memory_free - en->weight_bytes - (int64_t)en->s.bytes;
    if (!en->gpu.k || i->gpu_free < 0) i->gpu_free = 0;
    i->arch = m->arch;
    i->name = m->name;
    i->kv_dtype = dtype_name(kv_dtypes[i->kv]);
    i->weight_dtype = dtype_name(m->weight_type);
    i->n_layer = m->n_layer;
    i->n_head = m->H;
    i->n_kv_head = m->G;
    i->head_dim = m->E;
    i->n_embd = m->D;
    i->n_ff = m->F;
    i->n_vocab = m->V;
    i->n_ctx_train = m->n_ctx;
    i->rope_base = m->rope_base;
    for (l = 0; l < m->n_layer && !m->layers[l].window;) l++;
    if (l < m->n_layer) {
        en->windows = mem_array((size_t)m->n_layer, sizeof *en->windows);
        for (l = 0; l < m->n_layer; l++) en->windows[l] = m->layers[l].window;
    }
    i->windows = en->windows;
    i->kv_bytes_per_token = (int64_t)2 * m->n_layer * m->G * m->E * dtype_block_bytes(kv_dtypes[i->kv]);
    snprintf(en->numerics, sizeof en->numerics, "n1:%s:kv-%s", en->k->numerics, i->kv_dtype);
    i->numerics = en->numerics;
    i->bos = i->eos = -1;
    i->tokenizer_kind = "none";
    i->has_chat_template = en->chat != NULL;
    if (en->file)
        info_weights(i, &en->info_own, en->file);
    else if (!o->shape)
        info_folder(i, &en->info_own, en->config, en->config_bytes, en->weights);
    if (o->vocab_only) {
        if (en->file) info_metadata(i, &en->info_own, en->file);
        i->weight_dtype = i->n_weights ? i->weights[0].type : "none";
    }
    if (!en->tok) return;
    i->tokenizer_kind = tokenizer_kind(en->tok);
    tokenizer_sha256(en->tok, i->tokenizer_sha256);
    i->bos = tokenizer_bos(en->tok);
    i->eos = tokenizer_eos(en->tok);
    i->add_bos = tokenizer_add_bos(en->tok);
    i->stop = tokenizer_stop(en->tok, &i->n_stop);
    if (i->n_vocab == 0) i->n_vocab = tokenizer_n_vocab(en->tok);
}

static int open_gguf(engine *en, const struct engine_opts *o, err *e)
{
    if (gguf_open(&en->file, o->path, e)) return -1;
    if (tokenizer_load(&en->tok, en->file, e)) return err_in(e, "tokenizer");
    return o->vocab_only ? 0 : model_load(&en->model, en->file, e);
}

/* Scratch of a pass. A GPU wants more rows at once than a CPU; its emulator does not. */
static int make_scratch(engine *en, const struct engine_opts *o, err *e)
{
    bool gpu = strcmp(en->info.backend, "cuda") == 0;
    return scratch_init(en, o->max_rows > 0 ? o->max_rows : gpu ? 2048 : 256, e);
}

static int load_model(engine *en, const struct engine_opts *o, err *e)
{
    struct stat st;
    if (o->shape) return made_model(en, o->shape, o->shape_weights, o->shape_layers, o->look_only, e);
    if (stat(o->path, &st) == 0 && S_ISDIR(st.st_mode) ? folder_open(en, o, e) : open_gguf(en, o, e)) return -1;
    if (open_chat(en, o, e)) return -1;
    return 0;
}

static int engine_load(engine *en, const struct engine_opts *o, err *e)
{
    const struct model *m = &en->model;
    en->year = o->year;
    en->month = o->month;
    en->day = o->day;
    if (choose_kernels(en, o, e)) return -1;
    if (load_model(en, o, e)) return -1;
    en->info.kv = o->kv != KV_AUTO ? o->kv : en->gpu.k && m->weight_type == DTYPE_BF16 ? KV_BF16 : KV_F32;
    if (!o->vocab_only) {
        if (en->tok && tokenizer_n_vocab(en->tok) > m->V)
            return err_set(e, ERR_ENV, "the tokenizer has %d tokens, the model's embedding only %d", tokenizer_n_vocab(en->tok),
                           m->V);
        en->attn = (struct attn){.H = m->H, .G = m->G, .E = m->E, .kv_type = kv_dtypes[en->info.kv], .cap = m->score_cap};
        if (!o->look_only && ((!o->shape && upload(en, e)) || make_scratch(en, o, e))) return -1;
    }
    describe(en, o);
    return 0;
}

int engine_open(engine **out, const struct engine_opts *o, err *e)
{
    engine *en = mem_alloc(sizeof *en);
    pthread_mutex_init(&en->pool_lock, NULL);
    en->trouble = trouble_new();
    en->path = mem_strdup(o->shape ? o->shape->name : o->path);
    if (engine_load(en, o, e)) {
        err_in(e, "model '%s'", en->path);
        engine_free(en);
        return -1;
    }
    *out = en;
    return 0;
}

void engine_owns(engine *en, const void *p)
{
    if ((en->n_owned & (en->n_owned - 1)) == 0)
        en->owned = mem_grow(en->owned, en->n_owned ? 2 * (size_t)en->n_owned : 1, sizeof *en->owned);
    en->owned[en->n_owned++] = p;
}

static void free_owned(engine *en)
{
    int i;
    for (i = 0; i < en->n_owned; i++) {
        void *p;
        memcpy(&p, &en->owned[i], sizeof p); /* nobody but the engine has it */
        en->k->release(p);
    }
    free(en->owned);
}

void engine_free(engine *en)
{
    if (!en) return;
    cache_pool_free(en);
    free_owned(en);
    upload_drop(en);
    scratch_free(en);
    angles_free(en);
    edit_rows_free(en);
    watch_free(en);
    chat_free(en->chat);
    free(en->folder_template);
    tokenizer_free(en->tok);
    model_clear(&en->model);
    gguf_close(en->file);
    safetensors_close(en->weights);
    map_release(en->config, en->config_bytes);
    pthread_mutex_destroy(&en->pool_lock);
    trouble_free(en->trouble);
    free(en->windows);
    free(en->path);
    free(en);
}

const struct engine_info *engine_info(const engine *en)
{
    return &en->info;
}

int engine_tokenize(const engine *en, const char *text, size_t n, unsigned flags, struct tokens *out, err *e)
{
    if (!en->tok) return err_set(e, ERR_INPUT, "the model has no tokenizer; give the prompt as `tokens: [ids]`");
    return tokenizer_encode(en->tok, text, n, flags, out, e);
}

const char *engine_token_bytes(const engine *en, int id, size_t *n)
{
    return en->tok ? tokenizer_bytes(en->tok, id, n) : NULL;
}

/* The text of a special token for the template; "" when there is none. Caller frees. */
static char *special_text(const engine *en, int id)
{
    struct buf b = {0};
    size_t n;
    const char *p = id >= 0 ? engine_token_bytes(en, id, &n) : NULL;
    if (p) buf_add(&b, p, n);
    return buf_take(&b);
}

int engine_chat(const engine *en, const struct chat_msg *msgs, int n, bool add_generation_prompt, struct buf *out, err *e)
{
    struct chat_env env = {0};
    char *bos, *eos;
    int rc;
    if (en->chat_error.code) return err_set(e, ERR_INPUT, "chat template: %s", en->chat_error.msg);
    if (!en->chat) return err_set(e, ERR_INPUT, "the model has no chat template; give the prompt as `text`");
    bos = special_text(en, en->info.bos);
    eos = special_text(en, en->info.eos);
    env.bos_token = bos;
    env.eos_token = eos;
    env.year = en->year;
    env.month = en->month;
    env.day = en->day;
    env.add_generation_prompt = add_generation_prompt;
    rc = chat_render(en->chat, &env, msgs, n, out, e);
    free(bos);
    free(eos);
    return rc;
}

void engine_kv_to_f32(enum kv_type t, const void *in, float *out, size_t n)
{
    kernels_widen(out, in, kv_dtypes[t], n);
}
