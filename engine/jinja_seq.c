/* jinja_seq.c: filters of sequences. Those that are generators in Jinja are iterators here: drawn from once, lazily. */
#include "jinja.h"

/* ---- keys: attribute=..., case ---- */

/* One step of a path: a number is an index. */
static struct val seq_step(struct jinja *j, struct val of, const struct text *path, size_t start, size_t end)
{
    struct val key = jinja_sub(j, path, start, end);
    int64_t n = 0;
    size_t i;
    for (i = start; i < end && path->p[i] >= '0' && path->p[i] <= '9' && i - start < 15; i++) n = n * 10 + path->p[i] - '0';
    return jinja_item(j, of, i == end && end > start ? jinja_int(n) : key);
}

/* "a.b.0", or one key; what is undefined on the way becomes `absent` unless that is missing or None. */
static struct val seq_path_or(struct jinja *j, struct val of, struct val path, struct val absent)
{
    size_t start = 0, end;
    bool use = absent.type != VAL_MISSING && absent.type != VAL_NONE;
    if (path.type == VAL_NONE || path.type == VAL_MISSING) return of;
    if (path.type != VAL_STR) {
        of = jinja_item(j, of, path);
        return use && of.type == VAL_UNDEFINED ? absent : of;
    }
    for (; start <= path.s->n && !j->failed; start = end + 1) {
        for (end = start; end < path.s->n && path.s->p[end] != '.'; end++) {
        }
        of = seq_step(j, of, path.s, start, end);
        if (use && of.type == VAL_UNDEFINED) of = absent;
    }
    return of;
}

static struct val seq_by_path(struct jinja *j, struct val of, struct val path)
{
    return seq_path_or(j, of, path, jinja_missing());
}

static struct val seq_fold(struct jinja *j, struct val v, bool case_sensitive)
{
    return v.type == VAL_STR && !case_sensitive ? jinja_case(j, v.s, CASE_LOWER) : v;
}

static bool seq_flag(struct jinja *j, const struct args *a, int i)
{
    return a->v[i].type != VAL_MISSING && jinja_true(j, a->v[i]);
}

/* sorted() wants a number there, not just any truth. */
static bool seq_reverse_flag(struct jinja *j, const struct args *a, int i)
{
    int64_t flag = 0;
    return a->v[i].type != VAL_MISSING && jinja_arg_int(j, a, i, &flag) && flag != 0;
}

/* ---- map, select and their kin ---- */

static struct list *seq_rest(struct jinja *j, const struct list *l, size_t from)
{
    struct list *rest = jinja_list(j, VAL_LIST).l;
    for (; from < l->n; from++) jinja_push(j, rest, l->p[from]);
    return rest;
}

static struct val *seq_keyword(struct jinja *j, const struct args *a, const char *name)
{
    return jinja_dict_get(j, a->kw, jinja_cstr(j, name));
}

static void seq_check_args(struct jinja *j, const struct args *a)
{
    bool map = a->name[0] == 'm';
    if (map && a->pos->n == 0) {
        if (!seq_keyword(j, a, "attribute"))
            jinja_fail(j, "map needs the name of a filter");
        else if (a->kw->n > (seq_keyword(j, a, "default") ? 2u : 1u))
            jinja_fail(j, "map: unexpected keyword argument");
    } else if (strstr(a->name, "attr") && a->pos->n == 0) {
        jinja_fail(j, "%s needs the name of an attribute", a->name);
    }
}

/* Draws the next item of what the filter stands on; an empty or false value gives none. */
static bool seq_draw(struct jinja *j, struct iter *it, struct val *out)
{
    if (!it->src) {
        if (!jinja_true(j, it->of)) return false;
        seq_check_args(j, it->args);
        it->src = j->failed ? NULL : jinja_iter(j, it->of);
    }
    return it->src && jinja_next(j, it->src, out);
}

static struct val seq_apply(struct jinja *j, struct val item, const struct args *a, size_t name_at, bool filter)
{
    struct args call = {.self = item, .pos = seq_rest(j, a->pos, name_at + 1), .kw = a->kw};
    struct val name = a->pos->p[name_at];
    const struct builtin *fn = NULL;
    if (name.type == VAL_STR) fn = filter ? jinja_filter(name.s) : jinja_test(name.s);
    if (!fn) return jinja_fail(j, "%s: no such %s", a->name, filter ? "filter" : "test");
    return jinja_call_builtin(j, fn, &call, filter ? "filter" : "test");
}

static bool seq_map_next(struct jinja *j, struct iter *it, struct val *out)
{
    const struct args *a = it->args;
    const struct val *path = a->pos->n ? NULL : seq_keyword(j, a, "attribute"), *absent;
    struct val item;
    if (!seq_draw(j, it, &item)) return false;
    if (path) {
        absent = seq_keyword(j, a, "default");
        *out = seq_path_or(j, item, *path, absent ? *absent : jinja_missing());
    } else {
        *out = seq_apply(j, item, a, 0, true);
    }
    return !j->failed;
}

static bool seq_select_next(struct jinja *j, struct iter *it, struct val *out)
{
    const struct args *a = it->args;
    bool reject = a->name[0] == 'r', attr = strstr(a->name, "attr") != NULL, yes;
    size_t test_at = attr;
    while (seq_draw(j, it, out)) {
        struct val v = *out;
        if (attr) v = seq_by_path(j, v, a->pos->p[0]);
        if (j->failed) break;
        yes = jinja_true(j, a->pos->n > test_at ? seq_apply(j, v, a, test_at, false) : v);
        if (yes != reject) return !j->failed;
    }
    return false;
}

static struct val seq_lazy(struct jinja *j, struct args *a)
{
    struct iter *it = jinja_iter_new(j, a->name[0] == 'm' ? seq_map_next : seq_select_next);
    it->of = a->self;
    it->args = jinja_alloc(j, sizeof *it->args);
    *it->args = *a;
    return (struct val){.type = VAL_ITER, .it = it};
}

/* ---- sort, unique, min, max ---- */

struct keyed {
    struct val *keys; /* (n_keys) */
    struct val v;
};

/* -1, 0 or 1 as Python compares lists of keys. */
static int seq_compare(struct jinja *j, const struct keyed *a, const struct keyed *b, size_t n_keys)
{
    size_t i;
    for (i = 0; i < n_keys && !j->failed; i++)
        if (!jinja_eq(j, a->keys[i], b->keys[i])) return jinja_cmp(j, a->keys[i], b->keys[i], "<");
    return 0;
}

/* Merge sort, stable in both directions. */
static void seq_sort_range(struct jinja *j, struct keyed *p, struct keyed *spare, size_t n, size_t n_keys, bool reverse)
{
    size_t half = n / 2, i = 0, k = half, out = 0;
    if (n < 2 || j->failed) return;
    seq_sort_range(j, p, spare, half, n_keys, reverse);
    seq_sort_range(j, p + half, spare, n - half, n_keys, reverse);
    while (i < half && k < n && !j->failed) {
        int c = reverse ? seq_compare(j, &p[i], &p[k], n_keys) : seq_compare(j, &p[k], &p[i], n_keys);
        spare[out++] = c == -1 ? p[k++] : p[i++];
    }
    while (i < half) spare[out++] = p[i++];
    while (k < n) spare[out++] = p[k++];
    memcpy(p, spare, n * sizeof *p);
}

static struct val seq_sorted(struct jinja *j, struct val items, struct val paths, bool case_sensitive, bool reverse)
{
    struct val l = jinja_to_list(j, items, VAL_LIST), split = jinja_list(j, VAL_LIST);
    struct keyed *p;
    size_t i, k, start = 0;
    if (paths.type == VAL_STR) { /* "age,name" */
        for (i = 0; i <= paths.s->n; i++) {
            if (i < paths.s->n && paths.s->p[i] != ',') continue;
            jinja_push(j, split.l, jinja_sub(j, paths.s, start, i));
            start = i + 1;
        }
    } else {
        jinja_push(j, split.l, paths);
    }
    p = jinja_array(j, l.l->n + 1, 2 * sizeof *p);
    for (i = 0; i < l.l->n && !j->failed; i++) {
        p[i].v = l.l->p[i];
        p[i].keys = jinja_alloc(j, split.l->n * sizeof *p[i].keys);
        for (k = 0; k < split.l->n; k++) p[i].keys[k] = seq_fold(j, seq_by_path(j, p[i].v, split.l->p[k]), case_sensitive);
    }
    if (j->failed) return l;
    seq_sort_range(j, p, p + l.l->n, l.l->n, split.l->n, reverse);
    for (i = 0; i < l.l->n; i++) l.l->p[i] = p[i].v;
    return l;
}

/* sort(reverse=False, case_sensitive=False, attribute=None) */
static struct val seq_sort(struct jinja *j, struct args *a)
{
    return seq_sorted(j, a->self, a->v[2], seq_flag(j, a, 1), seq_reverse_flag(j, a, 0));
}

/* dictsort(case_sensitive=False, by="key", reverse=False) */
static struct val seq_dictsort(struct jinja *j, struct args *a)
{
    const struct text *by = a->v[1].type == VAL_MISSING ? NULL : jinja_arg_text(j, a, 1);
    bool value = by && jinja_text_is(by, "value");
    if (a->v[1].type != VAL_MISSING && !by) return a->self;
    if (by && !value && !jinja_text_is(by, "key")) return jinja_fail(j, "dictsort: sorts by key or value");
    if (a->self.type != VAL_DICT) return jinja_fail(j, "dictsort of a %s", jinja_type(a->self));
    return seq_sorted(j, jinja_dict_view(j, a->self.d, VIEW_ITEMS), jinja_int(value), seq_flag(j, a, 0),
                      seq_reverse_flag(j, a, 2));
}

/* unique(case_sensitive=False, attribute=None) */
static struct val seq_unique(struct jinja *j, struct args *a)
{
    struct val l = jinja_list(j, VAL_LIST), v;
    struct dict *seen = jinja_dict(j).d;
    struct iter *it = jinja_iter(j, a->self);
    while (it && jinja_next(j, it, &v)) {
        struct val key = seq_fold(j, seq_by_path(j, v, a->v[1]), seq_flag(j, a, 0));
        if (!jinja_hashable(key)) jinja_fail(j, "unique: a %s cannot be compared", jinja_type(key));
        if (j->failed) break;
        if (jinja_dict_get(j, seen, key)) continue;
        jinja_dict_set(j, seen, key, jinja_none());
        jinja_push(j, l.l, v);
    }
    return jinja_iter_val(j, l);
}

/* min, max(case_sensitive=False, attribute=None): the first of equals */
static struct val seq_extreme(struct jinja *j, struct args *a)
{
    bool max = a->name[1] == 'a', any = false;
    struct iter *it = jinja_iter(j, a->self);
    struct val best = jinja_undefined_hint(j, "no item: the sequence was empty"), best_key = best, v;
    while (it && jinja_next(j, it, &v)) {
        struct val key = seq_fold(j, seq_by_path(j, v, a->v[1]), seq_flag(j, a, 0));
        if (any && jinja_cmp(j, key, best_key, max ? ">" : "<") != (max ? 1 : -1)) continue;
        any = true;
        best = v;
        best_key = key;
    }
    return best;
}

/* sum(attribute=None, start=0) */
static struct val seq_sum(struct jinja *j, struct args *a)
{
    struct val sum = a->v[1].type == VAL_MISSING ? jinja_int(0) : a->v[1], v;
    struct iter *it;
    if (jinja_is_str(sum)) return jinja_fail(j, "sum of texts");
    it = jinja_iter(j, a->self);
    while (it && jinja_next(j, it, &v)) sum = jinja_binary(j, OP_ADD, sum, seq_by_path(j, v, a->v[0]));
    return sum;
}

/* ---- order and parts ---- */

static bool seq_reversible(struct val v)
{
    return jinja_sized(v) && v.type != VAL_LOOP;
}

static struct val seq_reversed(struct jinja *j, struct val v)
{
    struct val l = jinja_to_list(j, v, VAL_LIST);
    size_t i;
    for (i = 0; i < l.l->n / 2; i++) {
        struct val x = l.l->p[i];
        l.l->p[i] = l.l->p[l.l->n - 1 - i];
        l.l->p[l.l->n - 1 - i] = x;
    }
    return l;
}

static struct val seq_reverse(struct jinja *j, struct args *a)
{
    struct val l;
    struct buf b = {0};
    size_t i;
    if (a->self.type == VAL_MARKUP) return jinja_unsupported(j, "reverse of a text marked safe");
    l = seq_reversed(j, a->self);
    if (a->self.type == VAL_ITER || j->failed) return l;
    if (a->self.type != VAL_STR) return jinja_iter_val(j, l);
    for (i = 0; i < l.l->n; i++) jinja_put(j, &b, l.l->p[i].s->p, l.l->p[i].s->n);
    return jinja_take(j, &b);
}

static struct val seq_first(struct jinja *j, struct args *a)
{
    struct iter *it = jinja_iter(j, a->self);
    struct val v;
    if (it && jinja_next(j, it, &v)) return v;
    return j->failed ? a->self : jinja_undefined_hint(j, "no first item: the sequence was empty");
}

static struct val seq_last(struct jinja *j, struct args *a)
{
    struct val l;
    if (!seq_reversible(a->self)) return jinja_fail(j, "last of a %s", jinja_type(a->self));
    l = jinja_to_list(j, a->self, VAL_LIST);
    if (j->failed) return a->self;
    return l.l->n ? l.l->p[l.l->n - 1] : jinja_undefined_hint(j, "no last item: the sequence was empty");
}

static struct val seq_list(struct jinja *j, struct args *a)
{
    return jinja_to_list(j, a->self, VAL_LIST);
}

static bool seq_no_items(struct jinja *j, struct iter *it, struct val *out)
{
    (void)out;
    jinja_fail(j, "items of a %s", jinja_type(it->of));
    return false;
}

static struct val seq_items(struct jinja *j, struct args *a)
{
    if (a->self.type == VAL_UNDEFINED) return jinja_iter_val(j, jinja_list(j, VAL_LIST));
    if (a->self.type != VAL_DICT) { /* an error only when something is drawn */
        struct iter *it = jinja_iter_new(j, seq_no_items);
        it->of = a->self;
        return (struct val){.type = VAL_ITER, .it = it};
    }
    return jinja_iter_val(j, jinja_dict_view(j, a->self.d, VIEW_ITEMS));
}

/* join(d="", attribute=None) */
static struct val seq_join(struct jinja *j, struct args *a)
{
    struct val d = a->v[0].type == VAL_MISSING ? jinja_cstr(j, "") : jinja_to_str(j, a->v[0]), v;
    struct iter *it = j->failed ? NULL : jinja_iter(j, a->self);
    struct buf b = {0};
    bool first = true;
    while (it && jinja_next(j, it, &v)) {
        if (!first) jinja_put(j, &b, d.s->p, d.s->n);
        first = false;
        jinja_put_str(j, &b, seq_by_path(j, v, a->v[1]));
    }
    return jinja_take(j, &b);
}

/* batch(linecount, fill_with=None) */
static struct val seq_batch(struct jinja *j, struct args *a)
{
    struct val all = jinja_list(j, VAL_LIST), row = jinja_list(j, VAL_LIST), v;
    struct iter *it = jinja_iter(j, a->self);
    int64_t n;
    if (!jinja_arg_int(j, a, 0, &n)) return a->self;
    if (n < 1) return jinja_unsupported(j, "batch of less than one item");
    while (it && jinja_next(j, it, &v)) {
        if ((int64_t)row.l->n == n) {
            jinja_push(j, all.l, row);
            row = jinja_list(j, VAL_LIST);
        }
        jinja_push(j, row.l, v);
    }
    if (row.l->n && a->v[1].type != VAL_MISSING && a->v[1].type != VAL_NONE)
        while ((int64_t)row.l->n < n && jinja_charge(j, 0)) jinja_push(j, row.l, a->v[1]);
    if (row.l->n) jinja_push(j, all.l, row);
    return jinja_iter_val(j, all);
}

/* slice(slices, fill_with=None): columns, the first ones longer */
static struct val seq_slice(struct jinja *j, struct args *a)
{
    struct val all = jinja_list(j, VAL_LIST), l = jinja_to_list(j, a->self, VAL_LIST);
    int64_t n, i, at = 0, k;
    if (!jinja_arg_int(j, a, 0, &n)) return a->self;
    if (n < 1) return jinja_unsupported(j, "slice into less than one part");
    for (i = 0; i < n && jinja_charge(j, 0); i++) {
        struct val row = jinja_list(j, VAL_LIST);
        int64_t size = (int64_t)l.l->n / n + (i < (int64_t)l.l->n % n);
        for (k = 0; k < size; k++) jinja_push(j, row.l, l.l->p[at++]);
        if (i >= (int64_t)l.l->n % n && a->v[1].type != VAL_MISSING && a->v[1].type != VAL_NONE) jinja_push(j, row.l, a->v[1]);
        jinja_push(j, all.l, row);
    }
    return jinja_iter_val(j, all);
}

const struct builtin jinja_seq_filters[] = {
    {"batch", seq_batch, "linecount fill_with?"},
    {"dictsort", seq_dictsort, "case_sensitive? by? reverse?"},
    {"first", seq_first, ""},
    {"items", seq_items, ""},
    {"join", seq_join, "d? attribute?"},
    {"last", seq_last, ""},
    {"list", seq_list, ""},
    {"map", seq_lazy, "*"},
    {"max", seq_extreme, "case_sensitive? attribute?"},
    {"min", seq_extreme, "case_sensitive? attribute?"},
    {"reject", seq_lazy, "*"},
    {"rejectattr", seq_lazy, "*"},
    {"reverse", seq_reverse, ""},
    {"select", seq_lazy, "*"},
    {"selectattr", seq_lazy, "*"},
    {"slice", seq_slice, "slices fill_with?"},
    {"sort", seq_sort, "reverse? case_sensitive? attribute?"},
    {"sum", seq_sum, "attribute? start?"},
    {"unique", seq_unique, "case_sensitive? attribute?"},
    {NULL, NULL, NULL},
};
