"""A chunk of a map's items, executed by one call; in C but for the function itself.

That is while results are such as nobody can change.  From the first other one on each
is serialised before the next item is taken, as results of calls are.
"""

from functools import partial
from itertools import islice, starmap
from time import perf_counter, thread_time

from ..atomic import drop
from ..chunks import answer_of, items_of, plain
from .bodies import error_body, load_arguments, refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from ..serialisers import Codec
    from .sync import Sync

    Function = Callable[..., Any]


PIECE = 8192  # items whose results are packed while they are in the cache


class Chunks:
    """What a blocking worker makes of chunks.  limit: bytes of a result."""

    def __init__(self, worker: "Sync", limit: int) -> None:
        self._worker = worker
        self._limit = limit
        self._plain = True  # all results so far
        self._pieces: list[Any] = []  # of the chunk that is being executed
        self._items: Iterator[Any] = iter(())  # of the piece

    def load(self, codec: "Codec", body: "Any") -> "tuple[Codec, Any]":
        """Return the arguments for `execute`."""
        return codec, body

    def execute(self, codec: "Codec", body: "Any") -> bytes:
        """Return the answer to a chunk.  Raise SystemExit, of an item."""
        begun, used, waits = perf_counter(), thread_time(), _waits()
        starred, bare, items = items_of(body)
        places = range(0, len(items), PIECE)
        self._pieces = [items[at : at + PIECE] for at in places]
        calls_of = partial(
            _calls, self._worker.function, codec, starred=starred, bare=bare
        )
        done: list[Any] = []
        error = None
        for piece in self._pieces:
            self._items = iter(piece)
            calls = calls_of(self._items)
            found, failure = self._results(codec, calls, len(piece))
            done.append((self._plain, found))
            if failure is not None:
                error = error_body(codec, failure, self._limit)
                break
        took = perf_counter() - begun
        if waits is not None and _waits() == waits:
            # When it did not run, others had the processor.
            took = thread_time() - used
        return answer_of(done, error, took)

    def _results(
        self, codec: "Codec", calls: "Iterator[Any]", count: int
    ) -> "tuple[Sequence[Any], BaseException | None]":
        """Return what a piece has in the answer, and what ended it early."""
        results: list[Any] = []
        failure = None
        if self._plain:
            failure = _extend(results, islice(calls, 1), 1)
            self._plain = plain(results) is not None
            if failure is None and self._plain:
                failure = _extend(results, calls, count)
        found = plain(results) if self._plain else None
        if found is None:
            self._plain = False
            values, results = results, []
            body_of = partial(self._body, codec)
            failure = _extend(results, map(body_of, values), len(values)) or failure
            failure = failure or _extend(results, map(body_of, calls), count)
            found = results
        if failure is not None and len(results) == count:
            # A signal's handler raised it, behind the last call.
            found = results[:-1]
        return found, failure

    def _body(self, codec: "Codec", result: object) -> bytes:
        body = codec.dump((result,))
        if len(body) > self._limit:
            refuse("result", body, self._limit)
        return body

    def become_copy(self) -> None:
        """Leave out the items behind the one that has forked this process."""
        self._pieces.clear()
        drop(self._items)


def _waits() -> "int | None":
    """Return how often this thread has waited for anything but a processor.

    None where the system does not tell: Linux does, by getrusage(2).
    """
    import resource

    who = getattr(resource, "RUSAGE_THREAD", None)
    return None if who is None else resource.getrusage(who).ru_nvcsw


def _calls(
    function: "Function",
    codec: "Codec",
    items: "Iterable[Any]",
    *,
    starred: bool,
    bare: bool,
) -> "Iterator[Any]":
    """Return an iterator that calls the function, for each of *items* once."""
    if not bare:
        return starmap(function, map(partial(load_arguments, codec), items))
    return starmap(function, items) if starred else map(function, items)


def _extend(
    results: "list[Any]", iterable: "Iterable[Any]", count: int
) -> "BaseException | None":
    """Have *count* results; return what ended that early, but raise SystemExit."""
    try:
        results.extend(iterable)
    except SystemExit:
        raise
    except BaseException as error:  # fails one item; those behind it are left out
        return error
    # Raised by the function: it has ended the iteration.
    return StopIteration() if len(results) < count else None
