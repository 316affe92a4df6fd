"""Unit: what waits for a call."""

import pickle
from math import inf

import pytest

from forkrpc import SerialiserError, wire
from forkrpc.arguments import Arguments
from forkrpc.chunks import items_of
from forkrpc.entries import Chunk, Keywords, LimitedBody, LimitedKeywords
from forkrpc.serialisers import codec
from forkrpc.session import Session

MOST = 1000


def arguments(serialiser="pickle", most=MOST):
    session = Session("m.f", wire.LIMIT)
    session.use(codec(serialiser, session.define))
    return Arguments(session, most)


@pytest.mark.parametrize(
    ("args", "expected"),
    [((1,), 1), (("text",), "text"), ((), ()), ((1, "a"), (1, "a")), ((None,), None)],
)
@pytest.mark.parametrize("most", [wire.LIMIT, 4096])
def test_what_nobody_can_change_waits_as_it_is(args, expected, most):
    assert arguments(most=most).waiting(args, {}) == expected


@pytest.mark.parametrize(("most", "value"), [(4095, 1), (4096, 1 << 64)])
def test_what_may_be_too_long_for_the_limit_is_serialised_at_once(most, value):
    assert arguments(most=most).waiting((value,), {}) == pickle.dumps((value,), 5)


@pytest.mark.parametrize("args", [(b"bytes",), ((1, 2),), ([],), ({},)])
def test_what_could_be_taken_for_something_else_does_not(args):
    waiting = arguments().waiting(args, {})

    assert waiting == args or pickle.loads(waiting) == args
    assert type(waiting) in (bytes, tuple)


def test_what_can_be_changed_is_serialised_at_once():
    values = [1]
    waiting = arguments().waiting((values,), {})
    values.append(2)

    assert type(waiting) is bytes
    assert pickle.loads(waiting) == ([1],)


def test_keywords_stand_behind_the_arguments():
    waiting = arguments().waiting((1,), {"a": 2})

    assert type(waiting) is Keywords
    assert pickle.loads(waiting) == (1, {"a": 2})


@pytest.mark.parametrize(
    ("keywords", "kind"), [({}, LimitedBody), ({"a": 1}, LimitedKeywords)]
)
@pytest.mark.parametrize("limit", [0.5, inf])
def test_a_limit_stands_before_the_body(keywords, kind, limit):
    waiting = arguments().limited((1,), keywords, limit)
    frame = wire.Frame(wire.CALL, wire.LIMITED, 0, 1, 1, bytes(waiting))

    assert type(waiting) is kind
    limits, (body,) = frame.limited()
    assert limits == [limit]
    assert pickle.loads(body) == ((1, keywords) if keywords else (1,))


@pytest.mark.parametrize("limit", [None, 0.5])
@pytest.mark.parametrize("keywords", [{}, {"a": 1}])
def test_a_streams_call_knows_the_flags_of_its_frame(keywords, limit):
    waiting = arguments().streamed((1,), keywords, limit)

    assert bool(waiting.flags & wire.KEYWORDS) is bool(keywords)
    assert bool(waiting.flags & wire.LIMITED) is (limit is not None)


@pytest.mark.parametrize(
    "make",
    [
        lambda each, args: each.waiting(args, {}),
        lambda each, args: each.waiting((), {"a": args}),
        lambda each, args: each.limited(args, {}, 1.0),
        lambda each, args: each.streamed(args, {}, None),
    ],
)
def test_what_is_too_long_is_refused_with_the_remedy(make):
    with pytest.raises(SerialiserError, match="max_frame is 1000; raise it"):
        make(arguments(), (bytearray(MOST),))


# Chunks.


@pytest.mark.parametrize(("starred", "items"), [(False, [1, "a"]), (True, [(1, "a")])])
def test_plain_items_share_a_call(starred, items):
    waiting = arguments().chunk(items, starred=starred)

    assert type(waiting) is Chunk
    assert items_of(waiting) == (starred, True, items)


@pytest.mark.parametrize("starred", [False, True])
def test_other_items_have_a_body_each(starred):
    made = arguments()
    assert made.chunk([[1]], starred=starred) is None

    waiting = made.chunk_of([made.body(([1],)), made.body((2,))])

    assert type(waiting) is Chunk
    _, plain, bodies = items_of(waiting)
    assert not plain
    assert [pickle.loads(body) for body in bodies] == [([1],), (2,)]


@pytest.mark.parametrize(
    ("serialiser", "most", "chunked"),
    [
        ("pickle", wire.LIMIT, True),
        ("portable-pickle", wire.LIMIT, True),
        ("pickle", MOST, False),
        ("json", wire.LIMIT, False),
    ],
)
def test_chunks_are_for_pickles_of_any_length(serialiser, most, chunked):
    assert arguments(serialiser, most).chunked() is chunked
