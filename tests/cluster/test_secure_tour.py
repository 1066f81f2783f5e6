"""The first secure cluster of docs/security.md, as it stands there, but for ports and the directory."""
import os
import re
import shutil
import signal
import subprocess
import tempfile
import unittest

from harness import PROGRAM, ROOT, free_ports, only_etcd

PROLOGUE = "set -e -o pipefail\ntrap 'kill $(jobs -p); wait' EXIT\n"
PORTS = (*(f"{kind}{i}" for kind in (741, 742, 743) for i in (1, 2, 3)), "2479", "2480")


def blocks():
    with open(os.path.join(ROOT, "docs", "security.md"), encoding="utf-8") as file:
        return re.findall(r"<!-- secure tour -->\n```sh\n(.*?)```", file.read(), re.DOTALL)


@only_etcd("the tour sets up its TLS and users")
class TestSecureTour(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="outrigger-test-")

    def tearDown(self):
        shutil.rmtree(self.directory, ignore_errors=True)

    def script(self):
        """With the loops over nodes taken apart, for free ports do not end in 1, 2 and 3."""
        text = "".join(blocks())
        text = re.sub(r"for i in 1 2 3; do\n(.*?)\ndone\n",
                      lambda loop: "\n".join(loop[1].replace("$i", str(i)) for i in (1, 2, 3)) + "\n", text, flags=re.DOTALL)
        text = text.replace("/tmp/outrigger-secure", self.directory)
        text = text.replace("$PWD/build:", os.path.dirname(PROGRAM[0]) + ":")
        for port, free in zip(PORTS, free_ports(len(PORTS))):
            self.assertRegex(text, rf"\b{port}\b")
            text = re.sub(rf"\b{port}\b", f"\0{free}", text)
        return text.replace("\0", "")

    def test_every_block_works(self):
        with subprocess.Popen(["bash", "-c", PROLOGUE + self.script()], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, cwd=ROOT, start_new_session=True) as shell:
            try:
                printed = shell.communicate(timeout=90)[0]
            finally:
                try:
                    os.killpg(shell.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        self.assertEqual(shell.returncode, 0, printed)
        self.assertIn('{"id":"apple"', printed)
        self.assertIn("needs a token of role admin; the one sent has the role write", printed)
        self.assertIn("a token is needed", printed)
        self.assertRegex(printed, r"(?m)^shard 0: primary was node-\d, is node-\d in epoch \d+")
        self.assertIn("cluster outrigger is healthy", printed)
        self.assertIn('{"ids":["date","elder","fig","grape"]}', printed)
        self.assertRegex(printed, r'"results":\[\{"id":"apple"')
        self.assertIn("outrigger_http_tls_reloads_total 1", printed)


if __name__ == "__main__":
    unittest.main()
