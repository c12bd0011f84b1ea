/*
 * Log lines on stderr, one write per line: "INFO 11-24 08:16:50 [driver] text". Any thread.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR };

/* Sets the lowest level that is written and the tag of this process ("driver", "worker 1"). The tag is copied. Call before threads start. */
void log_setup(enum log_level level, const char *tag);

/* "debug", "info", "warning", "error" in any case → 0 and *ret_level; anything else → -1. */
int log_level_parse(const char *text, enum log_level *ret_level);

void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_warning(...) log_write(LOG_WARNING, __VA_ARGS__)
#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)

#endif
