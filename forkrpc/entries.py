"""What waits to be sent, and how it becomes a frame.

What is to be sent tells by its type how:

    a number, a string    the only argument; nobody can change it, so it waits as it is
    a tuple               several such arguments (`serialisers.keepable`)
    bytes                 the body of a call, serialised when it was made
    Keywords              such a body with keyword arguments
    Limited...            the same, of calls with a time limit of their own
    Streamed              the body of a stream's call, whatever it has
    Chunk                 the call of a map's chunk of items
    Parts                 the body of a call or a stream, with its buffers and flags
    Definition            a DEFINE body

Calls of the first two kinds are serialised many at once.  They cost the collector
nothing while they wait: no object is made for a call with one argument.
"""

from _pickle import dumps as pickle_dumps
from bisect import bisect_right
from itertools import accumulate

from . import wire
from .classes import PROTOCOL
from .parts import Parts
from .serialisers import SCALARS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from typing import Any

MOST_BYTES = 16384  # of bodies that share a frame

_ONES = SCALARS | {str}  # types of what waits as it is


class Keywords(bytes):
    """The body of a call with keyword arguments."""

    __slots__ = ()


class LimitedBody(bytes):
    """The body of a call with a limit, which it begins with."""

    __slots__ = ()


class LimitedKeywords(bytes):
    """Such a body with keyword arguments."""

    __slots__ = ()


class Streamed(bytes):
    """The body of a stream's call.  flags: of its frame."""

    flags = 0


class Chunk(bytes):
    """The body of a call that stands for those of many items (`chunks`)."""

    __slots__ = ()


class Definition(bytes):
    """A DEFINE body.  It is no call: nobody gets an outcome."""

    __slots__ = ()


def define(unsent: "deque[Any]", definition: bytes) -> None:
    """Queue a DEFINE body, before the call that needs it."""
    unsent.extend((Definition(definition), None))


_FLAGS: "dict[type, int]" = {
    bytes: 0,
    Keywords: wire.KEYWORDS,
    LimitedBody: wire.LIMITED,
    LimitedKeywords: wire.LIMITED | wire.KEYWORDS,
    Chunk: wire.CHUNK,
}


def framed(
    calls: "list[object]", first: int, limit: int = wire.LIMIT
) -> "tuple[int, wire.Data]":
    """Return how many of *calls* share the next frame, and the frame.

    The first of them is not Streamed.  limit: bytes of a body.
    """
    kinds = list(map(type, calls))
    flags = wire.PACKED
    if kinds[0] in _ONES:
        flags |= wire.ONES
        if not _ONES.issuperset(kinds):
            calls = calls[: next(n for n, k in enumerate(kinds) if k not in _ONES)]
    elif kinds[0] is tuple:
        if kinds.count(tuple) < len(kinds):
            calls = calls[: next(n for n, k in enumerate(kinds) if k is not tuple)]
    else:
        return _framed_bodies(calls, kinds, first, limit)  # type: ignore[arg-type]
    body = pickle_dumps(calls, PROTOCOL)
    while len(body) > limit and len(calls) > 1:
        calls = calls[: len(calls) // 2]
        body = pickle_dumps(calls, PROTOCOL)
    count = len(calls)
    return count, wire.encode(wire.CALL, body, flags=flags, count=count, first=first)


def _framed_bodies(
    bodies: "list[bytes]", kinds: "list[type]", first: int, limit: int
) -> "tuple[int, wire.Data]":
    kind = kinds[0]
    if kind is Definition:
        return 1, wire.encode(wire.DEFINE, bodies[0])
    if kind is Parts:
        return 1, wire.encode_parts(wire.CALL, bodies[0], first=first)  # type: ignore[arg-type]
    if kinds.count(kind) < len(kinds):
        bodies = bodies[: next(n for n, each in enumerate(kinds) if each is not kind)]
    sizes = list(accumulate(len(body) + wire.LENGTH_BYTES for body in bodies))
    count = bisect_right(sizes, min(MOST_BYTES, limit)) or 1
    return count, wire.encode_bodies(
        wire.CALL, bodies[:count], flags=_FLAGS[kind], first=first
    )
