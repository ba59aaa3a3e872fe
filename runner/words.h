/* words.h: words in a text, whole: no letter, mark or digit of any script stands right before or behind them.
 *
 * Text may be any bytes; one that is not UTF-8 stands for itself and is part of no word. casefold compares after full Unicode
 * case folding (utf8proc), so "STRASSE" is "Straße".
 */
#ifndef RUNNER_WORDS_H
#define RUNNER_WORDS_H

#include "../engine/base.h"

#include <stdbool.h>
#include <stdint.h>

/* The code point at s (n > 0) and its bytes; a byte that is not UTF-8 gives its negative value and 1. */
int32_t words_point(const char *s, size_t n, size_t *bytes);
/* Whether a code point is part of a word. */
bool words_letter(int32_t point);
/* Bytes that `word` takes at s when it stands there and nothing of a word follows, else 0. What stands before s is not looked
 * at. */
size_t words_at(const char *s, size_t n, const char *word, bool casefold);
/* True when the text holds `word` as a whole word. */
bool words_in(const char *text, size_t n, const char *word, bool casefold);

#endif
