/* bind_turn.c: where a turn of a chat stands in the rendered text.
 *
 * What a turn says lies between two marks rendered around it. Its end is where the text of the chat up to it ends when the
 * template renders that alone; the next turn begins there. The first turn's header may follow a system text that the template
 * adds by itself: it is told by the header of the same turn said once more later on.
 */
#include "bind_in.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

struct chat {
    const struct bound_prompt *p;
    arena *mem;
    struct chat_msg *msgs; /* (n_turns) filled in */
    size_t len;            /* bytes of p->text that the template made: without answer_starts */
};

static void open_chat(struct chat *c, const struct bound_prompt *p, arena *mem)
{
    const struct prompt *spec = p->prompt;
    struct buf b = {0};
    int i;
    *c = (struct chat){p, mem, arena_array(mem, (size_t)spec->n_turns, sizeof *c->msgs), 0};
    for (i = 0; i < spec->n_turns; i++) {
        b.n = 0;
        bind_fill(&spec->turns[i].content, spec, 0, &b, NULL);
        c->msgs[i] = (struct chat_msg){spec->turns[i].role, arena_strndup(mem, b.p ? b.p : "", b.n)};
    }
    b.n = 0;
    bind_fill(&spec->answer, spec, 0, &b, NULL);
    c->len = (size_t)p->n_bytes - b.n;
    buf_free(&b);
}

/* s with the bytes from..to-1 between two marks. */
static const char *marked_text(struct chat *c, const char *s, size_t from, size_t to, int mark)
{
    struct buf b = {0};
    const char *out;
    buf_add(&b, s, from);
    bind_add_mark(&b, mark);
    buf_add(&b, s + from, to - from);
    bind_add_mark(&b, mark + 1);
    buf_str(&b, s + to);
    out = arena_strndup(c->mem, b.p, b.n);
    buf_free(&b);
    return out;
}

/* Renders msgs (n) with the text of number `turn` between marks; the text without them in out. False: its place cannot be
   told. */
static bool place_of(struct chat *c, const struct chat_msg *msgs, int n, int turn, bool prompt, struct buf *out,
                     struct place *place)
{
    const char *s = msgs[turn].content;
    size_t len = strlen(s), from = 0, to = len;
    int mark = bind_free_marks(c->p->text, (size_t)c->p->n_bytes, 1), k;
    bool found = false;
    struct chat_msg *copy;
    if (mark < 0) return false;
    copy = arena_array(c->mem, (size_t)n, sizeof *copy);
    for (k = 0; k < 2 && !found; k++) { /* as it is; then without white space at the edges, which a template may trim */
        struct places places = {0};
        struct buf marked = {0}, plain = {0};
        err e = {0};
        memcpy(copy, msgs, (size_t)n * sizeof *copy);
        copy[turn].content = marked_text(c, s, from, to, mark);
        found = engine_chat(c->p->en, msgs, n, prompt, &plain, &e) == 0 &&
                engine_chat(c->p->en, copy, n, prompt, &marked, &e) == 0 && bind_take_marks(&marked, mark, 1, &places) == 0 &&
                places.n == 1 && marked.n == plain.n && memcmp(marked.p, plain.p, plain.n) == 0;
        if (found) {
            *place = places.p[0];
            buf_add(out, plain.p, plain.n);
        }
        buf_free(&marked);
        buf_free(&plain);
        free(places.p);
        while (from < to && isspace((unsigned char)s[from])) from++;
        while (to > from && isspace((unsigned char)s[to - 1])) to--;
    }
    return found;
}

/* Where turn `turn` and all that belongs to it ends; -1: the chat up to it is rendered as another text. */
static int end_of(const struct chat *c, int turn)
{
    struct buf b = {0};
    err e = {0};
    int end = -1;
    if (engine_chat(c->p->en, c->msgs, turn + 1, false, &b, &e) == 0 && b.n <= c->len && memcmp(b.p, c->p->text, b.n) == 0)
        end = (int)b.n;
    buf_free(&b);
    return end;
}

/* The header of the first turn is what stands before its text, less what the template says before any turn. */
static int start_of_first(struct chat *c, int content)
{
    const struct bound_prompt *p = c->p;
    bool user = strcmp(c->msgs[0].role, "user") == 0, system = strcmp(c->msgs[0].role, "system") == 0;
    struct chat_msg again[3] = {c->msgs[0], {user ? "assistant" : "user", "x"}, c->msgs[0]};
    struct place place;
    struct buf before = {0}, all = {0};
    err e = {0};
    int start = 0, i;
    if (!system && engine_chat(p->en, again, 2, false, &before, &e) == 0 && place_of(c, again, 3, 2, false, &all, &place) &&
        place.start >= (int)before.n && memcmp(all.p, before.p, before.n) == 0) {
        int n = place.start - (int)before.n;
        if (n <= content && memcmp(all.p + before.n, p->text + content - n, (size_t)n) == 0) start = content - n;
    }
    buf_free(&before);
    buf_free(&all);
    if (start > 0 || p->n_tokens == 0 || p->tokens[0].id != engine_info(p->en)->bos) return start;
    for (i = 1; i < p->n_tokens; i++) /* a BOS that begins every turn is part of this one, too */
        if (p->tokens[i].id == p->tokens[0].id) return start;
    return p->tokens[0].end <= content ? p->tokens[0].end : start;
}

bool bind_turn(const struct bound_prompt *p, int turn, bool with_markers, arena *mem, int *start, int *end, const char **why)
{
    struct chat c;
    struct place place;
    struct buf text = {0};
    bool found;
    open_chat(&c, p, mem);
    found = place_of(&c, c.msgs, p->prompt->n_turns, turn, true, &text, &place);
    if (found && (text.n != c.len || memcmp(text.p, p->text, text.n) != 0)) found = false;
    buf_free(&text);
    *why = "the chat template changes what the turn says, leaves it out or says it twice";
    if (!found) return false;
    *start = place.start;
    *end = place.end;
    if (!with_markers) return true;
    *why = "the chat template does not render the chat turn by turn, so the turn's markers cannot be told";
    *start = turn ? end_of(&c, turn - 1) : start_of_first(&c, place.start);
    *end = end_of(&c, turn);
    return *start >= 0 && *start <= place.start && *end >= place.end;
}
