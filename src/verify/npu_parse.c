/* Texts of Ascend's tools; see npu_parse.h. */
#include "verify/npu_parse.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Behind `label` at the beginning of a line (blanks before it are skipped), without blanks; NULL: no such line. */
static const char *find_line(const char *text, const char *label) {
    size_t len = strlen(label);
    for (const char *line = text; line != NULL; line = strchr(line, '\n'), line = line == NULL ? NULL : line + 1) {
        const char *at = line + strspn(line, " \t\r");
        if (strncmp(at, label, len) == 0)
            return at + len + strspn(at + len, " \t");
    }
    return NULL;
}

/* Up to the end of the line or one of `ends`, without blanks at its end. -1 when empty or too long. */
static int take_word(const char *at, const char *ends, char *ret, size_t size_bytes) {
    if (at == NULL)
        return -1;
    size_t len = strcspn(at, "\r\n");
    size_t stop = strcspn(at, ends);
    len = stop < len ? stop : len;
    while (len > 0 && isblank((unsigned char)at[len - 1]))
        len--;
    if (len == 0 || len >= size_bytes)
        return -1;
    for (size_t i = 0; i < len; i++)
        if (!isprint((unsigned char)at[i]))
            return -1;
    memcpy(ret, at, len);
    ret[len] = '\0';
    return 0;
}

static int take_addr(const char *at, char ret[NPU_ADDR_BYTES]) {
    char text[NPU_ADDR_BYTES];
    struct in_addr v4;
    struct in6_addr v6;
    if (take_word(at, ", \t", text, sizeof text) != 0 || (inet_pton(AF_INET, text, &v4) != 1 && inet_pton(AF_INET6, text, &v6) != 1))
        return -1;
    memcpy(ret, text, sizeof text);
    return 0;
}

int npu_parse_lldp(const char *text, char ret_port[NPU_PORT_BYTES], enum npu_peer *ret_peer) {
    if (take_word(find_line(text, "Ifname:"), "\n", ret_port, NPU_PORT_BYTES) != 0)
        return -1;
    /* The description is what stands between its own title and the next TLV's. */
    const char *begin = find_line(text, "System Description TLV"), *end = begin == NULL ? NULL : strstr(begin, " TLV");
    size_t len = begin == NULL ? 0 : end == NULL ? strlen(begin) : (size_t)(end - begin);
    *ret_peer = begin == NULL                                ? NPU_PEER_NONE
                : memmem(begin, len, "AscendNPU", 9) != NULL ? NPU_PEER_NPU
                : memmem(begin, len, "Routing", 7) != NULL   ? NPU_PEER_SWITCH
                                                             : NPU_PEER_OTHER;
    return 0;
}

int npu_parse_link(const char *text, bool *ret_is_up) {
    char word[16];
    if (take_word(find_line(text, "link status:"), "\n", word, sizeof word) != 0 || (strcmp(word, "UP") != 0 && strcmp(word, "DOWN") != 0))
        return -1;
    *ret_is_up = strcmp(word, "UP") == 0;
    return 0;
}

int npu_parse_health(const char *text, char ret_word[NPU_HEALTH_BYTES]) {
    static const char *const known[] = {"Success", "Socket fail", "Receive timeout", "Unreachable",   "Time exceeded",
                                        "Fault",   "Init",        "Thread error",    "Detect ip set", "Unknown"};
    char word[NPU_HEALTH_BYTES];
    if (take_word(find_line(text, "net health status:"), "\n", word, sizeof word) != 0)
        return -1;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(word, known[i]) == 0) {
            memcpy(ret_word, word, sizeof word);
            return 0;
        }
    }
    return -1;
}

int npu_parse_netdetect(const char *text, char ret_addr[NPU_ADDR_BYTES]) {
    const char *at = find_line(text, "netdetect address:");
    return take_addr(at != NULL ? at : find_line(text, "netdetect addr:"), ret_addr);
}

int npu_parse_gateway(const char *text, char ret_addr[NPU_ADDR_BYTES]) { return take_addr(find_line(text, "default gateway:"), ret_addr); }

int npu_parse_ip(const char *text, char ret_addr[NPU_ADDR_BYTES], char ret_mask[NPU_ADDR_BYTES]) {
    char addr[NPU_ADDR_BYTES];
    if (take_addr(find_line(text, "ipaddr:"), addr) != 0 || take_addr(find_line(text, "netmask:"), ret_mask) != 0)
        return -1;
    memcpy(ret_addr, addr, sizeof addr);
    return 0;
}

int npu_parse_tls(const char *text, int *ret_switch) {
    const char *at = strstr(text, "tls switch[");
    if (at == NULL || (at[11] != '0' && at[11] != '1') || at[12] != ']')
        return -1;
    *ret_switch = at[11] - '0';
    return 0;
}

/* Digits at *at, at most 9 of them; *at moves behind. -1: none. */
static int take_number(const char **at) {
    size_t len = strspn(*at, "0123456789");
    if (len == 0 || len > 9)
        return -1;
    int value = atoi(*at);
    *at += len;
    return value;
}

int npu_parse_ping(const char *text, int *ret_sent, int *ret_received) {
    static const char middle[] = " packets transmitted, ", last[] = " received, ";
    for (const char *line = text; line != NULL; line = strchr(line, '\n'), line = line == NULL ? NULL : line + 1) {
        const char *at = line + strspn(line, " \t\r");
        int sent = take_number(&at);
        if (sent < 0 || strncmp(at, middle, sizeof middle - 1) != 0)
            continue;
        at += sizeof middle - 1;
        int received = take_number(&at);
        if (received < 0 || received > sent || strncmp(at, last, sizeof last - 1) != 0)
            continue;
        *ret_sent = sent;
        *ret_received = received;
        return 0;
    }
    return -1;
}

int npu_parse_conf(const char *text, const char *key, int npu, char ret_value[NPU_ADDR_BYTES]) {
    char name[64];
    int result = -1;
    int len = snprintf(name, sizeof name, "%s_%d", key, npu);
    for (const char *line = text; line != NULL; line = strchr(line, '\n'), line = line == NULL ? NULL : line + 1) {
        const char *at = line + strspn(line, " \t");
        if (strncmp(at, name, (size_t)len) != 0)
            continue;
        at += len;
        at += strspn(at, " \t");
        if (*at != '=')
            continue;
        at++;
        if (take_word(at + strspn(at, " \t"), "#", ret_value, NPU_ADDR_BYTES) == 0)
            result = 0;
    }
    return result;
}

int npu_parse_conf_ids(const char *text, int ret_ids[NPU_MAX]) {
    int n = 0;
    char value[NPU_ADDR_BYTES];
    for (int id = 0; id < NPU_MAX; id++)
        if (npu_parse_conf(text, "address", id, value) == 0)
            ret_ids[n++] = id;
    return n;
}

/* The cells of "| a | b | c |": [n] starts and lengths without blanks. */
static int split_cells(const char *line, size_t len, const char *cells[], size_t lens[], int max) {
    int n = 0;
    size_t at = 0;
    while (at < len && line[at] == '|' && n < max) {
        size_t begin = at + 1, end = begin;
        while (end < len && line[end] != '|')
            end++;
        if (end == len)
            break;
        at = end;
        while (begin < end && isblank((unsigned char)line[begin]))
            begin++;
        while (end > begin && isblank((unsigned char)line[end - 1]))
            end--;
        cells[n] = line + begin;
        lens[n++] = end - begin;
    }
    return n;
}

int npu_parse_smi(const char *text, struct npu_smi_row ret[NPU_MAX]) {
    int n = 0;
    for (const char *line = text; line != NULL && n < NPU_MAX; line = strchr(line, '\n'), line = line == NULL ? NULL : line + 1) {
        const char *cells[8];
        size_t lens[8], len = strcspn(line, "\r\n");
        /* "| 0     910B1 | OK | 88.4  46  0 / 0 |": an id and a name, a word of health. The chip's row below has no name. */
        if (split_cells(line, len, cells, lens, 8) < 3)
            continue;
        const char *at = cells[0];
        int id = take_number(&at);
        size_t blanks = strspn(at, " \t"), name_len = lens[0] - (size_t)(at - cells[0]);
        if (id < 0 || id >= NPU_MAX || blanks == 0 || blanks >= name_len || name_len - blanks >= NPU_HEALTH_BYTES || lens[1] == 0 ||
            lens[1] >= NPU_HEALTH_BYTES || !isalpha((unsigned char)cells[1][0]))
            continue;
        ret[n].npu = id;
        snprintf(ret[n].name, sizeof ret[n].name, "%.*s", (int)(name_len - blanks), at + blanks);
        snprintf(ret[n].health, sizeof ret[n].health, "%.*s", (int)lens[1], cells[1]);
        n++;
    }
    return n;
}

bool npu_same_network(const char *a, const char *b, const char *mask) {
    struct in_addr x, y, m;
    return inet_pton(AF_INET, a, &x) == 1 && inet_pton(AF_INET, b, &y) == 1 && inet_pton(AF_INET, mask, &m) == 1 &&
           (x.s_addr & m.s_addr) == (y.s_addr & m.s_addr);
}
