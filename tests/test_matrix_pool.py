"""End-to-end: the matrix of failures for a pool: what a death costs there.

The cells are those of calls, in one pool for all of them.  Both workers are held up
while calls are queued before the bad one and behind it.  An exception or a bad payload
costs that call.  A death costs the call that had begun; all others are answered.
"""

import os
import threading
import typing
from _queue import SimpleQueue

import pytest

import faulty
from forkrpc import Forker, SerialiserError, WorkerDied
from helpers import process_table, wait_until
from shared import shared_template
from test_matrix import CELLS, LIMIT, SETUP, TIMEOUT, VERBS, check_error

LIMITED = 0.2  # seconds that a call may run where it hangs
FUNCTIONS = {
    "sync": "faulty.run",
    "async": "faulty.run_async",
    "isolated": "faulty.run",
}
WORKERS = LOAD = 2


class Bench:
    """A pool, and what its callbacks have heard."""

    def __init__(self, template, function, way):
        self.isolated = way == "isolated"
        self.load = 1 if self.isolated else LOAD
        self.seen = []
        self.results, self.errors = SimpleQueue(), SimpleQueue()
        self.pool = template.pool(
            function,
            backend="async" if way == "async" else "sync",
            isolate=self.isolated,
            max=WORKERS,
            idle=WORKERS,
            load=self.load,
            start=0,
            rlimits={"CORE": 0},
            on_error=self.errors.put,
        )
        self.pool._connection.scheduler.exact = True  # so that all can be held up

    def settle(self):
        """Wait until all workers are there again, and nothing is under way."""
        wait_until(lambda: self.pool.stats()["idle"] == WORKERS, LIMIT)
        wait_until(self.is_whole, LIMIT)
        assert self.pool.drain(LIMIT)
        assert self.pool.pending == 0

    def is_whole(self):
        """Return whether each isolating worker has its two processes, for a while.

        One that has answered may be about to leave, and another to be forked.
        """
        table, pids = process_table(), self.pool.pids
        below = [pid for pid, (_, parent, _) in table.items() if parent in pids]
        self.seen = [*self.seen[-3:], below]
        whole = len(below) == 2 * WORKERS and self.seen == [below] * 4
        return whole or not self.isolated

    def heard(self):
        """Return what `on_error` was told."""
        found = []
        while not self.errors.empty():
            found.append(self.errors.get_nowait())
        return found


@pytest.fixture(scope="module")
def template():
    with shared_template("faulty") as template:
        yield template


@pytest.fixture(scope="module", params=FUNCTIONS)
def bench(request, template):
    made = Bench(template, FUNCTIONS[request.param], request.param)
    with made.pool:
        made.settle()
        yield made


class Call(typing.NamedTuple):
    make: typing.Callable
    timeout: None = None


class BadCall:
    """A call by one of the verbs, and its error in the end."""

    def __init__(self, bench, verb, cell):
        self._bench = bench
        self._raised = SimpleQueue()
        pool, args, before = bench.pool, cell.make(), bench.pool.pending
        self._pool = pool if cell.timeout is None else limited(pool)
        self.told_by_on_error = False
        self._thread = threading.Thread(target=self._call, args=(verb, args))
        if verb == "call":  # so that more calls can be queued behind it
            self._thread.start()
            wait_until(
                lambda: pool.pending > before or not self._thread.is_alive(), LIMIT
            )
        else:
            self._call(verb, args)

    def _call(self, verb, args):
        try:
            if verb == "call":
                self._pool.call(*args)
            elif verb == "submit":
                future = self._pool.submit(*args)
                future.add_done_callback(lambda _: self._raised.put(future.exception()))
            else:
                self._pool(*args, self._bench.results.put)
                self.told_by_on_error = True
        except Exception as error:
            self._raised.put(error)

    def error(self):
        """Return the exception that this call was given, by whichever way."""
        told = self._bench.errors if self.told_by_on_error else self._raised
        error = told.get(timeout=LIMIT)
        if self.told_by_on_error:
            told.put(error)
        if self._thread.ident is not None:
            self._thread.join(LIMIT)
        assert self._raised.empty()
        return error


def limited(pool):
    return pool.with_options(timeout=LIMITED)


def hold_up(bench, folder):
    """Let no worker go on; return what is to be opened, and the calls that do it."""
    pool, count = bench.pool, WORKERS * bench.load
    paths = [os.path.join(folder, str(number)) for number in range(count)]
    for path in paths:
        os.mkfifo(path)
    return paths, [pool.submit("gate", path) for path in paths]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_a_failure_costs_its_call_alone(bench, cell, verb, tmp_path):
    pool, results = bench.pool, bench.results
    paths, gates = hold_up(bench, tmp_path)
    before = [pool.submit("echo", number) for number in range(3)]
    pool("echo", "before", results.put)
    bad = BadCall(bench, verb, cell)
    behind = [pool.submit("echo", number) for number in range(3)]
    pool("echo", "behind", results.put)
    for path in paths:
        with open(path, "wb"):
            pass
    error = bad.error()

    text = cell.text.replace(f"{TIMEOUT}", f"{LIMITED}")
    check_error(error, cell._replace(text=text))
    assert [each.result(LIMIT) for each in gates] == ["through"] * len(gates)
    assert [each.result(LIMIT) for each in before + behind] == [0, 1, 2] * 2
    assert pool.call("echo", "after") == "after"
    found = {results.get(timeout=LIMIT), results.get(timeout=LIMIT)}
    assert found == {"before", "behind"}
    bench.settle()
    assert results.empty()
    if isinstance(error, WorkerDied):
        assert error.returncode == cell.returncode
        assert error.started is (None if bad.told_by_on_error else True)
    told = bad.told_by_on_error or cell.returncode is not None
    assert [type(each) for each in bench.heard()] == [cell.error] * told


@pytest.mark.parametrize("backend", FUNCTIONS)
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("cell", SETUP.values(), ids=SETUP)
def test_a_function_that_cannot_be_set_up_fails_what_waits(
    cell, verb, backend, template
):
    bench = Bench(template, cell.make(), backend)
    pool = bench.pool
    try:
        others = [pool.submit(number) for number in range(4)]
        bad = BadCall(bench, verb, Call(lambda: (1,)))
    except (cell.error, WorkerDied):  # so fast
        others, bad = [], None
    for error in [*(each.exception(LIMIT) for each in others), bad and bad.error()]:
        if error is not None:
            assert type(error) is cell.error
            assert cell.text in str(error)
    pool.close()
    assert pool.join(LIMIT)
    assert cell.error in map(type, bench.heard())


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_a_function_that_cannot_be_dumped_is_refused_at_once(backend):
    value = faulty.nested()
    with Forker() as template:
        for function, text in (
            (faulty.OnDump("raise"), "OnDump.*faulty on purpose"),
            (lambda: value, "recursion"),
        ):
            with pytest.raises(SerialiserError, match=text):
                template.pool(function, backend=backend)
