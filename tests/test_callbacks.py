"""End-to-end: callbacks, events, errors: their order, thread, and what they may do."""

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import signal
import threading
import weakref

import pytest

import forkrpc
from forkrpc import ClosedError, Forker, SerialiserError, SetupError, WorkerDied
from helpers import wait_until

LIMIT = 20.0  # seconds for anything to happen; much more than it takes

SOURCE = """
import forkrpc, os, time

def run(name, *args, **kwargs):
    return globals()[name](*args, **kwargs)

def echo(value=None): return value
def fail(text): raise ValueError(text)
def hard_exit(code): os._exit(code)
def given(*args, **kwargs): return args, kwargs
def gate(path): return open(path, "rb").read()
def touch(sock): return None

def events(*values):
    for value in values:
        forkrpc.event(value)
    return "result"

def event_of(*args): forkrpc.event(*args)

def wide(number):
    forkrpc.event("before", number)
    forkrpc.event("after", number)
    return number
"""


@pytest.fixture
def template():
    with Forker() as template:
        yield template.eval(SOURCE)


@pytest.fixture
def reported(monkeypatch):
    """A list of the exceptions that reach threading.excepthook."""
    errors = []
    monkeypatch.setattr(
        threading, "excepthook", lambda args: errors.append(args.exc_value)
    )
    return errors


class Gathered(list):
    """A list with waiting; its `append` may be a callback."""

    def wait(self, count=1):
        wait_until(lambda: len(self) >= count, LIMIT, lambda: f"{count}: {self}")
        return self


def in_callback(proxy, function, *args):
    """Return what *function* returns or raises when it is called in a callback."""
    outcomes = Gathered()

    def callback(_):
        try:
            outcomes.append(function(*args))
        except BaseException as error:
            outcomes.append(error)

    proxy("echo", callback)
    return outcomes.wait()[0]


# Callbacks that raise.


@pytest.mark.parametrize(
    "error", [ValueError("callback"), SystemExit(3), KeyboardInterrupt()], ids=repr
)
def test_a_callback_that_raises_is_reported_and_disturbs_nothing(
    template, reported, error
):
    def callback(_):
        raise error

    results, errors = Gathered(), []
    with template.run("run", on_error=errors.append) as proxy:
        proxy("echo", 1, results.append)
        proxy("echo", 2, callback)
        proxy("echo", 3, results.append)
        assert proxy.call("echo", 4) == 4
    assert results == [1, 3]
    assert reported == [error]
    assert errors == []
    with template.run("run") as proxy:
        assert proxy.call("echo", 5) == 5


@pytest.mark.parametrize("error", [ValueError, SystemExit])
@pytest.mark.parametrize("option", ["on_event", "on_error", "on_destroy"])
def test_a_handler_that_raises_is_reported_and_disturbs_nothing(
    template, reported, option, error
):
    def handler(*_):
        raise error(option)

    results = Gathered()
    with template.run("run", **{option: handler}) as proxy:
        if option == "on_event":
            proxy("events", 1, results.append)
        elif option == "on_error":
            proxy("fail", "this", results.append)
        proxy("echo", 2, results.append)
    assert results[-1] == 2
    assert [type(each) for each in reported] == [error]
    assert str(reported[0]) == option


def test_an_excepthook_that_raises_disturbs_nothing(template, monkeypatch, capfd):
    def hook(_):
        raise SystemExit("hook")

    def callback(_):
        raise ValueError("callback")

    monkeypatch.setattr(threading, "excepthook", hook)
    with template.run("run") as proxy:
        proxy("echo", 1, callback)
        assert proxy.call("echo", 2) == 2
        assert proxy.drain(LIMIT)
    assert "hook" in capfd.readouterr().err


def test_a_done_callback_of_a_future_that_raises_disturbs_nothing(template, caplog):
    def callback(_):
        raise ValueError("done")

    caplog.set_level(logging.CRITICAL + 1, logger="concurrent.futures")
    with template.run("run") as proxy:
        future = proxy.submit("echo", 1)
        future.add_done_callback(callback)
        assert future.result(LIMIT) == 1
        assert proxy.call("echo", 2) == 2


# What callbacks may do.


def test_a_callback_may_call_again(template):
    results = Gathered()

    def callback(number):
        results.append(number)
        if number < 100:
            proxy("echo", number + 1, callback)

    with template.run("run") as proxy:
        proxy("echo", 1, callback)
        results.wait(100)
    assert results == list(range(1, 101))


def test_a_callback_may_submit_and_use_another_proxy(template):
    futures = Gathered()
    with template.run("run") as one, template.run("run") as other:
        one("echo", 1, lambda _: futures.append(other.submit("echo", 2)))
        one("echo", 3, lambda _: futures.append(one.submit("echo", 4)))
        assert [each.result(LIMIT) for each in futures.wait(2)] == [2, 4]


def test_a_callback_may_make_a_template_and_a_worker(template):
    made = Gathered()

    def callback(_):
        with Forker() as other:
            made.append(other.run("operator.neg"))

    with template.run("run") as proxy:
        proxy("echo", 1, callback)
        made.wait()
        with made.pop() as another:
            assert another.call(1) == -1


def test_a_callback_may_drop_its_own_proxy(template):
    destroyed, results = threading.Event(), Gathered()
    holder = [template.run("run", on_destroy=destroyed.set)]

    def callback(value):
        results.append(value)
        holder.clear()

    holder[0]("echo", 1, callback)
    holder[0]("echo", 2, results.append) if holder else None

    assert destroyed.wait(LIMIT)
    assert results in ([1], [1, 2])


def test_a_callback_may_close_and_kill(template):
    for verb in "close", "kill":
        proxy = template.run("run", on_error=print)
        proxy("echo", 1, lambda _, proxy=proxy, verb=verb: getattr(proxy, verb)())
        assert proxy.join(LIMIT)


def test_a_proxy_that_is_dropped_finishes_its_calls(template, tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    results, destroyed = Gathered(), threading.Event()
    proxy = template.run("run", on_destroy=destroyed.set)
    proxy("gate", str(path), results.append)
    future = proxy.submit("echo", 2)
    gone = weakref.ref(proxy)
    del proxy
    assert gone() is None

    with open(path, "wb") as file:
        file.write(b"1")

    assert destroyed.wait(LIMIT)
    assert results == [b"1"]
    assert future.result(0) == 2


# Waiting in a callback is refused at once.


def wait_for_process(template):
    process = template.spawn("touch")
    with process.sock:
        process.wait()


@pytest.mark.parametrize(
    "wait",
    [
        lambda proxy, template: proxy.call("echo", 1),
        lambda proxy, template: proxy.submit("gate", "/dev/null").result(),
        lambda proxy, template: proxy.submit("gate", "/dev/null").exception(LIMIT),
        lambda proxy, template: proxy.join(),
        lambda proxy, template: proxy.drain(),
        lambda proxy, template: proxy.__exit__(None, None, None),
        lambda proxy, template: template.ready(),
        lambda proxy, template: template.fork().pid,
        lambda proxy, template: template.run("run").pid,
        lambda proxy, template: wait_for_process(template),
    ],
    ids=[
        *("call", "result", "exception", "join", "drain", "with", "ready"),
        *("pid of a template", "pid of a worker", "wait of a process"),
    ],
)
def test_waiting_in_a_callback_is_refused_at_once(template, wait):
    with template.run("run") as proxy:
        error = in_callback(proxy, wait, proxy, template)

        assert type(error) is RuntimeError, repr(error)
        assert "callback" in str(error)
    with template.run("run") as proxy:
        assert proxy.call("echo", 1) == 1


def test_results_that_are_there_can_be_had_in_a_callback(template):
    with template.run("run") as proxy:
        future = proxy.submit("echo", 1)
        assert future.result(LIMIT) == 1

        assert in_callback(proxy, future.result) == 1
        assert in_callback(proxy, future.exception) is None
        assert in_callback(proxy, lambda: proxy.pid) == proxy.pid


@pytest.mark.parametrize("wait", ["wait", "as_completed"])
def test_a_future_of_another_kind_may_be_waited_for_in_a_callback(template, wait):
    done = concurrent.futures.Future()
    done.set_result(1)
    with template.run("run") as proxy:
        outcome = in_callback(
            proxy, lambda: list(getattr(concurrent.futures, wait)([done]))
        )
        assert not isinstance(outcome, Exception)


# Order.


def test_events_and_results_come_in_the_order_in_which_they_were_made(template):
    heard = []

    def on_event(word, number):
        heard.append((word, number))

    with template.run("run", on_event=on_event) as proxy:
        for number in range(300):
            proxy("wide", number, lambda value: heard.append(("result", value)))
    assert heard == [
        (word, number)
        for number in range(300)
        for word in ("before", "after", "result")
    ]


def test_errors_come_in_order_with_results(template):
    heard = []
    with template.run("run", on_error=lambda error: heard.append(str(error))) as proxy:
        for number in range(100):
            name = "fail" if number % 3 == 0 else "echo"
            proxy(name, str(number), heard.append)
    assert heard == [str(number) for number in range(100)]


def test_all_callbacks_run_in_one_thread_that_is_not_the_callers(template):
    threads = set()

    def note(*_):
        threads.add(threading.current_thread())

    one = template.run("run", on_event=note, on_error=note, on_destroy=note)
    with one, template.run("run") as other:
        for proxy in one, other:
            proxy("echo", 1, note)
        one("events", 1, note)
        one("fail", "this", note)
        assert one.call("echo", 1) == 1
    assert len(threads) == 1
    assert threading.current_thread() not in threads


# on_error, on_event("error"), logging.


def test_a_failing_call_goes_to_on_error_with_its_call(template):
    errors, results = [], []
    with template.run("run", on_error=errors.append) as proxy:
        proxy("fail", "one", results.append)
        proxy("fail", "two", None)
    assert [(type(error), str(error)) for error in errors] == [
        (ValueError, "one"),
        (ValueError, "two"),
    ]
    assert all("run" in error.call for error in errors)
    assert errors[0].call != errors[1].call
    assert not results


def test_without_on_error_errors_are_events(template):
    events = []
    proxy = template.run("run", on_event=lambda *args: events.append(args))
    proxy("fail", "one", None)
    proxy("events", 1, None)
    proxy("hard_exit", 5, None)
    assert proxy.join(LIMIT)

    (word, error), event, (last_word, death) = events
    assert (word, last_word) == ("error", "error")
    assert (type(error), str(error)) == (ValueError, "one")
    assert event == (1,)
    assert type(death) is WorkerDied


def test_without_either_errors_are_logged(template, caplog):
    with template.run("run") as proxy:
        proxy("fail", "one", None)
        proxy("events", "event without a handler", None)
    records = [each for each in caplog.records if each.name == "forkrpc"]
    assert [each.levelno for each in records] == [logging.ERROR] * 2
    assert "one" in records[0].getMessage() + str(records[0].exc_info)
    assert "event without a handler" in records[1].getMessage()


def test_an_event_without_on_event_goes_to_on_error_and_harms_nothing(template):
    errors = []
    with template.run("run", on_error=errors.append) as proxy:
        assert proxy.call("events", "unheard") == "result"
        assert proxy.call("echo", 1) == 1
    assert len(errors) == 1
    assert isinstance(errors[0], forkrpc.Error)
    assert "unheard" in str(errors[0])


def test_an_event_that_cannot_be_loaded_goes_to_on_error(template):
    errors, events = [], []
    options = {"on_error": errors.append, "on_event": events.append}
    with template.run(
        lambda deed: forkrpc.event(__import__("faulty").OnLoad(deed)), **options
    ) as proxy:
        for deed in "raise", "exit", "recurse":
            proxy.call(deed)
    with template.run("run", **options) as proxy:
        proxy.call("event_of", "last")
    assert events == ["last"]
    assert [type(error) for error in errors] == [SerialiserError] * 3


def test_a_death_is_told_to_on_error_once_for_all_calls(template, tmp_path):
    errors, results, path = [], [], tmp_path / "fifo"
    os.mkfifo(path)
    proxy = template.run("run", on_error=errors.append)
    proxy("gate", str(path), results.append)  # till all are made
    for call in [("echo", 1), ("hard_exit", 5), ("echo", 2), ("echo", 3)]:
        proxy(*call, results.append)
    path.write_bytes(b"")
    assert proxy.join(LIMIT)
    assert results == [b"", 1]
    assert [type(error) for error in errors] == [WorkerDied]
    assert errors[0].returncode == 5


# on_destroy.


@pytest.mark.parametrize("end", ["close", "drop", "with"])
def test_on_destroy_is_called_once_and_last(template, end):
    heard, destroyed = [], threading.Event()

    def on_destroy():
        heard.append("destroy")
        destroyed.set()

    proxy = template.run(
        "run",
        on_event=heard.append,
        on_error=lambda error: heard.append(str(error)),
        on_destroy=on_destroy,
    )
    proxy("events", "event", heard.append)
    proxy("fail", "error", None)
    proxy("echo", "last", heard.append)
    if end == "with":
        with proxy:
            pass
    elif end == "close":
        proxy.close()
        proxy.close()
    pid = proxy.pid
    del proxy

    assert destroyed.wait(LIMIT)
    assert heard == ["event", "result", "error", "last", "destroy"]
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), LIMIT)
    assert heard.count("destroy") == 1


@pytest.mark.parametrize("end", ["death", "kill", "hard exit", "setup"])
def test_on_destroy_is_not_called_after_a_death_or_kill(template, end):
    heard, errors = [], []
    proxy = template.run(
        "run" if end != "setup" else "missing",
        on_error=errors.append,
        on_destroy=lambda: heard.append("destroy"),
    )
    with contextlib.suppress(SetupError):  # it may have failed already
        proxy("echo", 1, None)
    if end == "death":
        os.kill(proxy.pid, signal.SIGKILL)
    elif end == "kill":
        proxy.kill()
    elif end == "hard exit":
        proxy("hard_exit", 0, None)
    assert proxy.join(LIMIT)
    proxy.close()
    del proxy
    with template.run("run") as other:
        other("echo", 1, None)
    assert heard == []
    assert len(errors) == (0 if end == "kill" else 1)


def test_kill_fails_the_calls_and_says_nothing_else(template):
    errors = []
    proxy = template.run("run", on_error=errors.append)
    future = proxy.submit("gate", "/dev/zero")
    proxy.kill()

    assert type(future.exception(LIMIT)) is WorkerDied
    assert proxy.join(LIMIT)
    assert errors == []
    assert proxy.returncode == -signal.SIGKILL


# drain, join, with.


def test_drain_waits_for_the_callbacks_of_what_has_arrived(template):
    results = []
    with template.run("run") as proxy:
        for number in range(100):
            proxy("echo", number, results.append)
        proxy.call("echo")
        assert proxy.drain(LIMIT)
        assert results == list(range(100))


def test_drain_of_a_slow_callback_times_out(template):
    hold, entered = threading.Event(), threading.Event()

    def callback(_):
        entered.set()
        hold.wait(LIMIT)

    with template.run("run") as proxy:
        proxy("echo", 1, callback)
        assert entered.wait(LIMIT)
        assert proxy.drain(0.05) is False
        hold.set()
        assert proxy.drain(LIMIT) is True


def test_drain_and_join_of_an_ended_proxy_return_at_once(template):
    with template.run("run") as proxy:
        proxy.call("echo")
    assert proxy.drain(LIMIT) is True
    assert proxy.join(0) is True


def test_join_of_a_busy_worker_times_out(template, tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    proxy = template.run("run")
    future = proxy.submit("gate", str(path))
    proxy.close()
    assert proxy.join(0.05) is False
    assert not future.done()

    with open(path, "wb"):
        pass

    assert proxy.join(LIMIT) is True
    assert future.result(0) == b""


def test_with_closes_and_joins_and_lets_exceptions_through(template):
    results = []
    with pytest.raises(KeyError, match="mine"), template.run("run") as proxy:
        proxy("echo", 1, results.append)
        raise KeyError("mine")
    assert results == [1]
    assert proxy.join(0)
    with pytest.raises(ClosedError):
        proxy("echo", 1, None)
    with pytest.raises(ClosedError):
        proxy.call("echo")
    with pytest.raises(ClosedError):
        proxy.submit("echo")


# loop=.


def test_callbacks_run_in_the_loop_that_was_given(template):
    threads, heard = set(), []

    def note(*args):
        threads.add(threading.current_thread())
        asyncio.get_running_loop()
        heard.append(args[-1] if args else "destroy")

    async def main():
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def on_destroy():
            note()
            done.set()

        proxy = template.run(
            "run", loop=loop, on_event=note, on_error=note, on_destroy=on_destroy
        )
        proxy("events", "event", note)
        proxy("fail", "error", note)
        future = proxy.submit("echo", "awaited")
        assert await asyncio.wrap_future(future) == "awaited"
        proxy.close()
        await asyncio.wait_for(done.wait(), LIMIT)

    asyncio.run(main())
    assert threads == {threading.main_thread()}
    event, result, error, destroy = heard
    assert (event, result, str(error), destroy) == (
        "event",
        "result",
        "error",
        "destroy",
    )


def test_a_callback_that_raises_goes_to_the_handler_of_its_loop(template, reported):
    contexts = []

    def callback(_):
        raise ValueError("callback")

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: contexts.append(context))
        done = asyncio.Event()
        proxy = template.run("run", loop=loop, on_destroy=done.set)
        proxy("echo", 1, callback)
        proxy.close()
        await asyncio.wait_for(done.wait(), LIMIT)

    asyncio.run(main())
    assert [str(context["exception"]) for context in contexts] == ["callback"]
    assert reported == []


def test_a_loop_that_was_closed_disturbs_no_other_worker(template, reported):
    loop = asyncio.new_event_loop()
    proxy = template.run("run", loop=loop)
    proxy.call("echo")
    loop.close()

    proxy("echo", 1, lambda _: None)
    assert proxy.submit("echo", 2).result(LIMIT) == 2
    with template.run("run") as other:
        results = Gathered()
        other("echo", 3, results.append)
        assert results.wait() == [3]
    assert "closed" in str(reported[0])
    proxy.close()
    assert proxy.join(LIMIT)


# Arguments.


@pytest.mark.parametrize("verb", ["callback", "submit", "call"])
def test_keyword_arguments_go_to_the_function_whatever_their_names(template, verb):
    words = {"callback": 1, "self": 2, "args": 3, "timeout": 4, "kwargs": 5, "fn": 6}
    results = Gathered()
    with template.run("given") as proxy:
        if verb == "callback":
            proxy(7, results.append, **words)
            outcome = results.wait()[0]
        elif verb == "submit":
            outcome = proxy.submit(7, **words).result(LIMIT)
        else:
            outcome = proxy.call(7, **words)
    assert outcome == ((7,), words)


def test_a_call_without_a_callback_is_refused(template):
    with template.run("given") as proxy:
        for args in [(), (1,), ("echo", "text"), (print, 1)]:
            with pytest.raises(TypeError, match="callback"):
                proxy(*args)
        with pytest.raises(TypeError, match="callback"):
            proxy(callback=print)
        assert proxy.pending == 0
        proxy(1, 2, None)
        assert proxy.call(1) == ((1,), {})


def test_a_callback_is_dropped_once_it_has_run(template):
    class Callback:
        def __call__(self, _):
            called.set()

    called = threading.Event()
    callback = Callback()
    gone = weakref.ref(callback)
    with template.run("run") as proxy:
        proxy("echo", 1, callback)
        del callback
        assert called.wait(LIMIT)
        assert proxy.drain(LIMIT)
        proxy.call("echo")
        wait_until(lambda: gone() is None, LIMIT)
