"""Durable, replicated writes, gets and searches: how many a second and how long each takes, at 1, 16 and 64 clients.

Three nodes, three replicas of each of four shards, all on this machine, 256-dimensional vectors. Every client has one
connection; they are spread over the three sidecars. A write is answered when it is on three disks and in the primary's
engine."""
from bench import BenchCluster, machine, table

CLIENTS, BATCHES, SECONDS, POINTS = (1, 16, 64), (1, 100), 6, 10000


def row(what, clients, result):
    return [what, clients, f"{result['calls_per_s']:.0f}", f"{result['points_per_s']:.0f}", f"{result['p50_ms']:.2f}",
            f"{result['p99_ms']:.2f}", f"{result['max_ms']:.1f}", result["refused"] + result["broken"]]


def main():
    print(f"# writes and reads; {machine()}")
    rows = [["what", "clients", "calls/s", "points/s", "p50 ms", "p99 ms", "max ms", "retries"]]
    with BenchCluster() as cluster:
        client = cluster.client()
        for batch in BATCHES:
            for clients in CLIENTS:
                name = f"w-{batch}-{clients}"
                client.create_collection(name, 256)
                result = cluster.load(name, clients=clients, batch=batch, seconds=SECONDS, keys=20000 // clients)
                rows.append(row(f"put of {batch}", clients, result))
                client.delete_collection(name)
                cluster.wait_level(120)
        client.create_collection("reads", 256)
        cluster.load("reads", clients=8, batch=100, total=POINTS)
        cluster.wait_level(120)
        for clients in CLIENTS:
            # Keys of the clients of `get` are those that `put` with as many clients wrote.
            cluster.load("reads", clients=clients, batch=50, seconds=1, keys=50)
            rows.append(row("get", clients, cluster.load("reads", op="get", clients=clients, seconds=SECONDS, keys=50)))
        for clients in CLIENTS:
            result = cluster.load("reads", op="search", clients=clients, seconds=SECONDS)
            rows.append(row("search k=10", clients, result))
        points = client.collection("reads")["points"]
    table(rows)
    print(f"searches are over {points} points, exact (a flat index), consistency=bounded; gets are linearizable\n")


if __name__ == "__main__":
    main()
