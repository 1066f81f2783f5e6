"""The coordinator away for 30 s: reads and writes go on, and afterwards changes go on too."""
import unittest

from harness import ClusterTest, clock_s, wait_until
from ledger import Asker, Load, Oracle

STATIC, LIVE = "static", "live"
OUTAGE_S = 30


class TestCoordinator(ClusterTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.oracle = Oracle(200)
        client = cls.cluster.client()
        cls.oracle.load(client, STATIC)
        client.create_collection(LIVE, 8)

    def outage(self, away, back):
        cluster = self.cluster
        before = cluster.wait_in_sync()
        clients = cluster.clients()
        with Load(clients, LIVE) as load, Asker(clients, STATIC, self.oracle) as asker:
            began = clock_s()
            wait_until(lambda: load.goes_on(cluster.shards, began), 30, "load on all shards")
            away()
            gone = clock_s()
            # Not a wait for something, but how long the outage is to last: longer than sessions, leases and grants.
            while clock_s() < gone + OUTAGE_S:
                since = clock_s()
                wait_until(lambda: load.goes_on(cluster.shards, since, each=1) and asker.goes_on(since, 1), 10,
                           f"reads and writes on every shard, {since - gone:.1f} s into the outage")
            back()
            returned = clock_s()
            wait_until(lambda: load.goes_on(cluster.shards, returned) and asker.goes_on(returned), 30,
                       "reads and writes after the outage")
        self.assert_none(load.check() + asker.wrong)
        self.assertEqual(load.refusals(), 0, "clients saw a 503 or 429")
        after = cluster.wait_in_sync()
        for shard in before.shards:
            self.assertEqual(before.primary(shard), after.primary(shard), f"shard {shard} changed its primary for nothing")
            self.assertEqual(before.shards[shard]["epoch"], after.shards[shard]["epoch"], f"epoch of shard {shard}")
        for node in cluster.node_ids:
            self.assert_none(load.read_back(cluster.client(node, alone=True), node))

    def changes_go_on(self, collection):
        """What needs the coordinator works again: a new collection, an election."""
        cluster = self.cluster
        cluster.client().create_collection(collection, 8)
        victim = cluster.pick_primary()
        clients = cluster.clients()
        with Load(clients, collection) as load:
            cluster.kill(victim, "sidecar")
            gone = clock_s()
            wait_until(lambda: load.goes_on(cluster.shards, gone), 30, "reads and writes after a failover")
            cluster.restart(victim, "sidecar")
            cluster.wait_in_sync()
        self.assert_none(load.check())

    def test_stopped(self):
        self.outage(self.cluster.coordinator.pause, self.cluster.coordinator.resume)
        self.changes_go_on("after-stop")

    def test_killed(self):
        self.outage(self.cluster.coordinator.kill, self.cluster.coordinator.restart)
        self.changes_go_on("after-kill")


if __name__ == "__main__":
    unittest.main()
