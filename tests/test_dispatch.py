"""End-to-end: blocks of calls on their way to workers."""

import contextlib
import math
import os
import signal
import sys
import threading
from _queue import SimpleQueue

import pytest

from forkrpc import Forker, dispatch, intake, reactor, retire, scheduling
from forkrpc.member import Member
from helpers import MS, wait_until
from interrupts import Interrupt, interrupt_everywhere, storm_of_interrupts

LIMIT = 20.0  # seconds; much more than it takes


def echo(value):
    return value


@pytest.fixture(scope="module")
def template():
    with Forker(name="test_dispatch").require(__name__) as template:
        template.ready(LIMIT)
        yield template


def test_a_flood_is_answered_once_each(template):
    results = SimpleQueue()
    with template.pool(echo, max=3, start=0) as pool:
        for number in range(20_000):
            pool(number, results.put)
        found = [results.get(timeout=LIMIT) for _ in range(20_000)]
        assert sorted(found) == list(range(20_000))
        assert results.empty()


VERBS = ["call", "submit", "callback"]


def maker(pool, verb):
    """Return a function that makes a call of *pool* and waits for its result."""
    results = SimpleQueue()

    def make(value):
        if verb == "call":
            return pool.call(value)
        if verb == "submit":
            return pool.submit(value).result(LIMIT)
        while not results.empty():  # of a call whose wait was interrupted
            results.get_nowait()
        pool(value, results.put)
        while (found := results.get(timeout=LIMIT)) != value:
            pass
        return found

    return make


@pytest.mark.parametrize("module", [intake, scheduling])
@pytest.mark.parametrize("verb", VERBS)
def test_an_interrupt_anywhere_loses_no_call(template, module, verb):
    def attempt(interrupt):
        with contextlib.suppress(Interrupt), interrupt as raised:
            make(1)
        assert make(2) == 2
        assert pool.submit(3).result(LIMIT) == 3
        wait_until(lambda: pool.pending == 0, LIMIT)
        return raised

    with template.pool(echo, max=1, load=1) as pool:
        make = maker(pool, verb)
        make(0)
        interrupt_everywhere(attempt, module)
        assert len(pool.pids) == 1


@pytest.mark.skipif(
    sys.version_info < (3, 11),
    reason="Python 3.10 may leave a with without its exit, see README, Platforms",
)
@pytest.mark.parametrize("verb", VERBS)
def test_interrupts_by_a_signal_lose_no_call(template, verb):
    """Real ones: `with` is not torn, as it is where each bytecode may raise."""
    with template.pool(echo, max=2, start=0) as pool:
        make = maker(pool, verb)
        with storm_of_interrupts(dispatch, MS / 5) as raised:
            for number in range(1, 2000):
                with contextlib.suppress(Interrupt):
                    assert make(number) == number
        assert make(0) == 0
        wait_until(lambda: pool.pending == 0, LIMIT)
        assert raised


def test_a_call_whose_worker_dies_before_it_gets_it_goes_to_another(
    template, monkeypatch
):
    exchange = Member.exchange

    def late(member, call, queue):
        monkeypatch.setattr(Member, "exchange", exchange)
        os.kill(*pool.pids, signal.SIGKILL)
        assert member.ended.wait(LIMIT)
        return exchange(member, call, queue)

    with template.pool(echo, max=1, stop=math.inf) as pool:
        assert pool.call(1) == 1
        monkeypatch.setattr(Member, "exchange", late)
        assert pool.call(2) == 2


def test_a_worker_that_retires_gets_nothing_more(template):
    def once(_):
        retire()
        return os.getpid()

    with template.pool(once, max=1, load=1) as pool:
        pids = [each.result(LIMIT) for each in [pool.submit(n) for n in range(10)]]
        pids += [pool.call(n) for n in range(5)]
    assert len(set(pids)) == 15


def test_nothing_is_kept_of_what_was_answered(template):
    with template.pool(echo, max=1) as pool:
        for _ in range(3):
            assert pool.call(bytes(5000)) == bytes(5000)
            assert pool.submit(bytes(5000)).result(LIMIT) == bytes(5000)
        (member,) = pool._connection.hands()
        wait_until(lambda: not member.session._kept, LIMIT)


@pytest.mark.parametrize("verb", ["_look_after_calls", "manage_soon"])
def test_an_interrupt_leaves_nothing_noted_that_will_not_be_done(template, verb):
    """Else nobody would ever ask for it again."""

    def attempt(interrupt):
        with contextlib.suppress(Interrupt), interrupt as raised:
            getattr(crew, verb)()
        wait_until(lambda: not (crew._ticking or crew._managing), LIMIT)
        return raised

    with template.pool(echo, max=1) as pool:
        pool.call(1)
        crew = pool._connection
        wait_until(lambda: not (crew._ticking or crew._managing), LIMIT)
        assert interrupt_everywhere(attempt, reactor)


def at_rest(pool):
    """Wait until nobody looks after the calls of a pool of one worker."""
    crew = pool._connection
    (member,) = crew.hands()
    wait_until(lambda: not (crew._ticking or member._ticking), LIMIT)


def test_what_an_interrupt_left_unsent_is_sent_by_the_next_tick(template, monkeypatch):
    flush = Member.flush

    def interrupted(member):
        if threading.current_thread() is not threading.main_thread():
            return flush(member)  # nobody interrupts that one
        monkeypatch.setattr(Member, "flush", flush)
        raise Interrupt

    with template.pool(echo, max=1) as pool:
        pool.call(0)
        at_rest(pool)
        monkeypatch.setattr(Member, "flush", interrupted)
        results = SimpleQueue()
        with contextlib.suppress(Interrupt):
            pool(1, results.put)
        assert results.get(timeout=LIMIT) == 1


def test_what_an_interrupt_left_counted_is_counted_anew(template):
    with template.pool(echo, max=1, load=1) as pool:
        pool.call(0)
        at_rest(pool)
        crew = pool._connection
        (member,) = crew.hands()
        crew.scheduler.given(member.place, 1)  # a call, which then has not come
        assert pool.submit(1).result(LIMIT) == 1
