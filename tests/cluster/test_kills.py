"""SIGKILL under load over all shards: nothing acknowledged is lost, reads and writes go on, and who comes back catches
up from its own log."""
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


if __name__ == "__main__":
    unittest.main()
