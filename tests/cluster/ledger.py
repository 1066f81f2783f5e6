"""Load with a memory: writers and readers that note every operation, and the check of what they noted.

Every key is a register that one writer alone writes, with increasing numbers; number 0 is "never written". A delete is a
number too. Concurrent readers note what they saw. `check` then says of each read whether some order of the operations,
each between its begin and its end, explains it: never older than a write acknowledged (or a number read) before the
read began, never a number that nobody had begun to write.
"""
import math
import operator
import random
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

DIMENSION = 8
DELETE_EVERY, BATCH_EVERY, BATCH = 11, 7, 6


@dataclass
class Write:
    key: str
    number: int
    delete: bool
    begin: float
    end: float = None  # None: never acknowledged, may or may not have taken effect
    shard: int = -1  # -1: unknown, for it was part of a batch


class Read(NamedTuple):
    key: str
    found: object  # the number, or None: no such point
    begin: float
    end: float
    where: str


def point_of(key, number):
    # Small whole numbers are the same in every floating point format.
    vector = [1 + sum(key.encode()) % 61] + [(number >> (6 * i)) & 63 for i in range(DIMENSION - 1)]
    return {"id": key, "vector": vector, "metadata": {"key": key, "number": number}}


def number_of(key, point):
    """The number that a point holds; raises ValueError when the point is not one that a writer wrote."""
    if point is None:
        return None
    number = (point.get("metadata") or {}).get("number")
    wanted = point_of(key, number if isinstance(number, int) else 0)
    if [float(x) for x in point["vector"]] != [float(x) for x in wanted["vector"]] \
            or point.get("metadata") != wanted["metadata"] or point["id"] != key:
        raise ValueError(f"{key}: nobody wrote {point}")
    return number


def check(writes, reads):
    """What cannot be explained, in words."""
    problems = []
    by_key = defaultdict(lambda: ([], []))
    for write in writes:
        by_key[write.key][0].append(write)
    for read in reads:
        by_key[read.key][1].append(read)
    for key, (key_writes, key_reads) in by_key.items():
        problems += _check_key(key, key_writes, key_reads)
    return problems


def _check_key(key, writes, reads):
    problems = []
    begun = {write.number: write for write in writes}
    deletes = [0] + sorted(write.number for write in writes if write.delete)
    # What had certainly happened, by the time it was known: (end, number). Reads add to it as they are judged.
    known = [(write.end, write.number) for write in writes if write.end is not None]
    for read in sorted(reads, key=lambda r: r.end):
        floor = max((number for end, number in known if end <= read.begin), default=0)
        if read.found is None:
            may_be = [n for n in deletes if n >= floor and (n == 0 or begun[n].begin <= read.end)]
            if not may_be:
                problems.append(f"{key}: {read.where} found nothing, but number {floor} was there before")
                continue
            number = may_be[0]
        else:
            number = read.found
            write = begun.get(number)
            if write is None or write.delete or write.begin > read.end:
                problems.append(f"{key}: {read.where} found number {number}, which nobody had written")
                continue
            if number < floor:
                problems.append(f"{key}: {read.where} found number {number}, but {floor} was there before (the read "
                                f"took {1e3 * (read.end - read.begin):.1f} ms)")
                continue
        known.append((read.end, number))
    return problems


class Load:
    """Writers and readers over all sidecars. `clients`: one per sidecar, each preferring its own and knowing all."""

    def __init__(self, clients, collection, writers=6, readers=3, keys=40, rate=25, seed=None):
        """rate: operations per second of each thread; keys: of each writer."""
        self.clients, self.collection, self.rate = clients, collection, rate
        self.seed = seed if seed is not None else random.randrange(1 << 30)
        self.writes, self.reads = [], []
        self.failed = []  # operations that no retry saved, in words
        self.wrong = []  # answers that cannot be right, in words
        self.uncertain = set()  # keys whose last write was never answered: nobody writes them any more
        self._last = {}  # {key: the last Write}
        self._stopping = threading.Event()
        name = f"{random.randrange(1 << 24):06x}"  # Each load has keys of its own.
        self._keys = [f"{name}.{writer}.{i}" for writer in range(writers) for i in range(keys)]
        self._threads = [threading.Thread(target=self._loop, args=(i, self._write_once, self._keys[i * keys:][:keys]),
                                          daemon=True) for i in range(writers)]
        self._threads += [threading.Thread(target=self._loop, args=(writers + i, self._read_once, self._keys),
                                           daemon=True) for i in range(readers)]

    def start(self):
        for thread in self._threads:
            thread.start()
        return self

    def stop(self):
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        return self

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    # --- what a test asks ---------------------------------------------------------------------------------------------

    def acknowledged(self, since=0.0):
        """{shard: writes begun after `since` and acknowledged}; batches over several shards are not among them."""
        counts = defaultdict(int)
        for write in list(self.writes):
            if write.end is not None and write.begin >= since:
                counts[write.shard] += 1
        counts.pop(-1, None)
        return counts

    def goes_on(self, shards, since, each=5, reads=20):
        """Every shard acknowledged `each` writes begun after `since`, and as many reads were answered."""
        counts = self.acknowledged(since)
        return all(counts[shard] >= each for shard in range(shards)) and \
            sum(1 for read in list(self.reads) if read.begin >= since) >= reads

    def last_writes(self):
        """The last write of each key that was ever written."""
        return list(self._last.values())

    def refusals(self):
        return sum(client.retries_refused for client in self.clients)

    def read_back(self, client, where, consistency="linearizable"):
        """Reads every key that was ever written; writers must have stopped. Returns what is not as acknowledged. With
        consistency linearizable the reads become part of the history, those of uncertain keys too."""
        problems, lock = [], threading.Lock()
        todo = [key for key in self._last if key not in self.uncertain or consistency == "linearizable"]

        def reader():
            while True:
                with lock:
                    if not todo:
                        return
                    key = todo.pop()
                try:
                    problem = self._read_back_one(client, where, consistency, key)
                except Exception as error:  # Not read back is lost, whatever the reason.
                    problem = f"{key}: {where}: {type(error).__name__}: {error}"
                if problem:
                    with lock:
                        problems.append(problem)

        threads = [threading.Thread(target=reader, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return problems + (check(self.writes, self.reads) if consistency == "linearizable" else [])

    def _read_back_one(self, client, where, consistency, key):
        last, begin = self._last[key], time.monotonic()
        found = number_of(key, client.get(self.collection, key, consistency))
        if consistency == "linearizable":
            self.reads.append(Read(key, found, begin, time.monotonic(), where))
        wanted = None if last.delete else last.number
        if found == wanted or key in self.uncertain:
            return None
        return f"{key}: {where} has number {found}, acknowledged was {wanted} ({last})"

    def check(self):
        """Everything that is wrong so far, in words."""
        return self.failed + self.wrong + check(self.writes, self.reads)

    # --- threads ------------------------------------------------------------------------------------------------------

    def _loop(self, number, step, keys):
        dice = random.Random(f"{self.seed}/{number}")
        client = self.clients[number % len(self.clients)]
        turn, next_at = 0, time.monotonic()
        while not self._stopping.is_set():
            turn += 1
            try:
                step(client, dice, keys, turn)
            except Exception as error:  # Nothing may end a thread unseen.
                self.failed.append(f"thread {number}: {type(error).__name__}: {error}")
                if len(self.failed) > 100:
                    return
            next_at = max(next_at + 1 / self.rate, time.monotonic() - 1)
            self._stopping.wait(max(0.0, next_at - time.monotonic()))

    def _write_once(self, client, dice, keys, turn):
        usable = [key for key in keys if key not in self.uncertain]
        chosen = dice.sample(usable, BATCH) if turn % BATCH_EVERY == 0 else [dice.choice(usable)]
        delete = turn % DELETE_EVERY == 0
        before = [self._last.get(key) for key in chosen]
        there = sum(1 for last in before if last is not None and not last.delete)
        begin = time.monotonic()
        writes = [Write(key, last.number + 1 if last else 1, delete, begin) for key, last in zip(chosen, before)]
        # Noted before they are sent: a reader may see them at once.
        self.uncertain.update(chosen)
        self._last.update((write.key, write) for write in writes)
        self.writes.extend(writes)
        if not delete:
            answer = client.put(self.collection, [point_of(write.key, write.number) for write in writes])
        elif len(chosen) == 1:
            answer = client.delete(self.collection, chosen[0])
        else:
            answer = client.delete_many(self.collection, chosen)
        end = time.monotonic()
        positions = answer.positions
        for write in writes:
            write.end = end
            write.shard = positions[0][0] if len(writes) == 1 and len(positions) == 1 else -1
        self.uncertain.difference_update(chosen)
        if delete and answer.json.get("deleted") != there:
            self.wrong.append(f"deleting {chosen}, of which {there} existed, answered {answer.json} "
                              f"after {answer.retries} retries")
        if not 1 <= len(positions) <= len(chosen):
            self.wrong.append(f"a write of {len(chosen)} points has positions {positions}")

    def _read_once(self, client, dice, keys, _):
        self.read(client, dice.choice(keys), f"a reader at {client.first}")

    def read(self, client, key, where):
        """One read that becomes part of the history."""
        begin = time.monotonic()
        point = client.get(self.collection, key)
        end = time.monotonic()
        try:
            self.reads.append(Read(key, number_of(key, point), begin, end, where))
        except ValueError as error:
            self.wrong.append(str(error))


# --- searches ---------------------------------------------------------------------------------------------------------

TOLERANCE = 1e-5


class Oracle:
    """A collection that nobody changes, and what searching it must give: brute force in double precision."""

    def __init__(self, count, dimension=16, queries=8, seed=1, metric="Cosine"):
        dice = random.Random(seed)
        self.metric, self.dimension = metric, dimension
        self.points = [{"id": f"point-{i}", "vector": _vector(dice, dimension),
                        "metadata": {"colour": ("red", "green", "blue")[i % 3], "number": i}} for i in range(count)]
        self.queries = [_vector(dice, dimension) for _ in range(queries)]
        self.truths = {}  # {(query number, colour): {id: score}}

    def load(self, client, collection, batch=100):
        client.create_collection(collection, self.dimension, self.metric)
        for start in range(0, len(self.points), batch):
            client.put(collection, self.points[start:start + batch])

    def truth(self, query, colour=None):
        if (query, colour) not in self.truths:
            self.truths[query, colour] = {p["id"]: _distance(self.metric, self.queries[query], p["vector"])
                                          for p in self.points if colour in (None, p["metadata"]["colour"])}
        return self.truths[query, colour]

    def ask(self, client, collection, query, k=10, consistency="linearizable", colour=None):
        """Searches and returns what is wrong with the answer, in words."""
        more = {"filter": {"colour": colour}} if colour else {}
        hits = client.search(collection, self.queries[query], k, consistency, **more)
        truth = self.truth(query, colour)
        best = sorted(truth.values())[:k]
        got = [(hit["score"], hit["id"]) for hit in hits]
        problems = []
        if len({point_id for _, point_id in got}) != len(best):
            problems.append(f"{len(got)} hits, {len({i for _, i in got})} different ones, wanted {len(best)}")
        if got != sorted(got):
            problems.append("not in the order of (score, id)")
        for (score, point_id), wanted in zip(got, best):
            true_score = truth.get(point_id)
            if true_score is None or abs(true_score - score) > TOLERANCE or abs(score - wanted) > TOLERANCE:
                problems.append(f"{point_id} at {score}, its true score is {true_score}, the best there is {wanted}")
        return [f"query {query} k={k} {consistency} {colour or ''}: {p}" for p in problems]

    def ask_all(self, client, collection, consistency="linearizable"):
        problems = []
        for query in range(len(self.queries)):
            problems += self.ask(client, collection, query, consistency=consistency)
            problems += self.ask(client, collection, query, k=3, consistency=consistency, colour="blue")
        return problems


class Asker:
    """Searches an Oracle's collection again and again, through all sidecars in turn."""

    def __init__(self, clients, collection, oracle, rate=10):
        self.clients, self.collection, self.oracle, self.rate = clients, collection, oracle, rate
        self.asked, self.wrong = [], []  # when each search began; what was wrong, in words
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self._thread.join()

    def goes_on(self, since, count=5):
        return sum(1 for at in self.asked if at >= since) >= count

    def _loop(self):
        turn = 0
        while not self._stopping.wait(1 / self.rate) and len(self.wrong) < 100:
            turn += 1
            begin = time.monotonic()
            try:
                client = self.clients[turn % len(self.clients)]
                self.wrong += self.oracle.ask(client, self.collection, turn % len(self.oracle.queries))
            except Exception as error:  # Nothing may end the thread unseen.
                self.wrong.append(f"{type(error).__name__}: {error}")
            self.asked.append(begin)


def _vector(dice, dimension):
    return [dice.randrange(-500, 500) / 64 for _ in range(dimension)]  # exact in float32


def _distance(metric, a, b):
    if metric == "Euclidean":
        return math.dist(a, b)
    dot = math.fsum(map(operator.mul, a, b))
    return -dot if metric == "DotProduct" else 1 - dot / (math.hypot(*a) * math.hypot(*b))
