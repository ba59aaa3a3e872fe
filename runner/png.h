/* png.h: pixels to the bytes of a PNG file, by libpng. No state; safe from any thread.
 *
 * The same pixels give the same bytes: the filter, the level and the order of the palette are fixed, and the file carries no
 * time. (Another version of zlib may pack otherwise; the pixels that come back are equal.) An image of at most 256 colours,
 * such as a heat map by colour.h, is written with a palette: a third of the raw bytes.
 *
 *     uint8_t *rgb = mem_array(h, 3 * w);          // (h, w, 3), rows from the top
 *     struct buf png = {0};
 *     if (png_encode(rgb, 3 * w * h, w, h, &png, e)) ...
 */
#ifndef RUNNER_PNG_H
#define RUNNER_PNG_H

#include "../engine/base.h"

enum { PNG_SIDE_MAX = 1 << 18 };

/* Appends to out. n: bytes at rgb, exactly 3 w h; an empty image, a side above PNG_SIDE_MAX or another n is ERR_INPUT, and out
   is as it was. */
int png_encode(const uint8_t *rgb, size_t n, size_t w, size_t h, struct buf *out, err *e);

#endif
