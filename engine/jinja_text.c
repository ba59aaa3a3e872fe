/* jinja_text.c: characters and the operations on text that several builtins share. Classes and simple case mappings
 * come from utf8proc; what Python takes from tables utf8proc does not have is refused. */
#include "jinja.h"

#include <utf8proc.h>

/* ---- characters ---- */

size_t jinja_char(const char *p, size_t n, int32_t *c)
{
    const unsigned char *u = (const unsigned char *)p;
    int len = utf8_len(p, n);
    switch (len) {
    case 1: *c = u[0]; return 1;
    case 2: *c = (u[0] & 31) << 6 | (u[1] & 63); return 2;
    case 3: *c = (u[0] & 15) << 12 | (u[1] & 63) << 6 | (u[2] & 63); return 3;
    case 4: *c = (u[0] & 7) << 18 | (u[1] & 63) << 12 | (u[2] & 63) << 6 | (u[3] & 63); return 4;
    default: *c = -1; return 1;
    }
}

size_t jinja_put_char(char out[4], int32_t c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 63));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 63));
        out[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 63));
    out[2] = (char)(0x80 | (c >> 6 & 63));
    out[3] = (char)(0x80 | (c & 63));
    return 4;
}

size_t jinja_chars(const struct text *t)
{
    size_t i = 0, n = 0;
    int32_t c;
    if (t->ascii) return t->n;
    for (; i < t->n; n++) i += jinja_char(t->p + i, t->n - i, &c);
    return n;
}

size_t jinja_offset(const struct text *t, size_t chars)
{
    size_t i = 0;
    int32_t c;
    if (t->ascii) return chars < t->n ? chars : t->n;
    for (; chars && i < t->n; chars--) i += jinja_char(t->p + i, t->n - i, &c);
    return i;
}

bool jinja_is_space(int32_t c)
{
    if (c <= 0x20) return (c >= 9 && c <= 13) || (c >= 28 && c <= 32);
    return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

size_t jinja_space(const char *p, size_t n)
{
    size_t i = 0, len;
    int32_t c;
    for (; i < n; i += len) {
        len = jinja_char(p + i, n - i, &c);
        if (!jinja_is_space(c)) break;
    }
    return i;
}

static utf8proc_category_t text_category(int32_t c)
{
    return c < 0 ? UTF8PROC_CATEGORY_CS : utf8proc_category(c);
}

bool jinja_printable(int32_t c)
{
    switch (text_category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return false;
    case UTF8PROC_CATEGORY_ZS: return c == ' ';
    default: return true;
    }
}

static bool text_letter(int32_t c)
{
    utf8proc_category_t k = text_category(c);
    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}

bool jinja_word(int32_t c)
{
    utf8proc_category_t k = text_category(c);
    return c == '_' || text_letter(c) || (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO);
}

/* ---- case ---- */

/* Characters whose case mapping is more than one character, or depends on what is around (SpecialCasing.txt). */
static bool text_special_case(int32_t c)
{
    if (c < 0xdf) return false;
    return c == 0xdf || c == 0x130 || c == 0x149 || c == 0x1f0 || c == 0x390 || c == 0x3a3 || c == 0x3b0 || c == 0x587 ||
           (c >= 0x1e96 && c <= 0x1e9e) || (c >= 0x1f50 && c <= 0x1f56) || (c >= 0x1f80 && c <= 0x1fff) ||
           (c >= 0xfb00 && c <= 0xfb17);
}

static bool text_cased(int32_t c)
{
    utf8proc_category_t k = text_category(c);
    return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT;
}

/* Letters that have case in Python but not by their category (superscripts, circled letters, Roman numerals). */
static bool text_case_unclear(int32_t c)
{
    utf8proc_category_t k;
    if (c < 0x80) return false;
    k = text_category(c);
    return c == 0xaa || c == 0xba || k == UTF8PROC_CATEGORY_LM || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_SO ||
           k == UTF8PROC_CATEGORY_MN;
}

struct val jinja_case(struct jinja *j, const struct text *t, enum case_kind kind)
{
    struct buf b = {0};
    bool start = true; /* of a word, or of the text */
    size_t i, n;
    jinja_charge(j, t->n * 8);
    for (i = 0; i < t->n && !j->failed; i += n) {
        int32_t c, to;
        char utf8[4];
        n = jinja_char(t->p + i, t->n - i, &c);
        if (text_special_case(c) || (kind == CASE_TITLE && text_case_unclear(c)))
            jinja_unsupported(j, "changing the case of U+%04X", (unsigned)c);
        if (c < 0) {
            jinja_put(j, &b, t->p + i, n);
            start = kind == CASE_TITLE;
            continue;
        }
        switch (kind) {
        case CASE_UPPER: to = utf8proc_toupper(c); break;
        case CASE_LOWER: to = utf8proc_tolower(c); break;
        case CASE_SWAP: to = utf8proc_tolower(c) != c ? utf8proc_tolower(c) : utf8proc_toupper(c); break;
        default: to = start ? utf8proc_totitle(c) : utf8proc_tolower(c); break;
        }
        start = kind == CASE_TITLE && !text_cased(c);
        jinja_put(j, &b, utf8, jinja_put_char(utf8, to));
    }
    return jinja_take(j, &b);
}

/* ---- classes ---- */

static bool text_numeric(struct jinja *j, int32_t c, bool decimal)
{
    utf8proc_category_t k = text_category(c);
    if (k == UTF8PROC_CATEGORY_ND) return true;
    if (!decimal && c >= 0x80 && (k == UTF8PROC_CATEGORY_NO || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_LO))
        jinja_unsupported(j, "asking whether U+%04X is a digit", (unsigned)c);
    return false;
}

static bool text_in_class(struct jinja *j, int32_t c, enum class_kind kind)
{
    switch (kind) {
    case CLASS_ALPHA: return text_letter(c);
    case CLASS_DECIMAL: return text_numeric(j, c, true);
    case CLASS_DIGIT:
    case CLASS_NUMERIC: return text_numeric(j, c, false);
    case CLASS_ALNUM: return c != '_' && jinja_word(c);
    case CLASS_SPACE: return jinja_is_space(c);
    case CLASS_ASCII: return c >= 0 && c < 0x80;
    case CLASS_PRINTABLE: return jinja_printable(c);
    default: return c == '_' || text_letter(c) || text_category(c) == UTF8PROC_CATEGORY_ND;
    }
}

/* islower, isupper, istitle: about the letters that have case, of which there must be one. */
static bool text_case_class(struct jinja *j, const struct text *t, enum class_kind kind)
{
    bool any = false, before = false; /* before: the last character had case */
    size_t i;
    int32_t c;
    for (i = 0; i < t->n && !j->failed;) {
        utf8proc_category_t k;
        i += jinja_char(t->p + i, t->n - i, &c);
        k = text_category(c);
        if (text_case_unclear(c)) jinja_unsupported(j, "asking for the case of U+%04X", (unsigned)c);
        if (text_cased(c)) {
            bool lower = k == UTF8PROC_CATEGORY_LL;
            if (kind == CLASS_LOWER && !lower) return false;
            if (kind == CLASS_UPPER && k != UTF8PROC_CATEGORY_LU) return false;
            if (kind == CLASS_TITLE && lower != before) return false;
            any = true;
        }
        before = text_cased(c);
    }
    return any;
}

bool jinja_class(struct jinja *j, const struct text *t, enum class_kind kind)
{
    size_t i;
    int32_t c;
    jinja_charge(j, t->n);
    if (kind == CLASS_LOWER || kind == CLASS_UPPER || kind == CLASS_TITLE) return text_case_class(j, t, kind);
    if (t->n == 0) return kind == CLASS_ASCII || kind == CLASS_PRINTABLE;
    if (kind == CLASS_IDENTIFIER) {
        if (!t->ascii) jinja_unsupported(j, "isidentifier of a text outside ASCII");
        if (t->p[0] >= '0' && t->p[0] <= '9') return false;
    }
    for (i = 0; i < t->n && !j->failed;) {
        i += jinja_char(t->p + i, t->n - i, &c);
        if (!text_in_class(j, c, kind)) return false;
    }
    return true;
}

/* ---- strip, split, replace ---- */

static bool text_has(const struct text *t, const char *p, size_t n)
{
    size_t i, len;
    int32_t c;
    for (i = 0; i < t->n; i += len) {
        len = jinja_char(t->p + i, t->n - i, &c);
        if (len == n && memcmp(t->p + i, p, n) == 0) return true;
    }
    return false;
}

struct val jinja_strip(struct jinja *j, const struct text *t, const struct text *chars, bool left, bool right)
{
    size_t start = 0, end = t->n, n;
    int32_t c;
    while (left && start < end && jinja_charge(j, chars ? chars->n : 0)) {
        n = jinja_char(t->p + start, end - start, &c);
        if (chars ? !text_has(chars, t->p + start, n) : !jinja_is_space(c)) break;
        start += n;
    }
    while (right && start < end && jinja_charge(j, chars ? chars->n : 0)) {
        size_t at = end - 1;
        while (at > start && end - at < 4 && ((unsigned char)t->p[at] & 0xc0) == 0x80) at--;
        n = jinja_char(t->p + at, end - at, &c);
        if (n != end - at) { /* not UTF-8: one byte is one character */
            at = end - 1;
            n = 1;
            c = -1;
        }
        if (chars ? !text_has(chars, t->p + at, n) : !jinja_is_space(c)) break;
        end = at;
    }
    return jinja_sub(j, t, start, end);
}

static bool text_line_end(int32_t c)
{
    return (c >= 10 && c <= 13) || (c >= 28 && c <= 30) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

struct val jinja_splitlines(struct jinja *j, const struct text *t, bool keep)
{
    struct val l = jinja_list(j, VAL_LIST);
    size_t start = 0, i = 0;
    int32_t c;
    while (i < t->n && !j->failed) {
        size_t end = i;
        i += jinja_char(t->p + i, t->n - i, &c);
        if (!text_line_end(c)) continue;
        if (c == '\r' && i < t->n && t->p[i] == '\n') i++;
        jinja_push(j, l.l, jinja_sub(j, t, start, keep ? i : end));
        start = i;
    }
    if (start < t->n) jinja_push(j, l.l, jinja_sub(j, t, start, t->n));
    return l;
}

const char *jinja_find(const char *p, size_t n, const struct text *what)
{
    return what->n == 0 ? p : memmem(p, n, what->p, what->n);
}

/* max < 0: all */
struct val jinja_replace(struct jinja *j, const struct text *t, const struct text *old, const struct text *with, int64_t max)
{
    struct buf b = {0};
    size_t i = 0;
    const char *at;
    int32_t c;
    jinja_charge(j, t->n);
    while (max != 0 && !j->failed && (old->n || i <= t->n)) {
        if (old->n == 0) { /* between all characters and at both ends */
            size_t n = i < t->n ? jinja_char(t->p + i, t->n - i, &c) : 0;
            jinja_put(j, &b, with->p, with->n);
            jinja_put(j, &b, t->p + i, n);
            i += n ? n : 1;
        } else {
            at = jinja_find(t->p + i, t->n - i, old);
            if (!at) break;
            jinja_put(j, &b, t->p + i, (size_t)(at - t->p) - i);
            jinja_put(j, &b, with->p, with->n);
            i = (size_t)(at - t->p) + old->n;
        }
        jinja_charge(j, 0);
        if (max > 0) max--;
    }
    if (i < t->n) jinja_put(j, &b, t->p + i, t->n - i);
    return jinja_take(j, &b);
}
