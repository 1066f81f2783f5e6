"""Every cell of role and call, on a real secure cluster. The tables are those of docs/security.md; that they are complete is
checked against the program: routes as /metrics names them, commands as `outrigger help` does."""
import json
import os
import re
import unittest

from harness import ROOT, run, wait_until
from secure_cluster import SecureTest

BOTH = "both"  # a token of an admin, and etcd's user
ROLES = ("none", "read", "write", "admin")
TAKEN_BACK, UNKNOWN = "taken-back", "unknown"


def table(head):
    """{what: first word of the need} of the table in docs/security.md whose first column is called so."""
    with open(os.path.join(ROOT, "docs", "security.md"), encoding="utf-8") as file:
        text = file.read()
    rows = re.search(rf"^\| {head} \| .*\n\|---.*\n((?:\|.*\n)+)", text, re.MULTILINE)[1]
    return dict(re.findall(r"^\| `([^`]*)` \| ([\w']+)", rows, re.MULTILINE))


def help_of(command):
    return run(*command.split(), "--help").stdout


class TestRoles(SecureTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        w = cls.world
        w.draw("admin", TAKEN_BACK)
        wait_until(lambda: w.ask("node-1", "GET", "/cluster/losses", token=TAKEN_BACK).status == 200, 10, "the token to be known")
        with open(w.tokens_file, encoding="utf-8") as file:
            kept = [line for line in file if not line.endswith(f" {TAKEN_BACK}\n")]
        w.write("tokens", "".join(kept))
        wait_until(lambda: w.ask("node-1", "GET", "/cluster/losses", token=TAKEN_BACK).status == 401, 10, "it to be unknown")
        w.tokens[UNKNOWN] = "otr_" + "A" * 43
        w.write(f"{UNKNOWN}.token", w.tokens[UNKNOWN] + "\n")

    def routes(self):
        """{"GET /cluster": ...} as the program has them."""
        text = self.world.metrics("node-1")
        found = set(re.findall(r'^outrigger_http_requests_total\{method="(\w+)",route="([^"]*)"', text, re.MULTILINE))
        return {f"{method} {route}" for method, route in found} - {"other other"}

    # --- the API ------------------------------------------------------------------------------------------------------

    def test_every_cell_of_role_and_call(self):
        documented = {re.sub(r":\w+", "*", call): need for call, need in table("call").items()}
        self.assertEqual(set(documented), self.routes(), "docs/security.md's table of calls and the program's routes")
        self.assertEqual(set(documented.values()), set(ROLES))
        for call, need in sorted(documented.items()):
            method, path = call.replace("*", "0").split()
            for token in (*ROLES, UNKNOWN, TAKEN_BACK):
                with self.subTest(f"{call} as {token}"):
                    answer = self.world.ask("node-1", method, path, None if method == "GET" else {},
                                            None if token == "none" else token)
                    self.check_cell(answer, need, token)

    def check_cell(self, answer, need, token):
        have = ROLES.index(token) if token in ROLES else 0
        if have >= ROLES.index(need):
            self.assertNotIn(answer.status, (401, 403), answer.text)
            return
        self.assertEqual(answer.status, 403 if have > 0 else 401, answer.text)
        self.assertIs(json.loads(answer.text)["applied"], False)
        self.assertTrue(answer.getheader("WWW-Authenticate").startswith("Bearer"))

    # --- commands -----------------------------------------------------------------------------------------------------

    def arguments(self, command):
        """Of a call that does something, without what says who calls."""
        points = self.world.write("points", '{"id":"a","vector":[1,2,3]}\n')
        special = {"load": ["--collection", "c", "--file", points, "--endpoint", self.world.url("node-1")],
                   "cluster failover": ["--shard", "0"],
                   "cluster init": ["--nodes", "3", "--timeout", "3s"],
                   "cluster bootstrap": ["--from-survivors", "--yes"],
                   "cluster export": ["--file", self.world.path("exported.json")],
                   "cluster import": ["--file", self.world.path("exported.json")],
                   "cluster set-mode": ["--mode", "sync"],
                   "cluster enable-compression": ["--algorithm", "none"]}
        return special.get(command, []) + ([] if command == "load" else ["--json"] if "--json" in help_of(command) else [])

    def documented_commands(self):
        documented = table("command")
        names = re.findall(r"^  ([a-z-]+(?: [a-z-]+)?)  +", run("help").stdout, re.MULTILINE)
        asking = {name for name in names if name not in ("sidecar", "dev", "version") and
                  re.search("^  (--token-file|--coordinator-user) ", help_of(name), re.MULTILINE)}
        self.assertGreater(len(asking), 5)
        self.assertEqual(set(documented), asking, "docs/security.md's table of commands and those that take credentials")
        return documented

    def test_every_cell_of_role_and_command(self):
        for command, need in sorted(self.documented_commands().items()):
            takes_token = "\n  --token-file " in help_of(command)
            self.assertEqual(takes_token, need in (*ROLES, BOTH), command)
            for token in (*ROLES, UNKNOWN, TAKEN_BACK) if need in ROLES else ():
                with self.subTest(f"{command} as {token}"):
                    self.check_command(command, need, token)

    def check_command(self, command, need, token):
        w = self.world
        given = ["--ca", w.path("certs", "ca.crt"), *(["--token-file", w.path(f"{token}.token")] if token != "none" else [])]
        if command != "load":
            given += ["--sidecar", w.url("node-1")]
        if command in ("cluster health", "cluster loss-report"):  # They ask all, and node-3 wants a certificate.
            given += ["--cert", w.path("certs", "app.crt"), "--key", w.path("certs", "app.key")]
        done = run(*command.split(), *self.arguments(command), *given)
        said = done.stdout + done.stderr
        have = ROLES.index(token) if token in ROLES else 0
        if have >= ROLES.index(need):
            self.assertNotRegex(said, "token|role")
            if command != "cluster failover":  # It may find nobody in sync just after another one.
                self.assertEqual(done.returncode, 0, said)
            return
        self.assertNotEqual(done.returncode, 0, said)
        self.assertIn({0: "not known here" if token != "none" else "a token is needed"}.get(
            have, f"needs a token of role {need}"), said)
        for value in w.tokens.values():
            self.assertNotIn(value, said)

    def test_commands_that_write_to_etcd_need_its_user(self):
        w = self.world
        wrong = w.write("wrong-password", "nonsense\n")
        certs = w.path("certs")
        etcd = ["--endpoints", w.etcd_url, "--coordinator-ca", f"{certs}/ca.crt"]
        certificate = ["--coordinator-cert", f"{certs}/app.crt", "--coordinator-key", f"{certs}/app.key"]
        user = ["--coordinator-user", "outrigger", "--coordinator-password-file"]
        for command, need in sorted(self.documented_commands().items()):
            if need in ROLES:
                continue
            environment = dict(os.environ, OUTRIGGER_TOKEN=w.tokens["admin"])  # Of no use here.
            for given in (etcd, etcd + certificate, etcd + user + [w.password_file], etcd + certificate + user + [wrong]):
                with self.subTest(f"{command} {given}"):
                    done = run(*command.split(), *self.arguments(command), *given, env=environment)
                    self.assertEqual(done.returncode, 1, done)
            done = run(*command.split(), *self.arguments(command), *w.coordinator(), *(w.credentials("admin") if need == BOTH else []))
            if command == "cluster bootstrap":  # Its calls to sidecars are in the table of calls.
                self.assertEqual((done.returncode, "nothing is to be set up anew" in done.stderr), (1, True), done.stderr)
            elif command == "cluster import":  # What was exported before is there.
                self.assertEqual((done.returncode, "has a cluster" in done.stderr), (1, True), done.stderr)
            else:
                self.assertEqual(done.returncode, 0, f"{command}: {done.stderr}")


class TestDocs(unittest.TestCase):
    def test_every_option_is_documented(self):
        with open(os.path.join(ROOT, "docs", "security.md"), encoding="utf-8") as file:
            documented = set(re.findall(r"--[a-z-]+", file.read()))
        for command in re.findall(r"^  ([a-z-]+(?: [a-z-]+)?)  +", run("help").stdout, re.MULTILINE):
            options = re.findall(r"^  (--[a-z-]+) ", help_of(command), re.MULTILINE)
            concerning = {o for o in options if re.search("tls|token|password|user|role|metrics-open|-ca$|cert|key|peer-[^l]", o)}
            self.assertLessEqual(concerning, documented, command)


if __name__ == "__main__":
    unittest.main()
