"""A slow network on this machine: between two addresses of loopback, so many bytes a second and small buffers."""
import socket
import threading
import time

CHUNK = 4096
SEGMENT = 1400  # As on a network: with loopback's segments of 64 KB the kernel takes megabytes before a socket is full.


class SlowLink:
    """Listens at `host`:`port` and passes everything to `target` on the same port: what arrives at most at
    bytes_a_second for each connection, answers as they come. Until close()."""

    def __init__(self, host, port, target, bytes_a_second):
        self.port, self.target, self.rate = port, target, bytes_a_second
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * CHUNK)
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
        self._listener.bind((host, port))
        self._listener.listen(64)
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                far = socket.create_connection((self.target, self.port), timeout=5)
            except OSError:
                near.close()  # Nobody there: so the caller learns it.
                continue
            far.settimeout(None)
            for s in (near, far):
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [near, far]
            threading.Thread(target=self._pass, args=(near, far, self.rate), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, None), daemon=True).start()

    @staticmethod
    def _pass(source, sink, rate):
        due = time.monotonic()
        try:
            while data := source.recv(CHUNK if rate else 1 << 16):
                sink.sendall(data)
                if rate:
                    due = max(due, time.monotonic()) + len(data) / rate
                    time.sleep(max(0.0, due - time.monotonic()))
        except OSError:
            pass
        SlowLink._end((source, sink))

    @staticmethod
    def _end(sockets):
        for s in sockets:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            s.close()

    def close(self):
        self._end(self._sockets)
