/* Classes of code points and NFC; see unicode.h. Owns one table, filled once. */
#include "text/unicode.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/utf8.h"

enum { N_CODE_POINTS = 0x110000 };

static uint8_t g_classes[N_CODE_POINTS];
static pthread_once_t g_once = PTHREAD_ONCE_INIT;

static void fill_table(void) {
    for (int i = 0; i < text_unicode_n_ranges; i++)
        memset(g_classes + text_unicode_ranges[i].first, text_unicode_ranges[i].classes,
               text_unicode_ranges[i].last - text_unicode_ranges[i].first + 1);
}

uint8_t text_unicode_classes(uint32_t cp) {
    pthread_once(&g_once, fill_table);
    return cp < N_CODE_POINTS ? g_classes[cp] : 0;
}

/* Puts each run of marks in the order of their combining classes, equal ones as they stand (a counting sort: runs may be long). */
static void order_marks(utf8proc_int32_t *cps, size_t n, utf8proc_int32_t *spare) {
    for (size_t begin = 0; begin < n;) {
        size_t end = begin, counts[257] = {0};
        for (; end < n && utf8proc_get_property(cps[end])->combining_class != 0; end++)
            counts[utf8proc_get_property(cps[end])->combining_class + 1]++;
        if (end - begin > 1) {
            for (int c = 1; c < 257; c++)
                counts[c] += counts[c - 1];
            for (size_t i = begin; i < end; i++)
                spare[counts[utf8proc_get_property(cps[i])->combining_class]++] = cps[i];
            memcpy(cps + begin, spare, (end - begin) * sizeof *cps);
        }
        begin = end > begin ? end : begin + 1;
    }
}

/* utf8proc_map would do it alone, but sorts marks in quadratic time. */
static int append_nfc(const char *text, size_t len_bytes, struct buf *out) {
    enum { MOST_PARTS = 4 }; /* of a canonical decomposition */
    size_t n = 0;
    int last_class = 0, result = 0;
    utf8proc_int32_t *cps = malloc((MOST_PARTS * len_bytes + 1) * sizeof *cps), *spare = malloc((MOST_PARTS * len_bytes + 1) * sizeof *spare);
    for (size_t i = 0; i < len_bytes && cps != NULL;) {
        uint32_t cp;
        int len = utf8_decode(text + i, len_bytes - i, &cp);
        n += (size_t)utf8proc_decompose_char((utf8proc_int32_t)cp, cps + n, MOST_PARTS, UTF8PROC_STABLE | UTF8PROC_COMPOSE, &last_class);
        i += (size_t)(len < 0 ? -len : len);
    }
    if (cps == NULL || spare == NULL)
        goto free_both;
    order_marks(cps, n, spare);
    utf8proc_ssize_t composed = utf8proc_normalize_utf32(cps, (utf8proc_ssize_t)n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    for (utf8proc_ssize_t i = 0; i < composed && result == 0; i++) {
        char bytes[4];
        result = buf_append(out, bytes, (size_t)utf8_encode((uint32_t)cps[i], bytes));
    }
    result = composed < 0 ? -1 : result;
free_both:
    if (cps == NULL || spare == NULL)
        result = -1;
    free(cps);
    free(spare);
    return result;
}

/* Cuts at code points that only newer versions of Unicode would touch: they stay, and nothing joins over them. */
int text_unicode_nfc(const char *text, size_t len_bytes, struct buf *out) {
    size_t begin = 0;
    bool is_touched = false;
    for (size_t i = 0; i <= len_bytes;) {
        uint32_t cp = 0;
        int n = i < len_bytes ? utf8_decode(text + i, len_bytes - i, &cp) : 1;
        uint8_t classes = i < len_bytes ? text_unicode_classes(cp) : TEXT_INERT;
        n = n < 0 ? -n : n;
        if ((classes & TEXT_INERT) != 0) {
            if ((is_touched ? append_nfc(text + begin, i - begin, out) : buf_append(out, text + begin, i - begin)) != 0)
                return -1;
            if (i < len_bytes && buf_append(out, text + i, (size_t)n) != 0)
                return -1;
            begin = i + (size_t)n;
            is_touched = false;
        }
        is_touched = is_touched || (classes & TEXT_NFC) != 0;
        i += (size_t)n;
    }
    return 0;
}
