"""Bits that flip on a node's disk under load: nobody sees an error, nothing is lost, the replicas are copied anew."""
import glob
import os
import re
import unittest
import urllib.request

from harness import ClusterTest, clock_s, wait_until
from ledger import Load

COLD, LIVE = "cold", "live"
POINTS, DIMENSION = 2000, 256
SETTINGS = {"JOURNAL_SEGMENT": "1", "SCRUB_RATE": "64", "SCRUB_EVERY": "0"}


class TestDamage(ClusterTest):
    @classmethod
    def setUpClass(cls):
        for name, value in SETTINGS.items():
            os.environ["OUTRIGGER_" + name] = value
            cls.addClassCleanup(os.environ.pop, "OUTRIGGER_" + name)
        super().setUpClass()
        client = cls.cluster.client()
        client.create_collection(COLD, DIMENSION)
        client.create_collection(LIVE, 8)
        for first in range(0, POINTS, 100):
            client.put(COLD, [{"id": f"p{i}", "vector": [float(i + 1)] * DIMENSION} for i in range(first, first + 100)])

    def metric(self, node, name):
        with urllib.request.urlopen(self.cluster.url(node) + "/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return sum(float(value) for value in re.findall(rf"^outrigger_{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))

    def flip(self, node):
        """One bit in the middle of the journal's first file."""
        path = sorted(glob.glob(self.cluster.data_dir(node, "sidecar") + "/0*.log"))[0]
        with open(path, "r+b") as file:
            file.seek(os.stat(path).st_size // 2)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 4]))

    def test_flipped_bits_are_found_and_healed_under_load(self):
        cluster = self.cluster
        client = cluster.client()
        with Load(cluster.clients(), LIVE) as load:
            for victim in (cluster.pick_primary(), cluster.node_ids[-1]):
                found = self.metric(victim, "shard_damage_found_total")
                self.flip(victim)
                wait_until(lambda at=victim, was=found: self.metric(at, "shard_damage_found_total") > was, 30,
                           "the damage is found")
                for i in range(0, POINTS, 20):  # no error, wherever it is asked
                    for node in cluster.node_ids:
                        point = cluster.client(node, alone=True).get(COLD, f"p{i}")
                        self.assertEqual(point["vector"][0], float(i + 1))
                wait_until(lambda at=victim: self.metric(at, "shard_damaged") == 0, 60, "all replicas are copied anew")
                cluster.wait_in_sync()
            began = clock_s()
            wait_until(lambda: load.goes_on(cluster.shards, began), 30, "writes go on")
        self.assert_none(load.check())
        for node in cluster.node_ids:
            alone = cluster.client(node, alone=True)
            self.assert_none(load.read_back(alone, node))
            self.assertEqual(client.collection(COLD)["points"], POINTS)
            self.assertEqual(self.metric(node, "shard_digest_mismatches_total"), 0)


if __name__ == "__main__":
    unittest.main()
