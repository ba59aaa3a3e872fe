/* jinja_lex.c: template text to tokens. White space control is decided here: trim_blocks and lstrip_blocks are on, a
 * '-' at a tag takes all white space on its side, a '+' keeps it. */
#include "jinja.h"

#include <errno.h>

struct lexer {
    arena *mem;
    char *s; /* newlines normalised, the last one dropped */
    size_t n, i;
    int line;
    bool line_start;   /* the last token ended with a newline, or there was none */
    char balance[256]; /* closing brackets waited for */
    int depth;
    struct lexemes *out;
    const struct text **names; /* hash table */
    size_t n_names, cap_names;
    err *e;
};

static int lex_fail(struct lexer *l, const char *msg)
{
    return err_set(l->e, ERR_INPUT, "line %d: %s", l->line, msg);
}

static struct lexeme *lex_add(struct lexer *l, enum token_type type)
{
    struct lexemes *o = l->out;
    struct lexeme *t;
    if (o->n == o->cap) {
        int cap = o->cap ? o->cap * 2 : 256;
        struct lexeme *p = arena_array(l->mem, (size_t)cap, sizeof *p);
        if (o->n) memcpy(p, o->p, (size_t)o->n * sizeof *p);
        o->p = p;
        o->cap = cap;
    }
    t = &o->p[o->n++];
    t->type = type;
    t->line = l->line;
    return t;
}

static const struct text *lex_text(arena *mem, const char *p, size_t n)
{
    struct text *t = arena_alloc(mem, sizeof *t);
    size_t i;
    t->p = p;
    t->n = n;
    t->ascii = true;
    for (i = 0; i < n; i++)
        if ((unsigned char)p[i] >= 0x80) t->ascii = false;
    return t;
}

/* ---- names, one object per name ---- */

static size_t lex_hash(const char *p, size_t n)
{
    size_t h = 1469598103934665603u, i; /* FNV-1a */
    for (i = 0; i < n; i++) h = (h ^ (unsigned char)p[i]) * 1099511628211u;
    return h;
}

static const struct text **lex_slot(const struct text **table, size_t cap, const char *p, size_t n)
{
    size_t i = lex_hash(p, n) & (cap - 1);
    while (table[i] && (table[i]->n != n || memcmp(table[i]->p, p, n) != 0)) i = (i + 1) & (cap - 1);
    return &table[i];
}

static const struct text *lex_intern(struct lexer *l, const char *p, size_t n)
{
    const struct text **slot;
    if (l->n_names * 2 >= l->cap_names) {
        size_t cap = l->cap_names ? l->cap_names * 2 : 128, i;
        const struct text **table = arena_array(l->mem, cap, sizeof *table);
        for (i = 0; i < l->cap_names; i++)
            if (l->names[i]) *lex_slot(table, cap, l->names[i]->p, l->names[i]->n) = l->names[i];
        l->names = table;
        l->cap_names = cap;
    }
    slot = lex_slot(l->names, l->cap_names, p, n);
    if (!*slot) {
        *slot = lex_text(l->mem, arena_strndup(l->mem, p, n), n);
        l->n_names++;
    }
    return *slot;
}

/* ---- inside tags ---- */

static bool lex_digit(char c, int base)
{
    int d = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : 99;
    return d < base;
}

/* Length of digits with single underscores between them. */
static size_t lex_digits(const char *p, size_t n, int base)
{
    size_t i = 0;
    while (i < n && (lex_digit(p[i], base) || (i && p[i] == '_' && p[i - 1] != '_' && i + 1 < n && lex_digit(p[i + 1], base))))
        i++;
    return i;
}

static size_t lex_float_length(const char *p, size_t n)
{
    size_t whole = lex_digits(p, n, 10), i = whole, fraction = 0, sign;
    if (!whole) return 0;
    if (i + 1 < n && p[i] == '.') {
        fraction = lex_digits(p + i + 1, n - i - 1, 10);
        if (fraction) i += 1 + fraction;
    }
    if (i < n && (p[i] | 32) == 'e') {
        size_t digits;
        sign = i + 1 < n && (p[i + 1] == '+' || p[i + 1] == '-');
        digits = lex_digits(p + i + 1 + sign, n - i - 1 - sign, 10);
        if (digits) return i + 1 + sign + digits;
    }
    return fraction ? i : 0;
}

static size_t lex_int_length(const char *p, size_t n, int *base)
{
    *base = 10;
    if (p[0] == '0' && n > 2) {
        int b = (p[1] | 32) == 'x' ? 16 : (p[1] | 32) == 'o' ? 8 : (p[1] | 32) == 'b' ? 2 : 0;
        size_t skip = b && p[2] == '_' ? 3 : 2, digits = b && n > skip ? lex_digits(p + skip, n - skip, b) : 0;
        if (digits) {
            *base = b;
            return skip + digits;
        }
    }
    if (p[0] == '0') { /* 007 is the number 0 and then something else */
        size_t i = 1;
        while (i < n && (p[i] == '0' || (p[i] == '_' && i + 1 < n && p[i + 1] == '0'))) i++;
        return i;
    }
    return lex_digits(p, n, 10);
}

/* 1 when a number was taken, 0 when there is none, -1 on error. */
static int lex_number(struct lexer *l)
{
    const char *p = l->s + l->i;
    size_t left = l->n - l->i, n, i, k = 0;
    bool whole;
    int base;
    char *digits;
    struct lexeme *t;
    if (*p < '0' || *p > '9') return 0;
    n = l->i && p[-1] == '.' ? 0 : lex_float_length(p, left);
    whole = n == 0;
    if (whole) n = lex_int_length(p, left, &base);
    digits = arena_alloc(l->mem, n + 1);
    for (i = 0; i < n; i++)
        if (p[i] != '_') digits[k++] = p[i];
    t = lex_add(l, TOKEN_NUMBER);
    if (whole) {
        long long v;
        errno = 0;
        v = strtoll(base == 10 ? digits : digits + 2, NULL, base);
        if (errno) return lex_fail(l, "an integer of more than 64 bits is not supported");
        t->value = jinja_int(v);
    } else {
        t->value = jinja_float(strtod(digits, NULL));
    }
    l->i += n;
    return 1;
}

static bool lex_name_char(char c)
{
    return c == '_' || (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
}

static int lex_hex(const char *p, size_t n, size_t digits, uint32_t *out)
{
    size_t i;
    if (n < digits) return -1;
    for (*out = 0, i = 0; i < digits; i++) {
        if (!lex_digit(p[i], 16)) return -1;
        *out = *out * 16 + (uint32_t)(p[i] <= '9' ? p[i] - '0' : (p[i] | 32) - 'a' + 10);
    }
    return 0;
}

/* A backslash in front of a character beyond ASCII: Jinja turns that one into its escape first, so what is left is a
 * backslash and the letters of the escape. */
static size_t lex_escape_beyond(const char *p, size_t n, struct buf *b)
{
    int32_t c;
    size_t len = jinja_char(p, n, &c);
    buf_printf(b, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)(c < 0 ? 0xfffd : c));
    return len;
}

/* One escape at p (after the backslash); its length, 0 on error. */
static size_t lex_escape(struct lexer *l, const char *p, size_t n, struct buf *b)
{
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    const char *simple = memchr(from, *p, sizeof from - 1);
    uint32_t c = 0;
    size_t used;
    char utf8[4];
    if ((unsigned char)*p >= 0x80) return lex_escape_beyond(p, n, b);
    if (simple) {
        buf_char(b, to[simple - from]);
        return 1;
    }
    if (*p == '\n') return 1;
    if (*p >= '0' && *p <= '7') {
        for (used = 0; used < 3 && used < n && p[used] >= '0' && p[used] <= '7'; used++) c = c * 8 + (uint32_t)(p[used] - '0');
    } else if (*p == 'x' || *p == 'u' || *p == 'U') {
        size_t digits = *p == 'x' ? 2 : *p == 'u' ? 4 : 8;
        if (lex_hex(p + 1, n - 1, digits, &c) || c > 0x10ffff) return lex_fail(l, "a broken escape in a string"), 0;
        used = 1 + digits;
    } else if (*p == 'N') {
        return lex_fail(l, "the escape \\N is not supported"), 0;
    } else {
        buf_char(b, '\\');
        buf_char(b, *p);
        return 1;
    }
    if (c >= 0xd800 && c < 0xe000) return lex_fail(l, "half a surrogate pair in a string is not supported"), 0;
    buf_add(b, utf8, jinja_put_char(utf8, (int32_t)c));
    return used;
}

static int lex_count_lines(const char *p, size_t n)
{
    int lines = 0;
    const char *end = p + n;
    while ((p = memchr(p, '\n', (size_t)(end - p))) != NULL) {
        lines++;
        p++;
    }
    return lines;
}

static int lex_string(struct lexer *l)
{
    const char *p = l->s + l->i + 1;
    char quote = p[-1];
    size_t left = l->n - l->i - 1, i = 0;
    struct buf b = {0};
    struct lexeme *t = lex_add(l, TOKEN_STRING);
    while (i < left && p[i] != quote) {
        size_t used;
        if (p[i] != '\\') {
            buf_char(&b, p[i++]);
            continue;
        }
        if (i + 1 >= left) break;
        used = lex_escape(l, p + i + 1, left - i - 1, &b);
        if (!used) {
            buf_free(&b);
            return -1;
        }
        i += 1 + used;
    }
    if (i >= left) {
        buf_free(&b);
        return lex_fail(l, "a string without its closing quote");
    }
    t->text = lex_text(l->mem, arena_strndup(l->mem, b.p ? b.p : "", b.n), b.n);
    t->value = (struct val){.type = VAL_STR, .s = t->text};
    buf_free(&b);
    l->line += lex_count_lines(p, i);
    l->i += i + 2;
    return 0;
}

static int lex_balance(struct lexer *l, char c)
{
    char want = c == '(' ? ')' : c == '[' ? ']' : c == '{' ? '}' : 0;
    if (want) {
        if (l->depth == (int)sizeof l->balance) return lex_fail(l, "brackets nested too deep");
        l->balance[l->depth++] = want;
    } else if (c == ')' || c == ']' || c == '}') {
        if (l->depth == 0 || l->balance[--l->depth] != c) return lex_fail(l, "a closing bracket without its opening one");
    }
    return 0;
}

static int lex_operator(struct lexer *l)
{
    static const char two[][3] = {"//", "**", "==", "!=", ">=", "<="};
    const char *p = l->s + l->i;
    size_t i;
    struct lexeme *t;
    for (i = 0; i < sizeof two / sizeof *two; i++) {
        if (l->n - l->i < 2 || memcmp(p, two[i], 2) != 0) continue;
        t = lex_add(l, TOKEN_OP);
        t->op = JINJA_OP2(p[0], p[1]);
        l->i += 2;
        return 0;
    }
    if (!*p || !strchr("+-/*%~[](){}><=.:|,;", *p)) {
        if ((unsigned char)*p >= 0x80) return lex_fail(l, "a name or character outside ASCII in a tag is not supported");
        return lex_fail(l, "unexpected character in a tag");
    }
    if (lex_balance(l, *p)) return -1;
    t = lex_add(l, TOKEN_OP);
    t->op = *p;
    l->i++;
    return 0;
}

static void lex_skip_space(struct lexer *l)
{
    size_t space = jinja_space(l->s + l->i, l->n - l->i);
    l->line += lex_count_lines(l->s + l->i, space);
    l->i += space;
}

static bool lex_at(const struct lexer *l, const char *s)
{
    size_t n = strlen(s);
    return l->n - l->i >= n && memcmp(l->s + l->i, s, n) == 0;
}

/* The end of a tag with what belongs to it: '-' eats white space; a block or comment eats one newline. */
static bool lex_end(struct lexer *l, const char *end, bool print)
{
    char sign[8] = {'-'};
    strcpy(sign + 1, end);
    if (lex_at(l, sign)) {
        l->i += 1 + strlen(end);
        lex_skip_space(l);
        l->line_start = l->s[l->i - 1] == '\n';
        return true;
    }
    sign[0] = '+';
    l->line_start = false;
    if (!print && lex_at(l, sign)) {
        l->i += 1 + strlen(end);
        return true;
    }
    if (!lex_at(l, end)) return false;
    l->i += strlen(end);
    if (!print && l->i < l->n && l->s[l->i] == '\n') {
        l->i++;
        l->line++;
        l->line_start = true;
    }
    return true;
}

static int lex_tag(struct lexer *l, bool print)
{
    int line = l->line;
    lex_add(l, print ? TOKEN_PRINT_BEGIN : TOKEN_BLOCK_BEGIN);
    l->depth = 0;
    while (l->i < l->n) {
        char c = l->s[l->i];
        size_t space = jinja_space(l->s + l->i, l->n - l->i);
        int number;
        if (l->depth == 0) {
            int at = l->line;
            if (lex_end(l, print ? "}}" : "%}", print)) {
                lex_add(l, print ? TOKEN_PRINT_END : TOKEN_BLOCK_END)->line = at;
                return 0;
            }
        }
        if (space) {
            lex_skip_space(l);
            continue;
        }
        number = lex_number(l);
        if (number < 0) return -1;
        if (number) continue;
        if (lex_name_char(c)) {
            size_t n = 1;
            while (l->i + n < l->n && lex_name_char(l->s[l->i + n])) n++;
            lex_add(l, TOKEN_NAME)->text = lex_intern(l, l->s + l->i, n);
            l->i += n;
        } else if (c == '\'' || c == '"') {
            if (lex_string(l)) return -1;
        } else if (lex_operator(l)) {
            return -1;
        }
    }
    l->line = line;
    return lex_fail(l, "a tag without its end");
}

/* ---- between tags ---- */

static void lex_data(struct lexer *l, size_t start, size_t end)
{
    struct lexeme *t;
    if (end == start) return;
    t = lex_add(l, TOKEN_DATA);
    t->text = lex_text(l->mem, l->s + start, end - start);
    t->value = (struct val){.type = VAL_STR, .s = t->text};
}

/* Where the text in front of a tag ends. sign: what stands at the tag; strip: whether lstrip_blocks concerns it;
 * line_start: whether the text starts a line. */
static size_t lex_text_end(const struct lexer *l, size_t start, size_t end, char sign, bool strip, bool line_start)
{
    size_t line, i;
    if (sign == '-') {
        while (end > start) { /* back over white space, whole characters */
            size_t c = end - 1;
            while (c > start && ((unsigned char)l->s[c] & 0xc0) == 0x80) c--;
            if (jinja_space(l->s + c, end - c) != end - c) break;
            end = c;
        }
        return end;
    }
    if (sign == '+' || !strip) return end;
    for (line = end; line > start && l->s[line - 1] != '\n'; line--) {
    }
    if (line == start && !line_start) return end;
    i = jinja_space(l->s + line, end - line);
    return i == end - line ? line : end;
}

/* After "{%" and sign: the word and the end of the tag, for raw and endraw. Length, 0 when something else is there. */
static size_t lex_word_tag(const struct lexer *l, size_t at, const char *word)
{
    size_t i = at, n = strlen(word);
    i += jinja_space(l->s + i, l->n - i);
    if (l->n - i < n || memcmp(l->s + i, word, n) != 0) return 0;
    i += n;
    i += jinja_space(l->s + i, l->n - i);
    return i - at;
}

static char lex_sign(const struct lexer *l, size_t at)
{
    return at < l->n && (l->s[at] == '-' || l->s[at] == '+') ? l->s[at] : 0;
}

static int lex_raw(struct lexer *l)
{
    size_t start = l->i, i;
    int line = l->line;
    bool line_start = l->line_start;
    for (i = start; i + 1 < l->n; i++) {
        char sign;
        size_t at, word, end;
        if (l->s[i] != '{' || l->s[i + 1] != '%') continue;
        sign = lex_sign(l, i + 2);
        at = i + 2 + (sign != 0);
        word = lex_word_tag(l, at, "endraw");
        if (!word) continue;
        l->i = at + word;
        if (!lex_end(l, "%}", false)) continue;
        end = lex_text_end(l, start, i, sign, true, line_start);
        l->line = line;
        lex_data(l, start, end);
        l->line = line + lex_count_lines(l->s + start, l->i - start);
        return 0;
    }
    l->line = line;
    return lex_fail(l, "raw without endraw");
}

static int lex_comment(struct lexer *l)
{
    for (; l->i < l->n; l->i++) {
        if (lex_end(l, "#}", false)) return 0;
        if (l->s[l->i] == '\n') l->line++;
    }
    return lex_fail(l, "a comment without its end");
}

/* Text up to the next tag, and that tag. */
static int lex_root(struct lexer *l)
{
    size_t start = l->i, i, end, word;
    char kind, sign;
    for (i = start; i + 1 < l->n; i++)
        if (l->s[i] == '{' && (l->s[i + 1] == '{' || l->s[i + 1] == '%' || l->s[i + 1] == '#')) break;
    if (i + 1 >= l->n) {
        lex_data(l, start, l->n);
        l->i = l->n;
        return 0;
    }
    kind = l->s[i + 1];
    sign = lex_sign(l, i + 2);
    end = lex_text_end(l, start, i, sign, kind != '{', l->line_start);
    lex_data(l, start, end);
    l->line += lex_count_lines(l->s + start, i - start);
    l->i = i + 2 + (sign != 0);
    l->line_start = false;
    if (kind == '#') return lex_comment(l);
    if (kind == '%' && (word = lex_word_tag(l, l->i, "raw")) != 0) {
        size_t at = l->i;
        l->i += word;
        if (lex_at(l, "%}") || lex_at(l, "-%}")) { /* no newline is trimmed after raw */
            bool minus = l->s[l->i] == '-';
            l->line += lex_count_lines(l->s + at, word);
            l->i += minus ? 3 : 2;
            if (minus) lex_skip_space(l);
            l->line_start = l->s[l->i - 1] == '\n';
            return lex_raw(l);
        }
        l->i = at;
    }
    return lex_tag(l, kind == '{');
}

int jinja_lex(arena *mem, const char *source, size_t n, struct lexemes *out, err *e)
{
    struct lexer l = {.mem = mem, .line = 1, .line_start = true, .out = out, .e = e};
    size_t i;
    if (n > JINJA_MAX_SOURCE) return err_set(e, ERR_INPUT, "a template of %zu bytes; the limit is %d", n, JINJA_MAX_SOURCE);
    l.s = arena_alloc(mem, n + 1);
    for (i = 0; i < n; i++) {
        if (source[i] == '\r' && i + 1 < n && source[i + 1] == '\n') continue;
        l.s[l.n++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (l.n && l.s[l.n - 1] == '\n') l.n--;
    while (l.i < l.n)
        if (lex_root(&l)) return -1;
    lex_add(&l, TOKEN_EOF);
    return 0;
}
