"""Compression between sidecars in a real cluster: switched under load, for those who understand it, while it pays."""
import http.client
import json
import random
import struct
import threading
import unittest
import urllib.request

from harness import ClusterTest, option, run, wait_until
from slow_link import SlowLink
from test_metrics import Metrics

NAME = "wide"
DIMENSION = 256
BATCH, METADATA = 40, {"text": "what describes a point is much like what describes another"}
GO_ON_S = 60


def points_of(prefix, number):
    """Numbers of few bits: they shrink, and are the same in every floating point format."""
    draw = random.Random(f"{prefix}{number}")
    return [{"id": f"{prefix}.{number % 20}.{i}", "vector": [draw.randrange(-64, 65) / 64 for _ in range(DIMENSION)],
             "metadata": {**METADATA, "number": number}} for i in range(BATCH)]


class Writers:
    """Threads that write batches, over and over. `failed` says what went wrong; `last` has what was acknowledged."""

    def __init__(self, clients, threads=4):
        self.failed, self.acknowledged, self.last = [], 0, {}
        self.clients = clients
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(threads)]

    def _run(self, i):
        number = 0
        while not self._stopping.is_set():
            points = points_of(f"w{i}", number)
            try:
                self.clients[i % len(self.clients)].put(NAME, points)
            except Exception as error:  # Whatever it is, the test tells.
                self.failed.append(f"w{i}, batch {number}: {error!r}")
                return
            with self._lock:
                self.acknowledged += len(points)
                self.last.update({p["id"]: p for p in points})
            number += 1

    def go_on(self, batches=8):
        """Waits until so many more batches were acknowledged."""
        wanted = self.acknowledged + batches * BATCH
        wait_until(lambda: self.failed or self.acknowledged >= wanted, GO_ON_S, "writes to go on")

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        for thread in self._threads:
            thread.join()


class Nuisances:
    """Threads that keep a sidecar's processor busy, and no network: writes that are read to their end, then refused."""

    def __init__(self, url, threads=3):
        vector = [random.Random(1).random() for _ in range(DIMENSION)]
        points = [{"id": f"n{i}", "vector": vector} for i in range(200)] + [{"id": "short", "vector": [1]}]
        self.body, self.address, self.statuses = json.dumps({"points": points}).encode(), url.split("//")[1], set()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def _run(self):
        connection = http.client.HTTPConnection(self.address, timeout=60)
        while not self._stopping.is_set():
            connection.request("PUT", f"/collections/{NAME}/points", self.body)
            answer = connection.getresponse()
            answer.read()
            self.statuses.add(answer.status)
        connection.close()

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        for thread in self._threads:
            thread.join()


class CompressionTest(ClusterTest):
    @classmethod
    def start_again_with(cls, settings):
        """`outrigger dev` has started the sidecars; each starts again with settings of its own: {node: arguments}."""
        cluster = cls.cluster
        for node in cluster.node_ids:
            cluster.kill(node, "sidecar")
        for node in cluster.node_ids:
            cluster.processes[node, "sidecar"].command = cluster.processes[node, "sidecar"].command + settings[node]
            cluster.restart(node, "sidecar")
        cluster.wait_ready()
        cluster.wait_in_sync()
        cluster.client().create_collection(NAME, DIMENSION)

    @classmethod
    def prepare(cls):
        raise NotImplementedError

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        try:
            cls.prepare()
        except BaseException:
            cls.cluster.stop()
            cls.cluster.print_logs()
            raise

    def read(self, node):
        with urllib.request.urlopen(self.cluster.url(node) + "/metrics", timeout=10) as answer:
            return Metrics(answer.read().decode())

    def value(self, node, name, **labels):
        return self.read(node).sum(name, **labels)

    def enable(self, algorithm, *arguments):
        return run("cluster", "enable-compression", "--algorithm", algorithm, *self.cluster.coordinator.arguments, *arguments)

    def switch(self, algorithm):
        done = self.enable(algorithm)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        for node in self.cluster.node_ids:
            wait_until(lambda: self.value(node, "compression_enabled") == (algorithm != "none"), 10,
                       f"{node} to follow the setting")
        return done.stdout

    def assert_all_hold(self, points):
        """Every replica has the very bytes that were written."""
        self.cluster.wait_in_sync()
        self.cluster.wait_level()
        problems = []
        for node in self.cluster.node_ids:
            client = self.cluster.client(node, alone=True)
            for wanted in points.values():
                found = client.get(NAME, wanted["id"], consistency="eventual")
                if found is None or found["metadata"] != wanted["metadata"] or \
                        struct.pack("<256f", *found["vector"]) != struct.pack("<256f", *wanted["vector"]):
                    problems.append(f"{node}: {wanted['id']} is {found}")
        self.assert_none(problems, 3)


class TestSwitch(CompressionTest):
    """node-1 and node-2 compress whatever they may, node-3 is like a version that knows nothing of it."""

    shards = 4

    @classmethod
    def prepare(cls):
        cluster = cls.cluster
        cls.start_again_with({node: ["--compression", "never" if node == "node-3" else "always"]
                              for node in cluster.node_ids})
        for shard, node in enumerate(cluster.node_ids):  # Each leads some shard.
            if cluster.status().shards[shard]["primary"] != node:
                done = run("cluster", "failover", "--shard", str(shard), "--to-replica", node, "--sidecar",
                           cluster.url(node))
                assert done.returncode == 0, done
        cluster.wait_in_sync()

    def compressed(self):
        return {node: (m.sum("compress_input_bytes_total"), m.sum("compress_output_bytes_total"),
                       m.sum("decompress_output_bytes_total"))
                for node in self.cluster.node_ids for m in [self.read(node)]}

    def test_on_and_off_under_load(self):
        cluster = self.cluster
        clients = cluster.clients()
        self.addCleanup(self.enable, "none")
        with Writers(clients) as writers:
            writers.go_on()
            self.assertEqual(set(self.compressed().values()), {(0, 0, 0)})
            self.assertIn("compression was none, is zstd", self.switch("zstd"))
            for node in ("node-1", "node-2"):
                wait_until(lambda: writers.failed or self.compressed()[node][2] > 1 << 20, GO_ON_S,
                           f"{node} to be sent compressed entries")
            self.assertIn("is zstd already; nothing was changed", self.switch("zstd"))
            self.switch("none")
            # What is under way is let through; then nothing more is compressed.
            writers.go_on()
            ended = self.compressed()
            writers.go_on()
            self.assertEqual(self.compressed(), ended)
        self.assert_none(writers.failed)
        self.assertEqual(sum(client.retries_refused for client in clients), 0)
        for node, other in (("node-1", "node-2"), ("node-2", "node-1")):
            before, after, restored = ended[node]
            metrics = self.read(node)
            self.assertLess(after, before * 0.8)
            self.assertGreater(metrics.sum("peer_compress_ratio", peer=other), 1.2)
            self.assertEqual(metrics.sum("peer_compress_ratio", peer="node-3"), 0)
            self.assertGreater(metrics.sum("compress_cpu_seconds_total"), 0)
            self.assertLessEqual(restored, ended[other][0])
        self.assertEqual(ended["node-3"], (0, 0, 0))
        self.assert_all_hold(writers.last)

    def test_refused_algorithms_change_nothing(self):
        before = self.cluster.keys("config")
        for algorithm in ("lz4", "", "ZSTD", "zstd,none"):
            done = self.enable(algorithm)
            self.assertEqual((done.returncode, done.stdout), (2, ""), done)
            self.assertIn("none of zstd, none", done.stderr)
        done = self.enable("zstd", "--cluster", "nowhere")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("there is no cluster nowhere", done.stderr)
        self.assertEqual(self.cluster.keys("config"), before)
        done = self.enable("none", "--json")
        self.assertEqual(json.loads(done.stdout),
                         {"cluster": "outrigger", "compression": "none", "before": "none", "changed": False})


class TestGate(CompressionTest):
    """Sidecars that decide by themselves, over links of 2 MB/s."""

    shards = 1
    RATE = 2 << 20

    @classmethod
    def prepare(cls):
        cls.links, settings = [], {}
        for i, node in enumerate(cls.cluster.node_ids):
            peer_host, peer_port = option(cls.cluster.processes[node, "sidecar"].command, "peer-listen").split(":")
            host = f"127.0.1.{i + 1}"
            cls.links.append(SlowLink(host, int(peer_port), peer_host, cls.RATE))
            settings[node] = ["--advertise", host]
        cls.start_again_with(settings)

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        for link in cls.links:
            link.close()

    def compressing(self, node):
        return self.value(node, "peer_compressing")

    def test_on_while_the_network_is_the_bound_and_off_while_the_processor_is(self):
        cluster = self.cluster
        primary = cluster.status().shards[0]["primary"]
        with Writers([cluster.client(primary, alone=True)]) as writers:
            writers.go_on()
            self.assertEqual(self.compressing(primary), 0)
            self.switch("zstd")
            wait_until(lambda: self.compressing(primary) == 2, GO_ON_S, "compression for both peers")
            writers.go_on()
            metrics = self.read(primary)
            self.assertLess(metrics.sum("compress_output_bytes_total"), metrics.sum("compress_input_bytes_total") * 0.8)
            busy = metrics.sum("compress_skipped_busy_total")
            with Nuisances(self.cluster.url(primary)) as nuisances:
                wait_until(lambda: self.value(primary, "compress_skipped_busy_total") > busy + 5 and
                           self.compressing(primary) == 0, GO_ON_S, "compression to give way")
                self.assertGreater(self.value(primary, "loop_busy_ratio"), 0.7)
            self.assertEqual(nuisances.statuses, {400})
            wait_until(lambda: self.compressing(primary) == 2, GO_ON_S, "compression to return")
        self.assert_none(writers.failed)
        self.assert_all_hold(writers.last)


if __name__ == "__main__":
    unittest.main()
