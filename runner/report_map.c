/* report_map.c: heat maps: a row of names before a picture of one pixel per number, which the page stretches. */
#include "report_in.h"

#include <math.h>
#include <stdlib.h>

double map_largest(const float *v, size_t n, bool *negative)
{
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        if (negative && v[i] < 0) *negative = true;
        if (isfinite(v[i]) && fabs((double)v[i]) > most) most = fabs((double)v[i]);
    }
    return most;
}

int map_png(struct report *r, const struct map *m, struct buf *b, err *e)
{
    size_t n = (size_t)m->w * (size_t)m->h, before = b->n;
    uint8_t *rgb = mem_array(n, 3);
    int rc;
    for (size_t i = 0; i < n; i++) {
        double v = (double)m->v[i], x = m->root && v == v ? copysign(sqrt(fabs(v)), v) : v;
        double end = m->root ? sqrt(m->limit) : m->limit;
        struct colour c = m->diverging ? colour_diverging(x, end) : colour_sequential(x, end);
        rgb[3 * i] = c.r;
        rgb[3 * i + 1] = c.g;
        rgb[3 * i + 2] = c.b;
    }
    rc = html_png(b, rgb, m->w, m->h, e);
    r->picture_bytes += b->n - before;
    free(rgb);
    return rc;
}

int map_draw(struct report *r, const struct map *m, const char *src, err *e)
{
    struct buf *b = r->out, made = {0};
    if (!src && map_png(r, m, &made, e)) return -1;
    buf_str(b, "<div class=wide tabindex=0><div class=map><ol>");
    for (int i = 0; i < m->h; i++) {
        buf_str(b, "<li>");
        html_str(b, m->names ? m->names[i] : "");
        buf_str(b, "</li>");
    }
    buf_printf(b, "</ol><img style=\"height:%dpx\" alt=\"", 14 * m->h);
    html_str(b, m->alt);
    buf_printf(b, "\" src=\"%s\"><div class=x><span>", src ? src : made.p);
    html_str(b, m->left);
    buf_str(b, "</span><span>");
    html_str(b, m->right);
    buf_str(b, "</span></div></div></div>\n");
    buf_free(&made);
    return 0;
}
