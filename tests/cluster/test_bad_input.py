"""Bad input over real HTTP: each piece gets a clear 4xx answer, nothing of it is applied, and nobody else notices."""
import http.client
import json
import socket
import time
import unittest
from urllib.parse import quote, urlsplit

from harness import ClusterTest, clock_s, wait_until
from ledger import Load, Oracle

COLLECTION, FLAT, LIVE = "bad", "flat", "live"  # FLAT is Euclidean: a zero vector is welcome there
POINTS = f"/collections/{COLLECTION}/points"
DEEP = 100000


def vector(text):
    return '{"points":[{"id":"x","vector":%s}]}' % text


def with_id(text):
    return b'{"points":[{"id":' + text + b',"vector":[1,2,3]}]}'


def metadata(text):
    return '{"points":[{"id":"x","vector":[1,2,3],"metadata":%s}]}' % text


def search(k):
    return '{"vector":[1,2,3],"k":%s}' % k


# (what, body of a PUT of points, words that the answer's message must have)
PUTS = [
    ("malformed JSON", '{"points":[{"id":"x","vector":[1,2,3]}', ""),
    ("not JSON at all", "points", ""),
    ("no body", "", "no body"),
    ("a bare string", '"points"', ""),
    ("single quotes", "{'points':[]}", ""),
    ("a trailing comma", '{"points":[{"id":"x","vector":[1,2,3]},]}', ""),
    ("deeply nested arrays", vector("[" * DEEP + "]" * DEEP), ""),
    ("deeply nested metadata", metadata('{"a":' * DEEP + "1" + "}" * DEEP), ""),
    ("deeply nested and unclosed", "[" * DEEP, ""),
    ("trailing bytes", vector("[1,2,3]") + "x", ""),
    ("a second value behind", vector("[1,2,3]") * 2, ""),
    ("a NUL behind", vector("[1,2,3]") + "\0", ""),
    ("a duplicate key of the body", '{"points":[],"points":[{"id":"x","vector":[1,2,3]}]}', "twice"),
    ("a duplicate key of a point", '{"points":[{"id":"x","id":"y","vector":[1,2,3]}]}', "twice"),
    ("a duplicate key of metadata", metadata('{"a":1,"a":2}'), "twice"),
    ("an escaped duplicate key", metadata('{"a":1,"\\u0061":2}'), "twice"),
    ("an unknown key", '{"points":[{"id":"x","vector":[1,2,3],"metdata":{}}]}', "metdata"),
    ("no vector", '{"points":[{"id":"x"}]}', "no vector"),
    ("a vector that is no array", vector('"1,2,3"'), ""),
    ("too short a vector", vector("[1,2]"), "dimension is 3"),
    ("too long a vector", vector("[1,2,3,4]"), "dimension is 3"),
    ("an empty vector", vector("[]"), "dimension is 3"),
    ("a far too long vector", vector("[" + "1," * 100000 + "1]"), "dimension is 3"),
    ("NaN", vector("[1,NaN,3]"), ""),
    ("null for a number", vector("[1,null,3]"), ""),
    ("Infinity", vector("[1,Infinity,3]"), ""),
    ("-Infinity", vector("[1,-Infinity,3]"), ""),
    ("1e39, which overflows float32", vector("[1,1e39,3]"), "points[0].vector[1]"),
    ("-3.5e38, which overflows float32", vector("[1,-3.5e38,3]"), "points[0].vector[1]"),
    ("1e999, which overflows a double", vector("[1,1e999,3]"), "points[0].vector[1]"),
    ("a leading zero", vector("[01,2,3]"), ""),
    ("hexadecimal", vector("[0x1,2,3]"), ""),
    ("a zero vector under Cosine", vector("[0,0,0]"), "zero vector"),
    ("a vector that underflows to zero", vector("[1e-60,-1e-60,0.0]"), "zero vector"),
    ("an empty id", with_id(b'""'), "empty"),
    ("an id of 513 bytes", with_id(b'"' + b"i" * 513 + b'"'), "512"),
    ("an id of 513 bytes in 171 characters", with_id('"{}"'.format("\u20ac" * 171).encode()), "512"),
    ("an id with NUL", with_id(b'"a\\u0000b"'), "NUL"),
    ("an id with a raw NUL", with_id(b'"a\0b"'), ""),
    ("an id that is not UTF-8", with_id(b'"\xff\xfe"'), "UTF-8"),
    ("an id in overlong UTF-8", with_id(b'"\xc0\xaf"'), "UTF-8"),
    ("an id with a lone surrogate", with_id(b'"\\ud800"'), ""),
    ("a number as id", with_id(b"7"), ""),
    ("the same id twice", '{"points":[{"id":"x","vector":[1,2,3]},{"id":"x","vector":[3,2,1]}]}', "same id"),
    ("the same id twice, once escaped", '{"points":[{"id":"x","vector":[1,2,3]},{"id":"\\u0078","vector":[3,2,1]}]}',
     "same id"),
    ("metadata that is no object", metadata("[1]"), "object"),
    ("metadata above its limit", metadata('{"a":"%s"}' % ("m" * 65536)), "65536"),
    ("metadata that is not UTF-8", b'{"points":[{"id":"x","vector":[1,2,3],"metadata":{"a":"\xff"}}]}', "UTF-8"),
    ("one bad point among good ones", '{"points":[%s,{"id":"bad","vector":[1,2]}]}' % ",".join(
        '{"id":"good-%d","vector":[1,2,3]}' % i for i in range(50)), "points[50].vector"),
]
# (what, body of a search, words)
SEARCHES = [
    ("k of 0", search("0"), "k"),
    ("k of -1", search("-1"), "k"),
    ("k of 2^31", search("2147483648"), "k"),
    ("k of 2^32 + 1", search("4294967297"), "k"),
    ("k of 2^64 + 1", search("18446744073709551617"), "k"),
    ("k of 1.5", search("1.5"), "k"),
    ("k of 1e1", search("1e1"), "k"),
    ("k as string", search('"5"'), "k"),
    ("too short a vector", '{"vector":[1,2]}', "dimension is 3"),
    ("NaN", '{"vector":[1,2,NaN]}', ""),
    ("an overflow", '{"vector":[1,2,1e39]}', "vector[2]"),
    ("a zero vector under Cosine", '{"vector":[0,0,0]}', "zero vector"),
    ("no vector", '{"k":3}', "vector"),
    ("a filter that is no object", '{"vector":[1,2,3],"filter":"a=b"}', "filter"),
    ("a duplicate key", '{"vector":[1,2,3],"k":1,"k":2}', "twice"),
    ("an unknown key", '{"vector":[1,2,3],"limit":3}', "limit"),
    ("deep nesting", '{"vector":%s}' % ("[" * DEEP), ""),
    ("trailing bytes", search("3") + "}", ""),
]
# (what, body of a delete of points, words)
DELETES = [
    ("an empty id", '{"ids":["there",""]}', "empty"),
    ("an id of 513 bytes", '{"ids":["there","%s"]}' % ("i" * 513), "512"),
    ("an id with NUL", '{"ids":["there","a\\u0000"]}', "NUL"),
    ("an id that is not UTF-8", b'{"ids":["there","\xff"]}', "UTF-8"),
    ("the same id twice", '{"ids":["there","there"]}', "same id"),
    ("a number", '{"ids":["there",7]}', ""),
    ("no array", '{"ids":"there"}', ""),
    ("malformed JSON", '{"ids":["there"', ""),
    ("trailing bytes", '{"ids":["there"]}]', ""),
]
# (what, body of a new collection, words)
COLLECTIONS = [
    ("dimension 0", '{"name":"new","dimension":0}', "dimension"),
    ("dimension -1", '{"name":"new","dimension":-1}', "dimension"),
    ("dimension 16385", '{"name":"new","dimension":16385}', "16384"),
    ("dimension 2.5", '{"name":"new","dimension":2.5}', "dimension"),
    ("no dimension", '{"name":"new"}', "dimension"),
    ("no name", '{"dimension":3}', "name"),
    ("an empty name", '{"name":"","dimension":3}', "name"),
    ("a name with a slash", '{"name":"a/b","dimension":3}', "name"),
    ("a name of dots", '{"name":"..","dimension":3}', "name"),
    ("a name with two underscores", '{"name":"a__1","dimension":3}', "name"),
    ("a name of 64 characters", '{"name":"%s","dimension":3}' % ("n" * 64), "name"),
    ("a name with a space", '{"name":"a b","dimension":3}', "name"),
    ("an unknown metric", '{"name":"new","dimension":3,"metric":"Hamming"}', "metric"),
    ("malformed JSON", '{"name":"new","dimension":3', ""),
    ("a duplicate key", '{"name":"new","name":"newer","dimension":3}', "twice"),
]
# (what, method, target, status, words)
PATHS = [
    ("an unknown collection", "GET", "/collections/nothere", 404, "nothere"),
    ("a point of an unknown collection", "GET", "/collections/nothere/points/x", 404, "nothere"),
    ("a search in an unknown collection", "POST", "/collections/nothere/points/search", 404, "nothere"),
    ("a put into an unknown collection", "PUT", "/collections/nothere/points", 404, "nothere"),
    ("a delete in an unknown collection", "DELETE", "/collections/nothere/points/x", 404, "nothere"),
    ("a delete of an unknown collection", "DELETE", "/collections/nothere", 404, "nothere"),
    ("an unknown point", "GET", POINTS + "/nothere", 404, ""),
    ("an empty id in the path", "GET", POINTS + "/", 400, ""),
    ("an id of 513 bytes in the path", "GET", POINTS + "/" + "i" * 513, 400, "512"),
    ("a raw slash in an id", "DELETE", POINTS + "/a/b", 404, "%2F"),
    ("an id with NUL in the path", "GET", POINTS + "/a%00b", 400, ""),
    ("an id that is not UTF-8 in the path", "GET", POINTS + "/%ff", 400, ""),
    ("a broken escape", "GET", POINTS + "/%zz", 400, ""),
    ("a cut escape", "GET", POINTS + "/a%4", 400, ""),
    ("an unknown consistency", "GET", POINTS + "/there?consistency=strong", 400, "consistency"),
    ("an unknown parameter", "GET", POINTS + "/there?color=red", 400, "color"),
    ("an unknown resource", "GET", "/nothere", 404, ""),
    ("a method that the resource does not have", "PUT", "/collections", 405, ""),
]


def address(url):
    parts = urlsplit(url)
    return parts.hostname, parts.port


class TestBadInput(ClusterTest):
    shards = 3

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        client = cls.cluster.client()
        client.create_collection(COLLECTION, 3)
        client.create_collection(FLAT, 3, "Euclidean")
        client.create_collection(LIVE, 8)
        client.put(COLLECTION, [{"id": "there", "vector": [1, 2, 3], "metadata": {"kept": True}}])
        cls.oracle = Oracle(100)
        cls.oracle.load(client, "static")

    def setUp(self):
        """Others work on while the input comes in."""
        self.load = Load(self.cluster.clients(), LIVE, rate=10).start()
        self.turn = 0
        began = clock_s()
        wait_until(lambda: self.load.goes_on(self.cluster.shards, began, 1, 1), 30, "load")

    def tearDown(self):
        began = clock_s()
        wait_until(lambda: self.load.goes_on(self.cluster.shards, began, 1, 1), 30, "others to go on")
        self.load.stop()
        try:
            self.assert_none(self.load.check())
            self.assertEqual(self.load.refusals(), 0, "others saw a 503 or 429")
            self.nothing_applied()
        finally:
            super().tearDown()

    # --- tools --------------------------------------------------------------------------------------------------------

    def next_node(self):
        self.turn += 1
        return self.cluster.node_ids[self.turn % len(self.cluster.node_ids)]

    def nothing_applied(self):
        client = self.cluster.client()
        names = client.request("GET", "/collections").json["collections"]
        self.assertEqual(sorted(names), sorted([COLLECTION, FLAT, LIVE, "static"]))
        self.assertEqual(client.collection(COLLECTION)["points"], 1)
        hits = client.search(COLLECTION, [1, 2, 3], k=100)
        self.assertEqual([(hit["id"], hit["metadata"]) for hit in hits], [("there", {"kept": True})])
        self.assertEqual(client.get(COLLECTION, "there")["vector"], [1, 2, 3])

    def refused(self, what, answer, status, words):
        status_got, value = answer
        with self.subTest(what):
            self.assertEqual(status_got, status, value)
            self.assertEqual(set(value["error"]), {"code", "message"})
            self.assertIn(words, value["error"]["message"])
            self.assertGreater(len(value["error"]["message"]), 3)
            self.assertIs(value["applied"], False)

    def ask(self, method, target, body=None, headers=None, node=None):
        """One request over a fresh connection: (status, JSON)."""
        connection = http.client.HTTPConnection(*address(self.cluster.url(node or self.next_node())), timeout=30)
        try:
            connection.putrequest(method, target, skip_accept_encoding=True)
            if body is not None:
                body = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
                connection.putheader("Content-Length", str(len(body)))
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            return response.status, json.loads(response.read() or b"null")
        finally:
            connection.close()

    def open(self, node=None):
        s = socket.create_connection(address(self.cluster.url(node or self.next_node())), timeout=40)
        self.addCleanup(s.close)
        return s

    def read_answer(self, s):
        """What a socket answers: (status, JSON); (0, None) when it only closes."""
        try:
            response = http.client.HTTPResponse(s)
            response.begin()
            return response.status, json.loads(response.read())
        except (http.client.HTTPException, ConnectionError):
            return 0, None

    def raw(self, text):
        s = self.open()
        s.sendall(text)
        return self.read_answer(s)

    # --- bodies -------------------------------------------------------------------------------------------------------

    def test_puts(self):
        for what, body, words in PUTS:
            self.refused(what, self.ask("PUT", POINTS, body), 400, words)
        self.assertEqual(self.ask("PUT", f"/collections/{FLAT}/points", vector("[0,0,0]"))[0], 200)

    def test_searches(self):
        for what, body, words in SEARCHES:
            self.refused(what, self.ask("POST", POINTS + "/search", body), 400, words)

    def test_deletes(self):
        for what, body, words in DELETES:
            self.refused(what, self.ask("POST", POINTS + "/delete", body), 400, words)

    def test_collections(self):
        for what, body, words in COLLECTIONS:
            self.refused(what, self.ask("POST", "/collections", body), 400, words)
        self.refused("one that exists", self.ask("POST", "/collections", '{"name":"bad","dimension":3}'), 409, "bad")

    def test_paths(self):
        body = {"PUT": vector("[1,2,3]"), "POST": search("3")}
        for what, method, target, status, words in PATHS:
            self.refused(what, self.ask(method, target, body.get(method)), status, words)

    def test_headers(self):
        for name, value in (("Outrigger-Request-Id", "123"), ("Outrigger-Request-Id", "g" * 32),
                            ("Outrigger-Request-Id", "0" * 32), ("Outrigger-Timeout", "soon"),
                            ("Outrigger-Timeout", "-5ms"), ("Outrigger-Timeout", "0s")):
            answer = self.ask("PUT", POINTS, vector("[1,2,3]"), {name: value})
            self.refused(f"{name}: {value}", answer, 400, name)
        for value in ("1", "1:2", "a:b:c", "1:2:3,", "99999:1:1", "1:99999999999999999999:1"):
            answer = self.ask("GET", POINTS + "/there", headers={"Outrigger-Position": value})
            self.refused(f"Outrigger-Position: {value}", answer, 400, "Outrigger-Position")

    def test_ids_that_look_bad_but_are_not(self):
        client = self.cluster.client()
        ids = ["a/b", "..", ".", "../../etc/passwd", "a b", "%2F", "?x=1#y", "\u20ac\U0001f600", "i" * 512, '"\\', "\n"]
        url = f"/collections/{FLAT}/points/"
        for i, point_id in enumerate(ids):
            client.put(FLAT, [{"id": point_id, "vector": [i, 0, 1]}])
        for i, point_id in enumerate(ids):
            self.assertEqual(client.get(FLAT, point_id), {"id": point_id, "vector": [i, 0, 1], "metadata": None})
            self.assertEqual(client.search(FLAT, [i, 0, 1], k=1)[0]["id"], point_id)
            self.assertEqual(self.ask("DELETE", url + quote(point_id, safe=""))[1], {"deleted": 1})
            self.assertIsNone(client.get(FLAT, point_id))

    # --- framing ------------------------------------------------------------------------------------------------------

    def test_ambiguous_framing(self):
        put = f"PUT {POINTS} HTTP/1.1\r\nHost: x\r\n".encode()
        body = vector("[1,2,3]").encode()
        length = b"Content-Length: %d\r\n" % len(body)
        chunked = b"Transfer-Encoding: chunked\r\n"
        for what, text in (
            ("length and chunked", put + length + chunked + b"\r\n" + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)),
            ("two lengths", put + length + b"Content-Length: 3\r\n\r\n" + body),
            ("the same length twice", put + length + length + b"\r\n" + body),
            ("a list of lengths", put + b"Content-Length: %d, %d\r\n\r\n" % (len(body), len(body)) + body),
            ("a negative length", put + b"Content-Length: -1\r\n\r\n" + body),
            ("a length with a sign", put + b"Content-Length: +%d\r\n\r\n" % len(body) + body),
            ("a length that overflows", put + b"Content-Length: 18446744073709551617\r\n\r\n" + body),
            ("bare LF", put.replace(b"\r\n", b"\n") + length.replace(b"\r\n", b"\n") + b"\n" + body),
            ("a folded header", put + b"X: a\r\n b\r\n" + length + b"\r\n" + body),
            ("a space before the colon", put + length.replace(b":", b" :") + b"\r\n" + body),
            ("another encoding", put + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
            ("a broken chunk", put + chunked + b"\r\nzz\r\n" + body),
            ("no Host", f"PUT {POINTS} HTTP/1.1\r\n".encode() + length + b"\r\n" + body),
            ("no HTTP at all", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello TLS\r\n\r\n"),
        ):
            status, value = self.raw(text)
            with self.subTest(what):
                self.assertIn(status, (400, 411, 413, 431, 501, 505), value)
                self.assertIs(value["applied"], False)
        status, value = self.raw(put + b"X: " + b"h" * 20000 + b"\r\n\r\n")
        self.assertEqual(status, 431, value)

    def test_bodies_above_64_mib(self):
        size = (64 << 20) + 1
        head = f"PUT {POINTS} HTTP/1.1\r\nHost: x\r\n".encode()
        # Announced: refused before it is sent.
        self.refused("announced", self.raw(head + b"Content-Length: %d\r\n\r\n" % size), 413, "64 MiB")
        # In chunks, which announce nothing.
        s = self.open()
        s.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        piece = b"%x\r\n%s\r\n" % (1 << 20, b" " * (1 << 20))
        try:
            for _ in range(65):
                s.sendall(piece)
        except ConnectionError:
            pass  # It need not read what it has refused.
        status, value = self.read_answer(s)
        if status != 0:  # A reset may have overtaken the answer.
            self.refused("in chunks", (status, value), 413, "larger")

    def test_half_a_body(self):
        for _ in self.cluster.node_ids:
            s = self.open()
            body = vector("[1,2,3]").encode()
            s.sendall(f"PUT {POINTS} HTTP/1.1\r\nHost: x\r\nContent-Length: {2 * len(body)}\r\n\r\n".encode() + body)
            s.shutdown(socket.SHUT_WR)
            status, value = self.read_answer(s)
            self.assertIn(status, (0, 400), value)

    def test_one_byte_a_second(self):
        """Slow ones are cut off in bounded time, be it their head or their body that creeps."""
        body = vector("[1,2,3]").encode()
        whole = f"PUT {POINTS} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body + b" " * 100
        slow = {"head": (self.open(), whole), "body": (self.open(), whole.replace(b"%d" % len(body), b"10000", 1))}
        slow["body"][0].sendall(slow["body"][1][:-140])
        slow["body"] = (slow["body"][0], slow["body"][1][-140:])
        silent = self.open()
        answers, began = {}, time.monotonic()
        while len(answers) < len(slow) and time.monotonic() < began + 60:
            turn = int(time.monotonic() - began)
            for name, (s, text) in slow.items():
                if name not in answers:
                    try:
                        s.settimeout(1 / len(slow))
                        s.sendall(text[turn:turn + 1])
                        if s.recv(1, socket.MSG_PEEK) == b"":
                            answers[name] = (0, None)
                        else:
                            s.settimeout(5)
                            answers[name] = self.read_answer(s)
                    except TimeoutError:
                        pass
                    except ConnectionError:
                        answers[name] = (0, None)
        self.assertEqual(set(answers), set(slow), "still not cut off after 60 s")
        for status, value in answers.values():
            self.assertIn(status, (0, 408), value)
        silent.settimeout(60)
        self.assertIn(self.read_answer(silent)[0], (0, 408))


if __name__ == "__main__":
    unittest.main()
