/* cpu_team.c: the threads that share the rows of an operation.
 *
 * One team for the process: the caller and sleeping workers, started when first needed and never ended. A thread that waits
 * spins for some tens of microseconds, longer than the pause between two operations of a step, and then sleeps. Not OpenMP,
 * because its teams spin for milliseconds: unpinned, both threads of one stayed on one of two processors and a step took up
 * to 30 times as long, while a thread that wakes is placed anew (SPEED.md). Whoever finds the team busy works alone.
 */
#include "cpu.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    TEAM_MAX = 256,
    SPINS = 1000,            /* of 40 to 140 cycles each */
    WORK_OF_TEAM = 32768,    /* multiply-adds below which a thread is faster alone than a team wakes */
    WORK_OF_PARTS = 1 << 20, /* and below which the threads' shares are not cut further */
    PARTS = 4                /* parts per thread */
};

/* A number that one thread waits for. */
struct gate {
    _Alignas(64) atomic_uint value;
    atomic_int asleep;
    pthread_mutex_t lock;
    pthread_cond_t wake;
};

static struct {
    pthread_mutex_t busy;
    atomic_int threads;          /* 0: not chosen yet */
    int started;                 /* workers */
    struct gate order[TEAM_MAX]; /* counts the pieces of work given to a worker; [0] is unused */
    struct gate left;            /* workers that are not done */
    cpu_part_fn *f;
    const void *job;
    long n, unit;
    int parts;       /* more than threads where there is enough to do: who is slowed down takes fewer */
    atomic_int next; /* the part that nobody has yet */
} team = {.busy = PTHREAD_MUTEX_INITIALIZER};

/* ---- waiting ---- */

static void gate_init(struct gate *g)
{
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->wake, NULL);
}

static void gate_wait(struct gate *g, unsigned wanted)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&g->value, memory_order_acquire) == wanted) return;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#endif
    }
    pthread_mutex_lock(&g->lock);
    atomic_store(&g->asleep, 1); /* before the value is read again: whoever sets it reads `asleep` afterwards */
    while (atomic_load(&g->value) != wanted) pthread_cond_wait(&g->wake, &g->lock);
    atomic_store(&g->asleep, 0);
    pthread_mutex_unlock(&g->lock);
}

static void gate_add(struct gate *g, unsigned n)
{
    atomic_fetch_add(&g->value, n);
    if (!atomic_load(&g->asleep)) return;
    pthread_mutex_lock(&g->lock);
    pthread_cond_signal(&g->wake);
    pthread_mutex_unlock(&g->lock);
}

/* ---- workers ---- */

/* Part t of T of n items, cut at multiples of `unit`. */
static struct cpu_part cut(long n, long unit, int t, int T)
{
    long units = (n + unit - 1) / unit;
    struct cpu_part p = {units * t / T * unit, units * (t + 1) / T * unit};
    if (p.from > n) p.from = n;
    if (p.to > n) p.to = n;
    return p;
}

/* Parts one after the other until none is left. Which thread has which part changes nothing but the time. */
static void take_parts(void)
{
    for (int i; (i = atomic_fetch_add(&team.next, 1)) < team.parts;) team.f(team.job, cut(team.n, team.unit, i, team.parts));
}

static void *worker(void *order)
{
    struct gate *g = order;
    for (unsigned next = 1;; next++) {
        gate_wait(g, next);
        take_parts();
        gate_add(&team.left, (unsigned)-1);
    }
    return NULL;
}

/* Workers for a team of T; fewer when the system gives no more. They take no signals: those are the program's. */
static void start(int T)
{
    sigset_t all, old;
    sigfillset(&all);
    if (team.started == 0) gate_init(&team.left);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    while (team.started < T - 1) {
        pthread_t thread;
        struct gate *g = &team.order[team.started + 1];
        gate_init(g);
        if (pthread_create(&thread, NULL, worker, g)) break;
        pthread_detach(thread);
        team.started++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

/* ---- for the operations ---- */

void cpu_run(cpu_part_fn *f, const void *job, long n, long unit, double work)
{
    int T = work < WORK_OF_TEAM ? 1 : atomic_load(&team.threads);
    if (T == 0) T = kernels_cpu_threads(0);
    if (T == 1 || pthread_mutex_trylock(&team.busy)) {
        f(job, (struct cpu_part){0, n});
        return;
    }
    if (team.started < T - 1) start(T);
    if (T > team.started + 1) T = team.started + 1;
    team.f = f;
    team.job = job;
    team.n = n;
    team.unit = unit;
    team.parts = work < WORK_OF_PARTS ? T : T * PARTS;
    atomic_store(&team.next, 0);
    atomic_store(&team.left.value, (unsigned)(T - 1));
    for (int t = 1; t < T; t++) gate_add(&team.order[t], 1);
    take_parts();
    gate_wait(&team.left, 0);
    pthread_mutex_unlock(&team.busy);
}

/* OMP_NUM_THREADS, which job scripts set for every numeric program, else one thread per processor this process may use. */
static int threads_by_default(void)
{
    const char *asked = getenv("OMP_NUM_THREADS");
    int n = asked ? atoi(asked) : 0;
#ifdef __linux__
    cpu_set_t mine;
    if (n < 1 && sched_getaffinity(0, sizeof mine, &mine) == 0) n = CPU_COUNT(&mine);
#endif
    return n < 1 ? (int)sysconf(_SC_NPROCESSORS_ONLN) : n;
}

int kernels_cpu_threads(int n)
{
    if (n < 1) n = threads_by_default();
    if (n < 1) n = 1;
    if (n > TEAM_MAX) n = TEAM_MAX;
    atomic_store(&team.threads, n);
    return n;
}
