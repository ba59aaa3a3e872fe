/* signals.h: the first signal asks the run to stop at the next step; the second one ends the process at once.
 *
 * SIGINT leads to exit code 130, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 to 75 (batch systems differ in which they send).
 */
#ifndef RUNNER_SIGNALS_H
#define RUNNER_SIGNALS_H

enum { EXIT_STOPPED = 75, EXIT_INTERRUPTED = 130 };

void signals_catch(void);
const volatile int *signals_flag(void); /* nonzero: stop soon */
int signals_exit_code(void);

#endif
