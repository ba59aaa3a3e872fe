/* kvcodec.h: how a chunk of a KV cache is packed. No state; safe from any thread.
 *
 * Codec `exph`, bytes of a packed chunk, little endian:
 *     0   u8   1 (version)
 *     1   u8   element bytes: 2 (bf16) or 4 (f32)
 *     2   u16  0
 *     4   u32  F, bytes of the zstd frame
 *     8   F    a standard zstd frame, Huffman coding only: the exponent byte of each element (bits rotated left by one, so
 *              that sign leaves the exponent byte; top byte)
 *     8+F ...  the other bytes of each rotated element, plane by plane, lowest plane first, stored as they are
 * Elements of f16 are split into byte planes instead: element bytes 0x82, high bytes in the frame at zstd level 1.
 * Codec `stored`: the raw bytes. The packer keeps the smaller. Why so: kv-codec measurements in docs/design notes, README.
 *
 *     struct buf packed = {0}; enum kv_codec c = kvcodec_pack(raw, n, KV_F32, &packed);
 *     kvcodec_unpack(c, packed.p, packed.n, raw2, n, e);
 */
#ifndef RUNNER_KVCODEC_H
#define RUNNER_KVCODEC_H

#include "../engine/engine.h"

enum kv_codec { KV_CODEC_STORED, KV_CODEC_EXPH };

const char *kvcodec_name(enum kv_codec c);                   /* "stored", "exph": as in blob.codec */
int kvcodec_from_name(const char *name, enum kv_codec *out); /* -1: unknown */
/* n: whole elements of t. Appends to out. */
enum kv_codec kvcodec_pack(const void *raw, size_t n, enum kv_type t, struct buf *out);
/* Unpacks to exactly n raw bytes; hostile input gives an error (ERR_DB), never a crash. */
int kvcodec_unpack(enum kv_codec c, const void *packed, size_t n_packed, void *raw, size_t n, err *e);

#endif
