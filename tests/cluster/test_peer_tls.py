"""TLS between sidecars in a real cluster: failover, certificates replaced on disk under load, and those who stay out."""
import os
import re
import shutil
import socket
import ssl
import tempfile
import unittest
import urllib.request

from harness import ROOT, ClusterTest, clock_s, option, run, wait_until
from ledger import Load

LIVE = "live"
GO_ON_S = 30
FILES = {"ca": "ca.crt", "cert": "node.crt", "key": "node.key"}


class TestPeerTls(ClusterTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        try:
            cls.secure_all()
        except BaseException:
            cls.cluster.stop()
            cls.cluster.print_logs()
            raise

    @classmethod
    def secure_all(cls):
        """`outrigger dev` has started it plain; every sidecar starts again with a certificate."""
        cluster = cls.cluster
        cls.certs = os.path.join(cluster.directory, "certs")
        os.mkdir(cls.certs)
        cls.plain = {node: list(cluster.processes[node, "sidecar"].command) for node in cluster.node_ids}
        cls.authority("ours", "outrigger", cluster.node_ids)
        for node in cluster.node_ids:
            cls.install(node, "ours")
            cluster.processes[node, "sidecar"].command = cls.plain[node] + cls.settings(node)
        for node in cluster.node_ids:
            cluster.kill(node, "sidecar")
        for node in cluster.node_ids:
            cluster.restart(node, "sidecar")
        cluster.wait_in_sync()
        cluster.client().create_collection(LIVE, 8)

    @classmethod
    def authority(cls, name, of_cluster, nodes):
        """An authority of that name, with certificates of nodes and of one client."""
        done = run("certs", "all", "--dir", os.path.join(cls.certs, name), "--cluster", of_cluster, "--nodes",
                   ",".join(nodes), "--clients", "somebody", "--loopback")
        assert done.returncode == 0, done

    @classmethod
    def source(cls, authority, file):
        return os.path.join(cls.certs, authority, file)

    @classmethod
    def installed(cls, node, what):
        return os.path.join(cls.certs, "installed", node, FILES[what])

    @classmethod
    def install(cls, node, authority, ca=None, name=None):
        """Puts a node's files in place as an operator would: aside, then renamed."""
        os.makedirs(os.path.join(cls.certs, "installed", node), exist_ok=True)
        for what, content in (("ca", ca or [cls.source(authority, "ca.crt")]),
                              ("cert", [cls.source(authority, f"{name or node}.crt")]),
                              ("key", [cls.source(authority, f"{name or node}.key")])):
            target = cls.installed(node, what)
            with open(target + ".new", "wb") as out:
                os.chmod(target + ".new", 0o600)
                for path in content:
                    with open(path, "rb") as part:
                        shutil.copyfileobj(part, out)
            os.replace(target + ".new", target)

    @classmethod
    def settings(cls, node):
        return [word for what in FILES for word in (f"--peer-{what}", cls.installed(node, what))]

    # --- what a test asks ---------------------------------------------------------------------------------------------

    def metric(self, node, name, **labels):
        """The sum of a metric's samples, of one peer or of all."""
        with urllib.request.urlopen(self.cluster.url(node) + "/metrics", timeout=10) as answer:
            text = answer.read().decode()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        found = re.findall(rf"^outrigger_{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
        self.assertTrue(found, f"{node} has no outrigger_{name}")
        return sum(float(value) for text, value in found if all(label in text for label in wanted))

    def each(self, name):
        return {node: self.metric(node, name) for node in self.cluster.node_ids}

    def log(self, node):
        """Since it was started by this test."""
        with open(os.path.join(self.cluster.directory, f"{node}-sidecar-again.log"), encoding="utf-8") as file:
            return file.read()

    def says(self, node, words, since, deadline_s=20):
        wait_until(lambda: words in self.log(node)[since:], deadline_s, f"{node} to say \"{words}\"", 0.1)

    def peer_address(self, node):
        host, port = option(self.cluster.processes[node, "sidecar"].command, "peer-listen").rsplit(":", 1)
        return host.strip("[]"), int(port)

    def context(self, authority, name):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        if name is not None:
            context.load_cert_chain(self.source(authority, f"{name}.crt"), self.source(authority, f"{name}.key"))
        return context

    def shown(self, node, authority):
        """The certificate that a node shows to a new connection, and what it says then."""
        with socket.create_connection(self.peer_address(node), timeout=10) as plain:
            with self.context(authority, "node-1").wrap_socket(plain) as secure:
                secure.recv(9)  # The frame header of HTTP/2's SETTINGS.
                return ssl.DER_cert_to_PEM_cert(secure.getpeercert(binary_form=True))

    def load_goes_on(self, load):
        since = clock_s()
        wait_until(lambda: load.goes_on(self.cluster.shards, since), GO_ON_S, "reads and writes on all shards")

    # --- tests --------------------------------------------------------------------------------------------------------

    def test_metrics_are_documented(self):
        with open(os.path.join(ROOT, "docs", "operations.md"), encoding="utf-8") as file:
            documented = set(re.findall(r"^\| `(outrigger_peer_tls_[a-z_]+)`", file.read(), re.MULTILINE))
        for node in self.cluster.node_ids:
            with urllib.request.urlopen(self.cluster.url(node) + "/metrics", timeout=10) as answer:
                printed = re.findall(r"^# TYPE (outrigger_peer_tls_\S+)", answer.read().decode(), re.MULTILINE)
            self.assertEqual(set(printed), documented)

    def test_failover(self):
        cluster = self.cluster
        before = cluster.wait_in_sync()
        for node, count in self.each("peer_tls_handshakes_total").items():
            self.assertGreaterEqual(count, 2, node)
        for node, expires in self.each("peer_tls_certificate_expires_seconds").items():
            self.assertGreater(expires, 1.7e9, node)
        victim = cluster.pick_primary()
        with Load(cluster.clients(), LIVE) as load:
            self.load_goes_on(load)
            cluster.kill(victim, "sidecar")
            self.load_goes_on(load)
            cluster.restart(victim, "sidecar")
            after = cluster.wait_in_sync()
            self.load_goes_on(load)
        self.assert_none(load.check())
        self.assertEqual(load.refusals(), 0, "clients saw a 503 or 429")
        for shard in before.led_by(victim):
            self.assertGreater(after.shards[shard]["epoch"], before.shards[shard]["epoch"])
        for node in cluster.node_ids:
            self.assert_none(load.read_back(cluster.client(node, alone=True), node))
            self.assertIn("TLSv1.3", self.log(node))

    def test_everything_replaced_under_load(self):
        """A new authority, in the three steps of the manual, while clients read and write: no request fails and no link
        is lost; new connections show the new certificate, and the old authority's vouch for nobody in the end."""
        cluster = self.cluster
        cluster.wait_in_sync()
        self.authority("next", "outrigger", cluster.node_ids)
        lost = self.each("peer_links_lost_total")
        reloads = self.each("peer_tls_reloads_total")
        both = [self.source("ours", "ca.crt"), self.source("next", "ca.crt")]
        with Load(cluster.clients(), LIVE) as load:
            for step, (authority, ca) in enumerate((("ours", both), ("next", both), ("next", None)), 1):
                for node in cluster.node_ids:
                    self.install(node, authority, ca)
                wait_until(lambda: all(now == reloads[node] + step for node, now in
                                       self.each("peer_tls_reloads_total").items()), 20, f"step {step} to be in force")
                self.load_goes_on(load)
        self.assert_none(load.check())
        self.assertEqual(load.refusals(), 0, "clients saw a 503 or 429")
        self.assertEqual(self.each("peer_links_lost_total"), lost)
        self.assertEqual(set(self.each("peer_tls_reloads_failed_total").values()), {0})
        for node in cluster.node_ids:
            with open(self.installed(node, "cert"), encoding="utf-8") as file:
                self.assertEqual(self.shown(node, "next").strip(), file.read().strip())
            with self.assertRaises(ssl.SSLError):
                self.shown(node, "ours")
        victim = cluster.pick_primary()
        cluster.kill(victim, "sidecar")
        cluster.restart(victim, "sidecar")  # New links, with the new ones alone.
        cluster.wait_in_sync()
        shutil.rmtree(self.source("ours", ""))  # The other tests go on with these.
        shutil.copytree(self.source("next", ""), self.source("ours", ""))

    def test_wrong_certificates_stay_out(self):
        """A sidecar with certificates of somebody else's authority runs, and stays out; all say why; the right files
        bring it back without a restart."""
        cluster = self.cluster
        cluster.wait_in_sync()
        node, witness = cluster.node_ids[-1], cluster.node_ids[0]
        self.authority("foreign", "outrigger", cluster.node_ids)
        cluster.kill(node, "sidecar")
        since = {n: len(self.log(n)) for n in cluster.node_ids}
        self.install(node, "foreign")
        cluster.restart(node, "sidecar")
        self.says(node, "signed by an unknown CA", since[node])
        self.says(witness, "signed by an unknown CA", since[witness])
        others = [cluster.client(n) for n in cluster.node_ids if n != node]
        with Load(others, LIVE) as load:
            self.load_goes_on(load)
            status = cluster.status()
            self.assertFalse([s for s in status.shards.values() if node in s["in_sync"]], status)
            self.assertGreaterEqual(self.metric(witness, "peer_tls_handshakes_failed_total"), 1)
            self.assertEqual(self.metric(witness, "peer_up", peer=node), 0)
            self.install(node, "ours")
            cluster.wait_in_sync()
        self.assert_none(load.check())

    def test_what_can_never_work_is_refused_at_the_start(self):
        node, other = self.cluster.node_ids[:2]
        for code, words, settings in (
                (1, f"its name is {other}, expected {node}", self.settings(other)),
                (1, "it is of cluster outrigger, expected elsewhere", self.settings(node) + ["--cluster", "elsewhere"]),
                (2, "--peer-key is missing", self.settings(node)[:4])):
            with tempfile.TemporaryDirectory(prefix="outrigger-test-") as data:
                done = run("sidecar", "--node", node, "--data", data, *settings)
            self.assertEqual(done.returncode, code, done)
            self.assertIn(words, done.stderr)

    def test_a_plain_sidecar_stays_out(self):
        cluster = self.cluster
        cluster.wait_in_sync()
        node, witness = cluster.node_ids[-1], cluster.node_ids[0]
        secured = cluster.processes[node, "sidecar"].command
        cluster.kill(node, "sidecar")
        since = {n: len(self.log(n)) for n in cluster.node_ids}
        cluster.processes[node, "sidecar"].command = self.plain[node]
        cluster.restart(node, "sidecar")
        self.says(node, "the other side speaks TLS and this node does not", since[node])
        self.says(witness, "the other side speaks no TLS: does it lack --peer-ca", since[witness])
        cluster.kill(node, "sidecar")
        cluster.processes[node, "sidecar"].command = secured
        cluster.restart(node, "sidecar")
        cluster.wait_in_sync()

    def test_outsiders(self):
        """No certificate, a client's certificate, no TLS at all: nothing is answered but an alert."""
        address = self.peer_address(self.cluster.node_ids[0])
        for name, words in ((None, "certificate required"), ("somebody", "bad certificate")):
            with socket.create_connection(address, timeout=10) as plain:
                with self.assertRaisesRegex(ssl.SSLError, words):
                    with self.context("ours", name).wrap_socket(plain) as secure:
                        secure.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
                        secure.recv(1)
        with socket.create_connection(address, timeout=10) as plain:
            plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
            answer = b""
            while part := plain.recv(100):
                answer += part
        self.assertEqual(answer[:1], b"\x15", "an alert, and nothing more")
        self.assertEqual(len(answer), 7)


if __name__ == "__main__":
    unittest.main()
