"""A cable that delays and reorders: passes Ethernet frames between two tap devices, which it makes in two network namespaces.

    frame_relay.py FD NAME FD NAME

FD is the descriptor of a namespace, NAME that of the device to make there. Each line read, "DELAY SPREAD", holds for all frames
from then on, both ways, and is repeated on standard output when it counts: a frame takes DELAY milliseconds, and up to SPREAD
more by chance, so that those behind it may overtake it; with a SPREAD of 0 they stay in order. Ends with its input. The kernel
has no netem everywhere; taps also make the kernel cut large segments and fill in checksums before we see them.
"""
import ctypes
import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
CLONE_NEWNET = 0x40000000
FRAME_BYTES_MOST = 65536
_libc = ctypes.CDLL(None, use_errno=True)


def open_tap(namespace, name):
    if _libc.setns(namespace, CLONE_NEWNET) != 0:
        sys.exit(f"frame_relay: setns: {os.strerror(ctypes.get_errno())}")
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    return fd


def relay(taps):
    delay_s, spread_s, queues = 0.0, 0.0, {tap: [] for tap in taps}  # {to: heap of (when, number, frame)}
    numbers = itertools.count()
    print("ready", flush=True)
    while True:
        now = time.monotonic()
        for to, queue in queues.items():
            while queue and queue[0][0] <= now:
                send(to, heapq.heappop(queue)[2])
        nexts = [queue[0][0] for queue in queues.values() if queue]
        ready, _, _ = select.select([sys.stdin, *taps], [], [], max(0.0, min(nexts) - now) if nexts else None)
        for source in ready:
            if source is sys.stdin:
                line = sys.stdin.readline()
                if not line:
                    return
                delay_s, spread_s = (float(word) / 1000 for word in line.split())
                print(line, end="", flush=True)
            else:
                to = queues[taps[1 - taps.index(source)]]
                for frame in received(source):
                    when = time.monotonic() + delay_s + random.uniform(0, spread_s)
                    heapq.heappush(to, (when, next(numbers), frame))


def received(source):
    """What has arrived, but not so much that nothing else gets its turn."""
    try:
        for _ in range(64):
            yield os.read(source, FRAME_BYTES_MOST)
    except BlockingIOError:
        pass
    except OSError:  # The device is down: its namespace ends.
        pass


def send(to, frame):
    try:
        os.write(to, frame)
    except OSError:  # Full, or down: a lost frame.
        pass


if __name__ == "__main__":
    relay([open_tap(int(sys.argv[1]), sys.argv[2]), open_tap(int(sys.argv[3]), sys.argv[4])])
