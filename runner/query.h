/* query.h: reading a results database: SQL, one job, one cache. Opens read-only; never writes.
 *
 *     query_sql("results.db", "SELECT label, text FROM v_result", QUERY_TABLE, width, &out, e);
 */
#ifndef RUNNER_QUERY_H
#define RUNNER_QUERY_H

#include "../engine/engine.h"

#include <stdio.h>

enum query_format { QUERY_TABLE, QUERY_JSON, QUERY_JSONL, QUERY_CSV, QUERY_MD };

/* Runs one statement and writes its rows to `out` (a stream, since results can be large). Anything that would write fails.
   JSON: one array of objects; blobs as hex strings; CSV: RFC 4180 with a header. A failed query: ERR_INPUT; a file that is
   not ours: ERR_DB. width: columns of the terminal for QUERY_TABLE; 0: unlimited. */
int query_sql(const char *db, const char *sql, enum query_format format, int width, FILE *out, err *e);

/* One job as a person reads it: prompt with the edited positions marked, operations, text, metrics, captures, provenance.
   label may match several experiments: experiment (or NULL) decides. Unknown: ERR_NOTHING with near labels. */
int query_show(const char *db, const char *experiment, const char *label, FILE *out, err *e);

/* The cache of label at moment ("prefill", "edited", "end") as a safetensors file: k.{layer}, v.{layer}, (G, T, E) f32. Moment
   "pass": the activations recorded of the prompt, positions first: resid.{layer}, attn_out.{layer}, mlp_out.{layer} and embed
   (n, D), k_pre.{layer} (n, G, E), head_out.{layer} (n, H, E), attn.{layer} (n, H, T), logits (n, V); which positions they are
   is said by the metadata's `positions`, a JSON object of a list per tensor. */
int query_export(const char *db, const char *experiment, const char *label, const char *moment, const char *path, err *e);

/* The SQL questions that ship with the program: n from 1; NULL past the last. */
const char *query_example(int n, const char **title);

#endif
