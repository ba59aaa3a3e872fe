/* emu_threads.cc: the threads of a block as fibers, their barriers and warp operations.
 *
 * A thread starts on the fiber that is running and takes a new one only when it waits, so a kernel without barriers is a plain
 * loop. Under ThreadSanitizer this file is compiled without it and speaks for the fibers instead. The rules that make its
 * reports true, each found by a race that was missed or made up:
 *  - switching is no order (no_sync), and every thread has a fiber of its own, all made before the block starts, because
 *    making one is an order;
 *  - one object per instance of a barrier, in a ring: with one object alone the next arrival of a fast thread would be
 *    ordered before a slow one that still leaves;
 *  - shared memory is new for every block and belongs to the scheduler; two sets of fibers in turn keep blocks unordered;
 *  - a shuffle is no order, __syncwarp and __syncthreads are;
 *  - the scheduler takes notice of the end of a kernel only before what is not an early kernel (emu_settle), so that the
 *    threads of an early one come after the kernel before by their own waiting alone.
 */
#include "emu_in.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#if !defined(__has_feature)
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define EMU_ASAN 1
#include <pthread.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef EMU_TSAN
#include <sanitizer/tsan_interface.h>
#endif

/* ---- change of stacks ---- */

#if defined(__x86_64__)
/* Twelve instructions instead of swapcontext's system calls: 4 times as fast for a whole model. */
extern "C" void emu_swap(void **save, void *to);
__asm__(".text\n.globl emu_swap\n.hidden emu_swap\n.type emu_swap,@function\nemu_swap:\n"
        "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
        "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
        "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
        ".size emu_swap,.-emu_swap\n");
struct context {
    void *sp;
};

static void context_swap(struct context *from, struct context *to)
{
    emu_swap(&from->sp, to->sp);
}

static void context_make(struct context *c, char *stack, size_t n, void (*f)(void))
{
    void **sp = (void **)(((uintptr_t)stack + n) & ~(uintptr_t)15);
    *--sp = NULL;
    *--sp = (void *)f;
    for (int i = 0; i < 6; i++) *--sp = NULL;
    c->sp = sp;
}
#else
#include <ucontext.h>
typedef ucontext_t context;

static void context_swap(ucontext_t *from, ucontext_t *to)
{
    swapcontext(from, to);
}

static void context_make(ucontext_t *c, char *stack, size_t n, void (*f)(void))
{
    getcontext(c);
    c->uc_stack.ss_sp = stack;
    c->uc_stack.ss_size = n;
    c->uc_link = NULL;
    makecontext(c, f, 0);
}
#endif

/* ---- state ---- */

enum { STACK = 256 << 10, GUARD = 4096, RING = 8, WARP = 32 };
enum wait { NOTHING, BLOCK_BARRIER, WARP_MEETING };

struct fiber {
    struct context c;
    char *stack;
    uint3 thread;
    int number; /* of its thread in the block */
    enum wait waits;
    unsigned mask;
    int from; /* the lane that a shuffle reads */
    uint64_t value, result;
    float *d; /* of a product of the tensor cores, with a and b */
    const uint32_t *a, *b;
    const char *file;
    int line, groups;
    bool waited; /* for the kernel before */
    std::vector<struct emu_copy> copies;
#ifdef EMU_ASAN
    void *fake;
#endif
#ifdef EMU_TSAN
    void *tsan;
#endif
};

/* Lanes of one mask that have come to one warp operation. */
struct meeting {
    unsigned mask, here, instance;
    const char *file;
    int line;
};
struct warp {
    unsigned exists, left, instances;
    int n;
    struct meeting open[WARP];
};

struct emu_place emu_here;
/* Never freed: the stacks are in use until the process ends. */
static struct state {
    struct context main;
    const char *name;
    const std::function<void()> *body;
    bool early;
    int n, started, done, used, waiting;
    unsigned barriers;
    const char *file;
    int line;
    uint64_t block, random; /* block: which of all since the start, to know new shared memory */
    size_t shared_bytes;
    void *shared;
    struct fiber *running;
    std::vector<struct warp> warps;
    std::vector<struct fiber *> of, idle, pool[2]; /* of[thread]: NULL when not running */
    std::vector<struct fiber *> ready;             /* a ring; no memmove, which the race detector would take for a kernel's */
    size_t ready_first, ready_n;
    std::vector<int> order;
#ifdef EMU_ASAN
    void *fake;
    const void *bottom;
    size_t size;
#endif
#ifdef EMU_TSAN
    void *tsan;
    char begin, end[2];      /* end: of this kernel and of the one before, in turn */
    std::vector<char> marks; /* (256 blocks)(warps, the block itself)(RING): what barriers release and acquire */
    std::vector<void *> old;
    int turn;
#endif
} &s = *new state();

[[noreturn]] void emu_die(const char *what, const char *file, int line)
{
    fprintf(stderr, "cuda_emu: %s", what);
    if (s.name) fprintf(stderr, " in kernel %s, block (%u,%u,%u)", s.name, blockIdx.x, blockIdx.y, blockIdx.z);
    if (s.running) fprintf(stderr, ", thread (%u,%u,%u)", s.running->thread.x, s.running->thread.y, s.running->thread.z);
    if (file) fprintf(stderr, ", at %s:%d", file, line);
    fputc('\n', stderr);
    abort();
}

static uint64_t random_u64(void)
{
    s.random ^= s.random << 13;
    s.random ^= s.random >> 7;
    s.random ^= s.random << 17;
    return s.random;
}

/* ---- fibers ---- */

static void fiber_main(void);

static struct fiber *fiber_new(size_t k)
{
    struct fiber *f = new struct fiber();
    char *memory =
        (char *)mmap(NULL, STACK + GUARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) emu_die("no memory for a thread", NULL, 0);
    mprotect(memory, GUARD, PROT_NONE);
    f->stack = memory + GUARD;
    context_make(&f->c, f->stack, STACK - k % 16 * 256, fiber_main); /* staggered: else all stacks share a few cache sets */
#ifdef EMU_TSAN
    f->tsan = __tsan_create_fiber(0);
#endif
    return f;
}

static struct fiber *fiber_get(void)
{
#ifdef EMU_TSAN
    return s.pool[s.block & 1][(size_t)s.used++];
#else
    struct fiber *f;
    if (s.idle.empty()) return fiber_new((size_t)s.used++);
    f = s.idle.back(); /* the last one used is the warmest */
    s.idle.pop_back();
    return f;
#endif
}

static void go(struct fiber *from, struct fiber *to) /* NULL: the scheduler's own stack */
{
    s.running = to;
    if (to) threadIdx = to->thread;
#ifdef EMU_TSAN
    __tsan_switch_to_fiber(to ? to->tsan : s.tsan, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef EMU_ASAN
    if (to)
        __sanitizer_start_switch_fiber(from ? &from->fake : &s.fake, to->stack, STACK);
    else
        __sanitizer_start_switch_fiber(&from->fake, s.bottom, s.size);
#endif
    context_swap(from ? &from->c : &s.main, to ? &to->c : &s.main);
#ifdef EMU_ASAN
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(from ? from->fake : s.fake, &bottom, &size);
#endif
}

static bool thread_begin(struct fiber *f)
{
    if (s.started >= s.n) return false;
    unsigned t = (unsigned)s.order[(size_t)s.started++];
    f->number = (int)t;
    f->thread = {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
    f->waits = NOTHING;
    f->groups = 0;
    f->waited = false;
    threadIdx = f->thread;
    s.of[t] = f;
    return true;
}

static void ready_add(struct fiber *f)
{
    s.ready[(s.ready_first + s.ready_n++) % s.ready.size()] = f;
}

/* Whoever runs next: one that waited, or a new thread; NULL when there is nobody. */
static struct fiber *next(void)
{
    bool more = s.started < s.n;
    const enum emu_order order = emu_options()->order;
    if (s.ready_n && !(order == EMU_RANDOM && more && (random_u64() & 1))) {
        const size_t size = s.ready.size(), last = (s.ready_first + s.ready_n - 1) % size;
        size_t at = order == EMU_RANDOM ? (s.ready_first + random_u64() % s.ready_n) % size : last;
        struct fiber *f = s.ready[order == EMU_FORWARD ? s.ready_first : at];
        if (order == EMU_FORWARD)
            s.ready_first = (s.ready_first + 1) % size;
        else
            s.ready[at] = s.ready[last];
        s.ready_n--;
        return f;
    }
    if (!more) return NULL;
    struct fiber *f = fiber_get();
    thread_begin(f);
    return f;
}

static void yield(void)
{
    struct fiber *me = s.running, *to = next();
    if (to == me) return;
    if (to) {
        go(me, to);
        return;
    }
    fprintf(stderr, "cuda_emu: nobody can go on:\n");
    for (int t = 0, shown = 0; t < s.n && shown < 8; t++) {
        const struct fiber *f = s.of[(size_t)t];
        if (!f || f->waits == NOTHING) continue;
        fprintf(stderr, "  thread %d waits for %s (mask %08x) at %s:%d\n", t,
                f->waits == BLOCK_BARRIER ? "__syncthreads" : "a warp operation", f->mask, f->file, f->line);
        shown++;
    }
    if (s.done) fprintf(stderr, "  %d of %d threads have returned\n", s.done, s.n);
    emu_die("a barrier is not reached by every thread", me->file, me->line);
}

static void thread_end(struct fiber *f)
{
    if (!f->copies.empty()) emu_die("a thread returns while its copies are under way", NULL, 0);
    if (s.early && !f->waited) emu_die("a kernel launched early ends without having waited for the one before it", NULL, 0);
    s.warps[(size_t)f->number / WARP].left |= 1u << f->number % WARP;
    s.of[(size_t)f->number] = NULL;
    s.done++;
}

static void fiber_main(void)
{
#ifdef EMU_ASAN
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(NULL, &bottom, &size);
#endif
    for (;;) {
        struct fiber *f = s.running;
#ifdef EMU_TSAN
        __tsan_acquire(&s.begin);
        (*s.body)();
        __tsan_release(&s.end[s.turn]);
        thread_end(f);
#else
        do {
            (*s.body)();
            thread_end(f);
        } while (!s.ready_n && thread_begin(f));
        s.idle.push_back(f);
#endif
        struct fiber *to = next();
        if (to == f) continue; /* it was taken for a new thread */
        if (!to && s.done < s.n) {
            f->file = NULL;
            yield();
        }
        go(f, to);
    }
}

/* ---- blocks ---- */

#ifdef EMU_ASAN
/* Fibers outlive a launch, and the next one may come from another thread: its stack is the one to go back to. */
static void find_own_stack(void)
{
    pthread_attr_t about;
    void *bottom;
    pthread_getattr_np(pthread_self(), &about);
    pthread_attr_getstack(&about, &bottom, &s.size);
    pthread_attr_destroy(&about);
    s.bottom = bottom;
}
#endif

static void block_run(void)
{
    s.block++;
    s.started = s.done = s.waiting = 0;
    s.ready_n = 0;
    for (size_t i = 0; i < s.warps.size(); i++) {
        int lanes = s.n - (int)i * WARP;
        s.warps[i].exists = lanes >= WARP ? 0xffffffffu : (1u << lanes) - 1;
        s.warps[i].left = 0;
        s.warps[i].n = 0;
    }
    if (emu_options()->order == EMU_RANDOM)
        for (int i = s.n - 1; i > 0; i--) std::swap(s.order[(size_t)i], s.order[random_u64() % (uint64_t)(i + 1)]);
    if (s.shared_bytes) {
#ifdef EMU_TSAN
        s.old.push_back(s.shared);
        s.shared = aligned_alloc(16, (s.shared_bytes + 15) / 16 * 16);
#endif
        memset(s.shared, 0xff, s.shared_bytes); /* NaN: a read before the write shows */
    }
#ifdef EMU_TSAN
    s.used = 0;
    s.tsan = __tsan_get_current_fiber();
    __tsan_release(&s.begin);
#endif
    go(NULL, next());
}

void emu_run(const char *name, dim3 grid, dim3 block, size_t shared, bool early, const std::function<void()> &body)
{
    const uint64_t total = (uint64_t)grid.x * grid.y * grid.z;
    const bool reversed = emu_options()->order == EMU_REVERSED;
    if (!s.random) s.random = emu_options()->seed * 0x9e3779b97f4a7c15u | 1;
    s.name = name;
    s.body = &body;
    s.early = early;
    s.n = (int)(block.x * block.y * block.z);
    s.of.assign((size_t)s.n, NULL);
    s.ready.resize((size_t)s.n + 1);
    s.ready_first = 0;
    s.warps.resize(((size_t)s.n + WARP - 1) / WARP);
    s.order.resize((size_t)s.n);
    for (int i = 0; i < s.n; i++) s.order[(size_t)i] = reversed ? s.n - 1 - i : i;
    s.shared_bytes = shared;
    if (shared) s.shared = malloc(shared); /* exact: AddressSanitizer knows its end */
#ifdef EMU_TSAN
    s.turn ^= 1;
    s.marks.resize(256 * (WARP + 1) * RING * 8);
    for (int k = 0; k < 2; k++)
        while (s.pool[k].size() < (size_t)s.n) s.pool[k].push_back(fiber_new(s.pool[k].size()));
#endif
#ifdef EMU_ASAN
    find_own_stack();
#endif
    blockDim = {block.x, block.y, block.z};
    gridDim = {grid.x, grid.y, grid.z};
    for (uint64_t k = 0; k < total; k++) {
        uint64_t i = reversed ? total - 1 - k : k;
        blockIdx = {(unsigned)(i % grid.x), (unsigned)(i / grid.x % grid.y), (unsigned)(i / ((uint64_t)grid.x * grid.y))};
        block_run();
    }
#ifdef EMU_TSAN
    if (shared) s.old.push_back(s.shared);
#else
    if (shared) free(s.shared);
#endif
    s.name = NULL;
    s.running = NULL;
}

void emu_settle(void)
{
#ifdef EMU_TSAN
    __tsan_acquire(&s.end[0]);
    __tsan_acquire(&s.end[1]);
    for (void *p : s.old) free(p);
    s.old.clear();
#endif
}

/* ---- what kernels call ---- */

#ifdef EMU_TSAN
static void *mark(size_t who, unsigned instance)
{
    return s.marks.data() + ((s.block % 256 * (WARP + 1) + who) * RING + instance % RING) * 8;
}
#endif

static void wake(struct fiber *f)
{
    f->waits = NOTHING;
    ready_add(f);
}

/* After the last one has come: those who waited are ready; in another order than the plain one, so is this one. */
static void pass_on(void)
{
    if (emu_options()->order == EMU_FORWARD) return;
    ready_add(s.running);
    yield();
}

void emu_syncthreads(const char *file, int line)
{
    struct fiber *f = s.running;
    if (s.done) emu_die("__syncthreads after other threads of the block have returned", file, line);
    if (!s.waiting) {
        s.file = file;
        s.line = line;
    } else if (s.line != line || strcmp(s.file, file)) {
        emu_die("threads of one block wait at different __syncthreads", file, line);
    }
#ifdef EMU_TSAN
    unsigned instance = s.barriers;
    __tsan_release(mark(WARP, instance));
#endif
    if (++s.waiting < s.n) {
        f->waits = BLOCK_BARRIER;
        f->mask = 0;
        f->file = file;
        f->line = line;
        yield();
    } else {
        s.waiting = 0;
        s.barriers++;
        for (int t = 0; t < s.n; t++)
            if (s.of[(size_t)t] != f) wake(s.of[(size_t)t]);
        pass_on();
    }
#ifdef EMU_TSAN
    __tsan_acquire(mark(WARP, instance));
#endif
}

void emu_wait_for_previous(void)
{
    s.running->waited = true;
#ifdef EMU_TSAN
    __tsan_acquire(&s.end[s.turn ^ 1]);
#endif
}

enum operation { SYNC, SHUFFLE, BALLOT, PRODUCT_F16, PRODUCT_BF16 };

static float half_value(uint16_t h)
{
    int exponent = h >> 10 & 31, fraction = h & 0x3ff;
    float f = exponent == 31 ? (fraction ? NAN : INFINITY)
              : exponent     ? ldexpf((float)(1024 + fraction), exponent - 25)
                             : ldexpf((float)fraction, -24);
    return h & 0x8000 ? -f : f;
}

static float part(uint32_t two, int which, int bf)
{
    uint16_t h = (uint16_t)(two >> 16 * which);
    uint32_t wide = (uint32_t)h << 16;
    float f;
    memcpy(&f, &wide, 4);
    return bf ? f : half_value(h);
}

/* d += a b. Fragments of m16n8k16 (PTX): lane l holds of a the rows l/4 and l/4 + 8 and the columns l%4*2 + {0,1} and those
   + 8; of b the rows l%4*2 + {0,1} and those + 8 of column l/4; of d the rows l/4 and l/4 + 8, columns l%4*2 + {0,1}. */
static void product(struct fiber **lane, int bf)
{
    float a[16][16], b[16][8];
    for (int l = 0; l < WARP; l++)
        for (int r = 0; r < 4; r++)
            for (int h = 0; h < 2; h++) {
                a[l / 4 + r % 2 * 8][l % 4 * 2 + r / 2 * 8 + h] = part(lane[l]->a[r], h, bf);
                if (r < 2) b[l % 4 * 2 + r * 8 + h][l / 4] = part(lane[l]->b[r], h, bf);
            }
    for (int l = 0; l < WARP; l++)
        for (int r = 0; r < 4; r++) {
            float sum = lane[l]->d[r];
            for (int k = 0; k < 16; k++) sum = fmaf(a[l / 4 + r / 2 * 8][k], b[k][l % 4 * 2 + r % 2], sum);
            lane[l]->d[r] = sum;
        }
}

static void deliver(struct fiber **lane, enum operation what)
{
    uint64_t ballot = 0;
    for (int l = 0; l < WARP; l++)
        if (lane[l] && lane[l]->value) ballot |= 1u << l;
    for (int l = 0; l < WARP; l++) {
        if (!lane[l]) continue;
        if (what == BALLOT) lane[l]->result = ballot;
        if (what == SHUFFLE) {
            struct fiber *from = lane[lane[l]->from & (WARP - 1)];
            lane[l]->result = from ? from->value : ~(uint64_t)0; /* of a lane that is not there: NaN */
        }
    }
    if (what == PRODUCT_F16 || what == PRODUCT_BF16) product(lane, what == PRODUCT_BF16);
}

/* Returns when every lane of the mask has come; the last one hands out the results. */
static uint64_t meet(unsigned mask, uint64_t value, int from, enum operation what, const char *file, int line)
{
    struct fiber *f = s.running, *lane[WARP];
    const int at = f->number / WARP, me = f->number % WARP;
    struct warp *w = &s.warps[(size_t)at];
    struct meeting *m = w->open, *end = w->open + w->n;
    if (!(mask >> me & 1)) emu_die("a lane calls a warp operation without being in its mask", file, line);
    if (mask & w->left) emu_die("a lane named in a mask has returned", file, line);
    f->mask = mask;
    f->value = value;
    f->from = from;
    f->file = file;
    f->line = line;
    while (m < end && m->mask != mask) m++;
    if (m == end) {
        for (const struct meeting *o = w->open; o < end; o++)
            if (o->mask & mask) emu_die("lanes wait for warp operations whose masks overlap", file, line);
        *m = {mask, 0, w->instances++, file, line};
        w->n++;
    } else if (m->line != line || strcmp(m->file, file)) {
        emu_die("lanes of one mask wait at different warp operations", file, line);
    }
    m->here |= 1u << me;
#ifdef EMU_TSAN
    unsigned instance = m->instance;
    if (what == SYNC) __tsan_release(mark((size_t)at, instance));
#endif
    if (m->here != (mask & w->exists)) {
        f->waits = WARP_MEETING;
        yield();
    } else {
        for (int l = 0; l < WARP; l++) lane[l] = m->here >> l & 1 ? s.of[(size_t)(at * WARP + l)] : NULL;
        *m = w->open[--w->n];
        deliver(lane, what);
        for (int l = 0; l < WARP; l++)
            if (lane[l] && lane[l] != f) wake(lane[l]);
        pass_on();
    }
#ifdef EMU_TSAN
    if (what == SYNC) __tsan_acquire(mark((size_t)at, instance));
#endif
    return f->result;
}

void emu_syncwarp(unsigned mask, const char *file, int line)
{
    meet(mask, 0, 0, SYNC, file, line);
}

uint64_t emu_shuffle(unsigned mask, uint64_t value, int from, const char *file, int line)
{
    return meet(mask, value, from, SHUFFLE, file, line);
}

unsigned emu_ballot(unsigned mask, int predicate, const char *file, int line)
{
    return (unsigned)meet(mask, predicate != 0, 0, BALLOT, file, line);
}

void emu_mma(float *d, const uint32_t *a, const uint32_t *b, int bf, const char *file, int line)
{
    s.running->d = d;
    s.running->a = a;
    s.running->b = b;
    if (s.warps[(size_t)s.running->number / WARP].exists != 0xffffffffu)
        emu_die("a product in a warp of less than 32", file, line);
    meet(0xffffffffu, 0, 0, bf ? PRODUCT_BF16 : PRODUCT_F16, file, line);
}

int emu_lane(void)
{
    return s.running->number % WARP;
}

std::vector<struct emu_copy> &emu_copies(void)
{
    return s.running->copies;
}

int *emu_copy_groups(void)
{
    return &s.running->groups;
}

void *emu_dynamic_shared(void)
{
    if (!s.shared_bytes) emu_die("dynamic shared memory, and the launch gave none", NULL, 0);
    return s.shared;
}

void *emu_static_shared(struct emu_slot *slot, size_t bytes)
{
    if (slot->block == s.block) {
#ifdef EMU_TSAN
        __tsan_acquire(slot->p);
#endif
        return slot->p;
    }
#ifdef EMU_TSAN
    /* as if the scheduler had made it before the block */
    __tsan_switch_to_fiber(s.tsan, __tsan_switch_to_fiber_no_sync);
    slot->p = malloc(bytes);
    s.old.push_back(slot->p);
    memset(slot->p, 0xff, bytes);
    __tsan_release(slot->p);
    __tsan_switch_to_fiber(s.running->tsan, __tsan_switch_to_fiber_no_sync);
    __tsan_acquire(slot->p);
#else
    if (!slot->p) slot->p = malloc(bytes);
    memset(slot->p, 0xff, bytes);
#endif
    slot->block = s.block;
    return slot->p;
}
