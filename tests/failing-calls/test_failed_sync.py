"""A primary whose fdatasync fails under load: it says so and ends, others take over and nothing acknowledged is lost. When it is
started again, what it has is copied anew, under new log ids: the kernel may have dropped what it had been given."""
import glob
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cluster"))
from harness import BUILD, ClusterTest, clock_s, run, start_process, wait_until
from ledger import Load

PROGRAM = os.path.join(BUILD, "bin-sanitize" if os.environ.get("SANITIZE", "1") == "1" else "bin", "outrigger-failing")
NODE, WAIT_S = "node-2", 60


class TestFailedSync(ClusterTest):
    def start_failing(self):
        """Starts the node anew; (process, the file whose making lets its next fdatasync fail, its log)."""
        cluster = self.cluster
        old = cluster.processes[NODE, "sidecar"]
        order, log = (os.path.join(cluster.directory, name) for name in ("fail-now", "failing.log"))
        cluster.kill(NODE, "sidecar")
        env = dict(os.environ, OUTRIGGER_FAIL=f"fdatasync@{order}",
                   ASAN_OPTIONS=f"log_path={log}.asan:detect_leaks=1:exitcode=0", UBSAN_OPTIONS=f"log_path={log}.asan")
        child = start_process([PROGRAM, *old.command[1:]], log, env=env)
        cluster._add(NODE, "sidecar", old.command, child.pid, old.url, child)
        cluster.wait_in_sync()
        return child, order, log

    def log_ids(self):
        members = self.cluster.shards * len(self.cluster.node_ids)

        def complete():
            logs = self.cluster.log_ids()
            return logs if len(logs) == members else None

        return wait_until(complete, WAIT_S, "all replicas in the published in-sync sets")

    def test_its_data_is_not_trusted(self):
        cluster = self.cluster
        cluster.client().create_collection("c", 8)
        child, order, log = self.start_failing()
        logs = self.log_ids()
        with Load(cluster.clients(), "c") as load:
            began = clock_s()
            wait_until(lambda: load.goes_on(cluster.shards, began), WAIT_S, "writes on all shards")
            if cluster.status().primary(0) != NODE:
                done = run("cluster", "failover", "--shard", "0", "--to-replica", NODE, "--sidecar", cluster.url(NODE))
                self.assertEqual(done.returncode, 0, done)
            with open(order, "wb"):
                pass
            wait_until(lambda: child.poll() is not None, WAIT_S, f"{NODE} to end")
            gone = clock_s()
            wait_until(lambda: load.goes_on(cluster.shards, gone), WAIT_S, "writes without it")
            cluster.restart(NODE, "sidecar")
            cluster.wait_in_sync()
            back = clock_s()
            wait_until(lambda: load.goes_on(cluster.shards, back), WAIT_S, "writes with it")
        self.assert_none(load.check())
        self.assertEqual(child.returncode, 1)
        with open(log, encoding="utf-8", errors="replace") as file:
            text = file.read()
        self.assertIn("(fdatasync) fails", text)
        self.assertIn("not to be trusted before it is read again", text)
        self.assertEqual(glob.glob(f"{log}.asan*"), [])
        for (shard, member), now in self.log_ids().items():
            self.assertEqual(now == logs[shard, member], member != NODE, f"the log of shard {shard} at {member}")
        cluster.wait_level()
        for node in cluster.node_ids:
            self.assert_none(load.read_back(cluster.client(node, alone=True), node))


if __name__ == "__main__":
    unittest.main()
