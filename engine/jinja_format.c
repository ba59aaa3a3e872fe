/* jinja_format.c: "%s" % x, "{}".format(x) and strftime. Rare conversions are refused. */
#include "jinja.h"

#include <math.h>
#include <stdio.h>

enum { FORMAT_MAX = 10000 }; /* width */

struct spec {
    struct text fill;
    char align; /* '<', '>', '^', '=', or 0 */
    char sign;  /* '+', ' ', or 0 */
    bool zero;
    int width, precision; /* precision -1: none */
    char type;            /* 0: none */
};

static const struct text space = {" ", 1, true}, zero = {"0", 1, true};

static void format_fill(struct jinja *j, struct buf *b, const struct text *fill, int64_t n)
{
    for (; n > 0 && !j->failed; n--) jinja_put(j, b, fill->p, fill->n);
}

static void format_text(struct jinja *j, struct buf *b, const struct text *t, const struct spec *s, char align)
{
    struct text part = *t;
    int64_t pad, left;
    if (s->precision >= 0) part.n = jinja_offset(t, (size_t)s->precision);
    if (s->align) align = s->align;
    pad = s->width - (int64_t)jinja_chars(&part);
    left = pad <= 0 || align == '<' ? 0 : align == '^' ? pad / 2 : pad;
    format_fill(j, b, &s->fill, left);
    jinja_put(j, b, part.p, part.n);
    format_fill(j, b, &s->fill, pad - left);
}

/* A number's digits, with its sign apart. */
static void format_digits(struct jinja *j, struct buf *b, bool negative, const char *digits, const struct spec *s)
{
    char sign = negative ? '-' : s->sign;
    struct buf all = {0};
    struct text t;
    struct spec plain = *s;
    if (s->align == '=' || (s->zero && !s->align)) {
        int64_t pad = s->width - (int64_t)strlen(digits) - (sign != 0);
        if (sign) jinja_put(j, b, &sign, 1);
        format_fill(j, b, s->zero && !s->align ? &zero : &s->fill, pad);
        jinja_put(j, b, digits, strlen(digits));
        return;
    }
    if (sign) jinja_put(j, &all, &sign, 1);
    jinja_put(j, &all, digits, strlen(digits));
    t = (struct text){all.p ? all.p : "", all.n, true};
    plain.precision = -1;
    format_text(j, b, &t, &plain, '>');
    buf_free(&all);
}

static void format_int(struct jinja *j, struct buf *b, int64_t i, const struct spec *s)
{
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    char digits[160];
    int precision = s->precision < 0 ? 1 : s->precision;
    if (precision > 100) {
        jinja_unsupported(j, "a format with this precision");
        return;
    }
    if (s->type == 'x')
        snprintf(digits, sizeof digits, "%.*llx", precision, (unsigned long long)u);
    else if (s->type == 'X')
        snprintf(digits, sizeof digits, "%.*llX", precision, (unsigned long long)u);
    else if (s->type == 'o')
        snprintf(digits, sizeof digits, "%.*llo", precision, (unsigned long long)u);
    else
        snprintf(digits, sizeof digits, "%.*llu", precision, (unsigned long long)u);
    format_digits(j, b, i < 0, precision == 0 && u == 0 ? "0" : digits, s);
}

static void format_float(struct jinja *j, struct buf *b, double f, const struct spec *s)
{
    char digits[512], c[8] = "%.*";
    int precision = s->precision < 0 ? 6 : s->precision;
    if (precision > 100 || !isfinite(f)) {
        jinja_unsupported(j, "formatting this number");
        return;
    }
    c[3] = s->type == '%' ? 'f' : s->type;
    snprintf(digits, sizeof digits - 1, c, precision, fabs(s->type == '%' ? f * 100 : f));
    if (s->type == '%') strcat(digits, "%");
    format_digits(j, b, signbit(f), digits, s);
}

/* ---- % ---- */

static int format_number(const char *p, size_t n, size_t *i)
{
    int v = 0;
    while (*i < n && p[*i] >= '0' && p[*i] <= '9') {
        v = v * 10 + (p[(*i)++] - '0');
        if (v > FORMAT_MAX) v = FORMAT_MAX + 1;
    }
    return v;
}

static void percent_one(struct jinja *j, struct buf *b, const struct spec *s, struct val v)
{
    struct buf r = {0};
    struct val t;
    switch (s->type) {
    case 's':
    case 'r':
        if (s->type == 's')
            jinja_put_str(j, &r, v);
        else
            jinja_put_repr(j, &r, v);
        t = jinja_take(j, &r);
        format_text(j, b, t.s, s, '>');
        break;
    case 'd':
    case 'i':
    case 'u':
        if (v.type == VAL_FLOAT && fabs(v.f) < 9e18) v = jinja_int((int64_t)v.f);
        if (jinja_is_int(v))
            format_int(j, b, v.i, s);
        else
            jinja_fail(j, "%%%c of a %s", s->type, jinja_type(v));
        break;
    case 'x':
    case 'X':
    case 'o':
        if (jinja_is_int(v))
            format_int(j, b, v.i, s);
        else
            jinja_fail(j, "%%%c of a %s", s->type, jinja_type(v));
        break;
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
        if (jinja_is_number(v))
            format_float(j, b, v.type == VAL_FLOAT ? v.f : (double)v.i, s);
        else
            jinja_fail(j, "%%%c of a %s", s->type, jinja_type(v));
        break;
    default: jinja_unsupported(j, "the conversion %%%c", s->type >= ' ' && s->type < 127 ? s->type : '?'); break;
    }
}

/* Flags, width, precision, type after the '%' (and the name in parentheses). */
static bool percent_spec(struct jinja *j, const struct text *f, size_t *i, struct spec *s)
{
    *s = (struct spec){.fill = space, .precision = -1};
    for (; *i < f->n && f->p[*i] && strchr("-+ 0#", f->p[*i]); ++*i) {
        char c = f->p[*i];
        if (c == '#') return jinja_unsupported(j, "the flag '#' of %%"), false;
        if (c == '-')
            s->align = '<';
        else if (c == '0')
            s->zero = true;
        else if (s->sign != '+')
            s->sign = c;
    }
    s->width = format_number(f->p, f->n, i);
    if (*i < f->n && f->p[*i] == '.') {
        ++*i;
        s->precision = format_number(f->p, f->n, i);
    }
    if (*i < f->n && f->p[*i] && strchr("hlL", f->p[*i])) ++*i;
    if (*i >= f->n) return jinja_fail(j, "an incomplete format"), false;
    if (s->width > FORMAT_MAX) return jinja_unsupported(j, "a format this wide"), false;
    s->type = f->p[(*i)++];
    if ((s->type == 's' || s->type == 'r') && s->zero) s->zero = false;
    return true;
}

struct val jinja_format_percent(struct jinja *j, const struct text *f, struct val args)
{
    struct buf b = {0};
    size_t i = 0, used = 0, n = args.type == VAL_TUPLE ? args.l->n : 1;
    bool mapping = args.type == VAL_DICT || args.type == VAL_LIST || args.type == VAL_RANGE || args.type == VAL_UNDEFINED;
    while (i < f->n && !j->failed) {
        const char *percent = memchr(f->p + i, '%', f->n - i);
        size_t end = percent ? (size_t)(percent - f->p) : f->n;
        struct val v = args;
        struct spec s;
        bool named = false;
        jinja_put(j, &b, f->p + i, end - i);
        i = end + 1;
        if (!percent) break;
        if (i < f->n && f->p[i] == '(') {
            const char *close = memchr(f->p + i, ')', f->n - i);
            const struct val *found = NULL;
            if (!close || args.type != VAL_DICT)
                jinja_fail(j, "a format that needs a mapping");
            else
                found = jinja_dict_get(j, args.d, jinja_sub(j, f, i + 1, (size_t)(close - f->p)));
            if (!found) {
                jinja_fail(j, "a format with an unknown key");
                break;
            }
            v = *found;
            named = true;
            i = (size_t)(close - f->p) + 1;
        }
        if (!percent_spec(j, f, &i, &s)) break;
        if (s.type == '%') {
            jinja_put(j, &b, "%", 1);
            continue;
        }
        if (!named) {
            if (used >= n)
                jinja_fail(j, "not enough arguments for the format");
            else if (args.type == VAL_TUPLE)
                v = args.l->p[used];
            used++;
        }
        if (!j->failed) percent_one(j, &b, &s, v);
    }
    if (used < n && !mapping) jinja_fail(j, "not all arguments are used by the format");
    return jinja_take(j, &b);
}

/* ---- {} ---- */

static bool brace_align(char c)
{
    return c == '<' || c == '>' || c == '^' || c == '=';
}

static bool brace_spec(struct jinja *j, const struct text *f, struct spec *s)
{
    size_t i = 0, n;
    int32_t c;
    *s = (struct spec){.fill = space, .precision = -1};
    if (f->n == 0) return true;
    n = jinja_char(f->p, f->n, &c);
    if (n < f->n && brace_align(f->p[n])) {
        s->fill = (struct text){f->p, n, n == 1};
        s->align = f->p[n];
        i = n + 1;
    } else if (brace_align(f->p[0])) {
        s->align = f->p[i++];
    }
    if (i < f->n && (f->p[i] == '+' || f->p[i] == '-' || f->p[i] == ' ')) {
        s->sign = f->p[i] == '-' ? 0 : f->p[i];
        i++;
    }
    if (i < f->n && f->p[i] == '0') {
        s->zero = true;
        i++;
    }
    s->width = format_number(f->p, f->n, &i);
    if (i < f->n && f->p[i] == '.') {
        i++;
        s->precision = format_number(f->p, f->n, &i);
    }
    if (i < f->n) s->type = f->p[i++];
    if (i < f->n || s->width > FORMAT_MAX || s->precision > FORMAT_MAX)
        return jinja_unsupported(j, "this format specification"), false;
    return true;
}

static void brace_value(struct jinja *j, struct buf *b, struct val v, const struct text *f)
{
    struct spec s;
    if (f->n == 0) {
        jinja_put_str(j, b, v);
        return;
    }
    if (!brace_spec(j, f, &s)) return;
    if (v.type == VAL_STR && (s.type == 0 || s.type == 's') && !s.sign && !s.zero && s.align != '=') {
        format_text(j, b, v.s, &s, '<');
    } else if (v.type == VAL_INT && (s.type == 0 || strchr("dxXo", s.type)) && s.precision < 0) {
        format_int(j, b, v.i, &s);
    } else if ((v.type == VAL_INT || v.type == VAL_FLOAT) && s.type && strchr("eEfFgG%", s.type)) {
        format_float(j, b, v.type == VAL_FLOAT ? v.f : (double)v.i, &s);
    } else {
        jinja_unsupported(j, "this format specification for a %s", jinja_type(v));
    }
}

/* "0.name[key]": where it starts is an argument, then attributes and items. counter: the next number for "", -1 once
 * numbers were written out. */
static struct val brace_field(struct jinja *j, struct args *a, const char *p, size_t n, int *counter)
{
    size_t i = 0, start;
    struct val v = jinja_missing(), *found;
    while (i < n && p[i] != '.' && p[i] != '[') i++;
    if (i == 0 || (p[0] >= '0' && p[0] <= '9')) {
        size_t k = 0;
        int at = i == 0 ? *counter : format_number(p, i, &k);
        if (i != 0 && (k != i || *counter > 0)) return jinja_fail(j, "a format that mixes {} and {0}");
        if (i == 0 && at < 0) return jinja_fail(j, "a format that mixes {} and {0}");
        *counter = i == 0 ? at + 1 : -1;
        if ((size_t)at < a->pos->n) v = a->pos->p[at];
    } else {
        found = jinja_dict_get(j, a->kw, jinja_str(j, p, i));
        if (found) v = *found;
    }
    if (v.type == VAL_MISSING) return jinja_fail(j, "a format without its argument");
    while (i < n && !j->failed) {
        bool item = p[i] == '[';
        start = ++i;
        while (i < n && (item ? p[i] != ']' : p[i] != '.' && p[i] != '[')) i++;
        if (i == start || (item && i >= n)) return jinja_fail(j, "a broken field in a format");
        if (item) {
            size_t k = start;
            int at = format_number(p, i, &k);
            v = jinja_item(j, v, k == i ? jinja_int(at) : jinja_str(j, p + start, i - start));
            i++;
        } else {
            v = jinja_attr(j, v, jinja_str(j, p + start, i - start).s);
        }
        if (i < n && p[i] != '.' && p[i] != '[') return jinja_fail(j, "a broken field in a format");
    }
    return v;
}

static void brace_replace(struct jinja *j, struct buf *b, struct args *a, const char *p, size_t n, int *counter)
{
    const char *colon = memchr(p, ':', n), *bang = memchr(p, '!', colon ? (size_t)(colon - p) : n);
    size_t name = bang ? (size_t)(bang - p) : colon ? (size_t)(colon - p) : n;
    struct text spec = {colon ? colon + 1 : "", colon ? n - (size_t)(colon - p) - 1 : 0, true};
    struct val v;
    spec.ascii = false;
    if (memchr(p, '{', n)) {
        jinja_unsupported(j, "a format inside a format");
        return;
    }
    v = brace_field(j, a, p, name, counter);
    if (j->failed) return;
    if (bang) {
        size_t end = colon ? (size_t)(colon - p) : n;
        struct buf r = {0};
        if (end - name != 2 || (bang[1] != 'r' && bang[1] != 's'))
            jinja_unsupported(j, "this conversion in a format");
        else if (bang[1] == 'r')
            jinja_put_repr(j, &r, v);
        else
            jinja_put_str(j, &r, v);
        v = jinja_take(j, &r);
    }
    if (!j->failed) brace_value(j, b, v, &spec);
}

struct val jinja_format_braces(struct jinja *j, struct args *a)
{
    const struct text *f = a->self.s;
    struct buf b = {0};
    size_t i = 0;
    int counter = 0;
    while (i < f->n && jinja_charge(j, 0)) {
        size_t start = i;
        const char *close;
        while (i < f->n && f->p[i] != '{' && f->p[i] != '}') i++;
        jinja_put(j, &b, f->p + start, i - start);
        if (i >= f->n) break;
        if (i + 1 < f->n && f->p[i + 1] == f->p[i]) {
            jinja_put(j, &b, f->p + i, 1);
            i += 2;
            continue;
        }
        close = f->p[i] == '{' ? memchr(f->p + i, '}', f->n - i) : NULL;
        if (!close) {
            jinja_fail(j, "a single brace in a format");
            break;
        }
        brace_replace(j, &b, a, f->p + i + 1, (size_t)(close - f->p) - i - 1, &counter);
        i = (size_t)(close - f->p) + 1;
    }
    return jinja_take(j, &b);
}

/* ---- strftime ---- */

struct date {
    int year, month, day, weekday, yearday; /* weekday 0: Sunday; yearday from 1 */
};

static struct date format_date(const struct chat_env *env)
{
    static const int before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    struct date d = {env->year, env->month, env->day, 0, 0};
    int y, m;
    bool leap;
    if (d.year == 0) d = (struct date){2024, 7, 26, 0, 0};
    if (d.month < 1 || d.month > 12) d.month = 1;
    leap = (d.year % 4 == 0 && d.year % 100 != 0) || d.year % 400 == 0;
    d.yearday = before[d.month - 1] + d.day + (leap && d.month > 2);
    y = d.month < 3 ? d.year - 1 : d.year; /* Zeller's congruence */
    m = d.month < 3 ? d.month + 12 : d.month;
    d.weekday = ((d.day + 13 * (m + 1) / 5 + y + y / 4 - y / 100 + y / 400) % 7 + 13) % 7;
    return d;
}

static void strftime_one(struct jinja *j, struct buf *b, const struct date *d, char c, bool pad)
{
    static const char *const days[] = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};
    static const char *const months[] = {"January", "February", "March",     "April",   "May",      "June",
                                         "July",    "August",   "September", "October", "November", "December"};
    char s[64];
    int two = pad ? 2 : 1;
    switch (c) {
    case 'd': snprintf(s, sizeof s, "%0*d", two, d->day); break;
    case 'e': snprintf(s, sizeof s, "%*d", two, d->day); break;
    case 'm': snprintf(s, sizeof s, "%0*d", two, d->month); break;
    case 'y': snprintf(s, sizeof s, "%0*d", two, d->year % 100); break;
    case 'Y': snprintf(s, sizeof s, "%d", d->year); break;
    case 'j': snprintf(s, sizeof s, "%0*d", pad ? 3 : 1, d->yearday); break;
    case 'H':
    case 'M':
    case 'S': snprintf(s, sizeof s, "%0*d", two, 0); break;
    case 'I': snprintf(s, sizeof s, "12"); break;
    case 'p': snprintf(s, sizeof s, "AM"); break;
    case 'B': snprintf(s, sizeof s, "%s", months[d->month - 1]); break;
    case 'b':
    case 'h': snprintf(s, sizeof s, "%.3s", months[d->month - 1]); break;
    case 'A': snprintf(s, sizeof s, "%s", days[d->weekday]); break;
    case 'a': snprintf(s, sizeof s, "%.3s", days[d->weekday]); break;
    case 'w': snprintf(s, sizeof s, "%d", d->weekday); break;
    case 'F': snprintf(s, sizeof s, "%d-%02d-%02d", d->year, d->month, d->day); break;
    case 'T': snprintf(s, sizeof s, "00:00:00"); break;
    case 'R': snprintf(s, sizeof s, "00:00"); break;
    case '%': snprintf(s, sizeof s, "%%"); break;
    default:
        s[0] = 0;
        jinja_unsupported(j, "strftime_now with %%%c", c >= ' ' && c < 127 ? c : '?');
        break;
    }
    jinja_put(j, b, s, strlen(s));
}

struct val jinja_strftime(struct jinja *j, struct args *a)
{
    const struct text *f = jinja_arg_text(j, a, 0);
    struct date d = format_date(j->env);
    struct buf b = {0};
    size_t i;
    if (!f) return a->self;
    if (j->env->strftime_now) return jinja_cstr(j, j->env->strftime_now);
    for (i = 0; i < f->n && !j->failed; i++) {
        bool pad;
        if (f->p[i] != '%') {
            jinja_put(j, &b, f->p + i, 1);
            continue;
        }
        pad = !(i + 1 < f->n && f->p[i + 1] == '-');
        i += pad ? 1 : 2;
        strftime_one(j, &b, &d, i < f->n ? f->p[i] : 0, pad);
    }
    return jinja_take(j, &b);
}
