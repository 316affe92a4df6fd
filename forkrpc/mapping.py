"""The results of a map: an iterator as the builtin's, over calls in workers.

A result would be lost if the thread were interrupted between the moment it is taken
here and the moment the loop has it.  So no Python code stands there: the iterator is a
`chain` of lists of results.  Behind those that are there now stands a _Refill, an
iterator without items: asked for one, it provides the next lists, or the end.
"""

import sys
from _thread import RLock
from itertools import chain

from .closing import Closing
from .jobs import Jobs
from .making import Inbox
from .source import source_of
from .stream import raise_outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType
    from typing import Any, NoReturn

    from .feed import Feed

AUTO = "auto"


class MapResults(chain, Closing):  # type: ignore[type-arg]
    """Iterates over the results of calls of one function, an item each.

    Nothing is done before the first is asked for.  An exception of an item, or of the
    iterable, is raised in its place, and ends the iteration.  That, `close`, dropping
    it or leaving its `with` cancel what has not started.  One thread at a time may take
    results; the iterable is used in that thread.
    """

    _jobs: Jobs

    def __new__(cls, jobs: Jobs) -> "MapResults":
        refill = _Refill(jobs)
        jobs.parts.append(refill)
        parts: Any = iter(jobs.parts.popleft, None)
        self: MapResults = cls.from_iterable(parts)  # type: ignore[assignment]
        self._jobs = jobs
        return self

    def close(self) -> None:
        """Want no more results.  Calls that run are not waited for."""
        self._jobs.close()

    def __del__(self) -> None:
        jobs = getattr(self, "_jobs", None)
        if jobs is not None:  # __new__ may not have come so far
            jobs.dropped()

    def __reduce__(self) -> "NoReturn":
        raise TypeError("the results of a map cannot be copied or sent; send a list")

    def __repr__(self) -> str:
        return f"<MapResults: {self._jobs}>"


class _Refill(chain):  # type: ignore[type-arg]
    """Provides what comes next; its only method in Python is the one that is asked."""

    _inside: "FrameType | None" = None

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._taking = RLock()

    def __new__(cls, _jobs: Jobs) -> "_Refill":
        return super().__new__(cls)

    def __next__(self) -> "NoReturn":
        """Put something into `parts`; raise StopIteration, to be asked again behind it.

        Raise what has ended the map.
        """
        jobs = self._jobs
        if not self._taking.acquire(False):
            raise RuntimeError(f"another thread waits for {jobs}")
        with self._taking:
            self._taking.release()
            self._check_inside()
            self._inside = sys._getframe()
            try:
                self._provide(jobs)
            finally:
                self._inside = None
        raise StopIteration

    def _check_inside(self) -> None:
        """Raise RuntimeError if it is the iterable that asks, or a signal handler."""
        frame: FrameType | None = sys._getframe()
        while self._inside is not None and frame is not None:
            if frame is self._inside:
                raise RuntimeError(f"{self._jobs} is already taking results")
            frame = frame.f_back

    def _provide(self, jobs: Jobs) -> None:
        while not jobs.step(self):
            jobs.feed.check_may_wait("next() of a map")
            jobs.wait()
        if jobs.parts:
            return
        jobs.stop()
        try:
            if jobs.failure is not None:
                raise_outcome(jobs.failure)
        finally:
            jobs.failure = None
            jobs.parts.append(None)


def map_over(
    feed: "Feed",
    iterables: "tuple[Iterable[Any], ...]",
    *,
    starred: bool = False,
    chunksize: "int | str" = AUTO,
    ordered: bool = True,
    progress: bool = False,
) -> MapResults:
    """Return the results of the function of *feed* for the items of *iterables*.

    starred: each item of the only iterable is a tuple of arguments.  chunksize: items
    that share one call; "auto": as many as take 1 to 4 ms.  ordered: results come in
    the order of the items, else in that of completion.  progress: show a bar.  Raise
    TypeError or ValueError for what is none of these, ImportError for a missing tqdm.
    """
    size = checked_chunksize(chunksize)
    feed.check_open()
    source = source_of(iterables, starred=starred)
    bar = bar_of(feed.name, source.length) if progress else None
    return MapResults(
        Jobs(feed, source, Inbox(), chunksize=size, ordered=ordered, bar=bar)
    )


def checked_chunksize(chunksize: "int | str") -> "int | None":
    """Return the size, None for the one that fits.  Raise TypeError or ValueError."""
    if chunksize == AUTO:
        return None
    if not isinstance(chunksize, int) or isinstance(chunksize, bool):
        raise TypeError(
            f"chunksize must be 'auto' or a number of items, not {chunksize!r:.100}"
        )
    if chunksize < 1:
        raise ValueError(f"chunksize must be 1 or more, or 'auto', not {chunksize}")
    return chunksize


def bar_of(name: str, total: "int | None") -> "Any":
    """Return a bar of *total* items, None: unknown.  Raise ImportError without tqdm."""
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError(
            "progress=True needs tqdm: pip install 'forkrpc[progress]'", name="tqdm"
        ) from error
    return tqdm(desc=name, total=total)
