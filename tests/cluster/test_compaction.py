"""Compaction of the journal under load: the disk space of points that are overwritten again and again stays bounded, a
SIGKILL in the middle of it loses nothing, and a node that was away for too long is seeded."""
import glob
import os
import random
import re
import unittest
import urllib.request

from harness import ClusterTest, clock_s, wait_until
from ledger import Load

COLD, HOT, LIVE = "cold", "hot", "live"
POINTS, DIMENSION = 100, 256
SEGMENT, RETAIN = 1 << 20, 2 << 20
SETTINGS = {"JOURNAL_SEGMENT": "1", "JOURNAL_RETAIN": "2", "JOURNAL_RETAIN_TIME": "0", "COMPACT_RATE": "0"}
GO_ON_S = 30


class TestCompaction(ClusterTest):
    @classmethod
    def setUpClass(cls):
        for name, value in SETTINGS.items():  # of the sidecars, also when they are started again
            os.environ["OUTRIGGER_" + name] = value
            cls.addClassCleanup(os.environ.pop, "OUTRIGGER_" + name)
        super().setUpClass()
        cls.numbers = random.Random(1)
        cls.written = {}
        client = cls.cluster.client()
        for name, dimension in ((COLD, DIMENSION), (HOT, DIMENSION), (LIVE, 8)):
            client.create_collection(name, dimension)
        cls.overwrite(client, COLD)

    @classmethod
    def overwrite(cls, client, collection):
        points = [{"id": f"p{i}", "vector": [cls.numbers.randrange(1, 1000) for _ in range(DIMENSION)]}
                  for i in range(POINTS)]
        client.put(collection, points)
        cls.written[collection] = {point["id"]: point["vector"] for point in points}

    def metrics(self, node, name):
        """[(labels, value)] of one family."""
        with urllib.request.urlopen(self.cluster.url(node) + "/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return [(labels, float(value)) for labels, value in
                re.findall(rf"^outrigger_{name}(?:{{([^}}]*)}})? (\S+)$", text, re.MULTILINE)]

    def metric(self, node, name):
        return self.metrics(node, name)[0][1]

    def by_shard(self, node, name):
        return {int(re.search(r'shard="(\d+)"', labels).group(1)): value for labels, value in self.metrics(node, name)}

    def log_ids(self):
        """Of all replicas, once etcd shows all of them in sync: what a node says of itself may be older."""
        members = self.cluster.shards * len(self.cluster.node_ids)
        return wait_until(lambda: (lambda logs: logs if len(logs) == members else None)(self.cluster.log_ids()), GO_ON_S,
                          "all replicas in the published in-sync sets", 0.1)

    def is_lost_to(self, node, had):
        """Whether no survivor's log goes back to what the node has."""
        firsts = [self.by_shard(other, "shard_first_index") for other in self.cluster.node_ids if other != node]
        return all(first[shard] > had[shard] + 1 for first in firsts for shard in had)

    def disk_bytes(self, node):
        return sum(os.stat(path).st_size for path in glob.glob(self.cluster.data_dir(node, "sidecar") + "/0*.*"))

    def check_points(self, node):
        client = self.cluster.client(node, alone=True)
        for collection, points in self.written.items():
            for point_id, vector in points.items():
                self.assertEqual(client.get(collection, point_id)["vector"], vector, f"{collection} {point_id} at {node}")

    def settled(self, node, most):
        return self.disk_bytes(node) < most

    def test_overwritten_points_take_bounded_space_and_nothing_is_lost(self):
        cluster = self.cluster
        client = cluster.client()
        written = {node: self.metric(node, "journal_flushed_bytes_total") for node in cluster.node_ids}
        victim = cluster.pick_primary()
        with Load(cluster.clients(), LIVE) as load:
            for round_number in range(1, 151):
                self.overwrite(client, HOT)
                if round_number in (40, 80):  # in the middle of it: files are replaced all the time
                    cluster.kill(victim, "sidecar")
                    gone = clock_s()
                    wait_until(lambda: load.goes_on(cluster.shards, gone), GO_ON_S, "writes without the victim")
                    cluster.restart(victim, "sidecar")
                    cluster.wait_in_sync()
        self.assert_none(load.check())
        for node in cluster.node_ids:
            if node != victim:
                self.assertGreater(self.metric(node, "journal_flushed_bytes_total") - written[node], 12 << 20)
            self.assertGreater(self.metric(node, "journal_compacted_segments_total"), 0, node)
            self.assertEqual(self.metric(node, "journal_compaction_failures_total"), 0, node)
            # The log that is retained, a segment being filled, one that leaves, and all that is live.
            wait_until(lambda at=node: self.settled(at, RETAIN + 4 * SEGMENT), GO_ON_S,
                       f"the journal of {node} to be small, it has {self.disk_bytes(node)} bytes")
        for node in cluster.node_ids:
            self.check_points(node)
            self.assert_none(load.read_back(cluster.client(node, alone=True), node))
        logs = self.log_ids()
        for node in cluster.node_ids:  # and once more from what is on disk
            cluster.kill(node, "sidecar")
        for node in cluster.node_ids:
            cluster.restart(node, "sidecar")
        cluster.wait_in_sync()
        for node in cluster.node_ids:
            self.check_points(node)
            self.assert_none(load.read_back(cluster.client(node, alone=True), node))
        self.assertEqual(self.log_ids(), logs, "some log was seeded anew, though nobody lagged")

    def test_who_was_away_for_long_is_seeded_and_who_was_not_is_not(self):
        cluster = self.cluster
        client = cluster.client()
        cluster.wait_in_sync()
        node = cluster.pick_primary()
        logs = self.log_ids()
        cluster.kill(node, "sidecar")
        self.overwrite(client, HOT)
        cluster.restart(node, "sidecar")
        cluster.wait_in_sync()
        self.assertEqual(self.log_ids(), logs)
        had = self.by_shard(node, "shard_last_index")
        self.assertEqual(len(had), cluster.shards)
        cluster.kill(node, "sidecar")
        for _ in range(60):  # far more than is retained
            self.overwrite(client, HOT)
        # Entries leave the log a little later: once they are durable and stored everywhere, and compaction has looked.
        wait_until(lambda: self.is_lost_to(node, had), GO_ON_S, "the others' logs to begin behind what the node has", 0.2)
        cluster.restart(node, "sidecar")
        cluster.wait_in_sync()
        new = self.log_ids()
        for (shard, member), log in logs.items():
            self.assertEqual(new[shard, member] == log, member != node, f"the log of shard {shard} at {member}")
        self.check_points(node)


if __name__ == "__main__":
    unittest.main()
