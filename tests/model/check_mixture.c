/*
 * Mixtures with real weights that must give a dense model's output (scripts/moe-from-dense.py), on one rank, on three that
 * share every expert, and on three that have whole experts. The continuations are those of data/smollm2-135m-q4_1.json;
 * whoever picks the same token behind each of their tokens continues the same way.
 * usage: check_mixture DENSE.gguf MIXTURE.gguf…
 */
#include <math.h>

#include "base/json.h"
#include "model/rig.h"

/* The sums are the same but for their order. A choice between tokens that are closer than this is left to rounding. */
static const double GREATEST = 0.002;
enum { MAX_CASES = 4 };

struct run {
    struct rig rig;
    struct rig_seq seqs[MAX_CASES];
};

static int run(struct run *run, const json_t *cases, const char *what, struct err *err) {
    int n_cases = (int)json_array_size(cases);
    if (n_cases < 1 || n_cases > MAX_CASES || model_config_load(run->rig.path, NULL, NULL, &run->rig.config, err) != 0)
        kit_die("golden file or configuration", err);
    for (int i = 0; i < n_cases; i++) {
        const json_t *ids[2] = {json_object_get(json_array_get(cases, (size_t)i), "prompt_token_ids"),
                                json_object_get(json_array_get(cases, (size_t)i), "greedy_token_ids")};
        int n_prompt = (int)json_array_size(ids[0]), n = 0;
        int32_t *tokens = malloc((json_array_size(ids[0]) + json_array_size(ids[1])) * sizeof *tokens);
        for (int part = 0; part < 2; part++)
            for (size_t t = 0; t < json_array_size(ids[part]); t++)
                tokens[n++] = (int32_t)json_integer_value(json_array_get(ids[part], t));
        run->seqs[i] = (struct rig_seq){
            .tokens = tokens, .n_tokens = n, .n_prompt = n_prompt, .logits = malloc((size_t)n * (size_t)run->rig.config.n_vocab * sizeof(float))};
    }
    if (rig_run(&run->rig, run->seqs, n_cases, err) != 0)
        kit_die(what, err);
    return n_cases;
}

static void release(struct run *run, int n_cases) {
    for (int i = 0; i < n_cases; i++) {
        free((void *)run->seqs[i].tokens);
        free(run->seqs[i].logits);
    }
}

/* The best token of a row, and how far the next one is behind it. */
static int best_of(const float *row, int n, double *ret_gap) {
    int best = 0;
    float next = -INFINITY;
    for (int v = 1; v < n; v++)
        if (row[v] > row[best]) {
            next = row[best];
            best = v;
        } else if (row[v] > next) {
            next = row[v];
        }
    *ret_gap = (double)(row[best] - next);
    return best;
}

static int compare(const struct run *dense, const struct run *mixture, int n_cases, const char *what) {
    int n_vocab = dense->rig.config.n_vocab, n_other = 0, n_rows = 0;
    double worst = 0, sum = 0;
    for (int i = 0; i < n_cases; i++)
        for (int t = 0; t < dense->seqs[i].n_tokens; t++, n_rows++) {
            const float *a = dense->seqs[i].logits + (size_t)t * (size_t)n_vocab, *b = mixture->seqs[i].logits + (size_t)t * (size_t)n_vocab;
            double gap, ignored;
            int best = best_of(a, n_vocab, &gap);
            n_other += best_of(b, n_vocab, &ignored) != best && gap > GREATEST;
            for (int v = 0; v < n_vocab; v++) {
                double d = fabs((double)(a[v] - b[v]));
                worst = d > worst || isnan(d) ? d : worst;
                sum += d * d;
            }
        }
    double rms = sqrt(sum / n_rows / n_vocab);
    bool is_right = worst <= GREATEST && n_other == 0 && n_rows > 0;
    printf("%s: logits at most %.4f apart, root mean square %.4f, other greedy tokens at %d of %d places%s\n", what, worst, rms, n_other, n_rows, is_right ? "" : " - WRONG");
    return is_right ? 0 : 1;
}

int main(int argc, char **argv) {
    struct err err;
    json_t *golden = json_parse_file(MODEL_TEST_DATA_DIR "/smollm2-135m-q4_1.json", 16 << 20, &err);
    if (argc < 3) {
        fprintf(stderr, "usage: check_mixture DENSE.gguf MIXTURE.gguf…\n");
        return 2;
    }
    if (golden == NULL)
        kit_die("golden file", &err);
    kernels_setup(kernels_isa_detect());
    const json_t *cases = json_object_get(golden, "cases");
    struct rig base = {.batched = true, .n_threads = 2, .kv_dtype = DTYPE_F32, .keeps_f32 = true, .max_context = 512};
    static const struct {
        const char *name;
        int tp;
        bool expert_parallel;
    } splits[] = {{"one rank", 1, false}, {"three ranks that share every expert", 3, false}, {"three ranks with whole experts", 3, true}};
    int n_failed = 0;
    for (size_t s = 0; s < sizeof splits / sizeof splits[0]; s++) {
        struct run dense = {.rig = base};
        dense.rig.path = argv[1];
        dense.rig.tp = splits[s].tp;
        int n_cases = run(&dense, cases, "the dense model", &err);
        for (int i = 2; i < argc; i++) {
            struct run mixture = {.rig = base};
            char what[160];
            mixture.rig.path = argv[i];
            mixture.rig.tp = splits[s].tp;
            mixture.rig.expert_parallel = splits[s].expert_parallel;
            snprintf(what, sizeof what, "%s, %s", strrchr(argv[i], '/') != NULL ? strrchr(argv[i], '/') + 1 : argv[i], splits[s].name);
            run(&mixture, cases, what, &err);
            n_failed += compare(&dense, &mixture, n_cases, what);
            release(&mixture, n_cases);
        }
        release(&dense, n_cases);
    }
    json_decref(golden);
    return n_failed == 0 ? 0 : 1;
}
