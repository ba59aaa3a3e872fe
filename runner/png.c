/* png.c: see png.h. */
#include "png.h"

#include <png.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

enum { PALETTE_MAX = 256, TABLE = 1024 };

/* Colours by first appearance. The table is open addressing over `place`; 0 is an empty slot, else index + 1. */
struct palette {
    png_color colours[PALETTE_MAX];
    uint16_t place[TABLE];
    int n;
};

/* Index of a colour, added if it is new; -1: it would be the 257th. */
static int palette_index(struct palette *p, const uint8_t *c)
{
    uint32_t key = (uint32_t)c[0] << 16 | (uint32_t)c[1] << 8 | c[2];
    uint32_t slot = key * 2654435761u >> 22;
    while (p->place[slot]) {
        const png_color *at = &p->colours[p->place[slot] - 1];
        if (at->red == c[0] && at->green == c[1] && at->blue == c[2]) return p->place[slot] - 1;
        slot = (slot + 1) % TABLE;
    }
    if (p->n == PALETTE_MAX) return -1;
    p->colours[p->n] = (png_color){c[0], c[1], c[2]};
    p->place[slot] = (uint16_t)(++p->n);
    return p->n - 1;
}

static int fits_palette(struct palette *p, const uint8_t *rgb, size_t pixels)
{
    size_t i;
    for (i = 0; i < pixels; i++)
        if (palette_index(p, rgb + 3 * i) < 0) return 0;
    return 1;
}

struct job {
    const uint8_t *rgb; /* (h, w, 3) */
    size_t w, h;
    struct palette *palette; /* NULL: the image has more colours than that */
    uint8_t *row;            /* (w) palette indices of one row */
    struct buf *out;
    err *e;
};

static void on_error(png_structp png, png_const_charp message)
{
    struct job *j = png_get_error_ptr(png);
    err_set(j->e, ERR_INTERNAL, "libpng: %s", message);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp message)
{
    (void)png, (void)message;
}

static void on_bytes(png_structp png, png_bytep bytes, size_t n)
{
    struct job *j = png_get_io_ptr(png);
    buf_add(j->out, bytes, n);
}

static void on_flush(png_structp png)
{
    (void)png;
}

/* What stands in front of the rows. Heat maps are close to noise, where filters cost time and win nothing. */
static void begin(png_structp png, png_infop info, const struct job *j)
{
    int type = j->palette ? PNG_COLOR_TYPE_PALETTE : PNG_COLOR_TYPE_RGB;
    png_set_write_fn(png, (void *)j, on_bytes, on_flush);
    png_set_user_limits(png, PNG_SIDE_MAX, PNG_SIDE_MAX);
    png_set_IHDR(png, info, (png_uint_32)j->w, (png_uint_32)j->h, 8, type, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    if (j->palette) png_set_PLTE(png, info, j->palette->colours, j->palette->n);
    png_set_filter(png, PNG_FILTER_TYPE_BASE, PNG_FILTER_NONE);
    png_set_compression_level(png, 6);
    png_write_info(png, info);
}

static void rows(png_structp png, const struct job *j)
{
    size_t x, y;
    for (y = 0; y < j->h; y++) {
        const uint8_t *rgb = j->rgb + y * 3 * j->w;
        for (x = 0; j->palette && x < j->w; x++) j->row[x] = (uint8_t)palette_index(j->palette, rgb + 3 * x);
        png_write_row(png, j->palette ? j->row : rgb);
    }
}

/* The one frame that libpng's errors jump back to. */
static int write_all(struct job *j)
{
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, j, on_error, on_warning);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (!info) {
        png_destroy_write_struct(&png, NULL);
        return err_set(j->e, ERR_INTERNAL, "libpng cannot start");
    }
    if (setjmp(png_jmpbuf(png)) == 0) {
        begin(png, info, j);
        rows(png, j);
        png_write_end(png, NULL);
    }
    png_destroy_write_struct(&png, &info);
    return j->e->code ? -1 : 0;
}

int png_encode(const uint8_t *rgb, size_t n, size_t w, size_t h, struct buf *out, err *e)
{
    struct palette *palette;
    struct job j = {rgb, w, h, NULL, NULL, out, e};
    struct buf bytes = {0};
    err why = {0};
    if (w < 1 || h < 1 || w > PNG_SIDE_MAX || h > PNG_SIDE_MAX)
        return err_set(e, ERR_INPUT, "an image of %zu x %zu pixels; each side is 1 to %d", w, h, PNG_SIDE_MAX);
    if (n != 3 * w * h) return err_set(e, ERR_INPUT, "an image of %zu x %zu pixels has %zu bytes, not %zu", w, h, 3 * w * h, n);
    palette = mem_alloc(sizeof *palette);
    j.row = mem_array(w, 1);
    j.out = &bytes;
    j.e = &why;
    if (fits_palette(palette, rgb, w * h)) j.palette = palette;
    if (write_all(&j) == 0)
        buf_add(out, bytes.p, bytes.n);
    else
        err_set(e, why.code, "%s", why.msg);
    buf_free(&bytes);
    free(j.row);
    free(palette);
    return why.code ? -1 : 0;
}
