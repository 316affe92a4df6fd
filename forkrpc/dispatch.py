"""Moves the calls of a pool from its queue to its workers, in blocks.

A block moves into the session of a worker by one call into C.  Any thread does it, one
at a time, under a lock.  Whatever an interrupt leaves undone, the next tick does.
"""

from _thread import get_ident
from collections import deque
from functools import partial
from itertools import repeat
from math import inf
from threading import main_thread
from time import monotonic

from . import atomic
from .awaiter import Awaiter, is_withdrawn
from .entries import Definition
from .intake import Intake
from .items import Items
from .session import NEVER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _queue import SimpleQueue
    from typing import Any

    from .member import Member
    from .program import Program
    from .scheduling import Place, Scheduler


class Dispatch(Intake):
    """The queue of one pool, and who gets what.

    members: the workers there are.
    """

    def __init__(
        self,
        program: "Program",
        name: str,
        options: "dict[str, Any]",
        room: float,
        scheduler: "Scheduler",
    ) -> None:
        super().__init__(program, name, options, room)
        self.scheduler = scheduler
        self.members: dict[Place, Member] = {}
        self._ticking = False
        self._due = inf  # when `manage_soon` is to be called at the latest

    # What a subclass does.

    def manage_soon(self) -> None:
        """Have workers started or ended, in the reactor's thread."""
        raise NotImplementedError

    def look_again(self, now: float) -> None:
        """Do `manage_soon` when the time has come for it."""
        raise NotImplementedError

    def tick(self) -> bool:
        """Do what an interrupt left undone; return whether to look again."""
        raise NotImplementedError

    # Handing on calls, in any thread.

    def hands(self) -> "list[Member]":
        return list(self.members.values())

    def send(self) -> None:
        self._look_after_calls()
        if self.lock._is_owned():  # type: ignore[attr-defined]
            return  # a signal handler of the user calls; the next tick hands it on
        with self.lock:
            given = self._hand_on()
            self._look_for_workers()
        for member in given:
            member.flush()

    def _look_after_calls(self) -> None:
        """See to it that `tick` is called.  Any thread."""
        if not self._ticking:
            self.program.reactor.tick(self, partial(setattr, self, "_ticking", True))

    def _look_for_workers(self) -> None:
        """Have workers started, if some are missing; now or later."""
        now = monotonic()
        if self.scheduler.to_start(self.backlog(), now):
            self.manage_soon()
        else:
            self.look_again(now)

    def _hand_on(self) -> "set[Member]":
        """Give blocks to who has room; return who got some."""
        given = set()
        while backlog := self.backlog():
            found = self.scheduler.next_block(backlog)
            if found is None:
                break
            member = self.members[found[0]]
            self._give(member, found[1])
            given.add(member)
        self._gather()
        return given

    def _gather(self) -> None:
        """Reckon how many calls may gather before somebody looks for room."""
        session, scheduler = self.session, self.scheduler
        if self.broken is not None and not session.ones:
            session.gather = 0
        elif (gather := scheduler.gather()) is not None:
            session.gather = 2 * gather
        elif scheduler.may_grow():
            session.gather = 2 * len(session.unsent) + 2
        else:
            session.gather = NEVER

    def _give(self, member: "Member", count: int) -> None:
        """Move the oldest *count* calls to a worker.  The caller holds the lock."""
        self.introduce(member)
        place, session = member.place, member.session
        if self.session.varied or self.limited:
            count = self._give_varied(member, count)
        else:
            session.unsent.extend(atomic.leftmost(self.session.unsent, 2 * count))
        self.scheduler.given(place, count)
        if place.leaving:
            self.program.reactor.soon(member.close)

    def _give_varied(self, member: "Member", count: int) -> int:
        """As `_give`, where somebody may have cancelled; return how many are left."""
        own, session = self.session, member.session
        session.varied = True
        if self.limited:
            member.has_limits()
        staged = atomic.oldest(own.unsent, 2 * count)
        if self.options["backend"] == "sync":
            staged = through_stream(staged)
        kept: list[Any] = []
        holders: list[Any] = []
        rings: list[Any] = []
        for call, target in zip(staged[::2], staged[1::2], strict=True):
            if is_withdrawn(target) or (isinstance(target, Items) and target.closed):
                continue
            kept += call, target
            if isinstance(target, (Awaiter, Items)):
                holders.append(target)
            if isinstance(target, Items):
                rings.append(target.ring)
        gone = sum(map(is_withdrawn, staged[1::2]))
        left = own.withdrawn.count - gone
        held = map(setattr, holders, repeat("holder"), repeat(member))
        atomic.at_once(
            partial(atomic.drop, atomic.leftmost(own.unsent, len(staged))),
            partial(setattr, own.withdrawn, "count", left),
            partial(deque, held, 0),
            partial(session.unsent.extend, kept),
            *rings,
        )
        member.place.occupied = bool(rings) and self.options["backend"] == "sync"
        return len(kept) // 2

    def introduce(self, member: "Member") -> None:
        """Tell a worker what calls may need: classes; and from which cell they are."""
        if self.cell is not None and member.cells is not None:
            self.cell.tell(member.cells)
        if self.options["isolate"]:
            member.told = 0  # who knew them has gone
        while member.told < len(self.definitions):
            definition = Definition(self.definitions[member.told])
            member.session.unsent.extend((definition, None))
            member.told += 1

    def claim(self, call: object, queue: "SimpleQueue[Any]") -> "Member | None":
        if self.lock._is_owned():  # type: ignore[attr-defined]
            raise RuntimeError(
                "call() in a signal handler that has interrupted a call of the same "
                "pool would wait for ever; use submit() or a callback"
            )
        if self.options["isolate"]:
            return None  # somebody has to read on: the next process says READY
        self._look_after_calls()
        with self.lock:
            found = None if self.session.unsent else self.scheduler.next_block(1)
            if found is None:
                return None
            member = self.members[found[0]]
            self.introduce(member)
            self.scheduler.given(member.place, 1)
            if self.scheduler.keeps_idle:
                self._look_for_workers()
        if self.session.varied:
            member.session.varied = True
        if self.limited:
            member.has_limits()
        return member  # if that was its last call, `heard` closes it behind that

    def check_nested(self) -> None:
        if get_ident() == main_thread().ident:  # no other one is interrupted
            for member in self.hands():
                member.check_nested()

    def missed(self, member: "Member") -> bool:
        """Return whether an interrupt may have kept `heard` from telling something."""
        place, session = member.place, member.session
        return (
            session.outstanding() != place.load
            or session.awaits_calls() is not place.up
            or (session.retired and not place.leaving)
            or (place.leaving and not place.load and member.closed is None)
            or self.broken is not None
        )

    def heard(self, member: "Member") -> None:
        if self.lock._is_owned():  # type: ignore[attr-defined]
            return
        place, session = member.place, member.session
        with self.lock:
            if member.life.over:
                return  # what it has not answered is no answer
            now = monotonic()
            if session.awaits_calls():
                self.scheduler.came_up(place, now)
            else:
                place.up = False
            if session.retired:
                self.scheduler.leaves(place, now)
            load, spent = session.outstanding(), member.life.spent()
            self.scheduler.answered(place, load, spent, now)
            backlog = self.backlog()
            count = self.scheduler.block(place, backlog) if backlog else 0
            if count:
                self._give(member, count)
            self._gather()
        if count:
            member.flush()
        if self.broken is not None and not self.scheduler.trouble.lasts():
            self.recover()
        if self._sleepers:
            self.wake_sleepers()
        if self.loops.homes:
            self.loops.tell()
        if place.leaving and not place.load and member.closed is None:
            self.program.reactor.soon(member.close)
        if self.closed is not None or session.retired:
            self.manage_soon()
        elif self.scheduler.keeps_idle or (not place.load and self._due == inf):
            with self.lock:  # else somebody will look in time
                self._look_for_workers()


def through_stream(staged: "list[Any]") -> "list[Any]":
    """Return the calls of a block, up to the first that is a stream.

    A blocking worker makes its items as somebody takes them, for ever perhaps: a call
    behind it would wait, whatever other workers have to do.
    """
    for at in range(1, len(staged), 2):
        if isinstance(staged[at], Items) and not staged[at].closed:
            return staged[: at + 1]
    return staged
