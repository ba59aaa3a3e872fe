/* report_cache.c: where two caches differ: K and V of a layer as the original experiment draws them (rows: token positions with
 * their text, columns: the layer's kv heads side by side, blue above zero, white, red below), a slider through the layers, and
 * one map over layers and positions.
 *
 * Pairs: the baselines of two prompts of one length; a job's edited cache and its baseline's. */
#include "report_in.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PAIRS_MAX = 8, CAPTURES_MAX = 400, LARGEST = 5 };
static const int64_t pair_numbers = (int64_t)1 << 27; /* of one pair: what fits the memory of a small machine */

struct capture {
    char *label, *prompt, *baseline;
    char moment[16];
    int64_t tokens;
    bool plain; /* a baseline itself */
};

struct pair {
    const struct capture *a, *b; /* drawn is a minus b */
    char *where;                 /* SQL from FROM on */
};

struct caches {
    struct capture *v; /* (n) */
    int n, left_out;
    int L, G, E;
};

/* ---- what there is ---- */

static char *column(sqlite3_stmt *row, int i)
{
    const char *s = (const char *)sqlite3_column_text(row, i);
    return mem_strdup(s ? s : "");
}

static int load(struct report *r, struct caches *c, err *e)
{
    sqlite3_stmt *row = NULL;
    int got = db_query(r->db, &row, e,
                       "SELECT l.label, l.prompt, b.label, k.moment, k.tok_end, b.id=l.spec_job_id, m.n_layer, m.n_kv_head,"
                       " m.head_dim FROM v_latest l JOIN kv_capture k ON k.attempt_id=l.attempt_id AND k.complete=1"
                       " JOIN job j ON j.id=l.job_id JOIN model m ON m.id=j.model_id LEFT JOIN spec_job b ON b.id=l.baseline_id"
                       " WHERE l.experiment=? AND k.moment IN ('prefill','edited') ORDER BY l.spec_job_id, k.id",
                       "s", r->experiment);
    c->v = mem_array(CAPTURES_MAX, sizeof *c->v);
    for (; got == 1; got = db_next(r->db, row, e)) {
        struct capture *x = &c->v[c->n];
        int64_t L = sqlite3_column_int64(row, 6), G = sqlite3_column_int64(row, 7), E = sqlite3_column_int64(row, 8);
        if (c->n == CAPTURES_MAX) continue;
        if (L < 1 || G < 1 || E < 1 || L > 4096 || G > 65536 || E > 65536) continue; /* no sizes of a cache */
        c->L = (int)L;
        c->G = (int)G;
        c->E = (int)E;
        x->label = column(row, 0);
        x->prompt = column(row, 1);
        x->baseline = column(row, 2);
        snprintf(x->moment, sizeof x->moment, "%s", (const char *)sqlite3_column_text(row, 3));
        x->tokens = sqlite3_column_int64(row, 4);
        x->plain = sqlite3_column_int(row, 5);
        c->n++;
    }
    sqlite3_finalize(row);
    return got;
}

static void caches_free(struct caches *c)
{
    for (int i = 0; i < c->n; i++) {
        free(c->v[i].label);
        free(c->v[i].prompt);
        free(c->v[i].baseline);
    }
    free(c->v);
}

/* Positions at which two prompts have other tokens; -1: not the same number of tokens. */
static int64_t other_tokens(struct report *r, const char *a, const char *b, err *e)
{
    return db_id(r->db, NULL, e,
                 "SELECT iif(count(*)<>(SELECT count(*) FROM v_prompt_token y WHERE y.experiment=?1 AND y.prompt=?3), 1<<30,"
                 " sum(x.token_id IS NOT (SELECT y.token_id FROM v_prompt_token y WHERE y.experiment=?1 AND y.prompt=?3"
                 " AND y.pos=x.pos))) FROM v_prompt_token x WHERE x.experiment=?1 AND x.prompt=?2",
                 "sss", r->experiment, a, b);
}

static const struct capture *find(const struct caches *c, const char *label, const char *moment)
{
    for (int i = 0; i < c->n; i++)
        if (!strcmp(c->v[i].label, label) && !strcmp(c->v[i].moment, moment)) return &c->v[i];
    return NULL;
}

static void pair_add(struct pair *pairs, int *n, struct caches *c, const struct capture *a, const struct capture *b)
{
    if (!a || !b || a->tokens != b->tokens || a->tokens < 1) return;
    if (*n == PAIRS_MAX || c->L * a->tokens * c->G * c->E > pair_numbers)
        c->left_out++;
    else
        pairs[(*n)++] = (struct pair){a, b, NULL};
}

/* -1: e. */
static int choose(struct report *r, struct caches *c, struct pair *pairs, int *n, err *e)
{
    for (int i = 0; i < c->n; i++)
        for (int k = i + 1; k < c->n && c->v[i].plain; k++) {
            const struct capture *a = &c->v[i], *b = &c->v[k];
            int64_t differ;
            if (!b->plain || strcmp(a->moment, "prefill") || strcmp(b->moment, "prefill") || a->tokens != b->tokens) continue;
            differ = other_tokens(r, a->prompt, b->prompt, e);
            if (differ < 0) return -1;
            if (differ > 0 && differ <= a->tokens / 4) pair_add(pairs, n, c, a, b);
        }
    for (int i = 0; i < c->n; i++)
        if (!c->v[i].plain) {
            const struct capture *b = find(c, c->v[i].baseline, "prefill");
            pair_add(pairs, n, c, &c->v[i], b ? b : find(c, c->v[i].baseline, "edited"));
        }
    return 0;
}

/* ---- the SQL ---- */

static char *where(const struct report *r, const struct pair *p)
{
    struct buf b = {0};
    char *la = html_quoted(p->a->label), *lb = html_quoted(p->b->label);
    buf_printf(&b,
               "FROM v_kv a JOIN v_kv b ON b.experiment=a.experiment AND b.layer=a.layer AND b.tensor=a.tensor\n"
               "  AND b.tok_start=a.tok_start AND b.n_tok=a.n_tok\n"
               "WHERE a.experiment=%s AND a.tensor IN ('k','v')\n"
               "  AND a.label=%s AND a.moment='%s' AND b.label=%s AND b.moment='%s'",
               r->quoted, la, p->a->moment, lb, p->b->moment);
    free(la);
    free(lb);
    return buf_take(&b);
}

/* ---- the numbers ---- */

struct numbers {
    int L, P, W;    /* layers, positions, kv heads x head size */
    float *diff[2]; /* K, V: (L, P, W) */
    float *norm[2]; /* (P, L) the L2 norm over W */
};

/* One chunk of both caches, (G, n, E) f32 each, into the rows of its positions. */
static void put_chunk(const struct caches *c, struct numbers *x, sqlite3_stmt *row)
{
    int64_t layer = sqlite3_column_int64(row, 0), first = sqlite3_column_int64(row, 2), n = sqlite3_column_int64(row, 3);
    const char *tensor = (const char *)sqlite3_column_text(row, 1), *a = sqlite3_column_blob(row, 4),
               *b = sqlite3_column_blob(row, 5);
    size_t E = (size_t)c->E, bytes = (size_t)sqlite3_column_bytes(row, 4);
    float *to;
    if (!tensor || !a || !b || layer < 0 || layer >= x->L || first < 0 || n < 1 || first > x->P - n) return;
    if (bytes != (size_t)x->W * (size_t)n * sizeof(float) || bytes != (size_t)sqlite3_column_bytes(row, 5)) return;
    to = x->diff[*tensor == 'v'] + ((size_t)layer * (size_t)x->P + (size_t)first) * (size_t)x->W;
    for (size_t g = 0; g < (size_t)c->G; g++)
        for (size_t t = 0; t < (size_t)n; t++)
            for (size_t i = 0; i < E; i++) {
                size_t from = ((g * (size_t)n + t) * E + i) * sizeof(float);
                float u, v;
                memcpy(&u, a + from, sizeof u);
                memcpy(&v, b + from, sizeof v);
                to[t * (size_t)x->W + g * E + i] = u - v;
            }
}

static char *chunks_sql(const struct pair *p)
{
    struct buf b = {0};
    buf_printf(&b, "SELECT a.layer, a.tensor, a.tok_start, a.n_tok, kv_decode(a.blob_id), kv_decode(b.blob_id)\n%s", p->where);
    return buf_take(&b);
}

static char *norms_sql(const struct caches *c, const struct pair *p)
{
    struct buf b = {0};
    buf_printf(&b,
               "WITH RECURSIVE t(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM t WHERE i<63), pair AS (\n"
               "SELECT a.layer, a.tensor, a.tok_start, a.n_tok, a.blob_id AS x, b.blob_id AS y\n%s)\n"
               "SELECT tensor, layer, tok_start+i AS pos, vec_l2(kv_row(x, %d, n_tok, i), kv_row(y, %d, n_tok, i)) AS l2\n"
               "FROM pair JOIN t ON i<n_tok ORDER BY tensor, l2 DESC, layer, pos",
               p->where, c->G, c->G);
    return buf_take(&b);
}

static char *limits_sql(const struct pair *p)
{
    struct buf b = {0};
    buf_printf(&b,
               "SELECT a.tensor, max(vec_max(kv_decode(a.blob_id), kv_decode(b.blob_id))) AS largest,\n"
               "       -max(vec_max(kv_decode(a.blob_id), kv_decode(b.blob_id))) AS least\n%s\nGROUP BY a.tensor",
               p->where);
    return buf_take(&b);
}

static int load_numbers(struct report *r, const struct caches *c, const struct pair *p, const char *sql, struct numbers *x,
                        err *e)
{
    sqlite3_stmt *row = NULL;
    int got;
    *x = (struct numbers){.L = c->L, .P = (int)p->a->tokens, .W = c->G * c->E};
    for (int t = 0; t < 2; t++) {
        x->diff[t] = mem_array((size_t)x->L * (size_t)x->P, (size_t)x->W * sizeof(float));
        x->norm[t] = mem_array((size_t)x->L * (size_t)x->P, sizeof(float));
    }
    got = report_ask(r, &row, sql, e);
    for (; got == 1; got = db_next(r->db, row, e)) put_chunk(c, x, row);
    sqlite3_finalize(row);
    return got;
}

static void numbers_free(struct numbers *x)
{
    for (int t = 0; t < 2; t++) {
        free(x->diff[t]);
        free(x->norm[t]);
    }
}

/* Fills norm and writes the largest differences of each tensor. */
static int load_norms(struct report *r, const char *sql, struct numbers *x, struct buf *largest, err *e)
{
    sqlite3_stmt *row = NULL;
    int n[2] = {0}, got = report_ask(r, &row, sql, e);
    for (; got == 1; got = db_next(r->db, row, e)) {
        const char *tensor = (const char *)sqlite3_column_text(row, 0);
        int64_t layer = sqlite3_column_int64(row, 1), pos = sqlite3_column_int64(row, 2);
        int t = tensor && *tensor == 'v';
        if (layer < 0 || layer >= x->L || pos < 0 || pos >= x->P) continue;
        x->norm[t][(size_t)pos * (size_t)x->L + (size_t)layer] = (float)sqlite3_column_double(row, 3);
        if (n[t]++ >= LARGEST) continue;
        buf_printf(largest, "<tr><td>%s<td class=n>%lld<td class=n>%lld<td class=n>", t ? "V" : "K", (long long)layer,
                   (long long)pos);
        html_column_number(largest, row, 3, 5);
        buf_str(largest, "</tr>\n");
    }
    sqlite3_finalize(row);
    return got;
}

/* ---- names of the rows ---- */

static int load_names(struct report *r, const struct pair *p, char **names, int n, err *e)
{
    sqlite3_stmt *row = NULL;
    int got = db_query(r->db, &row, e,
                       "SELECT x.pos, coalesce(x.token, x.token_id), coalesce(y.token, y.token_id) FROM v_prompt_token x"
                       " JOIN v_prompt_token y ON y.experiment=x.experiment AND y.pos=x.pos"
                       " WHERE x.experiment=? AND x.prompt=? AND y.prompt=?",
                       "sss", r->experiment, p->a->prompt, p->b->prompt);
    for (; got == 1; got = db_next(r->db, row, e)) {
        int64_t pos = sqlite3_column_int64(row, 0);
        const char *a = (const char *)sqlite3_column_text(row, 1), *b = (const char *)sqlite3_column_text(row, 2);
        struct buf s = {0};
        if (pos < 0 || pos >= n || names[pos] || !a || !b) continue;
        buf_str(&s, a);
        if (strcmp(a, b)) buf_printf(&s, " |%s", b);
        buf_printf(&s, " %lld", (long long)pos);
        names[pos] = buf_take(&s);
    }
    sqlite3_finalize(row);
    return got;
}

/* ---- the pictures ---- */

/* K and V of all layers behind one slider. */
static int draw_layers(struct report *r, const struct caches *c, const struct numbers *x, const char *const *names, err *e)
{
    struct buf data = {0}, under = {0};
    double limit[2];
    int rc = 0;
    for (int t = 0; t < 2; t++) limit[t] = map_largest(x->diff[t], (size_t)x->L * (size_t)x->P * (size_t)x->W, NULL);
    buf_printf(&under, "kv head %d", c->G - 1);
    buf_printf(r->out,
               "<div class=layers><label class=slide>layer <input type=range min=0 max=%d value=%d> <output>layer %d</output>"
               "</label>\n<div class=pair>",
               x->L - 1, x->L / 2, x->L / 2);
    buf_str(&data, "{\"layers\":[");
    for (int l = 0; l < x->L; l++) buf_printf(&data, l ? ",%d" : "%d", l);
    buf_str(&data, "],\"png\":[");
    for (int l = 0; !rc && l < x->L; l++) {
        buf_str(&data, l ? ",[" : "[");
        for (int t = 0; !rc && t < 2; t++) {
            struct map m = {.w = x->W,
                            .h = x->P,
                            .limit = limit[t],
                            .diverging = true,
                            .root = true,
                            .names = names,
                            .left = "kv head 0",
                            .right = under.p,
                            .alt = t ? "differences of values, positions by head dimensions"
                                     : "differences of keys, positions by head dimensions"};
            m.v = x->diff[t] + (size_t)l * (size_t)x->P * (size_t)x->W;
            buf_str(&data, t ? ",\"" : "\"");
            rc = map_png(r, &m, &data, e);
            buf_char(&data, '"');
            if (rc || l != x->L / 2) continue;
            buf_printf(r->out, "<figure><figcaption><b>%s</b>, one colour scale for all layers</figcaption>", t ? "V" : "K");
            html_scale(r->out, true, true, limit[t]);
            rc = map_draw(r, &m, NULL, e);
            buf_str(r->out, "</figure>\n");
        }
        buf_char(&data, ']');
    }
    buf_str(r->out, "</div><script type=\"application/json\">");
    buf_add(r->out, data.p, data.n);
    buf_str(r->out, "]}</script></div>\n");
    buf_free(&data);
    buf_free(&under);
    return rc;
}

static int draw_summary(struct report *r, const struct numbers *x, const char *const *names, const struct buf *largest, err *e)
{
    char right[32];
    int rc = 0;
    snprintf(right, sizeof right, "layer %d", x->L - 1);
    buf_str(r->out, "<h4>L2 norm of the difference, by layer and position</h4><div class=pair>");
    for (int t = 0; !rc && t < 2; t++) {
        double limit = map_largest(x->norm[t], (size_t)x->P * (size_t)x->L, NULL);
        struct map m = {.w = x->L,
                        .h = x->P,
                        .v = x->norm[t],
                        .limit = limit,
                        .names = names,
                        .left = "layer 0",
                        .right = right,
                        .alt = t ? "norms of the differences of values" : "norms of the differences of keys"};
        buf_printf(r->out, "<figure><figcaption><b>%s</b></figcaption>", t ? "V" : "K");
        html_scale(r->out, false, false, limit);
        rc = map_draw(r, &m, NULL, e);
        buf_str(r->out, "</figure>\n");
    }
    buf_str(r->out, "</div><div class=wide tabindex=0><table><tr><th>tensor<th>layer<th>position<th>L2, the largest</tr>\n");
    buf_add(r->out, largest->p ? largest->p : "", largest->n);
    buf_str(r->out, "</table></div>\n");
    return rc;
}

static int draw_pair(struct report *r, struct caches *c, const struct pair *p, err *e)
{
    int P = (int)p->a->tokens, rc;
    char **names = mem_array((size_t)P, sizeof *names), *chunks = chunks_sql(p), *norms = norms_sql(c, p),
         *limits = limits_sql(p);
    struct buf largest = {0};
    struct numbers x;
    rc =
        load_numbers(r, c, p, chunks, &x, e) || load_norms(r, norms, &x, &largest, e) || load_names(r, p, names, P, e) ? -1 : 0;
    for (int i = 0; i < P; i++)
        if (!names[i]) names[i] = mem_strdup("");
    buf_str(r->out, "<article><h3>");
    html_str(r->out, p->a->label);
    buf_printf(r->out, " (%s) minus ", p->a->moment);
    html_str(r->out, p->b->label);
    buf_printf(r->out, " (%s)</h3>\n", p->b->moment);
    if (!rc) rc = draw_layers(r, c, &x, (const char *const *)names, e);
    html_sql(r->out, chunks);
    html_sql(r->out, limits);
    if (!rc) rc = draw_summary(r, &x, (const char *const *)names, &largest, e);
    html_sql(r->out, norms);
    buf_str(r->out, "</article>\n");
    for (int i = 0; i < P; i++) free(names[i]);
    free(names);
    free(chunks);
    free(norms);
    free(limits);
    buf_free(&largest);
    numbers_free(&x);
    return rc;
}

int report_caches(struct report *r, err *e)
{
    struct caches c = {0};
    struct pair pairs[PAIRS_MAX];
    int n = 0, drawn = 0, rc = load(r, &c, e);
    if (!rc) rc = choose(r, &c, pairs, &n, e);
    if (!rc && c.n)
        buf_str(r->out, "<section id=caches><h2>Where caches differ</h2>\n<p>Rows are token positions, columns the kv "
                        "heads of the layer side by side. Blue is positive, white zero, red negative.</p>\n");
    for (int i = 0; i < n; i++) {
        pairs[i].where = where(r, &pairs[i]);
        if (!rc && r->picture_bytes < REPORT_PICTURE_BYTES) {
            rc = draw_pair(r, &c, &pairs[i], e);
            drawn++;
        }
        free(pairs[i].where);
    }
    if (!rc && c.n) {
        if (n == 0)
            buf_str(r->out, "<p class=dim>No two captured caches belong together: a baseline of a prompt of the same "
                            "length, or an edited cache and its baseline's prefill.</p>\n");
        if (c.left_out + n - drawn > 0)
            buf_printf(r->out, "<p class=dim>%d more pairs are left out to keep the page small.</p>\n", c.left_out + n - drawn);
        buf_str(r->out, "</section>\n");
    }
    caches_free(&c);
    return rc;
}
