"""What the benchmarks share: a cluster (that of tests/cluster), the load generator, and how a line of results looks.

Results are for the machine they were measured on, clients, engines and coordinator included: `machine()` says which."""
import json
import os
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cluster"))
from harness import BUILD, Cluster  # noqa: E402

LOAD = os.path.join(BUILD, "bin", "load")
DIMENSION = 256


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "unknown processor")
    return f"{os.cpu_count()} x {model}, 1-minute load {os.getloadavg()[0]:.1f} before"


class BenchCluster(Cluster):
    """For a with statement."""

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_):
        wrong = self.stop()
        self.remove()
        if wrong:
            print("wrong:", "; ".join(wrong), file=sys.stderr)

    def load_command(self, collection, **settings):
        endpoints = ",".join(node.client.removeprefix("http://") for node in self.dev.nodes)
        settings = {"endpoints": endpoints, "collection": collection, "dimension": DIMENSION, **settings}
        return [LOAD] + [word for name, value in settings.items() for word in (f"--{name}", str(value))]

    def load(self, collection, **settings):
        """Runs the load generator to its end: what it prints."""
        done = subprocess.run(self.load_command(collection, **settings), stdout=subprocess.PIPE, check=True)
        result = json.loads(done.stdout)
        if result["failed"]:
            print(f"wrong: {result['failed']} calls failed", file=sys.stderr)
        return result


class Background:
    """The load generator while something else is done."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.result = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        self.result = json.loads(self.process.communicate()[0] or b"{}")

    @property
    def runs(self):
        return self.process.poll() is None

    def wait(self):
        self._thread.join()
        return self.result


def table(rows):
    """Rows of cells, the first row the heads."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths)), flush=True)
