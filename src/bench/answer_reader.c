/* Streamed answers of the two completion routes; see answer_reader.h. */
#include "bench/answer_reader.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"

enum { TEXT_LIMIT = 1 << 20, FIRST_GAPS = 64, MOST_GAPS = 1 << 22 };

static int add_gap(struct bench_record *record, double gap_s, struct err *err) {
    if (record->n_gaps == record->cap_gaps) {
        int cap = record->cap_gaps > 0 ? record->cap_gaps * 2 : FIRST_GAPS;
        double *grown = cap > MOST_GAPS ? NULL : realloc(record->gaps_s, (size_t)cap * sizeof *grown);
        if (grown == NULL)
            return err_set(err, ERR_LIMIT, "an answer of more than %d chunks", record->cap_gaps);
        record->gaps_s = grown;
        record->cap_gaps = cap;
    }
    record->gaps_s[record->n_gaps++] = gap_s;
    return 0;
}

static int take_token(struct bench_answer_reader *reader, const char *text, struct err *err) {
    struct bench_record *record = reader->record;
    if (reader->n_chunks == 0)
        record->ttft_s = (double)(reader->now_ns - reader->sent_ns) * 1e-9;
    else if (add_gap(record, (double)(reader->now_ns - reader->last_ns) * 1e-9, err) != 0)
        return -1;
    reader->n_chunks++;
    reader->last_ns = reader->now_ns;
    record->latency_s = (double)(reader->now_ns - reader->sent_ns) * 1e-9;
    if (reader->keeps_text)
        buf_append_str(&reader->text, text);
    return 0;
}

static const char *member(const json_t *object, const char *key) { return json_string_value(json_object_get(object, key)); }

/*
 * Tokens come as "text", or in a chat as one of the texts of "delta". An empty text stands for a token whose bytes are held back, but not
 * beside a role (a chat's first chunk, which some servers send at once) nor beside a finish_reason (llama.cpp's last one).
 */
static int take_choice(struct bench_answer_reader *reader, const json_t *choice, struct err *err) {
    const json_t *delta = json_object_get(choice, "delta");
    const char *text = reader->is_chat ? member(delta, "content") : member(choice, "text");
    if (reader->is_chat && (text == NULL || *text == '\0')) {
        const char *reasoning = member(delta, "reasoning_content");
        reasoning = reasoning != NULL ? reasoning : member(delta, "reasoning");
        text = reasoning != NULL ? reasoning : text;
        if (json_is_array(json_object_get(delta, "tool_calls")))
            text = "tool call";
    }
    const char *finish = member(choice, "finish_reason");
    bool is_token = text != NULL && (*text != '\0' || (finish == NULL && json_object_get(delta, "role") == NULL));
    reader->is_finished |= finish != NULL;
    /* An answer without a token, ended at once, has its first moment there. */
    return is_token || (finish != NULL && reader->n_chunks == 0) ? take_token(reader, text != NULL ? text : "", err) : 0;
}

static int refuse(const json_t *error, struct err *err) {
    const char *message = json_is_string(error) ? json_string_value(error) : member(error, "message");
    return err_set(err, ERR_PEER, "the server gave up: %.180s", message != NULL ? message : "without saying why");
}

static int on_event(void *ctx, const char *data, size_t len_bytes, struct err *err) {
    struct bench_answer_reader *reader = ctx;
    int64_t n_prompt, n_output;
    if (len_bytes == 6 && memcmp(data, "[DONE]", 6) == 0) {
        reader->is_over = true;
        return 0;
    }
    json_t *json = json_parse(data, len_bytes, err);
    if (json == NULL)
        return err_wrap(err, "chunk '%.60s'", data);
    const json_t *error = json_object_get(json, "error"), *choices = json_object_get(json, "choices"),
                 *usage = json_object_get(json, "usage");
    int result = 0;
    if (error != NULL && !json_is_null(error))
        result = refuse(error, err);
    else if (!json_is_array(choices))
        result = err_set(err, ERR_PEER, "a chunk without \"choices\": '%.60s'", data);
    else if (json_array_size(choices) > 0)
        result = take_choice(reader, json_array_get(choices, 0), err);
    if (result == 0 && json_is_object(usage) && json_get_int(usage, "prompt_tokens", 0, 0, 1 << 30, &n_prompt, NULL) == 0 &&
        json_get_int(usage, "completion_tokens", 0, 0, 1 << 30, &n_output, NULL) == 0) {
        reader->record->n_prompt = n_prompt > 0 ? (int)n_prompt : reader->record->n_prompt;
        reader->record->n_output = (int)n_output;
    }
    json_decref(json);
    return result;
}

void bench_answer_reader_init(struct bench_answer_reader *reader, bool is_chat, bool keeps_text, int64_t sent_ns,
                              struct bench_record *record) {
    *reader = (struct bench_answer_reader){.is_chat = is_chat, .keeps_text = keeps_text, .sent_ns = sent_ns, .record = record};
    bench_sse_reader_init(&reader->sse, on_event, reader);
    buf_init(&reader->text, TEXT_LIMIT);
}

void bench_answer_reader_finish(struct bench_answer_reader *reader) {
    bench_sse_reader_finish(&reader->sse);
    buf_finish(&reader->text);
}

int bench_answer_reader_feed(struct bench_answer_reader *reader, const char *bytes, size_t len_bytes, int64_t now_ns, struct err *err) {
    reader->now_ns = now_ns;
    return bench_sse_reader_feed(&reader->sse, bytes, len_bytes, err);
}

int bench_answer_reader_end(struct bench_answer_reader *reader, struct err *err) {
    struct bench_record *record = reader->record;
    if (!reader->is_over && !reader->is_finished)
        return err_set(err, ERR_PEER, "the answer broke off after %d chunk(s)", reader->n_chunks);
    if (reader->n_chunks == 0)
        return err_set(err, ERR_PEER, "the answer holds no tokens");
    if (record->n_output == 0)
        record->n_output = reader->n_chunks;
    if (reader->keeps_text)
        record->text = buf_steal(&reader->text); /* NULL past the limit */
    return 0;
}
