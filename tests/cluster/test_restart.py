"""Everything killed and started again; a node whose disk was emptied; an engine whose disk was emptied."""
import json
import os
import shutil
import unittest
import urllib.request

from harness import ClusterTest, clock_s, option, wait_until
from ledger import Load, Oracle

STATIC, LIVE = "static", "live"
CONSISTENCIES = ("linearizable", "bounded", "eventual")


class TestRestart(ClusterTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.oracle = Oracle(500)
        client = cls.cluster.client()
        cls.oracle.load(client, STATIC)
        client.create_collection(LIVE, 8)

    def load_a_while(self):
        with Load(self.cluster.clients(), LIVE) as load:
            began = clock_s()
            wait_until(lambda: load.goes_on(self.cluster.shards, began, each=30), 60, "some writes on every shard")
        self.assert_none(load.check())
        return load

    def everything_is_there(self, load):
        for node in self.cluster.node_ids:  # At once: whoever answers must know all that was acknowledged.
            self.assert_none(load.read_back(self.cluster.client(node, alone=True), f"{node} at once"))
        self.cluster.wait_level()
        for node in self.cluster.node_ids:
            client = self.cluster.client(node, alone=True)
            for consistency in CONSISTENCIES:
                self.assert_none(load.read_back(client, f"{node} {consistency}", consistency))
                self.assert_none(self.oracle.ask_all(client, STATIC, consistency))
            self.assertEqual(client.collection(STATIC)["points"], len(self.oracle.points))

    def engine_counts(self, node):
        """{collection: points} as the node's engine itself says."""
        url = option(self.cluster.processes[node, "sidecar"].command, "engine-url")

        def ask(path):
            with urllib.request.urlopen(url + path, timeout=10) as answer:
                return json.load(answer)

        return {name: ask(f"/collections/{name}")["count"] for name in ask("/collections")["collections"]}

    def engine_holds(self, node):
        """Points of the static collection in the node's engine; -1 while it does not answer."""
        try:
            counts = self.engine_counts(node)
        except OSError:
            return -1
        return sum(count for name, count in counts.items() if name.startswith(STATIC + "__"))

    def test_all_killed_at_once(self):
        load = Load(self.cluster.clients(), LIVE).start()
        began = clock_s()
        wait_until(lambda: load.goes_on(self.cluster.shards, began, each=30), 60, "some writes on every shard")
        # The writers' last writes find nobody: what becomes of them is unknown.
        for client in load.clients:
            client.deadline_s = 1
        self.cluster.kill_everything()
        load.stop()
        self.cluster.start()
        self.cluster.wait_in_sync()
        self.everything_is_there(load)
        self.load_a_while()

    def test_stopped_in_order(self):
        load = self.load_a_while()
        self.assert_none(self.cluster.stop())
        self.cluster.start()
        self.cluster.wait_in_sync()
        self.everything_is_there(load)

    def test_node_with_an_emptied_disk(self):
        cluster = self.cluster
        load = self.load_a_while()
        node = cluster.pick_primary()
        cluster.wait_in_sync()
        before = cluster.log_ids()
        cluster.kill(node, "sidecar", "engine")
        shutil.rmtree(cluster.data_dir(node, "sidecar"))
        cluster.restart(node, "engine", "sidecar")
        cluster.wait_in_sync()
        after = cluster.log_ids()
        for shard, member in before:
            same = self.assertNotEqual if member == node else self.assertEqual
            same(before[shard, member], after[shard, member], f"log of shard {shard} on {member}")
        # Eventual reads are answered out of the node's own replica.
        cluster.wait_level()
        client = cluster.client(node, alone=True)
        self.assert_none(load.read_back(client, node, "eventual"))
        self.everything_is_there(load)
        self.load_a_while()

    def test_engine_with_an_emptied_disk(self):
        cluster = self.cluster
        cluster.wait_in_sync()
        node = cluster.node_ids[1]
        wait_until(lambda: self.engine_holds(node) == len(self.oracle.points), 30, "the engine to hold all points")
        cluster.kill(node, "engine")
        data = cluster.data_dir(node, "engine")
        shutil.rmtree(data)
        os.mkdir(data)
        cluster.restart(node, "engine")
        wait_until(lambda: cluster.ready(node), 30, f"{node} to be ready")
        client = cluster.client(node, alone=True)
        for consistency in CONSISTENCIES:
            self.assert_none(self.oracle.ask_all(client, STATIC, consistency))
        wait_until(lambda: self.engine_holds(node) == len(self.oracle.points), 60, "the engine to hold all points again")
        self.assert_none(self.oracle.ask_all(client, STATIC, "eventual"))


if __name__ == "__main__":
    unittest.main()
