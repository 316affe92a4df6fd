"""End-to-end: proxies: every way to call, what the worker makes of it, every option."""

import asyncio
import collections
import functools
import gc
import logging
import operator
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout

import pytest

import forkrpc
from forkrpc import (
    CallTimeout,
    ClosedError,
    Forker,
    Proxy,
    RemoteError,
    SerialiserError,
    SetupError,
    WorkerDied,
)
from helpers import (
    MS,
    open_descriptors,
    process_alive,
    process_stat,
    run_program,
    wait_until,
)

LIMIT = 10  # seconds for what takes milliseconds
QUIET = {"on_error": lambda error: None}

# The module of functions that workers of these tests are called for.
WORK = '''
import functools, os, sys, threading
from forkrpc import ClosedError, event, flush, in_worker, retire

calls = []


def echo(*args, **kwargs):
    return (args, kwargs) if kwargs else args


def first(value=None):
    return value


def count(*args):
    """Return the arguments of all calls so far."""
    calls.append(args)
    return list(calls)


def wait(gate, value=None):
    """Return the value, once the named pipe *gate* is opened for writing."""
    open(gate).close()
    return value


def tell(*args):
    event(*args)
    return args


def tell_often(count):
    for _ in range(count):
        event(bytes(1000))
    return count


def begin(gate, value=None):
    """Tell that the call has begun; return the value when the gate is opened."""
    event()
    return wait(gate, value)


@functools.lru_cache
def cached(value):
    return value


def raise_(error):
    raise error


def divide(a, b):
    return a / b  # the line that fails


def convert(text):
    try:
        return int(text)
    except ValueError as error:
        raise LookupError(f"no number: {text}") from error


def noted(text):
    error = ValueError("with a note")
    error.add_note(text)
    raise error


def numbers(n):
    yield from range(n)


async def coroutine(n):
    return n


async def numbers_async(n):
    yield n


class Shop:
    made = []

    def __init__(self, *args):
        self.args = args
        Shop.made.append(args)

    def __call__(self, *args):
        return self.made, self.args, args

    def price(self, count):
        return count * self.args[0]

    @classmethod
    def named(cls, name):
        return f"{cls.__name__} {name}"

    @staticmethod
    def double(n):
        return 2 * n

    class Till:
        @staticmethod
        def total(*coins):
            return sum(coins)


class Asynchronous:
    async def __call__(self):
        return 1


class NoCall:
    pass


class Odd(BaseException):
    pass


class Picky(Exception):
    """Cannot be rebuilt: it wants two arguments and keeps one."""

    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")


def picky():
    raise Picky("salt", "pepper")


def odd(name):
    raise {"Odd": Odd, "KeyboardInterrupt": KeyboardInterrupt}[name]("for this call")


def unsendable():
    return [1, threading.Lock()]


class Unsendable(Exception):
    def __init__(self):
        super().__init__("with a lock")
        self.lock = threading.Lock()


def raise_unsendable():
    raise Unsendable


def started():
    """Start a program in this worker's group; return its pid."""
    import subprocess
    return subprocess.Popen(["sleep", "60"]).pid


def say(text):
    print(text)
    print(text.upper(), file=sys.stderr)


def read_stdin():
    return sys.stdin.read()


def tell_from_threads(count, events):
    def work(number):
        for at in range(events):
            event(number, at)
    threads = [threading.Thread(target=work, args=(n,)) for n in range(count)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()


def retire_after(value):
    retire()
    return value


def limits_now():
    import resource
    return resource.getrlimit(resource.RLIMIT_NOFILE), os.nice(0)


seen_in_init = []


def init(*args):
    """Note what init finds; define what run asks for."""
    seen_in_init.append((args, in_worker(), limits_now()))
    sys.modules["__main__"].made_by_init = lambda: seen_in_init + [in_worker()]


def init_event(*args):
    event("too early")


def init_event_caught(*args):
    try:
        event("too early")
    except ClosedError as error:
        seen_in_init.append(str(error))


def init_fails(*args):
    raise LookupError(f"no such shelf: {args}")


def init_serialiser(*args):
    """Make the module that run names as the serialiser."""
    import types
    module = types.ModuleType("made_by_init")
    module.pair = (lambda values: repr(values).encode(), lambda body: eval(bytes(body)))
    sys.modules["made_by_init"] = module


def seen():
    return seen_in_init
'''


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A template that can import the module above, as this process can."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "proxy_work.py").write_text(WORK)
    sys.path.insert(0, str(folder))
    descriptors = len(open_descriptors())
    with Forker().require("proxy_work") as template:
        template.ready(LIMIT)
        pid = template.pid
        yield template
    sys.path.remove(str(folder))
    sys.modules.pop("proxy_work", None)

    def gone():  # before the next module's first test looks what there is
        return process_stat(pid) is None and len(open_descriptors()) <= descriptors

    wait_until(gone, LIMIT, f"end of template {pid}")


@pytest.fixture
def work(template):
    """The module itself."""
    import proxy_work

    yield proxy_work
    del proxy_work.Shop.made[:]


@pytest.fixture
def echo(template):
    with template.run("proxy_work.echo", **QUIET) as proxy:
        yield proxy


@pytest.fixture
def gate(tmp_path):
    """A named pipe: opening it for reading waits until it is opened for writing."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return str(path)


def release(gate):
    open(gate, "w").close()


def failure(template, function, *args, **options):
    """Return the exception that `call` raises."""
    with template.run(function, **QUIET, **options) as proxy:
        try:
            result = proxy.call(*args)
        except Exception as error:
            return error
    raise AssertionError(f"{function} did not fail but return {result!r:.100}")


# The call forms.


def test_a_callback_gets_the_result_in_the_thread_of_callbacks(template):
    got = []
    with template.run("proxy_work.echo") as proxy:
        proxy(1, 2, lambda result: got.append((result, threading.current_thread())))

    ((result, thread),) = got
    assert result == (1, 2)
    assert thread.name == "forkrpc"


def test_a_call_with_a_callback_does_not_wait(template, gate):
    got = []
    with template.run("proxy_work.wait") as proxy:
        proxy(gate, 0, got.append)
        for number in range(1, 1000):
            proxy(os.devnull, number, got.append)
        assert (got, proxy.pending) == ([], 1000)
        release(gate)

    assert got == list(range(1000))


def test_without_a_callback_there_may_be_none(template):
    with template.run("proxy_work.count") as proxy:
        proxy("first", None)
        assert proxy.call("second") == [("first",), ("second",)]


@pytest.mark.parametrize("args", [(), (1,), (1, "text"), ([],)])
def test_a_call_without_a_callback_is_refused(template, args):
    with template.run("proxy_work.count") as proxy:
        with pytest.raises(TypeError, match=r"callback.*call\(\) and submit\(\)"):
            proxy(*args)

        assert proxy.pending == 0
        assert proxy.call() == [()]


NAMES = ["callback", "args", "self", "function", "timeout", "on_error", "kwargs", "x"]


def test_keyword_arguments_of_every_name_go_to_the_function(echo):
    given = dict.fromkeys(NAMES, 1)
    got = []

    echo(2, got.append, **given)
    assert echo.call(2, **given) == ((2,), given)
    assert echo.submit(2, **given).result(LIMIT) == ((2,), given)
    assert echo.drain(LIMIT)
    assert got == [((2,), given)]


def test_submit_returns_a_future(template, gate):
    with template.run("proxy_work.wait") as proxy:
        future = proxy.submit(gate, "result")
        assert isinstance(future, Future)
        assert not future.done()
        with pytest.raises(FutureTimeout):
            future.result(10 * MS)
        release(gate)
        assert future.result(LIMIT) == "result"
        done = []
        future.add_done_callback(done.append)
        assert done == [future]


def test_thousands_of_calls_of_all_forms_keep_their_order(template):
    got = []
    with template.run("proxy_work.first") as proxy:
        futures = []
        for number in range(2000):
            if number % 7 == 0:
                assert proxy.call(number) == number
            elif number % 3:
                proxy(number, got.append)
            else:
                futures.append((number, proxy.submit([number])))

    assert got == [n for n in range(2000) if n % 7 and n % 3]
    for number, future in futures:
        assert future.result(0) == [number]


def test_arguments_are_those_of_the_moment_of_the_call(echo):
    items = [1]
    futures = []
    for number in range(2, 5):
        futures.append(echo.submit(items))
        items.append(number)

    assert [future.result(LIMIT) for future in futures] == [
        ([1],),
        ([1, 2],),
        ([1, 2, 3],),
    ]


@pytest.mark.parametrize(
    "value",
    [
        None,
        (),
        (1, 2),
        ((),),
        [],
        {"key": (1,)},
        {1, 2},
        b"\x00\xff",
        "text \udcff \0",
        2**100,
        -0.5,
        float("inf"),
        1j,
        True,
        Ellipsis,
        range(3),
        bytes(300_000),
        ["x" * 100_000] * 3,
        collections.OrderedDict(a=1),
        re.compile("a+"),
    ],
    ids=lambda value: f"{type(value).__name__} {str(value)[:10]}",
)
def test_a_value_is_one_value_with_its_type(template, value):
    with template.run("proxy_work.first") as proxy:
        result = proxy.call(value)

    assert type(result) is type(value)
    assert result == value


def test_cyclic_values_keep_their_shape(template):
    cyclic = [1]
    cyclic.append(cyclic)

    with template.run("proxy_work.first") as proxy:
        result = proxy.call(cyclic)

    assert result[1] is result


# What fails, and what it costs.


@pytest.mark.parametrize("form", ["call", "submit", "callback"])
def test_an_argument_that_cannot_be_sent_is_named_where_it_was_given(template, form):
    bad = {"deep": [0, threading.Lock()]}
    got = []
    with template.run("proxy_work.count") as proxy:
        before = proxy.submit("before")
        with pytest.raises(
            SerialiserError, match=r"value\[1\]\['deep'\]\[1\] \(lock\)"
        ):
            if form == "callback":
                proxy("bad", bad, got.append)
            else:
                getattr(proxy, form)("bad", bad)

        assert proxy.pending <= 1
        assert before.result(LIMIT) == [("before",)]
        assert proxy.call("after") == [("before",), ("after",)]
    assert got == []


def test_a_keyword_argument_that_cannot_be_sent_is_named_too(echo):
    with pytest.raises(SerialiserError, match="key.*lock") as caught:
        echo.call(key=threading.Lock())

    assert isinstance(caught.value.__cause__, TypeError)


def test_a_result_that_cannot_be_sent_fails_its_call_only(template):
    with template.run("proxy_work.unsendable", **QUIET) as proxy:
        for _ in range(3):
            with pytest.raises(SerialiserError, match=r"\[1\] \(lock\) cannot be sent"):
                proxy.call()


def test_an_exception_arrives_with_type_arguments_and_attributes(template):
    error = OSError(2, "No such file", "name")
    with template.run("proxy_work.raise_", **QUIET) as proxy:
        with pytest.raises(FileNotFoundError) as caught:
            proxy.call(error)
        assert (caught.value.errno, caught.value.filename) == (2, "name")
        with pytest.raises(UnicodeDecodeError, match="invalid start byte"):
            proxy.call(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"))
        with pytest.raises(StopIteration) as caught:
            proxy.call(StopIteration("value"))
        assert caught.value.value == "value"


def test_an_exception_knows_its_call(template):
    with template.run("proxy_work.divide", **QUIET) as proxy:
        proxy.call(1, 1)
        with pytest.raises(ZeroDivisionError) as caught:
            proxy.call(1, 0)

    assert "proxy_work.divide" in caught.value.call


def test_each_failure_is_an_exception_of_its_own(template):
    with template.run("proxy_work.divide", **QUIET) as proxy:
        one, other = (proxy.submit(1, 0).exception(LIMIT) for _ in range(2))

    assert one is not other
    assert type(one) is type(other) is ZeroDivisionError


def printed(error):
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


def test_the_remote_traceback_is_printed_with_an_exception(template):
    error = failure(template, "proxy_work.divide", 1, 0)

    text = printed(error)
    assert "proxy_work.py" in text
    assert "return a / b  # the line that fails" in text
    assert text.rstrip().endswith("ZeroDivisionError: division by zero")
    assert "forkrpc/child" not in text


def test_causes_arrive_with_an_exception(template):
    error = failure(template, "proxy_work.convert", "five")

    assert type(error) is LookupError
    assert type(error.__cause__) is ValueError
    text = printed(error)
    assert "The above exception was the direct cause" in text
    assert "invalid literal for int" in text
    assert "raise LookupError" in text


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes came with Python 3.11")
def test_notes_arrive_with_an_exception(template):
    error = failure(template, "proxy_work.noted", "to be noted")

    assert error.__notes__ == ["to be noted"]
    assert "to be noted" in printed(error)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups came with Python 3.11")
def test_a_group_of_exceptions_arrives_whole(template):
    group = ExceptionGroup("both", [ValueError(1), KeyError("two")])  # noqa: F821
    with template.run("proxy_work.raise_", **QUIET) as proxy:
        error = proxy.submit(group).exception(LIMIT)

    assert [type(each) for each in error.exceptions] == [ValueError, KeyError]


@pytest.mark.parametrize("name", ["Odd", "KeyboardInterrupt"])
def test_an_exception_that_would_end_a_thread_arrives_as_a_remote_error(template, name):
    with template.run("proxy_work.odd", **QUIET) as proxy:
        for _ in range(2):
            with pytest.raises(RemoteError) as caught:
                proxy.call(name)
        error = caught.value

        assert error.type_name.endswith(name)
        assert error.message == "for this call"
        assert "in odd" in error.traceback
        assert proxy.pid == proxy.pid


@pytest.mark.parametrize(
    ("function", "type_name", "message"),
    [
        ("picky", "proxy_work.Picky", "salt and pepper"),
        ("raise_unsendable", "proxy_work.Unsendable", "with a lock"),
    ],
)
def test_an_exception_that_cannot_be_rebuilt_arrives_as_a_remote_error(
    template, function, type_name, message
):
    with template.run(f"proxy_work.{function}", **QUIET) as proxy:
        for _ in range(2):
            with pytest.raises(RemoteError, match=message) as caught:
                proxy.call()

    error = caught.value
    assert (error.type_name, error.message) == (type_name, message)
    assert f"in {function}" in error.traceback
    assert f"in {function}" in printed(error)


def test_system_exit_ends_the_worker_in_order(template):
    events = []
    options = {"on_event": lambda *args: events.append(args), **QUIET}
    with template.run("proxy_work.tell", **options) as proxy:
        assert proxy.call(1) == (1,)
    with template.run("sys.exit", **QUIET) as proxy:
        futures = [proxy.submit(7), proxy.submit(8)]
        for future, started in zip(futures, (True, False), strict=True):
            with pytest.raises(WorkerDied, match="status 7") as caught:
                future.result(LIMIT)
            assert (caught.value.returncode, caught.value.signal) == (7, None)
            assert caught.value.started is started
    assert events == [(1,)]


def test_errors_of_callbacks_go_to_on_error_each(template):
    errors, results = [], []
    with template.run("proxy_work.divide", on_error=errors.append) as proxy:
        for divisor in (1, 0, 2, 0):
            proxy(2, divisor, results.append)
        with pytest.raises(ZeroDivisionError):
            proxy.call(1, 0)

    assert results == [2, 1]
    assert [type(error) for error in errors] == [ZeroDivisionError] * 2
    assert errors[0].call != errors[1].call


def test_errors_go_to_on_event_where_there_is_no_on_error(template):
    events = []
    with template.run(
        "proxy_work.divide", on_event=lambda *args: events.append(args)
    ) as proxy:
        proxy(1, 0, None)

    ((kind, error),) = events
    assert kind == "error"
    assert isinstance(error, ZeroDivisionError)


def test_errors_are_logged_where_there_is_no_handler(template, caplog):
    with template.run("proxy_work.divide") as proxy:
        proxy(1, 0, None)

    (record,) = caplog.records
    assert (record.name, record.levelno) == ("forkrpc", logging.ERROR)
    assert "division by zero" in record.getMessage()


def test_a_callback_that_raises_disturbs_nothing_else(template, monkeypatch):
    reported, got = [], []
    monkeypatch.setattr(threading, "excepthook", reported.append)
    with template.run("proxy_work.first", on_event=print) as proxy:
        proxy(ValueError, operator.methodcaller("no_such_method"))
        proxy(1, sys.exit)
        proxy(2, got.append)

    assert got == [2]
    assert [each.exc_type for each in reported] == [AttributeError, SystemExit]


def test_a_callback_may_call_again_and_drop_its_proxy(template):
    kept = [template.run("proxy_work.first")]
    results, ended = [], threading.Event()

    def again(result):
        results.append(result)
        if result < 3:
            kept[0](result + 1, again)
        else:
            kept.clear()
            ended.set()

    kept[0](0, again)
    assert ended.wait(LIMIT)
    assert results == [0, 1, 2, 3]


def test_waiting_in_a_callback_is_refused_at_once(template):
    refused = []
    done = Future()
    done.set_result("at hand")

    def callback(_):
        for wait in (
            proxy.call,
            proxy.submit().result,
            proxy.submit().exception,
            proxy.join,
            proxy.drain,
        ):
            with pytest.raises(RuntimeError, match="wait for ever") as caught:
                wait()
            refused.append(caught.value)
        refused.append(done.result())

    with template.run("proxy_work.echo") as proxy:
        proxy(callback)
        proxy.call()  # answers come in order
        assert proxy.drain(LIMIT)

    assert len(refused) == 6


def test_the_result_of_an_answered_call_is_at_hand_in_a_callback(template):
    got = []
    with template.run("proxy_work.first") as proxy:
        future = proxy.submit("early")
        proxy("late", lambda _: got.append(future.result()))

    assert got == ["early"]


# Events, order, drain.


def test_events_and_results_arrive_in_the_order_in_which_they_were_made(template):
    order = []
    with template.run(
        "proxy_work.tell", on_event=lambda n: order.append(("event", n))
    ) as proxy:
        for number in range(300):
            proxy(number, lambda result: order.append(("result", *result)))

    assert order == [(kind, n) for n in range(300) for kind in ("event", "result")]


def test_events_carry_any_number_of_values_of_any_size(template):
    events = []
    values = [(), (None,), ((),), (1, "two", [3]), (bytes(1_000_000),)]
    with template.run(
        "proxy_work.tell", on_event=lambda *args: events.append(args)
    ) as proxy:
        for args in values:
            proxy(*args, None)

    assert events == values


def test_threads_of_a_worker_may_send_events(template):
    events = []
    with template.run(
        "proxy_work.tell_from_threads", on_event=lambda *args: events.append(args)
    ) as proxy:
        proxy.call(4, 50)

    for number in range(4):
        assert [at for n, at in events if n == number] == list(range(50))


def test_an_event_without_on_event_goes_to_on_error_and_harms_nothing(template):
    errors = []
    with template.run("proxy_work.tell", on_error=errors.append) as proxy:
        assert proxy.call("unheard") == ("unheard",)

    (error,) = errors
    assert isinstance(error, forkrpc.Error)
    assert "'unheard'" in str(error)
    assert "on_event" in str(error)


def test_an_event_that_cannot_be_sent_fails_in_the_function(template):
    def tell():
        try:
            forkrpc.event("lock", threading.Lock())
        except SerialiserError as error:
            return str(error)

    with template.run(tell, on_event=print) as proxy:
        assert "[1] (lock)" in proxy.call()


def test_drain_waits_for_the_callbacks_of_what_was_received(template):
    events = []

    def slow(*args):
        time.sleep(1 * MS)
        events.append(args)

    with template.run("proxy_work.tell", on_event=slow) as proxy:
        for number in range(50):
            proxy.call(number)
        assert proxy.drain(LIMIT)
        assert events == [(number,) for number in range(50)]


def test_drain_returns_false_when_its_time_is_up(template):
    go_on = threading.Event()
    with template.run("proxy_work.tell", on_event=lambda *_: go_on.wait()) as proxy:
        proxy.call(1)
        assert not proxy.drain(20 * MS)
        go_on.set()
        assert proxy.drain(LIMIT)


def test_callbacks_run_in_the_loop_that_was_given(template):
    async def program():
        loop, order = asyncio.get_running_loop(), []

        def note(*args):
            order.append((args, asyncio.get_running_loop() is loop))

        ended = loop.create_future()
        proxy = template.run(
            "proxy_work.tell",
            loop=loop,
            on_event=note,
            on_destroy=lambda: ended.set_result(None),
        )
        for number in range(3):
            proxy(number, note)
        del proxy
        await asyncio.wait_for(ended, LIMIT)
        return order

    order = asyncio.run(program())

    assert order == [(args, True) for n in range(3) for args in ((n,), ((n,),))]


# Members.


def test_the_members_tell_the_state_of_the_worker(template, gate):
    proxy = template.run("proxy_work.wait")
    assert isinstance(proxy, Proxy)
    assert process_alive(proxy.pid)
    assert (proxy.pending, proxy.returncode) == (0, None)
    assert repr(proxy) == f"<Proxy proxy_work.wait, pid {proxy.pid}, open, 0 pending>"
    future = proxy.submit(gate)
    proxy(os.devnull, None)
    assert (proxy.pending, proxy.returncode) == (2, None)
    proxy.close()
    assert "closing, 2 pending" in repr(proxy)
    release(gate)
    assert future.result(LIMIT) is None
    assert proxy.join(LIMIT)
    assert (proxy.pending, proxy.returncode) == (0, 0)
    assert "ended, returncode 0, 0 pending" in repr(proxy)


def test_the_repr_never_waits(gate):
    template = Forker().eval(f"open({gate!r}).close()")
    proxy = template.run("os.getpid")
    assert repr(proxy) == "<Proxy os.getpid, pid None, starting, 0 pending>"
    release(gate)
    assert str(proxy.pid) in repr(proxy)


def test_close_finishes_what_was_called_and_takes_no_more(template, gate):
    ends = []
    proxy = template.run("proxy_work.wait", on_destroy=lambda: ends.append(got[:]))
    got = []
    proxy(gate, 1, got.append)
    future = proxy.submit(os.devnull, 2)
    proxy.close()
    proxy.close()
    assert not proxy.join(20 * MS)
    for call in (proxy.call, proxy.submit, lambda: proxy(None)):
        with pytest.raises(ClosedError, match="closed") as caught:
            call()
        assert isinstance(caught.value, RuntimeError)
    release(gate)

    assert future.result(LIMIT) == 2
    assert proxy.join()
    assert proxy.join(0)
    assert (got, ends, proxy.returncode) == ([1], [[1]], 0)
    with pytest.raises(ClosedError):
        proxy.call()


def test_with_closes_and_joins_also_when_it_raises(template):
    got = []
    with pytest.raises(KeyError), template.run("proxy_work.first") as proxy:
        proxy(1, got.append)
        raise KeyError

    assert (got, proxy.returncode) == ([1], 0)


def test_dropping_the_last_reference_closes(template, gate):
    got, ended = [], threading.Event()
    proxy = template.run("proxy_work.wait", on_destroy=ended.set)
    pid = proxy.pid
    proxy(gate, 1, got.append)
    future = proxy.submit(os.devnull, 2)
    del proxy
    gc.collect()
    assert process_alive(pid)
    release(gate)

    assert future.result(LIMIT) == 2
    assert ended.wait(LIMIT)
    assert got == [1]
    wait_until(lambda: process_stat(pid) is None, LIMIT, "end of a dropped worker")


def test_a_call_on_a_proxy_without_a_name_is_answered(template):
    assert template.run("proxy_work.first").call(5) == 5
    assert template.run("proxy_work.first").submit(6).result(LIMIT) == 6


@pytest.mark.parametrize("number", [None, signal.SIGTERM, signal.SIGUSR1])
def test_kill_ends_the_worker_without_a_word(template, gate, number):
    told, begun = [], threading.Event()
    proxy = template.run(
        "proxy_work.begin",
        on_event=begun.set,
        on_error=told.append,
        on_destroy=lambda: told.append("end"),
    )
    running, queued = proxy.submit(gate), proxy.submit(gate)
    proxy(gate, told.append)
    assert begun.wait(LIMIT)
    proxy.kill() if number is None else proxy.kill(number)
    number = number or signal.SIGKILL

    for future, started in ((running, True), (queued, False)):
        with pytest.raises(WorkerDied, match=number.name) as caught:
            future.result(LIMIT)
        error = caught.value
        assert (error.pid, error.returncode) == (proxy.pid, -number)
        assert (error.signal, error.started) == (number.name, started)
    assert proxy.join(LIMIT)
    assert (proxy.returncode, told) == (-number, [])
    proxy.kill()  # too late, and no error


def test_kill_ends_what_the_worker_has_started(template):
    proxy = template.run("proxy_work.started")
    pid = proxy.call()
    assert process_alive(pid)
    proxy.kill()

    assert proxy.join(LIMIT)
    wait_until(lambda: not process_alive(pid), LIMIT, f"end of {pid}")


def test_after_a_death_submit_gives_a_failed_future_and_the_other_forms_raise(template):
    errors = []
    proxy = template.run("os._exit", on_error=errors.append)
    with pytest.raises(WorkerDied, match="status 3"):
        proxy.call(3)
    assert proxy.join(LIMIT)

    assert isinstance(proxy.submit(1).exception(0), WorkerDied)
    with pytest.raises(WorkerDied):
        proxy.call(1)
    with pytest.raises(WorkerDied):
        proxy(1, None)
    assert (proxy.returncode, len(errors)) == (3, 1)


def test_a_proxy_in_a_forked_copy_of_the_program_is_inert():
    done = run_program(
        """
        import os, warnings
        from forkrpc import ClosedError, Forker

        warnings.simplefilter("ignore")  # that a program with threads forks
        proxy = Forker().run("operator.neg")
        print(proxy.call(1), flush=True)
        if not os.fork():
            for use in (proxy.call, proxy.submit, lambda: proxy(None)):
                try:
                    use()
                except ClosedError as error:
                    print("fork" in str(error), flush=True)
            proxy.kill()
            proxy.close()
            del proxy
            os._exit(0)
        os.wait()
        print(proxy.call(2))
        """
    )

    assert done.stderr == ""
    assert done.stdout.split() == ["-1", "True", "True", "True", "-2"]


# What the function may be.


@pytest.mark.parametrize(
    ("name", "args", "result"),
    [
        ("os.path.join", ("a", "b"), "a/b"),
        ("xml.etree.ElementTree.iselement", (1,), False),
        ("collections.OrderedDict.fromkeys", ("ab", 1), {"a": 1, "b": 1}),
        ("builtins.len", ([1, 2],), 2),
        ("proxy_work.Shop.named", ("Joe",), "Shop Joe"),
        ("proxy_work.Shop.double", (4,), 8),
        ("proxy_work.Shop.Till.total", (1, 2, 3), 6),
        ("proxy_work.os.path.basename", ("a/b",), "b"),
        ("encodings.utf_8.encode", ("ä",), (b"\xc3\xa4", 1)),
    ],
)
def test_a_name_is_a_module_as_far_as_possible_then_attributes(
    template, name, args, result
):
    with template.run(name) as proxy:
        assert proxy.call(*args) == result


def test_a_class_is_instantiated_once_with_the_arguments_of_the_worker(template):
    with template.fork().send_arg("corner", 7).run("proxy_work.Shop") as proxy:
        for n in range(3):
            made, args, called_with = proxy.call(n)
            assert made == [("corner", 7)]
            assert (args, called_with) == (("corner", 7), (n,))


def test_a_class_itself_may_be_given(template, work):
    with template.fork().send_arg(1).run(work.Shop) as proxy:
        assert proxy.call() == ([(1,)], (1,), ())


def test_a_type_of_the_standard_library_is_a_class_too(template):
    with template.fork().send_arg(1).run(operator.itemgetter) as proxy:
        assert proxy.call("abc") == "b"


def callables(work):
    base = 10
    return {
        "function": (work.first, (5,), 5),
        "lambda": (lambda n: n + base, (5,), 15),
        "bound method": (work.Shop(3).price, (5,), 15),
        "class method": (work.Shop.named, ("Ann",), "Shop Ann"),
        "static method": (work.Shop.double, (5,), 10),
        "instance": (work.Shop(1), (5,), ([], (1,), (5,))),
        "partial": (functools.partial(operator.sub, 7), (5,), 2),
        "partial of a lambda": (functools.partial(lambda a, b: a - b, 9), (5,), 4),
        "builtin function": (len, ("abc",), 3),
        "builtin method": ("abc".replace, ("b", "x"), "axc"),
        "method of a type": (str.upper, ("abc",), "ABC"),
        "wrapped function": (work.cached, (5,), 5),
        "itemgetter": (operator.itemgetter(1), ("abc",), "b"),
        "module function": (os.path.basename, ("a/b",), "b"),
        "unbound method": (work.Shop.price, (work.Shop(2), 5), 10),
    }


KINDS = """function, lambda, bound method, class method, static method, instance,
partial, partial of a lambda, builtin function, builtin method, method of a type,
wrapped function, itemgetter, module function, unbound method"""


@pytest.mark.parametrize("kind", re.split(r",\s*", KINDS))
def test_a_callable_may_be_given_itself(template, work, kind):
    function, args, result = callables(work)[kind]
    del work.Shop.made[:]

    with template.run(function) as proxy:
        assert proxy.call(*args) == result
        assert proxy.call(*args) == result


def test_a_closure_takes_its_variables_along(template):
    def make(step):
        total = 0

        def count(n):
            nonlocal total
            total += n * step
            return total

        return count, lambda: total

    count, total = make(10)
    count(1)
    with template.run(count) as proxy:
        assert [proxy.call(1), proxy.call(2)] == [20, 40]
    assert total() == 10


def test_a_recursive_local_function_is_sent(template):
    def factorial(n):
        return n * factorial(n - 1) if n else 1

    with template.run(factorial) as proxy:
        assert proxy.call(20) == 2432902008176640000


@pytest.mark.parametrize("function", ["", "no name", "a..b", ".a", "a.", "1.a", "a-b"])
def test_what_is_no_name_is_refused_at_once(template, function):
    with pytest.raises(ValueError, match="package.module.name"):
        template.run(function)


@pytest.mark.parametrize("function", [None, 3, b"os.getpid", ["os.getpid"]])
def test_what_cannot_be_called_is_refused_at_once(template, function):
    with pytest.raises(TypeError, match="dotted name or a callable"):
        template.run(function)


def test_a_function_that_cannot_be_sent_is_refused_at_once(template):
    lock = threading.Lock()

    with pytest.raises(SerialiserError, match="lock"):
        template.run(lambda: lock)


@pytest.mark.parametrize(
    ("function", "texts"),
    [
        ("proxy_work.missing", ["AttributeError", "proxy_work.missing", "'missing'"]),
        ("proxy_work.Shop.missing", ["AttributeError", "Shop.missing"]),
        ("missing_module.f", ["ModuleNotFoundError", "missing_module"]),
        ("os.missing.f", ["AttributeError", "os.missing.f"]),
        ("missing", ["AttributeError", "'missing'"]),
        ("math.pi", ["TypeError", "math.pi", "cannot be called"]),
        ("proxy_work.NoCall", ["TypeError", "NoCall", "cannot be called"]),
        ("proxy_work.coroutine", ["TypeError", "coroutine", 'backend="async"']),
        ("proxy_work.numbers_async", ["TypeError", 'backend="async"']),
    ],
)
def test_a_function_that_is_none_fails_its_calls(template, function, texts):
    errors = []
    proxy = template.run(function, on_error=errors.append)
    future = proxy.submit()
    for error in (future.exception(LIMIT), *second_failure(proxy)):
        assert isinstance(error, SetupError)
        for text in texts:
            assert text in str(error)
    assert proxy.join(LIMIT)
    assert [type(error) for error in errors] == [SetupError]


def second_failure(proxy):
    with pytest.raises(SetupError) as caught:
        proxy.call()
    return [caught.value]


def test_a_coroutine_of_a_class_fails_its_calls(template):
    error = failure(template, "proxy_work.Asynchronous", logs=False, stderr="null")

    assert isinstance(error, forkrpc.Error)
    assert 'backend="async"' in str(error)


def test_the_call_of_a_generator_function_says_what_to_use(template):
    with template.run("proxy_work.numbers", **QUIET) as proxy:
        for _ in range(2):
            with pytest.raises(TypeError, match=r"stream\(\)"):
                proxy.call(3)


@pytest.mark.parametrize("number", [0, -1, 9999, "TERM", None])
def test_a_kill_with_what_is_no_signal_is_refused_and_harms_nothing(template, number):
    with template.run("proxy_work.first") as proxy:
        with pytest.raises(ValueError, match="is no signal"):
            proxy.kill(number)

        assert proxy.call(5) == 5


# Options.


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"on_eror": print}, TypeError, "'on_eror'; did you mean 'on_error'"),
        ({"zzzz": 1}, TypeError, "'zzzz'; its options are"),
        ({"on_event": "print"}, TypeError, "on_event must be callable"),
        ({"on_error": 3}, TypeError, "on_error must be callable"),
        ({"on_destroy": 3}, TypeError, "on_destroy must be callable"),
        ({"backend": "threads"}, ValueError, "backend"),
        ({"serialiser": "yaml"}, ValueError, "'yaml' is none of 'pickle'"),
        ({"serialiser": (len,)}, TypeError, "pair"),
        ({"serialiser": 3}, TypeError, "pair"),
        ({"buflen": 0}, ValueError, "buflen"),
        ({"buflen_req": -1}, ValueError, "buflen_req"),
        ({"buflen_res": "big"}, ValueError, "buflen_res"),
        ({"max_frame": 0}, ValueError, "max_frame"),
        ({"timeout": 0}, ValueError, "timeout"),
        ({"timeout": "1"}, ValueError, "timeout"),
        ({"orphan": "adopt"}, ValueError, "orphan"),
        ({"loop": 3}, TypeError, "loop"),
        ({"stdin": "keyboard"}, TypeError, "stdin"),
        ({"stdout": subprocess.PIPE}, TypeError, r"os\.pipe\(\)"),
        ({"stdin": subprocess.STDOUT}, TypeError, "stdin"),
        ({"stdout": 99_999}, OSError, "Bad file descriptor"),
        ({"rlimits": {"MEMORY": 1}}, ValueError, "MEMORY"),
        ({"affinity": []}, ValueError, "affinity"),
        ({"affinity": [99_999]}, ValueError, "99999"),
        ({"nice": "very"}, TypeError, "nice"),
        ({"init": 3}, TypeError, "init must be a dotted name or a callable"),
        ({"init": "no name"}, ValueError, "init 'no name'"),
        ({"limit": 3}, TypeError, "limit"),
        ({"done": print}, TypeError, "done"),
        ({"loop_factory": print}, TypeError, "loop_factory"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, dict) else "",
)
def test_a_bad_option_is_refused_at_once(template, options, error, text):
    with pytest.raises(error, match=text):
        template.run("proxy_work.echo", **options)


def test_a_serialiser_whose_library_is_missing_names_what_to_install(
    template, monkeypatch
):
    monkeypatch.setitem(sys.modules, "cbor2", None)

    with pytest.raises(ImportError, match=r"pip install 'forkrpc\[cbor\]'"):
        template.run("proxy_work.echo", serialiser="cbor")


@pytest.mark.parametrize("serialiser", ["bytes", "json", "data", "portable-pickle"])
def test_the_serialiser_carries_calls_events_and_exceptions(template, serialiser):
    value = b"bytes" if serialiser == "bytes" else "text"
    events = []
    options = {"serialiser": serialiser, "on_event": lambda *a: events.append(a)}
    with template.run("forkrpc.event", **options) as proxy:
        assert proxy.call(value, value) is None
    with template.run("proxy_work.first", serialiser=serialiser) as proxy:
        assert proxy.call(value) == value
        assert proxy.call() is None
    error = failure(template, "operator.index", value, serialiser=serialiser)

    assert events == [(value, value)]
    assert type(error) is TypeError
    assert "cannot be interpreted as an integer" in printed(error)


def test_an_exception_that_plain_data_cannot_carry_is_a_remote_error(template):
    error = failure(template, "proxy_work.picky", serialiser="data")

    assert isinstance(error, RemoteError)
    assert (error.type_name, error.message) == ("proxy_work.Picky", "salt and pepper")


@pytest.mark.parametrize("cyclic", ["pickle", "cbor"])
def test_a_serialiser_that_shares_values_carries_cycles(template, cyclic):
    if cyclic == "cbor":
        pytest.importorskip("cbor2")
    ring = {"name": "ring"}
    ring["self"] = ring
    with template.run("proxy_work.first", serialiser=cyclic) as proxy:
        found = proxy.call(ring)

    assert found["self"] is found


def test_a_pair_of_functions_is_a_serialiser(template):
    def dumps(values):
        return repr(values).encode()

    def loads(body):
        return eval(bytes(body))

    with template.run("proxy_work.echo", serialiser=(dumps, loads), **QUIET) as proxy:
        assert proxy.call(1, "two", key=[3]) == ((1, "two"), {"key": [3]})
        with pytest.raises(SerialiserError, match="arguments cannot be loaded: Syn"):
            proxy.call(object=len)


@pytest.mark.parametrize("serialiser", ["bytes", "json", "data"])
def test_what_plain_data_cannot_carry_is_a_serialiser_error(template, serialiser):
    make = lambda *_: object()  # noqa: E731
    with template.run(make, serialiser=serialiser, **QUIET) as proxy:
        with pytest.raises(SerialiserError, match="cannot be sent"):
            proxy.call()
        with pytest.raises(SerialiserError, match=r"value\[0\] \(object\)"):
            proxy.call(object())


@pytest.mark.parametrize("size", [1, 7, 20_000_000])
@pytest.mark.parametrize("option", ["buflen", "buflen_req", "buflen_res"])
def test_a_buffer_of_any_size_does(template, option, size):
    got = []
    with template.run("proxy_work.first", **{option: size}) as proxy:
        for number in range(200):
            proxy(number, got.append)
        large = bytes(range(256)) * 2000
        assert proxy.call(large) == large

    assert got == list(range(200))


def test_stdin_is_empty_and_output_goes_where_the_program_writes(template, capfd):
    with template.run("proxy_work.read_stdin") as proxy:
        assert proxy.call() == ""
    with template.run("proxy_work.say") as proxy:
        proxy.call("hello")

    assert capfd.readouterr() == ("hello\n", "HELLO\n")


@pytest.mark.parametrize("null", ["null", subprocess.DEVNULL])
def test_output_may_go_nowhere(template, capfd, null):
    with template.run("proxy_work.say", stdout=null, stderr=null) as proxy:
        proxy.call("hello")

    assert capfd.readouterr() == ("", "")


def test_the_streams_may_be_files_or_descriptors(template, tmp_path):
    (tmp_path / "in").write_text("input")
    with (
        open(tmp_path / "in") as stdin,
        open(tmp_path / "out", "w") as stdout,
        open(tmp_path / "err", "wb") as stderr,
    ):
        stdout.write("before\n")
        say = template.run("proxy_work.say", stdout=stdout, stderr=stderr.fileno())
        read = template.run("proxy_work.read_stdin", stdin=stdin)
    with say, read:
        assert read.call() == "input"
        say.call("hello")

    assert (tmp_path / "out").read_text() == "before\nhello\n"
    assert (tmp_path / "err").read_text() == "HELLO\n"


def test_stderr_may_go_where_stdout_goes_which_may_be_a_pipe(template):
    reader, writer = os.pipe()
    with template.run(
        "proxy_work.say", stdout=writer, stderr=subprocess.STDOUT
    ) as proxy:
        os.close(writer)
        proxy.call("hello")
    with open(reader) as pipe:
        assert pipe.read() == "hello\nHELLO\n"


def test_each_worker_has_streams_of_its_own(template, tmp_path):
    proxies = []
    for name in "abc":
        with open(tmp_path / name, "w") as file:
            proxies.append(template.run("proxy_work.say", stdout=file, stderr="null"))
    for name, proxy in zip("abc", proxies, strict=True):
        proxy.call(name)
        proxy.close()
        assert proxy.join(LIMIT)

    assert [(tmp_path / name).read_text() for name in "abc"] == ["a\n", "b\n", "c\n"]


def test_limits_are_set_in_the_worker_only(template):
    mine = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = {"NOFILE": 50, resource.RLIMIT_CPU: (60, 70), "RLIMIT_CORE": 0}
    with template.run("resource.getrlimit", rlimits=limits) as proxy:
        assert proxy.call(resource.RLIMIT_NOFILE) == (50, 50)
        assert proxy.call(resource.RLIMIT_CPU) == (60, 70)
        assert proxy.call(resource.RLIMIT_CORE) == (0, 0)
    with template.run("resource.getrlimit") as proxy:
        assert proxy.call(resource.RLIMIT_NOFILE) == mine


def test_a_limit_on_memory_fails_the_call_that_exceeds_it(template):
    limits = {"AS": 500_000_000}
    with template.run("operator.mul", rlimits=limits, **QUIET) as proxy:
        with pytest.raises(MemoryError):
            proxy.call(b"x", 2**40)
        assert proxy.call(b"x", 3) == b"xxx"


def test_a_limit_that_cannot_be_set_fails_the_worker(template):
    limits = {"NOFILE": (100, 50)}  # the soft one above the hard one
    proxy = template.run("proxy_work.echo", rlimits=limits, **QUIET)

    with pytest.raises((SetupError, WorkerDied)):
        proxy.call()


def test_nice_and_affinity_are_set_in_the_worker_only(template):
    cpu = min(os.sched_getaffinity(0))
    with template.run("os.nice", nice=3) as proxy:
        assert proxy.call(0) == os.nice(0) + 3
    with template.run("os.sched_getaffinity", affinity={cpu}) as proxy:
        assert proxy.call(0) == {cpu}
    with template.run("os.sched_getaffinity") as proxy:
        assert proxy.call(0) == os.sched_getaffinity(0)


def test_a_call_that_runs_too_long_is_ended(template, gate):
    with template.run("proxy_work.wait", timeout=100 * MS, **QUIET) as proxy:
        assert proxy.call(os.devnull, 1) == 1
        late, queued = proxy.submit(gate), proxy.submit(gate)
        with pytest.raises(CallTimeout, match=r"timeout of 0\.1 s") as caught:
            late.result(LIMIT)
        assert isinstance(caught.value, TimeoutError)
        with pytest.raises(WorkerDied) as caught:
            queued.result(LIMIT)
        assert caught.value.started is False


def test_a_slow_callback_is_not_time_that_a_call_runs(template):
    with template.run(
        "proxy_work.tell_often", timeout=200 * MS, on_event=lambda _: None
    ) as proxy:
        proxy.call(0)
        proxy(0, lambda _: time.sleep(400 * MS))
        future = proxy.submit(40)  # has ended long before its answer is read

        assert future.result(LIMIT) == 40
        time.sleep(300 * MS)
        assert proxy.call(1) == 1


def test_a_stop_of_the_program_is_not_time_that_a_call_runs():
    done = run_program(
        """
        import os, signal, subprocess
        from forkrpc import Forker

        with Forker().run("time.sleep", timeout=0.3) as proxy:
            proxy.call(0)
            for _ in range(3):
                awake = f"sleep 0.6; kill -CONT {os.getpid()}"
                waker = subprocess.Popen(["sh", "-c", awake])
                stop = f"sleep 0.05; kill -STOP {os.getpid()}"
                stopper = subprocess.Popen(["sh", "-c", stop])
                proxy.call(0.1)
                proxy.call(0.1)
                waker.wait()
                stopper.wait()
        """,
    )

    assert (done.returncode, done.stderr) == (0, "")


# init


def test_init_comes_first_with_the_arguments_and_the_limits_of_the_worker(template):
    options = {"init": "proxy_work.init", "rlimits": {"NOFILE": 60}, "nice": 1}
    with template.fork().send_arg("shelf", 3).run("made_by_init", **options) as proxy:
        (seen, in_function) = proxy.call()

    args, in_init, (files, nice) = seen
    assert args == ("shelf", 3)
    assert (in_init, in_function) == (False, True)
    assert (files, nice) == ((60, 60), os.nice(0) + 1)


def test_init_comes_before_the_serialiser_is_resolved(template, monkeypatch, work):
    work.init_serialiser()  # here, too
    monkeypatch.setitem(sys.modules, "made_by_init", sys.modules["made_by_init"])
    options = {"serialiser": "made_by_init:pair", "init": "proxy_work.init_serialiser"}
    with template.run("proxy_work.echo", **options) as proxy:
        assert proxy.call("by repr", 2) == ("by repr", 2)
    sys.modules.pop("made_by_init")


@pytest.mark.parametrize("kind", ["function", "lambda", "bare name"])
def test_init_may_be_anything_callable(template, work, kind):
    init = {
        "function": work.count,
        "lambda": lambda *args: __import__("proxy_work").count(*args),
        "bare name": "prepare",
    }[kind]
    fork = template.fork().send_arg("given")
    fork.eval("import proxy_work\ndef prepare(*args): proxy_work.count(*args)")
    with fork.run("proxy_work.count", init=init) as proxy:
        assert proxy.call("called") == [("given",), ("called",)]


@pytest.mark.parametrize(
    ("init", "text"),
    [
        ("proxy_work.init_fails", r"LookupError: no such shelf: \(7,\)"),
        ("proxy_work.init_event", r"ClosedError: .*event\(\)"),
        ("proxy_work.no_init", "AttributeError: .*no_init"),
        ("sys.exit", "status 7"),
    ],
)
def test_an_init_that_fails_fails_the_calls(template, init, text):
    errors = []
    with template.fork().send_arg(7) as fork:
        proxy = fork.run("proxy_work.echo", init=init, on_error=errors.append)
    futures = [proxy.submit(n) for n in range(3)]

    expected = WorkerDied if init == "sys.exit" else SetupError
    for future in futures:
        with pytest.raises(expected, match=f"(?s){text}"):
            future.result(LIMIT)
    with pytest.raises(expected, match=f"(?s){text}"):
        proxy.call()
    assert proxy.join(LIMIT)
    assert [type(error) for error in errors] == [expected]
    assert proxy.returncode == (7 if init == "sys.exit" else 1)


def test_init_shows_the_line_that_failed(template):
    error = failure(template, "proxy_work.echo", init="proxy_work.init_fails")

    assert isinstance(error, SetupError)
    assert 'raise LookupError(f"no such shelf' in str(error)


def test_init_may_catch_that_it_cannot_send_events(template):
    with template.run(
        "proxy_work.seen", init="proxy_work.init_event_caught", on_event=print
    ) as proxy:
        (text,) = proxy.call()

    assert "event() works in the functions that a worker is called for" in text


# What the function calls.


def test_outside_a_worker_there_is_no_one_to_tell():
    assert not forkrpc.in_worker()
    for use in (forkrpc.event, forkrpc.flush, forkrpc.retire):
        with pytest.raises(ClosedError, match="a worker is called for"):
            use()


def test_a_function_can_tell_that_it_is_in_a_worker(template):
    with template.run("forkrpc.in_worker") as proxy:
        assert proxy.call() is True
    with template.run("forkrpc.flush") as proxy:
        assert proxy.call() is True


def test_a_process_that_the_function_forks_is_no_worker(template):
    def fork():
        reader, writer = os.pipe()
        if not os.fork():
            try:
                forkrpc.event("from the fork")
            except ClosedError:
                os.write(writer, b"refused" if not forkrpc.in_worker() else b"?")
            os._exit(0)
        os.wait()
        return os.read(reader, 100)

    with template.run(fork, on_event=print) as proxy:
        assert proxy.call() == b"refused"
        assert proxy.call() == b"refused"


def test_a_worker_that_retires_answers_what_it_has_and_ends(template):
    ends = []
    proxy = template.run("proxy_work.retire_after", on_destroy=lambda: ends.append(1))
    assert proxy.call("answer") == "answer"

    assert proxy.join(LIMIT)
    assert (proxy.returncode, ends) == (0, [1])
    for call in (proxy.call, proxy.submit, proxy):
        with pytest.raises(ClosedError, match="retired"):
            call(None)


def test_calls_made_before_a_worker_retires_are_answered(template, gate):
    def wait_and_retire(gate, value):
        if gate:
            open(gate).close()
            forkrpc.retire()
        return value

    proxy = template.run(wait_and_retire)
    futures = [proxy.submit(gate, 0), proxy.submit(None, 1), proxy.submit(None, 2)]
    release(gate)

    assert [future.result(LIMIT) for future in futures] == [0, 1, 2]
    assert proxy.join(LIMIT)


# Sizes.


def test_arguments_over_max_frame_are_refused_before_a_byte_is_sent(template):
    with template.run("proxy_work.count", max_frame=10_000) as proxy:
        for call in (proxy.call, proxy.submit, lambda *args: proxy(*args, None)):
            with pytest.raises(
                SerialiserError, match=r"max_frame.* 10000; .*max_frame"
            ):
                call(bytes(10_000))

        assert proxy.pending == 0
        (args,) = proxy.call(bytes(9_000))
        assert len(args[0]) == 9_000


@pytest.mark.parametrize("limit", [1000, 20_000, 100_000])
def test_frames_of_many_calls_stay_below_max_frame(template, limit):
    values = [1, 2.5, "x" * 64, b"y" * 64, ["z" * 64], None] * 300
    with template.run("proxy_work.first", max_frame=limit) as proxy:
        sorted_ = sorted(values, key=str)
        futures = [proxy.submit(value) for value in sorted_ + values]
        named = [proxy.submit(value=value) for value in sorted_]

        assert [each.result(LIMIT) for each in futures] == sorted_ + values
        assert [each.result(LIMIT) for each in named] == sorted_


def test_a_number_over_max_frame_is_refused_as_all_else(template):
    number = 1 << 80_000
    with template.run("operator.lshift", max_frame=10_000, **QUIET) as proxy:
        for verb in (proxy.call, proxy.submit, lambda *args: proxy(*args, print)):
            with pytest.raises(SerialiserError, match="max_frame"):
                verb(number, 1)
        for _ in range(2):
            with pytest.raises(SerialiserError, match="max_frame"):
                proxy.call(1, 80_000)
            with pytest.raises(SerialiserError, match="max_frame"):
                proxy.submit(1, 80_000).result(LIMIT)

        assert proxy.call(1, 3) == 8


def test_a_result_over_max_frame_fails_its_call_only(template):
    with template.run("operator.mul", max_frame=10_000, **QUIET) as proxy:
        with pytest.raises(SerialiserError, match=r"max_frame is 10000"):
            proxy.call(b"x", 10_000)
        assert len(proxy.call(b"x", 9_000)) == 9_000


def test_an_event_over_max_frame_fails_in_the_function(template):
    sizes = []
    with template.run(
        lambda n: forkrpc.event(bytes(n)),
        max_frame=10_000,
        on_event=lambda body: sizes.append(len(body)),
        **QUIET,
    ) as proxy:
        for size in (9_000, 10_000, 9_001):
            proxy(size, None)
        with pytest.raises(SerialiserError, match="max_frame is 10000"):
            proxy.call(10_000)

    assert sizes == [9_000, 9_001]


def test_more_than_4_gib_are_refused_unless_the_limit_is_raised(template):
    # Pages of zeros that nobody reads take no memory.
    pair = (lambda values: bytes(2**32), lambda body: ())
    with template.run("proxy_work.echo", serialiser=pair) as proxy:
        with pytest.raises(SerialiserError, match="4294967296 bytes"):
            proxy.call()
        assert proxy.pending == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_more_than_2_gib_go_both_ways(template):
    size = 2**31 + 2**28
    with template.run("builtins.len") as proxy:
        assert proxy.call(bytes(size)) == size
    with template.run("operator.mul") as proxy:
        result = proxy.call(b"x", size)
    assert len(result) == size
    assert result[:3] == result[-3:] == b"xxx"
