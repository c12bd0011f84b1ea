/*
 * As many ranks as the 235B's launches have, on its numbers of heads, KV heads and experts with narrow made-up weights: 8 × 2 and 16
 * ranks that share KV heads, with whole experts and with slices of all, compute what one rank computes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>

#include "base/json.h"
#include "model/model_files.h"
#include "model/rig.h"

enum { N_VOCAB = 1024, N_TOKENS = 16 };

static int setup(void **state) {
    (void)state;
    kernels_setup(kernels_isa_detect());
    if (model_files_setup() != 0)
        return -1;
    struct buf text;
    struct err err;
    buf_init(&text, MODEL_FILES_LIMIT);
    if (file_read(TEST_DATA_DIR "/configs/Qwen--Qwen3-235B-A22B_config.json", &text, &err) != 0)
        return -1;
    write_file("config.json", &text);
    buf_finish(&text);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    return model_files_teardown();
}

static void run(int tp, int pp, bool ep, const int *layers, float *logits) {
    int32_t tokens[N_TOKENS];
    struct err err;
    json_t *overrides = json_pack("{s:i, s:i, s:i, s:i, s:i}", "num_hidden_layers", 3, "hidden_size", 192, "head_dim", 16,
                                  "moe_intermediate_size", 256, "vocab_size", N_VOCAB);
    for (int i = 0; i < N_TOKENS; i++)
        tokens[i] = (i * 37 + 11) % N_VOCAB;
    struct rig_seq seq = {.tokens = tokens, .n_tokens = N_TOKENS, .n_prompt = N_TOKENS - 4, .logits = logits};
    struct rig rig = {.path = model_files_folder, .kv_dtype = DTYPE_F32, .tp = tp, .pp = pp, .expert_parallel = ep,
                      .layers_per_stage = layers, .is_dummy = true, .dummy = DTYPE_F32, .overrides = overrides};
    if (rig_run(&rig, &seq, 1, &err) != 0)
        fail_msg("%s", err.msg);
    json_decref(overrides);
}

static void test_sixteen_ranks(void **state) {
    (void)state;
    static float expected[N_TOKENS * N_VOCAB], found[N_TOKENS * N_VOCAB];
    static const struct {
        int tp, pp;
        bool ep;
        int layers[2];
    } splits[] = {{8, 2, true, {0, 0}}, {16, 1, true, {0, 0}}, {16, 1, false, {0, 0}}, {8, 2, false, {2, 1}}};
    run(1, 1, false, NULL, expected);
    double scale = 0;
    for (int i = 0; i < N_TOKENS * N_VOCAB; i++)
        scale = fmax(scale, fabs((double)expected[i]));
    for (size_t s = 0; s < sizeof splits / sizeof splits[0]; s++) {
        memset(found, 0, sizeof found);
        run(splits[s].tp, splits[s].pp, splits[s].ep, splits[s].layers[0] > 0 ? splits[s].layers : NULL, found);
        double worst = 0;
        for (int i = 0; i < N_TOKENS * N_VOCAB; i++)
            worst = fmax(worst, fabs((double)found[i] - (double)expected[i]));
        if (!(worst <= 1e-4 * scale)) /* sums in another order; a head or an expert in the wrong place is no small thing */
            fail_msg("tp %d pp %d ep %d: off by %g at logits of up to %g", splits[s].tp, splits[s].pp, splits[s].ep, worst, scale);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sixteen_ranks)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
