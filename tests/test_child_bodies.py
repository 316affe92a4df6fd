"""Unit: what a worker loads and dumps around a call."""

import pickle

import pytest

from forkrpc import RemoteError, SerialiserError, outcome, serialisers, wire
from forkrpc.child.bodies import error_body, load_arguments, load_call, result_body


def codec(name="pickle"):
    return serialisers.codec(name, lambda definition: None)


def test_arguments_are_loaded():
    assert load_arguments(codec(), pickle.dumps((1, 2))) == (1, 2)


@pytest.mark.parametrize(
    ("flags", "expected"), [(0, ((1, {}), {})), (wire.KEYWORDS, ((1,), {}))]
)
def test_a_call_is_loaded_with_its_keywords(flags, expected):
    frame = wire.Frame(wire.STREAM, flags, 0, 1, 1, pickle.dumps((1, {})))

    assert load_call(codec(), frame) == expected


def test_arguments_that_do_not_load_are_told_with_their_cause():
    with pytest.raises(SerialiserError, match="arguments cannot be loaded") as caught:
        load_arguments(codec(), b"garbage")
    assert isinstance(caught.value.__cause__, pickle.UnpicklingError)


def test_a_module_that_the_worker_does_not_find_is_hinted_at():
    body = b"cno_such_module\nf\n."
    with pytest.raises(SerialiserError, match=r"is its folder on sys\.path\?"):
        load_arguments(codec(), body)


@pytest.mark.parametrize("name", ["pickle", "json"])
def test_an_exception_crosses(name):
    each = codec(name)
    body = error_body(each, ValueError("text"))
    if each.trusted:
        packed, load = pickle.loads(body), lambda blob: each.load(blob)[0]
    else:
        ((packed,), load) = codec("data").load(body), None
    found = outcome.unpack(packed, load)

    assert type(found) is ValueError
    assert found.args == ("text",)


def test_an_exception_that_does_not_dump_crosses_as_text():
    class Local(Exception):
        def __reduce__(self):
            raise TypeError

    packed = pickle.loads(error_body(codec(), Local("text")))
    found = outcome.unpack(packed, lambda blob: codec().load(blob)[0])

    assert isinstance(found, RemoteError)
    assert found.message == "text"


def test_what_is_too_long_is_refused_with_the_remedy():
    assert result_body(codec(), "result", (1,), 100) == pickle.dumps((1,), 5)
    with pytest.raises(SerialiserError, match=r"result of \d+ bytes, max_frame is 100"):
        result_body(codec(), "result", (b"x" * 100,), 100)


@pytest.mark.parametrize(
    ("flags", "values", "expected"),
    [(0, (1, {"a": 2}), ((1, {"a": 2}), {})), (2, (1, {"a": 2}), ((1,), {"a": 2}))],
    ids=["none", "keywords"],
)
def test_keyword_arguments_are_the_last_value(flags, values, expected):
    frame = wire.Frame(wire.STREAM, flags, 0, 1, 1, pickle.dumps(values))

    assert load_call(codec(), frame) == expected
