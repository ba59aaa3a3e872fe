/* state_seed.c: the table of state sizes in the article that kvrun answers, checked.
 *
 * The figures are those of "QKV Transformers are RNN models with extra steps and memory capacity" by Eugene Cheah, README.md of
 * github.com/PicoCreator/QKV-Transformers-are-RNNs at commit ad3c268 of 2024-09-19; every earlier commit that has the table has
 * the same ones. It names no type and no configuration. The computed values take these, by the published models' own
 * config.json: RWKV-4 Raven 7B    RWKV/rwkv-raven-7b: 32 layers, width 4096 RWKV-5 Eagle 7B    RWKV/v5-Eagle-7B-HF: 32 layers,
 * width 4096, heads of 64 RWKV-6 Finch 14B   RWKV/v6-Finch-14B-HF: 61 layers, width 4096, heads of 64 LLaMA 7B           arXiv
 * 2302.13971, table 2: 32 layers, 32 heads, width 4096 MB and GB are read as 2^20 and 2^30 bytes: only then do the LLaMA rows
 * agree with each other, on 192 KiB a token and a remainder of some MiB. (Read as powers of ten they would be smaller still.)
 */
#include "state_size.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define RWKV4 "{\"model_type\":\"rwkv\",\"num_hidden_layers\":32,\"hidden_size\":4096}"
#define RWKV5 "{\"model_type\":\"rwkv5\",\"num_hidden_layers\":32,\"hidden_size\":4096,\"head_size\":64}"
#define RWKV6 "{\"model_type\":\"rwkv6\",\"num_hidden_layers\":61,\"hidden_size\":4096,\"head_size\":64}"
#define LLAMA "{\"model_type\":\"llama\",\"num_hidden_layers\":32,\"hidden_size\":4096,\"num_attention_heads\":32}"
#define SOURCE "README of PicoCreator/QKV-Transformers-are-RNNs, commit ad3c268 (2024-09-19); MB = 2^20 bytes, GB = 2^30 bytes"

/* hundredths: the printed figure times 100; tokens 0: the size does not depend on them; config NULL: no such model. */
static const struct {
    const char *name, *figure;
    int hundredths, shift;
    int64_t tokens;
    const char *config;
} rows[] = {
    {"RWKV 7B v4 Raven", "4 MB", 400, 20, 0, RWKV4},
    {"RWKV 7B v5 Eagle", "40 MB", 4000, 20, 0, RWKV5},
    {"RWKV 14B v6 Finch", "80 MB", 8000, 20, 0, RWKV6},
    {"LLaMA 7B (2k)", "400 MB", 40000, 20, 2048, LLAMA},
    {"LLaMA 7B (4k)", "780 MB", 78000, 20, 4096, LLAMA},
    {"LLaMA 7B (8k)", "1.53 GB", 153, 30, 8192, LLAMA},
    {"LLaMA 7B (32k)", "6.04 GB", 604, 30, 32768, LLAMA},
    {"LLaMA 7B (320k)", "60.18 GB", 6018, 30, 327680, LLAMA},
    {"RWKV / SSM scaled up, theoretical", "800 MB", 80000, 20, 0, NULL},
    {"RWKV / SSM scaled up, theoretical", "1.6 GB", 160, 30, 0, NULL},
};
enum { N_ROWS = sizeof rows / sizeof *rows };

/* Computed size of a row; 0: there is nothing to compute it from. */
static int compute(int i, int element, int64_t *bytes, err *e)
{
    struct state s;
    *bytes = 0;
    if (!rows[i].config) return 0;
    if (state_parse(&s, rows[i].config, strlen(rows[i].config), e)) return err_in(e, "%s", rows[i].name);
    return state_bytes(&s, rows[i].tokens, element, STATE_STORED, bytes, e);
}

static int64_t figure_bytes(int i)
{
    return ((int64_t)rows[i].hundredths << rows[i].shift) / 100;
}

static void add_row(struct buf *b, int i, int64_t bytes)
{
    double ratio = (double)bytes / (double)figure_bytes(i);
    char tokens[32] = "any", human[32] = "-";
    if (rows[i].tokens) state_size_grouped(tokens, rows[i].tokens);
    if (bytes) state_size_human(human, bytes);
    buf_printf(b, "%-34s %8s %10s %11s  ", rows[i].name, tokens, rows[i].figure, human);
    if (!bytes)
        buf_str(b, "no such model: nothing to compare");
    else if (ratio > 1.05)
        buf_printf(b, "%.2f times too small", ratio);
    else if (ratio < 1 / 1.05)
        buf_printf(b, "%.2f times too large", 1 / ratio);
    else
        buf_printf(b, "agrees to 5 %%");
    if (bytes && rows[i].tokens)
        buf_printf(b, ": %.0f KiB a token, not %.0f", (double)figure_bytes(i) / (double)rows[i].tokens / 1024,
                   (double)bytes / (double)rows[i].tokens / 1024);
    buf_char(b, '\n');
}

/* The LLaMA rows lie on a line: what a token more adds to it. */
static void add_slope(struct buf *b, int element, err *e)
{
    enum { FIRST = 3, LAST = 7 };
    double tokens = (double)(rows[LAST].tokens - rows[FIRST].tokens);
    int64_t first = 0, last = 0;
    if (compute(FIRST, element, &first, e) || compute(LAST, element, &last, e)) return;
    buf_printf(b, "\nFrom 2k to 320k tokens the LLaMA figures rise by %.1f KiB a token, the computed ones by %.1f.\n",
               (double)(figure_bytes(LAST) - figure_bytes(FIRST)) / tokens / 1024, (double)(last - first) / tokens / 1024);
}

static json_t *row_json(int i, int64_t bytes)
{
    return json_pack("{s:s,s:o,s:s,s:I,s:o,s:o}", "row", rows[i].name, "tokens",
                     rows[i].tokens ? json_integer(rows[i].tokens) : json_null(), "figure", rows[i].figure, "figure_bytes",
                     (json_int_t)figure_bytes(i), "computed_bytes", bytes ? json_integer(bytes) : json_null(),
                     "computed_by_figure", bytes ? json_real((double)bytes / (double)figure_bytes(i)) : json_null());
}

int state_seed(const struct options *o, struct buf *out, err *e)
{
    const char *dtype = o->dtype ? o->dtype : "f16";
    json_t *list = json_array(), *all;
    char *text;
    int i;
    if (!o->json) buf_printf(out, "%s\n\n%-34s %8s %10s %11s  the figure is\n", SOURCE, "row", "tokens", "figure", dtype);
    for (i = 0; i < N_ROWS; i++) {
        int64_t bytes;
        if (compute(i, state_size_element(o->dtype), &bytes, e)) return json_decref(list), -1;
        if (o->json)
            json_array_append_new(list, row_json(i, bytes));
        else
            add_row(out, i, bytes);
    }
    if (!o->json) {
        add_slope(out, state_size_element(o->dtype), e);
        json_decref(list);
        return 0;
    }
    all = json_pack("{s:s,s:s,s:o}", "source", SOURCE, "dtype", dtype, "rows", list);
    text = json_dumps(all, JSON_COMPACT | JSON_REAL_PRECISION(6));
    buf_printf(out, "%s\n", text);
    free(text);
    json_decref(all);
    return 0;
}
