"""What the workers execute."""

import gc
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass
class Point:
    """A small dataclass, as an argument and a result."""

    x: int
    y: float
    label: str


def echo(value: Any) -> Any:
    """Return *value*."""
    return value


def burn(value: Any) -> Any:
    """Use 10 ms of CPU time and return *value*."""
    end = time.thread_time() + 0.01
    while time.thread_time() < end:
        pass
    return value


def numbers(count: int) -> Iterator[int]:
    """Yield small integers."""
    yield from range(count)


async def echo_async(value: Any) -> Any:
    """Return *value*, as a coroutine function."""
    return value


def scale(*, value: int, factor: int) -> int:
    """Multiply; takes keyword arguments only."""
    return value * factor


def swap(value: Any) -> Any:
    """Return the payload that a tuple orders; of all else, how long it is."""
    return payload(*value) if value.__class__ is tuple else len(value)


@cache
def payload(what: str, length: int) -> Any:
    """Return "bytes", or an "array" of numpy's, of so many bytes; made once."""
    data = bytes(range(256)) * (length // 256)
    if what == "bytes":
        return data
    import numpy

    return numpy.frombuffer(bytearray(data), "u1")


def echo_or_collect(value: Any) -> Any:
    """Return *value*; for None, collect garbage first."""
    if value is None:
        gc.collect()
    return value


def echo_or_wait(value: Any) -> Any:
    """Return *value*; text is the path of a FIFO: wait until somebody writes to it."""
    if value.__class__ is str:
        with open(value, "rb"):
            pass
    return value


def pid_or_sleep(seconds: float | None) -> int:
    """Return the process id, after *seconds* if given."""
    if seconds is not None:
        time.sleep(seconds)
    return os.getpid()
