"""End-to-end: a `concurrent.futures.Executor`, as the standard ones and better."""

import asyncio
import concurrent.futures
import itertools
import logging
import operator
import os
import pathlib
import signal
import sys
import threading
import time
from _queue import SimpleQueue
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, as_completed, wait

import pytest

from forkrpc import (
    CallTimeout,
    ClosedError,
    Executor,
    Forker,
    Pool,
    RemoteError,
    SerialiserError,
    SetupError,
    WorkerDied,
    event,
)
from forkrpc.system import usable_cpus
from helpers import process_alive, run_program, wait_until

LIMIT = 20.0  # seconds; much more than it takes
FOREVER = 600

state = []


def initialise(*values):
    state.extend(values)


def initialise_once(path):
    """Fail, but for the second time."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    raise ValueError("not now")


def initialised():
    return state


def double(value, *, more=0):
    return value * 2 + more


def wait_for(path):
    """Wait until the file is there."""
    while not os.path.exists(path):
        time.sleep(0.005)
    return str(path)


def begin(begun, path):
    pathlib.Path(begun).touch()
    return wait_for(path)


def die(begun=None):
    if begun is not None:
        wait_for(begun)
    os.kill(os.getpid(), signal.SIGKILL)


def fail(text="on purpose"):
    raise ValueError(text)


def fail_at(value, wanted):
    if value == wanted:
        raise ValueError(value)
    return value


def fail_with_a_cause():
    try:
        {}["missing"]
    except KeyError as error:
        raise ValueError("translated") from error


class Odd(Exception):
    """Cannot be rebuilt from its arguments."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def fail_oddly():
    raise Odd(1, 2)


def leave():
    sys.exit(3)


def no_pickle():
    return threading.Lock()


def tell(value):
    event(value)


async def alate(value):
    await asyncio.sleep(0)
    return value * 2


@pytest.fixture(scope="module")
def template():
    with Forker(name="test_executor").require(__name__) as template:
        template.ready(LIMIT)
        yield template


@pytest.fixture
def executor(template):
    with Executor(2, template=template) as executor:
        yield executor


@pytest.fixture
def busy(template, tmp_path):
    """An executor whose only worker waits for the file `go`."""
    with Executor(1, template=template) as executor:
        begun = tmp_path / "begun"
        running = executor.submit(begin, str(begun), str(tmp_path / "go"))
        executor.running = running
        wait_for(begun)
        yield executor
        (tmp_path / "go").touch()


# What a peer may do to a pool (the name tells what it did).


def test_it_is_a_standard_executor(executor):
    assert isinstance(executor, concurrent.futures.Executor)
    future = executor.submit(double, 3, more=1)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(LIMIT) == 7
    assert executor.submit(operator.add, 1, 2).result(LIMIT) == 3
    assert executor.submit(dict, function=1, fn=2).result(LIMIT) == {
        "function": 1,
        "fn": 2,
    }


def test_a_death_fails_its_call_only(executor, tmp_path):
    go, begun = str(tmp_path / "go"), str(tmp_path / "begun")
    sibling = executor.submit(begin, begun, go)
    guilty = executor.submit(die, begun)

    with pytest.raises(concurrent.futures.BrokenExecutor) as caught:
        guilty.result(LIMIT)
    (tmp_path / "go").touch()

    assert isinstance(caught.value, WorkerDied)
    assert (caught.value.signal, caught.value.started) == ("SIGKILL", True)
    assert sibling.result(LIMIT) == go
    assert executor.submit(double, 1).result(LIMIT) == 2


def test_queued_calls_outlive_a_death(template):
    with Executor(1, template=template) as executor:
        futures = [executor.submit(double, number) for number in range(5)]
        futures.insert(2, executor.submit(die))
        futures += [executor.submit(double, number) for number in range(5)]
        assert isinstance(futures.pop(2).exception(LIMIT), WorkerDied)
        assert [future.result(LIMIT) for future in futures] == [0, 2, 4, 6, 8] * 2


def test_an_exception_that_cannot_be_rebuilt_fails_its_call_only(executor):
    with pytest.raises((Odd, RemoteError), match="1 and 2"):
        executor.submit(fail_oddly).result(LIMIT)
    assert executor.submit(double, 1).result(LIMIT) == 2


def test_a_result_that_cannot_be_sent_fails_its_call_only(executor):
    with pytest.raises(SerialiserError, match="lock"):
        executor.submit(no_pickle).result(LIMIT)
    assert executor.submit(double, 1).result(LIMIT) == 2


def test_an_exit_fails_its_call_only(executor):
    with pytest.raises(WorkerDied, match="status 3") as caught:
        executor.submit(leave).result(LIMIT)
    assert caught.value.returncode == 3
    assert executor.submit(double, 1).result(LIMIT) == 2


def test_lambdas_and_closures(executor):
    more = 5
    assert executor.submit(lambda value: value + more, 2).result(LIMIT) == 7
    functions = [lambda value, add=add: value + add for add in range(4)]
    for _ in range(3):
        sums = [executor.submit(each, 1).result(LIMIT) for each in functions]
        assert sums == [1, 2, 3, 4]


def test_a_cause_arrives_as_an_object(executor):
    with pytest.raises(ValueError, match="translated") as caught:
        executor.submit(fail_with_a_cause).result(LIMIT)
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_argument_that_cannot_be_sent_raises_where_it_is_given(executor):
    with pytest.raises(SerialiserError, match="lock"):
        executor.submit(double, threading.Lock())
    assert executor.submit(double, 1).result(LIMIT) == 2


def test_what_cannot_be_called_fails_its_call(executor):
    with pytest.raises(TypeError, match="not callable"):
        executor.submit("math.sqrt", 1).result(LIMIT)


# Functions by value.


def test_a_function_goes_as_it_is_at_the_call(template):
    step = 1
    found = []

    def closure(value):
        found.append(value)
        return value * step, found

    with Executor(1, template=template) as executor:
        results = [executor.submit(closure, 1).result(LIMIT) for _ in range(3)]
        step = 2
        found.append("here")
        results.append(executor.submit(closure, 1).result(LIMIT))
    assert results == [(1, [1])] * 3 + [(2, ["here", 1])]


def test_functions_and_classes_of_a_script():
    source = """
    from concurrent.futures import as_completed
    from dataclasses import dataclass
    from forkrpc import Executor

    STEP = 1
    count = 0

    @dataclass
    class Point:
        x: int

    class Far(Exception):
        pass

    def helper(point):
        return Point(point.x + STEP)

    def work(point):
        if point.x > 90:
            raise Far(point)
        return helper(point)

    def counting():
        global count
        count += 1
        return count

    with Executor(2) as executor:
        for _ in range(2):
            futures = [executor.submit(work, Point(n)) for n in range(20)]
            print(sum(future.result().x for future in as_completed(futures)))
            assert all(type(future.result()) is Point for future in futures)
            STEP += 1
        points = executor.map(work, map(Point, range(3)), chunksize=2)
        print([each.x for each in points])
        try:
            executor.submit(work, Point(91)).result()
        except Far as error:
            print("far", error.args[0].x)
        print([executor.submit(counting).result() for _ in range(4)], count)
    """
    done = run_program(source)

    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        *("210", "230", "[3, 4, 5]", "far 91", "[1, 1, 1, 1] 0"),
    ]


# Futures, as of the standard ones.


def test_wait_and_as_completed(busy, template, tmp_path):
    with Executor(1, template=template) as fast:
        quick = fast.submit(double, 1)
        done, rest = wait([quick, busy.running], LIMIT, FIRST_COMPLETED)
        assert (done, rest) == ({quick}, {busy.running})
        failing = fast.submit(fail)
        done, rest = wait([failing, busy.running], LIMIT, FIRST_EXCEPTION)
        assert (done, rest) == ({failing}, {busy.running})
        seen = []
        with pytest.raises(concurrent.futures.TimeoutError, match=r"1 \(of 2\)"):
            for future in as_completed([busy.running, quick], timeout=0.1):
                seen.append(future)
        assert seen == [quick]
        (tmp_path / "go").touch()
        seen = list(as_completed([busy.running, quick, failing], timeout=LIMIT))
        assert set(seen) == {busy.running, quick, failing}


def test_the_states_of_a_future(busy, tmp_path):
    running, queued = busy.running, busy.submit(double, 1)

    assert (running.running(), running.done(), running.cancel()) == (True, False, False)
    assert (queued.running(), queued.done()) == (False, False)
    with pytest.raises(concurrent.futures.TimeoutError):
        queued.result(0.01)
    assert queued.cancel()
    assert (queued.cancelled(), queued.done(), queued.running()) == (True, True, False)
    with pytest.raises(concurrent.futures.CancelledError):
        queued.result(LIMIT)
    (tmp_path / "go").touch()
    assert running.result(LIMIT)
    assert (running.running(), running.done(), running.cancel()) == (False, True, False)


def test_a_cancelled_call_wakes_who_waits(busy):
    queued = [busy.submit(double, number) for number in range(2)]
    told = SimpleQueue()
    queued[0].add_done_callback(told.put)

    queued[0].cancel()

    assert told.get(timeout=LIMIT) is queued[0]
    assert wait(queued, LIMIT, FIRST_COMPLETED).done == {queued[0]}


def test_callbacks_of_futures(executor, caplog):
    told = SimpleQueue()

    def raises(future):
        raise ValueError("in a callback")

    future = executor.submit(double, 1)
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        for callback in (raises, told.put):
            future.add_done_callback(callback)
        assert told.get(timeout=LIMIT) is future
        future.add_done_callback(told.put)
        assert told.get(timeout=LIMIT) is future
    assert "exception calling callback" in caplog.text
    assert "in a callback" in caplog.text


def test_a_callback_may_submit(executor):
    results = SimpleQueue()

    def again(future):
        executor.submit(double, future.result()).add_done_callback(results.put)

    executor.submit(double, 1).add_done_callback(again)

    assert results.get(timeout=LIMIT).result(LIMIT) == 4


def test_asyncio_uses_it(executor):
    async def main():
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(executor, double, n) for n in range(50)]
        assert await asyncio.gather(*calls) == [2 * n for n in range(50)]
        with pytest.raises(ValueError, match="on purpose"):
            await loop.run_in_executor(executor, fail)
        with pytest.raises(WorkerDied):
            await loop.run_in_executor(executor, die)

    asyncio.run(asyncio.wait_for(main(), LIMIT))


def test_a_task_that_is_cancelled_cancels_its_queued_call(busy):
    async def main():
        loop = asyncio.get_running_loop()
        call = loop.run_in_executor(busy, double, 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(asyncio.wait_for(main(), LIMIT))
    wait_until(lambda: busy.pool.pending == 1, LIMIT)


def test_many_threads_submit(executor):
    def work(start):
        futures = [executor.submit(double, start + n) for n in range(200)]
        results[start] = [future.result(LIMIT) for future in futures]

    results = {}
    threads = [threading.Thread(target=work, args=(n,)) for n in range(0, 4000, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    for start in range(0, 4000, 1000):
        assert results[start] == [2 * (start + n) for n in range(200)]


# map.


@pytest.mark.parametrize("chunksize", [1, 3, 100])
@pytest.mark.parametrize("buffersize", [None, 1, 4])
def test_map_gives_results_in_order(executor, chunksize, buffersize):
    results = executor.map(
        operator.sub,
        range(10, 30),
        itertools.count(),
        chunksize=chunksize,
        buffersize=buffersize,
    )
    assert list(results) == [10] * 20
    assert list(executor.map(double, [], chunksize=chunksize)) == []


def test_map_takes_all_items_at_once_but_with_a_buffersize(executor):
    taken = []

    def items():
        for number in range(10):
            taken.append(number)
            yield number

    assert list(executor.map(double, items())) == [2 * n for n in range(10)]
    taken.clear()
    results = executor.map(double, items(), buffersize=2)
    assert taken == [0, 1]
    assert next(results) == 0
    assert taken == [0, 1, 2]
    assert list(results) == [2 * n for n in range(1, 10)]
    executor.map(double, items())  # never iterated over
    assert len(taken) == 20


@pytest.mark.parametrize("chunksize", [1, 2])
def test_map_raises_at_its_place_and_cancels_the_rest(template, chunksize):
    with Executor(1, template=template) as executor:
        items = [*range(4), *[4] * 1000]
        results = executor.map(fail_at, items, [2] * 2000, chunksize=chunksize)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ValueError, match="2"):
            next(results)
        with pytest.raises(StopIteration):
            next(results)
        wait_until(lambda: not executor.pool.pending, LIMIT)


def test_map_has_a_time_limit(busy):
    results = busy.map(double, range(3), timeout=0.05)
    assert busy.pool.pending == 4
    with pytest.raises(concurrent.futures.TimeoutError):
        next(results)
    wait_until(lambda: busy.pool.pending == 1, LIMIT)


def test_a_time_limit_that_is_over_spares_what_has_come(executor):
    results = executor.map(double, range(3), timeout=0)
    with pytest.raises(concurrent.futures.TimeoutError):
        for _ in range(3):
            next(results)


def test_leaving_a_map_cancels_the_rest(busy):
    results = busy.map(double, range(100))
    fresh = busy.map(double, range(100))
    with pytest.raises(concurrent.futures.TimeoutError):
        busy.running.result(0)
    del fresh
    wait_until(lambda: busy.pool.pending == 201, LIMIT)  # as of the standard one
    threading.Timer(0, results.close).run()
    assert list(results) == []


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"chunksize": 0}, ValueError, "chunksize must be >= 1"),
        ({"buffersize": 0}, ValueError, "buffersize must be None or > 0"),
        ({"buffersize": "2"}, TypeError, "buffersize must be an integer or None"),
    ],
)
def test_a_bad_map_raises_at_once(executor, options, kind, text):
    with pytest.raises(kind, match=text):
        executor.map(double, [1], **options)


# Workers.


def test_an_initializer_is_called_in_each_worker(template):
    with Executor(
        2, template=template, initializer=initialise, initargs=("one", 2), idle=2
    ) as executor:
        wait_until(lambda: len(executor.pool.pids) == 2, LIMIT)
        for _ in range(4):
            assert executor.submit(initialised).result(LIMIT) == ["one", 2]


def test_an_initializer_does_not_get_the_worker_arguments(template):
    twin = template.fork().send_arg("of the template")
    with twin, Executor(1, template=twin, initializer=initialise) as executor:
        assert executor.submit(initialised).result(LIMIT) == []


def test_a_failing_initializer_breaks_the_executor_until_it_succeeds(
    template, tmp_path
):
    errors = []
    path = str(tmp_path / "once")
    with Executor(
        1,
        template=template,
        initializer=initialise_once,
        initargs=(path,),
        on_error=errors.append,
    ) as executor:
        with pytest.raises(concurrent.futures.BrokenExecutor, match="not now") as error:
            executor.submit(double, 1).result(LIMIT)
        assert isinstance(error.value, SetupError)
        wait_until(lambda: executor.submit(double, 1).exception(LIMIT) is None, LIMIT)


def test_as_many_workers_as_processors():
    with Executor() as executor:
        assert executor._max_workers == usable_cpus()
        assert executor.submit(double, 1).result(LIMIT) == 2


def test_workers_are_started_at_once_and_stay(template, tmp_path):
    with Executor(3, template=template) as executor:
        assert executor.pool.pids == []
        for number in range(3):
            executor.submit(begin, str(tmp_path / f"{number}"), str(tmp_path / "go"))
        for number in range(3):
            wait_for(tmp_path / f"{number}")
        (tmp_path / "go").touch()
        pids = executor.pool.pids
        assert len(pids) == 3
        assert executor.pool._connection.look_again(0) is None
        wait_until(lambda: executor.pool.stats()["idle"] == 3, LIMIT)
    for pid in pids:
        assert not process_alive(pid)


def test_coroutine_functions():
    with Executor(1, backend="async", load=50) as executor:
        calls = [executor.submit(alate, n) for n in range(100)]
        assert [call.result(LIMIT) for call in calls] == [2 * n for n in range(100)]
        assert executor.submit(double, 4).result(LIMIT) == 8
        assert list(executor.map(alate, range(7), chunksize=3)) == [*range(0, 14, 2)]


def test_a_coroutine_function_in_a_blocking_worker_says_what_to_use(template):
    executor = Executor(1, template=template, logs=False)
    with executor, pytest.raises(SerialiserError, match='backend="async"'):
        executor.submit(alate, 1).result(LIMIT)


def test_options_of_the_pool_hold(template):
    told = SimpleQueue()
    with Executor(
        1, template=template, timeout=1.5, on_event=told.put, load="auto"
    ) as executor:
        executor.submit(tell, "an event").result(LIMIT)
        assert told.get(timeout=LIMIT) == "an event"
        with pytest.raises(CallTimeout):
            executor.submit(time.sleep, FOREVER).result(LIMIT)
        assert isinstance(executor.pool, Pool)
        assert "Executor over <Pool task" in repr(executor)


def test_another_serialiser(template):
    with Executor(1, template=template, serialiser="portable-pickle") as executor:
        assert executor.submit(double, 3).result(LIMIT) == 6


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
        ({"max_workers": -1}, ValueError, "max_workers must be greater than 0"),
        ({"max_workers": "2"}, TypeError, "max_workers must be a number"),
        ({"initializer": 3}, TypeError, "initializer must be a callable"),
        ({"initializer": print, "init": print}, TypeError, "not both"),
        ({"max": 3}, TypeError, "write max_workers"),
        ({"no_such": 3}, TypeError, "no option 'no_such'"),
        ({"load": 0}, ValueError, "load must be 1 or more"),
    ],
)
def test_bad_options_raise_at_once(template, options, kind, text):
    with pytest.raises(kind, match=text):
        Executor(template=template, **options)


# The end.


def test_shutdown_finishes_what_there_is(busy, tmp_path):
    queued = busy.submit(double, 1)

    busy.shutdown(wait=False)

    with pytest.raises(
        RuntimeError, match="cannot schedule new futures after"
    ) as error:
        busy.submit(double, 1)
    assert isinstance(error.value, ClosedError)
    with pytest.raises(RuntimeError, match="after shutdown"):
        busy.map(double, [1])
    (tmp_path / "go").touch()
    assert queued.result(LIMIT) == 2
    busy.shutdown()
    busy.shutdown()
    assert busy.pool.pids == []


def test_shutdown_cancels_what_has_not_started(busy, tmp_path):
    queued = [busy.submit(double, number) for number in range(100)]

    busy.shutdown(wait=False, cancel_futures=True)

    assert all(future.cancelled() for future in queued)
    (tmp_path / "go").touch()
    assert busy.running.result(LIMIT)
    busy.shutdown()
    assert not busy._open


def test_shutdown_lets_asynchronous_calls_run_to_their_end(tmp_path):
    async def wait_here(begun, path):
        pathlib.Path(begun).touch()
        while not os.path.exists(path):
            await asyncio.sleep(0.005)
        return "done"

    begun, go = str(tmp_path / "begun"), str(tmp_path / "go")
    with Executor(1, backend="async", load=2) as executor:
        running = executor.submit(wait_here, begun, go)
        wait_for(begun)
        executor.shutdown(wait=False, cancel_futures=True)
        (tmp_path / "go").touch()
        assert running.result(LIMIT) == "done"


def test_a_dropped_executor_finishes_its_calls(template):
    executor = Executor(2, template=template)
    futures = [executor.submit(double, number) for number in range(20)]
    del executor
    assert [future.result(LIMIT) for future in futures] == [*range(0, 40, 2)]


def test_an_executor_of_its_own_leaves_nothing():
    executor = Executor(1)
    pids = {executor.submit(os.getpid).result(LIMIT)}
    pids.add(executor.submit(os.getppid).result(LIMIT))
    del executor
    wait_until(lambda: not any(map(process_alive, pids)), LIMIT)


def test_an_interrupt_in_a_with_starts_nothing_more(template, tmp_path):
    begun, go = tmp_path / "begun", tmp_path / "go"

    def interrupted():
        with Executor(1, template=template) as executor:
            futures.append(executor.submit(begin, str(begun), str(go)))
            wait_for(begun)
            futures.extend(executor.submit(double, n) for n in range(10))
            futures[-1].add_done_callback(lambda _: go.touch())
            raise KeyboardInterrupt

    futures = []
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert futures[0].result(0)
    assert all(future.cancelled() for future in futures[1:])


def test_the_end_of_the_program_waits_for_its_calls():
    source = """
    import forkrpc, time
    from forkrpc import Executor

    def work(number):
        time.sleep(0.1)
        print(number, flush=True)

    forkrpc.exit_grace = 0.01
    executor = Executor(1)
    for number in range(5):
        executor.submit(work, number)

    def dropped():
        Executor(1).submit(work, 5)

    dropped()
    """
    done = run_program(source)

    assert done.stderr == ""
    assert sorted(done.stdout.split()) == ["0", "1", "2", "3", "4", "5"]


def test_the_grace_can_be_told():
    source = """
    import time
    from forkrpc import Executor

    executor = Executor(1, exit_grace=0.1)
    executor.submit(time.sleep, 600)
    """
    assert "1 calls were not finished" in run_program(source).stderr


def test_an_interrupted_program_does_not_wait():
    source = """
    import time
    from forkrpc import Executor

    executor = Executor(1)
    executor.submit(time.sleep, 600)
    raise KeyboardInterrupt
    """
    assert run_program(source, timeout=10).returncode == -signal.SIGINT


def test_ctrl_c_ends_the_wait_at_the_end_of_the_program():
    source = """
    import os, signal, threading, time
    from forkrpc import Executor

    def interrupt():
        try:
            while True:
                executor.submit(time.sleep, 0)
                time.sleep(0.01)
        except RuntimeError:  # the end has come
            os.kill(os.getpid(), signal.SIGINT)

    executor = Executor(1)
    executor.submit(time.sleep, 600)
    threading.Thread(target=interrupt, daemon=True).start()
    """
    assert "KeyboardInterrupt" in run_program(source, timeout=10).stderr


def test_it_is_inert_in_a_forked_copy_of_the_program():
    source = """
    import os, warnings
    from forkrpc import ClosedError, Executor

    warnings.simplefilter("ignore")  # of a fork while threads run
    executor = Executor(1)
    print(executor.submit(pow, 2, 3).result(), flush=True)
    if not os.fork():
        try:
            executor.submit(pow, 2, 3)
        except ClosedError as error:
            print("copy:", type(error).__name__, flush=True)
        executor.shutdown()
        os._exit(0)
    os.wait()
    print(executor.submit(pow, 2, 4).result())
    """
    done = run_program(source)

    assert (done.stdout.split("\n")[:3], done.stderr) == (
        ["8", "copy: ClosedError", "16"],
        "",
    )
