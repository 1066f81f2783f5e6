"""A real cluster for a test: `outrigger dev` in a directory of its own, and everything that a test does to its processes.

`ClusterTest` starts one cluster per test class and stops it afterwards; all processes die with the test, whatever
happens. The directory is kept, and the tails of the logs are printed, when a test of the class failed. BUILD names the
build directory (default "build"), BACKEND the coordinator (etcd or consul; default etcd), KEEP=1 keeps directories of
passing tests too.
"""
import ctypes
import glob
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "lib"))
from coordinator import KIND, Consul, Coordinator, Etcd, needs, only_etcd  # noqa: E402,F401
from outrigger_client import Client, GaveUp, read_dev, wait_until  # noqa: E402,F401

BUILD = os.path.join(ROOT, os.environ.get("BUILD", "build"))
PROGRAM = os.environ.get("OUTRIGGER", os.path.join(BUILD, "outrigger")).split()
ETCD = Etcd.program
RUVECTOR = os.path.join(ROOT, "engines", "ruvector", "node", "server.js")
START_S, STOP_S, IN_SYNC_S = 60, 30, 60
_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent():
    _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; counts for the thread that forks: the main one


def start_process(command, log_path, **options):
    """A child in a group of its own that dies with us; its output goes to log_path."""
    with open(log_path, "ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT,
                                start_new_session=True, preexec_fn=_die_with_parent, **options)


def run(*arguments, timeout=60, **options):
    """Runs the program to its end: CompletedProcess with text."""
    return subprocess.run(PROGRAM + list(arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=ROOT,
                          timeout=timeout, **options)


def free_ports(count):
    """Ports that nobody listens on, below those that the kernel gives to outgoing connections."""
    found = []
    while len(found) < count:
        port = random.randrange(12000, 32000)
        if port not in found and _is_free(port):
            found.append(port)
    return found


def _is_free(port):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False


def _free_base(nodes):
    while True:
        base = random.randrange(12000, 31000)
        if all(_is_free(base + 10 * i + j) for i in range(nodes) for j in range(2)):
            return base


def start_time(pid):
    """When the process started, in the kernel's ticks; None when there is none (or only its exit code is left)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        # The first thread of a process that was killed may be gone before the others.
        ended = fields[0] in "ZX" and len(os.listdir(f"/proc/{pid}/task")) <= 1
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if ended else int(fields[19])


def option(command, name):
    """The value of --name in an argument list."""
    for i, word in enumerate(command):
        if word == f"--{name}":
            return command[i + 1]
        if word.startswith(f"--{name}="):
            return word.split("=", 1)[1]
    raise KeyError(f"--{name} is not among {command}")


def tail(path, lines=15):
    with open(path, encoding="utf-8", errors="replace") as log:
        return "".join(log.readlines()[-lines:])


class Process:
    """One process of the cluster, whoever started it."""

    def __init__(self, name, command, pid, url=None, child=None):
        self.name, self.command, self.pid, self.url, self.child = name, command, pid, url, child
        self.started = start_time(pid)
        self.paused = False

    @property
    def runs(self):
        if self.child is not None and self.child.poll() is not None:
            return False
        return self.started is not None and start_time(self.pid) == self.started

    def signal(self, number):
        if self.runs:
            os.kill(self.pid, number)
            self.paused = self.paused and number != signal.SIGCONT or number == signal.SIGSTOP

    def ended(self, deadline_s=30):
        wait_until(lambda: not self.runs, deadline_s, f"the end of {self.name} (pid {self.pid})", 0.01)


class Status:
    """What a sidecar says of the cluster (GET /cluster, which `outrigger cluster status --json` shows as well)."""

    def __init__(self, value):
        self.value = value
        self.shards = {shard["id"]: shard for shard in value["shards"]}
        self.nodes = {node["id"]: node for node in value["nodes"]}

    def primary(self, shard):
        return self.shards[shard]["primary"]

    def led_by(self, node):
        return [shard for shard in self.shards if self.primary(shard) == node]

    def all_in_sync(self, shards):
        """Of all so many shards: a sidecar that has just started may not know all of them."""
        return len(self.shards) == shards and all(s["primary"] and set(s["replicas"]) == set(s["in_sync"])
                                                  for s in self.shards.values())

    def versions(self):
        """Equal where two sidecars see the same."""
        return tuple(sorted((shard["id"], shard["version"]) for shard in self.shards.values()))

    def take_newer(self, other):
        for shard, theirs in other.shards.items():
            if theirs["version"] > self.shards[shard]["version"]:
                self.shards[shard] = theirs

    def __str__(self):
        return "; ".join(f"shard {s['id']}: epoch {s['epoch']}, primary {s['primary']}, in sync {s['in_sync']}"
                         for s in self.shards.values())


class Cluster:
    """`outrigger dev` and what came of it. kind: of the coordinator, Etcd or Consul."""

    def __init__(self, shards=4, nodes=3, arguments=(), kind=KIND):
        self.directory = tempfile.mkdtemp(prefix="outrigger-test-")
        self.data = os.path.join(self.directory, "dev")
        os.mkdir(self.data)
        self.shards, self.nodes, self.arguments = shards, nodes, list(arguments)
        self.port = _free_base(nodes)
        self.dev = self.child = None
        self.kind, self.coordinator = kind, Coordinator(self, kind)
        self.processes = {}  # {(node or "coordinator", "sidecar" | "engine" | "etcd" | "consul"): Process}
        self.log_path = os.path.join(self.directory, "dev.log")
        self.known = []  # every Process there ever was
        self._clients = []

    # --- start and stop -----------------------------------------------------------------------------------------------

    def start(self):
        """Starts the cluster, for the first time or again, and waits until it is writable."""
        before = self._dev_text()
        command = PROGRAM + ["dev", "--nodes", str(self.nodes), "--shards", str(self.shards), "--dir", self.data,
                             "--port", str(self.port), "--backend", self.kind.name, f"--{self.kind.name}",
                             self.kind.program, "--ruvector", RUVECTOR, *self.arguments]
        self.child = start_process(command, self.log_path)
        wait_until(lambda: self._dev_written(before), START_S, f"dev.json of {' '.join(command)}")
        self.processes = {}
        with open(os.path.join(self.data, "dev.json"), encoding="utf-8") as file:
            value = json.load(file)
        for i, c in enumerate(value["coordinator"]):
            name = "coordinator" if i == 0 else f"coordinator-{i + 1}"
            self._add(name, self.kind.name, c["start"], c["pid"], c["url"])
        for node, raw in zip(self.dev.nodes, value["nodes"]):
            self._add(node.id, "engine", node.engine_start, node.engine_pid)
            self._add(node.id, "sidecar", node.start, node.pid, node.client)
            self.processes[node.id, "sidecar"].peer = raw["peer"]
        self.wait_ready()
        return self

    def _dev_text(self):
        try:
            with open(os.path.join(self.data, "dev.json"), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""

    def _dev_written(self, before):
        if self.child.poll() is not None:
            raise AssertionError(f"outrigger dev ended with exit code {self.child.returncode}:\n{tail(self.log_path)}")
        if self._dev_text() in (b"", before):
            return False
        self.dev = read_dev(os.path.join(self.data, "dev.json"))
        return self.dev is not None

    def _add(self, node, what, command, pid, url=None, child=None):
        process = Process(f"{what} of {node}" if what in ("sidecar", "engine") else node, command, pid, url, child)
        self.processes[node, what] = process
        self.known.append(process)

    def stop(self):
        """Stops everything in order. Returns what was wrong about it, in words."""
        wrong = []
        self.close_clients()
        for process in self.known:
            process.signal(signal.SIGCONT)
        if self.child is not None and self.child.poll() is None:
            self.child.terminate()
            try:
                code = self.child.wait(STOP_S)
                if code != 0:
                    wrong.append(f"outrigger dev: exit code {code} after SIGTERM")
            except subprocess.TimeoutExpired:
                wrong.append(f"outrigger dev did not stop within {STOP_S} s of SIGTERM")
                self.child.kill()
                self.child.wait()
        for process in self.known:
            if process.child is not None:  # Ours, not dev's.
                process.signal(signal.SIGKILL)
                process.child.wait()
            else:
                try:
                    process.ended(10)
                except TimeoutError:
                    wrong.append(f"{process.name} outlived outrigger dev")
                    process.signal(signal.SIGKILL)
        return wrong

    def kill_everything(self):
        """SIGKILL to every process at once, `outrigger dev` included."""
        everything = [p for p in self.known if p.runs]
        os.kill(self.child.pid, signal.SIGKILL)
        for process in everything:
            process.signal(signal.SIGKILL)
        self.child.wait()
        for process in everything:
            process.ended()

    def remove(self):
        shutil.rmtree(self.directory, ignore_errors=True)

    def logs(self):
        return sorted(glob.glob(f"{self.directory}/*.log") + glob.glob(f"{self.data}/log/*.log"))

    def print_logs(self):
        print(f"\n--- kept: {self.directory}", file=sys.stderr)
        for path in self.logs():
            print(f"--- {os.path.relpath(path, self.directory)}\n{tail(path)}", file=sys.stderr)

    # --- what a test does to it ---------------------------------------------------------------------------------------

    @property
    def node_ids(self):
        return [node.id for node in self.dev.nodes]

    def url(self, node):
        return self.processes[node, "sidecar"].url

    def kill(self, node, *whats):
        """SIGKILL; returns once the processes are gone."""
        processes = [self.processes[node, what] for what in whats]
        for process in processes:
            process.signal(signal.SIGKILL)
        for process in processes:
            process.ended()

    def pause(self, node, what):
        self.processes[node, what].signal(signal.SIGSTOP)

    def resume(self, node, what):
        self.processes[node, what].signal(signal.SIGCONT)

    def restart(self, node, *whats):
        """Starts what was killed, as dev.json says."""
        for what in whats:
            old = self.processes[node, what]
            assert not old.runs, f"{old.name} still runs"
            child = start_process(old.command, os.path.join(self.directory, f"{node}-{what}-again.log"))
            self._add(node, what, old.command, child.pid, old.url, child)

    def data_dir(self, node, what):
        return option(self.processes[node, what].command, "data")

    # --- what a test asks it ------------------------------------------------------------------------------------------

    def client(self, node=None, **options):
        """A client of all sidecars that prefers that node; with alone=True it knows no other."""
        if options.pop("alone", False):
            client = Client([self.url(node)], **options)
        else:
            client = Client(self.dev.endpoints, self.node_ids.index(node) if node else 0, **options)
        self._clients.append(client)
        return client

    def close_clients(self):
        """Ends the connections of all clients; they open new ones when they are used again."""
        for client in self._clients:
            client.close()
        self._clients.clear()

    def clients(self, **options):
        return [self.client(node, **options) for node in self.node_ids]

    def statuses(self):
        """Of each sidecar that runs, answers and knows all shards: what it sees, which may lag behind what others see."""
        found = []
        for node in self.node_ids:
            process = self.processes[node, "sidecar"]
            if process.runs and not process.paused:
                client = self.client(node, alone=True, deadline_s=2, attempt_s=2)
                try:
                    answer = client.request("GET", "/cluster")
                except GaveUp:
                    continue
                finally:
                    client.close()
                assert answer.status == 200, answer
                if len(answer.json["shards"]) == self.shards:
                    found.append(Status(answer.json))
        return found

    def status(self):
        """Of each shard the newest that any sidecar sees."""
        found = self.statuses()
        assert found, "no sidecar answers GET /cluster and knows all shards"
        newest = found[0]
        for other in found[1:]:
            newest.take_newer(other)
        return newest

    def keys(self, prefix):
        """{key: JSON value} below /outrigger/<cluster>/, asked of the coordinator."""
        return self.coordinator.keys(prefix)

    def log_ids(self):
        """{(shard, node): id of the log} of the members of all in-sync sets."""
        return {(d["id"], m["node"]): m["log"] for d in self.keys("shards/").values() for m in d["in_sync"]}

    def ready(self, node):
        client = Client([self.url(node)], deadline_s=2, attempt_s=2)
        try:
            return client.request("GET", "/readyz").status == 200
        except Exception:  # Not ready is not ready, whatever the reason.
            return False
        finally:
            client.close()

    def wait_ready(self):
        for node in self.node_ids:
            wait_until(lambda: self.ready(node), START_S, f"{node} to be ready")

    def wait_in_sync(self, deadline_s=IN_SYNC_S):
        """Until every replica is in the in-sync set of its shard, every node sees so and is ready; returns the status.
        A node whose watch is behind would show what was."""
        last = []

        def whole():
            last[:] = self.statuses()
            same = len({status.versions() for status in last}) == 1
            runs = sum(self.processes[node, "sidecar"].runs for node in self.node_ids)
            return last[0] if same and len(last) == runs and last[0].all_in_sync(self.shards) else None

        try:
            status = wait_until(whole, deadline_s, "all replicas to be in sync", 0.2)
        except TimeoutError as error:
            raise AssertionError(f"{error}: {' | '.join(map(str, last))}") from None
        self.wait_ready()
        return status

    def wait_level(self, deadline_s=30):
        """Until every replica has stored, and its engine taken in, what is committed anywhere: from then on reads of any
        consistency see everything acknowledged before."""
        def level():
            states = [self.client(node, alone=True).request("GET", "/cluster").json["self"]["shards"]
                      for node in self.node_ids]
            committed = {s["id"]: 0 for state in states for s in state}
            for state in states:
                for s in state:
                    committed[s["id"]] = max(committed[s["id"]], s["last"], s["committed"])
            return all(s["applied"] >= committed[s["id"]] for state in states for s in state)

        wait_until(level, deadline_s, "all replicas to be level", 0.1)

    def pick_primary(self):
        """The node that leads most shards."""
        status = self.status()
        return max(self.node_ids, key=lambda node: len(status.led_by(node)))


class ClusterTest(unittest.TestCase):
    """One cluster for all tests of the class."""

    shards, nodes, arguments, kind = 4, 3, (), KIND
    cluster = None
    broken = False

    @classmethod
    def setUpClass(cls):
        cls.broken = False
        cls.cluster = Cluster(cls.shards, cls.nodes, cls.arguments, cls.kind)
        try:
            cls.cluster.start()
        except BaseException:
            cls.cluster.stop()
            cls.cluster.print_logs()
            raise

    @classmethod
    def tearDownClass(cls):
        wrong = cls.cluster.stop()
        if wrong or cls.broken:
            cls.cluster.print_logs()
        elif os.environ.get("KEEP") != "1":
            cls.cluster.remove()
        if wrong:
            raise AssertionError("; ".join(wrong))

    def tearDown(self):
        self.cluster.close_clients()

    def run(self, result=None):
        before = len(result.failures) + len(result.errors)
        super().run(result)
        if len(result.failures) + len(result.errors) > before:
            type(self).broken = True
        return result

    def assert_none(self, problems, shown=10):
        """problems: what is wrong, in words."""
        if problems:
            more = f"\n... and {len(problems) - shown} more" if len(problems) > shown else ""
            self.fail("\n".join(map(str, problems[:shown])) + more)


def clock_s():
    return time.monotonic()
