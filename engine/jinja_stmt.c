/* jinja_stmt.c: tags. What Jinja has and this file does not know (blocks, imports, ...) is an error by name. */
#include "jinja.h"

static void stmt_body(struct parser *p, struct nodes *body, const char *const *ends);

static void stmt_expect_end(struct parser *p)
{
    if (p->t->type == TOKEN_BLOCK_END)
        p->t++;
    else
        jinja_parse_fail(p, p->t->line, "expected '%%}'");
}

/* The body of a tag up to one of `ends`; that word is the current token then. */
static void stmt_block(struct parser *p, struct nodes *body, const char *const *ends)
{
    jinja_parse_skip_op(p, ':');
    stmt_expect_end(p);
    if (++p->depth > JINJA_MAX_DEPTH) {
        jinja_parse_fail(p, p->t->line, "nested deeper than %d levels", JINJA_MAX_DEPTH);
        return;
    }
    stmt_body(p, body, ends);
    p->depth--;
    if (!p->failed && p->t->type == TOKEN_EOF)
        jinja_parse_fail(p, p->t->line, "the template ends where '%s' is needed", ends[0]);
}

/* The same for a tag that only one word can end; takes it. */
static void stmt_block_to(struct parser *p, struct nodes *body, const char *end)
{
    const char *ends[] = {end, NULL};
    stmt_block(p, body, ends);
    if (!p->failed) p->t++;
}

/* ---- targets of assignments ---- */

static void stmt_check_target(struct parser *p, const struct node *x)
{
    int i;
    if (!x || p->failed || x->kind == NODE_NAME || x->kind == NODE_NSREF) return;
    if (x->kind != NODE_TUPLE) {
        jinja_parse_fail(p, x->line, "this cannot be assigned to");
        return;
    }
    for (i = 0; i < x->list.n; i++) stmt_check_target(p, x->list.p[i]);
}

static struct node *stmt_target(struct parser *p, unsigned flags)
{
    unsigned uses = p->uses;
    struct node *x = jinja_parse_tuple(p, TUPLE_TARGET | flags);
    p->uses = uses; /* storing to a name is no use of it */
    stmt_check_target(p, x);
    return x;
}

/* ---- tags ---- */

static struct node *stmt_set(struct parser *p)
{
    struct node *x = jinja_node(p, NODE_SET, p->t->line);
    p->t++;
    x->a = stmt_target(p, TUPLE_NAMESPACE);
    if (jinja_parse_skip_op(p, '=')) {
        x->b = jinja_parse_tuple(p, 0);
    } else {
        x->kind = NODE_SET_BLOCK;
        x->b = jinja_parse_filters(p, NULL, false);
        stmt_block_to(p, &x->list, "endset");
    }
    return jinja_node_done(p, x);
}

static struct node *stmt_for(struct parser *p)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    struct node *x = jinja_node(p, NODE_FOR, p->t->line);
    p->t++;
    x->a = stmt_target(p, 0);
    if (!p->failed && !jinja_parse_skip_name(p, "in")) return jinja_parse_fail(p, x->line, "expected 'in'");
    x->b = jinja_parse_tuple(p, TUPLE_NO_COND);
    if (jinja_parse_skip_name(p, "if")) x->c = jinja_parse_expr(p);
    if (jinja_parse_is_name(p, "recursive")) return jinja_parse_fail(p, x->line, "a recursive loop is not supported");
    stmt_block(p, &x->list, ends);
    if (p->failed) return NULL;
    if (jinja_parse_skip_name(p, "else"))
        stmt_block_to(p, &x->more, "endfor");
    else
        p->t++;
    return jinja_node_done(p, x);
}

static struct node *stmt_if(struct parser *p)
{
    static const char *const ends[] = {"endif", "elif", "else", NULL};
    struct node *x = jinja_node(p, NODE_IF, p->t->line);
    bool last = false;
    while (!p->failed && !last) {
        struct node *branch = jinja_node(p, NODE_BRANCH, p->t->line);
        last = jinja_parse_skip_name(p, "else");
        if (last) {
            stmt_block_to(p, &branch->list, "endif");
        } else {
            p->t++; /* if, elif */
            branch->a = jinja_parse_tuple(p, TUPLE_NO_COND);
            stmt_block(p, &branch->list, ends);
        }
        jinja_node_add(p, &x->list, jinja_node_done(p, branch));
        if (!last) last = jinja_parse_skip_name(p, "endif");
    }
    return jinja_node_done(p, x);
}

static void stmt_parameters(struct parser *p, struct node *x)
{
    bool defaults = false;
    jinja_parse_expect_op(p, '(');
    while (!p->failed && !jinja_parse_is_op(p, ')')) {
        struct node *k = jinja_node(p, NODE_KEYWORD, p->t->line);
        int i;
        if (x->more.n) jinja_parse_expect_op(p, ',');
        k->name = jinja_parse_expect_name(p);
        if (jinja_parse_skip_op(p, '=')) {
            k->a = jinja_parse_expr(p);
            defaults = true;
        } else if (defaults) {
            jinja_parse_fail(p, k->line, "a parameter without default after one with a default");
        }
        for (i = 0; i < x->more.n; i++)
            if (x->more.p[i]->name == k->name) jinja_parse_fail(p, k->line, "a parameter twice");
        if (!p->failed) jinja_node_add(p, &x->more, jinja_node_done(p, k));
    }
    jinja_parse_expect_op(p, ')');
}

/* The names with a meaning of their own are those the body mentions. */
static struct node *stmt_macro_body(struct parser *p, struct node *x, const char *end)
{
    unsigned uses = p->uses;
    int i;
    p->uses = 0;
    stmt_block_to(p, &x->list, end);
    x->uses = p->uses;
    p->uses |= uses;
    for (i = 0; i < x->more.n; i++) {
        const struct node *k = x->more.p[i];
        if (jinja_text_is(k->name, "kwargs")) x->uses &= ~(unsigned)USES_KWARGS;
        if (jinja_text_is(k->name, "varargs")) x->uses &= ~(unsigned)USES_VARARGS;
        if (jinja_text_is(k->name, "caller")) return jinja_parse_fail(p, k->line, "a parameter 'caller' is not supported");
    }
    return jinja_node_done(p, x);
}

static struct node *stmt_macro(struct parser *p)
{
    struct node *x = jinja_node(p, NODE_MACRO, p->t->line);
    p->t++;
    x->name = jinja_parse_expect_name(p);
    stmt_parameters(p, x);
    return stmt_macro_body(p, x, "endmacro");
}

static struct node *stmt_call(struct parser *p)
{
    struct node *x = jinja_node(p, NODE_CALL_BLOCK, p->t->line);
    p->t++;
    if (jinja_parse_is_op(p, '(')) stmt_parameters(p, x);
    x->b = jinja_parse_expr(p);
    if (x->b && x->b->kind != NODE_CALL) return jinja_parse_fail(p, x->line, "a call block needs a call");
    return stmt_macro_body(p, x, "endcall");
}

/* {% generation %}: marks text for training; it is a scope and nothing else. */
static struct node *stmt_generation(struct parser *p)
{
    struct node *x = jinja_node(p, NODE_CALL_BLOCK, p->t->line);
    p->t++;
    return stmt_macro_body(p, x, "endgeneration");
}

static struct node *stmt_filter(struct parser *p)
{
    struct node *x = jinja_node(p, NODE_FILTER_BLOCK, p->t->line);
    p->t++;
    x->b = jinja_parse_filters(p, NULL, true);
    stmt_block_to(p, &x->list, "endfilter");
    return jinja_node_done(p, x);
}

static struct node *stmt_with(struct parser *p)
{
    struct node *x = jinja_node(p, NODE_WITH, p->t->line);
    p->t++;
    while (!p->failed && p->t->type != TOKEN_BLOCK_END) {
        struct node *set = jinja_node(p, NODE_SET, p->t->line);
        if (x->more.n) jinja_parse_expect_op(p, ',');
        set->a = stmt_target(p, 0);
        jinja_parse_expect_op(p, '=');
        set->b = jinja_parse_expr(p);
        jinja_node_add(p, &x->more, jinja_node_done(p, set));
    }
    stmt_block_to(p, &x->list, "endwith");
    return jinja_node_done(p, x);
}

/* {% print a, b %} */
static void stmt_print(struct parser *p, struct nodes *body)
{
    int n = 0;
    p->t++;
    while (!p->failed && p->t->type != TOKEN_BLOCK_END) {
        struct node *x = jinja_node(p, NODE_PRINT, p->t->line);
        if (n++) jinja_parse_expect_op(p, ',');
        x->a = jinja_parse_expr(p);
        jinja_node_add(p, body, jinja_node_done(p, x));
    }
}

static struct node *stmt_jump(struct parser *p, enum node_kind kind)
{
    struct node *x = jinja_node(p, kind, p->t->line);
    p->t++;
    return jinja_node_done(p, x);
}

static struct node *stmt_tag(struct parser *p)
{
    static const char *const others[] = {"block", "extends", "include", "import", "from", "autoescape", NULL};
    const struct text *name = p->t->text;
    int i;
    if (p->t->type != TOKEN_NAME) return jinja_parse_fail(p, p->t->line, "expected the name of a tag");
    if (jinja_text_is(name, "if")) return stmt_if(p);
    if (jinja_text_is(name, "for")) return stmt_for(p);
    if (jinja_text_is(name, "set")) return stmt_set(p);
    if (jinja_text_is(name, "macro")) return stmt_macro(p);
    if (jinja_text_is(name, "call")) return stmt_call(p);
    if (jinja_text_is(name, "generation")) return stmt_generation(p);
    if (jinja_text_is(name, "filter")) return stmt_filter(p);
    if (jinja_text_is(name, "with")) return stmt_with(p);
    if (jinja_text_is(name, "break")) return stmt_jump(p, NODE_BREAK);
    if (jinja_text_is(name, "continue")) return stmt_jump(p, NODE_CONTINUE);
    for (i = 0; others[i]; i++)
        if (jinja_text_is(name, others[i])) return jinja_parse_fail(p, p->t->line, "the tag '%s' is not supported", others[i]);
    return jinja_parse_fail(p, p->t->line, "unknown tag '%.60s'", name->p);
}

static bool stmt_at_end(const struct parser *p, const char *const *ends)
{
    for (; ends && *ends; ends++)
        if (jinja_parse_is_name(p, *ends)) return true;
    return false;
}

static void stmt_body(struct parser *p, struct nodes *body, const char *const *ends)
{
    while (!p->failed && p->t->type != TOKEN_EOF) {
        struct node *x;
        int line = p->t->line;
        switch (p->t->type) {
        case TOKEN_DATA:
            x = jinja_node(p, NODE_DATA, line);
            x->value = p->t->value;
            p->t++;
            jinja_node_add(p, body, jinja_node_done(p, x));
            break;
        case TOKEN_PRINT_BEGIN:
            x = jinja_node(p, NODE_PRINT, line);
            p->t++;
            x->a = jinja_parse_tuple(p, 0);
            if (p->t->type == TOKEN_PRINT_END)
                p->t++;
            else
                jinja_parse_fail(p, line, "expected '}}'");
            jinja_node_add(p, body, jinja_node_done(p, x));
            break;
        case TOKEN_BLOCK_BEGIN:
            p->t++;
            if (stmt_at_end(p, ends)) return;
            if (jinja_parse_is_name(p, "print"))
                stmt_print(p, body);
            else
                jinja_node_add(p, body, stmt_tag(p));
            stmt_expect_end(p);
            break;
        default: jinja_parse_fail(p, line, "unexpected token"); break;
        }
    }
}

int jinja_parse_template(struct parser *p, struct nodes *body)
{
    stmt_body(p, body, NULL);
    return p->failed ? -1 : 0;
}
