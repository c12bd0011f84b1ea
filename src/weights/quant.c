/* "quantization_config" of a checkpoint; see quant.h. Pure functions. */
#include "weights/quant.h"

#include <string.h>

#include "base/json.h"

enum { MAX_GROUP = 1 << 20 };

const char *weights_quant_name(enum weights_quant_method method) {
    static const char *const names[] = {NULL, "gptq", "fp8"};
    return names[method];
}

enum dtype weights_quant_dtype(enum weights_quant_method method) { return method == WEIGHTS_QUANT_GPTQ ? DTYPE_Q4_1 : DTYPE_F8_E4M3; }

static int parse_gptq(const json_t *json, struct weights_quant *quant, struct err *err) {
    int64_t bits, group;
    bool desc_act;
    const char *format;
    if (json_get_int(json, "bits", 0, 0, 64, &bits, err) != 0 || json_get_int(json, "group_size", 0, -1, MAX_GROUP, &group, err) != 0 ||
        json_get_bool(json, "desc_act", false, &desc_act, err) != 0 ||
        json_get_str(json, "checkpoint_format", "gptq", &format, err) != 0)
        return -1;
    if (bits != 4)
        return err_set(err, ERR_UNSUPPORTED, "gptq with \"bits\": %lld is not supported; 4 bits are", (long long)bits);
    if (group < 32 || group % 32 != 0)
        return err_set(err, ERR_UNSUPPORTED, "gptq with \"group_size\": %lld is not supported; multiples of 32 are, such as 128",
                       (long long)group);
    if (desc_act)
        return err_set(err, ERR_UNSUPPORTED, "gptq with \"desc_act\": true (columns in another order) is not supported");
    if (strcmp(format, "gptq") != 0 && strcmp(format, "gptq_v2") != 0)
        return err_set(err, ERR_UNSUPPORTED, "gptq with \"checkpoint_format\": \"%.40s\" is not supported; gptq and gptq_v2 are", format);
    *quant = (struct weights_quant){.method = WEIGHTS_QUANT_GPTQ, .group = (int)group, .zero_offset = strcmp(format, "gptq") == 0};
    return 0;
}

static int parse_fp8(const json_t *json, struct weights_quant *quant, struct err *err) {
    const json_t *block = json_object_get(json, "weight_block_size");
    const char *format, *scheme;
    if (json_get_str(json, "fmt", "e4m3", &format, err) != 0 || json_get_str(json, "activation_scheme", "dynamic", &scheme, err) != 0)
        return -1;
    if (strcmp(format, "e4m3") != 0)
        return err_set(err, ERR_UNSUPPORTED, "fp8 with \"fmt\": \"%.40s\" is not supported; e4m3 is", format);
    if (strcmp(scheme, "dynamic") != 0)
        return err_set(err, ERR_UNSUPPORTED, "fp8 with \"activation_scheme\": \"%.40s\" is not supported; dynamic is", scheme);
    if (block == NULL || json_is_null(block))
        return err_set(err, ERR_UNSUPPORTED,
                       "fp8 with one scale per tensor (no \"weight_block_size\") is not supported; blocks of [128, 128] are");
    json_int_t rows = json_integer_value(json_array_get(block, 0)), cols = json_integer_value(json_array_get(block, 1));
    if (json_array_size(block) != 2 || rows < 16 || rows > MAX_GROUP || rows % 16 != 0 || cols < 32 || cols > MAX_GROUP || cols % 32 != 0)
        return err_set(err, ERR_UNSUPPORTED, "fp8's \"weight_block_size\" should be multiples of [16, 32], such as [128, 128]");
    *quant = (struct weights_quant){.method = WEIGHTS_QUANT_FP8, .block_rows = (int)rows, .block_cols = (int)cols};
    return 0;
}

int weights_quant_parse(const json_t *config, struct weights_quant *ret, struct err *err) {
    struct weights_quant quant = {.method = WEIGHTS_QUANT_NONE};
    const json_t *json = json_object_get(config, "quantization_config");
    int rc = 0;
    if (json != NULL && !json_is_null(json)) {
        const char *algorithm = json_string_value(json_object_get(json, "quant_algo"));
        const char *method = json_string_value(json_object_get(json, "quant_method"));
        if (method != NULL && strcmp(method, "gptq") == 0)
            rc = parse_gptq(json, &quant, err);
        else if (method != NULL && strcmp(method, "fp8") == 0)
            rc = parse_fp8(json, &quant, err);
        else
            rc = err_set(err, ERR_UNSUPPORTED,
                         "the checkpoint is quantised with %.40s%s%.40s, which is not supported; gptq (4 bits in groups), fp8 (in blocks) and"
                         " GGUF files are",
                         method != NULL ? method : "", method != NULL && algorithm != NULL ? " " : "",
                         algorithm != NULL ? algorithm : method == NULL ? "an unnamed method" : "");
    }
    if (rc != 0)
        return err_wrap(err, "\"quantization_config\"");
    *ret = quant;
    return 0;
}
