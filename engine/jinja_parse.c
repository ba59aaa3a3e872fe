/* jinja_parse.c: expressions. One function per level of Jinja's grammar, loosest first; names as in its manual. */
#include "jinja.h"

#include <stdio.h>

void *jinja_parse_fail(struct parser *p, int line, const char *fmt, ...)
{
    char msg[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    if (!p->failed) err_set(p->e, ERR_INPUT, "line %d: %s", line, msg);
    p->failed = true;
    while (p->t->type != TOKEN_EOF) p->t++; /* every loop of the parser ends there */
    return NULL;
}

/* ---- nodes ---- */

struct node *jinja_node(struct parser *p, enum node_kind kind, int line)
{
    struct node *x = arena_alloc(p->mem, sizeof *x);
    x->kind = kind;
    x->line = line;
    return x;
}

void jinja_node_add(struct parser *p, struct nodes *l, struct node *x)
{
    if (!x) return;
    if (l->n == l->cap) {
        int cap = l->cap ? l->cap * 2 : 4;
        struct node **q = arena_array(p->mem, (size_t)cap, sizeof(struct node *));
        if (l->n) memcpy(q, l->p, (size_t)l->n * sizeof *q);
        l->p = q;
        l->cap = cap;
    }
    l->p[l->n++] = x;
}

static int node_depth(const struct node *x, int depth)
{
    return x && x->depth > depth ? x->depth : depth;
}

struct node *jinja_node_done(struct parser *p, struct node *x)
{
    int depth = 0, i;
    depth = node_depth(x->a, depth);
    depth = node_depth(x->b, depth);
    depth = node_depth(x->c, depth);
    depth = node_depth(x->d, depth);
    for (i = 0; i < x->list.n; i++) depth = node_depth(x->list.p[i], depth);
    for (i = 0; i < x->more.n; i++) depth = node_depth(x->more.p[i], depth);
    x->depth = depth + 1;
    if (x->depth > JINJA_MAX_TREE) return jinja_parse_fail(p, x->line, "nested deeper than %d levels", JINJA_MAX_TREE);
    return x;
}

static struct node *parse_binary(struct parser *p, enum node_kind kind, enum node_op op, int line, struct node *a,
                                 struct node *b)
{
    struct node *x = jinja_node(p, kind, line);
    x->op = op;
    x->a = a;
    x->b = b;
    return jinja_node_done(p, x);
}

/* ---- tokens ---- */

bool jinja_parse_is_op(const struct parser *p, int op)
{
    return p->t->type == TOKEN_OP && p->t->op == op;
}

bool jinja_parse_is_name(const struct parser *p, const char *name)
{
    return p->t->type == TOKEN_NAME && jinja_text_is(p->t->text, name);
}

bool jinja_parse_skip_op(struct parser *p, int op)
{
    if (!jinja_parse_is_op(p, op)) return false;
    p->t++;
    return true;
}

bool jinja_parse_skip_name(struct parser *p, const char *name)
{
    if (!jinja_parse_is_name(p, name)) return false;
    p->t++;
    return true;
}

void jinja_parse_expect_op(struct parser *p, int op)
{
    if (!jinja_parse_skip_op(p, op)) jinja_parse_fail(p, p->t->line, "expected '%c'", op);
}

const struct text *jinja_parse_expect_name(struct parser *p)
{
    if (p->t->type != TOKEN_NAME) {
        jinja_parse_fail(p, p->t->line, "expected a name");
        return NULL;
    }
    return (p->t++)->text;
}

/* ---- primaries ---- */

static struct node *parse_or(struct parser *p);
static struct node *parse_unary(struct parser *p, bool filters);

static struct node *parse_const(struct parser *p, struct val v)
{
    struct node *x = jinja_node(p, NODE_CONST, p->t->line);
    x->value = v;
    return jinja_node_done(p, x);
}

static struct node *parse_name(struct parser *p, unsigned flags)
{
    const struct lexeme *t = p->t;
    bool yes = jinja_text_is(t->text, "true") || jinja_text_is(t->text, "True");
    struct node *x;
    p->t++;
    if (yes || jinja_text_is(t->text, "false") || jinja_text_is(t->text, "False")) return parse_const(p, jinja_bool(yes));
    if (jinja_text_is(t->text, "none") || jinja_text_is(t->text, "None")) return parse_const(p, jinja_none());
    x = jinja_node(p, NODE_NAME, t->line);
    x->name = t->text;
    if ((flags & TUPLE_NAMESPACE) && jinja_parse_skip_op(p, '.')) {
        x->kind = NODE_NSREF;
        x->text = jinja_parse_expect_name(p);
    } else if (jinja_text_is(t->text, "caller")) {
        p->uses |= USES_CALLER;
    } else if (jinja_text_is(t->text, "kwargs")) {
        p->uses |= USES_KWARGS;
    } else if (jinja_text_is(t->text, "varargs")) {
        p->uses |= USES_VARARGS;
    }
    return jinja_node_done(p, x);
}

static struct node *parse_strings(struct parser *p)
{
    struct node *x = jinja_node(p, NODE_CONST, p->t->line);
    struct buf b = {0};
    struct text *t;
    x->value = p->t->value;
    if (p->t[1].type == TOKEN_STRING) { /* 'a' 'b' is one string */
        t = arena_alloc(p->mem, sizeof *t);
        t->ascii = true;
        for (; p->t->type == TOKEN_STRING; p->t++) {
            buf_add(&b, p->t->text->p, p->t->text->n);
            t->ascii = t->ascii && p->t->text->ascii;
        }
        t->p = arena_strndup(p->mem, b.p ? b.p : "", b.n);
        t->n = b.n;
        x->value.s = t;
        buf_free(&b);
    } else {
        p->t++;
    }
    return jinja_node_done(p, x);
}

/* [a, b] or {k: v}: the items go to the list. */
static struct node *parse_items(struct parser *p, enum node_kind kind, int end)
{
    struct node *x = jinja_node(p, kind, p->t->line);
    p->t++;
    while (!p->failed && !jinja_parse_is_op(p, end)) {
        if (x->list.n) jinja_parse_expect_op(p, ',');
        if (jinja_parse_is_op(p, end)) break;
        jinja_node_add(p, &x->list, jinja_parse_expr(p));
        if (kind == NODE_DICT) {
            jinja_parse_expect_op(p, ':');
            jinja_node_add(p, &x->list, jinja_parse_expr(p));
        }
    }
    jinja_parse_expect_op(p, end);
    return jinja_node_done(p, x);
}

static struct node *parse_primary(struct parser *p, unsigned flags)
{
    struct node *x;
    int line = p->t->line;
    switch (p->t->type) {
    case TOKEN_NAME: return parse_name(p, flags);
    case TOKEN_STRING: return parse_strings(p);
    case TOKEN_NUMBER:
        x = parse_const(p, p->t->value);
        p->t++;
        return x;
    case TOKEN_OP:
        if (p->t->op == '[') return parse_items(p, NODE_LIST, ']');
        if (p->t->op == '{') return parse_items(p, NODE_DICT, '}');
        if (!jinja_parse_skip_op(p, '(')) break;
        x = jinja_parse_tuple(p, TUPLE_PARENS);
        jinja_parse_expect_op(p, ')');
        return x;
    default: break;
    }
    return jinja_parse_fail(p, line, "expected an expression");
}

static bool parse_tuple_end(const struct parser *p)
{
    return p->t->type == TOKEN_PRINT_END || p->t->type == TOKEN_BLOCK_END || jinja_parse_is_op(p, ')');
}

struct node *jinja_parse_tuple(struct parser *p, unsigned flags)
{
    struct node *x = jinja_node(p, NODE_TUPLE, p->t->line);
    bool tuple = false;
    while (!p->failed) {
        if (x->list.n) jinja_parse_expect_op(p, ',');
        if (parse_tuple_end(p)) break;
        jinja_node_add(p, &x->list,
                       flags & TUPLE_TARGET    ? parse_primary(p, flags)
                       : flags & TUPLE_NO_COND ? parse_or(p)
                                               : jinja_parse_expr(p));
        if (!jinja_parse_is_op(p, ',')) break;
        tuple = true;
    }
    if (p->failed) return NULL;
    if (!tuple && x->list.n) return x->list.p[0];
    if (!tuple && !(flags & TUPLE_PARENS)) return jinja_parse_fail(p, p->t->line, "expected an expression");
    return jinja_node_done(p, x);
}

/* ---- what follows a primary ---- */

static struct node *parse_slice_part(struct parser *p)
{
    if (jinja_parse_is_op(p, ':') || jinja_parse_is_op(p, ']') || jinja_parse_is_op(p, ',')) return NULL;
    return jinja_parse_expr(p);
}

static struct node *parse_brackets(struct parser *p, struct node *of)
{
    struct node *x = jinja_node(p, NODE_ITEM, p->t->line), *tuple = jinja_node(p, NODE_TUPLE, p->t->line);
    p->t++;
    x->a = of;
    while (!p->failed && !jinja_parse_is_op(p, ']')) {
        struct node *first;
        if (tuple->list.n) jinja_parse_expect_op(p, ',');
        first = jinja_parse_is_op(p, ':') ? NULL : jinja_parse_expr(p);
        if (jinja_parse_skip_op(p, ':')) {
            if (tuple->list.n) return jinja_parse_fail(p, x->line, "a slice with a tuple is not supported");
            x->kind = NODE_SLICE;
            x->b = first;
            x->c = parse_slice_part(p);
            if (jinja_parse_skip_op(p, ':')) x->d = parse_slice_part(p);
            break;
        }
        jinja_node_add(p, &tuple->list, first);
    }
    jinja_parse_expect_op(p, ']');
    if (p->failed) return NULL;
    if (x->kind == NODE_ITEM) x->b = tuple->list.n == 1 ? tuple->list.p[0] : jinja_node_done(p, tuple);
    return jinja_node_done(p, x);
}

static struct node *parse_dot(struct parser *p, struct node *of)
{
    struct node *x = jinja_node(p, NODE_ATTR, p->t->line);
    p->t++;
    x->a = of;
    if (p->t->type == TOKEN_NUMBER && p->t->value.type == VAL_INT) {
        x->kind = NODE_ITEM;
        x->b = parse_const(p, p->t->value);
        p->t++;
    } else {
        x->name = jinja_parse_expect_name(p);
    }
    return jinja_node_done(p, x);
}

static void parse_keyword(struct parser *p, struct node *x)
{
    struct node *k = jinja_node(p, NODE_KEYWORD, p->t->line);
    int i;
    k->name = p->t->text;
    p->t += 2;
    k->a = jinja_parse_expr(p);
    for (i = 0; i < x->more.n; i++)
        if (x->more.p[i]->name == k->name) jinja_parse_fail(p, k->line, "a keyword argument twice");
    if (!p->failed) jinja_node_add(p, &x->more, jinja_node_done(p, k));
}

/* (a, b, k=c, *d, **e) into x. */
static void parse_args(struct parser *p, struct node *x)
{
    bool comma = false;
    int line = p->t->line;
    jinja_parse_expect_op(p, '(');
    while (!p->failed && !jinja_parse_is_op(p, ')')) {
        bool wrong = false;
        if (comma) jinja_parse_expect_op(p, ',');
        if (jinja_parse_is_op(p, ')')) break;
        if (jinja_parse_skip_op(p, '*')) {
            wrong = x->b || x->c;
            x->b = jinja_parse_expr(p);
        } else if (jinja_parse_skip_op(p, JINJA_OP2('*', '*'))) {
            wrong = x->c != NULL;
            x->c = jinja_parse_expr(p);
        } else if (p->t->type == TOKEN_NAME && p->t[1].type == TOKEN_OP && p->t[1].op == '=') {
            wrong = x->c != NULL;
            parse_keyword(p, x);
        } else {
            wrong = x->b || x->c || x->more.n;
            jinja_node_add(p, &x->list, jinja_parse_expr(p));
        }
        if (wrong) jinja_parse_fail(p, line, "arguments in an order a call cannot have");
        comma = true;
    }
    jinja_parse_expect_op(p, ')');
}

static struct node *parse_call(struct parser *p, struct node *of)
{
    struct node *x = jinja_node(p, NODE_CALL, p->t->line);
    x->a = of;
    parse_args(p, x);
    return jinja_node_done(p, x);
}

static struct node *parse_postfix(struct parser *p, struct node *x)
{
    while (!p->failed) {
        if (jinja_parse_is_op(p, '.'))
            x = parse_dot(p, x);
        else if (jinja_parse_is_op(p, '['))
            x = parse_brackets(p, x);
        else if (jinja_parse_is_op(p, '('))
            x = parse_call(p, x);
        else
            break;
    }
    return x;
}

static const struct text *parse_dotted_name(struct parser *p)
{
    const struct text *name = jinja_parse_expect_name(p);
    if (jinja_parse_is_op(p, '.')) jinja_parse_fail(p, p->t->line, "a dotted name of a filter or test is not supported");
    return name;
}

/* inline_name: the first filter has no '|' in front of it ({% filter upper %}). */
struct node *jinja_parse_filters(struct parser *p, struct node *of, bool inline_name)
{
    struct node *x = of;
    while (!p->failed && (inline_name || jinja_parse_is_op(p, '|'))) {
        struct node *f = jinja_node(p, NODE_FILTER, p->t->line);
        if (!inline_name) p->t++;
        inline_name = false;
        f->a = x;
        f->name = parse_dotted_name(p);
        if (jinja_parse_is_op(p, '(')) parse_args(p, f);
        x = jinja_node_done(p, f);
    }
    return x;
}

static bool parse_test_argument(const struct parser *p)
{
    if (p->t->type == TOKEN_STRING || p->t->type == TOKEN_NUMBER) return true;
    if (p->t->type == TOKEN_OP) return p->t->op == '[' || p->t->op == '{';
    return p->t->type == TOKEN_NAME && !jinja_parse_is_name(p, "else") && !jinja_parse_is_name(p, "or") &&
           !jinja_parse_is_name(p, "and");
}

static struct node *parse_test(struct parser *p, struct node *of)
{
    struct node *x = jinja_node(p, NODE_TEST, p->t->line), *no;
    bool negated;
    p->t++;
    negated = jinja_parse_skip_name(p, "not");
    x->a = of;
    x->name = parse_dotted_name(p);
    if (jinja_parse_is_op(p, '(')) {
        parse_args(p, x);
    } else if (parse_test_argument(p)) {
        if (jinja_parse_is_name(p, "is")) return jinja_parse_fail(p, x->line, "tests with 'is' cannot be chained");
        jinja_node_add(p, &x->list, parse_postfix(p, parse_primary(p, 0)));
    }
    x = jinja_node_done(p, x);
    if (!negated) return x;
    no = jinja_node(p, NODE_NOT, p->t->line);
    no->a = x;
    return jinja_node_done(p, no);
}

static struct node *parse_filters_and_tests(struct parser *p, struct node *x)
{
    while (!p->failed) {
        if (jinja_parse_is_op(p, '|'))
            x = jinja_parse_filters(p, x, false);
        else if (jinja_parse_is_name(p, "is"))
            x = parse_test(p, x);
        else if (jinja_parse_is_op(p, '('))
            x = parse_call(p, x);
        else
            break;
    }
    return x;
}

/* ---- operators ---- */

static struct node *parse_unary(struct parser *p, bool filters)
{
    struct node *x;
    if (jinja_parse_is_op(p, '-') || jinja_parse_is_op(p, '+')) {
        x = jinja_node(p, p->t->op == '-' ? NODE_NEG : NODE_POS, p->t->line);
        p->t++;
        if (++p->depth > JINJA_MAX_DEPTH) return jinja_parse_fail(p, x->line, "nested deeper than %d levels", JINJA_MAX_DEPTH);
        x->a = parse_unary(p, false);
        p->depth--;
        x = jinja_node_done(p, x);
    } else {
        x = parse_primary(p, 0);
    }
    x = parse_postfix(p, x);
    return filters ? parse_filters_and_tests(p, x) : x;
}

/* pow leans to the left in Jinja, unlike Python */
static struct node *parse_pow(struct parser *p)
{
    int line = p->t->line;
    struct node *x = parse_unary(p, true);
    while (!p->failed && jinja_parse_skip_op(p, JINJA_OP2('*', '*')))
        x = parse_binary(p, NODE_BINARY, OP_POW, line, x, parse_unary(p, true));
    return x;
}

static enum node_op parse_product_op(const struct parser *p)
{
    if (p->t->type != TOKEN_OP) return OP_NONE;
    switch (p->t->op) {
    case '*': return OP_MUL;
    case '/': return OP_DIV;
    case JINJA_OP2('/', '/'): return OP_FLOORDIV;
    case '%': return OP_MOD;
    default: return OP_NONE;
    }
}

static struct node *parse_product(struct parser *p)
{
    int line = p->t->line;
    struct node *x = parse_pow(p);
    enum node_op op;
    while (!p->failed && (op = parse_product_op(p)) != OP_NONE) {
        p->t++;
        x = parse_binary(p, NODE_BINARY, op, line, x, parse_pow(p));
    }
    return x;
}

static struct node *parse_concat(struct parser *p)
{
    struct node *x = parse_product(p), *all;
    if (p->failed || !jinja_parse_is_op(p, '~')) return x;
    all = jinja_node(p, NODE_CONCAT, p->t->line);
    jinja_node_add(p, &all->list, x);
    while (!p->failed && jinja_parse_skip_op(p, '~')) jinja_node_add(p, &all->list, parse_product(p));
    return jinja_node_done(p, all);
}

static struct node *parse_sum(struct parser *p)
{
    int line = p->t->line;
    struct node *x = parse_concat(p);
    while (!p->failed && (jinja_parse_is_op(p, '+') || jinja_parse_is_op(p, '-'))) {
        enum node_op op = p->t->op == '+' ? OP_ADD : OP_SUB;
        p->t++;
        x = parse_binary(p, NODE_BINARY, op, line, x, parse_concat(p));
    }
    return x;
}

static enum node_op parse_compare_op(struct parser *p)
{
    static const struct {
        int op;
        enum node_op as;
    } ops[] = {
        {JINJA_OP2('=', '='), OP_EQ}, {JINJA_OP2('!', '='), OP_NE}, {'<', OP_LT}, {JINJA_OP2('<', '='), OP_LE}, {'>', OP_GT},
        {JINJA_OP2('>', '='), OP_GE}};
    size_t i;
    for (i = 0; i < sizeof ops / sizeof *ops; i++)
        if (jinja_parse_skip_op(p, ops[i].op)) return ops[i].as;
    if (jinja_parse_skip_name(p, "in")) return OP_IN;
    if (!jinja_parse_is_name(p, "not") || p->t[1].type != TOKEN_NAME || !jinja_text_is(p->t[1].text, "in")) return OP_NONE;
    p->t += 2;
    return OP_NOT_IN;
}

static struct node *parse_compare(struct parser *p)
{
    struct node *first = parse_sum(p), *x = jinja_node(p, NODE_COMPARE, p->t->line);
    enum node_op op;
    while (!p->failed && (op = parse_compare_op(p)) != OP_NONE)
        jinja_node_add(p, &x->list, parse_binary(p, NODE_OPERAND, op, p->t->line, parse_sum(p), NULL));
    if (p->failed || !x->list.n) return first;
    x->a = first;
    return jinja_node_done(p, x);
}

static struct node *parse_not(struct parser *p)
{
    struct node *x;
    if (!jinja_parse_is_name(p, "not")) return parse_compare(p);
    x = jinja_node(p, NODE_NOT, p->t->line);
    p->t++;
    if (++p->depth > JINJA_MAX_DEPTH) return jinja_parse_fail(p, x->line, "nested deeper than %d levels", JINJA_MAX_DEPTH);
    x->a = parse_not(p);
    p->depth--;
    return jinja_node_done(p, x);
}

static struct node *parse_and(struct parser *p)
{
    int line = p->t->line;
    struct node *x = parse_not(p);
    while (!p->failed && jinja_parse_skip_name(p, "and")) x = parse_binary(p, NODE_AND, OP_NONE, line, x, parse_not(p));
    return x;
}

static struct node *parse_or(struct parser *p)
{
    int line = p->t->line;
    struct node *x;
    if (++p->depth > JINJA_MAX_DEPTH) return jinja_parse_fail(p, line, "nested deeper than %d levels", JINJA_MAX_DEPTH);
    x = parse_and(p);
    while (!p->failed && jinja_parse_skip_name(p, "or")) x = parse_binary(p, NODE_OR, OP_NONE, line, x, parse_and(p));
    p->depth--;
    return x;
}

struct node *jinja_parse_expr(struct parser *p)
{
    int line = p->t->line;
    struct node *x = parse_or(p);
    while (!p->failed && jinja_parse_skip_name(p, "if")) {
        struct node *cond = jinja_node(p, NODE_COND, line);
        cond->a = x;
        cond->b = parse_or(p);
        if (jinja_parse_skip_name(p, "else")) {
            if (++p->depth > JINJA_MAX_DEPTH) return jinja_parse_fail(p, line, "nested deeper than %d levels", JINJA_MAX_DEPTH);
            cond->c = jinja_parse_expr(p);
            p->depth--;
        }
        x = jinja_node_done(p, cond);
    }
    return x;
}
