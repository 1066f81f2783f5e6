"""When the writes of each shard were acknowledged, and how long they paused."""
import bisect
import time


class Timeline:
    """When each shard's writes were acknowledged, as the load generator notes it while it goes on."""

    def __init__(self, path):
        self.path, self.offset = path, 0
        self.at_us = {}  # {shard: sorted moments}

    def read(self):
        with open(self.path, encoding="utf-8") as file:
            file.seek(self.offset)
            text = file.read()
        whole = text.rfind("\n") + 1
        self.offset += len(text[:whole])
        for line in text[:whole].splitlines():
            at, shard, _ = line.split()
            self.at_us.setdefault(int(shard), []).append(int(at))
        for moments in self.at_us.values():
            moments.sort()
        return self

    def pause_ms(self, since_us, until_us):
        """{shard: longest gap, in ms, that touches this span}"""
        pauses = {}
        for shard, moments in self.at_us.items():
            first = max(0, bisect.bisect_left(moments, since_us) - 1)
            last = min(len(moments), bisect.bisect_right(moments, until_us) + 1)
            span = moments[first:last]
            pauses[shard] = max((b - a for a, b in zip(span, span[1:])), default=until_us - since_us) / 1000
        return pauses

    def all_wrote(self, shards, since_us):
        self.read()
        return all(self.at_us.get(shard, [0])[-1] > since_us for shard in range(shards))


def clock_us():
    return time.monotonic_ns() // 1000
