#include "sidecar/cli/dev_files.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static char directory[64];
static char path[PATH_MAX];

static void setup(void)
{
    strcpy(directory, "/tmp/outrigger-dev-XXXXXX");
    cr_assert(ne(ptr, mkdtemp(directory), NULL));
}

static void teardown(void)
{
    char command[128];

    snprintf(command, sizeof command, "rm -rf %s", directory);
    cr_assert(zero(int, system(command)));
}

TestSuite(dev_files, .init = setup, .fini = teardown);

static int open_with(struct dev_shape *shape, bool *existed, int *lock)
{
    struct otr_errmsg msg = {0};

    return dev_files_open(directory, path, shape, existed, lock, &msg);
}

Test(dev_files, a_new_directory_has_the_defaults)
{
    struct dev_shape shape = {0};
    bool existed;
    int lock;

    cr_assert(zero(int, open_with(&shape, &existed, &lock)));
    cr_assert(not(existed));
    cr_assert(eq(u32, shape.nodes, 3));
    cr_assert(eq(u32, shape.shards, 4));
    cr_assert(eq(u32, shape.replicas, 3));
    close(lock);
}

Test(dev_files, fewer_nodes_than_three_have_fewer_replicas)
{
    struct dev_shape shape = {.nodes = 2};
    bool existed;
    int lock;

    cr_assert(zero(int, open_with(&shape, &existed, &lock)));
    cr_assert(eq(u32, shape.replicas, 2));
    close(lock);
}

/* The cluster goes on as it was made; what is asked for must agree. */
Test(dev_files, an_existing_directory_keeps_its_shape)
{
    struct dev_shape shape = {.nodes = 5, .shards = 7, .replicas = 2};
    bool existed;
    int lock;

    cr_assert(zero(int, open_with(&shape, &existed, &lock)));
    close(lock);
    shape = (struct dev_shape){0};
    cr_assert(zero(int, open_with(&shape, &existed, &lock)));
    cr_assert(existed);
    cr_assert(shape.nodes == 5 && shape.shards == 7 && shape.replicas == 2);
    close(lock);
    shape = (struct dev_shape){.nodes = 3};
    cr_assert(eq(int, open_with(&shape, &existed, &lock), OTR_EXISTS));
}

Test(dev_files, two_do_not_share_a_directory)
{
    struct dev_shape shape = {0};
    struct dev_shape other = {0};
    bool existed;
    int lock, second;

    cr_assert(zero(int, open_with(&shape, &existed, &lock)));
    cr_assert(eq(int, open_with(&other, &existed, &second), OTR_INUSE));
    close(lock);
    cr_assert(zero(int, open_with(&other, &existed, &second)));
    close(second);
}

Test(dev_files, more_replicas_than_nodes_are_refused)
{
    struct dev_shape shape = {.nodes = 2, .replicas = 3};
    bool existed;
    int lock;

    cr_assert(eq(int, open_with(&shape, &existed, &lock), OTR_INVALID));
}

Test(dev_files, damaged_settings_are_refused)
{
    char name[128];
    struct dev_shape shape = {0};
    bool existed;
    int lock;

    snprintf(name, sizeof name, "%s/cluster.json", directory);
    cr_assert(zero(int, dev_files_write(name, "{\"nodes\":3", NULL)));
    cr_assert(eq(int, open_with(&shape, &existed, &lock), OTR_CORRUPT));
}

/* Whoever waits for dev.json must not read that of the last run. */
Test(dev_files, an_old_dev_json_is_removed)
{
    char name[128];
    struct dev_shape shape = {0};
    bool existed;
    int lock;

    snprintf(name, sizeof name, "%s/dev.json", directory);
    cr_assert(zero(int, dev_files_write(name, "{}", NULL)));
    cr_assert(zero(int, access(name, F_OK)));
    cr_assert(zero(int, open_with(&shape, &existed, &lock)));
    cr_assert(ne(int, access(name, F_OK), 0));
    close(lock);
}

Test(dev_files, a_port_in_use_is_passed_over)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
    socklen_t bytes = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    uint16_t used, other;

    cr_assert(zero(int, bind(fd, (struct sockaddr *)&address, sizeof address)));
    cr_assert(zero(int, listen(fd, 1)));
    cr_assert(zero(int, getsockname(fd, (struct sockaddr *)&address, &bytes)));
    used = ntohs(address.sin_port);
    cr_assert(not(dev_files_port_free(used)));
    other = dev_files_port(used, NULL, 0);
    cr_assert(other != used && other != 0);
    cr_assert(dev_files_port_free(other));
    cr_assert(ne(int, dev_files_port(other, &other, 1), other));
    close(fd);
    cr_assert(dev_files_port_free(used));
}
