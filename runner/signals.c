/* signals.c: one flag, set by a handler that does nothing else. */
#include "signals.h"

#include <signal.h>
#include <string.h>

static volatile int caught;

static void handle(int signal)
{
    caught = signal;
}

void signals_catch(void)
{
    static const int list[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2};
    struct sigaction a;
    unsigned i;
    memset(&a, 0, sizeof a);
    a.sa_handler = handle;
    a.sa_flags = (int)SA_RESETHAND; /* the second signal has its usual effect */
    for (i = 0; i < sizeof list / sizeof *list; i++) sigaction(list[i], &a, NULL);
}

const volatile int *signals_flag(void)
{
    return &caught;
}

int signals_exit_code(void)
{
    return caught == SIGINT ? EXIT_INTERRUPTED : EXIT_STOPPED;
}
