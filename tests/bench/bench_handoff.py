"""How long writing to any shard pauses when its primary changes on purpose.

Three nodes, three replicas of each of four shards. 16 clients write points of 256 dimensions, each to one shard only,
four to a shard. 20 times `outrigger cluster failover` moves one shard's primary; then 20 times the sidecar of one node
after the other gets SIGTERM and is started again. The pause of a shard is the longest time between two acknowledged
writes around the change, that of the change is the longest of all shards. Beside it: how long such gaps are in a second
in which nothing changes, on this machine under this load, and what the primary itself says."""
import datetime
import json
import os
import re
import signal
import statistics
import sys
import time

from bench import Background, BenchCluster, machine, table, DIMENSION

from harness import run, wait_until
from timeline import Timeline, clock_us

CHANGES = int(os.environ.get("CHANGES", "20"))
CLIENTS, STEADY_S, AROUND_S = int(os.environ.get("CLIENTS", "16")), 1, 0.5


def steady_ms(timeline, shards):
    """The longest gap of any shard in a second of nothing."""
    began = clock_us()
    time.sleep(STEADY_S)
    wait_until(lambda: timeline.all_wrote(shards, began + STEADY_S * 900000), 60, "writes on all shards", 0.02)
    return max(timeline.pause_ms(began, clock_us()).values())


PHASES = [("catching up: the others store what was written", None, None),
          ("the return reaches the successor", "follower", "candidate"),
          ("the coordinator's transaction", "candidate", "takeover"),
          ("the new epoch's first entry is stored by all, and one read", "takeover", "primary")]
WORDS = {"follower": "handed over$", "candidate": "the primary handed over: stands", "takeover": "elected",
         "primary": "the epoch-start entry is committed"}


def phases_ms(cluster, shard, epoch, told_ms):
    """Where the pause went, from what the sidecars logged, whose clock is in milliseconds."""
    at = {}
    for path in cluster.logs():
        with open(path, encoding="utf-8", errors="replace") as log:
            for line in log:
                found = re.match(rf"(\S+)Z \w+ +shard={shard} role=(\w+) epoch=(\d+): (.*)", line)
                if found and found[2] in WORDS and re.match(WORDS[found[2]], found[4]) and \
                        int(found[3]) == (epoch if found[2] in ("takeover", "primary") else epoch - 1):
                    at[found[2]] = datetime.datetime.fromisoformat(found[1]).timestamp() * 1000
    if told_ms is None or any(role not in at for role in WORDS):
        return None
    rest = [at[to] - at[since] for _, since, to in PHASES[1:]]
    return [max(0.0, told_ms - sum(rest))] + rest


def by_command(cluster, timeline, number):
    status = cluster.wait_in_sync()
    shard = number % cluster.shards
    steady = steady_ms(timeline, cluster.shards)
    began = clock_us()
    done = run("cluster", "failover", "--shard", str(shard), "--json", "--sidecar",
               cluster.url(cluster.node_ids[number % len(cluster.node_ids)]))
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    time.sleep(AROUND_S)
    wait_until(lambda: timeline.all_wrote(cluster.shards, began + AROUND_S * 500000), 60, "writes on all shards", 0.02)
    pauses = timeline.pause_ms(began, began + int(AROUND_S * 1e6))
    return {"what": f"shard {shard} from {status.primary(shard)} to {value['to']}", "pause": max(pauses.values()),
            "own": pauses[shard], "told": value["pause_ms"], "steady": steady,
            "phases": phases_ms(cluster, shard, value["epoch"], value["pause_ms"])}


def by_sigterm(cluster, timeline, number):
    node = cluster.node_ids[number % len(cluster.node_ids)]
    led = len(cluster.wait_in_sync().led_by(node))
    steady = steady_ms(timeline, cluster.shards)
    process = cluster.processes[node, "sidecar"]
    began = clock_us()
    process.signal(signal.SIGTERM)
    process.ended()
    ended = clock_us()
    time.sleep(AROUND_S)
    wait_until(lambda: timeline.all_wrote(cluster.shards, ended + AROUND_S * 500000), 60, "writes on all shards", 0.02)
    pauses = timeline.pause_ms(began, ended + int(AROUND_S * 1e6))
    cluster.restart(node, "sidecar")
    return {"what": f"{node}, primary of {led} shards", "pause": max(pauses.values()), "stop": (ended - began) / 1000,
            "steady": steady, "led": led}


def measure():
    with BenchCluster() as cluster:
        cluster.client().create_collection("handoff", DIMENSION)
        path = os.path.join(cluster.directory, "timeline")
        load = Background(cluster.load_command("handoff", clients=CLIENTS, seconds=36000, shards=cluster.shards,
                                               timeline=path))
        wait_until(lambda: os.path.exists(path), 10, "the load generator")
        timeline, results = Timeline(path), ([], [])
        wait_until(lambda: timeline.all_wrote(cluster.shards, 0), 60, "writes on all shards")
        for step, kept in zip((by_command, by_sigterm), results):
            for number in range(CHANGES):
                assert load.runs, "the load generator ended"
                result = step(cluster, timeline, number)
                kept.append(result)
                words = ", ".join(f"{name} {value:.1f} ms" for name, value in result.items()
                                  if name in ("pause", "own", "told", "stop", "steady") and value is not None)
                print(f"{step.__name__} {number + 1}: {result['what']}: {words}", file=sys.stderr, flush=True)
        load.process.send_signal(signal.SIGTERM)
        load.wait()
    return results


def spread(values):
    values = [value for value in values if value is not None]
    return [f"{statistics.median(values):.1f}", f"{max(values):.1f}"] if values else ["-", "-"]


def main():
    print(f"# handoff; {machine()}")
    command, sigterm = measure()
    rows = [["handoffs", "count", "pause of any shard: median ms", "max ms", "gaps without one: median ms", "max ms"]]
    for what, chosen in (("by command", command), ("by SIGTERM", sigterm)):
        rows.append([what, len(chosen), *spread([r["pause"] for r in chosen]), *spread([r["steady"] for r in chosen])])
    table(rows)
    print("by command, the shard itself: median %s, max %s ms; as the primary told: median %s, max %s ms" %
          tuple(spread([r["own"] for r in command]) + spread([r["told"] for r in command])))
    known = [r["phases"] for r in command if r["phases"] is not None]
    for i, (what, _, _) in enumerate(PHASES):
        print("  %s: median %s, max %s ms" % (what, *spread([phases[i] for phases in known])))
    print("a sidecar's whole stop: median %s, max %s ms\n" % tuple(spread([r["stop"] for r in sigterm])))


if __name__ == "__main__":
    main()
