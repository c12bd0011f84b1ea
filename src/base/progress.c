/* One progress line on stderr; see progress.h. */
#include "base/progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

enum { BAR_CELLS = 24 };
static const int64_t TERMINAL_GAP_NS = 100000000;
static const int64_t LOG_GAP_NS = 5000000000;

char *progress_bytes_text(uint64_t bytes, char ret_text[16]) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 999.5 && unit + 1 < sizeof units / sizeof units[0]) {
        value /= 1000;
        unit++;
    }
    snprintf(ret_text, 16, value < 9.995 && unit > 0 ? "%.2f %s" : value < 99.95 && unit > 0 ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return ret_text;
}

void progress_start(struct progress *bar, const char *title, uint64_t start_bytes, uint64_t total_bytes) {
    memset(bar, 0, sizeof *bar);
    snprintf(bar->title, sizeof bar->title, "%s", title);
    bar->total_bytes = total_bytes;
    bar->start_bytes = start_bytes;
    bar->start_ns = bar->last_draw_ns = clock_mono_ns();
    bar->is_terminal = isatty(STDERR_FILENO);
}

static void draw(struct progress *bar, uint64_t done_bytes, const char *note, int64_t now_ns, int is_last) {
    char done[16], total[16], rate[16], line[512], cells[BAR_CELLS * 3 + 1] = "";
    double elapsed_s = (double)(now_ns - bar->start_ns) / 1e9;
    uint64_t moved = done_bytes > bar->start_bytes ? done_bytes - bar->start_bytes : 0;
    double rate_bps = bar->rate_bps > 0 ? bar->rate_bps : elapsed_s > 0.01 ? (double)moved / elapsed_s : 0;
    double left_s = bar->rate_bps > 0 ? bar->left_s : rate_bps > 0 ? ((double)bar->total_bytes - (double)done_bytes) / rate_bps : 0;
    double share = bar->total_bytes > 0 ? (double)done_bytes / (double)bar->total_bytes : 0;
    if (share > 1)
        share = 1;
    for (int i = 0; i < BAR_CELLS; i++)
        strcat(cells, i < (int)(share * BAR_CELLS + 0.5) ? "█" : "░");
    int len = snprintf(line, sizeof line, "%s %3.0f%% %s %s/%s %s/s", bar->title, share * 100, cells, progress_bytes_text(done_bytes, done),
                       progress_bytes_text(bar->total_bytes, total), progress_bytes_text((uint64_t)rate_bps, rate));
    if (!is_last && rate_bps > 0 && bar->total_bytes > done_bytes) {
        long left = left_s < 1e6 ? (long)(left_s + 0.5) : 1000000;
        len += snprintf(line + len, sizeof line - (size_t)len, " ETA %ld:%02ld", left / 60, left % 60);
    }
    if (note != NULL)
        snprintf(line + len, sizeof line - (size_t)len, " %s", note);
    if (bar->is_terminal)
        fprintf(stderr, "\r\033[K%s%s", line, is_last ? "\n" : "");
    else
        log_info("%s", line);
    bar->last_draw_ns = now_ns;
}

void progress_update(struct progress *bar, uint64_t done_bytes, const char *note) {
    int64_t now_ns = clock_mono_ns();
    if (now_ns - bar->last_draw_ns >= (bar->is_terminal ? TERMINAL_GAP_NS : LOG_GAP_NS))
        draw(bar, done_bytes, note, now_ns, 0);
}

void progress_finish(struct progress *bar, uint64_t done_bytes, const char *note) { draw(bar, done_bytes, note, clock_mono_ns(), 1); }
