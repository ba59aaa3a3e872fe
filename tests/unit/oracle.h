/* oracle.h: the tiny models of tests/golden/tiny and of $KVRUN_ORACLE, and what transformers computes with them
 * (tests/oracle/tiny.py says what each file holds).
 *
 *     struct oracle o;
 *     for (i = 0; i < oracle_folders(&list); i++) { oracle_open(&o, list.path[i]); ...; oracle_close(&o); }
 */
#ifndef TESTS_ORACLE_H
#define TESTS_ORACLE_H

#include "../../engine/internal.h"

#include <dirent.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

enum { ORACLE_FOLDERS = 256, ORACLE_TOKENS = 512 };

struct oracle_list {
    int n;
    char *path[ORACLE_FOLDERS];
};

static inline int oracle_compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static inline void oracle_add(struct oracle_list *list, const char *folder)
{
    DIR *d = opendir(folder);
    struct dirent *entry;
    if (!d) return;
    while ((entry = readdir(d))) {
        char path[1024];
        struct stat st;
        snprintf(path, sizeof path, "%s/%s/config.json", folder, entry->d_name);
        if (entry->d_name[0] == '.' || stat(path, &st) || list->n == ORACLE_FOLDERS) continue;
        *strrchr(path, '/') = 0;
        list->path[list->n++] = mem_strdup(path);
    }
    closedir(d);
}

/* All folders with models, sorted; at least one of each architecture is in the repository. */
static inline int oracle_folders(struct oracle_list *list)
{
    const char *more = getenv("KVRUN_ORACLE");
    list->n = 0;
    oracle_add(list, "tests/golden/tiny");
    if (more) oracle_add(list, more);
    qsort(list->path, (size_t)list->n, sizeof *list->path, oracle_compare);
    return list->n;
}

static inline void oracle_folders_free(struct oracle_list *list)
{
    int i;
    for (i = 0; i < list->n; i++) free(list->path[i]);
}

struct oracle {
    const char *folder;
    engine *en;
    const struct engine_info *info;
    json_t *expected;     /* expected.json */
    safetensors *tensors; /* expected.safetensors */
    int prompt[ORACLE_TOKENS], donor[ORACLE_TOKENS], at[ORACLE_TOKENS];
    int n, n_at;
};

static inline int oracle_ints(const json_t *array, int *out)
{
    size_t i;
    assert_true(json_is_array(array) && json_array_size(array) <= ORACLE_TOKENS);
    for (i = 0; i < json_array_size(array); i++) out[i] = (int)json_integer_value(json_array_get(array, i));
    return (int)json_array_size(array);
}

static inline engine *oracle_engine(const char *folder, struct engine_opts o)
{
    engine *en = NULL;
    err e = {0};
    o.path = folder;
    if (engine_open(&en, &o, &e)) fail_msg("%s", e.msg);
    return en;
}

static inline void oracle_open(struct oracle *o, const char *folder)
{
    char path[1100];
    err e = {0};
    memset(o, 0, sizeof *o);
    o->folder = folder;
    o->en = oracle_engine(folder, (struct engine_opts){.threads = 2});
    o->info = engine_info(o->en);
    snprintf(path, sizeof path, "%s/expected.json", folder);
    o->expected = json_load_file(path, 0, NULL);
    if (!o->expected) fail_msg("%s cannot be read", path);
    snprintf(path, sizeof path, "%s/expected.safetensors", folder);
    if (safetensors_open(&o->tensors, path, &e)) fail_msg("%s: %s", path, e.msg);
    o->n = oracle_ints(json_object_get(o->expected, "prompt"), o->prompt);
    assert_int_equal(oracle_ints(json_object_get(o->expected, "donor"), o->donor), o->n);
    o->n_at = oracle_ints(json_object_get(o->expected, "positions"), o->at);
    assert_true(o->n > 1 && o->n_at > 0);
}

static inline void oracle_close(struct oracle *o)
{
    engine_free(o->en);
    json_decref(o->expected);
    safetensors_close(o->tensors);
}

static inline cache *oracle_prefill(engine *en, const int *ids, int n)
{
    cache *c = NULL;
    err e = {0};
    assert_int_equal(cache_new(&c, en, &e), 0);
    if (cache_feed(c, ids, n, NULL, &e)) fail_msg("%s", e.msg);
    return c;
}

/* An edit of the oracle's positions: all layers and heads unless lists are given. */
struct oracle_edit {
    int layers[64], heads[64];
    struct edit ed;
};

static inline struct edit *oracle_edit(struct oracle_edit *w, const struct oracle *o, enum edit_op op, int tensors)
{
    int i;
    for (i = 0; i < 64; i++) w->layers[i] = w->heads[i] = i;
    w->ed = (struct edit){.op = op,
                          .tensors = tensors,
                          .layers = w->layers,
                          .heads = w->heads,
                          .at = o->at,
                          .donor_at = o->at,
                          .n_layers = o->info->n_layer,
                          .n_heads = o->info->n_kv_head,
                          .n_at = o->n_at};
    return &w->ed;
}

#endif
