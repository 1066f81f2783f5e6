"""A small client of Outrigger's REST API, for the demo and the cluster tests. Standard library only.

    client = Client(["http://127.0.0.1:7700", "http://127.0.0.1:7710"])
    client.create_collection("c", 3)
    client.put("c", [{"id": "a", "vector": [1, 2, 3]}])

A client keeps one connection per thread. A request whose connection breaks, or that is answered 429 or 503, is sent
again, to the next endpoint, until its deadline; a write carries the same `Outrigger-Request-Id` each time, so it takes
effect once however often it arrives. Clients may be shared between threads.
"""
import http.client
import json
import secrets
import threading
import time
from typing import NamedTuple
from urllib.parse import quote, urlsplit

BACKOFF_FIRST_S, BACKOFF_MOST_S = 0.02, 0.5
RETRIED_STATUSES = (429, 503)


class Answer(NamedTuple):
    status: int
    json: object  # None when the answer has no body
    headers: object  # http.client.HTTPMessage: get() ignores case
    endpoint: str
    retries: int

    @property
    def positions(self):
        """[(shard, epoch, index)] of `Outrigger-Position`: where a write stands in the logs."""
        text = self.headers.get("Outrigger-Position", "")
        return [tuple(int(number) for number in part.split(":")) for part in text.split(",") if part.strip()]


class Refused(Exception):
    """The cluster answered, and the answer is an error."""

    def __init__(self, what, answer):
        error = answer.json.get("error") if isinstance(answer.json, dict) else None
        message = error.get("message", "") if isinstance(error, dict) else answer.json
        super().__init__(f"{what}: {answer.status} {message} (from {answer.endpoint})")
        self.answer = answer


class GaveUp(Exception):
    """No endpoint answered for good before the deadline. A write may or may not have taken effect."""


class Client:
    def __init__(self, endpoints, first=0, deadline_s=30.0, attempt_s=15.0):
        """first: the endpoint to prefer. attempt_s: silence after which a connection counts as broken; longer than
        the time that a sidecar may hold a request through a failover."""
        self.endpoints = [_endpoint(text) for text in endpoints]
        self.first = first % len(self.endpoints)
        self.deadline_s = deadline_s
        self.attempt_s = attempt_s
        self.retries_broken = 0
        self.retries_refused = 0
        self._lock = threading.Lock()
        self._local = threading.local()
        self._connections = set()
        self._stay = 0  # Threads that were driven away from `first` in an earlier stay go back to it.

    # --- requests ---------------------------------------------------------------------------------------------------

    def request(self, method, path, body=None, headers=None, deadline_s=None, request_id=None):
        """Sends until an endpoint gives an answer other than 429 and 503. body: bytes, or something to print as JSON.
        Returns the Answer, whatever its status. Raises GaveUp."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **(headers or {})} if body is not None else dict(headers or {})
        if request_id is not None:
            headers["Outrigger-Request-Id"] = request_id
        give_up_at = time.monotonic() + (self.deadline_s if deadline_s is None else deadline_s)
        failed_in_a_row, retries = 0, 0
        while True:
            endpoint = self.endpoints[self._endpoint_index()]
            try:
                status, answer_headers, content = self._attempt(endpoint, method, path, body, headers, give_up_at)
                answer = _answer(status, answer_headers, content, endpoint, retries)
                if status not in RETRIED_STATUSES:
                    return answer
                problem = str(Refused(f"{method} {path}", answer))
                broken = False
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._drop(endpoint)
                problem = f"{method} {path} at {_url(endpoint)}: {error or type(error).__name__}"
                broken = True
            self._local.endpoint = (self._stay, self._endpoint_index() + 1)
            failed_in_a_row += 1
            # The others are tried at once; only when every one has failed is it time to wait.
            rounds = failed_in_a_row // len(self.endpoints)
            wait_s = 0
            if failed_in_a_row % len(self.endpoints) == 0:
                wait_s = min(BACKOFF_FIRST_S * 2 ** (rounds - 1), BACKOFF_MOST_S)
            if time.monotonic() + wait_s >= give_up_at:
                raise GaveUp(f"{problem}; gave up after {retries} retries")
            time.sleep(wait_s)
            retries += 1
            with self._lock:
                if broken:
                    self.retries_broken += 1
                else:
                    self.retries_refused += 1

    def write(self, method, path, body=None, deadline_s=None, request_id=None):
        """A request with a request id of its own, the same in each attempt."""
        return self.request(method, path, body, deadline_s=deadline_s, request_id=request_id or secrets.token_hex(16))

    @property
    def retries(self):
        return self.retries_broken + self.retries_refused

    # --- calls: what they return on success; they raise Refused on any other answer ---------------------------------

    def create_collection(self, name, dimension, metric="Cosine"):
        answer = self.write("POST", "/collections", {"name": name, "dimension": dimension, "metric": metric})
        if answer.status == 409 and answer.retries > 0:
            return answer  # Our own first attempt made it; its answer was lost.
        return _expect(answer, (201,), f"create collection {name}")

    def collection(self, name):
        """Its description with counts, or None."""
        answer = self.request("GET", _path(name))
        return None if answer.status == 404 else _expect(answer, (200,), f"collection {name}").json

    def put(self, collection, points, deadline_s=None):
        return self.put_bytes(collection, json.dumps({"points": points}).encode(), deadline_s)

    def put_bytes(self, collection, body, deadline_s=None):
        """body: the whole JSON text `{"points":[...]}`, for those who have it already."""
        answer = self.write("PUT", _path(collection) + "/points", body, deadline_s)
        return _expect(answer, (200,), f"put points into {collection}")

    def get(self, collection, point_id, consistency="linearizable"):
        """The point, or None."""
        answer = self.request("GET", f"{_path(collection)}/points/{quote(point_id, safe='')}?consistency={consistency}")
        return None if answer.status == 404 else _expect(answer, (200,), f"get {point_id} of {collection}").json

    def delete(self, collection, point_id, deadline_s=None):
        path = f"{_path(collection)}/points/{quote(point_id, safe='')}"
        return _expect(self.write("DELETE", path, deadline_s=deadline_s), (200,), f"delete {point_id} of {collection}")

    def delete_many(self, collection, point_ids, deadline_s=None):
        answer = self.write("POST", _path(collection) + "/points/delete", {"ids": list(point_ids)}, deadline_s)
        return _expect(answer, (200,), f"delete {len(point_ids)} points of {collection}")

    def delete_collection(self, name):
        answer = self.write("DELETE", _path(name))
        if answer.status == 404 and answer.retries > 0:
            return answer  # Our own first attempt deleted it; its answer was lost.
        return _expect(answer, (204,), f"delete collection {name}")

    def search(self, collection, vector, k=10, consistency="linearizable", **more):
        """The list of hits, best first."""
        path = f"{_path(collection)}/points/search?consistency={consistency}"
        answer = self.request("POST", path, {"vector": vector, "k": k, **more})
        return _expect(answer, (200,), f"search {collection}").json["results"]

    def return_to_first(self):
        """Each thread's next request goes to the endpoint to prefer again: it is back."""
        self._stay += 1

    def close(self):
        """Closes the connections of all threads; no request may be under way."""
        with self._lock:
            connections, self._connections = self._connections, set()
        for connection in connections:
            connection.close()
        self._local = threading.local()

    # --- connections ------------------------------------------------------------------------------------------------

    def _endpoint_index(self):
        stay, index = getattr(self._local, "endpoint", (self._stay, self.first))
        return (index if stay == self._stay else self.first) % len(self.endpoints)

    def _attempt(self, endpoint, method, path, body, headers, give_up_at):
        timeout_s = max(0.001, min(self.attempt_s, give_up_at - time.monotonic()))
        connection = self._connection(endpoint)
        connection.timeout = timeout_s
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s)
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()

    def _connection(self, endpoint):
        kept = self._local.__dict__.setdefault("connections", {})
        if endpoint not in kept:
            kept[endpoint] = http.client.HTTPConnection(*endpoint)
            with self._lock:
                self._connections.add(kept[endpoint])
        return kept[endpoint]

    def _drop(self, endpoint):
        connection = self._local.__dict__.get("connections", {}).pop(endpoint, None)
        if connection is not None:
            connection.close()
            with self._lock:
                self._connections.discard(connection)


def _answer(status, headers, content, endpoint, retries):
    value = None
    if content:
        is_json = headers.get_content_type() == "application/json"
        value = json.loads(content) if is_json else content.decode("utf-8", "replace")
    return Answer(status, value, headers, _url(endpoint), retries)


def _expect(answer, statuses, what):
    if answer.status not in statuses:
        raise Refused(what, answer)
    return answer


def _path(collection):
    return "/collections/" + quote(collection, safe="")


def _endpoint(text):
    """(host, port) of "http://host:port" or "host:port"."""
    parts = urlsplit(text if "://" in text else "http://" + text)
    return parts.hostname, parts.port


def _url(endpoint):
    return f"http://{endpoint[0]}:{endpoint[1]}"


# --- outrigger dev --------------------------------------------------------------------------------------------------


class DevNode(NamedTuple):
    id: str
    pid: int
    engine_pid: int
    client: str  # URL
    start: list
    engine_start: list


class Dev(NamedTuple):
    """What `outrigger dev` writes into dev.json (DESIGN 6.5)."""

    nodes: list
    coordinator_pids: list

    @property
    def endpoints(self):
        return [node.client for node in self.nodes]

    @property
    def pids(self):
        return self.coordinator_pids + [pid for node in self.nodes for pid in (node.pid, node.engine_pid)]

    def node(self, node_id):
        return next(node for node in self.nodes if node.id == node_id)


def read_dev(path):
    """Reads a dev.json; None when it is not there yet."""
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except (FileNotFoundError, ValueError):
        return None
    nodes = [DevNode(n["id"], n["pid"], n["engine_pid"], _url(_endpoint(n["client"])), n["start"], n["engine_start"])
             for n in value["nodes"]]
    return Dev(nodes, [c["pid"] for c in value["coordinator"]])


# --- waiting --------------------------------------------------------------------------------------------------------


def wait_until(condition, deadline_s, what, interval_s=0.05):
    """Polls until condition() is true and returns what it returned. Raises TimeoutError that says what was awaited."""
    give_up_at = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= give_up_at:
            raise TimeoutError(f"waited {deadline_s:g} s for {what}")
        time.sleep(interval_s)
