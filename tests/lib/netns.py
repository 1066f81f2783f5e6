"""A network of its own for a test: places, each a network namespace, on one bridge. Needs root.

    net = Net()
    a, b = net.place("a"), net.place("b")      # a.address, b.address
    subprocess.Popen(..., preexec_fn=a.enter)  # runs there
    with a.inside(): socket.create_connection(...)
    net.cut([a], [b]); net.mend()

Nothing has a name outside the process: a namespace lives as long as somebody is in it or holds its descriptor, so all of it
is gone with the test and its processes, however they ended. All addresses are in 10.77.0.0/24; networks of several tests do not
meet. Faults are rules of iptables in the INPUT chain of the place that is not to receive.

A place made with relayed=True has a relay (frame_relay.py) in its cable that delays and reorders frames. As a program,
`netns.py` says whether all this is possible here: exit code 0, or 77 and why not.
"""
import contextlib
import ctypes
import os
import subprocess
import sys
import threading

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
RELAY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "frame_relay.py")
_libc = ctypes.CDLL(None, use_errno=True)


class NotPossible(Exception):
    """No namespaces here; the words say why."""


def _check(result, what):
    if result != 0:
        number = ctypes.get_errno()
        raise NotPossible(f"{what}: {os.strerror(number)}")


def enter(fd):
    """The calling thread, and what it starts from now on, is in that namespace."""
    _check(_libc.setns(fd, CLONE_NEWNET), "setns")


def private_mounts():
    """What the calling thread and its children mount from now on is theirs alone, and gone with them."""
    _check(_libc.unshare(CLONE_NEWNS), "unshare(CLONE_NEWNS)")
    _check(_libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount --make-rprivate /")


def _new_namespace():
    """The descriptor of a new namespace; made in a thread that ends in it, so that we stay where we are."""
    found = []

    def make():
        try:
            _check(_libc.unshare(CLONE_NEWNET), "unshare(CLONE_NEWNET)")
            found.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        except (NotPossible, OSError) as error:
            found.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


class Place:
    """One namespace with one address."""

    def __init__(self, name, address):
        self.name, self.address = name, address
        self.fd = _new_namespace()
        self.run("ip", "link", "set", "lo", "up")

    def __repr__(self):
        return self.name

    def enter(self):
        enter(self.fd)

    @contextlib.contextmanager
    def inside(self):
        """For the calling thread; threads started meanwhile stay inside."""
        back = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.enter()
        try:
            yield
        finally:
            enter(back)
            os.close(back)

    def run(self, *command):
        try:
            done = subprocess.run(command, preexec_fn=self.enter, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  timeout=30)
        except (OSError, subprocess.SubprocessError) as error:
            raise NotPossible(f"{' '.join(command)}: {error}") from None
        if done.returncode != 0:
            raise NotPossible(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def path(self):
        return f"/proc/{os.getpid()}/fd/{self.fd}"


class Net:
    def __init__(self):
        if os.geteuid() != 0:
            raise NotPossible("network namespaces need root")
        self.places = {}
        self._relays = {}  # {name: Popen}
        self._switch = Place("switch", None)
        self._switch.run("ip", "link", "add", "bridge", "type", "bridge")
        self._switch.run("ip", "link", "set", "bridge", "up")

    def place(self, name, relayed=False):
        number = len(self.places) + 1
        place = Place(name, f"10.77.0.{number}")
        cable = f"cable{number}"
        if relayed:
            self._relays[name] = self._start_relay(place, cable)
        else:
            self._switch.run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", place.path())
        place.run("ip", "address", "add", f"{place.address}/24", "dev", "eth0")
        place.run("ip", "link", "set", "eth0", "up")
        self._switch.run("ip", "link", "set", cable, "master", "bridge", "up")
        self.places[name] = place
        return place

    def _start_relay(self, place, cable):
        relay = subprocess.Popen([sys.executable, RELAY, str(place.fd), "eth0", str(self._switch.fd), cable],
                                 pass_fds=(place.fd, self._switch.fd), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if relay.stdout.readline() != "ready\n":
            raise NotPossible("no tap devices")
        return relay

    def delay(self, place, delay_ms, spread_ms=0):
        """Each frame from and to the place takes so much longer, and up to spread_ms more by chance, so that frames overtake
        each other; returns when that is so. Only of relayed places."""
        relay = self._relays[place.name]
        relay.stdin.write(f"{delay_ms} {spread_ms}\n")
        relay.stdin.flush()
        assert relay.stdout.readline() == f"{delay_ms} {spread_ms}\n"

    # --- faults -------------------------------------------------------------------------------------------------------

    def cut(self, some, others):
        """Nothing passes between the two sides, either way, and nobody is told."""
        self.cut_one_way(some, others)
        self.cut_one_way(others, some)

    def cut_one_way(self, senders, receivers):
        self._refuse(senders, receivers, "-j", "DROP")

    def reset(self, some, others):
        """Every TCP packet between the two sides is answered with a reset; the resets pass."""
        for senders, receivers in ((some, others), (others, some)):
            self._refuse(senders, receivers, "-p", "tcp", "!", "--tcp-flags", "RST", "RST", "-j", "REJECT",
                         "--reject-with", "tcp-reset")

    def lose(self, some, others, probability):
        """So many of the packets between the two sides are lost, by chance."""
        for senders, receivers in ((some, others), (others, some)):
            self._refuse(senders, receivers, "-m", "statistic", "--mode", "random", "--probability", str(probability),
                         "-j", "DROP")

    @staticmethod
    def _refuse(senders, receivers, *how):
        addresses = ",".join(place.address for place in senders)
        for place in receivers:
            place.run("iptables", "-w", "-I", "INPUT", "-s", addresses, *how)

    def mend(self):
        """All rules are gone and all delays."""
        for place in self.places.values():
            place.run("iptables", "-w", "-F", "INPUT")
        for name in self._relays:
            self.delay(self.places[name], 0)

    def close(self):
        """Closes what we hold; processes inside go on until they end."""
        for relay in self._relays.values():
            relay.stdin.close()
            relay.wait(10)
            relay.stdout.close()
        for place in [*self.places.values(), self._switch]:
            os.close(place.fd)


def try_out():
    """Raises NotPossible when a test could not have its network."""
    net = Net()
    try:
        a, b = net.place("a"), net.place("b", relayed=True)
        net.reset([a], [b])
        net.lose([a], [b], 0.3)
        net.cut([a], [b])
        net.mend()
    finally:
        net.close()


if __name__ == "__main__":
    try:
        try_out()
    except NotPossible as problem:
        print(f"no network of its own: {problem}")
        sys.exit(77)
