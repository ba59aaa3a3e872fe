/* Any bytes as a chat template: compiling and rendering must end, without touching memory that is not theirs. */
#include "../../engine/chat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const struct chat_msg msgs[] = {
        {"system", "s"}, {"user", " u\n"}, {"assistant", "<think>x</think> a"}, {"user", "\xff"}};
    const struct chat_env env = {.bos_token = "<s>", .eos_token = "</s>", .add_generation_prompt = true};
    struct buf out = {0};
    chat *c = NULL;
    err e = {0};
    if (chat_compile(&c, (const char *)data, n, &e) == 0) chat_render(c, &env, msgs, 4, &out, &e);
    chat_free(c);
    buf_free(&out);
    return 0;
}
