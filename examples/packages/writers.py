"""Writers that go on through a failure, each with a ledger of what the cluster acknowledged, and what can be told from
the ledgers afterwards: what was lost, and how long writing paused."""
import threading
import time
from collections import defaultdict
from typing import NamedTuple

COLLECTION, DIMENSION = "writes", 8
OVERWRITE_EVERY, DELETE_EVERY = 7, 23


class Acknowledged(NamedTuple):
    at: float  # monotonic seconds
    took_s: float
    shard: int


class Writer(threading.Thread):
    """Writes one point after the other, now and then a second time, now and then deletes one."""

    def __init__(self, number, client):
        super().__init__(daemon=True)
        self.number, self.client = number, client
        self.ledger = {}  # {id: the point as last acknowledged, or None: deleted}
        self.uncertain = set()  # Ids whose last write failed: nothing can be said of them.
        self.acknowledged = []
        self.failed = 0
        self.wrong = []
        self._stopping = threading.Event()

    def run(self):
        turn = 0
        while not self._stopping.is_set():
            turn += 1
            try:
                self._write(turn)
            except Exception as error:  # Nothing may end a writer unseen.
                self.failed += 1
                self.wrong.append(f"writer {self.number}: {error}")
                if self.failed >= 20:  # It will not get better; the demo has failed anyhow.
                    return

    def stop(self):
        self._stopping.set()

    def _write(self, turn):
        point_id, delete = f"writer-{self.number}-{turn}", False
        if turn % DELETE_EVERY == 0:
            point_id, delete = f"writer-{self.number}-{turn - 2}", True
        elif turn % OVERWRITE_EVERY == 0:
            point_id = f"writer-{self.number}-{turn - 3}"
        if point_id in self.uncertain:
            return
        existed = self.ledger.get(point_id) is not None
        # Small whole numbers are the same in every floating point format.
        point = {"id": point_id, "vector": [self.number + 1] + [(turn >> (6 * i)) & 63 for i in range(DIMENSION - 1)],
                 "metadata": {"writer": self.number, "turn": turn}}
        began_at = time.monotonic()
        self.uncertain.add(point_id)
        answer = self.client.delete(COLLECTION, point_id) if delete else self.client.put(COLLECTION, [point])
        at = time.monotonic()
        self.uncertain.discard(point_id)
        self.ledger[point_id] = None if delete else point
        if delete and answer.json.get("deleted") != int(existed):
            self.wrong.append(f"deleting {point_id}, which {'existed' if existed else 'did not exist'}, "
                              f"answered {answer.json}")
        positions = answer.positions
        if len(positions) != 1:
            self.wrong.append(f"{point_id}: the answer's Outrigger-Position names {len(positions)} shards, not one")
            return
        self.acknowledged.append(Acknowledged(at, at - began_at, positions[0][0]))


def start(clients, per_client):
    """Writers spread evenly over the clients, each of which prefers another sidecar."""
    writers = [Writer(number, clients[number % len(clients)]) for number in range(per_client * len(clients))]
    for writer in writers:
        writer.start()
    return writers


def stop(writers):
    for writer in writers:
        writer.stop()
    for writer in writers:
        writer.join()


def count(writers):
    return sum(len(writer.acknowledged) for writer in writers)


def longest_gap_s(writers, shards, since, until):
    """The longest time, of any shard, between two of its acknowledged writes of which the first came before `until` and
    the second after `since`. A shard that stayed silent counts up to the last write of all."""
    times = defaultdict(list)
    for writer in writers:
        for write in writer.acknowledged:
            times[write.shard].append(write.at)
    end = max((at for shard_times in times.values() for at in shard_times), default=until)
    longest = 0.0
    for shard in shards:
        moments = sorted(times[shard]) or [since]
        for earlier, later in zip(moments, moments[1:] + [max(end, moments[-1])]):
            if earlier <= until and later >= since:
                longest = max(longest, later - earlier)
    return longest


def latencies_ms(writers, since, until):
    """(p50, p99, max) of the writes acknowledged in that time."""
    took = sorted(write.took_s for writer in writers for write in writer.acknowledged if since <= write.at <= until)
    if not took:
        return 0.0, 0.0, 0.0
    return tuple(1e3 * took[min(len(took) - 1, int(len(took) * part))] for part in (0.5, 0.99, 1.0))


def read_back(ids, point_of, clients, collection, progress=None):
    """Reads every id, spread over the clients. point_of(id) is the point as acknowledged, or None: deleted. Returns
    what was lost, in words."""
    todo, lost, lock = list(ids), [], threading.Lock()

    def reader(client):
        while True:
            with lock:
                batch = [todo.pop() for _ in range(min(50, len(todo)))]
            if not batch:
                return
            for point_id in batch:
                problem = _differs(client, collection, point_id, point_of(point_id))
                if problem:
                    with lock:
                        lost.append(f"{point_id}: {problem}")
            if progress:
                progress.advance(len(batch))

    threads = [threading.Thread(target=reader, args=(client,), daemon=True) for client in clients * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return lost


def _differs(client, collection, point_id, point):
    """None, or how the cluster's point differs from the acknowledged one."""
    try:
        found = client.get(collection, point_id)
    except Exception as error:  # Not read back is lost, whatever the reason.
        return str(error)
    if found is None or point is None:
        return None if found is point else ("is gone" if found is None else "was deleted and is there again")
    for field in ("vector", "metadata"):
        if not _same(point[field], found.get(field)):
            return f"{field} is {found.get(field)}, acknowledged was {point[field]}"
    return None


def _same(acknowledged, found):
    if not isinstance(acknowledged, list):
        return acknowledged == found
    # Both sides print the same float32, with more or fewer digits.
    return isinstance(found, list) and len(found) == len(acknowledged) and all(
        abs(a - b) <= 1e-6 * max(abs(a), abs(b)) for a, b in zip(acknowledged, found))
