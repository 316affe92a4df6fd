"""Calls with a time limit of their own; their targets know it.

The worker of such a call notes when it begins, and in an asynchronous one ends it. The
program looks at every tick.
"""

from _queue import SimpleQueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .session import Session


class Limited:
    """The target of a call that may have a limit, in seconds; inf: it has none at all.

    None: that of all calls of the worker.
    """

    limit: "float | None" = None


class LimitedCallback(Limited):
    """A callback that belongs to such a call."""

    def __init__(self, function: "Callable[[Any], object]", limit: float) -> None:
        self._function = function
        self.limit = limit

    def __call__(self, result: object) -> None:
        self._function(result)


class LimitedQueue(SimpleQueue, Limited):  # type: ignore[type-arg]
    """A thread waits for such a call."""

    def __init__(self, limit: float) -> None:
        self.limit = limit


def limit_of(session: "Session", call_id: int) -> "float | None":
    """Return the limit that a call without an answer has for itself."""
    try:
        target = session.target(call_id)
    except LookupError:  # it has an answer
        return None
    return target.limit if isinstance(target, Limited) else None
