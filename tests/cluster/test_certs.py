"""`outrigger certs` as users run it, checked by others: openssl, and an etcd that serves with what it made."""
import json
import os
import shutil
import ssl
import subprocess
import tempfile
import unittest
import urllib.error
import urllib.request

from harness import ETCD, free_ports, only_etcd, run, start_process, tail, wait_until


def openssl(*arguments):
    return subprocess.run(["openssl", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30)


def read(path):
    with open(path, "rb") as file:
        return file.read()


class CertsTest(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="outrigger-test-")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.certs = os.path.join(self.directory, "certs")

    def path(self, name):
        return os.path.join(self.certs, name)

    def certs_run(self, command, *arguments):
        return run("certs", command, "--dir", self.certs, *arguments)

    def made(self, command, *arguments):
        done = self.certs_run(command, *arguments)
        self.assertEqual(done.returncode, 0, done)
        return done

    def refused(self, words, command, *arguments):
        done = self.certs_run(command, *arguments)
        self.assertEqual(done.returncode, 1, done)
        self.assertIn(words, done.stderr)


class TestByOpenssl(CertsTest):
    def test_openssl_agrees(self):
        self.made("ca", "--cluster", "prod")
        self.made("node", "--node", "node-1", "--host", "10.0.0.1,fd00::1,a.example.com")
        self.made("client", "--name", "app")
        for purpose, name in (("sslserver", "node-1"), ("sslclient", "node-1"), ("sslclient", "app")):
            done = openssl("verify", "-x509_strict", "-purpose", purpose, "-CAfile", self.path("ca.crt"),
                           self.path(f"{name}.crt"))
            self.assertEqual(done.returncode, 0, done)
        self.assertNotEqual(openssl("verify", "-purpose", "sslserver", "-CAfile", self.path("ca.crt"),
                                    self.path("app.crt")).returncode, 0)
        text = openssl("x509", "-in", self.path("node-1.crt"), "-noout", "-text").stdout
        for words in ("Subject: O = prod, OU = node-1", "ecdsa-with-SHA256", "NIST CURVE: P-256", "CA:FALSE",
                      "URI:outrigger://prod/node/node-1", "IP Address:10.0.0.1", "IP Address:FD00:0:0:0:0:0:0:1",
                      "DNS:a.example.com", "TLS Web Server Authentication, TLS Web Client Authentication",
                      "Authority Key Identifier"):
            self.assertIn(words, text)
        text = openssl("x509", "-in", self.path("ca.crt"), "-noout", "-text").stdout
        for words in ("CA:TRUE", "Certificate Sign, CRL Sign", "URI:outrigger://prod/ca"):
            self.assertIn(words, text)
        for name in ("ca", "node-1", "app"):
            self.assertEqual(os.stat(self.path(f"{name}.key")).st_mode & 0o777, 0o600)
            self.assertEqual(openssl("pkey", "-in", self.path(f"{name}.key"), "-pubout").stdout,
                             openssl("x509", "-in", self.path(f"{name}.crt"), "-noout", "-pubkey").stdout)

    def test_an_intermediate_authority_of_ones_own_goes_along(self):
        """A company's authority signed ours: ca.crt has both, nodes send ours with their own."""
        os.mkdir(self.certs)
        for name in ("root", "ca"):
            openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.path(f"{name}.key"))
        openssl("req", "-x509", "-key", self.path("root.key"), "-subj", "/CN=root", "-days", "30", "-out", self.path("root.crt"))
        openssl("req", "-new", "-key", self.path("ca.key"), "-subj", "/CN=ours", "-out", self.path("ca.csr"))
        with open(self.path("ext"), "w", encoding="utf-8") as file:
            file.write("basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\nsubjectKeyIdentifier=hash\n")
        done = openssl("x509", "-req", "-in", self.path("ca.csr"), "-CA", self.path("root.crt"), "-CAkey",
                       self.path("root.key"), "-CAcreateserial", "-days", "30", "-extfile", self.path("ext"),
                       "-out", self.path("only.crt"))
        self.assertEqual(done.returncode, 0, done)
        with open(self.path("ca.crt"), "w", encoding="utf-8") as out:
            for name in ("only.crt", "root.crt"):
                with open(self.path(name), encoding="utf-8") as part:
                    out.write(part.read())
        self.refused("names no cluster; give --cluster", "node", "--node", "node-1")
        self.made("node", "--node", "node-1", "--cluster", "prod")
        with open(self.path("node-1.crt"), encoding="utf-8") as file:
            self.assertEqual(file.read().count("BEGIN CERTIFICATE"), 2)
        done = openssl("verify", "-CAfile", self.path("root.crt"), "-untrusted", self.path("node-1.crt"), self.path("node-1.crt"))
        self.assertEqual(done.returncode, 0, done)

    def test_nothing_is_replaced_unasked(self):
        self.refused("there is no authority", "node", "--node", "node-1")
        self.made("all", "--nodes", "node-1=10.0.0.1,node-2", "--loopback")
        before = {name: read(self.path(name)) for name in os.listdir(self.certs)}
        self.assertEqual(sorted(before), sorted(f"{name}.{end}" for name in ("ca", "node-1", "node-2", "admin")
                                                for end in ("crt", "key")))
        self.refused("--force", "ca")
        self.refused("--force", "node", "--node", "node-1")
        self.refused("choose another name", "client", "--name", "node-1", "--force")
        self.refused("can be called \"ca\"", "node", "--node", "ca", "--force")
        self.refused("is neither a host's name nor an IP", "node", "--node", "node-9", "--host", "10.0.0.1:7700")
        self.refused("is that of cluster outrigger, not other", "all", "--nodes", "node-9", "--cluster", "other")
        self.made("all", "--nodes", "node-1,node-2,node-3")
        for name, content in before.items():
            self.assertEqual(read(self.path(name)), content, name)
        self.made("node", "--node", "node-1", "--force")
        self.assertNotEqual(read(self.path("node-1.key")), before["node-1.key"])
        self.assertEqual(openssl("verify", "-CAfile", self.path("ca.crt"), self.path("node-1.crt")).returncode, 0)
        self.assertEqual(read(self.path("ca.crt")), before["ca.crt"])
        done = run("certs", "ca", "--dir", os.path.join(self.directory, "a", "b"))
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot make the directory", done.stderr)
        done = self.certs_run("ca", "--cluster", "a..b", "--force")
        self.assertEqual(done.returncode, 1, done)

    def test_show_says_what_ends(self):
        self.made("all", "--nodes", "node-1=10.0.0.1", "--days", "40")
        files = [self.path(name) for name in ("ca.crt", "node-1.crt")]
        done = run("certs", "show", *files)
        self.assertEqual(done.returncode, 0, done)
        for words in ("outrigger://outrigger/node/node-1", "10.0.0.1", "server and client", "authority"):
            self.assertIn(words, done.stdout)
        self.assertRegex(done.stdout, "(39|40) days left")  # Whole days, rounded down.
        done = run("certs", "show", *files, "--warn-days", "41", "--json")
        self.assertEqual(done.returncode, 1, done)
        said = json.loads(done.stdout)
        self.assertEqual([item.get("warning") for item in said], [None, "ends soon"])
        self.assertIn(said[1]["days_left"], (39, 40))
        done = run("certs", "show", self.path("node-1.key"))
        self.assertEqual(done.returncode, 1)
        self.assertIn("node-1.key", done.stderr)
        self.assertEqual(run("certs", "show").returncode, 2)


@only_etcd("whether it takes our certificates")
class TestWithEtcd(CertsTest):
    def test_etcd_serves_with_them(self):
        """etcd, and with it Go's strict reading of certificates, takes our server and client certificates, nobody else's."""
        self.made("ca", "--cluster", "prod")
        self.made("node", "--node", "etcd-1", "--loopback")
        self.made("client", "--name", "app")
        client_port, peer_port = free_ports(2)
        url = f"https://127.0.0.1:{client_port}"
        log = os.path.join(self.directory, "etcd.log")
        etcd = start_process([ETCD, "--data-dir", os.path.join(self.directory, "etcd"), "--listen-client-urls", url,
                              "--advertise-client-urls", url, "--listen-peer-urls", f"http://127.0.0.1:{peer_port}",
                              "--cert-file", self.path("etcd-1.crt"), "--key-file", self.path("etcd-1.key"),
                              "--client-cert-auth", "--trusted-ca-file", self.path("ca.crt")], log)
        self.addCleanup(etcd.wait)
        self.addCleanup(etcd.kill)

        def answers(name):
            context = ssl.create_default_context(cafile=self.path("ca.crt"))
            if name is not None:
                context.load_cert_chain(self.path(f"{name}.crt"), self.path(f"{name}.key"))
            try:
                with urllib.request.urlopen(f"{url}/health", context=context, timeout=5) as answer:
                    return answer.status == 200
            except (urllib.error.URLError, ConnectionError, ssl.SSLError):
                return False

        try:
            wait_until(lambda: answers("app"), 20, "etcd's answer over TLS")
        except Exception:
            print(tail(log))
            raise
        self.assertTrue(answers("etcd-1"))
        self.assertFalse(answers(None))
        self.made("ca", "--cluster", "prod", "--force")
        with self.assertRaises(urllib.error.URLError):  # Another authority of the same name vouches for nothing here.
            urllib.request.urlopen(f"{url}/health", context=ssl.create_default_context(cafile=self.path("ca.crt")), timeout=5)


if __name__ == "__main__":
    unittest.main()
