/* Any bytes as a server's streamed answer, cut anywhere: read to its end or refused, and the same however it is cut. */
#include <stdint.h>
#include <stdlib.h>

#include "bench/answer_reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The result, and how many tokens it gave. */
static int read_answer(const char *bytes, size_t size, size_t piece, bool is_chat, int *ret_n_chunks) {
    struct bench_record record = {0};
    struct bench_answer_reader reader;
    int result = 0;
    bench_answer_reader_init(&reader, is_chat, true, 0, &record);
    for (size_t at = 0; at < size && result == 0; at += piece)
        result = bench_answer_reader_feed(&reader, bytes + at, size - at < piece ? size - at : piece, (int64_t)at, NULL);
    if (result == 0)
        result = bench_answer_reader_end(&reader, NULL);
    if (record.n_gaps != (reader.n_chunks > 0 ? reader.n_chunks - 1 : 0) || record.n_output < 0 || record.n_prompt < 0)
        abort();
    *ret_n_chunks = reader.n_chunks;
    bench_answer_reader_finish(&reader);
    free(record.gaps_s);
    free(record.text);
    return result;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    for (int is_chat = 0; is_chat < 2; is_chat++) {
        int n_whole, n_cut, whole = read_answer((const char *)data, size, size > 0 ? size : 1, is_chat, &n_whole);
        for (size_t piece = 1; piece < 8; piece += 3)
            if (read_answer((const char *)data, size, piece, is_chat, &n_cut) != whole || n_cut != n_whole)
                abort();
    }
    return 0;
}
