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


def strangers(cluster):
    """Processes that name the cluster's directory, but are not those that dev started."""
    ours = {process.pid for process in cluster.known} | {cluster.child.pid, os.getpid()}
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in ours:
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    if cluster.data.encode() in file.read():
                        found.append(int(entry))
            except OSError:
                pass
    return found


def end_strangers(cluster):
    """What a block of the documentation started."""
    for pid in strangers(cluster):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not strangers(cluster), 10, "the end of what the documentation's commands started")


class TestTour(ClusterTest):
    def tearDown(self):
        super().tearDown()
        end_strangers(self.cluster)

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
        first, failover, planned = blocks()
        printed = self.run_block(first)
        self.assertIn('{"ids":["apple","cherry","banana"]}', printed)
        self.assertRegex(printed, r'"results":\[\{"id":"cherry".*\{"id":"apple"')
        self.assertRegex(printed, r'"results":\[\{"id":"banana"[^]]*\]')
        self.assertRegex(printed, r"(?i)primary")
        printed = self.run_block(failover)
        self.assertIn('{"ids":["date","elder","fig"]}', printed)
        self.assertTrue(printed.rstrip().splitlines()[-1].startswith('{"id":"date"'), printed)
        self.cluster.wait_in_sync()
        printed = self.run_block(planned)
        self.assertRegex(printed, r"(?m)^shard 0: primary was node-\d, is node-\d in epoch \d+; writes paused for [\d.]+ ms$")
        self.assertRegex(printed, r"(?m)^cluster outrigger is healthy: each of its 4 shards")


if __name__ == "__main__":
    unittest.main()
