/* spec_select.c: positions of a prompt as written: a slot, a text, or token numbers. What they mean: select.c. */
#include "spec_internal.h"

#include <limits.h>
#include <string.h>

static void read_nth(struct reader *r, const struct node *v, int *nth)
{
    const struct node *put = spec_put(r, v);
    if (put && put->kind == NODE_SCALAR && !strcmp(put->text, "last"))
        *nth = SELECT_LAST;
    else if (put && put->kind == NODE_SCALAR && !strcmp(put->text, "all"))
        *nth = SELECT_ALL;
    else if (put && !spec_int(r, v, "nth", 1, INT_MAX, nth))
        spec_help(r, "allowed here: 1 2 3 ... last all");
}

static bool has_slot(const struct prompt *p, const char *name)
{
    for (int i = 0; i < p->n_slots; i++)
        if (!strcmp(p->slots[i].name, name)) return true;
    return false;
}

/* What is for every prompt needs the slot in every prompt. `only`: the one prompt that counts, or -1. */
static void check_slot(struct reader *r, const struct node *v, const char *name, int only, const char *what)
{
    const struct spec_own *o = r->o;
    const struct spec *s = &o->s;
    int i = only < 0 ? 0 : only;
    if (o->prompts_wrong || spec_find(r, v, "slot", &o->slots, "slot") < 0) return;
    if (only < 0 ? names_count(&o->slots, name) == s->n_prompts : has_slot(&s->prompts[only], name)) return;
    while (only < 0 && !spec_quiet(r) && has_slot(&s->prompts[i], name)) i++;
    spec_wrong(r, spec_put(r, v), "E220", "prompt '%s' has no slot '%s'%s%s%s", s->prompts[i].name, name,
               only < 0 ? ", and the " : "", only < 0 ? what : "", only < 0 ? " is for every prompt" : "");
}

void spec_select(struct reader *r, const struct node *v, int only, const char *what, struct select *out)
{
    struct field f[] = {MAY("slot"),   MAY("text"),    MAY("tokens"),         MAY("nth"),       LATER("regex"),
                        LATER("role"), LATER("turn"),  LATER("with_markers"), LATER("bos"),     LATER("last"),
                        LATER("all"),  LATER("after"), LATER("before"),       LATER("between"), LATER("not"),
                        LATER("any"),  LATER("gen"),   LATER("expand"),       LATER("edges"),   {0}};
    const struct node *slot, *text, *tokens, *nth;
    int wrong = r->wrong;
    if (!spec_map(r, v, "a position", f) || r->wrong > wrong) return;
    slot = spec_field(f, "slot");
    text = spec_field(f, "text");
    tokens = spec_field(f, "tokens");
    nth = spec_field(f, "nth");
    *out = (struct select){.at = v->at, .width = v->width, .nth = SELECT_ONLY, .text = ""};
    if (!!slot + !!text + !!tokens != 1) {
        spec_wrong(r, v, "E223", "a position has exactly one of slot, text and tokens");
        return;
    }
    out->kind = slot ? SELECT_SLOT : text ? SELECT_TEXT : SELECT_TOKENS;
    if (slot && spec_text(r, slot, "slot", &out->text)) check_slot(r, slot, out->text, only, what);
    if (text) spec_text(r, text, "text", &out->text);
    if (tokens) spec_ranges(r, tokens, "tokens", false, &out->tokens);
    if (nth && tokens)
        spec_wrong(r, nth, "E223", "nth goes with slot and text; tokens are counted already");
    else if (nth)
        read_nth(r, nth, &out->nth);
}
