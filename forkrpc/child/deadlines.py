"""When calls of an asynchronous worker have run too long.

One timer is enough, for the call that is due next.  The page names that call, or one
that is overdue, so that the program can end a worker that cannot end it itself.
"""

from heapq import heappop, heappush
from math import inf
from time import monotonic_ns

from ..errors import CallTimeout
from ..progress import OLDEST, SINCE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..progress import Page


class Deadlines:
    """The running calls of one worker that have a limit.  In the loop's thread only.

    timeout: seconds, of calls without a limit of their own; None: they have none.
    later: calls a function in the loop after so many seconds.  expire: is told the id
    of each call that runs longer.
    """

    def __init__(
        self,
        page: "Page",
        timeout: "float | None",
        later: "Callable[[float, Callable[[], None]], object]",
        expire: "Callable[[int], object]",
    ) -> None:
        self._timeout = timeout
        self._words = page.words
        self._later = later
        self._expire = expire
        self._running: dict[int, tuple[int, float]] = {}  # call id -> begin, limit
        # (when it is due, call id) of those still to expire; some have ended.
        self._watched: list[tuple[float, int]] = []
        self._overdue: dict[int, None] = {}
        self._timer = inf  # when it looks again, as monotonic_ns

    def begin(self, call_id: int, limit: "float | None" = None) -> None:
        """A call begins.  limit: its own, in seconds; inf: none."""
        limit = self._timeout if limit is None else limit
        if limit is None or limit == inf:
            return
        self._watch(call_id, monotonic_ns(), limit)

    def _watch(self, call_id: int, since: int, limit: float) -> None:
        self._running[call_id] = since, limit
        due = since + limit * 1e9
        heappush(self._watched, (due, call_id))
        if self._watched[0][1] == call_id:
            self._publish()
            self._look_in(max(0.0, (due - monotonic_ns()) / 1e9))

    def _is_stale(self, due: float, call_id: int) -> bool:
        """Return whether a call has ended, or was paused, since that was noted."""
        since, limit = self._running.get(call_id, (0, inf))
        return since + limit * 1e9 != due

    def passed(self, call_id: int) -> bool:
        """Return whether a call has run too long by now."""
        since, limit = self._running.get(call_id, (0, inf))
        return monotonic_ns() - since > limit * 1e9

    def end(self, call_id: int) -> None:
        """A call has its answer."""
        self._running.pop(call_id, None)
        self._overdue.pop(call_id, None)
        if self._words[OLDEST] == call_id:
            self._publish()

    def pause(self, call_id: int) -> "tuple[int, float]":
        """A call waits for its reader; return what `resume` takes."""
        since, limit = self._running.get(call_id, (monotonic_ns(), inf))
        self.end(call_id)
        return monotonic_ns() - since, limit

    def resume(self, call_id: int, used: int, limit: float) -> None:
        """It goes on, having run for *used* ns."""
        if limit != inf:
            self._watch(call_id, monotonic_ns() - used, limit)

    def error(self, name: str, call_id: int) -> CallTimeout:
        """Return the error of a call that has run too long."""
        _, limit = self._running[call_id]
        return CallTimeout(
            f"{name} ran longer than its timeout of {limit} s and was cancelled"
        )

    def _publish(self) -> None:
        """Name the call that is most overdue, or due next."""
        watched = self._watched
        while watched and self._is_stale(*watched[0]):
            heappop(watched)
        due = next(iter(self._overdue), watched[0][1] if watched else 0)
        since, _ = self._running.get(due, (0, inf))
        # The reader looks at OLDEST before and behind SINCE.
        self._words[OLDEST] = 0
        self._words[SINCE] = since
        self._words[OLDEST] = due

    def _look_in(self, seconds: float) -> None:
        when = monotonic_ns() + seconds * 1e9
        if when < self._timer:
            self._timer = when
            self._later(seconds, self._look)

    def _look(self) -> None:
        """Tell of calls that have run too long; wait for the next."""
        self._timer = inf
        watched = self._watched
        while watched:
            due, call_id = watched[0]
            if self._is_stale(due, call_id):
                heappop(watched)
                continue
            left = (due - monotonic_ns()) / 1e9
            if left > 0:
                self._look_in(left)
                return
            heappop(watched)
            self._overdue[call_id] = None
            self._publish()
            self._expire(call_id)
