"""Clients that note what they did: several threads put, delete and get the same keys, and the history of each key must be
linearizable (tests/lib/linearizability.py).

Every put has a value of its own. What was answered with an error that says `"applied":false` did not happen; what got no answer
at all may have happened, or may yet. A thread sends a request again, with the same request id, to the next sidecar until it is
answered or its time is up; that is one operation. Keys retire after a number of operations, so that no history gets long, and
are read once more at the end: a lost write cannot hide.
"""
import os
import random
import threading
import time
from collections import Counter, defaultdict

from linearizability import ABSENT, Operation, Undecided, check_register
from outrigger_client import Client, GaveUp, Refused

DIMENSION = 8
COLLECTION = "live"


class Workload:
    def __init__(self, cluster, nodes=None, threads=8, rate=30, keys=48, each_key=150, seed=None, deadline_s=20.0,
                 attempt_s=2.0):
        """nodes: whose sidecars the clients know (default all). rate: operations a second of each thread. keys: at a time.
        attempt_s: silence after which another sidecar is asked."""
        self.cluster, self.nodes, self.rate, self.each_key = cluster, nodes or cluster.node_ids, rate, each_key
        self.seed = int(os.environ.get("SEED", random.randrange(1 << 30))) if seed is None else seed
        self.clients = [Client([cluster.url(n) for n in self.nodes], i, deadline_s, attempt_s) for i in range(len(self.nodes))]
        if self.clients[0].collection(COLLECTION) is None:
            self.clients[0].create_collection(COLLECTION, DIMENSION)
        self.entries = []  # (key, Operation)
        self.acks = []  # (begin, end, shard, epoch) of answered writes of one point
        self.reads = []  # (begin, end) of answered reads
        self.unknown, self.refused = 0, 0
        self.failed = []  # in words
        self.began = time.monotonic()
        self.ended = None
        self._lock = threading.Lock()
        self._name = f"{self.seed:x}.{random.randrange(1 << 24):06x}"  # Of this load alone.
        self._turn = 0
        self._keys = [self._new_key() for _ in range(keys)]
        self._used = Counter()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._loop, args=(i,), daemon=True) for i in range(threads)]

    # --- what a test asks ---------------------------------------------------------------------------------------------

    def start(self):
        for thread in self._threads:
            thread.start()
        return self

    def stop(self):
        """May be called again."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self.ended = self.ended or time.monotonic()
        for client in self.clients:
            client.close()

    def goes_on(self, since, each=5, shards=None):
        """Every shard (or those given) has answered so many writes that began since then; as many reads were answered."""
        counts = Counter(shard for begin, _, shard, _ in list(self.acks) if begin >= since)
        wanted = range(self.cluster.shards) if shards is None else shards
        return all(counts[shard] >= each for shard in wanted) and sum(1 for begin, _ in list(self.reads) if begin >= since) >= each

    def so_far(self, since):
        return (f"since then {sum(1 for a in self.acks if a[0] >= since)} writes and "
                f"{sum(1 for r in self.reads if r[0] >= since)} reads, {self.unknown} unknown, {self.refused} refused; "
                f"last: {self.failed[-3:]}")

    def note(self, key, operation):
        """Makes an operation part of the history."""
        self.entries.append((key, operation))

    def any_keys(self, count):
        return self._keys[:count]

    def new_value(self):
        with self._lock:
            self._turn += 1
            return self._turn

    def longest_pause_s(self):
        """The longest time in which some shard answered no write, while there was load."""
        ends = defaultdict(list)
        for _, end, shard, _ in self.acks:
            ends[shard].append(end)
        longest = 0.0
        for times in ends.values():
            times = [self.began, *sorted(times), self.ended or time.monotonic()]
            longest = max(longest, *(b - a for a, b in zip(times, times[1:])))
        return longest

    def figures(self):
        writes = sum(1 for _, o in self.entries if o.write)
        return (f"longest write pause {self.longest_pause_s():.2f} s; {writes} writes ({self.unknown} of unknown outcome, "
                f"{self.refused} refused) and {len(self.entries) - writes} reads of {len({k for k, _ in self.entries})} keys "
                f"verified; SEED={self.seed}")

    def read_back(self, node):
        """Every key that was ever used, read at that node; linearizable reads that become part of the history, and an eventual
        one that must find the same. The load must have stopped, and all replicas be level."""
        client = Client([self.cluster.url(node)], deadline_s=30)
        problems, todo = [], sorted({key for key, _ in self.entries})

        def reader():
            while True:
                try:
                    key = todo.pop()
                except IndexError:
                    return
                try:
                    begin = time.monotonic()
                    found = value_of(key, client.get(COLLECTION, key))
                    self.note(key, Operation(False, found, begin, time.monotonic(), f"reading back at {node}"))
                    other = value_of(key, client.get(COLLECTION, key, "eventual"))
                    if other != found:
                        problems.append(f"{key}: {node} has {found!r}, but {other!r} of its own")
                except Exception as error:  # Not read back is lost, whatever the reason.
                    problems.append(f"{key}: {node}: {type(error).__name__}: {error}")

        threads = [threading.Thread(target=reader, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        client.close()
        return problems

    def last_values(self):
        """{key: value} as read back last, of all keys of which it is certain."""
        uncertain = {key for key, operation in self.entries if operation.end is None}
        return {key: operation.value for key, operation in self.entries if not operation.write and key not in uncertain}

    def forget(self):
        """Frees what was noted; nothing can be asked any more."""
        for noted in (self.entries, self.acks, self.reads, self.failed):
            noted.clear()

    def check(self):
        """Everything that is wrong, in words."""
        histories = defaultdict(list)
        for key, operation in self.entries:
            histories[key].append(operation)
        problems = [text for text in self.failed if text.startswith("thread ")]
        for key, operations in histories.items():
            try:
                problem = check_register(operations)
            except Undecided as error:
                problem = f"undecided: {error}"
            if problem:
                problems.append(f"{key}: {problem}")
        return problems

    # --- threads ------------------------------------------------------------------------------------------------------

    def _new_key(self):
        with self._lock:
            self._turn += 1
            return f"{self._name}.{self._turn}"

    def _loop(self, number):
        dice = random.Random(f"{self.seed}/{number}")
        client, next_at = self.clients[number % len(self.clients)], time.monotonic()
        while not self._stopping.is_set():
            try:
                self.step(client, dice, number)
            except Exception as error:  # Nothing may end a thread unseen.
                self.failed.append(f"thread {number}: {type(error).__name__}: {error}")
                return
            next_at = max(next_at + 1 / self.rate, time.monotonic() - 0.2)
            self._stopping.wait(max(0.0, next_at - time.monotonic()))

    def step(self, client, dice, number):
        place = dice.randrange(len(self._keys))
        key = self._keys[place]
        self._used[key] += 1
        if self._used[key] >= self.each_key:
            self._keys[place] = self._new_key()
        kind = dice.randrange(10)
        if kind < 5:
            self.get(client, key, f"client {number}")
        elif kind < 9:
            self.put(client, key, self.new_value(), f"client {number}")
        else:
            self.delete(client, key, f"client {number}")

    def get(self, client, key, name, consistency="linearizable"):
        begin = time.monotonic()
        try:
            point = client.get(COLLECTION, key, consistency)
        except (Refused, GaveUp) as error:
            self.failed.append(str(error))
            return
        end = time.monotonic()
        self.note(key, Operation(False, value_of(key, point), begin, end, name))
        self.reads.append((begin, end))

    def put(self, client, key, value, name):
        self._write(key, value, name, lambda: client.put(COLLECTION, [point_of(key, value)]))

    def delete(self, client, key, name):
        self._write(key, ABSENT, name, lambda: client.delete(COLLECTION, key))

    def _write(self, key, value, name, send):
        begin = time.monotonic()
        try:
            answer = send()
        except (Refused, GaveUp) as error:
            self.failed.append(str(error))
            # An earlier attempt of ours may have left something behind, whatever the last one says.
            if isinstance(error, Refused) and error.answer.retries == 0 and error.answer.json.get("applied") is False:
                self.refused += 1
                return
            self.unknown += 1
            self.note(key, Operation(True, value, begin, None, name))
            return
        end = time.monotonic()
        self.note(key, Operation(True, value, begin, end, name))
        for shard, epoch, _ in answer.positions:
            self.acks.append((begin, end, shard, epoch))


def point_of(key, value):
    # Small whole numbers are the same in every floating point format.
    vector = [1 + sum(key.encode()) % 61] + [(value >> (6 * i)) & 63 for i in range(DIMENSION - 1)]
    return {"id": key, "vector": vector, "metadata": {"key": key, "value": value}}


def value_of(key, point):
    """The value that a point holds; ABSENT for None. A point that nobody wrote so raises ValueError."""
    if point is None:
        return ABSENT
    value = (point.get("metadata") or {}).get("value")
    wanted = point_of(key, value if isinstance(value, int) else 0)
    if [float(x) for x in point["vector"]] != wanted["vector"] or point["metadata"] != wanted["metadata"] or point["id"] != key:
        raise ValueError(f"{key}: nobody wrote {point}")
    return value
