/* doctor.h: what kvrun finds on this machine, as a block to paste into a report. */
#ifndef RUNNER_DOCTOR_H
#define RUNNER_DOCTOR_H

#include "options.h"

/* Prints it to out; 0 when kvrun can run here, else ERR_ENV. What is missing for a GPU alone is no failure. */
int doctor(const struct options *o, FILE *out, err *e);

#endif
