/* node.c: libyaml's events become a tree; see node.h.
 *
 * libyaml checks neither aliases nor depth nor duplicate keys, counts its marks in code points, and breaks lines at three
 * characters that YAML 1.2 and every editor take for text. So the bytes are checked first, a table of lines turns a mark's
 * index into line and column, and the characters in dispute are refused.
 */
#include "node.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

enum { DEPTH_MAX = 64, NODES_MAX = 1000000, ANCHORS_MAX = 1000, STRIDE = 64 };

struct line {
    size_t byte, index; /* where it starts; index counts code points */
};

struct anchor {
    const char *name;
    struct node *node; /* NULL: not finished, an alias here would be inside its own anchor */
    int nodes, height; /* with aliases expanded; a scalar has height 0 */
};

struct composer {
    yaml_parser_t parser;
    const char *text;
    size_t n, n_index; /* bytes, code points */
    struct line *lines;
    size_t n_lines, cap_lines;
    size_t *strides; /* byte of every STRIDE-th code point */
    arena *mem;
    struct diag *d;
    struct anchor anchors[ANCHORS_MAX];
    int n_anchors;
    int nodes;
    struct node **stack; /* children of the collections being read */
    size_t n_stack, cap_stack;
};

/* ---- places ---- */

static size_t line_of(const struct composer *c, size_t index)
{
    size_t lo = 0, hi = c->n_lines;
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
        if (c->lines[mid].index <= index)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

static struct mark mark_of(const struct composer *c, size_t index)
{
    size_t line;
    if (index > c->n_index) index = c->n_index;
    line = line_of(c, index);
    return (struct mark){(int)line + 1, (int)(index - c->lines[line].index) + 1};
}

static size_t byte_of(const struct composer *c, size_t index)
{
    size_t byte, k;
    if (index >= c->n_index) return c->n;
    byte = c->strides[index / STRIDE];
    for (k = index % STRIDE; k > 0; k--) byte += (size_t)utf8_len(c->text + byte, c->n - byte);
    return byte;
}

/* Characters from one index to another, or to the end of the first one's line. */
static int width_of(const struct composer *c, size_t from, size_t to)
{
    size_t line = line_of(c, from), end = line + 1 < c->n_lines ? c->lines[line + 1].index - 1 : c->n_index;
    if (to > end) to = end;
    return to > from ? (int)(to - from) : 1;
}

/* ---- the bytes ---- */

/* NULL, or why the character may not stand in a spec. */
static const char *char_refused(const unsigned char *u, int len)
{
    if (len == 1) return (*u < 0x20 && *u != '\t' && *u != '\n' && *u != '\r') || *u == 0x7f ? "a control character" : NULL;
    if (len == 2) return u[0] == 0xc2 && u[1] < 0xa0 ? "a control character" : NULL;
    if (len > 3) return NULL;
    if (u[0] == 0xe2 && u[1] == 0x80 && (u[2] == 0xa8 || u[2] == 0xa9)) return "a line separator (U+2028 or U+2029)";
    if (u[0] == 0xef && u[1] == 0xbb && u[2] == 0xbf) return "a byte order mark";
    if (u[0] == 0xef && u[1] == 0xbf && u[2] >= 0xbe) return "U+FFFE or U+FFFF";
    return NULL;
}

static void add_line(struct composer *c, size_t byte)
{
    if (c->n_lines == c->cap_lines) {
        c->cap_lines = c->cap_lines ? 2 * c->cap_lines : 256;
        c->lines = mem_grow(c->lines, c->cap_lines, sizeof *c->lines);
    }
    c->lines[c->n_lines++] = (struct line){byte, c->n_index};
}

static int scan_bytes(struct composer *c)
{
    size_t i = 0;
    add_line(c, 0);
    while (i < c->n) {
        const char *s = c->text + i;
        int len = utf8_len(s, c->n - i);
        const char *why;
        if (len == 0) {
            diag_add(c->d, DIAG_ERROR, "E102", mark_of(c, c->n_index), 1, "byte 0x%02x is not UTF-8", (unsigned char)*s);
            diag_help(c->d, "help: save the file as UTF-8");
            return -1;
        }
        why = char_refused((const unsigned char *)s, len);
        if (why) {
            diag_add(c->d, DIAG_ERROR, "E103", mark_of(c, c->n_index), 1, "%s may not stand here", why);
            diag_help(c->d, "help: in double quotes it can be written as an escape, e.g. \"\\x1b\" or \"\\u2028\"");
            return -1;
        }
        if (c->n_index % STRIDE == 0) c->strides[c->n_index / STRIDE] = i;
        c->n_index++;
        i += (size_t)len;
        if (*s == '\n' || (*s == '\r' && !(i < c->n && c->text[i] == '\n'))) add_line(c, i);
    }
    return 0;
}

/* ---- what libyaml says ---- */

static const struct {
    const char *problem, *help;
} syntax_helps[] = {
    {"mapping values are not allowed", "a text that holds ': ' needs quotes, and a key stands on a line of its own"},
    {"cannot start any token", "a value that starts with % @ or ` needs quotes"},
    {"did not find expected ',' or '}'", "the map that starts with { needs a comma between keys and a } at its end"},
    {"did not find expected ',' or ']'", "the list that starts with [ needs a comma between items and a ] at its end"},
    {"did not find expected key", "keys of one map start in the same column"},
    {"did not find expected '-' indicator", "items of one list start in the same column"},
    {"could not find expected ':'", "a key is followed by ': '; a text over several lines needs | or quotes"},
};

static int syntax_error(struct composer *c)
{
    const yaml_parser_t *p = &c->parser;
    const char *problem = p->problem ? p->problem : "libyaml cannot read this";
    size_t index = p->problem_mark.index, byte = byte_of(c, index);
    struct mark at = mark_of(c, index);
    if (byte < c->n && (c->text[byte] == '\t' || strstr(problem, "tab character"))) {
        diag_add(c->d, DIAG_ERROR, "E101", at, 1, "tab in indentation (YAML forbids it)");
        diag_help(c->d, "help: indent with spaces");
        return -1;
    }
    if (p->context && strstr(problem, "unexpected end of stream")) {
        diag_add(c->d, DIAG_ERROR, "E101", mark_of(c, p->context_mark.index), 1,
                 "not YAML: the quote opened here is never closed");
    } else if (p->context && p->context_mark.index != index) {
        struct mark from = mark_of(c, p->context_mark.index);
        diag_add(c->d, DIAG_ERROR, "E101", at, 1, "not YAML: %s (%s that starts at %d:%d)", problem, p->context, from.line,
                 from.col);
    } else {
        diag_add(c->d, DIAG_ERROR, "E101", at, 1, "not YAML: %s", problem);
    }
    for (size_t i = 0; i < sizeof syntax_helps / sizeof *syntax_helps; i++)
        if (strstr(problem, syntax_helps[i].problem)) diag_help(c->d, "help: %s", syntax_helps[i].help);
    return -1;
}

static int next_event(struct composer *c, yaml_event_t *ev)
{
    return yaml_parser_parse(&c->parser, ev) ? 0 : syntax_error(c);
}

/* ---- nodes ---- */

/* The place of what an event starts, behind its anchor. */
static size_t start_of(const struct composer *c, const yaml_event_t *ev, const yaml_char_t *anchor)
{
    size_t index = ev->start_mark.index, i = byte_of(c, index), from = i;
    if (!anchor || i >= c->n || c->text[i] != '&') return index;
    while (i < c->n && !strchr(" \t\r\n", c->text[i])) i++;
    while (i < c->n && (c->text[i] == ' ' || c->text[i] == '\t')) i++;
    if (i == c->n || strchr("\r\n#", c->text[i])) return index;
    return index + (i - from); /* an anchor's name is ASCII */
}

static struct node *new_node(struct composer *c, enum node_kind kind, size_t index)
{
    struct node *v = arena_alloc(c->mem, sizeof *v);
    v->kind = kind;
    v->at = mark_of(c, index);
    v->width = 1;
    v->text = "";
    if (++c->nodes <= NODES_MAX) return v;
    diag_add(c->d, DIAG_ERROR, "E110", v->at, 1, "more than %d values, aliases expanded", NODES_MAX);
    return NULL;
}

static void refuse_tag(struct composer *c, const yaml_event_t *ev, const yaml_char_t *tag)
{
    static const char prefix[] = "tag:yaml.org,2002:";
    const char *name = (const char *)tag;
    bool standard = tag && !strncmp(name, prefix, sizeof prefix - 1);
    if (!tag) return;
    diag_add(c->d, DIAG_ERROR, "E107", mark_of(c, ev->start_mark.index), 1, "tags such as '%s%s' are not used here",
             standard ? "!!" : "", standard ? name + sizeof prefix - 1 : name);
    diag_help(c->d, "help: what a value is follows from its key; write the value alone");
}

/* Index of the anchor opened for this event, or -1 without one; -2: too many. A name used again replaces the older one. */
static int open_anchor(struct composer *c, const yaml_event_t *ev, const yaml_char_t *name)
{
    if (!name) return -1;
    if (c->n_anchors == ANCHORS_MAX) {
        diag_add(c->d, DIAG_ERROR, "E110", mark_of(c, ev->start_mark.index), 1, "more than %d anchors", ANCHORS_MAX);
        return -2;
    }
    c->anchors[c->n_anchors] = (struct anchor){.name = arena_strdup(c->mem, (const char *)name)};
    return c->n_anchors++;
}

static void close_anchor(struct composer *c, int anchor, struct node *v, int nodes, int height)
{
    if (anchor < 0) return;
    c->anchors[anchor].node = v;
    c->anchors[anchor].nodes = nodes;
    c->anchors[anchor].height = height;
}

static int too_deep(struct composer *c, struct mark at)
{
    diag_add(c->d, DIAG_ERROR, "E109", at, 1, "nested deeper than %d levels", DEPTH_MAX);
    return -1;
}

static struct node *compose_alias(struct composer *c, const yaml_event_t *ev, int depth, int *height)
{
    const char *name = (const char *)ev->data.alias.anchor;
    size_t index = ev->start_mark.index;
    struct mark at = mark_of(c, index);
    int width = width_of(c, index, ev->end_mark.index);
    for (int i = c->n_anchors - 1; i >= 0; i--) {
        const struct anchor *a = &c->anchors[i];
        if (strcmp(a->name, name)) continue;
        if (!a->node) {
            diag_add(c->d, DIAG_ERROR, "E111", at, width, "alias *%s stands inside its own anchor", name);
            return NULL;
        }
        if (c->nodes > NODES_MAX - a->nodes) {
            diag_add(c->d, DIAG_ERROR, "E110", at, width, "more than %d values, aliases expanded", NODES_MAX);
            return NULL;
        }
        if (depth + a->height - 1 > DEPTH_MAX) {
            too_deep(c, at);
            return NULL;
        }
        c->nodes += a->nodes;
        *height = a->height;
        return a->node;
    }
    diag_add(c->d, DIAG_ERROR, "E111", at, width, "alias *%s has no anchor &%s before it", name, name);
    return NULL;
}

static struct node *compose_scalar(struct composer *c, const yaml_event_t *ev, int *height)
{
    static const enum node_style styles[] = {
        [YAML_ANY_SCALAR_STYLE] = NODE_PLAIN,
        [YAML_PLAIN_SCALAR_STYLE] = NODE_PLAIN,
        [YAML_SINGLE_QUOTED_SCALAR_STYLE] = NODE_SINGLE,
        [YAML_DOUBLE_QUOTED_SCALAR_STYLE] = NODE_DOUBLE,
        [YAML_LITERAL_SCALAR_STYLE] = NODE_LITERAL,
        [YAML_FOLDED_SCALAR_STYLE] = NODE_FOLDED,
    };
    int anchor = open_anchor(c, ev, ev->data.scalar.anchor);
    size_t index = start_of(c, ev, ev->data.scalar.anchor);
    struct node *v = anchor == -2 ? NULL : new_node(c, NODE_SCALAR, index);
    if (!v) return NULL;
    refuse_tag(c, ev, ev->data.scalar.tag);
    v->style = styles[ev->data.scalar.style];
    v->text = arena_strndup(c->mem, (const char *)ev->data.scalar.value, ev->data.scalar.length);
    v->len = ev->data.scalar.length;
    if (v->style == NODE_LITERAL || v->style == NODE_FOLDED) {
        size_t byte = byte_of(c, index), i = byte;
        while (i < c->n && strchr("|>+-0123456789", c->text[i]) && c->text[i]) i++;
        v->width = i > byte ? (int)(i - byte) : 1;
    } else {
        v->width = width_of(c, index, ev->end_mark.index);
    }
    *height = 0;
    close_anchor(c, anchor, v, 1, 0);
    return v;
}

static void push(struct composer *c, struct node *v)
{
    if (c->n_stack == c->cap_stack) {
        c->cap_stack *= 2;
        c->stack = mem_grow(c->stack, c->cap_stack, sizeof *c->stack);
    }
    c->stack[c->n_stack++] = v;
}

static struct node *compose(struct composer *c, yaml_event_t *ev, int depth, int *height);

/* Reads events up to `end` and pushes a node for each. -1: said why. */
static int compose_children(struct composer *c, yaml_event_type_t end, int depth, int *height, size_t *end_index)
{
    for (;;) {
        struct node *child;
        yaml_event_t ev;
        int h = 0;
        bool done;
        if (next_event(c, &ev)) return -1;
        done = ev.type == end;
        *end_index = ev.end_mark.index;
        child = done ? NULL : compose(c, &ev, depth + 1, &h);
        yaml_event_delete(&ev);
        if (done) return 0;
        if (!child) return -1;
        push(c, child);
        if (h + 1 > *height) *height = h + 1;
    }
}

struct keyed {
    const struct node *key;
    int i;
};

static int by_key(const void *a, const void *b)
{
    const struct keyed *x = a, *y = b;
    size_t n = x->key->len < y->key->len ? x->key->len : y->key->len;
    int order = memcmp(x->key->text, y->key->text, n);
    if (order) return order;
    if (x->key->len != y->key->len) return x->key->len < y->key->len ? -1 : 1;
    return x->i - y->i;
}

/* Of keys that stand twice the first stays. `drop` (n) is set for the others. */
static void find_duplicates(struct composer *c, const struct node *v, bool *drop)
{
    struct keyed *k = mem_array((size_t)v->n, sizeof *k);
    int first = 0;
    for (int i = 0; i < v->n; i++) k[i] = (struct keyed){v->keys[i], i};
    qsort(k, (size_t)v->n, sizeof *k, by_key);
    for (int i = 1; i < v->n; i++) {
        const struct node *a = k[first].key, *b = k[i].key;
        if (a->len != b->len || memcmp(a->text, b->text, a->len)) {
            first = i;
            continue;
        }
        drop[k[i].i] = true;
        diag_add(c->d, DIAG_ERROR, "E204", b->at, b->width, "duplicate key '%s' (first at %d:%d)", b->text, a->at.line,
                 a->at.col);
    }
    free(k);
}

/* False when the key cannot be one; said why. */
static bool key_ok(struct composer *c, const struct node *k)
{
    if (k->kind != NODE_SCALAR) {
        diag_add(c->d, DIAG_ERROR, "E112", k->at, k->width, "%s as a key; a key is a word", node_kind_name(k));
        if (k->kind == NODE_MAP) diag_help(c->d, "help: a text that starts with {{ needs quotes");
        return false;
    }
    if (k->style == NODE_PLAIN && !strcmp(k->text, "<<")) {
        diag_add(c->d, DIAG_ERROR, "E108", k->at, k->width, "merge keys (<<) are not YAML 1.2");
        diag_help(c->d, "help: in a condition write extends: NAME_OF_AN_EARLIER_CONDITION");
        return false;
    }
    return true;
}

static void finish_map(struct composer *c, struct node *v, struct node **pairs, int n)
{
    bool *drop;
    int kept = 0;
    v->items = arena_array(c->mem, (size_t)n, sizeof *v->items);
    v->keys = arena_array(c->mem, (size_t)n, sizeof *v->keys);
    for (int i = 0; i < n; i++) {
        if (!key_ok(c, pairs[2 * i])) continue;
        v->keys[v->n] = pairs[2 * i];
        v->items[v->n++] = pairs[2 * i + 1];
    }
    if (v->n < 2) return;
    drop = mem_array((size_t)v->n, sizeof *drop);
    find_duplicates(c, v, drop);
    for (int i = 0; i < v->n; i++) {
        if (drop[i]) continue;
        v->keys[kept] = v->keys[i];
        v->items[kept++] = v->items[i];
    }
    v->n = kept;
    free(drop);
}

static struct node *compose_collection(struct composer *c, const yaml_event_t *ev, int depth, int *height)
{
    bool map = ev->type == YAML_MAPPING_START_EVENT;
    const yaml_char_t *name = map ? ev->data.mapping_start.anchor : ev->data.sequence_start.anchor;
    bool flow = map ? ev->data.mapping_start.style == YAML_FLOW_MAPPING_STYLE
                    : ev->data.sequence_start.style == YAML_FLOW_SEQUENCE_STYLE;
    int anchor = open_anchor(c, ev, name), nodes = c->nodes;
    size_t index = start_of(c, ev, name), base = c->n_stack, end = 0;
    struct node *v = anchor == -2 ? NULL : new_node(c, map ? NODE_MAP : NODE_LIST, index);
    if (!v) return NULL;
    if (depth > DEPTH_MAX) {
        too_deep(c, v->at);
        return NULL;
    }
    refuse_tag(c, ev, map ? ev->data.mapping_start.tag : ev->data.sequence_start.tag);
    *height = 1;
    if (compose_children(c, map ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT, depth, height, &end)) return NULL;
    if (flow) v->width = width_of(c, index, end);
    if (map) {
        finish_map(c, v, c->stack + base, (int)((c->n_stack - base) / 2));
    } else {
        v->n = (int)(c->n_stack - base);
        v->items = arena_array(c->mem, (size_t)v->n, sizeof *v->items);
        if (v->n) memcpy(v->items, c->stack + base, (size_t)v->n * sizeof *v->items);
    }
    c->n_stack = base;
    close_anchor(c, anchor, v, c->nodes - nodes, *height);
    return v;
}

/* NULL: said why; nothing more can be read. */
static struct node *compose(struct composer *c, yaml_event_t *ev, int depth, int *height)
{
    if (ev->type == YAML_ALIAS_EVENT) return compose_alias(c, ev, depth, height);
    if (ev->type == YAML_SCALAR_EVENT) return compose_scalar(c, ev, height);
    return compose_collection(c, ev, depth, height);
}

static struct node *compose_stream(struct composer *c)
{
    struct node *root = NULL;
    bool second = false;
    for (;;) {
        yaml_event_t ev;
        yaml_event_type_t type;
        struct mark at;
        int height;
        if (next_event(c, &ev)) return NULL;
        type = ev.type;
        at = mark_of(c, ev.start_mark.index);
        if (type == YAML_DOCUMENT_START_EVENT && root) second = true;
        if (!root && (type == YAML_SCALAR_EVENT || type == YAML_SEQUENCE_START_EVENT || type == YAML_MAPPING_START_EVENT ||
                      type == YAML_ALIAS_EVENT)) {
            root = compose(c, &ev, 1, &height);
            if (!root) type = YAML_NO_EVENT;
        }
        yaml_event_delete(&ev);
        if (type == YAML_NO_EVENT) return NULL;
        if (second) {
            diag_add(c->d, DIAG_ERROR, "E106", at, 3, "a second document starts here; a spec is one document");
            return root;
        }
        if (type == YAML_STREAM_END_EVENT) break;
    }
    if (!root) {
        diag_add(c->d, DIAG_ERROR, "E104", (struct mark){0, 0}, 1, "the file is empty");
        diag_help(c->d, "help: a spec starts with the line 'kvrun: 1'");
    }
    return root;
}

struct node *node_parse(const char *text, size_t n, arena *mem, struct diag *d)
{
    struct composer *c = mem_alloc(sizeof *c);
    struct node *root = NULL;
    if (n >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) {
        text += 3;
        n -= 3;
    }
    c->text = text;
    c->n = n;
    c->mem = mem;
    c->d = d;
    c->cap_stack = 256;
    c->stack = mem_array(c->cap_stack, sizeof *c->stack);
    c->strides = mem_array(n / STRIDE + 1, sizeof *c->strides);
    if (scan_bytes(c) == 0 && yaml_parser_initialize(&c->parser)) {
        yaml_parser_set_encoding(&c->parser, YAML_UTF8_ENCODING);
        yaml_parser_set_input_string(&c->parser, (const unsigned char *)text, n);
        root = compose_stream(c);
        yaml_parser_delete(&c->parser);
    }
    free(c->strides);
    free(c->lines);
    free(c->stack);
    free(c);
    return root;
}

struct node *node_get(const struct node *map, const char *key)
{
    if (!map || map->kind != NODE_MAP) return NULL;
    for (int i = 0; i < map->n; i++)
        if (!strcmp(map->keys[i]->text, key)) return map->items[i];
    return NULL;
}

const char *node_kind_name(const struct node *v)
{
    return v->kind == NODE_LIST ? "a list" : v->kind == NODE_MAP ? "a map" : "a scalar";
}
