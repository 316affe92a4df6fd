"""The one background thread: readiness, timers, deaths, callbacks.

It is never interrupted: Python runs signal handlers in the main thread only.
"""

import _thread
import os
import select
import sys
import threading
from collections import deque
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from time import monotonic

from .atomic import at_once
from .fds import above_stdio, duplicate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    Handler = Callable[[int], None]

    class Ticker(Protocol):
        def tick(self) -> bool: ...


READ, WRITE, ONCE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLONESHOT
TICK = 0.01  # seconds between two looks at calls that have no answer
FEW_TIMERS = 64  # below which cancelled ones are not looked for


class Timer:
    """A function to be called later; `cancel` in any thread."""

    __slots__ = ("_function",)

    def __init__(self, function: "Callable[[], object]") -> None:
        self._function: Callable[[], object] | None = function

    def cancel(self) -> None:
        self._function = None

    def waits(self) -> bool:
        return self._function is not None

    def fire(self) -> None:
        function, self._function = self._function, None
        if function is not None:
            function()


class Reactor:
    """Watches descriptors and the clock in a thread of its own, started on first use.

    Handlers and timers run in that thread.  `soon`, `later` and the watch functions may
    be called in any thread.  ident: of its thread, None before it was started.
    """

    def __init__(self) -> None:
        epoll = select.epoll()
        self._epoll = select.epoll.fromfd(duplicate(epoll.fileno()))  # above 2
        epoll.close()
        self._handlers: dict[int, Handler] = {}
        self._soon: deque[Callable[[], object]] = deque()
        self._ticking: dict[Ticker, None] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._most_timers = FEW_TIMERS  # before cancelled ones are dropped
        self._next_tick = 0.0  # time.monotonic(); 0: nobody wakes up for it
        self._numbers = count()
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wake_read, self._wake_write = above_stdio(read), above_stdio(write)
        self._epoll.register(self._wake_read, READ)
        self.ident: int | None = None
        self._sleeping = False  # or about to: what comes now has to wake it
        self._starting = _thread.allocate_lock()

    def start(self) -> None:
        """Start the thread, once.  Raise RuntimeError if the system refuses."""
        if self.ident is not None:
            return
        with self._starting:
            if self.ident is None:
                thread = threading.Thread(target=self._run, name="forkrpc", daemon=True)
                thread.start()
                self.ident = thread.ident

    def watch(self, fd: int, events: int, handler: "Handler") -> None:
        """Call *handler* with the events when *fd* is ready; 0: only its hang-up."""
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Forget *fd*; call before it is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def soon(
        self, function: "Callable[[], object]", *noting: "Callable[[], object]"
    ) -> None:
        """Call *function* in the reactor's thread.  Never blocks, takes no lock.

        noting: steps, as of `atomic.at_once`, that note it: by the same call into C.
        """
        if noting:
            self._wake_with(partial(self._soon.append, function), *noting)
            return
        self._soon.append(function)  # publish, then look
        if self._sleeping:
            self.wake()

    def later(self, delay: float, function: "Callable[[], object]") -> Timer:
        """Call *function* in *delay* seconds, in the reactor's thread."""
        timer = Timer(function)
        entry = (monotonic() + delay, next(self._numbers), timer)
        if _thread.get_ident() == self.ident:
            self._add(entry)
        else:
            self.soon(lambda: self._add(entry))
        return timer

    def _add(self, entry: "tuple[float, int, Timer]") -> None:
        heappush(self._timers, entry)
        if len(self._timers) > self._most_timers:
            self._timers = [each for each in self._timers if each[2].waits()]
            heapify(self._timers)
            self._most_timers = 2 * len(self._timers) + FEW_TIMERS

    def tick(self, ticker: "Ticker", *noting: "Callable[[], object]") -> None:
        """Call `ticker.tick()` every TICK seconds until it returns False.

        noting: as of `soon`.
        """
        if noting:
            self._wake_with(partial(self._ticking.__setitem__, ticker, None), *noting)
            return
        self._ticking[ticker] = None  # publish, then look
        if self._sleeping and not self._next_tick:
            self.wake()

    def _wake_with(self, *steps: "Callable[[], object]") -> None:
        """Do these steps and wake it: who is interrupted has done all, or nothing."""
        try:
            at_once(*steps, partial(os.write, self._wake_write, b"\0"))
        except BlockingIOError:  # it is awake already
            pass

    def wake(self) -> None:
        try:
            os.write(self._wake_write, b"\0")
        except BlockingIOError:  # it is awake already
            pass

    def abandon(self) -> None:
        """Close what this holds, in a forked copy of the program."""
        self._epoll.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _run(self) -> None:
        self.ident = _thread.get_ident()
        while True:
            try:
                self._turn()
            except BaseException:  # a defect here shall not stop every other worker
                report(*sys.exc_info())

    def _turn(self) -> None:
        self._sleeping = True  # publish, then look what is to be done
        ready = self._epoll.poll(self._pause())
        self._sleeping = False
        for fd, events in ready:
            if fd == self._wake_read:
                os.read(fd, 65536)
                continue
            handler = self._handlers.get(fd)
            if handler is not None:  # an earlier handler may have dropped it
                guarded(handler, events)
        for _ in range(len(self._soon)):
            guarded(self._soon.popleft())
        now = monotonic()  # once: what is due at once is due at the next turn
        while self._timers and self._is_due(now, *self._timers[0]):
            guarded(heappop(self._timers)[2].fire)
        if self._next_tick and monotonic() >= self._next_tick:
            self._tick()

    def _is_due(self, now: float, when: float, _number: int, timer: Timer) -> bool:
        return when <= now or not timer.waits()

    def _tick(self) -> None:
        """Call the tickers.  Once more when there are none: new ones need no wake."""
        tickers = list(self._ticking)
        self._next_tick = monotonic() + TICK if tickers else 0.0
        for ticker in tickers:
            guarded(self._tick_one, ticker)

    def _tick_one(self, ticker: "Ticker") -> None:
        del self._ticking[ticker]  # first: what comes meanwhile asks again
        if ticker.tick():
            self._ticking[ticker] = None

    def _pause(self) -> "float | None":
        if self._soon:
            return 0
        if self._ticking and not self._next_tick:
            self._next_tick = monotonic() + TICK
        due = [self._next_tick] if self._next_tick else []
        if self._timers:
            due.append(self._timers[0][0])
        return max(0.0, min(due) - monotonic()) if due else None


def guarded(function: "Callable[..., object]", *args: object) -> None:
    """Call *function*; an exception is reported and goes no further."""
    try:
        function(*args)
    except BaseException:  # the callback's, SystemExit too: nobody above wants it
        report(*sys.exc_info())


def report(kind: type, error: BaseException, traceback: object) -> None:
    """Report an exception of a callback through `threading.excepthook`."""
    thread = threading.current_thread()
    arguments = threading.ExceptHookArgs((kind, error, traceback, thread))
    try:
        threading.excepthook(arguments)
    except BaseException:  # the hook is the user's
        sys.__excepthook__(*sys.exc_info())
