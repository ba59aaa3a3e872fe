/* bind.c: prompts become text and tokens, with the places of their slots; see bind.h. Chats: bind_chat.c. Selectors: select.c.
 */
#include "bind_in.h"

#include "select.h"

#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_MAX = 1 << 28 };

/* ---- text ---- */

bool bind_adds_bos(const struct engine_info *info, const struct prompt *p)
{
    return p->add_bos == 1 || (p->add_bos < 0 && p->kind == PROMPT_TEXT && info->add_bos);
}

int bind_text(const engine *en, const struct prompt *p, arena *mem, struct diag *d, struct buf *out, struct places *places,
              err *e)
{
    if (p->kind == PROMPT_CHAT) return bind_chat(en, p, mem, d, out, places, e);
    if (p->kind == PROMPT_TEXT) bind_fill(&p->text, p, 0, out, places);
    return 0;
}

/* ---- tokens ---- */

static int text_tokens(const engine *en, struct bound_prompt *b, arena *mem, struct diag *d, err *e)
{
    const struct engine_info *info = engine_info(en);
    const struct prompt *p = b->prompt;
    bool bos = bind_adds_bos(info, p);
    struct tokens t = {0};
    if (p->add_bos == 1 && info->bos < 0) {
        diag_add(d, DIAG_ERROR, "E308", p->at, (int)strlen(p->name),
                 "prompt '%s': add_bos: true, but the model has no BOS token", p->name);
        return -1;
    }
    if (engine_tokenize(en, b->text, (size_t)b->n_bytes, bos ? TOKENIZE_BOS : 0, &t, e))
        return err_in(e, "prompt '%s'", p->name);
    b->n_tokens = t.n;
    b->tokens = arena_array(mem, (size_t)t.n, sizeof *b->tokens);
    if (t.n) memcpy(b->tokens, t.t, (size_t)t.n * sizeof *t.t);
    free(t.t);
    return 0;
}

static int given_tokens(const struct engine_info *info, struct bound_prompt *b, arena *mem, struct diag *d)
{
    const struct prompt *p = b->prompt;
    int i;
    b->n_tokens = p->n_tokens;
    b->tokens = arena_array(mem, (size_t)p->n_tokens, sizeof *b->tokens);
    for (i = 0; i < p->n_tokens; i++) {
        b->tokens[i] = (struct token){p->tokens[i], 0, 0};
        if (p->tokens[i] >= 0 && p->tokens[i] < info->n_vocab) continue;
        diag_add(d, DIAG_ERROR, "E304", p->at, (int)strlen(p->name), "prompt '%s': token %d is %d; the model has ids 0..%d",
                 p->name, i, p->tokens[i], info->n_vocab - 1);
        return -1;
    }
    return 0;
}

static int check_length(const struct engine_info *info, const struct bound_prompt *b, struct diag *d)
{
    const struct prompt *p = b->prompt;
    int width = (int)strlen(p->name);
    if (b->n_tokens == 0) {
        diag_add(d, DIAG_ERROR, "E302", p->at, width, "prompt '%s' has no token", p->name);
        return -1;
    }
    if (info->n_ctx_train > 0 && b->n_tokens > info->n_ctx_train) {
        diag_add(d, DIAG_ERROR, "E303", p->at, width, "prompt '%s' has %d tokens; the model was trained for at most %d",
                 p->name, b->n_tokens, info->n_ctx_train);
        return -1;
    }
    return 0;
}

void bind_hash(const struct engine_info *info, struct bound_prompt *b, arena *mem)
{
    size_t n = sizeof info->tokenizer_sha256;
    unsigned char *bytes = arena_alloc(mem, n + 4 * (size_t)b->n_tokens);
    int i;
    memcpy(bytes, info->tokenizer_sha256, n);
    b->ids = arena_array(mem, (size_t)b->n_tokens, sizeof *b->ids);
    for (i = 0; i < b->n_tokens; i++) {
        unsigned id = (unsigned)(b->ids[i] = b->tokens[i].id);
        bytes[n++] = id & 255, bytes[n++] = id >> 8 & 255, bytes[n++] = id >> 16 & 255, bytes[n++] = id >> 24 & 255;
    }
    SHA256(bytes, n, b->sha256);
}

/* ---- spans ---- */

static void add_span(struct bound_prompt *b, const char *name, int nth, int start, int end)
{
    struct span *s = &b->spans[b->n_spans++];
    *s = (struct span){.name = name, .nth = nth, .byte_start = start, .byte_end = end};
    select_touch(b, s);
}

/* The needle of a haystack stands at `needle` of its value. */
static void make_spans(struct bound_prompt *b, const struct places *places, int needle, arena *mem)
{
    int *used = arena_array(mem, (size_t)b->prompt->n_slots, sizeof *used), i;
    b->spans = arena_array(mem, 2 * (size_t)places->n, sizeof *b->spans);
    for (i = 0; i < places->n; i++) {
        const struct place *pl = &places->p[i];
        const struct slot *slot = &b->prompt->slots[pl->slot];
        const struct haystack *h = slot->haystack;
        int at = pl->start + needle;
        add_span(b, slot->name, ++used[pl->slot], pl->start, pl->end);
        b->spans[b->n_spans - 1].filler = h != NULL;
        if (h && h->needle) add_span(b, h->needle, used[pl->slot], at, at + (int)strlen(h->text));
    }
}

/* ---- one prompt, all prompts ---- */

/* What the model must have for this prompt. */
static int check_model(const struct engine_info *info, const struct prompt *p, struct diag *d)
{
    const char *model = info->name && *info->name ? info->name : info->arch;
    int width = (int)strlen(p->name);
    if (p->kind == PROMPT_TOKENS) return 0;
    if (strcmp(info->tokenizer_kind, "none") == 0) {
        diag_add(d, DIAG_ERROR, "E301", p->at, width, "prompt '%s' is text, but the model %s has no tokenizer", p->name, model);
        diag_help(d, "help: give the prompt as ids, tokens: [..]");
        return -1;
    }
    if (p->kind == PROMPT_CHAT && info->chat_error) {
        diag_add(d, DIAG_ERROR, "E305", p->at, width, "prompt '%s' is a chat, and the model's chat template cannot be used: %s",
                 p->name, info->chat_error);
        diag_help(d, "help: model: { chat_template: FILE } names another one; or write what the model should see with text:");
        return -1;
    }
    if (p->kind == PROMPT_CHAT && !info->has_chat_template) {
        diag_add(d, DIAG_ERROR, "E305", p->at, width, "prompt '%s' is a chat, but the model %s has no chat template", p->name,
                 model);
        diag_help(d, "help: write what the model should see with text:, or name a template: model: { chat_template: FILE }");
        return -1;
    }
    return 0;
}

static bool has_haystack(const struct prompt *p)
{
    int i;
    for (i = 0; i < p->n_slots; i++)
        if (p->slots[i].haystack) return true;
    return false;
}

static int bind_prompt(const struct spec *s, const engine *en, struct bound_prompt *b, arena *mem, struct diag *d, err *e)
{
    const struct engine_info *info = engine_info(en);
    const struct prompt *p = b->prompt;
    struct prompt *cut;
    struct places places = {0};
    struct buf text = {0};
    int rc = -1, needle = 0;
    b->text = "";
    if (check_model(info, p, d)) goto out;
    if (has_haystack(p)) {
        if (bind_haystack(s, en, p, mem, d, &cut, &needle, e)) goto out;
        b->prompt = p = cut;
    }
    if (bind_text(en, p, mem, d, &text, &places, e)) goto out;
    if (text.n > TEXT_MAX) {
        diag_add(d, DIAG_ERROR, "E303", p->at, (int)strlen(p->name), "prompt '%s' has %zu bytes; at most %d are taken", p->name,
                 text.n, TEXT_MAX);
        goto out;
    }
    b->text = arena_strndup(mem, text.p ? text.p : "", text.n);
    b->n_bytes = (int)text.n;
    if (p->kind == PROMPT_TOKENS ? given_tokens(info, b, mem, d) : text_tokens(en, b, mem, d, e)) goto out;
    if (check_length(info, b, d)) goto out;
    make_spans(b, &places, needle, mem);
    bind_hash(info, b, mem);
    rc = 0;
out:
    buf_free(&text);
    free(places.p);
    return rc;
}

static const char *label_of(const struct spec *s, const struct prompt *p, arena *mem)
{
    struct buf b = {0};
    const char *label;
    int i;
    buf_str(&b, p->name);
    for (i = 0; i < p->n_values; i++) buf_printf(&b, "/%s=%s", s->axes[p->values[i].axis].name, p->values[i].text);
    label = arena_strdup(mem, b.p);
    buf_free(&b);
    return label;
}

int bind_prompts(const struct spec *s, const engine *en, arena *mem, struct diag *d, struct bound_prompt **out, err *e)
{
    struct bound_prompt *all = arena_array(mem, (size_t)s->n_prompts, sizeof *all);
    int i, rc = 0;
    for (i = 0; i < s->n_prompts; i++) {
        err why = {0};
        all[i].prompt = &s->prompts[i];
        all[i].en = en;
        all[i].index = i;
        all[i].label = label_of(s, &s->prompts[i], mem);
        all[i].text = "";
        if (s->prompts[i].idle) continue;
        if (bind_prompt(s, en, &all[i], mem, d, &why) == 0) continue;
        if (why.code) return err_set(e, why.code, "%s", why.msg);
        rc = -1;
    }
    if (rc == 0) *out = all;
    return rc;
}
