/* emu_in.h: what the two halves of the emulator share: the scheduler of a block's threads, and the runtime that calls it. */
#ifndef CUDA_EMU_IN_H
#define CUDA_EMU_IN_H

#include "emu.h"

enum emu_order { EMU_FORWARD, EMU_REVERSED, EMU_RANDOM };

struct emu_options {
    enum emu_order order;
    uint64_t seed, memory;
    int shared; /* bytes of shared memory that a block may ask for */
    bool defer, protect, no_device;
    const char *fail, *cublas, *log;
};
const struct emu_options *emu_options(void);

/* Runs all blocks of a launch; the process ends with a report where a rule of the device is broken. */
void emu_run(const char *name, dim3 grid, dim3 block, size_t shared, bool early, const std::function<void()> &body);
/* Queues work of the host's code that stands for a kernel. */
void emu_enqueue(cudaStream_t s, std::function<void()> f);
/* The process ends unless these bytes lie inside one allocation of the device. */
void emu_check_device(const void *p, size_t bytes);
/* What kernels did is over for whoever goes on: before everything else that touches their memory or their arguments. */
void emu_settle(void);
[[noreturn]] void emu_die(const char *what, const char *file, int line);

#endif
