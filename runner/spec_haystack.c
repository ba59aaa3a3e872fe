/* spec_haystack.c: slots whose value is cut from a long text around a needle, and the prompts that axes make of them.
 *
 * A prompt with `tokens: $ctx` is one prompt for each value of ctx: all of one name, each with its values. The rest of the
 * program sees prompts and nothing else; what depends on them is the label, which holds the values.
 */
#include "spec_internal.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPTS_MAX = 20000, TOKENS_MAX = 1 << 24 };

/* ---- the keys ---- */

static struct field *outer(struct field f[3])
{
    f[0] = (struct field)NEEDED("haystack", "haystack: { file: NAME, tokens: 1024, depth_percent: 50 }");
    f[1] = (struct field)MAY("needle");
    f[2] = (struct field){0};
    return f;
}

static struct field *inner(struct field f[5])
{
    f[0] = (struct field)NEEDED("file", "file: NAME, one of files:");
    f[1] = (struct field)NEEDED("tokens", "tokens: 1024, of the whole prompt");
    f[2] = (struct field)MAY("depth_percent");
    f[3] = (struct field)MAY("seed");
    f[4] = (struct field){0};
    return f;
}

static struct field *of_needle(struct field f[3])
{
    f[0] = (struct field)NEEDED("name", "name: needle, what selectors call it");
    f[1] = (struct field)NEEDED("text", "text: \"The sentence to be found.\"");
    f[2] = (struct field){0};
    return f;
}

/* Marks the axes that v names; those that need the model or a prompt cannot make prompts. */
static void find_axes(struct reader *r, const struct node *v, bool *uses)
{
    const struct spec_own *o = r->o;
    int axis, member;
    for (int i = 0; i < v->n; i++) find_axes(r, v->items[i], uses);
    if (v->kind != NODE_SCALAR || !spec_axis_find(o, v->text, &axis, &member)) return;
    if (o->s.axes[axis].kind == AXIS_LIST || o->s.axes[axis].kind == AXIS_ZIP)
        uses[axis] = true;
    else
        spec_wrong(r, v, "E229", "a prompt cannot depend on axis '%s': its values are known only with the model",
                   o->s.axes[axis].name);
}

bool spec_haystack(struct reader *r, const struct node *v, const struct node **name, const struct node **text)
{
    struct field f[3], g[5], h[3];
    const struct node *hay, *needle;
    int wrong = r->wrong;
    *name = *text = NULL;
    if (!spec_map(r, v, "a slot's value", outer(f)) || !(hay = spec_field(f, "haystack"))) return false;
    if (!spec_map(r, hay, "a haystack", inner(g))) return false;
    needle = spec_field(f, "needle");
    if (needle && !spec_map(r, needle, "a needle", of_needle(h))) return false;
    if (!needle && spec_field(g, "depth_percent"))
        spec_wrong(r, spec_field(g, "depth_percent"), "E223", "depth_percent says where the needle stands, and there is none");
    if (needle && !spec_field(g, "depth_percent")) {
        spec_wrong(r, hay, "E202", "a haystack with a needle needs the key 'depth_percent'");
        spec_help(r, "help: depth_percent: 50 (0: before the text, 100: behind it)");
    }
    if (needle) {
        *name = spec_field(h, "name");
        *text = spec_field(h, "text");
    }
    find_axes(r, v, r->o->prompt_uses);
    return r->wrong == wrong;
}

/* ---- values ---- */

static void read_haystack(struct reader *r, const struct slot *s, struct haystack *out)
{
    struct field f[3], g[5];
    const struct node *hay;
    spec_map(r, s->node, "a slot's value", outer(f));
    hay = spec_field(f, "haystack");
    spec_map(r, hay, "a haystack", inner(g));
    out->at = hay->at;
    out->width = hay->width;
    out->file = spec_find(r, spec_field(g, "file"), "file", &r->o->files, "file");
    spec_int(r, spec_field(g, "tokens"), "tokens", 1, TOKENS_MAX, &out->tokens);
    if (spec_field(g, "seed")) spec_int(r, spec_field(g, "seed"), "seed", 0, INT_MAX, &out->seed);
    if (!s->needle) return;
    out->needle = node_get(node_get(s->node, "needle"), "name")->text;
    spec_text(r, s->needle, "text", &out->text);
    if (spec_number(r, spec_field(g, "depth_percent"), "depth_percent", &out->depth) && (out->depth < 0 || out->depth > 100)) {
        spec_wrong(r, spec_put(r, spec_field(g, "depth_percent")), "E212", "depth_percent: %s is outside 0..100",
                   spec_shown(r, spec_put(r, spec_field(g, "depth_percent"))));
    }
}

/* Fills in the slots of a prompt whose values are known. */
static void read_slots(struct reader *r, struct prompt *p)
{
    struct condition whose = {.name = p->name}; /* `$axis` is read as in a condition over the prompt's axes */
    struct reader t = *r;
    struct slot *slots = arena_array(r->mem, (size_t)p->n_slots, sizeof *slots);
    t.condition = &whose;
    spec_put_values(&t, p->values, p->n_values);
    if (p->n_slots) memcpy(slots, p->slots, (size_t)p->n_slots * sizeof *slots);
    p->slots = slots;
    for (int i = 0; i < p->n_slots; i++) {
        struct haystack *h;
        if (!slots[i].node) continue;
        h = arena_alloc(r->mem, sizeof *h);
        read_haystack(&t, &slots[i], h);
        slots[i].haystack = h;
    }
    r->wrong = t.wrong;
}

/* ---- which values ---- */

static int used_axes(struct reader *r, const struct prompt *p, int *axes)
{
    const struct spec *s = &r->o->s;
    bool *uses = mem_array((size_t)s->n_axes + 1, sizeof *uses);
    int n = 0;
    for (int i = 0; i < p->n_slots; i++)
        if (p->slots[i].node) find_axes(r, p->slots[i].node, uses);
    for (int i = 0; i < s->n_axes; i++)
        if (uses[i]) axes[n++] = i;
    free(uses);
    qsort(axes, (size_t)n, sizeof *axes, order_ints);
    return n;
}

static const struct sweep_key *key_of(const struct sweep *w, int axis)
{
    for (int i = 0; i < w->n_keys; i++)
        if (w->keys[i].axis == axis && w->keys[i].member < 0) return &w->keys[i];
    return NULL;
}

static bool is_for(const int *list, int n, int v)
{
    for (int i = 0; i < n; i++)
        if (list[i] == v) return true;
    return !list;
}

static bool key_means(const struct spec *s, const struct sweep_key *k, const struct axis_value *v)
{
    const struct axis *a = &s->axes[k->axis];
    for (int i = 0; i < k->n; i++) {
        const char *text = k->values[i]->text;
        if (a->kind == AXIS_ZIP && k->member < 0 ? spec_zip_means(a, v->choice, text)
            : k->member >= 0                     ? spec_same_value(a->members[k->member].values[v->choice]->text, text)
                                                 : spec_same_value(v->text, text))
            return true;
    }
    return false;
}

bool spec_included(const struct spec *s, const struct sweep *w, const struct prompt *p)
{
    if (!is_for(w->prompts, w->n_prompts, p->first)) return false;
    for (int i = 0; i < p->n_values; i++) {
        const struct sweep_key *k = key_of(w, p->values[i].axis);
        if (k && !key_means(s, k, &p->values[i])) return false;
    }
    return true;
}

/* Whether a rule removes all jobs of the prompt and nothing brings one back. */
static bool is_idle(const struct spec *s, const struct prompt *p)
{
    bool idle = false;
    for (int i = 0; i < s->n_excludes && !idle; i++) {
        const struct sweep *w = &s->excludes[i];
        if (w->conditions || !is_for(w->prompts, w->n_prompts, p->first)) continue;
        idle = true;
        for (int k = 0; k < w->n_keys && idle; k++) {
            int v = 0;
            while (v < p->n_values && p->values[v].axis != w->keys[k].axis) v++;
            idle = v < p->n_values && key_means(s, &w->keys[k], &p->values[v]);
        }
    }
    for (int i = 0; i < s->n_includes && idle; i++) idle = !spec_included(s, &s->includes[i], p);
    return idle;
}

/* ---- prompts ---- */

struct room {
    struct prompt *p; /* (n) */
    int n, cap;
};

static struct prompt *add_prompt(struct reader *r, struct room *room, const struct prompt *p, const struct axis_value *values,
                                 int n)
{
    struct prompt *out;
    if (room->n == room->cap) {
        room->cap = room->cap ? 2 * room->cap : 64;
        room->p = mem_grow(room->p, (size_t)room->cap, sizeof *room->p);
    }
    out = &room->p[room->n++];
    *out = *p;
    out->values = arena_array(r->mem, (size_t)n, sizeof *values);
    if (n) memcpy(out->values, values, (size_t)n * sizeof *values);
    out->n_values = n;
    return out;
}

/* One prompt for each combination of the values, in their order, the last axis fastest. False: too many. */
static bool add_product(struct reader *r, const struct prompt *p, const int *axes, int n, struct room *room)
{
    const struct spec *s = &r->o->s;
    struct axis_value *v = arena_array(r->mem, (size_t)n, sizeof *v);
    int *digit = arena_array(r->mem, (size_t)n, sizeof *digit), k;
    do {
        if (room->n >= PROMPTS_MAX) return false;
        for (k = 0; k < n; k++) v[k] = spec_axis_value(s, axes[k], digit[k]);
        add_prompt(r, room, p, v, n);
        for (k = n - 1; k >= 0 && ++digit[k] == spec_axis_count(&s->axes[axes[k]]); k--) digit[k] = 0;
    } while (k >= 0);
    return true;
}

/* Those that only include has: a value that its axis does not list. */
static void add_included(struct reader *r, const struct prompt *p, const int *axes, int n, struct room *room, int from)
{
    const struct spec *s = &r->o->s;
    struct axis_value *v = arena_array(r->mem, (size_t)n, sizeof *v);
    for (int i = 0; i < s->n_includes; i++) {
        const struct sweep *w = &s->includes[i];
        int k = 0, known = from;
        if (!is_for(w->prompts, w->n_prompts, p->first)) continue;
        for (; k < n; k++) {
            const struct sweep_key *key = key_of(w, axes[k]);
            if (!key) break;
            v[k] = (struct axis_value){.axis = axes[k], .text = key->values[0]->text, .at = key->values[0]->at};
        }
        if (k < n) continue;
        while (known < room->n && !spec_included(s, w, &room->p[known])) known++;
        if (known == room->n) add_prompt(r, room, p, v, n)->extra = true;
    }
}

/* The other one of a pair with the same values. */
static void find_others(struct spec *s, struct prompt *p)
{
    int other = p->other;
    if (other < 0 || p->n_values == 0) return;
    for (int i = 0; i < s->n_prompts; i++) {
        const struct prompt *q = &s->prompts[i];
        int k = 0;
        if (q->first != s->prompts[other].first || q->n_values != p->n_values) continue;
        while (k < p->n_values && q->values[k].axis == p->values[k].axis && !strcmp(q->values[k].text, p->values[k].text)) k++;
        if (k == p->n_values) p->other = i;
    }
}

/* Conditions run along the axes of the prompts, whether they say so or not. */
void spec_over_prompts(struct reader *r, struct spec_own *o)
{
    struct spec *s = &o->s;
    for (int i = 0; i < s->n_conditions; i++) {
        struct condition *c = &s->conditions[i];
        int *over = arena_array(r->mem, (size_t)s->n_axes, sizeof *over), n = 0;
        for (int a = 0; a < s->n_axes; a++) {
            bool in = o->prompt_uses[a];
            for (int k = 0; k < c->n_over; k++) in = in || c->over[k] == a;
            if (in) over[n++] = a;
        }
        c->over = over;
        c->n_over = n;
    }
}

void spec_variants(struct reader *r, struct spec_own *o)
{
    struct spec *s = &o->s;
    struct room room = {0};
    int *axes = arena_array(r->mem, (size_t)s->n_axes, sizeof *axes), n;
    bool more = false;
    for (int i = 0; i < s->n_prompts; i++)
        for (int k = 0; k < s->prompts[i].n_slots; k++) more = more || s->prompts[i].slots[k].node;
    if (!more) return;
    for (int i = 0; i < s->n_written; i++) add_prompt(r, &room, &s->prompts[i], NULL, 0);
    for (int i = 0; i < s->n_written; i++) {
        const struct prompt p = s->prompts[i];
        int from = room.n;
        n = used_axes(r, &p, axes);
        if (n == 0) continue;
        if (!add_product(r, &p, axes, n, &room)) {
            r->wrong++;
            diag_add(r->d, DIAG_ERROR, "E212", p.at, (int)strlen(p.name), "the axes make more than %d prompts of '%s'",
                     PROMPTS_MAX, p.name);
            break;
        }
        add_included(r, &p, axes, n, &room, from);
        room.p[i] = room.p[from]; /* the first one keeps the place that the prompt has in the file */
        memmove(&room.p[from], &room.p[from + 1], (size_t)(room.n - from - 1) * sizeof *room.p);
        room.n--;
    }
    s->prompts = arena_array(r->mem, (size_t)room.n, sizeof *s->prompts);
    memcpy(s->prompts, room.p, (size_t)room.n * sizeof *room.p);
    s->n_prompts = room.n;
    free(room.p);
    for (int i = 0; i < s->n_prompts && !spec_quiet(r); i++) {
        read_slots(r, &s->prompts[i]);
        s->prompts[i].idle = s->prompts[i].n_values > 0 && is_idle(s, &s->prompts[i]);
        find_others(s, &s->prompts[i]);
    }
}
