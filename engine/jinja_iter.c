/* jinja_iter.c: drawing items from a value, one at a time. */
#include "jinja.h"

struct iter *jinja_iter_new(struct jinja *j, bool (*next)(struct jinja *, struct iter *, struct val *))
{
    struct iter *it = jinja_alloc(j, sizeof *it);
    it->next = next;
    return it;
}

static bool iter_list(struct jinja *j, struct iter *it, struct val *out)
{
    (void)j;
    if (it->i >= it->of.l->n) return false;
    *out = it->of.l->p[it->i++];
    return true;
}

static bool iter_text(struct jinja *j, struct iter *it, struct val *out)
{
    const struct text *t = it->of.s;
    int32_t c;
    size_t n;
    if (it->i >= t->n) return false;
    n = jinja_char(t->p + it->i, t->n - it->i, &c);
    *out = jinja_sub(j, t, it->i, it->i + n);
    it->i += n;
    return true;
}

static bool iter_dict(struct jinja *j, struct iter *it, struct val *out)
{
    bool view = it->of.type == VAL_VIEW;
    const struct dict *d = view ? it->of.view->d : it->of.d;
    const struct pair *p;
    if (it->i >= d->n) return false;
    p = &d->p[it->i++];
    if (!view || it->of.view->kind == VIEW_KEYS)
        *out = p->k;
    else
        *out = it->of.view->kind == VIEW_VALUES ? p->v : jinja_pair(j, p->k, p->v);
    return true;
}

static bool iter_range(struct jinja *j, struct iter *it, struct val *out)
{
    const struct range *r = it->of.range;
    (void)j;
    if (it->i >= (size_t)r->n) return false;
    *out = jinja_int(r->start + (int64_t)it->i++ * r->step);
    return true;
}

static bool iter_nothing(struct jinja *j, struct iter *it, struct val *out)
{
    (void)j;
    (void)it;
    (void)out;
    return false;
}

bool jinja_iterable(struct val v)
{
    return v.type == VAL_ITER || jinja_sized(v);
}

struct iter *jinja_iter(struct jinja *j, struct val v)
{
    bool (*next)(struct jinja *, struct iter *, struct val *) = NULL;
    struct iter *it;
    switch (v.type) {
    case VAL_ITER: return v.it;
    case VAL_LIST:
    case VAL_TUPLE: next = iter_list; break;
    case VAL_STR:
    case VAL_MARKUP: next = iter_text; break;
    case VAL_DICT:
    case VAL_VIEW: next = iter_dict; break;
    case VAL_RANGE: next = iter_range; break;
    case VAL_UNDEFINED: next = iter_nothing; break;
    case VAL_LOOP: jinja_unsupported(j, "iterating over 'loop'"); return NULL;
    default: jinja_fail(j, "a %s cannot be iterated over", jinja_type(v)); return NULL;
    }
    it = jinja_iter_new(j, next);
    it->of = v;
    return it;
}

bool jinja_next(struct jinja *j, struct iter *it, struct val *out)
{
    return jinja_charge(j, 0) && it->next(j, it, out) && !j->failed;
}

struct val jinja_to_list(struct jinja *j, struct val v, enum val_type type)
{
    struct val l = jinja_list(j, type), item;
    struct iter *it = jinja_iter(j, v);
    while (it && jinja_next(j, it, &item)) jinja_push(j, l.l, item);
    return l;
}

struct val jinja_iter_val(struct jinja *j, struct val list)
{
    return (struct val){.type = VAL_ITER, .it = jinja_iter(j, list)};
}

struct val jinja_dict_view(struct jinja *j, const struct dict *d, enum view_kind kind)
{
    struct view *w = jinja_alloc(j, sizeof *w);
    w->kind = kind;
    w->d = d;
    return (struct val){.type = VAL_VIEW, .view = w};
}
