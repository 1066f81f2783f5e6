#!/usr/bin/python3
"""Proves that the simulator notices: applies each deliberate bug of tests/simulation/mutants/ to the program, builds the
simulator with it and runs seeds until one fails. Prints a table of mutants with the first seed that fails and the checker
that noticed. Exits with 1 when a patch does not apply or build, or when no seed up to --seeds fails.

A patch begins with lines "Rule: ..." and "Bug: ...". Only the sources that it touches are compiled anew (all of the simulator's
when it touches a header), so `make build/bin/simulate` comes first.
"""
import argparse
import glob
import os
import re
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HERE = os.path.join(ROOT, "tests", "simulation", "mutants")
RUN_SECONDS = 900
# The safety rules of the protocol (docs/protocol.md): each has a mutant, or a row in docs/testing.md that says what tests it instead.
RULES = [letter + str(number) for letter, last in (("D", 4), ("E", 5), ("A", 7), ("J", 3), ("G", 5), ("V", 7), ("Q", 3))
         for number in range(1, last + 1) if letter + str(number) != "D1"]


class Mutant:
    def __init__(self, path, build):
        self.path = path
        self.name = os.path.basename(path)[: -len(".patch")]
        with open(path, encoding="utf-8") as f:
            text = f.read()
        self.rule = self.field(text, "Rule")
        self.bug = self.field(text, "Bug")
        self.files = re.findall(r"^\+\+\+ b/(\S+)", text, re.MULTILINE)
        self.tree = os.path.join(build, "mutants", self.name)

    def field(self, text, name):
        found = re.search(rf"^{name}: (.+)$", text, re.MULTILINE)
        if not found:
            sys.exit(f"{self.path}: no line \"{name}: ...\"")
        return found.group(1)

    def apply(self):
        """Puts the files that the patch touches, changed, below self.tree. Returns what went wrong, or None."""
        shutil.rmtree(self.tree, ignore_errors=True)
        for path in self.files:
            copy = os.path.join(self.tree, path)
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            shutil.copyfile(os.path.join(ROOT, path), copy)
        done = subprocess.run(["patch", "-p1", "--no-backup-if-mismatch", "--batch", "-F1", "-d", self.tree, "-i", self.path],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        return None if done.returncode == 0 and self.files else f"does not apply: {done.stdout.strip()}"

    def build(self, make):
        """Returns (program, None) or (None, what went wrong)."""
        sources = make["sources"] if any(path.endswith(".h") for path in self.files) else self.files
        objects, taken = [], set()
        for source in sources:
            path = os.path.join(self.tree, source)
            path = path if os.path.exists(path) else os.path.join(ROOT, source)
            out = os.path.join(self.tree, source.replace("/", "_") + ".o")
            done = subprocess.run([make["cc"], f"-I{self.tree}", *make["cflags"], "-w", "-c", path, "-o", out],
                                  cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            if done.returncode != 0:
                return None, f"does not build: {done.stdout.strip()[:500]}"
            objects.append(out)
            taken.add(os.path.join(make["obj"], source[:-2] + ".o"))
        program = os.path.join(self.tree, "simulate")
        # Members of an archive are taken only for what is still undefined: the changed objects come first.
        done = subprocess.run([make["cc"], *make["ldflags"], "-o", program, *objects,
                               *[o for o in make["objects"] if o not in taken], *make["libs"]],
                              cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        return (program, None) if done.returncode == 0 else (None, f"does not link: {done.stdout.strip()[:500]}")


def make_variables(build):
    """What make would call: asked of make, so that there is one place for flags."""
    out = subprocess.run(["make", "-s", "sim-variables", f"BUILD={build}"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    lines = dict(line.split("=", 1) for line in out.stdout.splitlines() if "=" in line)
    variables = {name: value.split() for name, value in lines.items()}
    return {**variables, "cc": lines["cc"].strip(), "obj": lines["obj"].strip()}


def run(program, seeds, jobs):
    """(seed, checker, message) of the first failing seed, or None."""
    try:
        done = subprocess.run([program, "--seeds", f"1-{seeds}", "--jobs", str(jobs)], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace", timeout=RUN_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return None
    failed = re.findall(r"^seed (\d+) failed: (.*)$", done.stdout, re.MULTILINE)
    if not failed:
        return None if done.returncode == 0 else (0, "crash", done.stdout[-200:])
    seed, message = failed[-1]
    checker = message.split(":", 1)[0]
    if checker == "assert":
        found = re.search(r"(\w+\.c):\d+: \w+: Assertion `(.*)' failed", done.stdout)
        message = f"{found.group(1)}: {found.group(2)}" if found else message
    return int(seed), checker, message


def uncovered(mutants):
    """Rules with neither a mutant nor a row in the table "What breaking a rule does not show" of docs/testing.md."""
    with open(os.path.join(ROOT, "docs", "testing.md"), encoding="utf-8") as f:
        table = f.read().split("| rule | why | tested by |", 1)[-1].split("\n\n", 1)[0]
    rows = " ".join(re.findall(r"^\| ((?:[A-Z]\d(?:, )?)+)", table, re.MULTILINE))
    covered = {m.rule for m in mutants} | set(re.findall(r"[A-Z]\d", rows))
    return [rule for rule in RULES if rule not in covered]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--seeds", type=int, default=5000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--apply-only", action="store_true", help="only see whether all patches apply and build")
    parser.add_argument("names", nargs="*", help="patches, without .patch; default: all")
    args = parser.parse_args()
    build = os.path.join(ROOT, args.build)
    paths = sorted(glob.glob(os.path.join(HERE, "*.patch")))
    mutants = [Mutant(path, build) for path in paths]
    mutants = [m for m in mutants if not args.names or m.name in args.names]
    if not mutants:
        sys.exit("no such mutants")
    missing = [] if args.names else uncovered(mutants)
    if missing:
        sys.exit(f"no mutant, and no row in docs/testing.md, for {' '.join(missing)}")
    make = make_variables(args.build)
    bad = []
    print(f"{'mutant':<34} {'rule':<6} {'seed':>6} {'checker':<10} bug")
    for mutant in mutants:
        began = time.monotonic()
        wrong = mutant.apply()
        program = None
        if wrong is None:
            program, wrong = mutant.build(make)
        found = run(program, args.seeds, args.jobs) if wrong is None and not args.apply_only else None
        if wrong is not None:
            bad.append(mutant.name)
            print(f"{mutant.name:<34} {mutant.rule:<6} {'-':>6} {wrong}", flush=True)
        elif args.apply_only:
            print(f"{mutant.name:<34} {mutant.rule:<6} {'':>6} {'':<10} {mutant.bug}", flush=True)
        elif found is None:
            bad.append(mutant.name)
            print(f"{mutant.name:<34} {mutant.rule:<6} {'none':>6} {'':<10} {mutant.bug}", flush=True)
        else:
            print(f"{mutant.name:<34} {mutant.rule:<6} {found[0]:>6} {found[1]:<10} {mutant.bug}"
                  + (f"  [{time.monotonic() - began:.0f} s; {found[2][:160]}]" if os.environ.get("V") else ""), flush=True)
        shutil.rmtree(mutant.tree, ignore_errors=True)
    print(f"{len(mutants)} mutants, {len(bad)} {'not usable' if args.apply_only else 'not caught or not usable'}"
          + (f": {' '.join(bad)}" if bad else ""))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
