"""A sidecar one of whose calls fails: an allocation, or a call of the system or a library (tests/lib/fail_calls.c has the list).

Two healthy nodes and a third one that is started again and again, each time with another call that fails once: while it
recovers, joins, serves and stops. Whatever it is, the process must go on, or end saying why; nobody may crash, leak,
hang, or lose what was acknowledged. FAILING=n is the number of calls tried of each kind (default 20), spread over all there are;
SEED picks them. Every one: FAILING=all. Some, or one alone: FAILING=memory:100-200, FAILING=call:17. FAILING_S=n begins no
more of them after n seconds (default 3000), and says how many there were. SANITIZE=0 takes the program without
AddressSanitizer; KEEP=1 keeps the logs, one a call, of which the test prints the path.
"""
import glob
import os
import random
import signal
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cluster"))
from harness import BUILD, ClusterTest, start_process, wait_until
from outrigger_client import Client, GaveUp, Refused

SANITIZE = os.environ.get("SANITIZE", "1")
PROGRAM = os.path.join(BUILD, "bin-sanitize" if SANITIZE == "1" else "bin", "outrigger-failing")
NODE = "node-3"
SEED = int(os.environ.get("SEED", random.randrange(10**6)))
HOW_MANY = os.environ.get("FAILING", "20")
FAILING_S = float(os.environ.get("FAILING_S", "3000"))
JOIN_S, STOP_S = 12, 12


class TestFailingCalls(ClusterTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        client = cls.cluster.client("node-1")
        client.create_collection("c", 4)
        cls.acknowledged = {}
        cls.number = 0
        cls.cluster.kill(NODE, "sidecar")

    def start_failing(self, what):
        """Starts the node with that call failing; (process, path of its log)."""
        log = os.path.join(self.cluster.directory, f"{what.replace(':', '-')}.log")
        old = self.cluster.processes[NODE, "sidecar"]
        reports = f"{log}.asan"
        env = dict(os.environ, OUTRIGGER_FAIL=what, ASAN_OPTIONS=f"log_path={reports}:detect_leaks=1:exitcode=0",
                   UBSAN_OPTIONS=f"log_path={reports}:print_stacktrace=1")
        child = start_process([PROGRAM, *old.command[1:]], log, env=env)
        self.cluster._add(NODE, "sidecar", old.command, child.pid, old.url, child)
        return child, log

    def write(self, client, key, door):
        self.number += 1
        point = {"id": key, "vector": [self.number, 1, 2, 3], "metadata": {"n": self.number}}
        maybe = self.acknowledged.setdefault(key, (None, set()))[1]
        maybe.add(self.number)
        try:
            client.put("c", [point])
        except Refused as refused:
            self.assertGreaterEqual(refused.answer.status, 500, f"{door}: {refused}")
            if refused.answer.json.get("applied") is False:
                maybe.discard(self.number)
            return
        except GaveUp:
            return
        self.acknowledged[key] = (self.number, {self.number})

    def use(self, child):
        """Everything a client does, at the door of the node: what it answers does not matter, that it answers does."""
        client = Client([self.cluster.url(NODE)], deadline_s=3, attempt_s=15)
        writes = [lambda key=f"own-{i}": self.write(client, key, NODE) for i in range(8)]
        calls = (lambda: client.get("c", "own-1"), lambda: client.search("c", [1, 2, 3, 4], 5),
                 lambda: client.request("GET", "/metrics"), lambda: client.request("GET", "/cluster"),
                 lambda: client.create_collection("d", 8), lambda: client.delete_collection("d"))
        for call in (*writes, *calls):
            if child.poll() is not None:
                break  # It has ended, and nobody answers at its address.
            try:
                call()
            except (Refused, GaveUp):
                pass
        client.close()

    def judge(self, what, child, log):
        """What is wrong with the way the process ended, in words."""
        with open(log, encoding="utf-8", errors="replace") as file:
            text = file.read()
        wrong = []
        for path in glob.glob(f"{log}.asan*"):
            with open(path, encoding="utf-8", errors="replace") as report:
                wrong.append(f"{what}: {report.read()[:6000]}")
        said = text.split(" fails\n", 1)[-1]
        # Its last moments know no signals any more.
        late = child.returncode == -signal.SIGTERM and " stop: " in said
        if child.returncode not in (0, 1) and not late:
            wrong.append(f"{what}: exit code {child.returncode}:\n{text[-2000:]}")
        elif child.returncode != 0 and not any(words in said for words in ("stop:", "outrigger", "out of memory")):
            wrong.append(f"{what}: ended without saying why:\n{text[-2000:]}")
        return wrong

    def try_one(self, what):
        """Starts, joins, serves, stops. What is wrong, in words."""
        child, log = self.start_failing(what)

        def joined():
            return child.poll() is not None or (self.cluster.ready(NODE) and self.in_sync())

        try:
            wait_until(joined, JOIN_S, f"{NODE} to join or end")
            if child.poll() is None:
                self.use(child)
            healthy = self.cluster.client("node-1", alone=True)
            for i in range(4):
                self.write(healthy, f"other-{i}", "node-1")
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
            child.wait(STOP_S)
        except Exception as error:  # Whatever it is belongs to this call, and the next one is to be tried.
            child.kill()
            child.wait()
            with open(log, encoding="utf-8", errors="replace") as file:
                return [f"{what}: {type(error).__name__} {error}\n{file.read()[-3000:]}"]
        return self.judge(what, child, log)

    def in_sync(self):
        status = self.cluster.status()
        return status.all_in_sync(self.cluster.shards)

    def count(self):
        child, log = self.start_failing("count")
        wait_until(lambda: self.cluster.ready(NODE) and self.in_sync(), JOIN_S, f"{NODE} to join")
        self.use(child)
        child.send_signal(signal.SIGTERM)
        self.assertEqual(child.wait(STOP_S), 0)
        self.assert_none(self.judge("count", child, log))
        with open(log, encoding="utf-8", errors="replace") as file:
            words = file.read().rpartition("fail_calls: ")[2].split()
        return {"memory": int(words[0]), "call": int(words[2])}

    def check_acknowledged(self):
        wrong = []
        client = self.cluster.client("node-1", alone=True)
        for key, (number, maybe) in sorted(self.acknowledged.items()):
            point = client.get("c", key)
            found = point["metadata"]["n"] if point else None
            if found != number and found not in maybe:
                wrong.append(f"{key}: holds {found}, acknowledged is {number}")
        return wrong

    def test_each(self):
        totals = self.count()
        if ":" in HOW_MANY:
            kind, _, numbers = HOW_MANY.partition(":")
            first, _, last = numbers.partition("-")
            chosen = [f"{kind}:{i}" for i in range(int(first), int(last or first) + 1)]
        elif HOW_MANY == "all":
            chosen = [f"{kind}:{i + 1}" for kind, total in totals.items() for i in range(total)]
        else:
            rng = random.Random(SEED)
            chosen = [f"{kind}:{1 + int((i + rng.random()) * total / int(HOW_MANY))}"
                      for kind, total in totals.items() for i in range(int(HOW_MANY))]
            rng.shuffle(chosen)
        print(f"SEED={SEED}: {totals}, {len(chosen)} tried; logs in {self.cluster.directory}", flush=True)
        wrong, tried, began_s = [], 0, time.monotonic()
        for what in chosen:
            if time.monotonic() - began_s > FAILING_S:
                print(f"{FAILING_S:.0f} s are over: {tried} of {len(chosen)} were tried", flush=True)
                break
            tried += 1
            found = self.try_one(what)
            for text in found:
                print(f"{text}\n--- once more: make failing-calls SANITIZE={SANITIZE} FAILING={what}", flush=True)
            wrong += found
        self.cluster.restart(NODE, "sidecar")
        self.cluster.wait_in_sync()
        self.assert_none(wrong + self.check_acknowledged(), 4)


if __name__ == "__main__":
    unittest.main()
