"""A primary that loses its right to serve: stopped longer than its session, cut off from the coordinator, from everything."""
import concurrent.futures
import threading
import unittest

from net_cluster import GO_ON_S, GRANT_MS, PATIENT_MS, NetTest, clock_s, wait_until
from linearizability import Operation
from outrigger_client import Client
from workload import COLLECTION, point_of

PUT, GET = f"/collections/{COLLECTION}/points", f"/collections/{COLLECTION}/points/"


class TestLeases(NetTest):
    def test_stopped_longer_than_its_session(self):
        self.stopped(cut_off=False)

    def test_stopped_and_cut_off(self):
        """It wakes with nothing but its memory: nobody has told it, or tells it, what happened meanwhile."""
        self.stopped(cut_off=True)

    def stopped(self, cut_off):
        """What it is asked while it sleeps, it may answer when it wakes: not out of its memory, and with no write of its old
        epoch (G2, E1). All of it is part of the history."""
        cluster = self.cluster
        cluster.wait_in_sync()
        node = cluster.pick_primary()
        led = cluster.led_by(node, node)
        load = self.begin_load(cluster.others(node))
        cluster.pause(node, "sidecar")
        if cut_off:
            cluster.net.cut(cluster.at(node), cluster.at(*cluster.others(node), *cluster.coordinator_names))
        wait_until(lambda: not any(key.endswith(f"/live/{node}") for key in cluster.keys("live/")), GO_ON_S, "its session to end")
        self.goes_on(load, f"reads and writes without {node}", each=20)
        epochs = {shard["id"]: shard["epoch"] for shard in cluster.ask(cluster.others(node)[0], "GET", "/cluster")[1]["shards"]}
        sleeper = Client([cluster.url(node)], deadline_s=60, attempt_s=60)
        self.addCleanup(sleeper.close)
        before = len(load.acks)
        with concurrent.futures.ThreadPoolExecutor(40) as pool:
            # The kernel takes these connections for it.
            asked = [pool.submit(load.get, sleeper, key, f"asked of {node} asleep") for key in load.any_keys(20)]
            asked += [pool.submit(load.put, sleeper, key, load.new_value(), f"written to {node} asleep")
                      for key in load.any_keys(20)]
            wait_until(lambda: all(f.running() or f.done() for f in asked), GO_ON_S, "all to have asked")
            self.goes_on(load, "reads and writes meanwhile", each=20)
            cluster.resume(node, "sidecar")
            for key in load.any_keys(20) if cut_off else ():
                self.assertEqual(cluster.ask(node, "GET", GET + key, timeout_ms=50)[0], 503)
            cluster.net.mend()
            for future in asked:
                future.result()
        for _, _, shard, epoch in load.acks[before:]:
            self.assertGreaterEqual(epoch, epochs[shard], f"a write was confirmed in an epoch of shard {shard} that is over")
        self.checked(load, "a primary stopped longer than its session" + (" and cut off" if cut_off else ""))
        after = cluster.wait_in_sync()
        for shard in led:
            self.assertGreaterEqual(after.shards[shard]["epoch"], epochs[shard])

    def test_cut_off_from_the_coordinator(self):
        """It hands over what it leads while replicas and clients still reach it: nothing expires, no request fails."""
        cluster = self.cluster
        cluster.wait_in_sync()
        node = cluster.pick_primary()
        led, others = cluster.led_by(node, node), cluster.others(node)
        handed = "the primary handed over: stands for a new epoch"
        before = sum(cluster.log_text(n).count(handed) for n in others)
        load = self.begin_load()
        cluster.net.cut(cluster.at(node), cluster.at(*cluster.coordinator_names))
        cluster.wait_leads_nothing(node)
        self.assertGreaterEqual(sum(cluster.log_text(n).count(handed) for n in others) - before, len(led), "not handed over")
        self.goes_on(load, f"reads and writes while {node} is cut off from the coordinator", each=20)
        cluster.net.mend()
        self.checked(load, "a primary cut off from the coordinator")
        self.assert_none(load.failed)

    def test_cut_off_from_everything(self):
        """From replicas and coordinator, while clients reach it: from a grant after the cut on it answers no linearizable read, it
        confirms no write, bounded reads end when they would be too old, and eventual reads go on."""
        cluster = self.cluster
        cluster.wait_in_sync()
        node = cluster.pick_primary()
        load = self.begin_load(cluster.others(node))
        keys, elsewhere = load.any_keys(20), self.led_elsewhere(node)
        served, stop = [], threading.Event()

        def reader():
            turn = 0
            while not stop.is_set():
                begin = clock_s()
                status, _ = cluster.ask(node, "GET", GET + keys[turn % len(keys)], timeout_ms=50)
                served.append((begin, status))
                turn += 1

        readers = [threading.Thread(target=reader) for _ in range(3)]
        for thread in readers:
            thread.start()
        self.addCleanup(stop.set)
        wait_until(lambda: sum(status in (200, 404) for _, status in served) > 50, GO_ON_S, "linearizable reads")
        cluster.net.cut(cluster.at(node), cluster.at(*cluster.others(node), *cluster.coordinator_names))
        cut = clock_s()
        wait_until(lambda: sum(begin > cut + GRANT_MS / 1000 for begin, _ in served) > 20, GO_ON_S, "reads after the cut")
        for key in keys:
            number, begin = load.new_value(), clock_s()
            status, value = cluster.ask(node, "PUT", PUT, {"points": [point_of(key, number)]}, timeout_ms=100)
            self.assertEqual(status, 503, value)
            self.assertIn(value["applied"], (False, "unknown"), value)
            if value["applied"] == "unknown":  # Otherwise nobody may ever find it: so says the history.
                load.note(key, Operation(True, number, begin, None, f"written to {node} cut off"))
            self.assertEqual(cluster.ask(node, "GET", GET + key, timeout_ms=100)[0], 503)
            self.assertIn(cluster.ask(node, "GET", GET + key + "?consistency=eventual", timeout_ms=PATIENT_MS)[0], (200, 404))
        self.goes_on(load, f"reads and writes without {node}", each=20)
        for key in keys[:5]:  # By now it has no proof that what it has is younger than half a second.
            self.assertEqual(cluster.ask(node, "GET", GET + key + "?consistency=bounded", timeout_ms=100)[0], 503)
        # What it leads itself it takes, never to confirm it (unknown); what others lead it cannot pass on.
        if elsewhere:
            cluster.wait_refused(node, PUT, {"points": [point_of(elsewhere, 1)]}, "")
        stop.set()
        for thread in readers:
            thread.join()
        late = [begin - cut for begin, status in served if status != 503 and begin > cut + GRANT_MS / 1000]
        self.assertEqual(late, [], "linearizable reads answered so many seconds after the cut")
        cluster.net.mend()
        self.checked(load, "a primary cut off from everything")

    def led_elsewhere(self, node):
        """A key whose shard another node leads; None if there is none."""
        led = self.cluster.led_by(node, node)
        for i in range(100):
            key = f"elsewhere-{i}"
            if self.cluster.client(node).put(COLLECTION, [point_of(key, 0)]).positions[0][0] not in led:
                return key
        return None


if __name__ == "__main__":
    unittest.main()
