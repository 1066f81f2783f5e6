"""Is an answer of the cluster the truth? Brute force over the input, and a thread that asks all the time."""
import threading
import time

import numpy as np

TOLERANCE = 1e-5  # Scores that near to each other may change places: an engine may add up in another order.
K = 10


class Oracle:
    """All points, searched one by one. Score: cosine distance."""

    def __init__(self, names, vectors):
        self.names = names
        self.row = {name: row for row, name in enumerate(names)}
        self.vectors = vectors.astype(np.float64)
        self.vectors /= np.linalg.norm(self.vectors, axis=1, keepdims=True)

    def scores(self, query):
        query = query.astype(np.float64)
        return 1.0 - self.vectors @ (query / np.linalg.norm(query))

    def best(self, scores, k=K):
        """The k best rows by (score, id)."""
        near = np.argpartition(scores, min(k, len(scores)) - 1)[:k]
        rows = np.flatnonzero(scores <= scores[near].max())
        return sorted(rows, key=lambda row: (scores[row], self.names[row]))[:k]

    def problems(self, hits, scores, k=K):
        """What is wrong with these hits, in words; empty when they are the k best."""
        wrong = []
        ids = [hit["id"] for hit in hits]
        truth = self.best(scores, k)
        strangers = [name for name in ids if name not in self.row]
        if strangers:
            return [f"not among the input: {', '.join(strangers)}"]
        if len(set(ids)) != len(ids):
            wrong.append("the same package twice")
        if len(ids) != len(truth):
            wrong.append(f"{len(ids)} answers instead of {len(truth)}")
        worst = scores[truth[-1]]
        for hit in hits:
            true_score = scores[self.row[hit["id"]]]
            if abs(hit["score"] - true_score) > TOLERANCE:
                wrong.append(f"{hit['id']} has score {hit['score']:.6f}, brute force says {true_score:.6f}")
            if true_score > worst + TOLERANCE:
                wrong.append(f"{hit['id']} is not among the best {len(truth)}")
        missing = [self.names[row] for row in truth if scores[row] < worst - TOLERANCE and self.names[row] not in ids]
        if missing:
            wrong.append(f"missing: {', '.join(missing)}")
        order = [(hit["score"], hit["id"].encode()) for hit in hits]
        if order != sorted(order):
            wrong.append("not in the order of (score, id)")
        return wrong


class Query:
    """Something to ask, with the true score of every package."""

    def __init__(self, title, vector, oracle):
        self.title = title
        self.vector = [round(float(x), 5) for x in vector]
        self.scores = oracle.scores(vector)


class Asker(threading.Thread):
    """Asks the queries again and again, through each client in turn, and compares every answer with brute force."""

    def __init__(self, clients, collection, queries, oracle, pause_s=0.1):
        super().__init__(daemon=True)
        self.clients, self.collection, self.queries, self.oracle = clients, collection, queries, oracle
        self.pause_s = pause_s
        self.asked_at = []  # When each compared answer came.
        self.slowest_s = 0.0
        self.wrong = []
        self._stopping = threading.Event()

    def run(self):
        turn = 0
        while not self._stopping.wait(self.pause_s):
            query = self.queries[turn % len(self.queries)]
            began_at = time.monotonic()
            problems = ask(self.clients[turn % len(self.clients)], self.collection, query, self.oracle)[1]
            self.asked_at.append(time.monotonic())
            self.slowest_s = max(self.slowest_s, self.asked_at[-1] - began_at)
            self.wrong += problems
            turn += 1

    def ask_no_more(self):
        self._stopping.set()

    def stop(self):
        self.ask_no_more()
        self.join()

    def compared(self, since, until):
        return sum(since <= at <= until for at in self.asked_at)


def ask(client, collection, query, oracle, consistency="linearizable"):
    """(hits, what is wrong with them in words)"""
    try:
        hits = client.search(collection, query.vector, K, consistency)
    except Exception as error:  # A thread of the demo reports everything: what it did not expect, too.
        return [], [f"question \"{query.title}\": {error}"]
    return hits, [f"question \"{query.title}\": {problem}" for problem in oracle.problems(hits, query.scores)]
