"""Unit: calls that were serialised when they were made, as frames."""

from forkrpc import wire
from forkrpc.entries import MOST_BYTES, Eager, encode_eager
from forkrpc.items import Items


def entries(*bodies, keywords=False):
    return [Eager((body, keywords, id)) for body in bodies]


def test_bodies_share_a_frame():
    assert encode_eager(entries(b"a", b"b"), 5) == (
        2,
        wire.encode_bodies(wire.CALL, [b"a", b"b"], first=5),
    )


def test_a_definition_goes_alone():
    several = [Eager((b"class", False, None)), *entries(b"a")]

    assert encode_eager(several, 5) == (1, wire.encode(wire.DEFINE, b"class"))


def test_calls_with_keywords_and_streams_and_many_bytes_begin_another_frame():
    others = [
        *entries(b"k", keywords=True),
        Eager((b"s", False, Items())),
        *entries(bytes(MOST_BYTES)),
        Eager((b"class", False, None)),
        ("no", "eager", id),
    ]
    for other in others:
        assert encode_eager([*entries(b"a"), other, *entries(b"b")], 1)[0] == 1
