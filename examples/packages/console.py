"""What the demo prints: steps, sentences, progress. Lines of at most 100 columns, with or without a terminal."""
import shutil
import sys
import textwrap
import threading
import time

WIDTH = 100
_started_at = time.monotonic()


def step(number, title):
    print(f"\n[{time.monotonic() - _started_at:6.1f} s]  {number}. {title}", flush=True)


def say(text):
    """A paragraph, wrapped."""
    print(textwrap.fill(text, WIDTH, initial_indent="    ", subsequent_indent="    "), flush=True)


def show(text):
    """Lines as they are."""
    print(textwrap.indent(text.rstrip("\n"), "    "), flush=True)


class Progress:
    """A bar on a terminal, else a line for every tenth. Any thread may advance it."""

    def __init__(self, title, total, unit):
        self.title, self.total, self.unit = title, total, unit
        self.done = 0
        self.started_at = time.monotonic()
        self._tenth = 0
        self._drawn_at = 0.0
        self._lock = threading.Lock()
        self._on_terminal = sys.stdout.isatty()

    def advance(self, count):
        with self._lock:
            self.done += count
            if self._on_terminal:
                if time.monotonic() - self._drawn_at > 0.1 or self.done == self.total:
                    self._drawn_at = time.monotonic()
                    self._draw()
            elif self.done * 10 // self.total > self._tenth:
                self._tenth = self.done * 10 // self.total
                print("    " + self._numbers(), flush=True)

    def _numbers(self):
        rate = self.done / max(time.monotonic() - self.started_at, 1e-3)
        return f"{self.title} {self.done * 100 // self.total:3d} %  {self.done:,} {self.unit}, {rate:,.0f}/s"

    def _draw(self):
        bar_width = max(10, min(WIDTH, shutil.get_terminal_size().columns) - 60)
        filled = self.done * bar_width // self.total
        print(f"\r    [{'#' * filled}{'.' * (bar_width - filled)}] {self._numbers()}  ",
              end="\n" if self.done == self.total else "", flush=True)
