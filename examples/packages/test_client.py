"""The client of tests/lib: what it does when connections break, and that a retry is the same request."""
import os
import sys
import threading
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "lib"))
from fake_outrigger import Fake  # noqa: E402
from outrigger_client import Client, GaveUp, Refused, wait_until  # noqa: E402


class ClientCase(unittest.TestCase):
    def setUp(self):
        self.fake = Fake(endpoints=2)
        self.addCleanup(self.fake.close)
        self.client = Client(self.fake.endpoints, deadline_s=5)
        self.addCleanup(self.client.close)
        self.client.create_collection("c", 2)
        self.fake.store.seen.clear()

    def request_ids(self):
        return [request_id for _, _, request_id in self.fake.store.seen]

    def test_put_get_search_delete(self):
        answer = self.client.put("c", [{"id": "a/b ü", "vector": [1, 0]}, {"id": "..", "vector": [0, 1]}])
        self.assertEqual(answer.json, {"ids": ["a/b ü", ".."]})
        self.assertTrue(answer.positions)
        self.assertEqual(self.client.get("c", "a/b ü")["vector"], [1, 0])
        self.assertIsNone(self.client.get("c", "missing"))
        self.assertEqual([hit["id"] for hit in self.client.search("c", [1, 0.1], k=1)], ["a/b ü"])
        self.assertEqual(self.client.delete("c", "..").json, {"deleted": 1})
        self.assertEqual(self.client.collection("c")["count"], 1)
        self.assertEqual(self.client.retries, 0)

    def test_broken_connection_is_retried_elsewhere_with_the_same_request_id(self):
        for fault in ("break before", "break after", "half"):
            with self.subTest(fault):
                self.fake.store.seen.clear()
                before = self.client.retries_broken
                self.fake.faults.append(fault)
                answer = self.client.put("c", [{"id": fault, "vector": [1, 0]}])
                self.assertEqual(answer.retries, 1)
                self.assertEqual(self.client.retries_broken, before + 1)
                ids = self.request_ids()
                self.assertEqual(len(ids), 1 if fault == "break before" else 2)
                self.assertEqual(len(set(ids)), 1)
                self.assertRegex(ids[0], "^[0-9a-f]{32}$")

    def test_delete_whose_answer_was_lost_says_what_it_did(self):
        self.client.put("c", [{"id": "a", "vector": [1, 0]}])
        self.fake.faults.append("break after")
        self.assertEqual(self.client.delete("c", "a").json, {"deleted": 1})

    def test_two_writes_have_two_request_ids(self):
        self.client.put("c", [{"id": "a", "vector": [1, 0]}])
        self.client.put("c", [{"id": "a", "vector": [1, 0]}])
        self.assertEqual(len(set(self.request_ids())), 2)

    def test_503_is_retried_and_counted_apart(self):
        self.fake.faults += ["503", "503", "503"]
        self.assertEqual(self.client.put("c", [{"id": "a", "vector": [1, 0]}]).retries, 3)
        self.assertEqual((self.client.retries_broken, self.client.retries_refused), (0, 3))

    def test_gives_up_at_the_deadline(self):
        self.fake.faults += ["503"] * 1000
        with self.assertRaisesRegex(GaveUp, "503 try again.*gave up after"):
            self.client.put("c", [{"id": "a", "vector": [1, 0]}], deadline_s=0.2)

    def test_other_errors_are_not_retried(self):
        with self.assertRaisesRegex(Refused, "unknown collection") as caught:
            self.client.put("nowhere", [{"id": "a", "vector": [1, 0]}])
        self.assertEqual(caught.exception.answer.status, 404)
        self.assertEqual(len(self.fake.store.seen), 1)

    def test_dead_endpoint_is_left_for_the_next_until_told_to_return(self):
        other = Client(self.fake.endpoints[::-1], deadline_s=5)
        self.addCleanup(other.close)
        self.fake.stop(0)
        self.assertEqual(self.client.collection("c")["name"], "c")
        broken = self.client.retries_broken
        self.assertEqual(broken, 1)
        self.client.collection("c")
        self.assertEqual(self.client.retries_broken, broken, "it stays where it was answered")
        self.client.return_to_first()
        self.client.collection("c")
        self.assertEqual(self.client.retries_broken, broken + 1)

    def test_create_whose_answer_was_lost_succeeds(self):
        self.fake.store.done = Forgetful()
        self.fake.faults.append("break after")
        self.assertEqual(self.client.create_collection("d", 2).status, 409)
        with self.assertRaisesRegex(Refused, "exists"):
            self.client.create_collection("d", 2)

    def test_threads_share_a_client(self):
        def write(number):
            for i in range(50):
                self.client.put("c", [{"id": f"{number}-{i}", "vector": [1, i]}])

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(self.client.collection("c")["count"], 200)


class Forgetful(dict):
    """A table of request ids that knows nobody again."""

    def __contains__(self, key):
        return False


class WaitUntil(unittest.TestCase):
    def test_returns_what_the_condition_returned_or_says_what_it_waited_for(self):
        values = iter([None, 0, "yes"])
        self.assertEqual(wait_until(lambda: next(values), 5, "yes", 0), "yes")
        with self.assertRaisesRegex(TimeoutError, "0.05 s for the moon"):
            wait_until(lambda: False, 0.05, "the moon", 0.01)


if __name__ == "__main__":
    unittest.main()
