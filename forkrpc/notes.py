"""What the library itself tells the program <-> bytes; both processes.

A note is plain data: numbers, texts, lists and dicts.  Where the two sides trust each
other it travels as a pickle, else as the serialiser "data" has it, so that nothing
which arrives is ever unpickled.
"""

from _pickle import dumps as _pickle_dumps
from _pickle import loads as _pickle_loads

from .pairs import PAIRS, PORTABLE_PROTOCOL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .pairs import Buffer

PLAIN = frozenset([str, int, float, bool, type(None)])  # types that need no care


def dumps(note: object, *, trusted: bool) -> bytes:
    """Serialise a note.  trusted: whether the connection's serialiser is a pickle."""
    if trusted:
        return _pickle_dumps(note, PORTABLE_PROTOCOL)
    return PAIRS["data"]()[0]((note,))


def loads(body: "Buffer", *, trusted: bool) -> "Any":
    """Reverse `dumps`; raise what loading raises."""
    if trusted:
        return _pickle_loads(body)
    (note,) = PAIRS["data"]()[1](body)
    return note
