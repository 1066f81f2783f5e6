"""A network between two addresses of loopback that can be cut, and loses what was on its way."""
import threading

from slow_link import SlowLink


class CutLink(SlowLink):
    """Passes everything from `host`:`port` to `target`:`port` until cut(): from then on bytes vanish, both ways, and
    nobody is told. mend() ends the connections of before, as both sides would in time."""

    def __init__(self, host, port, target):
        self._gone = threading.Event()
        super().__init__(host, port, target, None)

    def cut(self):
        self._gone.set()

    def mend(self):
        old, self._sockets = self._sockets[1:], self._sockets[:1]
        self._end(old)
        self._gone.clear()

    def _pass(self, source, sink, _):
        try:
            while data := source.recv(1 << 16):
                if not self._gone.is_set():
                    sink.sendall(data)
        except OSError:
            pass
        self._end((source, sink))
