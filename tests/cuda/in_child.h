/* in_child.h: cases of tests that need a process of their own, since the emulator reads its environment once. */
#ifndef TESTS_CUDA_IN_CHILD_H
#define TESTS_CUDA_IN_CHILD_H

#include "cuda_test.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* Runs f with the variable set; the test fails when a CHECK in it does, or when it crashes. */
static inline void in_child(void (*f)(void), const char *name, const char *value)
{
    int status;
    pid_t pid;
    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        signal(SIGSEGV, SIG_DFL); /* cmocka's would go on with the next test here */
        signal(SIGABRT, SIG_DFL);
        alarm(100);
        setenv(name, value, 1);
        f();
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (status) fail_msg("%s=%s: status %x", name, value, (unsigned)status);
}

#define CHECK(x)                                                \
    if (!(x)) {                                                 \
        fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x); \
        _exit(1);                                               \
    }

static inline const struct kernels *open_in_child(char *why, size_t n)
{
    return kvrun_cuda_open(KVRUN_CUDA_ABI, 0, NULL, why, n);
}

/* 0: the emulator, which is not opened here, since it reads its environment once; 1: a device. */
static inline int is_device(void)
{
    int status = 0;
    pid_t pid;
    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        char why[200];
        const struct kernels *k = open_in_child(why, sizeof why);
        _exit(k && !strcmp(k->name, "cuda-emu") ? 0 : 1);
    }
    waitpid(pid, &status, 0);
    return status != 0;
}

#endif
