/* A port of 127.0.0.1 that nobody listens on now, below those that the kernel gives to outgoing connections: so nobody
 * takes it either while a test has closed it for a time. 0: there is none. */
#ifndef OUTRIGGER_TESTS_FREE_PORT_H
#define OUTRIGGER_TESTS_FREE_PORT_H

#include <arpa/inet.h>
#include <stdint.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

static inline uint16_t free_port(void)
{
    enum { PORT_MIN = 12000, PORT_MAX = 31999, TRIES = 100 };
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    uint16_t port;
    int fd, rv;

    for (int i = 0; i < TRIES; i++) {
        if (getrandom(&port, sizeof port, 0) != (ssize_t)sizeof port) {
            break;
        }
        port = (uint16_t)(PORT_MIN + port % (PORT_MAX - PORT_MIN + 1));
        address.sin_port = htons(port);
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        rv = bind(fd, (struct sockaddr *)&address, sizeof address);
        close(fd);
        if (rv == 0) {
            return port;
        }
    }
    return 0;
}

#endif
