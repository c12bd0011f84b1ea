/* One streamed answer as it comes in: which chunks carry tokens, and whether it came to its end. Private to src/bench/. */
#ifndef BENCH_ANSWER_READER_H
#define BENCH_ANSWER_READER_H

#include <stdint.h>

#include "bench/load_run.h"
#include "bench/sse_reader.h"

struct bench_answer_reader {
    struct bench_sse_reader sse;
    struct bench_record *record; /* n_prompt, n_output, ttft_s, latency_s, gaps_s, text are filled */
    int64_t sent_ns, now_ns, last_ns; /* now: of the bytes that are fed; last: of the latest chunk with tokens */
    struct buf text;
    int n_chunks;    /* with tokens */
    bool is_chat, keeps_text;
    bool is_finished; /* a finish_reason was seen */
    bool is_over;     /* "[DONE]" was seen */
};

void bench_answer_reader_init(struct bench_answer_reader *reader, bool is_chat, bool keeps_text, int64_t sent_ns,
                              struct bench_record *record);
void bench_answer_reader_finish(struct bench_answer_reader *reader);
/* Bytes of the answer that came at now_ns. */
int bench_answer_reader_feed(struct bench_answer_reader *reader, const char *bytes, size_t len_bytes, int64_t now_ns, struct err *err);
/* The answer's end: ERR_PEER when something is missing. */
int bench_answer_reader_end(struct bench_answer_reader *reader, struct err *err);

#endif
