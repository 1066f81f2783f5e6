"""`outrigger dev`: what it promises in DESIGN 6.5."""
import json
import os
import shutil
import signal
import tempfile
import unittest

from harness import ETCD, RUVECTOR, Cluster, ClusterTest, free_ports, run, start_time, wait_until


def read_json(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def points(first, count):
    return [{"id": f"p{i}", "vector": [1.0, i, 2.0]} for i in range(first, first + count)]


class TestDev(ClusterTest):
    shards = 2

    def test_dev_json_has_what_the_design_says(self):
        value = read_json(os.path.join(self.cluster.data, "dev.json"))
        self.assertEqual(set(value), {"backend", "coordinator", "nodes"})
        self.assertEqual(value["backend"], self.cluster.kind.name)
        self.assertEqual([set(c) for c in value["coordinator"]], [{"pid", "url", "start"}])
        self.assertEqual([n["id"] for n in value["nodes"]], ["node-1", "node-2", "node-3"])
        for i, node in enumerate(value["nodes"]):
            self.assertEqual(set(node), {"id", "pid", "engine_pid", "client", "peer", "start", "engine_start"})
            self.assertEqual(node["client"], f"127.0.0.1:{self.cluster.port + 10 * i}")
            for pid, start in ((node["pid"], node["start"]), (node["engine_pid"], node["engine_start"])):
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    self.assertEqual(file.read().decode().split("\0")[1:-1], start[1:])

    def test_all_replicas_come_into_sync(self):
        self.cluster.wait_in_sync(10)

    def test_children_inherit_no_connections(self):
        """A connection that several processes hold outlives the one that closes it."""
        def sockets(pid):
            found = set()
            for fd in os.listdir(f"/proc/{pid}/fd"):
                try:
                    found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
                except FileNotFoundError:  # Closed meanwhile.
                    pass
            return {name for name in found if name.startswith("socket:")}

        held = [sockets(process.pid) for process in self.cluster.processes.values()]
        self.assertEqual(sum(map(len, held)), len(set().union(*held)))

    def test_a_second_one_leaves_the_directory_alone(self):
        done = run("dev", "--dir", self.cluster.data, "--etcd", ETCD, "--ruvector", RUVECTOR)
        self.assertEqual(done.returncode, 1)
        self.assertIn("another 'outrigger dev' uses", done.stderr)
        self.assertTrue(all(p.runs for p in self.cluster.processes.values()))

    def test_a_port_in_use_is_named(self):
        with tempfile.TemporaryDirectory() as directory:
            done = run("dev", "--dir", directory, "--port", str(self.cluster.port - 10), "--etcd", ETCD, "--ruvector",
                       RUVECTOR)
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"port {self.cluster.port} of 127.0.0.1 is in use", done.stderr)


class TestLife(unittest.TestCase):
    """One node: starts in a second."""

    def setUp(self):
        self.cluster = Cluster(shards=1, nodes=1)
        self.addCleanup(self.cluster.remove)
        self.addCleanup(self.cluster.stop)

    def put(self, first, count):
        client = self.cluster.client()
        client.request("POST", "/collections", {"name": "c", "dimension": 3})
        answer = client.request("PUT", "/collections/c/points", {"points": points(first, count)})
        self.assertEqual(answer.status, 200, answer)

    def wait_count(self, count):
        client = self.cluster.client()  # Counts are not linearizable: they follow.
        wait_until(lambda: client.request("GET", "/collections/c").json["points"] == count, 10, f"{count} points")

    def test_nothing_outlives_a_kill_and_the_data_stay(self):
        self.cluster.start()
        self.put(0, 10)
        os.kill(self.cluster.child.pid, signal.SIGKILL)
        self.cluster.child.wait()
        for process in self.cluster.known:
            process.ended(10)
        self.cluster.start()
        self.wait_count(10)
        self.put(10, 5)
        self.assertEqual(self.cluster.stop(), [])
        self.assertFalse(os.path.exists(os.path.join(self.cluster.data, "dev.json")))
        self.cluster.start()
        self.wait_count(15)

    def test_interrupted_by_the_user(self):
        self.cluster.start()
        os.kill(self.cluster.child.pid, signal.SIGINT)
        self.assertEqual(self.cluster.child.wait(30), 0)
        self.assertFalse([p.name for p in self.cluster.known if p.runs])

    def test_another_shape_than_the_directory_has(self):
        self.cluster.start()
        self.cluster.stop()
        done = run("dev", "--dir", self.cluster.data, "--nodes", "2", "--etcd", ETCD, "--ruvector", RUVECTOR)
        self.assertEqual(done.returncode, 1)
        self.assertIn("--nodes 1", done.stderr)

    def test_supervised_processes_come_back(self):
        self.cluster.arguments = ["--supervise"]
        self.cluster.start()
        self.put(0, 3)
        path = os.path.join(self.cluster.data, "dev.json")
        before = read_json(path)["nodes"][0]
        os.kill(before["pid"], signal.SIGKILL)
        os.kill(before["engine_pid"], signal.SIGKILL)

        def restarted():
            now = read_json(path)["nodes"][0]
            both = (now["pid"], now["engine_pid"])
            return both if before["pid"] not in both and before["engine_pid"] not in both else None

        for pid in wait_until(restarted, 10, "new processes in dev.json"):
            self.assertIsNotNone(start_time(pid))
        wait_until(lambda: self.cluster.ready("node-1"), 30, "node-1 to be ready again")
        self.wait_count(3)


class TestStartFailures(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="outrigger-test-")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def dev(self, *arguments):
        return run("dev", "--nodes", "1", "--shards", "1", "--dir", self.directory, "--port", str(free_ports(1)[0]),
                   *arguments)

    def test_a_missing_etcd(self):
        done = self.dev("--etcd", "/nowhere/etcd", "--ruvector", RUVECTOR)
        self.assertEqual(done.returncode, 1)
        self.assertIn("/nowhere/etcd is not a program", done.stderr)

    def test_an_engine_that_is_not_there(self):
        done = self.dev("--etcd", ETCD, "--ruvector", "/nowhere/server.js")
        self.assertEqual(done.returncode, 1)
        self.assertIn("server.js was not found", done.stderr)

    def test_a_coordinator_that_ends_at_once(self):
        done = self.dev("--etcd", "/bin/false", "--ruvector", RUVECTOR)
        self.assertEqual(done.returncode, 1)
        self.assertIn("etcd ended at its start: exit code 1", done.stderr)

    def test_settings_that_do_not_exist(self):
        for arguments, words in ((("--backend", "zookeeper"), "starts --backend etcd"), (("--nodes", "0"), "from 1 to"),
                                 (("--shard", "3"), "did you mean --shards?"), (("--nodes",), "needs a value")):
            done = run("dev", *arguments)
            self.assertEqual(done.returncode, 2, done)
            self.assertIn(words, done.stderr)


if __name__ == "__main__":
    unittest.main()
