"""End-to-end: many workers behind one handle, with all verbs of a proxy."""

import asyncio
import concurrent.futures
import gc
import itertools
import os
import signal
import threading
import time
from _queue import SimpleQueue

import pytest

from forkrpc import (
    CallTimeout,
    ClosedError,
    Forker,
    SerialiserError,
    SetupError,
    WorkerDied,
    event,
    retire,
)
from forkrpc.life import Life
from helpers import MS, wait_until

LIMIT = 20.0  # seconds; much more than it takes


def double(value=0, *, more=0):
    return value * 2 + more


def pid(_=None):
    return os.getpid()


def pause(_=None):
    time.sleep(600)


def sleep(seconds):
    time.sleep(seconds)
    return os.getpid()


def die_at(number, wanted=0):
    if number == wanted:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail(_=None):
    raise ValueError("on purpose")


def tell(value):
    event(value)
    return value


def retire_then_tell():
    retire()
    return os.getpid()


def count(most):
    yield from range(most)


def die_once(path):
    """Die, but for the second time."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "alive"
    os.kill(os.getpid(), signal.SIGKILL)
    return "dead"


async def alate(value):
    await asyncio.sleep(0.001)
    return value


@pytest.fixture(scope="module")
def template():
    with Forker(name="test_pool").require(__name__) as template:
        template.ready(LIMIT)
        yield template


def test_every_verb_of_a_proxy(template):
    results = SimpleQueue()
    with template.pool(double, max=2) as pool:
        pool(1, results.put)
        pool(2, results.put, more=1)
        assert {results.get(timeout=LIMIT), results.get(timeout=LIMIT)} == {2, 5}
        assert pool.submit(3).result(LIMIT) == 6
        assert pool.call(4, more=2) == 10
        assert pool.with_options(timeout=LIMIT).call(5) == 10
        assert pool.with_options(retries=1).call(6) == 12
        assert pool.drain(LIMIT)
        assert pool.pending == 0
        assert pool.returncode is None
    assert pool.returncode == 0
    with pytest.raises(ClosedError, match="the pool was closed"):
        pool.call(1)


def test_acall_and_streams(template):
    async def main():
        async with template.pool(double, max=2) as pool:
            many = await asyncio.gather(*map(pool.acall, range(50)))
            assert many == [2 * number for number in range(50)]
            view = pool.with_options(retries=1, timeout=LIMIT)
            assert await view.acall(3) == 6
        async with template.pool(count, max=2) as pool:
            found = [item async for item in pool.astream(100)]
            assert found == list(range(100))

    asyncio.run(asyncio.wait_for(main(), LIMIT))


def test_streams_wait_for_a_worker_and_are_closed(template):
    with template.pool(count, max=1, load=1) as pool:
        first = pool.stream(10**9)
        assert next(first) == 0
        second = pool.stream(3)  # no worker has room for it
        assert pool.stats()["queued"] == 1
        first.close()
        assert list(second) == [0, 1, 2]


def test_a_queued_stream_that_is_closed_never_starts(template):
    with template.pool(count, max=1, load=1) as pool:
        first = pool.stream(10**9)
        next(first)
        pool.stream(3).close()
        first.close()
        assert list(pool.stream(2)) == [0, 1]


def test_asynchronous_workers():
    options = {"max": 2, "load": 10, "backend": "async"}
    with (
        Forker().require(__name__) as template,
        template.pool(alate, **options) as pool,
    ):
        futures = [pool.submit(number) for number in range(100)]
        assert [each.result(LIMIT) for each in futures] == list(range(100))


def test_calls_run_side_by_side(template):
    with template.pool(pause, max=4, load=1, start=0) as pool:
        for _ in range(4):
            pool(0, None)
        wait_until(lambda: pool.stats()["busy"] == 4, LIMIT)
        assert len(set(pool.pids)) == 4
        pool.kill()


def test_the_first_call_starts_one_worker_and_waiting_ones_start_more(template):
    with template.pool(sleep, max=3, load=1, start=0.01) as pool:
        assert pool.pids == []
        futures = [pool.submit(0.3) for _ in range(3)]
        assert len({each.result(LIMIT) for each in futures}) == 3


def test_a_short_wait_starts_no_worker(template):
    with template.pool(pid, max=4, start=LIMIT) as pool:
        pids = {pool.submit(number).result(LIMIT) for number in range(20)}
        assert len(pids) == 1


@pytest.mark.parametrize(("idle", "most", "left"), [(0, 2, 0), (1, 2, 1), (2, 2, 2)])
def test_idle_workers_end_but_for_so_many(template, idle, most, left):
    with template.pool(sleep, max=most, idle=idle, load=1, start=0, stop=0.3) as pool:
        futures = [pool.submit(0.05) for _ in range(2)]
        concurrent.futures.wait(futures, LIMIT)
        wait_until(lambda: pool.stats()["workers"] == left, LIMIT)
        time.sleep(0.5)  # none of the others goes
        assert pool.stats()["workers"] == left


def test_idle_workers_are_started_at_once(template):
    with template.pool(pid, max=3, idle=2) as pool:
        wait_until(lambda: pool.stats()["idle"] == 2, LIMIT)


def test_a_death_costs_only_what_had_begun(template):
    errors = SimpleQueue()
    with template.pool(die_at, max=2, on_error=errors.put) as pool:
        futures = [pool.submit(number, 50) for number in range(100)]
        concurrent.futures.wait(futures, LIMIT)
        failed = [at for at, each in enumerate(futures) if each.exception() is not None]
        assert failed == [50]
        error = futures[50].exception()
        assert isinstance(error, WorkerDied)
        assert error.started is True
        assert error.signal == "SIGKILL"
    assert isinstance(errors.get(timeout=LIMIT), WorkerDied)
    assert errors.empty()


def test_a_killed_worker_is_replaced_at_once(template):
    with template.pool(pid, max=2, idle=2, start=LIMIT) as pool:
        wait_until(lambda: pool.stats()["idle"] == 2, LIMIT)
        before = set(pool.pids)
        os.kill(min(before), signal.SIGKILL)
        wait_until(
            lambda: pool.stats()["idle"] == 2 and set(pool.pids) != before, LIMIT
        )
        assert pool.call() in pool.pids


def test_a_call_is_made_again_when_it_may_be(template, tmp_path):
    with template.pool(die_once, max=1, retries=1) as pool:
        assert pool.submit(str(tmp_path / "1")).result(LIMIT) == "alive"
        assert pool.call(str(tmp_path / "2")) == "alive"
    results = SimpleQueue()
    with template.pool(die_once, max=1) as pool:
        view = pool.with_options(retries=1)
        assert view.submit(str(tmp_path / "3")).result(LIMIT) == "alive"
        assert view.call(str(tmp_path / "4")) == "alive"
        view(str(tmp_path / "5"), results.put)
        assert results.get(timeout=LIMIT) == "alive"
        with pytest.raises(WorkerDied):
            pool.call(str(tmp_path / "6"))


def test_no_call_is_made_again_for_ever(template):
    with template.pool(die_at, max=1, retries=1) as pool:
        assert pool.call(1) == 1
        with pytest.raises(WorkerDied):
            pool.call(0)
        assert pool.call(2) == 2


def test_a_worker_that_retires_is_replaced(template):
    def once(number):
        retire()
        return os.getpid()

    with template.pool(once, max=2) as pool:
        futures = [pool.submit(number) for number in range(20)]
        pids = {each.result(LIMIT) for each in futures}
    assert len(pids) > 2  # it may have more calls than one when it says so


def test_a_worker_that_has_retired_gets_no_call_any_more(template):
    with template.pool(retire_then_tell, max=1, load=1) as pool:
        pids = [pool.call() for _ in range(20)]
    assert len(set(pids)) == 20


def test_a_worker_gets_so_many_calls_in_its_life(template):
    with template.pool(pid, max=2, max_calls=3) as pool:
        futures = [pool.submit() for _ in range(30)]
        pids = [each.result(LIMIT) for each in futures]
    assert max(map(pids.count, pids)) <= 3
    assert len(set(pids)) >= 10


def test_each_call_has_a_worker_of_its_own(template):
    with template.pool(pid, max=2, isolate=True) as pool:
        futures = [pool.submit() for _ in range(30)]
        assert len({each.result(LIMIT) for each in futures}) == 30
        # Two and their spares; who has had its call may be about to end.
        wait_until(lambda: pool.stats()["workers"] <= 4, LIMIT)


def test_a_worker_that_grows_is_replaced(template):
    def leak(size):
        leak.__globals__.setdefault("leaked", []).append(os.urandom(size))
        return os.getpid()

    with template.pool(leak, max=1, max_growth=8 << 20) as pool:
        first = pool.call(1)
        wait_until(lambda: pool.call(1 << 20) != first, LIMIT)


def test_a_bad_init_fails_what_waits_and_is_tried_again(template, tmp_path):
    path = tmp_path / "works"

    def init():
        if not path.exists():
            raise RuntimeError("not yet")

    with template.pool(double, max=2, init=init, on_error=lambda _: None) as pool:
        futures = [pool.submit(number) for number in range(5)]
        for future in futures:
            with pytest.raises(SetupError, match="not yet"):
                future.result(LIMIT)
        with pytest.raises(SetupError, match="not yet"):
            pool.call(1)
        path.touch()

        def works():
            try:
                return pool.call(4) == 8
            except SetupError:
                return False

        wait_until(works, LIMIT)


def test_three_deaths_without_an_answer_fail_what_waits(template):
    with template.pool(die_at, max=1, load=1, on_error=lambda _: None) as pool:
        futures = [pool.submit(0) for _ in range(10)]
        done, _ = concurrent.futures.wait(futures, LIMIT)
        assert len(done) == 10
        started = [future.exception().started for future in futures]
        assert started.count(True) == 3
        assert started.count(False) == 7
        wait_until(lambda: not pool._connection.refuses(), LIMIT)
        assert pool.call(1) == 1


def test_idle_workers_that_are_killed_are_no_bad_sign(template):
    with template.pool(sleep, max=4, idle=4, load=1, start=0) as pool:
        wait_until(lambda: pool.stats()["idle"] == 4, LIMIT)
        futures = [pool.submit(0.2) for _ in range(4)]
        known = {each.result(LIMIT) for each in futures}
        assert len(known) == 4
        for each in known:
            os.kill(each, signal.SIGKILL)
        wait_until(lambda: known.isdisjoint(pool.pids), LIMIT)

        assert pool.call(0) not in known


def test_the_limit_of_a_call(template):
    with template.pool(sleep, max=1, timeout=0.1, load=2) as pool:
        slow, quick = pool.submit(600), pool.submit(0)
        with pytest.raises(CallTimeout):
            slow.result(LIMIT)
        assert quick.result(LIMIT)


def test_a_running_call_is_cancelled_with_its_worker(template):
    with template.pool(sleep, max=1, load=2) as pool:
        slow, quick = pool.submit(600), pool.submit(0)
        wait_until(slow.running, LIMIT)
        wait_until(lambda: pool.stats()["running"] == 2, LIMIT)
        assert not pool.cancel(slow)
        wait_until(lambda: pool._connection.hands()[0].life.begun() == 1, LIMIT)
        assert pool.cancel(slow, kill=True)
        assert slow.cancelled()
        assert quick.result(LIMIT)


def test_a_queued_call_is_withdrawn(template):
    with template.pool(sleep, max=1, load=1) as pool:
        slow, queued = pool.submit(0.2), pool.submit(600)
        assert queued.cancel()
        assert queued.cancelled()
        assert slow.result(LIMIT)


def test_calls_wait_for_room_in_the_queue(template):
    with template.pool(sleep, max=1, load=1, queue_limit=2) as pool:
        futures = [pool.submit(0.05) for _ in range(3)]
        assert pool.stats()["queued"] <= 2
        futures += [pool.submit(0.01) for _ in range(5)]
        assert pool.stats()["queued"] <= 2
        assert all(each.result(LIMIT) for each in futures)


def test_tasks_wait_for_room_in_the_queue(template):
    async def main():
        async with template.pool(sleep, max=1, load=1, queue_limit=2) as pool:
            tasks = [asyncio.create_task(pool.acall(0.01)) for _ in range(8)]
            await asyncio.sleep(0.02)
            assert pool.stats()["queued"] <= 2
            await asyncio.gather(*tasks)

    asyncio.run(asyncio.wait_for(main(), LIMIT))


def test_handlers_are_told_which_worker_it_was(template):
    seen = SimpleQueue()

    def on_event(value, *, worker):
        seen.put((value, worker))

    with template.pool(tell, max=1, on_event=on_event) as pool:
        pool.call(5)
        assert seen.get(timeout=LIMIT) == (5, *pool.pids)


def test_on_destroy_comes_last_and_once(template):
    order = []
    pool = template.pool(double, max=2, on_destroy=lambda: order.append("end"))
    for number in range(10):
        pool(number, order.append)
    pool.close()
    assert pool.join(LIMIT)
    assert sorted(order[:-1]) == [2 * number for number in range(10)]
    assert order[-1] == "end"


def test_on_destroy_comes_for_a_pool_that_was_never_used(template):
    ended = threading.Event()
    template.pool(double, on_destroy=ended.set).close()
    assert ended.wait(LIMIT)


def test_dropping_a_pool_finishes_its_calls(template):
    results = SimpleQueue()
    pool = template.pool(double, max=2)
    for number in range(10):
        pool(number, results.put)
    del pool
    found = {results.get(timeout=LIMIT) for _ in range(10)}
    assert found == {2 * number for number in range(10)}


def test_kill_fails_what_there_is(template):
    pool = template.pool(pause, max=2, load=1, start=0)
    futures = [pool.submit() for _ in range(5)]
    wait_until(lambda: pool.stats()["busy"] == 2, LIMIT)
    pool.kill()
    for future in futures:
        with pytest.raises(WorkerDied):
            future.result(LIMIT)
    assert pool.join(LIMIT)


def test_a_pool_goes_on_when_its_template_is_closed():
    with Forker().require(__name__) as template:
        pool = template.pool(double, max=2, start=0)
    with pool:
        assert [pool.submit(1).result(LIMIT) for _ in range(3)] == [2, 2, 2]


def test_a_failing_call_fails_alone(template):
    with template.pool(fail, max=1) as pool:
        for _ in range(3):
            with pytest.raises(ValueError, match="on purpose"):
                pool.call()
        # An answer may come before the template has told the pid.
        wait_until(lambda: len(pool.pids) == 1, LIMIT)


def test_a_bad_argument_raises_where_it_is_given(template):
    with template.pool(double, max=1) as pool:
        with pytest.raises(SerialiserError, match=r"value\[0\]"):
            pool.submit(threading.Lock())
        assert pool.call(1) == 2


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"mx": 3}, TypeError, "did you mean 'max'"),
        ({"max": 0}, ValueError, "max must be 1 or more, not 0"),
        ({"max": "4"}, TypeError, "max must be a number, not '4'"),
        ({"idle": 5, "max": 4}, ValueError, "idle=5 is more than max=4"),
        ({"load": "much"}, ValueError, "number or 'auto'"),
        ({"load": 0}, ValueError, "load must be 1 or more"),
        ({"load": "auto", "backend": "async"}, ValueError, "measures calls that block"),
        ({"start": -1}, ValueError, "start must be seconds"),
        ({"stop": "soon"}, TypeError, "stop must be a number of seconds"),
        ({"isolate": True, "max_calls": 5}, ValueError, "leave out max_calls"),
        ({"isolate": 1}, TypeError, "isolate must be True or False"),
        ({"retries": -1}, ValueError, "retries must be 0 or more"),
        ({"exit_grace": -1}, ValueError, "exit_grace must be seconds"),
        ({"limit": 3}, TypeError, "backend='async' only"),
    ],
)
def test_bad_options_raise_at_once(template, options, kind, text):
    with pytest.raises(kind, match=text):
        template.pool(double, **options)


def test_waiting_in_a_callback_is_refused(template):
    found = SimpleQueue()

    def callback(_):
        try:
            pool.call(1)
        except RuntimeError as error:
            found.put(error)

    with template.pool(double, max=1) as pool:
        pool(1, callback)
        assert "would wait for ever" in str(found.get(timeout=LIMIT))


def test_what_it_shows(template):
    with template.pool(double, max=3) as pool:
        assert "open, 0 of at most 3 workers" in repr(pool)
    assert "ended" in repr(pool)


def test_a_death_ends_the_wait_of_a_blocking_call_in_time(template):
    with template.pool(sleep, max=1) as pool:
        pool.call(0)
        threading.Timer(0.05, lambda: os.kill(pool.pids[0], signal.SIGKILL)).start()
        began = time.monotonic()
        with pytest.raises(WorkerDied):
            pool.call(600)
        assert time.monotonic() - began < 1000 * MS


# Maps.


@pytest.mark.parametrize("options", [{}, {"max": 1}, {"max_calls": 70}, {"timeout": 9}])
def test_a_pool_maps_items(template, options):
    with template.pool(double, **{"max": 2, "start": 0, **options}) as pool:
        assert list(pool.map(range(300))) == list(range(0, 600, 2))
        assert sorted(pool.map(range(50), ordered=False)) == list(range(0, 100, 2))
        assert list(pool.map([1, 2, 3], chunksize=2)) == [2, 4, 6]
        assert pool.pending == 0


def test_a_pool_spreads_items_and_columns(template):
    with template.pool(pow, max=2, start=0) as pool:
        assert list(pool.map(range(50), range(50))) == [n**n for n in range(50)]
        assert list(pool.starmap([(2, n) for n in range(50)])) == [
            2**n for n in range(50)
        ]


def test_a_pool_maps_in_a_loop(template):
    async def main(pool):
        async def items():
            for number in range(100):
                yield number

        return [result async for result in pool.amap(items(), range(1000))]

    with template.pool(pow, max=2, start=0) as pool:
        assert asyncio.run(main(pool)) == [n**n for n in range(100)]


def test_items_of_a_chunk_that_had_not_begun_go_to_another_worker(template):
    with template.pool(die_at, max=2, on_error=lambda _: None) as pool:
        columns = range(40), [13] * 40
        results, found = pool.map(*columns, chunksize=4), []
        with pytest.raises(WorkerDied):
            found.extend(results)
        assert found == list(range(12))  # the chunk of the item is lost
        assert list(pool.map(range(8), [99] * 8, chunksize=4)) == list(range(8))


def test_the_calls_of_a_map_may_be_tried_again(template, tmp_path):
    path = tmp_path / "died"
    with template.pool(die_first, max=2, on_error=lambda _: None) as pool:
        view = pool.with_options(retries=3)
        columns = range(40), [str(path)] * 40
        assert list(view.map(*columns, chunksize=4)) == list(range(40))
        assert path.exists()


def die_first(number, path):
    if number == 13 and not os.path.exists(path):
        with open(path, "w"):
            os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_view_limits_each_item(template):
    with template.pool(sleep, max=1, on_error=lambda _: None) as pool:
        view = pool.with_options(timeout=0.3)
        results, found = view.map([0, 0, 600, 0]), []
        with pytest.raises(CallTimeout):
            for result in results:
                found.append(result)
        assert len(found) == 2


def test_a_map_of_a_closed_pool_is_refused(template):
    pool = template.pool(double)
    pool.close()
    with pytest.raises(ClosedError):
        pool.map([1])
    assert pool.join(LIMIT)


def test_a_map_is_left_with_its_pool(template):
    with template.pool(double, max=2) as pool:
        results = pool.map(itertools.count())
        assert next(results) == 0
        results.close()
    assert list(results) == []


@pytest.mark.parametrize("settings", [None, {"retries": 1}])
def test_a_map_keeps_its_pool_open(template, settings):
    def mapped():
        pool = template.pool(double, max=1)
        return (pool.with_options(**settings) if settings else pool).map(range(5000))

    results = mapped()
    gc.collect()

    assert list(results) == list(range(0, 10_000, 2))


def test_who_has_answered_is_among_the_pids(template, monkeypatch):
    """The template tells of a worker, and may do so behind what that says itself."""
    late, heard = SimpleQueue(), SimpleQueue()
    started = Life.started
    monkeypatch.setattr(Life, "started", lambda *args: late.put(args))

    def on_event(value, *, worker):
        heard.put((value, worker))

    with template.pool(tell, max=1, on_event=on_event) as pool:
        pool.call(5)
        (worker,) = pool.pids
        assert heard.get(timeout=LIMIT) == (5, worker)
        args = late.get(timeout=LIMIT)
        pool._connection.program.reactor.soon(lambda: started(*args))
        wait_until(lambda: args[0].pid == worker, LIMIT)


def test_descriptors_for_workers_may_be_closed_at_once(template, tmp_path):
    def say(text):
        print(text, flush=True)

    path = tmp_path / "said"
    with open(path, "wb") as file:
        pool = template.pool(say, max=1, stdout=file)
    with pool, open(os.devnull, "rb"):  # which may take its number
        pool.call("one")
        os.kill(*pool.pids, signal.SIGKILL)
        pool.call("two")
    assert path.read_text() == "one\ntwo\n"


def test_a_callback_has_its_limit_when_it_may_be_made_again(template):
    errors = SimpleQueue()
    with template.pool(sleep, max=1, on_error=errors.put) as pool:
        pool.with_options(retries=3, timeout=0.1)(600, None)
        assert isinstance(errors.get(timeout=LIMIT), CallTimeout)


def test_a_call_that_is_made_again_can_be_cancelled(template, tmp_path):
    def hang_twice(path):
        with open(path, "a") as file:
            file.write("begun\n")
        time.sleep(600)

    path = tmp_path / "begun"
    with template.pool(hang_twice, max=1, retries=1) as pool:
        future = pool.submit(str(path))
        wait_until(lambda: path.exists() and path.read_text() == "begun\n", LIMIT)
        os.kill(*pool.pids, signal.SIGKILL)
        wait_until(lambda: path.read_text() == "begun\n" * 2, LIMIT)
        assert future.running()
        assert pool.cancel(future, kill=True)
        assert not future.running()
        wait_until(lambda: pool.pending == 0, LIMIT)
        # Its worker may be there by now, and may have been given the call.
        assert pool.cancel(pool.submit(str(path)), kill=True)
