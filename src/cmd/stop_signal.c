/* Owns the number of the signal that came; written by the handler, read by any thread. See stop_signal.h. */
#include "cmd/stop_signal.h"

#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>

static atomic_int g_number;

static void on_signal(int number) {
    if (atomic_exchange(&g_number, number) != 0) {
        signal(number, SIG_DFL);
        raise(number);
    }
}

void stop_signal_catch_also(int number) {
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(number, &action, NULL);
}

void stop_signal_catch(void) {
    stop_signal_catch_also(SIGINT);
    stop_signal_catch_also(SIGTERM);
}

int stop_signal_number(void) { return atomic_load(&g_number); }

bool stop_signal_came(void *ctx) {
    (void)ctx;
    return atomic_load(&g_number) != 0;
}
