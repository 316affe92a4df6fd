"""What the reactor watches one socket for.

Any thread says so.  An interrupt may leave it watched for although this says no, never
the other way round.
"""

import _thread

from .reactor import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable

    from .reactor import Reactor


class Watch:
    """*ready* is called in the reactor's thread, with what has happened."""

    def __init__(
        self, reactor: "Reactor", sock: "socket", ready: "Callable[[int], None]"
    ) -> None:
        self._reactor = reactor
        self._sock = sock
        self._ready = ready
        self._lock = _thread.RLock()
        self._events = READ
        self._ended = False

    def start(self) -> None:
        """Watch for input."""
        self._reactor.start()
        self._reactor.watch(self._sock.fileno(), READ, self._saw)

    def _saw(self, events: int) -> None:
        with self._lock:
            self._events |= events & (READ | WRITE)  # an interrupt may have lost it
        self._ready(events)

    def want(self, event: int, *, wanted: bool) -> None:
        """Watch for *event*, or not."""
        if bool(self._events & event) is wanted:
            return
        with self._lock:
            if self._ended:
                return
            if wanted:
                self._reactor.change(self._sock.fileno(), self._events | event)
                self._events |= event
            else:
                self._events &= ~event
                self._reactor.change(self._sock.fileno(), self._events)

    def stop(self) -> None:
        """Watch for nothing any more."""
        with self._lock:
            self._ended = True
            self._reactor.unwatch(self._sock.fileno())
            self._ready = _nothing  # what it belonged to is let go

    def abandon(self) -> None:
        """Leave it, in a forked copy of the program."""
        self._ended = True


def _nothing(_events: int) -> None:
    pass
