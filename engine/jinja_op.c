/* jinja_op.c: operators and slices. Integers have 64 bits here: what would not fit is refused. */
#include "jinja.h"

#include <math.h>

static struct val op_overflow(struct jinja *j)
{
    return jinja_unsupported(j, "an integer of more than 64 bits");
}

static double op_double(struct val v)
{
    return v.type == VAL_FLOAT ? v.f : (double)v.i;
}

/* ---- numbers ---- */

static struct val op_int_pow(struct jinja *j, int64_t base, int64_t exponent)
{
    int64_t r = 1;
    if (exponent < 0) return base ? jinja_float(pow((double)base, (double)exponent)) : jinja_fail(j, "division by zero");
    if (base == 0 || base == 1) return jinja_int(exponent ? base : 1);
    if (base == -1) return jinja_int(exponent % 2 ? -1 : 1);
    for (; exponent; exponent--)
        if (__builtin_mul_overflow(r, base, &r)) return op_overflow(j);
    return jinja_int(r);
}

/* Rounds down; the remainder has the divisor's sign. */
static struct val op_int_divide(struct jinja *j, enum node_op op, int64_t a, int64_t b)
{
    int64_t q, r;
    if (b == 0) return jinja_fail(j, "division by zero");
    if (b == -1) {
        if (op == OP_MOD) return jinja_int(0);
        return a == INT64_MIN ? op_overflow(j) : jinja_int(-a);
    }
    q = a / b;
    r = a % b;
    if (r && (r < 0) != (b < 0)) {
        q--;
        r += b;
    }
    return jinja_int(op == OP_MOD ? r : q);
}

static struct val op_int(struct jinja *j, enum node_op op, int64_t a, int64_t b)
{
    const int64_t exact = (int64_t)1 << 53;
    int64_t r;
    switch (op) {
    case OP_ADD: return __builtin_add_overflow(a, b, &r) ? op_overflow(j) : jinja_int(r);
    case OP_SUB: return __builtin_sub_overflow(a, b, &r) ? op_overflow(j) : jinja_int(r);
    case OP_MUL: return __builtin_mul_overflow(a, b, &r) ? op_overflow(j) : jinja_int(r);
    case OP_POW: return op_int_pow(j, a, b);
    case OP_DIV:
        if (b == 0) return jinja_fail(j, "division by zero");
        if (a > exact || a < -exact || b > exact || b < -exact) return jinja_unsupported(j, "dividing integers above 2**53");
        return jinja_float((double)a / (double)b);
    default: return op_int_divide(j, op, a, b);
    }
}

static struct val op_float_divide(struct jinja *j, enum node_op op, double a, double b)
{
    double mod, div, whole;
    if (b == 0) return jinja_fail(j, "division by zero");
    if (op == OP_DIV) return jinja_float(a / b);
    mod = fmod(a, b);
    div = (a - mod) / b;
    if (mod != 0) {
        if ((b < 0) != (mod < 0)) {
            mod += b;
            div -= 1;
        }
    } else {
        mod = copysign(0, b);
    }
    if (op == OP_MOD) return jinja_float(mod);
    if (div == 0) return jinja_float(copysign(0, a / b));
    whole = floor(div);
    return jinja_float(div - whole > 0.5 ? whole + 1 : whole);
}

static struct val op_float(struct jinja *j, enum node_op op, double a, double b)
{
    double r;
    switch (op) {
    case OP_ADD: return jinja_float(a + b);
    case OP_SUB: return jinja_float(a - b);
    case OP_MUL: return jinja_float(a * b);
    case OP_POW:
        if (a == 0 && b < 0) return jinja_fail(j, "division by zero");
        if (a < 0 && isfinite(a) && isfinite(b) && floor(b) != b) return jinja_unsupported(j, "a complex number");
        r = pow(a, b);
        return isinf(r) && isfinite(a) && isfinite(b) ? jinja_fail(j, "a number too large") : jinja_float(r);
    default: return op_float_divide(j, op, a, b);
    }
}

static struct val op_numbers(struct jinja *j, enum node_op op, struct val a, struct val b)
{
    if (a.type == VAL_FLOAT || b.type == VAL_FLOAT) return op_float(j, op, op_double(a), op_double(b));
    return op_int(j, op, a.i, b.i);
}

struct val jinja_negate(struct jinja *j, struct val a, bool minus)
{
    if (a.type == VAL_UNDEFINED) return jinja_fail(j, "%s", jinja_why_undefined(j, a));
    if (a.type == VAL_FLOAT) return jinja_float(minus ? -a.f : a.f);
    if (!jinja_is_int(a)) return jinja_fail(j, "a %s has no sign", jinja_type(a));
    if (minus && a.i == INT64_MIN) return op_overflow(j);
    return jinja_int(minus ? -a.i : a.i);
}

/* ---- texts and lists ---- */

struct val jinja_escape(struct jinja *j, struct val v)
{
    struct buf b = {0};
    struct val s = jinja_to_str(j, v);
    size_t i, start = 0;
    if (v.type == VAL_MARKUP) return v;
    for (i = 0; i < s.s->n && !j->failed; i++) {
        char c = s.s->p[i];
        const char *as = c == '&'    ? "&amp;"
                         : c == '<'  ? "&lt;"
                         : c == '>'  ? "&gt;"
                         : c == '"'  ? "&#34;"
                         : c == '\'' ? "&#39;"
                                     : NULL;
        if (!as) continue;
        jinja_put(j, &b, s.s->p + start, i - start);
        jinja_put(j, &b, as, strlen(as));
        start = i + 1;
    }
    jinja_put(j, &b, s.s->p + start, s.s->n - start);
    s = jinja_take(j, &b);
    s.type = VAL_MARKUP;
    return s;
}

static struct val op_add_texts(struct jinja *j, struct val a, struct val b)
{
    bool markup = a.type == VAL_MARKUP || b.type == VAL_MARKUP;
    struct buf out = {0};
    struct val r;
    if (markup) {
        a = jinja_escape(j, a);
        b = jinja_escape(j, b);
    }
    if (j->failed) return a;
    jinja_put(j, &out, a.s->p, a.s->n);
    jinja_put(j, &out, b.s->p, b.s->n);
    r = jinja_take(j, &out);
    if (markup) r.type = VAL_MARKUP;
    return r;
}

static struct val op_add_lists(struct jinja *j, struct val a, struct val b)
{
    struct val r = jinja_list(j, a.type);
    size_t i;
    for (i = 0; i < a.l->n && jinja_charge(j, 0); i++) jinja_push(j, r.l, a.l->p[i]);
    for (i = 0; i < b.l->n && jinja_charge(j, 0); i++) jinja_push(j, r.l, b.l->p[i]);
    return r;
}

static struct val op_repeat(struct jinja *j, struct val v, int64_t n)
{
    struct buf b = {0};
    struct val r;
    size_t i;
    if (v.type == VAL_STR) {
        if (v.s->n == 0) n = 0;
        for (; n > 0 && jinja_charge(j, v.s->n); n--) jinja_put(j, &b, v.s->p, v.s->n);
        return jinja_take(j, &b);
    }
    r = jinja_list(j, v.type);
    if (v.l->n == 0) n = 0;
    for (; n > 0 && !j->failed; n--)
        for (i = 0; i < v.l->n && jinja_charge(j, 0); i++) jinja_push(j, r.l, v.l->p[i]);
    return r;
}

static bool op_repeats(struct val v)
{
    return v.type == VAL_STR || v.type == VAL_LIST || v.type == VAL_TUPLE;
}

struct val jinja_binary(struct jinja *j, enum node_op op, struct val a, struct val b)
{
    static const char *const names[] = {"", "+", "-", "*", "/", "//", "%", "**"};
    if (j->failed) return a;
    if (jinja_is_number(a) && jinja_is_number(b)) return op_numbers(j, op, a, b);
    if (op == OP_MOD && a.type == VAL_STR) return jinja_format_percent(j, a.s, b);
    if (op == OP_ADD && jinja_is_str(a) && jinja_is_str(b)) return op_add_texts(j, a, b);
    if (a.type == VAL_UNDEFINED) return jinja_fail(j, "%s", jinja_why_undefined(j, a));
    if (b.type == VAL_UNDEFINED) return jinja_fail(j, "%s", jinja_why_undefined(j, b));
    if (a.type == VAL_MARKUP || b.type == VAL_MARKUP) return jinja_unsupported(j, "'%s' with a text marked safe", names[op]);
    if (op == OP_ADD && a.type == b.type && (a.type == VAL_LIST || a.type == VAL_TUPLE)) return op_add_lists(j, a, b);
    if (op == OP_MUL && op_repeats(a) && jinja_is_int(b)) return op_repeat(j, a, b.i);
    if (op == OP_MUL && op_repeats(b) && jinja_is_int(a)) return op_repeat(j, b, a.i);
    if (a.type == VAL_VIEW || b.type == VAL_VIEW) return jinja_unsupported(j, "'%s' with a dict view", names[op]);
    return jinja_fail(j, "'%s' cannot be used between a %s and a %s", names[op], jinja_type(a), jinja_type(b));
}

bool jinja_compare(struct jinja *j, enum node_op op, struct val a, struct val b)
{
    int c;
    if (j->failed) return false;
    switch (op) {
    case OP_EQ: return jinja_eq(j, a, b);
    case OP_NE: return !jinja_eq(j, a, b);
    case OP_IN: return jinja_in(j, a, b);
    case OP_NOT_IN: return !jinja_in(j, a, b);
    case OP_LT: return jinja_cmp(j, a, b, "<") == -1;
    case OP_LE: return (c = jinja_cmp(j, a, b, "<=")) == -1 || c == 0;
    case OP_GT: return jinja_cmp(j, a, b, ">") == 1;
    default: return (c = jinja_cmp(j, a, b, ">=")) == 1 || c == 0;
    }
}

/* ---- slices ---- */

struct span {
    int64_t start, end, step, n;
};

static bool op_bound(struct jinja *j, struct val v, int64_t len, int64_t absent, int64_t low, int64_t high, int64_t *out)
{
    *out = absent;
    if (v.type == VAL_NONE || v.type == VAL_MISSING) return true;
    if (!jinja_is_int(v)) {
        jinja_fail(j, "a slice needs integers, not a %s", jinja_type(v));
        return false;
    }
    *out = v.i < 0 ? v.i + len : v.i;
    if (*out < low) *out = low;
    if (*out > high) *out = high;
    return true;
}

static bool op_span(struct jinja *j, int64_t len, struct val start, struct val stop, struct val step, struct span *s)
{
    int64_t low, high;
    s->step = 1;
    if (step.type != VAL_NONE && step.type != VAL_MISSING) {
        if (!jinja_is_int(step)) return jinja_fail(j, "a slice needs integers, not a %s", jinja_type(step)), false;
        if (step.i == 0) return jinja_fail(j, "a slice with step 0"), false;
        s->step = step.i < -INT64_MAX ? -INT64_MAX : step.i;
    }
    low = s->step > 0 ? 0 : -1;
    high = s->step > 0 ? len : len - 1;
    if (!op_bound(j, start, len, s->step > 0 ? low : high, low, high, &s->start)) return false;
    if (!op_bound(j, stop, len, s->step > 0 ? high : low, low, high, &s->end)) return false;
    if (s->step > 0)
        s->n = s->start < s->end ? (s->end - s->start - 1) / s->step + 1 : 0;
    else
        s->n = s->start > s->end ? (s->start - s->end - 1) / -s->step + 1 : 0;
    return true;
}

static struct val op_slice_text(struct jinja *j, const struct text *t, const struct span *s)
{
    struct val chars, r;
    struct buf b = {0};
    int64_t i;
    if (s->step == 1 || s->n == 0) {
        size_t from = jinja_offset(t, (size_t)s->start);
        const struct text rest = {t->p + from, t->n - from, t->ascii};
        jinja_charge(j, t->ascii ? 0 : t->n);
        return s->n ? jinja_sub(j, t, from, from + jinja_offset(&rest, (size_t)s->n)) : jinja_cstr(j, "");
    }
    chars = jinja_to_list(j, (struct val){.type = VAL_STR, .s = t}, VAL_LIST);
    for (i = 0; i < s->n && !j->failed; i++) {
        r = chars.l->p[s->start + i * s->step];
        jinja_put(j, &b, r.s->p, r.s->n);
    }
    return jinja_take(j, &b);
}

static struct val op_slice_range(struct jinja *j, const struct range *r, const struct span *s)
{
    struct range *out = jinja_alloc(j, sizeof *out);
    if (__builtin_mul_overflow(r->step, s->step, &out->step)) return op_overflow(j);
    out->n = s->n;
    if (__builtin_mul_overflow(s->start, r->step, &out->start) || __builtin_add_overflow(out->start, r->start, &out->start) ||
        __builtin_mul_overflow(s->end, r->step, &out->stop) || __builtin_add_overflow(out->stop, r->start, &out->stop))
        return op_overflow(j);
    return (struct val){.type = VAL_RANGE, .range = out};
}

struct val jinja_slice(struct jinja *j, struct val of, struct val start, struct val stop, struct val step)
{
    struct span s;
    struct val r;
    int64_t i;
    if (j->failed) return of;
    if (of.type == VAL_UNDEFINED) return jinja_fail(j, "%s", jinja_why_undefined(j, of));
    if (of.type == VAL_MARKUP) {
        r = jinja_slice(j, (struct val){.type = VAL_STR, .s = of.s}, start, stop, step);
        if (!j->failed) r.type = VAL_MARKUP;
        return r;
    }
    if (of.type != VAL_STR && of.type != VAL_LIST && of.type != VAL_TUPLE && of.type != VAL_RANGE)
        return jinja_fail(j, "a %s cannot be sliced", jinja_type(of));
    if (!op_span(j, jinja_len(j, of), start, stop, step, &s)) return of;
    if (of.type == VAL_STR) return op_slice_text(j, of.s, &s);
    if (of.type == VAL_RANGE) return op_slice_range(j, of.range, &s);
    r = jinja_list(j, of.type);
    for (i = 0; i < s.n && jinja_charge(j, 0); i++) jinja_push(j, r.l, of.l->p[s.start + i * s.step]);
    return r;
}
