"""SIGKILL under load over all shards: nothing acknowledged is lost, reads and writes go on, and who comes back catches
up from its own log."""
import concurrent.futures
import unittest

from harness import ClusterTest, clock_s, wait_until
from ledger import Asker, Load, Oracle

STATIC, LIVE = "static", "live"
GO_ON_S = 30  # Far above what a failover takes; how long it really takes is measured in tests/bench.


class TestKills(ClusterTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.oracle = Oracle(300)
        client = cls.cluster.client()
        cls.oracle.load(client, STATIC)
        client.create_collection(LIVE, 8)

    def lose(self, node, *whats):
        """Kills these processes of the node in the middle of everything, and starts them again."""
        cluster = self.cluster
        before = cluster.wait_in_sync()
        logs = cluster.log_ids()
        clients = cluster.clients()
        with Load(clients, LIVE) as load, Asker(clients, STATIC, self.oracle) as asker:
            began = clock_s()
            wait_until(lambda: load.goes_on(cluster.shards, began) and asker.goes_on(began), GO_ON_S, "load on all shards")
            cluster.kill(node, *whats)
            gone = clock_s()
            self.goes_on(load, asker, gone, f"reads and writes without {whats} of {node}")
            cluster.restart(node, *whats)
            for client in clients:
                client.return_to_first()
            after = cluster.wait_in_sync()
            self.goes_on(load, asker, clock_s(), f"reads and writes after {node} came back")
        self.assert_none(load.check() + asker.wrong)
        self.assertEqual(load.refusals(), 0, "clients saw a 503 or 429")
        self.assertEqual(set(load.acknowledged()), set(range(cluster.shards)), "shards written to")
        for where in cluster.node_ids:
            self.assert_none(load.read_back(cluster.client(where, alone=True), where))
        self.assertEqual(cluster.log_ids(), logs, "some log was seeded anew where the missing entries were enough")
        return before, after

    def goes_on(self, load, asker, since, what):
        try:
            wait_until(lambda: load.goes_on(self.cluster.shards, since) and asker.goes_on(since), GO_ON_S, what)
        except TimeoutError as error:
            self.fail(f"{error}: acknowledged since: {dict(load.acknowledged(since))}, {load.failed[:3]}")

    def test_sidecar_of_a_primary(self):
        node = self.cluster.pick_primary()
        before, after = self.lose(node, "sidecar")
        for shard in before.led_by(node):
            self.assertGreater(after.shards[shard]["epoch"], before.shards[shard]["epoch"])

    def test_engine_of_a_primary(self):
        self.lose(self.cluster.pick_primary(), "engine")

    def test_sidecar_of_a_replica(self):
        # The node that leads least; with all primaries spread evenly there may be none that leads nothing.
        status = self.cluster.status()
        self.lose(min(self.cluster.node_ids, key=lambda node: len(status.led_by(node))), "sidecar")

    def test_sidecar_and_engine_together(self):
        self.lose(self.cluster.pick_primary(), "sidecar", "engine")

    def test_a_primary_that_stood_still(self):
        """Stopped and continued: meanwhile others lead its shards. What it is asked while it sleeps it must not answer
        out of its old memory (PROTOCOL G2), and what was written meanwhile must reach it."""
        cluster = self.cluster
        before = cluster.wait_in_sync()
        node = cluster.pick_primary()
        others = [cluster.client(n, attempt_s=3) for n in cluster.node_ids if n != node]
        sleeper = cluster.client(node, alone=True, deadline_s=60, attempt_s=60)
        with Load(others, LIVE, keys=10, rate=40) as load:
            began = clock_s()
            wait_until(lambda: load.goes_on(cluster.shards, began), GO_ON_S, "load on all shards")
            cluster.pause(node, "sidecar")
            stopped = clock_s()
            wait_until(lambda: load.goes_on(cluster.shards, stopped, each=20), GO_ON_S, f"reads and writes without {node}")
            # The kernel takes these connections for it; it finds them when it wakes.
            with concurrent.futures.ThreadPoolExecutor(40) as pool:
                keys = [write.key for write in load.last_writes()]
                asked = [pool.submit(load.read, sleeper, key, f"a reader at {node} asleep") for key in keys[:40]]
                wait_until(lambda: len(asked) == sum(f.running() or f.done() for f in asked), 10, "readers to ask")
                since = clock_s()
                wait_until(lambda: load.goes_on(cluster.shards, since), GO_ON_S, "writes on all shards")
                cluster.resume(node, "sidecar")
                for future in asked:
                    future.result()
            since = clock_s()
            wait_until(lambda: load.goes_on(cluster.shards, since), GO_ON_S, f"reads and writes with {node} again")
            after = cluster.wait_in_sync()
        self.assert_none(load.check())
        for shard in before.led_by(node):
            self.assertGreater(after.shards[shard]["epoch"], before.shards[shard]["epoch"])
        for where in cluster.node_ids:
            self.assert_none(load.read_back(cluster.client(where, alone=True), where))


if __name__ == "__main__":
    unittest.main()
