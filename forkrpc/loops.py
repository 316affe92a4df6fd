"""asyncio loops of the program that wait for calls; each is told in its own thread.

A loop that waits reads the socket itself: it watches a duplicate of the descriptor,
and takes the lead (see `channel`) for one read whenever something has come.  One loop
of a connection is *on duty* at a time, and the reactor does not watch meanwhile.  A
loop that is busy elsewhere, stopped or closed is found out by the next tick, and the
reactor reads for it.  Outcomes stand in the inbox of the loop that they are for,
whoever has read them; it takes so many at each turn that it can do other things too.

asyncio is never imported here: whoever waits in a loop has done so.
"""

import os
import sys
from _weakref import ref
from collections import deque

from .awaiter import Awaiter
from .spin import Spin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .channel import Channel
    from .gate import Gate
    from .program import Program
    from .standin import Here

MOST = 128  # outcomes that are told in one turn of a loop


class Waiter(Awaiter):
    """Something in a loop that waits for the outcome of a call, or for several.

    settle: any thread may tell an outcome; `arrive` is called with it in the loop's.
    """

    def __init__(self, home: "Home") -> None:
        self.home = home
        self.inbox = home.inbox

    def settle(self, outcome: object) -> None:
        self.home.inbox.append((self, outcome))
        self.home.tell()

    def arrive(self, outcome: object) -> None:
        """Take an outcome.  In the loop's thread; after an interrupt perhaps twice."""
        raise NotImplementedError


class LoopCall(Waiter):
    """One call that a coroutine waits for.  owner: has `cancel(waiter)`."""

    def __init__(self, home: "Home", owner: "Any") -> None:
        super().__init__(home)
        self._owner = owner
        self._future = home.loop.create_future()

    def arrive(self, outcome: object) -> None:
        self.home.waiting.discard(self)
        if not self._future.done():
            # A Failure too: a future refuses some exceptions, and logs others.
            self._future.set_result(outcome)

    async def outcome(self) -> object:
        """Wait for the outcome; give the call up if that is cancelled."""
        try:
            return await self._future
        except BaseException:  # CancelledError, or the end of the coroutine
            self._owner.cancel(self)
            raise


class Home:
    """What one loop has to do with one connection.

    inbox: (waiter, outcome) pairs, to be told in the loop's thread.
    waiting: who waits; in the loop's thread only.
    """

    def __init__(self, loop: "Any", channel: "Channel") -> None:
        self.loop = loop
        self.inbox: deque[tuple[Waiter, object]] = deque()
        self.waiting: set[Waiter] = set()
        self._channel = channel
        self._fds: list[int] = []  # of the duplicate; emptied by one call into C
        self._watching = False
        self._can_watch = True
        self._spin = Spin()
        self._told = False
        self._flushing = False

    # In the loop's thread.

    def began(self, waiter: Waiter) -> None:
        """*waiter* waits for a call that was just submitted."""
        self.waiting.add(waiter)
        if not self._watching and self._can_watch:
            self._take_duty()
        if self._channel.has_unsent() and not self._flushing:
            self._flushing = True  # all calls of one turn leave together
            self.loop.call_soon(self._flush)
        if len(self.waiting) == 1 and self._watching and self._spin.begins():
            self.loop.call_soon(self._look)

    def _look(self) -> None:
        """Look once more, before the loop goes to sleep; others have had their turn."""
        if self.waiting:
            self._channel.read_here(self)
        if self.inbox and not self._told:
            self.work()
        if not self.waiting:
            self._spin.found()
        elif self._spin.goes_on():
            self.loop.call_soon(self._look)

    def _flush(self) -> None:
        self._flushing = False
        self._channel.flush()

    def _take_duty(self) -> None:
        loops = self._channel.loops
        if loops.duty.setdefault("who", self) is not self:
            return  # another loop reads
        try:
            if not self._fds:
                self._channel.duplicate_into(self._fds)
            self.loop.add_reader(self._fds[0], self._readable)
        except (NotImplementedError, OSError, ValueError):
            # The reactor reads, and tells it.  ValueError: the worker has ended.
            self._can_watch = False
            self._channel.end_duty(self)
        else:
            self._watching = True
            self._channel.begin_duty()

    def _leave_duty(self) -> None:
        self.stop_watching()
        self._channel.end_duty(self)

    def stop_watching(self) -> None:
        """Watch no more, unless on duty again."""
        self._watching = False
        if self._fds:
            self.loop.remove_reader(self._fds[0])

    def relieve(self) -> None:
        """Watch no more if the reactor has taken over."""
        if self._watching and self._channel.loops.duty.get("who") is not self:
            self.stop_watching()

    def _readable(self) -> None:
        channel = self._channel
        self._flushing = False  # an interrupt may have lost the flush
        if len(self.inbox) < MOST and not channel.read_here(self):
            self._leave_duty()  # a thread leads
        elif channel.over:
            self._leave_duty()
        if self.inbox and not self._told:  # else it is about to
            self.work()

    def work(self) -> None:
        """Tell what has arrived, some of it if it is much."""
        self._told = False
        inbox = self.inbox
        for _ in range(min(len(inbox), MOST)):
            waiter, outcome = inbox[0]
            waiter.arrive(outcome)
            inbox.popleft()  # last: an interrupt must not lose it
        if inbox and not self._told:
            self._told = True
            self.loop.call_soon(self.work)

    # In any thread.

    def tell(self, *, again: bool = False) -> bool:
        """Have the loop look into its inbox; return whether it still can."""
        if self._told and not again:
            return True
        self._told = True
        return self._soon(self.work)

    def _soon(self, function: "Any") -> bool:
        try:
            self.loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop was closed, and everything in it
            return False
        return True

    def ask_to_stop(self) -> bool:
        """Have the loop stop watching; return whether it still can."""
        return not self._watching or self._soon(self.relieve)

    def close(self) -> None:
        """Nothing more comes."""
        if self._fds and not self._soon(self._close):
            self._close_fd()

    def _close(self) -> None:
        self.stop_watching()
        self._close_fd()

    def _close_fd(self) -> None:
        while self._fds:
            try:
                fd = self._fds.pop()
            except IndexError:  # another thread was faster
                return
            os.close(fd)

    def abandon(self) -> None:
        """Close the descriptor, in a forked copy of the program."""
        self._can_watch = self._watching = False
        self._close_fd()

    def __del__(self) -> None:
        self._close_fd()  # the loop was closed before it could


class Loops:
    """The loops that wait for calls of one connection.

    duty: "who": the loop that reads.
    """

    def __init__(self) -> None:
        self.homes: dict[object, Home] = {}
        self.duty: dict[str, Home] = {}
        self._ticks = 0

    def home(self, loop: "Any", channel: "Channel") -> Home:
        """Return what *loop* has to do with this connection.  In its thread."""
        home = self.homes.get(loop)
        if home is None:
            for each in list(self.homes.values()):
                if each.loop.is_closed():
                    self._drop(each)
            home = self.homes[loop] = Home(loop, channel)
        return home

    def _drop(self, home: Home) -> None:
        self.homes.pop(home.loop, None)
        if self.duty.get("who") is home:
            self.duty.clear()
        home.inbox.clear()
        home.close()

    def tell(self, *, again: bool = False) -> None:
        """Tell the loops for which something has arrived.  Any thread."""
        for home in list(self.homes.values()):
            if home.inbox and not home.tell(again=again):
                self._drop(home)

    def tick(self) -> bool:
        """Do what an interrupt left undone; return whether to look again.

        A loop on duty for which nobody waits is relieved.
        """
        self._ticks += 1
        self.tell(again=self._ticks % 16 == 0)
        home = self.duty.get("who")
        if home is not None and not home.waiting:
            self.relieve(home)
        return any(home.inbox for home in list(self.homes.values()))

    def relieve(self, home: Home) -> None:
        self.duty.clear()
        if not home.ask_to_stop():
            self._drop(home)

    def close(self) -> None:
        """Nothing more comes; what has arrived was told."""
        self.duty.clear()
        while self.homes:
            self.homes.popitem()[1].close()

    def abandon(self) -> None:
        for home in list(self.homes.values()):
            home.abandon()


def running_loop() -> "Any":
    """Return the asyncio loop that runs in this thread, None if there is none."""
    asyncio = sys.modules.get("asyncio")
    return None if asyncio is None else asyncio._get_running_loop()


def running_task() -> "Any":
    """Return a weak reference to the task that runs in this thread's loop, or None.

    Weak: a task keeps what it uses, a stream for one, and would not be dropped with it.
    """
    task = sys.modules["asyncio"].current_task()
    return None if task is None else ref(task)


def loop_that_may_wait(verb: str, program: "Program | Here") -> "Any":
    """Return the loop that runs in this thread.  Raise RuntimeError."""
    program.check_may_wait(verb)
    loop = running_loop()
    if loop is None:
        raise RuntimeError(
            f"{verb} waits in a running asyncio event loop, and this thread has none; "
            "elsewhere use call(), submit() or with"
        )
    return loop


class Sleeper:
    """What a Gate tells, for a loop."""

    def __init__(self, loop: "Any") -> None:
        self.future = loop.create_future()
        self._loop = loop

    def put(self, _: None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop was closed
            pass

    def _wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


async def opened(gate: "Gate", loop: "Any") -> None:
    """Wait in *loop*, the one that runs, until *gate* opens."""
    sleeper = Sleeper(loop)
    gate.tell(sleeper)
    await sleeper.future
