"""Unit: taking items, in two steps."""

import itertools

import pytest

from forkrpc import source
from forkrpc.source import source_of


def take(made, count):
    found = list(made.peek(count))
    made.taken(len(found))()
    return found


@pytest.mark.parametrize("kind", [list, tuple, iter, range])
def test_items_are_taken_in_order(kind):
    given = range(10) if kind is range else kind(list(range(10)))
    made = source_of((given,), starred=False)

    assert list(made.peek(3)) == list(made.peek(3)) == [0, 1, 2]
    assert take(made, 4) == [0, 1, 2, 3]
    assert list(made.peek(2)) == [4, 5]
    assert take(made, 100) == [4, 5, 6, 7, 8, 9]
    assert not made.peek(1)
    assert made.ended
    assert made.error is None


@pytest.mark.parametrize(
    ("iterables", "length"),
    [
        (([1, 2],), 2),
        ((iter([1, 2]),), 2),
        (((n for n in [1]),), None),
        (([1, 2, 3], [1, 2]), 2),
        (([1, 2, 3], itertools.count()), 3),
    ],
)
def test_its_length_is_known_where_it_can_be(iterables, length):
    assert source_of(iterables, starred=False).length == length


def test_several_iterables_are_zipped():
    made = source_of(([1, 2, 3], "ab"), starred=False)

    assert made.starred
    assert take(made, 9) == [(1, "a"), (2, "b")]


@pytest.mark.parametrize("kind", [lambda given: given, iter])
def test_a_list_that_grows_behind_its_end_has_ended(kind):
    given = [1]
    made = source_of((kind(given),), starred=False)
    assert take(made, 1) == [1]
    given.append(2)
    assert take(made, 1) == [2]
    assert take(made, 1) == []
    given.append(3)

    assert take(made, 1) == []


def test_an_exception_comes_behind_the_items_before_it():
    def items():
        yield 1
        yield 2
        raise OSError("no more")

    made = source_of((items(),), starred=False)

    assert take(made, 1) == [1]
    assert take(made, 5) == [2]
    assert made.ended
    assert isinstance(made.error, OSError)
    assert take(made, 5) == []


def test_an_interrupt_is_raised_and_loses_nothing():
    class Items:
        def __init__(self):
            self.left = [1, KeyboardInterrupt(), 2]

        def __iter__(self):
            return self

        def __next__(self):
            if not self.left:
                raise StopIteration
            item = self.left.pop(0)
            if isinstance(item, BaseException):
                raise item
            return item

    made = source_of((Items(),), starred=False)
    with pytest.raises(KeyboardInterrupt):
        made.peek(5)

    assert take(made, 5) == [1, 2]
    assert made.error is None


@pytest.mark.parametrize("kind", [list, iter])
def test_ending_it_drops_what_is_left(kind):
    made = source_of((kind([1, 2, 3]),), starred=False)
    made.peek(2)
    error = ValueError()
    made.end(error)

    assert not made.peek(1)
    assert made.error is error


def test_what_is_no_iterable_is_refused():
    with pytest.raises(TypeError):
        source_of((5,), starred=False)
    with pytest.raises(TypeError):
        source_of(([1], 5), starred=False)
    with pytest.raises(TypeError, match="at least one iterable"):
        source_of((), starred=False)


@pytest.mark.parametrize(
    ("given", "still"), [([1], True), (range(3), True), ("ab", False), ({1}, False)]
)
def test_items_of_a_sequence_stand_still(given, still):
    assert source_of((given,), starred=False).still is still
    assert isinstance(source_of((given,), starred=False), source.Source)
