"""Unit: private memory (that workers which have grown end: see test_pool)."""

import mmap
import os

from forkrpc.growth import Growth
from forkrpc.system import private_bytes


class Reactor:
    def __init__(self):
        self.asked = []

    def later(self, delay, function):
        self.asked.append(function)
        return self

    def cancel(self):
        self.asked.clear()


def test_memory_that_is_written_counts():
    before = private_bytes(os.getpid())
    with mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE) as memory:
        memory[:] = b"\1" * len(memory)
        grown = private_bytes(os.getpid()) - before

    assert 14 << 20 < grown < 64 << 20


def test_a_process_that_has_ended_has_none():
    assert private_bytes(2**22 + 1) is None


def test_it_looks_again_until_it_is_stopped():
    reactor = Reactor()
    growth = Growth(reactor, 1, list)
    reactor.asked.pop()()
    assert reactor.asked
    growth.stop()
    assert reactor.asked == []
    growth.look()
    assert reactor.asked == []
