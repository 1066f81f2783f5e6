"""Planned changes of primary under load over all shards: whatever the reason, no request fails, nothing acknowledged is
lost, and every read is explained by some order of the operations. How long a handoff takes is measured in tests/bench."""
import json
import os
import signal
import sys
import unittest
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from harness import ClusterTest, Process, clock_s, run, start_process, wait_until
from ledger import Load

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from relay import Relay  # noqa: E402

LIVE = "live"
GO_ON_S = 30


class HandoffTest(ClusterTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.cluster.client().create_collection(LIVE, 8)

    def setUp(self):
        self.cluster.wait_in_sync()
        self.clients = self.cluster.clients()
        self.load = Load(self.clients, LIVE).start()
        self.addCleanup(self.load.stop)
        self.goes_on("load on all shards")

    def goes_on(self, what):
        since = clock_s()
        try:
            wait_until(lambda: self.load.goes_on(self.cluster.shards, since), GO_ON_S, what)
        except TimeoutError as error:
            self.fail(f"{error}: acknowledged since: {dict(self.load.acknowledged(since))}, {self.load.failed[:3]}")

    def nothing_is_wrong(self):
        self.load.stop()
        self.assert_none(self.load.check())
        self.assertEqual(self.load.refusals(), 0, "clients saw a 503 or 429")
        self.assertEqual(self.load.uncertain, set(), "writes whose outcome nobody knows")
        self.cluster.wait_in_sync()
        for where in self.cluster.node_ids:
            self.assert_none(self.load.read_back(self.cluster.client(where, alone=True), where))

    def led_by(self, node):
        return self.cluster.status().led_by(node)

    def fill(self, node, count=2):
        """Makes that node the primary of at least `count` shards."""
        for shard in range(self.cluster.shards):
            if len(self.led_by(node)) < count and self.cluster.status().primary(shard) != node:
                done = run("cluster", "failover", "--shard", str(shard), "--to-replica", node, "--sidecar",
                           self.cluster.url(node))
                self.assertEqual(done.returncode, 0, done.stderr)


class TestSigterm(HandoffTest):
    def test_each_node_in_turn(self):
        """A rolling restart, as docs/operations.md tells operators."""
        cluster = self.cluster
        for node in cluster.node_ids:
            self.fill(node)
            process = cluster.processes[node, "sidecar"]
            process.signal(signal.SIGTERM)
            process.ended()
            self.assertIn("no shard counts on this node any more", self.log_of(node))
            self.assertEqual([], cluster.status().led_by(node), f"shards whose primary is still {node}")
            self.assertNotIn(node, [n for shard in cluster.status().shards.values() for n in shard["in_sync"]])
            self.goes_on(f"reads and writes without {node}")
            cluster.restart(node, "sidecar")
            cluster.wait_in_sync()
            for client in self.clients:
                client.return_to_first()
            self.goes_on(f"reads and writes after {node} came back")
        self.nothing_is_wrong()

    def log_of(self, node):
        texts = []
        for path in self.cluster.logs():
            if os.path.basename(path).startswith(f"{node}-sidecar") or os.path.basename(path) == f"{node}.log":
                with open(path, encoding="utf-8", errors="replace") as log:
                    texts.append(log.read())
        self.assertTrue(texts, self.cluster.logs())
        return "\n".join(texts)

    def readyz(self, node):
        try:
            with urllib.request.urlopen(self.cluster.url(node) + "/readyz", timeout=2) as answer:
                return answer.status, ""
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)["error"]["message"]

    def test_while_the_coordinator_is_frozen(self):
        """Nothing can be handed over then, and the exit does not wait for ever; the others go on when it is back."""
        cluster = self.cluster
        node = cluster.pick_primary()
        process = cluster.processes[node, "sidecar"]
        cluster.coordinator.pause()
        self.addCleanup(cluster.coordinator.resume)
        process.signal(signal.SIGTERM)
        wait_until(lambda: self.readyz(node) == (503, "stopping"), 2, "/readyz to say that it stops", 0.01)
        self.assertEqual(cluster.client(node, alone=True).request("GET", "/healthz").status, 200)
        process.ended(8)
        cluster.coordinator.resume()
        self.goes_on(f"reads and writes without {node}")
        cluster.restart(node, "sidecar")
        self.nothing_is_wrong()


class TestCommand(HandoffTest):
    def failover(self, *arguments):
        return run("cluster", "failover", *arguments)

    def test_back_and_forth(self):
        cluster = self.cluster
        ways = [("--sidecar", cluster.url("node-1")), cluster.coordinator.arguments]
        for turn in range(10):
            shard = turn % cluster.shards
            before = cluster.status()
            others = [n for n in before.shards[shard]["in_sync"] if n != before.primary(shard)]
            done = self.failover("--shard", str(shard), "--to-replica", others[turn % 2], "--json", *ways[turn % 2])
            self.assertEqual(done.returncode, 0, done.stderr)
            value = json.loads(done.stdout)
            self.assertEqual((value["shard"], value["from"], value["to"]), (shard, before.primary(shard), others[turn % 2]))
            self.assertGreater(value["epoch"], before.shards[shard]["epoch"])
            self.assertGreater(value["pause_ms"], 0)
            wait_until(lambda: cluster.status().primary(shard) == others[turn % 2], 10, "the view to follow")
            cluster.wait_in_sync()
        done = self.failover("--shard", "0", *ways[0])
        self.assertRegex(done.stdout, r"^shard 0: primary was node-\d, is node-\d in epoch \d+; writes paused for [\d.]+ ms\n$")
        self.nothing_is_wrong()

    def refused(self, code, words, *arguments):
        done = self.failover(*arguments)
        self.assertEqual(done.returncode, code, done)
        self.assertEqual(done.stdout, "")
        self.assertIn(words, done.stderr)

    def test_what_cannot_be(self):
        cluster = self.cluster
        at = ("--sidecar", cluster.url("node-2"))
        primary = cluster.status().primary(1)
        epochs = {shard: s["epoch"] for shard, s in cluster.status().shards.items()}
        self.refused(2, "--shard", *at)
        self.refused(2, "--timeout", "--shard", "1", "--timeout", "soon", *at)
        self.refused(1, "there is no shard 9: they are numbered 0 to 3", "--shard", "9", *at)
        self.refused(1, 'there is no node "node-9"', "--shard", "1", "--to-replica", "node-9", *at)
        self.refused(1, f"{primary} is the primary of shard 1 already", "--shard", "1", "--to-replica", primary, *at)
        self.assertEqual({shard: s["epoch"] for shard, s in cluster.status().shards.items()}, epochs)
        # A node that is not in sync, for its process is gone.
        away = [n for n in cluster.node_ids if n not in (primary, "node-2")][0]
        self.load.stop()
        cluster.kill(away, "sidecar")
        wait_until(lambda: away not in cluster.status().shards[1]["in_sync"], 10, f"{away} to leave the set")
        self.refused(1, f"{away} is not in sync with shard 1; in sync are:", "--shard", "1", "--to-replica", away, *at)
        cluster.restart(away, "sidecar")
        cluster.wait_in_sync()


class TestEngine(HandoffTest):
    def test_dead_engine_of_a_primary(self):
        """Its shards go to nodes whose engines live, and stay there when it is back."""
        cluster = self.cluster
        node = cluster.pick_primary()
        cluster.kill(node, "engine")
        wait_until(lambda: not self.led_by(node), GO_ON_S, f"the shards of {node} to have other primaries")
        self.goes_on(f"reads and writes without the engine of {node}")
        after = cluster.status()
        cluster.restart(node, "engine")
        wait_until(lambda: cluster.ready(node), GO_ON_S, f"{node} to be ready")
        self.goes_on("reads and writes with all engines")
        self.assertEqual({s: v["epoch"] for s, v in cluster.status().shards.items()},
                         {s: v["epoch"] for s, v in after.shards.items()}, "a primary changed without need")
        self.nothing_is_wrong()
        cluster.wait_level()

    def test_all_engines_dead(self):
        """Nobody is able then: everybody leads on, and writes are answered before the engines have them."""
        cluster = self.cluster
        for node in cluster.node_ids:
            cluster.kill(node, "engine")
        wait_until(lambda: not any(cluster.ready(node) for node in cluster.node_ids), 10, "the sidecars to notice")
        before = cluster.status()
        self.goes_on("reads and writes without any engine")
        self.assertEqual({s: v["epoch"] for s, v in cluster.status().shards.items()},
                         {s: v["epoch"] for s, v in before.shards.items()})
        for node in cluster.node_ids:
            cluster.restart(node, "engine")
        cluster.wait_ready()
        self.nothing_is_wrong()
        cluster.wait_level()


class TestCoordinatorCut(HandoffTest):
    def test_one_node_cannot_reach_the_coordinator(self):
        """Its shards go to those who can; it goes on as a replica, and nobody notices."""
        cluster = self.cluster
        node = "node-2"
        server = urlsplit(cluster.coordinator.url)
        relay = Relay(server.hostname, server.port)
        self.addCleanup(relay.close)
        self.through(node, relay)
        self.fill(node)
        mine = self.led_by(node)
        self.assertTrue(mine)
        relay.cut()
        wait_until(lambda: not self.led_by(node), GO_ON_S, f"the shards of {node} to have other primaries")
        self.goes_on(f"reads and writes with {node} cut off from the coordinator")
        for asked, words in ((node, f"node {node} cannot use the coordinator: {cluster.kind.name}: "), ("node-1", f"node {node} is away")):
            wait_until(lambda: words in run("cluster", "health", "--sidecar", cluster.url(asked)).stdout, 20,
                       f"health asked of {asked} to say: {words}")
        relay.mend()
        self.goes_on("reads and writes afterwards")
        self.nothing_is_wrong()

    def through(self, node, relay):
        """Starts the node's sidecar again with the relay for a coordinator."""
        cluster = self.cluster
        old = cluster.processes[node, "sidecar"]
        command = list(old.command)
        command[command.index("--endpoints") + 1] = f"http://127.0.0.1:{relay.port}"
        old.signal(signal.SIGTERM)
        old.ended()
        child = start_process(command, os.path.join(cluster.directory, f"{node}-relayed.log"))
        process = Process(old.name, command, child.pid, old.url, child)
        cluster.processes[node, "sidecar"] = process
        cluster.known.append(process)
        cluster.wait_in_sync()
        for client in self.clients:
            client.return_to_first()


if __name__ == "__main__":
    unittest.main()
