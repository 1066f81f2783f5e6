"""/metrics of a real cluster: well formed, documented, and moving with what happens."""
import json
import os
import re
import subprocess
import unittest
import urllib.error
import urllib.request

from harness import BUILD, ROOT, ClusterTest, wait_until

NAME = "measured"
DIMENSION = 8
POINTS = 60
SAMPLE = re.compile(r'([a-z_]+)(?:\{(.*)\})? ([0-9.e+-]+)')
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')


class Metrics:
    """One answer of /metrics."""

    def __init__(self, text):
        self.text = text
        self.types, self.samples = {}, {}
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                _, _, name, kind = line.split(" ")
                assert name not in self.types, f"TYPE of {name} twice"
                self.types[name] = kind
            elif not line.startswith("# HELP "):
                found = SAMPLE.fullmatch(line)
                assert found, line
                key = found[1], frozenset(LABEL.findall(found[2] or ""))
                assert key not in self.samples, f"{key} twice"
                self.samples[key] = float(found[3])

    def all(self, name, **labels):
        """{labels: value} of the samples that have these labels."""
        wanted = set(labels.items())
        return {key: value for (n, key), value in self.samples.items() if n == "outrigger_" + name and wanted <= key}

    def sum(self, name, **labels):
        found = self.all(name, **labels)
        assert found, f"no {name} {labels}"
        return sum(found.values())


def vector(i):
    return [float((i * 7 + k * 3) % 11 + 1) for k in range(DIMENSION)]


class TestMetrics(ClusterTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        subprocess.run([os.path.join(ROOT, "scripts", "fetch-promtool.sh")], cwd=ROOT, check=True,
                       env={**os.environ, "BUILD": BUILD})
        cls.cluster.client().create_collection(NAME, DIMENSION)

    def read(self, node):
        with urllib.request.urlopen(self.cluster.url(node) + "/metrics", timeout=10) as answer:
            self.assertEqual(answer.headers["Content-Type"], "text/plain; version=0.0.4; charset=utf-8")
            return Metrics(answer.read().decode())

    def read_all(self, nodes=None):
        return [self.read(node) for node in nodes or self.cluster.node_ids]

    def total(self, name, nodes=None, **labels):
        return sum(m.sum(name, **labels) for m in self.read_all(nodes))

    def settle(self):
        status = self.cluster.wait_in_sync()
        self.cluster.wait_level()
        return status

    # --- the form -------------------------------------------------------------------------------------------------------

    def test_promtool_finds_nothing(self):
        self.settle()
        for metrics in self.read_all():
            checked = subprocess.run([os.path.join(BUILD, "servers", "promtool", "promtool"), "check", "metrics"],
                                     input=metrics.text, capture_output=True, text=True, timeout=60)
            self.assertEqual((checked.returncode, checked.stdout + checked.stderr), (0, ""))

    def test_every_family_is_documented(self):
        with open(os.path.join(ROOT, "docs", "operations.md"), encoding="utf-8") as file:
            documented = set(re.findall(r"`((?:outrigger|process)_[a-z_]+)`", file.read()))
        self.settle()
        printed = set().union(*(m.types for m in self.read_all()))
        self.assertEqual({name for name in documented if "_peer_tls_" not in name}, printed)  # test_peer_tls.py

    # --- the values -----------------------------------------------------------------------------------------------------

    def test_one_primary_a_shard_as_the_cluster_says(self):
        status = self.settle()
        for shard, known in status.shards.items():
            leaders = []
            for node in self.cluster.node_ids:
                metrics = self.read(node)
                self.assertEqual(metrics.sum("shard_epoch", shard=str(shard)), known["epoch"])
                self.assertEqual(metrics.sum("shard_in_sync", shard=str(shard)), 1)
                self.assertEqual(metrics.sum("shard_in_sync_replicas", shard=str(shard)), len(known["in_sync"]))
                self.assertEqual(metrics.sum("node_info", node=node, cluster="outrigger"), 1)
                if metrics.sum("shard_primary", shard=str(shard)) == 1:
                    leaders.append(node)
                    self.assertEqual(metrics.sum("shard_writable", shard=str(shard)), 1)
                    self.assertEqual({dict(key)["peer"] for key in metrics.all("replica_lag_entries", shard=str(shard))},
                                     set(known["replicas"]) - {node})
            self.assertEqual(leaders, [known["primary"]])

    def test_writes_and_reads_are_counted(self):
        client = self.cluster.client()
        self.settle()
        before = self.read_all()
        for i in range(POINTS):
            client.put(NAME, [{"id": f"counted-{i}", "vector": vector(i)}])
        for i in range(POINTS):
            self.assertIsNotNone(client.get(NAME, f"counted-{i}"))
            client.search(NAME, vector(i), 5)
        self.settle()
        after = self.read_all()

        def grew(name, **labels):
            return sum(m.sum(name, **labels) for m in after) - sum(m.sum(name, **labels) for m in before)

        def at_all(name):
            return all(a.sum(name) > b.sum(name) for a, b in zip(after, before))

        self.assertEqual(grew("shard_writes_total"), POINTS)
        self.assertEqual(grew("write_commit_seconds_count"), POINTS)
        self.assertEqual(grew("http_requests_total", method="PUT", code="2xx"), POINTS)
        self.assertEqual(grew("http_request_duration_seconds_count", route="/collections/*/points/search"), POINTS)
        self.assertEqual(grew("get_seconds_count"), POINTS)
        self.assertEqual(grew("search_seconds_count"), POINTS * self.cluster.shards)
        self.assertGreater(grew("engine_hits_total"), 0)
        self.assertGreater(grew("engine_search_seconds_count"), 0)
        for name in ("journal_flushes_total", "journal_flushed_bytes_total", "journal_flush_seconds_count",
                     "engine_write_seconds_count", "shard_last_index", "shard_points", "peer_messages_sent_total",
                     "peer_messages_received_total"):
            self.assertTrue(at_all(name), f"{name} stands still somewhere")
        for metrics in after:
            self.assertEqual(metrics.sum("engine_up"), 1)
            self.assertEqual(metrics.sum("ready"), 1)
            self.assertEqual(metrics.sum("coordinator_session_open"), 1)
            self.assertEqual(metrics.sum("shard_engine_lag_entries"), 0)
            self.assertEqual(metrics.sum("peer_up"), 2)
            self.assertEqual(metrics.sum("disk_full"), 0)
        self.assertEqual(sum(sum(m.all("replica_lag_entries").values()) for m in after), 0)
        for name, kind in after[0].types.items():
            if kind == "counter":
                for a, b in zip(after, before):
                    fell = [key for key in b.samples if key[0] == name and a.samples[key] < b.samples[key]]
                    self.assertEqual(fell, [])
        self.buckets_add_up(after[0])

    def buckets_add_up(self, metrics):
        for name in (n for n, kind in metrics.types.items() if kind == "histogram"):
            series = {}
            for (n, labels), value in metrics.samples.items():
                if n == name + "_bucket":
                    le = float(dict(labels)["le"].replace("+Inf", "inf"))
                    series.setdefault(frozenset(l for l in labels if l[0] != "le"), []).append((le, value))
            self.assertTrue(series, name)
            for labels, buckets in series.items():
                counts = [count for _, count in sorted(buckets)]
                self.assertEqual(counts, sorted(counts))
                self.assertEqual(counts[-1], metrics.samples[name + "_count", labels])

    def send(self, node, points, request_id):
        request = urllib.request.Request(f"{self.cluster.url(node)}/collections/{NAME}/points",
                                         json.dumps({"points": points}).encode(), method="PUT",
                                         headers={"Outrigger-Request-Id": request_id})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def test_repeated_and_refused_writes_are_counted(self):
        self.settle()
        node = self.cluster.node_ids[0]
        duplicates = self.total("shard_duplicate_writes_total")
        for _ in range(2):
            self.assertEqual(self.send(node, [{"id": "again", "vector": vector(1)}], "ab" * 16), 200)
        self.assertEqual(self.total("shard_duplicate_writes_total"), duplicates + 1)
        refused = self.read(node).sum("http_requests_total", method="PUT", code="4xx")
        self.assertEqual(self.send(node, [{"id": "short", "vector": [1.0]}], "cd" * 16), 400)
        self.assertEqual(self.read(node).sum("http_requests_total", method="PUT", code="4xx"), refused + 1)

    def test_a_killed_primary_is_seen(self):
        cluster = self.cluster
        before = self.settle()
        node = cluster.pick_primary()
        led = before.led_by(node)
        others = [n for n in cluster.node_ids if n != node]
        won = self.total("shard_elections_won_total", others)
        took = self.total("takeover_seconds_count", others)
        lost = self.total("peer_links_lost_total", others, peer=node)
        gets = self.total("coordinator_call_seconds_count", others, call="txn")
        cluster.kill(node, "sidecar")
        client = cluster.client(others[0])
        for i in range(POINTS):
            client.put(NAME, [{"id": f"killed-{i}", "vector": vector(i)}])
        wait_until(lambda: self.total("shard_primary", others) == cluster.shards, 20, "primaries of all shards")
        self.assertGreaterEqual(self.total("shard_elections_won_total", others), won + len(led))
        self.assertGreaterEqual(self.total("takeover_seconds_count", others), took + len(led))
        self.assertEqual(self.total("peer_up", others, peer=node), 0)
        self.assertEqual(self.total("peer_links_lost_total", others, peer=node), lost + len(others))
        self.assertGreater(self.total("coordinator_call_seconds_count", others, call="txn"), gets)
        for metrics in self.read_all(others):
            for shard in led:
                self.assertGreater(metrics.sum("shard_epoch", shard=str(shard)), before.shards[shard]["epoch"])
        cluster.restart(node, "sidecar")
        self.settle()
        self.assertEqual(self.total("peer_up", others, peer=node), 2)
        for metrics in self.read_all():
            self.assertEqual(metrics.sum("shard_in_sync_replicas"), 3 * cluster.shards)

    def test_a_dead_engine_is_seen(self):
        cluster = self.cluster
        node = cluster.node_ids[-1]
        client = cluster.client(node, alone=True)
        client.put(NAME, [{"id": f"scanned-{i}", "vector": vector(i)} for i in range(POINTS)])
        self.settle()
        errors = self.read(node).sum("engine_errors_total")
        cluster.pause(node, "engine")  # A call is under way when it dies.
        client.put(NAME, [{"id": f"scanned-{i}", "vector": vector(i + 1)} for i in range(POINTS)])
        wait_until(lambda: min(self.lags(node, "shard_engine_lag")[0]) > 0, 20, f"the engine of {node} to lag")
        cluster.kill(node, "engine")
        try:
            wait_until(lambda: self.read(node).sum("engine_errors_total") > errors, 20, "a call of the engine to fail")
            wait_until(lambda: self.read(node).sum("engine_up") == 0, 20, f"{node} to notice that its engine is dead")
            self.assertEqual(self.read(node).sum("ready"), 0)
            scans = self.read(node).sum("exact_scans_total")
            self.assertEqual(len(client.search(NAME, vector(1), 5, consistency="eventual")), 5)
            self.assertGreater(self.read(node).sum("exact_scans_total"), scans)
        finally:
            cluster.restart(node, "engine")
        self.settle()
        self.assertEqual(self.read(node).sum("engine_up"), 1)

    def test_a_door_stays_ready_while_nobody_can_be_elected(self):
        """No other door could do better: a load balancer that took them all out would end the reads, too."""
        cluster = self.cluster
        before = self.settle()
        node = cluster.pick_primary()
        led = before.led_by(node)
        others = [n for n in cluster.node_ids if n != node]
        failures = self.total("coordinator_failures_total", others)
        cluster.coordinator.pause()
        try:
            cluster.kill(node, "sidecar")
            wait_until(lambda: all(m.sum("shard_role", shard=str(shard)) != 2 for shard in led
                                   for m in self.read_all(others[:1])), 20, "somebody to stand for election")
            wait_until(lambda: self.total("coordinator_reachable", others) == 0, 20, "the coordinator to be missed")
            wait_until(lambda: self.total("coordinator_failures_total", others) > failures, 20, "failures to be counted")
            for n in others:
                self.assertTrue(cluster.ready(n), n)
                self.assertEqual([self.read(n).sum("shard_primary", shard=str(shard)) for shard in led], [0] * len(led))
        finally:
            cluster.coordinator.resume()
        cluster.restart(node, "sidecar")
        self.settle()

    # --- lags -------------------------------------------------------------------------------------------------------------

    def lags(self, node, name, **labels):
        """[[value of each shard], [its seconds]]"""
        metrics = self.read(node)
        return [list(metrics.all(f"{name}_{unit}", **labels).values()) for unit in ("entries", "seconds")]

    def test_a_stopped_replica_lags_behind_its_primary(self):
        cluster = self.cluster
        before = self.settle()
        primary = cluster.pick_primary()
        follower = next(n for n in cluster.node_ids if n != primary)
        led = before.led_by(primary)

        def lags(shard):
            return [value for values in self.lags(primary, "replica_lag", peer=follower, shard=str(shard))
                    for value in values]

        self.assertEqual([lags(shard) for shard in led], [[0, 0]] * len(led))
        cluster.pause(follower, "sidecar")
        try:
            cluster.client(primary).put(NAME, [{"id": f"missed-{i}", "vector": vector(i)} for i in range(POINTS)])
            wait_until(lambda: all(min(lags(shard), default=0) > 0 for shard in led), 20, f"{follower} to lag")
            first = [lags(shard)[1] for shard in led]
            wait_until(lambda: all(lags(shard)[1] > age for shard, age in zip(led, first)), 20, "the lags to grow older")
        finally:
            cluster.resume(follower, "sidecar")
        self.settle()
        wait_until(lambda: all(not any(values) for node in cluster.node_ids for values in self.lags(node, "replica_lag")),
                   20, "no replica to lag")

    def test_a_stopped_engine_lags_behind_the_log(self):
        cluster = self.cluster
        self.settle()
        node = cluster.pick_primary()
        pending = self.read(node).sum("writes_apply_pending_total")
        applied = self.total("write_apply_seconds_count")
        self.assertEqual(self.lags(node, "shard_engine_lag"), [[0] * cluster.shards] * 2)
        cluster.pause(node, "engine")
        try:
            cluster.client().put(NAME, [{"id": f"unfed-{i}", "vector": vector(i)} for i in range(POINTS)])
            wait_until(lambda: all(min(values) > 0 for values in self.lags(node, "shard_engine_lag")), 20,
                       f"the engine of {node} to lag")
            self.assertGreater(self.read(node).sum("writes_apply_pending_total"), pending)
        finally:
            cluster.resume(node, "engine")
        self.settle()
        wait_until(lambda: self.lags(node, "shard_engine_lag") == [[0] * cluster.shards] * 2, 20,
                   f"the engine of {node} to be level")
        cluster.client(cluster.pick_primary()).put(NAME, [{"id": f"fed-{i}", "vector": vector(i)} for i in range(POINTS)])
        self.assertGreater(self.total("write_apply_seconds_count"), applied)


if __name__ == "__main__":
    unittest.main()
