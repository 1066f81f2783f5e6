#include "tests/conformance/world.h"
#include "tests/lib/fake_backend.h"

#include <stdio.h>

static void driver_init(struct world *w)
{
    w->coordinator = fake_coordinator_new(&w->loop);
    fake_set_reach(w->coordinator, FAKE_DOWN);
    snprintf(w->endpoints, sizeof w->endpoints, "%s", fake_coordinator_endpoint(w->coordinator));
}

static void driver_start(struct world *w)
{
    fake_set_reach(w->coordinator, FAKE_REACHABLE);
}

static void driver_kill(struct world *w)
{
    fake_set_reach(w->coordinator, FAKE_DOWN);
}

static void driver_freeze(struct world *w)
{
    fake_set_reach(w->coordinator, FAKE_FROZEN);
}

static void driver_compact(struct world *w)
{
    fake_compact(w->coordinator);
}

static void driver_wipe(struct world *w)
{
    fake_replace(w->coordinator);
}

static void driver_far_open(struct world *w)
{
    w->far = world_open(w, w->endpoints);
}

static void driver_far_link(struct world *w, enum world_link link)
{
    static const enum fake_link links[] = {
        [LINK_WHOLE] = FAKE_LINK_WHOLE,           [LINK_REFUSED] = FAKE_LINK_REFUSED,
        [LINK_SILENT] = FAKE_LINK_SILENT,         [LINK_NO_REQUESTS] = FAKE_LINK_SILENT,
        [LINK_NO_ANSWERS] = FAKE_LINK_NO_ANSWERS,
    };

    fake_set_link(w->far, links[link]);
}

static void driver_close(struct world *w)
{
    fake_coordinator_close(w->coordinator);
}

const struct world_driver world_fake = {
    .ops = &otr_backend_fake,
    .init = driver_init,
    .start = driver_start,
    .kill = driver_kill,
    .freeze = driver_freeze,
    .thaw = driver_start,
    .compact = driver_compact,
    .wipe = driver_wipe,
    .far_open = driver_far_open,
    .far_link = driver_far_link,
    .service = world_service_in_key,
    .no_session = "4711",
    .close = driver_close,
};
