/*
 * One layer of Qwen3-235B-A22B at its full size (128 experts, 64 heads, 4 KV heads) against a plain reference in double
 * precision: attention with shared KV heads, routing with norm_topk_prob, the experts; on one rank and on 16. Needs 6 GB.
 * usage: check_full_layer FOLDER (with the model's config.json)
 */
#include <math.h>

#include "base/json.h"
#include "model/decoder.h"
#include "model/rig.h"

enum { N_TOKENS = 7, N_PROMPT = 5, N_VOCAB = 512, MAX_COLS = 8192 };
/* Relative to the root mean square of all logits. Float sums of 4,096 terms; the KV cache is in float32. */
static const double TOLERANCE = 2e-4;
/* With activations rounded to 14 and to 8 bits of mantissa. */
static const double I16_TOLERANCE = 3e-3, BF16_TOLERANCE = 2e-2;

static const int32_t tokens[N_TOKENS] = {3, 141, 59, 265, 358, 97, 9};

/* out[t] = matrix · in[t] for the tokens of the list. */
static void multiply(const struct kernels_matrix *matrix, double (*in)[MAX_COLS], double (*out)[MAX_COLS], const int *list, int n) {
    float *row = malloc((size_t)matrix->n_cols * sizeof *row);
    for (int r = 0; r < matrix->n_rows; r++) {
        kernels_matrix_unpack_row(matrix, r, row);
        for (int i = 0; i < n; i++) {
            double sum = 0;
            for (int c = 0; c < matrix->n_cols; c++)
                sum += (double)row[c] * in[list[i]][c];
            out[list[i]][r] = sum;
        }
    }
    free(row);
}

static void norm(const double *in, const float *weight, int n, double eps, double *out) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += in[i] * in[i];
    double scale = 1 / sqrt(sum / n + eps);
    for (int i = 0; i < n; i++)
        out[i] = in[i] * scale * (double)weight[i];
}

static void rotate(double *head, int dim, int position, double theta) {
    for (int i = 0; i < dim / 2; i++) {
        double angle = position * pow(theta, -2.0 * i / dim), a = head[i], b = head[i + dim / 2];
        head[i] = a * cos(angle) - b * sin(angle);
        head[i + dim / 2] = b * cos(angle) + a * sin(angle);
    }
}

static double (*matrix_of(int n_rows))[MAX_COLS] {
    void *rows = calloc((size_t)n_rows, sizeof(double[MAX_COLS]));
    if (rows == NULL)
        abort();
    return rows;
}

static const int every[N_TOKENS] = {0, 1, 2, 3, 4, 5, 6};

static void attend(const struct model *model, double (*x)[MAX_COLS]) {
    const struct model_config *c = &model->config;
    const struct model_layer *layer = &model->layers[0];
    int dim = c->head_dim, shared = c->n_heads / c->n_kv_heads;
    double eps = (double)c->rms_eps, theta = (double)c->rope_theta;
    double(*normed)[MAX_COLS] = matrix_of(N_TOKENS), (*q)[MAX_COLS] = matrix_of(N_TOKENS), (*k)[MAX_COLS] = matrix_of(N_TOKENS),
           (*v)[MAX_COLS] = matrix_of(N_TOKENS), (*out)[MAX_COLS] = matrix_of(N_TOKENS);
    for (int t = 0; t < N_TOKENS; t++)
        norm(x[t], layer->attn_norm, c->hidden, eps, normed[t]);
    multiply(&layer->q, normed, q, every, N_TOKENS);
    multiply(&layer->k, normed, k, every, N_TOKENS);
    multiply(&layer->v, normed, v, every, N_TOKENS);
    for (int t = 0; t < N_TOKENS; t++) {
        for (int h = 0; h < c->n_heads; h++) {
            norm(q[t] + h * dim, layer->q_norm, dim, eps, q[t] + h * dim);
            rotate(q[t] + h * dim, dim, t, theta);
        }
        for (int h = 0; h < c->n_kv_heads; h++) {
            norm(k[t] + h * dim, layer->k_norm, dim, eps, k[t] + h * dim);
            rotate(k[t] + h * dim, dim, t, theta);
        }
    }
    for (int t = 0; t < N_TOKENS; t++)
        for (int h = 0; h < c->n_heads; h++) {
            double share[N_TOKENS], sum = 0;
            const int kv = h / shared * dim;
            for (int s = 0; s <= t; s++) {
                share[s] = 0;
                for (int i = 0; i < dim; i++)
                    share[s] += q[t][h * dim + i] * k[s][kv + i];
                share[s] = exp(share[s] / sqrt(dim));
                sum += share[s];
            }
            for (int i = 0; i < dim; i++) {
                out[t][h * dim + i] = 0;
                for (int s = 0; s <= t; s++)
                    out[t][h * dim + i] += share[s] / sum * v[s][kv + i];
            }
        }
    multiply(&layer->o, out, normed, every, N_TOKENS);
    for (int t = 0; t < N_TOKENS; t++)
        for (int i = 0; i < c->hidden; i++)
            x[t][i] += normed[t][i];
    free(normed), free(q), free(k), free(v), free(out);
}

static void mix(const struct model *model, double (*x)[MAX_COLS]) {
    const struct model_config *c = &model->config;
    const struct model_layer *layer = &model->layers[0];
    double(*normed)[MAX_COLS] = matrix_of(N_TOKENS), (*shares)[MAX_COLS] = matrix_of(N_TOKENS), (*gate)[MAX_COLS] = matrix_of(N_TOKENS),
           (*up)[MAX_COLS] = matrix_of(N_TOKENS), (*down)[MAX_COLS] = matrix_of(N_TOKENS);
    for (int t = 0; t < N_TOKENS; t++)
        norm(x[t], layer->ffn_norm, c->hidden, (double)c->rms_eps, normed[t]);
    multiply(&layer->router, normed, shares, every, N_TOKENS);
    for (int t = 0; t < N_TOKENS; t++) {
        /* The best experts' shares of the softmax, made to sum to one: what lies below the smallest of them does not count. */
        bool is_active[1024] = {false};
        double sum = 0;
        for (int i = 0; i < c->n_experts_active; i++) {
            int best = -1;
            for (int e = 0; e < c->n_experts; e++)
                if (!is_active[e] && (best < 0 || shares[t][e] > shares[t][best]))
                    best = e;
            is_active[best] = true;
            sum += exp(shares[t][best]);
        }
        for (int e = 0; e < c->n_experts; e++)
            shares[t][e] = is_active[e] ? exp(shares[t][e]) / sum : 0;
    }
    for (int e = 0; e < c->n_experts; e++) {
        int list[N_TOKENS], n = 0;
        for (int t = 0; t < N_TOKENS; t++)
            if (shares[t][e] > 0)
                list[n++] = t;
        multiply(&layer->experts[e].gate, normed, gate, list, n);
        multiply(&layer->experts[e].up, normed, up, list, n);
        for (int i = 0; i < n; i++)
            for (int j = 0; j < c->moe_intermediate; j++)
                gate[list[i]][j] *= up[list[i]][j] / (1 + exp(-gate[list[i]][j]));
        multiply(&layer->experts[e].down, gate, down, list, n);
        for (int i = 0; i < n; i++)
            for (int j = 0; j < c->hidden; j++)
                x[list[i]][j] += shares[list[i]][e] * down[list[i]][j];
    }
    free(normed), free(shares), free(gate), free(up), free(down);
}

/* ctx: [N_TOKENS][N_VOCAB] logits. */
static void compute_reference(const struct model *model, void *ctx) {
    double(*x)[MAX_COLS] = matrix_of(N_TOKENS), (*logits)[MAX_COLS] = matrix_of(N_TOKENS), (*ret)[N_VOCAB] = ctx;
    float *row = malloc((size_t)model->config.hidden * sizeof *row);
    for (int t = 0; t < N_TOKENS; t++) {
        kernels_matrix_unpack_row(&model->embedding, tokens[t], row);
        for (int i = 0; i < model->config.hidden; i++)
            x[t][i] = (double)row[i];
    }
    attend(model, x);
    mix(model, x);
    for (int t = 0; t < N_TOKENS; t++)
        norm(x[t], model->final_norm, model->config.hidden, (double)model->config.rms_eps, x[t]);
    multiply(&model->head, x, logits, every, N_TOKENS);
    for (int t = 0; t < N_TOKENS; t++)
        memcpy(ret[t], logits[t], sizeof ret[t]);
    free(x), free(logits), free(row);
}

static int check(const char *what, struct rig *rig, double (*reference)[N_VOCAB], double tolerance) {
    struct rig_seq seq = {.tokens = tokens, .n_tokens = N_TOKENS, .n_prompt = N_PROMPT};
    struct err err;
    double worst = 0, sum = 0;
    seq.logits = malloc(sizeof(float[N_TOKENS][N_VOCAB]));
    if (rig_run(rig, &seq, 1, &err) != 0)
        kit_die(what, &err);
    for (int t = 0; t < N_TOKENS; t++)
        for (int v = 0; v < N_VOCAB; v++) {
            double d = fabs((double)seq.logits[t * N_VOCAB + v] - reference[t][v]);
            worst = d > worst || isnan(d) ? d : worst;
            sum += reference[t][v] * reference[t][v];
        }
    double size = sqrt(sum / N_TOKENS / N_VOCAB);
    bool is_right = worst <= tolerance * size && size > 0.1;
    printf("%s: %.1f GB of weights, logits of size %.3f at most %.2e apart%s\n", what, (double)rig->weights_bytes / 1e9, size, worst,
           is_right ? "" : " - WRONG");
    free(seq.logits);
    return is_right ? 0 : 1;
}

int main(int argc, char **argv) {
    static double reference[N_TOKENS][N_VOCAB];
    json_t *overrides = json_pack("{s:i, s:i}", "num_hidden_layers", 1, "vocab_size", N_VOCAB);
    if (argc != 2 || overrides == NULL) {
        fprintf(stderr, "usage: check_full_layer FOLDER\n");
        return 2;
    }
    enum kernels_isa isa = kernels_setup(kernels_isa_detect());
    double rounded = isa == KERNELS_ISA_AVX512_BF16 ? BF16_TOLERANCE : rig_rounds_i16(DTYPE_BF16, false) ? I16_TOLERANCE : TOLERANCE;
    struct rig one = {.path = argv[1], .overrides = overrides, .is_dummy = true, .dummy = DTYPE_BF16, .kv_dtype = DTYPE_F32, .n_threads = 2, .keeps_f32 = true};
    struct rig fast = one, many = one;
    one.loaded = compute_reference;
    one.loaded_ctx = reference;
    many.tp = 16, many.n_threads = 1, many.expert_parallel = true;
    fast.keeps_f32 = false;
    int n_failed = check("one rank", &one, reference, TOLERANCE) + check("16 ranks, expert parallel", &many, reference, TOLERANCE) +
                   check("one rank, activations as the CPU likes them", &fast, reference, rounded);
    json_decref(overrides);
    return n_failed == 0 ? 0 : 1;
}
