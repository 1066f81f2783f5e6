"""A cluster on Consul: data goes in and out, a primary that is killed is replaced under load, an outage of the coordinator
goes unnoticed, and others find the nodes in the catalog."""
import json
import unittest
import urllib.request

from harness import ClusterTest, Consul, clock_s, needs, run, wait_until
from ledger import Asker, Load, Oracle

STATIC, LIVE = "static", "live"
GO_ON_S = 30  # Far above what it takes; how long it really takes is measured in tests/bench.
OUTAGE_S = 12  # Longer than sessions, leases and grants.


@needs(Consul)
class TestConsul(ClusterTest):
    kind = Consul

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.oracle = Oracle(200)
        client = cls.cluster.client()
        cls.oracle.load(client, STATIC)
        client.create_collection(LIVE, 8)

    def ask(self, path):
        url = self.cluster.coordinator.url + path
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)

    def catalog(self):
        """Nodes with an entry all of whose checks pass. That of a process that was killed stays for a minute, and is ill."""
        return {entry["Service"]["Meta"]["node"] for entry in self.ask("/v1/health/service/outrigger?passing&consistent")}

    def test_commands(self):
        cluster = self.cluster
        status = run("cluster", "status", *cluster.coordinator.arguments)
        self.assertEqual(status.returncode, 0, status.stderr)
        for node in cluster.node_ids:
            self.assertIn(node, status.stdout)

    def test_killed_primary(self):
        cluster = self.cluster
        before = cluster.wait_in_sync()
        wait_until(lambda: self.catalog() == set(cluster.node_ids), GO_ON_S, "all nodes in the catalog")
        victim = cluster.pick_primary()
        clients = cluster.clients()
        with Load(clients, LIVE) as load, Asker(clients, STATIC, self.oracle) as asker:
            began = clock_s()
            wait_until(lambda: load.goes_on(cluster.shards, began) and asker.goes_on(began), GO_ON_S, "load on all shards")
            cluster.kill(victim, "sidecar")
            gone = clock_s()
            wait_until(lambda: load.goes_on(cluster.shards, gone) and asker.goes_on(gone), GO_ON_S, "load after a failover")
            wait_until(lambda: victim not in self.catalog(), GO_ON_S, f"{victim} to leave the catalog")
            cluster.restart(victim, "sidecar")
            after = cluster.wait_in_sync()
            wait_until(lambda: victim in self.catalog(), GO_ON_S, f"{victim} to be back in the catalog")
        self.assert_none(load.check() + asker.wrong)
        self.assertEqual(load.refusals(), 0, "clients saw a 503 or 429")
        for shard in before.led_by(victim):
            self.assertGreater(after.shards[shard]["epoch"], before.shards[shard]["epoch"])
        for node in cluster.node_ids:
            self.assert_none(load.read_back(cluster.client(node, alone=True), node))

    def outage(self, away, back):
        cluster = self.cluster
        before = cluster.wait_in_sync()
        clients = cluster.clients()
        with Load(clients, LIVE) as load, Asker(clients, STATIC, self.oracle) as asker:
            began = clock_s()
            wait_until(lambda: load.goes_on(cluster.shards, began), GO_ON_S, "load on all shards")
            away()
            gone = clock_s()
            # Not a wait for something, but how long the outage is to last.
            while clock_s() < gone + OUTAGE_S:
                since = clock_s()
                wait_until(lambda: load.goes_on(cluster.shards, since, each=1) and asker.goes_on(since, 1), 10,
                           f"reads and writes on every shard, {since - gone:.1f} s into the outage")
            back()
            returned = clock_s()
            wait_until(lambda: load.goes_on(cluster.shards, returned) and asker.goes_on(returned), GO_ON_S,
                       "reads and writes after the outage")
            after = cluster.wait_in_sync()
        self.assert_none(load.check() + asker.wrong)
        self.assertEqual(load.refusals(), 0, "clients saw a 503 or 429")
        # Sessions may have ended with the agent that kept their checks; their owners take the leases again as they were.
        for shard in before.shards:
            self.assertEqual(before.primary(shard), after.primary(shard), f"shard {shard} changed its primary for nothing")
            self.assertEqual(before.shards[shard]["epoch"], after.shards[shard]["epoch"], f"epoch of shard {shard}")

    def test_outage_frozen(self):
        self.outage(self.cluster.coordinator.pause, self.cluster.coordinator.resume)

    def test_outage_killed(self):
        self.outage(self.cluster.coordinator.kill, self.cluster.coordinator.restart)


if __name__ == "__main__":
    unittest.main()
