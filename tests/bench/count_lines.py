"""Lines of the files under version control, per folder; generated and installed ones are not among them."""
import os
import subprocess
from collections import defaultdict

from bench import table

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
KINDS = (".c", ".h", ".py", ".js", ".mjs", ".sh", ".proto")
ROOTS_OF_TWO = ("sidecar", "backends", "engines", "tests", "examples")


def main():
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout.decode()
    lines, counts = defaultdict(int), defaultdict(int)
    for path in files.split("\0"):
        parts = path.split("/")
        if path.endswith(KINDS) and len(parts) > 1:
            folder = "/".join(parts[:2]) if parts[0] in ROOTS_OF_TWO and len(parts) > 2 else parts[0]
            with open(os.path.join(ROOT, path), encoding="utf-8", errors="replace") as file:
                lines[folder] += sum(1 for _ in file)
            counts[folder] += 1
    print("# lines")
    tests = sum(n for folder, n in lines.items() if folder.startswith("tests"))
    rows = [["folder", "files", "lines"]] + [[f, counts[f], lines[f]] for f in sorted(lines)]
    table(rows + [["all but tests", "", sum(lines.values()) - tests], ["tests", "", tests]])


if __name__ == "__main__":
    main()
