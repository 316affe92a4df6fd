"""Generator functions that tests and their workers import."""

import _thread
import asyncio
import ctypes
import functools
import inspect
import os
import signal
import sys
import time

import forkrpc


def run(name, *args):
    """Call a function of this module, by name; also one that yields."""
    return globals()[name](*args)


async def arun(name, *args):
    """As `run`, for the asyncio backend; another of the name with an `a` goes first."""
    function = globals().get(f"a{name}") or globals()[name]
    result = function(*args)
    return await result if inspect.iscoroutine(result) else result


async def await_at(path):
    """As `wait_at`; the loop goes on."""
    return await asyncio.to_thread(wait_at, path)


async def athen(count, deed, *args):
    for number in range(count):
        yield number
    if deed == "wait":
        await await_at(*args)
    elif deed == "hang":
        await asyncio.Event().wait()
    else:
        DEEDS[deed](*args)
    yield "behind"


async def astubborn():
    """Yield also when it is told to end."""
    while True:
        try:
            yield 1
        except GeneratorExit:
            pass


async def aslow():
    """Yield, and wait long before the next."""
    try:
        while True:
            yield 1
            await asyncio.sleep(3600)
    finally:
        forkrpc.event("closed")


async def asteps(seconds):
    """Yield after each so many seconds."""
    while True:
        await asyncio.sleep(seconds)
        yield seconds


def stubborn():
    while True:
        try:
            yield 1
        except GeneratorExit:
            pass


def slow():
    try:
        while True:
            yield 1
            time.sleep(0.02)
    finally:
        forkrpc.event("closed")


def steps(seconds):
    while True:
        time.sleep(seconds)
        yield seconds


def numbers(count):
    yield from range(count)


def plain(value=None):
    return value


def listed(values):
    yield from values


def told(count, pause=0.0):
    """Yield numbers; tell of each before it is made, and of the end.

    pause: seconds that each takes, so that the window is no wide one.
    """
    try:
        for number in range(count):
            time.sleep(pause)
            forkrpc.event("make", number)
            yield number
    finally:
        forkrpc.event("closed")


def endless():
    """Yield numbers; tell of the first one, and of the end."""
    number = 0
    try:
        forkrpc.event("begun")
        while True:
            yield number
            number += 1
    finally:
        forkrpc.event("closed")


def wait_at(path):
    """Block until somebody opens the FIFO *path* for writing."""
    with open(path, "rb") as file:
        file.read()
    return "through"


def then(count, deed, *args):
    """Yield numbers as fast as possible, then do something."""
    yield from range(count)
    DEEDS[deed](*args)
    yield "behind"


def _raise():
    raise ValueError("on purpose")


def _segfault():
    ctypes.string_at(0)


DEEDS = {
    "raise": _raise,
    "exit": lambda: sys.exit(3),
    "hard-exit": lambda: os._exit(5),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": _segfault,
    "hang": signal.pause,
    "wait": wait_at,
    "sleep": time.sleep,
}


def fails_when_closed():
    try:
        yield from range(10**9)
    finally:
        raise KeyError("while it is closed")


def forks(count):
    """Yield the worker's process id after each fork; the copies yield as well."""
    for _ in range(count):
        if not os.fork():
            yield "a copy"
        yield os.getpid()


def blocks(count, size):
    """Yield byte strings; tell of each before it is made."""
    for number in range(count):
        forkrpc.event("make", number)
        yield bytes([number % 256]) * size


def rows(path):
    """Return an iterator that is no generator."""
    return open(path, encoding="utf-8")  # noqa: SIM115


def unsendable(count):
    yield from range(count)
    yield _thread.allocate_lock()


class Counter:
    """An instance that yields when it is called."""

    def __init__(self, start=0):
        self.start = start

    def __call__(self, count, *, step=1):
        yield from range(self.start, self.start + count * step, step)

    def method(self, count):
        yield from range(count)


three = functools.partial(numbers, 3)
method = Counter().method
