"""A cluster moves while its sidecars are stopped: from etcd to Consul and back, by `cluster export` and `cluster import`. All
points are there, no replica was seeded anew, elections work; what is wrong is refused and changes nothing."""
import json
import os
import signal
import unittest
import urllib.error
import urllib.request

from harness import ClusterTest, Consul, Etcd, free_ports, needs, run, start_process, wait_until

POINTS = {f"p{i}": [float(i % 7), float(i), 1.0] for i in range(200)}


class OtherCoordinator:
    """A Consul of our own."""

    def __init__(self, directory):
        http, server, gossip = free_ports(3)
        self.url = f"http://127.0.0.1:{http}"
        self.child = start_process(
            [Consul.program, "agent", "-server", "-bootstrap-expect=1", "-node=other", f"-data-dir={directory}/consul-other",
             "-bind=127.0.0.1", "-client=127.0.0.1", f"-http-port={http}", f"-server-port={server}",
             f"-serf-lan-port={gossip}", "-serf-wan-port=-1", "-dns-port=-1", "-log-level=warn",
             "-hcl=performance { raft_multiplier = 1 } disable_update_check = true"],
            os.path.join(directory, "consul-other.log"))
        wait_until(self.leads, 30, "Consul to have a leader", 0.05)

    def leads(self):
        try:
            with urllib.request.urlopen(self.url + "/v1/status/leader", timeout=5) as answer:
                return json.load(answer) != ""
        except OSError:
            return False

    def keys(self):
        try:
            with urllib.request.urlopen(self.url + "/v1/kv/outrigger/?keys", timeout=5) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return []

    def stop(self):
        self.child.kill()
        self.child.wait()


@needs(Consul)
class TestExport(ClusterTest):
    kind = Etcd

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.consul = OtherCoordinator(cls.cluster.directory)
        cls.etcd = ("--backend", "etcd", "--endpoints", cls.cluster.processes["coordinator", "etcd"].url)
        cls.other = ("--backend", "consul", "--endpoints", cls.consul.url)

    @classmethod
    def tearDownClass(cls):
        cls.consul.stop()
        super().tearDownClass()

    def path(self, name):
        return os.path.join(self.cluster.directory, name)

    def export(self, where, name):
        done = run("cluster", "export", *where, "--file", self.path(name))
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(self.path(name), encoding="utf-8") as file:
            return json.load(file), done.stderr

    def refused(self, done, words):
        self.assertEqual(done.returncode, 1, done)
        self.assertIn(words, done.stderr)

    def stop_sidecars(self):
        for node in self.cluster.node_ids:
            self.cluster.processes[node, "sidecar"].signal(signal.SIGTERM)
        for node in self.cluster.node_ids:
            self.cluster.processes[node, "sidecar"].ended(20)

    def start_sidecars(self, where):
        """With one line of their settings changed."""
        for node in self.cluster.node_ids:
            process = self.cluster.processes[node, "sidecar"]
            for name, value in zip(where[::2], where[1::2]):
                process.command[process.command.index(name) + 1] = value
            self.cluster.restart(node, "sidecar")
        self.cluster.wait_ready()
        self.cluster.wait_in_sync()

    def logs_of(self, document):
        return {(name, m["node"]): m["log"] for name, value in document["keys"].items() if name.startswith("shards/")
                for m in value["in_sync"]}

    def check_points(self, expected, missing=()):
        for node in self.cluster.node_ids:
            client = self.cluster.client(node, alone=True)
            for name, vector in expected.items():
                self.assertEqual(client.get("moved", name)["vector"], vector, f"{name} by {node}")
            for name in missing:
                self.assertIsNone(client.get("moved", name), f"{name} by {node}")

    def move(self, from_, to, name):
        """Returns the document that was written."""
        self.stop_sidecars()
        document, said = self.export(from_, name)
        self.assertNotIn("sidecars run", said)
        with open(self.path(name), encoding="utf-8") as file:
            text = file.read()
        self.assertEqual(run("cluster", "export", *from_).stdout, text)
        done = run("cluster", "import", *to, "--file", self.path(name), "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["keys"], len(document["keys"]))
        self.assertEqual(run("cluster", "export", *to).stdout, text)
        self.refused(run("cluster", "import", *to, "--file", self.path(name)), "has a cluster")
        return document

    def test_there_and_back(self):
        cluster = self.cluster
        client = cluster.client()
        client.create_collection("moved", 3)
        client.put("moved", [{"id": name, "vector": vector} for name, vector in POINTS.items()])
        cluster.wait_in_sync()

        logs = self.logs_of(self.export(self.etcd, "live.json")[0])
        self.assertEqual(len(logs), 12)

        # Wrong documents, and a coordinator that has the cluster.
        document, said = self.export(self.etcd, "live.json")
        self.assertIn("3 sidecars run", said)
        self.assertEqual(sorted(document["keys"]), ["collections/moved", "config", "nodes/node-1", "nodes/node-2",
                                                    "nodes/node-3", "shards/0", "shards/1", "shards/2", "shards/3"])
        self.refused(run("cluster", "import", *self.etcd, "--file", self.path("live.json")), "has a cluster")
        for name, change, words in (
                ("another.json", lambda d: d.update(cluster="another"), "of cluster another"),
                ("later.json", lambda d: d.update(version=2), "of version 2"),
                ("hole.json", lambda d: d["keys"].pop("shards/2"), "shards/2"),
                ("odd.json", lambda d: d["keys"].update({"live/node-1": {}}), "live/node-1")):
            changed = json.loads(json.dumps(document))
            change(changed)
            with open(self.path(name), "w", encoding="utf-8") as file:
                json.dump(changed, file)
            self.refused(run("cluster", "import", *self.other, "--file", self.path(name)), words)
        self.assertEqual(self.consul.keys(), [])

        before = self.move(self.etcd, self.other, "to-consul.json")
        cluster.coordinator.delete_keys("")  # What is left in etcd is of no use to anybody: a sidecar with old settings is to wait.
        self.start_sidecars(self.other)
        self.check_points(POINTS)
        # No log was begun anew: nobody had to be seeded.
        self.assertEqual(logs, self.logs_of(self.export(self.other, "there.json")[0]))
        client = cluster.client()
        client.put("moved", [{"id": "q", "vector": [1.0, 2.0, 3.0]}])
        client.request("DELETE", "/collections/moved/points/p0")
        expected = {name: vector for name, vector in POINTS.items() if name != "p0"} | {"q": [1.0, 2.0, 3.0]}

        # A failover by the new coordinator.
        victim = cluster.pick_primary()
        cluster.kill(victim, "sidecar")
        client = cluster.client([n for n in cluster.node_ids if n != victim][0])
        client.put("moved", [{"id": f"r{i}", "vector": [1.0, 2.0, float(i)]} for i in range(20)])
        expected |= {f"r{i}": [1.0, 2.0, float(i)] for i in range(20)}
        cluster.restart(victim, "sidecar")
        cluster.wait_in_sync()

        after = self.move(self.other, self.etcd, "to-etcd.json")
        self.assertEqual(set(before["keys"]), set(after["keys"]))
        self.assertEqual(before["keys"]["config"], after["keys"]["config"])
        self.start_sidecars(self.etcd)
        self.check_points(expected, ("p0",))
        self.assertEqual(logs, self.logs_of(self.export(self.etcd, "back.json")[0]))


if __name__ == "__main__":
    unittest.main()
