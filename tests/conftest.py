"""After every test: no process, thread or descriptor more or less than before it.

What a test starts it ends itself, fixtures too (``with``, or close after ``yield``).
Processes and descriptors are compared by kind and number, so that a default template
that died and was replaced is no difference.
"""

import collections
import contextlib
import gc
import importlib.util
import os
import re
import signal
import sys
import threading
import time
import typing

import pytest

from helpers import (
    MS,
    descendants,
    open_descriptors,
    process_stat,
    wait_until,
)

LIMIT = 5.0  # seconds for what a test left to end by itself
SOON = 0.1  # seconds of it before garbage is looked for, which takes as long

# Inherited by all that a test starts: tells its orphans from other people's processes.
MARK = f"FORKRPC_TEST_PROCESS={os.getpid()}"
os.environ.update([MARK.split("=")])
START = process_stat(os.getpid())[2]

# A job in the background of a script ignores them (POSIX, Shell & Utilities 2.11), and
# so would all programs that are started here, some of which are to be ended by them.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGQUIT, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)


def settle_library():
    """Have running what the library keeps for the program's life.

    That is the default template, the background thread, their descriptors, and what
    one worker leaves for the next (a block of shared pages).  Without a Forker there
    is nothing to keep.
    """
    if importlib.util.find_spec("forkrpc.forker") is None:
        return
    from forkrpc import Forker

    with Forker() as template, template.run("os.getpid") as proxy:
        proxy.call()
        pid, link = template.pid, template._link
    del template, proxy
    wait_until(lambda: link.ended, LIMIT, "end of the link to a template")
    wait_until(lambda: process_stat(pid) is None, LIMIT, f"end of template {pid}")
    steady = Steady(200 * MS)
    wait_until(steady, LIMIT, "processes, threads and descriptors at rest")


class Snapshot(typing.NamedTuple):
    processes: collections.Counter  # command lines
    threads: collections.Counter  # names
    descriptors: collections.Counter  # targets, without numbers of sockets and pipes


def take_snapshot():
    return Snapshot(
        collections.Counter(process_kind(pid) for pid in family()),
        collections.Counter(
            thread.name
            for thread in threading.enumerate()
            if not thread.name.startswith("pytest_timeout")  # cancelled by a failure
        ),
        collections.Counter(map(descriptor_kind, open_descriptors().values())),
    )


def closing_templates():
    """Return the links of templates that were closed and have not ended.

    A fixture of a module closes its template behind the last look at the last test.
    """
    program = sys.modules.get("forkrpc.program")
    ends = list(program._current[0].ends) if program and program._current else []
    return [end for end in ends if type(end).__name__ == "Link" and end.closed]


def settled_snapshot():
    """Return a snapshot in which no process is just ending.

    One that is, with what it holds, belongs to an earlier test and will be gone soon.
    """
    for link in closing_templates():
        wait_until(lambda link=link: link.ended, LIMIT, "end of the link to a template")
        pid = link._pid
        if pid is not None:
            gone = lambda pid=pid: process_stat(pid) is None  # noqa: E731
            wait_until(gone, LIMIT, f"end of template {pid}")
    snapshots = []

    def settled():
        snapshots.append(take_snapshot())
        return not any("no command line" in kind for kind in snapshots[-1].processes)

    wait_until(settled, LIMIT, "end of processes of an earlier test")
    return snapshots[-1]


class Steady:
    """A condition: nothing has changed for *period* seconds."""

    def __init__(self, period):
        self._period = period
        self._last, self._since = None, 0.0

    def __call__(self):
        now, snapshot = time.monotonic(), take_snapshot()
        if snapshot != self._last:
            self._last, self._since = snapshot, now
        return now - self._since >= self._period


_others = set()  # pids of processes that have nothing to do with these tests


def family():
    """Return the pids of this process's descendants, and of those that lost it."""
    pids = {int(name) for name in os.listdir("/proc") if name.isdigit()}
    _others.intersection_update(pids)  # a pid that was gone may come again
    table = {pid: stat for pid in pids - _others if (stat := process_stat(pid))}
    below = set(descendants(os.getpid(), table))
    for pid, (state, _, start) in table.items():
        if pid in below or pid == os.getpid():
            continue
        if start >= START and marked(pid):
            below.add(pid)
        elif state not in "ZX":
            _others.add(pid)
    return below


def marked(pid):
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return MARK.encode() in file.read().split(b"\0")
    except OSError:
        return False  # gone, or somebody else's


def process_kind(pid):
    """Return the command line, or the state of a process that has none (a zombie)."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            line = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        line = ""
    stat = process_stat(pid)
    return line or f"(no command line, state {stat[0] if stat else 'gone'})"


def descriptor_kind(target):
    return re.sub(r":\[\d+\]$", "", target)


def difference(before, after):
    """Return lines that tell what appeared (+) and what vanished (-)."""
    lines = []
    for noun, old, new in zip(Snapshot._fields, before, after, strict=True):
        for sign, change in ("+", new - old), ("-", old - new):
            lines += [
                f"  {sign} {noun}: {kind}" + (f" ({n} times)" if n > 1 else "")
                for kind, n in change.items()
            ]
    return lines


def details(before, after):
    """Return lines with the pids and numbers behind what appeared."""
    return [
        f"    pid {pid}, parent {stat[1]}, state {stat[0]}: {process_kind(pid)}"
        for pid in sorted(family())
        if (stat := process_stat(pid))
        and process_kind(pid) in after.processes - before.processes
    ] + [
        f"    descriptor {number}: {target}"
        for number, target in sorted(open_descriptors().items())
        if descriptor_kind(target) in after.descriptors - before.descriptors
    ]


def forget_last_error():
    """Drop the traceback that pytest keeps of a failed test, and its frames' values."""
    for name in "last_type", "last_value", "last_traceback", "last_exc":
        if hasattr(sys, name):
            delattr(sys, name)


def check_nothing_left(before):
    """Fail with the difference to *before* unless it goes away within the limit."""
    if take_snapshot() == before:
        return
    with contextlib.suppress(AssertionError):  # workers that are just ending
        wait_until(lambda: take_snapshot() == before, SOON, poll=2 * MS)
        return
    forget_last_error()
    gc.collect()
    try:
        wait_until(lambda: take_snapshot() == before, LIMIT)
    except AssertionError:
        settle_library()  # the test may have ended the default template
    after = take_snapshot()
    if after == before:
        return
    text = [*difference(before, after), "now:", *details(before, after)]
    pytest.fail("the test left something behind:\n" + "\n".join(text), pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def _settled_library():
    settle_library()
    # No collection walks the thousands of tests again, be it a test's own or another.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _nothing_left(_settled_library):
    before = settled_snapshot()
    yield
    check_nothing_left(before)


@pytest.fixture
def pipe():
    """Yield (read, write) of a pipe; reading does not block, and a test may close."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    yield read, write
    for fd in read, write:
        try:
            os.close(fd)
        except OSError:  # by the test
            pass
