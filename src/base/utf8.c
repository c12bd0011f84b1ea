/* UTF-8 decoding, encoding and repair; see utf8.h. */
#include "base/utf8.h"

/* Length of the sequence that `lead` starts (0 when it can't start one) and the range of its second byte. */
static int lead_info(uint8_t lead, uint8_t *lo, uint8_t *hi) {
    *lo = 0x80;
    *hi = 0xbf;
    if (lead < 0x80)
        return 1;
    if (lead < 0xc2)
        return 0;
    if (lead < 0xe0)
        return 2;
    if (lead < 0xf0) {
        if (lead == 0xe0)
            *lo = 0xa0;
        if (lead == 0xed)
            *hi = 0x9f; /* no surrogates */
        return 3;
    }
    if (lead < 0xf5) {
        if (lead == 0xf0)
            *lo = 0x90;
        if (lead == 0xf4)
            *hi = 0x8f;
        return 4;
    }
    return 0;
}

int utf8_decode(const char *bytes, size_t len_bytes, uint32_t *ret_cp) {
    const uint8_t *b = (const uint8_t *)bytes;
    uint8_t lo, hi;
    int n = lead_info(b[0], &lo, &hi);
    if (n == 1) {
        *ret_cp = b[0];
        return 1;
    }
    *ret_cp = 0xfffd;
    if (n == 0)
        return -1;
    uint32_t cp = b[0] & (0xffu >> (n + 1));
    for (int i = 1; i < n; i++) {
        if ((size_t)i >= len_bytes || b[i] < lo || b[i] > hi)
            return -i;
        cp = cp << 6 | (b[i] & 0x3f);
        lo = 0x80;
        hi = 0xbf;
    }
    *ret_cp = cp;
    return n;
}

int utf8_encode(uint32_t cp, char ret_bytes[4]) {
    if (cp < 0x80) {
        ret_bytes[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        ret_bytes[0] = (char)(0xc0 | cp >> 6);
        ret_bytes[1] = (char)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        ret_bytes[0] = (char)(0xe0 | cp >> 12);
        ret_bytes[1] = (char)(0x80 | (cp >> 6 & 0x3f));
        ret_bytes[2] = (char)(0x80 | (cp & 0x3f));
        return 3;
    }
    ret_bytes[0] = (char)(0xf0 | cp >> 18);
    ret_bytes[1] = (char)(0x80 | (cp >> 12 & 0x3f));
    ret_bytes[2] = (char)(0x80 | (cp >> 6 & 0x3f));
    ret_bytes[3] = (char)(0x80 | (cp & 0x3f));
    return 4;
}

bool utf8_valid(const char *bytes, size_t len_bytes) {
    uint32_t cp;
    for (size_t i = 0; i < len_bytes;) {
        int n = utf8_decode(bytes + i, len_bytes - i, &cp);
        if (n < 0)
            return false;
        i += (size_t)n;
    }
    return true;
}

size_t utf8_incomplete_tail(const char *bytes, size_t len_bytes) {
    size_t most = len_bytes < 3 ? len_bytes : 3;
    for (size_t back = 1; back <= most; back++) {
        uint8_t lead = (uint8_t)bytes[len_bytes - back];
        if ((lead & 0xc0) == 0x80)
            continue;
        uint8_t lo, hi;
        uint32_t cp;
        int n = lead_info(lead, &lo, &hi);
        return n > (int)back && utf8_decode(bytes + len_bytes - back, back, &cp) == -(int)back ? back : 0;
    }
    return 0;
}

int utf8_append_repaired(struct buf *out, const char *bytes, size_t len_bytes) {
    size_t clean_from = 0;
    uint32_t cp;
    for (size_t i = 0; i < len_bytes;) {
        int n = utf8_decode(bytes + i, len_bytes - i, &cp);
        if (n < 0) {
            buf_append(out, bytes + clean_from, i - clean_from);
            buf_append_str(out, "\xef\xbf\xbd");
            n = -n;
            clean_from = i + (size_t)n;
        }
        i += (size_t)n;
    }
    return buf_append(out, bytes + clean_from, len_bytes - clean_from);
}
