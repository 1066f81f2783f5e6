"""Coordinators of both kinds, as tests start, ask and hurt them: the kinds know one server's command line and its HTTP API,
`Coordinator` is what a cluster has of it.

BACKEND (etcd, or consul) says which one tests take that do not ask for one themselves.
"""
import base64
import json
import os
import shutil
import unittest
import urllib.error
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SERVERS = os.path.join(ROOT, os.environ.get("BUILD", "build"), "servers")
BACKEND = os.environ.get("BACKEND") or "etcd"
PREFIX = "outrigger/outrigger/"  # of the keys of the cluster "outrigger", in etcd with a slash before it


def _ask(url, method="GET", body=None, timeout=10):
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return answer.read()


def _base64(text):
    return base64.b64encode(text).decode()


class Etcd:
    name = "etcd"
    program = os.path.join(SERVERS, "etcd", "usr", "bin", "etcd")
    port, peer_port = 2379, 2380

    @classmethod
    def member_command(cls, name, data_dir, addresses):
        """A member of {name: address}."""
        client, peer = (f"http://{addresses[name]}:{port}" for port in (cls.port, cls.peer_port))
        members = ",".join(f"{member}=http://{address}:{cls.peer_port}" for member, address in addresses.items())
        return [cls.program, f"--name={name}", f"--data-dir={data_dir}", f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster={members}", "--log-level=warn"]

    @staticmethod
    def is_healthy(url):
        try:
            return b'"true"' in _ask(url + "/health", timeout=2)
        except OSError:
            return False

    @staticmethod
    def leads(url):
        try:
            value = json.loads(_ask(url + "/v3/maintenance/status", "POST", b"{}", 2))
        except OSError:
            return False
        return value.get("leader") == value["header"]["member_id"]

    @staticmethod
    def _range(prefix):
        first = ("/" + prefix).encode()
        return {"key": _base64(first), "range_end": _base64(first[:-1] + bytes([first[-1] + 1]))}

    @classmethod
    def keys(cls, url, prefix):
        """{key: value}; keys as etcd has them, with a slash before."""
        found = json.loads(_ask(url + "/v3/kv/range", "POST", json.dumps(cls._range(prefix)).encode())).get("kvs", [])
        return {base64.b64decode(kv["key"]).decode(): base64.b64decode(kv.get("value", "")) for kv in found}

    @classmethod
    def delete_keys(cls, url, prefix):
        _ask(url + "/v3/kv/deleterange", "POST", json.dumps(cls._range(prefix)).encode())


class Consul:
    name = "consul"
    program = os.path.join(SERVERS, "consul", "usr", "bin", "consul")
    port, peer_port = 8500, 8300

    @classmethod
    def member_command(cls, name, data_dir, addresses):
        join = [f"-retry-join={address}" for member, address in addresses.items() if member != name]
        return [cls.program, "agent", "-server", f"-bootstrap-expect={len(addresses)}", f"-node={name}",
                f"-data-dir={data_dir}", f"-bind={addresses[name]}", f"-client={addresses[name]}", f"-http-port={cls.port}",
                "-dns-port=-1", "-serf-wan-port=-1", "-retry-interval=1s", *join, "-log-level=warn",
                "-hcl=performance { raft_multiplier = 1 } disable_update_check = true leave_on_terminate = false"]

    @staticmethod
    def is_healthy(url):
        """It has a leader, and is known to the catalog, without which it has no sessions."""
        try:
            name = json.loads(_ask(url + "/v1/agent/self", timeout=2))["Config"]["NodeName"]
            checks = json.loads(_ask(f"{url}/v1/health/node/{name}?consistent", timeout=2))
            votes = json.loads(_ask(url + "/v1/operator/raft/configuration", timeout=2))["Servers"]
        except OSError:
            return False
        return (any(check["CheckID"] == "serfHealth" and check["Status"] == "passing" for check in checks)
                and all(server["Voter"] for server in votes))

    @staticmethod
    def leads(url):
        try:
            return json.loads(_ask(url + "/v1/agent/self", timeout=2))["Stats"]["consul"]["leader"] == "true"
        except OSError:
            return False

    @staticmethod
    def keys(url, prefix):
        """As those of etcd: with a slash before, which they do not have here."""
        try:
            found = json.loads(_ask(f"{url}/v1/kv/{prefix}?recurse&consistent"))
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return {}
        return {"/" + kv["Key"]: base64.b64decode(kv["Value"] or "") for kv in found}

    @staticmethod
    def delete_keys(url, prefix):
        _ask(f"{url}/v1/kv/{prefix}?recurse", "DELETE")


KINDS = {kind.name: kind for kind in (Etcd, Consul)}
KIND = KINDS[BACKEND]


def only_etcd(why):
    """A test, or class of them, that is about etcd alone. The reason begins as tests/run.py accepts it."""
    return unittest.skipIf(KIND is not Etcd, f"etcd alone: {why}")


def needs(kind):
    """A class of tests that needs a program which is not everywhere."""
    return unittest.skipUnless(os.access(kind.program, os.X_OK), f"no {kind.name}: scripts/fetch-{kind.name}.sh")


class Coordinator:
    """That of a cluster: one process, or the first of several."""

    def __init__(self, cluster, kind):
        self._cluster, self.kind = cluster, kind

    def _process(self, name="coordinator"):
        return self._cluster.processes[name, self.kind.name]

    @property
    def url(self):
        return self._process().url

    @property
    def arguments(self):
        """Where `outrigger cluster ...` finds it."""
        return ["--backend", self.kind.name, "--endpoints", self.url]

    def kill(self, name="coordinator"):
        self._cluster.kill(name, self.kind.name)

    def pause(self, name="coordinator"):
        self._cluster.pause(name, self.kind.name)

    def resume(self, name="coordinator"):
        self._cluster.resume(name, self.kind.name)

    def restart(self, name="coordinator"):
        self._cluster.restart(name, self.kind.name)

    def empty(self):
        """Takes its data away; it does not run."""
        words = [word.lstrip("-") for word in self._process().command]
        directory = next(word.partition("=")[2] for word in words if word.startswith("data-dir="))
        shutil.rmtree(directory)
        os.makedirs(directory, mode=0o700)

    def answers(self):
        return self.kind.is_healthy(self.url)

    def keys(self, prefix):
        """{key: JSON value} below /outrigger/<cluster>/."""
        return {key: json.loads(value) for key, value in self.kind.keys(self.url, PREFIX + prefix).items()}

    def delete_keys(self, prefix):
        """All below /outrigger/<cluster>/prefix, at once."""
        self.kind.delete_keys(self.url, PREFIX + prefix)
