/* Time: a monotonic clock for durations and deadlines, a wall clock for stamps. Any thread. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

int64_t clock_mono_ns(void);
int64_t clock_thread_ns(void);  /* processor time of the calling thread */
int64_t clock_process_ns(void); /* likewise of all threads of the process */
int64_t clock_mono_ms(void);
/* Seconds since 1970, for "created" fields. */
int64_t clock_wall_s(void);
/* Milliseconds from now to deadline_ms (a clock_mono_ms value), never below 0 nor above INT32_MAX: fit for poll(). */
int clock_left_ms(int64_t deadline_ms);
/* Sleeps; a signal ends it early. */
void clock_nap_ms(int ms);

#endif
