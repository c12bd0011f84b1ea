/* The signal that asks a command to stop. A second one does not wait for a graceful end: it ends the process. Any thread may ask. */
#ifndef CMD_STOP_SIGNAL_H
#define CMD_STOP_SIGNAL_H

#include <stdbool.h>

/* From now on SIGINT and SIGTERM are caught; main thread. */
void stop_signal_catch(void);
/* The same for a further one, such as SIGHUP. */
void stop_signal_catch_also(int number);
/* Its number, 0 while none has come. */
int stop_signal_number(void);
/* Whether one has come; ctx is not looked at. */
bool stop_signal_came(void *ctx);

#endif
