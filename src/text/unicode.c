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

static int append_nfc(const char *text, size_t len_bytes, struct buf *out) {
    utf8proc_uint8_t *composed = NULL;
    utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)len_bytes, &composed, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (n < 0)
        return -1;
    int result = buf_append(out, composed, (size_t)n);
    free(composed);
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
