/*
 * Network interfaces of this host, and which of them carries the traffic of a launch.
 */
#ifndef NET_IFACE_H
#define NET_IFACE_H

#include <net/if.h>
#include <stdbool.h>

#include "base/err.h"
#include "net/sock.h"

struct net_iface {
    char name[IF_NAMESIZE];
    char host[NET_ADDR_BYTES]; /* numeric address */
    bool is_up, is_loopback;
};

/* Lists at most max addresses (one entry each), IPv4 before IPv6. Returns how many, -1 on error. */
int net_iface_list(struct net_iface *ret, int max, struct err *err);
/*
 * The choice, in this order: `name` (from --interface; an interface or an address), $SHOAL_IFNAME, $GLOO_SOCKET_IFNAME,
 * the source address of the route to `toward` (a host; NULL: skip), loopback. ERR_NOT_FOUND lists the candidates.
 */
int net_iface_choose(const char *name, const char *toward, struct net_iface *ret, struct err *err);

#endif
