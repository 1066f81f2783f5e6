"""The demo's cluster: `outrigger dev` as a child process, and what the demo does to it. Whatever happens, nothing of it
outlives the demo."""
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "lib"))
from outrigger_client import Client, read_dev, wait_until  # noqa: E402

START_S, STOP_S = 120, 30
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class ClusterFailed(Exception):
    """The cluster did not do what the demo needs; the text says what."""


def _die_with_parent(number):
    """For preexec_fn. The signal comes when the *thread* that forked ends: fork from the main thread only."""
    return lambda: _libc.prctl(_PR_SET_PDEATHSIG, number)


class Cluster:
    def __init__(self, program, directory, nodes, shards, port):
        """program: argument list that runs outrigger. port: the first to try."""
        self.program, self.directory = program, os.path.abspath(directory)
        self.nodes, self.shards, self.port = nodes, shards, _free_base(port, nodes)
        self.dev = None  # What dev.json says.
        self.log_path = os.path.join(os.path.dirname(self.directory), "dev.log")
        self._child = None
        self._restarted = []  # Popen of what we started again.
        self._known = {}  # {pid: start time}: every process of the cluster that we know of.

    # --- start and stop ---------------------------------------------------------------------------------------------

    def start(self):
        """Starts an empty cluster and waits until it is writable."""
        shutil.rmtree(self.directory, ignore_errors=True)
        os.makedirs(self.directory)
        command = self.program + ["dev", "--nodes", str(self.nodes), "--shards", str(self.shards),
                                  "--dir", self.directory, "--port", str(self.port)]
        with open(self.log_path, "wb") as log:
            # Its own process group: Ctrl-C reaches the demo alone, which then stops everything in order.
            self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                           start_new_session=True, preexec_fn=_die_with_parent(signal.SIGTERM))
        try:
            self.dev = wait_until(self._written_dev, START_S, f"{self.directory}/dev.json")
            self._remember(self.dev.pids)
            for node in self.dev.nodes:
                wait_until(lambda: is_ready(node.client), START_S, f"{node.id} to be ready")
        except TimeoutError as error:
            raise ClusterFailed(f"{error}; the last lines of {self.log_path}:\n{self.log_tail()}") from None

    def _written_dev(self):
        if self._child.poll() is not None:
            raise ClusterFailed(f"outrigger dev ended with exit code {self._child.returncode}; "
                                f"the last lines of {self.log_path}:\n{self.log_tail()}")
        return read_dev(os.path.join(self.directory, "dev.json"))

    def stop(self):
        """Stops everything. Returns what was wrong about it, in words."""
        wrong = []
        for child in [self._child] + self._restarted:
            if child is not None and child.poll() is None:
                child.terminate()
        for child in [self._child] + self._restarted:
            if child is not None and not self._ended(child):
                wrong.append(f"process {child.pid} did not stop within {STOP_S} s of SIGTERM and was killed")
                os.killpg(child.pid, signal.SIGKILL)  # Each leads a group of its own.
                child.wait()
        give_up_at = time.monotonic() + 5
        while any(map(self._runs, self._known)) and time.monotonic() < give_up_at:
            time.sleep(0.05)
        for pid in filter(self._runs, list(self._known)):
            wrong.append(f"process {pid} outlived outrigger dev and was killed: {_command(pid)}")
            os.kill(pid, signal.SIGKILL)
        return wrong

    @staticmethod
    def _ended(child):
        try:
            child.wait(STOP_S)
            return True
        except subprocess.TimeoutExpired:
            return False

    def log_tail(self, lines=20):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return "".join(log.readlines()[-lines:])

    # --- what the demo does to it -----------------------------------------------------------------------------------

    def clients(self, **options):
        """One client per sidecar, which prefers that one and knows all."""
        return [Client(self.dev.endpoints, first, **options) for first in range(len(self.dev.nodes))]

    def kill(self, node_id):
        """SIGKILL to the node's sidecar and engine. Returns when (monotonic seconds)."""
        node = self.dev.node(node_id)
        at = time.monotonic()
        os.kill(node.pid, signal.SIGKILL)
        os.kill(node.engine_pid, signal.SIGKILL)
        wait_until(lambda: not self._runs(node.pid) and not self._runs(node.engine_pid), 10, f"the end of {node_id}")
        return at

    def restart(self, node_id):
        """Starts the node's engine and sidecar again, as dev.json says. Call it from the main thread."""
        node = self.dev.node(node_id)
        for name, command in (("engine", node.engine_start), ("sidecar", node.start)):
            with open(os.path.join(self.directory, f"{node_id}-{name}-again.log"), "wb") as log:
                child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                         start_new_session=True, preexec_fn=_die_with_parent(signal.SIGKILL))
            self._restarted.append(child)
            self._remember([child.pid])

    def status(self, without=None):
        """The cluster's status as a dict, asked of any node but `without`."""
        text = self.status_table(without, "--json")
        return Status(json.loads(text))

    def status_table(self, without=None, *options):
        """What `outrigger cluster status` prints."""
        problem = ""
        for node in self.dev.nodes:
            if node.id != without:
                command = self.program + ["cluster", "status", *options, "--sidecar", node.client]
                done = subprocess.run(command, capture_output=True, text=True, timeout=30)
                if done.returncode == 0:
                    return done.stdout
                problem = f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()}"
        raise ClusterFailed(problem)

    # --- processes --------------------------------------------------------------------------------------------------

    def _remember(self, pids):
        for pid in pids:
            self._known[pid] = _start_time(pid)

    def _runs(self, pid):
        started = _start_time(pid)
        return started is not None and started == self._known.get(pid)


class Status:
    """What `outrigger cluster status --json` says."""

    def __init__(self, value):
        self.shards = {shard["id"]: shard for shard in value["shards"]}
        self.nodes = {node["id"]: node for node in value["nodes"]}

    def primary(self, shard_id):
        return _node_id(self.shards[shard_id]["primary"])

    def led_by(self, node_id):
        return [shard_id for shard_id in self.shards if self.primary(shard_id) == node_id]

    def in_sync(self, shard_id):
        return [_node_id(member) for member in self.shards[shard_id]["in_sync"]]

    def replicated_on(self, node_id):
        return [shard_id for shard_id, shard in self.shards.items()
                if node_id in [_node_id(member) for member in shard["replicas"]]]


def _node_id(value):
    return value["node"] if isinstance(value, dict) else value


def is_ready(url):
    client = Client([url], deadline_s=2, attempt_s=2)
    try:
        return client.request("GET", "/readyz").status == 200
    except Exception:  # Not ready is not ready, whatever the reason.
        return False
    finally:
        client.close()


def _free_base(port, nodes):
    """The first of port, port + 100, ... at which the ports of all nodes are free."""
    for base in range(port, min(port + 2000, 65000), 100):
        if all(_is_free(base + 10 * i) for i in range(nodes)):
            return base
    raise ClusterFailed(f"no free ports found from {port} on")


def _is_free(port):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False


def _start_time(pid):
    """When the process started, in the kernel's ticks; None when there is none (or only its exit code is left)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        # The first thread of a process that was killed may be gone before the others.
        ended = fields[0] in "ZX" and len(os.listdir(f"/proc/{pid}/task")) <= 1
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if ended else int(fields[19])


def _command(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return "(gone)"
