"""Unit: what the reactor watches a socket for; the reactor is a fake."""

import socket

import pytest

from forkrpc import watch as watch_module
from forkrpc.reactor import READ, WRITE
from forkrpc.watch import Watch
from interrupts import Interrupt, interrupt_everywhere


class Reactor:
    """Remembers what it was told last.  events: of each descriptor."""

    def __init__(self):
        self.events = {}
        self.told = 0

    def start(self):
        self.events.clear()

    def watch(self, fd, events, ready):
        self.events[fd], self.ready = events, ready

    def change(self, fd, events):
        assert fd in self.events
        self.events[fd] = events
        self.told += 1

    def unwatch(self, fd):
        self.events.pop(fd, None)


@pytest.fixture
def ends():
    """Two ends of a socket."""
    one, two = socket.socketpair()
    with one, two:
        yield one, two


@pytest.fixture
def watched(ends):
    """(watch, reactor, descriptor, what was seen)."""
    reactor, seen = Reactor(), []
    watch = Watch(reactor, ends[0], seen.append)
    watch.start()
    return watch, reactor, ends[0].fileno(), seen


def test_it_watches_for_input_and_for_what_is_wanted_besides(watched):
    watch, reactor, fd, _ = watched
    assert reactor.events == {fd: READ}

    watch.want(WRITE, wanted=True)
    assert reactor.events == {fd: READ | WRITE}
    watch.want(READ, wanted=False)
    assert reactor.events == {fd: WRITE}


def test_what_is_so_already_costs_nothing(watched):
    watch, reactor, _, _ = watched

    watch.want(READ, wanted=True)
    watch.want(WRITE, wanted=False)

    assert reactor.told == 0


def test_what_happens_is_told(watched):
    _, reactor, _, seen = watched

    reactor.ready(READ)

    assert seen == [READ]


def test_what_is_seen_is_watched_for_whatever_was_noted(watched):
    watch, reactor, fd, _ = watched
    reactor.events[fd] = READ | WRITE  # an interrupt has lost the note
    reactor.ready(WRITE)

    watch.want(WRITE, wanted=False)

    assert reactor.events == {fd: READ}


@pytest.mark.parametrize("end", ["stop", "abandon"])
def test_nothing_is_changed_behind_the_end(watched, end):
    watch, reactor, _, _ = watched
    getattr(watch, end)()

    watch.want(WRITE, wanted=True)

    assert reactor.told == 0


@pytest.mark.parametrize("wanted", [True, False])
def test_an_interrupt_leaves_nothing_unwatched_that_is_wanted(ends, wanted):
    def attempt(interrupted):
        reactor = Reactor()
        watch = Watch(reactor, ends[0], print)
        watch.start()
        if not wanted:
            watch.want(WRITE, wanted=True)
        try:
            with interrupted as raised:
                watch.want(WRITE, wanted=wanted)
        except Interrupt:
            pass
        watch.want(WRITE, wanted=True)
        assert reactor.events[ends[0].fileno()] == READ | WRITE
        return raised

    assert interrupt_everywhere(attempt, watch_module) > 5
