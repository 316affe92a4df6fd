"""Streams of calls that are executed in place: an item is made when it is asked for."""

import sys

from .loading import Failure
from .reactor import report
from .standin import StandIn, Stepped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .inplace import Inplace
    from .items import Items


class FlowInPlace:
    """Stands for a Flow: nothing is told, and whoever waits makes the next item."""

    inert = False

    def __init__(self, worker: "Inplace") -> None:
        self._worker = worker
        self.under_way: dict[Items, _Made] = {}

    def begin(self, items: "Items", call_id: int, call: "Callable[[], Any]") -> None:
        """A stream begins.  call: returns what is to be iterated over."""
        self.under_way[items] = made = _Made(self._worker, items, call_id, call)
        if items.bell is not None:  # a loop waits
            items.bell.home.makers[items.bell] = lambda: self._make_in_loop(items, made)

    def credit(self, items: "Items", taken: int) -> None:
        """Nobody has to be told."""

    def wait(self, items: "Items") -> None:
        """Make the next item, or the end."""
        worker = self._worker
        worker.program.check_may_wait("a stream")
        made = self.under_way[items]
        self._made(items, over=worker.turn(made.make))

    async def _make_in_loop(self, items: "Items", made: "_Made") -> None:
        self._made(items, over=await made.make_in_loop())
        if items.bell is not None:
            items.bell.ring()

    def _made(self, items: "Items", *, over: bool) -> None:
        if over:
            self.under_way.pop(items, None)
        self._worker.work()

    def stop_closed(self) -> None:
        """Close the generators of closed streams."""
        for items, made in list(self.under_way.items()):
            if items.closed:
                self.under_way.pop(items, None)
                made.close()
                self._worker.work()

    stop_later = stop_closed

    def close_those_of(self, *takers: object) -> None:
        """As of Flow."""
        for items in list(self.under_way):
            items.close_if_left_by(takers, "proxy")
        self.stop_closed()

    def lose(self, error_of: "Callable[[int], Exception]") -> None:
        """The worker has ended."""
        for items, made in list(self.under_way.items()):
            self.under_way.pop(items, None)
            items.arrived.append((None, Failure(error_of(made.call_id))))
            items.ring()


class _Made:
    """One stream: makes its items."""

    def __init__(
        self, worker: "Inplace", items: "Items", call_id: int, call: "Callable[[], Any]"
    ) -> None:
        self.call_id = call_id
        self._worker = worker
        self._items = items
        self._call = call
        self._iterator: Any = None

    def make(self) -> bool:
        """Make the next item, or the end; return whether it was the end."""
        worker = self._worker
        try:
            with StandIn(worker):
                if self._iterator is None:
                    self._iterator = worker.iterator(self._call())
                if hasattr(type(self._iterator), "__anext__"):
                    item = worker.in_own_loop(self._iterator.__anext__())
                else:
                    item = next(self._iterator)
        except BaseException as error:  # the generator's
            return self._ended(error)
        return self._add(item)

    async def make_in_loop(self) -> bool:
        """As `make`, in the event loop that runs."""
        worker = self._worker
        try:
            if self._iterator is None:
                with StandIn(worker):
                    returned = self._call()
                if hasattr(returned, "__await__"):
                    returned = await Stepped(worker, returned)
                self._iterator = worker.iterator(returned)
            if hasattr(type(self._iterator), "__anext__"):
                item = await Stepped(worker, self._step())
            else:
                with StandIn(worker):
                    item = next(self._iterator)
        except BaseException as error:  # the generator's
            return self._ended(error)
        return self._add(item)

    async def _step(self) -> object:
        return await self._iterator.__anext__()

    def _add(self, item: object) -> bool:
        try:
            (copy,) = self._worker.copied((item,))
        except Exception as error:
            self.close()
            return self._ended(error)
        self._items.arrived.append(([copy], 0))
        return False

    def _ended(self, error: BaseException) -> bool:
        outcome = None
        if not isinstance(error, (StopIteration, StopAsyncIteration)):
            outcome = self._worker.failure(self.call_id, error)
        self._items.arrived.append((None, outcome))
        return True

    def close(self) -> None:
        """Close the generator; what it raises is reported."""
        iterator = self._iterator
        loop: Any = None
        if self._items.bell is not None:
            loop = self._items.bell.home.loop
        try:
            with StandIn(self._worker):
                if hasattr(iterator, "aclose") and loop is None:
                    self._worker.in_own_loop(iterator.aclose())
                elif hasattr(iterator, "aclose"):
                    if not loop.is_closed():
                        loop.create_task(_awaited(iterator.aclose()))
                elif hasattr(iterator, "close"):
                    iterator.close()
        except BaseException:  # the user's, while nobody takes it
            report(*sys.exc_info())


async def _awaited(closing: "Any") -> None:
    await closing
