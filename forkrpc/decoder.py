"""Bytes in, frames out; both processes.  No I/O: who reads is told how to.

What `wire` encodes, in pieces of any size, becomes Frames again.
"""

from _socket import MSG_DONTWAIT
from collections import deque
from functools import partial

from .atomic import drop, leftmost, together
from .errors import ProtocolError
from .filling import Filling
from .parts import table_of
from .wire import (
    FLAGS_WITH_PARTS,
    GREETING,
    HEADER_BYTES,
    KINDS,
    LIMIT,
    SIZE,
    SMALL,
    WITH_PARTS,
    Frame,
    unpack,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .filling import RecvInto
    from .wire import Header

LARGEST_READ = 256 << 10  # bytes; a socket gives no more at once


class Decoder:
    """Bytes in, frames out; may be interrupted anywhere without losing a byte.

    `receive` is told how to read; what it reads goes into `chunks` by one call into C.
    Whole frames are moved to `frames` by another; who handles them takes them out.

    size: bytes of a read, where no more are known to come.
    recv_into: as a socket has it; reads the buffers of frames, which are refused
    without it.
    """

    recv_into: "RecvInto | None" = None

    def __init__(
        self, limit: int = LIMIT, size: int = SIZE, *, greeted: bool = False
    ) -> None:
        self.chunks: deque[bytes] = deque()
        self.frames: deque[Frame] = deque()
        self._limit = limit
        self._size = min(size, LARGEST_READ)
        self._greeted = greeted
        self._needed = 0  # bytes in `chunks` before it pays to parse again
        self._have = 0  # bytes in `chunks`, where _needed is not 0
        self._reading = False  # stays set when `receive` is interrupted
        # Its buffers are being read; its header is in `chunks` meanwhile.
        self._filling: Filling | None = None

    def expect_no_greeting(self) -> None:
        """Begin with a frame: another process has read the greeting."""
        self._greeted = True

    def receive(self, recv: "Callable[..., bytes]", flags: int = 0) -> int:
        """Read once with *recv*, as a socket has it; return the bytes read, 0: the end.

        Raise what *recv* raises, and ProtocolError.
        """
        chunks = self.chunks
        if self._reading:  # an interrupt came behind the last read
            self._have = sum(map(len, chunks))
            if chunks and self._have >= self._needed:
                self.parse()
            if self.frames:
                self._reading = False
                return self._have or 1
        if self._filling is not None:
            return self._fill(self._filling, flags)
        needed = self._needed
        size = self._size if needed <= self._size else min(needed, LARGEST_READ)
        self._reading = True
        try:
            if flags:
                chunks.extend(map(recv, (size,), (flags,)))
            else:
                chunks.extend(map(recv, (size,)))
        except BlockingIOError:
            self._reading = False
            raise
        got = len(chunks[-1])
        if needed:
            self._have += got
            if got and self._have >= needed:
                self.parse()
        elif got:
            self.parse()
        self._reading = False
        return got

    def look(
        self, recv: "Callable[..., bytes]", looks: int, flags: int = MSG_DONTWAIT
    ) -> "Header | None":
        """Read once; return the header of a small frame that came alone, or None.

        For whoever expects just that.  The frame stays in `chunks`, as its only item:
        the caller takes it out in one step with what it means.  With None, `receive`
        comes next: it finds what was read.  Nothing may be left from earlier reads
        (`at_rest`).  Raise BlockingIOError when so many looks found nothing, and what
        else *recv* raises.
        """
        self._reading = True
        chunks, size, how = self.chunks, (self._size,), (flags,)
        while not chunks:
            try:
                chunks.extend(map(recv, size, how))
            except BlockingIOError:
                looks -= 1
                if looks <= 0:
                    self._reading = False
                    raise
        data = chunks[0]
        if not HEADER_BYTES <= len(data) < SMALL:
            return None
        header = unpack(data)
        kind, _, _, count, _, buffers, length = header
        if kind not in KINDS or buffers or count != 1 or length > self._limit:
            return None
        return header if HEADER_BYTES + length == len(data) else None

    def at_rest(self) -> bool:
        """Return whether nothing is left from earlier reads."""
        return self._greeted and not (self.chunks or self.frames)

    def parse(self) -> None:
        """Move whole frames from `chunks` to `frames`.  Raise ProtocolError."""
        chunks = self.chunks
        if not chunks or (self._needed and sum(map(len, chunks)) < self._needed):
            return
        if self._filling is not None:
            self._finish(self._filling)
            return
        self._needed = 0  # before what makes it untrue: too small only costs time
        data = b"".join(chunks) if len(chunks) > 1 else chunks[0]
        if not self._greeted:
            data = self._greet(data)
        frames, used, needed, broken, filling = self._split(data)
        if filling is None:
            rest = data[used:] if used else data
            follows: Any = (), ()
        else:
            rest = data[used : used + HEADER_BYTES]
            follows = (partial(setattr, self, "_filling"),), (filling,)
        together(
            (drop, chunks.extend, self.frames.extend, *follows[0]),
            (
                leftmost(chunks, len(chunks)),
                (rest,) if rest else (),
                frames,
                *follows[1],
            ),
        )
        self._needed = needed
        self._have = len(rest)
        if broken is not None:
            raise ProtocolError(broken)

    def _fill(self, filling: Filling, flags: int) -> int:
        """As `receive`, where buffers are still to come."""
        assert self.recv_into is not None
        self._reading = False
        got = filling.receive(self.recv_into, flags)
        self._finish(filling)
        return got

    def _finish(self, filling: Filling) -> None:
        """Move the frame to `frames`, if all its buffers have come."""
        if filling.missing() is not None:
            return
        chunks = self.chunks
        together(
            (drop, self.frames.append, partial(setattr, self, "_filling")),
            (leftmost(chunks, len(chunks)), filling.done(), None),
        )

    def _greet(self, data: bytes) -> bytes:
        if not GREETING.startswith(data[: len(GREETING)]):
            raise ProtocolError(f"greeting {data[:32]!r} instead of {GREETING!r}")
        if len(data) < len(GREETING):
            return data
        rest = data[len(GREETING) :]
        together(
            (drop, self.chunks.extend, partial(setattr, self, "_greeted")),
            (leftmost(self.chunks, len(self.chunks)), (rest,) if rest else (), True),
        )
        return rest

    def _split(
        self, data: bytes
    ) -> "tuple[list[Frame], int, int, str | None, Filling | None]":
        """Return whole frames, their bytes, the bytes needed next, what is broken, and
        the frame behind them that lacks nothing but bytes of its buffers.
        """
        frames: list[Frame] = []
        at, end = 0, len(data)
        while self._greeted and end - at >= HEADER_BYTES:
            kind, flags, handles, count, first, buffers, length = unpack(data, at)
            if kind not in KINDS or not count:
                return frames, at, 0, _no_frame(data, at), None
            if length + buffers > self._limit:
                text = f"body of {length + buffers} bytes, limit {self._limit}"
                return frames, at, 0, text, None
            start = at + HEADER_BYTES
            if end - start < length:
                return frames, at, HEADER_BYTES + length, None, None
            if buffers:
                try:
                    filling, used = self._parts(data, at)
                except ProtocolError as error:
                    return frames, at, 0, str(error), None
                if filling.missing() is not None:
                    return frames, at, 0, None, filling
                frames.append(filling.done())
                at = used
                continue
            at = start + length
            body = data[start:at] if length < SMALL else memoryview(data)[start:at]
            frames.append(Frame(kind, flags, handles, count, first, body))
        return frames, at, 0, None, None

    def _parts(self, data: bytes, at: int) -> "tuple[Filling, int]":
        """Return a frame with buffers whose body is whole, and where it ends in *data*.

        Raise ProtocolError.
        """
        kind, flags, handles, count, first, buffers, length = unpack(data, at)
        if (
            self.recv_into is None
            or kind not in WITH_PARTS
            or flags & ~FLAGS_WITH_PARTS
            or count != 1
        ):
            raise ProtocolError(_no_frame(data, at))
        start = at + HEADER_BYTES
        end = start + length
        sizes, table = table_of(memoryview(data)[start:end], buffers)
        body = data[start + table : end]
        frame = Frame(kind, flags, handles, count, first, b"")
        filling = Filling(frame, body, sizes)
        return filling, end + filling.put(memoryview(data)[end:])


def _no_frame(data: bytes, at: int) -> str:
    return f"no frame: {data[at : at + HEADER_BYTES]!r}"
