"""Unit: what is done around calls and steps; what is carried is a fake."""

import pytest

from forkrpc.child.around import Around


class Carried:
    """Notes when values are set and reset."""

    def __init__(self, done):
        self._done = done

    def split(self, args):
        return args[:-1], args[-1:]

    def enter(self, values):
        self._done.append(("enter", *values))
        return values

    def leave(self, tokens):
        self._done.append(("leave", *tokens))

    def wrapped(self, function):
        def call(*args):
            self.enter(args[-1:])
            return function(*args[:-1])

        return call


def around(done, *, carries=True, flushes=True):
    return Around(
        Carried(done) if carries else None,
        (lambda: done.append("flush")) if flushes else None,
    )


def test_where_there_is_nothing_to_do_the_function_itself_is_called():
    assert Around(None, None).calls(len) is len


def test_a_call_has_its_values_and_is_flushed_behind():
    done = []
    call = around(done).calls(lambda value: done.append(value) or "result")

    assert call(1, "trace") == "result"
    assert done == [("enter", "trace"), 1, "flush"]


def generator(done):
    try:
        yield 1
        yield 2
    finally:
        done.append("closed")


def test_each_step_has_the_values_and_is_flushed_behind():
    done = []
    iterator = around(done).steps(generator)(done, "trace")
    begin = [("enter", "trace"), ("leave", "trace"), "flush"]
    assert done == begin

    assert next(iterator) == 1
    assert done == begin * 2
    del done[:]
    iterator.close()
    assert done == [("enter", "trace"), "closed", ("leave", "trace"), "flush"]
    assert list(iterator) == []


@pytest.mark.parametrize(("carries", "flushes"), [(True, False), (False, True)])
def test_one_may_be_there_without_the_other(carries, flushes):
    done = []
    steps = around(done, carries=carries, flushes=flushes).steps(generator)

    assert list(steps(done, *["trace"][: int(carries)])) == [1, 2]
    assert ("flush" in done) is flushes
    assert (("enter", "trace") in done) is carries


def test_what_returns_no_iterator_is_refused():
    for each in (Around(None, None), around([], carries=False)):
        with pytest.raises(TypeError, match="needs a generator function"):
            each.steps(abs)(-1)


def test_an_iterator_without_close_is_closed_all_the_same():
    iterator = around([], carries=False).steps(iter)([1, 2])

    assert next(iterator) == 1
    iterator.close()


def test_a_task_enters_its_values_once():
    done = []

    assert around(done).enter([1, "trace"]) == (1,)
    assert done == [("enter", "trace")]
    assert Around(None, None).enter([1]) == [1]
