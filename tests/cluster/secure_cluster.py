"""A secure cluster of real processes for a test: etcd with TLS, client certificates and users, sidecars that speak HTTPS to
clients and mutual TLS to each other, tokens with roles. Everything as docs/security.md says, with `outrigger certs`,
`outrigger token` and `outrigger cluster etcd-role`. node-3 asks its clients for a certificate too.
"""
import glob
import http.client
import json
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import unittest
import urllib.request

from harness import ETCD, PROGRAM, RUVECTOR, Process, free_ports, only_etcd, run, start_process, tail, wait_until

ETCDCTL = os.path.join(os.path.dirname(ETCD), "etcdctl")
NODES = ("node-1", "node-2", "node-3")
POINTS = "/collections/c/points"
PASSWORDS = {"root": secrets.token_hex(16), "outrigger": secrets.token_hex(16)}


class World:
    """The processes and the files."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="outrigger-test-")
        self.processes, self.ports, self.tokens = {}, {}, {}
        self.etcd_port, self.etcd_peer_port = free_ports(2)
        self.etcd_url = f"https://127.0.0.1:{self.etcd_port}"
        self.etcd_has_users = False
        self.tokens_file = self.path("tokens")
        self.printed = []  # by our commands, but for the tokens that they drew

    def path(self, *parts):
        return os.path.join(self.directory, *parts)

    def write(self, name, text, mode=0o600):
        path = self.path(name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, mode)
        return path

    def start(self):
        self.make_certs()
        self.run("certs", "all", "--dir", self.path("strangers"), "--nodes", "node-1", "--loopback", "--clients", "app")
        for role in ("read", "write", "admin"):
            self.draw(role, role)
        self.password_file = self.write("password", PASSWORDS["outrigger"] + "\n")
        self.start_etcd()
        self.make_etcd_users()
        for number, node in enumerate(NODES):
            self.start_node(number, node)
        self.run("cluster", "init", *self.coordinator(), "--nodes", "3", "--replication-factor", "3", "--shards", "2")
        for node in NODES:
            wait_until(lambda: self.ask(node, "GET", "/readyz").status == 200, 60, f"{node} to be ready")
        created = self.ask("node-1", "POST", "/collections", {"name": "c", "dimension": 3}, token="write")
        assert created.status == 201, created.text

    def make_certs(self, *options, directory="certs"):
        self.run("certs", "all", "--dir", self.path(directory), "--nodes", ",".join((*NODES, "etcd-1")), "--loopback",
                 "--clients", "app", *options)

    def run(self, *arguments, code=0, **options):
        done = run(*arguments, **options)
        if arguments[0] != "token":
            self.printed.append(done.stdout + done.stderr)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def draw(self, role, name):
        token = self.run("token", "--role", role, "--name", name, "--file", self.tokens_file).stdout.strip()
        self.tokens[role if role not in self.tokens else name] = token
        self.write(f"{name}.token", token + "\n")
        return token

    def coordinator(self, certificate="app", password=True):
        certs = self.path("certs")
        return ["--endpoints", self.etcd_url, "--coordinator-ca", f"{certs}/ca.crt", "--coordinator-cert",
                f"{certs}/{certificate}.crt", "--coordinator-key", f"{certs}/{certificate}.key", "--coordinator-user",
                "outrigger", *(["--coordinator-password-file", self.password_file] if password else [])]

    def add(self, name, command, **options):
        log = self.path(f"{name}.log")
        child = start_process(command, log, **options)
        self.processes[name] = Process(name, command, child.pid, None, child)

    def start_etcd(self):
        peer = f"http://127.0.0.1:{self.etcd_peer_port}"
        certs = self.path("certs")
        self.add("etcd", [ETCD, "--name=one", f"--data-dir={self.path('etcd')}", f"--listen-client-urls={self.etcd_url}",
                          f"--advertise-client-urls={self.etcd_url}", f"--listen-peer-urls={peer}",
                          f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=one={peer}",
                          f"--cert-file={certs}/etcd-1.crt", f"--key-file={certs}/etcd-1.key", "--client-cert-auth",
                          f"--trusted-ca-file={certs}/ca.crt", "--log-level=warn"])
        wait_until(lambda: self.etcd_up(), 30, "etcd")

    def stop_etcd(self):
        self.processes["etcd"].signal(signal.SIGKILL)
        self.processes["etcd"].child.wait()

    def etcd_up(self):
        try:
            with urllib.request.urlopen(self.etcd_url + "/health", context=self.context(), timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    def etcdctl(self, *command, shell=None, **options):
        """As root, once there are users."""
        certs = self.path("certs")
        environment = dict(os.environ, ETCDCTL_API="3", ETCDCTL_ENDPOINTS=self.etcd_url, ETCDCTL_CACERT=f"{certs}/ca.crt",
                           ETCDCTL_CERT=f"{certs}/app.crt", ETCDCTL_KEY=f"{certs}/app.key",
                           PATH=os.path.dirname(ETCDCTL) + ":" + os.environ["PATH"])
        if self.etcd_has_users:
            environment.update(ETCDCTL_USER="root", ETCDCTL_PASSWORD=PASSWORDS["root"])
        done = subprocess.run(["sh", "-c", shell] if shell else [ETCDCTL, *command], env=environment, capture_output=True,
                              text=True, timeout=30, **options)
        assert done.returncode == 0, f"{command or shell}\n{done.stdout}{done.stderr}"
        return done.stdout

    def make_etcd_users(self):
        self.etcdctl("user", "add", "root", "--interactive=false", input=PASSWORDS["root"])
        self.etcdctl("role", "add", "root")
        self.etcdctl("user", "grant-role", "root", "root")
        self.etcdctl("auth", "enable")
        self.etcd_has_users = True
        self.etcdctl(shell=self.run("cluster", "etcd-role", "--user-password-file", self.password_file).stdout)

    def start_node(self, number, node):
        engine, client, peer = free_ports(3)
        self.ports[node] = client
        os.mkdir(self.path(node))
        self.add(f"{node}-engine", ["node", RUVECTOR, "--data", self.path(node, "engine"), "--port", str(engine), "--host",
                                    "127.0.0.1"])
        certs = self.path("certs")
        command = PROGRAM + [
            "sidecar", "--node", node, "--listen", f"127.0.0.1:{client}", "--peer-listen", f"127.0.0.1:{peer}",
            "--engine-url", f"http://127.0.0.1:{engine}", "--data", self.path(node, "sidecar"), "--log-level", "debug",
            # One gets the password by its environment, the others by a file.
            *self.coordinator(node, password=number != 0),
            "--tokens", self.tokens_file, "--tls-cert", f"{certs}/{node}.crt", "--tls-key", f"{certs}/{node}.key",
            "--peer-ca", f"{certs}/ca.crt", "--peer-cert", f"{certs}/{node}.crt", "--peer-key", f"{certs}/{node}.key"]
        environment = dict(os.environ)
        if number == 0:
            environment["OUTRIGGER_COORDINATOR_PASSWORD"] = PASSWORDS["outrigger"]
        if node == "node-3":
            command += ["--tls-client-ca", f"{certs}/ca.crt"]
        self.add(node, command, env=environment)

    def stop(self):
        wrong = []
        order = [name for name in self.processes if name in NODES] + [n for n in self.processes if n not in NODES]
        for name in order:
            child = self.processes[name].child
            self.processes[name].signal(signal.SIGCONT)
            if child.poll() is not None:
                wrong.append(f"{name} ended by itself with {child.returncode}")
                continue
            self.processes[name].signal(signal.SIGTERM if name in NODES else signal.SIGKILL)
        for name in order:
            try:
                code = self.processes[name].child.wait(20)
                if name in NODES and code not in (0,) and f"{name} ended" not in str(wrong):
                    wrong.append(f"{name}: exit code {code}")
            except subprocess.TimeoutExpired:
                wrong.append(f"{name} does not stop")
                self.processes[name].child.kill()
                self.processes[name].child.wait()
        return wrong

    def logs(self):
        return sorted(glob.glob(self.path("*.log")))

    # --- clients ------------------------------------------------------------------------------------------------------

    def context(self, certs="certs", certificate=True):
        context = ssl.create_default_context(cafile=self.path(certs, "ca.crt"))
        if certificate:
            context.load_cert_chain(self.path(certs, "app.crt"), self.path(certs, "app.key"))
        return context

    def connect(self, node, context=None):
        return http.client.HTTPSConnection("127.0.0.1", self.ports[node], timeout=20, context=context or self.context())

    def ask(self, node, method, path, body=None, token=None, headers=(), context=None):
        """One request on a connection of its own."""
        connection = self.connect(node, context)
        try:
            return self.ask_on(connection, method, path, body, token, headers)
        finally:
            connection.close()

    def ask_on(self, connection, method, path, body=None, token=None, headers=()):
        connection.putrequest(method, path)
        content = json.dumps(body).encode() if body is not None else b""
        if token is not None:
            connection.putheader("Authorization", "Bearer " + self.tokens.get(token, token))
        for name, value in headers:
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(content)))
        connection.endheaders(content)
        answer = connection.getresponse()
        answer.text = answer.read().decode()
        return answer

    def credentials(self, role):
        return ["--ca", self.path("certs", "ca.crt"), "--cert", self.path("certs", "app.crt"), "--key",
                self.path("certs", "app.key"), "--token-file", self.path(f"{role}.token")]

    def url(self, node):
        return f"https://127.0.0.1:{self.ports[node]}"

    def metrics(self, node):
        return self.ask(node, "GET", "/metrics", token="read").text

    def metric(self, node, name):
        for line in self.metrics(node).splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
        raise KeyError(name)


@only_etcd("its TLS and its users, with the roles of ours")
class SecureTest(unittest.TestCase):
    """One world for all tests of a class."""

    world = None

    @classmethod
    def setUpClass(cls):
        cls.world = World()
        try:
            cls.world.start()
        except BaseException:
            cls.world.stop()
            cls.show_logs()
            raise

    @classmethod
    def tearDownClass(cls):
        wrong = cls.world.stop()
        if wrong:
            cls.show_logs()
            raise AssertionError("; ".join(wrong))
        if os.environ.get("KEEP") != "1":
            shutil.rmtree(cls.world.directory, ignore_errors=True)

    @classmethod
    def show_logs(cls):
        print(f"\n--- kept: {cls.world.directory}", file=sys.stderr)
        for path in cls.world.logs():
            print(f"--- {os.path.basename(path)}\n{tail(path)}", file=sys.stderr)
