/* spec_prompt.c: prompts, their slots, and text with {{slots}} in it.
 *
 * An entry with several names becomes as many prompts; they share the pieces of their texts and differ in slot values.
 */
#include "spec_internal.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum {
    SLOTS_MAX = 64,           /* slots of one prompt */
    SLOT_VALUES_MAX = 1000000 /* names x slots of one entry */
};

/* An entry while it is read. */
struct entry {
    struct prompt *p; /* (n) its prompts */
    int n;
    bool named_by_list;
    const char *slots[SLOTS_MAX]; /* (n_slots) */
    const struct node *slot_keys[SLOTS_MAX];
    bool slot_used[SLOTS_MAX];
    int n_slots;
    int wrong; /* the reader's count before this entry */
};

/* ---- templates ---- */

/* The place of byte `at` of node v's text in the file. Found by the braces, which stand in the file as they are: the k-th {{
   of the text is the k-th of the source from v on. Falls back to the node where they were written as escapes. */
static struct mark brace_place(struct reader *r, const struct node *v, size_t at, int *width)
{
    const struct spec *s = &r->o->s;
    const char *p = s->source, *end = s->source + s->source_len, *q = v->text;
    struct mark m = {1, 1};
    if (s->source_len >= 3 && !memcmp(p, "\xef\xbb\xbf", 3)) p += 3;
    if (v->at.line < 0) p = end; /* not in the file */
    while (p < end && (m.line < v->at.line || (m.line == v->at.line && m.col < v->at.col) || q <= v->text + at)) {
        bool newline = *p == '\n' || (*p == '\r' && !(p + 1 < end && p[1] == '\n'));
        if ((m.line > v->at.line || (m.line == v->at.line && m.col >= v->at.col)) && end - p > 1 && p[0] == '{' &&
            p[1] == '{') {
            q = strstr(q, "{{");
            if (!q) break;
            if (q == v->text + at) return m;
            q += 2;
            p += 2;
            m.col += 2;
            continue;
        }
        m.line += newline;
        m.col = newline ? 1 : m.col + (((unsigned char)*p & 0xc0) != 0x80);
        p++;
    }
    *width = v->width;
    return v->at;
}

static int find_slot(const struct entry *en, const char *name, size_t n)
{
    for (int i = 0; i < en->n_slots; i++)
        if (strlen(en->slots[i]) == n && !memcmp(en->slots[i], name, n)) return i;
    return -1;
}

static void unknown_slot(struct reader *r, const struct node *v, const struct entry *en, const char *name, size_t n)
{
    const char *words[SLOTS_MAX + 1] = {0}, *near, *word;
    struct buf b = {0};
    struct mark at;
    int width = n < 60 ? (int)n + 4 : 4;
    r->wrong++;
    if (spec_quiet(r)) return;
    at = brace_place(r, v, (size_t)(name - v->text) - 2, &width);
    memcpy(words, en->slots, (size_t)en->n_slots * sizeof *words);
    word = arena_strndup(r->mem, name, n < 60 ? n : utf8_valid(name, 60));
    near = nearest_word(word, words);
    diag_add(r->d, DIAG_ERROR, "E221", at, width, "there is no slot '%s'%s%s%s", word, near ? "; did you mean '" : "",
             near ? near : "", near ? "'?" : "");
    for (int i = 0; i < en->n_slots; i++) buf_printf(&b, " %s", en->slots[i]);
    if (en->n_slots)
        spec_help(r, "slots of this prompt:%s", b.p);
    else
        spec_help(r, "help: this prompt has no slots; write slots: { NAME: value }, or {{{{ for a literal {{");
    buf_free(&b);
}

static void unclosed_slot(struct reader *r, const struct node *v, const char *name, size_t at)
{
    struct mark place;
    int width = 2;
    r->wrong++;
    if (spec_quiet(r)) return;
    place = brace_place(r, v, at, &width);
    diag_add(r->d, DIAG_ERROR, "E224", place, width, "%s: {{ without its }}", name);
    spec_help(r, "help: a slot is written {{NAME}}; {{{{ is a literal {{");
}

/* Reads v as text with slots. Literal pieces point into the node: a {{{{ ends one behind its first two braces. */
static void read_template(struct reader *r, const struct node *v, const char *name, struct entry *en, struct template *out)
{
    const char *s = NULL, *p, *start;
    struct template t = {.at = v->at};
    int max = 1;
    bool ok = true;
    if (!spec_text_or_empty(r, v, name, &s)) return;
    spec_lint_text(r, v, name);
    for (p = s; (p = strstr(p, "{{")); p += 2) max += 2;
    t.pieces = arena_array(r->mem, (size_t)max, sizeof *t.pieces);
    for (start = p = s; (p = strstr(p, "{{"));) {
        const char *close;
        int slot;
        if (!strncmp(p, "{{{{", 4)) {
            t.pieces[t.n++] = (struct piece){-1, start, (size_t)(p + 2 - start)};
            start = p += 4;
            continue;
        }
        close = strstr(p + 2, "}}");
        if (!close) {
            unclosed_slot(r, v, name, (size_t)(p - s));
            return;
        }
        slot = find_slot(en, p + 2, (size_t)(close - p - 2));
        if (slot < 0) {
            unknown_slot(r, v, en, p + 2, (size_t)(close - p - 2));
            ok = false;
        } else {
            en->slot_used[slot] = true;
        }
        if (p > start) t.pieces[t.n++] = (struct piece){-1, start, (size_t)(p - start)};
        t.pieces[t.n++] = (struct piece){slot, NULL, 0};
        start = p = close + 2;
    }
    if (*start) t.pieces[t.n++] = (struct piece){-1, start, strlen(start)};
    if (ok) *out = t;
}

/* ---- names and slots ---- */

/* A name that `prompt: other` or a key of `mentions` would be taken for. */
static const char *const reserved_names[] = {"other", "own", "any", "which", "normalise", NULL};

static void read_names(struct reader *r, struct spec_own *o, const struct node *v, struct entry *en)
{
    en->named_by_list = v->kind == NODE_LIST;
    for (int i = 0; i < en->n; i++) {
        const struct node *name = en->named_by_list ? v->items[i] : v;
        struct prompt *p = &en->p[i];
        p->name = "";
        p->at = name->at;
        p->add_bos = -1;
        p->other = -1;
        p->first = (int)(p - o->s.prompts);
        if (en->n == 2) p->other = (int)(en->p - o->s.prompts) + !i;
        if (en->n != 2 && o->unpaired < 0) o->unpaired = (int)(p - o->s.prompts);
        spec_name(r, name, "name", true, reserved_names, &p->name);
        if (*p->name) names_add(&o->prompts, p->name, (int)(p - o->s.prompts), name);
    }
}

/* A value that is a map: all names share the haystack; needles may be one per name. */
static void read_haystack(struct reader *r, struct spec_own *o, const struct node *v, int slot, struct entry *en)
{
    const struct node *name, *text;
    const char *word = NULL;
    for (int i = 0; i < slot; i++)
        if (en->n && en->p[0].slots[i].node) {
            spec_wrong(r, v, "E223", "a prompt has one haystack, and slot '%s' is one already", en->slots[i]);
            return;
        }
    if (!spec_haystack(r, v, &name, &text)) return;
    if (text && text->kind == NODE_LIST && text->n != en->n) {
        spec_wrong(r, text, "E222", "the needle has %d text%s for %d name%s", text->n, text->n == 1 ? "" : "s", en->n,
                   en->n == 1 ? "" : "s");
        return;
    }
    for (int i = 0; i < en->n; i++) {
        struct slot *s = &en->p[i].slots[slot];
        s->at = v->at;
        s->node = v;
        s->needle = text && text->kind == NODE_LIST ? text->items[i] : text;
        if (s->needle && (i == 0 || text->kind == NODE_LIST)) spec_lint_text(r, s->needle, "text");
    }
    if (!name || !spec_name(r, name, "name", true, NULL, &word)) return;
    for (int k = 0; k < en->n_slots; k++)
        if (!strcmp(word, en->p[0].slots[k].name)) {
            spec_wrong(r, name, "E214", "slot '%s' stands twice in this prompt", word);
            return;
        }
    for (int i = 0; i < en->n; i++) names_add(&o->slots, word, (int)(en->p - o->s.prompts) + i, name);
}

static void read_slot_values(struct reader *r, const struct node *v, const char *name, int slot, struct entry *en)
{
    if (v->kind == NODE_LIST && v->n != en->n) {
        spec_wrong(r, v, "E222", "slot '%s' has %d value%s for %d name%s", name, v->n, v->n == 1 ? "" : "s", en->n,
                   en->n == 1 ? "" : "s");
        spec_help(r, "help: one value for all names, or a list of one per name");
        return;
    }
    for (int i = 0; i < en->n; i++) {
        const struct node *value = v->kind == NODE_LIST ? v->items[i] : v;
        en->p[i].slots[slot].at = value->at;
        if (!spec_text_or_empty(r, value, name, &en->p[i].slots[slot].value)) return;
        if (i == 0 || v->kind == NODE_LIST) spec_lint_text(r, value, name);
    }
}

static void read_slots(struct reader *r, struct spec_own *o, const struct node *v, struct entry *en)
{
    if (v->kind != NODE_MAP) {
        spec_wrong(r, v, "E203", "slots: a map of names and values is wanted, this is %s", spec_shown(r, v));
        return;
    }
    if (v->n > SLOTS_MAX || (size_t)v->n * (size_t)en->n > SLOT_VALUES_MAX) {
        spec_wrong(r, v, "E212", "%d slots for %d prompts are too many", v->n, en->n);
        spec_help(r, "allowed here: %d slots; %d values in all", SLOTS_MAX, SLOT_VALUES_MAX);
        return;
    }
    for (int i = 0; i < en->n; i++) {
        en->p[i].slots = arena_array(r->mem, (size_t)v->n, sizeof *en->p[i].slots);
        for (int k = 0; k < v->n; k++) en->p[i].slots[k] = (struct slot){.name = v->keys[k]->text, .value = ""};
        en->p[i].n_slots = v->n;
    }
    en->n_slots = v->n;
    for (int k = 0; k < v->n; k++) {
        en->slots[k] = "";
        en->slot_keys[k] = v->keys[k];
        if (!spec_name(r, v->keys[k], "slot", true, NULL, &en->slots[k])) continue;
        if (v->items[k]->kind == NODE_MAP)
            read_haystack(r, o, v->items[k], k, en);
        else
            read_slot_values(r, v->items[k], en->slots[k], k, en);
        for (int i = 0; i < en->n; i++) names_add(&o->slots, en->slots[k], (int)(en->p - o->s.prompts) + i, v->keys[k]);
    }
}

/* A slot nobody reads is a slip of the pen: the prompts of the entry would be equal. */
static void check_slots_used(struct reader *r, const struct entry *en)
{
    for (int k = 0; k < en->n_slots; k++) {
        if (en->slot_used[k] || !*en->slots[k]) continue;
        spec_wrong(r, en->slot_keys[k], "E221", "slot '%s' stands nowhere in this prompt", en->slots[k]);
        spec_help(r, "help: write {{%s}} where its value belongs", en->slots[k]);
    }
}

/* ---- what a prompt says ---- */

static void read_chat(struct reader *r, const struct node *v, struct entry *en)
{
    struct turn *turns;
    if (!spec_list(r, v, "chat")) return;
    turns = arena_array(r->mem, (size_t)v->n, sizeof *turns);
    for (int i = 0; i < v->n; i++) {
        struct field f[] = {MAY("system"), MAY("user"), MAY("assistant"), {0}};
        const struct node *t = v->items[i];
        turns[i] = (struct turn){.role = "user", .at = t->at};
        if (!spec_map(r, t, "a turn", f)) continue;
        if (t->n != 1) {
            spec_wrong(r, t, "E203", "a turn has one key, not %d", t->n);
            spec_help(r, "help: - user: \"text\"");
            continue;
        }
        for (const struct field *g = f; g->key; g++) {
            if (!g->v) continue;
            turns[i].role = g->key;
            read_template(r, g->v, g->key, en, &turns[i].content);
        }
    }
    for (int i = 0; i < en->n; i++) {
        en->p[i].kind = PROMPT_CHAT;
        en->p[i].turns = turns;
        en->p[i].n_turns = v->n;
    }
}

static bool read_ids(struct reader *r, const struct node *v, int **ids, int *n)
{
    bool ok = true;
    if (!spec_list(r, v, "tokens")) return false;
    *ids = arena_array(r->mem, (size_t)v->n, sizeof **ids);
    *n = v->n;
    for (int i = 0; i < v->n; i++)
        if (!spec_int(r, v->items[i], "tokens", 0, INT_MAX, &(*ids)[i])) ok = false;
    return ok;
}

static void read_tokens(struct reader *r, const struct node *v, struct entry *en)
{
    bool lists = en->named_by_list && v->kind == NODE_LIST && v->n && v->items[0]->kind == NODE_LIST;
    int *ids = NULL, n = 0;
    if (lists && v->n != en->n) {
        spec_wrong(r, v, "E222", "tokens has %d list%s for %d name%s", v->n, v->n == 1 ? "" : "s", en->n,
                   en->n == 1 ? "" : "s");
        return;
    }
    if (!lists) read_ids(r, v, &ids, &n);
    for (int i = 0; i < en->n; i++) {
        if (lists) read_ids(r, v->items[i], &ids, &n);
        en->p[i].kind = PROMPT_TOKENS;
        en->p[i].tokens = ids;
        en->p[i].n_tokens = n;
    }
}

/* W103: " a" and "a" behind a space are different tokens, and the model was trained on the first. */
static void lint_end(struct reader *r, const struct prompt *p)
{
    const struct template *t = p->kind == PROMPT_CHAT ? &p->answer : &p->text;
    const struct piece *last;
    const char *s;
    size_t n;
    if (p->kind == PROMPT_TOKENS || t->n == 0) return;
    last = &t->pieces[t->n - 1];
    s = last->slot < 0 ? last->text : p->slots[last->slot].value;
    n = last->slot < 0 ? last->len : strlen(s);
    if (n == 0 || (s[n - 1] != ' ' && s[n - 1] != '\t')) return;
    if (spec_warn(r, 103, last->slot < 0 ? t->at : p->slots[last->slot].at, 1,
                  "the prompt ends in a space right before generation"))
        spec_help(r, "help: leave the space to the model; most tokenisers join it with the next word");
}

/* Exactly one of text, chat, tokens, and what goes with each. */
static void read_content(struct reader *r, const struct node *v, const struct field *f, struct entry *en)
{
    static const char *const assistant[] = {"assistant", NULL};
    const struct node *text = spec_field(f, "text"), *chat = spec_field(f, "chat"), *tokens = spec_field(f, "tokens");
    const struct node *ask = spec_field(f, "ask"), *answer = spec_field(f, "answer_starts"), *bos = spec_field(f, "add_bos");
    struct template t = {0}, starts = {0};
    bool add_bos = false;
    if (!!text + !!chat + !!tokens != 1) {
        spec_wrong(r, v, "E223", "a prompt has exactly one of text, chat and tokens");
        return;
    }
    if (text) read_template(r, text, "text", en, &t);
    if (chat) read_chat(r, chat, en);
    if (tokens) read_tokens(r, tokens, en);
    if (ask) spec_word(r, ask, "ask", assistant, NULL);
    if (answer) read_template(r, answer, "answer_starts", en, &starts);
    if (chat && !ask) {
        spec_wrong(r, chat, "E202", "a chat needs the key 'ask' beside it");
        spec_help(r, "help: ask: assistant (the chat template opens the assistant's turn)");
    }
    if (!chat && (ask || answer)) spec_wrong(r, ask ? ask : answer, "E223", "ask and answer_starts go with chat");
    if (tokens && bos) spec_wrong(r, bos, "E223", "add_bos does not go with tokens, which are taken as they stand");
    if (tokens && en->n_slots) spec_wrong(r, tokens, "E223", "slots do not go with tokens");
    for (int i = 0; i < en->n; i++) {
        en->p[i].text = t;
        en->p[i].answer = starts;
        if (bos && spec_bool(r, bos, "add_bos", &add_bos)) en->p[i].add_bos = add_bos;
        lint_end(r, &en->p[i]);
    }
    if (!tokens && r->wrong == en->wrong) check_slots_used(r, en);
}

/* Names of an entry; 0 when it is no entry. */
static int count_names(const struct node *v)
{
    const struct node *name = node_get(v, "name");
    return !name ? 0 : name->kind == NODE_LIST ? name->n : 1;
}

void spec_prompts(struct reader *r, struct spec_own *o, const struct node *v)
{
    int wrong = r->wrong, total = 0, done = 0;
    o->unpaired = -1;
    if (!spec_list(r, v, "prompts")) {
        o->prompts_wrong = true;
        return;
    }
    for (int i = 0; i < v->n; i++) total += count_names(v->items[i]);
    o->s.prompts = arena_array(r->mem, (size_t)total, sizeof *o->s.prompts);
    for (int i = 0; i < v->n; i++) {
        struct entry en = {.p = o->s.prompts + done, .n = count_names(v->items[i]), .wrong = r->wrong};
        struct field f[] = {NEEDED("name", "name: sf, or name: [sf, ny] for two prompts of one text"),
                            MAY("slots"),
                            MAY("text"),
                            MAY("chat"),
                            MAY("ask"),
                            MAY("answer_starts"),
                            MAY("tokens"),
                            MAY("add_bos"),
                            LATER("for_each"),
                            {0}};
        const struct node *name, *slots;
        if (!spec_map(r, v->items[i], "a prompt", f)) continue;
        name = spec_field(f, "name");
        slots = spec_field(f, "slots");
        if (!name || (name->kind == NODE_LIST && !spec_list(r, name, "name"))) continue;
        read_names(r, o, name, &en);
        o->s.n_prompts = o->s.n_written = done += en.n;
        if (slots) read_slots(r, o, slots, &en);
        read_content(r, v->items[i], f, &en);
    }
    names_sort(&o->prompts, r, "prompt");
    names_sort(&o->slots, r, NULL);
    o->prompts_wrong = r->wrong > wrong;
}
