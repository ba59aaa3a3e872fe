/* one_layer.h: the rows of a pass over one layer, for tests of attention and of appending. */
#ifndef TESTS_ONE_LAYER_H
#define TESTS_ONE_LAYER_H

#include "../../kernels/kernels.h"

#include <assert.h>

enum { ONE_LAYER_MAX = 1024 };

/* tables: (B)(slot/P + 1) the pages of each row; rows with the same table are of one cache. What is returned is good until the
   next call. */
static inline const struct rows *one_layer(struct kv_page *const *const *tables, const int *slot, int B)
{
    static struct kv_page *const *const *pages[ONE_LAYER_MAX];
    static struct rows r;
    assert(B <= ONE_LAYER_MAX);
    for (int b = 0; b < B; b++) pages[b] = b > 0 && tables[b] == tables[b - 1] ? pages[b - 1] : &tables[b];
    r = (struct rows){B, slot, pages};
    return &r;
}

#endif
