/* stub */
#include "verify/checks.h"
void check_npu(const struct check_npu_opts *opts, struct verify_findings *findings, json_t *facts) {
    (void)opts;(void)findings;(void)facts;
}
json_t *check_npu_pings(const struct check_npu_opts *opts, const json_t *pings) {
    (void)opts;(void)pings;
    return json_array();
}
