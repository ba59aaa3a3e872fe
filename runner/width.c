/* width.c: see width.h. */
#include "width.h"

#include "../engine/base.h"

#include <sys/ioctl.h>
#include <unistd.h>
#include <utf8proc.h>

/* Columns of the character at s, and its length. */
static int char_width(const char *s, size_t n, size_t *len)
{
    utf8proc_int32_t cp;
    int bytes = utf8_len(s, n);
    *len = bytes ? (size_t)bytes : 1;
    if (bytes == 0) return 1;
    utf8proc_iterate((const utf8proc_uint8_t *)s, bytes, &cp);
    return utf8proc_charwidth(cp);
}

int width_text(const char *s, size_t n)
{
    size_t i, len;
    int w = 0;
    for (i = 0; i < n; i += len) w += char_width(s + i, n - i, &len);
    return w;
}

size_t width_fit(const char *s, size_t n, int max)
{
    size_t i, len;
    int w = 0;
    for (i = 0; i < n; i += len) {
        w += char_width(s + i, n - i, &len);
        if (w > max) break;
    }
    return i;
}

int width_terminal(int otherwise)
{
    struct winsize w;
    return isatty(1) && ioctl(1, TIOCGWINSZ, &w) == 0 && w.ws_col > 0 ? w.ws_col : otherwise;
}
