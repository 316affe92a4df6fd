"""A gate that opens once; an interrupt of a thread that waits cannot break it.

`threading.Event` takes its lock in Python code: a Ctrl-C there leaves it held, and
whoever sets the event would wait for ever.
"""

import threading
from _thread import TIMEOUT_MAX, allocate_lock
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Bell:
    """Something that a thread waits for; rung once, by a call into C.

    Not a SimpleQueue: on Python 3.10 its `get` with a timeout waits for ever where that
    is over before it has begun to wait, as on a busy machine.
    """

    __slots__ = ("_lock", "put")

    def __init__(self) -> None:
        self._lock = lock = allocate_lock()
        lock.acquire()
        self.put: Any = lock.__exit__  # releases it; `put(None)`

    def wait(self, timeout: "float | None") -> bool:
        """Wait until it is rung; return whether it was.  timeout: seconds."""
        limit = -1 if timeout is None else min(max(0.0, timeout), TIMEOUT_MAX)
        return self._lock.acquire(True, limit)


class Gate:
    """Threads wait until it is opened.  No two of them ever want one lock."""

    __slots__ = ("_open", "_sleepers")

    def __init__(self) -> None:
        self._open = False
        self._sleepers: deque[Any] = deque()

    def is_open(self) -> bool:
        return self._open

    def open(self) -> None:
        self._open = True
        while self._sleepers:
            self._sleepers.popleft().put(None)

    def tell(self, sleeper: "Any") -> None:
        """Call `sleeper.put(None)` once it is open, perhaps twice; never waits."""
        self._sleepers.append(sleeper)  # publish, then look
        if self._open:
            sleeper.put(None)

    def wait(self, timeout: "float | None" = None) -> bool:
        """Wait until it is open; return whether it is.  timeout: seconds."""
        if self._open:
            return True
        bell = Bell()
        self._sleepers.append(bell)  # publish, then look
        return self._open or bell.wait(timeout) or self._open


def is_interrupt(error: BaseException) -> bool:
    """Return whether *error* came from outside: a Ctrl-C, not the code that ran.

    Python raises it in the main thread only.
    """
    return (
        isinstance(error, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
    )
