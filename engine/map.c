/* map.c: whole files as read-only memory; see map.h. */
#include "map.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int map_file(const void **bytes, size_t *n, const char *path, err *e)
{
    struct stat st;
    void *p;
    /* O_NONBLOCK: a path that names a pipe fails below, it does not wait for a writer. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc = -1;
    if (fd < 0) return err_set(e, ERR_ENV, "cannot be opened: %s", strerror(errno));
    if (fstat(fd, &st)) {
        err_set(e, ERR_ENV, "cannot be read: %s", strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        err_set(e, ERR_ENV, "not a file");
    } else if (st.st_size == 0) {
        err_set(e, ERR_ENV, "the file is empty");
    } else if ((p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0)) == MAP_FAILED) {
        err_set(e, ERR_ENV, "cannot be mapped: %s", strerror(errno));
    } else {
        *bytes = p;
        *n = (size_t)st.st_size;
        rc = 0;
    }
    close(fd);
    return rc;
}

void map_release(const void *bytes, size_t n)
{
    if (bytes) munmap((void *)bytes, n);
}
