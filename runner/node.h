/* node.h: YAML text to a tree of nodes, each with its place, by libyaml's event API.
 *
 * The tree lives in the arena given. Scalars stay text: types come from the schema (spec.c), never from their look.
 * One document, UTF-8, depth <= 64, at most a million nodes after aliases are expanded; tags, merge keys (<<), duplicate
 * keys, a second document, an alias inside its own anchor are errors with a place. An alias shares the node of its anchor.
 *
 *     struct node *root = node_parse(text, n, mem, d);     // NULL: d says why
 *     struct node *v = node_get(root, "experiment");
 */
#ifndef RUNNER_NODE_H
#define RUNNER_NODE_H

#include "diag.h"

enum node_kind { NODE_SCALAR, NODE_LIST, NODE_MAP };
enum node_style { NODE_PLAIN, NODE_SINGLE, NODE_DOUBLE, NODE_LITERAL, NODE_FOLDED };

struct node {
    enum node_kind kind;
    enum node_style style; /* of a scalar */
    struct mark at;
    int width;        /* characters as written on its first line; 1 for a block list or block map */
    const char *text; /* scalar: its bytes, NUL-terminated; may hold NULs inside, see len */
    size_t len;
    int n;               /* list: items; map: pairs */
    struct node **items; /* (n) list items or map values */
    struct node **keys;  /* (n) map: scalar nodes */
};

struct node *node_parse(const char *text, size_t n, arena *mem, struct diag *d);
struct node *node_get(const struct node *map, const char *key); /* NULL: absent or not a map */
const char *node_kind_name(const struct node *v);               /* "a list", "a map", "a scalar" for messages */

#endif
