/* jinja_test.c: what may follow `is`. */
#include "jinja.h"

static struct val test_defined(struct jinja *j, struct args *a)
{
    (void)j;
    return jinja_bool((a->self.type == VAL_UNDEFINED) == (a->name[0] == 'u'));
}

static struct val test_none(struct jinja *j, struct args *a)
{
    (void)j;
    return jinja_bool(a->self.type == VAL_NONE);
}

static struct val test_boolean(struct jinja *j, struct args *a)
{
    (void)j;
    if (a->self.type != VAL_BOOL) return jinja_bool(false);
    return jinja_bool(a->name[0] == 'b' || (a->name[0] == 't') == (a->self.i != 0));
}

static struct val test_integer(struct jinja *j, struct args *a)
{
    (void)j;
    return jinja_bool(a->self.type == VAL_INT);
}

static struct val test_float(struct jinja *j, struct args *a)
{
    (void)j;
    return jinja_bool(a->self.type == VAL_FLOAT);
}

static struct val test_number(struct jinja *j, struct args *a)
{
    (void)j;
    return jinja_bool(jinja_is_number(a->self));
}

static struct val test_string(struct jinja *j, struct args *a)
{
    (void)j;
    return jinja_bool(jinja_is_str(a->self));
}

static struct val test_mapping(struct jinja *j, struct args *a)
{
    (void)j;
    return jinja_bool(a->self.type == VAL_DICT);
}

static struct val test_sequence(struct jinja *j, struct args *a)
{
    (void)j;
    return jinja_bool(jinja_sized(a->self) && a->self.type != VAL_VIEW && a->self.type != VAL_LOOP);
}

static struct val test_iterable(struct jinja *j, struct args *a)
{
    (void)j;
    return jinja_bool(jinja_iterable(a->self));
}

static struct val test_callable(struct jinja *j, struct args *a)
{
    (void)j;
    switch (a->self.type) {
    case VAL_UNDEFINED:
    case VAL_LOOP:
    case VAL_MACRO:
    case VAL_FUNC:
    case VAL_METHOD: return jinja_bool(true);
    case VAL_OBJECT: return jinja_bool(a->self.object->joiner);
    default: return jinja_bool(false);
    }
}

static struct val test_escaped(struct jinja *j, struct args *a)
{
    (void)j;
    return jinja_bool(a->self.type == VAL_MARKUP);
}

static struct val test_case(struct jinja *j, struct args *a)
{
    return jinja_bool(jinja_class(j, jinja_to_str(j, a->self).s, a->name[0] == 'l' ? CLASS_LOWER : CLASS_UPPER));
}

/* value % by == want */
static struct val test_remainder(struct jinja *j, struct val value, struct val by, int64_t want)
{
    if (jinja_is_str(value)) return jinja_unsupported(j, "a test of numbers on a text");
    return jinja_bool(jinja_eq(j, jinja_binary(j, OP_MOD, value, by), jinja_int(want)));
}

static struct val test_even(struct jinja *j, struct args *a)
{
    return test_remainder(j, a->self, jinja_int(2), a->name[0] == 'o');
}

static struct val test_divisibleby(struct jinja *j, struct args *a)
{
    return test_remainder(j, a->self, a->v[0], 0);
}

static struct val test_filter(struct jinja *j, struct args *a)
{
    if (!jinja_hashable(a->self)) return jinja_fail(j, "a %s is no name", jinja_type(a->self));
    if (!jinja_is_str(a->self)) return jinja_bool(false);
    return jinja_bool((a->name[0] == 'f' ? jinja_filter(a->self.s) : jinja_test(a->self.s)) != NULL);
}

/* The same object: certain for True, False and None, and for a list or dict. */
static struct val test_sameas(struct jinja *j, struct args *a)
{
    struct val b = a->v[0];
    switch (a->self.type) {
    case VAL_NONE: return jinja_bool(b.type == VAL_NONE);
    case VAL_BOOL: return jinja_bool(b.type == VAL_BOOL && a->self.i == b.i);
    case VAL_LIST:
    case VAL_DICT:
    case VAL_NAMESPACE: return jinja_bool(b.type == a->self.type && b.l == a->self.l);
    default: break;
    }
    if (b.type != a->self.type) return jinja_bool(false);
    return jinja_unsupported(j, "sameas for a %s", jinja_type(a->self));
}

static struct val test_in(struct jinja *j, struct args *a)
{
    return jinja_bool(jinja_in(j, a->self, a->v[0]));
}

static struct val test_compare(struct jinja *j, struct args *a)
{
    static const struct {
        const char *name;
        enum node_op op;
    } ops[] = {{"==", OP_EQ}, {"eq", OP_EQ}, {"equalto", OP_EQ},     {"!=", OP_NE}, {"ne", OP_NE},
               {">", OP_GT},  {"gt", OP_GT}, {"greaterthan", OP_GT}, {"ge", OP_GE}, {">=", OP_GE},
               {"<", OP_LT},  {"lt", OP_LT}, {"lessthan", OP_LT},    {"<=", OP_LE}, {"le", OP_LE}};
    size_t i = 0;
    while (strcmp(ops[i].name, a->name) != 0) i++;
    return jinja_bool(jinja_compare(j, ops[i].op, a->self, a->v[0]));
}

static const struct builtin tests[] = {
    {"defined", test_defined, ""},
    {"undefined", test_defined, ""},
    {"none", test_none, ""},
    {"boolean", test_boolean, ""},
    {"true", test_boolean, ""},
    {"false", test_boolean, ""},
    {"integer", test_integer, ""},
    {"float", test_float, ""},
    {"number", test_number, ""},
    {"string", test_string, ""},
    {"mapping", test_mapping, ""},
    {"sequence", test_sequence, ""},
    {"iterable", test_iterable, ""},
    {"callable", test_callable, ""},
    {"escaped", test_escaped, ""},
    {"lower", test_case, ""},
    {"upper", test_case, ""},
    {"even", test_even, ""},
    {"odd", test_even, ""},
    {"divisibleby", test_divisibleby, "num"},
    {"filter", test_filter, ""},
    {"test", test_filter, ""},
    {"sameas", test_sameas, "other"},
    {"in", test_in, "seq"},
    {"==", test_compare, "/other"},
    {"eq", test_compare, "/other"},
    {"equalto", test_compare, "/other"},
    {"!=", test_compare, "/other"},
    {"ne", test_compare, "/other"},
    {">", test_compare, "/other"},
    {"gt", test_compare, "/other"},
    {"greaterthan", test_compare, "/other"},
    {"ge", test_compare, "/other"},
    {">=", test_compare, "/other"},
    {"<", test_compare, "/other"},
    {"lt", test_compare, "/other"},
    {"lessthan", test_compare, "/other"},
    {"<=", test_compare, "/other"},
    {"le", test_compare, "/other"},
    {NULL, NULL, NULL},
};

const struct builtin *jinja_test(const struct text *name)
{
    return jinja_find_builtin(tests, name);
}
