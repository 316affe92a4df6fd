"""A gate that opens once; an interrupt of a thread that waits cannot break it.

`threading.Event` takes its lock in Python code: a Ctrl-C there leaves it held, and
whoever sets the event would wait for ever.
"""

import threading
from _queue import Empty, SimpleQueue
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Gate:
    """Threads wait until it is opened.  Nothing here takes a lock."""

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
        queue: SimpleQueue[None] = SimpleQueue()
        self._sleepers.append(queue)  # publish, then look
        if not self._open:
            try:
                queue.get(timeout=timeout)
            except Empty:
                return self._open
        return True


def is_interrupt(error: BaseException) -> bool:
    """Return whether *error* came from outside: a Ctrl-C, not the code that ran.

    Python raises it in the main thread only.
    """
    return (
        isinstance(error, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
    )
