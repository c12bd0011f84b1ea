/* Ray's answers from whatever listens on that port. The first byte picks the answer. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "cluster/ray_parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes) {
    static struct cluster_offer offers[CLUSTER_MAX_OFFERS];
    struct cluster_ray_status status;
    struct err err;
    char reason[64], text_of_tail[CLUSTER_TAIL_TEXT_BYTES];
    int n;
    if (len_bytes == 0)
        return 0;
    const char *text = (const char *)data + 1;
    len_bytes--;
    switch (data[0]) {
    case 'n':
        if (cluster_ray_parse_nodes(text, len_bytes, offers, &n, &err) == 0)
            for (int i = 0; i < n; i++)
                if (!cluster_ray_id_is_plain(offers[i].id) || offers[i].host[0] == '\0' || !(offers[i].cpus_total >= 0))
                    abort();
        break;
    case 'u':
        snprintf(offers[0].id, sizeof offers[0].id, "ab");
        if (cluster_ray_parse_usage(text, len_bytes, offers, 1, &err) == 0 && !(offers[0].cpus_used >= 0))
            abort();
        break;
    case 'j':
        if (cluster_ray_parse_status(text, len_bytes, &status, &err) == 0)
            cluster_tail_text(&status.tail, text_of_tail, sizeof text_of_tail);
        break;
    default:
        cluster_ray_parse_failure(text, len_bytes, reason, sizeof reason);
    }
    return 0;
}
