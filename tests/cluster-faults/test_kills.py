"""Kills, stops and partitions in random order and at random moments, under load: SIGKILL of sidecars, engines and both, some of
them at once, on two nodes at once, or again before the first is back; SIGSTOP of sidecars, for longer than a session or less; and
between whom and for how long the network is cut is chance, too.

SOAK_MINUTES makes it longer (`make soak MINUTES=n`), SEED repeats the choices. It goes in rounds of a minute: each has a load of
its own, whose whole history is checked and forgotten at the end. What a round has left behind is read once more, at every node,
at the end of the next one. So a soak of any length needs the memory of a minute."""
import os
import random
import resource
import time
import unittest
from collections import Counter

from net_cluster import LONG, NetTest, clock_s
from workload import COLLECTION, value_of

SECONDS = 60 * float(os.environ["SOAK_MINUTES"]) if os.environ.get("SOAK_MINUTES") else 180 if LONG else 20
ROUND_S = 60
KINDS = [("sidecar",), ("engine",), ("sidecar", "engine")]
CUTS = ["cut", "cut_one_way", "reset"]
STRIKES = ["sidecar", "engine", "sidecar+engine", "partition", "stop"]


class Deck:
    """Chance, but each card comes once before one comes again."""

    def __init__(self, dice, cards):
        self._dice, self._cards, self._left = dice, cards, []

    def draw(self):
        if not self._left:
            self._left = self._dice.sample(self._cards, len(self._cards))
        return self._left.pop()


class TestKills(NetTest):
    def test_in_random_order(self):
        cluster, began = self.cluster, clock_s()
        self.counts, self.down = Counter(), []
        seed = int(os.environ.get("SEED", random.randrange(1 << 30)))
        dice = random.Random(seed)
        self.kinds, self.cuts = Deck(dice, KINDS), Deck(dice, CUTS)
        operations, rounds, left_behind = 0, 0, {}
        try:
            while rounds == 0 or clock_s() < began + SECONDS:
                load = self.begin_load(deadline_s=60, seed=seed + rounds)
                self.strike(load, dice, clock_s() + min(ROUND_S, max(1.0, began + SECONDS - clock_s())))
                self.checked(load, f"round {rounds + 1}, {clock_s() - began:.0f} s; so far {dict(self.counts)}")
                operations += len(load.entries) + self.still_there(left_behind)
                left_behind = load.last_values()
                rounds += 1
                load.forget()
                cluster.forget()
        finally:
            print(f"\n  {operations} operations verified in {rounds} rounds, {(clock_s() - began) / 60:.1f} minutes, with "
                  f"{dict(self.counts)}; SEED={seed}; memory of the test at most "
                  f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB", flush=True)

    def strike(self, load, dice, until):
        """Strikes and takes back until then, and until each was done. At most two nodes lack a process at a time."""
        cluster, story, began = self.cluster, [], clock_s()
        cluster.wait_in_sync()
        while clock_s() < until or not all(self.counts[strike] for strike in STRIKES):
            how = dice.choice([self.kill, self.kill, self.kill, self.cut, self.cut, self.stop_one])
            story.append(f"{clock_s() - began:.2f} {how(dice)}")
            time.sleep(dice.uniform(0, 0.7))  # Not a wait for anything: the moments are the point.
            if dice.randrange(3):
                dice.shuffle(self.down)
                count = dice.randrange(1, 4)
                again, self.down = self.down[:count], self.down[count:]
                for node, what in again:
                    cluster.restart(node, what)
                story.append(f"{clock_s() - began:.2f} start {again}")
            if dice.randrange(4) == 0:
                cluster.net.mend()
                story.append(f"{clock_s() - began:.2f} mend")
            if dice.randrange(5) == 0:
                self.all_go_on()
                story.append(f"{clock_s() - began:.2f} all go on")
            if dice.randrange(8) == 0:
                self.all_back()
                self.goes_on(load, f"reads and writes after {story[-8:]}")
        self.all_back()

    def kill(self, dice):
        cluster = self.cluster
        node, kind = dice.choice(cluster.node_ids), self.kinds.draw()
        whats = [what for what in kind if cluster.processes[node, what].runs]
        if not whats or len({n for n, _ in self.down} | {node}) > 2:
            return "nothing"
        cluster.kill(node, *whats)
        self.counts["+".join(whats)] += 1
        self.down += [(node, what) for what in whats]
        return f"kill {whats} of {node}"

    def stop_one(self, dice):
        node = dice.choice(self.cluster.node_ids)
        if not self.cluster.processes[node, "sidecar"].runs:
            return "nothing"
        self.cluster.pause(node, "sidecar")
        self.counts["stop"] += 1
        return f"stop the sidecar of {node}"

    def all_go_on(self):
        for node in self.cluster.node_ids:
            self.cluster.resume(node, "sidecar")

    def cut(self, dice):
        """One node, and one or both of the others, the coordinator, or all of them."""
        cluster = self.cluster
        node, how = dice.choice(cluster.node_ids), self.cuts.draw()
        others = dice.choice([cluster.others(node), [dice.choice(cluster.others(node))], cluster.coordinator_names,
                              [*cluster.others(node), *cluster.coordinator_names]])
        some, rest = cluster.at(node), cluster.at(*others)
        if how == "cut_one_way" and dice.randrange(2):
            some, rest = rest, some
        getattr(cluster.net, how)(some, rest)
        self.counts["partition"] += 1
        return f"{how} {some} {rest}"

    def all_back(self):
        self.cluster.net.mend()
        self.all_go_on()
        for node, what in self.down:
            self.cluster.restart(node, what)
        self.down = []

    def still_there(self, values):
        """What an earlier load has left behind, after all that has happened since; then it is deleted. How many reads that took."""
        problems, clients = [], {node: self.cluster.client(node, alone=True) for node in self.cluster.node_ids}
        for key, value in values.items():
            for node, client in clients.items():
                found = value_of(key, client.get(COLLECTION, key))
                if found != value:
                    problems.append(f"{key}: {node} has {found!r}, and a minute ago it was {value!r}")
        self.assert_none(problems)
        keys = sorted(values)
        for first in range(0, len(keys), 100):
            clients[self.cluster.node_ids[0]].delete_many(COLLECTION, keys[first:first + 100])
        return len(values) * len(clients)


if __name__ == "__main__":
    unittest.main()
