/* job_metric.c: what the metrics of a spec need of its jobs: the tokens that answers begin with, and caches that are stored. */
#include "job_parts.h"

#include <stdlib.h>
#include <string.h>

static const double PARTS_MAX = 5e6; /* numbers of one metric */

/* ---- answers ---- */

static const char *shown(const struct expand *x, int token)
{
    size_t n;
    const char *p = engine_token_bytes(x->en, token, &n);
    return p ? arena_strndup(x->mem, p, n) : "";
}

/* The token that a text begins with behind a prompt: the text is cut into tokens as one with the prompt before it, since that
   is what the model has learned. Where this changes the prompt's own tokens there is no such token: -1, d tells. */
static int first_token(struct expand *x, const struct bound_prompt *p, const struct answer_text *a)
{
    bool bos = p->n_tokens && p->tokens[0].start == p->tokens[0].end && p->tokens[0].id == x->info->bos;
    struct buf text = {0};
    struct tokens t = {0};
    err e = {0};
    int i, first = 0;
    if (!strcmp(x->info->tokenizer_kind, "none")) {
        diag_add(x->d, DIAG_ERROR, "E390", a->at, a->width, "model '%s' has no tokenizer: an answer cannot be a text",
                 x->model);
        return -1;
    }
    if (p->n_bytes) {
        buf_add(&text, p->text, (size_t)p->n_bytes);
        first = p->n_tokens;
    }
    buf_str(&text, a->text);
    if (engine_tokenize(x->en, text.p, text.n, first && bos ? TOKENIZE_BOS : 0, &t, &e)) {
        diag_add(x->d, DIAG_ERROR, "E390", a->at, a->width, "answer '%s': %s", a->text, e.msg);
        first = -1;
    }
    for (i = 0; first > 0 && i < first; i++)
        if (i >= t.n || t.t[i].id != p->ids[i]) first = -2;
    if (first >= t.n) first = -2;
    if (first == -2) {
        diag_add(
            x->d, DIAG_ERROR, "E391", a->at, a->width,
            "the first token of answer '%s' is not clear: behind prompt '%s' it grows together with the prompt's last word",
            a->text, p->prompt->name);
        diag_help(x->d, "help: begin the answer with a space, or end the prompt before its last space");
    }
    i = first >= 0 ? t.t[first].id : -1;
    free(t.t);
    buf_free(&text);
    return i;
}

/* The answer of a metric for the prompt called name; NULL: it has none. */
static const struct answer_text *find_answer(const struct metric *m, const char *name)
{
    int i;
    for (i = 0; i < m->n_answers; i++)
        if (!m->answers[i].key || (name && !strcmp(m->answers[i].key, name))) return &m->answers[i];
    return NULL;
}

static int put_token(struct expand *x, const struct bound_prompt *p, const struct answer_text *a, int *out)
{
    if (!a) return 0;
    *out = first_token(x, p, a);
    return *out < 0 ? -1 : 0;
}

/* Both tokens of a metric on a prompt; -1 where it names none. */
static int answer_of(struct expand *x, const struct bound_prompt *p, const struct metric *m, struct job_answer *out)
{
    const char *own = p->prompt->name, *other = p->prompt->other >= 0 ? x->s->prompts[p->prompt->other].name : NULL;
    const struct answer_text *a = find_answer(m, m->which == WHICH_OTHER ? other : own), *b = NULL;
    *out = (struct job_answer){-1, -1};
    if (m->kind == METRIC_LOGIT_DIFF)
        b = m->which == WHICH_ANY ? &m->answers[1] : find_answer(m, m->which == WHICH_OTHER ? own : other);
    if (put_token(x, p, a, &out->a) || put_token(x, p, b, &out->b)) return -1;
    if (out->a < 0 || out->a != out->b) return 0;
    diag_add(x->d, DIAG_ERROR, "E392", a->at, a->width, "the answers '%s' and '%s' begin with the same token '%s'", a->text,
             b->text, shown(x, out->a));
    diag_help(x->d, "help: logits are compared at the first token, where these two do not differ");
    return -1;
}

static int compare_ints(const void *a, const void *b)
{
    return *(const int *)a < *(const int *)b ? -1 : *(const int *)a > *(const int *)b;
}

/* The tokens asked for behind prompt p, rising, each once. */
static void collect(struct expand *x, struct jobs *all, int p)
{
    int n = 0, i, kept = 0, *ids = arena_array(x->mem, 2 * (size_t)x->s->n_metrics, sizeof *ids);
    for (i = 0; i < x->s->n_metrics; i++) {
        const struct job_answer *a = &all->answers[(size_t)i * (size_t)all->n_prompts + (size_t)p];
        if (x->s->metrics[i].step) continue;
        if (a->a >= 0) ids[n++] = a->a;
        if (a->b >= 0) ids[n++] = a->b;
    }
    if (n) qsort(ids, (size_t)n, sizeof *ids, compare_ints);
    for (i = 0; i < n; i++)
        if (kept == 0 || ids[kept - 1] != ids[i]) ids[kept++] = ids[i];
    all->asked[p] = (struct job_asked){ids, kept};
}

static int bind_answers(struct expand *x, struct jobs *all)
{
    size_t n = (size_t)all->n_prompts;
    int i, p, any = 0, rc = 0;
    all->answers = arena_array(x->mem, (size_t)x->s->n_metrics * n, sizeof *all->answers);
    all->asked = arena_array(x->mem, n, sizeof *all->asked);
    for (i = 0; i < x->s->n_metrics; i++)
        for (p = 0; p < all->n_prompts; p++) {
            struct job_answer *a = &all->answers[(size_t)i * n + (size_t)p];
            *a = (struct job_answer){-1, -1};
            if (!x->s->metrics[i].n_answers || !all->prompts[p].n_tokens) continue;
            any = 1;
            if (diag_errors(x->d) > DIAG_MAX || answer_of(x, &all->prompts[p], &x->s->metrics[i], a)) rc = -1;
        }
    for (p = 0; any && !rc && p < all->n_prompts; p++) collect(x, all, p);
    return rc;
}

/* ---- caches ---- */

static int no_capture(struct expand *x, const struct metric *m, struct mark at, const char *what, const struct job *j)
{
    static const char *const names[] = {[MOMENT_PREFILL] = "prefill", [MOMENT_EDITED] = "edited", [MOMENT_END] = "end"};
    const char *moment = names[m->moment];
    if (m->moment == MOMENT_EDITED && j->n_ops == 0) moment = names[MOMENT_PREFILL]; /* the same cache, and the usual wish */
    diag_add(x->d, DIAG_ERROR, "E393", at, (int)strlen(what),
             "metric '%s' needs the cache of '%s' at moment '%s', which is not captured", m->name, j->label, names[m->moment]);
    diag_help(x->d, "help: capture: { kv: [{ of: [%s], moments: [%s] }] }", j->condition_name, moment);
    if (!m->between[0]) diag_help(x->d, "or name the conditions that the metric is for: of: [CONDITION]");
    return -1;
}

static int find_label(const struct jobs *all, const char *label)
{
    int i;
    for (i = 0; i < all->n; i++)
        if (!strcmp(all->jobs[i].label, label)) return i;
    return -1;
}

static int bind_between(struct expand *x, const struct jobs *all, const struct metric *m, double *parts)
{
    int i, rc = 0;
    for (i = 0; i < 2; i++) {
        int job = find_label(all, m->between[i]);
        if (job < 0) {
            diag_add(x->d, DIAG_ERROR, "E394", m->between_at[i], (int)strlen(m->between[i]), "between: there is no job '%s'",
                     m->between[i]);
            diag_help(x->d, "help: a label is PROMPT/CONDITION, and /AXIS=VALUE for each axis; kvrun plan shows them");
            rc = -1;
        } else if (!job_moment(all, job, m->moment))
            rc = no_capture(x, m, m->between_at[i], m->between[i], &all->jobs[job]);
        else
            *parts = 1;
    }
    return rc;
}

/* Numbers that a metric makes of one job. */
static double parts_of(const struct expand *x, const struct metric *m, int n_tokens)
{
    double n = 1;
    if (m->per & PER_LAYER) n *= x->info->n_layer;
    if (m->per & PER_HEAD) n *= x->info->n_kv_head;
    if (m->per & PER_TENSOR) n *= 2;
    return m->per & PER_POSITION ? n * n_tokens : n;
}

/* The first job of each condition stands for the others: they capture the same. */
static int bind_delta(struct expand *x, const struct jobs *all, const struct metric *m)
{
    bool *seen = mem_array((size_t)x->s->n_conditions, sizeof *seen);
    double parts = 0;
    int i, rc = m->between[0] ? bind_between(x, all, m, &parts) : 0;
    if (m->between[0]) parts *= parts_of(x, m, x->prompts[0].n_tokens);
    for (i = 0; !m->between[0] && i < all->n; i++) {
        const struct job *j = &all->jobs[i];
        bool in = job_in_delta(x->s, m, j);
        if (in) parts += parts_of(x, m, all->prompts[j->prompt].n_tokens);
        if (j->condition < 0 || seen[j->condition] || (!in && j->condition != m->against)) continue;
        seen[j->condition] = true;
        if (!job_moment(all, i, m->moment)) rc = no_capture(x, m, m->at, m->name, j);
    }
    free(seen);
    if (rc || parts <= PARTS_MAX) return rc;
    diag_add(x->d, DIAG_ERROR, "E395", m->at, (int)strlen(m->name), "metric '%s' would make %.0f numbers; at most %.0f",
             m->name, parts, PARTS_MAX);
    diag_help(x->d, "help: fewer of per: [layer, position, head, tensor], or of: [CONDITION]");
    return -1;
}

int job_metrics(struct expand *x, struct jobs *all)
{
    int i, rc = bind_answers(x, all);
    for (i = 0; i < x->s->n_metrics; i++)
        if (x->s->metrics[i].kind == METRIC_KV_DELTA && bind_delta(x, all, &x->s->metrics[i])) rc = -1;
    return rc;
}
