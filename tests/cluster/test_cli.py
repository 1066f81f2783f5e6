"""The commands as their users meet them: what they say, how they end."""
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import unittest
import urllib.error
import urllib.request

from harness import ETCD, PROGRAM, Cluster, ClusterTest, free_ports, run, start_process, tail, wait_until

COMMANDS = ["sidecar", "dev", "load", "cluster init", "cluster status", "cluster list-nodes", "cluster health",
            "cluster failover",
            "certs ca", "certs node", "certs client", "certs all", "certs show", "cluster enable-compression"]


class TestWords(unittest.TestCase):
    def test_help_teaches(self):
        for command in COMMANDS:
            for done in (run(*command.split(), "--help"), run("help", *command.split())):
                self.assertEqual(done.returncode, 0, command)
                self.assertIn("Examples:\n", done.stdout)
                self.assertIn(f"outrigger {command}", done.stdout)
        done = run("help")
        self.assertEqual(done.returncode, 0)
        for command in COMMANDS:
            self.assertIn(f"  {command}  ", done.stdout)

    def test_version(self):
        done = run("version")
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stdout, r"^outrigger \d+\.\d+\.\d+\n$")

    def test_wrong_usage_is_exit_code_2_with_a_suggestion(self):
        for arguments, words in (((), "usage: outrigger"), (("cluster",), "usage: outrigger cluster"),
                                 (("statsu",), "unknown command"), (("sidecra",), 'did you mean "sidecar"?'),
                                 (("certs",), "usage: outrigger certs"), (("certs", "nod"), 'did you mean "node"?'),
                                 (("certs", "node", "--node", "n"), "--dir is missing"),
                                 (("certs", "show"), "which file?"),
                                 (("cluster", "stauts"), 'did you mean "status"?'),
                                 (("cluster", "status", "--jsno"), "did you mean --json?"),
                                 (("sidecar", "--node", "n"), "--data is missing (or OUTRIGGER_DATA"),
                                 (("sidecar", "--node", "n", "--data", "/d", "--engine", "x"), 'there is no "x"'),
                                 (("sidecar", "--node", "n", "--data", "/d", "--log-level", "x"), "none of error"),
                                 (("sidecar", "--node", "n", "--data", "/d", "--compression", "x"), "none of auto"),
                                 (("cluster", "enable-compression"), "--algorithm is missing"),
                                 (("cluster", "enable-compression", "--algorithm", "lz4"), "nothing was changed"),
                                 (("sidecar", "--node", "n", "--data", "/d", "--listen", "nowhere.invalid:1"),
                                  "no address of this host"),
                                 (("load", "--file", "f", "--collection", "a/b"), "is not a name")):
            done = run(*arguments)
            self.assertEqual(done.returncode, 2, done)
            self.assertIn(words, done.stderr)
            self.assertEqual(done.stdout, "")

    def test_nobody_there_is_exit_code_1(self):
        port = free_ports(1)[0]
        for command in ("status", "list-nodes", "health"):
            for asked in (("--sidecar", f"127.0.0.1:{port}"), ("--endpoints", f"http://127.0.0.1:{port}")):
                done = run("cluster", command, *asked)
                self.assertEqual(done.returncode, 1, done)
                self.assertIn(f"127.0.0.1:{port}", done.stderr)
        done = run("cluster", "enable-compression", "--algorithm", "zstd", "--endpoints", f"http://127.0.0.1:{port}")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn(f"127.0.0.1:{port}", done.stderr)


class TestSidecarStart(unittest.TestCase):
    """A sidecar alone: its coordinator and its engine are not there."""

    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="outrigger-test-")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.client_port, self.peer_port, self.etcd_port, self.other_port = free_ports(4)
        self.log = os.path.join(self.directory, "log")

    def arguments(self, **changes):
        settings = {"node": "node-1", "data": os.path.join(self.directory, "data"),
                    "listen": f"127.0.0.1:{self.client_port}", "peer-listen": f"127.0.0.1:{self.peer_port}",
                    "endpoints": f"http://127.0.0.1:{self.etcd_port}", "engine-url": f"http://127.0.0.1:{self.other_port}"}
        settings.update({name.replace("_", "-"): value for name, value in changes.items()})
        return ["sidecar"] + [word for name, value in settings.items() for word in (f"--{name}", value)]

    def start(self, **changes):
        if os.path.exists(self.log):
            os.remove(self.log)
        child = start_process(PROGRAM + self.arguments(**changes), self.log)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        wait_until(lambda: child.poll() is not None or "serve: cluster" in tail(self.log, 50), 20, "the sidecar")
        self.assertIsNone(child.poll(), tail(self.log))
        return child

    def refused(self, words, **changes):
        done = run(*self.arguments(**changes), timeout=20)
        self.assertEqual(done.returncode, 1, done)
        self.assertIn(words, done.stderr)

    def stop(self, child):
        child.terminate()
        self.assertEqual(child.wait(20), 0, tail(self.log))

    def healthy(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.client_port}/healthz", timeout=5) as answer:
            return answer.status == 200

    def not_ready(self):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.client_port}/readyz", timeout=5).close()
        except urllib.error.HTTPError as error:
            with error:
                self.assertEqual(error.code, 503)
                return json.load(error)["error"]["message"]
        return self.fail("it is ready")

    def test_waits_for_its_coordinator_and_says_so(self):
        child = self.start()
        self.assertTrue(self.healthy())
        wait_until(lambda: re.search(r"WARN.*(etcd|coordinator)", tail(self.log, 50)), 10, "a warning")
        sidecar = ("--sidecar", f"http://127.0.0.1:{self.client_port}")
        self.assertRegex(self.not_ready(), f"^waiting for the coordinator, .*{self.etcd_port}")
        done = run("cluster", "health", "--json", *sidecar)
        self.assertEqual(done.returncode, 1, done)
        value = json.loads(done.stdout)
        self.assertEqual((value["healthy"], value["writable"]), (False, False))
        self.assertEqual([p["node"] for p in value["problems"]], ["node-1", "node-1"])
        self.assertRegex(value["problems"][0]["problem"], f"^cannot use the coordinator: .*{self.etcd_port}")
        self.assertEqual(value["problems"][1]["problem"], "its engine is down")
        self.assertRegex(run("cluster", "list-nodes", "--with-stats", *sidecar).stdout, r"(?m)^node-1 +cut off +0/0/0 ")
        etcd = start_process([ETCD, "--data-dir", os.path.join(self.directory, "etcd"),
                              "--listen-client-urls", f"http://127.0.0.1:{self.etcd_port}",
                              "--advertise-client-urls", f"http://127.0.0.1:{self.etcd_port}",
                              "--listen-peer-urls", f"http://127.0.0.1:{self.other_port}"], self.log + ".etcd")
        self.addCleanup(etcd.wait)
        self.addCleanup(etcd.kill)
        endpoints = ("--endpoints", f"http://127.0.0.1:{self.etcd_port}")
        wait_until(lambda: json.loads(run("cluster", "list-nodes", "--json", *endpoints).stdout or '{"nodes":[]}')["nodes"],
                   30, "the node to be registered", 0.2)
        done = run("cluster", "status", *endpoints)
        self.assertEqual(done.returncode, 0)
        self.assertIn("not initialised yet", done.stdout)
        self.assertIn("'outrigger cluster init'", self.not_ready().replace("`", "'"))
        done = run("cluster", "health", *endpoints)
        self.assertEqual(done.returncode, 1)
        self.assertIn("it is not initialised\n      -> 'outrigger cluster init' makes", done.stdout)
        # More nodes than there are: waits, and says for what; interrupted, it has made nothing.
        done = run("cluster", "init", "--nodes", "2", "--timeout", "500ms", *endpoints)
        self.assertEqual(done.returncode, 1)
        self.assertIn("waiting for 2 nodes, 1 live: node-1", done.stderr)
        done = run("cluster", "init", "--nodes", "1", "--shards", "3", *endpoints)
        self.assertEqual(done.returncode, 0, done)
        self.assertIn("is initialised: 3 shards, 1 replicas each", done.stdout)
        done = run("cluster", "init", "--nodes", "1", "--json", *endpoints)
        self.assertEqual(json.loads(done.stdout), {"cluster": "outrigger", "created": False, "shards": 3,
                                                   "replication_factor": 1, "min_in_sync": 1})
        done = run("cluster", "init", "--nodes", "1", "--shards", "4", *endpoints)
        self.assertEqual(done.returncode, 1)
        self.assertIn("shards 3 instead of 4; nothing was changed", done.stderr)
        wait_until(lambda: "every shard can be written\n" in run("cluster", "health", *endpoints).stdout, 20,
                   "a writable cluster", 0.2)
        done = run("cluster", "health", *endpoints)
        self.assertEqual(done.returncode, 1, "its engine is not there")
        self.assertIn("node node-1 its engine is down\n      -> start its engine again", done.stdout)
        self.stop(child)

    def test_a_token_is_asked_for(self):
        """Without one nothing is told, with too weak a one nothing is changed, and the words say which it takes."""
        path, tokens = os.path.join(self.directory, "tokens"), {}
        for role in ("read", "write", "admin"):
            done = run("token", "--role", role, "--name", role, "--file", path)
            self.assertEqual(done.returncode, 0, done)
            tokens[role] = done.stdout.strip()
        child = self.start(tokens=path)
        sidecar = ("--sidecar", f"http://127.0.0.1:{self.client_port}")

        def asked(command, *arguments, token=None):
            done = run("cluster", command, *arguments, *sidecar, env=dict(os.environ, OUTRIGGER_TOKEN=tokens.get(token, "")))
            self.assertEqual(done.returncode, 1, done)
            for secret in tokens.values():
                self.assertNotIn(secret, done.stdout + done.stderr)
            return done

        self.assertIn("HTTP status 401", asked("failover", "--shard", "0").stderr)
        self.assertIn("HTTP status 401", asked("health").stderr)
        for role in ("read", "write"):
            self.assertRegex(asked("failover", "--shard", "0", token=role).stderr, r"admin.*HTTP status 403")
        self.assertIn("there is no shard 0", asked("failover", "--shard", "0", token="admin").stderr)
        self.assertIn("cannot use the coordinator", asked("health", token="read").stdout)
        self.stop(child)

    def test_settings_from_environment_and_file(self):
        path = os.path.join(self.directory, "outrigger.yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"# a node\nnode: from-file\ndata: {self.directory}/data\nlisten: 127.0.0.1:{self.client_port}\n"
                       f"peer_listen: 127.0.0.1:{self.peer_port}\n"
                       f"endpoints: [http://127.0.0.1:{self.etcd_port}, http://127.0.0.1:{self.other_port}]\n")
        environment = dict(os.environ, OUTRIGGER_CONFIG=path, OUTRIGGER_NODE="from-environment")
        child = start_process(PROGRAM + ["sidecar"], self.log, env=environment)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        wait_until(lambda: "serve: cluster outrigger node from-environment" in tail(self.log, 50), 20, "the sidecar")
        self.stop(child)
        with open(path, "a", encoding="utf-8") as file:
            file.write("lisen: 1\n")
        done = run("sidecar", "--config", path)
        self.assertEqual(done.returncode, 2)
        self.assertIn(f"{path}:7: unknown setting lisen; did you mean listen?", done.stderr)

    def test_ports_in_use(self):
        child = self.start()
        self.refused(f"{self.client_port}", data=self.directory + "/other", peer_listen=f"127.0.0.1:{self.other_port}")
        self.refused(f"{self.peer_port}", data=self.directory + "/other", listen=f"127.0.0.1:{self.other_port}")
        self.assertTrue(self.healthy())
        self.stop(child)

    def test_a_second_signal_ends_it_at_once(self):
        child = self.start()
        for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
            child.send_signal(number)
        self.assertEqual(child.wait(10), 1, tail(self.log))
        self.assertIn("leaving at once", tail(self.log))

    def test_data_directory_of_somebody_else(self):
        child = self.start()
        ports = {"listen": f"127.0.0.1:{self.other_port}", "peer_listen": f"127.0.0.1:{self.etcd_port}"}
        self.refused("use", **ports)  # by the one that runs
        self.stop(child)
        self.refused("node-1", node="node-2")
        self.refused("outrigger", cluster="another")
        self.stop(self.start())

    def test_waits_for_the_end_of_a_process_that_was_killed(self):
        """Its lock is gone only when its last thread is."""
        data = os.path.join(self.directory, "data")
        os.mkdir(data)
        with open(os.path.join(data, "LOCK"), "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            child = start_process(PROGRAM + self.arguments(), self.log)
            self.addCleanup(child.wait)
            self.addCleanup(child.kill)
            wait_until(lambda: "waiting a moment" in tail(self.log, 50), 20, "the sidecar to wait")
        wait_until(lambda: child.poll() is not None or "serve: cluster" in tail(self.log, 50), 20, "the sidecar")
        self.stop(child)

    def test_data_directory_that_cannot_be(self):
        path = os.path.join(self.directory, "file")
        with open(path, "w", encoding="utf-8"):
            pass
        self.refused("the directory above it must exist", data=self.directory + "/a/b")
        self.refused("is not a directory", data=path)
        self.refused("cannot make the directory", data="/proc/outrigger")

    @unittest.skipUnless(os.geteuid() == 0, "takes another user's rights")
    def test_data_directory_that_may_not_be_written(self):
        path = os.path.join(self.directory, "readable")
        os.mkdir(path, 0o555)
        os.chmod(self.directory, 0o755)
        done = subprocess.run(PROGRAM + self.arguments(data=path), capture_output=True, text=True, timeout=20, user=65534,
                              group=65534, extra_groups=[])
        self.assertEqual(done.returncode, 1, done)
        self.assertIn(f"cannot write in {path}", done.stderr)


class TestLoad(ClusterTest):
    shards = 4

    def load(self, lines, *arguments, endpoints=None):
        path = os.path.join(self.cluster.directory, "points.jsonl")
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join(lines))
        endpoints = endpoints or ",".join(self.cluster.url(node) for node in self.cluster.node_ids)
        return run("load", "--collection", self.collection, "--file", path, "--endpoint", endpoints, *arguments)

    def setUp(self):
        self.collection = self.id().rsplit(".", 1)[-1]

    def points(self):
        return self.cluster.client().request("GET", f"/collections/{self.collection}").json["points"]

    @staticmethod
    def lines(count, first=0):
        return [json.dumps({"id": f"p{i}", "vector": [1, i, 0.5], "metadata": {"i": i}})
                for i in range(first, first + count)]

    def test_all_lines(self):
        done = self.load(self.lines(2500), "--create-dimension", "3", "--metric", "euclidean")
        self.assertEqual(done.returncode, 0, done)
        self.assertRegex(done.stdout, r"^test_all_lines: 2500 points in .* 0 retries, 0 failed\n$")
        self.assertEqual(self.points(), 2500)
        # Once more over what exists: upserts.
        done = self.load(self.lines(2500), "--create-dimension", "3")
        self.assertEqual(done.returncode, 0, done)
        self.assertEqual(self.points(), 2500)

    def test_bad_lines_are_named_and_the_others_loaded(self):
        lines = self.lines(300)
        lines[10] = "not JSON"
        lines[150] = '{"id":"short","vector":[1]}'
        lines[290] = '{"id":"","vector":[1,2,3]}'
        lines[200] = ""
        done = self.load(lines, "--create-dimension", "3", "--batch", "64")
        self.assertEqual(done.returncode, 1, done)
        self.assertIn("points.jsonl:11: is not one JSON object\n", done.stderr)
        self.assertRegex(done.stderr, r"points\.jsonl:151: .*dimension")
        self.assertRegex(done.stderr, r"points\.jsonl:291: .*id")
        self.assertIn("296 points", done.stdout)
        self.assertIn("3 failed", done.stdout)
        self.assertEqual(self.points(), 296)

    def test_points_without_ids_get_some(self):
        done = self.load(['{"vector":[1,2,3]}', '{"vector":[1,2,3],"metadata":{}}'], "--create-dimension", "3")
        self.assertEqual(done.returncode, 0, done)
        self.assertEqual(self.points(), 2)

    def test_from_standard_input(self):
        command = PROGRAM + ["load", "--collection", self.collection, "--file", "-", "--create-dimension", "3",
                             "--endpoint", self.cluster.url("node-1")]
        done = subprocess.run(command, input="\n".join(self.lines(7)), capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done)
        self.assertEqual(self.points(), 7)

    def test_interrupted_while_it_waits_for_input(self):
        command = PROGRAM + ["load", "--collection", self.collection, "--file", "-", "--create-dimension", "3",
                             "--endpoint", self.cluster.url("node-1")]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
            wait_until(lambda: self.points_or_none() == 0, 20, "the collection")
            child.send_signal(signal.SIGINT)
            self.assertEqual(child.wait(10), -signal.SIGINT)

    def test_a_collection_that_does_not_exist(self):
        done = self.load(self.lines(1000))
        self.assertEqual(done.returncode, 1, done)
        self.assertIn("--create-dimension makes it", done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)

    def test_a_node_that_dies_meanwhile(self):
        """Every line is there in the end, whatever was under way when the node died."""
        command = PROGRAM + ["load", "--collection", self.collection, "--file", "-", "--create-dimension", "3",
                             "--batch", "20", "--endpoint",
                             ",".join(self.cluster.url(node) for node in self.cluster.node_ids)]
        lines = self.lines(6000)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True) as child:
            child.stdin.write("\n".join(lines[:3000]) + "\n")
            child.stdin.flush()
            wait_until(lambda: self.points_or_none(), 20, "the first points")
            victim = self.cluster.pick_primary()
            self.cluster.kill(victim, "sidecar")
            out, err = child.communicate("\n".join(lines[3000:]), timeout=90)
        self.cluster.restart(victim, "sidecar")
        self.assertEqual(child.returncode, 0, out + err)
        self.assertIn("6000 points", out)
        self.cluster.wait_in_sync()
        wait_until(lambda: self.points() == 6000, 20, "6000 points")

    def points_or_none(self):
        answer = self.cluster.client().request("GET", f"/collections/{self.collection}")
        return answer.json["points"] if answer.status == 200 else None

    def test_an_endpoint_that_is_not_there_is_passed_over(self):
        endpoints = f"http://127.0.0.1:{free_ports(1)[0]},{self.cluster.url('node-2')}"
        done = self.load(self.lines(500), "--create-dimension", "3", endpoints=endpoints)
        self.assertEqual(done.returncode, 0, done)
        self.assertNotIn(" 0 retries", done.stdout)
        self.assertEqual(self.points(), 500)


class TestStatus(ClusterTest):
    def setUp(self):
        self.cluster.wait_in_sync()

    def ask(self, *arguments):
        done = run("cluster", *arguments)
        self.assertEqual(done.returncode, 0, done)
        return done.stdout

    def sources(self):
        return [("--sidecar", self.cluster.url("node-3")), self.cluster.coordinator.arguments]

    def test_json_is_the_same_from_both_sources(self):
        seen = []
        for source in self.sources():
            value = json.loads(self.ask("status", "--json", *source))
            self.assertEqual(set(value), {"cluster", "shards", "nodes"})
            for shard in value["shards"]:
                self.assertEqual(set(shard), {"id", "range", "epoch", "primary", "in_sync", "replicas", "damaged", "index"})
                self.assertIn(shard["primary"], shard["in_sync"])
            for node in value["nodes"]:
                self.assertEqual(set(node), {"id", "state", "live", "client", "peer", "shards", "primaries", "committed"})
                self.assertEqual(set(node["committed"]), {"0", "1", "2", "3"})
            self.assertEqual(json.loads(self.ask("list-nodes", "--json", *source))["nodes"], value["nodes"])
            seen.append(value)
        self.assertEqual(*seen)

    def test_tables(self):
        for source in self.sources():
            table = self.ask("status", *source)
            self.assertIn("cluster outrigger: 4 shards, 3 nodes, 3 of them live", table)
            self.assertRegex(table, r"(?m)^0      00000000-3fffffff  \d+ +node-\d +node-\d node-\d node-\d  - +\d+$")
            self.assertIn("every shard can be written", table)
            self.assertRegex(self.ask("list-nodes", *source), r"(?m)^node-2  active  yes   127\.0\.0\.1:\d+ ")
            self.assertIn("is healthy", self.ask("health", *source))


class TestUnhealthy(unittest.TestCase):
    def test_health_tells_what_cannot_be_written(self):
        cluster = Cluster(shards=2, nodes=3)
        self.addCleanup(cluster.remove)
        self.addCleanup(cluster.stop)
        cluster.start()
        cluster.kill("node-1", "sidecar")
        cluster.kill("node-2", "sidecar")

        def health():
            done = run("cluster", "health", "--json", "--sidecar", cluster.url("node-3"))
            self.assertEqual(done.returncode, 1, done)
            value = json.loads(done.stdout)
            return value if not value["writable"] and len(value["problems"]) == 4 else None

        value = wait_until(health, 20, "both shards and both nodes to be named", 0.2)
        self.assertFalse(value["healthy"])
        self.assertFalse(value["writable"])
        self.assertEqual({p.get("shard") for p in value["problems"]}, {0, 1, None})
        self.assertEqual({p.get("node") for p in value["problems"]}, {"node-1", "node-2", None})
        self.assertTrue(all(p["problem"] and p["action"] for p in value["problems"]), value)
        table = run("cluster", "status", "--sidecar", cluster.url("node-3"))
        self.assertEqual(table.returncode, 0)
        self.assertIn("cannot be written", table.stdout)


if __name__ == "__main__":
    unittest.main()
