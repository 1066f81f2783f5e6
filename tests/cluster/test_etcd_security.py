"""A cluster on an etcd that trusts nobody: TLS with client certificates, authentication, and a user who has the shipped
role and no more. Everything is made by `outrigger certs` and `outrigger cluster etcd-role`, as docs/security.md says."""
import base64
import glob
import json
import os
import shutil
import subprocess
import unittest
import urllib.error
import urllib.request

from harness import (ETCD, PROGRAM, RUVECTOR, START_S, Cluster, ClusterTest, clock_s, free_ports, only_etcd, run, start_process,
                     wait_until)
from ledger import Load
from outrigger_client import Dev, DevNode

LIVE = "live"
GO_ON_S = 30
PASSWORD, NEXT_PASSWORD, ROOT_PASSWORD = "first-secret-of-shop", "second-secret-of-shop", "root-secret-of-etcd"


def _write(path, text):
    """As an operator replaces a file: aside, then renamed."""
    with open(path + ".new", "w", encoding="utf-8") as file:
        os.chmod(path + ".new", 0o600)
        file.write(text)
    os.replace(path + ".new", path)


class SecureCluster(Cluster):
    """Without `outrigger dev`, which knows a plain etcd only."""

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def start(self):
        self.ids = [f"node-{i + 1}" for i in range(self.nodes)]
        self.authority("ours")
        for name in ["etcd-1", "admin"] + self.ids:
            self.install(name, "ours")
        _write(self.path("password"), PASSWORD + "\n")
        self._start_etcd()
        self._secure_etcd()
        for i, node in enumerate(self.ids):
            self._start_node(node, self.port + 10 * i)
        self.dev = Dev([DevNode(n, self.processes[n, "sidecar"].pid, self.processes[n, "engine"].pid, self.url(n), [], [])
                        for n in self.ids], [self.processes["coordinator", "etcd"].pid])
        done = run("cluster", "init", "--nodes", str(self.nodes), "--shards", str(self.shards), "--timeout", "60s",
                   *self.access("admin"))
        assert done.returncode == 0, done
        self.wait_ready()
        return self

    # --- certificates -------------------------------------------------------------------------------------------------

    def authority(self, name):
        directory = self.path("authorities", name)
        os.makedirs(directory)
        done = run("certs", "all", "--dir", directory, "--nodes", ",".join(self.ids + ["etcd-1"]), "--clients", "admin",
                   "--loopback")
        assert done.returncode == 0, done

    def install(self, name, authority, trusted=None):
        """Puts ca.crt and a pair in place; `trusted`: authorities to trust instead of that one."""
        os.makedirs(self.path("installed", name), exist_ok=True)
        for file, sources in (("ca.crt", [(a, "ca.crt") for a in trusted or [authority]]),
                              ("node.key", [(authority, f"{name}.key")]), ("node.crt", [(authority, f"{name}.crt")])):
            text = ""
            for source in sources:
                with open(self.path("authorities", *source), encoding="utf-8") as part:
                    text += part.read()
            _write(self.path("installed", name, file), text)

    def access(self, name):
        """What a sidecar or a command is told about etcd."""
        return ["--endpoints", self.processes["coordinator", "etcd"].url, "--coordinator-user", "shop",
                "--coordinator-password-file", self.path("password"),
                "--coordinator-ca", self.path("installed", name, "ca.crt"),
                "--coordinator-cert", self.path("installed", name, "node.crt"),
                "--coordinator-key", self.path("installed", name, "node.key")]

    # --- processes ----------------------------------------------------------------------------------------------------

    def _start_etcd(self):
        client_port, peer_port, health_port = free_ports(3)
        url, self.health = f"https://127.0.0.1:{client_port}", f"http://127.0.0.1:{health_port}"
        command = [ETCD, "--name=one", f"--data-dir={self.path('etcd')}", f"--listen-client-urls={url}",
                   f"--advertise-client-urls={url}", f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
                   f"--initial-advertise-peer-urls=http://127.0.0.1:{peer_port}",
                   f"--initial-cluster=one=http://127.0.0.1:{peer_port}", f"--listen-metrics-urls={self.health}",
                   f"--cert-file={self.path('installed', 'etcd-1', 'node.crt')}",
                   f"--key-file={self.path('installed', 'etcd-1', 'node.key')}", "--client-cert-auth",
                   f"--trusted-ca-file={self.path('installed', 'etcd-1', 'ca.crt')}",
                   "--auth-token-ttl=1", "--bcrypt-cost=4", "--logger=zap", "--log-level=warn"]
        child = start_process(command, self.path("etcd.log"))
        self._add("coordinator", "etcd", command, child.pid, url, child)
        self.etcd_serves()

    def etcd_serves(self):
        def healthy():
            try:
                with urllib.request.urlopen(self.health + "/health", timeout=2) as answer:
                    return json.load(answer)["health"] == "true"
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                return False

        wait_until(healthy, START_S, "etcd")

    def etcdctl(self, command, root=True):
        """A line for the shell, with etcdctl as root."""
        files = self.path("installed", "admin", "")
        env = dict(os.environ, ETCDCTL_API="3", ETCDCTL_ENDPOINTS=self.processes["coordinator", "etcd"].url,
                   ETCDCTL_CACERT=files + "ca.crt", ETCDCTL_CERT=files + "node.crt", ETCDCTL_KEY=files + "node.key",
                   PATH=os.path.dirname(ETCD) + ":" + os.environ["PATH"])
        if root:
            env.update(ETCDCTL_USER="root", ETCDCTL_PASSWORD=ROOT_PASSWORD)
        done = subprocess.run(["bash", "-ec", command], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=60)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def _secure_etcd(self):
        done = run("cluster", "etcd-role", "--user", "shop", "--user-password-file", self.path("password"))
        assert done.returncode == 0, done
        _write(self.path("role.sh"), done.stdout)
        _write(self.path("root-password"), ROOT_PASSWORD + "\n")
        self.etcdctl(f"etcdctl role add root; etcdctl user add root --interactive=false <{self.path('root-password')};"
                     f"etcdctl user grant-role root root; sh {self.path('role.sh')}; etcdctl auth enable", root=False)

    def _start_node(self, node, port):
        (engine_port,) = free_ports(1)
        engine = ["node", RUVECTOR, "--data", self.path(node, "engine"), "--port", str(engine_port)]
        sidecar = PROGRAM + ["sidecar", "--node", node, "--listen", f"127.0.0.1:{port}", "--peer-listen",
                             f"127.0.0.1:{port + 1}", "--engine-url", f"http://127.0.0.1:{engine_port}",
                             "--data", self.path(node, "sidecar"), *self.access(node)]
        for what, command in (("engine", engine), ("sidecar", sidecar)):
            os.makedirs(self.path(node, what))
            child = start_process(command, self.path(f"{node}-{what}.log"))
            self._add(node, what, command, child.pid, f"http://127.0.0.1:{port}", child)

    # --- what a test asks it ------------------------------------------------------------------------------------------

    def sessions(self):
        """{node: the lease that its live key is bound to}."""
        found = json.loads(self.etcdctl("etcdctl get --prefix /outrigger/outrigger/live/ -w json")).get("kvs", [])
        return {base64.b64decode(kv["key"]).decode().rsplit("/", 1)[1]: kv["lease"] for kv in found}

    def logins(self):
        """Tokens that etcd has given out, root's among them."""
        with urllib.request.urlopen(self.health + "/metrics", timeout=5) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith('grpc_server_handled_total{grpc_code="OK",grpc_method="Authenticate"'):
                    return int(float(line.rsplit(" ", 1)[1]))
        return 0


@only_etcd("its TLS, users and roles")
class TestEtcdSecurity(ClusterTest):
    @classmethod
    def setUpClass(cls):
        cls.broken = False
        cls.cluster = SecureCluster(cls.shards, cls.nodes)
        try:
            cls.cluster.start()
            cls.cluster.client().create_collection(LIVE, 8)
        except BaseException:
            cls.cluster.stop()
            cls.cluster.print_logs()
            raise

    def load_goes_on(self, load):
        since = clock_s()
        wait_until(lambda: load.goes_on(self.cluster.shards, since), GO_ON_S, "reads and writes on all shards")

    def failover(self, load):
        """Kills the busiest sidecar: each of its shards changes hands, by transactions of the others in etcd."""
        cluster = self.cluster
        before = cluster.wait_in_sync()
        victim = cluster.pick_primary()
        cluster.kill(victim, "sidecar")
        self.load_goes_on(load)
        cluster.restart(victim, "sidecar")
        after = cluster.wait_in_sync()
        self.load_goes_on(load)
        for shard in before.led_by(victim):
            self.assertGreater(after.shards[shard]["epoch"], before.shards[shard]["epoch"])

    def assert_clean(self, load):
        self.assert_none(load.check())
        self.assertEqual(load.refusals(), 0, "clients saw a 503 or 429")

    def test_failover_with_tokens_that_have_ended(self):
        """A token is good for one second of idleness, which watches alone do not interrupt; then etcd restarts,
        which forgets them all. Sessions live on; what needs a token gets another."""
        cluster = self.cluster
        cluster.wait_in_sync()
        sessions = cluster.sessions()
        self.assertEqual(sorted(sessions), cluster.ids)
        with Load(cluster.clients(), LIVE) as load:
            since = clock_s()
            wait_until(lambda: clock_s() - since > 3, 10, "tokens to end")
            logins = cluster.logins()
            self.failover(load)
            self.assertGreater(cluster.logins(), logins)
            sessions = cluster.sessions()
            cluster.kill("coordinator", "etcd")
            self.load_goes_on(load)
            cluster.restart("coordinator", "etcd")
            cluster.etcd_serves()
            self.load_goes_on(load)
            self.assertEqual(cluster.sessions(), sessions)
            self.failover(load)
        self.assert_clean(load)
        for node in cluster.node_ids:
            self.assert_none(load.read_back(cluster.client(node, alone=True), node))

    def test_password_changed(self):
        """In etcd first and in the file some time later: nobody restarts, no session ends."""
        cluster = self.cluster
        cluster.wait_in_sync()
        sessions = cluster.sessions()
        with Load(cluster.clients(), LIVE) as load:
            cluster.etcdctl(f"echo {NEXT_PASSWORD} | etcdctl user passwd shop --interactive=false")
            since = clock_s()
            wait_until(lambda: clock_s() - since > 4, 10, "more than a session's TTL to pass")
            self.load_goes_on(load)
            _write(cluster.path("password"), NEXT_PASSWORD + "\n")
            self.load_goes_on(load)
            self.assertEqual(cluster.sessions(), sessions)
            self.failover(load)
        self.assert_clean(load)

    def test_certificates_changed(self):
        """Another authority signs all certificates, etcd's too; the old one is trusted nowhere in the end. Sidecars are
        not restarted, etcd is, for it reads its trusted authorities once."""
        cluster = self.cluster
        cluster.wait_in_sync()
        sessions = cluster.sessions()
        cluster.authority("next")
        everybody = ["etcd-1", "admin"] + cluster.ids
        with Load(cluster.clients(), LIVE) as load:
            for authority, trusted in (("ours", ["ours", "next"]), ("next", ["ours", "next"]), ("next", ["next"])):
                for name in everybody:
                    cluster.install(name, authority, trusted)
                cluster.kill("coordinator", "etcd")
                cluster.restart("coordinator", "etcd")
                cluster.etcd_serves()
                self.load_goes_on(load)
                wait_until(lambda: cluster.sessions() == sessions, 5, "the same sessions")
            self.all_hear_of_changes()
            self.failover(load)
        self.assert_clean(load)
        shutil.rmtree(cluster.path("authorities", "ours"))  # The other tests go on with these.
        shutil.move(cluster.path("authorities", "next"), cluster.path("authorities", "ours"))

    def all_hear_of_changes(self):
        """A new key in etcd reaches every sidecar, through its watch."""
        cluster = self.cluster
        name = f"c{int(clock_s() * 1000)}"
        cluster.client().create_collection(name, 8)
        wait_until(lambda: all(self.knows(node, name) for node in cluster.node_ids), 20, f"{name} everywhere", 0.1)

    def knows(self, node, collection):
        client = self.cluster.client(node, alone=True)
        return collection in client.request("GET", "/collections").json["collections"]

    def test_who_stays_out(self):
        """A wrong password, no password, no certificate, another's certificate: words say which, and no secret is in
        them."""
        cluster = self.cluster
        _write(cluster.path("wrong"), "wrong-secret\n")
        good = cluster.access("admin")
        other = cluster.path("other")
        self.assertEqual(run("certs", "all", "--nodes", "node-1", "--clients", "admin", "--dir", other).returncode, 0)

        def with_option(name, value):
            changed = list(good)
            changed[changed.index(f"--{name}") + 1] = value
            return changed

        for words, access in (
                ("authentication failed", with_option("coordinator-password-file", cluster.path("wrong"))),
                ("authentication failed", with_option("coordinator-user", "nobody")),
                ("user name is empty", good[:2] + good[6:]),
                ("refused our certificate, or the lack of one", good[:8]),
                ("refused our certificate", good[:8] + ["--coordinator-cert", f"{other}/admin.crt", "--coordinator-key", f"{other}/admin.key"]),
                ("unable to get local issuer certificate", with_option("coordinator-ca", f"{other}/ca.crt"))):
            done = run("cluster", "init", "--nodes", "3", "--shards", str(cluster.shards), "--timeout", "5s", *access)
            self.assertNotEqual(done.returncode, 0, done)
            self.assertIn(words, done.stderr)
            self.assertNotIn("wrong-secret", done.stderr + done.stdout)
        done = run("cluster", "init", "--nodes", "3", "--shards", str(cluster.shards), "--timeout", "20s", *good)
        self.assertEqual(done.returncode, 0, done)

    def test_secrets_are_nowhere(self):
        """Neither in arguments nor in logs nor in metrics."""
        cluster = self.cluster
        said = {}
        for process in cluster.known:
            if process.runs:
                with open(f"/proc/{process.pid}/cmdline", encoding="utf-8") as file:
                    said[f"arguments of {process.name}"] = file.read()
        for node in cluster.node_ids:
            with urllib.request.urlopen(cluster.url(node) + "/metrics", timeout=10) as answer:
                said[f"metrics of {node}"] = answer.read().decode()
        for path in glob.glob(cluster.path("*.log")):
            with open(path, encoding="utf-8", errors="replace") as file:
                said[path] = file.read()
        self.assertGreater(len(said), 10)
        for where, text in said.items():
            for secret in (PASSWORD, NEXT_PASSWORD, ROOT_PASSWORD):
                self.assertNotIn(secret, text, where)


if __name__ == "__main__":
    unittest.main()
