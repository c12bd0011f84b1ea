/* Every parser of Ascend's tools on any bytes: no crash, results within their ranges and terminated. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "verify/findings.h"
#include "verify/npu_parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = malloc(size + 1), port[NPU_PORT_BYTES], word[NPU_HEALTH_BYTES], addr[NPU_ADDR_BYTES], mask[NPU_ADDR_BYTES], clean[64];
    if (text == NULL)
        return 0;
    for (size_t i = 0; i < size; i++) /* as tool_run hands it over: a text without NULs */
        text[i] = data[i] == 0 ? '?' : (char)data[i];
    text[size] = '\0';
    enum npu_peer peer;
    bool is_up;
    int tls, sent, received, ids[NPU_MAX];
    struct npu_smi_row rows[NPU_MAX];
    if (npu_parse_lldp(text, port, &peer) == 0)
        assert(strlen(port) > 0 && peer <= NPU_PEER_OTHER);
    npu_parse_link(text, &is_up);
    if (npu_parse_health(text, word) == 0)
        assert(strlen(word) > 0);
    if (npu_parse_netdetect(text, addr) == 0 || npu_parse_gateway(text, addr) == 0)
        assert(strlen(addr) >= 2);
    if (npu_parse_ip(text, addr, mask) == 0)
        assert(npu_same_network(addr, addr, mask) || strchr(addr, ':') != NULL || strchr(mask, ':') != NULL);
    if (npu_parse_tls(text, &tls) == 0)
        assert(tls == 0 || tls == 1);
    if (npu_parse_ping(text, &sent, &received) == 0)
        assert(received >= 0 && received <= sent);
    int n_ids = npu_parse_conf_ids(text, ids);
    assert(n_ids >= 0 && n_ids <= NPU_MAX);
    int n_rows = npu_parse_smi(text, rows);
    assert(n_rows >= 0 && n_rows <= NPU_MAX);
    for (int i = 0; i < n_rows; i++)
        assert(rows[i].npu >= 0 && rows[i].npu < NPU_MAX && strlen(rows[i].name) > 0 && strlen(rows[i].health) > 0);
    verify_clean_text(text, clean, sizeof clean);
    for (const char *at = clean; *at != '\0'; at++)
        assert((unsigned char)*at >= 0x20 && *at != 0x7f);
    free(text);
    return 0;
}
