"""A TCP relay that a test can cut: between one process and a server, without root and without touching either.

    relay = Relay("127.0.0.1", 2379)
    relay.port          # connect here instead
    relay.cut()         # from now on nothing passes, as behind a broken cable: no reset, no refusal
    relay.mend()        # what waits goes on
"""
import select
import socket
import threading

CHUNK = 65536


class Relay:
    def __init__(self, host, port):
        self._to = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self._wakes, self._wake = socket.socketpair()
        self._pairs = {}  # {socket: the one on the other side}
        self._unsent = {}  # {socket: bytes for it}
        self._cut = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self):
        self._cut = True
        self._wake.send(b".")

    def mend(self):
        self._cut = False
        self._wake.send(b".")

    def close(self):
        self._closing = True
        self._wake.send(b".")
        self._thread.join()

    def _run(self):
        while not self._closing:
            # Cut: nobody is read from, written to or accepted; the kernel's buffers take a little.
            room = [s for s, other in self._pairs.items() if len(self._unsent[other]) < CHUNK]
            reading = [] if self._cut else [self._listener] + room
            writing = [] if self._cut else [s for s, data in self._unsent.items() if data]
            readable, writable, _ = select.select([self._wakes] + reading, writing, [])
            for s in readable:
                if s is self._wakes:
                    self._wakes.recv(CHUNK)
                elif s is self._listener:
                    self._accept()
                else:
                    self._read(s)
            for s in writable:
                if s in self._unsent:
                    self._write(s)
        for s in list(self._pairs) + [self._listener, self._wakes, self._wake]:
            s.close()

    def _accept(self):
        client, _ = self._listener.accept()
        try:
            server = socket.create_connection(self._to, 1)
        except OSError:
            client.close()
            return
        for s in (client, server):
            s.setblocking(False)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._unsent[s] = b""
        self._pairs[client], self._pairs[server] = server, client

    def _read(self, s):
        if s not in self._pairs:
            return
        try:
            data = s.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(s)
            return
        other = self._pairs[s]
        self._unsent[other] += data
        self._write(other)

    def _write(self, s):
        try:
            self._unsent[s] = self._unsent[s][s.send(self._unsent[s]):]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(s)

    def _drop(self, s):
        other = self._pairs.pop(s)
        self._pairs.pop(other)
        for end in (s, other):
            self._unsent.pop(end)
            end.close()
