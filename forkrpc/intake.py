"""Where the calls of a pool come in, and wait until a worker has room.

It has the surface of a Connection, so that the verbs of a Proxy work on it.  Calls wait
flat, as in a session; `crew` hands them on.
"""

import _thread
from _queue import SimpleQueue
from _thread import get_ident
from collections import deque
from functools import partial

from .arguments import Arguments
from .awaiter import Awaiter
from .callbacks import Callbacks, tell_error
from .carrying import CarryingArguments
from .cells import NewestCell, in_notebook
from .errors import ClosedError
from .flows import Flows
from .gate import Gate
from .limits import LimitedQueue
from .loading import result_of
from .loops import Loops, Waiter, loop_that_may_wait, running_loop
from .serialisers import codec
from .session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .connection import Args, Keys, Limit
    from .death import Death
    from .items import Items
    from .loops import Home
    from .member import Member
    from .program import Program


class Intake:
    """The queue of one pool.

    session: what waits; a session that has no worker.
    closed: why no more calls are taken, None while they are.
    ended: opened when all workers have ended and all callbacks have run.
    broken: how the last of the workers ended that could do nothing; None: all is well.
    lock: held while calls move.  No thread waits under it, nor calls the user's code.
    """

    def __init__(
        self, program: "Program", name: str, options: "dict[str, Any]", room: float
    ) -> None:
        self.program = program
        self.closed: str | None = None
        self.ended = Gate()
        self.broken: Death | None = None
        self.lock = _thread.RLock()
        self.loops = Loops()
        self.definitions: list[bytes] = []
        self.session = session = _Queue(name, options["max_frame"])
        session.use(codec(options["serialiser"], self.definitions.append))
        self.flow = Flows(self)
        self.limited = False  # some call has a limit of its own
        self._ones = session.ones
        self._room = room  # calls that may wait, where whoever makes them can wait too
        self._sleepers: deque[Any] = deque()
        self.options = options
        self.arguments = _arguments(session, options)
        self._waiting = self.arguments.waiting
        self._callbacks = Callbacks(session, program.reactor, options)
        session.on_error = partial(tell_error, options)
        self.cell: NewestCell | None = None
        if isinstance(self.arguments, CarryingArguments):
            cell = self.arguments.cells
            self.cell = cell if isinstance(cell, NewestCell) else None
            self._ones = session.ones = frozenset()  # each call carries more
        if self.cell is not None:
            self.cell.note_call()

    # What a subclass does.

    def send(self) -> None:
        """Hand on what waits, if somebody has room.  Any thread."""
        raise NotImplementedError

    def claim(self, call: object, queue: "SimpleQueue[Any]") -> "Member | None":
        """Return who shall have this call at once; None: it waits."""
        raise NotImplementedError

    def check_nested(self) -> None:
        """Raise RuntimeError where this thread has been interrupted to wait."""
        raise NotImplementedError

    def heard(self, member: "Member") -> None:
        """A worker has said something, or a call of it was given up.  Any thread."""
        raise NotImplementedError

    # Calls, in any thread.

    def backlog(self) -> int:
        """Return how many calls wait."""
        return len(self.session.unsent) // 2

    def submit(self, args: "Args", kwargs: "Keys", target: object) -> None:
        """Queue a call; *target* is who gets the outcome.  Never blocks."""
        self.check_open()
        self.session.unsent.extend((self._waiting(args, kwargs), target))
        self.send()

    def submit_for(
        self, args: "Args", kwargs: "Keys", target: "Any", limit: "Limit" = None
    ) -> None:
        """As `submit`, for who may cancel the call; a thread waits for room."""
        self.check_open()
        if limit is None:
            call: object = self._waiting(args, kwargs)
        else:
            call = self.arguments.limited(args, kwargs, limit)
            self.limited = True
        inner = getattr(target, "inner", target)
        if isinstance(inner, Awaiter) and not isinstance(inner, Waiter):
            self.await_room("submit()")
        self.session.varied = True
        self.session.unsent.extend((call, target))
        self.send()

    def stream(self, args: "Args", kwargs: "Keys", items: "Items") -> None:
        """As `submit_for`, for a call whose items go to *items*."""
        self.check_open()
        self.limited = self.limited or items.limit is not None
        call = self.arguments.streamed(args, kwargs, items.limit)
        self.session.varied = True
        self.session.unsent.extend((call, items))
        self.send()

    def call(self, args: "Args", kwargs: "Keys") -> object:
        """Make a call and wait for its result; return it, or raise."""
        if get_ident() == self.program.reactor.ident:
            self.program.check_may_wait("call()")
        self.check_open()
        return self._exchange(self._waiting(args, kwargs), SimpleQueue())

    def call_within(self, args: "Args", kwargs: "Keys", limit: float) -> object:
        """As `call`, with a limit in seconds."""
        self.program.check_may_wait("call()")
        self.check_open()
        self.limited = self.session.varied = True
        call = self.arguments.limited(args, kwargs, limit)
        return self._exchange(call, LimitedQueue(limit))

    def _exchange(self, call: object, queue: "SimpleQueue[Any]") -> object:
        member = self.claim(call, queue)
        if member is None:
            self.check_nested()
            self.await_room("call()")
            self.session.unsent.extend((call, queue))
            self.send()
            return result_of(queue.get())
        try:
            outcome = member.exchange(call, queue)
        finally:
            self.heard(member)
        return result_of(outcome)

    def cancel(self, target: "Awaiter") -> bool:
        """Cancel the call of *target*, if it can be; return whether it is cancelled."""
        target = target.stand_in or target
        if self.flow.inert or self.lock._is_owned():  # type: ignore[attr-defined]
            return False  # a signal handler of the user; the call may be half moved
        with self.lock:
            member: Member | None = target.holder
            if member is None and not self.session.withdrawn.add(target):
                return False  # it has just failed
        if member is not None:
            return member.cancel(target)
        self.program.reactor.soon(self.deliver)
        return True

    def check_open(self) -> None:
        """Raise ClosedError, or why calls are refused."""
        if self.closed is not None:
            raise ClosedError(self.closed)
        if self.broken is not None:
            error = self.death_error()
            if error is not None:
                raise error

    def refuses(self) -> bool:
        """Return whether calls fail at once, for no worker can do anything."""
        raise NotImplementedError

    def death_error(self) -> "Exception | None":
        """Return a new exception while calls are refused, None else."""
        if self.closed is not None or self.broken is None or not self.refuses():
            return None
        return self.broken.error_of(1)  # type: ignore[no-any-return]

    def check_may_wait(self, verb: str) -> None:
        """Raise RuntimeError where waiting for callbacks would wait for itself."""
        self.program.check_may_wait(verb)
        loop = self._callbacks.loop
        if loop is not None and loop is running_loop():
            raise RuntimeError(
                f"{verb} would wait for ever in the event loop that runs the "
                "callbacks; await what on_destroy sets, or wait in another thread"
            )

    def fail_queue(self, death: "Death") -> int:
        """Fail all that waits; return how many calls.  In the reactor's thread."""
        with self.lock:
            return self.session.fail_all(death)

    def refuse(self, death: "Death") -> int:
        """Fail all that waits, and what comes while `refuses` says so."""
        self.broken = death
        self.session.take_no_more()
        return self.fail_queue(death)

    def recover(self) -> None:
        """A worker has answered."""
        self.broken = None
        if self.closed is None:
            self.session.ones = self._ones

    # Waiting for room.

    def is_full(self) -> bool:
        waiting = self.backlog() - self.session.withdrawn.count
        return waiting >= self._room and self.closed is None

    def await_room(self, verb: str) -> None:
        """Wait while as many calls wait as may.  Raise what `_check_open` does."""
        if not self.is_full():
            return
        while self.is_full():
            self.program.check_may_wait(f"{verb} with queue_limit")
            bell: SimpleQueue[None] = SimpleQueue()
            self._sleepers.append(bell)  # publish, then look
            if self.is_full():
                bell.get()
        self.check_open()

    async def await_room_in_loop(self, verb: str) -> None:
        """As `await_room`, in a task."""
        while self.is_full():
            bell = _LoopBell(self.home(verb).loop)
            self._sleepers.append(bell)
            if self.is_full():
                await bell.future

    def wake_sleepers(self, *, all_of_them: bool = False) -> None:
        """Wake who waits for room, if there is some.  Any thread.

        all_of_them: some may not wait any more, and would leave the room to nobody.
        """
        while self._sleepers and not self.is_full():
            try:
                bell = self._sleepers.popleft()
            except IndexError:  # another thread was faster
                return
            bell.put(None)
            if self._room - self.backlog() <= 1 and not all_of_them:
                break

    # Where an event loop waits: as its channel, which it cannot watch.

    over = False

    def home(self, verb: str) -> "Home":
        """Return where the event loop of this thread waits.  Raise RuntimeError."""
        if self.flow.inert:
            raise ClosedError(self.closed)
        loop = loop_that_may_wait(verb, self.program)
        return self.loops.home(loop, self)  # type: ignore[arg-type]

    def has_unsent(self) -> bool:
        return False  # `send` has handed it on

    def flush(self) -> None:
        pass

    def duplicate_into(self, _fds: "list[int]") -> None:
        raise NotImplementedError  # there is no one socket: the reactor reads

    def end_duty(self, _home: "Home") -> None:
        self.loops.duty.clear()

    # Callbacks.

    def deliver(self) -> None:
        """Tell whom it concerns.  In the reactor's thread."""
        futures = self.session.futures
        while futures:
            future, outcome = futures.popleft()
            future.settle(outcome)
        if self.loops.homes:
            self.loops.tell()
        self._callbacks.deliver()


class _Queue(Session):
    """What waits in a pool."""

    def _failing(
        self, call_id: int, target: "Any", death: "Death"
    ) -> "tuple[list[Any], list[Any]]":
        if isinstance(target, Awaiter):
            target.call_id = -1  # cancelling it comes too late
        return super()._failing(call_id, target, death)


class _LoopBell:
    """Wakes a task of a loop; any thread rings."""

    def __init__(self, loop: "Any") -> None:
        self._loop = loop
        self.future: Any = loop.create_future()

    def put(self, _: None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._ring)
        except RuntimeError:  # the loop was closed, and everything in it
            pass

    def _ring(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


def _arguments(session: Session, options: "dict[str, Any]") -> Arguments:
    cell = NewestCell() if in_notebook() else None
    if cell is None and not options["context"]:
        return Arguments(session, options["max_frame"])
    arguments = CarryingArguments(session, options["max_frame"])
    octets = options["serialiser"] == "bytes"
    arguments.carry(options["context"], cell, octets=octets)
    return arguments
