"""The results of a map for asyncio programs; the same jobs, awaited in a loop.

What the user gave may itself be asynchronous: then a task takes its items, never more
than the next chunk has, and what is there leaves while the task waits for the next.
"""

from _queue import SimpleQueue
from collections import deque
from functools import partial

from .closing import AsyncClosing
from .jobs import Jobs
from .loops import loop_that_may_wait
from .mapping import AUTO, bar_of, checked_chunksize
from .source import Source, source_of
from .stream import raise_outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterable,
        AsyncIterator,
        Awaitable,
        Callable,
        Iterable,
        Sequence,
    )
    from typing import Any, NoReturn

    from .feed import Feed

    Items = Iterable[Any] | AsyncIterable[Any]
    Step = Callable[[], Awaitable[Any]]


class AsyncMapResults(AsyncClosing):
    """Iterates over the results of calls of one function, an item each.

    As MapResults, for `async for`.  One task at a time, in the loop in which it was
    made, may take results.
    """

    def __init__(self, jobs: Jobs, told: "LoopInbox") -> None:
        self._jobs = jobs
        self._told = told
        self._batch: deque[Any] = deque()

    def __aiter__(self) -> "AsyncMapResults":
        return self

    async def __anext__(self) -> "Any":
        batch = self._batch
        while not batch:
            await self._refill()
        return batch.popleft()

    async def _refill(self) -> None:
        """Have a batch.  Raise StopAsyncIteration at the end, or what has ended it."""
        jobs, told = self._jobs, self._told
        if told.waits():
            raise RuntimeError(f"another task waits for {jobs}")
        while not jobs.step(()):
            jobs.feed.check_may_wait("amap()")
            if isinstance(jobs.source, AsyncSource):
                jobs.source.go_on(told, jobs)
            await told.wait()
        parts = jobs.parts
        if parts:
            while parts:
                self._batch.extend(parts[0] or ())
                parts.popleft()
            return
        jobs.stop()
        failure, jobs.failure = jobs.failure, None
        if failure is None:
            raise StopAsyncIteration
        raise_outcome(failure)

    async def aclose(self) -> None:
        """Want no more results.  Calls that run are not waited for."""
        self._batch.clear()
        self._jobs.close()
        self._jobs.parts.clear()
        self._told.ring()

    def __del__(self) -> None:
        jobs = getattr(self, "_jobs", None)
        if jobs is not None:  # __init__ may not have come so far
            jobs.dropped()

    def __reduce__(self) -> "NoReturn":
        raise TypeError("the results of a map cannot be copied or sent; send a list")

    def __repr__(self) -> str:
        return f"<AsyncMapResults: {self._jobs}>"


class LoopInbox(SimpleQueue):  # type: ignore[type-arg]
    """Takes (job, outcome) in any thread, and wakes the task that waits."""

    def __init__(self, loop: "Any") -> None:
        self.loop = loop
        self._future: Any = None
        self._rung = False

    def append(self, pair: "tuple[Any, Any]") -> None:
        self.put(pair)
        if not self._rung:
            self._rung = True
            try:
                self.loop.call_soon_threadsafe(self.ring)
            except RuntimeError:  # the loop was closed
                return

    def waits(self) -> bool:
        """Return whether a task waits."""
        return self._future is not None

    async def wait(self) -> None:
        """Wait until something has been put here, or it rings."""
        self._future = self.loop.create_future()
        try:
            if self.empty():  # publish, then look
                await self._future
        finally:
            self._future = None

    def ring(self) -> None:
        """Wake the task that waits.  In the loop's thread."""
        self._rung = False
        future = self._future
        if future is not None and not future.done():
            future.set_result(None)


class AsyncSource(Source):
    """Takes from an asynchronous iterable, in a task of its own."""

    def __init__(self, items: "AsyncIterator[Any]", *, starred: bool) -> None:
        super().__init__(iter(()), None, starred=starred)
        self._items = items
        self._task: Any = None
        self._room: Any = None  # set when there is room again
        self._loop: Any = None

    def go_on(self, told: LoopInbox, jobs: Jobs) -> None:
        """Take items while there is room.  In the loop's thread."""
        if self._task is None and not self.ended:
            self._loop = told.loop
            self._task = self._loop.create_task(self._take(told.ring, jobs.held))
        room = self._room
        if room is not None and not room.done() and len(self._held) < jobs.held():
            room.set_result(None)

    async def _take(
        self, ring: "Callable[[], None]", most: "Callable[[], int]"
    ) -> None:
        try:
            async for item in self._items:
                self._held.append(item)
                ring()
                while len(self._held) >= most():
                    self._room = self._loop.create_future()
                    await self._room
        except Exception as error:
            self.error = error
        self.ended = True
        ring()

    def peek(self, count: int) -> "Sequence[Any]":
        return self._held[:count]

    def end(self, error: "BaseException | None" = None) -> None:
        super().end(error)
        if self._task is not None:
            try:
                self._loop.call_soon_threadsafe(self._task.cancel)
            except RuntimeError:  # the loop was closed
                return


def _steps_of(iterables: "tuple[Items, ...]") -> "list[Step]":
    """Return what awaits the next item of each, of either kind.  Raise TypeError."""
    return [
        each.__aiter__().__anext__
        if hasattr(each, "__aiter__")
        else partial(_next, iter(each))
        for each in iterables
    ]


async def _zipped(steps: "list[Step]") -> "AsyncIterator[Any]":
    """Yield tuples of their items, until one has no more."""
    while True:
        items = []
        for step in steps:
            try:
                items.append(await step())
            except StopAsyncIteration:
                return
        yield tuple(items)


async def _next(iterator: "Any") -> "Any":
    for item in iterator:
        return item
    raise StopAsyncIteration


def amap_over(
    feed: "Feed",
    iterables: "tuple[Items, ...]",
    *,
    starred: bool = False,
    chunksize: "int | str" = AUTO,
    ordered: bool = True,
    progress: bool = False,
) -> AsyncMapResults:
    """Do as `map_over`, for `async for`; the iterables may be asynchronous too.

    Raise RuntimeError where no loop runs.
    """
    told = LoopInbox(loop_that_may_wait("amap()", feed.program))
    size = checked_chunksize(chunksize)
    feed.check_open()
    source: Source
    if not any(hasattr(each, "__aiter__") for each in iterables):
        source = source_of(iterables, starred=starred)  # type: ignore[arg-type]
    elif len(iterables) == 1:
        source = AsyncSource(iterables[0].__aiter__(), starred=starred)  # type: ignore[union-attr]
    else:
        source = AsyncSource(_zipped(_steps_of(iterables)), starred=True)
    bar = bar_of(feed.name, source.length) if progress else None
    return AsyncMapResults(
        Jobs(feed, source, told, chunksize=size, ordered=ordered, bar=bar), told
    )
