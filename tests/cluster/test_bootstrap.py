"""The coordinator forgets the cluster: its data is emptied under load. The sidecars serve on and do not obey it; an
operator has its keys written again from what they know; elections and joins work again. No client sees an error, nothing
acknowledged is lost."""
import unittest

from harness import ClusterTest, clock_s, run, wait_until
from ledger import Load

LIVE = "live"
GO_ON_S = 30


class TestBootstrap(ClusterTest):
    def bootstrap(self, *arguments):
        return run("cluster", "bootstrap", "--from-survivors", *self.cluster.coordinator.arguments, *arguments)

    def goes_on(self, load, what):
        since = clock_s()
        try:
            wait_until(lambda: load.goes_on(self.cluster.shards, since), GO_ON_S, what)
        except TimeoutError as error:
            self.fail(f"{error}: acknowledged since: {dict(load.acknowledged(since))}, {load.failed[:3]}")

    def empty_the_coordinator(self):
        coordinator = self.cluster.coordinator
        coordinator.kill()
        coordinator.empty()
        coordinator.restart()
        wait_until(coordinator.answers, 30, "the coordinator to answer", 0.05)

    def test_emptied_under_load(self):
        cluster = self.cluster
        cluster.client().create_collection(LIVE, 8)
        cluster.wait_in_sync()
        refused = self.bootstrap("--yes")
        self.assertEqual(refused.returncode, 1)
        self.assertIn("nothing is to be set up anew", refused.stderr)
        before = cluster.keys("shards/")
        with Load(cluster.clients(), LIVE) as load:
            self.goes_on(load, "load on all shards")
            self.empty_the_coordinator()
            wait_until(lambda: len(cluster.keys("live/")) == 3, 30, "sidecars to announce themselves to the empty coordinator")
            self.goes_on(load, "reads and writes with an empty coordinator")
            self.assertEqual(cluster.keys("shards/"), {})
            for arguments, words in (((), "to go on add --yes"),):
                done = self.bootstrap(*arguments)
                self.assertEqual(done.returncode, 1, done)
                self.assertIn("4 of them have a primary", done.stdout, done)
                self.assertIn(words, done.stderr)
                self.assertEqual(cluster.keys("config"), {})

            # A replica that does not answer may know more.
            cluster.pause("node-3", "sidecar")
            done = self.bootstrap("--yes")
            cluster.resume("node-3", "sidecar")
            self.assertEqual(done.returncode, 1, done)
            self.assertIn("node-3 has a replica and does not answer", done.stderr)
            self.assertEqual(cluster.keys("shards/"), {})
            self.goes_on(load, "reads and writes")
            wait_until(lambda: len(cluster.keys("live/")) == 3, 30, "node-3 to be there again")

            done = self.bootstrap("--yes")
            self.assertEqual(done.returncode, 0, done)
            after = cluster.keys("shards/")
            self.assertEqual(set(after), set(before))
            for key, d in after.items():
                self.assertGreater(int(d["generation"]), int(before[key]["generation"]))
                self.assertGreater(int(d["epoch"]), int(before[key]["epoch"]))
            cluster.wait_in_sync()
            self.goes_on(load, "reads and writes in the new generation")

            # Elections and joins work again.
            node = cluster.pick_primary()
            cluster.kill(node, "sidecar", "engine")
            self.goes_on(load, f"reads and writes without {node}")
            cluster.restart(node, "engine", "sidecar")
            cluster.wait_in_sync()
            self.goes_on(load, f"reads and writes with {node} again")
        self.assert_none(load.check())
        self.assertEqual(load.uncertain, set())
        cluster.client().create_collection("another", 8)
        for where in cluster.node_ids:
            self.assert_none(load.read_back(cluster.client(where, alone=True), where))

    def test_keys_deleted_under_load(self):
        """The same coordinator, the cluster's keys deleted by somebody: no collection was meant to go."""
        cluster = self.cluster
        cluster.client().create_collection("kept", 8)
        cluster.wait_in_sync()
        with Load(cluster.clients(), "kept") as load:
            self.goes_on(load, "load on all shards")
            cluster.coordinator.delete_keys("")
            self.goes_on(load, "reads and writes without keys")
            wait_until(lambda: len(cluster.keys("live/")) == 3, 30, "sidecars to announce themselves again")
            done = self.bootstrap("--yes")
            self.assertEqual(done.returncode, 0, done)
            self.assertIn("/outrigger/outrigger/collections/kept", cluster.keys("collections/"))
            cluster.wait_in_sync()
            self.goes_on(load, "reads and writes in the new generation")
        self.assert_none(load.check())
        self.assertEqual(load.uncertain, set())
        for where in cluster.node_ids:
            self.assert_none(load.read_back(cluster.client(where, alone=True), where))


if __name__ == "__main__":
    unittest.main()
