"""When calls of an asynchronous worker have run too long.

All calls of a worker have the same limit, so they pass it in the order in which they
began: one timer, for the oldest, is enough.  The page names that call, so that the
program can end a worker that cannot end it itself.
"""

from collections import deque
from operator import itemgetter
from time import monotonic_ns

from ..errors import CallTimeout
from ..progress import OLDEST, SINCE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..progress import Page


class Deadlines:
    """The running calls of one worker, oldest first.  In the loop's thread only.

    timeout: seconds.  later: calls a function in the loop after so many seconds.
    expire: is told the id of each call that runs longer.
    """

    def __init__(
        self,
        page: "Page",
        timeout: float,
        later: "Callable[[float, Callable[[], None]], object]",
        expire: "Callable[[int], object]",
    ) -> None:
        self.timeout = timeout
        self._words = page.words
        self._later = later
        self._expire = expire
        self._running: dict[int, int] = {}  # call id -> monotonic_ns when it began
        self._watched: deque[int] = deque()  # ids still to expire; some have ended
        self._waiting = False  # a timer runs

    def begin(self, call_id: int) -> None:
        """A call begins."""
        self._running[call_id] = now = monotonic_ns()
        self._watched.append(call_id)
        if len(self._running) == 1:
            self._publish(call_id, now)
        if not self._waiting:
            self._waiting = True
            self._later(self.timeout, self._look)

    def passed(self, call_id: int) -> bool:
        """Return whether a call has run too long by now."""
        since = self._running.get(call_id)
        return since is not None and monotonic_ns() - since > self.timeout * 1e9

    def end(self, call_id: int) -> None:
        """A call has its answer."""
        self._running.pop(call_id, None)
        if self._words[OLDEST] == call_id:
            self._publish(*next(iter(self._running.items()), (0, 0)))

    def pause(self, call_id: int) -> int:
        """A call waits for its reader; return the ns that it has run."""
        since = self._running.get(call_id, monotonic_ns())
        self.end(call_id)
        return monotonic_ns() - since

    def resume(self, call_id: int, used: int) -> None:
        """It goes on, having run for *used* ns."""
        since = {**self._running, call_id: monotonic_ns() - used}
        self._running = dict(sorted(since.items(), key=itemgetter(1)))
        self._watched = deque(self._running)
        self._publish(*next(iter(self._running.items())))
        look, self._waiting = (self._glance if self._waiting else self._look), True
        self._later(max(0.0, self.timeout - used / 1e9), look)

    def _glance(self) -> None:
        """Tell of the oldest call if it has run too long; `_look` comes later."""
        if self._watched and self.passed(self._watched[0]):
            self._expire(self._watched.popleft())

    def error(self, name: str) -> CallTimeout:
        return CallTimeout(
            f"{name} ran longer than its timeout of {self.timeout} s and was cancelled"
        )

    def _publish(self, call_id: int, since: int) -> None:
        # The reader looks at OLDEST before and behind SINCE.
        self._words[OLDEST] = 0
        self._words[SINCE] = since
        self._words[OLDEST] = call_id

    def _look(self) -> None:
        """Tell of calls that have run too long; wait for the next."""
        self._waiting = False
        watched = self._watched
        while watched:
            since = self._running.get(watched[0])
            if since is None:
                watched.popleft()
                continue
            left = self.timeout - (monotonic_ns() - since) / 1e9
            if left > 0:
                self._waiting = True
                self._later(left, self._look)
                return
            self._expire(watched.popleft())
