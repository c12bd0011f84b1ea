/* STEP and RESULT frame bodies from anybody: decoded within limits or refused; what is decoded encodes to the same bytes. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "exec/step.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct err err;
    struct exec_step step;
    struct exec_result result;
    struct buf body;
    buf_init(&body, 1 << 20);
    if (buf_append(&body, data, size) == 0) {
        if (exec_step_decode(&body, &step, &err) == 0) {
            struct buf again;
            buf_init(&again, 1 << 20);
            if (exec_step_encode(&step, &again) != 0 || again.len_bytes != size)
                abort();
            buf_finish(&again);
            exec_step_finish(&step);
        }
        if (exec_result_decode(&body, &result, &err) == 0)
            exec_result_finish(&result);
    }
    buf_finish(&body);
    return 0;
}
