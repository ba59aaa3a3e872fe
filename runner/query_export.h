/* query_export.h: the inside of an export, for query_export.c and query_pass.c alone. */
#ifndef RUNNER_QUERY_EXPORT_H
#define RUNNER_QUERY_EXPORT_H

#include "query_in.h"

/* One tensor of the file that is written. */
struct piece {
    char name[32];
    const char *tensor; /* as in kv_chunk */
    int layer;
    int dims[3], n_dims;
    int *at; /* (dims[0]) positions of activations; NULL: a cache */
};

struct export
{
    sqlite3 *db;
    const char *experiment, *label, *moment;
    int64_t capture, attempt, spec_job;
    int layers, G, T, E, H, D, V;
    struct piece *pieces; /* (n_pieces) in the order of the file */
    int n_pieces;
    sqlite3_stmt *chunks, *find;
    struct buf raw;
    float *numbers; /* (G, T, E) one layer's K or V */
    float *part;    /* (G, n, E) one chunk */
    size_t part_cap;
};

struct piece *export_add(struct export *x); /* a new piece, zeroed */
int64_t export_bytes(const struct piece *p);

/* The pieces of recorded activations, all checked against the model's sizes. */
int pass_pieces(struct export *x, err *e);
int pass_write(struct export *x, const struct piece *p, FILE *f, const char *path, err *e);

#endif
