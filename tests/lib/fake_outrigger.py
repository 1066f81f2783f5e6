"""A fake Outrigger, to test its client and the demo without it: one store in one process, and nothing that replicates.

In a test's own process: `Fake(endpoints=3)` serves one store on three ports; `fake.faults` lists what the next requests
suffer. As a program it stands in for `build/outrigger`: `fake_outrigger.py dev ...` starts processes that play
coordinator, engines and sidecars and can be killed for real (a killed sidecar's shards pause, then get another
primary), and `fake_outrigger.py cluster status` shows them. FAKE_FAULT=lose|wrong|fail spoils it.
"""
import argparse
import ctypes
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

FAILOVER_S, REJOIN_S = 0.3, 0.4


class Store:
    """Collections in memory, with request ids, shards and positions like the real ones."""

    def __init__(self, shards=4, nodes=("node-1",), fault=""):
        self.lock = threading.Condition()
        self.collections = {}
        self.done = {}  # {request id: (status, body, headers), or None while it is under way}
        self.fault = fault
        self.live = set(nodes)
        self.nodes = list(nodes)
        self.shards = [{"id": i, "range": [i, i], "epoch": 1, "primary": nodes[i % len(nodes)], "in_sync": list(nodes),
                        "replicas": list(nodes), "index": 0} for i in range(shards)]
        self.seen = []  # (method, path, request id) of every request

    def shard_of(self, point_id):
        return self.shards[zlib.crc32(point_id.encode()) % len(self.shards)]

    def node_up(self, node):
        with self.lock:
            self.live.add(node)
        time.sleep(REJOIN_S)
        with self.lock:
            for shard in self.shards:
                if node in self.live and node not in shard["in_sync"]:
                    shard["in_sync"].append(node)

    def node_down(self, node):
        with self.lock:
            self.live.discard(node)
        time.sleep(FAILOVER_S)
        with self.lock:
            for shard in self.shards:
                shard["in_sync"] = [n for n in shard["in_sync"] if n != node]
                if shard["primary"] == node and shard["in_sync"]:
                    shard["primary"] = shard["in_sync"][0]
                    shard["epoch"] += 1
            self.lock.notify_all()

    def handle(self, method, path, body, request_id):
        """(status, value, headers)"""
        parts = [unquote(part) for part in urlsplit(path).path.strip("/").split("/")]
        with self.lock:
            self.seen.append((method, path, request_id))
            if request_id is None:
                return self._call(method, parts, body)
            if request_id in self.done:
                self.lock.wait_for(lambda: self.done[request_id] is not None)
                return self.done[request_id]
            self.done[request_id] = None  # Under way.
            self.done[request_id] = self._call(method, parts, body)
            self.lock.notify_all()
            return self.done[request_id]

    def _call(self, method, parts, body):
        if parts == ["readyz"]:
            return 200, {"ready": True}, {}
        if parts == ["fake", "status"]:
            nodes = [{"id": n, "state": "active", "live": n in self.live, "client": "", "peer": "", "shards": 0}
                     for n in self.nodes]
            return 200, {"cluster": "fake", "shards": self.shards, "nodes": nodes}, {}
        if parts[0] != "collections":
            return _error(404, "no such path")
        if len(parts) == 1:
            if body["name"] in self.collections:
                return _error(409, "exists")
            self.collections[body["name"]] = {}
            return 201, body, {}
        points = self.collections.get(parts[1])
        if points is None:
            return _error(404, "unknown collection")
        if method == "PUT":
            return self._put(parts[1], points, body["points"])
        if method == "DELETE" and len(parts) == 4:
            self._wait_writable(parts[3])
            existed = points.pop(parts[3], None) is not None
            return 200, {"deleted": int(existed)}, self._position([parts[3]])
        if parts[2:] == ["points", "search"]:
            return 200, {"results": self._search(points, body)}, {}
        if method == "GET" and len(parts) == 4:
            point = points.get(parts[3])
            return (200, point, {}) if point else _error(404, "no such point")
        return 200, {"name": parts[1], "count": len(points)}, {}

    def _wait_writable(self, point_id):
        self.lock.wait_for(lambda: self.shard_of(point_id)["primary"] in self.live, timeout=10)

    def _put(self, name, points, new):
        for point in new:
            self._wait_writable(point["id"])
            if not all(math.isfinite(x) for x in point["vector"]):
                return _error(400, "not finite")
        if self.fault == "fail" and any(point["id"].endswith("7") for point in new) and name == "writes":
            return _error(400, "refused for the sake of the test")
        for point in new:
            if not (self.fault == "lose" and name == "writes" and point["id"].endswith("7")):
                points[point["id"]] = point
        return 200, {"ids": [point["id"] for point in new]}, self._position([point["id"] for point in new])

    def _position(self, ids):
        shards = {shard["id"]: shard for shard in map(self.shard_of, ids)}
        for shard in shards.values():
            shard["index"] += 1
        return {"Outrigger-Position": ",".join(f"{s['id']}:{s['epoch']}:{s['index']}" for s in shards.values())}

    def _search(self, points, body):
        query = body["vector"]
        hits = sorted((_distance(query, point["vector"]), point["id"]) for point in points.values())[: body["k"]]
        if self.fault == "wrong" and len(hits) > 1:
            hits = hits[1:]
        return [{"id": i, "score": score, "metadata": points[i].get("metadata")} for score, i in hits]


def _distance(a, b):
    return 1 - math.fsum(x * y for x, y in zip(a, b)) / (math.hypot(*a) * math.hypot(*b))


def _error(status, message):
    return status, {"error": {"code": "fake", "message": message}, "applied": False}, {}


def _handler(store, faults):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _serve(self):
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            if len(body) != length:  # Who sent it died in the middle.
                return self._break()
            if self.path.startswith("/fake/session/"):
                return self._session(self.path.rsplit("/", 1)[1])
            fault = faults.pop(0) if faults else None
            if fault == "break before":
                return self._break()
            if fault == "503":
                return self._answer(*_error(503, "try again"))
            answer = store.handle(self.command, self.path, json.loads(body) if body else None,
                                  self.headers.get("Outrigger-Request-Id"))
            if fault == "break after":
                return self._break()
            if fault == "half":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{")
                return self._break()
            self._answer(*answer)

        do_GET = do_PUT = do_POST = do_DELETE = _serve

        def _session(self, node):
            """Lasts as long as the node's process."""
            threading.Thread(target=store.node_up, args=(node,), daemon=True).start()
            self.rfile.read(1)
            store.node_down(node)
            self.close_connection = True

        def _break(self):
            self.close_connection = True
            try:
                self.connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

        def _answer(self, status, value, headers):
            content = json.dumps(value).encode()
            self.send_response(status)
            for name, text in {**headers, "Content-Type": "application/json"}.items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *args):
        self.connections = set()
        super().__init__(*args)

    def get_request(self):
        connection, address = super().get_request()
        self.connections.add(connection)
        return connection, address

    def shutdown_request(self, request):
        self.connections.discard(request)
        super().shutdown_request(request)

    def cut(self):
        """Breaks all connections."""
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def handle_error(self, request, client_address):
        pass  # Clients of a test go away whenever they like.


class Fake:
    """One store on several ports, in threads of this process."""

    def __init__(self, endpoints=2, shards=4, fault=""):
        self.store = Store(shards, fault=fault)
        self.faults = []
        self.servers = [_Server(("127.0.0.1", 0), _handler(self.store, self.faults)) for _ in range(endpoints)]
        for server in self.servers:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        self.endpoints = [f"http://127.0.0.1:{server.server_port}" for server in self.servers]

    def stop(self, index):
        """As if the process behind that port had died."""
        self.servers[index].shutdown()
        self.servers[index].server_close()
        self.servers[index].cut()

    def close(self):
        for index in range(len(self.servers)):
            self.stop(index)


# --- as a program -----------------------------------------------------------------------------------------------------


def _die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _dev(args):
    node_ids = [f"node-{i + 1}" for i in range(args.nodes)]
    store = Store(args.shards, node_ids, os.environ.get("FAKE_FAULT", ""))
    server = _Server(("127.0.0.1", 0), _handler(store, []))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    me = [sys.executable, os.path.abspath(__file__)]
    children, nodes = [], []

    def start(argv):
        children.append(subprocess.Popen(argv, preexec_fn=_die_with_parent))
        return children[-1].pid

    for i, node_id in enumerate(node_ids):
        port = args.port + 10 * i
        engine_start = me + ["engine"]
        node_start = me + ["node", "--node", node_id, "--listen", str(port), "--store", str(server.server_port)]
        nodes.append({"id": node_id, "engine_pid": start(engine_start), "pid": start(node_start),
                      "client": f"127.0.0.1:{port}", "peer": "", "start": node_start, "engine_start": engine_start})
    for node in nodes:
        _await_port(node["client"])
    os.makedirs(args.dir, exist_ok=True)
    coordinator = [{"pid": start(me + ["engine"]), "url": "", "start": me + ["engine"]}]
    with open(os.path.join(args.dir, "dev.json.new"), "w") as file:
        json.dump({"backend": "fake", "coordinator": coordinator, "nodes": nodes}, file)
    os.rename(os.path.join(args.dir, "dev.json.new"), os.path.join(args.dir, "dev.json"))
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    for child in children:
        child.kill()
        child.wait()


def _await_port(address):
    host, port = address.split(":")
    for _ in range(500):
        try:
            return socket.create_connection((host, int(port)), 1).close()
        except OSError:
            time.sleep(0.02)
    sys.exit(f"nothing listens on {address}")


def _node(args):
    """Relays bytes between its port and the store."""
    session = socket.create_connection(("127.0.0.1", args.store))
    session.sendall(f"GET /fake/session/{args.node} HTTP/1.1\r\n\r\n".encode())
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", args.listen))
    listener.listen(64)
    while True:
        client, _ = listener.accept()
        store = socket.create_connection(("127.0.0.1", args.store))
        for a, b in ((client, store), (store, client)):
            a.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_relay, args=(a, b), daemon=True).start()


def _relay(source, target):
    try:
        while True:
            data = source.recv(65536)
            if not data:
                break
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def _status(args):
    with urlopen(args.sidecar + "/fake/status", timeout=5) as answer:
        value = json.load(answer)
    if args.json:
        print(json.dumps(value))
    else:
        for shard in value["shards"]:
            print("shard", shard["id"], "primary", shard["primary"], "in sync", " ".join(shard["in_sync"]))


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    dev = commands.add_parser("dev")
    for name, default in (("--nodes", 3), ("--shards", 4), ("--port", 7700)):
        dev.add_argument(name, type=int, default=default)
    dev.add_argument("--dir", required=True)
    node = commands.add_parser("node")
    node.add_argument("--node")
    node.add_argument("--listen", type=int)
    node.add_argument("--store", type=int)
    commands.add_parser("engine")
    cluster = commands.add_parser("cluster")
    cluster.add_argument("what", choices=["status"])
    cluster.add_argument("--json", action="store_true")
    cluster.add_argument("--sidecar")
    args = parser.parse_args()
    if args.command == "dev":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        _dev(args)
    elif args.command == "node":
        _node(args)
    elif args.command == "engine":
        signal.pause()
    else:
        _status(args)


if __name__ == "__main__":
    main()
