/* distance.c: a band of diagonals around the corner-to-corner one, doubled until the distance fits into it; see distance.h. */
#include "distance.h"

#include "words.h"

#include <stdlib.h>
#include <string.h>

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* The distance when it is at most `most`, else more than that. row: (m + 1) of scratch; n <= m. Cell j of row i is only filled
   where j - i is inside the band; its neighbours outside count as more than `most`. */
static int64_t banded(const int32_t *a, int64_t n, const int32_t *b, int64_t m, int64_t most, int64_t *row)
{
    int64_t side = (most - (m - n)) / 2, i,
            j; /* diagonals left of the main one, and right of the one that ends in the corner */
    for (j = 0; j <= m; j++) row[j] = j <= m - n + side ? j : most + 1;
    for (i = 1; i <= n; i++) {
        int64_t from = i - side > 1 ? i - side : 1, to = least(m, i + m - n + side), corner = row[from - 1], up;
        row[from - 1] = from == 1 ? i : most + 1;
        for (j = from; j <= to; j++) {
            up = row[j];
            row[j] = least(corner + (a[i - 1] != b[j - 1]), least(row[j - 1], up) + 1);
            corner = up;
        }
        if (to < m) row[to + 1] = most + 1;
    }
    return row[m];
}

int64_t distance_of(const int32_t *a, size_t n, const int32_t *b, size_t m)
{
    int64_t most, d, *row;
    while (n && m && a[0] == b[0]) a++, b++, n--, m--;
    while (n && m && a[n - 1] == b[m - 1]) n--, m--;
    if (n > m) return distance_of(b, m, a, n);
    if (n == 0) return (int64_t)m;
    row = mem_array(m + 1, sizeof *row);
    for (most = (int64_t)(m - n) + 16;; most *= 2) {
        if (most > (int64_t)m) most = (int64_t)m; /* never further than all of the longer one */
        d = banded(a, (int64_t)n, b, (int64_t)m, most, row);
        if (d <= most || most == (int64_t)m) break;
    }
    free(row);
    return d;
}

int32_t *distance_points(const char *text, size_t n, size_t *count)
{
    int32_t *points = mem_array(n, sizeof *points);
    size_t i = 0, len;
    for (*count = 0; i < n; i += len) points[(*count)++] = words_point(text + i, n - i, &len);
    return points;
}
