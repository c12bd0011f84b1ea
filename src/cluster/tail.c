/* The last lines of a log; see tail.h. */
#include "cluster/tail.h"

#include <stdio.h>
#include <string.h>

static const char lead[] = "\n  | ";

void cluster_tail_add(struct cluster_tail *tail, const char *line, size_t len_bytes) {
    while (len_bytes > 0 && (line[len_bytes - 1] == '\n' || line[len_bytes - 1] == '\r' || line[len_bytes - 1] == ' '))
        len_bytes--;
    if (len_bytes == 0)
        return;
    if (len_bytes > CLUSTER_TAIL_LINE_BYTES - 1)
        len_bytes = CLUSTER_TAIL_LINE_BYTES - 1;
    int at = (tail->first + tail->n) % CLUSTER_TAIL_LINES;
    if (tail->n == CLUSTER_TAIL_LINES)
        tail->first = (tail->first + 1) % CLUSTER_TAIL_LINES;
    else
        tail->n++;
    memcpy(tail->lines[at], line, len_bytes);
    tail->lines[at][len_bytes] = '\0';
}

void cluster_tail_text(const struct cluster_tail *tail, char *ret_text, size_t size_bytes) {
    int from = tail->n;
    size_t room = size_bytes - 1;
    while (from > 0) {
        size_t need = sizeof lead - 1 + strlen(tail->lines[(tail->first + from - 1) % CLUSTER_TAIL_LINES]);
        if (need > room)
            break;
        room -= need;
        from--;
    }
    size_t used = 0;
    ret_text[0] = '\0';
    for (int i = from; i < tail->n; i++)
        used += (size_t)snprintf(ret_text + used, size_bytes - used, "%s%s", lead, tail->lines[(tail->first + i) % CLUSTER_TAIL_LINES]);
}
