"""End-to-end: maps, as of the builtin's; laziness, failures, early ends, interrupts."""

import copy
import gc
import itertools
import os
import pickle
import sys
import threading
import traceback
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mapped
from forkrpc import (
    ClosedError,
    Forker,
    SerialiserError,
    WorkerDied,
    jobs,
    making,
    mapping,
    source,
)
from forkrpc.feed import Feed
from forkrpc.mapping import map_over
from helpers import run_program, wait_until
from interrupts import Interrupt, interrupt_everywhere

LIMIT = 20.0  # seconds for anything to happen; much more than it takes


@pytest.fixture(scope="module", autouse=True)
def _template():
    with mapped.shared():
        yield


@pytest.fixture(params=[1, 2])
def doubling(request):
    with mapped.workers("double", request.param) as (feed, _):
        yield feed


@pytest.fixture
def failing():
    with mapped.workers("fail") as (feed, _):
        yield feed


def all_of(iterator):
    """Return (results, the exception that ended it, or None)."""
    found = []
    try:
        for result in iterator:
            found.append(result)
    except Exception as error:
        return found, error
    return found, None


@pytest.fixture
def marks(tmp_path):
    """A file for `mark`, not yet there."""
    return tmp_path / "marks"


@pytest.fixture
def fifo(tmp_path):
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    return path


# As the builtin.


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("chunksize", [1, 2, 7, 1000, "auto"])
@pytest.mark.parametrize("count", [0, 1, 2, 13, 1000])
def test_each_item_has_its_result(doubling, count, chunksize, ordered):
    numbers = range(count)
    for items in numbers, list(numbers), tuple(numbers), iter(numbers):
        found = list(map_over(doubling, (items,), chunksize=chunksize, ordered=ordered))

        assert (found if ordered else sorted(found)) == list(
            map(mapped.double, numbers)
        )


KINDS = st.one_of(
    st.integers(-(2**70), 2**70),
    *(st.floats(allow_nan=False), st.text(), st.binary(), st.none(), st.booleans()),
    st.lists(st.integers(), max_size=3),
    st.tuples(st.integers(), st.text()),
)


@pytest.fixture
def echoing():
    with Forker().eval("def f(*args): return args").run("f") as proxy:
        yield Feed(proxy._connection)


CHUNKSIZES = st.one_of(st.just("auto"), st.integers(1, 30))


def test_any_items_come_back(echoing):
    @settings(max_examples=60, deadline=None)
    @given(st.lists(KINDS, max_size=60), CHUNKSIZES, st.booleans())
    def check(items, chunksize, still):
        given = items if still else (item for item in items)

        results = list(map_over(echoing, (given,), chunksize=chunksize))

        assert results == [(item,) for item in items]
        assert [type(result[0]) for result in results] == list(map(type, items))

    check()


def test_several_iterables_end_with_the_shortest(echoing):
    columns = st.lists(st.lists(KINDS, max_size=30), min_size=2, max_size=4)

    @settings(max_examples=40, deadline=None)
    @given(columns, CHUNKSIZES, st.booleans())
    def check(columns, chunksize, ordered):
        found = map_over(echoing, tuple(columns), chunksize=chunksize, ordered=ordered)

        expected = list(zip(*columns, strict=False))
        assert sorted(map(repr, found)) == sorted(map(repr, expected))

    check()


@pytest.mark.parametrize("kind", [tuple, list, str])
def test_starmap_spreads_each_item(echoing, kind):
    items = [kind("ab"), kind(""), kind("cde")] * 20

    found = list(map_over(echoing, (items,), starred=True))

    assert found == list(map(tuple, items))


def test_a_starred_item_that_is_no_iterable_fails_in_its_place(echoing):
    found, error = all_of(map_over(echoing, ([(1,), (2,), 3, (4,)],), starred=True))

    assert found == [(1,), (2,)]
    assert isinstance(error, TypeError)


def test_an_infinite_iterable_is_mapped(doubling):
    results = map_over(doubling, (itertools.count(),))

    assert list(itertools.islice(results, 5000)) == list(range(0, 10_000, 2))


def test_the_end_stays_the_end(doubling):
    results = map_over(doubling, ([1],))

    assert list(results) == [2]
    assert list(results) == []
    assert next(results, None) is None


def test_classes_and_objects_of_main_are_mapped():
    done = run_program("""
        from dataclasses import dataclass
        from forkrpc import Forker
        from forkrpc.feed import Feed
        from forkrpc.mapping import map_over

        @dataclass
        class Point:
            x: int

        def moved(point):
            return Point(point.x + 1)

        with Forker() as template, template.run(moved) as proxy:
            points = map(Point, range(500))
            found = list(map_over(Feed(proxy._connection), (points,)))
            assert found == [Point(x + 1) for x in range(500)]
        """)

    assert (done.returncode, done.stderr) == (0, "")


def test_what_the_generator_changes_later_has_been_sent_as_it_was(echoing):
    def growing():
        item = []
        for number in range(50):
            item.append(number)
            yield item

    found = list(map_over(echoing, (growing(),), chunksize=10))

    assert found == [(list(range(n + 1)),) for n in range(50)]


def test_results_are_as_they_were_when_they_were_returned():
    with mapped.workers("gather") as (feed, _):
        found = list(map_over(feed, (range(50),), chunksize=10))

    assert found == [list(range(n + 1)) for n in range(50)]


def test_items_of_one_chunk_share_no_object(echoing):
    with mapped.workers("gather") as (feed, _):
        item = [1]
        *_, found = map_over(feed, ([item] * 3,), chunksize=3)

    assert found == [item] * 3
    assert len(set(map(id, found))) == 3


@pytest.mark.parametrize("size", [100_000, 1_000_000])
def test_large_items_and_results(echoing, size):
    items = [bytes([n]) * size for n in range(10)] + [[b"x" * size], 1, 2, 3]

    assert list(map_over(echoing, (items,))) == [(item,) for item in items]


@pytest.mark.parametrize("name", ["json", "data", "portable-pickle"])
def test_other_serialisers_have_a_call_for_each_item(name):
    with mapped.workers("double", serialiser=name) as (feed, _):
        assert list(map_over(feed, (range(300),))) == list(range(0, 600, 2))


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_calls_with_a_time_limit_have_it_each(backend):
    name = "double" if backend == "sync" else "adouble"
    with mapped.workers(name, backend=backend, timeout=LIMIT) as (feed, _):
        assert not feed.chunked
        assert list(map_over(feed, (range(300),))) == list(range(0, 600, 2))


def test_a_limit_for_frames_bounds_the_items():
    with mapped.workers("double", max_frame=1000) as (feed, _):
        assert list(map_over(feed, (range(3000),))) == list(range(0, 6000, 2))


MEETING = """
import asyncio
event, waiting = asyncio.Event(), []
async def meet(number):
    waiting.append(number)
    if len(waiting) == 40:
        event.set()
    await event.wait()
    return number
"""


def test_an_asynchronous_worker_executes_items_at_once():
    with Forker().eval(MEETING).run("meet", backend="async") as proxy:
        found = list(map_over(Feed(proxy._connection), (range(40),)))

    assert found == list(range(40))


# What is wrong at once.


@pytest.mark.parametrize("chunksize", [0, -1])
def test_a_chunksize_below_one_is_refused(doubling, chunksize):
    with pytest.raises(ValueError, match=f"1 or more, or 'auto', not {chunksize}"):
        map_over(doubling, ([1],), chunksize=chunksize)


@pytest.mark.parametrize("chunksize", ["large", 2.0, None, True])
def test_a_chunksize_that_is_no_number_is_refused(doubling, chunksize):
    with pytest.raises(
        TypeError, match=f"'auto' or a number of items, not {chunksize!r}"
    ):
        map_over(doubling, ([1],), chunksize=chunksize)


def test_no_iterable_is_refused(doubling):
    with pytest.raises(TypeError, match="at least one iterable"):
        map_over(doubling, ())


def test_what_cannot_be_iterated_over_is_refused(doubling):
    with pytest.raises(TypeError, match="int.*iter"):
        map_over(doubling, (5,))
    with pytest.raises(TypeError, match="iter"):
        map_over(doubling, ([1], 5))


def test_a_closed_worker_is_told_at_once():
    with mapped.workers("double") as (feed, (proxy,)):
        proxy.close()
        with pytest.raises(ClosedError):
            map_over(feed, ([1],))


def test_a_missing_tqdm_is_told_with_the_extra(doubling, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)

    with pytest.raises(ImportError, match=r"forkrpc\[progress\]") as caught:
        map_over(doubling, ([1],), progress=True)

    assert caught.value.name == "tqdm"


class Bar:
    """Stands for tqdm's."""

    made = []

    def __init__(self, desc, total):
        self.desc, self.total, self.n, self.closed = desc, total, 0, False
        self.made.append(self)

    def update(self, count):
        self.n += count

    def close(self):
        self.closed = True


@pytest.fixture
def bars(monkeypatch):
    monkeypatch.setattr(Bar, "made", [])
    module = types.ModuleType("tqdm.auto")
    module.tqdm = Bar
    monkeypatch.setitem(sys.modules, "tqdm", types.ModuleType("tqdm"))
    monkeypatch.setitem(sys.modules, "tqdm.auto", module)
    return Bar.made


@pytest.mark.parametrize("chunksize", [1, 7, "auto"])
def test_a_bar_counts_the_results(doubling, bars, chunksize):
    list(map_over(doubling, (range(100),), chunksize=chunksize, progress=True))

    (bar,) = bars
    assert (bar.desc, bar.total, bar.n) == ("mapped.double", 100, 100)
    assert bar.closed


def test_a_bar_of_unknown_length_is_closed_at_the_end(doubling, bars):
    list(map_over(doubling, (iter(lambda: 1, 1),), progress=True))
    results = map_over(doubling, ((n for n in range(9)),), progress=True)
    next(results)
    results.close()

    assert [bar.total for bar in bars] == [None, None]
    assert all(bar.closed for bar in bars)


# Failures, in their place.


@pytest.mark.parametrize("chunksize", [1, 3, 50, "auto"])
@pytest.mark.parametrize("place", [0, 1, 19, 39])
@pytest.mark.parametrize("mixed", [False, True])
def test_a_failing_item_raises_in_its_place(failing, chunksize, place, mixed):
    items = [[n] if mixed and n % 2 else n for n in range(40)]
    items[place] = ((place, "raise"), place)

    found, error = all_of(map_over(failing, (items,), chunksize=chunksize))

    assert found == items[:place]
    assert isinstance(error, KeyError)
    assert error.args == (f"number {place}",)
    assert "in fail_at" in "".join(traceback.format_exception(error))
    assert error.call


@pytest.mark.parametrize("chunksize", [1, 5])
def test_stop_iteration_of_an_item_is_no_end(failing, chunksize):
    items = [0, 1, ((2, "stop"), 2), 3]

    found, error = all_of(map_over(failing, (items,), chunksize=chunksize))

    assert found == [0, 1]
    assert isinstance(error, RuntimeError)
    assert isinstance(error.__cause__, StopIteration)


@pytest.mark.parametrize("chunksize", [1, 5])
@pytest.mark.parametrize("deed", ["lambda", "unloadable"])
def test_a_result_that_cannot_travel_fails_in_its_place(failing, chunksize, deed):
    items = [0, [1], ((2, deed), 2), 3]
    if deed == "lambda":
        mapped_items, kept = items, 4  # it travels by value
    else:
        mapped_items, kept = items, 2

    found, error = all_of(map_over(failing, (mapped_items,), chunksize=chunksize))

    assert len(found) == kept
    assert found[:2] == [0, [1]]
    assert (error is None) is (deed == "lambda")
    assert error is None or isinstance(error, SerialiserError)


@pytest.mark.parametrize("chunksize", [1, 5, "auto"])
@pytest.mark.parametrize("kind", [list, iter])
@pytest.mark.parametrize("place", [0, 2])
def test_an_item_that_cannot_be_sent_fails_in_its_place(
    echoing, place, kind, chunksize
):
    items = [0, [1], 2, 3]
    items[place] = threading.Lock()

    found, error = all_of(map_over(echoing, (kind(items),), chunksize=chunksize))

    assert found == [(item,) for item in items[:place]]
    assert isinstance(error, SerialiserError)


@pytest.mark.parametrize("chunksize", [1, 3, "auto"])
@pytest.mark.parametrize("ordered", [True, False])
def test_an_iterable_that_raises_raises_in_its_place(doubling, chunksize, ordered):
    def items():
        yield from range(10)
        raise OSError("no more")

    results = map_over(doubling, (items(),), chunksize=chunksize, ordered=ordered)
    found, error = all_of(results)

    assert sorted(found) == list(range(0, 20, 2))
    assert isinstance(error, OSError)
    assert list(results) == []


def test_nothing_comes_behind_a_failure(failing):
    results = map_over(failing, ([1, ((2, "raise"), 2), 3],))

    assert len(all_of(results)[0]) == 1
    assert list(results) == []


def test_a_generator_function_is_told_to_be_streamed():
    with mapped.workers("items") as (feed, _):
        found, error = all_of(map_over(feed, ([3, 4],)))

    assert found == []
    assert "stream()" in str(error)


@pytest.mark.parametrize(("deed", "returncode"), [("kill", -9), ("exit", 3)])
def test_a_death_is_raised_at_the_first_item_that_is_lost(deed, returncode):
    with mapped.workers("fail", on_error=lambda _: None) as (feed, _):
        items = [*range(10), ((10, deed), 10), *range(11, 20)]
        found, error = all_of(map_over(feed, (items,), chunksize=4))

    assert found == list(range(8))
    assert isinstance(error, WorkerDied)
    assert error.returncode == returncode
    assert error.started


FORKING = """
import os, mapped
def f(number):
    pid = os.fork() if number == 3 else -1
    if pid > 0:
        os.waitpid(pid, 0)
    return mapped.mark({marks!r}, number)
"""


def test_a_copy_that_an_item_forks_executes_no_other(marks):
    with Forker().eval(FORKING.format(marks=str(marks))).run("f") as proxy:
        results = map_over(Feed(proxy._connection), (range(8),), chunksize=8)
        assert list(results) == list(range(8))

    executed = map(int, marks.read_text().split())
    assert sorted(executed) == [0, 1, 2, 3, 3, 4, 5, 6, 7]


# Lazy, and bounded.


class Counted:
    """Counts up; notes how many were taken."""

    def __init__(self, count=sys.maxsize):
        self.taken, self._count = 0, count

    def __iter__(self):
        return self

    def __next__(self):
        if self.taken == self._count:
            raise StopIteration
        self.taken += 1
        return self.taken - 1


def test_nothing_is_taken_before_the_first_result_is_asked_for(doubling):
    items = Counted()
    results = map_over(doubling, (items,))

    assert items.taken == 0
    assert next(results) == 0
    assert items.taken > 0


@pytest.mark.parametrize("chunksize", [1, 10])
def test_items_are_taken_a_bounded_window_ahead(doubling, chunksize):
    items = Counted()
    window = (jobs.AHEAD + 1) * doubling.workers * chunksize
    for result in itertools.islice(
        map_over(doubling, (items,), chunksize=chunksize), 500
    ):
        ahead = items.taken - result // 2
        if chunksize > 1:  # single calls gather, as many as are quick
            assert ahead <= window


def test_the_window_is_bounded_while_the_first_item_takes_long(marks, fifo):
    with mapped.workers("mark_and_wait") as (feed, _):
        items = Counted()
        columns = (itertools.repeat(str(marks)), itertools.repeat(fifo), items)
        results = map_over(feed, columns)
        thread = threading.Thread(target=next, args=(results,))
        thread.start()
        wait_until(marks.exists, LIMIT, "the first call")
        assert items.taken <= jobs.UNDER_WAY
        with mapped.opened(fifo):
            thread.join(LIMIT)
            results.close()
            feed_is_idle(feed)


def feed_is_idle(feed):
    feeds = getattr(feed, "feeds", [feed])

    def idle():
        return not any(each._connection.outstanding() for each in feeds)

    wait_until(idle, LIMIT, "calls under way")


def test_results_do_not_wait_for_items_that_come_slowly(doubling, monkeypatch):
    monkeypatch.setattr(jobs, "SLOW", 0.0)  # seconds: all are slow
    found, at_each = [], []

    def items():
        for number in range(9):
            at_each.append(len(found))
            yield number
            feed_is_idle(doubling)  # its result has come

    for result in map_over(doubling, (items(),), chunksize=1):
        found.append(result)

    assert found == list(range(0, 18, 2))
    assert all(count >= number - 1 for number, count in enumerate(at_each))


# Early ends.


WAITING = """
import mapped
def f(number):
    if number:
        return mapped.mark_and_wait({marks!r}, {fifo!r}, number)
    if {how!r} == "failure":
        raise KeyError(0)
    return 0
"""


@pytest.mark.parametrize("how", ["close", "with", "drop", "failure"])
@pytest.mark.parametrize("chunksize", [1, 2])
def test_what_has_not_started_is_cancelled(marks, fifo, chunksize, how):
    source = WAITING.format(marks=str(marks), fifo=fifo, how=how)
    with Forker().eval(source).run("f") as proxy, mapped.opened(fifo):
        feed, items = Feed(proxy._connection), Counted()
        results = map_over(feed, (items,), chunksize=chunksize)
        if how == "failure":
            with pytest.raises(KeyError):
                next(results)
        elif how == "with":
            with results:
                assert next(results) == 0
        else:
            assert next(results) == 0
            if how == "close":
                results.close()
        if how != "drop":
            assert next(results, None) is None
        del results
        feed_is_idle(feed)

    # Of an endless iterable; how many before the end depends on who is faster.
    assert items.taken <= (jobs.AHEAD + 2) * chunksize
    executed = marks.read_text().split() if marks.exists() else []
    assert len(executed) <= items.taken


@pytest.mark.parametrize("ordered", [True, False])
def test_a_map_that_is_left_early_leaves_nothing(doubling, ordered):
    for _ in range(10):
        for result in map_over(doubling, (itertools.count(),), ordered=ordered):
            if result > 100:
                break

    def none_is_left():
        gc.collect()
        return not any(isinstance(each, making.Job) for each in gc.get_objects())

    wait_until(none_is_left, LIMIT, "the end of all jobs")
    assert list(map_over(doubling, ([1, 2],))) == [2, 4]


def test_close_drops_the_results_that_are_there(doubling):
    results = map_over(doubling, (range(1000),), chunksize=100)

    assert [next(results) for _ in range(5)] == [0, 2, 4, 6, 8]
    results.close()
    results.close()

    assert list(results) == []
    assert "ended" in repr(results)


def test_close_before_the_first_result(doubling):
    items = Counted()
    results = map_over(doubling, (items,))
    results.close()

    assert list(results) == []
    assert items.taken == 0


def test_another_thread_may_close_it_while_one_waits(marks, fifo):
    with mapped.workers("mark_and_wait") as (feed, _):
        results = map_over(feed, ([str(marks)], [fifo], [1]))
        found = []
        thread = threading.Thread(target=lambda: found.extend(results))
        thread.start()
        wait_until(marks.exists, LIMIT, "the call")
        with pytest.raises(RuntimeError, match="another thread waits"):
            next(results)
        results.close()
        thread.join(LIMIT)
        assert not thread.is_alive()
        assert found == []
        with mapped.opened(fifo):
            feed_is_idle(feed)


def test_results_cannot_be_copied_or_sent(doubling):
    results = map_over(doubling, ([1],))

    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied or sent"):
            attempt(results)
    assert "mapped.double, open" in repr(results)


def test_waiting_in_the_callbacks_thread_is_refused():
    with mapped.workers("double") as (feed, (proxy,)):
        raised = []

        def callback(_):
            try:
                next(map_over(feed, ([1],)))
            except RuntimeError as error:
                raised.append(error)

        proxy(1, callback)
        assert proxy.drain(LIMIT)
        wait_until(lambda: raised, LIMIT, "the refusal")
        assert "next() of a map would wait for ever" in str(raised[0])


def test_an_iterable_that_asks_for_results_is_refused(doubling):
    def items():
        yield 1
        next(results)

    results = map_over(doubling, (items(),))
    found, error = all_of(results)

    assert found == [2]
    assert "already taking results" in str(error)


def test_a_forked_copy_of_the_program_is_told():
    with mapped.workers("double") as (feed, _):
        results = map_over(feed, (itertools.count(),))
        assert next(results) == 0
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for _ in range(10_000_000):
                    next(results)
            except ClosedError:
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0


# Interrupts.


def is_interrupt(error):
    return isinstance(error, Interrupt)


@pytest.fixture
def interruptible(monkeypatch):
    """Have an Interrupt taken for a Ctrl-C; and no cycle collected meanwhile."""
    for module in making, source:
        monkeypatch.setattr(module, "is_interrupt", is_interrupt)
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    "module", [mapping, jobs, making, source], ids=lambda m: m.__name__
)
@pytest.mark.parametrize(("ordered", "chunksize"), [(True, 1), (False, 2)])
def test_an_interrupt_anywhere_loses_and_doubles_nothing(module, ordered, chunksize):
    with Forker().require("mapped").run("mapped.count") as proxy:
        feed, executed = Feed(proxy._connection), 0

        def attempt(interrupt):
            nonlocal executed
            given = [["mutable"], 1, 2] if executed % 2 else range(3)
            iterable = (item for item in given) if executed % 4 < 2 else given
            results = map_over(feed, (iterable,), chunksize=chunksize, ordered=ordered)
            found = []
            with interrupt as raised:
                for _ in range(3):
                    try:
                        for result in results:
                            found.append(result)
                    except Interrupt:
                        continue
            counts = sorted(n[0] if isinstance(n, list) else n for n in found)
            assert counts == list(range(executed + 1, executed + 4))
            executed += 3
            return raised

        assert interrupt_everywhere(attempt, module) > 10
        gc.collect()
