/* Log lines on stderr; see log.h. Owns the process-wide level and tag. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

static enum log_level g_level = LOG_INFO;
static char g_tag[48] = "shoal";

static const char *const level_names[] = {"DEBUG", "INFO", "WARNING", "ERROR"};

void log_setup(enum log_level level, const char *tag) {
    g_level = level;
    snprintf(g_tag, sizeof g_tag, "%s", tag);
}

int log_level_parse(const char *text, enum log_level *ret_level) {
    for (int i = LOG_DEBUG; i <= LOG_ERROR; i++)
        if (strcasecmp(text, level_names[i]) == 0) {
            *ret_level = (enum log_level)i;
            return 0;
        }
    return -1;
}

void log_write(enum log_level level, const char *fmt, ...) {
    if (level < g_level)
        return;
    char line[4096];
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &tm);
    int len = snprintf(line, sizeof line, "%s %02d-%02d %02d:%02d:%02d [%s] ", level_names[level], tm.tm_mon + 1, tm.tm_mday, tm.tm_hour,
                       tm.tm_min, tm.tm_sec, g_tag);
    va_list ap;
    va_start(ap, fmt);
    int body = vsnprintf(line + len, sizeof line - (size_t)len - 1, fmt, ap);
    va_end(ap);
    len += body;
    if (len > (int)sizeof line - 2)
        len = (int)sizeof line - 2;
    line[len++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, (size_t)len);
    (void)written; /* nowhere left to complain */
}
