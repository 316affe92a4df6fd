"""A generator's items on their way to the program, never more than a window ahead.

Items of a quick generator are gathered, as results are, and like them they stand in the
page until they have left (`progress`): a crash or a hang of the generator costs none of
them.  Where somebody waits for the next item, or the generator is slow, it leaves at
once.
"""

import os
from _pickle import dumps
from _socket import MSG_DONTWAIT
from collections import deque
from functools import partial
from itertools import islice
from time import monotonic, monotonic_ns

from .. import atomic, wire
from ..classes import PROTOCOL
from ..errors import ProtocolError
from ..functions import name_of
from ..progress import FIRST, KIND, MADE, NUMBERS, SINCE, STREAM, WAITING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from ..progress import Page
    from .replies import Replies
    from .sync import Sync

QUICK = 50e-6  # seconds; a slower item leaves at once, and the program is heard
_GENERATOR = 0x20  # CO_GENERATOR of code objects


class Window:
    """How far a generator is ahead of who takes its items.

    size: items that it may be ahead.  A wide one costs little that nobody wants, where
    items are quick, and their frames less.
    """

    def __init__(self) -> None:
        self.size = wire.WINDOW
        self.made = self.taken = 0
        self._bytes = self._taken_bytes = 0
        self._sizes: deque[tuple[int, int]] = deque()  # (item, bytes up to it)

    def adapt(self, *, slow: bool) -> None:
        self.size = wire.WINDOW if slow else wire.WIDE_WINDOW

    def gathers(self) -> int:
        """Return how many items make a frame: half are made while one is read."""
        return self.size // 2

    def weigh(self, number: int, size: int) -> None:
        """Count the bytes of an item; small numbers are not counted."""
        self._bytes += size
        self._sizes.append((number, self._bytes))

    def take(self, taken: int) -> None:
        self.taken = max(self.taken, taken)
        while self._sizes and self._sizes[0][0] <= taken:
            self._taken_bytes = self._sizes.popleft()[1]

    def full(self) -> bool:
        return (
            self.made - self.taken >= self.size
            or self._bytes - self._taken_bytes >= wire.WINDOW_BYTES
        )


class Producer:
    """Makes and sends the items of one stream; for the blocking backend.

    stopped: nobody wants more.  broken: what the program sent is no frame.
    """

    def __init__(
        self, call_id: int, backend: "Sync", replies: "Replies", page: "Page"
    ) -> None:
        self.stopped = False
        self.broken: ProtocolError | None = None
        self._call_id = call_id
        self._backend = backend
        self._inbox = backend.inbox
        self._replies = replies
        self._page = page
        self._words = page.words
        self._window = Window()
        self._sent = 0  # number of the last item in a frame
        self._run: list[Any] = []  # the items behind it: values, or bodies
        self._packed = True  # they are values
        self._first = 1  # number of the item in slot 0 of the page
        self._bytes = 0  # of bodies in the page

    def begin(self) -> bool:
        """Take over page and replies; return whether anybody wants the items."""
        self._replies.flush()
        words = self._words
        words[STREAM] = words[MADE] = words[KIND] = 0
        words[FIRST], words[STREAM] = 1, self._call_id
        self._replies.frame_items = self.frame
        self._look()
        self._sift()
        return not self.stopped

    def end(self) -> None:
        """Send what is left, and let go of page and replies."""
        self._replies.flush()
        self._replies.frame_items = None
        self._words[STREAM] = 0

    def send_all(self, items: "Iterator[Any]") -> None:
        """Send what *items* yields, until it ends or nobody wants more."""
        run, words, lock = self._run, self._words, self._replies.lock
        stores, tags = self._page.stores(), self._page.tags
        backend, window = self._backend, self._window
        made, goal = 0, 1
        before = monotonic()
        due = before + QUICK
        try:
            for item in items:
                if backend.copy:
                    os._exit(0)
                made += 1
                kept = False
                if (store := stores.get(type(item))) is not None:
                    with lock:
                        if run and self._packed:
                            slot = made - self._first
                            try:
                                store[0][slot] = item
                            except ValueError:  # more than 64 bits
                                pass
                            else:
                                tags[slot] = store[1]
                                run.append(item)
                                words[MADE] = made
                                kept = True
                if not kept and self._add(made, item):
                    goal = made
                now = monotonic()
                if made >= goal or now > due:
                    window.made = made
                    self._turn(slow=now - before > QUICK, late=now > due)
                    if self.stopped:
                        break
                    goal = min(
                        self._sent + window.gathers(), window.taken + window.size
                    )
                    now = monotonic()
                    due = now + QUICK
                before = now
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    def _turn(self, *, slow: bool, late: bool) -> None:
        """Between two items: send, hear what the program says, wait for credit."""
        window = self._window
        window.adapt(slow=slow)
        held = window.made - self._sent
        if slow or window.taken >= self._sent or held >= window.gathers():
            self._replies.flush()
        if late:
            self._look()
            if self._run and window.taken >= self._sent:
                self._replies.flush()
        while window.full() and not self.stopped:
            self._replies.flush()
            self._wait()

    # Items out.

    def _add(self, number: int, item: object) -> bool:
        """Hold an item that is not the next of several numbers, or send it.

        Return whether the window is used up by it.
        """
        run = self._run
        with self._replies.lock:
            if type(item) in NUMBERS and self._replies.codec.packs:
                if not run:
                    self._restart(number, packed=True)
                if self._packed and self._page.keep(number - self._first, item):
                    run.append(item)
                    self._words[MADE] = number
                    return False
        body = self._replies.body_of("item", (item,))
        self._window.made = number
        self._window.weigh(number, len(body))
        with self._replies.lock:
            if self._run and self._packed:
                self._replies.flush()
            if not self._run:
                self._restart(number, packed=False)
            slot = number - self._first
            if self._page.keep_body(slot, body, self._bytes):
                self._run.append(body)
                self._bytes += len(body)
            else:
                data = wire.encode_any(wire.ITEM, body, first=self._call_id)
                self._replies.send_within(data)
                self._sent = number
                self._words[FIRST] = number + 1
            self._words[MADE] = number
        return self._window.full()

    def _restart(self, number: int, *, packed: bool) -> None:
        """Begin to gather with this item.  The slots were written before."""
        self._packed = packed
        self._words[FIRST] = self._first = number
        self._bytes = 0

    def frame(self, frames: "deque[Any]") -> None:
        """Make the items held so far a frame.  The caller holds the lock."""
        run = self._run
        if not run:
            return
        call_id, count = self._call_id, len(run)
        if self._packed:
            data = wire.encode(
                wire.ITEM,
                dumps(run, PROTOCOL),
                flags=wire.PACKED,
                count=count,
                first=call_id,
            )
        else:
            data = wire.encode_bodies(wire.ITEM, run, first=call_id)
        atomic.at_once(
            partial(frames.append, (data, ())),
            run.clear,
            partial(setattr, self, "_sent", self._first - 1 + count),
        )

    # What the program says.

    def _look(self) -> None:
        """Take what has come."""
        try:
            self._read(MSG_DONTWAIT)
        except BlockingIOError:
            pass

    def _wait(self) -> None:
        """Wait until something comes; the time does not count for the call."""
        words, since = self._words, self._words[SINCE]
        words[SINCE] = WAITING | max(0, monotonic_ns() - since)
        try:
            self._inbox.wait_for_more(self._read)
        finally:
            words[SINCE] = monotonic_ns() - (words[SINCE] & ~WAITING)

    def _read(self, flags: int) -> None:
        """Read once.  Raise BlockingIOError."""
        frames = self._inbox.frames
        known = len(frames)
        try:
            if not self._inbox.receive(flags):
                self.stopped = True  # the program is gone
        except ProtocolError as error:
            self.broken, self.stopped = error, True
        if any(frame.kind in _OVERTAKE for frame in islice(frames, known, None)):
            self._sift()

    def _sift(self) -> None:
        """Take credit and stop from among what waits behind this call."""
        others = []
        for frame in self._inbox.frames:
            if frame.kind not in _OVERTAKE or frame.first > self._call_id:
                others.append(frame)
            elif frame.first == self._call_id:
                if frame.kind == wire.STOP:
                    self.stopped = True
                else:
                    self._window.take(wire.taken_of(frame))
        frames = self._inbox.frames
        atomic.at_once(frames.clear, partial(frames.extend, others))


_OVERTAKE = (wire.CREDIT, wire.STOP)


def iterator_of(function: object, result: object) -> "Iterator[Any]":
    """Return the iterator that *function* has returned.  Raise TypeError."""
    if hasattr(type(result), "__next__"):
        return result  # type: ignore[return-value]
    close = getattr(result, "close", None)
    if type(result).__name__ == "coroutine" and close is not None:
        close()  # else it warns that it was never awaited
    name, kind = name_of(function), type(result).__qualname__
    if hasattr(type(result), "__anext__"):
        raise TypeError(f'{name} is an asynchronous generator, for backend="async"')
    raise TypeError(
        f"stream() needs a generator function; {name} returned {kind}: "
        "use call(), submit() or a callback"
    )


def for_calls(function: "Callable[..., Any]") -> "Callable[..., Any]":
    """Return what calls execute: *function*, or for a generator function a refusal."""
    if not is_generator_function(function):
        return function

    def refuse(*_args: object, **_kwargs: object) -> object:
        raise TypeError(
            f"{name_of(function)} is a generator function: use stream(), "
            "or return a list"
        )

    return refuse


def is_generator_function(function: object) -> bool:
    while hasattr(function, "func") and not hasattr(function, "__code__"):
        function = function.func  # of a functools.partial
    if not hasattr(function, "__code__"):
        function = type(function).__call__
    code = getattr(function, "__code__", None)
    return code is not None and bool(code.co_flags & _GENERATOR)
