"""Pickles a value so that its large byte strings stay apart; both processes.

Buffers that objects offer (numpy's arrays do) come by protocol 5.  For bytes and
bytearrays pickle has no such way.  But it hands large ones to the file it writes to
as they are, behind their opcode and length, wherever in the value they stand.  Here
that head is replaced by the opcode for a buffer from outside.
"""

from _pickle import Pickler
from _struct import Struct

from .parts import LARGE, Parts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

PROTOCOL = 5
_BYPASS = 64 << 10  # bytes from which on pickle writes what it is given as it is
_PROTO_BYTES = 2  # that a pickle begins with
_FRAME = 0x95  # opcode; u64 length
_FRAME_HEAD = Struct("<BQ")
_NEXT_BUFFER = b"\x97"  # opcode
_SHORT, _LONG = Struct("<cI"), Struct("<cQ")
# Opcodes with the length of what follows them, and of which type that is.
_HEADS: "tuple[tuple[Struct, bytes, type], ...]" = (
    (_SHORT, b"B", bytes),
    (_LONG, b"\x8e", bytes),
    (_LONG, b"\x96", bytearray),
    (_SHORT, b"X", str),
    (_LONG, b"\x8d", str),
)


class Pieces(list):  # type: ignore[type-arg]
    """The file that a pickler writes to, and what it gives buffers to."""

    __slots__ = ()
    write = list.append

    def take(self, buffer: "Any") -> bool:
        """Keep a PickleBuffer apart; return whether it belongs into the pickle."""
        view = buffer.raw()
        if len(view) < LARGE:
            return True
        self.append(view)
        return False

    def joined(self) -> "bytes | Parts":
        """Return what was pickled; Parts if anything stays apart."""
        body: list[bytes] = []
        buffers: list[bytes | memoryview] = []
        pieces: Iterator[Any] = iter(self)
        piece: Any
        start = _PROTO_BYTES
        for piece in pieces:
            if type(piece) is memoryview:  # else pickle's own bytes, or what follows
                buffers.append(piece)
                continue
            follows = _announced(piece, start)
            start = 0
            if follows is None:
                body.append(piece)
                continue
            head, length, kind = follows
            thing = next(pieces, b"")
            # Strings come encoded, small buffers as PickleBuffers: they stay.
            exact = type(thing) is kind and len(thing) == length  # type: ignore[arg-type]
            apart = exact and length >= LARGE
            if not apart:
                body += (piece, thing)
                continue
            body += (piece[:-head], _NEXT_BUFFER)
            buffers.append(thing if kind is bytes else memoryview(thing))
        whole = b"".join(body)
        return Parts(whole, buffers) if buffers else whole


def _announced(piece: bytes, start: int) -> "tuple[int, int, type] | None":
    """Return how long the head is that *piece* ends with, and what it announces.

    None where it ends with a frame of opcodes, or with the pickle.
    """
    at = start
    if len(piece) > at + _FRAME_HEAD.size and piece[at] == _FRAME:
        at += _FRAME_HEAD.size + _FRAME_HEAD.unpack_from(piece, at)[1]
    if at == len(piece):
        return None
    for struct, opcode, kind in _HEADS:
        head_at = len(piece) - struct.size
        if head_at >= at:
            found, length = struct.unpack_from(piece, head_at)
            if found == opcode and length >= _BYPASS:
                return struct.size, length, kind
    return None


def pickled(value: object, pickler: "Callable[..., Any]" = Pickler) -> "bytes | Parts":
    """Return *value* as a pickle; Parts if it has large byte strings."""
    pieces = Pieces()
    pickler(pieces, PROTOCOL, buffer_callback=pieces.take).dump(value)
    return pieces.joined()
