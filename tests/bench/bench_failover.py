"""How long writing to any shard pauses when a node dies, and how fast a node that comes back catches up.

Three nodes, three replicas of each of four shards. 16 clients write points of 256 dimensions, each to one shard only,
four to a shard. Sidecar and engine of one node after the other get SIGKILL, 20 times; they are started again two
seconds later, and the next kill waits until everything is in sync. The pause of a shard is the longest time between two
acknowledged writes around the kill, that of the kill is the longest of its shards."""
import os
import statistics
import sys
import time

from bench import Background, BenchCluster, machine, table, DIMENSION

from harness import wait_until
from timeline import Timeline, clock_us

KILLS = int(os.environ.get("KILLS", "20"))
CLIENTS, DOWN_S, STEADY_S = 16, 2, 1
BEHIND_POINTS = 100000


def kill_once(cluster, timeline, node):
    before = cluster.wait_in_sync()
    time.sleep(STEADY_S)
    killed_us = clock_us()
    cluster.kill(node, "sidecar", "engine")
    time.sleep(DOWN_S)
    wait_until(lambda: timeline.all_wrote(cluster.shards, killed_us + DOWN_S * 500000), 60, "writes on all shards", 0.02)
    again_us = clock_us()
    cluster.restart(node, "engine", "sidecar")
    cluster.wait_in_sync(120)
    in_sync_us = clock_us()
    time.sleep(STEADY_S)
    timeline.read()
    return {"node": node, "led": len(before.led_by(node)), "pause_ms": timeline.pause_ms(killed_us, again_us),
            "back_ms": timeline.pause_ms(again_us, in_sync_us), "in_sync_s": (in_sync_us - again_us) / 1e6}


def failovers():
    with BenchCluster() as cluster:
        cluster.client().create_collection("failover", DIMENSION)
        path = os.path.join(cluster.directory, "timeline")
        load = Background(cluster.load_command("failover", clients=CLIENTS, seconds=36000, shards=cluster.shards,
                                               timeline=path))
        wait_until(lambda: os.path.exists(path), 10, "the load generator")
        timeline, results = Timeline(path), []
        wait_until(lambda: timeline.all_wrote(cluster.shards, 0), 60, "writes on all shards")
        for number in range(KILLS):
            assert load.runs, "the load generator ended"
            node = cluster.node_ids[number % len(cluster.node_ids)]
            if number % 2 == 1:
                node = cluster.pick_primary()
            result = kill_once(cluster, timeline, node)
            results.append(result)
            print(f"kill {number + 1}: {node}, primary of {result['led']} shards: longest pause "
                  f"{max(result['pause_ms'].values()):.0f} ms; back in sync after {result['in_sync_s']:.1f} s, longest "
                  f"pause meanwhile {max(result['back_ms'].values()):.0f} ms", file=sys.stderr, flush=True)
        load.process.kill()
        load.wait()
    return results


def catch_up():
    """A node is away while points are written, then comes back."""
    with BenchCluster() as cluster:
        cluster.client().create_collection("behind", DIMENSION)
        cluster.wait_in_sync()
        node = cluster.node_ids[2]
        cluster.kill(node, "sidecar", "engine")
        cluster.load("behind", clients=8, batch=100, total=BEHIND_POINTS)
        began = time.monotonic()
        cluster.restart(node, "engine", "sidecar")
        cluster.wait_in_sync(300)
        in_sync_s = time.monotonic() - began
        cluster.wait_level(300)
        return in_sync_s, time.monotonic() - began


def main():
    print(f"# failover and catch-up; {machine()}")
    results = failovers()
    rows = [["kills of", "count", "pause: median ms", "max ms", "when it comes back: median ms", "max ms"]]
    for what, chosen in (("any node", results), ("a primary", [r for r in results if r["led"] > 0])):
        pauses = [max(r["pause_ms"].values()) for r in chosen]
        back = [max(r["back_ms"].values()) for r in chosen]
        if chosen:
            rows.append([what, len(chosen), f"{statistics.median(pauses):.0f}", f"{max(pauses):.0f}",
                         f"{statistics.median(back):.0f}", f"{max(back):.0f}"])
    table(rows)
    in_sync_s, level_s = catch_up()
    mb = BEHIND_POINTS * DIMENSION * 4 / 1e6
    print(f"catch-up with {BEHIND_POINTS} points ({mb:.0f} MB of vectors) written meanwhile: in sync {in_sync_s:.2f} s "
          f"after the start ({BEHIND_POINTS / in_sync_s:.0f} points/s, {mb / in_sync_s:.0f} MB/s), the engine level "
          f"after {level_s:.2f} s\n")


if __name__ == "__main__":
    main()
