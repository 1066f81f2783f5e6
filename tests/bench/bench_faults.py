"""How long writing pauses, by kind of fault.

Three nodes, three replicas of each of four shards, a coordinator of three members; each of them and the clients in a network
namespace of its own (needs root). Sixteen clients write and read points one at a time, each answered before the next. Every kind
of fault comes 10 times in one cluster (COUNT), hits the node that leads most, and lasts until every shard goes on, 2 seconds at
least; then it is taken back, and the next one waits until everything is in sync. The pause of a shard is the longest time between
two acknowledged writes that touches the fault; that of the fault is the longest of its shards. The first row is time in which
nothing happens: what clients, machine and disk do by themselves. KINDS names some of them alone, by words in their names.

What clients wait for is included: one whose sidecar is silent asks another after 2 seconds. All histories are checked for
linearizability, and every key is read back at the end."""
import collections
import os
import signal
import statistics
import sys
import time
import typing

from bench import machine, table

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cluster-faults"))
from net_cluster import NetCluster, clock_s, wait_until  # noqa: E402
from workload import Workload  # noqa: E402

CLIENTS = 16
COUNT = int(os.environ.get("COUNT", "10"))
KINDS = os.environ.get("KINDS", "").split(",")
LASTS_S, GO_ON_S = 2, 60


class Fault(typing.NamedTuple):
    """do(cluster, primary) makes it. Whom it killed is started again, what it stopped goes on, cuts are mended."""
    name: str
    do: typing.Callable


class Result(typing.NamedTuple):
    pause_s: float  # while it lasts
    back_s: float  # when it is taken back
    operations: int
    failed: int


def others_and_coordinator(cluster, node):
    return [*cluster.others(node), *cluster.coordinator_names]


def cut(choose, how="cut"):
    def do(cluster, node):
        getattr(cluster.net, how)(cluster.at(node), cluster.at(*choose(cluster, node)))
    return do


def kill(*whats):
    return lambda cluster, node: cluster.kill(node, *whats)


def kill_follower(cluster, node):
    cluster.kill(min(cluster.others(node), key=lambda n: len(cluster.led_by(n, n))), "sidecar", "engine")


def not_heard(cluster, node):
    cluster.net.cut_one_way(cluster.at(node), cluster.at(*cluster.others(node)))


def not_hearing(cluster, node):
    cluster.net.cut_one_way(cluster.at(*cluster.others(node)), cluster.at(node))


def lose(cluster, node):
    cluster.net.lose(cluster.at(node), cluster.at(*others_and_coordinator(cluster, node), "clients"), 0.3)


def stop_in_order(cluster, node):
    process = cluster.processes[node, "sidecar"]
    process.signal(signal.SIGTERM)
    process.ended()


def kill_leader(cluster, _):
    cluster.coordinator.kill(wait_until(cluster.coordinator_leader, GO_ON_S, "a leader of the coordinator"))


def kill_coordinator(cluster, _):
    for name in cluster.coordinator_names:
        cluster.coordinator.kill(name)


FAULTS = [
    Fault("nothing", lambda cluster, node: None),
    Fault("primary: sidecar stops in order (SIGTERM)", stop_in_order),
    Fault("primary: sidecar killed", kill("sidecar")),
    Fault("primary: engine killed", kill("engine")),
    Fault("primary: sidecar and engine killed", kill("sidecar", "engine")),
    Fault("primary: sidecar stopped (SIGSTOP)", lambda cluster, node: cluster.pause(node, "sidecar")),
    Fault("replica: sidecar and engine killed", kill_follower),
    Fault("primary cut off from one replica", cut(lambda cluster, node: cluster.others(node)[:1])),
    Fault("primary cut off from all replicas", cut(lambda cluster, node: cluster.others(node))),
    Fault("primary cut off from the coordinator", cut(lambda cluster, node: cluster.coordinator_names)),
    Fault("primary cut off from clients", cut(lambda cluster, node: ["clients"])),
    Fault("primary cut off from replicas and coordinator", cut(others_and_coordinator)),
    Fault("primary cut off from all, clients too",
          cut(lambda cluster, node: [*others_and_coordinator(cluster, node), "clients"])),
    Fault("one way: replicas do not hear the primary", not_heard),
    Fault("one way: the primary does not hear replicas", not_hearing),
    Fault("primary rejected by replicas (reset)", cut(lambda cluster, node: cluster.others(node), "reset")),
    Fault("primary rejected by replicas and coordinator", cut(others_and_coordinator, "reset")),
    Fault("30 % packet loss around the primary", lose),
    Fault("200 ms delay around one node", lambda cluster, node: cluster.net.delay(cluster.places["node-3"], 200)),
    Fault("frames around one node reordered, 0 to 40 ms",
          lambda cluster, node: cluster.net.delay(cluster.places["node-3"], 0, 40)),
    Fault("coordinator: leader killed", kill_leader),
    Fault("coordinator: all members killed", kill_coordinator),
]


def take_back(cluster):
    cluster.net.mend()
    for node in cluster.node_ids:
        cluster.resume(node, "sidecar")
    for node, what in [key for key, process in cluster.processes.items() if not process.runs]:
        cluster.restart(node, what)
    cluster.wait_coordinators()


def longest_pause_s(load, shards, since, until):
    """Between two acknowledged writes of one shard, of which the later one came after `since`, the earlier one before `until`."""
    ends = collections.defaultdict(list)
    for _, end, shard, _ in list(load.acks):
        ends[shard].append(end)
    longest = 0.0
    for shard in range(shards):
        times = sorted(ends[shard])
        pairs = [(a, b) for a, b in zip(times, times[1:]) if b >= since and a <= until]
        longest = max(longest, *(b - a for a, b in pairs)) if pairs else until - since
    return longest


def strike(cluster, fault):
    """Makes it once, under load, and takes it back: a Result."""
    cluster.wait_in_sync()
    node = cluster.pick_primary()
    load = Workload(cluster, deadline_s=GO_ON_S, threads=CLIENTS, rate=60).start()
    try:
        wait_until(lambda: load.goes_on(load.began, 20), GO_ON_S, "load on all shards")
        struck = clock_s()
        fault.do(cluster, node)
        time.sleep(max(0.0, struck + LASTS_S - clock_s()))  # How long it lasts is part of what is measured.
        lasted = clock_s()
        wait_until(lambda: load.goes_on(lasted, 5), GO_ON_S, f"writes during: {fault.name}")
        taken_back = clock_s()
        take_back(cluster)
        cluster.wait_in_sync(120)
        level = clock_s()
        wait_until(lambda: load.goes_on(level, 5), GO_ON_S, f"writes after: {fault.name}")
    finally:
        load.stop()
    cluster.wait_level()
    problems = [problem for other in cluster.node_ids for problem in load.read_back(other)] + load.check()
    assert not problems, (fault.name, load.seed, problems[:5])
    return Result(longest_pause_s(load, cluster.shards, struck, taken_back),
                  longest_pause_s(load, cluster.shards, taken_back, level), len(load.entries), len(load.failed))


def spread(seconds):
    return [f"{statistics.median(seconds) * 1000:.0f}", f"{max(seconds) * 1000:.0f}"]


def main():
    print(f"# longest write pause by kind of fault; {machine()}")
    cluster = NetCluster(coordinators=3, relayed=("node-3",))
    rows = [["fault", "count", "pause: median ms", "max ms", "when it is over: median ms", "max ms", "failed"]]
    operations = 0
    try:
        cluster.start()
        for fault in FAULTS:
            if not any(word in fault.name for word in KINDS):
                continue
            results = []
            for _ in range(COUNT):
                results.append(strike(cluster, fault))
                cluster.forget()
            operations += sum(r.operations for r in results)
            rows.append([fault.name, len(results), *spread([r.pause_s for r in results]), *spread([r.back_s for r in results]),
                         sum(r.failed for r in results)])
            print("  ".join(map(str, rows[-1])), file=sys.stderr, flush=True)
    finally:
        wrong = cluster.stop()
        cluster.remove()
    table(rows)
    print(f"{operations} operations verified" + "".join(f"; {word}" for word in wrong))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
