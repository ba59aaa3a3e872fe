/* model_info.h: what a model is, for `kvrun model`.
 *
 *     engine *en; struct buf out = {0};
 *     if (model_info_open(&en, path, e)) ...       // ERR_ENV: missing, broken or not supported
 *     model_info_text(en, &out);
 *     engine_free(en);
 */
#ifndef RUNNER_MODEL_INFO_H
#define RUNNER_MODEL_INFO_H

#include "../engine/engine.h"

/* Opens the model; a file that holds a vocabulary and no tensor is opened for that. */
int model_info_open(engine **out, const char *path, err *e);
/* Append to out: a page for people; one JSON object in which what the file does not say is null. */
void model_info_text(const engine *en, struct buf *out);
void model_info_json(const engine *en, struct buf *out);

#endif
