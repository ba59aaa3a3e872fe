/* whole_file.c: see whole_file.h. */
#include "whole_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

int whole_error(const char *path, err *e)
{
    return err_set(e, errno == ENOSPC || errno == EDQUOT ? ERR_DISK : ERR_INPUT, "cannot write %s: %s", path, strerror(errno));
}

int whole_open(struct whole_file *w, const char *path, err *e)
{
    int fd, r;
    *w = (struct whole_file){.path = path};
    buf_printf(&w->part, "%s.part.%d", path, (int)getpid());
    fd = open(w->part.p, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd >= 0) w->f = fdopen(fd, "wb");
    if (w->f) return 0;
    r = whole_error(w->part.p, e);
    if (fd >= 0) close(fd);
    buf_free(&w->part);
    return r;
}

int whole_close(struct whole_file *w, int rc, err *e)
{
    if (!rc && (fflush(w->f) || fsync(fileno(w->f)))) rc = whole_error(w->path, e);
    if (fclose(w->f) && !rc) rc = whole_error(w->path, e);
    if (!rc && rename(w->part.p, w->path)) rc = whole_error(w->path, e);
    if (rc) unlink(w->part.p);
    buf_free(&w->part);
    return rc ? -1 : 0;
}
