/* NPUs over all nodes; see npu_compare.h. */
#include "verify/npu_compare.h"

void verify_npus(struct verify_asker *asker, const struct verify_opts *opts, json_t **facts) {
    (void)asker;
    (void)opts;
    (void)facts;
}
