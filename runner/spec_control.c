/* spec_control.c: controls: jobs that must change nothing, or whose outcome is known, beside those that are asked for. */
#include "spec_internal.h"

#include <limits.h>
#include <string.h>

/* non_needle: { seed: 1 } */
static void read_non_needle(struct reader *r, struct spec *s, const struct node *v)
{
    struct field f[] = {MAY("seed"), {0}};
    if (v->kind == NODE_SCALAR && v->len == 0) return; /* - non_needle: */
    if (spec_map(r, v, "non_needle", f) && spec_field(f, "seed"))
        spec_int(r, spec_field(f, "seed"), "seed", 0, INT_MAX, &s->non_needle_seed);
}

static void read_control(struct reader *r, struct spec *s, const struct node *v)
{
    static const char *const words[] = {"noop", "self_transplant", "non_needle", "absent", NULL};
    bool *const on[] = {&s->control_noop, &s->control_self_transplant, &s->control_non_needle, &s->control_absent};
    struct field f[] = {MAY("non_needle"), {0}};
    int k;
    if (v->kind == NODE_MAP) {
        if (!spec_map(r, v, "a control", f) || !spec_field(f, "non_needle")) return;
        read_non_needle(r, s, spec_field(f, "non_needle"));
        k = 2;
    } else {
        k = spec_word(r, v, "controls", words, NULL);
    }
    if (k < 0) return;
    if (*on[k]) spec_wrong(r, v, "E214", "control '%s' stands twice", words[k]);
    *on[k] = true;
}

/* controls_for: names of conditions, or all: every condition with edits. */
static void read_for(struct reader *r, struct spec *s, const struct node *v)
{
    int i, k;
    bool all = v->kind == NODE_SCALAR && !strcmp(v->text, "all");
    s->controls_at = v->at;
    s->controls_for = arena_array(r->mem, (size_t)s->n_conditions + 1, sizeof *s->controls_for);
    for (i = 0; all && i < s->n_conditions; i++)
        if (s->conditions[i].apply) s->controls_for[s->n_controls_for++] = i;
    if (all || !spec_words(r, v, "controls_for")) return;
    for (i = 0; i < v->n; i++) {
        int c = spec_find(r, v->items[i], "controls_for", &r->o->conditions, "condition");
        for (k = 0; c >= 0 && k < s->n_controls_for; k++)
            if (s->controls_for[k] == c)
                spec_wrong(r, v->items[i], "E214", "condition '%s' stands twice", s->conditions[c].name);
        if (c >= 0 && !s->conditions[c].apply)
            spec_wrong(r, v->items[i], "E229", "condition '%s' edits nothing that a control could repeat",
                       s->conditions[c].name);
        else if (c >= 0 && s->n_controls_for < s->n_conditions)
            s->controls_for[s->n_controls_for++] = c;
    }
}

void spec_controls(struct reader *r, struct spec *s, const struct node *v, const struct node *of)
{
    int i;
    s->controls_at = v ? v->at : of->at;
    if (v && spec_words(r, v, "controls"))
        for (i = 0; i < v->n; i++) read_control(r, s, v->items[i]);
    if (of) read_for(r, s, of);
    if (of && !v) {
        spec_wrong(r, of, "E202", "controls_for needs the key 'controls'");
        spec_help(r, "help: controls: [noop, self_transplant, { non_needle: { seed: 1 } }, absent]");
    }
}
