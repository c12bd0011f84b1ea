/* Facts about this machine. Any thread. */
#ifndef BASE_HOST_H
#define BASE_HOST_H

#include <stdint.h>

/* Memory in all and memory that can still be had, in bytes: the kernel's figures, cut to this process's cgroup limit. */
void host_memory(uint64_t *ret_total, uint64_t *ret_available);
/* CPUs that this process may run on, at least 1. */
int host_cpus(void);

#endif
