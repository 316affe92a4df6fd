"""Pool: many workers behind one handle, called exactly like a Proxy."""

from signal import SIGKILL

from .amapping import amap_over
from .crew import Crew
from .fds import close_all, duplicate
from .functions import name_of
from .mapping import map_over
from .proxy import Proxy, check_signal
from .scheduling import Scheduler
from .sizing import pool_options, scheduling_of
from .starting import check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future
    from typing import Any

    from .amapping import AsyncMapResults, Items
    from .feed import Feed
    from .link import Link
    from .mapping import MapResults


class Pool(Proxy):
    """Calls a function in workers.  Made by `Forker.pool`; any thread may use it.

    All verbs of a Proxy; results come as they are ready, in any order.  The queue is
    first in, first out.  A call that had not started when its worker died goes to
    another one; one that had fails with WorkerDied, unless `retries` says otherwise.
    """

    _connection: Crew  # type: ignore[assignment]

    async def acall(self, /, *args: "Any", **kwargs: "Any") -> "Any":
        """As `Proxy.acall`; waits first while as many calls wait as may."""
        await self._connection.await_room_in_loop("acall()")
        return await super().acall(*args, **kwargs)

    def with_options(self, **options: "Any") -> "Proxy":
        """Return a view of this pool whose calls have other settings.

        timeout: seconds that a call may run, None: no limit.  retries: so often a call
        is made again when its worker died, which declares that it may be.  Raise
        TypeError or ValueError for a bad option.
        """
        from .poolview import view_of

        return view_of(self, self._connection, options)

    def map(
        self,
        iterable: "Iterable[Any]",
        *iterables: "Iterable[Any]",
        chunksize: "int | str" = "auto",
        ordered: bool = True,
        progress: bool = False,
    ) -> "MapResults":
        """Call the function for each item; return an iterator of the results.

        As the builtin `map`, and as lazy: items are taken and called no further ahead
        of who takes the results than keeps the workers busy.  chunksize: items that
        share one call, so that tiny ones are quick; "auto": what takes 1 to 4 ms.
        ordered: results come in the order of the items, else as they are completed.
        progress: show a bar (needs tqdm).  An item that fails raises in its place;
        that, closing or dropping the iterator cancels what has not started.
        """
        return map_over(
            self._feed(),
            (iterable, *iterables),
            chunksize=chunksize,
            ordered=ordered,
            progress=progress,
        )

    def starmap(
        self,
        iterable: "Iterable[Iterable[Any]]",
        *,
        chunksize: "int | str" = "auto",
        ordered: bool = True,
        progress: bool = False,
    ) -> "MapResults":
        """Do as `map`, for items that are the arguments of one call each."""
        return map_over(
            self._feed(),
            (iterable,),
            starred=True,
            chunksize=chunksize,
            ordered=ordered,
            progress=progress,
        )

    def amap(
        self,
        iterable: "Items",
        *iterables: "Items",
        chunksize: "int | str" = "auto",
        ordered: bool = True,
        progress: bool = False,
    ) -> "AsyncMapResults":
        """Do as `map`, for `async for`; the iterables may be asynchronous too.

        Raise RuntimeError where no loop runs.
        """
        return amap_over(
            self._feed(),
            (iterable, *iterables),
            chunksize=chunksize,
            ordered=ordered,
            progress=progress,
        )

    def _feed(self) -> "Feed":
        return self._connection.feed(handle=self)

    def cancel(self, future: "Future[Any]", *, kill: bool = False) -> bool:
        """Cancel the call of *future*; return whether it is cancelled.

        kill: end the worker that executes it, if it has started.  Other calls go on.
        """
        if future.cancel() or not kill:
            return future.cancelled()
        return self._connection.kill_call(future)

    def stats(self) -> "dict[str, int]":
        """Return how many workers and calls there are, by what they do."""
        return self._connection.stats()

    def kill(self, signal: int = SIGKILL) -> None:
        """Send *signal* to all workers and what they started; calls fail."""
        check_signal(signal)
        self._connection.kill(signal)

    @property
    def pid(self) -> "int | None":
        """None: a pool has many workers; see `pids`."""
        return None

    @property
    def pids(self) -> "list[int]":
        """The process ids of the workers; of those that start, not all."""
        pids = [each.pid for each in self._connection.hands()]
        return [pid for pid in pids if pid is not None]

    @property
    def returncode(self) -> "int | None":
        """None while there may be workers, then 0."""
        return 0 if self._connection.ended.is_open() else None

    def __repr__(self) -> str:
        crew = self._connection
        stats = crew.stats()
        if crew.ended.is_open():
            state = "ended"
        else:
            state = "open" if crew.closed is None else "closing"
        return (
            f"<Pool {crew.session.name}, {state}, {stats['workers']} of at most "
            f"{crew.most} workers, {stats['queued']} queued, "
            f"{self.pending} pending>"
        )


def start_pool(
    link: "Link", function: "str | Callable[..., Any]", given: "dict[str, Any]"
) -> Pool:
    """Return a new pool.  Raise what a bad function or option raises."""
    own, options = pool_options(given)
    check(link, function, options)
    asynchronous = options["backend"] == "async"
    sizes = scheduling_of(own, asynchronous=asynchronous)
    scheduler = Scheduler(**sizes)
    origin = link.with_asyncio() if asynchronous else link
    options["paced"], options["isolate"] = not scheduler.exact, own["isolate"]
    options["pool_destroy"], options["on_destroy"] = options["on_destroy"], None
    own["fds"] = _kept_open(options)
    crew = Crew(
        origin.fork(None),
        function,
        options,
        scheduler,
        name=name_of(function),
        own=own,
    )
    return Pool(crew)  # type: ignore[arg-type]


def _kept_open(options: "dict[str, Any]") -> "list[int]":
    """Duplicate the descriptors for 0-2 of workers; return those.

    The caller may close its own at once, as with `run`.
    """
    fds: list[int] = []
    for name in ("stdin", "stdout", "stderr"):
        if isinstance(options[name], int):
            try:
                fds.append(duplicate(options[name]))
            except BaseException:
                close_all(fds)
                raise
            options[name] = fds[-1]
    return fds
