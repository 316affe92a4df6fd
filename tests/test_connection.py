"""End-to-end: what a connection tells its user, and when."""

import concurrent.futures
import contextlib
import logging
import os
import signal
import threading
import time
from _queue import SimpleQueue

import pytest

from forkrpc import ClosedError, Forker, ProtocolError, SerialiserError, WorkerDied
from helpers import MS, wait_until
from interrupts import Interrupt, interrupt_everywhere

LIMIT = 10.0  # seconds; much more than it takes

WORK = """
import ctypes, os, signal, time
from forkrpc import event

def serve(verb, *args):
    return globals()[verb](*args)

def echo(value=None):
    return value

def tell(count):
    for number in range(count):
        event(number, bytes(1000))
    return count

def pause():
    signal.pause()

def hold_the_lock():
    ctypes.PyDLL(None).pause()  # keeps the interpreter from any other thread

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def fail():
    raise ValueError("on purpose")

def write_garbage():
    for fd in range(3, 64):
        try:
            os.write(fd, bytes(64))
        except OSError:
            pass
"""


@pytest.fixture(scope="module")
def template():
    with Forker(name="test_connection").require(__name__) as template:
        template.eval(WORK).ready(LIMIT)
        yield template


@pytest.fixture
def start(template):
    proxies = []

    def start(**options):
        proxies.append(template.run("serve", **options))
        return proxies[-1]

    yield start
    for proxy in proxies:
        proxy.kill()
        assert proxy.join(LIMIT)


class Told:
    """A callback that notes what it is told, and lets others wait for it."""

    def __init__(self):
        self.all = []

    def __call__(self, *args):
        self.all.append(args)

    def first(self):
        return wait_until(lambda: self.all, LIMIT)[0]


@pytest.fixture
def log():
    """The records of the library's logger."""
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("forkrpc")
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


# Whom an error is told to.


def test_the_error_of_a_call_with_a_callback_is_told_to_on_error(start):
    on_error, on_event = Told(), Told()
    proxy = start(on_error=on_error, on_event=on_event)

    proxy("fail", None)

    (error,) = on_error.first()
    assert type(error) is ValueError
    assert error.call == "call 1 of serve"
    assert on_event.all == []


def test_without_on_error_it_is_an_event(start):
    on_event = Told()
    proxy = start(on_event=on_event)

    proxy("fail", None)

    what, error = on_event.first()
    assert (what, type(error)) == ("error", ValueError)


def test_without_both_it_is_logged_with_its_traceback(start, log):
    proxy = start()

    proxy("fail", None)

    wait_until(lambda: log, LIMIT)
    assert log[0].levelno == logging.ERROR
    assert log[0].getMessage() == "on purpose"
    assert log[0].exc_info


def test_the_error_of_a_call_that_someone_waits_for_is_told_to_nobody_else(start):
    on_error = Told()
    proxy = start(on_error=on_error)

    with pytest.raises(ValueError, match="on purpose"):
        proxy.call("fail")
    assert type(proxy.submit("fail").exception(LIMIT)) is ValueError

    assert proxy.drain(LIMIT)
    assert on_error.all == []


def test_an_event_that_nobody_wants_goes_to_on_error_and_harms_nothing(start):
    on_error = Told()
    proxy = start(on_error=on_error)

    proxy("event", 7, None)

    (error,) = on_error.first()
    assert type(error) is SerialiserError
    assert proxy.call("echo", 1) == 1


def test_events_come_with_their_arguments_in_order_with_results(start):
    told = []
    proxy = start(on_event=lambda *args: told.append(args))

    for number in range(3):
        proxy("event", "event", number, told.append)
    assert proxy.drain(LIMIT)
    proxy.close()
    assert proxy.join(LIMIT)

    assert told == [each for number in range(3) for each in (("event", number), None)]


def test_a_handler_that_raises_is_reported_and_harms_nothing(start, monkeypatch):
    reports = []
    monkeypatch.setattr(threading, "excepthook", reports.append)

    def on_error(error):
        raise SystemExit

    proxy = start(on_error=on_error)
    proxy("fail", None)

    assert proxy.call("echo", 1) == 1
    wait_until(lambda: reports, LIMIT)
    assert reports[0].exc_type is SystemExit


# What is told of the end.


def test_a_death_is_told_once_whatever_it_cost(start):
    on_error, on_destroy = Told(), Told()
    proxy = start(on_error=on_error, on_destroy=on_destroy)
    for _ in range(5):
        with contextlib.suppress(WorkerDied):  # the first may have done it already
            proxy("die", None)

    assert proxy.join(LIMIT)

    ((error,),) = on_error.all
    assert type(error) is WorkerDied
    assert error.signal == "SIGKILL"
    assert on_destroy.all == []


def test_the_death_of_an_idle_worker_is_told_too(start):
    on_error = Told()
    proxy = start(on_error=on_error)
    proxy.call("echo")

    os.kill(proxy.pid, signal.SIGKILL)

    assert proxy.join(LIMIT)
    assert [type(error) for (error,) in on_error.all] == [WorkerDied]


def test_a_kill_is_told_to_nobody_but_those_who_wait(start):
    on_error, on_destroy = Told(), Told()
    proxy = start(on_error=on_error, on_destroy=on_destroy)
    future = proxy.submit("pause")

    proxy.kill()

    assert type(future.exception(LIMIT)) is WorkerDied
    assert proxy.join(LIMIT)
    assert on_error.all == on_destroy.all == []


def test_a_close_is_told_last(start):
    told = []
    proxy = start(on_destroy=lambda: told.append("destroyed"))
    for number in range(100):
        proxy("echo", number, told.append)

    proxy.close()
    assert proxy.join(LIMIT)

    assert told == [*range(100), "destroyed"]
    with pytest.raises(ClosedError, match="the proxy was closed"):
        proxy.call("echo")


def test_a_worker_that_writes_garbage_is_ended_and_told(start):
    on_error = Told()
    proxy = start(on_error=on_error)

    with pytest.raises(ProtocolError):
        proxy.call("write_garbage")

    assert proxy.join(LIMIT)
    assert [type(error) for (error,) in on_error.all] == [ProtocolError]


# Results that a stuck worker holds back.


@pytest.mark.parametrize("stuck", ["pause", "hold_the_lock"])
def test_results_before_a_stuck_call_reach_their_callbacks(start, stuck):
    proxy, results = start(on_error=Told()), []
    assert proxy.call("echo") is None
    for number in range(20):
        proxy("echo", number, results.append)

    proxy(stuck, None)

    wait_until(lambda: len(results) == 20, LIMIT)
    assert results == list(range(20))
    assert proxy.pending == 1


@pytest.mark.parametrize("stuck", ["pause", "hold_the_lock"])
def test_results_before_a_stuck_call_reach_those_who_wait(start, stuck):
    proxy = start(on_error=Told())
    values = [None, True, 7, 1.5, "text", [1, 2], 1 << 70]
    futures = [proxy.submit("echo", value) for value in values]

    last = proxy.submit(stuck)

    assert [future.result(LIMIT) for future in futures] == values
    assert not last.done()


@pytest.mark.parametrize("stuck", ["pause", "hold_the_lock"])
def test_a_thread_that_waits_for_the_stuck_call_brings_the_others(start, stuck):
    proxy, results, errors = start(on_error=Told()), [], []
    for number in range(20):
        proxy("echo", number, results.append)

    def wait():
        try:
            proxy.call(stuck)
        except WorkerDied as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    life = proxy._connection.life
    wait_until(lambda: len(results) == 20 and life.held()[1] == 21, LIMIT)
    proxy.kill()
    thread.join(LIMIT)

    assert results == list(range(20))
    assert [error.started for error in errors] == [True]


def test_results_that_were_recovered_are_not_given_twice(start):
    proxy, results = start(on_error=Told()), []
    for number in range(20):
        proxy("echo", number, results.append)
    future = proxy.submit("pause")
    wait_until(lambda: len(results) == 20, LIMIT)

    os.kill(proxy.pid, signal.SIGKILL)

    assert future.exception(LIMIT).started is True
    assert proxy.join(LIMIT)
    assert results == list(range(20))


def test_results_made_before_a_death_are_given(start):
    proxy, results = start(on_error=Told()), []
    for number in range(20):
        proxy("echo", number, results.append)
    proxy("die", None)
    behind = proxy.submit("echo", 1)

    assert proxy.join(LIMIT)

    assert results == list(range(20))
    assert behind.exception().started is False


# Cancelling.

SLOW = """
import asyncio, os

async def wait(path=None):
    try:
        await asyncio.sleep(1000)
    finally:
        if path:
            open(path, "x").close()

async def echo(value):
    return value

def block(path):
    with open(path, "rb") as file:
        file.read()
    return "through"

async def run(name, *args):
    return await globals()[name](*args)
"""


@pytest.fixture(scope="module")
def slow():
    with Forker().eval(SLOW) as template:
        with template.run("echo", backend="async") as proxy:
            proxy.call(1)  # the template's twin stays as long as it does
        links = [template._link, template._link.with_asyncio()]
        yield template
    wait_until(lambda: all(link.ended for link in links), LIMIT)


def test_a_running_call_of_an_async_worker_is_cancelled(slow, tmp_path):
    path = tmp_path / "cleaned"
    with slow.run("run", backend="async") as proxy:
        future = proxy.submit("wait", str(path))
        other = proxy.submit("echo", 1)
        assert other.result(LIMIT) == 1
        assert future.running()
        assert future.cancel() is True
        assert future.cancelled()
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(LIMIT)
        wait_until(lambda: proxy.pending == 0, LIMIT)
        assert path.exists()
        assert proxy.call("echo", 2) == 2


def test_a_thousand_running_calls_are_cancelled_and_the_worker_goes_on(slow):
    with slow.run("run", backend="async") as proxy:
        futures = [proxy.submit("wait") for _ in range(1000)]
        assert proxy.call("echo", 1) == 1
        assert all(future.cancel() for future in futures)
        assert proxy.call("echo", 2) == 2
        wait_until(lambda: proxy.pending == 0, LIMIT)
        done, waiting = concurrent.futures.wait(futures, LIMIT)
        assert (len(done), len(waiting)) == (1000, 0)


def test_a_call_that_waits_for_its_turn_is_withdrawn(slow):
    with slow.run("run", backend="async", limit=1) as proxy:
        first = proxy.submit("wait")
        rest = [proxy.submit("echo", number) for number in range(10)]
        assert rest[3].cancel()
        assert first.cancel()
        assert [each.result(LIMIT) for each in rest if not each.cancelled()] == [
            *(0, 1, 2, 4, 5, 6, 7, 8, 9)
        ]


def test_a_call_of_a_sync_worker_is_withdrawn_while_it_is_not_sent(slow, tmp_path):
    os.mkfifo(tmp_path / "gate")
    with slow.run("block") as proxy:
        first = proxy.submit(str(tmp_path / "gate"))
        wait_until(first.running, LIMIT)
        assert first.cancel() is False
        with proxy._connection._channel._writing:  # nothing is sent meanwhile
            futures = []

            def submit():
                for _ in range(5):
                    futures.append(proxy.submit("/dev/null"))

            thread = threading.Thread(target=submit)
            thread.start()
            wait_until(lambda: proxy._connection.session.unsent, LIMIT)
        thread.join(LIMIT)
        unsent = [future for future in futures if not future.running()]
        cancelled = [future for future in unsent if future.cancel()]
        assert all(future.cancelled() for future in cancelled)
        with open(tmp_path / "gate", "wb"):
            pass
        assert first.result(LIMIT) == "through"
        for future in futures:
            if future not in cancelled:
                assert future.result(LIMIT) == "through"
        assert proxy.pending == 0


def test_withdrawn_calls_of_a_sync_worker_never_run(slow, tmp_path):
    os.mkfifo(tmp_path / "gate")
    with slow.run("block") as proxy:
        first = proxy.submit(str(tmp_path / "gate"))
        # More than are sent ahead, so that the last ones wait in the program.
        futures = [proxy.submit("/dev/null") for _ in range(3000)]
        cancelled = [future for future in futures[::-1] if future.cancel()]
        with open(tmp_path / "gate", "wb"):
            pass
        done, waiting = concurrent.futures.wait([first, *futures], LIMIT)
        assert not waiting
        assert all(each.cancelled() for each in cancelled)
        assert sum(each.cancelled() for each in futures) == len(cancelled)
        assert proxy.pending == 0
        assert proxy.call("/dev/null") == "through"


def test_cancel_and_death_settle_each_call_once(slow):
    proxy = slow.run("run", backend="async", on_error=lambda error: None)
    futures = [proxy.submit("wait") for _ in range(200)]
    told = []
    for future in futures:
        future.add_done_callback(told.append)
    killer = threading.Thread(target=proxy.kill)
    for number, future in enumerate(futures):
        if number == 100:
            killer.start()
        future.cancel()
    killer.join(LIMIT)
    assert proxy.join(LIMIT)

    assert len(told) == 200
    assert set(told) == set(futures)
    assert proxy.pending == 0
    assert not futures[0].cancel() or futures[0].cancelled()


def test_an_interrupted_cancel_leaves_nothing_half_done(slow):
    from forkrpc import connection as connection_module

    with slow.run("run", backend="async") as proxy:

        def attempt(interrupted):
            future = proxy.submit("wait")
            try:
                with interrupted as raised:
                    future.cancel()
            except Interrupt:
                future.cancel()
            assert future.cancelled()
            return raised

        assert interrupt_everywhere(attempt, connection_module) > 3
        wait_until(lambda: proxy.pending == 0, LIMIT)
        assert proxy.call("echo", 1) == 1


@pytest.mark.parametrize("way", ["call", "submit", "callback"])
def test_a_call_that_comes_just_behind_the_end_is_settled_too(start, way):
    """As of a thread that was held up between looking and queueing."""
    proxy = start(on_error=Told())
    proxy("die", None)
    assert proxy.join(LIMIT)
    connection, queue = proxy._connection, SimpleQueue()
    session = connection.session
    wait_until(lambda: not connection._ticking, LIMIT)

    if way == "call":
        outcome = connection._channel.exchange(1, queue)
    elif way == "submit":
        session.unsent.extend((1, queue))
        connection.send()
        outcome = queue.get(timeout=LIMIT)
    else:
        session.unsent.extend((1, print))
        assert len(session.unsent) >= session.gather  # so that `send` is called
        connection.send()
        outcome = None

    if outcome is not None:
        assert type(outcome.error) is WorkerDied
        assert outcome.error.started is False
    wait_until(lambda: not proxy.pending, LIMIT)


def test_events_that_are_read_slowly_come_before_results_that_are_held_back(start):
    told = []

    def on_event(number, _):
        time.sleep(2 * MS)
        told.append(number)

    proxy = start(on_event=on_event, on_error=Told())
    assert proxy.call("echo") is None
    for number in range(10):
        proxy("echo", number, None)
    proxy("tell", 180, told.append)  # more than is read at once, all in the socket

    proxy("pause", None)

    wait_until(lambda: len(told) == 181, LIMIT)
    assert told == list(range(181))


@pytest.fixture
def dying(template):
    """A worker with calls under way, and its connection; it can be killed."""
    proxy = template.run("serve", on_error=lambda error: None)
    for _ in range(50):
        proxy("pause", print)
    yield proxy, proxy._connection
    proxy.kill()
    assert proxy.join(LIMIT)


def late_call(connection):
    """Do what a call does that has found the proxy open, and was overtaken then."""
    unsent = connection.session.unsent
    unsent.extend((1, print))
    if len(unsent) >= connection.session.gather:
        connection.send()


def test_a_call_that_comes_while_the_last_ones_are_failed_is_failed_too(
    dying, monkeypatch
):
    proxy, connection = dying
    sweep, late = connection._sweep, []

    def swept():
        lost = sweep()
        if connection.ended.is_open() and not late:
            late.append(late_call(connection))
        return lost

    os.kill(proxy.pid, signal.SIGKILL)
    assert proxy.join(LIMIT)
    monkeypatch.setattr(connection, "_sweep", swept)
    late_call(connection)

    wait_until(lambda: late and proxy.pending == 0, LIMIT)


def test_a_call_behind_the_end_is_failed_although_others_were_being_written(
    dying, monkeypatch
):
    proxy, connection = dying
    close = connection._channel.close

    def closed():
        connection.session.must_send()  # a thread that writes does so, to the end
        close()

    monkeypatch.setattr(connection._channel, "close", closed)
    os.kill(proxy.pid, signal.SIGKILL)
    assert proxy.join(LIMIT)
    wait_until(lambda: not connection._ticking, LIMIT)  # nobody looks any more

    late_call(connection)

    wait_until(lambda: proxy.pending == 0, LIMIT)
