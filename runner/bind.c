/* bind.c: prompts become text and tokens, with the places of their slots; see bind.h. Selectors: select.c.
 *
 * Where a slot's value ends up in a rendered chat is found by rendering twice: once as it is, once with each value between
 * two private-use characters of its own. A template that changes the text around a value (trims it, escapes it) gives
 * another text without the markers, and is refused instead of guessed at.
 */
#include "bind.h"

#include "select.h"

#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

enum { MARK_FIRST = 0xf0000, MARK_END = 0xffffe, TEXT_MAX = 1 << 28 };

/* Where the value of a slot lies; half open. */
struct place {
    int slot, start, end;
};
struct places {
    struct place *p;
    int n;
};

static void place_add(struct places *l, int slot, size_t start, size_t end)
{
    if ((l->n & (l->n - 1)) == 0) l->p = mem_grow(l->p, l->n ? 2 * (size_t)l->n : 1, sizeof *l->p);
    l->p[l->n++] = (struct place){slot, (int)start, (int)end};
}

/* ---- slots into text ---- */

static void add_mark(struct buf *b, int cp)
{
    const char s[4] = {(char)(0xf0 | cp >> 18), (char)(0x80 | (cp >> 12 & 63)), (char)(0x80 | (cp >> 6 & 63)),
                       (char)(0x80 | (cp & 63))};
    buf_add(b, s, sizeof s);
}

/* The code point of plane 15 at s, or -1: U+F0000..U+FFFFF are the bytes F3 B0..BF xx xx. */
static int read_mark(const char *s, size_t n)
{
    const unsigned char *u = (const unsigned char *)s;
    if (n < 4 || u[0] != 0xf3 || u[1] < 0xb0 || utf8_len(s, n) != 4) return -1;
    return 0xf0000 | (u[1] & 15) << 12 | (u[2] & 63) << 6 | (u[3] & 63);
}

/* Appends t with its slots filled in; first_mark > 0: each value between its two markers; places (or NULL) grows. */
static void fill(const struct template *t, const struct prompt *p, int first_mark, struct buf *out, struct places *places)
{
    int i;
    for (i = 0; i < t->n; i++) {
        const struct piece *piece = &t->pieces[i];
        size_t start = out->n;
        if (piece->slot < 0) {
            buf_add(out, piece->text, piece->len);
            continue;
        }
        if (first_mark) add_mark(out, first_mark + 2 * piece->slot);
        buf_str(out, p->slots[piece->slot].value);
        if (first_mark) add_mark(out, first_mark + 2 * piece->slot + 1);
        if (places) place_add(places, piece->slot, start, out->n);
    }
}

/* ---- chats ---- */

struct chat_text {
    const struct engine *en;
    const struct prompt *p;
    arena *mem;
    struct diag *d;
};

/* The rendered chat; -1: d tells, or e. */
static int render_chat(const struct chat_text *c, int first_mark, struct buf *out, err *e)
{
    const struct prompt *p = c->p;
    struct chat_msg *msgs = arena_array(c->mem, (size_t)p->n_turns, sizeof *msgs);
    err why = {0};
    bool whole;
    int i;
    for (i = 0; i < p->n_turns; i++) {
        struct buf b = {0};
        fill(&p->turns[i].content, p, first_mark, &b, NULL);
        msgs[i] = (struct chat_msg){p->turns[i].role, arena_strndup(c->mem, b.p ? b.p : "", b.n)};
        whole = strlen(msgs[i].content) == b.n;
        buf_free(&b);
        if (!whole) {
            diag_add(c->d, DIAG_ERROR, "E308", p->turns[i].at, 1, "a chat turn cannot hold the character U+0000");
            return -1;
        }
    }
    if (engine_chat(c->en, msgs, p->n_turns, true, out, &why) == 0) return 0;
    if (why.code == ERR_INPUT) {
        diag_add(c->d, DIAG_ERROR, "E306", p->at, (int)strlen(p->name), "prompt '%s': the model's chat template: %s", p->name,
                 why.msg);
        return -1;
    }
    err_set(e, why.code, "%s", why.msg);
    return err_in(e, "prompt '%s'", p->name);
}

/* First marker of a row that no text of the prompt uses; -1 when there is no room. */
static int free_marks(const char *text, size_t n, int n_slots)
{
    int first = MARK_FIRST, cp;
    size_t i;
    for (i = 0; i < n; i++)
        if ((cp = read_mark(text + i, n - i)) >= first) first = cp + 1;
    return first + 2 * n_slots <= MARK_END ? first : -1;
}

/* Takes the markers out of b, and the places from them. -1: they are not where a value begins and ends. */
static int take_marks(struct buf *b, int first, int n_slots, struct places *out)
{
    size_t i = 0, n = 0, start = 0;
    int open = -1;
    while (i < b->n) {
        int cp = read_mark(b->p + i, b->n - i), slot = cp < first ? -1 : (cp - first) / 2;
        if (slot < 0 || slot >= n_slots) {
            b->p[n++] = b->p[i++];
            continue;
        }
        if ((cp - first) % 2 == 0) {
            if (open >= 0) return -1;
            open = slot;
            start = n;
        } else {
            if (open != slot) return -1;
            place_add(out, slot, start, n);
            open = -1;
        }
        i += 4;
    }
    b->n = n;
    return open < 0 ? 0 : -1;
}

static bool has_slots(const struct prompt *p)
{
    int i, j;
    for (i = 0; i < p->n_turns; i++)
        for (j = 0; j < p->turns[i].content.n; j++)
            if (p->turns[i].content.pieces[j].slot >= 0) return true;
    return false;
}

static int chat_text(const struct chat_text *c, struct buf *out, struct places *places, err *e)
{
    const struct prompt *p = c->p;
    struct buf marked = {0};
    int first, rc = -1;
    if (render_chat(c, 0, out, e)) return -1;
    if (has_slots(p)) {
        first = free_marks(out->p, out->n, p->n_slots);
        if (first < 0) {
            diag_add(c->d, DIAG_ERROR, "E307", p->at, (int)strlen(p->name),
                     "prompt '%s' uses the private characters U+F0000..U+FFFFD that are needed to find its slots", p->name);
            goto out;
        }
        if (render_chat(c, first, &marked, e)) goto out;
        if (take_marks(&marked, first, p->n_slots, places) || marked.n != out->n || memcmp(marked.p, out->p, out->n) != 0) {
            diag_add(c->d, DIAG_ERROR, "E307", p->at, (int)strlen(p->name),
                     "prompt '%s': the chat template changes the text around a slot, so its place cannot be told", p->name);
            diag_help(c->d, "help: no white space at the edges of a slot's value or of a turn that begins or ends with a slot; "
                            "or write the rendered chat as text:");
            goto out;
        }
    }
    fill(&p->answer, p, 0, out, places);
    rc = 0;
out:
    buf_free(&marked);
    return rc;
}

/* ---- tokens ---- */

static int text_tokens(const engine *en, struct bound_prompt *b, arena *mem, struct diag *d, err *e)
{
    const struct engine_info *info = engine_info(en);
    const struct prompt *p = b->prompt;
    bool bos = p->add_bos == 1 || (p->add_bos < 0 && p->kind == PROMPT_TEXT && info->add_bos);
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

static void make_spans(struct bound_prompt *b, const struct places *places, arena *mem)
{
    int *used = arena_array(mem, (size_t)b->prompt->n_slots, sizeof *used), i;
    b->spans = arena_array(mem, (size_t)places->n, sizeof *b->spans);
    b->n_spans = places->n;
    for (i = 0; i < places->n; i++) {
        const struct place *pl = &places->p[i];
        b->spans[i] = (struct span){
            .name = b->prompt->slots[pl->slot].name, .nth = ++used[pl->slot], .byte_start = pl->start, .byte_end = pl->end};
        select_touch(b, &b->spans[i]);
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

static int bind_prompt(const engine *en, struct bound_prompt *b, arena *mem, struct diag *d, err *e)
{
    const struct engine_info *info = engine_info(en);
    const struct prompt *p = b->prompt;
    struct places places = {0};
    struct buf text = {0};
    int rc = -1;
    b->text = "";
    if (check_model(info, p, d)) goto out;
    if (p->kind == PROMPT_TEXT) fill(&p->text, p, 0, &text, &places);
    if (p->kind == PROMPT_CHAT && chat_text(&(struct chat_text){en, p, mem, d}, &text, &places, e)) goto out;
    if (text.n > TEXT_MAX) {
        diag_add(d, DIAG_ERROR, "E303", p->at, (int)strlen(p->name), "prompt '%s' has %zu bytes; at most %d are taken", p->name,
                 text.n, TEXT_MAX);
        goto out;
    }
    b->text = arena_strndup(mem, text.p ? text.p : "", text.n);
    b->n_bytes = (int)text.n;
    if (p->kind == PROMPT_TOKENS ? given_tokens(info, b, mem, d) : text_tokens(en, b, mem, d, e)) goto out;
    if (check_length(info, b, d)) goto out;
    make_spans(b, &places, mem);
    bind_hash(info, b, mem);
    rc = 0;
out:
    buf_free(&text);
    free(places.p);
    return rc;
}

int bind_prompts(const struct spec *s, const engine *en, arena *mem, struct diag *d, struct bound_prompt **out, err *e)
{
    struct bound_prompt *all = arena_array(mem, (size_t)s->n_prompts, sizeof *all);
    int i, rc = 0;
    for (i = 0; i < s->n_prompts; i++) {
        err why = {0};
        all[i].prompt = &s->prompts[i];
        if (bind_prompt(en, &all[i], mem, d, &why) == 0) continue;
        if (why.code) return err_set(e, why.code, "%s", why.msg);
        rc = -1;
    }
    if (rc == 0) *out = all;
    return rc;
}
