/* trouble.c: what went wrong in the backend, for both threads that use it.
 *
 * A backend tells of a failure once, to whoever asks first. Here it is kept until the thread that computes has taken it; a lost
 * device stays lost, since nothing that is asked of it afterwards means anything.
 *
 * When memory runs out in a pass, what is asked of the backend until somebody has asked for the trouble does nothing. So that a
 * thread which reads a cache meanwhile does not take zeros for its content, a pass holds the device until its trouble is taken.
 */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>

struct trouble {
    pthread_mutex_t lock;
    pthread_mutex_t device; /* recursive: captures read caches within a pass */
    enum { NONE, MEMORY, LOST } state;
    char text[256];
};

struct trouble *trouble_new(void)
{
    struct trouble *t = mem_alloc(sizeof *t);
    pthread_mutexattr_t recursive;
    pthread_mutex_init(&t->lock, NULL);
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&t->device, &recursive);
    pthread_mutexattr_destroy(&recursive);
    return t;
}

void trouble_free(struct trouble *t)
{
    if (!t) return;
    pthread_mutex_destroy(&t->lock);
    pthread_mutex_destroy(&t->device);
    free(t);
}

void trouble_hold(const engine *en)
{
    if (en->gpu.k) pthread_mutex_lock(&en->trouble->device);
}

void trouble_let(const engine *en)
{
    if (en->gpu.k) pthread_mutex_unlock(&en->trouble->device);
}

/* The backend's latest news; the lock is held. */
static void listen(const engine *en, struct trouble *t)
{
    int memory = 0;
    const char *what = en->k->trouble(&memory);
    if (!what || t->state == LOST) return;
    snprintf(t->text, sizeof t->text, "%s: %s", en->k->name, what);
    t->state = memory ? MEMORY : LOST;
}

int trouble_take(const engine *en, err *e)
{
    struct trouble *t = en->trouble;
    int rc = 0;
    pthread_mutex_lock(&t->lock);
    listen(en, t);
    if (t->state != NONE) rc = err_set(e, t->state == MEMORY ? ERR_MEMORY : ERR_ENV, "%s", t->text);
    if (t->state == MEMORY) t->state = NONE;
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
