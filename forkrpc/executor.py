"""Executor: a `concurrent.futures.Executor` over a Pool, for arbitrary functions."""

import concurrent.futures
from collections import deque
from itertools import islice
from math import inf
from time import monotonic

from . import tasks
from .errors import ClosedError
from .forker import Forker
from .packing import Packing
from .system import usable_cpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future
    from types import TracebackType
    from typing import Any

    from .pool import Pool

# As the standard ones: workers are started as soon as they are needed, and stay; the
# end of the program waits for all calls.
USUAL = {"start": 0, "stop": inf, "exit_grace": inf}


class Executor(concurrent.futures.Executor):
    """Calls functions in worker processes; any thread may use it.

    max_workers: processes at most; None: as many as this process may use processors.
    template: the Forker from which they are forked; None: an empty one of its own.
    initializer: called in each worker first, with *initargs*.  If it fails, calls fail
    with SetupError, which is a BrokenExecutor, until it succeeds in another try.
    load: calls that a worker has at most, also those that wait there.
    options: those of `Forker.pool`.

    A call whose worker dies fails with WorkerDied, also a BrokenExecutor; other calls
    go on, and later ones work.  With backend="async" coroutine functions are awaited.
    """

    def __init__(
        self,
        max_workers: "int | None" = None,
        *,
        template: "Forker | None" = None,
        initializer: "Callable[..., object] | None" = None,
        initargs: "tuple[Any, ...]" = (),
        load: int = 1,
        **options: "Any",
    ) -> None:
        if "max" in options:
            raise TypeError("an Executor has no option 'max'; write max_workers")
        # Under this name dask and others look for it in the standard ones.
        self._max_workers = _checked(max_workers)
        options = {**USUAL, **options, "max": self._max_workers, "load": load}
        if initializer is not None:
            if not callable(initializer):
                raise TypeError("initializer must be a callable")
            if options.get("init") is not None:
                raise TypeError("give init or initializer, not both")
            options["init"] = tasks.Initializer(initializer, initargs)
        function: Callable[..., Any] = tasks.task
        self._chunk: Callable[..., Any] = tasks.chunk
        if options.get("backend") == "async":
            function, self._chunk = tasks.async_task, tasks.async_chunk
        # Only a pickle can carry functions, and of those only this one by value.
        packs = options.get("serialiser", "pickle") == "pickle"
        self._packing = Packing() if packs else None
        # Futures without an outcome, oldest first.
        self._open: dict[Future[Any], None] = {}
        self._down = False
        if template is not None:
            self._pool = template.pool(function, **options)
        else:
            with Forker(name="Executor") as own:
                self._pool = own.pool(function, **options)

    @property
    def pool(self) -> "Pool":
        """The Pool of the workers, for `stats`, `pids`, `kill`, and `cancel`."""
        return self._pool

    def submit(
        self, fn: "Callable[..., Any]", /, *args: "Any", **kwargs: "Any"
    ) -> "Future[Any]":
        """Have `fn(*args, **kwargs)` called; return the future of its result.

        fn goes by reference if it can be imported, else by value with the globals it
        uses, as they are now.  Raise SerialiserError for what cannot be sent, and
        RuntimeError after `shutdown`.
        """
        if self._down:
            raise ClosedError("cannot schedule new futures after shutdown")
        future = self._pool.submit(self._sent(fn), *args, **kwargs)
        self._open[future] = None
        future.add_done_callback(self._open.pop)
        return future

    def _sent(self, function: "Any") -> "Any":
        return function if self._packing is None else self._packing.packed(function)

    def map(
        self,
        fn: "Callable[..., Any]",
        *iterables: "Iterable[Any]",
        timeout: "float | None" = None,
        chunksize: int = 1,
        buffersize: "int | None" = None,
    ) -> "Iterator[Any]":
        """Return an iterator of `fn(*items)` for the items of *iterables*, in order.

        timeout: seconds from now in which all results have to come; TimeoutError.
        chunksize: items that share one call.  buffersize: calls that are made ahead of
        who takes the results; None: all of them, now.  What a call raises is raised in
        its place, and the calls behind it are cancelled, if they have not started.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        limit = inf if timeout is None else monotonic() + timeout
        calls = self._calls(fn, zip(*iterables, strict=False), chunksize)
        futures = deque(islice(calls, buffersize))
        return _results(futures, calls, limit, chunked=chunksize > 1)

    def _calls(
        self,
        function: "Callable[..., Any]",
        items: "Iterator[tuple[Any, ...]]",
        chunksize: int,
    ) -> "Iterator[Future[Any]]":
        """Make the calls of a map, one each time that a future is asked for."""
        if chunksize == 1:
            for args in items:
                yield self.submit(function, *args)
        while chunksize > 1 and (chunk := list(islice(items, chunksize))):
            yield self.submit(self._chunk, self._sent(function), chunk)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; those there are, are finished, and the workers end.

        wait: until that is so.  cancel_futures: calls that have not started are
        cancelled.
        """
        self._down = True
        self._pool.close()
        if cancel_futures:
            for future in list(self._open):
                if not future.running():
                    future.cancel()
        if wait:
            self._pool.join()

    def __exit__(
        self,
        kind: "type[BaseException] | None",
        error: "BaseException | None",
        traceback: "TracebackType | None",
    ) -> None:
        # A Ctrl-C does not reach the workers: at least nothing new shall start.
        self.shutdown(cancel_futures=kind is KeyboardInterrupt)

    def __repr__(self) -> str:
        return f"<Executor over {self._pool!r}>"


def _checked(max_workers: "int | None") -> int:
    """Return how many workers there may be.  Raise TypeError or ValueError."""
    if max_workers is None:
        return usable_cpus()
    if not isinstance(max_workers, int):
        raise TypeError(f"max_workers must be a number, not {max_workers!r:.100}")
    if max_workers <= 0:
        raise ValueError("max_workers must be greater than 0")
    return max_workers


def _results(
    futures: "deque[Future[Any]]",
    calls: "Iterator[Future[Any]]",
    limit: float,
    *,
    chunked: bool,
) -> "Iterator[Any]":
    """Yield the results of *futures*, and of *calls*, one of which is made for each.

    limit: when all shall be there, by `monotonic`.
    """
    try:
        while futures:
            futures.extend(islice(calls, 1))
            left = None if limit == inf else limit - monotonic()
            future = futures[0]  # stays, to be cancelled if it takes too long
            result = future.result(left)
            futures.popleft()
            del future
            if chunked:
                yield from result
            else:
                yield result
    finally:
        for each in futures:
            each.cancel()
