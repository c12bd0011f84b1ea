/* The table of classes by code point, spread out from the ranges of unicode_table.c. */
#include "text/unicode.h"

#include <pthread.h>
#include <string.h>

uint8_t text_unicode_classes[TEXT_UNICODE_N];

static void fill(void) {
    for (int i = 0; i < text_unicode_n_ranges; i++) {
        const struct text_unicode_range *range = &text_unicode_ranges[i];
        memset(text_unicode_classes + range->first, range->classes, range->last - range->first + 1);
    }
}

void text_unicode_setup(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill);
}
