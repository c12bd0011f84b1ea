/* Fields and checks of generating requests; see params.h. */
#include "api/params.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api_state.h"
#include "base/rand.h"

/* vLLM's smallest temperature above greedy, and what counts as greedy. */
#define MIN_TEMPERATURE 1e-2
#define GREEDY_TEMPERATURE 1e-5

static const json_t *present(const json_t *body, const char *key) {
    const json_t *value = json_object_get(body, key);
    return json_is_null(value) ? NULL : value;
}

/* Python's truth of a JSON value. */
static bool truthy(const json_t *value) {
    if (value == NULL)
        return false;
    switch (json_typeof(value)) {
    case JSON_OBJECT: return json_object_size(value) > 0;
    case JSON_ARRAY: return json_array_size(value) > 0;
    case JSON_STRING: return json_string_length(value) > 0;
    case JSON_INTEGER:
    case JSON_REAL: return json_number_value(value) != 0;
    case JSON_TRUE: return true;
    default: return false;
    }
}

/* Text of a JSON number as Python prints it. */
static const char *number_text(const json_t *value, char ret_text[32]) {
    if (json_is_real(value))
        return api_repr_double(json_real_value(value), ret_text);
    snprintf(ret_text, 32, "%" JSON_INTEGER_FORMAT, json_is_boolean(value) ? json_is_true(value) : json_integer_value(value));
    return ret_text;
}

static int check_count(const json_t *body, const char *key, struct api_error *error) {
    const json_t *value = present(body, key);
    char text[32];
    if (value == NULL)
        return 0;
    if (!json_is_number(value) && !json_is_boolean(value))
        return api_refuse(error, key, json_is_string(value) ? json_string_value(value) : NULL, "`%s` must be an integer.", key);
    double number = json_number_value(value);
    if (number < 0 && number != -1)
        return api_refuse(error, key, number_text(value, text), "`%s` must be a positive value or -1.", key);
    return 0;
}

static int check_logprobs(const json_t *body, bool is_chat, struct api_error *error) {
    const char *sampled = is_chat ? "top_logprobs" : "logprobs";
    const json_t *prompt = present(body, "prompt_logprobs");
    if (json_is_number(prompt) && truthy(present(body, "stream")) && (json_number_value(prompt) > 0 || json_number_value(prompt) == -1))
        return api_refuse(error, "prompt_logprobs", NULL, "`prompt_logprobs` are not available when `stream=True`.");
    if (check_count(body, "prompt_logprobs", error) != 0 || check_count(body, sampled, error) != 0)
        return -1;
    const json_t *top = present(body, "top_logprobs");
    if (is_chat && top != NULL && json_number_value(top) != 0 && !truthy(present(body, "logprobs")))
        return api_refuse(error, "top_logprobs", NULL, "when using `top_logprobs`, `logprobs` must be set to true.");
    return 0;
}

int api_params_check_raw(const json_t *body, bool is_chat, struct api_error *error) {
    const json_t *format = present(body, "response_format");
    const char *format_type = json_string_value(json_object_get(format, "type"));
    if (truthy(present(body, "stream_options")) && !truthy(present(body, "stream")))
        return api_refuse(error, "stream_options", NULL, "Stream options can only be defined when `stream=True`.");
    if (check_logprobs(body, is_chat, error) != 0)
        return -1;
    const json_t *salt = present(body, "cache_salt");
    if (salt != NULL && (!json_is_string(salt) || json_string_length(salt) == 0))
        return api_refuse(error, "cache_salt", NULL, "Parameter 'cache_salt' must be a non-empty string if provided.");
    if (format_type != NULL && strcmp(format_type, "json_schema") == 0 && present(format, "json_schema") == NULL)
        return api_refuse(error, "response_format", NULL,
                          "When response_format type is 'json_schema', the 'json_schema' field must be provided.");
    return 0;
}

int api_params_check_supported(const json_t *body, struct api_error *error) {
    static const char *const absent[] = {"structured_outputs", "use_beam_search", "prompt_embeds", "repetition_detection",
                                         "thinking_token_budget"};
    for (size_t i = 0; i < sizeof absent / sizeof absent[0]; i++)
        if (truthy(present(body, absent[i])))
            return api_fail(error, 400, NULL, absent[i], "`%s` is not supported yet; leave it out.", absent[i]);
    const json_t *format = present(body, "response_format");
    if (format == NULL)
        return 0;
    const char *type = json_string_value(json_object_get(format, "type"));
    static const char *const known[] = {"json_object", "json_schema", "structural_tag"};
    if (type != NULL && strcmp(type, "text") == 0)
        return 0;
    for (size_t i = 0; type != NULL && i < sizeof known / sizeof known[0]; i++)
        if (strcmp(type, known[i]) == 0)
            return api_fail(error, 400, NULL, "response_format", "`response_format` of type '%s' is not supported yet; only 'text' is.",
                            type);
    struct buf input;
    buf_init(&input, 1024);
    api_repr(&input, type == NULL ? format : json_object_get(format, "type"));
    const char *got = buf_str(&input);
    api_fail(error, 400, "Bad Request", "body.response_format.type",
             "6 validation errors:\n"
             "  {'type': 'literal_error', 'loc': 'body.response_format.type', 'msg': \"Input should be 'text', 'json_object' or "
             "'json_schema'\", "
             "'input': %s, 'ctx': {'expected': \"'text', 'json_object' or 'json_schema'\"}}\n"
             "  {'type': 'literal_error', 'loc': 'body.response_format.type', 'msg': \"Input should be 'structural_tag'\", 'input': %s, "
             "'ctx': {'expected': \"'structural_tag'\"}}\n"
             "  {'type': 'missing', 'loc': 'body.response_format.format', 'msg': 'Field required', 'input': '<dict of %zu items>'}\n"
             "  {'type': 'literal_error', 'loc': 'body.response_format.type', 'msg': \"Input should be 'structural_tag'\", 'input': %s, "
             "'ctx': {'expected': \"'structural_tag'\"}}\n"
             "  {'type': 'missing', 'loc': 'body.response_format.structures', 'msg': 'Field required', 'input': '<dict of %zu items>'}\n"
             "  {'type': 'missing', 'loc': 'body.response_format.triggers', 'msg': 'Field required', 'input': '<dict of %zu items>'}",
             got, got, json_object_size(format), got, json_object_size(format), json_object_size(format));
    buf_finish(&input);
    return -1;
}

static double default_number(const struct api *api, const char *key, double fallback) {
    const json_t *value = json_object_get(api->opts.generation_defaults, key);
    return json_is_number(value) ? json_number_value(value) : fallback;
}

static void add_stop(struct api_params *params, const json_t *stop) {
    const char *text = json_string_value(stop);
    params->stops[params->n_stops++] = text;
    params->has_empty_stop |= json_string_length(stop) == 0;
    params->has_cut_stop |= strlen(text) < json_string_length(stop);
}

static void read_stops(struct api_fields *fields, struct api_params *params) {
    const json_t *stop = json_object_get(fields->body, "stop");
    if (json_is_string(stop)) {
        add_stop(params, stop);
    } else if (json_is_array(stop)) {
        size_t n = json_array_size(stop);
        if (n > API_MAX_STOPS) {
            api_field_error(fields, "too_long", "stop.list[str]", "List should have at most 64 items", stop, "{'max_length': 64}");
            return;
        }
        for (size_t i = 0; i < n; i++) {
            const json_t *item = json_array_get(stop, i);
            char loc[64];
            snprintf(loc, sizeof loc, "stop.list[str].%zu", i);
            if (json_is_string(item))
                add_stop(params, item);
            else
                api_field_error(fields, "string_type", loc, "Input should be a valid string", item, NULL);
        }
    } else if (stop != NULL && !json_is_null(stop)) {
        api_field_error(fields, "string_type", "stop.str", "Input should be a valid string", stop, NULL);
        api_field_error(fields, "list_type", "stop.list[str]", "Input should be a valid list", stop, NULL);
    }
}

static void read_stop_ids(struct api_fields *fields, struct api_params *params) {
    const json_t *ids = api_field_list(fields, "stop_token_ids");
    size_t n = json_array_size(ids);
    if (n > ENGINE_MAX_STOP_IDS) {
        api_field_error(fields, "too_long", "stop_token_ids", "List should have at most 64 items", ids, "{'max_length': 64}");
        return;
    }
    for (size_t i = 0; i < n; i++) {
        char loc[64];
        snprintf(loc, sizeof loc, "stop_token_ids.%zu", i);
        if (api_value_int(fields, loc, json_array_get(ids, i), &params->stop_ids[params->n_stop_ids]))
            params->n_stop_ids++;
    }
}

static void read_stream(const struct api *api, struct api_fields *fields, struct api_params *params) {
    api_field_bool(fields, "stream", &params->stream);
    const json_t *options = api_field_object(fields, "stream_options"), *body = fields->body;
    bool continuous = false;
    if (options != NULL) {
        fields->body = options;
        api_field_bool(fields, "include_usage", &params->include_usage);
        api_field_bool(fields, "continuous_usage_stats", &continuous);
        fields->body = body;
    }
    params->continuous_usage = params->include_usage && continuous;
    int64_t interval = api->opts.stream_interval;
    api_field_int(fields, "stream_interval", &interval);
    if (interval < 1)
        api_field_error(fields, "greater_than_equal", "stream_interval", "Input should be greater than or equal to 1",
                        json_object_get(fields->body, "stream_interval"), "{'ge': 1}");
    params->stream_interval =
        interval > api->opts.stream_interval ? interval > INT32_MAX ? INT32_MAX : (int)interval : api->opts.stream_interval;
}

static void read_lengths(struct api_fields *fields, struct api_params *params) {
    params->max_tokens_name = "max_tokens";
    params->has_max_tokens = api_field_int(fields, "max_tokens", &params->max_tokens);
    if (params->is_chat && api_field_int(fields, "max_completion_tokens", &params->max_tokens)) {
        params->has_max_tokens = true;
        params->max_tokens_name = "max_completion_tokens";
    }
    if (!params->is_chat && !params->has_max_tokens) {
        params->max_tokens = 16;
        params->has_max_tokens = true;
    }
    api_field_int(fields, "min_tokens", &params->min_tokens);
    params->truncate = API_NO_TRUNCATION;
    if (api_field_int(fields, "truncate_prompt_tokens", &params->truncate) && params->truncate < -1) {
        api_field_error(fields, "greater_than_equal", "truncate_prompt_tokens", "Input should be greater than or equal to -1",
                        json_object_get(fields->body, "truncate_prompt_tokens"), "{'ge': -1}");
    }
    const char *side = NULL;
    if (api_field_str(fields, "truncation_side", &side) && strcmp(side, "left") != 0 && strcmp(side, "right") != 0)
        api_field_error(fields, "literal_error", "truncation_side", "Input should be 'left' or 'right'",
                        json_object_get(fields->body, "truncation_side"), "{'expected': \"'left' or 'right'\"}");
    params->truncate_right = side != NULL && strcmp(side, "right") == 0;
}

/* -1 in a request means the whole vocabulary, which is more than any server allows: it is refused with the counts. */
static int64_t count_or_all(int64_t n) { return n == -1 ? INT32_MAX : n; }

static void read_logprobs(struct api_fields *fields, struct api_params *params) {
    int64_t top = 0, prompt = 0;
    bool wanted = false;
    if (params->is_chat) {
        api_field_int(fields, "top_logprobs", &top);
        api_field_bool(fields, "logprobs", &wanted);
    } else {
        wanted = api_field_int(fields, "logprobs", &top);
    }
    params->n_logprobs = wanted ? count_or_all(top) : -1;
    params->n_prompt_logprobs = params->echo ? params->n_logprobs : -1;
    if (api_field_int(fields, "prompt_logprobs", &prompt))
        params->n_prompt_logprobs = count_or_all(prompt);
    if (params->tokens.logprob_ids != NULL) /* they take the place of the best */
        params->n_logprobs = (int64_t)json_array_size(params->tokens.logprob_ids);
}

void api_params_read(const struct api *api, struct api_fields *fields, bool is_chat, struct api_params *ret) {
    struct api_params params = {.is_chat = is_chat, .skip_special = true, .add_special_tokens = !is_chat};
    int64_t n = 1, priority = 0;
    api_field_str(fields, "model", &params.model);
    api_field_str(fields, "request_id", &params.request_id);
    api_field_int(fields, "n", &n);
    params.n = n < INT32_MIN ? INT32_MIN : n > INT32_MAX ? INT32_MAX : (int)n;
    params.temperature = default_number(api, "temperature", 1.0);
    params.top_p = default_number(api, "top_p", 1.0);
    params.min_p = default_number(api, "min_p", 0.0);
    params.repetition_penalty = default_number(api, "repetition_penalty", 1.0);
    params.top_k = (int64_t)default_number(api, "top_k", 0);
    api_field_double(fields, "temperature", &params.temperature);
    api_field_double(fields, "top_p", &params.top_p);
    api_field_double(fields, "min_p", &params.min_p);
    api_field_double(fields, "presence_penalty", &params.presence_penalty);
    api_field_double(fields, "frequency_penalty", &params.frequency_penalty);
    api_field_double(fields, "repetition_penalty", &params.repetition_penalty);
    api_field_int(fields, "top_k", &params.top_k);
    params.has_seed = api_field_int(fields, "seed", &params.seed) && params.seed != -1;
    read_lengths(fields, &params);
    api_field_bool(fields, "ignore_eos", &params.ignore_eos);
    read_stops(fields, &params);
    read_stop_ids(fields, &params);
    api_field_bool(fields, "include_stop_str_in_output", &params.include_stop);
    api_field_bool(fields, "skip_special_tokens", &params.skip_special);
    bool spaces_between = true; /* of no effect: no byte-level tokenizer puts any */
    api_field_bool(fields, "spaces_between_special_tokens", &spaces_between);
    api_token_params_read(fields, &params.tokens);
    api_field_bool(fields, "echo", &params.echo);
    read_logprobs(fields, &params);
    read_stream(api, fields, &params);
    api_field_bool(fields, "return_token_ids", &params.return_token_ids);
    api_field_bool(fields, "return_prompt_text", &params.return_prompt_text);
    api_field_bool(fields, "return_tokens_as_token_ids", &params.tokens_as_ids);
    api_field_bool(fields, "add_special_tokens", &params.add_special_tokens);
    api_field_int(fields, "priority", &priority);
    api_field_str(fields, "cache_salt", &params.cache_salt);
    params.priority = priority < INT32_MIN ? INT32_MIN : priority > INT32_MAX ? INT32_MAX : (int)priority;
    *ret = params;
}

static int check_ranges(const struct api_params *p, int64_t max_tokens, struct api_error *error) {
    char text[32], number[32];
#define PLAIN(...) api_fail(error, 400, NULL, NULL, __VA_ARGS__)
    if (p->n < 1)
        return PLAIN("n must be at least 1, got %d.", p->n);
    if (p->n > API_MAX_CHOICES)
        return PLAIN("n must be at most %d, got %d.", API_MAX_CHOICES, p->n);
    if (!(p->presence_penalty >= -2 && p->presence_penalty <= 2))
        return PLAIN("presence_penalty must be in [-2, 2], got %s.", api_repr_double(p->presence_penalty, text));
    if (!(p->frequency_penalty >= -2 && p->frequency_penalty <= 2))
        return PLAIN("frequency_penalty must be in [-2, 2], got %s.", api_repr_double(p->frequency_penalty, text));
    if (!isfinite(p->repetition_penalty))
        return PLAIN("repetition_penalty must be a finite number, got %s.", api_repr_double(p->repetition_penalty, text));
    if (p->repetition_penalty <= 0)
        return PLAIN("repetition_penalty must be greater than zero, got %s.", api_repr_double(p->repetition_penalty, text));
    api_repr_double(p->temperature, text);
    if (!isfinite(p->temperature))
        return api_refuse(error, "temperature", text, "temperature must be a finite number, got %s.", text);
    if (p->temperature < 0)
        return api_refuse(error, "temperature", text, "temperature must be non-negative, got %s.", text);
    if (p->temperature > 2)
        return api_refuse(error, "temperature", text, "temperature must be in [0, 2], got %s.", text);
    api_repr_double(p->top_p, text);
    if (!(p->top_p > 0 && p->top_p <= 1))
        return api_refuse(error, "top_p", text, "top_p must be in (0, 1], got %s.", text);
    if (p->top_k < -1)
        return PLAIN("top_k must be 0 (disable), or at least 1, got %lld.", (long long)p->top_k);
    if (!(p->min_p >= 0 && p->min_p <= 1))
        return PLAIN("min_p must be in [0, 1], got %s.", api_repr_double(p->min_p, text));
    snprintf(number, sizeof number, "%lld", (long long)max_tokens);
    if (max_tokens < 1)
        return api_refuse(error, "max_tokens", number, "max_tokens must be at least 1, got %s.", number);
    if (p->min_tokens < 0)
        return PLAIN("min_tokens must be greater than or equal to 0, got %lld.", (long long)p->min_tokens);
    if (p->min_tokens > max_tokens)
        return PLAIN("min_tokens must be less than or equal to max_tokens=%s, got %lld.", number, (long long)p->min_tokens);
    if (p->has_empty_stop)
        return PLAIN("stop cannot contain an empty string.");
    if (p->has_cut_stop)
        return PLAIN("stop strings with a NUL character are not supported.");
    if (api_token_params_check(&p->tokens, error) != 0)
        return -1;
    if (p->temperature < GREEDY_TEMPERATURE && p->n > 1)
        return PLAIN("n must be 1 when using greedy sampling, got %d.", p->n);
#undef PLAIN
    return 0;
}

static int check_counts(const struct api *api, const struct api_params *p, struct api_error *error) {
    const struct {
        const char *what, *param;
        int64_t n;
    } counts[] = {{"sample", "logprobs", p->tokens.logprob_ids != NULL ? -1 : p->n_logprobs},
                  {"prompt", "prompt_logprobs", p->n_prompt_logprobs}};
    for (size_t i = 0; i < 2; i++) {
        char text[32];
        int64_t n = counts[i].n == INT32_MAX ? api->opts.n_vocab : counts[i].n;
        snprintf(text, sizeof text, "%lld", (long long)n);
        if (n > api->max_logprobs)
            return api_refuse(error, counts[i].param, text, "Requested %s logprobs of %s, which is greater than max allowed: %d",
                              counts[i].what, text, api->max_logprobs);
    }
    for (int i = 0; i < p->n_stop_ids; i++)
        if (p->stop_ids[i] < 0 || p->stop_ids[i] >= api->opts.n_vocab) {
            char text[32];
            snprintf(text, sizeof text, "[%lld]", (long long)p->stop_ids[i]);
            return api_refuse(error, "stop_token_ids", text,
                              "token_id(s) %s in stop_token_ids contain out-of-vocab token ids. Vocabulary size: %d", text,
                              api->opts.n_vocab);
        }
    return 0;
}

int api_params_sampling(const struct api *api, const struct api_params *p, int n_prompt, struct exec_sampling *ret,
                        struct api_error *error) {
    int64_t max_tokens = api->opts.max_model_len - n_prompt;
    int64_t server_limit = (int64_t)default_number(api, "max_new_tokens", INT32_MAX);
    if (max_tokens > server_limit)
        max_tokens = server_limit;
    if (p->has_max_tokens && p->max_tokens < max_tokens)
        max_tokens = p->max_tokens;
    if (!p->is_chat && p->echo && p->max_tokens == 0)
        max_tokens = 1; /* the prompt alone is wanted; one token is computed all the same, as in vLLM */
    if (check_ranges(p, max_tokens, error) != 0)
        return -1;
    struct exec_sampling sampling = {.temperature =
                                           p->temperature < GREEDY_TEMPERATURE ? 0 : (float)fmax(p->temperature, MIN_TEMPERATURE),
                                       .top_p = (float)p->top_p,
                                       .min_p = (float)p->min_p,
                                       .top_k = p->top_k <= 0 || p->top_k > api->opts.n_vocab ? 0 : (int)p->top_k,
                                       .presence_penalty = (float)p->presence_penalty,
                                       .frequency_penalty = (float)p->frequency_penalty,
                                       .repetition_penalty = (float)p->repetition_penalty,
                                       .seed = (uint64_t)p->seed,
                                       .max_tokens = (int)max_tokens,
                                       .min_tokens = (int)p->min_tokens,
                                       .ignore_eos = p->ignore_eos,
                                       .n_logprobs = p->tokens.logprob_ids != NULL ? 0 : (int)p->n_logprobs,
                                       .n_prompt_logprobs = (int)p->n_prompt_logprobs,
                                       .n_stop_ids = p->n_stop_ids};
    if (sampling.temperature == 0) {
        sampling.top_p = 1;
        sampling.top_k = 0;
        sampling.min_p = 0;
    }
    if (!p->has_seed && rand_secret(&sampling.seed, sizeof sampling.seed, NULL) != 0)
        return api_fail(error, 500, "InternalServerError", NULL, "The system gives no random numbers.");
    if (check_counts(api, p, error) != 0 || api_token_params_sampling(api, &p->tokens, &sampling, error) != 0)
        return -1;
    for (int i = 0; i < p->n_stop_ids; i++)
        sampling.stop_ids[i] = (int32_t)p->stop_ids[i];
    *ret = sampling;
    return 0;
}
