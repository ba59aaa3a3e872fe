/* jinja.h: shared by the files of the interpreter behind chat.h; nothing else includes it.
 *
 * jinja_lex -> jinja_parse (expressions, with jinja_stmt for tags) -> jinja_check give a tree of struct node in the
 * template's arena, read-only from then on. jinja_exec and jinja_eval walk it once per render; everything a render
 * makes lives in the render's own arena.
 *
 * Errors inside a render are sticky: jinja_fail records the first one in struct jinja and returns an undefined value;
 * every loop looks at `failed`, every function may be called after it and then does little. That keeps hundreds of
 * small builtins free of plumbing. The boundary (chat.c) turns it into the usual err and -1.
 *
 * The language is Jinja2 3.1 as transformers sets it up; values behave as Python's.
 */
#ifndef ENGINE_JINJA_H
#define ENGINE_JINJA_H

#include "chat.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum {
    JINJA_MAX_SOURCE = 1 << 20,   /* bytes of a template */
    JINJA_MAX_DEPTH = 200,        /* nesting in the source; also of a value that is printed or compared */
    JINJA_MAX_TREE = 400,         /* nesting of the tree: a + b + c + ... leans to the left */
    JINJA_MAX_CALLS = 1200,       /* nesting of evaluation, macros included */
    JINJA_MAX_STEPS = 10000000,   /* nodes evaluated, items looped over, 64-byte blocks of text touched */
    JINJA_MAX_TEXT = 16 << 20,    /* bytes of one text, the output included */
    JINJA_MAX_MEMORY = 256 << 20, /* bytes of the render's arena */
    JINJA_MAX_RANGE = 100000,     /* the sandbox's own limit */
};

struct jinja;
struct args;
struct node;
struct scope;
struct builtin;

/* ---- values ---- */

/* Text, UTF-8 as a rule; a byte that is not counts as one character. */
struct text {
    const char *p;
    size_t n; /* bytes */
    bool ascii;
};

enum val_type {
    VAL_MISSING, /* not a value: an argument not given, a name not set yet */
    VAL_UNDEFINED,
    VAL_NONE,
    VAL_BOOL,
    VAL_INT,
    VAL_FLOAT,
    VAL_STR,
    VAL_MARKUP, /* a text that went through `safe` or `escape` */
    VAL_LIST,
    VAL_TUPLE,
    VAL_DICT,
    VAL_VIEW, /* keys(), values(), items() */
    VAL_RANGE,
    VAL_ITER,
    VAL_NAMESPACE,
    VAL_LOOP,
    VAL_MACRO,
    VAL_FUNC,
    VAL_METHOD,
    VAL_OBJECT, /* joiner(), cycler() */
};

struct val {
    enum val_type type;
    union {
        int64_t i; /* bool: 0 or 1 */
        double f;
        const struct text *s;
        const struct absent *absent; /* may be NULL */
        struct list *l;              /* list, tuple */
        struct dict *d;              /* dict, namespace */
        struct view *view;
        const struct range *range;
        struct iter *it;
        struct loop *loop;
        const struct macro *macro;
        const struct builtin *fn;
        const struct method *method;
        struct object *object;
    };
};

/* Why a value is undefined. */
struct absent {
    const struct text *name; /* of the variable or attribute */
    const char *of;          /* the object's type as Jinja names it, "" for a variable */
    const char *hint;        /* the whole message, or NULL */
};

struct list {
    struct val *p;
    size_t n, cap;
};

struct pair {
    struct val k, v;
};
struct dict { /* in order of insertion */
    struct pair *p;
    size_t n, cap;
};

enum view_kind { VIEW_KEYS, VIEW_VALUES, VIEW_ITEMS };
struct view {
    enum view_kind kind;
    const struct dict *d;
};

struct range {
    int64_t start, stop, step, n;
};

struct iter {
    bool (*next)(struct jinja *j, struct iter *it, struct val *out); /* false: no more, or failed */
    struct val of;                                                   /* what is iterated over */
    size_t i;
    struct iter *src; /* filters: what they draw from */
    struct args *args;
    const struct node *node; /* loops with a condition */
    struct scope *scope;
};

struct loop {
    struct iter *it;
    struct val iterable, current, before, after; /* after: looked ahead, else missing */
    struct val changed;                          /* last arguments of loop.changed */
    int64_t index0, length;                      /* length -1: not known yet */
};

struct macro {
    const struct node *node;
    struct scope *scope; /* where it was defined */
};

struct method {
    struct val self;
    const struct builtin *fn;
};

struct object {
    bool joiner; /* else cycler */
    struct val sep;
    struct list *items;
    size_t pos; /* joiner: 1 once used */
};

/* ---- functions, filters, tests, methods ---- */

struct args {
    struct val self;  /* the filtered or tested value, the object of a method */
    struct val v[8];  /* bound to the builtin's parameters; VAL_MISSING: not given */
    struct list *pos; /* as given */
    struct dict *kw;  /* as given */
    const char *name; /* of the builtin, for messages */
};

struct builtin {
    const char *name;
    struct val (*fn)(struct jinja *j, struct args *a); /* NULL: known to Jinja, not supported here */
    const char *params;                                /* "old new count?"; a leading '/': no keywords; "*": anything */
};

/* ---- tree ---- */

struct names {
    const struct text **p;
    int n;
};
struct nodes {
    struct node **p;
    int n, cap;
};

enum node_kind {
    /* expressions */
    NODE_CONST,   /* value */
    NODE_NAME,    /* name */
    NODE_NSREF,   /* name.text, as a target only */
    NODE_TUPLE,   /* list */
    NODE_LIST,    /* list */
    NODE_DICT,    /* list: key, value, key, value */
    NODE_NEG,     /* a */
    NODE_POS,     /* a */
    NODE_NOT,     /* a */
    NODE_BINARY,  /* a op b */
    NODE_AND,     /* a, b */
    NODE_OR,      /* a, b */
    NODE_CONCAT,  /* list */
    NODE_COMPARE, /* a, list of NODE_OPERAND */
    NODE_OPERAND, /* op a */
    NODE_COND,    /* a if b else c; c may be NULL */
    NODE_ATTR,    /* a.name */
    NODE_ITEM,    /* a[b] */
    NODE_SLICE,   /* a[b:c:d] */
    NODE_CALL,    /* a(list, more, *b, **c) */
    NODE_FILTER,  /* a | name(list, more, *b, **c); a NULL: the text of the enclosing block */
    NODE_TEST,    /* a is name(list, more, *b, **c) */
    NODE_KEYWORD, /* name = a */
    /* statements */
    NODE_DATA,         /* value */
    NODE_PRINT,        /* a */
    NODE_FOR,          /* for a in b if c: list, else more */
    NODE_IF,           /* list of NODE_BRANCH */
    NODE_BRANCH,       /* a (NULL: else), list */
    NODE_SET,          /* a = b */
    NODE_SET_BLOCK,    /* a = list, through the filters b */
    NODE_FILTER_BLOCK, /* list through the filters b */
    NODE_MACRO,        /* name, more: NODE_KEYWORD parameters (a: default or NULL), list: body */
    NODE_CALL_BLOCK,   /* the same as a macro, called by b; b NULL: generation */
    NODE_WITH,         /* more: NODE_SET, list */
    NODE_BREAK,
    NODE_CONTINUE,
};

enum node_op {
    OP_NONE,
    OP_ADD,
    OP_SUB,
    OP_MUL,
    OP_DIV,
    OP_FLOORDIV,
    OP_MOD,
    OP_POW,
    OP_EQ,
    OP_NE,
    OP_LT,
    OP_LE,
    OP_GT,
    OP_GE,
    OP_IN,
    OP_NOT_IN,
};

/* Names with a meaning of their own that the body of a macro mentions. */
enum node_uses { USES_CALLER = 1, USES_KWARGS = 2, USES_VARARGS = 4 };

struct node {
    enum node_kind kind;
    enum node_op op;
    int line, depth;
    unsigned uses;
    const struct text *name, *text;
    struct val value;
    const struct builtin *fn; /* filter, test; NULL: no such name */
    struct node *a, *b, *c, *d;
    struct nodes list, more;
    struct names hidden, hidden_else; /* names a scope of this node sets before it reads them: see jinja_check.c */
};

/* A compiled template. */
struct chat {
    arena *mem;
    struct nodes body;
    struct names hidden;
};

/* ---- tokens ---- */

enum token_type {
    TOKEN_EOF,
    TOKEN_DATA,
    TOKEN_PRINT_BEGIN,
    TOKEN_PRINT_END,
    TOKEN_BLOCK_BEGIN,
    TOKEN_BLOCK_END,
    TOKEN_NAME,
    TOKEN_STRING,
    TOKEN_NUMBER,
    TOKEN_OP,
};
struct lexeme {
    enum token_type type;
    int line;
    int op;                  /* TOKEN_OP: the character, or JINJA_OP2 of both */
    const struct text *text; /* names are interned: equal names, equal pointers */
    struct val value;
};
#define JINJA_OP2(a, b) ((a) | (b) << 8)

struct lexemes {
    struct lexeme *p;
    int n, cap;
};
/* Splits the source; the last token is TOKEN_EOF. Texts and names live in mem. */
int jinja_lex(arena *mem, const char *source, size_t n, struct lexemes *out, err *e);

/* ---- parser ---- */

struct parser {
    arena *mem;
    const struct lexeme *t; /* the current token */
    int depth;
    unsigned uses;
    bool failed;
    err *e;
};
struct node *jinja_node(struct parser *p, enum node_kind kind, int line);
void jinja_node_add(struct parser *p, struct nodes *l, struct node *x);
struct node *jinja_node_done(struct parser *p, struct node *x); /* knows its depth; call when the children are there */
void *jinja_parse_fail(struct parser *p, int line, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
bool jinja_parse_is_op(const struct parser *p, int op);
bool jinja_parse_is_name(const struct parser *p, const char *name);
bool jinja_parse_skip_op(struct parser *p, int op);
bool jinja_parse_skip_name(struct parser *p, const char *name);
void jinja_parse_expect_op(struct parser *p, int op);
const struct text *jinja_parse_expect_name(struct parser *p);
enum tuple_flags { TUPLE_NO_COND = 1, TUPLE_TARGET = 2, TUPLE_NAMESPACE = 4, TUPLE_PARENS = 8 };
struct node *jinja_parse_tuple(struct parser *p, unsigned flags);
struct node *jinja_parse_expr(struct parser *p);
struct node *jinja_parse_filters(struct parser *p, struct node *of, bool inline_name);
int jinja_parse_template(struct parser *p, struct nodes *body); /* jinja_stmt.c */
int jinja_check(struct chat *c, err *e);

/* ---- a render ---- */

struct binding {
    const struct text *name;
    struct val v;
    struct binding *next;
};
struct scope {
    struct scope *parent;
    struct binding *vars;
    bool captured; /* a macro or iterator may outlive it */
};

struct jinja {
    const struct chat_env *env;
    arena *mem;
    size_t used;
    int64_t steps;
    int depth, line;
    bool failed;
    struct buf *out;
    struct scope *scope;
    struct scope *free_scopes;
    struct binding *free_bindings;
    struct val messages;
    struct val captured; /* what a filter block filters */
    err *e;
};

/* jinja_val.c */
struct val jinja_fail(struct jinja *j, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
struct val jinja_unsupported(struct jinja *j, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool jinja_charge(struct jinja *j, size_t bytes);          /* one step and the bytes' share; false: failed */
void *jinja_alloc(struct jinja *j, size_t n);              /* a small object, never NULL */
void *jinja_array(struct jinja *j, size_t n, size_t size); /* a size the template decides; NULL: too much, failed */
struct val jinja_int(int64_t i);
struct val jinja_bool(bool b);
struct val jinja_float(double f);
struct val jinja_none(void);
struct val jinja_missing(void);
struct val jinja_undefined(struct jinja *j, const struct text *name, const char *of);
struct val jinja_undefined_hint(struct jinja *j, const char *hint);
struct val jinja_str(struct jinja *j, const char *p, size_t n);                        /* copies */
struct val jinja_cstr(struct jinja *j, const char *s);                                 /* does not copy */
struct val jinja_sub(struct jinja *j, const struct text *t, size_t start, size_t end); /* bytes; shares */
void jinja_put(struct jinja *j, struct buf *b, const void *p, size_t n);               /* checked against JINJA_MAX_TEXT */
struct val jinja_take(struct jinja *j, struct buf *b);                                 /* copies, frees b */
struct val jinja_list(struct jinja *j, enum val_type type);                            /* VAL_LIST or VAL_TUPLE, empty */
void jinja_push(struct jinja *j, struct list *l, struct val v);
struct val jinja_pair(struct jinja *j, struct val a, struct val b);
struct val jinja_dict(struct jinja *j);
struct val *jinja_dict_get(struct jinja *j, const struct dict *d, struct val k); /* NULL: none */
void jinja_dict_set(struct jinja *j, struct dict *d, struct val k, struct val v);
bool jinja_hashable(struct val v);
bool jinja_is_str(struct val v);    /* str or markup */
bool jinja_is_number(struct val v); /* bool, int, float */
bool jinja_is_int(struct val v);    /* bool, int */
bool jinja_text_is(const struct text *t, const char *s);
bool jinja_true(struct jinja *j, struct val v);
bool jinja_eq(struct jinja *j, struct val a, struct val b);
int jinja_cmp(struct jinja *j, struct val a, struct val b, const char *op); /* -1, 0, 1, 2: unordered; may fail */
bool jinja_in(struct jinja *j, struct val x, struct val in);
int64_t jinja_len(struct jinja *j, struct val v); /* -1: failed */
bool jinja_sized(struct val v);
const char *jinja_type(struct val v); /* Python's name of the type */
const char *jinja_why_undefined(struct jinja *j, struct val v);

/* jinja_iter.c */
struct iter *jinja_iter(struct jinja *j, struct val v); /* NULL: failed */
bool jinja_iterable(struct val v);
bool jinja_next(struct jinja *j, struct iter *it, struct val *out);
struct val jinja_to_list(struct jinja *j, struct val v, enum val_type type);
struct val jinja_iter_val(struct jinja *j, struct val list); /* an iterator that is only that */
struct iter *jinja_iter_new(struct jinja *j, bool (*next)(struct jinja *, struct iter *, struct val *));
struct val jinja_dict_view(struct jinja *j, const struct dict *d, enum view_kind kind);

/* jinja_text.c: characters */
size_t jinja_char(const char *p, size_t n, int32_t *c);  /* bytes of the character at p (n > 0); *c -1: not UTF-8 */
size_t jinja_chars(const struct text *t);                /* how many */
size_t jinja_offset(const struct text *t, size_t chars); /* byte where that character starts, at most n */
bool jinja_is_space(int32_t c);                          /* str.isspace of one character */
size_t jinja_space(const char *p, size_t n);             /* bytes of white space at p */
size_t jinja_put_char(char out[4], int32_t c);
bool jinja_printable(int32_t c);
enum case_kind { CASE_UPPER, CASE_LOWER, CASE_TITLE, CASE_CAPITALIZE, CASE_SWAP };
struct val jinja_case(struct jinja *j, const struct text *t, enum case_kind kind);
enum class_kind {
    CLASS_ALPHA,
    CLASS_DIGIT,
    CLASS_DECIMAL,
    CLASS_NUMERIC,
    CLASS_ALNUM,
    CLASS_SPACE,
    CLASS_LOWER,
    CLASS_UPPER,
    CLASS_TITLE,
    CLASS_ASCII,
    CLASS_PRINTABLE,
    CLASS_IDENTIFIER,
};
bool jinja_class(struct jinja *j, const struct text *t, enum class_kind kind);
bool jinja_word(int32_t c); /* \w */
/* Bytes to strip at both ends; chars NULL: white space. */
struct val jinja_strip(struct jinja *j, const struct text *t, const struct text *chars, bool left, bool right);
struct val jinja_splitlines(struct jinja *j, const struct text *t, bool keep);
struct val jinja_replace(struct jinja *j, const struct text *t, const struct text *old, const struct text *with, int64_t max);
const char *jinja_find(const char *p, size_t n, const struct text *what); /* NULL: none */

/* jinja_repr.c */
struct val jinja_to_str(struct jinja *j, struct val v); /* str(); a text as it is */
void jinja_put_str(struct jinja *j, struct buf *b, struct val v);
void jinja_put_repr(struct jinja *j, struct buf *b, struct val v);
struct val jinja_json(struct jinja *j, struct args *a);

/* jinja_op.c */
struct val jinja_binary(struct jinja *j, enum node_op op, struct val a, struct val b);
bool jinja_compare(struct jinja *j, enum node_op op, struct val a, struct val b);
struct val jinja_negate(struct jinja *j, struct val a, bool minus);
struct val jinja_slice(struct jinja *j, struct val of, struct val start, struct val stop, struct val step);
struct val jinja_escape(struct jinja *j, struct val v); /* markupsafe's */

/* jinja_attr.c */
struct val jinja_attr(struct jinja *j, struct val of, const struct text *name); /* x.name */
struct val jinja_item(struct jinja *j, struct val of, struct val key);          /* x[key] */
const struct builtin *jinja_find_builtin(const struct builtin *table, const struct text *name);
extern const struct builtin jinja_str_methods[];

/* jinja_call.c */
struct val jinja_call_builtin(struct jinja *j, const struct builtin *fn, struct args *a, const char *kind);
struct val jinja_call(struct jinja *j, struct val fn, struct list *pos, struct dict *kw);
struct val jinja_global(struct jinja *j, const struct text *name); /* variables passed in, functions; missing: none */
bool jinja_is_given(const struct text *name);                      /* whether jinja_global knows it */
bool jinja_arg_int(struct jinja *j, const struct args *a, int i, int64_t *out);
const struct text *jinja_arg_text(struct jinja *j, const struct args *a, int i); /* NULL: failed */

/* jinja_format.c */
struct val jinja_format_percent(struct jinja *j, const struct text *fmt, struct val args);
struct val jinja_format_braces(struct jinja *j, struct args *a);
struct val jinja_strftime(struct jinja *j, struct args *a);

/* jinja_filter.c, jinja_seq.c, jinja_test.c */
const struct builtin *jinja_filter(const struct text *name); /* NULL: none */
const struct builtin *jinja_test(const struct text *name);
extern const struct builtin jinja_seq_filters[];

/* jinja_eval.c */
struct val jinja_eval(struct jinja *j, const struct node *x);
void jinja_eval_args(struct jinja *j, const struct node *x, struct list **pos, struct dict **kw);

/* jinja_exec.c */
void jinja_run(struct jinja *j, const struct chat *c); /* the whole template */
struct val jinja_lookup(struct jinja *j, const struct text *name);
struct val jinja_call_macro(struct jinja *j, const struct macro *m, struct list *pos, struct dict *kw);
struct val jinja_loop_attr(struct jinja *j, struct loop *l, const struct text *name); /* missing: none */

#endif
