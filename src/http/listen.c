/* Listening sockets; see listen.h. */
#include "http/listen.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 1024 };

static int describe_bind(const char *host, uint16_t port, int errnum, struct err *err) {
    const char *where = host == NULL ? "all addresses" : host;
    if (errnum == EADDRINUSE)
        return err_set(err, ERR_IO, "port %u on %s is in use by another program; stop that one or choose another with --port", port, where);
    if (errnum == EACCES)
        return err_set(err, ERR_IO, "port %u on %s needs more rights than this user has; ports from 1024 on do not", port, where);
    if (errnum == EADDRNOTAVAIL)
        return err_set(err, ERR_IO, "%s is no address of this machine; --host takes one of its own addresses", where);
    return err_set(err, ERR_IO, "cannot listen on %s port %u: %s", where, port, strerror(errnum));
}

/* Returns the socket, or -1 with errno. */
static int open_one(const struct sockaddr *address, socklen_t address_bytes, bool dual_stack) {
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    int on = 1, off = 0;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (address->sa_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, dual_stack ? &off : &on, sizeof on);
    if (bind(fd, address, address_bytes) != 0 || listen(fd, BACKLOG) != 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

static uint16_t port_of(int fd) {
    struct sockaddr_storage address;
    socklen_t bytes = sizeof address;
    if (getsockname(fd, (struct sockaddr *)&address, &bytes) != 0)
        return 0;
    if (address.ss_family == AF_INET6)
        return ntohs(((struct sockaddr_in6 *)&address)->sin6_port);
    return ntohs(((struct sockaddr_in *)&address)->sin_port);
}

int http_listen_tcp(const char *host, uint16_t port, int *ret_fd, uint16_t *ret_port, struct err *err) {
    int fd = -1;
    if (host == NULL) {
        struct sockaddr_in6 any6 = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = in6addr_any};
        struct sockaddr_in any4 = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_ANY)};
        fd = open_one((struct sockaddr *)&any6, sizeof any6, true);
        if (fd < 0 && (errno == EAFNOSUPPORT || errno == EADDRNOTAVAIL)) /* a machine without IPv6 */
            fd = open_one((struct sockaddr *)&any4, sizeof any4, false);
        if (fd < 0)
            return describe_bind(host, port, errno, err);
    } else {
        char service[8];
        snprintf(service, sizeof service, "%u", port);
        struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM}, *found = NULL;
        int status = getaddrinfo(host, service, &hints, &found);
        if (status != 0)
            return err_set(err, ERR_NOT_FOUND, "cannot listen on host '%s': %s", host, gai_strerror(status));
        int errnum = EADDRNOTAVAIL;
        for (const struct addrinfo *at = found; at != NULL && fd < 0; at = at->ai_next) {
            fd = open_one(at->ai_addr, at->ai_addrlen, false);
            if (fd < 0)
                errnum = errno;
        }
        freeaddrinfo(found);
        if (fd < 0)
            return describe_bind(host, port, errnum, err);
    }
    *ret_port = port_of(fd);
    *ret_fd = fd;
    return 0;
}

int http_listen_unix(const char *path, int *ret_fd, struct err *err) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return err_set(err, ERR_INVALID, "the path of the unix socket has %zu bytes; at most %zu are possible: %s", strlen(path),
                       sizeof address.sun_path - 1, path);
    strcpy(address.sun_path, path);
    struct stat status;
    if (lstat(path, &status) == 0) {
        if (!S_ISSOCK(status.st_mode))
            return err_set(err, ERR_IO, "%s exists and is no socket; remove it or choose another path", path);
        int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        bool alive = probe >= 0 && connect(probe, (struct sockaddr *)&address, sizeof address) == 0;
        if (probe >= 0)
            close(probe);
        if (alive)
            return err_set(err, ERR_IO, "another program listens on %s; stop that one or choose another path", path);
        unlink(path);
    }
    int fd = open_one((struct sockaddr *)&address, sizeof address, false);
    if (fd < 0)
        return err_set(err, ERR_IO, "cannot listen on %s: %s", path, strerror(errno));
    *ret_fd = fd;
    return 0;
}
