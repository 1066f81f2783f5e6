"""The rolling restart of docs/operations.md, as it stands there, under load."""
import os
import re
import subprocess
import unittest

from harness import PROGRAM, ROOT, wait_until
from test_handoff import HandoffTest
from test_tour import end_strangers


class TestRollingRestart(HandoffTest):
    def tearDown(self):
        super().tearDown()
        end_strangers(self.cluster)

    def block(self):
        with open(os.path.join(ROOT, "docs", "operations.md"), encoding="utf-8") as file:
            text, = re.findall(r"<!-- rolling restart -->\n```sh\n(.*?)```", file.read(), re.DOTALL)
        for name, here in (("http://localhost:$((7700 +", f"http://127.0.0.1:$(({self.cluster.port} +"),
                           ("/tmp/outrigger-dev", self.cluster.data), ("build/outrigger", " ".join(PROGRAM))):
            self.assertIn(name, text)
            text = text.replace(name, here)
        return text

    def test_as_operators_are_told(self):
        """Every sidecar is another process afterwards, and no request has failed."""
        cluster = self.cluster
        done = subprocess.run(["bash", "-c", self.block()], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              cwd=ROOT, timeout=90, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(done.stdout.count(" is healthy: "), 2 * len(cluster.node_ids), done.stdout)
        for node in cluster.node_ids:
            self.assertFalse(cluster.processes[node, "sidecar"].runs, f"{node} was not stopped")
        self.goes_on("reads and writes after the last restart")
        self.load.stop()
        self.assert_none(self.load.check())
        self.assertEqual(self.load.refusals(), 0, "clients saw a 503 or 429")
        self.assertEqual(self.load.uncertain, set())
        for node in cluster.node_ids:
            wait_until(lambda: cluster.ready(node), 20, f"{node} to be ready")
            self.assert_none(self.load.read_back(cluster.client(node, alone=True), node))


del HandoffTest  # Of another file; not to be run again here.

if __name__ == "__main__":
    unittest.main()
