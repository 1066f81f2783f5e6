"""Disks that are full, under load: ext4 images that a file beside the journal fills. A primary hands over to a node that has room;
where none has, writes are answered 507 with `"applied":false` and reads go on; all goes on by itself when there is room."""
import os
import shutil
import tempfile
import unittest

from net_cluster import GO_ON_S, PATIENT_MS, NetCluster, NetTest, wait_until
from netns import NotPossible, private_mounts
from power_disk import PowerDisk
from workload import COLLECTION, DIMENSION

MEGABYTES, PIECE, LITTLE = 160, 1 << 24, 8 << 20


class TestFullDisk(NetTest):
    @classmethod
    def make(cls):
        try:
            private_mounts()
            cls.images = tempfile.mkdtemp(prefix="outrigger-test-")
            cls.disks = {f"node-{i + 1}": PowerDisk(f"{cls.images}/image-{i + 1}", f"{cls.images}/node-{i + 1}", MEGABYTES)
                         for i in range(3)}
        except OSError as error:
            raise NotPossible(f"no ext4 on a loop device: {error}") from None
        return NetCluster(cls.shards, data_of=lambda node: cls.disks[node].directory)

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        for disk in cls.disks.values():
            disk.unmount()
        shutil.rmtree(cls.images)

    def filler(self, node):
        return os.path.join(self.disks[node].directory, "filler")

    def fill(self, *nodes):
        """Not a byte is left; before that, all nodes have noticed that there is little."""
        self.addCleanup(self.make_room, *nodes)
        for leave in (LITTLE, 0):
            for node in nodes:
                with open(self.filler(node), "ab", buffering=0) as file:
                    take = PIECE
                    while take:
                        space = os.statvfs(self.filler(node))
                        if space.f_bfree * space.f_frsize - take < leave:
                            take //= 2
                            continue
                        try:
                            os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), take)
                        except OSError:
                            take //= 2
            if leave:
                wait_until(lambda: all(self.cluster.metric(n, "outrigger_disk_free_bytes") < 2 * leave for n in nodes), GO_ON_S,
                           "the nodes to see that there is little room")

    def make_room(self, *nodes):
        for node in nodes:
            if os.path.exists(self.filler(node)):
                os.remove(self.filler(node))

    def says_full(self, node):
        return self.cluster.metric(node, "outrigger_disk_full") == 1

    def put(self, node, point, timeout_ms=PATIENT_MS):
        return self.cluster.ask(node, "PUT", f"/collections/{COLLECTION}/points",
                                {"points": [{"id": point, "vector": [1] * DIMENSION}]}, timeout_ms)

    def get(self, node, point, timeout_ms=PATIENT_MS):
        return self.cluster.ask(node, "GET", f"/collections/{COLLECTION}/points/{point}", timeout_ms=timeout_ms)

    def test_of_one_node(self):
        cluster = self.cluster
        cluster.wait_in_sync()
        load = self.begin_load(deadline_s=60)
        node = cluster.pick_primary()
        self.assertEqual(self.put(node, "before")[0], 200)
        cluster.wait_level()
        self.fill(node)
        wait_until(lambda: self.says_full(node), GO_ON_S, f"the disk of {node} to be full")
        cluster.wait_leads_nothing(node)
        self.goes_on(load, f"reads and writes while the disk of {node} is full")
        self.assertEqual(self.put(node, "elsewhere")[0], 200)  # by its door, at another's primary
        self.assertEqual(self.get(node, "elsewhere")[0], 200)
        self.assertEqual(self.get(node, "before?consistency=eventual")[0], 200)
        self.make_room(node)
        self.checked(load, "one node's disk full")  # It is in sync again by itself.

    def test_of_all_nodes(self):
        cluster = self.cluster
        cluster.wait_in_sync()
        node = cluster.node_ids[0]
        load = self.begin_load(deadline_s=60)
        self.assertEqual(self.put(node, "before")[0], 200)
        self.fill(*cluster.node_ids)
        wait_until(lambda: all(self.says_full(n) for n in cluster.node_ids), GO_ON_S, "all disks to be full")

        def refused():
            status, answer = self.put(node, "refused", 250)
            self.assertNotEqual(status, 200)
            return status == 507 and answer

        answer = wait_until(refused, GO_ON_S, "a write to be refused for want of space")
        self.assertIs(answer["applied"], False)
        self.assertIn("full", answer["error"]["message"])
        for each in cluster.node_ids:
            self.assertEqual(self.get(each, "before")[0], 200, each)
        self.make_room(*cluster.node_ids)
        wait_until(lambda: self.put(node, "after")[0] == 200, GO_ON_S, "a write to be taken")
        self.checked(load, "all disks full")
        self.assertEqual(self.get(node, "refused")[0], 404)


if __name__ == "__main__":
    unittest.main()
