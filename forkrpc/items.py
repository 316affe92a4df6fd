"""What has come of streams and was not taken yet, without I/O.

Whoever reads the socket appends; the one who iterates takes.  Both do so by single
calls into C (`atomic.at_once`): an interrupt of either loses nothing.
"""

import sys
from _queue import SimpleQueue
from _thread import get_ident
from collections import deque
from functools import partial

from . import wire
from .entries import Streamed
from .errors import ClosedError, ProtocolError
from .limits import Limited
from .loading import Failure
from .parts import Parts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sized
    from typing import Any

    Steps = list[Callable[[], object]]


class Items(SimpleQueue, Limited):  # type: ignore[type-arg]
    """The target of a stream's call.  As a queue it only rings: look into `arrived`.

    call_id: 0 before it was sent.
    arrived: (list of items, their bytes) in order; at the end (None, its outcome).
    closed: nobody wants more.  stopped: the worker was told so.
    received: how many items have come, framed: how many of them in frames.  The others
    were read from the worker's page, and come once more if the worker lives on.
    taker: the thread (or, in a loop, the task) that took from it last, or that made
    the call.
    bell: what waits in a loop, None where a thread waits.
    holder: the worker of a pool that has the call; None: it waits in the queue.
    """

    bell: "Any" = None
    holder: "Any" = None

    def __init__(self) -> None:
        self.call_id = 0
        self.arrived: deque[tuple[Any, Any]] = deque()
        self.closed = False
        self.stopped = False
        self.received = self.framed = 0
        self.taker: Any = get_ident()

    def adding(self, found: "list[Any]", size: int = 0, framed: int = 0) -> "Steps":
        """Return steps that append items, *framed* of them or more from a frame.

        A Failure among them, which is one that cannot be loaded, is the end.
        """
        steps: Steps = [partial(setattr, self, "framed", self.framed + framed)]
        kinds = list(map(type, found))
        good = kinds.index(Failure) if Failure in kinds else len(found)
        if good:
            steps += (
                partial(self.arrived.append, (found[:good], size)),
                partial(setattr, self, "received", self.received + good),
            )
        if good < len(found):
            steps += (
                partial(self.arrived.append, (None, found[good])),
                partial(setattr, self, "closed", True),
            )
        return [*steps, self.ring]

    @property
    def ring(self) -> "Callable[[], object]":
        """A step that wakes whoever waits, to look again."""
        return partial(self.put, None)

    def close_if_left_by(self, takers: "tuple[object, ...]", what: str) -> None:
        """Close it, and fail it, if nobody but *takers* is there to take from it."""
        if self.taker in takers or self.taker_ended():
            self.closed = True
            error = ClosedError(f"the {what} was left before its stream was used up")
            self.arrived.append((None, Failure(error)))

    def taker_ended(self) -> bool:
        """Return whether who took from it last can take nothing any more."""
        return self.taker not in sys._current_frames()

    def quiet(self) -> None:
        """Forget that it rang; in the thread that takes, which looks next."""
        while not self.empty():
            self.get_nowait()


class Streams:
    """The streams of one session.

    under_way: those that were sent and have not ended, by their ids.
    most: calls that are sent at once beside one.  A blocking worker reads on while it
    makes items, and would gather all of them.
    """

    def __init__(self) -> None:
        self.under_way: dict[int, Items] = {}
        self.most = 256

    def fill(self, pending: "Sized") -> bool:
        """Return whether no more calls shall be sent now."""
        return bool(self.under_way) and len(pending) >= self.most

    def sending(
        self, body: "Streamed | Parts", items: Items, first: int
    ) -> "list[Any]":
        """Return the STREAM frame of a call, and steps."""
        data: wire.Data
        if items.closed:
            data = wire.encode(wire.STREAM, flags=wire.WITHDRAWN, first=first)
        elif isinstance(body, Parts):
            data = wire.encode_parts(wire.STREAM, body, first=first)
        else:
            data = wire.encode(wire.STREAM, body, flags=body.flags, first=first)
        return [
            data,
            partial(self.under_way.__setitem__, first, items),
            partial(setattr, items, "call_id", first),
        ]

    def ending(self, items: Items, outcome: object) -> "Steps":
        """Return steps that append the end of a stream."""
        return [
            partial(items.arrived.append, (None, outcome)),
            partial(self.under_way.pop, items.call_id, None),
            items.ring,
        ]

    def arriving(
        self, frame: wire.Frame, load: "Callable[[wire.Frame], list[Any]]"
    ) -> "Steps":
        """Return the steps that hand over the items of a frame.  Raise ProtocolError.

        Those that were read from the page before are not handed over again.
        """
        items = self.under_way.get(frame.first)
        if items is None:
            raise ProtocolError(f"{frame!r}, of no stream under way")
        found: list[Any] = []
        if not items.closed:
            found = load(frame)[items.received - items.framed :]
        return items.adding(found, len(frame.body), frame.count)
