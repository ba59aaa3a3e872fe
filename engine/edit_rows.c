/* edit_rows.c: rows of a cache that are written many at a time. A row is one head's vector of one position; an operation of the
 * backend for each would be a wait for the GPU each.
 *
 * Rows that only change places move within the backend. The others are gathered into a scratch block, which the host takes,
 * changes and puts back as a whole; from there they go to their places. The two rows of a swap meet in the scratch as well.
 */
#include "internal.h"

#include <stdlib.h>

/* Rows that wait to change places, two addresses of the host each; bytes of the scratch block. */
enum { STRAIGHT = 1 << 16, SCRATCH = 1 << 20 };

void *edit_row_at(const cache *c, int layer, int tensor, int head, int pos)
{
    const engine *en = c->en;
    const struct kv_page *p = c->pages[layer][pos / PAGE_TOKENS];
    size_t index = ((size_t)head * PAGE_TOKENS + (size_t)(pos % PAGE_TOKENS)) * (size_t)en->model.E;
    return (char *)(tensor == CACHE_K ? p->k : p->v) + index * (size_t)dtype_block_bytes(en->attn.kv_type);
}

static void list_make(struct edit_list *list, size_t room)
{
    list->room = room;
    list->to = mem_array(room, sizeof *list->to);
    list->from = mem_array(room, sizeof *list->from);
}

/* One block for all edits of an engine: what a GPU releases, its recorded passes might hold, so that it drops them. */
static char *scratch(engine *en, size_t bytes)
{
    if (bytes <= en->edit_bytes) return en->edit_scratch;
    edit_rows_free(en);
    en->edit_bytes = bytes < SCRATCH ? SCRATCH : bytes;
    en->edit_scratch = en->k->alloc(en->edit_bytes);
    if (!en->edit_scratch) en->edit_bytes = 0;
    return en->edit_scratch;
}

void edit_rows_free(engine *en)
{
    if (en->edit_scratch) en->k->release(en->edit_scratch);
    en->edit_scratch = NULL;
    en->edit_bytes = 0;
}

int edit_rows_begin(struct edit_rows *r, size_t n, err *e)
{
    engine *en = r->c->en;
    size_t E = (size_t)en->model.E, room, i;
    if (n == 0) return 0;
    r->bytes = E * (size_t)dtype_block_bytes(en->attn.kv_type);
    room = r->in_order ? 1 : SCRATCH / r->bytes / r->unit;
    room = (room ? room : 1) * r->unit;
    if (room > n) room = n;
    if (r->ed || r->turns || r->unit > 1) {
        r->scratch = scratch(en, room * r->bytes);
        if (!r->scratch) return err_set(e, ERR_MEMORY, "no memory for %zu rows of an edit", room);
        list_make(&r->worked, room);
        r->rows = mem_array(room, sizeof *r->rows);
        r->slots = mem_array(room, sizeof *r->slots);
        r->raw = en->gpu.k ? mem_array(room, r->bytes) : r->scratch;
        r->x = mem_array(r->unit * E, sizeof *r->x);
        for (i = 0; i < room; i++) r->slots[i] = r->scratch + i * r->bytes;
    }
    list_make(&r->straight, r->in_order ? 1 : n < STRAIGHT ? n : STRAIGHT);
    return 0;
}

/* Where a row is written twice, each waits for the one before. */
static void move(const struct edit_rows *r, void *const *to, const void *const *from, size_t n)
{
    size_t i, step = r->in_order ? 1 : n;
    for (i = 0; i < n; i += step) r->c->en->k->move_rows(to + i, from + i, r->bytes, step);
}

static void turn(struct edit_rows *r, const struct edit_row *row, float *x)
{
    const struct model *m = &r->c->en->model;
    int rope = m->layers[row->layer].rope;
    if (row->turn != r->turned || rope != r->rope) edit_turn_make(&r->turn, m, row->layer, row->turn);
    r->turned = row->turn;
    r->rope = rope;
    edit_turn(&r->turn, x);
}

/* What the host does to the unit at `row`: x (unit, E). */
static void work(struct edit_rows *r, const struct edit_row *row, float *x)
{
    const struct edit *ed = r->ed;
    int E = r->c->en->model.E, n = (int)r->unit, i;
    if (ed && ed->op == EDIT_QUANTISE && ed->per_channel) { /* an element of a head over all positions */
        for (i = 0; i < E; i++) edit_quantise(x + i, n, (size_t)E, ed->bits);
        return;
    }
    for (i = 0; i < n; i++, row++, x += E) {
        if (row->turn) turn(r, row, x);
        if (ed)
            edit_apply(r->c->en, ed, row->l, row->tensor, row->i, cache_position(r->c, ed->at[row->i]), row->head * E, E, x);
    }
}

static void write_straight(struct edit_rows *r)
{
    if (r->straight.n > 0) move(r, r->straight.to, r->straight.from, r->straight.n);
    r->straight.n = 0;
}

/* The host's part: n rows of the scratch, unit by unit. */
static void change(struct edit_rows *r, size_t n)
{
    const struct kernels *k = r->c->en->k;
    enum dtype t = r->c->en->attn.kv_type;
    size_t values = r->unit * (size_t)r->c->en->model.E, i;
    if (r->raw != r->scratch) k->get(r->raw, r->scratch, n * r->bytes);
    for (i = 0; i < n; i += r->unit) {
        kernels_widen(r->x, r->raw + i * r->bytes, t, values);
        work(r, r->rows + i, r->x);
        kernels_narrow(r->raw + i * r->bytes, t, r->x, values);
    }
    if (r->raw != r->scratch) k->put(r->scratch, r->raw, n * r->bytes);
}

static void write_worked(struct edit_rows *r)
{
    size_t n = r->worked.n;
    if (n == 0) return;
    move(r, r->slots, r->worked.from, n);
    if (r->host) change(r, n);
    move(r, r->worked.to, (const void *const *)r->slots, n);
    r->worked.n = 0;
    r->host = false;
}

void edit_rows_add(struct edit_rows *r, void *to, const void *from, const struct edit_row *row)
{
    bool worked = r->ed || row->turn || r->unit > 1;
    struct edit_list *list = worked ? &r->worked : &r->straight;
    list->to[list->n] = to;
    list->from[list->n] = from;
    if (worked) r->rows[list->n] = *row;
    if (r->ed || row->turn) r->host = true;
    if (++list->n < list->room) return;
    if (worked)
        write_worked(r);
    else
        write_straight(r);
}

int edit_rows_end(struct edit_rows *r, err *e)
{
    write_straight(r);
    write_worked(r);
    free(r->straight.to);
    free(r->straight.from);
    free(r->worked.to);
    free(r->worked.from);
    free(r->rows);
    free(r->slots);
    if (r->raw != r->scratch) free(r->raw);
    free(r->x);
    return trouble_take(r->c->en, e);
}
