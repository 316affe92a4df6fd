"""Bodies whose large byte strings stay apart from them; both processes.  No I/O.

They are copied neither into a pickle nor out of it: each is written from where it is,
and received into memory of its own.  In a frame the body begins with a table of its
buffers, which follow behind it, in that order:

    number    u32   of buffers
    lengths   u64   of each, in bytes; with the highest bit set, it may be written to

What may be written to arrives as a bytearray, all else as bytes.
"""

from _struct import Struct

from .errors import ProtocolError
from .memory import copy_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Buffer = bytes | memoryview

LARGE = 128 << 10  # bytes from which on a byte string stays apart; measured
_WRITABLE = 1 << 63
_NUMBER = Struct("<I")


class Parts:
    """One body, and the byte strings that its pickle takes from outside, in order.

    Its length is that of all of them, in bytes.
    buffers: to be sent, bytes and memoryviews; that came, bytes and bytearrays, or None
    where there was no memory for them.
    flags: of the frame that it is sent in.
    """

    __slots__ = ("body", "buffers", "flags")

    def __init__(
        self, body: "Buffer", buffers: "Sequence[Any]", flags: int = 0
    ) -> None:
        self.body = body
        self.buffers = buffers
        self.flags = flags

    def __len__(self) -> int:
        return len(self.body) + sum(map(len, self.buffers))

    def owned(self, flags: int = 0) -> "Parts":
        """Return the same with copies of what somebody could still change."""
        return Parts(self.body, list(map(owned, self.buffers)), flags)

    def own(self) -> None:
        """Hold copies from now on."""
        self.buffers = list(map(owned, self.buffers))

    def table(self) -> bytes:
        """Return the table that the body begins with in a frame."""
        lengths = (
            len(each) | (0 if type(each) is bytes or each.readonly else _WRITABLE)
            for each in self.buffers
        )
        count = len(self.buffers)
        return _NUMBER.pack(count) + Struct(f"<{count}Q").pack(*lengths)


def owned(buffer: "Buffer") -> "Buffer":
    """Return *buffer* if nobody can change it, else a copy."""
    if type(buffer) is bytes:
        return buffer
    view = memoryview(copy_of(buffer))
    return view.toreadonly() if buffer.readonly else view  # type: ignore[union-attr]


def table_of(body: "Buffer", total: int) -> "tuple[list[tuple[int, bool]], int]":
    """Return (length, may it be written to) of each buffer, and the table's own length.

    total: bytes of all buffers.  Raise ProtocolError.
    """
    if len(body) >= _NUMBER.size:
        (count,) = _NUMBER.unpack_from(body)
        table = Struct(f"<{count}Q")
        end = _NUMBER.size + table.size
        if end <= len(body):
            numbers = table.unpack_from(body, _NUMBER.size)
            found = [(each & ~_WRITABLE, each >= _WRITABLE) for each in numbers]
            lengths = [length for length, _ in found]
            if all(lengths) and sum(lengths) == total:
                return found, end
    raise ProtocolError(f"no table of buffers of {total} bytes: {bytes(body[:32])!r}")
