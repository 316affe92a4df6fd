"""What user code in a worker calls: event, flush, retire, in_worker."""

import os

from ..errors import ClosedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Backend(Protocol):
        def event(self, args: "tuple[object, ...]") -> None: ...

        def flush(self) -> bool: ...

        def retire(self) -> None: ...

        def become_copy(self) -> None: ...


__all__ = ["event", "flush", "in_worker", "retire"]

_backend: "list[Backend]" = []  # this worker's, once events can be sent


def event(*args: object) -> None:
    """Send an event to the program: its `on_event` is called with *args*.

    Any thread of a worker may send; events and results arrive in the order in which
    they were made.  From a sync worker it leaves at once, which blocks while the
    program does not read; from an async one at the next turn of its loop.

    Raise ClosedError outside a worker and in `init`, and SerialiserError for arguments
    that cannot be sent.
    """
    _current("event").event(args)


def flush() -> bool:
    """Block until everything made so far is written; return whether it was.

    False where the program is gone.  Raise ClosedError outside a worker.
    """
    return _current("flush").flush()


def retire() -> None:
    """Ask for no more calls: this worker answers what it has and ends."""
    _current("retire").retire()


def in_worker() -> bool:
    """Return whether events can be sent from here."""
    return bool(_backend)


def _current(verb: str) -> "Backend":
    try:
        return _backend[0]
    except IndexError:
        raise ClosedError(
            f"forkrpc.{verb}() works in the functions that a worker is called for: "
            "not in the program itself, in init, or in a process forked from a worker"
        ) from None


def enter(backend: "Backend") -> None:
    """From now on events go to *backend*; not in a process that user code forks."""
    _backend[:] = [backend]
    os.register_at_fork(after_in_child=_leave_copy)


def withdraw() -> None:
    """Send no more events: what this process was called for is done."""
    _backend.clear()


def stand_in(backends: "list[Backend]") -> "list[Backend]":
    """Send events to these from now on; return where they went (Forker.inline)."""
    before = _backend[:]
    _backend[:] = backends
    return before


def _leave_copy() -> None:
    """In a process that user code has forked from the worker: send nothing."""
    for backend in _backend:
        backend.become_copy()
    _backend.clear()
