"""The ledger finds what it is there to find: without this, a green test of the cluster says nothing."""
import unittest

from ledger import Oracle, Read, Write, check, number_of, point_of


def history(*texts):
    """Operations on one key: "w1 0-2" a write of number 1, "d2 3-4" a delete, "w3 5-" never acknowledged, "r1 2-3" a
    read that found number 1, "r- 4-5" one that found nothing."""
    writes, reads = [], []
    for text in texts:
        what, times = text.split()
        begin, _, end = times.partition("-")
        begin, end = float(begin), float(end) if end else None
        if what[0] == "r":
            reads.append(Read("k", None if what[1:] == "-" else int(what[1:]), begin, end, "a reader"))
        else:
            writes.append(Write("k", int(what[1:]), what[0] == "d", begin, end))
    return check(writes, reads)


class TestCheck(unittest.TestCase):
    def test_accepts_what_some_order_explains(self):
        for case in (
            ("w1 0-1", "r1 2-3"),
            ("r- 0-1", "w1 2-3"),
            ("w1 0-9", "r- 2-3"),  # Both are right while the write is under way,
            ("w1 0-9", "r1 2-3"),
            ("w1 0-9", "r- 2-3", "r1 4-5"),  # in this order.
            ("w1 0-1", "w2 2-", "r1 3-4", "r1 5-6"),  # What was never acknowledged may be there or not,
            ("w1 0-1", "w2 2-", "r1 3-4", "r2 5-6"),
            ("w1 0-1", "d2 2-3", "r- 4-5"),
            ("w1 0-1", "d2 2-3", "w3 4-9", "r- 5-6", "r3 7-8"),
            ("w1 0-1", "d2 2-3", "r1 1-5"),  # and a read may be as old as its beginning.
        ):
            self.assertEqual(history(*case), [], case)

    def test_a_lost_write(self):
        self.assertIn("found nothing, but number 1", history("w1 0-1", "r- 2-3")[0])

    def test_a_lost_overwrite(self):
        self.assertIn("found number 1, but 2", history("w1 0-1", "w2 2-3", "r1 4-5")[0])

    def test_a_delete_undone(self):
        self.assertIn("found number 1, but 2", history("w1 0-1", "d2 2-3", "r1 4-5")[0])

    def test_a_stale_read_after_a_fresh_one(self):
        self.assertIn("found number 1, but 2", history("w1 0-1", "w2 2-9", "r2 3-4", "r1 5-6")[0])
        self.assertIn("found nothing, but number 1", history("w1 0-9", "r1 3-4", "r- 5-6")[0])

    def test_an_older_delete_explains_no_later_absence(self):
        self.assertIn("found nothing, but number 2", history("d1 0-1", "w2 2-3", "r- 4-5")[0])

    def test_a_number_that_nobody_wrote(self):
        self.assertIn("nobody had written", history("w1 0-1", "r2 2-3")[0])
        self.assertIn("nobody had written", history("r1 0-1", "w1 2-3")[0])
        self.assertIn("nobody had written", history("d1 0-1", "r1 2-3")[0])

    def test_a_point_that_nobody_wrote(self):
        point = point_of("k", 7)
        self.assertEqual(number_of("k", point), 7)
        for spoilt in (dict(point, vector=[9] * 8), dict(point, metadata={"key": "k", "number": 8}),
                       dict(point, metadata=None), dict(point, id="l")):
            with self.assertRaises(ValueError):
                number_of("k", spoilt)


class FakeSearch:
    """Answers searches out of an Oracle's points, spoilt on demand."""

    def __init__(self, oracle, spoil=lambda hits: hits):
        self.oracle, self.spoil = oracle, spoil

    def search(self, _, vector, k, consistency, **more):
        del consistency
        colour = more["filter"]["colour"] if more else None
        truth = self.oracle.truth(self.oracle.queries.index(vector), colour)
        best = sorted((score, point_id) for point_id, score in truth.items())[:k + 1]
        return self.spoil([{"id": point_id, "score": score} for score, point_id in best])[:k]


class TestOracle(unittest.TestCase):
    def test_right_answers_pass_and_wrong_ones_do_not(self):
        oracle = Oracle(60)
        self.assertEqual(oracle.ask_all(FakeSearch(oracle), "c"), [])
        self.assertEqual(len(oracle.ask(FakeSearch(oracle), "c", 0, k=100)), 0)
        for spoil in (lambda hits: hits[1:],  # the best one is missing
                      lambda hits: hits[:2],  # short
                      lambda hits: [hits[0], hits[0]] + hits[2:],  # twice
                      lambda hits: [hits[1], hits[0]] + hits[2:],  # out of order
                      lambda hits: [dict(hits[0], score=hits[0]["score"] - 0.01)] + hits[1:],
                      lambda hits: [dict(hits[0], id="stranger")] + hits[1:]):
            self.assertNotEqual(oracle.ask(FakeSearch(oracle, spoil), "c", 0), [])


if __name__ == "__main__":
    unittest.main()
