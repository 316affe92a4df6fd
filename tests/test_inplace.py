"""Contract: proxies of calls in place beside those of workers: the same verbs."""

import asyncio
import gc
import os
import threading

import pytest

import forkrpc
from forkrpc import (
    ClosedError,
    Forker,
    RemoteError,
    SerialiserError,
    SetupError,
    WorkerDied,
)
from helpers import descendants, wait_until

LIMIT = 10.0  # seconds; much more than it takes

WORK = """
import asyncio, os, sys, threading
from forkrpc import event, flush, in_worker, retire

def echo(value=None, **kwargs):
    return kwargs or value

def fail(kind, *args):
    raise kind(*args)

def change(values):
    values.append("changed")
    return values

def say(count):
    for number in range(count):
        event(number)
    return flush(), in_worker()

def retiring(value):
    retire()
    return value

def apply(function, *args):
    return globals()[function](*args)

async def sleeping(value, seconds=0.0):
    await asyncio.sleep(seconds)
    event("slept", value)
    return value, in_worker()

def done_later(done, value):
    asyncio.get_running_loop().call_later(0.01, done, value)
"""


@pytest.fixture(params=["forked", "inline"])
def template(request, templates):
    return templates[request.param]


@pytest.fixture(scope="module")
def templates():
    before = set(descendants(os.getpid()))
    with Forker().eval(WORK).ready() as forked, Forker.inline().eval(WORK) as inline:
        with forked.run("sleeping", backend="async", on_event=print) as proxy:
            proxy.call(0)  # the template's twin stays as long as it does
        yield {"forked": forked, "inline": inline}
    wait_until(lambda: before.issuperset(descendants(os.getpid())), LIMIT)


@pytest.fixture
def inline(templates):
    return templates["inline"]


class Told:
    """Keeps what the handlers of a worker are told, in order."""

    def __init__(self):
        self.all = []

    def options(self):
        return {
            "on_event": lambda *args: self.all.append(("event", *args)),
            "on_error": lambda error: self.all.append(("error", type(error))),
            "on_destroy": lambda: self.all.append(("destroy",)),
        }


def test_every_verb_gives_the_result(template):
    told = Told()
    with template.run("echo", **told.options()) as proxy:
        proxy(1, lambda result: told.all.append(("result", result)))
        proxy(2, None)
        assert proxy.submit(3).result(LIMIT) == 3
        assert proxy.call(4) == 4
        assert proxy.call(self=5, args=6) == {"self": 5, "args": 6}
        assert asyncio.run(proxy.acall(5)) == 5
        assert proxy.with_options(timeout=5).call(6) == 6
        assert proxy.drain(LIMIT)
        assert proxy.pending == 0
        assert "echo, pid" in repr(proxy)
    assert told.all == [("result", 1), ("destroy",)]
    assert proxy.returncode == 0


def test_events_and_results_come_in_order(template):
    told = Told()

    with template.run("say", **told.options()) as proxy:
        proxy(2, lambda result: told.all.append(("result", *result)))

    events = [("event", 0), ("event", 1)]
    assert told.all == [*events, ("result", True, True), ("destroy",)]


def test_outside_a_call_there_is_no_worker(template):
    with template.run("echo") as proxy:
        proxy.call(1)

    assert forkrpc.in_worker() is False
    for verb in forkrpc.event, forkrpc.flush:
        with pytest.raises(ClosedError):
            verb()


def test_in_init_there_is_no_worker_either(template):
    found = []
    with template.run("echo", init=lambda: found.append(forkrpc.in_worker())) as proxy:
        proxy.call(1)

    assert found in ([], [False])  # a worker has a list of its own


def test_an_event_without_a_handler_is_an_error(template):
    errors = []
    with template.run("say", on_error=errors.append) as proxy:
        assert proxy.call(1) == (True, True)

    assert [type(error) for error in errors] == [SerialiserError]


def test_an_exception_costs_its_call_only(template):
    told = Told()
    with template.run("apply", **told.options()) as proxy:
        with pytest.raises(KeyError, match="why") as info:
            proxy.call("fail", KeyError, "why")
        assert info.value.call == "call 1 of apply"
        proxy("fail", ValueError, print)
        with pytest.raises(RemoteError, match="GeneratorExit"):
            proxy.call("fail", GeneratorExit)
        assert proxy.call("echo", 1) == 1
    assert told.all == [("error", ValueError), ("destroy",)]


def test_arguments_and_results_are_copies(template):
    values = [1]

    with template.run("change") as proxy:
        assert proxy.call(values) == [1, "changed"]

    assert values == [1]


@pytest.mark.parametrize("value", [threading.Lock(), (n for n in "ab")])
def test_what_cannot_be_sent_is_refused_where_the_call_is_made(template, value):
    with template.run("echo") as proxy:
        with pytest.raises(SerialiserError, match="cannot be sent"):
            proxy.call(value)
        assert proxy.call(1) == 1


def test_a_result_that_cannot_be_sent_fails_its_call(template):
    refused = pytest.raises(SerialiserError, match="cannot be sent")

    with template.run(lambda: threading.Lock()) as proxy, refused:
        proxy.call()


def test_other_serialisers_do_what_they_do(template):
    with template.run("echo", serialiser="json") as proxy:
        assert proxy.call((1, 2)) == [1, 2]
        with pytest.raises(SerialiserError):
            proxy.call(b"bytes")


def test_a_function_that_exits_ends_the_worker(template):
    told = Told()
    proxy = template.run("apply", **told.options())

    with pytest.raises(WorkerDied, match="status 3") as info:
        proxy.call("fail", SystemExit, 3)
    proxy.join(LIMIT)

    assert (info.value.returncode, info.value.started) == (3, True)
    assert proxy.returncode == 3
    assert told.all == [("error", WorkerDied)]
    with pytest.raises(WorkerDied):
        proxy.call("echo", 1)
    assert isinstance(proxy.submit("echo", 1).exception(LIMIT), WorkerDied)


def test_kill_ends_it_and_tells_nobody(template):
    told = Told()
    proxy = template.run("echo", **told.options())

    proxy.kill()

    assert proxy.join(LIMIT)
    assert proxy.returncode == -9
    assert told.all == []
    with pytest.raises(WorkerDied):
        proxy.call(1)


def test_a_worker_that_retires_takes_no_more_calls(template):
    proxy = template.run("retiring")

    assert proxy.call(1) == 1
    assert proxy.join(LIMIT)

    with pytest.raises(ClosedError, match="retired"):
        proxy.call(2)


def test_a_closed_proxy_takes_no_calls(template):
    proxy = template.run("echo")
    proxy.close()

    with pytest.raises(ClosedError, match="was closed"):
        proxy.call(1)

    assert proxy.join(LIMIT)


def test_a_dropped_proxy_is_closed(template):
    destroyed = threading.Event()
    proxy = template.run("echo", on_destroy=destroyed.set)
    future = proxy.submit(1)

    del proxy
    gc.collect()

    assert destroyed.wait(LIMIT)
    assert future.result(LIMIT) == 1


def test_callbacks_may_call_and_must_not_wait(template):
    results, errors = [], []
    done = threading.Event()
    with template.run("echo") as proxy:

        def callback(result):
            results.append(result)
            if result < 3:
                proxy(result + 1, callback)
            else:
                try:
                    proxy.call(0)
                except RuntimeError as error:
                    errors.append(str(error))
                done.set()

        proxy(1, callback)
        assert done.wait(LIMIT)

    assert results == [1, 2, 3]
    assert "would wait for ever" in errors[0]


def test_a_callback_that_raises_is_reported(template, monkeypatch):
    reported = []
    monkeypatch.setattr(threading, "excepthook", lambda args: reported.append(args))
    results = []

    with template.run("echo") as proxy:
        proxy(1, lambda result: 1 / 0)
        proxy(2, results.append)

    assert [args.exc_type for args in reported] == [ZeroDivisionError]
    assert results == [2]


@pytest.mark.parametrize(
    ("function", "expected"), [("sleeping", (1, True)), ("done_later", 1)]
)
def test_an_asynchronous_function_is_called(template, function, expected):
    results = []
    options = {"backend": "async", "on_event": lambda *args: results.append(args)}
    with template.run(function, **options) as proxy:
        assert proxy.call(1) == expected
        assert proxy.submit(1).result(LIMIT) == expected
        proxy(1, results.append)

    assert results[-1] == expected


def test_an_asynchronous_function_is_awaited_in_the_programs_loop(template):
    events = []

    async def main():
        options = {"backend": "async", "on_event": lambda *args: events.append(args)}
        async with template.run("sleeping", **options) as proxy:
            calls = [proxy.acall(number, 0.01 * (3 - number)) for number in range(3)]
            results = await asyncio.gather(*calls)
            task = asyncio.ensure_future(proxy.acall(7, 60))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return results, proxy.returncode

    results, returncode = asyncio.run(main())

    assert results == [(0, True), (1, True), (2, True)]
    assert returncode == 0
    assert events == [("slept", 2), ("slept", 1), ("slept", 0)]
    assert forkrpc.in_worker() is False


def test_done_is_called_at_the_end(template, tmp_path):
    path = tmp_path / "done"

    async def done():
        path.touch()

    with template.run("sleeping", backend="async", done=done, on_event=print) as proxy:
        proxy.call(1)

    assert path.exists()


def test_callbacks_run_in_the_loop_that_was_given(template):
    async def main():
        loop, results = asyncio.get_running_loop(), []
        async with template.run(
            "say", loop=loop, on_event=lambda n: results.append(n)
        ) as proxy:
            assert await proxy.acall(3) == (True, True)
        return results

    assert asyncio.run(main()) == [0, 1, 2]


def test_without_a_loop_acall_says_what_to_use(template):
    refused = pytest.raises(RuntimeError, match="elsewhere use")

    with template.run("echo") as proxy, refused:
        proxy.acall(1).send(None)


# Of calls in place only.


def test_a_call_is_executed_before_the_verb_returns(inline):
    results = []

    with inline.run(lambda: os.getpid()) as proxy:
        proxy(results.append)
        assert results == [os.getpid()]
        assert proxy.submit().done()


def test_a_coroutine_function_needs_its_backend(inline):
    refused = pytest.raises(SetupError, match='backend="async"')

    with inline.run("sleeping", on_error=print) as proxy, refused:
        proxy.call(1)


def test_a_call_from_within_waits_until_the_first_has_ended(inline):
    order = []

    def work(level):
        order.append(("begins", level))
        if level == 0:
            order.append(("submitted", proxy.submit(1).done()))
            with pytest.raises(RuntimeError, match="would wait for ever"):
                proxy.call(2)
        order.append(("ends", level))

    with inline.run(work) as proxy:
        proxy.call(0)
        proxy.close()

    assert order == [
        *(("begins", 0), ("submitted", False), ("ends", 0)),
        *(("begins", 1), ("ends", 1)),
    ]


def test_a_queued_call_can_be_cancelled(inline):
    def work(level):
        if level == 0:
            assert proxy.submit(1).cancel()
            calls.append(proxy.submit(2))
        return level

    calls = []
    with inline.run(work) as proxy:
        assert proxy.call(0) == 0

    assert calls[0].result(LIMIT) == 2


def test_threads_take_turns(inline):
    results = []
    with inline.run("echo") as proxy:
        threads = [
            threading.Thread(
                target=lambda: results.append(
                    [proxy.call(number) for number in range(100)]
                )
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)

    assert results == [list(range(100))] * 4


def test_an_interrupt_passes_through(inline):
    with inline.run("fail", on_error=lambda _: None) as proxy:
        with pytest.raises(KeyboardInterrupt):
            proxy.submit(KeyboardInterrupt)
        with pytest.raises(KeyError):
            proxy.call(KeyError)


def test_a_blocking_call_in_the_loop_is_refused_for_an_asynchronous_function(inline):
    async def main(proxy):
        with pytest.raises(RuntimeError, match=r"use acall\(\)"):
            proxy.call(1)

    with inline.run("sleeping", backend="async") as proxy:
        asyncio.run(main(proxy))
