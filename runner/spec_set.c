/* spec_set.c: `-s path=value`: a value of the spec replaced from the command line, before anything is read from it.
 *
 * A path is keys and indices joined by dots: decode.max_tokens, conditions.0.name, conditions.zero.over (an item of a list by
 * its name), axes.layer. The value is YAML. What stands in the file is copied on the way, since an alias shares nodes.
 */
#include "spec_internal.h"

#include <stdlib.h>
#include <string.h>

struct set {
    struct reader *r;
    const char *text; /* the argument */
    int argument;
    struct node **at; /* where the value goes */
};

/* The part of the path that is looked at, as a node for messages. */
static struct node *part_node(struct set *s, const char *part, size_t n)
{
    struct node *v = arena_alloc(s->r->mem, sizeof *v);
    *v = (struct node){.kind = NODE_SCALAR, .text = arena_strndup(s->r->mem, part, n), .len = n, .width = (int)n};
    v->at = diag_inside(s->r->d, s->argument, (size_t)(part - s->text), (struct mark){1, 1});
    return v;
}

/* -1: there is no such item. */
static int find_item(const struct node *list, const char *part)
{
    char *end;
    long i = strtol(part, &end, 10);
    if (*part >= '0' && *part <= '9' && !*end) return i < list->n ? (int)i : -1;
    for (int k = 0; k < list->n; k++) {
        const struct node *name = node_get(list->items[k], "name");
        if (name && name->kind == NODE_SCALAR && !strcmp(name->text, part)) return k;
    }
    return -1;
}

/* One step down, into a copy; a key that is not there is made. False: said why. */
static bool step(struct set *s, const struct node *part)
{
    struct reader *r = s->r;
    struct node *v = arena_alloc(r->mem, sizeof *v);
    int k = 0;
    *v = **s->at;
    if (v->kind == NODE_SCALAR) {
        spec_wrong(r, part, "E244", "%s is a text: there is no '%s' in it", spec_shown(r, v), part->text);
        return false;
    }
    v->items = arena_array(r->mem, (size_t)v->n + 1, sizeof *v->items);
    if (v->n) memcpy(v->items, (*s->at)->items, (size_t)v->n * sizeof *v->items);
    *s->at = v;
    if (v->kind == NODE_LIST) {
        k = find_item(v, part->text);
        if (k < 0) {
            spec_wrong(r, part, "E244", "there is no item '%s' in this list", part->text);
            spec_help(r, "help: items are counted from 0, here to %d, or named by their key 'name'", v->n - 1);
            return false;
        }
        s->at = &v->items[k];
        return true;
    }
    while (k < v->n && strcmp(v->keys[k]->text, part->text)) k++;
    if (k == v->n) {
        struct node **keys = arena_array(r->mem, (size_t)v->n + 1, sizeof *keys);
        if (v->n) memcpy(keys, v->keys, (size_t)v->n * sizeof *keys);
        v->keys = keys;
        v->keys[k] = arena_alloc(r->mem, sizeof **keys);
        *v->keys[k] = *part;
        v->items[k] = arena_alloc(r->mem, sizeof **v->items);
        *v->items[k] = (struct node){.kind = NODE_MAP, .at = part->at, .width = part->width};
        v->n++;
    }
    s->at = &v->items[k];
    return true;
}

/* The value's nodes know their lines in it; now they stand in the argument. Shared nodes are moved once: lines of arguments
   are negative. */
static void move_marks(struct set *s, struct node *v, size_t from)
{
    if (v->at.line < 0) return;
    v->at = diag_inside(s->r->d, s->argument, from, v->at);
    for (int i = 0; i < v->n; i++) {
        move_marks(s, v->items[i], from);
        if (v->kind == NODE_MAP) move_marks(s, v->keys[i], from);
    }
}

static void set_one(struct reader *r, struct node **root, const char *text)
{
    const char *equals = strchr(text, '='), *p = text, *dot;
    const char *shown = arena_printf(r->mem, "-s %.*s", equals ? (int)(equals - text) : (int)strlen(text), text);
    struct set s = {r, text, diag_argument(r->d, shown, text), root};
    struct node *value;
    if (!equals || equals == text) {
        spec_wrong(r, part_node(&s, text, strlen(text)), "E244", "%s",
                   equals ? "a path is missing" : "'=' and a value are missing");
        spec_help(r, "help: -s decode.max_tokens=20");
        return;
    }
    if (!equals[1]) {
        spec_wrong(r, part_node(&s, equals, 1), "E215", "there is nothing behind '='");
        spec_help(r, "help: an empty text is '\"\"'");
        return;
    }
    for (;; p = dot + 1) {
        dot = memchr(p, '.', (size_t)(equals - p));
        if (!step(&s, part_node(&s, p, (size_t)((dot ? dot : equals) - p)))) return;
        if (!dot) break;
    }
    diag_enter(r->d, s.argument, (size_t)(equals + 1 - text));
    value = node_parse(equals + 1, strlen(equals + 1), r->mem, r->d);
    diag_enter(r->d, 0, 0);
    if (!value) return;
    move_marks(&s, value, (size_t)(equals + 1 - text));
    *s.at = value;
}

struct node *spec_set(struct reader *r, struct node *root, const char *const *sets, int n)
{
    for (int i = 0; i < n; i++) set_one(r, &root, sets[i]);
    return root;
}
