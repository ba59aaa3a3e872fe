/* bind_chat.c: a chat becomes the text that the model's template makes of it.
 *
 * Where a slot's value or a turn ends up is found by rendering twice: once as it is, once with each between two private-use
 * characters of its own. A template that changes the text around a value (trims it, escapes it) gives another text without
 * the markers, and is refused instead of guessed at.
 */
#include "bind_in.h"

#include <stdlib.h>
#include <string.h>

enum { MARK_FIRST = 0xf0000, MARK_END = 0xffffe };

static void place_add(struct places *l, int slot, size_t start, size_t end)
{
    if ((l->n & (l->n - 1)) == 0) l->p = mem_grow(l->p, l->n ? 2 * (size_t)l->n : 1, sizeof *l->p);
    l->p[l->n++] = (struct place){slot, (int)start, (int)end};
}

/* ---- slots into text ---- */

void bind_add_mark(struct buf *b, int cp)
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

void bind_fill(const struct template *t, const struct prompt *p, int first_mark, struct buf *out, struct places *places)
{
    int i;
    for (i = 0; i < t->n; i++) {
        const struct piece *piece = &t->pieces[i];
        size_t start = out->n;
        if (piece->slot < 0) {
            buf_add(out, piece->text, piece->len);
            continue;
        }
        if (first_mark) bind_add_mark(out, first_mark + 2 * piece->slot);
        buf_str(out, p->slots[piece->slot].value);
        if (first_mark) bind_add_mark(out, first_mark + 2 * piece->slot + 1);
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
        bind_fill(&p->turns[i].content, p, first_mark, &b, NULL);
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

int bind_free_marks(const char *text, size_t n, int n_slots)
{
    int first = MARK_FIRST, cp;
    size_t i;
    for (i = 0; i < n; i++)
        if ((cp = read_mark(text + i, n - i)) >= first) first = cp + 1;
    return first + 2 * n_slots <= MARK_END ? first : -1;
}

int bind_take_marks(struct buf *b, int first, int n_slots, struct places *out)
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

int bind_chat(const engine *en, const struct prompt *p, arena *mem, struct diag *d, struct buf *out, struct places *places,
              err *e)
{
    const struct chat_text chat = {en, p, mem, d}, *c = &chat;
    struct buf marked = {0};
    int first, rc = -1;
    if (render_chat(c, 0, out, e)) return -1;
    if (has_slots(p)) {
        first = bind_free_marks(out->p, out->n, p->n_slots);
        if (first < 0) {
            diag_add(c->d, DIAG_ERROR, "E307", p->at, (int)strlen(p->name),
                     "prompt '%s' uses the private characters U+F0000..U+FFFFD that are needed to find its slots", p->name);
            goto out;
        }
        if (render_chat(c, first, &marked, e)) goto out;
        if (bind_take_marks(&marked, first, p->n_slots, places) || marked.n != out->n ||
            memcmp(marked.p, out->p, out->n) != 0) {
            diag_add(c->d, DIAG_ERROR, "E307", p->at, (int)strlen(p->name),
                     "prompt '%s': the chat template changes the text around a slot, so its place cannot be told", p->name);
            diag_help(c->d, "help: no white space at the edges of a slot's value or of a turn that begins or ends with a slot; "
                            "or write the rendered chat as text:");
            goto out;
        }
    }
    bind_fill(&p->answer, p, 0, out, places);
    rc = 0;
out:
    buf_free(&marked);
    return rc;
}
