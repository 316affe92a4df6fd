"""What a call gives its worker, as it waits in `Session.unsent`."""

from . import wire
from .chunks import call_of, plain, plain_tuples
from .entries import Chunk, Keywords, LimitedBody, LimitedKeywords, Streamed
from .errors import SerialiserError
from .parts import Parts
from .serialisers import keepable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from .session import Session

    Args = tuple[Any, ...]
    Keys = dict[str, Any]


KEPT_BYTES = 4096  # more than a call that waits as it is may take, but for long ints


class Arguments:
    """Serialises for one worker; most: bytes of one body.

    All raise SerialiserError for what cannot be sent.
    """

    def __init__(self, session: "Session", most: int) -> None:
        self._session = session
        self._most = most

    def waiting(self, args: "Args", kwargs: "Keys", *, shared: bool = False) -> object:
        """Return what waits for a call.

        shared: the caller changes nothing before it has the outcome, so that large
        buffers need not be copied.
        """
        codec = self._session.codec
        if codec.packs and not kwargs and keepable(args) and self._fits(args):
            kind = type(args[0]) if len(args) == 1 else tuple
            return args if kind is bytes or kind is tuple else args[0]
        body = codec.dump_apart((*args, kwargs) if kwargs else args)
        if len(body) > self._most:
            raise self._too_long(body)
        if isinstance(body, Parts):
            body.flags = wire.KEYWORDS if kwargs else 0
            return body if shared else body.owned(body.flags)
        return Keywords(body) if kwargs else body

    def _fits(self, args: "Args") -> bool:
        """Return whether a call that may wait as it is surely is short enough."""
        return self._most >= wire.LIMIT or (
            self._most >= KEPT_BYTES
            and all(type(arg) is not int or arg.bit_length() < 64 for arg in args)
        )

    def limited(self, args: "Args", kwargs: "Keys", limit: float) -> "bytes | Parts":
        """Return what waits for a call that may run *limit* seconds."""
        body = self._body(args, kwargs, limit)
        if isinstance(body, Parts):
            return body
        return LimitedKeywords(body) if kwargs else LimitedBody(body)

    def streamed(
        self, args: "Args", kwargs: "Keys", limit: "float | None"
    ) -> "Streamed | Parts":
        """Return what waits for a stream's call."""
        body = self._body(args, kwargs, limit)
        if isinstance(body, Parts):
            return body
        call = Streamed(body)
        call.flags = wire.KEYWORDS if kwargs else 0
        if limit is not None:
            call.flags |= wire.LIMITED
        return call

    def chunked(self) -> bool:
        """Return whether many items of a map may share one call."""
        # One call of them all could be longer than *most* where each is not.
        return self._session.codec.trusted and self._most >= wire.LIMIT

    def chunk(self, items: "Sequence[Any]", *, starred: bool) -> "Chunk | None":
        """Return the call of these items; None if each needs a body of its own.

        starred: each is a tuple of arguments.
        """
        found = plain_tuples(items) if starred else plain(items)
        if found is None:
            return None
        return Chunk(call_of(found, starred=starred, plain=True))

    def chunk_of(self, bodies: "list[bytes]") -> Chunk:
        """Return the call of items that are bodies."""
        return Chunk(call_of(bodies, starred=True, plain=False))

    def body(self, args: "Args") -> bytes:
        """Return the body of an item, with all that is in it."""
        body = self._session.codec.dump(args)
        if len(body) > self._most:
            raise self._too_long(body)
        return body

    def _body(
        self, args: "Args", kwargs: "Keys", limit: "float | None"
    ) -> "bytes | Parts":
        body = self._session.codec.dump_apart((*args, kwargs) if kwargs else args)
        if len(body) > self._most:
            raise self._too_long(body)
        if isinstance(body, Parts):
            body = body.owned(wire.KEYWORDS if kwargs else 0)
        return body if limit is None else wire.limited(body, limit)

    def _too_long(self, body: "bytes | Parts") -> SerialiserError:
        return SerialiserError(
            f"arguments of {len(body)} bytes, max_frame is {self._most}; "
            "raise it with run(..., max_frame=...)"
        )
