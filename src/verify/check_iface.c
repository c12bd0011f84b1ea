/* The interface that carries the traffic; see checks.h. Facts from rtnetlink and ethtool, which see this process's network namespace. */
#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/ethtool.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/json.h"
#include "net/iface.h"
#include "verify/checks.h"
#include "verify/tool.h"

enum {
    MAX_IFACES = 64,
    SLOW_MBITS = 1000,
    MTU_LEAST = 1280,
    LLDP_TIMEOUT_MS = 2000,
    NETLINK_TIMEOUT_S = 1,
    BAD_PER_MILLION = 100, /* packets with errors, or dropped, since the interface came up: more than this is worth a look */
};

struct link_state {
    uint32_t mtu;
    bool has_carrier, has_stats;
    unsigned flags;
    struct rtnl_link_stats64 stats;
};

static int on_attribute(const struct nlattr *attr, void *data) {
    struct link_state *state = data;
    switch (mnl_attr_get_type(attr)) {
    case IFLA_MTU:
        if (mnl_attr_validate(attr, MNL_TYPE_U32) >= 0)
            state->mtu = mnl_attr_get_u32(attr);
        break;
    case IFLA_CARRIER:
        if (mnl_attr_validate(attr, MNL_TYPE_U8) >= 0)
            state->has_carrier = mnl_attr_get_u8(attr) != 0;
        break;
    case IFLA_STATS64: { /* older kernels send less of it */
        size_t len = mnl_attr_get_payload_len(attr);
        memcpy(&state->stats, mnl_attr_get_payload(attr), len < sizeof state->stats ? len : sizeof state->stats);
        state->has_stats = true;
        break;
    }
    default: break;
    }
    return MNL_CB_OK;
}

static int on_link(const struct nlmsghdr *header, void *data) {
    const struct ifinfomsg *info = mnl_nlmsg_get_payload(header);
    struct link_state *state = data;
    state->flags = info->ifi_flags;
    return mnl_attr_parse(header, sizeof *info, on_attribute, data) < 0 ? MNL_CB_ERROR : MNL_CB_STOP;
}

static int read_link(const char *iface, struct link_state *ret, struct err *err) {
    char out[256], in[32768];
    unsigned index = if_nametoindex(iface);
    if (index == 0)
        return err_set(err, ERR_NOT_FOUND, "there is no interface '%s'", iface);
    struct nlmsghdr *header = mnl_nlmsg_put_header(out);
    header->nlmsg_type = RTM_GETLINK;
    header->nlmsg_flags = NLM_F_REQUEST;
    header->nlmsg_seq = 1;
    struct ifinfomsg *info = mnl_nlmsg_put_extra_header(header, sizeof *info);
    info->ifi_family = AF_UNSPEC;
    info->ifi_index = (int)index;
    struct mnl_socket *sock = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
    if (sock == NULL)
        return err_set(err, ERR_IO, "netlink: %s", strerror(errno));
    struct timeval patience = {.tv_sec = NETLINK_TIMEOUT_S};
    setsockopt(mnl_socket_get_fd(sock), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    struct link_state state = {0};
    int result = -1;
    ssize_t n;
    if (mnl_socket_bind(sock, 0, MNL_SOCKET_AUTOPID) < 0 || mnl_socket_sendto(sock, header, header->nlmsg_len) < 0 ||
        (n = mnl_socket_recvfrom(sock, in, sizeof in)) <= 0 ||
        mnl_cb_run(in, (size_t)n, 1, mnl_socket_get_portid(sock), on_link, &state) < 0)
        err_set(err, ERR_IO, "netlink does not tell of %s: %s", iface, strerror(errno));
    else
        result = 0;
    mnl_socket_close(sock);
    if (result == 0)
        *ret = state;
    return result;
}

/* Mb/s; -1: the interface does not know (virtual ones often do not). */
static int read_speed(const char *iface) {
    struct {
        struct ethtool_link_settings settings;
        uint32_t masks[3 * 127];
    } request = {.settings = {.cmd = ETHTOOL_GLINKSETTINGS}};
    struct ifreq ifr = {.ifr_data = (char *)&request};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), speed = -1;
    if (fd < 0)
        return -1;
    snprintf(ifr.ifr_name, sizeof ifr.ifr_name, "%s", iface);
    /* The first call tells, as a negative number, how many words the masks take. */
    if (ioctl(fd, SIOCETHTOOL, &ifr) == 0 && request.settings.link_mode_masks_nwords < 0) {
        request.settings.cmd = ETHTOOL_GLINKSETTINGS;
        request.settings.link_mode_masks_nwords = (int8_t)-request.settings.link_mode_masks_nwords;
        if (ioctl(fd, SIOCETHTOOL, &ifr) == 0 && request.settings.speed != (uint32_t)SPEED_UNKNOWN && request.settings.speed > 0)
            speed = (int)request.settings.speed;
    }
    close(fd);
    return speed;
}

/* "eth0 10.0.0.1 (up), lo 127.0.0.1 (up), …" */
static void candidates_text(const struct net_iface *list, int n, char *ret_text, size_t size_bytes) {
    size_t used = 0;
    ret_text[0] = '\0';
    for (int i = 0; i < n && used < size_bytes; i++)
        used += (size_t)snprintf(ret_text + used, size_bytes - used, "%s%s %s%s", i > 0 ? ", " : "", list[i].name, list[i].host,
                                 list[i].is_up ? "" : " (down)");
}

/* The address from which this host would speak to another one; 0 or an errno. Asks the routing table, sends nothing. */
static int route_source(const char *toward, char ret_host[NET_ADDR_BYTES]) {
    struct sockaddr_in to4 = {.sin_family = AF_INET, .sin_port = htons(9)}, near4;
    struct sockaddr_in6 to6 = {.sin6_family = AF_INET6, .sin6_port = htons(9)}, near6;
    bool is_v4 = inet_pton(AF_INET, toward, &to4.sin_addr) == 1;
    if (!is_v4 && inet_pton(AF_INET6, toward, &to6.sin6_addr) != 1)
        return EINVAL;
    int fd = socket(is_v4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0), why = 0;
    if (fd < 0)
        return errno;
    struct sockaddr *to = is_v4 ? (struct sockaddr *)&to4 : (struct sockaddr *)&to6;
    struct sockaddr *near = is_v4 ? (struct sockaddr *)&near4 : (struct sockaddr *)&near6;
    socklen_t to_len = is_v4 ? sizeof to4 : sizeof to6, near_len = to_len;
    const void *near_addr = is_v4 ? (const void *)&near4.sin_addr : (const void *)&near6.sin6_addr;
    if (connect(fd, to, to_len) != 0 || getsockname(fd, near, &near_len) != 0 ||
        inet_ntop(is_v4 ? AF_INET : AF_INET6, near_addr, ret_host, NET_ADDR_BYTES) == NULL)
        why = errno;
    close(fd);
    return why;
}

static void check_route(const struct check_iface_opts *opts, const struct net_iface *own, struct verify_findings *findings) {
    char source[NET_ADDR_BYTES];
    int why = route_source(opts->toward, source);
    if (why != 0)
        verify_findings_add(findings, 0, VERIFY_FAIL, "route", "Bring the interface up, or give it an address in the other nodes' network",
                            "no route to %s: %s", opts->toward, strerror(why));
    else if (strcmp(source, opts->address) != 0)
        verify_findings_add(findings, 0, VERIFY_WARN, "route",
                            "If the other nodes cannot reach this address, choose the interface with --interface",
                            "%s (%s) was chosen, but the way to %s is from %s", own->name, opts->address, opts->toward, source);
    else
        verify_findings_add(findings, 0, VERIFY_OK, "route", NULL, "to %s from %s over %s", opts->toward, source, own->name);
}

static void check_counters(const char *iface, const struct link_state *state, struct verify_findings *findings) {
    const struct rtnl_link_stats64 *s = &state->stats;
    unsigned long long packets = s->rx_packets + s->tx_packets, errors = s->rx_errors + s->tx_errors, drops = s->rx_dropped + s->tx_dropped;
    if (!state->has_stats)
        verify_findings_add(findings, 0, VERIFY_NOTE, "errors", NULL, "%s keeps no counters", iface);
    else if (errors * 1000000 > packets * BAD_PER_MILLION || drops * 1000000 > packets * BAD_PER_MILLION * 10)
        verify_findings_add(findings, 0, VERIFY_WARN, "errors",
                            "Look at cable, transceiver and switch port if the numbers still grow (ip -s link)",
                            "%s has counted %llu errors and %llu drops in %llu packets", iface, errors, drops, packets);
    else
        verify_findings_add(findings, 0, VERIFY_OK, "errors", NULL, "%llu errors, %llu drops in %llu packets", errors, drops, packets);
}

/*
 * A part ("chassis", "port") of what lldpcli says of an interface's first neighbour: {"lldp": {"interface": {"eth0": {"chassis": …}}}},
 * where "interface" is a list as soon as there are several.
 */
static const json_t *lldp_part(const json_t *json, const char *iface, const char *part) {
    const json_t *at = json_object_get(json_object_get(json, "lldp"), "interface");
    if (json_is_array(at))
        at = json_array_get(at, 0);
    return json_object_get(json_object_get(at, iface), part);
}

static void check_lldp(const char *iface, struct verify_findings *findings) {
    struct tool_run run = {.args = {"lldpcli", "-f", "json", "show", "neighbors", "ports", iface}, .timeout_ms = LLDP_TIMEOUT_MS};
    char end[128];
    tool_run_all(&run, 1);
    tool_end_text(&run, end, sizeof end);
    if (run.end != TOOL_EXITED || run.code != 0) {
        verify_findings_add(findings, 0, VERIFY_NOTE, "lldp", NULL, "not asked: %s%s%s",
                            run.end == TOOL_NOT_FOUND ? "lldpd is not installed" : end, run.output[0] ? ": " : "", run.output);
        return;
    }
    json_t *json = json_parse(run.output, strlen(run.output), NULL);
    const json_t *chassis = lldp_part(json, iface, "chassis"), *port = lldp_part(json, iface, "port");
    const char *name = json_object_iter_key(json_object_iter((json_t *)chassis)); /* the chassis' only key is its name */
    const char *port_name = json_string_value(json_object_get(port, "descr"));
    if (port_name == NULL)
        port_name = json_string_value(json_object_get(json_object_get(port, "id"), "value"));
    if (json == NULL)
        verify_findings_add(findings, 0, VERIFY_NOTE, "lldp", NULL, "lldpcli's answer cannot be read");
    else if (name == NULL && port_name == NULL)
        verify_findings_add(findings, 0, VERIFY_NOTE, "lldp", NULL, "no neighbour of %s has said who it is", iface);
    else
        verify_findings_add(findings, 0, VERIFY_OK, "lldp", NULL, "%s is at %s, port %s", iface, name != NULL ? name : "?",
                            port_name != NULL ? port_name : "?");
    json_decref(json);
}

static void check_link(const struct check_iface_opts *opts, const struct net_iface *own, const struct link_state *state,
                       struct verify_findings *findings, json_t *facts) {
    int speed = read_speed(own->name);
    bool is_up = (state->flags & IFF_UP) != 0 && state->has_carrier;
    if (speed > 0)
        json_object_set_new(facts, "speed", json_integer(speed));
    json_object_set_new(facts, "mtu", json_integer(state->mtu));
    char speed_text[48] = "speed unknown, as of most virtual interfaces";
    if (speed > 0)
        snprintf(speed_text, sizeof speed_text, "%d Mb/s", speed);
    if (!is_up)
        verify_findings_add(findings, 0, VERIFY_FAIL, "link",
                            (state->flags & IFF_UP) == 0 ? "Run 'ip link set … up' on this node, or choose another with --interface"
                                                         : "Look at the cable, the transceiver and the switch's port",
                            "%s is down%s", own->name, (state->flags & IFF_UP) == 0 ? "" : ": it is set up, but has no carrier");
    else if (own->is_loopback && opts->toward[0] != '\0')
        verify_findings_add(findings, 0, VERIFY_FAIL, "link", "Choose the interface with --interface",
                            "%s was chosen, which other nodes cannot reach", own->name);
    else if (speed > 0 && speed < SLOW_MBITS && opts->toward[0] != '\0')
        verify_findings_add(findings, 0, VERIFY_WARN, "link", "Is this the right interface, and is it what its port and cable can do?",
                            "%s up, only %s", own->name, speed_text);
    else
        verify_findings_add(findings, 0, VERIFY_OK, "link", NULL, "%s up, %s", own->name, own->is_loopback ? "loopback" : speed_text);
    if (state->mtu < MTU_LEAST)
        verify_findings_add(findings, 0, VERIFY_WARN, "mtu", "Set it to 1500, or to 9000 where the switch passes that",
                            "%s has an MTU of %u", own->name, state->mtu);
    else
        verify_findings_add(findings, 0, VERIFY_OK, "mtu", NULL, "%u on %s", state->mtu, own->name);
}

/* The entry of the list that has an address; NULL: none. */
static const struct net_iface *find_address(const struct net_iface *list, int n, const char *address) {
    for (int i = 0; i < n; i++)
        if (strcmp(list[i].host, address) == 0)
            return &list[i];
    return NULL;
}

int check_iface_read(const char *address, struct check_iface_state *ret, struct err *err) {
    struct net_iface list[MAX_IFACES];
    struct link_state state;
    const struct net_iface *own = find_address(list, net_iface_list(list, MAX_IFACES, NULL), address);
    if (own == NULL)
        return err_set(err, ERR_NOT_FOUND, "no interface has the address %s", address);
    if (read_link(own->name, &state, err) != 0)
        return -1;
    *ret = (struct check_iface_state){.mtu = (int)state.mtu,
                                      .speed = read_speed(own->name),
                                      .errors = state.stats.rx_errors + state.stats.tx_errors,
                                      .drops = state.stats.rx_dropped + state.stats.tx_dropped};
    snprintf(ret->name, sizeof ret->name, "%s", own->name);
    return 0;
}

void check_iface(const struct check_iface_opts *opts, struct verify_findings *findings, json_t *facts) {
    struct net_iface list[MAX_IFACES];
    struct err err;
    int n = net_iface_list(list, MAX_IFACES, &err);
    char text[VERIFY_TEXT_BYTES];
    const struct net_iface *own = find_address(list, n, opts->address);
    if (own == NULL) {
        verify_findings_add(findings, 0, VERIFY_FAIL, "interface", "Choose one with --interface", "no interface has the address %s",
                            opts->address);
        return;
    }
    candidates_text(list, n, text, sizeof text);
    verify_findings_add(findings, 0, VERIFY_OK, "interface", NULL, "%s %s (candidates: %s)", own->name, own->host, text);
    struct link_state state;
    if (read_link(own->name, &state, &err) != 0) {
        verify_findings_add(findings, 0, VERIFY_FAIL, "link", NULL, "%s", err.msg);
        return;
    }
    check_link(opts, own, &state, findings, facts);
    if (opts->toward[0] != '\0')
        check_route(opts, own, findings);
    if (!own->is_loopback)
        check_counters(own->name, &state, findings);
    if (!opts->is_quick && !own->is_loopback)
        check_lldp(own->name, findings);
}
