#!/usr/bin/python3
"""Runs every test suite and prints a table of them with their times.

`make test` calls this with the suites of SUITES whose set is "test"; `make test-long` with those of "long". Each suite is one
command with a budget in seconds; its output goes to build/test-logs/<suite>.log and is shown only when it fails. Reports of
AddressSanitizer, UndefinedBehaviorSanitizer and valgrind are collected in files, since Criterion swallows them, and any report
fails its suite. A suite that exits with 77 was skipped; under CI=true that is a failure unless tests/skips.txt names it, and so
is a single test of unittest that was skipped, unless tests/skips.txt has the beginning of its reason.

--backend, or BACKEND, is the coordinator of the clusters in tests/cluster and tests/cluster-faults: etcd (the default) or consul.
"""
import argparse
import concurrent.futures
import glob
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROOMS = ["core", "log", "io", "coord", "peer", "etcd", "consul", "node", "api", "cli"]
SKIPPED = 77
PEER_TLS_FILTER = ("--filter '@(lane|seed|link|call)/!(deadline_of_the_caller|enormous_length|refusals_of_the_protocol|"
                   "too_many_headers|another_cluster_is_refused|another_node_answers)'")

# What else runs under valgrind (core runs whole): the journal and the parsers. Not what measures time, which
# goes by some thirty times slower there, and not the loops over failing calls; ASan sees all of them.
VALGRIND = [
    ("coord", "test", "!(failing)/*"),
    ("log", "long", "!(failing|log_faults)/*"),
    ("api", "test", "@(json|url|tokens|http_guard)/*"),
    ("peer", "test", "@(compress|garbage|grpc)/*"),
    ("etcd", "test", "@(codec|stream|etcd_codec|etcd_stream)*/*"),
    ("cli", "long", "!(failing)/*"),
]
FAILING_CALLS = "/usr/bin/python3 -m unittest discover -s tests/failing-calls -p 'test_*.py'"

SHOWN = {"coverage"}  # whose output is told, too, when they pass

# Suites that mostly wait for servers, and suites that only compute: two by two, one of each kind. All others run alone,
# for they would notice others' load.
WAITING = ("conformance", "conformance-3.5", "conformance-sanitized", "conformance-consul")  # in this order: Consul's
# servers want the processors most, and get them when all that computes is done.
COMPUTING = {"unit-core-valgrind", "unit-coord-valgrind", "simulation", "simulation-sanitized", "simulation-repeats",
             "mutants-apply", "fuzz-replay", "pure", "hardening", "tidy", "cppcheck", "analyze", "format", "words"}
NETNS = "/usr/bin/python3 tests/lib/netns.py"
FETCHED = 'if [ "$BACKEND" = consul ]; then scripts/fetch-consul.sh || exit 77; fi'
# What of clusters on Consul is tried each time, besides tests/cluster/test_consul.py: --backend consul tries all of it.
ON_CONSUL = ("test_partitions.TestPartitions.test_from_all_replicas", "test_leases.TestLeases.test_cut_off_from_the_coordinator",
             "test_coordinators.TestThreeMembers.test_leader_killed")
CLUSTER_FAULTS = ("/usr/bin/python3 -m unittest discover -s tests/lib -p 'test_*.py' && "
                  "/usr/bin/python3 -m unittest discover -v -s tests/cluster-faults -p 'test_*.py'")

# (name, set, budget in seconds, command)
SUITES = (
    [(f"unit-{room}", "test", 120, f"$BUILD/bin/unit-{room} -j2") for room in ROOMS]
    + [("unit-ruvector", "test", 180, "$BUILD/bin/unit-ruvector -j1")]
    + [(f"unit-{room}-sanitized", "test", 240, f"$BUILD/bin-sanitize/unit-{room} -j2") for room in ROOMS]
    + [
        # The same tests of links, lanes, calls and seeds with all connections under TLS, but for those that write to
        # sockets by hand, or that expect other words.
        ("unit-peer-tls", "test", 120, f"PEER_TLS=1 $BUILD/bin/unit-peer -j2 {PEER_TLS_FILTER}"),
        ("unit-peer-tls-sanitized", "test", 240, f"PEER_TLS=1 $BUILD/bin-sanitize/unit-peer -j2 {PEER_TLS_FILTER}"),
        ("unit-ruvector-sanitized", "test", 240, "$BUILD/bin-sanitize/unit-ruvector -j1"),
        ("unit-core-valgrind", "test", 400, "$VALGRIND $BUILD/bin/unit-core -j2 --timeout 300"),
    ]
    + [
        (f"unit-{room}-valgrind", which, 400, f"$VALGRIND $BUILD/bin/unit-{room} -j2 --timeout 300 --filter '{tests}'")
        for room, which, tests in VALGRIND
    ]
    + [
        ("ruvector-server", "test", 120, "node --test engines/ruvector/node/test/*.test.js"),
        ("peer-interop", "test", 120, "tests/peer-interop/run.sh"),
        ("demo-parts", "test", 120, "/usr/bin/python3 -m unittest discover -s examples/packages -p 'test_*.py'"),
        ("simulation", "test", 180, "$BUILD/bin/simulate --seeds 1-2000 --jobs 2 --counts --complete"),
        ("simulation-sanitized", "test", 180, "$BUILD/bin-sanitize/simulate --seeds 1-200 --jobs 2"),
        ("mutants-apply", "test", 300, "/usr/bin/python3 tests/simulation/mutants.py --build $BUILD --apply-only"),
        ("mutants", "long", 1800, "make -s mutants BUILD=$BUILD"),
        ("simulation-repeats", "test", 120, "tests/simulation/repeats.sh $BUILD/bin/simulate"),
        ("conformance", "test", 420, "make -s conformance BUILD=$BUILD CASES='@(etcd*|fake)/*'"),
        # Debian 12 has no Consul: fetched from the release before it, if the mirror has that.
        (
            "conformance-consul", "test", 420,
            "BUILD=$BUILD scripts/fetch-consul.sh || exit 77; make -s conformance BUILD=$BUILD BACKEND=consul",
        ),
        ("conformance-engines", "test", 120, "make -s conformance-engines BUILD=$BUILD"),
        ("conformance-engines-sanitized", "test", 180, "make -s conformance-engines BUILD=$BUILD SANITIZE=1"),
        (
            "conformance-3.5", "test", 420,
            "BUILD=$BUILD scripts/fetch-etcd.sh 3.5 || exit 77; make -s conformance BUILD=$BUILD ETCD_VERSION=3.5 BACKEND=etcd",
        ),
        # Without etcd_secure and etcd_three: TLS and users are there in etcd_access, and the same cases in etcd.
        (
            "conformance-sanitized", "test", 400,
            "make -s conformance BUILD=$BUILD SANITIZE=1 CASES='@(etcd|etcd_access|etcd_cluster|fake)/*'",
        ),
        ("cluster", "test", 900, f"{FETCHED}; /usr/bin/python3 -m unittest discover -v -s tests/cluster -p 'test_*.py'"),
        # Partitions, kills, lost disks and power; each node in a network namespace of its own, for which it needs root.
        ("cluster-faults", "test", 420, f"{NETNS} && {FETCHED} && {CLUSTER_FAULTS}"),
        ("cluster-faults-long", "long", 3600, f"{NETNS} && {FETCHED} && LONG=1 {CLUSTER_FAULTS}"),
        (
            "cluster-consul", "test", 120,
            f"{NETNS} && BUILD=$BUILD scripts/fetch-consul.sh || exit 77; cd tests/cluster-faults && "
            f"BACKEND=consul /usr/bin/python3 -m unittest -v {' '.join(ON_CONSUL)}",
        ),
        # A node with one call that fails, again and again; others, each time, out of all there are. The seed is printed.
        ("failing-calls", "test", 180, f"SANITIZE=0 FAILING=30 FAILING_S=60 {FAILING_CALLS}"),
        ("failing-calls-sanitized", "test", 180, f"SANITIZE=1 FAILING=30 FAILING_S=60 {FAILING_CALLS}"),
        ("failing-calls-all", "long", 3600, f"SANITIZE=1 FAILING=all {FAILING_CALLS}"),
        ("coverage", "test", 360, "tests/coverage.py --build $BUILD"),
        ("fuzz-replay", "test", 120, "make -s fuzz-replay BUILD=$BUILD"),
        ("canary", "test", 120, "/usr/bin/python3 -m unittest discover -v -s tests/canary -p 'test_*.py'"),
        ("pure", "test", 60, "tests/pure.sh"),
        ("hardening", "test", 30, "tests/hardening.sh"),
        ("tidy", "test", 600, "make -s tidy BUILD=$BUILD"),
        ("cppcheck", "test", 60, "make -s cppcheck BUILD=$BUILD"),
        ("analyze", "test", 240, "make -s analyze BUILD=$BUILD"),
        ("format", "test", 60, "make -s format-check"),
        ("words", "test", 10, "tests/words.sh"),
    ]
)


def allowed_skips():
    path = os.path.join(ROOT, "tests", "skips.txt")
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as f:
        lines = [line.strip() for line in f if line.strip() and not line.startswith("#")]
    return dict(line.split(":", 1) for line in lines)


def unnamed_skips(path, allowed):
    """Reasons of single tests that were skipped, of which none of those allowed is the beginning."""
    with open(path, encoding="utf-8", errors="replace") as f:
        reasons = {reason for _, reason in re.findall(r"\.\.\. skipped (['\"])(.*)\1$", f.read(), re.MULTILINE)}
    return sorted(reason for reason in reasons if not any(reason.startswith(a) for a in allowed))


def is_criterions_own(path):
    """A report of leaks whose memory Criterion's own code took. LeakSanitizer's suppressions cannot say so: they match any
    frame, and Criterion is a frame of every leak in every test."""
    with open(path, encoding="utf-8", errors="replace") as f:
        text = f.read()
    takers = re.findall(r"^(?:Direct|Indirect) leak of .*\n +#0 .*\n +#1 (.*)$", text, re.MULTILINE)
    if text.count("ERROR: ") != text.count("ERROR: LeakSanitizer: ") or len(takers) != text.count(" leak of "):
        return False
    return len(takers) > 0 and all("/libcriterion.so" in taker or "/libnanomsg.so" in taker for taker in takers)


def run_suite(name, budget, command, logs, env):
    """Returns (status, seconds); status is "passed", "failed", "skipped" or "over budget"."""
    reports = os.path.join(logs, f"{name}.reports")
    shutil.rmtree(reports, ignore_errors=True)
    os.makedirs(reports)
    env = dict(
        env,
        # exitcode=0: the reports decide, for Criterion's own leaks are no failure.
        ASAN_OPTIONS=f"log_path={reports}/asan:detect_leaks=1:abort_on_error=0:exitcode=0",
        UBSAN_OPTIONS=f"log_path={reports}/ubsan:print_stacktrace=1",
        VALGRIND="valgrind -q --trace-children=yes --leak-check=full --show-leak-kinds=definite"
        f" --suppressions={ROOT}/tests/valgrind.supp --log-file={reports}/valgrind.%p",
    )
    began = time.monotonic()
    with open(os.path.join(logs, f"{name}.log"), "wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", command], cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=budget)
            status = {0: "passed", SKIPPED: "skipped"}.get(code, "failed")
        except subprocess.TimeoutExpired:
            status = "over budget"
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    found = [path for path in glob.glob(f"{reports}/*") if os.path.getsize(path) > 0 and not is_criterions_own(path)]
    if found:
        status = "failed"
        with open(os.path.join(logs, f"{name}.log"), "ab") as log:
            for path in found[:5]:
                log.write(f"\n--- {os.path.basename(path)}\n".encode())
                with open(path, "rb") as report:
                    log.write(report.read()[:20000])
    return status, time.monotonic() - began


class Run:
    """What was run so far, in lanes side by side."""

    def __init__(self, logs, env):
        self.logs, self.env = logs, env
        self.ci, self.skips = os.environ.get("CI") == "true", allowed_skips()
        self.rows, self.told = [], threading.Lock()

    def lane(self, suites):
        for name, _, budget, command in suites:
            status, seconds = run_suite(name, budget, command, self.logs, self.env)
            why = ""
            if status == "skipped" and self.ci and name not in self.skips:
                status, why = "failed", "a skip under CI that tests/skips.txt does not name: "
            unnamed = unnamed_skips(os.path.join(self.logs, f"{name}.log"), self.skips) if self.ci else []
            if unnamed:
                status, why = "failed", f"tests skipped under CI for reasons that tests/skips.txt does not name, {unnamed}: "
            with self.told:
                self.rows.append((name, status, seconds, budget))
                print(f"{name} ... {why}{status} ({seconds:.1f} s)", flush=True)
                if status in ("failed", "over budget") or name in SHOWN:
                    with open(os.path.join(self.logs, f"{name}.log"), encoding="utf-8", errors="replace") as log:
                        print("".join(log.readlines()[-80:]), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build", help="build directory")
    parser.add_argument("--set", default="test", choices=["test", "long"], dest="which")
    parser.add_argument("--backend", default=os.environ.get("BACKEND") or "etcd", choices=["etcd", "consul"], help="of clusters")
    parser.add_argument("only", nargs="*", help="names of suites; default: all of the set")
    args = parser.parse_args()
    suites = [s for s in SUITES if (s[0] in args.only if args.only else s[1] == args.which)]
    unknown = set(args.only) - {s[0] for s in SUITES}
    if unknown:
        sys.exit(f"unknown suites: {', '.join(sorted(unknown))}; there are: {', '.join(s[0] for s in SUITES)}")
    logs = os.path.join(ROOT, args.build, "test-logs")
    os.makedirs(logs, exist_ok=True)
    kinds = [[s for s in suites if s[0] not in WAITING and s[0] not in COMPUTING],
             sorted((s for s in suites if s[0] in WAITING), key=lambda s: WAITING.index(s[0])),
             [s for s in suites if s[0] in COMPUTING]]
    began = time.monotonic()
    run = Run(logs, dict(os.environ, BUILD=args.build, BACKEND=args.backend))
    run.lane(kinds[0])
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(run.lane, kinds[1:]))  # raises what they raise
    order = [s[0] for s in suites]
    rows = sorted(run.rows, key=lambda row: order.index(row[0]))
    width = max(len(row[0]) for row in rows)
    print(f"\n{'suite':{width}}  {'result':11}  {'seconds':>8}  {'budget':>6}")
    for name, status, seconds, budget in rows:
        print(f"{name:{width}}  {status:11}  {seconds:8.1f}  {budget:6d}")
    failed = sum(row[1] in ("failed", "over budget") for row in rows)
    skipped = sum(row[1] == "skipped" for row in rows)
    print(f"{'total':{width}}  {'':11}  {time.monotonic() - began:8.1f}")
    print(f"\n{len(rows) - failed - skipped} passed, {failed} failed, {skipped} skipped")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
