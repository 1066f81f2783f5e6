"""A replica whose disk is emptied, swapped for another's, or rolled back to an old copy, under load: it is not trusted, gets
everything anew, and nothing acknowledged is lost. And a node that missed many writes is sent those and no others."""
import os
import shutil
import unittest

from net_cluster import GO_ON_S, NetTest, clock_s, wait_until

MISSED, BATCH = 100_000, 200


class TestDisks(NetTest):
    def sidecar_data(self, node):
        return os.path.join(self.cluster.data_of(node), "sidecar")

    def lose(self, fault, change, reseeded=True):
        """Kills the node that leads most, changes its disk, starts it again; all under load."""
        cluster = self.cluster
        cluster.wait_in_sync()
        load = self.begin_load()
        node = cluster.pick_primary()
        logs = cluster.log_ids()
        cluster.kill(node, "sidecar")
        self.goes_on(load, f"reads and writes without {node}", each=20)
        change(self.sidecar_data(node))
        cluster.restart(node, "sidecar")
        cluster.wait_in_sync()
        after = cluster.log_ids()
        for shard, member in logs:
            same = self.assertNotEqual if member == node and reseeded else self.assertEqual
            same(logs[shard, member], after[shard, member], f"log of shard {shard} on {member}")
        self.checked(load, fault)
        return node

    def test_emptied(self):
        self.lose("a primary's disk emptied", shutil.rmtree)

    def test_swapped(self):
        """A copy of another node's disk: its log ids are another's, and so is its name."""
        cluster = self.cluster
        cluster.wait_in_sync()
        load = self.begin_load()
        node = cluster.pick_primary()
        other = cluster.others(node)[0]
        logs = cluster.log_ids()
        cluster.kill(node, "sidecar")
        cluster.kill(other, "sidecar")
        own = self.sidecar_data(node)
        shutil.rmtree(own)
        shutil.copytree(self.sidecar_data(other), own)
        cluster.restart(other, "sidecar")
        self.goes_on(load, f"reads and writes without {node}", each=20)
        cluster.restart(node, "sidecar")
        refused = self.refused(node)
        if refused:  # It says what is wrong and ends: the operator empties the disk.
            self.assertIn(other, refused)
            shutil.rmtree(own)
            cluster.restart(node, "sidecar")
        cluster.wait_in_sync()
        after = cluster.log_ids()
        for shard, member in logs:
            same = self.assertNotEqual if member == node else self.assertEqual
            same(logs[shard, member], after[shard, member], f"log of shard {shard} on {member}")
        self.checked(load, "a primary's disk swapped for a replica's")

    def refused(self, node):
        """What a sidecar said that did not want to start; None once it is ready."""
        process = self.cluster.processes[node, "sidecar"]
        wait_until(lambda: not process.runs or self.cluster.ready(node), GO_ON_S, f"{node} to start or to refuse")
        return None if process.runs else "\n".join(self.cluster.log_text(node).splitlines()[-3:])

    def test_rolled_back(self):
        """To a copy made before acknowledged writes, with the very log ids that the in-sync sets name: as when a virtual
        machine is restored from a snapshot. It asks the others before it leads, and they know more (PROTOCOL E4)."""
        cluster = self.cluster
        cluster.wait_in_sync()
        node = cluster.pick_primary()
        cluster.kill(node, "sidecar")
        copy = os.path.join(cluster.directory, self.id())
        shutil.copytree(self.sidecar_data(node), copy)
        cluster.restart(node, "sidecar")
        before = cluster.wait_in_sync()
        load = self.begin_load()
        self.goes_on(load, "writes that the copy lacks", each=60)
        cluster.wait_in_sync()
        logs = cluster.log_ids()
        # All die together: the sets still name the node and its log.
        cluster.kill_at_once([cluster.processes[each, "sidecar"] for each in cluster.node_ids])
        named = {member for member in cluster.log_ids().items() if member[0][1] == node}
        self.assertTrue(named and named <= set(logs.items()), f"{node} is in no set any more, or with another log")
        own = self.sidecar_data(node)
        shutil.rmtree(own)
        shutil.copytree(copy, own)
        cluster.restart(node, "sidecar")
        others = cluster.others(node)
        cluster.restart(others[0], "sidecar")
        cluster.restart(others[1], "sidecar")
        after = cluster.wait_in_sync()
        self.checked(load, "all killed, one disk rolled back to an old copy")
        self.assertGreater(after.shards[0]["epoch"], before.shards[0]["epoch"])

    def test_rolled_back_alone(self):
        """One node's disk, while the primaries that it acknowledged what it lacks to live on. What its former process said counts
        no more (PROTOCOL E3): it is sent what it lacks, and is in no set before it has it."""
        cluster = self.cluster
        cluster.wait_in_sync()
        node = cluster.others(cluster.pick_primary())[0]
        own, copy = self.sidecar_data(node), os.path.join(cluster.directory, self.id())
        cluster.kill(node, "sidecar")
        shutil.copytree(own, copy)
        cluster.restart(node, "sidecar")
        cluster.wait_in_sync()
        load = self.begin_load()
        self.goes_on(load, "writes that the copy lacks", each=60)
        cluster.wait_in_sync()
        cluster.kill(node, "sidecar")
        shutil.rmtree(own)
        shutil.copytree(copy, own)
        cluster.restart(node, "sidecar")
        cluster.wait_in_sync()
        self.checked(load, "one disk rolled back to an old copy")

    def test_missed_writes(self):
        """Only what it missed is sent to a node that was away for 100,000 writes."""
        cluster = self.cluster
        cluster.wait_in_sync()
        client = cluster.client()
        if client.collection("many") is None:
            client.create_collection("many", 4)
        client.put("many", [{"id": f"before-{i}", "vector": [i + 1, 1, 1, 1]} for i in range(BATCH)])
        node = cluster.pick_primary()
        others = cluster.others(node)
        cluster.kill(node, "sidecar", "engine")
        cluster.wait_leads_nothing(node)
        writer = cluster.client(others[0])

        def sent(to):
            return sum(cluster.metric(n, "outrigger_peer_entry_bytes_sent_total", peer=to) for n in others if n != to)

        def sent_each_other():
            return sent(others[0]) + sent(others[1])

        # What those two send each other is what the node misses.
        since = sent_each_other()
        for start in range(0, MISSED, BATCH):
            points = ",".join(f'{{"id":"p{i}","vector":[{i % 997 + 1},1,2,3]}}' for i in range(start, start + BATCH))
            writer.put_bytes("many", f'{{"points":[{points}]}}'.encode())
        wait_until(lambda: {seen[2] for seen, _ in cluster.descriptors().values()} == {frozenset(others)}, GO_ON_S,
                   "the others in sync")
        missed, before = sent_each_other() - since, sent(node)
        cluster.restart(node, "engine", "sidecar")
        began = clock_s()
        cluster.wait_in_sync()
        given = sent(node) - before
        print(f"\n  a node that missed {MISSED} writes: {missed:.0f} bytes of entries missed, {given:.0f} sent "
              f"({given / missed:.3f} times), in sync after {clock_s() - began:.1f} s", flush=True)
        self.assertLessEqual(given, 1.2 * missed)
        self.assertGreaterEqual(given, 0.9 * missed)
        cluster.wait_level(120)
        self.assertEqual(cluster.client(node, alone=True).collection("many")["points"], MISSED + BATCH)


if __name__ == "__main__":
    unittest.main()
