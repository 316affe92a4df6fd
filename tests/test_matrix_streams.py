"""End-to-end: the matrix of failures for streams, in the middle of a generator.

The cells are those of calls: the argument, the generator's body (as the function), an
item (as the result), the exception.  What was yielded before arrives first.
"""

import pytest

from forkrpc import overlapping
from helpers import wait_until
from shared import shared_template
from test_matrix import (
    CELLS,
    LIMIT,
    Queue,
    Told,
    check_error,
    check_it_cost_one_call,
    check_it_cost_the_worker,
)

FUNCTIONS = {"sync": "faulty.run", "async": "faulty.run_async"}


class OneStream:
    """A stream, and its error in the end."""

    def __init__(self, proxy, args):
        self.items, self.refused = [], None
        try:
            self._stream = proxy.stream(*args)
        except Exception as error:
            self.refused = error

    def error(self):
        if self.refused is not None:
            return self.refused
        try:
            for item in self._stream:
                self.items.append(item)
        except Exception as error:
            return error
        raise AssertionError("the stream ended without an error")

    def went_to_on_error(self):
        return False


@pytest.fixture(scope="module")
def template():
    with shared_template("faulty") as template:
        yield template


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch):
    monkeypatch.setattr(overlapping, "KILL_GRACE", 0.1)  # as in test_matrix


@pytest.mark.parametrize("backend", FUNCTIONS)
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_a_failure_in_a_stream_costs_what_it_must(cell, backend, template, tmp_path):
    told = Told()
    options = {**told.options(), "backend": backend, "timeout": cell.timeout}
    proxy = template.run(FUNCTIONS[backend], **options)
    queue = Queue(proxy, told, tmp_path)
    bad = OneStream(proxy, ("streamed", *cell.make()))
    queue.add_behind()
    queue.release()
    error = bad.error()

    queue.check_calls_before()
    text = cell.text.replace("value[1]", "value[2]")  # behind the name of `streamed`
    check_error(error, cell._replace(text=text))
    if backend == "sync" and bad.refused is None and cell.make()[0] != "echo":
        assert bad.items == ["first"]
    else:
        assert bad.items in ([], ["first"])
    if cell.returncode is None:
        wait_until(lambda: proxy.pending == 0, LIMIT)
        check_it_cost_one_call(proxy, told, queue, bad)
    else:
        # An asynchronous worker may turn to others between two items.
        overtaken = backend == "async"
        check_it_cost_the_worker(proxy, told, queue, error, cell, overtaken=overtaken)
