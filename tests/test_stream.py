"""End-to-end: streams; what a generator in a worker yields, and how it ends."""

import contextlib
import copy
import gc
import os
import pickle
import signal
import threading
import time

import pytest

import interrupts
from forkrpc import (
    CallTimeout,
    ClosedError,
    Forker,
    SerialiserError,
    WorkerDied,
    items,
    stream,
)
from helpers import process_alive, run_program, wait_until
from interrupts import Interrupt, interrupt_everywhere
from shared import shared_template

LIMIT = 20.0  # seconds for anything to happen; much more than it takes
WINDOW = 64
SLOW = 1e-4  # seconds; items that take so long have no wide window
BACKENDS = ["sync", "async"]
RUN = {"sync": "streamed.run", "async": "streamed.arun"}


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture(scope="module")
def template():
    with shared_template("streamed") as template:
        yield template


class Heard:
    """What the callbacks of a worker have heard."""

    def __init__(self):
        self.events, self.errors = [], []
        self.options = {
            "on_event": lambda *args: self.events.append(args),
            "on_error": self.errors.append,
        }

    def wait_for(self, *event):
        wait_until(lambda: event in self.events, LIMIT, f"event {event}")


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def worker(template, backend, heard):
    """A worker that executes any function of `streamed`, by name."""
    with template.run(RUN[backend], backend=backend, **heard.options) as proxy:
        yield proxy


@pytest.fixture
def fifo(tmp_path):
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    return path


def let_through(fifo):
    with open(fifo, "wb"):
        pass


def all_of(iterator):
    """Return (items, the exception that ended it, or None)."""
    found = []
    try:
        for item in iterator:
            found.append(item)
    except Exception as error:
        return found, error
    return found, None


# Items.


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 63, 64, 65, 1000, 20_000])
def test_all_items_come_in_order(worker, count):
    assert list(worker.stream("numbers", count)) == list(range(count))


VALUES = [
    *(1, "text", None, 2.5, b"bytes", [1, 2], {"a": 1}, 2**80, -1, True, ()),
    *("x" * 5000, 7, b"y" * 300_000, 8, "z" * 1024, 9, 10, "w" * 100),
    *("a" * 1000, "b" * 1000, 11, b"c" * 2_000_000, complex(1, 2)),
]


@pytest.mark.parametrize("times", [1, 3, 40])
def test_small_and_large_items_of_all_kinds_come_in_order(worker, times):
    assert list(worker.stream("listed", VALUES * times)) == VALUES * times


@pytest.mark.parametrize("name", ["portable-pickle", "json", "data", "msgpack", "cbor"])
def test_items_travel_with_each_serialiser(template, backend, name):
    values = [1, "text", None, [1, 2], {"a": 1}, "x" * 5000] * 30
    options = {"serialiser": name, "backend": backend}
    with template.run(RUN[backend], **options) as proxy:
        assert list(proxy.stream("listed", values)) == values


def test_items_that_are_byte_strings_only(template, backend):
    options = {"serialiser": "bytes", "backend": backend}
    with template.run(_split, **options) as proxy:
        assert list(proxy.stream(b"a b c")) == [b"a", b"b", b"c", None]


def _split(text):
    yield from text.split()
    yield None


def test_positional_and_keyword_arguments_go_to_the_function(template, backend):
    with template.run("streamed.Counter", backend=backend) as proxy:
        assert list(proxy.stream(3, step=5)) == [0, 5, 10]
        assert list(proxy.stream(2)) == [0, 1]


@pytest.mark.parametrize("name", ["streamed.three", "streamed.method"])
def test_partial_objects_and_methods_are_generator_functions(template, backend, name):
    with template.run(name, backend=backend) as proxy:
        args = () if name.endswith("three") else (3,)

        assert list(proxy.stream(*args)) == [0, 1, 2]
        with pytest.raises(TypeError, match=r"use stream\(\)"):
            proxy.call(*args)


def test_a_function_may_return_an_iterator(worker, tmp_path):
    (tmp_path / "text").write_text("one\ntwo\n")

    assert list(worker.stream("rows", str(tmp_path / "text"))) == ["one\n", "two\n"]


def test_an_item_comes_before_the_next_is_made(worker, fifo):
    taken = worker.stream("then", 1, "wait", fifo)

    assert next(taken) == 0
    let_through(fifo)
    assert list(taken) == ["behind"]


@pytest.mark.parametrize("count", [2, 5, 40, 63])
def test_no_item_is_held_while_the_generator_blocks(worker, fifo, count):
    taken = worker.stream("then", count, "wait", fifo)

    assert [next(taken) for _ in range(count)] == list(range(count))
    let_through(fifo)
    assert list(taken) == ["behind"]


def test_no_text_is_held_while_the_generator_blocks(template, backend, fifo):
    if backend != "sync":
        pytest.skip("what blocks the loop holds up all that it has to send")

    def lines(path):
        for number in range(5):
            yield str(number)
        with open(path, "rb") as file:
            file.read()
        yield "end"

    with template.run(lines, backend=backend) as proxy:
        taken = proxy.stream(fifo)
        assert [next(taken) for _ in range(5)] == list("01234")
        let_through(fifo)
        assert list(taken) == ["end"]


def test_items_come_while_an_event_is_sent_between_them(worker, heard):
    assert list(worker.stream("told", 100)) == list(range(100))
    assert worker.drain(LIMIT)
    assert heard.events == [*(("make", number) for number in range(100)), ("closed",)]


# Ahead by a window.


def test_the_generator_is_at_most_a_window_ahead(worker, heard):
    taken = worker.stream("told", 1000, SLOW)
    for number in range(300):
        assert next(taken) == number
        made = len(heard.events)
        assert made <= number + 1 + WINDOW
        if number % 100 == 0:
            # Three quarters of it may be on their way, or taken and not told.
            wait_until(lambda n=number: len(heard.events) > n + WINDOW // 4, LIMIT)
    assert list(taken) == list(range(300, 1000))


def test_the_generator_makes_a_whole_window_while_nobody_takes(worker, heard):
    with worker.stream("told", 1000, SLOW) as taken:
        wait_until(lambda: len(heard.events) >= WINDOW, LIMIT)
        assert next(taken) == 0
        assert len(heard.events) <= WINDOW + 1


def test_large_items_are_at_most_a_window_of_bytes_ahead(worker, heard):
    size = 100_000  # the third one reaches 256 KiB
    with worker.stream("blocks", 50, size) as taken:
        wait_until(lambda: len(heard.events) >= 3, LIMIT)
        for number in range(20):
            assert next(taken) == bytes([number]) * size
            assert len(heard.events) <= number + 1 + 3


def test_many_calls_behind_a_stream_are_answered(worker):
    taken = worker.stream("numbers", 10_000)
    answers = []
    for number in range(20_000):
        worker("plain", number, answers.append)
    future = worker.submit("plain", "last")

    assert list(taken) == list(range(10_000))
    assert future.result(LIMIT) == "last"
    assert worker.drain(LIMIT)
    assert answers == list(range(20_000))


# Ends.


def test_an_exception_comes_behind_the_items_before_it(worker):
    for count in (0, 1, 10, 40, 100):
        found, error = all_of(worker.stream("then", count, "raise"))

        assert found == list(range(count))
        assert type(error) is ValueError
        assert "on purpose" in str(error)
        assert "then" in str(error.__cause__)  # the remote traceback
    assert worker.call("plain", 1) == 1


def test_a_stream_that_failed_stays_failed_and_one_that_ended_ended(worker, backend):
    failed = worker.stream("then", 1, "raise")
    assert next(failed) == 0
    for _ in range(2):
        with pytest.raises(ValueError, match="on purpose"):
            next(failed)
    ended = worker.stream("numbers", 1)
    assert list(ended) == [0]
    assert list(ended) == []
    assert (repr(failed), repr(ended)) == (
        f"<Stream of {RUN[backend]}, failed>",
        f"<Stream of {RUN[backend]}, ended>",
    )


def test_an_item_that_cannot_be_sent_fails_the_stream_behind_those_before(worker):
    found, error = all_of(worker.stream("unsendable", 3))

    assert found == [0, 1, 2]
    assert isinstance(error, SerialiserError)
    assert "lock" in str(error)
    assert worker.call("plain", 1) == 1


def test_an_item_above_max_frame_fails_the_stream(template, backend):
    options = {"backend": backend, "max_frame": 10_000}
    with template.run(RUN[backend], **options) as proxy:
        found, error = all_of(proxy.stream("blocks", 3, 20_000))

        assert found == []
        assert isinstance(error, SerialiserError)
        assert "max_frame is 10000" in str(error)
        assert proxy.call("plain", 1) == 1


@pytest.mark.parametrize("deed", ["exit", "hard-exit", "kill", "segfault"])
@pytest.mark.parametrize("count", [0, 1, 20, 64])
def test_a_death_fails_the_stream_behind_all_that_was_made(
    template, backend, deed, count, heard
):
    returncodes = {"exit": 3, "hard-exit": 5, "kill": -9, "segfault": -11}
    options = {"backend": backend, "rlimits": {"CORE": 0}, **heard.options}
    with template.run(RUN[backend], **options) as proxy:
        taken = proxy.stream("then", count, deed)
        behind = future = None
        with contextlib.suppress(WorkerDied):  # so soon
            behind = proxy.stream("numbers", 1)
            future = proxy.submit("plain", 1)

        found, error = all_of(taken)

        if backend == "sync" or deed == "exit":
            assert found == list(range(count))
        assert found == list(range(len(found)))  # what the loop had not sent is lost
        assert type(error) is WorkerDied
        assert (error.started, error.returncode) == (True, returncodes[deed])
        assert error.call
        if backend == "sync" and future is not None:
            assert all_of(behind)[0] == []
            assert all_of(behind)[1].started is False
            assert future.exception(LIMIT).started is False
        with pytest.raises(WorkerDied):
            proxy.stream("numbers", 1)
    assert len(heard.errors) == 1


def test_a_call_made_as_the_worker_ends_costs_no_item(template, monkeypatch):
    """It asked what had ended the worker, and so gave back the page with the items."""
    with template.run("streamed.run", on_error=lambda _: None) as proxy:
        connection, early = proxy._connection, []
        recover = connection.flow.recover

        def late():
            early.append(connection.death_error())
            recover()

        monkeypatch.setattr(connection.flow, "recover", late)
        found, error = all_of(proxy.stream("then", 64, "hard-exit"))

    assert early == [None]
    assert found == list(range(64))
    assert type(error) is WorkerDied


def test_a_stream_is_failed_by_kill(worker):
    taken = worker.stream("numbers", 10**9)
    assert next(taken) == 0

    worker.kill()

    found, error = all_of(taken)
    assert found == list(range(1, len(found) + 1))
    assert type(error) is WorkerDied


# Closing.


def test_close_runs_the_generators_finally(worker, heard, backend):
    taken = worker.stream("endless")
    assert next(taken) == 0

    taken.close()

    heard.wait_for("closed")
    assert list(taken) == []
    assert repr(taken) == f"<Stream of {RUN[backend]}, closed>"
    taken.close()
    assert worker.call("plain", 1) == 1
    assert not heard.errors


def test_close_reaches_a_generator_that_is_blocked(worker, heard):
    taken = worker.stream("told", 10**9, SLOW)
    wait_until(lambda: len(heard.events) == WINDOW, LIMIT)

    taken.close()

    heard.wait_for("closed")
    assert len(heard.events) == WINDOW + 1


def test_close_reaches_a_generator_between_two_slow_items(template, backend, heard):
    with template.run(RUN[backend], backend=backend, **heard.options) as proxy:
        taken = proxy.stream("slow")
        assert next(taken) == 1
        taken.close()
        heard.wait_for("closed")


def test_break_and_drop_run_the_generators_finally(worker, heard):
    for item in worker.stream("endless"):
        if item == 100:
            break

    heard.wait_for("closed")


def test_an_exception_in_the_loop_runs_the_generators_finally(worker, heard):
    def loop():
        for item in worker.stream("endless"):
            if item == 3:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()

    heard.wait_for("closed")


def test_garbage_collection_runs_the_generators_finally(worker, heard):
    circle = [worker.stream("endless")]
    circle.append(circle)
    assert next(circle[0]) == 0
    del circle

    gc.collect()

    heard.wait_for("closed")


def test_a_stream_that_nobody_began_to_take_is_closed_when_dropped(worker, heard):
    taken = worker.stream("endless")
    heard.wait_for("begun")
    del taken

    heard.wait_for("closed")


def test_leaving_its_with_closes_a_stream(worker, heard):
    with worker.stream("endless") as taken:
        assert next(taken) == 0

    heard.wait_for("closed")
    assert list(taken) == []


def test_leaving_the_proxy_closes_a_stream_that_nobody_has_taken_from(
    template, backend
):
    """This thread made it, and waits for the worker's end now."""
    with template.run(RUN[backend], backend=backend) as proxy:
        kept = proxy.stream("endless")

    found, error = all_of(kept)
    assert found == list(range(len(found)))
    assert isinstance(error, ClosedError)


def test_close_by_another_thread_wakes_who_waits(worker, fifo):
    taken = worker.stream("then", 1, "wait", fifo)
    found = []
    thread = threading.Thread(target=lambda: [found.append(item) for item in taken])
    thread.start()
    wait_until(lambda: found == [0], LIMIT)

    taken.close()

    thread.join(LIMIT)
    assert not thread.is_alive()
    let_through(fifo)
    assert worker.call("plain", 1) == 1


def test_an_error_while_it_is_closed_goes_to_on_error(worker, heard):
    with worker.stream("fails_when_closed") as taken:
        assert next(taken) == 0

    wait_until(lambda: heard.errors, LIMIT)
    assert [type(error) for error in heard.errors] == [KeyError]
    assert worker.call("plain", 1) == 1


def test_a_generator_that_ignores_its_end_fails_and_the_worker_goes_on(
    template, backend, heard
):
    with template.run(RUN[backend], backend=backend, **heard.options) as proxy:
        with proxy.stream("stubborn") as taken:
            assert next(taken) == 1
        wait_until(lambda: heard.errors, LIMIT)
        assert isinstance(heard.errors[0], RuntimeError)
        with proxy.stream("stubborn") as taken:
            assert next(taken) == 1


def test_closing_the_proxy_lets_an_open_stream_finish(template, backend):
    proxy = template.run(RUN[backend], backend=backend)
    taken = proxy.stream("numbers", 1000)
    assert next(taken) == 0

    proxy.close()

    assert list(taken) == list(range(1, 1000))
    assert proxy.join(LIMIT)
    assert proxy.returncode == 0
    with pytest.raises(ClosedError):
        proxy.stream("numbers", 1)


def test_dropping_the_proxy_lets_an_open_stream_finish(template, backend):
    taken = template.run(RUN[backend], backend=backend).stream("numbers", 1000)

    assert list(taken) == list(range(1000))


def test_leaving_the_with_of_a_proxy_closes_what_this_thread_took_from(
    template, backend, heard
):
    with template.run(RUN[backend], backend=backend, **heard.options) as proxy:
        taken = proxy.stream("endless")
        assert next(taken) == 0

    assert heard.events[-1] == ("closed",)
    found, error = all_of(taken)
    assert found == list(range(1, len(found) + 1))
    assert isinstance(error, ClosedError)
    assert "before its stream was used up" in str(error)


# The queue.


def test_streams_and_calls_are_executed_in_order(worker, backend, fifo):
    order = []
    gate = worker.submit("wait_at", fifo)
    worker("plain", "before", order.append)
    first = worker.stream("numbers", 500)
    worker("plain", "between", order.append)
    second = worker.stream("numbers", 10)
    behind = worker.submit("plain", "behind")
    pending = worker.pending
    let_through(fifo)

    # An asynchronous worker may have done some of what does not wait.
    assert pending == 6 or (backend == "async" and pending < 6)

    assert gate.result(LIMIT) == "through"
    assert list(first) == list(range(500))
    assert list(second) == list(range(10))
    assert behind.result(LIMIT) == "behind"
    assert worker.drain(LIMIT)
    assert order == ["before", "between"]
    assert worker.pending == 0


def test_a_call_behind_a_stream_waits_for_its_end(worker, backend):
    if backend != "sync":
        pytest.skip("calls overtake streams there")
    taken = worker.stream("numbers", 10**9)
    behind = worker.submit("plain", "behind")
    assert next(taken) == 0
    assert not behind.done()

    taken.close()

    assert behind.result(LIMIT) == "behind"


@pytest.mark.parametrize("ahead", [0, 3, 2000])
def test_a_stream_closed_in_the_queue_never_begins(worker, heard, fifo, backend, ahead):
    if backend != "sync":
        pytest.skip("nothing queues there")
    gate = worker.submit("wait_at", fifo)
    futures = [worker.submit("plain", number) for number in range(ahead)]
    taken = worker.stream("endless")
    behind = worker.submit("plain", "behind")

    taken.close()
    let_through(fifo)

    assert gate.result(LIMIT) == "through"
    assert [future.result(LIMIT) for future in futures] == list(range(ahead))
    assert behind.result(LIMIT) == "behind"
    assert worker.drain(LIMIT)
    assert heard.events == []
    assert list(taken) == []
    assert worker.pending == 0


def test_many_streams_one_after_another_leave_nothing(worker):
    for count in range(200):
        with worker.stream("numbers", count) as taken:
            for item in taken:
                if item == 70:
                    break
    assert worker.call("plain", 1) == 1
    wait_until(lambda: worker.pending == 0, LIMIT)


# What is refused.


def test_calls_of_a_generator_function_say_what_to_use(template, backend):
    told = []
    options = {"backend": backend, "on_error": told.append}
    with template.run("streamed.numbers", **options) as proxy:
        with pytest.raises(TypeError, match=r"numbers is a generator .* stream\(\)"):
            proxy.call(1)
        error = proxy.submit(1).exception(LIMIT)
        assert isinstance(error, TypeError)
        proxy(1, print)
        assert list(proxy.stream(2)) == [0, 1]
        assert proxy.drain(LIMIT)
        assert [type(error) for error in told] == [TypeError]


def test_a_call_that_returns_a_generator_says_what_to_use(worker):
    with pytest.raises(SerialiserError, match=r"with stream\(\)"):
        worker.call("numbers", 3)
    assert worker.call("plain", 1) == 1


@pytest.mark.parametrize("value", [None, 1, [1, 2], "text"])
def test_the_stream_of_another_function_says_what_to_use(worker, value):
    found, error = all_of(worker.stream("plain", value))

    assert found == []
    assert isinstance(error, TypeError)
    assert "stream() needs a generator function" in str(error)
    assert "use call()" in str(error)
    assert worker.call("plain", 1) == 1


def test_arguments_that_cannot_be_sent_raise_at_once(worker):
    with pytest.raises(SerialiserError):
        worker.stream("listed", threading.Lock())
    assert worker.pending == 0
    assert list(worker.stream("numbers", 1)) == [0]


def test_the_callback_thread_may_not_take_from_a_stream(worker):
    errors, taken, done = [], worker.stream("numbers", 100), threading.Event()

    def callback(_):
        for attempt in (lambda: worker.stream("numbers", 1), lambda: list(taken)):
            try:
                attempt()
            except RuntimeError as error:
                errors.append(str(error))
        done.set()

    other = threading.Thread(target=lambda: None)
    other.start()
    other.join()
    with Forker() as template, template.run("streamed.plain") as neighbour:
        neighbour(1, callback)
        assert done.wait(LIMIT)
    taken.close()

    assert errors
    assert all("thread that runs callbacks" in error for error in errors)
    assert errors[0].startswith("stream()")


def test_a_stream_is_not_copied_or_sent(worker):
    with worker.stream("numbers", 1) as taken:
        for way in (copy.copy, pickle.dumps):
            with pytest.raises(TypeError, match="cannot be copied"):
                way(taken)


def test_a_stream_is_an_iterator(worker):
    with worker.stream("numbers", 2) as taken:
        assert iter(taken) is taken
        assert next(taken) == 0


# Time limits.


def test_a_generator_that_hangs_runs_into_the_timeout(template, backend):
    options = {"backend": backend, "timeout": 0.3, "on_error": lambda _: None}
    with template.run(RUN[backend], **options) as proxy:
        found, error = all_of(proxy.stream("then", 5, "hang"))

        assert found == [0, 1, 2, 3, 4]
        assert type(error) is CallTimeout


def test_waiting_for_its_reader_does_not_count_for_the_timeout(template, backend):
    options = {"backend": backend, "timeout": 0.3, "on_error": lambda _: None}
    with template.run(RUN[backend], **options) as proxy:
        taken = proxy.stream("numbers", 1000)
        assert next(taken) == 0
        assert not threading.Event().wait(1.0)  # much longer than the limit

        assert list(taken) == list(range(1, 1000))


def test_the_timeout_counts_the_time_that_the_generator_runs(template, backend):
    options = {"backend": backend, "timeout": 0.3, "on_error": lambda _: None}
    with template.run(RUN[backend], **options) as proxy:
        found, error = all_of(proxy.stream("steps", 0.02))

        assert 1 <= len(found) <= 25
        assert type(error) is CallTimeout


# Threads, copies, programs.


def test_one_thread_after_another_takes_from_a_stream(worker):
    taken, found = worker.stream("numbers", 1000), []

    def take():
        for _ in range(100):
            found.append(next(taken))

    for _ in range(10):
        thread = threading.Thread(target=take)
        thread.start()
        thread.join(LIMIT)

    assert found == list(range(1000))
    assert list(taken) == []


def test_a_second_thread_is_refused_while_one_waits(worker, fifo):
    taken, found = worker.stream("then", 1, "wait", fifo), []
    thread = threading.Thread(target=lambda: [found.append(item) for item in taken])
    thread.start()
    wait_until(lambda: found == [0], LIMIT)

    with pytest.raises(RuntimeError, match="another thread waits for items"):
        next(taken)
    let_through(fifo)
    thread.join(LIMIT)


def test_a_stream_is_taken_while_other_threads_call(template, backend):
    with (
        template.run(RUN[backend], backend=backend) as proxy,
        template.run("streamed.plain") as neighbour,
    ):
        answers = []
        stop = threading.Event()

        def call():
            while not stop.is_set():
                answers.append(neighbour.call(1))

        thread = threading.Thread(target=call)
        thread.start()
        assert list(proxy.stream("numbers", 20_000)) == list(range(20_000))
        stop.set()
        thread.join(LIMIT)
        assert set(answers) == {1}


def test_a_stream_is_inert_in_a_forked_copy(worker):
    taken = worker.stream("numbers", 1000)
    assert next(taken) == 0
    pid = os.fork()
    if not pid:
        status = 1
        try:
            list(taken)
        except ClosedError:
            del taken
            status = 7
        finally:
            os._exit(status)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert list(taken) == list(range(1, 1000))


def test_a_copy_that_the_generator_forks_ends_quietly(worker, backend):
    pid = worker.pid
    assert list(worker.stream("forks", 3)) == [pid] * 3
    assert worker.call("plain", 1) == 1


PROGRAM = """
    import os, signal, sys, time
    import forkrpc

    FUNCTION = '''
    import forkrpc, os
    def endless(path):
        try:
            while True:
                yield os.getpid()
        finally:
            open(path, "w").close()
    '''
    proxy = forkrpc.Forker().eval(FUNCTION).run("endless", orphan=sys.argv[2])
    taken = proxy.stream(sys.argv[1])
    print(next(taken), flush=True)
    if sys.argv[3] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_end_of_the_program_closes_a_stream(tmp_path):
    path = tmp_path / "closed"
    begun = time.monotonic()
    done = run_program(PROGRAM, path, "kill", "leave")

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert path.exists()
    assert time.monotonic() - begun < 9  # did not wait for exit_grace


@pytest.mark.parametrize("orphan", ["kill", "finish"])
def test_a_blocked_generator_ends_when_the_program_is_killed(tmp_path, orphan):
    path = tmp_path / "closed"
    done = run_program(PROGRAM, path, orphan, "kill")

    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: not process_alive(int(done.stdout)), LIMIT)
    if orphan == "finish":
        assert path.exists()


# Interrupts.


@pytest.mark.parametrize("module", [stream, items], ids=["stream", "items"])
def test_an_interrupt_anywhere_loses_no_item(worker, module):
    streams = []  # none is dropped while another is interrupted

    def attempt(interrupted):
        taken, found = worker.stream("numbers", 600), []
        streams.append(taken)
        with interrupted as raised:
            for _ in range(3):
                try:
                    for item in taken:
                        found.append(item)
                except Interrupt:
                    continue
        assert found == list(range(600))
        return raised

    assert interrupt_everywhere(attempt, module) > 50


def test_a_storm_of_interrupts_loses_no_item(worker):
    count, found = 200_000, []
    with interrupts.storm_of_interrupts(stream) as raised:
        taken = None
        while taken is None:
            try:
                taken = worker.stream("numbers", count)
            except Interrupt:
                continue
        while True:
            try:
                for item in taken:
                    found.append(item)
                break
            except Interrupt:
                continue

    assert found == list(range(count))
    assert raised
