"""Unit: descriptors, timers and ticks in the background thread of the program.

The thread lives as long as the program does, so all tests use the same one.
"""

import os
import sys
import threading
import weakref
from collections import deque

import pytest

from forkrpc import program
from forkrpc.reactor import READ, TICK, WRITE, Reactor, guarded, report
from helpers import MS, open_descriptors, wait_until

LIMIT = 10.0  # seconds; much more than it takes


@pytest.fixture
def reactor():
    reactor = program.current().reactor
    reactor.start()
    return reactor


@pytest.fixture
def reports(monkeypatch):
    reports = []
    monkeypatch.setattr(threading, "excepthook", reports.append)
    return reports


def in_thread(reactor, function=lambda: None):
    """Call *function* in the reactor's thread and wait until it has returned."""
    done, results = threading.Event(), []

    def call():
        try:
            results.append(function())
        finally:
            done.set()

    reactor.soon(call)
    assert done.wait(LIMIT)
    return results[0] if results else None


class Events:
    """A handler that notes what it is called with."""

    def __init__(self, action=lambda: None):
        self.noted = deque()
        self._action = action

    def __call__(self, events):
        self.noted.append(events)
        self._action()


# Descriptors.


def test_a_handler_is_called_when_its_descriptor_can_be_read(reactor, pipe):
    read, write = pipe
    handler = Events(lambda: os.read(read, 100))
    reactor.watch(read, READ, handler)

    in_thread(reactor)
    assert not handler.noted
    os.write(write, b"x")
    wait_until(lambda: handler.noted)
    reactor.unwatch(read)

    assert handler.noted[0] == READ


def test_what_is_watched_for_can_be_changed(reactor, pipe):
    _, write = pipe
    handler = Events(lambda: reactor.change(write, 0))
    reactor.watch(write, 0, handler)

    in_thread(reactor)
    assert not handler.noted
    reactor.change(write, WRITE)
    wait_until(lambda: handler.noted)
    reactor.unwatch(write)

    assert handler.noted[0] == WRITE


def test_a_hang_up_is_told_whatever_is_watched_for(reactor, pipe):
    read, write = pipe
    handler = Events(lambda: reactor.unwatch(read))
    reactor.watch(read, 0, handler)

    os.close(write)

    wait_until(lambda: handler.noted)
    in_thread(reactor)
    assert len(handler.noted) == 1


def test_what_is_not_watched_any_more_is_not_told(reactor, pipe):
    read, write = pipe
    handler = Events()
    reactor.watch(read, READ, handler)
    reactor.unwatch(read)

    os.write(write, b"x")
    in_thread(reactor)
    in_thread(reactor)

    assert not handler.noted


def test_a_descriptor_that_was_never_watched_may_be_forgotten(reactor, pipe):
    reactor.unwatch(pipe[0])


def test_a_handler_may_forget_another_that_is_ready_too(reactor):
    ends = [os.pipe() for _ in range(2)]
    called = []

    def handler(mine, other):
        def handle(_events):
            called.append(mine)
            reactor.unwatch(mine)
            reactor.unwatch(other)

        return handle

    one, other = ends[0][0], ends[1][0]

    def watch_both_when_ready():
        for _, write in ends:
            os.write(write, b"x")
        reactor.watch(one, READ, handler(one, other))
        reactor.watch(other, READ, handler(other, one))

    in_thread(reactor, watch_both_when_ready)
    wait_until(lambda: called)
    in_thread(reactor)
    for fd in ends[0] + ends[1]:
        os.close(fd)

    assert len(called) == 1


# Functions.


def test_functions_are_called_in_order_in_one_thread(reactor):
    called = []
    for number in range(100):
        reactor.soon(
            lambda number=number: called.append((number, threading.get_ident()))
        )
    in_thread(reactor)

    assert called == [(number, reactor.ident) for number in range(100)]


def test_a_function_may_ask_for_another(reactor):
    called = threading.Event()

    reactor.soon(lambda: reactor.soon(called.set))

    assert called.wait(LIMIT)


def test_any_number_of_functions_may_be_queued_while_the_thread_is_busy(reactor):
    busy, go, called = threading.Event(), threading.Event(), []

    def wait():
        busy.set()
        go.wait(LIMIT)

    reactor.soon(wait)
    assert busy.wait(LIMIT)
    for number in range(70_000):  # more wakes than a pipe holds
        reactor.soon(lambda number=number: called.append(number))
    go.set()
    in_thread(reactor)

    assert called == list(range(70_000))


def test_starting_again_does_nothing(reactor):
    before = threading.active_count()

    reactor.start()

    assert threading.active_count() == before


# Timers.


def test_timers_fire_in_the_order_of_their_times(reactor):
    fired, done = [], threading.Event()

    def ask():
        reactor.later(3 * MS, done.set)
        reactor.later(2 * MS, lambda: fired.append(2))
        reactor.later(1 * MS, lambda: fired.append(1))
        reactor.later(0, lambda: fired.append(0))

    in_thread(reactor, ask)

    assert done.wait(LIMIT)
    assert fired == [0, 1, 2]


def test_timers_of_one_time_fire_in_the_order_of_asking(reactor):
    fired, done = [], threading.Event()
    for number in range(10):
        reactor.later(0, lambda number=number: fired.append(number))
    reactor.later(0, done.set)

    assert done.wait(LIMIT)
    assert fired == list(range(10))


def test_a_timer_may_be_asked_for_in_any_thread(reactor):
    fired = []

    reactor.later(0, lambda: fired.append(threading.get_ident()))

    wait_until(lambda: fired)
    assert fired == [reactor.ident]


def test_a_timer_that_was_cancelled_does_not_fire(reactor):
    fired, done, gate = [], threading.Event(), threading.Event()
    reactor.soon(lambda: gate.wait(LIMIT))
    timer = reactor.later(1 * MS, lambda: fired.append(1))
    timer.cancel()
    reactor.later(2 * MS, done.set)
    gate.set()

    assert done.wait(LIMIT)
    assert fired == []


def test_a_timer_may_be_cancelled_after_it_fired(reactor):
    fired = threading.Event()
    timer = reactor.later(0, fired.set)
    assert fired.wait(LIMIT)

    timer.cancel()
    timer.fire()  # has nothing to call any more


# Ticks.


class Ticker:
    """Ticks *times* times."""

    def __init__(self, times, action=lambda: None):
        self.ticked = 0
        self._times = times
        self._action = action

    def tick(self):
        self.ticked += 1
        self._action()
        return self.ticked < self._times


def test_a_ticker_ticks_until_it_wants_no_more(reactor):
    ticker = Ticker(3)
    reactor.tick(ticker)
    wait_until(lambda: ticker.ticked == 3)

    other = Ticker(4)
    reactor.tick(other)
    wait_until(lambda: other.ticked == 4)

    assert ticker.ticked == 3


def test_a_ticker_may_be_started_again(reactor):
    ticker = Ticker(1)
    reactor.tick(ticker)
    wait_until(lambda: ticker.ticked == 1)

    reactor.tick(ticker)

    wait_until(lambda: ticker.ticked == 2)


def test_a_ticker_started_twice_ticks_once_each_time(reactor):
    ticker, other = Ticker(2), Ticker(3)

    def start():
        for each in ticker, ticker, other:
            reactor.tick(each)

    in_thread(reactor, start)
    wait_until(lambda: other.ticked == 3)

    assert ticker.ticked == 2


def test_a_ticker_that_asks_again_while_it_ticks_is_called_again(reactor):
    ticker = Ticker(1, action=lambda: ticker.ticked < 3 and reactor.tick(ticker))

    reactor.tick(ticker)

    wait_until(lambda: ticker.ticked == 3)


def test_nothing_ticks_without_a_pause(reactor):
    times = []
    ticker = Ticker(4, action=lambda: times.append(__import__("time").monotonic()))

    reactor.tick(ticker)
    wait_until(lambda: ticker.ticked == 4)

    assert all(b - a >= TICK for a, b in zip(times, times[1:], strict=False))


def test_a_ticker_that_raises_is_reported_and_not_called_again(reactor, reports):
    def fail():
        raise ValueError("tick")

    ticker, other = Ticker(5, action=fail), Ticker(3)
    reactor.tick(ticker)
    reactor.tick(other)
    wait_until(lambda: other.ticked == 3)

    assert ticker.ticked == 1
    assert [type(each.exc_value) for each in reports] == [ValueError]


# What raises.


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_function_that_raises_is_reported_and_harms_nothing(reactor, reports, error):
    def fail():
        raise error("from a callback")

    called = threading.Event()
    reactor.soon(fail)
    reactor.soon(called.set)

    assert called.wait(LIMIT)
    assert [type(each.exc_value) for each in reports] == [error]
    assert reports[0].thread.ident == reactor.ident


def test_a_timer_that_raises_is_reported_and_harms_nothing(reactor, reports):
    called = threading.Event()

    reactor.later(0, lambda: 1 / 0)
    reactor.later(0, called.set)

    assert called.wait(LIMIT)
    assert [type(each.exc_value) for each in reports] == [ZeroDivisionError]


def test_a_handler_that_raises_is_reported_and_stays(reactor, reports, pipe):
    read, write = pipe

    def handle(_events):
        raise ValueError(os.read(read, 1))

    reactor.watch(read, READ, handle)
    for data in b"a", b"b":
        os.write(write, data)
        wait_until(lambda: reports and reports[-1].exc_value.args == (data,))  # noqa: B023
    reactor.unwatch(read)

    assert len(reports) == 2


def test_a_hook_that_raises_is_reported_by_the_interpreters_own(monkeypatch, capsys):
    def hook(_arguments):
        raise RuntimeError("of the hook")

    monkeypatch.setattr(threading, "excepthook", hook)

    guarded(lambda: 1 / 0)

    assert "RuntimeError: of the hook" in capsys.readouterr().err


def test_a_report_names_the_thread(reports):
    try:
        raise KeyError("key")
    except KeyError:
        report(*sys.exc_info())

    (arguments,) = reports
    assert arguments.exc_type is KeyError
    assert arguments.thread is threading.current_thread()


def test_a_guarded_function_gets_its_arguments():
    called = []

    guarded(lambda *args: called.append(args), 1, 2)

    assert called == [(1, 2)]


# Its descriptors.


def test_an_abandoned_one_has_closed_what_it_held():
    before = open_descriptors()
    reactor = Reactor()
    held = open_descriptors().keys() - before.keys()

    reactor.abandon()

    assert len(held) == 3
    assert open_descriptors() == before


def test_its_descriptors_are_not_inherited():
    before = open_descriptors()
    reactor = Reactor()
    inheritable = [
        fd for fd in open_descriptors().keys() - before.keys() if os.get_inheritable(fd)
    ]
    reactor.abandon()

    assert inheritable == []


def test_one_that_was_never_started_has_no_thread():
    reactor = Reactor()
    ident = reactor.ident
    reactor.abandon()

    assert ident is None


def test_cancelled_timers_are_forgotten_long_before_their_time(reactor):
    class Due:
        def __call__(self):
            raise AssertionError("it was cancelled")

    first = reactor.later(1800, Due())  # those behind it are not at the heap's head
    refs = []
    for _ in range(1000):
        due = Due()
        refs.append(weakref.ref(due))
        reactor.later(3600, due).cancel()
    del due

    in_thread(reactor)

    assert not any(ref() for ref in refs)
    assert len(reactor._timers) < 300
    first.cancel()


def test_who_comes_while_it_is_awake_or_ticks_need_not_wake_it(reactor, monkeypatch):
    woken, wake = [], reactor.wake
    monkeypatch.setattr(reactor, "wake", lambda: (woken.append(1), wake()))
    called = threading.Event()

    def ask_for_more():
        woken.clear()
        reactor.soon(called.set)
        reactor.tick(Ticker(1))

    in_thread(reactor, ask_for_more)

    assert called.wait(LIMIT)
    assert not woken


def test_a_ticker_that_comes_when_the_last_has_gone_ticks_all_the_same(reactor):
    for _ in range(50):  # at once, and while it may be about to sleep
        ticker = Ticker(1)
        reactor.tick(ticker)
        wait_until(lambda ticker=ticker: ticker.ticked == 1)
