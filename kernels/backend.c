/* backend.c: see backend.h. */
#include "backend.h"

#include "cuda_library.h"

#include <dlfcn.h>
#include <libgen.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the driver, by the few functions of libcuda that tell what there is ---- */

struct driver {
    void *lib;
    int (*init)(unsigned);
    int (*version)(int *);
    int (*count)(int *);
    int (*get)(int *, int);
    int (*name)(char *, int, int);
    int (*memory)(size_t *, int);
    int (*attribute)(int *, int, int);
};

enum { CC_MAJOR = 75, CC_MINOR = 76 }; /* of CUdevice_attribute */

/* ISO C knows no conversion from an object pointer to a function's; POSIX promises that the bits are the same. */
static int symbol(void *lib, const char *name, void *fn)
{
    void *p = dlsym(lib, name);
    memcpy(fn, &p, sizeof p);
    return p != NULL;
}

static int driver_load(struct driver *d, char *why, size_t n)
{
    d->lib = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!d->lib) {
        snprintf(why, n, "no NVIDIA driver: libcuda.so.1 is not installed");
        return -1;
    }
    if (symbol(d->lib, "cuInit", &d->init) && symbol(d->lib, "cuDriverGetVersion", &d->version) &&
        symbol(d->lib, "cuDeviceGetCount", &d->count) && symbol(d->lib, "cuDeviceGet", &d->get) &&
        symbol(d->lib, "cuDeviceGetName", &d->name) && symbol(d->lib, "cuDeviceTotalMem_v2", &d->memory) &&
        symbol(d->lib, "cuDeviceGetAttribute", &d->attribute))
        return 0;
    snprintf(why, n, "libcuda.so.1 is not an NVIDIA driver's: it lacks functions");
    return -1;
}

void backend_gpus(struct backend_gpus *g)
{
    struct driver d;
    int rc, i, count = 0;
    memset(g, 0, sizeof *g);
    if (driver_load(&d, g->why, sizeof g->why)) return;
    if (d.version(&g->driver) || g->driver <= 0) g->driver = 1;
    rc = d.init(0);
    if (!rc) rc = d.count(&count);
    if (rc == 100 || (!rc && count == 0)) {
        snprintf(g->why, sizeof g->why, "the NVIDIA driver is there, but no GPU");
        return;
    }
    if (rc) {
        snprintf(g->why, sizeof g->why, "the NVIDIA driver does not start (error %d): it may not fit the kernel's module", rc);
        return;
    }
    for (i = 0; i < count && i < BACKEND_GPUS; i++) {
        struct backend_gpu *one = &g->gpu[g->n];
        size_t bytes = 0;
        int dev;
        if (d.get(&dev, i) || d.name(one->name, sizeof one->name, dev) || d.memory(&bytes, dev)) continue;
        d.attribute(&one->cc_major, CC_MAJOR, dev);
        d.attribute(&one->cc_minor, CC_MINOR, dev);
        one->memory_bytes = (long long)bytes;
        g->n++;
    }
}

int backend_cublas(char *name, size_t n)
{
    int i;
    for (i = 0; i < CUDA_LIBRARY_NAMES; i++) {
        /* stays loaded: its libraries leak when they are unloaded */
        if (!dlopen(cuda_library_names[i], RTLD_LAZY | RTLD_LOCAL)) continue;
        snprintf(name, n, "%s", cuda_library_names[i]);
        return 1;
    }
    return 0;
}

/* ---- the plug-in ---- */

__attribute__((format(printf, 3, 4))) static int fail(struct backend *b, enum backend_state state, const char *fmt, ...)
{
    va_list ap;
    b->state = state;
    b->k = NULL;
    va_start(ap, fmt);
    vsnprintf(b->why, sizeof b->why, fmt, ap);
    va_end(ap);
    return -1;
}

/* Puts folder/file into b->path when such a file is there. */
static int exists(struct backend *b, const char *folder, const char *file)
{
    int n = snprintf(b->path, sizeof b->path, "%s/%s", folder, file);
    if (n > 0 && (size_t)n < sizeof b->path && access(b->path, R_OK) == 0) return 1;
    b->path[0] = 0;
    return 0;
}

/* Where the plug-in lies; a bare name leaves it to the system's loader. */
static const char *locate(struct backend *b, const char *file)
{
    const char *set = getenv("KVRUN_PLUGINS");
    char self[400], up[sizeof self + 16], *folder;
    ssize_t n;
    if (set && *set) return exists(b, set, file) ? b->path : NULL;
    n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n > 0) {
        self[n] = 0;
        folder = dirname(self);
        if (exists(b, folder, file)) return b->path;
        snprintf(up, sizeof up, "%s/../lib", folder);
        if (exists(b, up, file)) return b->path;
    }
    return file;
}

/* dlerror says "libcudart.so.13: cannot open shared object file: ..." of what it did not find: the name is its first word. */
static int not_loaded(struct backend *b, const char *file, const char *message)
{
    const char *absent = strstr(message, ": cannot open shared object file");
    char library[128];
    size_t n = strcspn(message, ":");
    snprintf(library, sizeof library, "%.*s", (int)(n < sizeof library ? n : sizeof library - 1), message);
    if (absent && strcmp(library, file) == 0)
        return fail(b, BACKEND_NO_PLUGIN, "no %s: kvrun was built without the CUDA toolkit", file);
    if (absent && strncmp(library, "libcu", 5) == 0)
        return fail(b, BACKEND_NO_LIBRARY, "%s needs %s, which is not installed", file, library);
    return fail(b, BACKEND_BROKEN, "%s cannot be loaded: %s", file, message);
}

/* The plug-in said no; the driver tells whether that is for want of itself or of a GPU. */
static int refused(struct backend *b, const char *name, const char *why)
{
    struct backend_gpus g;
    if (strcmp(name, "cuda") != 0) return fail(b, BACKEND_REFUSED, "%s: %s", name, why);
    backend_gpus(&g);
    if (g.n > 0) return fail(b, BACKEND_REFUSED, "%s: %s", name, why);
    return fail(b, g.driver ? BACKEND_NO_GPU : BACKEND_NO_DRIVER, "%s (%s)", g.why, why);
}

int backend_open(struct backend *b, const char *name, int device)
{
    const char *file = strcmp(name, "cuda-emu") == 0 ? "libkvrun_cuda_emu.so" : "libkvrun_cuda.so", *path, *message;
    char why[512] = "";
    kvrun_cuda_open_fn *open;
    void *lib;
    memset(b, 0, sizeof *b);
    path = locate(b, file);
    if (!path) return fail(b, BACKEND_NO_PLUGIN, "no %s in the folder of KVRUN_PLUGINS, %s", file, getenv("KVRUN_PLUGINS"));
    lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!lib) {
        message = dlerror();
        return not_loaded(b, file, message ? message : "no reason given");
    }
    if (!b->path[0]) snprintf(b->path, sizeof b->path, "%s", file);
    if (!symbol(lib, "kvrun_cuda_open", &open)) {
        dlclose(lib);
        return fail(b, BACKEND_BROKEN, "%s is not a plug-in of kvrun: it has no kvrun_cuda_open", b->path);
    }
    b->k = open(KVRUN_CUDA_ABI, device, &b->device, why, sizeof why);
    if (b->k) return 0;
    return refused(b, name, why[0] ? why : "it gives no reason");
}
