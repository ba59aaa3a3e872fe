/* jinja_check.c: what Jinja decides before a template runs.
 *
 * A name that a scope sets unconditionally before it reads it, and that no enclosing scope mentions, is undefined in
 * that scope and the scopes inside it until it is set, even if a variable of that name was passed in. Such names are
 * put into the node's `hidden`; every other name is found by looking outwards through the scopes at run time.
 *
 * Also here: filters and tests that do not exist (an error at once unless an `if` guards them, as in Jinja),
 * break and continue outside of a loop, assignments to `loop`. */
#include "jinja.h"

struct seen {
    const struct text *name;
    int frame;  /* the last frame that mentioned it */
    int frames; /* enclosing frames that mention it */
};

struct check {
    arena *mem;
    struct seen *table;
    size_t n, cap;
    int frame;
    struct names *hidden;
    const struct text **mentioned; /* stack: names of the frames being walked */
    size_t n_mentioned, cap_mentioned;
    err *e;
};

static struct seen *check_slot(struct check *c, const struct text *name)
{
    size_t i = ((uintptr_t)name >> 4) & (c->cap - 1);
    while (c->table[i].name && c->table[i].name != name) i = (i + 1) & (c->cap - 1);
    return &c->table[i];
}

static struct seen *check_name(struct check *c, const struct text *name)
{
    struct seen *s;
    if (c->n * 2 >= c->cap) {
        struct seen *old = c->table;
        size_t cap = c->cap, i;
        c->cap = cap ? cap * 2 : 64;
        c->table = arena_array(c->mem, c->cap, sizeof *c->table);
        for (i = 0; i < cap; i++)
            if (old[i].name) *check_slot(c, old[i].name) = old[i];
    }
    s = check_slot(c, name);
    if (!s->name) {
        s->name = name;
        c->n++;
    }
    return s;
}

/* ---- the names of one frame, in the order Jinja visits them ---- */

static void check_mention(struct check *c, const struct text *name, bool hides)
{
    struct seen *s = check_name(c, name);
    if (s->frame == c->frame) return;
    s->frame = c->frame;
    if (hides && s->frames == 0 && jinja_is_given(name)) { /* any other name would not be found anyway */
        struct names *h = c->hidden;
        const struct text **p = arena_array(c->mem, (size_t)h->n + 1, sizeof *p);
        if (h->n) memcpy(p, h->p, (size_t)h->n * sizeof *p);
        p[h->n++] = name;
        h->p = p;
    }
    if (c->n_mentioned == c->cap_mentioned) {
        size_t cap = c->cap_mentioned ? c->cap_mentioned * 2 : 64;
        const struct text **p = arena_array(c->mem, cap, sizeof *p);
        if (c->n_mentioned) memcpy(p, c->mentioned, c->n_mentioned * sizeof *p);
        c->mentioned = p;
        c->cap_mentioned = cap;
    }
    c->mentioned[c->n_mentioned++] = name;
}

/* Names read by an expression, or stored to by a target. */
static void check_names(struct check *c, const struct node *x, bool hides)
{
    int i;
    if (!x) return;
    if (x->kind == NODE_NAME || x->kind == NODE_NSREF) check_mention(c, x->name, hides && x->kind == NODE_NAME);
    check_names(c, x->a, hides);
    check_names(c, x->b, hides);
    check_names(c, x->c, hides);
    check_names(c, x->d, hides);
    for (i = 0; i < x->list.n; i++) check_names(c, x->list.p[i], hides);
    for (i = 0; i < x->more.n; i++) check_names(c, x->more.p[i], hides);
}

static void check_mentions(struct check *c, const struct nodes *body, bool guarded)
{
    int i, k;
    for (i = 0; i < body->n; i++) {
        const struct node *x = body->p[i];
        switch (x->kind) {
        case NODE_PRINT: check_names(c, x->a, false); break;
        case NODE_SET:
            check_names(c, x->b, false);
            check_names(c, x->a, !guarded);
            break;
        case NODE_SET_BLOCK: check_names(c, x->a, !guarded); break;
        case NODE_MACRO: check_mention(c, x->name, !guarded); break;
        case NODE_FOR:
        case NODE_CALL_BLOCK:
        case NODE_FILTER_BLOCK: check_names(c, x->b, false); break;
        case NODE_WITH:
            for (k = 0; k < x->more.n; k++) check_names(c, x->more.p[k]->b, false);
            break;
        case NODE_IF:
            for (k = 0; k < x->list.n; k++) check_names(c, x->list.p[k]->a, false);
            for (k = 0; k < x->list.n; k++) check_mentions(c, &x->list.p[k]->list, true);
            break;
        default: break;
        }
    }
}

/* ---- expressions: filters and tests ---- */

static int check_fail(struct check *c, const struct node *x, const char *what)
{
    return err_set(c->e, ERR_INPUT, "line %d: %s", x->line, what);
}

/* guarded: inside an `if`, where an unknown filter is an error only when it is reached. */
static int check_expr(struct check *c, struct node *x, bool guarded)
{
    int i;
    if (!x) return 0;
    if (x->kind == NODE_COND) guarded = true;
    if (x->kind == NODE_FILTER || x->kind == NODE_TEST) {
        bool filter = x->kind == NODE_FILTER;
        x->fn = filter ? jinja_filter(x->name) : jinja_test(x->name);
        if (!x->fn && !guarded)
            return err_set(c->e, ERR_INPUT, "line %d: no %s named '%.60s'", x->line, filter ? "filter" : "test", x->name->p);
    }
    if (check_expr(c, x->a, guarded) || check_expr(c, x->b, guarded) || check_expr(c, x->c, guarded)) return -1;
    if (check_expr(c, x->d, guarded)) return -1;
    for (i = 0; i < x->list.n; i++)
        if (check_expr(c, x->list.p[i], guarded)) return -1;
    for (i = 0; i < x->more.n; i++)
        if (check_expr(c, x->more.p[i], guarded)) return -1;
    return 0;
}

/* ---- statements ---- */

enum check_in { IN_IF = 1, IN_LOOP = 2, IN_FOR = 4 }; /* IN_LOOP: break works here; IN_FOR: anywhere inside a loop */

static int check_body(struct check *c, const struct nodes *body, unsigned in);

static int check_target(struct check *c, const struct node *x)
{
    int i;
    if (x->kind == NODE_NAME && jinja_text_is(x->name, "loop"))
        return check_fail(c, x, "'loop' cannot be assigned to in a loop");
    for (i = 0; i < x->list.n; i++)
        if (check_target(c, x->list.p[i])) return -1;
    return 0;
}

/* A frame: its parameters (names of `target`, and of the keywords `params`), what it reads besides, its body. */
static int check_frame(struct check *c, const struct node *target, const struct nodes *params, const struct node *reads,
                       const struct nodes *body, struct names *hidden, unsigned in)
{
    size_t first = c->n_mentioned, i;
    int k, rc;
    c->frame++;
    c->hidden = hidden;
    check_names(c, target, false);
    for (k = 0; params && k < params->n; k++) {
        const struct node *p = params->p[k];
        if (p->kind == NODE_KEYWORD)
            check_mention(c, p->name, false);
        else
            check_names(c, p->a, false);
    }
    for (k = 0; params && k < params->n; k++)
        if (params->p[k]->kind == NODE_KEYWORD) check_names(c, params->p[k]->a, false);
    check_mentions(c, body, false);
    check_names(c, reads, false);
    for (i = first; i < c->n_mentioned; i++) check_name(c, c->mentioned[i])->frames++;
    rc = check_body(c, body, in & ~(unsigned)IN_IF);
    for (i = first; i < c->n_mentioned; i++) check_name(c, c->mentioned[i])->frames--;
    c->n_mentioned = first;
    return rc;
}

static int check_if(struct check *c, struct node *x, unsigned in)
{
    int i;
    for (i = 0; i < x->list.n; i++)
        if (check_expr(c, x->list.p[i]->a, true) || check_body(c, &x->list.p[i]->list, in | IN_IF)) return -1;
    return 0;
}

static int check_for(struct check *c, struct node *x, unsigned in)
{
    if (check_target(c, x->a)) return -1;
    if (check_expr(c, x->b, in & IN_IF) || check_expr(c, x->c, false)) return -1;
    if (check_frame(c, x->a, NULL, NULL, &x->list, &x->hidden, in | IN_LOOP | IN_FOR)) return -1;
    return check_frame(c, NULL, NULL, NULL, &x->more, &x->hidden_else, in | IN_FOR);
}

static int check_macro(struct check *c, struct node *x, unsigned in)
{
    int i;
    if (check_expr(c, x->b, in & IN_IF)) return -1;
    for (i = 0; i < x->more.n; i++)
        if (check_expr(c, x->more.p[i]->a, false)) return -1;
    return check_frame(c, NULL, &x->more, NULL, &x->list, &x->hidden, in & ~(unsigned)IN_LOOP);
}

static int check_with(struct check *c, struct node *x, unsigned in)
{
    int i;
    for (i = 0; i < x->more.n; i++)
        if (check_expr(c, x->more.p[i]->b, in & IN_IF)) return -1;
    return check_frame(c, NULL, &x->more, NULL, &x->list, &x->hidden, in);
}

static int check_statement(struct check *c, struct node *x, unsigned in)
{
    switch (x->kind) {
    case NODE_PRINT: return check_expr(c, x->a, in & IN_IF);
    case NODE_IF: return check_if(c, x, in);
    case NODE_FOR: return check_for(c, x, in);
    case NODE_MACRO:
    case NODE_CALL_BLOCK: return check_macro(c, x, in);
    case NODE_WITH: return check_with(c, x, in);
    case NODE_SET:
        if ((in & IN_FOR) && check_target(c, x->a)) return -1;
        return check_expr(c, x->b, in & IN_IF);
    case NODE_SET_BLOCK:
        if ((in & IN_FOR) && check_target(c, x->a)) return -1;
        return check_expr(c, x->b, false) || check_frame(c, NULL, NULL, NULL, &x->list, &x->hidden, in) ? -1 : 0;
    case NODE_FILTER_BLOCK:
        return check_expr(c, x->b, false) || check_frame(c, NULL, NULL, x->b, &x->list, &x->hidden, in) ? -1 : 0;
    case NODE_BREAK:
    case NODE_CONTINUE: return in & IN_LOOP ? 0 : check_fail(c, x, "break or continue outside of a loop");
    default: return 0;
    }
}

static int check_body(struct check *c, const struct nodes *body, unsigned in)
{
    int i;
    for (i = 0; i < body->n; i++)
        if (check_statement(c, body->p[i], in)) return -1;
    return 0;
}

int jinja_check(struct chat *chat, err *e)
{
    struct check c = {.mem = chat->mem, .e = e};
    return check_frame(&c, NULL, NULL, NULL, &chat->body, &chat->hidden, 0);
}
