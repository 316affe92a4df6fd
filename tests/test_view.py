"""End-to-end: views of a proxy, whose calls have other settings."""

import asyncio
import gc
import os
import threading
import time

import pytest

from forkrpc import CallTimeout, ClosedError, Forker, Proxy, WorkerDied
from helpers import MS, descendants, wait_until

LIMIT = 10.0  # seconds; much more than it takes

WORK = """
import asyncio, os, time

def wait_for(path, *_, **__):
    while not os.path.exists(path):
        time.sleep(0.005)
    return path

def sleep(seconds):
    time.sleep(seconds)
    return seconds

async def sleeping(seconds):
    await asyncio.sleep(seconds)
    return seconds

def done_later(done, seconds):
    asyncio.get_running_loop().call_later(seconds, done, seconds)

async def stuck(seconds):
    time.sleep(seconds)
"""

FORMS = {
    "call": lambda proxy, *args: proxy.call(*args),
    "submit": lambda proxy, *args: proxy.submit(*args).result(LIMIT),
    "keywords": lambda proxy, *args: proxy.call(*args, more=1),
    "acall": lambda proxy, *args: asyncio.run(proxy.acall(*args)),
}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@pytest.fixture(scope="module")
def template():
    before = set(descendants(os.getpid()))
    with Forker(name="view") as template:
        template.eval(WORK)
        with template.run("sleeping", backend="async") as proxy:
            proxy.call(0)  # the template's twin stays as long as it does
        yield template
    wait_until(lambda: before.issuperset(descendants(os.getpid())), LIMIT)


class Worker:
    """Runs a worker and keeps what it is told."""

    def __init__(self, template, function, **options):
        self.errors = []
        self.proxy = template.run(function, on_error=self.errors.append, **options)


@pytest.fixture
def start(template):
    proxies = []

    def start(function, **options):
        worker = Worker(template, function, **options)
        proxies.append(worker.proxy)
        return worker

    yield start
    for proxy in proxies:
        proxy.kill()
        proxy.join(LIMIT)


@every_form
def test_a_call_beyond_the_limit_of_its_view_ends_the_worker(start, tmp_path, form):
    worker = start("wait_for")
    view = worker.proxy.with_options(timeout=100 * MS)

    with pytest.raises(CallTimeout, match=r"longer than its timeout of 0\.1 s"):
        form(view, str(tmp_path / "never"))

    assert worker.proxy.join(LIMIT)
    assert worker.proxy.returncode == -9
    assert [type(error) for error in worker.errors] == [CallTimeout]


def test_a_call_with_a_callback_beyond_the_limit_is_told_to_on_error(start, tmp_path):
    worker = start("wait_for")

    worker.proxy.with_options(timeout=50 * MS)(str(tmp_path / "never"), print)

    assert worker.proxy.join(LIMIT)
    assert [type(error) for error in worker.errors] == [CallTimeout]


@every_form
def test_a_call_within_the_limit_of_its_view_is_answered(start, tmp_path, form):
    path = tmp_path / "there"
    path.touch()
    worker = start("wait_for")

    assert form(worker.proxy.with_options(timeout=5), str(path)) == str(path)


def test_a_callback_of_a_view_gets_the_result(start):
    results = []
    worker = start("sleep")
    view = worker.proxy.with_options(timeout=5)

    view(0, results.append)
    view(0, None)
    worker.proxy.close()
    worker.proxy.join(LIMIT)

    assert results == [0]
    with pytest.raises(TypeError, match="callback"):
        view(0)


def test_the_limit_counts_from_the_start_of_the_call(start):
    """Those that wait behind others have as long as they need."""
    worker = start("sleep")
    view = worker.proxy.with_options(timeout=1)

    futures = [view.submit(100 * MS) for _ in range(15)]

    assert [future.result(LIMIT) for future in futures] == [100 * MS] * 15


def test_other_calls_of_the_worker_have_no_limit(start, tmp_path):
    worker = start("wait_for")
    go = tmp_path / "go"
    future = worker.proxy.submit(str(go))

    behind = worker.proxy.with_options(timeout=100 * MS).submit(str(go))
    time.sleep(0.3)  # it would be over by now
    go.touch()

    assert future.result(LIMIT) == behind.result(LIMIT) == str(go)


def test_calls_without_a_limit_may_have_attributes_of_that_name(start):
    worker = start("sleep")
    worker.proxy.with_options(timeout=5).call(0)
    results = []

    def callback(result):
        results.append(result)

    callback.limit = 1 * MS
    worker.proxy(200 * MS, callback)
    worker.proxy.close()

    assert worker.proxy.join(LIMIT)
    assert results == [200 * MS]


def test_each_call_has_the_limit_of_its_own_view(start, tmp_path):
    worker = start("sleep")
    views = [worker.proxy.with_options(timeout=seconds) for seconds in (5, 0.1)]

    assert views[0].call(0.2) == 0.2
    first, second = views[0].submit(0.2), views[1].submit(0.4)

    assert first.result(LIMIT) == 0.2
    with pytest.raises(CallTimeout, match=r"timeout of 0\.1 s"):
        second.result(LIMIT)


def test_a_view_may_lengthen_or_lift_the_limit_of_the_worker(start):
    worker = start("sleep", timeout=100 * MS)

    assert worker.proxy.with_options(timeout=5).call(250 * MS) == 250 * MS
    assert worker.proxy.with_options(timeout=None).call(250 * MS) == 250 * MS
    assert worker.proxy.with_options().call(0) == 0
    with pytest.raises(CallTimeout, match=r"timeout of 0\.1 s"):
        worker.proxy.with_options().call(5)


def test_calls_behind_one_that_ran_too_long_are_told_that_they_had_not_begun(start):
    worker = start("sleep")
    view = worker.proxy.with_options(timeout=50 * MS)

    first, second = view.submit(5), worker.proxy.submit(0)

    assert isinstance(first.exception(LIMIT), CallTimeout)
    error = second.exception(LIMIT)
    assert isinstance(error, WorkerDied)
    assert error.started is False


@pytest.mark.parametrize("function", ["sleeping", "done_later"])
def test_an_asynchronous_worker_ends_the_call_and_goes_on(start, function):
    worker = start(function, backend="async")
    view = worker.proxy.with_options(timeout=100 * MS)

    long, short = view.submit(5), view.submit(0)
    free = worker.proxy.submit(300 * MS)
    other = worker.proxy.with_options(timeout=50 * MS).submit(5)

    for future, limit in (long, "0.1"), (other, "0.05"):
        with pytest.raises(CallTimeout, match=rf"timeout of {limit} s"):
            future.result(LIMIT)
    assert short.result(LIMIT) == 0
    assert free.result(LIMIT) == 300 * MS
    assert worker.errors == []


def test_views_of_an_asynchronous_worker_may_lift_its_limit(start):
    worker = start("sleeping", backend="async", timeout=100 * MS)

    futures = [
        worker.proxy.with_options(timeout=None).submit(300 * MS),
        worker.proxy.with_options(timeout=5).submit(300 * MS),
        worker.proxy.submit(5),
    ]

    assert [future.result(LIMIT) for future in futures[:2]] == [300 * MS] * 2
    assert isinstance(futures[2].exception(LIMIT), CallTimeout)


def test_an_asynchronous_worker_that_is_stuck_is_ended(start):
    worker = start("stuck", backend="async")

    with pytest.raises(CallTimeout, match=r"timeout of 0\.1 s"):
        worker.proxy.with_options(timeout=100 * MS).call(60)

    assert worker.proxy.join(LIMIT)
    assert worker.proxy.returncode == -9


def test_a_view_keeps_the_connection_open(template):
    proxy = template.run("sleep")
    view = proxy.with_options(timeout=5)
    del proxy
    gc.collect()

    assert view.call(0) == 0

    proxy = view.with_options(timeout=3)
    pid = view.pid
    del view
    gc.collect()
    assert proxy.call(0) == 0
    assert proxy.pid == pid
    proxy.close()
    assert proxy.join(LIMIT)


def test_dropping_a_view_does_not_close_the_proxy(start):
    worker = start("sleep")
    view = worker.proxy.with_options(timeout=5)

    view.call(0)
    del view
    gc.collect()

    assert worker.proxy.call(0) == 0


def test_dropping_the_last_of_both_closes(template):
    destroyed = threading.Event()
    view = template.run("sleep", on_destroy=destroyed.set).with_options(timeout=5)

    assert view.call(0) == 0
    del view

    assert destroyed.wait(LIMIT)


def test_a_view_has_the_other_verbs(start):
    worker = start("sleep")
    view = worker.proxy.with_options(timeout=5)

    assert isinstance(view, Proxy)
    assert view.pid == worker.proxy.pid
    assert view.pending == 0
    assert view.returncode is None
    assert view.drain(LIMIT)
    view.close()
    assert view.join(LIMIT)
    with pytest.raises(ClosedError):
        worker.proxy.call(0)


def test_a_view_closes_as_a_context_does(template):
    with template.run("sleep").with_options(timeout=5) as view:
        assert view.call(0) == 0
    assert view.returncode == 0

    async def main():
        async with template.run("sleep").with_options(timeout=5) as view:
            return await view.acall(0), view

    result, view = asyncio.run(main())
    assert result == 0
    assert view.returncode == 0


def test_its_repr_tells_the_settings(start):
    view = start("sleep").proxy.with_options(timeout=2.5)

    assert repr(view).startswith("<View of Proxy sleep, pid ")
    assert repr(view).endswith("; timeout 2.5>")


def test_a_dead_workers_view_fails_as_the_proxy_does(start):
    worker = start("sleep")
    view = worker.proxy.with_options(timeout=5)
    view.kill()
    worker.proxy.join(LIMIT)

    assert isinstance(view.submit(0).exception(LIMIT), WorkerDied)
    with pytest.raises(WorkerDied):
        view.call(0)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"timeuot": 1}, TypeError, "no option 'timeuot'; did you mean 'timeout'"),
        ({"nice": 1}, TypeError, "no option 'nice'; its options are timeout, retries"),
        ({"retries": 1}, TypeError, "needs a pool"),
        ({"timeout": 0}, ValueError, "timeout must be seconds above 0 or None, not 0"),
        ({"timeout": "1"}, ValueError, "timeout must be seconds"),
    ],
)
def test_a_bad_option_is_refused(start, options, error, text):
    worker = start("sleep")

    for proxy in worker.proxy, worker.proxy.with_options(timeout=5):
        with pytest.raises(error, match=text):
            proxy.with_options(**options)


def test_waiting_in_a_callback_is_refused(start):
    worker = start("sleep")
    view = worker.proxy.with_options(timeout=5)
    errors = []

    def callback(_result):
        try:
            view.call(0)
        except RuntimeError as error:
            errors.append(error)

    view(0, callback)

    wait_until(lambda: errors, LIMIT)


# Streams.


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_a_stream_of_a_view_that_runs_too_long_is_ended(backend):
    def endless(text):
        yield text
        while True:
            time.sleep(MS)
            if backend != "sync":  # others have their turn
                yield text

    with Forker().run(endless, backend=backend, on_error=print) as proxy:
        view = proxy.with_options(timeout=0.2)
        taken = view.stream(text="item")
        assert next(taken) == "item"
        with pytest.raises((WorkerDied, CallTimeout), match="timeout of 0.2 s"):
            list(taken)
        proxy.kill()


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_a_stream_waits_for_its_reader_without_running_out_of_time(backend):
    def numbers(count):
        yield from range(count)

    with Forker().run(numbers, backend=backend) as proxy:
        taken = proxy.with_options(timeout=0.3).stream(1000)
        assert next(taken) == 0
        time.sleep(0.5)  # the generator is a window ahead
        assert list(taken) == list(range(1, 1000))
        assert list(proxy.stream(2)) == [0, 1]
