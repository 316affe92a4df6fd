"""The future of one call: a `concurrent.futures.Future` that an interrupt cannot break.

The standard one waits on a `threading.Condition`, whose lock is taken in Python code: a
Ctrl-C there leaves it held, and whoever settles the future would wait for ever.
"""

import _thread
from collections import deque
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError

from .awaiter import CANCELLED, Awaiter
from .gate import Bell
from .loading import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .program import Program

RETRY = 0.005  # seconds until a future that somebody holds is settled
_DONE = frozenset(["FINISHED", "CANCELLED", "CANCELLED_AND_NOTIFIED"])


class FutureLock(_thread.RLock):  # type: ignore[misc]
    """What a Future needs of a Condition; entered and left by calls into C."""

    def __init__(self) -> None:
        self.sleepers: deque[Bell] = deque()

    def notify_all(self) -> None:
        while self.sleepers:
            self.sleepers.popleft().put(None)

    def notify(self) -> None:
        self.notify_all()


class CallFuture(Future, Awaiter):  # type: ignore[type-arg]
    """The future of one call.  Settled in the reactor's thread."""

    _condition: FutureLock  # type: ignore[assignment]

    def __init__(
        self, program: "Program", cancel: "Callable[[Awaiter], bool] | None" = None
    ) -> None:
        super().__init__()
        self._condition = FutureLock()
        self._program = program
        self._cancel = cancel

    def running(self) -> bool:
        """Return whether the call was sent and has no answer."""
        return bool((self.stand_in or self).call_id) and self._state not in _DONE

    def cancel(self) -> bool:
        """Cancel the call, if it can be; return whether it is cancelled.

        That is: while it is not sent; and in an async worker until it has ended.
        """
        cancel = self._cancel
        if self._state in _DONE or cancel is None or not cancel(self):
            return self.cancelled()
        if super().cancel():
            self._notify_cancelled()
        return self.cancelled()

    def _notify_cancelled(self) -> None:
        """Wake who waits for several futures, once."""
        with self._condition:
            if self._state == "CANCELLED":
                self.set_running_or_notify_cancel()

    def settle(self, outcome: object) -> None:
        """Set an outcome, unless there is one; later, if another thread is at it.

        That thread may have been interrupted and hold the lock for ever: others shall
        not wait for it.
        """
        if not self._condition.acquire(False):
            self._program.reactor.later(RETRY, lambda: self.settle(outcome))
            return
        try:
            if outcome is CANCELLED:
                Future.cancel(self)
                self._notify_cancelled()
                self._condition.notify_all()  # `cancel` may have been interrupted
            if self.done():
                return
            if isinstance(outcome, Failure):
                self.set_exception(outcome.error)
            else:
                self.set_result(outcome)
        finally:
            self._cancel = None  # it holds the connection
            self._condition.release()

    def result(self, timeout: "float | None" = None) -> "Any":
        """Return the result, or raise what the call raised.

        timeout: seconds.  Raise TimeoutError; RuntimeError in the thread that runs
        callbacks, while the call has no answer.
        """
        error = self._outcome(timeout, "Future.result()")
        if error is None:
            return self._result
        try:
            raise error
        finally:
            self = error = None  # type: ignore[assignment]

    def exception(self, timeout: "float | None" = None) -> "BaseException | None":
        """Return the exception of the call, None if it has a result; as `result`."""
        return self._outcome(timeout, "Future.exception()")

    def _outcome(self, timeout: "float | None", verb: str) -> "BaseException | None":
        if self._state not in _DONE:
            self._program.check_may_wait(verb)
            bell = Bell()
            self._condition.sleepers.append(bell)  # publish, then look
            if self._state not in _DONE and not bell.wait(timeout):
                raise FutureTimeoutError
        if self.cancelled():
            raise CancelledError
        return self._exception
