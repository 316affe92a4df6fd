"""Contract: a pool of Forker.inline beside a forked one: the same program."""

import asyncio
import os
import signal
import sys
from concurrent.futures import as_completed

import pytest

from forkrpc import (
    ClosedError,
    Executor,
    Forker,
    Pool,
    SerialiserError,
    SetupError,
    WorkerDied,
    event,
    in_worker,
    retire,
)
from shared import shared_template

LIMIT = 20.0  # seconds; much more than it takes

both = pytest.mark.parametrize("make", ["forked", "inline"], indirect=True)
here = Forker.inline


@pytest.fixture(scope="module")
def template():
    with shared_template(__name__) as template:
        yield template


@pytest.fixture
def make(request, template):
    made = []

    def fork():
        made.append(template.fork())
        return made[-1]

    yield fork if request.param == "forked" else here
    for each in made:
        each.close()


begun = []


def double(value=0, *, more=0):
    return value * 2 + more


def count(most):
    yield from range(most)


def fail(value=None):
    raise ValueError("on purpose")


def leave(value=None):
    sys.exit(3)


def leave_at(value):
    if value == 1:
        sys.exit(value)
    return value


def tell(value):
    event(value, in_worker())
    return value


def begin():
    begun.append("again")


def fail_to_begin():
    raise ValueError("no beginning")


async def adouble(value):
    await asyncio.sleep(0)
    return 2 * value


class Counter:
    """Counts the calls of its worker."""

    def __init__(self, start=0):
        self.calls = start

    def __call__(self, ask=None):
        self.calls += 1
        if ask == "retire":
            retire()
        if ask == "leave":
            sys.exit(0)
        return self.calls


@both
def test_every_verb(make):
    results = []

    with make().pool(double, max=2, on_destroy=lambda: results.append("end")) as pool:
        assert isinstance(pool, Pool)
        pool(1, results.append)
        assert pool.submit(3).result(LIMIT) == 6
        assert pool.call(4, more=2) == 10
        assert pool.with_options(timeout=LIMIT).call(5) == 10
        view = pool.with_options(retries=1)
        view(1, results.append, more=1)
        assert view.call(6) == 12
        assert view.submit(7).result(LIMIT) == 14
        assert pool.drain(LIMIT)
        assert (pool.pending, pool.returncode, pool.pid) == (0, None, None)
        assert len(pool.pids) >= 1
        assert pool.stats()["idle"] >= 1
        assert "<Pool double, open" in repr(pool)

    assert pool.returncode == 0
    assert results == [2, 3, "end"]
    with pytest.raises(ClosedError, match="the pool was closed"):
        pool.call(1)


@both
def test_in_an_event_loop(make):
    async def main():
        async with make().pool(double, max=1) as pool:
            assert await asyncio.gather(*map(pool.acall, range(5))) == [0, 2, 4, 6, 8]
            assert await pool.with_options(retries=1).acall(1) == 2
        async with make().pool(adouble, max=1, backend="async", load=10) as pool:
            assert await asyncio.gather(*map(pool.acall, range(5))) == [0, 2, 4, 6, 8]
        async with make().pool(count, max=1) as pool:
            assert [item async for item in pool.astream(3)] == [0, 1, 2]

    asyncio.run(asyncio.wait_for(main(), LIMIT))


@both
def test_streams(make):
    with make().pool(count, max=1) as pool:
        assert list(pool.stream(4)) == [0, 1, 2, 3]
        with pool.stream(10) as stream:
            assert next(stream) == 0
        with pytest.raises(TypeError, match=r"stream\(\)"):
            pool.call(3)


@both
def test_maps(make):
    items = [object(), *range(5)]
    with make().pool(double, max=1) as pool:
        assert list(pool.map(range(50))) == list(range(0, 100, 2))
        assert list(pool.starmap([(1,), (2,)], ordered=False)) == [2, 4]
        assert list(pool.with_options(retries=1).map([3, 4], chunksize=2)) == [6, 8]
        with pool.map(range(10**9)) as results:
            assert next(results) == 0
        assert list(pool.map([])) == []
        results = pool.map(items)
        with pytest.raises(TypeError, match="unsupported operand"):
            next(results)
        results = pool.map([1, sys._getframe(), 3])
        assert next(results) == 2
        with pytest.raises(SerialiserError):
            next(results)
        with pytest.raises(StopIteration):
            next(results)
    with pytest.raises(ClosedError):
        pool.map([1])
    with make().pool(leave_at, max=1, on_error=lambda error: None) as pool:
        results = pool.map([0, 1, 2], chunksize=1)
        assert next(results) == 0
        with pytest.raises(WorkerDied):
            next(results)


@both
def test_maps_in_an_event_loop(make):
    async def main():
        async with make().pool(double, max=1) as pool:
            assert [each async for each in pool.amap(range(5))] == [0, 2, 4, 6, 8]
        async with make().pool(adouble, max=1, backend="async", load=9) as pool:
            assert [each async for each in pool.amap(range(5))] == [0, 2, 4, 6, 8]

    asyncio.run(asyncio.wait_for(main(), LIMIT))


def test_a_map_in_place_takes_an_item_when_its_result_is_asked_for():
    taken = []

    def items():
        for number in range(10):
            taken.append(number)
            yield number

    with here().pool(double) as pool:
        results = pool.map(items())
        assert taken == []
        assert [next(results), next(results)] == [0, 2]
        assert len(taken) <= 4
        results.close()
        assert list(results) == []


@both
def test_a_call_that_fails_fails_alone(make):
    errors = []
    with make().pool(fail, max=1, on_error=errors.append) as pool:
        with pytest.raises(ValueError, match="on purpose"):
            pool.call()
        assert isinstance(pool.submit().exception(LIMIT), ValueError)
        pool(None)
    assert [type(error) for error in errors] == [ValueError]


@both
def test_an_exit_costs_its_call_and_is_told_once(make):
    errors = []
    with make().pool(leave_at, max=1, load=1, on_error=errors.append) as pool:
        with pytest.raises(WorkerDied, match="status 1") as caught:
            pool.call(1)
        assert (caught.value.returncode, caught.value.started) == (1, True)
        assert pool.call(2) == 2
        pool(1, errors.append)
        assert pool.call(3) == 3
    assert [type(error) for error in errors] == [WorkerDied, WorkerDied]


@both
def test_a_worker_that_retires_or_leaves_is_replaced(make):
    options = {"max": 1, "load": 1, "on_error": lambda error: None}
    with make().send_arg(10).pool(Counter, **options) as pool:
        assert [pool.call() for _ in range(2)] == [11, 12]
        assert pool.call("retire") == 13
        assert [pool.call() for _ in range(2)] == [11, 12]
        assert isinstance(pool.submit("leave").exception(LIMIT), WorkerDied)
        assert pool.call() == 11


@both
@pytest.mark.parametrize("options", [{"max_calls": 1}, {"isolate": True}])
def test_each_call_has_a_worker_of_its_own(make, options):
    with make().pool(Counter, max=1, **options) as pool:
        assert [pool.call() for _ in range(3)] == [1, 1, 1]


@both
def test_a_beginning_that_fails_is_told_to_calls(make):
    errors = []
    with make().pool(double, init=fail_to_begin, on_error=errors.append) as pool:
        for _ in range(2):
            with pytest.raises(SetupError, match="no beginning"):
                pool.submit(1).result(LIMIT)
    assert {type(error) for error in errors} == {SetupError}
    pool = make().pool(count, init=fail_to_begin, on_error=errors.append)
    with pool, pytest.raises(SetupError, match="no beginning"):
        list(pool.stream(2))


@both
def test_a_step_of_the_template_that_fails_is_told_to_calls(make):
    template = make().require("no_such_module_at_all")
    pool = template.pool(double, on_error=lambda error: None)
    with pool, pytest.raises(SetupError, match="no_such_module_at_all"):
        pool.call(1)


@both
def test_handlers_are_told_which_worker_it_was(make):
    events = []

    def on_event(*args, worker):
        events.append((*args, worker))

    with make().pool(tell, max=1, on_event=on_event) as pool:
        pool.call("hello")
        pids = pool.pids
    assert events == [("hello", True, *pids)]


@both
def test_kill_closes_it(make):
    told = []
    ended = lambda: told.append("end")  # noqa: E731
    pool = make().pool(double, max=1, on_error=told.append, on_destroy=ended)
    assert pool.call(1) == 2
    pool.kill(signal.SIGKILL)
    assert pool.join(LIMIT)
    with pytest.raises(ClosedError, match="the pool was killed"):
        pool.submit(1)
    assert told == ["end"]


@both
def test_bad_arguments_and_options_raise_at_once(make):
    with pytest.raises(TypeError, match="did you mean 'max'"):
        make().pool(double, mx=2)
    with pytest.raises(TypeError, match="init must be"):
        make().pool(double, init=3)
    with make().pool(double) as pool, pytest.raises(SerialiserError):
        pool.call(sys._getframe())
    closed = make()
    closed.close()
    with pytest.raises(ClosedError):
        closed.pool(double)


def test_the_workers_of_a_pool_in_place_begin_when_they_are_needed():
    begun.clear()
    with here().pool(double, init=begin, max_calls=2) as pool:
        assert begun == []
        assert pool.pids == []
        for number in range(3):
            pool.call(number)
        assert pool.pids == [os.getpid()]
    assert begun == ["again"] * 2


def test_done_is_called_for_each_worker():
    with here().pool(adouble, backend="async", done=begin, max_calls=1) as pool:
        begun.clear()
        assert [pool.call(number) for number in range(3)] == [0, 2, 4]
        assert len(begun) == 2
    assert len(begun) == 3


def test_later_steps_do_not_reach_a_pool():
    template = here().eval("def work(): return step()\ndef step(): return 1")
    with template.pool("work", max_calls=1) as pool:
        template.eval("def work(): return 'another'")
        assert [pool.call(), pool.call()] == [1, 1]


def test_a_call_in_place_cannot_be_ended():
    seen = []

    def on_event(_):
        seen.append((pool.stats(), pool.cancel(pool.submit(), kill=True)))

    source = "from forkrpc import event\ndef work(): event(1)"
    with here().eval(source).pool("work", on_event=on_event) as pool:
        pool.call()
    running = {"workers": 1, "starting": 0, "busy": 0, "idle": 1}
    assert seen[0] == ({**running, "queued": 0, "running": 0}, True)


@both
def test_an_executor_over_it(make):
    with Executor(2, template=make(), initializer=begin) as executor:
        calls = [executor.submit(lambda value: value * 2, n) for n in range(5)]
        assert {call.result() for call in as_completed(calls)} == {0, 2, 4, 6, 8}
        assert list(executor.map(double, range(5), chunksize=2)) == [0, 2, 4, 6, 8]
        assert isinstance(executor.submit(fail).exception(LIMIT), ValueError)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(double)


@both
def test_an_executor_whose_function_leaves(make):
    errors = []
    with Executor(1, template=make(), on_error=errors.append) as executor:
        assert isinstance(executor.submit(leave).exception(LIMIT), WorkerDied)
        assert executor.submit(double, 1).result(LIMIT) == 2
    assert len(errors) == 1
