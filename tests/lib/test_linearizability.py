"""Histories whose answer is known, and random ones whose answer a search through all orders knows."""
import itertools
import random
import unittest

from linearizability import ABSENT, Operation, check_keys, check_register


def w(value, begin, end):
    return Operation(True, value, begin, end)


def r(value, begin, end):
    return Operation(False, value, begin, end)


GOOD = {
    "nothing": [],
    "absent before any write": [r(ABSENT, 0, 1), w(1, 2, 3), r(1, 4, 5)],
    "a read beside a write may see either": [w(1, 0, 1), w(2, 2, 5), r(1, 3, 4), r(2, 3.5, 4.5)],
    "two writes at once, in either order": [w(1, 0, 10), w(2, 0, 10), r(2, 11, 12)],
    "the other order": [w(1, 0, 10), w(2, 0, 10), r(1, 11, 12)],
    "an unanswered write that never happens": [w(1, 0, 1), w(2, 2, None), r(1, 3, 4), r(1, 50, 51)],
    "an unanswered write that happens much later": [w(1, 0, 1), w(2, 2, None), r(1, 3, 4), w(3, 5, 6), r(3, 7, 8), r(2, 9, 10)],
    "an unanswered delete that happens later": [w(1, 0, 1), w(ABSENT, 2, None), r(1, 3, 4), r(ABSENT, 5, 6)],
    "deletes": [w(1, 0, 1), w(ABSENT, 2, 3), r(ABSENT, 4, 5), w(2, 6, 7), r(2, 8, 9)],
    "what touches is concurrent": [w(1, 0, 1), w(2, 2, 3), r(1, 3, 4)],
    "one read holds several pending writes apart": [w(1, 0, 9), w(2, 0, 9), w(3, 0, 9), r(3, 1, 2), r(1, 3, 4), r(2, 5, 6)],
    "two deletes, one of them pending": [w(1, 0, 1), w(ABSENT, 2, 9), r(ABSENT, 3, 4), w(2, 5, 6), w(ABSENT, 5, 7), r(ABSENT, 8, 9)],
}
BAD = {
    "a stale read": [w(1, 0, 1), w(2, 2, 3), r(1, 4, 5)],
    "a lost write": [w(1, 0, 1), r(ABSENT, 2, 3)],
    "new, then old again": [w(1, 0, 1), w(2, 2, 9), r(2, 3, 4), r(1, 5, 6)],
    "two readers disagree on the order": [w(1, 0, 9), w(2, 0, 9), r(1, 10, 11), r(2, 12, 13)],
    "out of the future": [r(1, 0, 1), w(1, 2, 3)],
    "out of nowhere": [w(1, 0, 1), r(7, 2, 3)],
    "a delete that came back": [w(1, 0, 1), w(ABSENT, 2, 3), r(ABSENT, 4, 5), r(1, 6, 7)],
    "an unanswered write cannot happen twice": [w(1, 0, 1), w(2, 2, None), r(2, 3, 4), w(3, 5, 6), r(3, 7, 8), r(2, 9, 10)],
    "nor before it began": [w(1, 0, 1), r(2, 2, 3), w(2, 4, None)],
    "each pair is right, the whole is not": [w(1, 0, 9), w(2, 0, 9), r(1, 1, 2), r(2, 3, 4), r(1, 5, 6)],
}


def brute_force(operations):
    """Every subset of the unanswered writes, every order of the rest."""
    unanswered = [o for o in operations if o.end is None]
    answered = [o for o in operations if o.end is not None]
    for count in range(len(unanswered) + 1):
        for some in itertools.combinations(unanswered, count):
            if any(explains(order) for order in itertools.permutations(answered + list(some))):
                return True
    return False


def explains(order):
    value = ABSENT
    for i, operation in enumerate(order):
        if any(later.end is not None and later.end < operation.begin for later in order[i + 1:]):
            return False
        if operation.write:
            value = operation.value
        elif operation.value != value:
            return False
    return True


def random_history(dice):
    operations = []
    for i in range(dice.randrange(2, 7)):
        begin = dice.randrange(12)
        end = begin + dice.randrange(1, 6)
        if dice.randrange(2):
            value = ABSENT if dice.randrange(4) == 0 else i
            operations.append(w(value, begin, None if dice.randrange(4) == 0 else end))
        else:
            operations.append(r(dice.choice([ABSENT, *range(6)]), begin, end))
    return operations


class TestLinearizability(unittest.TestCase):
    def test_good(self):
        for name, history in GOOD.items():
            for _ in range(5):
                with self.subTest(name):
                    self.assertIsNone(check_register(history))
                    self.assertTrue(brute_force(history))
                random.Random(name).shuffle(history)

    def test_bad(self):
        for name, history in BAD.items():
            with self.subTest(name):
                self.assertIsNotNone(check_register(history))
                self.assertFalse(brute_force(history))

    def test_like_brute_force(self):
        dice = random.Random(4)
        answers = {True: 0, False: 0}
        for _ in range(3000):
            history = random_history(dice)
            truth = brute_force(history)
            answers[truth] += 1
            self.assertEqual(check_register(history) is None, truth, "\n".join(map(str, history)))
        self.assertGreater(min(answers.values()), 300)

    def test_long_and_concurrent(self):
        """Ten clients, 2,000 operations on one register that takes each in some moment between its begin and its end; then
        the same with one read made stale."""
        dice = random.Random(5)
        moments = []
        for client in range(10):
            now = dice.random()
            for i in range(200):
                begin, end = now, now + dice.random()
                moments.append((dice.uniform(begin, end), begin, end, dice.randrange(2), (client, i)))
                now = end + dice.random() / 10
        operations, value, before = [], ABSENT, []
        for _, begin, end, write, name in sorted(moments):
            if write:
                value = name
                before.append((end, value))
            operations.append(Operation(bool(write), value, begin, end))
        self.assertIsNone(check_register(operations))
        stale = next(i for i, o in enumerate(operations) if not o.write and o.begin > 50)
        old = next(v for end, v in before if end > 10)
        operations[stale] = operations[stale]._replace(value=old)
        self.assertIn("no order explains read", check_register(operations))

    def test_keys_are_told_apart(self):
        found = check_keys({"a": GOOD["deletes"], "b": BAD["a stale read"]})
        self.assertEqual(len(found), 1)
        self.assertTrue(found[0].startswith("b: no order explains read 1 [4.0000, 5.0000]"), found)


if __name__ == "__main__":
    unittest.main()
