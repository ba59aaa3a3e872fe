/* tokenizer_pre.c: pre-tokenisers: regular expressions that cut a text into the pieces which merges never cross.
 *
 * The expressions are those of the models' own tokenizer.json, one step after the other, each on the pieces of the step
 * before: a look-ahead does not see beyond its piece. Matches and what lies between them become pieces. The Unicode
 * properties are PCRE2's (UCP).
 */
#include "tokenizer_impl.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <stdlib.h>
#include <string.h>

enum { STEPS_MAX = 6, PATTERN_MAX = 1 << 14 };

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define BLANKS "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
/* The expression of GPT-4's cl100k, but for how many digits stay together. */
#define CL100K(digits) CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" BLANKS
/* GPT-4o's: words also end where a lower case letter is followed by an upper case one. */
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define O200K(suffix, digits)                                                                                           \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" suffix "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" suffix "|" digits \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" BLANKS
/* Letters that have case, in the Unicode version of those who trained deepseek-llm. */
#define CASED                                                                                                        \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}\\x{295}-\\x{2af}" \
    "\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}"   \
    "\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}"     \
    "\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}"                \
    "\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}"                \
    "\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}"        \
    "\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}"       \
    "\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}"        \
    "\\x{2124}\\x{2126}\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}"                  \
    "\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}"        \
    "\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}"                 \
    "\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}"                \
    "\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}"        \
    "\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"
#define CJK "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"

struct pre_rule {
    const char *names; /* separated by blanks, each with one at the end; the first is shown */
    const char *step[STEPS_MAX];
    bool ignore_merges, add_bos, nfc;
};

static const struct pre_rule rules[] = {
    {.names = "gpt-2 mpt olmo roberta-bpe ", .step = {GPT2}},
    /* SmolLM's tokenizer.json cuts digits off first. transformers, reading a GGUF file, does not, and is what our results are
       compared with. No token of that vocabulary joins a digit to anything, so the two differ in one case alone: white space
       before a digit, "\n\n1", is two tokens here and would be one. */
    {.names = "smollm ", .step = {GPT2}},
    {.names = "starcoder refact command-r ", .step = {"\\p{N}", GPT2}},
    {.names = "llama-bpe llama3 llama-v3 ", .step = {CL100K("\\p{N}{1,3}")}, .ignore_merges = true, .add_bos = true},
    {.names = "qwen2 ", .step = {CL100K("\\p{N}")}, .nfc = true},
    {.names = "deepseek-r1-qwen ", .step = {CL100K("\\p{N}")}},
    {.names = "falcon ", .step = {"[\\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]"}},
    {.names = "deepseek-llm ",
     .step = {"[\\r\\n]", "\\s?[" CASED "]+",
              "\\s?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+", "\\s+$", CJK,
              "\\p{N}+"}},
    {.names = "deepseek-coder ", .step = {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", CJK, "\\p{N}"}},
    {.names = "tekken ", .step = {O200K("", "\\p{N}")}, .ignore_merges = true, .add_bos = true},
    {.names = "gpt-4o ", .step = {O200K(CONTRACTION "?", "\\p{N}{1,3}")}},
    {.names = "chameleon ",
     .step = {"<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", "([\\t\\n]|    |  )", "\\p{N}",
              "[\\p{P}!-/:-@\\[-`{-~]", GPT2},
     .add_bos = true},
};

const char tokenizer_pre_gpt2[] = GPT2;

struct pre_step {
    pcre2_code *re;
    enum pre_behaviour behaviour;
    bool invert;
};

struct tokenizer_pre {
    struct pre_step step[STEPS_MAX];
    int n;
};

static const struct pre_rule *find_rule(struct gguf_str name)
{
    size_t i;
    for (i = 0; i < sizeof rules / sizeof *rules; i++) {
        const char *p = rules[i].names;
        while (*p) {
            size_t n = strcspn(p, " ");
            if (n == name.n && memcmp(p, name.p, n) == 0) return &rules[i];
            p += n + 1;
        }
    }
    return NULL;
}

static int unknown_name(struct gguf_str name, err *e)
{
    struct buf known = {0};
    size_t i;
    for (i = 0; i < sizeof rules / sizeof *rules; i++) buf_str(&known, rules[i].names);
    known.p[known.n - 1] = 0;
    err_set(e, ERR_ENV, "pre-tokeniser '%.*s' is not known; known are: %s", name.n > 80 ? 80 : (int)name.n, name.p, known.p);
    buf_free(&known);
    return -1;
}

struct tokenizer_pre *tokenizer_pre_new(void)
{
    return mem_alloc(sizeof(struct tokenizer_pre));
}

int tokenizer_pre_steps(const struct tokenizer_pre *p)
{
    return p->n;
}

int tokenizer_pre_add(struct tokenizer_pre *p, const char *pattern, size_t n, enum pre_behaviour behaviour, unsigned flags,
                      err *e)
{
    uint32_t options =
        PCRE2_UTF | (flags & PRE_LITERAL ? PCRE2_LITERAL : PCRE2_UCP) | (flags & PRE_LINES ? PCRE2_MULTILINE : 0);
    pcre2_compile_context *c;
    PCRE2_SIZE at = 0;
    int code = 0;
    pcre2_code *re;
    if (p->n == STEPS_MAX) return err_set(e, ERR_ENV, "pre-tokeniser: more than %d steps", STEPS_MAX);
    if (n == 0 || n > PATTERN_MAX) return err_set(e, ERR_ENV, "pre-tokeniser: a pattern of %zu bytes", n);
    c = pcre2_compile_context_create(NULL);
    pcre2_set_newline(c, PCRE2_NEWLINE_LF);
    re = pcre2_compile((PCRE2_SPTR)pattern, n, options, &code, &at, c);
    pcre2_compile_context_free(c);
    if (!re) {
        PCRE2_UCHAR why[128] = {0};
        pcre2_get_error_message(code, why, sizeof why);
        return err_set(e, ERR_ENV, "pre-tokeniser: %s, at byte %zu of '%.*s'", (char *)why, (size_t)at, n > 200 ? 200 : (int)n,
                       pattern);
    }
    pcre2_jit_compile(re, PCRE2_JIT_COMPLETE); /* without JIT the interpreter runs: the same matches, slower */
    p->step[p->n++] = (struct pre_step){.re = re, .behaviour = behaviour, .invert = flags & PRE_INVERT};
    return 0;
}

struct tokenizer_pre *tokenizer_pre_named(struct gguf_str name, struct pre_traits *traits, err *e)
{
    const struct pre_rule *r = find_rule(name);
    struct tokenizer_pre *p;
    int i;
    if (!r) {
        unknown_name(name, e);
        return NULL;
    }
    p = tokenizer_pre_new();
    for (i = 0; i < STEPS_MAX && r->step[i]; i++)
        if (tokenizer_pre_add(p, r->step[i], strlen(r->step[i]), PRE_ISOLATED, 0, e)) {
            tokenizer_pre_free(p);
            return NULL;
        }
    traits->name = r->names;
    traits->n_name = (int)strcspn(r->names, " ");
    traits->ignore_merges = r->ignore_merges;
    traits->add_bos = r->add_bos;
    traits->nfc = r->nfc;
    return p;
}

void tokenizer_pre_free(struct tokenizer_pre *p)
{
    int i;
    if (!p) return;
    for (i = 0; i < p->n; i++) pcre2_code_free(p->step[i].re);
    free(p);
}

struct split {
    const struct tokenizer_pre *p;
    pcre2_match_data *match;
    pcre2_match_context *limits;
    int (*piece)(struct tokenizer_job *j, int start, int end);
    struct tokenizer_job *j;
};

static int match_failed(err *e, int code)
{
    PCRE2_UCHAR why[128] = {0};
    pcre2_get_error_message(code, why, sizeof why);
    return err_set(e, ERR_FAIL, "pre-tokeniser: %s", (char *)why);
}

/* A piece of a step that may still grow. */
struct open_piece {
    int start, end;
    bool match; /* whether its last part is a match */
};

static int split_from(struct split *s, int step, int start, int end);

static int close_piece(struct split *s, int step, const struct open_piece *p)
{
    if (p->start == p->end) return 0;
    if (p->match && s->p->step[step].behaviour == PRE_REMOVED)
        return err_set(s->j->e, ERR_FAIL, "the pre-tokeniser drops %d bytes, at %d of the text", p->end - p->start,
                       s->j->at ? s->j->at[p->start] : s->j->base + p->start);
    return split_from(s, step + 1, p->start, p->end);
}

/* The next part of the text, a match or what lies between two. */
static int add_part(struct split *s, int step, struct open_piece *p, int start, int end, bool match)
{
    bool join = false;
    if (start == end) return 0;
    match ^= s->p->step[step].invert;
    switch (s->p->step[step].behaviour) {
    case PRE_MERGE_PREVIOUS: join = match && !p->match; break;
    case PRE_MERGE_NEXT: join = !match && p->match; break;
    case PRE_CONTIGUOUS: join = match == p->match; break;
    case PRE_ISOLATED:
    case PRE_REMOVED: break;
    }
    if (join && p->start < p->end) {
        p->end = end;
        p->match = match;
        return 0;
    }
    if (close_piece(s, step, p)) return -1;
    *p = (struct open_piece){start, end, match};
    return 0;
}

/* Recursion: one level per step. */
static int split_from(struct split *s, int step, int start, int end)
{
    const char *text = s->j->text + start;
    size_t n = (size_t)(end - start), done = 0;
    struct open_piece open = {start, start, false};
    if (start == end) return 0;
    if (step == s->p->n) return s->piece(s->j, start, end);
    while (done < n) {
        const PCRE2_SIZE *span;
        size_t from, to;
        int rc = pcre2_match(s->p->step[step].re, (PCRE2_SPTR)text, n, done, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, s->match,
                             s->limits);
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc < 0) return match_failed(s->j->e, rc);
        span = pcre2_get_ovector_pointer(s->match); /* the next step writes there too */
        from = span[0];
        to = span[1];
        /* \K in an expression of a tokenizer.json can set the start anywhere. */
        if (from < done || to <= from) return err_set(s->j->e, ERR_FAIL, "pre-tokeniser: a match that begins before the last");
        if (add_part(s, step, &open, start + (int)done, start + (int)from, false)) return -1;
        if (add_part(s, step, &open, start + (int)from, start + (int)to, true)) return -1;
        done = to;
    }
    if (add_part(s, step, &open, start + (int)done, end, false)) return -1;
    return close_piece(s, step, &open);
}

/* Valid stretches go through the steps, so PCRE2 need not check them at each match, which would be quadratic. */
static int split_stretches(struct split *s, const char *text, int n)
{
    int i = 0, k;
    while (i < n) {
        int valid = (int)utf8_valid(text + i, (size_t)(n - i));
        if (split_from(s, 0, i, i + valid)) return -1;
        i += valid;
        for (k = i; k < n && utf8_len(text + k, (size_t)(n - k)) == 0;) k++;
        if (k > i && s->piece(s->j, i, k)) return -1;
        i = k;
    }
    return 0;
}

int tokenizer_pre_split(const struct tokenizer_pre *p, const char *text, int n,
                        int (*piece)(struct tokenizer_job *j, int start, int end), struct tokenizer_job *j)
{
    struct split s = {.p = p, .piece = piece, .j = j};
    int rc;
    s.match = pcre2_match_data_create(1, NULL);
    s.limits = pcre2_match_context_create(NULL);
    /* Backtracking over a run of blanks costs a match step per byte; more than that is an expression gone wrong. */
    pcre2_set_match_limit(s.limits, 10000000u + 8u * (uint32_t)n);
    pcre2_set_heap_limit(s.limits, 1u << 20); /* KiB */
    rc = split_stretches(&s, text, n);
    pcre2_match_context_free(s.limits);
    pcre2_match_data_free(s.match);
    return rc;
}
