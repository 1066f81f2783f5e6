#!/usr/bin/python3
"""Line coverage by the unit tests and the simulator, printed by room; parsers of foreign bytes and the journal must reach 95 %.

    tests/coverage.py [--build DIR] [--all] [--no-run]
        --all      every file, with the lines that no test reaches
        --no-run   reads what the last run counted

Builds everything once more with gcc's --coverage, below DIR/coverage, and reads what gcov counted through gcovr. Whether the
tests pass is their own suites' affair; here counts what they reached.

What must reach 95 % is not kept in one list that somebody could forget: each fuzz target names the files that it is there for
("Covers:" in its first comment), EXTRA has the rest, and a file with a function that parses, decodes or unpacks, which is in
neither, fails unless EXEMPT says why.
"""
import argparse
import fnmatch
import glob
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROOMS = ["node", "api", "peer", "log", "ruvector", "etcd", "consul", "cli", "io", "core", "coord"]  # the longest first
ROOMS += sorted(set(os.listdir(os.path.join(ROOT, "tests", "unit"))) - set(ROOMS))
SEEDS = "1-100"
LEAST = 95.0
# The journal, whole; and parsers without a fuzz target of their own.
EXTRA = [
    "sidecar/log/*.c",
    "sidecar/core/score.c",  # names of metrics
    "sidecar/io/log.c",  # names of levels
    "sidecar/io/tls_verify.c",  # names in certificates
    "sidecar/io/metrics.c",  # Prometheus's format, the way out
    "sidecar/cli/credentials.c",  # tokens that users write
    "sidecar/peer/stream.c",  # the headers of a call
    "sidecar/peer/public.c",  # requests of anybody
    "sidecar/peer/request.c",  # what peers answer
    "sidecar/peer/call.c",  # what they ask
    "sidecar/io/endpoints.c",
    "engines/ruvector/ruvector_health.c",
]
# Functions that are called so, and why their files need not reach LEAST.
EXEMPT = {
    "sidecar/api/http.c": "parse_address: of the listener, which options.c has checked",
    "sidecar/api/rest_points.c": "hands bodies to json_points.c",
    "sidecar/cli/sidecar.c": "compression_parse: one of three words; the whole program is for tests/cluster",
}
PARSER = re.compile(r"^[a-z][\w \t*]*?[ *](\w*?(?:parse|decode|unpack)(?:_\w+)?)\(", re.MULTILINE)


def say(*words):
    print(*words, flush=True)


def build(directory):
    programs = [f"{directory}/bin/unit-{room}" for room in ROOMS] + [f"{directory}/bin/simulate"]
    # -O1 makes gcc see uninitialised variables that are none; the other builds keep -Werror.
    flags = "CFLAGS=--coverage -fprofile-update=atomic -O1 -U_FORTIFY_SOURCE -Wno-error"
    command = ["make", "-s", "-j2", f"BUILD={directory}", flags, "LDFLAGS=--coverage", *programs]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout[-4000:]}")


def run_tests(directory):
    for path in glob.glob(os.path.join(ROOT, directory, "**", "*.gcda"), recursive=True):
        os.unlink(path)  # of an earlier run
    commands = [[f"{directory}/bin/unit-{room}", "-j1" if room == "ruvector" else "-j2"] for room in ROOMS]
    commands.append([f"{directory}/bin/simulate", "--seeds", SEEDS])

    def run(command):
        return subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")

    with ThreadPoolExecutor(2) as pool:  # Most of them wait most of the time.
        for command, done in zip(commands, pool.map(run, commands)):
            if done.returncode != 0:
                say(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout[-1000:]}{done.stderr[-1000:]}")


def read_counts(directory):
    """{file: (lines, [numbers of lines never reached])}"""
    report = subprocess.run(
        ["gcovr", "-r", ".", "--object-directory", f"{directory}/obj", "--json", "-", "-f", "sidecar/.*", "-f", "backends/.*",
         "-f", "engines/.*"], cwd=ROOT, check=True, capture_output=True)
    found = {}
    for file in json.loads(report.stdout)["files"]:
        lines = [line for line in file["lines"] if not line.get("gcovr/noncode")]
        found[file["file"]] = (len(lines), [line["line_number"] for line in lines if line["count"] == 0])
    return found


def percent(lines, missed):
    return 100 * (lines - missed) / max(lines, 1)


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        return f.read()


def sources():
    return sorted(os.path.relpath(path, ROOT) for folder in ("sidecar", "backends", "engines")
                  for path in glob.glob(os.path.join(ROOT, folder, "*", "*.c")))


def covered_by_fuzzing(name, text, wrong):
    """The files that the fuzz target `name` says it is there for."""
    first = text.split("*/", 1)[0]
    files = re.findall(r"[\w/]+\.[ch]\b", first.split("Covers:", 1)[1]) if "Covers:" in first else []
    if not files:
        wrong.append(f"{name} names no files that it is there for (\"Covers:\" in its first comment)")
    return files


def strict_files(files, wrong):
    """The files that must reach LEAST, out of `files`; complaints go to `wrong`."""
    patterns = list(EXTRA)
    for path in sorted(glob.glob(os.path.join(ROOT, "tests", "fuzz", "fuzz_*.c"))):
        name = os.path.relpath(path, ROOT)
        patterns += covered_by_fuzzing(name, read(name), wrong)
    strict = set()
    for pattern in patterns:
        matching = fnmatch.filter(files, pattern)
        strict.update(matching)
        if not matching:
            wrong.append(f"{pattern}: no such file, or no line of it was built")
    return strict


def unlisted(name, text, strict):
    """What to say of a file that parses and stands on no list; None: nothing."""
    parsers = sorted({match for match in PARSER.findall(text)})
    if not parsers or name in strict or name in EXEMPT:
        return None
    return f"{name} has {', '.join(parsers)}: a fuzz target's \"Covers:\", or EXTRA or EXEMPT of tests/coverage.py, must name it"


def judge(counts, strict):
    """What is below LEAST, with the lines to look at."""
    return [f"{file}: {percent(lines, len(missed)):.1f} %, never reached: {ranges(missed)}"
            for file, (lines, missed) in sorted(counts.items())
            if file in strict and percent(lines, len(missed)) < LEAST]


def ranges(numbers):
    """[1, 2, 3, 7] as "1-3 7"."""
    texts, first = [], None
    for i, n in enumerate(numbers):
        first = n if first is None else first
        if i + 1 == len(numbers) or numbers[i + 1] != n + 1:
            texts.append(str(n) if first == n else f"{first}-{n}")
            first = None
    return " ".join(texts)


def print_table(counts, strict):
    rooms = defaultdict(lambda: [0, 0])
    for file, (lines, missed) in counts.items():
        keys = [os.path.dirname(file), "all"] + (["parsers and journal"] if file in strict else [])
        for key in keys:
            rooms[key][0] += lines
            rooms[key][1] += len(missed)
    last = ["parsers and journal", "all"]
    for key in sorted(rooms.keys() - set(last)) + [key for key in last if key in rooms]:
        lines, missed = rooms[key]
        say(f"{key:24} {lines:6} lines {percent(lines, missed):6.1f} %")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--no-run", action="store_true")
    args = parser.parse_args()
    directory = os.path.join(args.build, "coverage")
    if not args.no_run:
        build(directory)
        run_tests(directory)
    counts = read_counts(directory)
    wrong = []
    strict = strict_files(counts, wrong)
    wrong += [said for said in (unlisted(name, read(name), strict) for name in sources()) if said is not None]
    if args.all:
        for file, (lines, missed) in sorted(counts.items()):
            say(f"{file}: {percent(lines, len(missed)):.1f} %, never reached: {ranges(missed)}")
    print_table(counts, strict)
    wrong += judge(counts, strict)
    for complaint in wrong:
        say(complaint)
    if wrong:
        sys.exit(f"{len(wrong)} complaints; each parser of foreign bytes and each file of the journal must reach {LEAST:.0f} %")


if __name__ == "__main__":
    main()
