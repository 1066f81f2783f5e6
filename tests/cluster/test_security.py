"""What a secure cluster promises: keys, tokens and certificates change while it runs; wrong clients are refused; no secret
shows anywhere."""
import base64
import glob
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import threading
import unittest
import warnings

from harness import PROGRAM, free_ports, run, wait_until
from secure_cluster import NODES, PASSWORDS, POINTS, SecureTest


def point(number):
    return {"points": [{"id": f"p{number}", "vector": [1, number % 7, 2], "metadata": {"n": number}}]}


class SecurityTest(SecureTest):
    # --- what works ---------------------------------------------------------------------------------------------------

    def test_clients_and_commands_over_tls(self):
        w = self.world
        lines = "".join(json.dumps(point(n)["points"][0]) + "\n" for n in range(1000, 1100))
        loaded = w.run("load", "--collection", "c", "--file", w.write("points.jsonl", lines), "--endpoint",
                       ",".join(w.url(node) for node in NODES), *w.credentials("write"))
        self.assertIn("100 points", loaded.stdout)
        for node in NODES:
            got = w.ask(node, "GET", f"{POINTS}/p1042", token="read")
            self.assertEqual((got.status, json.loads(got.text)["metadata"]), (200, {"n": 1042}))
        found = w.ask("node-2", "POST", f"{POINTS}/search?consistency=linearizable", {"vector": [1, 2, 3], "k": 3},
                      token="read")
        self.assertEqual(len(json.loads(found.text)["results"]), 3)
        # By way of a sidecar, and of the coordinator, which says that the addresses speak TLS.
        for source in (["--sidecar", w.url("node-1")], w.coordinator()):
            nodes = json.loads(w.run("cluster", "list-nodes", "--json", *source, *w.credentials("read")).stdout)["nodes"]
            self.assertEqual({node["id"]: node["client"] for node in nodes}, {node: w.url(node) for node in NODES})
            status = w.run("cluster", "status", *source, *w.credentials("read"))
            self.assertNotIn("?", status.stdout)  # Every position is known: all sidecars answered.
            self.assertEqual(status.stderr, "")
        w.run("cluster", "health", "--sidecar", w.url("node-3"), *w.credentials("read"))

    def test_commands_say_what_is_missing(self):
        w = self.world
        ca = ["--ca", w.path("certs", "ca.crt")]
        cases = [
            (["--sidecar", w.url("node-1")], "certificate"),
            (["--sidecar", w.url("node-1"), *ca], "a token is needed"),
            (["--sidecar", w.url("node-1"), *ca, "--token-file", w.write("wrong", "otr_wrong\n")], "not known here"),
            (["--sidecar", w.url("node-1"), *ca, "--token-file", w.path("nowhere")], "cannot open"),
            (["--sidecar", w.url("node-3"), *ca, "--token-file", w.path("read.token")], "certificate required"),
            (["--sidecar", w.url("node-1").replace("https", "http"), *ca], "HTTP status 400"),
        ]
        for arguments, words in cases:
            with self.subTest(words):
                said = w.run("cluster", "status", *arguments, code=1)
                self.assertIn(words, said.stderr)
        refused = w.run("cluster", "status", "--token", w.tokens["admin"], code=2)
        self.assertIn("--token-file", refused.stderr)
        self.assertNotIn(w.tokens["admin"], refused.stderr)
        environment = dict(os.environ, OUTRIGGER_TOKEN=w.tokens["read"])
        w.run("cluster", "health", "--sidecar", w.url("node-1"), *ca, "--cert", w.path("certs", "app.crt"), "--key",
              w.path("certs", "app.key"), env=environment)
        # Found by way of the coordinator, but no token for the sidecars: what can be known is shown, and what is missing.
        blind = w.run("cluster", "status", *w.coordinator(), *ca)
        self.assertIn("does not tell its positions: a token is needed", blind.stderr)

    # --- what changes while it runs -----------------------------------------------------------------------------------

    def test_tokens_change_without_a_restart(self):
        w = self.world
        pids = {node: w.processes[node].pid for node in NODES}
        newcomer = w.draw("write", "newcomer")
        for node in NODES:
            wait_until(lambda: w.ask(node, "PUT", POINTS, point(2), newcomer).status == 200, 10, f"{node} to know it")
        with open(w.tokens_file, encoding="utf-8") as file:
            before = file.read()
        w.write("tokens", "".join(line for line in before.splitlines(True) if "newcomer" not in line))
        for node in NODES:
            wait_until(lambda: w.ask(node, "GET", POINTS + "/p2", token=newcomer).status == 401, 10, f"{node} to forget it")
        with open(w.tokens_file, encoding="utf-8") as file:
            good = file.read()
        for bad in ("admin otr_in-plain-text\n", "", None):
            if bad is None:
                os.unlink(w.tokens_file)
            else:
                w.write("tokens", bad)
            for node in NODES:
                wait_until(lambda: w.metric(node, "outrigger_http_tokens_file_bad") == 1, 10, f"{node} to complain")
                self.assertEqual(w.ask(node, "GET", "/collections", token="read").status, 200)
                self.assertEqual(w.ask(node, "GET", "/collections").status, 401)
            w.write("tokens", good)
            for node in NODES:
                wait_until(lambda: w.metric(node, "outrigger_http_tokens_file_bad") == 0, 10, f"{node} to be content")
        self.assertEqual(pids, {node: w.processes[node].pid for node in NODES if w.processes[node].runs})

    def test_certificates_change_under_load(self):
        """Old connections and new ones write while every certificate is replaced: no request fails."""
        w = self.world
        stop, failures, written = threading.Event(), [], []

        def serial(node):
            with socket.create_connection(("127.0.0.1", w.ports[node]), 10) as raw, \
                    w.context().wrap_socket(raw, server_hostname="127.0.0.1") as tls:
                return tls.getpeercert()["serialNumber"]

        mine = w.context()  # Read before the files change.

        def load(node, kept):
            number, connection = 10000, w.connect(node, mine)
            while not stop.is_set():
                try:
                    if not kept:
                        connection = w.connect(node, mine)
                    answer = w.ask_on(connection, "PUT", POINTS, point(number), "write")
                    if answer.status != 200:
                        failures.append(answer.text)
                    written.append(number)
                except (OSError, http.client.HTTPException) as error:
                    failures.append(f"{node}: {error!r}")
                    return
                finally:
                    if not kept:
                        connection.close()
                number += 1
            connection.close()

        def lost_links():
            return sum(float(line.split()[1]) for node in NODES for line in w.metrics(node).splitlines()
                       if line.startswith("outrigger_peer_links_lost_total{"))

        before, lost, reloads = {node: serial(node) for node in NODES}, lost_links(), self.reloads()
        threads = [threading.Thread(target=load, args=(node, kept)) for node in NODES for kept in (True, False)]
        for thread in threads:
            thread.start()
        try:
            w.make_certs("--force")
            for node in NODES:
                wait_until(lambda: serial(node) != before[node], 20, f"{node} to show its new certificate")
            count = len(written)
            wait_until(lambda: len(written) > count + 50 or failures, 20, "more writes")
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        self.assertEqual(failures, [])
        for node in NODES:
            self.assertLess(reloads[node, "http"], w.metric(node, "outrigger_http_tls_reloads_total"))
        self.wait_reload(reloads)
        self.assertEqual(lost_links(), lost)

    def reloads(self):
        return {(node, port): self.world.metric(node, f"outrigger_{port}_tls_reloads_total") for node in NODES
                for port in ("http", "peer")}

    def wait_reload(self, before, ca_only=False):
        """Until everything that changed is read again; a CA concerns the peers, and those clients that show certificates."""
        what = {key for key in before if not ca_only or key[1] == "peer" or key[0] == "node-3"}
        wait_until(lambda: all(self.reloads()[key] > before[key] for key in what), 20, "sidecars to read anew")

    def test_a_new_authority_in_three_steps(self):
        """As docs/security.md says, of everything at once; etcd, which reads its authorities only once, is started anew."""
        w = self.world
        both, failures, stop = w.path("both.crt"), [], threading.Event()
        w.make_certs(directory="next")
        with open(both, "w", encoding="utf-8") as out:
            for directory in ("certs", "next"):
                with open(w.path(directory, "ca.crt"), encoding="utf-8") as file:
                    out.write(file.read())
        trusting = {}
        for directory in ("certs", "next"):
            trusting[directory] = ssl.create_default_context(cafile=both)
            trusting[directory].load_cert_chain(w.path(directory, "app.crt"), w.path(directory, "app.key"))
        shown, rounds = ["certs"], [0]

        def write(node, connection):
            try:
                answer = w.ask_on(connection, "PUT", POINTS, point(20000 + rounds[0]), "write")
                if answer.status != 200:
                    failures.append(answer.text)
            except (OSError, http.client.HTTPException) as error:
                failures.append(f"{node}: {error!r}")
                stop.set()

        def load():
            kept = {node: w.connect(node, trusting["certs"]) for node in NODES}
            while not stop.is_set():
                context = trusting[shown[0]]
                for node in NODES:
                    write(node, kept[node])
                    fresh = w.connect(node, context)
                    write(node, fresh)
                    fresh.close()
                rounds[0] += 1
            for connection in kept.values():
                connection.close()

        def rounds_pass(count):
            until = rounds[0] + count
            wait_until(lambda: rounds[0] >= until or stop.is_set(), 20, "more writes")

        def put(name, source):
            shutil.copy(source, w.path("certs", name) + ".new")
            os.replace(w.path("certs", name) + ".new", w.path("certs", name))

        thread = threading.Thread(target=load)
        thread.start()
        try:
            before = self.reloads()
            put("ca.crt", both)  # 1: both are believed.
            w.stop_etcd()
            w.start_etcd()
            self.wait_reload(before, ca_only=True)
            before = self.reloads()
            for name in (*NODES, "etcd-1", "app"):  # 2: everybody shows new ones.
                for end in ("key", "crt"):
                    put(f"{name}.{end}", w.path("next", f"{name}.{end}"))
            self.wait_reload(before)
            shown[0] = "next"
            rounds_pass(2)  # Nobody connects with the old one any more.
            before = self.reloads()
            put("ca.crt", w.path("next", "ca.crt"))  # 3: the old one is not believed any more.
            put("ca.key", w.path("next", "ca.key"))
            w.stop_etcd()
            w.start_etcd()
            self.wait_reload(before, ca_only=True)
            rounds_pass(5)
        finally:
            stop.set()
            thread.join()
        self.assertEqual(failures, [])
        self.assertEqual(self.raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "node-3", trusting["certs"]), b"")
        for node in NODES:
            self.assertEqual(w.ask(node, "PUT", POINTS, point(3), "write").status, 200)
            wait_until(lambda: w.metric(node, "outrigger_coordinator_reachable") == 1, 30, "the coordinator")
        w.run("cluster", "status", *w.coordinator(), *w.credentials("read"))

    # --- who is refused -----------------------------------------------------------------------------------------------

    def raw(self, data, node="node-1", context=None):
        """What comes back for these bytes until the end; through TLS when a context is given."""
        with socket.create_connection(("127.0.0.1", self.world.ports[node]), 10) as connection:
            connection.settimeout(15)
            if context is not None:
                connection = context.wrap_socket(connection, server_hostname="127.0.0.1")
            connection.sendall(data)
            received = b""
            try:
                while chunk := connection.recv(65536):
                    received += chunk
            except (ConnectionResetError, ssl.SSLError):
                pass
            connection.close()
            return received

    def test_wrong_clients(self):
        w, context = self.world, self.world.context()
        token = w.tokens["read"].encode()
        head = b"GET /collections HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"

        def status(data, **options):
            answer = self.raw(data, **options)
            return int(answer.split(b" ")[1]) if answer.startswith(b"HTTP/1.1 ") else answer

        self.assertIn(b"https://", self.raw(head + b"\r\n"))  # 1: plain HTTP
        self.assertEqual(self.raw(b"\x01\x02\x03\x04"), b"")  # 2: neither HTTP nor TLS
        with self.assertRaises(ssl.SSLCertVerificationError):  # 3: one who trusts somebody else
            self.raw(head, context=w.context("strangers"))
        with self.assertRaises(ssl.SSLCertVerificationError):  # 4: one who wants another host
            w.context().wrap_socket(socket.create_connection(("127.0.0.1", w.ports["node-1"]), 10),
                                    server_hostname="example.org")
        self.assertEqual(self.raw(head + b"\r\n", "node-3", w.context(certificate=False)), b"")  # 5: no certificate
        strange = w.context()
        strange.load_cert_chain(w.path("strangers", "app.crt"), w.path("strangers", "app.key"))
        self.assertEqual(self.raw(head + b"\r\n", "node-3", strange), b"")  # 6: one of another authority
        cases = [
            (b"", 401),  # 7
            (b"Authorization: Bearer otr_" + b"A" * 43 + b"\r\n", 401),  # 8: a token that nobody knows
            (b"Authorization: Basic " + token + b"\r\n", 401),  # 9: another scheme
            (b"Authorization: Bearer " + token + b"\r\nAuthorization: Bearer " + token + b"\r\n", 400),  # 10: two
            (b"Authorization: Bearer " + b"A" * 12000 + b"\r\n", 401),  # 11: a huge one
            (b"Authorization: Bearer " + b"A" * 20000 + b"\r\n", 431),  # 12: too huge
            (b"Authorization: Bearer " + token + b"x\r\n", 401),  # 13: nearly right
            (b"Authorization : Bearer " + token + b"\r\n", 400),  # 14: a space that others read over
            (b"Authorization: bEARER " + token + b"\r\n", 200),
        ]
        for fields, expected in cases:
            self.assertEqual(status(head + fields + b"\r\n", context=context), expected, fields[:60])
        query = head.replace(b"/collections", b"/collections?token=" + token)
        self.assertEqual(status(query + b"\r\n", context=context), 401)  # 15: a token where logs would show it
        old = w.context()
        old.set_ciphers("DEFAULT:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            old.minimum_version = ssl.TLSVersion.TLSv1
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with self.assertRaises((ssl.SSLError, ConnectionResetError)):  # 16: TLS 1.1
            self.raw(head, context=old)
        # 17: an unknown client's large body is not even read.
        body = b"PUT " + POINTS.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n"
        self.assertEqual(status(body, context=context), 401)
        self.assertEqual(w.ask("node-1", "GET", "/collections", token="read").status, 200)

    def test_without_tokens_the_cluster_is_changed_from_here_only(self):
        """A sidecar of its own, without tokens, that everybody can reach."""
        w = self.world
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("192.0.2.1", 9))
                elsewhere = probe.getsockname()[0]
            except OSError:
                elsewhere = "127.0.0.1"
        if elsewhere.startswith("127."):
            self.skipTest("this host has no address but loopback; tests/unit/api/test_access.c has the same case")
        port, peer = free_ports(2)
        w.add("open", PROGRAM + ["sidecar", "--cluster", "other", "--node", "open", "--listen", f"0.0.0.0:{port}",
                                 "--peer-listen", f"127.0.0.1:{peer}", "--data", w.path("open"), *w.coordinator()])

        def ask(host, method, path, headers=None):
            connection = http.client.HTTPConnection(host, port, timeout=10)
            try:
                connection.request(method, path, body=b"{}" if method == "POST" else None, headers=headers or {})
                return connection.getresponse().status
            finally:
                connection.close()

        def up():
            try:
                return ask("127.0.0.1", "GET", "/healthz") == 200
            except OSError:
                return False

        try:
            wait_until(up, 20, "the sidecar")
            self.assertEqual(ask(elsewhere, "GET", "/collections"), 200)
            self.assertEqual(ask(elsewhere, "POST", "/cluster/shards/0/failover"), 403)
            self.assertEqual(ask(elsewhere, "POST", "/cluster/shards/0/failover", {"X-Forwarded-For": "127.0.0.1"}), 403)
            self.assertNotIn(ask("127.0.0.1", "POST", "/cluster/shards/0/failover"), (401, 403))
        finally:
            process = w.processes.pop("open")
            process.signal(signal.SIGKILL)
            process.child.wait()

    # --- secrets ------------------------------------------------------------------------------------------------------

    def test_secrets_show_nowhere(self):
        """After errors of every kind: not in logs at debug level, metrics, error answers, arguments, or what commands print."""
        w = self.world
        seen, unknown = [], "otr_" + "B" * 43
        for token in ("read", "write", "admin", unknown):
            value = w.tokens.get(token, token)
            for method, path in (("GET", "/none"), ("PUT", POINTS), ("GET", f"/{value}"), ("GET", "/collections?x=" + value),
                                 ("DELETE", "/collections/c2"), ("PATCH", "/cluster"), ("GET", "/metrics"), ("GET", "/cluster")):
                seen.append(w.ask("node-1", method, path, [value] if method == "PUT" else None, token).text)
            seen.append(w.ask("node-2", "GET", "/collections", headers=[("Authorization", "Basic " + value)]).text)
            seen.append(self.raw(f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {value}\r\n\r\n".encode()).decode())
            seen.append(self.raw(f"GET / HTTP/1.1\r\nAuthorization: Bearer {value}\r\nbad header\r\n\r\n".encode(),
                                 context=w.context()).decode())
        def run_and_keep(*arguments, **options):
            done = run(*arguments, **options)
            seen.append(done.stdout + done.stderr)

        wrong = w.write("wrong.password", "B" * 32)
        run_and_keep("cluster", "init", "--nodes", "3", *w.coordinator(password=False), "--coordinator-password-file", wrong)
        run_and_keep("cluster", "failover", "--shard", "0", "--sidecar", w.url("node-1"), *w.credentials("read"))
        run_and_keep("cluster", "health", "--sidecar", w.url("node-1"), env=dict(os.environ, OUTRIGGER_TOKEN=unknown))
        for key in ("app.key", "node-1.key"):  # Files of secrets in places where others belong.
            run_and_keep("cluster", "status", "--sidecar", w.url("node-1"), "--token-file", w.path("certs", key))
            run_and_keep("cluster", "status", "--sidecar", w.url("node-1"), "--ca", w.path("certs", key))
            run_and_keep("certs", "show", w.path("certs", key))
        run_and_keep("cluster", "status", "--sidecar", w.url("node-1"), "--ca", w.path("read.token"))
        run_and_keep("sidecar", "--node", "n", "--data", w.path("n"), "--tokens", w.path("read.token"))
        run_and_keep("sidecar", "--node", "n", "--data", w.path("n"), "--config", w.password_file)
        run_and_keep("token", "--role", "read", "--file", w.path("read.token"))
        w.stop_etcd()  # The coordinator's errors are in the logs as well.
        wait_until(lambda: w.metric("node-1", "outrigger_coordinator_reachable") == 0, 30, "the coordinator to be missed")
        for role in ("read", "admin"):
            run_and_keep("cluster", "status", *w.coordinator(), *w.credentials(role))
        w.start_etcd()
        wait_until(lambda: all(w.ask(node, "GET", "/readyz").status == 200 and
                               w.metric(node, "outrigger_coordinator_reachable") == 1 for node in NODES), 60, "readiness")
        for node in NODES:
            seen.append(w.ask(node, "GET", "/metrics", token="read").text)
        for path in w.logs():
            if not os.path.basename(path).startswith("etcd"):
                with open(path, encoding="utf-8", errors="replace") as file:
                    seen.append(file.read())
        self.assertTrue(any("DEBUG" in text for text in seen), "no log at debug level was read")
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                with open(path, "rb") as file:
                    seen.append(file.read().decode(errors="replace"))
            except OSError:
                pass  # It has ended.
        self.assertTrue(any(w.path("certs", "node-1.key") in text for text in seen), "no arguments were read")
        secrets_ = {f"token {name}": token for name, token in w.tokens.items()}
        secrets_["unknown token"] = unknown
        secrets_.update({f"password of {user}": password for user, password in PASSWORDS.items()})
        for path in glob.glob(w.path("certs", "*.key")):
            with open(path, encoding="utf-8") as file:
                secrets_[path] = file.read().splitlines()[1]
        seen += w.printed
        for name, secret in secrets_.items():
            for text in seen:
                for form in (secret, base64.b64encode(secret.encode()).decode()):
                    at = text.find(form)
                    self.assertEqual(at, -1, f"{name} shows in: {text[max(0, at - 200):at + 20]!r}")


if __name__ == "__main__":
    unittest.main()
