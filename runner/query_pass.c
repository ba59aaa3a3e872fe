/* query_pass.c: recorded activations of one answer, for the export. A tensor's chunks hold rows of one position each, so that
 * they are written one after the other as they are. */
#include "query_export.h"

#include "whole_file.h"

#include <stdlib.h>
#include <string.h>

enum { RUN_MAX = 64 /* positions of a chunk; more is not believed */ };

/* The tensors that are recorded and the shape of one position; dims as letters of struct export. */
static const struct site {
    const char *tensor, *dims;
    bool one; /* there is one of it, not one per layer */
} sites[] = {{"k_pre", "GE", false},  {"resid", "D", false},     {"embed", "D", true},  {"attn_out", "D", false},
             {"mlp_out", "D", false}, {"head_out", "HE", false}, {"attn", "HT", false}, {"logits", "V", true}};

static int size_of(const struct export *x, char letter)
{
    switch (letter) {
    case 'G': return x->G;
    case 'E': return x->E;
    case 'H': return x->H;
    case 'T': return x->T;
    case 'V': return x->V;
    default: return x->D;
    }
}

static const struct site *find_site(const char *tensor)
{
    size_t i;
    for (i = 0; tensor && i < sizeof sites / sizeof *sites; i++)
        if (!strcmp(sites[i].tensor, tensor)) return &sites[i];
    return NULL;
}

static int64_t width_of(const struct piece *p)
{
    return (int64_t)p->dims[1] * (p->n_dims > 2 ? p->dims[2] : 1);
}

/* The chunk in the row that stmt stands on, as the next positions of its piece. -1: it cannot be that. */
static int add_chunk(struct export *x, sqlite3_stmt *row)
{
    const struct site *s = find_site((const char *)sqlite3_column_text(row, 0));
    int64_t layer = sqlite3_column_int64(row, 1), first = sqlite3_column_int64(row, 2), n = sqlite3_column_int64(row, 3);
    struct piece *p = x->n_pieces ? &x->pieces[x->n_pieces - 1] : NULL;
    int i;
    if (!s || layer < -1 || layer >= x->layers || first < 0 || n < 1 || n > RUN_MAX || first > x->T - n) return -1;
    if (!p || p->tensor != s->tensor || p->layer != (int)layer) {
        p = export_add(x);
        p->tensor = s->tensor;
        p->layer = (int)layer;
        p->n_dims = 1 + (int)strlen(s->dims);
        for (i = 1; i < p->n_dims; i++) p->dims[i] = size_of(x, s->dims[i - 1]);
        snprintf(p->name, sizeof p->name, s->one ? "%s" : "%s.%d", s->tensor, (int)layer);
    }
    if (p->dims[0] > 0 && p->at[p->dims[0] - 1] >= (int)first) return -1;
    p->at = mem_grow(p->at, (size_t)p->dims[0] + (size_t)n, sizeof *p->at);
    for (i = 0; i < (int)n; i++) p->at[p->dims[0]++] = (int)first + i;
    return 0;
}

int pass_pieces(struct export *x, err *e)
{
    sqlite3_stmt *rows = NULL;
    int r =
        db_query(x->db, &rows, e,
                 "SELECT tensor, layer, tok_start, n_tok FROM kv_chunk WHERE capture_id=? ORDER BY tensor, layer, tok_start",
                 "i", x->capture);
    for (; r == 1; r = db_next(x->db, rows, e))
        if (add_chunk(x, rows)) {
            r = err_set(e, ERR_DB, "the recorded activations of '%s' are not possible", x->label);
            break;
        }
    sqlite3_finalize(rows);
    return r < 0 ? -1 : 0;
}

int pass_write(struct export *x, const struct piece *p, FILE *f, const char *path, err *e)
{
    int64_t width = width_of(p), left = p->dims[0];
    int r = db_query(x->db, &x->chunks, e,
                     "SELECT n_tok, blob_id FROM kv_chunk WHERE capture_id=? AND layer=? AND tensor=? ORDER BY tok_start",
                     "iis", x->capture, (int64_t)p->layer, p->tensor);
    for (; r == 1; r = db_next(x->db, x->chunks, e)) {
        int64_t n = sqlite3_column_int64(x->chunks, 0), blob = sqlite3_column_int64(x->chunks, 1);
        enum kv_type type;
        if (query_chunk(x->db, &x->find, blob, &x->raw, &type, e)) return -1;
        if (type != KV_F32 || n < 1 || n > left || (int64_t)x->raw.n != n * width * 4)
            return err_set(e, ERR_DB, "blob %lld does not hold %lld positions of %s of '%s'", (long long)blob, (long long)n,
                           p->name, x->label);
        if (fwrite(x->raw.p, 1, x->raw.n, f) != x->raw.n) return whole_error(path, e);
        left -= n;
    }
    if (r < 0) return -1;
    return left ? err_set(e, ERR_DB, "%s of '%s' is not whole", p->name, x->label) : 0;
}
