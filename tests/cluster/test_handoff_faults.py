"""Planned changes of primary into which something comes: a process dies in the middle, everything stops at once, a
replica is still catching up, clients hold on to their connections. Nothing acknowledged is lost, and what cannot be done
is refused while the primary goes on. HANDOFF_ROUNDS=60 kills at more moments than `make test` has time for."""
import json
import os
import random
import shutil
import signal
import socket
import threading
import time
import unittest
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from harness import ClusterTest, clock_s, run, wait_until
from ledger import Load
from test_handoff import GO_ON_S, HandoffTest

ROUNDS = int(os.environ.get("HANDOFF_ROUNDS", "5"))
MOMENT_MAX_S = 0.015  # A handoff takes 3 to 15 ms.


class Asked(threading.Thread):
    """One `POST .../failover`, asked of that sidecar; `status` is None until it is answered."""

    def __init__(self, url, shard, to):
        super().__init__(daemon=True)
        self.request = urllib.request.Request(f"{url}/cluster/shards/{shard}/failover",
                                              json.dumps({"to_replica": to}).encode(), method="POST")
        self.status, self.value = None, None
        self.start()

    def run(self):
        try:
            with urllib.request.urlopen(self.request, timeout=20) as answer:
                self.status, self.value = answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                self.status, self.value = error.code, json.load(error)


class TestDeaths(HandoffTest):
    def back(self, *nodes):
        for node in nodes:
            self.cluster.restart(node, "sidecar")
        self.cluster.wait_in_sync()
        for client in self.clients:
            client.return_to_first()

    def test_one_of_the_two_is_killed_at_any_moment(self):
        cluster = self.cluster
        dice = random.Random(os.environ.get("HANDOFF_SEED"))
        outcomes = []
        for turn in range(ROUNDS):
            shard = turn % cluster.shards
            primary = cluster.wait_in_sync().primary(shard)
            target, third = dice.sample([n for n in cluster.node_ids if n != primary], 2)
            victim, moment_s = (primary, target)[turn % 2], dice.uniform(0, MOMENT_MAX_S)
            process = cluster.processes[victim, "sidecar"]
            asked = Asked(cluster.url(third), shard, target)
            time.sleep(moment_s)  # Not a wait for anything: the moment is the point.
            process.signal(signal.SIGKILL)
            process.ended()
            gone = clock_s()
            try:
                wait_until(lambda: self.load.goes_on(cluster.shards, gone), GO_ON_S, "reads and writes")
            except TimeoutError as error:
                self.fail(f"{error}, {victim} killed {moment_s * 1000:.1f} ms after {primary} was to hand shard {shard} "
                          f"to {target}: {self.load.failed[:3]}")
            asked.join(20)
            self.assertIn(asked.status, (200, 409, 503), f"the handoff was never answered: {asked.value}")
            if asked.status == 200:
                self.assertEqual(asked.value["to"], target)
            outcomes.append((victim == primary, asked.status))
            self.back(victim)
        print(f"{len(outcomes)} deaths; handed over or taken over all the same: "
              f"{sum(1 for _, status in outcomes if status == 200)}", flush=True)
        self.nothing_is_wrong()

    def test_the_wanted_one_hangs_and_dies(self):
        """Refused, and the primary leads on in its epoch."""
        cluster = self.cluster
        before = cluster.status()
        primary = before.primary(2)
        target = [n for n in cluster.node_ids if n != primary][0]
        cluster.pause(target, "sidecar")
        asked = Asked(cluster.url(primary), 2, target)
        asked.join(10)
        cluster.kill(target, "sidecar")
        self.assertEqual(asked.status, 503, asked.value)
        words = asked.value["error"]["message"]
        self.assertIn(f"shard 2 stays with {primary}: {target} was asked for: ", words)
        after = cluster.status()
        self.assertEqual((after.primary(2), after.shards[2]["epoch"]), (primary, before.shards[2]["epoch"]))
        self.goes_on(f"reads and writes without {target}")
        self.back(target)
        self.nothing_is_wrong()

    def test_the_wanted_one_has_no_engine(self):
        cluster = self.cluster
        primary = cluster.status().primary(1)
        target = [n for n in cluster.node_ids if n != primary][0]
        cluster.kill(target, "engine")
        wait_until(lambda: not cluster.ready(target), 10, f"{target} to notice")
        done = run("cluster", "failover", "--shard", "1", "--to-replica", target, "--sidecar", cluster.url(primary))
        self.assertEqual(done.returncode, 1, done)
        self.assertIn(f"shard 1 stays with {primary}: {target} was asked for: it is not able to lead: that takes a "
                      "working engine", done.stderr)
        health = run("cluster", "health", "--sidecar", cluster.url(primary))
        self.assertEqual(health.returncode, 1)
        self.assertIn(f"1 problem; every shard can be written\n  node {target} its engine is down\n      -> start",
                      health.stdout)
        cluster.restart(target, "engine")
        wait_until(lambda: run("cluster", "health", "--sidecar", cluster.url(primary)).returncode == 0, 20, "health")
        self.nothing_is_wrong()

    def test_the_coordinator_is_away_for_all(self):
        """Nobody could take over: the primary keeps what it leads, and says so."""
        cluster = self.cluster
        before = cluster.status()
        cluster.coordinator.pause()
        self.addCleanup(cluster.coordinator.resume)
        done = run("cluster", "failover", "--shard", "3", "--sidecar", cluster.url("node-1"))
        self.assertEqual(done.returncode, 1, done)
        self.assertIn(f"shard 3 stays with {before.primary(3)}: no other member is able to lead", done.stderr)
        done = run("cluster", "failover", "--shard", "3", *cluster.coordinator.arguments)
        self.assertEqual(done.returncode, 1, done)
        self.assertIn("without the coordinator ask a sidecar (--sidecar URL)", done.stderr)
        wait_until(lambda: "node node-1 cannot use the coordinator" in
                   run("cluster", "health", "--sidecar", cluster.url("node-1")).stdout, 10, "health to name it")
        self.goes_on("reads and writes without the coordinator")
        cluster.coordinator.resume()
        wait_until(lambda: run("cluster", "health", *cluster.coordinator.arguments).returncode == 0, 20, "health")
        after = cluster.wait_in_sync()
        self.assertEqual(after.shards[3]["epoch"], before.shards[3]["epoch"])
        self.nothing_is_wrong()


class TestStops(HandoffTest):
    def again(self, node):
        """Our own child from now on, so that its exit code can be asked."""
        self.cluster.processes[node, "sidecar"].signal(signal.SIGTERM)
        self.cluster.processes[node, "sidecar"].ended()
        self.cluster.restart(node, "sidecar")
        self.cluster.wait_in_sync()
        for client in self.clients:
            client.return_to_first()
        return self.cluster.processes[node, "sidecar"]

    def test_everything_at_once(self):
        """The sets keep enough members to start from, and everything is there afterwards."""
        cluster = self.cluster
        self.load.stop()
        processes = [cluster.processes[node, "sidecar"] for node in cluster.node_ids]
        for process in processes:
            process.signal(signal.SIGTERM)
        for process in processes:
            process.ended()
        for key, descriptor in cluster.keys("shards/").items():
            self.assertGreaterEqual(len(descriptor["in_sync"]), 2, f"{key}: {descriptor}")
            self.assertGreaterEqual({n for n in descriptor["replicas"]}, {m["node"] for m in descriptor["in_sync"]})
        logs = cluster.log_ids()
        for node in cluster.node_ids:
            cluster.restart(node, "sidecar")
        cluster.wait_ready()
        self.nothing_is_wrong()
        now = cluster.log_ids()
        self.assertEqual({member: now[member] for member in logs}, logs, "a log was thrown away")

    def test_sigint_is_like_sigterm(self):
        node = "node-1"
        process = self.again(node)
        self.fill(node)
        process.signal(signal.SIGINT)
        process.ended()
        self.assertEqual(process.child.returncode, 0)
        self.assertEqual([], self.cluster.status().led_by(node))
        self.goes_on(f"reads and writes without {node}")
        self.cluster.restart(node, "sidecar")
        self.nothing_is_wrong()

    def test_a_second_sigterm_does_not_wait(self):
        """Like a death, and nothing is lost."""
        node = "node-2"
        process = self.again(node)
        self.fill(node)
        for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
            process.signal(number)
        process.ended()
        self.assertEqual(process.child.returncode, 1)
        self.goes_on(f"reads and writes without {node}")
        self.cluster.restart(node, "sidecar")
        self.nothing_is_wrong()

    def test_clients_that_hold_on(self):
        """Connections that were never used, that idle, or that stopped in the middle of a request do not keep it."""
        node = "node-3"
        process = self.again(node)
        self.fill(node)
        at = urlsplit(self.cluster.url(node))
        idle, used, half = [socket.create_connection((at.hostname, at.port), timeout=10) for _ in range(3)]
        for s in (idle, used, half):
            self.addCleanup(s.close)
        used.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertIn(b"200", used.recv(1000))
        half.sendall(b"PUT /collections/live/points HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        began = clock_s()
        process.signal(signal.SIGTERM)
        process.ended(8)
        self.assertEqual(process.child.returncode, 0)
        self.assertLess(clock_s() - began, 8)
        for s in (idle, used):
            self.assertEqual(s.recv(1000), b"", "not closed in order")
        self.goes_on(f"reads and writes without {node}")
        self.cluster.restart(node, "sidecar")
        self.nothing_is_wrong()


class TestCatchingUp(ClusterTest):
    """A replica whose disk was emptied gets everything anew while its primaries change."""

    def test_while_a_replica_is_seeded(self):
        cluster = self.cluster
        client = cluster.client()
        client.create_collection("live", 8)
        client.create_collection("much", 64)
        for first in range(0, 12000, 500):
            client.put("much", [{"id": f"p{i}", "vector": [i % 97 + 1.0] * 64, "metadata": {"pad": "x" * 400}}
                                for i in range(first, first + 500)])
        status = cluster.wait_in_sync()
        learner = "node-3"
        cluster.kill(learner, "sidecar")
        shutil.rmtree(cluster.data_dir(learner, "sidecar"))
        wait_until(lambda: learner not in str(cluster.status().shards[0]["in_sync"]), 10, "it to leave the set")
        clients = [cluster.client(n) for n in cluster.node_ids if n != learner]
        with Load(clients, "live") as load:
            began = clock_s()
            wait_until(lambda: load.goes_on(cluster.shards, began), GO_ON_S, "load on all shards")
            cluster.restart(learner, "sidecar")
            for shard in range(cluster.shards):
                primary = cluster.status().primary(shard)
                if learner not in cluster.status().shards[shard]["in_sync"]:
                    done = run("cluster", "failover", "--shard", str(shard), "--to-replica", learner, "--sidecar",
                               cluster.url(primary))
                    if done.returncode == 1:
                        self.assertRegex(done.stderr, f"{learner} is not in sync with shard {shard}|stays with")
                other = [n for n in cluster.node_ids if n not in (learner, primary)][0]
                done = run("cluster", "failover", "--shard", str(shard), "--to-replica", other, "--sidecar",
                           cluster.url(other))
                self.assertIn(done.returncode, (0, 1), done)  # 1: the first attempt made the learner primary
            since = clock_s()
            wait_until(lambda: load.goes_on(cluster.shards, since), GO_ON_S, "reads and writes")
            after = cluster.wait_in_sync()
            self.assertTrue(any(after.primary(s) != status.primary(s) for s in range(cluster.shards)))
        self.assert_none(load.check())
        self.assertEqual(load.refusals(), 0, "clients saw a 503 or 429")
        cluster.wait_level()
        for node in cluster.node_ids:
            self.assert_none(load.read_back(cluster.client(node, alone=True), node))
        counts = cluster.client(learner, alone=True).request("GET", "/collections/much").json
        self.assertEqual(counts["points"], 12000)


del HandoffTest  # Of test_handoff.py; not to be run again here.

if __name__ == "__main__":
    unittest.main()
