"""Frames <-> bytes, the same file in both processes.  No I/O: the caller moves bytes.

A connection opens, in both directions, with GREETING.  Then frames follow:

    kind      u8    what the frame is (the constants below)
    flags     u8    how its body is made
    handles   u16   descriptors that travel with it (control streams only)
    count     u32   calls or results in it
    first     u64   id of its first call; calls count from 1
    buffers   u64   bytes that follow the body: what stays apart from it, see `parts`
    length    u64   bytes of the body

all little endian.  The body of a frame with PACKED in its flags is one serialised list
of `count` items; with another count than 1 it is a table of `count` u32 lengths and the
bodies behind it; else it is one body, and only that may have buffers.  An item of a
PACKED CALL is the tuple of its arguments, or, with ONES in the flags, its only
argument.  With CHUNK in them each body of a CALL stands for calls of many items of a
map; its result too (`chunks`).

A stream is a call whose function yields items.  It is made by one STREAM frame, whose
`first` is its id among the calls, and answered by

    ITEM      `count` items, oldest first; `first`: id of the stream
    RESULT    with ENDED in its flags, without a body: there are no more
    ERROR     in its place, as of a call

The worker makes an item only while less than a window is made and not taken.

    CREDIT    `first`: id of the stream; body: u64, how many items were taken so far.
              As many as were sent: somebody waits for the next one
    STOP      `first`: id of the stream: close the generator.  Its RESULT or ERROR comes

Both overtake the calls that wait in the worker, and mean nothing once it has ended.

Answers are of `count` calls from `first` on.  With SCATTERED in its flags (asynchronous
workers answer in the order of completion) the body begins with a table of `count` u64
ids, one for each answer, and goes on as above.

READY has the worker's process id as `first`: its template may tell that later.
With ONE in its flags it is ready for one call, and another READY follows the answer.

CANCEL goes both ways, without a body: the program asks to cancel the call `first`; the
worker tells that this call was cancelled, which is its answer.
"""

from _struct import Struct

from .errors import ProtocolError
from .parts import Parts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Piece = bytes | memoryview
    Data = bytes | list[Piece]  # one frame; a list: its pieces
    Buffer = bytes | bytearray | memoryview
    # kind, flags, handles, count, first, buffers, length
    Header = tuple[int, int, int, int, int, int, int]

VERSION = 1
GREETING = b"frkrpc\x00" + bytes([VERSION])

# From the parent to a worker.
CALL, CLOSE, DEFINE, CANCEL = 1, 2, 3, 4
STREAM, CREDIT, STOP = 5, 6, 7
# From a worker to the parent (DEFINE and CANCEL go both ways).
RESULT, ERROR, EVENT, READY, FAILED, RETIRE = 16, 17, 18, 19, 20, 21
ITEM = 22
LOG, OUTPUT = 23, 24  # `first` is the id of the call that said it, 0 for none
# From the parent to a template.
STATE, REQUIRE, EVAL, VALUES, HANDLES, FORK, RUN, PING, ADOPT = range(32, 41)
# From a template to the parent.
STARTED, REFUSED, EXITED, PONG = range(48, 52)

PACKED, KEYWORDS, ONES = 1, 2, 8  # flags of calls and results
SCATTERED = 4  # flag of results and errors
LIMITED = 16  # flag of calls and streams: each body begins with its limit, f64 seconds
FOR_GOOD = 1  # flag of CLOSE: the program ends
ONE = 1  # flag of READY: for one call
ENDED = 32  # flag of a stream's RESULT
WITHDRAWN = 64  # flag of STREAM: it was closed before it was sent; no body
CHUNK = 128  # flag of CALL: each body is a chunk of a map's items
WARNING = 1  # flag of LOG: a warning, no record
STDOUT, STDERR, PIPED = 1, 2, 4  # flags of OUTPUT: where to show it, how it came

WINDOW = 64  # items that a stream may be ahead of who takes them
WIDE_WINDOW = 256  # the same, where items are made quickly
WINDOW_BYTES = 256 << 10  # the same in bytes; the item that reaches it is still made

_LIMIT = Struct("<d")
_HEADER = Struct("<BBHIQQQ")
_TAKEN = Struct("<Q")
_pack, unpack = _HEADER.pack, _HEADER.unpack_from
HEADER_BYTES = _HEADER.size
LIMIT = 2**32 - 1  # bytes of one body, unless `max_frame` says otherwise
LENGTH_BYTES = 4  # of an item in the table of bodies that share a frame
SMALL = 4096  # below this, slicing bytes is faster than slicing a memoryview
SIZE = 65536  # bytes of a read, unless `buflen` says otherwise

# Only these may have buffers apart from their body, with these flags at most.
WITH_PARTS = frozenset([CALL, STREAM, RESULT, ITEM, EVENT])
FLAGS_WITH_PARTS = KEYWORDS | LIMITED

KINDS = frozenset(
    [CALL, CLOSE, DEFINE, CANCEL, RESULT, ERROR, EVENT, READY, FAILED, RETIRE]
    + [STREAM, CREDIT, STOP, ITEM, LOG, OUTPUT]
    + [STATE, REQUIRE, EVAL, VALUES, HANDLES, FORK, RUN, PING, ADOPT]
    + [STARTED, REFUSED, EXITED, PONG]
)


class Frame:
    """One frame as it arrived.

    body: bytes, or a memoryview of at least SMALL bytes, or Parts; handles: how many
    descriptors belong to it.
    """

    __slots__ = ("body", "count", "first", "flags", "handles", "kind")

    def __init__(
        self,
        kind: int,
        flags: int,
        handles: int,
        count: int,
        first: int,
        body: "Any",
    ) -> None:
        self.kind = kind
        self.flags = flags
        self.handles = handles
        self.count = count
        self.first = first
        self.body = body

    def bodies(self) -> "list[Any]":
        """Return the separate bodies of a frame that is not PACKED."""
        if self.count == 1:
            return [self.body]
        table = Struct(f"<{self.count}I")
        if table.size > len(self.body):
            raise ProtocolError(f"table of {self.count} lengths in {self!r}")
        whole = bytes(self.body)  # bodies that share a frame are small
        bodies: list[Any] = []
        at = table.size
        for length in table.unpack_from(whole):
            bodies.append(whole[at : at + length])
            at += length
        if at != len(whole):
            raise ProtocolError(f"bodies of {at} bytes in {self!r}")
        return bodies

    def scattered(self) -> "tuple[Sequence[int], Frame]":
        """Return the ids of the calls that this answers, and the frame without them."""
        if not self.flags & SCATTERED:
            return range(self.first, self.first + self.count), self
        table = Struct(f"<{self.count}Q")
        if table.size > len(self.body):
            raise ProtocolError(f"table of {self.count} ids in {self!r}")
        flags = self.flags & ~SCATTERED
        rest = self.body[table.size :]
        inner = Frame(self.kind, flags, 0, self.count, self.first, rest)
        return table.unpack_from(self.body), inner

    def limited(self) -> "tuple[list[float], list[Any]]":
        """Return the limits and the bodies of a LIMITED frame."""
        if type(self.body) is Parts:
            parts, bodies = self.body, [self.body.body]
        else:
            parts, bodies = None, self.bodies()
        if any(len(body) < _LIMIT.size for body in bodies):
            raise ProtocolError(f"no limits in {self!r}")
        limits = [_LIMIT.unpack_from(body)[0] for body in bodies]
        rest = [body[_LIMIT.size :] for body in bodies]
        return limits, rest if parts is None else [Parts(rest[0], parts.buffers)]

    def last(self) -> int:
        """Return the id of its last call."""
        return self.first + self.count - 1

    def loaded(self, load: "Callable[[Any], Any]") -> "Any":
        """Load a body that runs no code of the user; ProtocolError if it cannot be."""
        try:
            return load(self.body)
        except Exception as error:
            try:
                load(self.body)
            except Exception:
                raise ProtocolError(f"{self!r} does not load: {error}") from error
            raise  # a signal handler had raised it

    def __repr__(self) -> str:
        return (
            f"<frame kind {self.kind}, {self.count} from {self.first}, "
            f"{len(self.body)} bytes>"
        )


def encode(
    kind: int,
    body: "Buffer" = b"",
    *,
    flags: int = 0,
    handles: int = 0,
    count: int = 1,
    first: int = 0,
) -> bytes:
    """Return one frame as bytes."""
    header = _HEADER.pack(kind, flags, handles, count, first, 0, len(body))
    return b"".join((header, body))


def encode_one(kind: int, flags: int, first: int, body: bytes) -> bytes:
    """As `encode`, for the frame of one call or result."""
    return _pack(kind, flags, 0, 1, first, 0, len(body)) + body


def encode_parts(kind: int, parts: Parts, *, first: int = 0) -> "list[Piece]":
    """Return one frame with buffers: what is to be written, one after another."""
    body = parts.table() + parts.body
    apart = len(parts) - len(parts.body)
    header = _pack(kind, parts.flags, 0, 1, first, apart, len(body))
    return [header + body, *parts.buffers]


def encode_any(kind: int, body: "bytes | Parts", *, first: int = 0) -> "Data":
    """As `encode`, whether the body has parts or not."""
    if type(body) is Parts:
        return encode_parts(kind, body, first=first)
    return encode(kind, body, first=first)  # type: ignore[arg-type]


def limited(body: "bytes | Parts", limit: float) -> "Any":
    """Return the body of a call that may run *limit* seconds, for a LIMITED frame."""
    if isinstance(body, Parts):
        whole = _LIMIT.pack(limit) + body.body
        return Parts(whole, body.buffers, body.flags | LIMITED)
    return _LIMIT.pack(limit) + body


def encode_bodies(
    kind: int,
    bodies: "list[bytes]",
    *,
    flags: int = 0,
    first: int = 0,
    ids: bytes = b"",
) -> bytes:
    """Return one frame with several bodies, each below 4 GiB.  ids: from `scatter`."""
    count = len(bodies)
    if count == 1 and not ids:
        return encode(kind, bodies[0], flags=flags, first=first)
    table = Struct(f"<{count}I").pack(*map(len, bodies)) if count > 1 else b""
    length = len(ids) + len(table) + sum(map(len, bodies))
    header = _HEADER.pack(kind, flags, 0, count, first, 0, length)
    return b"".join((header, ids, table, *bodies))


def scatter(ids: "Sequence[int]") -> "tuple[int, int, bytes]":
    """Return (flags, first, table) of a frame that answers the calls *ids*.

    There is no table where they follow one another.
    """
    first = ids[0]
    if list(ids) == list(range(first, first + len(ids))):
        return 0, first, b""
    return SCATTERED, first, Struct(f"<{len(ids)}Q").pack(*ids)


def credit(call_id: int, taken: int) -> bytes:
    """Return the CREDIT frame of a stream of which *taken* items were taken."""
    return encode(CREDIT, _TAKEN.pack(taken), first=call_id)


def taken_of(frame: Frame) -> int:
    """Return how many items a CREDIT frame tells.  Raise ProtocolError."""
    if len(frame.body) != _TAKEN.size:
        raise ProtocolError(f"{frame!r} tells no number")
    taken: int = _TAKEN.unpack(frame.body)[0]
    return taken
