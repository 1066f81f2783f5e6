"""Entries that are given up on purpose: an operator makes a replica primary that is not in sync, because nobody who is
lives. What that costs is said before, confirmed, and listed afterwards by whoever gave it up."""
import json
import unittest

from harness import ClusterTest, run, wait_until

POINTS = "points"
DIMENSION = 8


def vector(number):
    return [number % 7 + 1] + [number] * (DIMENSION - 1)


class Loss(ClusterTest):
    shards = 1

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.cluster.client().create_collection(POINTS, DIMENSION)

    def setUp(self):
        self.cluster.wait_in_sync()

    def write(self, client, first, count):
        """{point: request id} of writes that were acknowledged, one entry each."""
        ids = {}
        for number in range(first, first + count):
            answer = client.put(POINTS, [{"id": f"p{number}", "vector": vector(number), "metadata": {}}])
            ids[f"p{number}"] = answer.positions[0][2]
        return ids

    def found(self, client, ids):
        return {i for i in ids if client.get(POINTS, i, "linearizable") is not None}

    def report(self):
        done = run("cluster", "loss-report", "--json", "--endpoints", self.etcd)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    @property
    def etcd(self):
        return self.cluster.processes["coordinator", "etcd"].url

    def in_sync(self):
        return set(self.cluster.keys("shards/")["/outrigger/outrigger/shards/0"]["in_sync"][i]["node"]
                   for i in range(len(self.cluster.keys("shards/")["/outrigger/outrigger/shards/0"]["in_sync"])))


class TestAcceptDataLoss(Loss):
    def failover(self, *arguments):
        return run("cluster", "failover", "--shard", "0", "--accept-data-loss", "--endpoints", self.etcd, *arguments)

    def gone(self, node):
        return f"/outrigger/outrigger/live/{node}" not in self.cluster.keys("live/")

    def test_of_three_the_last_is_behind(self):
        cluster = self.cluster
        primary = cluster.status().primary(0)
        other, behind = [n for n in cluster.node_ids if n != primary]
        client = cluster.client(primary)
        kept = self.write(client, 0, 20)
        refused = self.failover("--yes")
        self.assertEqual(refused.returncode, 1)
        self.assertRegex(refused.stderr, r"node-\d is in sync and lives")
        self.assertEqual(cluster.status().primary(0), primary)

        cluster.kill(behind, "sidecar", "engine")
        wait_until(lambda: self.in_sync() == {primary, other}, 10, f"{behind} to leave the set")
        lost = self.write(client, 100, 30)
        cluster.kill(other, "sidecar", "engine")
        wait_until(lambda: self.in_sync() == {primary}, 20, f"{other} to leave the set")
        cluster.kill(primary, "sidecar", "engine")
        cluster.restart(behind, "engine", "sidecar")
        wait_until(lambda: not self.gone(behind), 20, f"{behind} to be there")
        refused = self.failover("--yes")
        if refused.returncode == 1:  # unless its session had run out meanwhile
            self.assertRegex(refused.stderr, "session")
            wait_until(lambda: self.gone(primary) and self.gone(other), 20, "the sessions to run out")
            epoch = cluster.keys("shards/")["/outrigger/outrigger/shards/0"]["epoch"]

            # Not confirmed, nothing done.
            for arguments, words in ((), "to go on add --confirm 30"), (("--confirm", "29"), "30 entries may be lost"):
                done = self.failover(*arguments)
                self.assertEqual(done.returncode, 1, done)
                self.assertRegex(done.stdout, rf"{behind} +30 entries")
                self.assertIn(f"{primary} must be stopped", done.stdout)
                self.assertIn(words, done.stderr)
            self.assertEqual(cluster.keys("shards/")["/outrigger/outrigger/shards/0"]["epoch"], epoch)
            done = self.failover("--confirm", "30")
            self.assertEqual(done.returncode, 0, done)
            self.assertIn(f"{behind} leads", done.stdout)
        self.assertEqual(self.in_sync(), {behind})
        alone = cluster.client(behind, alone=True)
        self.assertEqual(self.found(alone, kept), set(kept))
        self.assertEqual(self.found(alone, lost), set())

        # The old primary gives up what nobody else has, and says what it was; then it is a replica like any other.
        cluster.restart(primary, "engine", "sidecar")
        wait_until(lambda: self.in_sync() == {behind, primary}, 30, f"{primary} to join")
        new = self.write(cluster.client(behind), 200, 10)
        cluster.restart(other, "engine", "sidecar")
        cluster.wait_in_sync()
        report = self.report()
        self.assertEqual({r["node"] for r in report["losses"]}, {primary, other})
        for record in report["losses"]:
            listed = {i: int(entry["index"]) for entry in record["entries"] for i in entry["ids"]}
            self.assertEqual(listed, lost)
            self.assertEqual({entry["name"] for entry in record["entries"]}, {POINTS})
        self.assertEqual(report["not_asked"], [])
        people = run("cluster", "loss-report", "--endpoints", self.etcd)
        self.assertEqual(people.returncode, 0, people)
        self.assertRegex(people.stdout, rf"put {POINTS}: p100\n")
        for node in cluster.node_ids:
            client = cluster.client(node, alone=True)
            self.assertEqual(self.found(client, {**kept, **lost, **new}), {*kept, *new}, node)


if __name__ == "__main__":
    unittest.main()
