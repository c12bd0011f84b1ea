/*
 * What Ascend's tools print, as text, into what the checks want of it. Pure; any thread. The texts come from a device and
 * are not trusted: every number has a range, every copy a limit. -1 means: this is not such an answer.
 *
 * Written from the tools' published source and logs; no Ascend hardware was at hand.
 */
#ifndef VERIFY_NPU_PARSE_H
#define VERIFY_NPU_PARSE_H

#include <stdbool.h>
#include <stddef.h>

enum { NPU_ADDR_BYTES = 46, NPU_PORT_BYTES = 64, NPU_MAX = 64, NPU_HEALTH_BYTES = 24 };

enum npu_peer { NPU_PEER_NONE, NPU_PEER_SWITCH, NPU_PEER_NPU /* cabled card to card */, NPU_PEER_OTHER };

/* -lldp -g: the neighbour's port ("Ifname:") and what it is. */
int npu_parse_lldp(const char *text, char ret_port[NPU_PORT_BYTES], enum npu_peer *ret_peer);
/* -link -g */
int npu_parse_link(const char *text, bool *ret_is_up);
/* -net_health -g: its word, such as "Success" or "Receive timeout". */
int npu_parse_health(const char *text, char ret_word[NPU_HEALTH_BYTES]);
/* -netdetect -g: "netdetect address: A" or "netdetect addr: A" */
int npu_parse_netdetect(const char *text, char ret_addr[NPU_ADDR_BYTES]);
/* -gateway -g */
int npu_parse_gateway(const char *text, char ret_addr[NPU_ADDR_BYTES]);
/* -ip -g */
int npu_parse_ip(const char *text, char ret_addr[NPU_ADDR_BYTES], char ret_mask[NPU_ADDR_BYTES]);
/* -tls -g: the switch, 0 or 1. */
int npu_parse_tls(const char *text, int *ret_switch);
/* -ping -g: the counts of its last line. Its own percentage is not used: "100.00%" contains "0.00%". */
int npu_parse_ping(const char *text, int *ret_sent, int *ret_received);

/* A key of /etc/hccn.conf, such as "address" of NPU 3. -1: it is not there. Of a key that stands twice the last counts. */
int npu_parse_conf(const char *text, const char *key, int npu, char ret_value[NPU_ADDR_BYTES]);
/* Physical ids that have an address there, ascending; at most NPU_MAX. Returns how many. */
int npu_parse_conf_ids(const char *text, int ret_ids[NPU_MAX]);

struct npu_smi_row {
    int npu;
    char name[NPU_HEALTH_BYTES], health[NPU_HEALTH_BYTES];
};
/* `npu-smi info`: a row for each chip, at most NPU_MAX. Returns how many; 0 when there is no such table. */
int npu_parse_smi(const char *text, struct npu_smi_row ret[NPU_MAX]);

/* Whether two IPv4 addresses are in one network; false when any of the texts is no address. */
bool npu_same_network(const char *a, const char *b, const char *mask);

#endif
