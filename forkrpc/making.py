"""Jobs: the calls of a map, made of its items.

A job that was made waits here until it is queued.  Each step is one call into C, so an
interrupt loses no item and has none sent twice.
"""

from _queue import SimpleQueue
from collections import deque
from functools import partial

from . import atomic
from .awaiter import Awaiter
from .gate import is_interrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from .feed import Feed
    from .source import Source

    Step = Callable[[], object]

LARGE = 65536  # bytes; a longer item is a call of its own, which copies less

PENDING = object()
_NOWHERE: "deque[Any]" = deque(maxlen=0)


class Inbox(SimpleQueue):  # type: ignore[type-arg]
    """Takes (job, outcome) as a deque does, and wakes the thread that waits."""

    append = SimpleQueue.put


class Job(Awaiter):
    """One call.  first, count: its items; alone: it is the call of one, not of a chunk.

    outcome: what has come of it.
    """

    outcome: object = PENDING

    inbox: "Any"

    def __init__(
        self, told: "Any", call: object, first: int, count: int, *, alone: bool
    ) -> None:
        self.inbox = told if type(told) is Inbox else None
        self.told = told
        self.call = call
        self.first = first
        self.count = count
        self.alone = alone

    def settle(self, outcome: object) -> None:
        self.told.append((self, outcome))

    def forget(self) -> None:
        """Nobody wants the outcome."""
        self.inbox = self.told = _NOWHERE


class Making:
    """Makes jobs.  told: where their outcomes are put.  chunked: as of Feed.

    made: the last one, until it is queued.  taken: items that are in jobs.
    used_up: there are no more items.  plain: nobody can change them; None: unknown.
    """

    def __init__(
        self, feed: "Feed", source: "Source", told: "Any", *, chunked: bool
    ) -> None:
        self.made: Job | None = None
        self.taken = 0
        self.used_up = False
        self._feed = feed
        self._source = source
        self._told = told
        self._chunked = chunked
        self._bodies: list[bytes] = []  # of a chunk that is being made
        self.plain: bool | None = source.still or None
        self._large = False  # the item before was

    def make(self, count: int) -> None:
        """Make a job of up to *count* items, if there are any."""
        source = self._source
        if not self._chunked or (self._large and count == 1):
            self._single()
            return
        first = source.peek(1) if self.plain is None else ()
        if first:  # it tells for itself: what makes the second may change it
            self.plain = self._call_of(first) is not None
        if (self.plain or source.still) and not self._bodies:
            items = source.peek(count)
            if items:
                call = self._call_of(items)
                if call is not None:
                    self._set(call, len(items), source.taken(len(items)))
                    return
                self.plain = False
        self._serialise(count)
        bodies = self._bodies
        if len(bodies) == 1 and len(bodies[0]) > LARGE:
            self._large = True
            self._set(bodies[0], 1, bodies.clear, alone=True)
        elif bodies:
            call = self._feed.chunk_of(bodies)
            self._set(call, len(bodies), bodies.clear)
        else:
            self.used_up = source.ended

    def _call_of(self, items: "Sequence[Any]") -> object:
        """Return the call of a chunk, None if each item needs a body of its own."""
        return self._feed.chunk(items, starred=self._source.starred)

    def _single(self) -> None:
        """Make a job that is a call of the next item."""
        items = self._source.peek(1)
        if not items:
            self.used_up = self._source.ended
            return
        try:
            call = self._feed.call(self._arguments(items[0]))
        except BaseException as error:  # as in `_serialise`
            if is_interrupt(error):
                raise
            self._source.end(error)
            self.used_up = True
            return
        self._large = not isinstance(call, bytes) or len(call) > LARGE
        self._set(call, 1, self._source.taken(1), alone=True)

    def _serialise(self, count: int) -> None:
        """Have up to *count* bodies of items.

        Where code of the user's makes the items, one may be changed to be the next:
        each is serialised before that.
        """
        source, bodies = self._source, self._bodies
        while len(bodies) < count:
            items = source.peek(count - len(bodies) if source.still else 1)
            if not items:
                return
            made: list[bytes] = []
            failure = None
            try:
                for item in items:
                    made.append(self._feed.body(self._arguments(item)))
            except BaseException as error:  # of the user's, which may raise anything
                if is_interrupt(error):
                    raise
                failure = error
            atomic.at_once(partial(bodies.extend, made), source.taken(len(made)))
            if failure is not None:
                source.end(failure)

    def _arguments(self, item: "Any") -> "tuple[Any, ...]":
        return tuple(item) if self._source.starred else (item,)

    def _set(
        self, call: object, count: int, taken: "Step", *, alone: bool = False
    ) -> None:
        job = Job(self._told, call, self.taken, count, alone=alone)
        atomic.at_once(
            partial(setattr, self, "made", job),
            partial(setattr, self, "taken", self.taken + count),
            taken,
        )

    def queued(self) -> "Step":
        """Return the step that lets go of the job that was made."""
        return partial(setattr, self, "made", None)

    def end(self, error: "BaseException | None" = None) -> None:
        """Make no more; *error*: why."""
        self._source.end(error)
        self.used_up, self.made = True, None
        self._bodies.clear()
