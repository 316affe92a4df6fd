"""Functions that tests of maps and their workers import, and a map over two workers."""

import contextlib
import contextvars
import os
import signal
import threading

from forkrpc.feed import Feed
from shared import shared_template

VARIABLE = contextvars.ContextVar("VARIABLE", default=0)


def double(number):
    return 2 * number


def add(*numbers):
    return sum(numbers)


def fail_at(place, number):
    """Return the number, but raise at *place*, which is a pair (number, what)."""
    at, deed = place
    if number != at:
        return number
    if deed == "raise":
        raise KeyError(f"number {number}")
    if deed == "stop":
        raise StopIteration
    if deed == "exit":
        raise SystemExit(3)
    if deed == "lambda":
        return lambda: None
    if deed == "unloadable":
        return Unloadable()
    if deed == "fork" and os.fork() == 0:
        return "a copy"
    if deed == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail(item):
    """As `fail_at`, for one argument: a number, or (place, number)."""
    return fail_at(*item) if isinstance(item, tuple) else item


def refuse():
    raise ValueError("not loaded here")


class Unloadable:
    def __reduce__(self):
        return refuse, ()


seen = []


def gather(item):
    """Return a list that grows, and hold what was given."""
    seen.append(item)
    return seen


def count(item):
    """Return how often this was called; in a list if a list is given."""
    seen.append(item)
    return [len(seen)] if isinstance(item, list) else len(seen)


def mark(path, number):
    """Append the number to a file."""
    with open(path, "a") as file:
        file.write(f"{number}\n")
    return number


def mark_and_wait(path, fifo, number):
    mark(path, number)
    with open(fifo, "rb"):
        return number


async def adouble(number):
    return 2 * number


def items(count):
    yield from range(count)


@contextlib.contextmanager
def opened(fifo):
    """Have every reader of *fifo* go on."""
    done = threading.Event()

    def let_through():
        while not done.wait(0.001):
            with contextlib.suppress(OSError):  # nobody reads
                os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))

    thread = threading.Thread(target=let_through)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class Spread:
    """A Feed over several workers: each call goes to the one with the fewest."""

    def __init__(self, *proxies):
        self.feeds = [Feed(proxy._connection) for proxy in proxies]
        self._sessions = [proxy._session for proxy in proxies]
        first = self.feeds[0]
        self.name, self.codec, self.program = first.name, first.codec, first.program
        self.most, self.chunked = first.most, first.chunked
        self.workers = len(self.feeds)
        self.call, self.body = first.call, first.body
        self.chunk, self.chunk_of = first.chunk, first.chunk_of
        self.check_may_wait, self.later = first.check_may_wait, first.later

    def check_open(self):
        for feed in self.feeds:
            feed.check_open()

    def put(self, call, target, *also):
        outstanding = [session.outstanding() for session in self._sessions]
        target.feed = self.feeds[outstanding.index(min(outstanding))]
        target.feed.put(call, target, *also)

    def cancel(self, target):
        target.feed.cancel(target)


@contextlib.contextmanager
def shared():
    """Have one template for all `workers` that follow."""
    with shared_template("mapped") as template:
        _templates.append(template)
        yield
        _templates.pop()


_templates = []


@contextlib.contextmanager
def workers(function, count=1, **options):
    """Yield (feed, proxies) of so many workers of a function of this module."""
    with contextlib.ExitStack() as stack:
        proxies = [
            stack.enter_context(_templates[-1].run(f"mapped.{function}", **options))
            for _ in range(count)
        ]
        yield (Spread(*proxies) if count > 1 else Feed(proxies[0]._connection)), proxies
