"""Unit: how a worker executes a chunk."""

import pickle
import threading
import time

import pytest

from forkrpc import chunks, outcome, wire
from forkrpc.child import chunk
from forkrpc.child.chunk import Chunks
from forkrpc.serialisers import codec
from interrupts import Interrupt


class Worker:
    def __init__(self, function):
        self.function = function


def codec_():
    return codec("pickle", lambda _: None)


def execute(function, items, *, starred=False, made=None):
    """Return (results, error) of a chunk."""
    made = made or Chunks(Worker(function), wire.LIMIT)
    found = (chunks.plain_tuples if starred else chunks.plain)(items)
    if found is None:
        bodies = [pickle.dumps((item,)) for item in items]
        call = chunks.call_of(bodies, starred=True, plain=False)
    else:
        call = chunks.call_of(found, starred=starred, plain=True)
    answer = made.execute(*made.load(codec_(), call))
    assert chunks.seconds_of(answer) > 0
    pieces, error = chunks.results_of(answer)
    results = []
    for plain, found in pieces:
        results += found if plain else [pickle.loads(body)[0] for body in found]
    if error is not None:
        packed = pickle.loads(error)
        error = outcome.unpack(packed, lambda body: pickle.loads(body)[0])
    return results, error


@pytest.mark.parametrize("items", [range(10), [1, 2.5, "a"], [[1], 2], []])
def test_each_item_has_its_result(items):
    assert execute(lambda item: item, items) == (list(items), None)
    assert execute(lambda item: [item], items) == ([[each] for each in items], None)


def test_starred_items_are_spread():
    assert execute(lambda *args: args, [(1, 2), ()], starred=True) == (
        [(1, 2), ()],
        None,
    )


@pytest.mark.parametrize("place", [0, 1, 4])
@pytest.mark.parametrize("kind", [int, lambda item: [item]])
def test_an_item_that_fails_costs_none_before_it(place, kind):
    executed = []

    def function(item):
        executed.append(item)
        if item == place:
            raise KeyError(item)
        return kind(item)

    results, error = execute(function, range(5))

    assert results == list(map(kind, range(place)))
    assert (type(error), error.args) == (KeyError, (place,))
    assert executed == list(range(place + 1))


@pytest.mark.parametrize("place", [0, 1, 4])
@pytest.mark.parametrize("kind", [int, lambda item: [item]])
def test_an_item_may_not_end_the_iteration(place, kind):
    def function(item):
        if item == place:
            raise StopIteration
        return kind(item)

    results, error = execute(function, range(5))

    assert results == list(map(kind, range(place)))
    assert type(error) is StopIteration


def test_an_item_that_asks_for_the_end_ends_the_worker():
    def function(item):
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        execute(function, [1])


def test_a_result_that_cannot_be_sent_fails_alone():
    lock = threading.Lock()
    results, error = execute(lambda n: n if n < 2 else lock, range(4))
    assert (results, "cannot be sent" in str(error)) == ([0, 1], True)

    results, error = execute(lambda n: [n] if n < 2 else lock, range(4))
    assert (results, "cannot be sent" in str(error)) == ([[0], [1]], True)


def test_an_argument_that_does_not_load_fails_alone():
    made = Chunks(Worker(lambda item: item), wire.LIMIT)
    bodies = [pickle.dumps((1,)), b"garbage", pickle.dumps((2,))]
    answer = made.execute(codec_(), chunks.call_of(bodies, starred=True, plain=False))
    [(_, results)], error = chunks.results_of(answer)

    assert list(results) == [1]
    assert "arguments cannot be loaded" in pickle.loads(error)[1]


def test_results_are_as_they_were_when_they_were_returned():
    seen = []

    def function(item):
        seen.append(item)
        return seen

    assert execute(function, range(4)) == ([[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]], None)


def test_a_signal_behind_the_last_item_fails_that(monkeypatch):
    """Its handler raises where all results are made, and none is answered."""
    extend, raised = chunk._extend, []

    def interrupted(results, iterable, count):
        failure = extend(results, iterable, count)
        if len(results) == 3:
            raised.append(True)
            return Interrupt("signal")
        return failure

    monkeypatch.setattr(chunk, "_extend", interrupted)
    results, error = execute(lambda item: item, range(3))

    assert raised == [True]
    assert results == [0, 1]
    assert str(error) == "signal"


def seconds(function):
    """Return how long a chunk of one item is told to have taken."""
    call = chunks.call_of(range(1), starred=False, plain=True)
    made = Chunks(Worker(function), wire.LIMIT)
    return chunks.seconds_of(made.execute(codec_(), call))


def test_the_time_in_which_an_item_waits_counts():
    assert seconds(lambda _: time.sleep(0.05)) >= 0.05


def test_the_time_in_which_others_have_the_processor_does_not(monkeypatch):
    monkeypatch.setattr(chunk, "_waits", lambda: 0)  # as if it had been taken away

    assert 0 < seconds(lambda _: time.sleep(0.05)) < 0.05


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(chunk, "PIECE", 3)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("items", [range(10), [1.5] * 9, ["a"] * 3, [[1]] * 7])
def test_pieces_of_a_chunk_have_their_results_in_order(items):
    assert execute(lambda item: item, items) == (list(items), None)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("place", [2, 3, 8])
def test_an_item_that_fails_costs_the_pieces_behind_it(place):
    executed = []

    def function(item):
        executed.append(item)
        return item if item != place else 1 // 0

    results, error = execute(function, range(9))

    assert results == list(range(place))
    assert type(error) is ZeroDivisionError
    assert executed == list(range(place + 1))


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("place", [2, 3, 8])
def test_a_result_that_can_be_changed_may_come_in_any_piece(place):
    results, error = execute(lambda n: n if n < place else [n], range(9))

    assert error is None
    assert results == [n if n < place else [n] for n in range(9)]


@pytest.mark.parametrize("piece", [2, 3, 4, 20])
@pytest.mark.parametrize("items", [range(10), list(range(10))])
def test_a_copy_executes_no_other_item(piece, items, monkeypatch):
    monkeypatch.setattr(chunk, "PIECE", piece)
    executed = []

    def function(item):
        executed.append(item)
        if item == 2:
            made.become_copy()
        return item

    made = Chunks(Worker(function), wire.LIMIT)
    execute(function, items, made=made)

    assert executed == [0, 1, 2]
