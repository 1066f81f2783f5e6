"""A real cluster whose nodes, members of the coordinator and clients each have a network namespace of their own (tests/lib/netns.py).

A node is its sidecar and its engine; the engine listens on the namespace's loopback, as beside a real node. The test itself is
at the clients' place from setUpClass to tearDownClass, and so are the threads that it starts. All else is as in harness.py.
"""
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Behind our own folder: some files here and there have the same names.
sys.path += [os.path.join(TESTS, "cluster"), os.path.join(TESTS, "lib")]
from coordinator import Coordinator  # noqa: E402
from harness import (IN_SYNC_S, KIND, PROGRAM, ROOT, RUVECTOR, START_S, Cluster, ClusterTest, Process, _die_with_parent,  # noqa: E402
                     clock_s, wait_until)
from netns import Net, NotPossible  # noqa: E402
from outrigger_client import Dev, DevNode  # noqa: E402
from workload import Workload  # noqa: E402

LONG = os.environ.get("LONG") == "1"  # The longer settings of `make test-long`.
CLIENT_PORT, PEER_PORT, ENGINE_PORT = 7700, 7701, 6333
GRANT_MS = 120  # PROTOCOL.md, default of grant_ms
GO_ON_S = 40  # Far above what any failover takes.
PATIENT_MS = 5000  # For what is to be answered at once, however slow the machine.


def coordinator_name(number):
    return "coordinator" if number == 0 else f"coordinator-{number + 1}"


class NetCluster(Cluster):
    """relayed: nodes whose cable can delay. wrap(command, node, what): changes a command before it is run."""

    def __init__(self, shards=4, nodes=3, coordinators=1, min_in_sync=None, relayed=(), data_of=None, kind=KIND):
        self.directory = tempfile.mkdtemp(prefix="outrigger-test-")
        self.data = os.path.join(self.directory, "data")
        os.mkdir(self.data)
        self.shards, self.nodes, self.min_in_sync = shards, nodes, min_in_sync
        self.kind, self.coordinator = kind, Coordinator(self, kind)
        self.coordinator_names = [coordinator_name(i) for i in range(coordinators)]
        self.data_of = data_of or (lambda node: os.path.join(self.data, node))
        self.dev, self.processes, self.known, self._clients = None, {}, [], []
        self.net = Net()
        self.places = {f"node-{i + 1}": self.net.place(f"node-{i + 1}", f"node-{i + 1}" in relayed) for i in range(nodes)}
        self.places.update({name: self.net.place(name) for name in self.coordinator_names})
        self.clients_place = self.net.place("clients")
        self._back = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    # --- start and stop -----------------------------------------------------------------------------------------------

    def start(self):
        self.clients_place.enter()
        addresses = {name: self.places[name].address for name in self.coordinator_names}
        for name in self.coordinator_names:
            command = self.kind.member_command(name, os.path.join(self.data, name), addresses)
            self.launch(name, self.kind.name, command, self.coordinator_url(name))
        nodes = [f"node-{i + 1}" for i in range(self.nodes)]
        for node in nodes:
            os.makedirs(self.data_of(node), exist_ok=True)
            self.launch(node, "engine", self.engine_command(node))
        self.wait_coordinators()
        for node in nodes:
            self.launch(node, "sidecar", self.sidecar_command(node), f"http://{self.places[node].address}:{CLIENT_PORT}")
        self.dev = Dev([DevNode(n, 0, 0, self.processes[n, "sidecar"].url, [], []) for n in nodes], [])
        init = ["cluster", "init", *self.backend(), "--nodes", str(self.nodes), "--replication-factor",
                str(self.nodes), "--shards", str(self.shards), "--timeout", "60s"]
        init += ["--min-in-sync", str(self.min_in_sync)] if self.min_in_sync else []
        done = subprocess.run(PROGRAM + init, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=ROOT, timeout=90)
        assert done.returncode == 0, done
        self.wait_ready()
        return self

    def coordinator_url(self, name):
        return f"http://{self.places[name].address}:{self.kind.port}"

    def backend(self):
        """Arguments of sidecars and commands."""
        return ["--backend", self.kind.name, "--endpoints", ",".join(map(self.coordinator_url, self.coordinator_names))]

    def engine_command(self, node):
        return ["node", RUVECTOR, "--data", f"{self.data}/{node}-engine", "--port", str(ENGINE_PORT), "--host", "127.0.0.1"]

    def sidecar_command(self, node):
        address = self.places[node].address
        return PROGRAM + ["sidecar", "--node", node, "--listen", f"{address}:{CLIENT_PORT}", "--peer-listen",
                          f"{address}:{PEER_PORT}", *self.backend(), "--engine-url",
                          f"http://127.0.0.1:{ENGINE_PORT}", "--data", os.path.join(self.data_of(node), "sidecar")]

    def launch(self, node, what, command, url=None):
        """A process in the namespace of its node, that dies with us."""
        def before():
            _die_with_parent()
            self.places[node].enter()

        with open(os.path.join(self.directory, f"{node}-{what}.log"), "ab") as log:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT,
                                     start_new_session=True, preexec_fn=before)
        self._add(node, what, command, child.pid, url, child)

    def kill_at_once(self, processes):
        """SIGKILL to all of them; nobody lives to see another die."""
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in processes:
                process.signal(number)
        for process in processes:
            process.ended(30)

    def restart(self, node, *whats):
        for what in whats:
            old = self.processes[node, what]
            assert not old.runs, f"{old.name} still runs"
            self.launch(node, what, old.command, old.url)

    def stop(self):
        """Ends everything; the sidecars in order. Returns what was wrong about it, in words."""
        wrong = []
        self.close_clients()
        self.net.mend()
        for process in self.known:
            process.signal(signal.SIGCONT)
        sidecars = [self.processes[key] for key in self.processes if key[1] == "sidecar"]
        for process in sidecars:
            if process.runs:
                process.signal(signal.SIGQUIT)  # The whole cluster ends.
            else:
                wrong.append(f"{process.name} had ended by itself ({process.child.returncode})")
        for process in sidecars:
            try:
                code = process.child.wait(30)
                if code != 0:
                    wrong.append(f"{process.name}: exit code {code}")
            except subprocess.TimeoutExpired:
                wrong.append(f"{process.name} does not stop")
        for process in self.known:
            process.signal(signal.SIGKILL)
            process.child.wait()
        self.net.close()
        from netns import enter
        enter(self._back)
        os.close(self._back)
        return wrong

    def forget(self):
        """Frees what was kept of processes and clients that are gone."""
        self.close_clients()
        self.known = [process for process in self.known if process.runs]

    def remove(self):
        shutil.rmtree(self.directory, ignore_errors=True)

    # --- what a test asks it ------------------------------------------------------------------------------------------

    def wait_coordinators(self):
        """Until all members of the coordinator run, and it has a leader."""
        wait_until(lambda: all(self.kind.is_healthy(self.coordinator_url(name)) for name in self.coordinator_names), 2 * START_S,
                   f"{self.kind.name} to be whole")

    def coordinator_answers(self, name):
        return self.kind.is_healthy(self.coordinator_url(name))

    def coordinator_leader(self):
        return next((name for name in self.coordinator_names if self.kind.leads(self.coordinator_url(name))), None)


    def status(self):
        """As one of the sidecars sees it, once one answers; they may just have been started."""
        def seen():
            try:
                return Cluster.status(self)
            except AssertionError:
                return None

        return wait_until(seen, START_S, "a sidecar that answers GET /cluster and knows all shards")

    def view(self, node):
        """{shard: (epoch, primary, members of the in-sync set)} as that sidecar sees it, without those it knows nothing of yet;
        empty when it does not answer."""
        try:
            shards = self.ask(node, "GET", "/cluster")[1]["shards"]
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            return {}
        return {s["id"]: (s["epoch"], s["primary"], frozenset(s["in_sync"])) for s in shards}

    def descriptors(self):
        """What the coordinator has, in the words of view() and with the replicas; empty when it does not answer."""
        try:
            found = self.keys("shards/").values()
        except (OSError, http.client.HTTPException, ValueError):
            return {}
        return {d["id"]: ((int(d["epoch"]), d["primary"] and d["primary"]["node"], frozenset(m["node"] for m in d["in_sync"])),
                          frozenset(d["replicas"])) for d in found}

    def wait_in_sync(self, deadline_s=IN_SYNC_S):
        """Until all replicas are in the in-sync sets, in the coordinator and in the eyes of every sidecar (each learns of a change in its own
        time: whoever is asked next must know it), and all are ready; returns the status."""
        def whole():
            wanted = self.descriptors()
            return (len(wanted) == self.shards and all(seen[1] and seen[2] == replicas for seen, replicas in wanted.values())
                    and all(self.view(node) == {shard: seen for shard, (seen, _) in wanted.items()} for node in self.node_ids))

        try:
            wait_until(whole, deadline_s, "all replicas to be in sync and everybody to know it")
        except TimeoutError as error:
            raise AssertionError(f"{error}: {self.descriptors()}; {[(n, self.view(n)) for n in self.node_ids]}") from None
        self.wait_ready()
        return self.status()

    def at(self, *names):
        return [self.clients_place if name == "clients" else self.places[name] for name in names]

    def ask(self, node, method, path, body=None, timeout_ms=250):
        """One request at that node alone, which may hold it so long: (status, value)."""
        connection = http.client.HTTPConnection(self.places[node].address, CLIENT_PORT, timeout=20)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None,
                               {"Outrigger-Timeout": f"{timeout_ms}ms", "Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")
        finally:
            connection.close()

    def wait_refused(self, node, path, body, why):
        """Until a write there is refused with these words and for good. While the node is still about to find out that it may
        not, the outcome is unknown; confirmed it may never be."""
        def refused():
            status, value = self.ask(node, "PUT", path, body, 1000)
            assert status == 503, (status, value)
            return value["applied"] is False and why in value["error"]["message"]

        wait_until(refused, GO_ON_S, f"writes at {node} to be refused with: {why}")

    def led_by(self, node, asked):
        """The shards that the node leads, as far as another knows."""
        seen = wait_until(lambda: self.view(asked), GO_ON_S, f"an answer of {asked}")
        return [shard for shard, (_, primary, _) in seen.items() if primary == node]

    def wait_leads_nothing(self, node):
        """Until all others know so."""
        def nothing():
            views = [self.view(other) for other in self.others(node)]
            return all(len(seen) == self.shards and all(primary not in (None, node) for _, primary, _ in seen.values())
                       for seen in views)

        wait_until(nothing, GO_ON_S, f"{node} to lead nothing")

    def log_text(self, node):
        with open(os.path.join(self.directory, f"{node}-sidecar.log"), encoding="utf-8", errors="replace") as log:
            return log.read()

    def others(self, node):
        return [n for n in self.node_ids if n != node]

    def metric(self, node, name, **labels):
        """The sum of a metric's samples that have these labels."""
        text = self.client(node, alone=True).request("GET", "/metrics").json
        found = 0.0
        for line in text.splitlines():
            sample, _, value = line.rpartition(" ")
            if sample.partition("{")[0] == name and all(f'{k}="{v}"' in sample for k, v in labels.items()):
                found += float(value)
        return found


class NetTest(ClusterTest):
    """One cluster for all tests of the class; skipped where no namespace can be made. Each test prints its seed and figures."""
    coordinators, min_in_sync, relayed, data_of = 1, None, (), None

    @classmethod
    def make(cls):
        return NetCluster(cls.shards, cls.nodes, cls.coordinators, cls.min_in_sync, cls.relayed, cls.data_of)

    @classmethod
    def setUpClass(cls):
        cls.broken = False
        try:
            cls.cluster = cls.make()
        except NotPossible as problem:
            raise unittest.SkipTest(str(problem)) from None
        try:
            cls.cluster.start()
        except BaseException:
            cls.cluster.stop()
            cls.cluster.print_logs()
            raise

    def setUp(self):
        self.load = None

    def tearDown(self):
        self.cluster.net.mend()
        super().tearDown()

    def begin_load(self, nodes=None, **options):
        """Writers and readers at all the nodes (or those named), from now on until checked() or the end of the test."""
        load = Workload(self.cluster, nodes, **options)
        self.addCleanup(load.stop)
        load.start()
        self.goes_on(load, "load on all shards")
        return load

    def goes_on(self, load, what, each=5, shards=None):
        """Reads, and writes on every shard, that began after this moment are answered."""
        since = clock_s()
        try:
            wait_until(lambda: load.goes_on(since, each, shards), GO_ON_S, what)
        except TimeoutError as error:
            self.broken_load = load
            self.fail(f"{error}: {load.so_far(since)}; {self.where_it_stands()}")

    def where_it_stands(self):
        try:
            return self.cluster.status()
        except AssertionError as error:
            return error

    def checked(self, load, fault, each_node=True):
        """Stops the load, waits for all to be in sync, reads everything back and checks the whole history."""
        cluster = self.cluster
        cluster.wait_in_sync()
        self.goes_on(load, f"reads and writes after {fault}")
        load.stop()
        cluster.wait_level()
        problems = []
        for node in cluster.node_ids if each_node else ():
            problems += load.read_back(node)
        problems += load.check()
        print(f"\n  {fault}: {load.figures()}", flush=True)
        self.assert_none(problems and [f"SEED={load.seed}", *problems])
