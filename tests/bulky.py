"""Functions that take, return, yield and tell large values, for tests and workers.

The first argument is the name of one of them.
"""

import signal

import forkrpc

KEPT = []  # a value that a worker goes on using


def run(name, *args, **kwargs):
    return globals()[name](*args, **kwargs)


async def run_async(name, *args, **kwargs):
    return run(name, *args, **kwargs)


def items(name, *args, **kwargs):
    yield run(name, *args, **kwargs)
    yield "between"
    yield run(name, *args, **kwargs)


async def items_async(name, *args, **kwargs):
    for item in items(name, *args, **kwargs):
        yield item


def echo(*args, **kwargs):
    return (args, kwargs) if kwargs else args[0]


def tell(value):
    forkrpc.event("before")
    forkrpc.event(value, "with it")
    return value


def tell_sum(value):
    forkrpc.event(sum(value))
    return len(value)


def kinds(*values):
    """Return of each its type, its length, and whether it can be written to."""
    return [kind(value) for value in values]


def kind(value):
    writable = isinstance(value, bytearray)
    if hasattr(value, "flags"):
        writable = value.flags.writeable
    if writable and len(value):
        value[0] = value[0]
    return type(value).__name__, len(value), writable


def zeros(length):
    return bytes(length)


def counted(length):
    """Return an array, kept and changed as soon as the next one is asked for."""
    import numpy

    if not KEPT:
        KEPT.append(numpy.zeros(length, "u1"))
    KEPT[0] += 1
    return KEPT[0]


def changed(value):
    """Return *value*, which something else changes before the loop goes on."""
    import asyncio

    asyncio.get_running_loop().call_soon(value.__setitem__, 0, 99)
    return value


def gate(path):
    """Block until somebody opens the FIFO *path* for writing."""
    with open(path, "rb") as file:
        file.read()


def kill_after(length, seconds):
    """Return so many bytes; die by a signal while they are made, or written."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    return bytes(length)
