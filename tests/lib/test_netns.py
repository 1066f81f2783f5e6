"""The faults that netns.py makes, between two places and a bystander."""
import socket
import threading
import time
import unittest

from netns import Net, NotPossible, try_out

try:
    try_out()
    WHY_NOT = None
except NotPossible as problem:
    WHY_NOT = str(problem)
PORT = 9000


@unittest.skipIf(WHY_NOT, WHY_NOT)
class TestNet(unittest.TestCase):
    def setUp(self):
        self.net = Net()
        self.addCleanup(self.net.close)
        self.a, self.b, self.c = self.net.place("a"), self.net.place("b", relayed=True), self.net.place("c")
        for place in (self.a, self.b, self.c):
            self.listen(place)

    def listen(self, place):
        with place.inside():
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            udp.bind((place.address, PORT))
            server = socket.create_server((place.address, PORT))
        self.addCleanup(server.close)
        self.addCleanup(udp.close)

        def echo():
            try:
                while data := udp.recvfrom(2000):
                    udp.sendto(*data)
            except OSError:
                pass

        threading.Thread(target=echo, daemon=True).start()

    def connect(self, source, target, timeout=0.5):
        with source.inside():
            return socket.create_connection((target.address, PORT), timeout)

    def connects(self, source, target):
        try:
            self.connect(source, target).close()
            return True
        except TimeoutError:
            return False

    def test_cut(self):
        self.assertTrue(self.connects(self.a, self.b) and self.connects(self.b, self.a))
        self.net.cut([self.a], [self.b])
        self.assertFalse(self.connects(self.a, self.b) or self.connects(self.b, self.a))
        self.assertTrue(self.connects(self.a, self.c) and self.connects(self.c, self.b))
        self.net.mend()
        self.assertTrue(self.connects(self.a, self.b) and self.connects(self.b, self.a))

    def test_one_way(self):
        """A handshake needs both ways, a datagram only one."""
        self.net.cut_one_way([self.a], [self.b])
        self.assertFalse(self.connects(self.b, self.a))
        heard = self.datagrams(self.b, self.a, 5)
        self.assertEqual(heard, 0)  # They arrive, the echo does not.
        self.assertEqual(self.datagrams(self.b, self.c, 5), 5)

    def datagrams(self, source, target, count):
        """How many of them come back."""
        return len(self.echoes(source, target, count))

    def echoes(self, source, target, count):
        """The numbers of those that come back, as they do."""
        with source.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.settimeout(1)
            s.bind((source.address, 0))
            for i in range(count):
                s.sendto(bytes([i]), (target.address, PORT))
            heard = []
            try:
                while len(heard) < count:
                    heard.append(s.recv(10)[0])
            except TimeoutError:
                pass
            return heard

    def test_reset(self):
        open_before = self.connect(self.a, self.b)
        self.addCleanup(open_before.close)
        self.net.reset([self.a], [self.b])
        with self.assertRaises(ConnectionRefusedError):
            self.connect(self.a, self.b)
        with self.assertRaises(ConnectionResetError):
            open_before.sendall(b"x")
            open_before.recv(1)

    def test_loss(self):
        self.net.lose([self.a], [self.c], 0.3)
        heard = self.datagrams(self.a, self.c, 200)  # 0.7 * 0.7 of them come back.
        self.assertTrue(60 < heard < 140, heard)
        self.assertEqual(self.datagrams(self.b, self.c, 200), 200)

    def test_delay(self):
        self.net.delay(self.b, 100)
        began = time.monotonic()
        self.connect(self.a, self.b, timeout=5).close()
        self.assertGreater(time.monotonic() - began, 0.2)
        began = time.monotonic()
        self.connect(self.a, self.c).close()
        self.assertLess(time.monotonic() - began, 0.2)

    def test_reordered(self):
        """All arrive, but not in the order in which they were sent; that of others stays."""
        self.net.delay(self.b, 0, spread_ms=30)
        heard = self.echoes(self.a, self.b, 100)
        self.assertEqual(sorted(heard), list(range(100)))
        self.assertNotEqual(heard, sorted(heard))
        self.assertEqual(self.echoes(self.a, self.c, 100), list(range(100)))
        self.net.mend()
        self.assertEqual(self.echoes(self.a, self.b, 100), list(range(100)))


if __name__ == "__main__":
    unittest.main()
