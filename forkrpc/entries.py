"""Calls that were serialised when they were made, and wait to be sent."""

from itertools import islice

from . import wire
from .items import Items

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MOST_BYTES = 16384  # of bodies that share a frame


class Eager(tuple):  # type: ignore[type-arg]
    """An entry that was serialised when the call was made: (body, keywords, target)."""

    __slots__ = ()


def encode_eager(entries: "list[Any]", first: int) -> "tuple[int, bytes]":
    """Return how many bodies share the next frame, and the frame.

    The first of the *entries* is an Eager of a call, or a definition.
    """
    body, keywords, target = entries[0]
    if target is None:
        return 1, wire.encode(wire.DEFINE, body)
    bodies, size = [body], len(body)
    for entry in islice(entries, 1, None):
        if type(entry) is not Eager or entry[1] != keywords or entry[2] is None:
            break
        size += len(entry[0])
        if size > MOST_BYTES or isinstance(entry[2], Items):
            break
        bodies.append(entry[0])
    flags = wire.KEYWORDS if keywords else 0
    data = wire.encode_bodies(wire.CALL, bodies, flags=flags, first=first)
    return len(bodies), data
