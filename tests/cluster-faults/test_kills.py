"""SIGKILL of sidecars, engines and both, in random order and at random moments, under load: some of them at once, on two
nodes at once, or again before the first is back. SOAK_MINUTES makes it longer (`make soak MINUTES=n`), SEED repeats the choices."""
import os
import random
import time
import unittest
from collections import Counter

from net_cluster import LONG, NetTest, clock_s

SECONDS = 60 * float(os.environ["SOAK_MINUTES"]) if os.environ.get("SOAK_MINUTES") else 180 if LONG else 20
KINDS = [("sidecar",), ("engine",), ("sidecar", "engine")]


class TestKills(NetTest):
    def test_in_random_order(self):
        cluster = self.cluster
        cluster.wait_in_sync()
        load = self.begin_load(deadline_s=60)
        dice = random.Random(load.seed)
        down, counts, story, began = [], Counter(), [], clock_s()
        while clock_s() < began + SECONDS:
            node, whats = dice.choice(cluster.node_ids), dice.choice(KINDS)
            whats = [what for what in whats if cluster.processes[node, what].runs]
            if whats and len({n for n, _ in down} | {node}) <= 2:
                cluster.kill(node, *whats)
                counts["+".join(whats)] += 1
                story.append(f"{clock_s() - began:.2f} kill {whats} of {node}")
                down += [(node, what) for what in whats]
            time.sleep(dice.uniform(0, 0.7))  # Not a wait for anything: the moments are the point.
            if dice.randrange(3):
                dice.shuffle(down)
                again = down[:dice.randrange(1, 4)]
                for node, what in again:
                    cluster.restart(node, what)
                story.append(f"{clock_s() - began:.2f} start {again}")
                down = down[len(again):]
            if dice.randrange(8) == 0:
                self.all_back(down)
                self.goes_on(load, f"reads and writes after {story[-5:]}")
        self.all_back(down)
        print(f"\n  killed: {dict(counts)}", end="")
        self.checked(load, f"{sum(counts.values())} kills in {SECONDS:g} s")
        self.assertGreater(min(counts["sidecar"], counts["engine"], counts["sidecar+engine"]), 0)

    def all_back(self, down):
        for node, what in down:
            self.cluster.restart(node, what)
        down.clear()


if __name__ == "__main__":
    unittest.main()
