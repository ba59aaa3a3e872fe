/* trouble.c: what went wrong in the backend, for both threads that use it.
 *
 * A backend tells of a failure once, to whoever asks first. Here it is kept until the thread that computes has taken it; a lost
 * device stays lost, since nothing that is asked of it afterwards means anything.
 *
 * When memory runs out in a pass, what is asked of the backend until somebody has asked for the trouble does nothing. A thread
 * that reads a cache meanwhile would take nothing for its content, so it reads again when such trouble came up since it began.
 * It does not keep the device from computing: packing goes on beside the next batch.
 *
 * A backend may hold a lock of its own from begin to end, and is asked here under ours: so the thread of a pass must not take
 * ours inside of it, or each of two threads would wait for the other's.
 */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>

struct trouble {
    pthread_mutex_t lock;
    pthread_cond_t taken;
    bool passing;
    unsigned times; /* that memory ran out */
    enum { NONE, MEMORY, LOST } state;
    char text[256];
};

static _Thread_local const engine *in_pass; /* of this thread, NULL: none */

struct trouble *trouble_new(void)
{
    struct trouble *t = mem_alloc(sizeof *t);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->taken, NULL);
    return t;
}

void trouble_free(struct trouble *t)
{
    if (!t) return;
    pthread_mutex_destroy(&t->lock);
    pthread_cond_destroy(&t->taken);
    free(t);
}

/* The backend's latest news; the lock is held. */
static void listen(const engine *en, struct trouble *t)
{
    int memory = 0;
    const char *what = en->k->trouble(&memory);
    if (!what || t->state == LOST) return;
    snprintf(t->text, sizeof t->text, "%s: %s", en->k->name, what);
    t->state = memory ? MEMORY : LOST;
    t->times += t->state == MEMORY;
}

void trouble_pass(const engine *en)
{
    struct trouble *t = en->trouble;
    pthread_mutex_lock(&t->lock);
    t->passing = true;
    pthread_mutex_unlock(&t->lock);
    in_pass = en;
}

unsigned trouble_times(const engine *en)
{
    struct trouble *t = en->trouble;
    unsigned times;
    if (!en->gpu.k || in_pass == en) return 0; /* the pass itself reads caches for its captures; it fails anyway */
    pthread_mutex_lock(&t->lock);
    listen(en, t);
    while (t->state == MEMORY && t->passing) pthread_cond_wait(&t->taken, &t->lock);
    times = t->times;
    pthread_mutex_unlock(&t->lock);
    return times;
}

int trouble_take(const engine *en, err *e)
{
    struct trouble *t = en->trouble;
    int rc = 0;
    in_pass = NULL;
    pthread_mutex_lock(&t->lock);
    listen(en, t);
    if (t->state != NONE) rc = err_set(e, t->state == MEMORY ? ERR_MEMORY : ERR_ENV, "%s", t->text);
    if (t->state == MEMORY) t->state = NONE;
    t->passing = false;
    pthread_cond_broadcast(&t->taken);
    pthread_mutex_unlock(&t->lock);
    return rc;
}

int engine_lost(const engine *en, err *e)
{
    struct trouble *t = en->trouble;
    int rc = 0;
    if (!en->gpu.k) return 0;
    pthread_mutex_lock(&t->lock);
    listen(en, t);
    if (t->state == LOST) rc = err_set(e, ERR_ENV, "%s", t->text);
    pthread_mutex_unlock(&t->lock);
    return rc;
}
