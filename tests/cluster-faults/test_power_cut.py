"""Power cuts under load: the journals are on ext4 images that lose what was not synced (tests/lib/power_disk.py). All nodes at
once, so that no other replica makes good what a disk forgot, and single nodes. ROUNDS makes it longer, SEED repeats the choices."""
import os
import random
import shutil
import signal
import tempfile
import unittest

from net_cluster import LONG, NetCluster, NetTest
from netns import NotPossible, private_mounts
from power_disk import PowerDisk

ROUNDS = int(os.environ.get("ROUNDS", "40" if LONG else "6"))


class TestPowerCut(NetTest):
    @classmethod
    def make(cls):
        try:
            private_mounts()
            cls.images = tempfile.mkdtemp(prefix="outrigger-test-")
            cls.disks = {f"node-{i + 1}": PowerDisk(f"{cls.images}/image-{i + 1}", f"{cls.images}/node-{i + 1}") for i in range(3)}
        except OSError as error:
            raise NotPossible(f"no ext4 on a loop device: {error}") from None
        return NetCluster(cls.shards, data_of=lambda node: cls.disks[node].directory)

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        for disk in cls.disks.values():
            disk.unmount()
        shutil.rmtree(cls.images)

    def cut(self, nodes):
        """The sidecars are gone, and with them what their disks had not been told to keep."""
        processes = [self.cluster.processes[node, "sidecar"] for node in nodes]
        for process in processes:
            process.signal(signal.SIGKILL)
        for node in nodes:
            self.disks[node].cut()
        for process in processes:
            process.ended()
        for node in nodes:
            self.disks[node].unmount()
            self.disks[node].mount()

    def test_the_disk_forgets(self):
        """Of this test's own tools: what was synced is there, what was not is gone."""
        disk = PowerDisk(f"{self.images}/own", f"{self.images}/own-mounted", 16)
        for name in ("synced", "not-synced"):
            with open(f"{disk.directory}/{name}", "wb", buffering=0) as file:
                file.write(b"x" * 10000)
                if name == "synced":
                    os.fsync(file.fileno())
        with open(f"{disk.directory}/synced", "ab", buffering=0) as file:
            file.write(b"y" * 10000)
        disk.cut()
        disk.unmount()
        disk.mount()
        self.assertEqual(os.listdir(disk.directory).count("not-synced"), 0)
        with open(f"{disk.directory}/synced", "rb") as file:
            self.assertEqual(file.read(), b"x" * 10000)
        disk.unmount()

    def test_again_and_again(self):
        cluster = self.cluster
        cluster.wait_in_sync()
        logs = cluster.log_ids()
        load = self.begin_load(deadline_s=60)
        dice = random.Random(load.seed)
        for turn in range(ROUNDS):
            nodes = cluster.node_ids if turn % 3 != 1 else [dice.choice(cluster.node_ids)]
            self.cut(nodes)
            dice.shuffle(nodes)
            for node in nodes:
                cluster.restart(node, "sidecar")
            self.goes_on(load, f"reads and writes after power cut {turn + 1}, of {nodes}")
        self.checked(load, f"{ROUNDS} power cuts, two of three of all nodes at once")
        self.assertEqual(cluster.log_ids(), logs, "a log was thrown away")


if __name__ == "__main__":
    unittest.main()
