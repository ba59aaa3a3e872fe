/* writer.c: a bounded queue and the one thread behind it. */
#include "writer.h"

#include <pthread.h>
#include <stdlib.h>

struct writer {
    store *st;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct finished *first, *last;
    int n, room;
    bool closing;
    err error; /* first failure of the store */
};

void writer_drop(struct finished *f)
{
    int i;
    if (!f) return;
    for (i = 0; i < 3; i++) cache_free(f->caches[i]);
    cache_free(f->row.cache);
    for (i = 0; i < f->result.n_activations; i++) free(f->activations[i].values);
    free(f->activations);
    free(f->logits);
    free(f->answers);
    gen_row_clear(&f->row);
    free(f->text);
    free(f);
}

/* The next result, waiting for one; NULL when the queue is closed and empty. */
static struct finished *take(writer *w)
{
    struct finished *f;
    pthread_mutex_lock(&w->lock);
    while (!w->first && !w->closing) pthread_cond_wait(&w->changed, &w->lock);
    f = w->first;
    if (f) {
        w->first = f->next;
        if (!w->first) w->last = NULL;
        w->n--;
        pthread_cond_broadcast(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
    return f;
}

static void *work(void *arg)
{
    writer *w = arg;
    struct finished *f;
    while ((f = take(w))) {
        err e = {0};
        if (!writer_failed(w) && store_put(w->st, &f->result, &e)) {
            pthread_mutex_lock(&w->lock);
            w->error = e;
            pthread_mutex_unlock(&w->lock);
        }
        writer_drop(f);
    }
    return NULL;
}

writer *writer_start(store *st, int room)
{
    writer *w = mem_alloc(sizeof *w);
    w->st = st;
    w->room = room;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    if (pthread_create(&w->thread, NULL, work, w)) err_set(&w->error, ERR_INTERNAL, "no thread for writing results");
    return w;
}

void writer_put(writer *w, struct finished *f)
{
    f->next = NULL;
    pthread_mutex_lock(&w->lock);
    while (w->n >= w->room && !w->error.code) pthread_cond_wait(&w->changed, &w->lock);
    if (w->last)
        w->last->next = f;
    else
        w->first = f;
    w->last = f;
    w->n++;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

bool writer_failed(writer *w)
{
    bool failed;
    pthread_mutex_lock(&w->lock);
    failed = w->error.code != 0;
    pthread_mutex_unlock(&w->lock);
    return failed;
}

int writer_finish(writer *w, err *e)
{
    int rc = 0;
    pthread_mutex_lock(&w->lock);
    w->closing = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    if (w->error.code) rc = err_set(e, w->error.code, "%s", w->error.msg);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->changed);
    free(w);
    return rc;
}
