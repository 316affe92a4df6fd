"""How the items of a map reach a worker, or the workers of a pool."""

from functools import partial

from . import atomic
from .errors import ClosedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from .awaiter import Awaiter
    from .connection import Connection
    from .intake import Intake

    Step = Callable[[], object]


AT_ONCE = 256  # calls of an asynchronous worker that has no limit


class Feed:
    """Makes calls of items, and queues them.

    workers: how many there are at most.  singly: each item is to be a call of its own.
    limit: of such calls, in seconds.  wrapped: returns what stands for the target.
    handle: is not dropped, and what it closes not closed, before this is.

    name: of the function.
    chunked: whether many items may share one call; they do not where each has a time
    limit, runs beside others, or travels with a serialiser of the user's.
    most: calls that may be under way at once where items are calls of their own; None:
    as many as keep a worker busy.
    """

    def __init__(
        self,
        connection: "Connection | Intake",
        workers: int = 1,
        *,
        singly: bool = False,
        limit: "float | None" = None,
        wrapped: "Callable[[Awaiter], Any] | None" = None,
        handle: object = None,
    ) -> None:
        session, options = connection.session, connection.options
        self._connection = connection
        self._arguments = connection.arguments
        self._limit = limit
        self._wrapped = wrapped
        self._handle = handle
        self.workers = workers
        self.name = session.name
        self.codec = session.codec
        self.program = connection.program
        at_once = options["backend"] == "async"
        self.most: int | None = (options["limit"] or AT_ONCE) if at_once else None
        timed = limit is not None or options["timeout"] is not None
        self.chunked = not (at_once or timed or singly) and self._arguments.chunked()

    def check_open(self) -> None:
        """Raise ClosedError, or why calls are refused."""
        self._connection.check_open()

    def check_may_wait(self, verb: str) -> None:
        """Raise RuntimeError where nobody would read what is waited for."""
        if self._connection.flow.inert:
            raise ClosedError(self._connection.closed)
        self._connection.flow.check_may_wait(verb)

    def later(self, function: "Step") -> None:
        """Call *function* soon, in the reactor's thread.  Takes no lock."""
        if not self._connection.flow.inert:
            self.program.reactor.soon(function)

    # What waits for a call.  All raise SerialiserError.

    def call(self, args: "tuple[Any, ...]") -> object:
        """Return the call of one item."""
        if self._limit is not None:
            return self._arguments.limited(args, {}, self._limit)
        return self._arguments.waiting(args, {})

    def body(self, args: "tuple[Any, ...]") -> bytes:
        """Return one item of a chunk, for `chunk_of`."""
        return self._arguments.body(args)

    def chunk(self, items: "Sequence[Any]", *, starred: bool) -> object:
        """Return the call of items, None if each needs a body."""
        return self._arguments.chunk(items, starred=starred)

    def chunk_of(self, bodies: "list[bytes]") -> object:
        return self._arguments.chunk_of(bodies)

    # Queueing it.

    def put(self, call: object, target: "Awaiter", *also: "Step") -> None:
        """Queue a call, and do *also* in the same call into C; as `check_open`."""
        self.check_open()
        session = self._connection.session
        session.varied = True
        if self._limit is not None:
            self._connection.limited = True
            target.limit = self._limit
        if self._wrapped is not None:
            target = self._wrapped(target)
        atomic.at_once(partial(session.unsent.extend, (call, target)), *also)
        self._connection.send()

    def cancel(self, target: "Awaiter") -> None:
        """Withdraw a call, unless it is on its way to a blocking worker."""
        self._connection.cancel(target)
