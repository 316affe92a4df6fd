"""AsyncStream: the iterator of a generator's items for asyncio programs.

What has come stands in an Items, as for a Stream; its bell is the inbox of the loop
(`loops`), whoever reads the socket.
"""

from collections import deque
from functools import partial

from .closing import AsyncClosing
from .errors import ClosedError
from .items import Items
from .loading import Failure
from .loops import Waiter, running_task
from .stream import ENOUGH, ENOUGH_BYTES, raise_outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from .connection import Connection
    from .loops import Home


class AsyncStream(AsyncClosing):
    """Iterates over the items of one call; made by `Proxy.astream`.

    An exception of the generator is raised behind the items before it.  `aclose`,
    dropping it, or leaving its `async with` closes the generator in the worker, whose
    `finally` then runs there; none of them waits for that.  One task at a time, in the
    loop in which it was made, may take items.
    """

    def __init__(
        self,
        connection: "Connection",
        args: "tuple[Any, ...]",
        kwargs: "Any",
        limit: "float | None" = None,
    ) -> None:
        self._connection = connection
        self._home = connection.home("astream()")
        self._bell = _Bell(self._home)
        self._items = _HomeItems(self._bell)
        self._items.limit = limit
        self._batch: deque[Any] = deque()
        self._end: list[object] = []  # its outcome, once it was reached
        self._given = 0  # items that were ever in the batch
        self._bytes = 0
        self._told = (0, 0)  # items taken, and bytes, at the last credit
        connection.stream(args, kwargs, self._items)

    def __aiter__(self) -> "AsyncStream":
        return self

    async def __anext__(self) -> "Any":
        batch = self._batch
        if not batch:
            await self._fill()
        return batch.popleft()

    async def _fill(self) -> None:
        """Have a batch.  Raise StopAsyncIteration at the end, or what has ended it."""
        items, connection = self._items, self._connection
        items.taker = running_task()
        while not self._end:
            if connection.flow.inert:
                raise ClosedError(connection.closed)
            if items.arrived:
                found, size = items.arrived.popleft()
                if found is None:
                    self._end.append(size)
                    connection.flow.stop_closed()
                    break
                self._bytes += size
                self._batch.extend(found)
                taken = self._given + 1  # the first of them is as good as taken
                self._given += len(found)
                told, told_bytes = self._told
                if taken - told >= ENOUGH or self._bytes - told_bytes >= ENOUGH_BYTES:
                    self._credit(taken)
                return
            if items.closed:
                break
            if self._given > self._told[0]:
                self._credit(self._given)
            await self._bell.wait(items)
        outcome = self._end[0] if self._end else None
        if not isinstance(outcome, Failure):
            raise StopAsyncIteration
        raise_outcome(outcome)

    def _credit(self, taken: int) -> None:
        self._connection.flow.credit(self._items, taken)
        self._told = taken, self._bytes

    async def aclose(self) -> None:
        """Want no more items: close the generator in the worker.

        An exception that the generator raises while it is closed goes to `on_error`.
        """
        self._drop()
        self._bell.ring()
        self._connection.flow.stop_closed()

    def _drop(self) -> None:
        self._items.closed = True
        self._items.arrived.clear()
        self._batch.clear()

    def __del__(self) -> None:
        items = getattr(self, "_items", None)
        if items is not None and not self._end and not items.closed:
            self._drop()
            self._connection.flow.stop_later()

    def __reduce__(self) -> "NoReturn":
        raise TypeError("a stream cannot be copied or sent; send its items")

    def __repr__(self) -> str:
        if self._end and isinstance(self._end[0], Failure):
            state = "failed"
        elif self._items.closed:
            state = "closed"
        else:
            state = "ended" if self._end else "open"
        return f"<AsyncStream of {self._connection.session.name}, {state}>"


class _Bell(Waiter):
    """Wakes the task that waits for items."""

    def __init__(self, home: "Home") -> None:
        super().__init__(home)
        self._future: Any = None

    async def wait(self, items: Items) -> None:
        """Wait until something has come since, or it was closed."""
        self._future = self.home.loop.create_future()
        self.home.began(self)
        try:
            if not (items.arrived or items.closed):  # publish, then look
                await self._future
        finally:
            self._future = None
            self.home.waiting.discard(self)

    def arrive(self, _outcome: object) -> None:
        self.ring()

    def ring(self) -> None:
        future = self._future
        if future is not None and not future.done():
            future.set_result(None)


class _HomeItems(Items):
    """Items that ring in a loop."""

    def __init__(self, bell: _Bell) -> None:
        super().__init__()
        self.bell = bell
        self.taker = running_task()

    @property
    def ring(self) -> "Callable[[], object]":
        return partial(self.bell.home.inbox.append, (self.bell, None))

    def taker_ended(self) -> bool:
        if self.taker is None:  # a callback of the loop made it
            return False
        task = self.taker()
        return task is None or bool(task.done())
