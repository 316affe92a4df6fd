"""A frame whose buffers are being received, each into memory of its own.

How much has come is stored by the same call into C that reads, as in an Outbox: an
interrupt can neither lose bytes nor have them read twice.  Memory is taken for one
buffer after another, and filled as bytes come.
"""

from _socket import MSG_WAITALL
from collections import deque
from itertools import accumulate

from .atomic import drop, leftmost, together
from .memory import Room
from .parts import Parts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .parts import Buffer
    from .wire import Frame

    RecvInto = Callable[[memoryview, int, int], int]

MOST_COUNTS = 64  # that are added up before each read
SCRATCH = 256 << 10  # bytes; of what there is no memory for


class Filling:
    """The buffers of one frame, as far as they have come.

    frame: all else of it.  sizes: (length, may it be written to) of each buffer.
    """

    def __init__(
        self, frame: "Frame", body: "Buffer", sizes: "list[tuple[int, bool]]"
    ) -> None:
        self._frame = frame
        self._body = body
        self._sizes = sizes
        self._ends = list(accumulate(length for length, _ in sizes))
        self._rooms: list[Room | None] = []  # None: there is no memory for it
        self._counts: deque[int] = deque()  # bytes that came, of all buffers
        self._at = 0  # number of the buffer that is being filled, or one before

    def missing(self) -> "memoryview | None":
        """Return where the next bytes belong; None if all have come."""
        counts, ends, at = self._counts, self._ends, self._at
        got = sum(counts)
        if len(counts) > MOST_COUNTS:
            together((drop, counts.append), (leftmost(counts, len(counts)), got))
        while got >= ends[at]:
            at += 1
            if at == len(ends):
                return None
        self._at = at
        length, writable = self._sizes[at]
        if at == len(self._rooms):
            self._rooms.append(_room(length, writable=writable))
        room, missing = self._rooms[at], ends[at] - got
        if room is None:
            return memoryview(bytearray(min(SCRATCH, missing)))
        return room.view[length - missing :]

    def put(self, data: memoryview) -> int:
        """Take what was read already; return how many bytes of it."""
        at = 0
        while at < len(data) and (view := self.missing()) is not None:
            size = min(len(view), len(data) - at)
            view[:size] = data[at : at + size]
            self._counts.append(size)
            at += size
        return at

    def receive(self, recv_into: "RecvInto", flags: int) -> int:
        """Read once; return the bytes read, 0: the end.  Raise what that raises."""
        view = self.missing()
        if view is None:
            return 1  # an interrupt came behind the last read
        self._counts.extend(map(recv_into, (view,), (0,), (flags or MSG_WAITALL,)))
        return self._counts[-1]

    def done(self) -> "Frame":
        """Return the frame, all of whose buffers have come."""
        contents = [room and room.content() for room in self._rooms]
        self._frame.body = Parts(self._body, contents)
        return self._frame


def _room(length: int, *, writable: bool) -> "Room | None":
    try:
        return Room(length, writable=writable)
    except MemoryError:  # costs its own call only, which then cannot be loaded
        return None
