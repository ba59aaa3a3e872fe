/* metric.c: placeholder until written */
#include "metric.h"
int metric_compute(store *st, const struct spec *s, const struct jobs *j, err *e)
{
    (void)st;
    (void)s;
    (void)j;
    (void)e;
    return 0;
}
bool metric_mentions(const char *text, size_t n, const char *word, bool casefold)
{
    (void)text;
    (void)n;
    (void)word;
    (void)casefold;
    return false;
}
