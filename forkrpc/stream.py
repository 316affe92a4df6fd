"""Stream: the iterator of what a generator in a worker yields.

An item would be lost if the thread were interrupted between the moment it is taken here
and the moment the loop has it.  So no Python code stands there: a Stream is a `filter`
over a `map` of `dict.__getitem__`, all in C, and Python code runs only when the dict is
used up (`_Batch.__missing__`).  That code refills it for the numbers to come by one
call into C, and answers _NOTHING, which the filter drops; wherever it is interrupted,
the next request finds the items, or asks again.
"""

from _thread import RLock, get_ident
from functools import partial
from itertools import count
from operator import is_not

from .atomic import at_once
from .closing import Closing
from .errors import ClosedError
from .items import Items
from .loading import Failure
from .wire import WINDOW, WINDOW_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from .connection import Connection

_NOTHING = object()
# Taken, after which that is told: with a batch of half a window on its way as well,
# the generator still has something to do.
ENOUGH, ENOUGH_BYTES = WINDOW // 4, WINDOW_BYTES // 4


class Stream(filter, Closing):  # type: ignore[type-arg]
    """Iterates over the items of one call; made by `Proxy.stream`.

    An exception of the generator is raised behind the items before it.  `close`,
    dropping it, or leaving its `with` closes the generator in the worker, whose
    `finally` then runs there; none of them waits for that.  One thread at a time may
    take items.
    """

    _batch: "_Batch"

    def __new__(
        cls,
        connection: "Connection",
        args: "tuple[object, ...]",
        kwargs: "dict[str, Any]",
        limit: "float | None" = None,
    ) -> "Stream":
        batch = _Batch(_Source(connection))
        batch.source.items.limit = limit
        take = map(batch.__getitem__, count())
        self = super().__new__(cls, partial(is_not, _NOTHING), take)
        self._batch = batch  # first: who is interrupted now drops it, and so closes it
        connection.stream(args, kwargs, batch.source.items)
        return self

    def close(self) -> None:
        """Want no more items: close the generator in the worker.  Never blocks.

        An exception that the generator raises while it is closed goes to `on_error`.
        """
        self._batch.source.close()
        self._batch.clear()

    def __del__(self) -> None:
        batch = getattr(self, "_batch", None)
        if batch is not None:  # __new__ may not have come so far
            batch.source.dropped()

    def __reduce__(self) -> "NoReturn":
        raise TypeError("a stream cannot be copied or sent; send its items")

    def __repr__(self) -> str:
        return f"<Stream of {self._batch.source}>"


class _Batch(dict):  # type: ignore[type-arg]
    """Items by the number of the request that takes them."""

    def __init__(self, source: "_Source") -> None:
        super().__init__()
        self.source = source

    def __missing__(self, number: int) -> object:
        """Provide for the requests behind this one; raise the end of the stream."""
        return self.source.refill(self, number)


class _Source:
    """Where a Stream gets its items from."""

    def __init__(self, connection: "Connection") -> None:
        self.items = Items()
        self._connection = connection
        self._taking = RLock()
        self._end: list[object] = []  # its outcome, once it was reached
        self._before = 0  # items before those of the batch
        self._bytes = 0  # of all items that were in a batch
        self._told = (0, 0)  # items and bytes at the last credit

    def refill(self, batch: _Batch, number: int) -> object:
        """Put the next items into *batch*, for the requests behind *number*.

        Waits for them.  Raise StopIteration at the end, or what has ended the stream.
        """
        if self._connection.flow.inert:
            raise ClosedError(self._connection.closed)
        if not self._taking.acquire(False):
            raise RuntimeError(f"another thread waits for items of {self}")
        with self._taking:
            self._taking.release()
            items, arrived = self.items, self.items.arrived
            items.taker = get_ident()
            before = self._before + len(batch)
            found = self._next(before)
            if found is None:
                self._raise_end()
            values, size = found
            total = self._bytes + size
            at_once(
                batch.clear,
                partial(batch.update, zip(count(number + 1), values)),
                partial(setattr, self, "_before", before),
                partial(setattr, self, "_bytes", total),
                arrived.popleft,
            )
            # The first of them is as good as taken.
            told, told_bytes = self._told
            if before + 1 - told >= ENOUGH or total - told_bytes >= ENOUGH_BYTES:
                self._credit(before + 1)
        return _NOTHING

    def _next(self, taken: int) -> "Any":
        """Return the next (items, bytes); None at the end."""
        items, connection = self.items, self._connection
        while not self._end:
            try:
                found = items.arrived[0]
            except IndexError:
                if items.closed:
                    return None
            else:
                if found[0] is not None:
                    return found
                self._end.append(found[1])
                connection.flow.stop_closed()  # an item may not have been loadable
                break
            if taken > self._told[0]:
                self._credit(taken)
            items.quiet()
            if not (items.arrived or items.closed):
                connection.flow.wait(items)
        return None

    def _credit(self, taken: int) -> None:
        self._connection.flow.credit(self.items, taken)
        self._told = taken, self._bytes

    def _raise_end(self) -> "NoReturn":
        outcome = self._end[0] if self._end else None
        if not isinstance(outcome, Failure):
            raise StopIteration
        raise_outcome(outcome)

    def close(self) -> None:
        items = self.items
        items.closed = True
        items.arrived.clear()
        items.ring()
        self._connection.flow.stop_closed()

    def dropped(self) -> None:
        """Close it later.  Takes no lock: may run anywhere."""
        items = self.items
        if not self._end and not items.closed:
            items.closed = True
            items.arrived.clear()
            self._connection.flow.stop_later()

    def __str__(self) -> str:
        if self._end and isinstance(self._end[0], Failure):
            state = "failed"
        elif self.items.closed:
            state = "closed"
        else:
            state = "ended" if self._end else "open"
        return f"{self._connection.session.name}, {state}"


def raise_outcome(failure: Failure) -> "NoReturn":
    """Raise what has ended a stream."""
    if isinstance(failure.error, (StopIteration, StopAsyncIteration)):
        # It would end a loop silently.
        kind = type(failure.error).__name__
        raise RuntimeError(f"the call raised {kind}") from failure.error
    try:
        raise failure.error
    finally:
        del failure  # the frame is in the traceback: no cycle through it
