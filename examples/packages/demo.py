"""The whole of Outrigger on real input: `make demo` builds everything and runs this.

A cluster of three nodes gets all packages of this machine's Debian index, is asked questions in words, loses a node
in the middle of writing, gets it back, and must have lost nothing. Everything shown is checked as well. The last line
is `demo: acknowledged=N lost=N failed=N pause_ms=N`; the exit code is 1 when anything was lost, failed or wrong.
"""
import argparse
import json
import os
import queue
import shlex
import signal
import sys
import threading
import time
import traceback

import checking
import embed
import packages
import writers
from cluster import Cluster, ClusterFailed, is_ready
from console import Progress, say, show, step
from outrigger_client import wait_until
from questions import QUESTIONS

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
COLLECTION = "packages"
BATCH = 100
CATCH_UP_S = 120
WRONG_SHOWN = 20


class Demo:
    def __init__(self, args):
        self.args = args
        self.cluster = None
        self.clients = []
        self.packages = []
        self.points_path = None
        self.oracle = None
        self.questions = []  # (Query, expected packages)
        self.writers = []
        self.asker = None
        self.lock = threading.Lock()  # Of the next two, for the threads that load.
        self.loaded = self.failed_loads = 0
        self.index_at_kill = {}  # {shard: index of its log}
        self.killed_at = self.restarted_at = 0.0  # monotonic seconds
        self.lost = []
        self.wrong = []  # Everything that went wrong, in words.
        self.pause_s = 0.0

    # --- the story --------------------------------------------------------------------------------------------------

    def run(self):
        self.read_and_embed()
        self.start_cluster()
        self.load()
        step(5, "Ask questions in words, and compare with brute force")
        say(f"Each question becomes a vector like the packages did, and the cluster is asked for the {checking.K} "
            "nearest. Ids and scores must be those of a brute-force search over the input, and one of the packages "
            "that we expect must be among them.")
        self.ask_all(table=True)
        victim = self.lose_a_node()
        self.bring_back(victim)
        self.stop_writing()
        self.look_afterwards(victim)
        self.read_back()

    def read_and_embed(self):
        step(1, "Read the packages of this machine's Debian index")
        self.packages = packages.read(self.args.dumpavail)
        say(f"{len(self.packages):,} packages carry Debtags. Each becomes a point: its name is the id, description and "
            "tags are metadata.")
        step(2, f"Turn their words into vectors of {embed.DIMENSION} dimensions (latent semantic analysis)")
        began_at = time.monotonic()
        model, self.points_path, cached = embed.load_or_fit(self.packages, self.args.dir)
        say(f"{'Taken from the cache' if cached else 'Computed and written'} in {time.monotonic() - began_at:.1f} s: "
            f"{os.path.relpath(self.points_path)}")
        self.oracle = checking.Oracle([package.name for package in self.packages], model.vectors)
        for text, expected in read_questions(self.args.questions):
            vector = model.embed(text)
            if vector is None:
                self.wrong.append(f"question \"{text}\": no package knows any word of it")
            else:
                self.questions.append((checking.Query(text, vector, self.oracle), expected))

    def start_cluster(self):
        args = self.args
        step(3, f"Start a cluster on this machine: outrigger dev --nodes {args.nodes} --shards {args.shards}")
        program = shlex.split(args.outrigger)
        self.cluster = Cluster(program, os.path.join(args.dir, "cluster"), args.nodes, args.shards, args.port)
        began_at = time.monotonic()
        self.cluster.start()
        self.clients = self.cluster.clients()
        say(f"A coordinator, {args.nodes} engines and {args.nodes} sidecars are up after "
            f"{time.monotonic() - began_at:.1f} s. The engines know nothing of each other; the sidecars make one store "
            "of them:")
        show("\n".join(f"{node.id}: sidecar {node.client} (pid {node.pid}), engine (pid {node.engine_pid})"
                       for node in self.cluster.dev.nodes))

    def load(self):
        step(4, "Load all packages, through all sidecars at once")
        self.clients[0].create_collection(COLLECTION, embed.DIMENSION)
        self.clients[0].create_collection(writers.COLLECTION, writers.DIMENSION)
        batches = queue.SimpleQueue()
        with open(self.points_path, "rb") as file:
            lines = [line.rstrip(b"\n") for line in file]
        for start in range(0, len(lines), BATCH):
            batches.put(start)
        progress = Progress("loaded", len(lines), "points")
        threads = [threading.Thread(target=self._loader, args=(client, batches, lines, progress), daemon=True)
                   for client in self.clients * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.loaded != len(lines):
            raise ClusterFailed(f"only {self.loaded:,} of {len(lines):,} points were loaded")
        say("Every point is on the disks of all in-sync replicas of its shard: that is what an acknowledgement means.")

    def _loader(self, client, batches, lines, progress):
        while True:
            try:
                start = batches.get_nowait()
            except queue.Empty:
                return
            names = [package.name for package in self.packages[start:start + BATCH]]
            try:
                body = b'{"points":[' + b",".join(lines[start:start + BATCH]) + b"]}"
                answer = client.put_bytes(COLLECTION, body, deadline_s=60)
                if answer.json["ids"] != names:
                    raise ValueError(f"batch {start}: the answer names other ids than were sent")
            except Exception as error:  # Whatever it was, the batch counts as failed.
                with self.lock:
                    self.failed_loads += len(names)
                    self.wrong.append(f"load: {error}")
                return
            with self.lock:
                self.loaded += len(names)
            progress.advance(len(names))

    def ask_all(self, table=False):
        """Asks every question through every sidecar in turn."""
        right = 0
        for turn, (query, expected) in enumerate(self.questions):
            hits, problems = checking.ask(self.clients[turn % len(self.clients)], COLLECTION, query, self.oracle)
            ids = [hit["id"] for hit in hits]
            expected_here = [name for name in ids if name in expected]
            if not expected_here:
                problems.append(f"question \"{query.title}\": none of the expected {', '.join(expected)} among {ids}")
            self.wrong += problems
            right += not problems
            if table:
                show_answers(query.title, hits, expected_here)
        say(f"{right} of {len(self.questions)} questions answered as brute force answers them, "
            "an expected package among the first ten.")

    def lose_a_node(self):
        step(6, "Kill a node while writers go on")
        self.writers = writers.start(self.clients, self.args.writers_per_sidecar)
        self.asker = checking.Asker(self.clients, COLLECTION, [query for query, _ in self.questions], self.oracle)
        self.asker.start()
        say(f"{len(self.writers)} writers, spread over all sidecars, put, overwrite and delete points of a second "
            "collection; each keeps a ledger of what was acknowledged. The questions are asked again and again "
            "meanwhile.")
        began_at = time.monotonic()
        time.sleep(self.args.before)
        before = self.cluster.status()
        victim = max(before.nodes, key=lambda node_id: len(before.led_by(node_id)))
        led = before.led_by(victim)
        self.index_at_kill = {shard_id: shard["index"] for shard_id, shard in before.shards.items()}
        written = writers.count(self.writers)
        self.killed_at = self.cluster.kill(victim)
        say(f"Killed with SIGKILL: sidecar and engine of {victim}, primary of {_shards(led)}. Until then {written:,} "
            f"writes in {self.killed_at - began_at:.1f} s, {_latencies(self.writers, began_at, self.killed_at)}.")

        def taken_over():
            now = self.cluster.status(without=victim)
            return now if not now.led_by(victim) and all(map(now.primary, led)) else None

        after = wait_until(taken_over, 60, f"another primary for {_shards(led)}", 0.1)
        for shard_id in led:
            say(f"shard {shard_id}: {after.primary(shard_id)} leads now, epoch {before.shards[shard_id]['epoch']} -> "
                f"{after.shards[shard_id]['epoch']}")
        time.sleep(self.args.down)
        return victim

    def bring_back(self, victim):
        step(7, f"Start {victim} again")
        now = self.cluster.status(without=victim)
        self.restarted_at = time.monotonic()
        self.cluster.restart(victim)
        missing = [shard_id for shard_id in now.replicated_on(victim)]
        say("Its log is its own memory: it needs only the entries that were written while it was away.")
        while missing:
            if time.monotonic() > self.restarted_at + CATCH_UP_S:
                raise ClusterFailed(f"{victim} is still not in sync with {_shards(missing)} after {CATCH_UP_S} s")
            now = self.cluster.status(without=victim)
            for shard_id in [shard_id for shard_id in missing if victim in now.in_sync(shard_id)]:
                missing.remove(shard_id)
                index = now.shards[shard_id]["index"]
                missed = index - self.index_at_kill[shard_id]
                say(f"shard {shard_id}: in sync again after {time.monotonic() - self.restarted_at:.1f} s; of "
                    f"{index:,} entries it lacked about {missed:,}")
            time.sleep(0.1)
        url = self.cluster.dev.node(victim).client
        wait_until(lambda: is_ready(url), CATCH_UP_S, f"{victim} to be ready")
        for client in self.clients:
            client.return_to_first()
        time.sleep(self.args.after)

    def stop_writing(self):
        writers.stop(self.writers)
        self.asker.stop()
        ended_at = time.monotonic()
        shards = list(self.index_at_kill)
        self.pause_s = writers.longest_gap_s(self.writers, shards, self.killed_at, self.restarted_at)
        later_s = writers.longest_gap_s(self.writers, shards, self.restarted_at, ended_at)
        written_to = {write.shard for writer in self.writers for write in writer.acknowledged}
        self.wrong += [f"nobody wrote to shard {shard_id}" for shard_id in shards if shard_id not in written_to]
        say(f"The longest that writing to any shard paused around the kill: {self.pause_s * 1e3:.0f} ms; while the "
            f"node came back: {later_s * 1e3:.0f} ms. Writes since the kill: "
            f"{_latencies(self.writers, self.killed_at, ended_at)}.")
        broken = sum(client.retries_broken for client in self.clients)
        refused = sum(client.retries_refused for client in self.clients)
        say(f"Retries, each at the next sidecar with the same request id: {broken} after a broken connection, "
            f"{refused} after a 503 or 429. Writes that failed all the same: {self.failed()}.")
        during = self.asker.compared(self.killed_at, self.restarted_at)
        if during == 0:
            self.wrong.append("no question was answered while the node was away")
        say(f"Questions answered and compared with brute force: {len(self.asker.asked_at)}, {during} of them without "
            f"the node; wrong: {len(self.asker.wrong)}; the slowest took {self.asker.slowest_s * 1e3:.0f} ms.")

    def look_afterwards(self, victim):
        step(8, "The cluster's status, and the questions once more")
        show(self.cluster.status_table())
        self.ask_all()
        client = self.clients[[node.id for node in self.cluster.dev.nodes].index(victim)]
        problems = []
        for query, _ in self.questions:
            problems += checking.ask(client, COLLECTION, query, self.oracle, "bounded")[1]
        self.wrong += problems
        say(f"Asked of {victim} itself, which may answer from its own engine (consistency=bounded): "
            f"{'as brute force' if not problems else 'WRONG'}.")

    def read_back(self):
        step(9, "Read back every acknowledged write")
        written = {}
        for writer in self.writers:
            written.update({i: point for i, point in writer.ledger.items() if i not in writer.uncertain})
        self.lost = writers.read_back(written, written.get, self.clients, writers.COLLECTION)
        say(f"{writers.count(self.writers):,} writes of the writers, to {len(written):,} ids: {len(self.lost)} lost. "
            "What was deleted must have stayed away.")
        with open(self.points_path, "rb") as file:
            lines = dict(zip(self.oracle.names, file))
        lost = writers.read_back(lines, lambda name: json.loads(lines[name]), self.clients, COLLECTION,
                                 Progress("read", len(lines), "points"))
        say(f"{len(lines):,} packages: {len(lost)} lost.")
        self.lost += lost

    # --- the result -------------------------------------------------------------------------------------------------

    def acknowledged(self):
        return self.loaded + writers.count(self.writers)

    def failed(self):
        return self.failed_loads + sum(writer.failed for writer in self.writers)

    def stop(self):
        for writer in self.writers:
            writer.stop()
            self.wrong += writer.wrong
        if self.asker is not None:
            self.asker.ask_no_more()
            self.wrong += self.asker.wrong
        if self.cluster is not None:
            step(10, "Stop everything")
            self.wrong += self.cluster.stop()

    def finish(self):
        """Prints what went wrong and the last line; returns the exit code."""
        for kind, wrong in (("LOST", self.lost), ("WRONG", self.wrong)):
            for text in wrong[:WRONG_SHOWN]:
                show(f"{kind}: {text}")
            if len(wrong) > WRONG_SHOWN:
                show(f"{kind}: ... and {len(wrong) - WRONG_SHOWN} more")
        print(f"\ndemo: acknowledged={self.acknowledged()} lost={len(self.lost)} failed={self.failed()} "
              f"pause_ms={round(self.pause_s * 1e3)}", flush=True)
        return 1 if self.lost or self.wrong or self.failed() else 0


def read_questions(path):
    """[(question, expected packages)], ours or those of a JSON file."""
    if path is None:
        return QUESTIONS
    with open(path, encoding="utf-8") as file:
        return [tuple(pair) for pair in json.load(file)]


def show_answers(title, hits, expected_here):
    show(f"\n{title}")
    for place, hit in enumerate(hits, 1):
        if place <= 3 or hit["id"] == (expected_here or [None])[0]:
            description = (hit.get("metadata") or {}).get("description", "")
            show(f"  {place:2d}. {hit['score']:.3f}  {hit['id'][:28]:<28}  {description[:50]}")


def _shards(shard_ids):
    return ("shard " if len(shard_ids) == 1 else "shards ") + ", ".join(map(str, shard_ids))


def _latencies(all_writers, since, until):
    return "p50 %.1f ms, p99 %.1f ms, longest %.0f ms" % writers.latencies_ms(all_writers, since, until)


def parse_arguments():
    parser = argparse.ArgumentParser(description="Shows and checks Outrigger on this machine's Debian packages.")
    parser.add_argument("--outrigger", default=os.path.join(ROOT, "build", "outrigger"),
                        help="command that runs outrigger")
    parser.add_argument("--dir", default=os.path.join(ROOT, "build", "demo"), help="where cache, data and logs go")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--port", type=int, default=7700,
                        help="client port of the first node; 100 more when it is taken, and so on")
    parser.add_argument("--writers-per-sidecar", type=int, default=2)
    parser.add_argument("--before", type=float, default=4, help="seconds of writing before the kill")
    parser.add_argument("--down", type=float, default=6, help="seconds without the node after others took over")
    parser.add_argument("--after", type=float, default=2, help="seconds of writing after it has caught up")
    parser.add_argument("--dumpavail", help="read packages from this file instead of `apt-cache dumpavail`")
    parser.add_argument("--questions", help="JSON file [[question, [packages expected]], ...] instead of ours")
    return parser.parse_args()


def main():
    demo = Demo(parse_arguments())
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    interrupted = False
    try:
        demo.run()
    except KeyboardInterrupt:
        interrupted = True
    except (packages.NoPackages, ClusterFailed, TimeoutError) as error:
        demo.wrong.append(str(error))
    except Exception as error:  # A bug, or an answer nobody thought of: say so, stop everything, fail.
        traceback.print_exc()
        demo.wrong.append(f"{type(error).__name__}: {error}")
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        demo.stop()
    if interrupted:
        print("demo: interrupted", file=sys.stderr)
        return 130
    return demo.finish()


if __name__ == "__main__":
    sys.exit(main())
