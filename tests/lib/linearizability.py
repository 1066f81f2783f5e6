"""Is a history of reads and writes of one register linearizable?

    problem = check_register(operations)      # None, or what cannot be explained, in words

The search is Wing and Gong's ("Testing and verifying concurrent objects", JPDC 1993) with the memory of Lowe ("Testing for
linearizability", 2017): what was tried once is not tried again. As Lowe's just-in-time variant it walks through the history
in the order of time and keeps every state in which the register may be: which of the pending writes have taken effect, and
the value. An operation is made to take effect at the latest when it ends; states in which it cannot are dropped; when none
is left the history is not linearizable. Keys are independent of each other (Herlihy and Wing 1990, locality), so each is
checked alone.

Three things keep that small for a register. A pending read takes effect in every state with its value, as soon as there is
one: that changes nothing for the others. A write that never was answered (`end` None) may take effect at any time after it
began, or never; when nobody ever read its value, "never" explains as much as anything else, so it is left out. And states
that differ only in writes already answered are the same state.
"""
from collections import defaultdict
from typing import NamedTuple

STATES_MOST = 200_000
ABSENT = None  # The value before the first write, and after a delete.


class Operation(NamedTuple):
    """A write puts `value` (a delete: ABSENT); a read found it. Times are of one clock."""
    write: bool
    value: object
    begin: float
    end: float  # None: never answered; only writes may be
    name: str = ""

    def __str__(self):
        what = "write" if self.write else "read"
        end = "never answered" if self.end is None else f"{self.end:.4f}"
        return f"{what} {self.value!r} [{self.begin:.4f}, {end}] {self.name}".rstrip()


class Undecided(Exception):
    """More states than fit: too many operations at the same time."""


def check_register(operations, initial=ABSENT, shown=6):
    """None when the history is linearizable, else words that name the operation at which no explanation was left."""
    operations = _without_unread(operations, initial)
    if not _values_known(operations, initial):
        return _unknown_value(operations, initial)
    pending = {}  # {number: Operation} begun and not ended
    # A state: (numbers of pending operations that have taken effect, value).
    states = {(frozenset(), initial)}
    for _, begins, number in _events(operations):
        operation = operations[number]
        if begins:
            pending[number] = operation
            if not operation.write:
                states = {_with_reads(state, pending) for state in states}
            continue
        states = _closed(states, pending, number)
        states = {(done - {number}, value) for done, value in states if number in done}
        if not states:
            return _story(operations, operation, shown)
        del pending[number]
    return None


def check_keys(by_key, initial=ABSENT):
    """by_key: {key: [Operation]}. What is wrong, in words, one entry a key."""
    problems = []
    for key, operations in by_key.items():
        problem = check_register(operations, initial)
        if problem is not None:
            problems.append(f"{key}: {problem}")
    return problems


def _without_unread(operations, initial):
    read = {o.value for o in operations if not o.write}
    return [o for o in operations if not (o.write and o.end is None and o.value not in read)]


def _values_known(operations, initial):
    return {o.value for o in operations if not o.write} <= {o.value for o in operations if o.write} | {initial}


def _unknown_value(operations, initial):
    written = {o.value for o in operations if o.write} | {initial}
    return "nobody wrote what was found by " + str(next(o for o in operations if not o.write and o.value not in written))


def _events(operations):
    """(time, begins, number). At the same instant beginnings come first: what touches may be in either order."""
    events = []
    for number, operation in enumerate(operations):
        events.append((operation.begin, 0, number))
        if operation.end is not None:
            events.append((operation.end, 1, number))
    return [(at, kind == 0, number) for at, kind, number in sorted(events)]


def _with_reads(state, pending):
    """The state in which all pending reads that find its value have taken effect."""
    done, value = state
    more = [n for n, o in pending.items() if not o.write and n not in done and o.value == value]
    return (done.union(more), value) if more else state


def _closed(states, pending, number):
    """The states themselves, and those that pending writes lead to, one after the other, while `number` is to take effect.
    Where it has, nothing more needs to happen yet."""
    writes = [(n, o.value) for n, o in pending.items() if o.write]
    seen = set(states)
    todo = [state for state in states if number not in state[0]]
    while todo:
        done, value = todo.pop()
        for n, written in writes:
            if n in done:
                continue
            state = _with_reads((done | {n}, written), pending)
            if state in seen:
                continue
            seen.add(state)
            if len(seen) > STATES_MOST:
                raise Undecided(f"{len(pending)} operations at the same time")
            if number not in state[0]:
                todo.append(state)
    return seen


def _story(operations, failed, shown):
    before = sorted((o for o in operations if o is not failed and o.begin <= failed.end),
                    key=lambda o: float("inf") if o.end is None else o.end)
    last = "\n    ".join(map(str, before[-shown:]))
    return f"no order explains {failed}; before and beside it:\n    {last}"


def by_key(entries):
    """{key: [Operation]} of (key, Operation) pairs."""
    found = defaultdict(list)
    for key, operation in entries:
        found[key].append(operation)
    return found
