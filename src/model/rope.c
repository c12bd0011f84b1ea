/*
 * Tables of the rotary embedding: frequencies by the configured scaling, as Hugging Face's transformers computes them
 * (float frequencies times float positions), so that long contexts turn by the same angles. Main thread, then the team.
 */
#include <math.h>

#include "model/decoder.h"

static const double TWO_PI = 6.283185307179586;

/* YaRN (Peng et al. 2023): the dimension that turns `turns` times over the original context. */
static double yarn_dim(const struct model_config *c, double turns) {
    return c->head_dim * log(c->rope_original_max / (turns * TWO_PI)) / (2 * log((double)c->rope_theta));
}

static double clamp(double x, double min, double max) { return x < min ? min : x > max ? max : x; }

static double scale_yarn(const struct model_config *c, int i, double frequency) {
    double low = clamp(floor(yarn_dim(c, (double)c->rope_beta_fast)), 0, c->head_dim - 1);
    double high = clamp(ceil(yarn_dim(c, (double)c->rope_beta_slow)), 0, c->head_dim - 1);
    if (low == high)
        high += 0.001;
    double stretched = clamp((i - low) / (high - low), 0, 1);
    return frequency / (double)c->rope_factor * stretched + frequency * (1 - stretched);
}

static double scale_llama3(const struct model_config *c, double frequency) {
    double wave = TWO_PI / frequency, factor = (double)c->rope_factor, original = c->rope_original_max;
    double low = (double)c->rope_low_freq, high = (double)c->rope_high_freq;
    if (wave < original / high)
        return frequency;
    if (wave > original / low)
        return frequency / factor;
    double smooth = (original / wave - low) / (high - low);
    return (1 - smooth) * frequency / factor + smooth * frequency;
}

static double scaled_frequency(const struct model_config *c, int i) {
    double frequency = pow((double)c->rope_theta, -2.0 * i / c->head_dim);
    switch (c->rope_scaling) {
    case MODEL_ROPE_PLAIN: return frequency;
    case MODEL_ROPE_LINEAR: return frequency / (double)c->rope_factor;
    case MODEL_ROPE_LLAMA3: return scale_llama3(c, frequency);
    case MODEL_ROPE_YARN: return scale_yarn(c, i, frequency);
    }
    return frequency;
}

static double magnitude(const struct model_config *c) {
    if (c->rope_scaling != MODEL_ROPE_YARN)
        return 1;
    return c->rope_attn_factor > 0 ? (double)c->rope_attn_factor : 0.1 * log((double)c->rope_factor) + 1;
}

struct fill {
    struct model *model;
    const float *frequencies; /* [head_dim / 2] */
    double magnitude;
};

static void fill_positions(void *arg, int thread) {
    struct fill *fill = arg;
    struct model *model = fill->model;
    int half = model->config.head_dim / 2, begin, end;
    team_share(model->opts.team, thread, model->opts.max_context, &begin, &end);
    for (int position = begin; position < end; position++) {
        for (int i = 0; i < half; i++) {
            size_t at = (size_t)position * (size_t)half + (size_t)i;
            double angle = (double)((float)position * fill->frequencies[i]);
            model->rope_cos[at] = (float)(cos(angle) * fill->magnitude);
            model->rope_sin[at] = (float)(sin(angle) * fill->magnitude);
        }
    }
}

void model_rope_fill(struct model *model, const float *factors) {
    float frequencies[128];
    for (int i = 0; i < model->config.head_dim / 2; i++)
        frequencies[i] = (float)(scaled_frequency(&model->config, i) / (factors != NULL ? (double)factors[i] : 1));
    struct fill fill = {model, frequencies, magnitude(&model->config)};
    team_run(model->opts.team, fill_positions, &fill);
}
