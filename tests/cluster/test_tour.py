"""README's tour, as it stands there: the shell blocks behind `<!-- tour -->` run in order, against a cluster whose ports
and directory take the place of those in the text."""
import os
import re
import shutil
import signal
import subprocess
import unittest

from harness import PROGRAM, ROOT, ClusterTest, wait_until

# A refused request, which `curl -s` alone would take for success, ends the block.
PROLOGUE = 'set -e -o pipefail\ncurl() { command curl --fail-with-body "$@"; echo; }\n'


def blocks():
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
        return re.findall(r"<!-- tour -->\n```sh\n(.*?)```", file.read(), re.DOTALL)


class TestTour(ClusterTest):
    def tearDown(self):
        super().tearDown()
        for pid in self.started_by_the_tour():
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.started_by_the_tour(), 10, "the end of what the tour started")

    def started_by_the_tour(self):
        """Processes that name this cluster's directory, but are not those that dev started."""
        ours = {process.pid for process in self.cluster.known} | {self.cluster.child.pid, os.getpid()}
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) not in ours:
                try:
                    with open(f"/proc/{entry}/cmdline", "rb") as file:
                        if self.cluster.data.encode() in file.read():
                            found.append(int(entry))
                except OSError:
                    pass
        return found

    def translated(self, text):
        for i in range(self.nodes):
            text = text.replace(f"localhost:{7700 + 10 * i}", f"127.0.0.1:{self.cluster.port + 10 * i}")
        return text.replace("/tmp/outrigger-dev", self.cluster.data).replace("build/outrigger", " ".join(PROGRAM))

    def run_block(self, text):
        """Its output; nothing of it may refer to somebody else's cluster."""
        script = self.translated(text)
        self.assertNotIn("localhost:", script)
        done = subprocess.run(["bash", "-c", PROLOGUE + script], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, cwd=ROOT, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, f"{script}\n--- printed\n{done.stdout}{done.stderr}")
        return done.stdout

    def test_every_block_works(self):
        self.assertIsNotNone(shutil.which("jq"), "the tour uses jq: scripts/install-deps.sh test")
        first, failover = blocks()
        printed = self.run_block(first)
        self.assertIn('{"ids":["apple","cherry","banana"]}', printed)
        self.assertRegex(printed, r'"results":\[\{"id":"cherry".*\{"id":"apple"')
        self.assertRegex(printed, r'"results":\[\{"id":"banana"[^]]*\]')
        self.assertRegex(printed, r"(?i)primary")
        printed = self.run_block(failover)
        self.assertIn('{"ids":["date","elder","fig"]}', printed)
        self.assertTrue(printed.rstrip().splitlines()[-1].startswith('{"id":"date"'), printed)
        self.cluster.wait_in_sync()


if __name__ == "__main__":
    unittest.main()
