/* cuda_pass.cu: the rows of a pass on the device, and passes that are recorded once and replayed.
 *
 * At begin the pages of all rows in all layers are gathered into pinned memory and go up in one copy. A plain pass consists of
 * the same operations on the same buffers as every plain pass of its shape: the first one of a shape runs as any other, which
 * loads the kernels and makes the scratch grow; the second is captured; from the third on the captured graph is launched.
 * The shape is the rows' address (one per engine), B, L and the most pages of a row, rounded up to a power of two. A graph
 * holds addresses, so whatever moves memory drops them all.
 */
#include "cuda_in.h"

#include <condition_variable>
#include <utility>
#include <vector>

enum { GRAPHS_MOST = 128 };

/* ---- the rows on the device ---- */

static struct tables {
    struct cuda_scratch memory;
    char *host[2]; /* pinned, in turn */
    size_t host_bytes[2];
    cudaEvent_t sent[2];
    int turn;
    struct cuda_view view;
    int layers, heads;       /* heads: words of a page's hidden bits, as sent */
    size_t hidden;           /* pages that have such */
    size_t words;            /* room for them all */
    size_t total;            /* pages of a layer */
} pass_tables, other_tables; /* of the pass, and of an operation outside of one */

static int pages_of(const struct rows *r, int b)
{
    return r->slot[b] / PAGE_TOKENS + 1;
}

static int bucket(int pages)
{
    int n = CUDA_SPLIT;
    while (n < pages) n *= 2;
    return n;
}

static size_t align(size_t n)
{
    return (n + 255) / 256 * 256;
}

static bool host_room(struct tables *t, const char *operation, size_t bytes)
{
    int i = t->turn ^= 1;
    void *p;
    if (!t->sent[i] && !cuda_good(operation, cudaEventCreateWithFlags(&t->sent[i], cudaEventDisableTiming))) return false;
    if (!cuda_good(operation, cudaEventSynchronize(t->sent[i]))) return false; /* what it held last is on the device */
    if (bytes <= t->host_bytes[i]) return true;
    cudaFreeHost(t->host[i]);
    t->host[i] = NULL;
    t->host_bytes[i] = 0;
    if (!cuda_good(operation, cudaMallocHost(&p, bytes + bytes / 2))) return false;
    t->host[i] = (char *)p;
    t->host_bytes[i] = bytes + bytes / 2;
    return true;
}

/* Rows next to each other that are one cache's have one table: that of the row with the most pages. A prompt of 2,048 tokens
   would send 2,048 tables in each layer, most of them equal as far as they go. */
struct table {
    struct kv_page *const *const *pages; /* (L)(n) */
    int n;
};
static std::vector<struct table> row_tables;

static void find_tables(const struct rows *r)
{
    row_tables.clear();
    for (int b = 0; b < r->B; b++) {
        if (b == 0 || r->pages[b] != r->pages[b - 1])
            row_tables.push_back({r->pages[b], pages_of(r, b)});
        else if (pages_of(r, b) > row_tables.back().n)
            row_tables.back().n = pages_of(r, b);
    }
}

struct layout {
    size_t first, pages, hidden, bytes, total; /* where what begins; total: pages of a layer in all tables */
    int most;
};

static struct layout layout_of(int B, int L, size_t words)
{
    struct layout y = {};
    y.most = 1;
    for (const struct table &t : row_tables) {
        y.total += (size_t)t.n;
        if (t.n > y.most) y.most = t.n;
    }
    y.most = bucket(y.most);
    y.first = align((size_t)B * sizeof(int));
    y.pages = align(y.first + ((size_t)B + 1) * sizeof(int));
    y.hidden = align(y.pages + (size_t)L * y.total * sizeof(struct cuda_page));
    y.bytes = y.hidden + words * sizeof(uint64_t);
    return y;
}

/* G of an engine, by its rows: how many words a page's hidden bits have. begin is not told; the first attention is, and sends
   the rows again when there are such bits. */
static std::vector<std::pair<const struct rows *, int>> known_heads;

static int heads_of(const struct rows *r)
{
    for (const auto &x : known_heads)
        if (x.first == r) return x.second;
    return 0;
}

static std::vector<uint64_t> hidden_words;

/* Fills in what is sent up to y->hidden, and collects the words that come there; returns how many pages have some. */
static size_t gather(char *host, const struct layout *y, const char *device, const struct rows *r, int from, int L, int heads)
{
    int *first = (int *)(host + y->first), n = 0;
    size_t at = 0, hidden = 0;
    struct cuda_page *entry = (struct cuda_page *)(host + y->pages);
    const uint64_t *words = (const uint64_t *)(device + y->hidden);
    hidden_words.clear();
    memcpy(host, r->slot, (size_t)r->B * sizeof(int));
    for (int b = 0; b < r->B; b++) {
        if (b > 0 && r->pages[b] != r->pages[b - 1]) n += row_tables[at++].n;
        first[b] = n;
    }
    first[r->B] = (int)y->total;
    for (int l = from; l < from + L; l++)
        for (const struct table &t : row_tables)
            for (int p = 0; p < t.n; p++) {
                const struct kv_page *page = t.pages[l][p];
                *entry = {page->k, page->v, NULL};
                if (page->hidden) {
                    entry->hidden = words + hidden_words.size();
                    hidden_words.insert(hidden_words.end(), page->hidden, page->hidden + heads);
                    hidden++;
                }
                entry++;
            }
    return hidden;
}

static bool upload(struct tables *t, const char *operation, const struct rows *r, int from, int L, int heads)
{
    struct layout y;
    size_t bytes;
    int i;
    find_tables(r);
    t->heads = heads;
    do { /* once, unless more is hidden than ever before */
        if (hidden_words.size() > t->words) t->words = hidden_words.size();
        y = layout_of(r->B, L, t->words);
        if (!host_room(t, operation, y.bytes) || !cuda_need(&t->memory, operation, y.bytes)) return false;
        i = t->turn;
        t->hidden = gather(t->host[i], &y, t->memory.p, r, from, L, heads);
    } while (hidden_words.size() > t->words);
    bytes = hidden_words.size() * sizeof(uint64_t);
    if (bytes) memcpy(t->host[i] + y.hidden, hidden_words.data(), bytes);
    t->view = {(const int *)t->memory.p,
               (const int *)(t->memory.p + y.first),
               (const struct cuda_page *)(t->memory.p + y.pages),
               r->B,
               from,
               y.most};
    t->layers = L;
    t->total = y.total;
    bytes += y.hidden;
    return cuda_good(operation, cudaMemcpyAsync(t->memory.p, t->host[i], bytes, cudaMemcpyHostToDevice, cuda.stream)) &&
           cuda_good(operation, cudaEventRecord(t->sent[i], cuda.stream));
}

/* ---- recorded passes ---- */

struct recording {
    const struct rows *rows;
    int B, L, most;
    bool never; /* it held something that changes from pass to pass */
    cudaGraphExec_t graph;
};
static std::vector<struct recording> recordings;
static struct {
    const struct rows *rows; /* NULL: no pass */
    struct recording *of;    /* what is being captured, or will be known as run once */
    bool capturing, unrecorded, replayed;
} pass;

static void forget(size_t i)
{
    if (recordings[i].graph) cudaGraphExecDestroy(recordings[i].graph);
    recordings.erase(recordings.begin() + (long)i);
}

void cuda_recordings_drop(void)
{
    if (pass.capturing) { /* a release while recording: the graph must not be kept */
        pass.unrecorded = true;
        return;
    }
    if (!recordings.empty()) cudaStreamSynchronize(cuda.stream);
    while (!recordings.empty()) forget(recordings.size() - 1);
    known_heads.clear();
    pass.of = NULL;
}

bool cuda_recording(void)
{
    return pass.capturing;
}

static struct recording *recording_of(const struct rows *r, int L, int most, bool *is_new)
{
    *is_new = false;
    for (struct recording &x : recordings)
        if (x.rows == r && x.B == r->B && x.L == L && x.most == most) return &x;
    if (recordings.size() >= GRAPHS_MOST) {
        cudaStreamSynchronize(cuda.stream);
        forget(0);
    }
    recordings.push_back({r, r->B, L, most, false, NULL});
    *is_new = true;
    return &recordings.back();
}

/* Ends the capture and queues what it holds; keeps the graph unless it held something that changes. */
static void capture_end(void)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    cuda_copy_flush();
    cuda_matmul_flush();
    pass.capturing = false;
    if (!cuda_good("pass", cudaStreamEndCapture(cuda.stream, &graph)) || !graph) return;
    if (cuda_good("pass", cudaGraphInstantiate(&exec, graph, 0)) && cuda_good("pass", cudaGraphLaunch(exec, cuda.stream)) &&
        !pass.unrecorded) {
        pass.of->graph = exec;
        exec = NULL;
    }
    cudaGraphDestroy(graph);
    if (exec) {
        cudaStreamSynchronize(cuda.stream);
        cudaGraphExecDestroy(exec);
    }
    if (pass.unrecorded) pass.of->never = true;
}

void cuda_unrecorded(void)
{
    pass.unrecorded = true;
    if (pass.capturing) capture_end();
}

/* ---- what other threads wait for ---- */

/* A thread that stores a finished cache reads it page by page, and in its eyes each page is the last thing that was queued:
   were it to wait for all of that, one page would come back per pass. But the newest plain pass has nothing for it: cuda.h says
   that its results are another thread's only when its own thread has had a get, which waits for the pass. So an event before
   that pass is enough, as long as nothing else has been queued since. */
static thread_local bool runs_passes, in_pass;
static struct {
    cudaEvent_t event;
    bool enough;
} before_pass;

bool cuda_runs_passes(void)
{
    return runs_passes;
}

void cuda_work_outside(void)
{
    if (!in_pass) before_pass.enough = false;
}

/* In begin, when all that comes before the pass is queued. */
static void before_pass_mark(bool plain)
{
    before_pass.enough = false;
    if (!plain) return;
    if (!before_pass.event && !cuda_good("begin", cudaEventCreateWithFlags(&before_pass.event, cudaEventDisableTiming))) return;
    before_pass.enough = cuda_good("begin", cudaEventRecord(before_pass.event, cuda.stream));
}

bool cuda_wait_for_work(cudaStream_t reads, cudaEvent_t all)
{
    if (before_pass.enough) return cuda_good("get", cudaStreamWaitEvent(reads, before_pass.event, 0));
    return cuda_good("get", cudaEventRecord(all, cuda.stream)) && cuda_good("get", cudaStreamWaitEvent(reads, all, 0));
}

/* ---- begin, end ---- */

/* A pass that somebody looks into waits for the device in many places; others need not wait for all of it. What they queue
   there is in no recording, since the get has ended that. */
static std::condition_variable_any pass_over;
static struct {
    void lock(void)
    {
        cuda_lock();
    }
    void unlock(void)
    {
        cuda_unlock();
    }
} whole;

void cuda_pass_pause(void)
{
    if (in_pass) cuda_unlock();
}

void cuda_pass_resume(void)
{
    if (in_pass) cuda_lock();
}

int cuda_begin(const struct rows *r, int L, int plain)
{
    bool is_new;
    cuda_lock();                             /* until end */
    while (pass.rows) pass_over.wait(whole); /* another thread's, which pauses */
    runs_passes = in_pass = true;
    pass.rows = r;
    pass.of = NULL;
    pass.unrecorded = pass.replayed = false;
    {
        struct cuda_op op("begin");
        bool good = op.go && upload(&pass_tables, op.name, r, 0, L, heads_of(r));
        before_pass_mark(good && plain);
        if (!good || !plain || cuda.sync) return 0;
    }
    pass.of = recording_of(r, L, pass_tables.view.most, &is_new);
    if (is_new || pass.of->never) return 0;
    if (pass.of->graph) {
        pass.replayed = cuda_good("pass", cudaGraphLaunch(pass.of->graph, cuda.stream));
        return 1;
    }
    pass.capturing = cuda_good("pass", cudaStreamBeginCapture(cuda.stream, cudaStreamCaptureModeThreadLocal));
    return 0;
}

void cuda_end(void)
{
    cuda_copy_flush();
    cuda_matmul_flush();
    if (pass.capturing) capture_end();
    if (pass.of && pass.unrecorded) pass.of->never = true;
    pass.rows = NULL;
    pass.of = NULL;
    in_pass = false;
    pass_over.notify_all();
    cuda_unlock();
}

/* The first rows of the pass, out of the same arrays: an engine whose rows begin at later layers has ever more of them. */
static bool of_pass(const struct rows *r)
{
    return r == pass.rows || (pass.rows && r->slot == pass.rows->slot && r->pages == pass.rows->pages && r->B <= pass.rows->B);
}

/* The view's address of a layer is made of first[B], the pages that all rows have in a layer. Fewer rows have another first[B],
   so theirs is made here; a recording must not hold it, since the number changes from pass to pass. */
static void first_rows(struct cuda_view *v, int B, size_t total)
{
    if (B == v->B) return;
    cuda_unrecorded();
    v->pages += (size_t)v->layer * total;
    v->layer = 0;
    v->B = B;
}

bool cuda_view_of(struct cuda_view *v, const char *operation, const struct rows *r, int layer, int G)
{
    struct tables *t = &pass_tables;
    bool outside = !of_pass(r) || layer >= t->layers;
    if (outside) {
        t = &other_tables;
        if (pass.rows) cuda_unrecorded();
        if (!upload(t, operation, r, layer, 1, G)) return false;
    } else if (t->heads != G) {
        if (heads_of(pass.rows) != G) known_heads.push_back({pass.rows, G});
        if (t->hidden) {
            if (pass.capturing) cuda_unrecorded(); /* not in the first pass of a shape, which tells G */
            if (!upload(t, operation, pass.rows, 0, t->layers, G)) return false;
        }
        t->heads = G;
    }
    *v = t->view;
    v->layer = layer - v->layer;
    if (!outside) first_rows(v, r->B, t->total);
    return true;
}
