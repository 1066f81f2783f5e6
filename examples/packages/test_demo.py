"""The demo's checks, and the whole demo against a fake cluster, right and wrong."""
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import unittest

import numpy as np

import checking
import writers
from checking import Oracle, Query
from test_packages import sample
from writers import Acknowledged, Writer

HERE = os.path.dirname(os.path.abspath(__file__))
FAKE = os.path.join(HERE, "..", "..", "tests", "lib", "fake_outrigger.py")
sys.path.insert(0, os.path.dirname(FAKE))
from fake_outrigger import Fake  # noqa: E402
from outrigger_client import Client, wait_until  # noqa: E402


class Compare(unittest.TestCase):
    def setUp(self):
        vectors = np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32)
        vectors[7] = vectors[3]  # A tie.
        self.oracle = Oracle([f"p{i:02d}" for i in range(50)], vectors)
        self.query = Query("q", vectors[3], self.oracle)
        self.hits = [{"id": self.oracle.names[row], "score": float(self.query.scores[row])}
                     for row in self.oracle.best(self.query.scores)]

    def problems(self, hits):
        return " ".join(self.oracle.problems(hits, self.query.scores))

    def test_truth_is_right_and_ties_are_by_id(self):
        self.assertEqual(self.problems(self.hits), "")
        self.assertEqual([hit["id"] for hit in self.hits[:2]], ["p03", "p07"])

    def test_scores_that_differ_by_rounding_are_right(self):
        hits = [{**hit, "score": hit["score"] + (i + 1) * 1e-7} for i, hit in enumerate(self.hits)]
        self.assertEqual(self.problems(hits), "")

    def test_each_kind_of_wrong_is_said(self):
        stranger = [{"id": "who", "score": 0.0}] + self.hits[1:]
        worse = self.oracle.best(self.query.scores, 11)[10]
        other = {"id": self.oracle.names[worse], "score": float(self.query.scores[worse])}
        for hits, said in ((self.hits[:9], "9 answers instead of 10"),
                           (self.hits[:9] + self.hits[8:9], "twice"),
                           (stranger, "not among the input: who"),
                           (self.hits[:4] + self.hits[5:] + [other], f"missing: {self.hits[4]['id']}"),
                           (self.hits[:9] + [other], f"{other['id']} is not among the best"),
                           (self.hits[1::-1] + self.hits[2:], "not in the order"),
                           ([{**self.hits[0], "score": 0.01}] + self.hits[1:], "p03 has score 0.01")):
            self.assertIn(said, self.problems(hits))


class Gaps(unittest.TestCase):
    def writer(self, *moments):
        writer = Writer(0, None)
        writer.acknowledged = [Acknowledged(at, 0.001, shard) for at, shard in moments]
        return writer

    def test_longest_gap_of_any_shard_around_the_kill(self):
        a = self.writer((0, 1), (5, 1), (10, 1), (10.2, 1), (12, 1))
        b = self.writer((9.9, 2), (10.7, 2), (11, 2))
        self.assertAlmostEqual(writers.longest_gap_s([a, b], [1, 2], since=10.1, until=10.5), 1.8)
        self.assertAlmostEqual(writers.longest_gap_s([b], [2], since=10.1, until=10.5), 0.8)

    def test_shard_that_stays_silent_counts_to_the_end(self):
        a = self.writer((0, 1), (30, 1))
        b = self.writer((9, 2))
        self.assertAlmostEqual(writers.longest_gap_s([a, b], [2], since=10, until=12), 21)


class Ledgers(unittest.TestCase):
    def run_writers(self, fault=""):
        fake = Fake(endpoints=2, fault=fault)
        self.addCleanup(fake.close)
        clients = [Client(fake.endpoints, first, deadline_s=5) for first in range(2)]
        for client in clients:
            self.addCleanup(client.close)
        clients[0].create_collection(writers.COLLECTION, writers.DIMENSION)
        running = writers.start(clients, 1)
        wait_until(lambda: writers.count(running) > 200 or any(writer.failed for writer in running), 20, "200 writes")
        writers.stop(running)
        return fake, clients, running

    def read_back(self, clients, running):
        ledger = {i: point for writer in running for i, point in writer.ledger.items()}
        return ledger, writers.read_back(ledger, ledger.get, clients, writers.COLLECTION)

    def test_nothing_is_lost_when_nothing_is(self):
        _, clients, running = self.run_writers()
        ledger, lost = self.read_back(clients, running)
        self.assertEqual(lost, [])
        self.assertEqual([writer.wrong for writer in running], [[], []])
        self.assertTrue(any(point is None for point in ledger.values()), "deletes belong to it")
        overwritten = [i for i, point in running[0].ledger.items()
                       if point and i != f"writer-0-{point['metadata']['turn']}"]
        self.assertTrue(overwritten, "and overwriting")

    def test_each_kind_of_loss_is_said(self):
        fake, clients, running = self.run_writers()
        points = fake.store.collections[writers.COLLECTION]
        gone, changed, older = list(points)[:3]
        deleted = next(i for i, point in running[0].ledger.items() if point is None)
        points[deleted] = points[gone]
        del points[gone]
        points[changed]["vector"] = [9] * 8
        points[older]["metadata"] = {"writer": 0, "turn": 0}
        lost = sorted(self.read_back(clients, running)[1])
        self.assertEqual(len(lost), 4)
        for point_id, said in ((gone, "is gone"), (changed, "vector is"), (older, "metadata is"),
                               (deleted, "is there again")):
            self.assertTrue(any(text.startswith(point_id + ": ") and said in text for text in lost), lost)

    def test_delete_that_counts_wrong_is_said(self):
        writer = self.run_writers()[2][0]
        turn = writers.DELETE_EVERY * 1000
        writer.ledger[f"writer-0-{turn - 2}"] = {"id": "never written"}
        writer._write(turn)
        self.assertIn("which existed, answered {'deleted': 0}", " ".join(writer.wrong))

    def test_refused_write_is_failed(self):
        _, _, running = self.run_writers("fail")
        self.assertTrue(any("refused for the sake of the test" in text for writer in running for text in writer.wrong))


class WholeDemo(unittest.TestCase):
    """`demo.py` as `make demo` runs it, on a small input and a fake `outrigger`."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name
        self.index, self.questions = (os.path.join(self.directory, name) for name in ("index", "questions.json"))
        with open(self.index, "w") as file:
            for package in sample():
                name, description, tags = package
                file.write(f"Package: {name}\nDescription: {description}\nTag: {', '.join(tags)}\n\n")
        with open(self.questions, "w") as file:
            json.dump([["play chess", ["chess1"]], ["editing of texts", ["edit2"]]], file)

    def start(self, fault="", **more):
        command = [sys.executable, os.path.join(HERE, "demo.py"), "--outrigger", f"{sys.executable} {FAKE}",
                   "--dir", self.directory, "--dumpavail", self.index, "--questions", self.questions,
                   "--port", "17700", "--before", "0.5", "--down", "0.4", "--after", "0.2"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                env={**os.environ, "FAKE_FAULT": fault, "DEMO_TEST": self.directory}, **more)

    def outcome(self, fault=""):
        """(exit code, output, {name: number} of the last line)"""
        demo = self.start(fault)
        output = demo.communicate(timeout=120)[0]
        last = re.fullmatch(r"demo: acknowledged=(\d+) lost=(\d+) failed=(\d+) pause_ms=(\d+)", output.splitlines()[-1])
        self.assertTrue(last, output)
        self.assertEqual(self.left_running(), [], output)
        numbers = dict(zip(("acknowledged", "lost", "failed", "pause_ms"), map(int, last.groups())))
        return demo.returncode, output, numbers

    def left_running(self):
        """Processes of the fake cluster; a moment is granted to those that were just killed."""
        try:
            return wait_until(lambda: not self.processes(), 5, "the end") and []
        except TimeoutError:
            return self.processes()

    def processes(self):
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    command = file.read()
                with open(f"/proc/{pid}/environ", "rb") as file:
                    ours = f"DEMO_TEST={self.directory}".encode() in file.read()
                if ours and b"fake_outrigger" in command:
                    found.append(int(pid))
            except OSError:
                pass
        return found

    def test_right_cluster(self):
        code, output, last = self.outcome()
        self.assertEqual(code, 0, output)
        self.assertEqual((last["lost"], last["failed"]), (0, 0))
        self.assertGreater(last["acknowledged"], len(sample()))
        self.assertGreater(last["pause_ms"], 250, "the fake fails over after 300 ms")
        for said in ("2 of 2 questions answered", "Killed with SIGKILL", "leads now, epoch 1 -> 2", "in sync again",
                     "after a broken connection", "27 packages: 0 lost"):
            self.assertIn(said, output)
        self.assertNotIn("WRONG", output)
        self.assertEqual([line for line in output.splitlines() if len(line) > 110 and "/" not in line], [])

    def test_cluster_that_loses_a_write(self):
        code, output, last = self.outcome("lose")
        self.assertEqual(code, 1)
        self.assertGreater(last["lost"], 0)
        self.assertRegex(output, r"LOST: writer-\d-\d*7: is gone")

    def test_cluster_that_answers_wrong(self):
        code, output, _ = self.outcome("wrong")
        self.assertEqual(code, 1)
        self.assertIn('WRONG: question "play chess": 9 answers instead of 10', output)

    def test_cluster_that_refuses_writes(self):
        code, output, last = self.outcome("fail")
        self.assertEqual(code, 1)
        self.assertGreater(last["failed"], 0)
        self.assertIn("refused for the sake of the test", output)

    def test_program_that_does_not_start(self):
        demo = subprocess.run([sys.executable, os.path.join(HERE, "demo.py"), "--outrigger", "/bin/false", "--dir",
                               self.directory, "--dumpavail", self.index, "--questions", self.questions],
                              capture_output=True, text=True, timeout=60)
        self.assertEqual(demo.returncode, 1)
        self.assertIn("WRONG: outrigger dev ended with exit code 1", demo.stdout)

    def test_ends_leave_nothing_running(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            with self.subTest(number):
                demo = self.start(start_new_session=True)
                lines = []
                for line in demo.stdout:
                    lines.append(line)
                    if "its own memory" in line:  # There are restarted processes by then, and much is to be done yet.
                        break
                demo.send_signal(number)
                rest = demo.communicate(timeout=60)[0]
                self.assertEqual(demo.returncode, -signal.SIGKILL if number == signal.SIGKILL else 130, rest)
                self.assertEqual(self.left_running(), [], rest)


if __name__ == "__main__":
    unittest.main()
