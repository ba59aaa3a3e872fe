/* colour.h: numbers to colours. No state; integer tables, so the same number is the same colour everywhere.
 *
 * Diverging: blue above zero, white at zero, red below, full colour at +limit and -limit and beyond. Both arms have the same
 * lightness at the same distance, and equal steps of the number are equal steps in OKLab (Ottosson 2020), so neither sign looks
 * larger and no step looks like an edge. Sequential: white at 0 through green to near black at limit.
 *
 * A scale has 255 colours, and one grey for what is not a number, so that a whole picture fits the palette of png.h.
 *
 *     struct colour c = colour_diverging(v, limit);   // rgb[0] = c.r; ...
 */
#ifndef RUNNER_COLOUR_H
#define RUNNER_COLOUR_H

#include <stdint.h>

struct colour {
    uint8_t r, g, b;
};

/* limit > 0 is the value of full colour. With limit 0 every value but 0 is beyond it; NaN in either is the grey, and so is a
   negative limit. */
struct colour colour_diverging(double value, double limit);
/* Values below 0 are as 0. */
struct colour colour_sequential(double value, double limit);

#endif
