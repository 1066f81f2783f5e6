"""The demo's input: the packages of this machine's Debian index that carry Debtags.

`apt-cache dumpavail` prints one stanza per package: RFC 822 fields, a field goes on over lines that begin with a space,
an empty line ends the stanza. Used are `Package`, `Description` (one line; long texts live in translation files that
dumpavail does not print) and `Tag`, a comma-separated list of `facet::value`.
"""
import re
import subprocess
import sys
from typing import NamedTuple


class Package(NamedTuple):
    name: str
    description: str
    tags: tuple


class NoPackages(Exception):
    """The index is missing or holds nothing to show; the text says what to do."""


def parse(lines):
    """The tagged packages of an iterable of dumpavail lines, by name, each name once."""
    found = {}
    fields, last = {}, None
    for line in lines:
        line = line.rstrip("\n")
        if not line:
            _keep(found, fields)
            fields, last = {}, None
        elif line[0] in " \t":
            if last is not None:
                fields[last] += "\n" + line.strip()
        else:
            last, _, value = line.partition(":")
            fields[last] = value.strip()
    _keep(found, fields)
    return [found[name] for name in sorted(found)]


def _keep(found, fields):
    name, tags = fields.get("Package"), fields.get("Tag")
    if name and tags and name not in found:
        tags = tuple(tag for tag in re.split(r"[,\s]+", tags) if "::" in tag)
        description = fields.get("Description", "").partition("\n")[0]
        if tags:
            found[name] = Package(name, description, tags)


def read(path=None):
    """The tagged packages of a dumpavail file, or of this machine's index when no path is given."""
    if path:
        with open(path, encoding="utf-8", errors="replace") as file:
            packages = parse(file)
    else:
        packages = _read_index()
    if not packages:
        raise NoPackages("no package of the index carries Debtags: run `apt-get update` (this is made for Debian)")
    return packages


def _read_index():
    try:
        child = subprocess.Popen(["apt-cache", "dumpavail"], stdout=subprocess.PIPE, encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise NoPackages("there is no apt-cache here: this demo reads a Debian package index") from None
    with child:
        packages = parse(child.stdout)
    if child.returncode != 0:
        raise NoPackages(f"apt-cache dumpavail failed with exit code {child.returncode}: run `apt-get update`")
    return packages


if __name__ == "__main__":
    for package in read(sys.argv[1] if len(sys.argv) > 1 else None):
        print(package.name, package.description, ", ".join(package.tags), sep="\t")
