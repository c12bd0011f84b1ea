/* The host's interfaces and the choice of one; see iface.h. Any thread, no shared state. Asks the kernel each time. */
#include "net/iface.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { IFACE_MAX = 256, ROUTE_PORT = 9 /* discard; nothing is sent */ };

static int host_text(const struct sockaddr *addr, char ret_host[NET_ADDR_BYTES]) {
    socklen_t len = addr->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    return getnameinfo(addr, len, ret_host, NET_ADDR_BYTES, NULL, 0, NI_NUMERICHOST);
}

int net_iface_list(struct net_iface *ret, int max, struct err *err) {
    struct ifaddrs *list;
    if (getifaddrs(&list) != 0)
        return err_set(err, ERR_IO, "cannot list the network interfaces: %s", strerror(errno));
    static const int families[] = {AF_INET, AF_INET6};
    int n = 0;
    for (int f = 0; f < 2; f++) {
        for (const struct ifaddrs *at = list; at != NULL && n < max; at = at->ifa_next) {
            if (at->ifa_addr == NULL || at->ifa_addr->sa_family != families[f] || host_text(at->ifa_addr, ret[n].host) != 0)
                continue;
            snprintf(ret[n].name, sizeof ret[n].name, "%s", at->ifa_name);
            ret[n].is_up = (at->ifa_flags & IFF_UP) != 0;
            ret[n].is_loopback = (at->ifa_flags & IFF_LOOPBACK) != 0;
            n++;
        }
    }
    freeifaddrs(list);
    return n;
}

/* The first of these that is called `name` or has the address `name`; an address that is up comes before one that is not. */
static const struct net_iface *find_named(const struct net_iface *list, int n, const char *name) {
    const struct net_iface *found = NULL;
    for (int i = 0; i < n; i++)
        if ((strcmp(list[i].name, name) == 0 || strcmp(list[i].host, name) == 0) && (found == NULL || (list[i].is_up && !found->is_up)))
            found = &list[i];
    return found;
}

static int not_found(const struct net_iface *list, int n, const char *name, const char *asked_by, struct err *err) {
    char candidates[ERR_MSG_BYTES / 2] = "";
    size_t used = 0;
    for (int i = 0; i < n && used < sizeof candidates; i++)
        used += (size_t)snprintf(candidates + used, sizeof candidates - used, "%s%s (%s%s)", i > 0 ? ", " : "", list[i].name, list[i].host,
                                 list[i].is_up ? "" : ", down");
    return err_set(err, ERR_NOT_FOUND, "%s asks for the network interface or address '%s', which this host does not have; it has: %s",
                   asked_by, name, candidates);
}

/* The address that this host would use to reach `toward`: a connected UDP socket asks the routing table and sends nothing. */
static int route_source(const char *toward, char ret_host[NET_ADDR_BYTES]) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_DGRAM}, *list;
    char service[8];
    snprintf(service, sizeof service, "%d", ROUTE_PORT);
    if (getaddrinfo(toward, service, &hints, &list) != 0)
        return -1;
    int rc = -1;
    for (struct addrinfo *to = list; to != NULL && rc != 0; to = to->ai_next) {
        struct sockaddr_storage near;
        socklen_t len = sizeof near;
        int fd = socket(to->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            continue;
        if (connect(fd, to->ai_addr, to->ai_addrlen) == 0 && getsockname(fd, (struct sockaddr *)&near, &len) == 0)
            rc = host_text((struct sockaddr *)&near, ret_host);
        close(fd);
    }
    freeaddrinfo(list);
    return rc;
}

int net_iface_choose(const char *name, const char *toward, struct net_iface *ret, struct err *err) {
    struct net_iface list[IFACE_MAX];
    int n = net_iface_list(list, IFACE_MAX, err);
    if (n < 0)
        return -1;
    const struct {
        const char *by, *name;
    } asked[] = {{"--interface", name}, {"SHOAL_IFNAME", getenv("SHOAL_IFNAME")}, {"GLOO_SOCKET_IFNAME", getenv("GLOO_SOCKET_IFNAME")}};
    const struct net_iface *found = NULL;
    for (size_t i = 0; i < sizeof asked / sizeof asked[0] && found == NULL; i++) {
        if (asked[i].name == NULL || asked[i].name[0] == '\0')
            continue;
        found = find_named(list, n, asked[i].name);
        if (found == NULL)
            return not_found(list, n, asked[i].name, asked[i].by, err);
    }
    char source[NET_ADDR_BYTES];
    if (found == NULL && toward != NULL && route_source(toward, source) == 0)
        found = find_named(list, n, source);
    for (int i = 0; i < n && found == NULL; i++)
        if (list[i].is_loopback && list[i].is_up)
            found = &list[i];
    if (found == NULL)
        return err_set(err, ERR_NOT_FOUND, "this host has no network interface that is up, not even loopback");
    *ret = *found;
    return 0;
}
