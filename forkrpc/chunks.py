"""A chunk of a map's items <-> bytes; both processes.

One call with CHUNK in its flags executes the function once for each item of the chunk.
Only pickles of the library's own travel so, between two that trust each other.

    call      a pickled (starred, plain, items)
    answer    f64: the seconds that it took; then a pickled
              ([(plain, results), ...], error)

The time is that of the processor if nothing else was waited for: by how busy others
keep it, later chunks are not to be judged.

plain: nobody can change any of the items, or results.  They stand there as they are;
bytes in their place are a marshalled list of numbers.  Otherwise each is a body of its
own, as of a call: objects that two of them share must not become one object there.
starred: each item is a tuple of arguments.  error: what failed behind the results, as
the body of an ERROR frame, or None.
"""

from _pickle import dumps, loads
from _struct import Struct
from itertools import chain
from marshal import dumps as marshal_dumps
from marshal import loads as marshal_loads

from .classes import PROTOCOL
from .serialisers import TEXTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Buffer = bytes | memoryview

_SECONDS = Struct("<d")
_TUPLE = {tuple}
_MARSHALLED = {int: (b"i", 5), float: (b"g", 9)}  # how each begins, and its length
_HEAD = 5  # bytes before the items of a marshalled list
_FORMAT = 2  # of marshal; without references, the same in every Python


def plain(values: "Sequence[Any]") -> "Sequence[Any] | None":
    """Return *values* as a call or an answer has them; None: they are not plain."""
    if type(values) is range:
        return values
    numbers = _numbers(values) if values else None
    if numbers is not None:
        return numbers
    return values if set(map(type, values)) <= TEXTS else None


def _numbers(values: "Sequence[Any]") -> "bytes | None":
    """Return a marshalled list, if all of *values* are short ints, or all floats.

    Twice as fast as to look at each type and to pickle.  Each has the same length, so
    if the first is such a number, then where its next begins is known, and so on.
    """
    code, length = _MARSHALLED.get(type(values[0]), (b"", 0))
    if not length:
        return None
    try:
        data = marshal_dumps(values, _FORMAT)  # type: ignore[arg-type]
    except ValueError:  # something else is among them
        return None
    count = len(values)
    if len(data) != _HEAD + count * length or data[_HEAD::length].count(code) != count:
        return None
    return data


def plain_tuples(items: "Sequence[Any]") -> "Sequence[Any] | None":
    """As `plain`, for tuples of such values."""
    if set(map(type, items)) != _TUPLE:
        return None
    return items if set(map(type, chain.from_iterable(items))) <= TEXTS else None


def call_of(items: "Sequence[Any]", *, starred: bool, plain: bool) -> bytes:
    """Return the call of *items*: as `plain` returns them, or bodies."""
    return dumps((starred, plain, items), PROTOCOL)


def items_of(call: "Buffer") -> "tuple[bool, bool, Sequence[Any]]":
    """Return (starred, plain, items) of a call."""
    starred, plain, items = loads(call)
    return starred, plain, marshal_loads(items) if type(items) is bytes else items


def answer_of(
    pieces: "list[tuple[bool, Sequence[Any]]]", error: "bytes | None", seconds: float
) -> bytes:
    """Return the answer; pieces: (plain, results), those as the items of `call_of`."""
    return _SECONDS.pack(seconds) + dumps((pieces, error), PROTOCOL)


def seconds_of(answer: bytes) -> float:
    """Return how long a chunk took."""
    seconds: float = _SECONDS.unpack_from(answer)[0]
    return seconds


def results_of(
    answer: bytes,
) -> "tuple[list[tuple[bool, list[Any]]], bytes | None]":
    """Return ([(plain, results), ...], error) of an answer."""
    pieces, error = loads(memoryview(answer)[_SECONDS.size :])
    for at, (plain, results) in enumerate(pieces):
        if type(results) is bytes:
            pieces[at] = plain, marshal_loads(results)
    return pieces, error
