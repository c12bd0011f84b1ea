/* /v1/models, and the check of a request's "model". On connection threads. */
#include <stdio.h>
#include <string.h>

#include "api/api_state.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/rand.h"
#include "base/utf8.h"

static void random_hex(char ret_hex[17]) {
    uint8_t bytes[8];
    if (rand_secret(bytes, sizeof bytes, NULL) != 0) { /* an id needs no secrecy */
        uint64_t mixed = rand_ctr_u64((uint64_t)clock_mono_ns(), 0);
        memcpy(bytes, &mixed, sizeof bytes);
    }
    hash_hex(bytes, sizeof bytes, ret_hex);
}

void api_make_id(const struct http_request *request, const char *prefix, const char *body_id, char ret_id[API_ID_BYTES]) {
    char hex[17];
    const char *own = http_request_header(request, "X-Request-Id");
    if (own == NULL || !utf8_valid(own, strlen(own)))
        own = body_id;
    if (own == NULL || own[0] == '\0') {
        random_hex(hex);
        own = hex;
    }
    int len = snprintf(ret_id, API_ID_BYTES, "%s-%s", prefix, own);
    if (len >= API_ID_BYTES)
        ret_id[API_ID_BYTES - 1 - (int)utf8_incomplete_tail(ret_id, API_ID_BYTES - 1)] = '\0';
}

static bool is_served(const struct api *api, const char *model) {
    for (int i = 0; i < api->opts.n_served_names; i++)
        if (strcmp(model, api->opts.served_names[i]) == 0)
            return true;
    return false;
}

int api_check_model(const struct api *api, const char *model, struct api_error *error) {
    if (model == NULL || model[0] == '\0' || is_served(api, model))
        return 0;
    struct buf names;
    buf_init(&names, 2048);
    for (int i = 0; i < api->opts.n_served_names; i++)
        buf_printf(&names, "%s%s", i > 0 ? ", " : "", api->opts.served_names[i]);
    api_fail(error, 404, "NotFoundError", "model", "The model `%.500s` does not exist. Valid aliases: %s.", model, buf_str(&names));
    buf_finish(&names);
    return -1;
}

static json_t *card(const struct api *api, const char *name) {
    char hex[17], id[40];
    random_hex(hex);
    snprintf(id, sizeof id, "modelperm-%s", hex);
    json_int_t now_s = clock_wall_s();
    json_t *permission =
        json_pack("{s:s, s:s, s:I, s:b, s:b, s:b, s:b, s:b, s:b, s:s, s:n, s:b}", "id", id, "object", "model_permission", "created", now_s,
                  "allow_create_engine", 0, "allow_sampling", 1, "allow_logprobs", 1, "allow_search_indices", 0, "allow_view", 1,
                  "allow_fine_tuning", 0, "organization", "*", "group", "is_blocking", 0);
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:n, s:i, s:[o]}", "id", name, "object", "model", "created", now_s, "owned_by", "shoal",
                     "root", api->opts.model_root, "parent", "max_model_len", api->opts.max_model_len, "permission", permission);
}

void api_models_list(struct api *api, struct http_response *ret) {
    json_t *data = json_array();
    for (int i = 0; i < api->opts.n_served_names; i++)
        json_array_append_new(data, card(api, api->opts.served_names[i]));
    api_answer_json(ret, 200, json_pack("{s:s, s:o}", "object", "list", "data", data));
}

void api_models_one(struct api *api, const char *name, struct http_response *ret) {
    struct api_error error;
    if (api_check_model(api, name, &error) != 0)
        api_answer_error(ret, &error);
    else
        api_answer_json(ret, 200, card(api, name));
}
