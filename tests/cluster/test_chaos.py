"""Faults by the dice, one after the other and some at once, while writers and readers go on: no acknowledged write is
lost, no read is stale, and in the end everything is in sync. SEED repeats a run's choices, SECONDS makes it longer."""
import os
import random
import time
import unittest

from harness import ClusterTest, clock_s, wait_until
from ledger import Asker, Load, Oracle

SECONDS = float(os.environ.get("SECONDS", "30"))


class Chaos:
    def __init__(self, cluster, dice):
        self.cluster, self.dice = cluster, dice
        self.due = []  # (when, what undoes it)
        self.hurt = set()  # what has something undone
        self.story = []

    def step(self):
        for at, undo, name in sorted(self.due, key=lambda d: d[0]):
            if at <= time.monotonic():
                self.due.remove((at, undo, name))
                self.note(f"undo {name}")
                undo()
                self.hurt.discard(name)
        {0: self.kill, 1: self.kill, 2: self.pause, 3: self.coordinator}[self.dice.randrange(4)]()
        time.sleep(self.dice.uniform(0.1, 1.5))

    def later(self, name, undo, longest_s):
        self.hurt.add(name)
        self.due.append((time.monotonic() + self.dice.uniform(0.05, longest_s), undo, name))

    def note(self, what):
        self.story.append(f"{time.strftime('%H:%M:%S', time.gmtime())} {what}")

    def kill(self):
        if "node" in self.hurt:
            return
        node = self.dice.choice(self.cluster.node_ids)
        whats = self.dice.choice([("sidecar",), ("engine",), ("sidecar", "engine")])
        self.note(f"kill {whats} of {node}")
        self.cluster.kill(node, *whats)
        self.later("node", lambda: self.cluster.restart(node, *whats), 4)

    def pause(self):
        if "node" in self.hurt:
            return
        node, what = self.dice.choice(self.cluster.node_ids), self.dice.choice(["sidecar", "engine"])
        self.note(f"stop the {what} of {node}")
        self.cluster.pause(node, what)
        self.later("node", lambda: self.cluster.resume(node, what), 3)

    def coordinator(self):
        if "coordinator" in self.hurt:
            return
        if self.dice.randrange(2):
            self.note("stop the coordinator")
            self.cluster.coordinator.pause()
            self.later("coordinator", self.cluster.coordinator.resume, 6)
        else:
            self.note("kill the coordinator")
            self.cluster.coordinator.kill()
            self.later("coordinator", self.cluster.coordinator.restart, 6)

    def end(self):
        for _, undo, _ in self.due:
            undo()
        self.note("no more")


class TestChaos(ClusterTest):
    def test_faults_by_the_dice(self):
        seed = int(os.environ.get("SEED", random.randrange(1 << 20)))
        cluster, oracle = self.cluster, Oracle(200)
        clients = cluster.clients(deadline_s=90, attempt_s=12)
        oracle.load(clients[0], "static")
        clients[0].create_collection("live", 8)
        chaos = Chaos(cluster, random.Random(seed))
        with Load(clients, "live", rate=40) as load, Asker(clients, "static", oracle) as asker:
            began = clock_s()
            wait_until(lambda: load.goes_on(cluster.shards, began), 30, "load on all shards")
            while clock_s() < began + SECONDS:
                chaos.step()
            chaos.end()
            healed = clock_s()
            for client in clients:
                client.return_to_first()
            wait_until(lambda: load.goes_on(cluster.shards, healed) and asker.goes_on(healed), 60, "all to go on again")
            cluster.wait_in_sync()
        cluster.wait_level()
        problems = load.check() + asker.wrong
        for node in cluster.node_ids:
            for consistency in ("linearizable", "eventual"):
                problems += load.read_back(cluster.client(node, alone=True), f"{node} {consistency}", consistency)
            problems += oracle.ask_all(cluster.client(node, alone=True), "static", "eventual")
        self.assert_none(problems and [f"SEED={seed}", *problems, *chaos.story], 100)


if __name__ == "__main__":
    unittest.main()
