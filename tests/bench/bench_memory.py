"""Memory of a sidecar: what each further point takes, and what it takes anyhow. Loads points of 256 dimensions into one
node with one replica and looks at its resident memory before, when the journal's fixed window of recent entries is full
(after FILL points), and after POINTS more (in the environment: 200,000)."""
import os
import time

from bench import BenchCluster, machine, table

FILL, POINTS, SINGLES = 100000, int(os.environ.get("POINTS", "200000")), 50000


def resident(pid):
    """Bytes of anonymous memory: without the program's text and without cached files."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))


def settled(cluster, pid):
    """Once the engine is level and the journal's memory was given back."""
    cluster.wait_level(600)
    last = 0
    while abs(resident(pid) - last) > 1 << 20:
        last = resident(pid)
        time.sleep(2)
    return last


def directory_bytes(path):
    return sum(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(path) for f in files)


def measure(points, batch):
    with BenchCluster(nodes=1, arguments=("--replicas", "1")) as cluster:
        node = cluster.node_ids[0]
        pid = cluster.processes[node, "sidecar"].pid
        client = cluster.client()
        for name in ("fill", "memory"):
            client.create_collection(name, 256)
        cluster.load("fill", clients=8, batch=100, total=FILL)
        full = settled(cluster, pid)
        disk = directory_bytes(cluster.data_dir(node, "sidecar"))
        result = cluster.load("memory", clients=8, batch=batch, total=points)
        loaded = settled(cluster, pid)
        disk = directory_bytes(cluster.data_dir(node, "sidecar")) - disk
        count = client.collection("memory")["points"]
        assert count == points, f"{count} points instead of {points}"
        cluster.kill(node, "sidecar")
        began = time.monotonic()
        cluster.restart(node, "sidecar")
        cluster.wait_ready()
        ready_s = time.monotonic() - began
        fresh = settled(cluster, cluster.processes[node, "sidecar"].pid)
    return [points, batch, f"{result['points_per_s']:.0f}", f"{full / 1e6:.0f}", f"{(loaded - full) / points:.0f}",
            f"{fresh / 1e6:.0f}", f"{disk / points:.0f}", f"{ready_s:.1f}"]


def main():
    print(f"# memory; {machine()}")
    rows = [["further points", "per put", "loaded/s", f"MB with {FILL}", "bytes per further point (MB per million)",
             "MB after a restart", "journal bytes/point", "restart s"]]
    rows.append(measure(POINTS, 100))
    rows.append(measure(SINGLES, 1))
    table(rows)
    print("each put is a retained entry: points written one by one cost more\n")


if __name__ == "__main__":
    main()
