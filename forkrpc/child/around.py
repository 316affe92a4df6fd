"""What is done around a call, and around each step of a generator.

Context variables that travelled with the call are set, and behind it what was printed
leaves before its result.  A worker with neither option calls its function itself.
"""

from .stream import iterator_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .carried import Carried

    Function = Callable[..., Any]
    Flush = Callable[[], None]


class Around:
    """carried, flush: what there is of the two."""

    def __init__(self, carried: "Carried | None", flush: "Flush | None") -> None:
        self._carried = carried
        self.flush = flush

    def calls(self, function: "Function") -> "Function":
        """Return what a call executes."""
        if self._carried is not None:
            function = self._carried.wrapped(function)
        if self.flush is not None:
            from .output import flushing

            function = flushing(function, self.flush)
        return function

    def steps(self, function: "Function") -> "Function":
        """Return what returns the iterator of a blocking worker's stream."""
        if self._carried is None and self.flush is None:
            return lambda *args, **keys: iterator_of(function, function(*args, **keys))

        def begin(*args: "Any", **keys: "Any") -> "Iterator[Any]":
            values = None
            if self._carried is not None:
                args, values = self._carried.split(args)
            returned = self._within(values, function, *args, **keys)
            return Steps(iterator_of(function, returned), self._within, values)

        return begin

    def enter(self, args: "Any") -> "Any":
        """Set the variables for the task that runs; return a call's own arguments."""
        if self._carried is None:
            return args
        args, values = self._carried.split(tuple(args))
        self._carried.enter(values)
        return args

    def _within(
        self, values: "Any", step: "Function", *args: "Any", **keys: "Any"
    ) -> object:
        tokens: list[Any] = []
        if self._carried is not None:
            tokens = self._carried.enter(values)
        try:
            return step(*args, **keys)
        finally:
            if self._carried is not None:
                self._carried.leave(tokens)
            if self.flush is not None:
                self.flush()


class Steps:
    """An iterator whose steps have something around them."""

    def __init__(
        self, iterator: "Iterator[Any]", within: "Function", values: "Any"
    ) -> None:
        self._iterator = iterator
        self._within = within
        self._values = values

    def __iter__(self) -> "Steps":
        return self

    def __next__(self) -> "Any":
        return self._within(self._values, next, self._iterator)

    def close(self) -> None:
        close = getattr(self._iterator, "close", None)
        if close is not None:
            self._within(self._values, close)
