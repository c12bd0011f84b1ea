/* Stores of both formats: what is read, in which pieces, and what is refused with which words. Files are built here, byte by byte. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/file.h"
#include "weights/gguf.h"
#include "weights/store.h"

static char g_folder[64];

static int setup(void **state) {
    (void)state;
    strcpy(g_folder, "/tmp/shoal-test-store-XXXXXX");
    return mkdtemp(g_folder) == NULL ? -1 : 0;
}

static int teardown(void **state) {
    (void)state;
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", g_folder);
    return system(command);
}

static const char *in_folder(const char *name) {
    static char path[2][256];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", g_folder, name);
    return path[turn];
}

static void write_file(const char *name, const void *bytes, size_t len_bytes) {
    struct err err;
    char path[256], *slash;
    snprintf(path, sizeof path, "%s", in_folder(name));
    slash = strrchr(path, '/');
    *slash = '\0';
    assert_int_equal(file_make_dirs(path, &err), 0);
    *slash = '/';
    assert_int_equal(file_write_atomic(path, bytes, len_bytes, 0644, &err), 0);
}

static struct weights_store *open_store(const char *path) {
    struct err err = {0};
    struct weights_store *store = NULL;
    if (weights_store_open(path, &store, &err) != 0)
        fail_msg("%s", err.msg);
    return store;
}

/* Opening fails with this code and every one of the words (NULL-terminated). */
static void expect_refusal(const char *path, enum err_code code, ...) {
    struct err err = {0};
    struct weights_store *store = NULL;
    va_list ap;
    if (weights_store_open(path, &store, &err) == 0)
        fail_msg("%s was opened", path);
    assert_null(store);
    if (err.code != code)
        fail_msg("%s: code %s: %s", path, err_code_name(err.code), err.msg);
    va_start(ap, code);
    for (const char *word; (word = va_arg(ap, const char *)) != NULL;)
        if (strstr(err.msg, word) == NULL)
            fail_msg("'%s' is not in: %s", word, err.msg);
    va_end(ap);
}

/* ---- safetensors ---- */

static void put_u32(struct buf *out, uint32_t value) { buf_append(out, &value, sizeof value); }
static void put_u64(struct buf *out, uint64_t value) { buf_append(out, &value, sizeof value); }

/* A safetensors file of a header and n_data bytes 0, 1, 2, … */
static void write_safetensors(const char *name, const char *header, size_t n_data) {
    struct buf out;
    buf_init(&out, 1 << 20);
    put_u64(&out, strlen(header));
    buf_append_str(&out, header);
    for (size_t i = 0; i < n_data; i++)
        buf_append_char(&out, (char)i);
    write_file(name, out.data, out.len_bytes);
    buf_finish(&out);
}

static void test_safetensors(void **state) {
    (void)state;
    struct err err;
    write_safetensors("a/model.safetensors",
                      "{\"__metadata__\":{\"format\":\"pt\"},"
                      "\"w\":{\"dtype\":\"BF16\",\"shape\":[3,4],\"data_offsets\":[0,24]},"
                      "\"stack\":{\"dtype\":\"F32\",\"shape\":[2,2,2],\"data_offsets\":[24,56]},"
                      "\"odd\":{\"dtype\":\"F8_E4M3\",\"shape\":[4],\"data_offsets\":[56,60]},"
                      "\"deep\":{\"dtype\":\"F16\",\"shape\":[1,1,1,1,2],\"data_offsets\":[60,64]},"
                      "\"scalar\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[64,68]},"
                      "\"empty\":{\"dtype\":\"F16\",\"shape\":[0,7],\"data_offsets\":[68,68]}}   ",
                      68);
    struct weights_store *store = open_store(in_folder("a"));
    assert_int_equal(weights_store_count(store), 4);
    assert_int_equal(weights_store_bytes(store), 24 + 32 + 4);
    assert_null(weights_store_gguf(store));
    const struct weights_tensor *w = weights_store_find(store, "w");
    assert_non_null(w);
    assert_int_equal(w->dtype, DTYPE_BF16);
    assert_int_equal(w->n_dims, 2);
    assert_int_equal(w->dims[0], 3);
    assert_int_equal(w->dims[1], 4);
    assert_null(weights_store_find(store, "W"));
    assert_null(weights_store_find(store, "ww"));
    assert_null(weights_store_find(store, ""));

    uint8_t got[64];
    assert_int_equal(weights_store_read(store, w, 0, 3, 0, 4, got, &err), 0);
    for (int i = 0; i < 24; i++)
        assert_int_equal(got[i], i);
    assert_int_equal(weights_store_read(store, w, 1, 2, 1, 2, got, &err), 0);
    assert_memory_equal(got, ((uint8_t[]){10, 11, 12, 13, 18, 19, 20, 21}), 8);
    assert_int_equal(weights_store_bytes_read(store), 32);
    /* Stacked matrices are one tall one. */
    assert_int_equal(weights_store_read(store, weights_store_find(store, "stack"), 3, 1, 0, 2, got, &err), 0);
    assert_memory_equal(got, ((uint8_t[]){48, 49, 50, 51, 52, 53, 54, 55}), 8);
    assert_int_equal(weights_store_read(store, weights_store_find(store, "scalar"), 0, 1, 0, 1, got, &err), 0);
    assert_memory_equal(got, ((uint8_t[]){64, 65, 66, 67}), 4);
    assert_int_equal(weights_store_read(store, weights_store_find(store, "empty"), 0, 0, 0, 7, got, &err), 0);
    static const int64_t bad[][4] = {{0, 4, 0, 4}, {4, 0, 0, 4},  {-1, 1, 0, 4}, {0, 1, 0, 5},
                                     {0, 1, 3, 2}, {0, 1, -1, 1}, {2, 2, 0, 1},  {0, -1, 0, 1}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(weights_store_read(store, w, bad[i][0], bad[i][1], bad[i][2], bad[i][3], got, &err), -1);
        assert_int_equal(err.code, ERR_INTERNAL);
    }

    const struct weights_tensor *needed = NULL;
    assert_int_equal(weights_store_need(store, "w", &needed, &err), 0);
    assert_ptr_equal(needed, w);
    assert_int_equal(weights_store_need(store, "odd", &needed, &err), -1);
    assert_int_equal(err.code, ERR_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "'odd' is stored as F8_E4M3"));
    assert_int_equal(weights_store_need(store, "deep", &needed, &err), -1);
    assert_int_equal(err.code, ERR_UNSUPPORTED);
    assert_int_equal(weights_store_need(store, "nothing", &needed, &err), -1);
    assert_int_equal(err.code, ERR_NOT_FOUND);
    weights_store_close(store);
    weights_store_close(NULL);
}

static void refuse_safetensors(const char *header, size_t n_data, const char *word) {
    write_safetensors("bad.safetensors", header, n_data);
    expect_refusal(in_folder("bad.safetensors"), ERR_INVALID, "bad.safetensors", word, NULL);
}

static void test_safetensors_refusals(void **state) {
    (void)state;
    refuse_safetensors("{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7, "only 7 bytes of data");
    refuse_safetensors("{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 9, "the file has 9 bytes");
    refuse_safetensors("{\"w\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8, "3 elements of F32");
    refuse_safetensors("{\"w\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, "whole numbers");
    refuse_safetensors("{\"w\":{\"dtype\":\"F32\",\"shape\":[4611686018427387905],\"data_offsets\":[0,4]}}", 4,
                       "4611686018427387905 elements");
    refuse_safetensors("{\"w\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0, "2^63");
    refuse_safetensors("{\"w\":{\"dtype\":\"F32\",\"shape\":8,\"data_offsets\":[0,8]}}", 8, "'shape' should be a list");
    refuse_safetensors("{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, "ascending");
    refuse_safetensors("{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8, "'data_offsets'");
    refuse_safetensors("{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,\"8\"]}}", 8, "'data_offsets'");
    refuse_safetensors("{\"w\":{\"dtype\":\"XX\",\"shape\":[2],\"data_offsets\":[0,80]}}", 8, "only 8 bytes of data");
    refuse_safetensors("{\"w\":{\"dtype\":7,\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "'dtype'");
    refuse_safetensors("{\"w\":[]}", 0, "tensor 'w'");
    refuse_safetensors("{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                       "\"v\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
                       4, "begins at byte 0 of the data, but the one before it ends at 4");
    refuse_safetensors("{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "begins at byte 4");
    refuse_safetensors("{\"w\":{},\"w\":{}}", 0, "not valid JSON");
    refuse_safetensors("{\"w\":", 0, "not valid JSON");
    refuse_safetensors("[]", 0, "should be a JSON object");
    write_file("bad.safetensors", "1234567", 7);
    expect_refusal(in_folder("bad.safetensors"), ERR_INVALID, "has 7 bytes", NULL);
    write_file("bad.safetensors", "\x64\0\0\0\0\0\0\0{}", 10);
    expect_refusal(in_folder("bad.safetensors"), ERR_INVALID, "header of 100 bytes, but has only 2", NULL);
    write_file("bad.safetensors", "PK\3\4 a zip", 11);
    expect_refusal(in_folder("bad.safetensors"), ERR_INVALID, "neither GGUF nor safetensors", NULL);
    expect_refusal(in_folder("nothing"), ERR_NOT_FOUND, "nothing", NULL);
}

static void test_index(void **state) {
    (void)state;
    char first[17], again[17];
    struct err err;
    static const char a[] = "{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]},"
                            "\"x\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[4,6]}}";
    static const char b[] = "{\"b\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]},"
                            "\"x\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[4,6]}}";
    static const char index[] = "{\"metadata\":{},"
                                "\"weight_map\":{\"b\":\"2.safetensors\",\"a\":\"1.safetensors\",\"x\":\"2.safetensors\"}}";
    write_safetensors("i/1.safetensors", a, 6);
    write_safetensors("i/2.safetensors", b, 6);
    write_file("i/model.safetensors.index.json", index, sizeof index - 1);
    struct weights_store *store = open_store(in_folder("i"));
    assert_int_equal(weights_store_count(store), 3);
    assert_int_equal(weights_store_find(store, "a")->file, 0);
    assert_int_equal(weights_store_find(store, "x")->file, 1);
    assert_int_equal(weights_store_fingerprint(store, first, &err), 0);
    weights_store_close(store);

    /* Copied elsewhere: the same model. One byte of the data differs: another. */
    write_safetensors("j/1.safetensors", a, 6);
    write_safetensors("j/2.safetensors", b, 6);
    write_file("j/model.safetensors.index.json", index, sizeof index - 1);
    store = open_store(in_folder("j"));
    assert_int_equal(weights_store_fingerprint(store, again, &err), 0);
    assert_string_equal(first, again);
    weights_store_close(store);
    int fd = open(in_folder("j/2.safetensors"), O_WRONLY);
    assert_int_equal(pwrite(fd, "\xff", 1, 8 + sizeof b - 1 + 3), 1);
    close(fd);
    store = open_store(in_folder("j"));
    assert_int_equal(weights_store_fingerprint(store, again, &err), 0);
    assert_string_not_equal(first, again);
    weights_store_close(store);

    /* Without an index a tensor may be in one file only. */
    unlink(in_folder("j/model.safetensors.index.json"));
    expect_refusal(in_folder("j"), ERR_INVALID, "'x' is there twice", "1.safetensors", "2.safetensors", NULL);
    unlink(in_folder("i/2.safetensors"));
    expect_refusal(in_folder("i"), ERR_NOT_FOUND, "index.json", "2.safetensors", NULL);
    static const char lies[] = "{\"weight_map\":{\"a\":\"1.safetensors\",\"c\":\"1.safetensors\"}}";
    write_file("i/model.safetensors.index.json", lies, sizeof lies - 1);
    expect_refusal(in_folder("i"), ERR_INVALID, "names 2 tensors", "hold only 1", NULL);
    static const char *const outside[] = {"{\"weight_map\":{\"a\":\"../1.safetensors\"}}", "{\"weight_map\":{\"a\":\"/1.safetensors\"}}",
                                          "{\"weight_map\":{\"a\":7}}"};
    for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++) {
        write_file("i/model.safetensors.index.json", outside[i], strlen(outside[i]));
        expect_refusal(in_folder("i"), ERR_INVALID, "file of the same folder for 'a'", NULL);
    }
    write_file("i/model.safetensors.index.json", "{}", 2);
    expect_refusal(in_folder("i"), ERR_INVALID, "'weight_map' should be an object", NULL);
    write_file("e/config.json", "{}", 2);
    expect_refusal(in_folder("e"), ERR_NOT_FOUND, "holds no weights", NULL);
}

/* ---- GGUF ---- */

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 };

static void put_str(struct buf *out, const char *text) {
    put_u64(out, strlen(text));
    buf_append_str(out, text);
}

static void put_key(struct buf *out, const char *key, uint32_t type) {
    put_str(out, key);
    put_u32(out, type);
}

static void put_head(struct buf *out, uint32_t version, uint64_t n_tensors, uint64_t n_entries) {
    buf_init(out, 1 << 20);
    buf_append_str(out, "GGUF");
    put_u32(out, version);
    put_u64(out, n_tensors);
    put_u64(out, n_entries);
}

/* A matrix [rows, cols]; the file has the columns first. */
static void put_tensor(struct buf *out, const char *name, uint64_t rows, uint64_t cols, uint32_t type, uint64_t offset) {
    put_str(out, name);
    put_u32(out, 2);
    put_u64(out, cols);
    put_u64(out, rows);
    put_u32(out, type);
    put_u64(out, offset);
}

static void pad(struct buf *out, size_t alignment) {
    while (out->len_bytes % alignment != 0)
        buf_append_char(out, 0);
}

static void put_data(struct buf *out, size_t len_bytes) {
    for (size_t i = 0; i < len_bytes; i++)
        buf_append_char(out, (char)i);
}

static void finish_file(struct buf *out, const char *name) {
    assert_false(out->failed);
    write_file(name, out->data, out->len_bytes);
    buf_finish(out);
}

static void test_gguf_metadata(void **state) {
    (void)state;
    struct buf out;
    put_head(&out, 3, 0, 18);
    put_key(&out, "u8", U8), buf_append(&out, "\xff", 1);
    put_key(&out, "i8", I8), buf_append(&out, "\xff", 1);
    put_key(&out, "u16", U16), buf_append(&out, "\xff\xff", 2);
    put_key(&out, "i16", I16), buf_append(&out, "\xfe\xff", 2);
    put_key(&out, "u32", U32), put_u32(&out, UINT32_MAX);
    put_key(&out, "i32", I32), put_u32(&out, (uint32_t)-3);
    put_key(&out, "f32", F32), buf_append(&out, &(float){1.5f}, 4);
    put_key(&out, "yes", BOOL), buf_append(&out, "\1", 1);
    put_key(&out, "no", BOOL), buf_append(&out, "\0", 1);
    put_key(&out, "str", STRING), put_str(&out, "some text");
    put_key(&out, "big", U64), put_u64(&out, UINT64_MAX);
    put_key(&out, "u64", U64), put_u64(&out, 1ull << 40);
    put_key(&out, "i64", I64), put_u64(&out, (uint64_t)-5);
    put_key(&out, "f64", F64), buf_append(&out, &(double){2.25}, 8);
    put_key(&out, "strs", ARRAY), put_u32(&out, STRING), put_u64(&out, 3);
    put_str(&out, "a"), put_u64(&out, 3), buf_append(&out, "b\0c", 3), put_str(&out, "");
    put_key(&out, "ints", ARRAY), put_u32(&out, I32), put_u64(&out, 2), put_u32(&out, 7), put_u32(&out, (uint32_t)-7);
    put_key(&out, "none", ARRAY), put_u32(&out, STRING), put_u64(&out, 0);
    put_key(&out, "nested", ARRAY), put_u32(&out, ARRAY), put_u64(&out, 2);
    put_u32(&out, STRING), put_u64(&out, 1), put_str(&out, "x"), put_u32(&out, U8), put_u64(&out, 2), buf_append(&out, "ab", 2);
    finish_file(&out, "meta.gguf");

    struct weights_store *store = open_store(in_folder("meta.gguf"));
    const struct weights_gguf *gguf = weights_store_gguf(store);
    assert_non_null(gguf);
    static const struct {
        const char *key;
        int64_t value;
    } integers[] = {{"u8", 255},         {"i8", -1},  {"u16", 65535},      {"i16", -2},
                    {"u32", UINT32_MAX}, {"i32", -3}, {"u64", 1ll << 40}, {"i64", -5}};
    for (size_t i = 0; i < sizeof integers / sizeof integers[0]; i++) {
        int64_t value = 0;
        assert_int_equal(weights_gguf_get_int(gguf, integers[i].key, &value), 0);
        assert_true(value == integers[i].value);
    }
    static const char *const no_integers[] = {"f32", "f64", "yes", "str", "big", "strs", "ints", "nested", "absent"};
    int64_t untouched = 42;
    for (size_t i = 0; i < sizeof no_integers / sizeof no_integers[0]; i++)
        assert_int_equal(weights_gguf_get_int(gguf, no_integers[i], &untouched), -1);
    assert_int_equal(untouched, 42);
    double number;
    assert_int_equal(weights_gguf_get_double(gguf, "f32", &number), 0);
    assert_true(number == 1.5);
    assert_int_equal(weights_gguf_get_double(gguf, "f64", &number), 0);
    assert_true(number == 2.25);
    assert_int_equal(weights_gguf_get_double(gguf, "i32", &number), 0);
    assert_true(number == -3);
    assert_int_equal(weights_gguf_get_double(gguf, "str", &number), -1);
    assert_int_equal(weights_gguf_get_double(gguf, "strs", &number), -1);
    bool truth = false;
    assert_int_equal(weights_gguf_get_bool(gguf, "yes", &truth), 0);
    assert_true(truth);
    assert_int_equal(weights_gguf_get_bool(gguf, "no", &truth), 0);
    assert_false(truth);
    assert_int_equal(weights_gguf_get_bool(gguf, "u8", &truth), -1);
    assert_string_equal(weights_gguf_get_str(gguf, "str"), "some text");
    assert_null(weights_gguf_get_str(gguf, "strs"));
    assert_null(weights_gguf_get_str(gguf, "u8"));
    size_t len;
    assert_int_equal(weights_gguf_array_len(gguf, "strs"), 3);
    assert_string_equal(weights_gguf_array_str(gguf, "strs", 0, NULL), "a");
    assert_memory_equal(weights_gguf_array_str(gguf, "strs", 1, &len), "b\0c", 4);
    assert_int_equal(len, 3);
    assert_string_equal(weights_gguf_array_str(gguf, "strs", 2, &len), "");
    assert_int_equal(len, 0);
    assert_null(weights_gguf_array_str(gguf, "strs", 3, NULL));
    assert_null(weights_gguf_array_str(gguf, "strs", -1, NULL));
    assert_null(weights_gguf_array_str(gguf, "ints", 0, NULL));
    assert_int_equal(weights_gguf_array_len(gguf, "none"), 0);
    assert_int_equal(weights_gguf_array_len(gguf, "nested"), 2);
    assert_int_equal(weights_gguf_array_len(gguf, "str"), -1);
    assert_int_equal(weights_gguf_array_int(gguf, "ints", 1, &untouched), 0);
    assert_int_equal(untouched, -7);
    assert_int_equal(weights_gguf_array_int(gguf, "ints", 2, &untouched), -1);
    assert_int_equal(weights_gguf_array_int(gguf, "strs", 0, &untouched), -1);
    assert_int_equal(weights_gguf_array_int(gguf, "nested", 0, &untouched), -1);
    assert_int_equal(weights_gguf_array_int(gguf, "u8", 0, &untouched), -1);
    weights_store_close(store);
}

static void test_gguf_tensors(void **state) {
    (void)state;
    /* Every format, version 2, an alignment of its own. Offsets are those of the type before, rounded up. */
    static const struct {
        uint32_t type;
        enum dtype dtype;
        uint64_t cols, len_bytes;
    } formats[] = {{0, DTYPE_F32, 8, 64},      {1, DTYPE_F16, 8, 32},      {30, DTYPE_BF16, 8, 32},
                   {8, DTYPE_Q8_0, 64, 136},   {2, DTYPE_Q4_0, 64, 72},    {3, DTYPE_Q4_1, 64, 80},
                   {12, DTYPE_Q4_K, 512, 576}, {13, DTYPE_Q5_K, 256, 352}, {14, DTYPE_Q6_K, 256, 420}};
    enum { N = sizeof formats / sizeof formats[0], ALIGNMENT = 64 };
    struct buf out;
    uint64_t offset = 0, total = 0;
    char name[16];
    put_head(&out, 2, N + 2, 1);
    put_key(&out, "general.alignment", U32), put_u32(&out, ALIGNMENT);
    for (size_t i = 0; i < N; i++) {
        snprintf(name, sizeof name, "t%zu", i);
        put_tensor(&out, name, 2, formats[i].cols, formats[i].type, offset);
        offset += (formats[i].len_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        total += formats[i].len_bytes;
    }
    put_tensor(&out, "iq", 2, 256, 23, 0);
    put_tensor(&out, "future", 2, 256, 99, 0);
    pad(&out, ALIGNMENT);
    size_t data_begin = out.len_bytes;
    put_data(&out, offset);
    finish_file(&out, "g/tensors.gguf");

    struct err err;
    const struct weights_tensor *tensor;
    struct weights_store *store = open_store(in_folder("g"));
    assert_int_equal(weights_store_count(store), N);
    assert_int_equal(weights_store_bytes(store), total);
    for (size_t i = 0; i < N; i++) {
        snprintf(name, sizeof name, "t%zu", i);
        assert_int_equal(weights_store_need(store, name, &tensor, &err), 0);
        assert_int_equal(tensor->dtype, formats[i].dtype);
        assert_int_equal(tensor->len_bytes, formats[i].len_bytes);
        assert_int_equal(tensor->dims[0], 2);
        assert_int_equal(tensor->dims[1], formats[i].cols);
    }
    assert_int_equal(weights_store_need(store, "iq", &tensor, &err), -1);
    assert_non_null(strstr(err.msg, "'iq' is stored as IQ4_XS"));
    assert_int_equal(weights_store_need(store, "future", &tensor, &err), -1);
    assert_non_null(strstr(err.msg, "GGML type 99"));

    /* The second block of the second row of t4 (Q4_0). */
    uint8_t got[18], want[18];
    tensor = weights_store_find(store, "t4");
    assert_int_equal(weights_store_read(store, tensor, 1, 1, 32, 32, got, &err), 0);
    for (int i = 0; i < 18; i++)
        want[i] = (uint8_t)(tensor->offset - data_begin + 36 + 18 + (uint64_t)i);
    assert_memory_equal(got, want, 18);
    assert_int_equal(weights_store_read(store, tensor, 1, 1, 16, 32, got, &err), -1);
    assert_int_equal(weights_store_read(store, tensor, 1, 1, 32, 16, got, &err), -1);
    weights_store_close(store);

    /* A file cut after opening is an error of the read, with its place. */
    store = open_store(in_folder("g"));
    assert_int_equal(truncate(in_folder("g/tensors.gguf"), (off_t)data_begin), 0);
    assert_int_equal(weights_store_read(store, weights_store_find(store, "t4"), 0, 1, 0, 64, got, &err), -1);
    assert_non_null(strstr(err.msg, "tensor 't4'"));
    assert_non_null(strstr(err.msg, "truncated"));
    weights_store_close(store);
    expect_refusal(in_folder("g"), ERR_INVALID, "tensors.gguf", "'t0'", "truncated", NULL);
    write_file("g/second.gguf", "GGUF", 4);
    expect_refusal(in_folder("g"), ERR_INVALID, "holds 2 models", "second.gguf", NULL);
}

/* A file of a head and this body is refused. */
static void refuse_gguf(uint64_t n_tensors, uint64_t n_entries, const struct buf *body, enum err_code code, const char *word) {
    struct buf out;
    put_head(&out, 3, n_tensors, n_entries);
    buf_append(&out, body->data, body->len_bytes);
    finish_file(&out, "bad.gguf");
    expect_refusal(in_folder("bad.gguf"), code, "bad.gguf", word, NULL);
}

static void test_gguf_refusals(void **state) {
    (void)state;
    struct buf body;
    buf_init(&body, 1 << 20);
    refuse_gguf(0, 1, &body, ERR_INVALID, "a key at byte 24");
    refuse_gguf(0, 5000, &body, ERR_LIMIT, "5000 entries");
    refuse_gguf(1ull << 40, 0, &body, ERR_LIMIT, "1099511627776 tensors");
    put_u64(&body, 1ull << 40);
    refuse_gguf(0, 1, &body, ERR_LIMIT, "a key at byte 24 has 1099511627776 bytes");
    buf_clear(&body), put_u64(&body, 1000);
    refuse_gguf(0, 1, &body, ERR_INVALID, "should take 1000 bytes, but the file ends at byte 32");
    buf_clear(&body), put_key(&body, "k", 13);
    refuse_gguf(0, 1, &body, ERR_INVALID, "type 13");
    buf_clear(&body), put_key(&body, "k", U32);
    refuse_gguf(0, 1, &body, ERR_INVALID, "key 'k'");
    buf_clear(&body), put_key(&body, "k", BOOL), buf_append(&body, "\2", 1);
    refuse_gguf(0, 1, &body, ERR_INVALID, "should be 0 or 1");
    buf_clear(&body), put_key(&body, "k", ARRAY), put_u32(&body, U64), put_u64(&body, 1 << 20);
    refuse_gguf(0, 1, &body, ERR_INVALID, "an array");
    buf_clear(&body), put_key(&body, "k", ARRAY), put_u32(&body, STRING), put_u64(&body, UINT64_MAX);
    refuse_gguf(0, 1, &body, ERR_LIMIT, "18446744073709551615 elements");
    buf_clear(&body), put_key(&body, "k", ARRAY), put_u32(&body, ARRAY), put_u64(&body, 1);
    for (int i = 0; i < 5; i++)
        put_u32(&body, ARRAY), put_u64(&body, 1);
    put_u32(&body, U8), put_u64(&body, 0);
    refuse_gguf(0, 1, &body, ERR_LIMIT, "nested more than");
    buf_clear(&body);
    for (int i = 0; i < 2; i++)
        put_key(&body, "twin", U8), buf_append_char(&body, 1);
    refuse_gguf(0, 2, &body, ERR_INVALID, "'twin' is there twice");
    static const uint32_t alignments[] = {0, 1, 12, 1 << 20};
    for (size_t i = 0; i < 4; i++) {
        buf_clear(&body), put_key(&body, "general.alignment", U32), put_u32(&body, alignments[i]);
        refuse_gguf(0, 1, &body, ERR_INVALID, "general.alignment");
    }
    buf_clear(&body), put_str(&body, "t"), put_u32(&body, 5);
    refuse_gguf(1, 0, &body, ERR_INVALID, "'t' has 5 dimensions");
    buf_clear(&body), put_tensor(&body, "t", 1, 48, 8, 0), pad(&body, 32), put_data(&body, 64);
    refuse_gguf(1, 0, &body, ERR_INVALID, "48 weights are not whole blocks of 32");
    buf_clear(&body), put_tensor(&body, "t", 1ull << 40, 1ull << 40, 0, 0);
    refuse_gguf(1, 0, &body, ERR_INVALID, "2^63");
    buf_clear(&body), put_tensor(&body, "t", 1ull << 31, 1ull << 31, 0, 0);
    refuse_gguf(1, 0, &body, ERR_INVALID, "2^64");
    buf_clear(&body), put_tensor(&body, "t", 1ull << 30, 1ull << 30, 0, 0);
    refuse_gguf(1, 0, &body, ERR_INVALID, "truncated");
    buf_clear(&body), put_tensor(&body, "t", 1ull << 62, 0, 0, 0);
    refuse_gguf(1, 0, &body, ERR_INVALID, "dimension of 0");
    buf_clear(&body), put_tensor(&body, "t", 1, 8, 0, 8), put_data(&body, 200);
    refuse_gguf(1, 0, &body, ERR_INVALID, "not a multiple of the alignment 32");
    buf_clear(&body), put_tensor(&body, "t", 1, 8, 0, UINT64_MAX - 31), put_data(&body, 200);
    refuse_gguf(1, 0, &body, ERR_INVALID, "truncated");
    buf_clear(&body);
    put_tensor(&body, "t", 1, 8, 0, 0), put_tensor(&body, "t", 1, 8, 0, 0), put_data(&body, 200);
    refuse_gguf(2, 0, &body, ERR_INVALID, "'t' is there twice");
    buf_finish(&body);

    write_file("bad.gguf", "GGUF\1\0\0\0", 8);
    expect_refusal(in_folder("bad.gguf"), ERR_UNSUPPORTED, "version 1;", NULL);
    write_file("bad.gguf", "GGUF\0\0\0\3", 8);
    expect_refusal(in_folder("bad.gguf"), ERR_UNSUPPORTED, "big-endian", NULL);
    write_file("bad.gguf", "GGML\0\0\0\3", 8);
    expect_refusal(in_folder("bad.gguf"), ERR_INVALID, "does not begin with the letters GGUF", NULL);
    write_file("bad.gguf", "GG", 2);
    expect_refusal(in_folder("bad.gguf"), ERR_INVALID, "not a GGUF file", NULL);
}

static void write_part(const char *name, int part, int n_parts, const char *tensor) {
    struct buf out;
    put_head(&out, 3, 1, 2);
    put_key(&out, "split.no", U16), buf_append(&out, &(uint16_t){(uint16_t)part}, 2);
    put_key(&out, "split.count", U16), buf_append(&out, &(uint16_t){(uint16_t)n_parts}, 2);
    put_tensor(&out, tensor, 1, 8, 0, 0);
    pad(&out, 32);
    put_data(&out, 32);
    finish_file(&out, name);
}

static void test_gguf_parts(void **state) {
    (void)state;
    write_part("s/m-00001-of-00002.gguf", 0, 2, "a");
    write_part("s/m-00002-of-00002.gguf", 1, 2, "b");
    static const char *const ways_in[] = {"s", "s/m-00001-of-00002.gguf", "s/m-00002-of-00002.gguf"};
    for (size_t i = 0; i < 3; i++) {
        struct weights_store *store = open_store(in_folder(ways_in[i]));
        assert_int_equal(weights_store_count(store), 2);
        assert_int_equal(weights_store_find(store, "a")->file, 0);
        assert_int_equal(weights_store_find(store, "b")->file, 1);
        weights_store_close(store);
    }
    write_part("s/m-00002-of-00002.gguf", 0, 2, "b");
    expect_refusal(in_folder("s"), ERR_INVALID, "part 1 of 2, but its name says 2 of 2", NULL);
    unlink(in_folder("s/m-00002-of-00002.gguf"));
    expect_refusal(in_folder("s"), ERR_NOT_FOUND, "m-00002-of-00002.gguf", NULL);
    write_part("alone.gguf", 0, 2, "a");
    expect_refusal(in_folder("alone.gguf"), ERR_INVALID, "one of 2 parts", NULL);
}

/* ---- real files ---- */

static void test_trained_models(void **state) {
    (void)state;
    static const struct {
        const char *path, *tensor;
        int n_tensors;
        uint64_t total_bytes;
        int64_t rows, cols;
    } models[] = {{TEST_DATA_DIR "/models/tiny-qwen3", "model.layers.0.mlp.gate_proj.weight", 68, 5805696, 512, 192},
                  {TEST_DATA_DIR "/models/tiny-qwen3-moe", "model.layers.0.mlp.experts.0.down_proj.weight", 345, 10167936, 192, 64}};
    for (size_t i = 0; i < 2; i++) {
        struct err err;
        char hex[17];
        struct weights_store *store = open_store(models[i].path);
        assert_int_equal(weights_store_count(store), models[i].n_tensors);
        assert_int_equal(weights_store_bytes(store), models[i].total_bytes);
        const struct weights_tensor *tensor = weights_store_find(store, models[i].tensor);
        assert_non_null(tensor);
        assert_int_equal(tensor->dims[0], models[i].rows);
        assert_int_equal(tensor->dims[1], models[i].cols);
        for (int t = 0; t < weights_store_count(store); t++)
            assert_ptr_equal(weights_store_find(store, weights_store_at(store, t)->name), weights_store_at(store, t));
        assert_int_equal(weights_store_fingerprint(store, hex, &err), 0);
        assert_int_equal(strspn(hex, "0123456789abcdef"), 16);
        weights_store_close(store);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_safetensors),   cmocka_unit_test(test_safetensors_refusals), cmocka_unit_test(test_index),
        cmocka_unit_test(test_gguf_metadata), cmocka_unit_test(test_gguf_tensors),         cmocka_unit_test(test_gguf_refusals),
        cmocka_unit_test(test_gguf_parts),    cmocka_unit_test(test_trained_models),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
