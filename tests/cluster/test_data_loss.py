"""Entries that are given up on purpose: an operator makes a replica primary that is not in sync, because nobody who is
lives. What that costs is said before, confirmed, and listed afterwards by whoever gave it up. And entries that mode async
lost."""
import json
import unittest

from cut_link import CutLink
from harness import ClusterTest, GaveUp, clock_s, option, run, wait_until
from ledger import Load

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
        done = run("cluster", "loss-report", "--json", *self.cluster.coordinator.arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def in_sync(self):
        return {member["node"] for member in self.cluster.keys("shards/")["/outrigger/outrigger/shards/0"]["in_sync"]}


class TestAcceptDataLoss(Loss):
    def failover(self, *arguments):
        return run("cluster", "failover", "--shard", "0", "--accept-data-loss", *self.cluster.coordinator.arguments, *arguments)

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
        incomplete = run("cluster", "loss-report", "--json", *cluster.coordinator.arguments)
        self.assertEqual(incomplete.returncode, 1, "it may be incomplete")
        self.assertEqual(json.loads(incomplete.stdout)["not_asked"], [other])
        self.assertIn("1 of 3 nodes could not be asked", incomplete.stderr)
        cluster.restart(other, "engine", "sidecar")
        cluster.wait_in_sync()
        report = self.report()
        self.assertEqual({r["node"] for r in report["losses"]}, {primary, other})
        for record in report["losses"]:
            listed = {i: int(entry["index"]) for entry in record["entries"] for i in entry["ids"]}
            self.assertEqual(listed, lost)
            self.assertEqual({entry["name"] for entry in record["entries"]}, {POINTS})
            self.assertEqual(record["unlisted"], [])
        self.assertEqual(report["not_asked"], [])
        people = run("cluster", "loss-report", *self.cluster.coordinator.arguments)
        self.assertEqual(people.returncode, 0, people)
        self.assertRegex(people.stdout, rf"put {POINTS}: p100\n")
        for node in cluster.node_ids:
            client = cluster.client(node, alone=True)
            self.assertEqual(self.found(client, {**kept, **lost, **new}), {*kept, *new}, node)


class TestAsync(Loss):
    """Writes are acknowledged before the replicas have them; what a failover then loses is what the report says."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.links = []
        for i, node in enumerate(cls.cluster.node_ids):
            process = cls.cluster.processes[node, "sidecar"]
            for flag in ("peer-listen", "listen"):
                host, port = option(process.command, flag).split(":")
                cls.links.append(CutLink(f"127.0.1.{i + 1}", int(port), host))
            process.command += ["--advertise", f"127.0.1.{i + 1}"]
            cls.cluster.kill(node, "sidecar")
            cls.cluster.restart(node, "sidecar")
            cls.cluster.wait_in_sync()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        for link in cls.links:
            link.close()

    def setUp(self):
        super().setUp()
        self.set_mode("async", "--max-lag-entries", "500", "--max-lag", "2s")

    def set_mode(self, mode, *arguments):
        done = run("cluster", "set-mode", "--mode", mode, *self.cluster.coordinator.arguments, *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        wait_until(lambda: {d["mode"] for d in self.cluster.keys("shards/").values()} == {mode}, 10, f"mode {mode}")
        return done.stdout

    def write_until_refused(self, client, first):
        """{point: index} of what was acknowledged until a write was not for half a second."""
        ids = {}
        try:
            for number in range(first, first + 100000):
                point = {"id": f"p{number}", "vector": vector(number), "metadata": {}}
                answer = client.request("PUT", f"/collections/{POINTS}/points", {"points": [point]}, deadline_s=0.5,
                                        headers={"Outrigger-Timeout": "400ms"})
                self.assertEqual(answer.status, 200, answer)
                ids[f"p{number}"] = answer.positions[0][2]
        except GaveUp:
            pass
        return ids

    def test_a_primary_dies_cut_off(self):
        cluster = self.cluster
        primary = cluster.status().primary(0)
        client = cluster.client(primary, alone=True, attempt_s=0.5)
        kept = self.write(client, 0, 20)
        cluster.wait_level()
        for link in self.links:
            link.cut()
        began = clock_s()
        risked = self.write_until_refused(client, 1000)
        # Grants last 120 ms: whoever is cut off acknowledges nothing after that.
        self.assertLess(clock_s() - began, 2)
        self.assertGreater(len(risked), 0)
        self.assertLessEqual(len(risked), 500)
        cluster.kill(primary, "sidecar", "engine")
        for link in self.links:
            link.mend()
        other = next(n for n in cluster.node_ids if n != primary)
        client = cluster.client(other, alone=True)
        found = self.found(client, {**kept, **risked})
        self.assertEqual(found & set(kept), set(kept))
        lost = {i: index for i, index in risked.items() if i not in found}
        self.assertGreater(len(lost), 0)
        new = self.write(client, 5000, 10)
        cluster.restart(primary, "engine", "sidecar")
        cluster.wait_in_sync()
        report = self.report()
        listed = {i: int(entry["index"]) for record in report["losses"] for entry in record["entries"]
                  for i in entry["ids"]}
        self.assertEqual({i: index for i, index in listed.items() if i in risked}, lost)
        self.assertLessEqual(len(set(listed) - set(risked)), 1, "one more that was not acknowledged any more")
        for node in cluster.node_ids:
            self.assertEqual(self.found(cluster.client(node, alone=True), {**kept, **listed, **new}), {*kept, *new}, node)

    def test_back_to_sync_under_load_and_nothing_is_lost_there(self):
        cluster = self.cluster
        self.assertIn("mode is async already", self.set_mode("async"))
        before = self.report()
        with Load(cluster.clients(), POINTS, keys=10, rate=40) as load:
            began = clock_s()
            wait_until(lambda: load.goes_on(1, began), 30, "load in mode async")
            self.set_mode("sync")
            since = clock_s()
            wait_until(lambda: load.goes_on(1, since), 30, "load in mode sync")
            primary = cluster.status().primary(0)
            cluster.kill(primary, "sidecar")
            since = clock_s()
            wait_until(lambda: load.goes_on(1, since), 30, "load after a failover")
            cluster.restart(primary, "sidecar")
            cluster.wait_in_sync()
        self.assert_none(load.check())
        for where in cluster.node_ids:
            self.assert_none(load.read_back(cluster.client(where, alone=True), where))
        self.assertEqual(self.report(), before)


if __name__ == "__main__":
    unittest.main()
