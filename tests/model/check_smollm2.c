/*
 * A real model from a GGUF file (Llama, Q4_1 weights, a Q8_0 embedding that is the head too) against the dequantised weights
 * in float32 (data/smollm2-135m-q4_1.json, made by gguf_reference.py). usage: check_smollm2 MODEL.gguf
 */
#include <math.h>

#include "base/json.h"
#include "model/rig.h"

/* docs/numerics.md says where they come from. */
static const double GREATEST = 1.5, ROOT_MEAN_SQUARE = 0.3;
enum { MAX_CASES = 4 };

static int argmax(const float *row, int n) {
    int best = 0;
    for (int v = 1; v < n; v++)
        if (row[v] > row[best])
            best = v;
    return best;
}

static int check(const json_t *golden, const char *what, struct rig rig) {
    struct rig_seq seqs[MAX_CASES];
    struct err err;
    const json_t *cases = json_object_get(golden, "cases");
    int n_cases = (int)json_array_size(cases), n_vocab, n_wrong = 0, n_close = 0, n_greedy = 0;
    if (n_cases < 1 || n_cases > MAX_CASES || model_config_load(rig.path, NULL, NULL, &rig.config, &err) != 0)
        kit_die("golden file or configuration", &err);
    n_vocab = rig.config.n_vocab;
    for (int i = 0; i < n_cases; i++) {
        const json_t *ids = json_object_get(json_array_get(cases, (size_t)i), "prompt_token_ids");
        const json_t *greedy = json_object_get(json_array_get(cases, (size_t)i), "greedy_token_ids");
        int n_prompt = (int)json_array_size(ids), n = n_prompt + (int)json_array_size(greedy) - 1;
        int32_t *tokens = malloc((size_t)n * sizeof *tokens);
        for (int t = 0; t < n; t++)
            tokens[t] = (int32_t)json_integer_value(t < n_prompt ? json_array_get(ids, (size_t)t) : json_array_get(greedy, (size_t)(t - n_prompt)));
        seqs[i] = (struct rig_seq){.tokens = tokens, .n_tokens = n, .n_prompt = n_prompt, .logits = malloc((size_t)n * (size_t)n_vocab * sizeof(float))};
    }
    if (rig_run(&rig, seqs, n_cases, &err) != 0)
        kit_die(what, &err);
    double worst = 0, sum = 0, n_compared = 0;
    for (int i = 0; i < n_cases; i++) {
        const json_t *top = json_object_get(json_array_get(cases, (size_t)i), "top"), *step;
        size_t t, k;
        json_array_foreach(top, t, step) {
            const float *row = seqs[i].logits + ((size_t)seqs[i].n_prompt - 1 + t) * (size_t)n_vocab;
            const json_t *ids = json_object_get(step, "ids"), *logits = json_object_get(step, "logits"), *id;
            json_array_foreach(ids, k, id) {
                double d = fabs((double)row[json_integer_value(id)] - json_number_value(json_array_get(logits, k)));
                worst = d > worst || isnan(d) ? d : worst;
                sum += d * d;
                n_compared++;
            }
            double gap = json_number_value(json_array_get(logits, 0)) - json_number_value(json_array_get(logits, 1));
            n_greedy++;
            if (argmax(row, n_vocab) != (int)json_integer_value(json_array_get(ids, 0)))
                gap < 2 * ROOT_MEAN_SQUARE ? n_close++ : n_wrong++;
        }
        free((void *)seqs[i].tokens);
        free(seqs[i].logits);
    }
    double rms = sqrt(sum / n_compared);
    printf("%-24s logits differ by at most %.3f, root mean square %.3f; of %d tokens %d differ at small gaps, %d beyond\n", what, worst, rms,
           n_greedy, n_close, n_wrong);
    double more = rig.kv_dtype == DTYPE_I8 ? 4.0 / 3 : 1; /* keys and values in 8 bits add their own rounding to that of the activations */
    return worst < more * GREATEST && rms < more * ROOT_MEAN_SQUARE && n_wrong == 0 && n_close <= n_greedy / 8 ? 0 : -1;
}

int main(int argc, char **argv) {
    struct err err;
    if (argc != 2) {
        fprintf(stderr, "usage: check_smollm2 MODEL.gguf\n");
        return 2;
    }
    json_t *golden = json_parse_file(MODEL_TEST_DATA_DIR "/smollm2-135m-q4_1.json", 1 << 20, &err);
    if (golden == NULL)
        kit_die("golden file", &err);
    kernels_setup(kernels_isa_detect());
    struct rig one = {.path = argv[1], .kv_dtype = DTYPE_F32, .n_threads = 2}, bf16 = one, i8 = one, stages = one, ranks = one;
    bf16.kv_dtype = DTYPE_BF16;
    i8.kv_dtype = DTYPE_I8;
    stages.pp = 2, stages.batched = true;
    ranks.tp = 3, ranks.n_threads = 1;
    int rc = check(golden, "1 rank, KV F32", one) | check(golden, "1 rank, KV BF16", bf16) | check(golden, "1 rank, KV I8", i8) | check(golden, "pp 2", stages) |
             check(golden, "tp 3", ranks);
    json_decref(golden);
    return rc == 0 ? 0 : 1;
}
