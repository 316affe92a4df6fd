"""Sessions of workers whose calls can go to another one: those of a pool.

What a call gave its worker is kept until it has an answer.  When the worker dies, calls
that it had not begun go back to the pool, and so do those that may be tried again.
"""

from collections import deque
from functools import partial

from . import atomic, wire
from .awaiter import Awaiter, is_withdrawn
from .items import Items
from .overlapping import Overlapping
from .session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .death import Death
    from .session import Target


class Lending(Session):
    """Calls and answers of one blocking worker of a pool.

    take_back: called in the reactor's thread with what goes back, in order: items as in
    `unsent`.
    again: returns the target for another try of a call that had begun, None for none.
    """

    take_back: "Callable[[list[Any]], object]"
    again: "Callable[[Target, Death, int], Target | None]"

    def __init__(self, name: str, limit: int, size: int = wire.SIZE) -> None:
        super().__init__(name, limit, size)
        self._kept: deque[Any] = deque()  # for each of `pending`
        self.registers = (*self.registers, self._kept)
        self.under_way = (self.pending, self._kept)

    def _entry(
        self, first: int, targets: "list[Target]", calls: "list[Any]"
    ) -> "tuple[Any, Any]":
        entering = (
            partial(self.pending.extend, targets),
            partial(self._kept.extend, calls),
        )
        return atomic.drop, atomic.doing(entering)

    def forget(self) -> None:
        """Keep nothing of calls that have an answer: it never does."""

    def has(self, target: "Target") -> bool:
        """Return whether the call of *target* was sent and has no answer."""
        return any(each is target for each in list(self.pending))

    def fail_all(self, death: "Death") -> int:
        # A thread may enter a call meanwhile: it finds that the worker has ended, and
        # has this called once more.
        targets, (sent,) = map(list, (self.pending, self.last))  # by one call into C
        count = len(targets)
        calls = list(atomic.leftmost(self._kept, count))
        atomic.drop(atomic.leftmost(self.pending, count))
        ids = range(sent - count + 1, sent + 1)
        return _sort_out(self, list(zip(ids, calls, targets, strict=True)), death)


class LendingOverlapping(Overlapping):
    """Calls and answers of one asynchronous worker of a pool; as Lending."""

    take_back: "Callable[[list[Any]], object]"
    again: "Callable[[Target, Death, int], Target | None]"

    def __init__(self, name: str, limit: int, size: int = wire.SIZE) -> None:
        super().__init__(name, limit, size)
        self._kept: dict[int, Any] = {}

    def _entry(
        self, first: int, targets: "list[Target]", calls: "list[Any]"
    ) -> "tuple[Any, Any]":
        kept, pending = self._kept, self.pending
        if len(kept) > 2 * len(pending) + 64:
            self.forget()
        entering = (
            partial(pending.update, list(enumerate(targets, first))),
            partial(kept.update, list(enumerate(calls, first))),
        )
        return atomic.drop, atomic.doing(entering)

    def forget(self) -> None:
        """Keep nothing of calls that have an answer.  Any thread."""
        for call_id in list(self._kept):
            if call_id not in self.pending:
                self._kept.pop(call_id, None)

    def has(self, target: "Target") -> bool:
        """Return whether the call of *target* was sent and has no answer."""
        return target.call_id in self.pending

    def fail_all(self, death: "Death") -> int:
        pending = [
            (call_id, self._kept.get(call_id), target)
            for call_id, target in self.pending.items()
        ]
        self.pending.clear()
        return _sort_out(self, pending, death)


def _sort_out(
    session: "Lending | LendingOverlapping",
    pending: "list[tuple[int, Any, Target]]",
    death: "Death",
) -> int:
    """Give back what can be, fail the rest; return how many calls failed.

    pending: (id, call, target) of calls that were sent and have no answer.  Runs in the
    reactor's thread, which nothing interrupts.
    """
    back: list[Any] = []
    lost = 0
    for call_id, call, target in pending:
        begun = death.begun is None or call_id <= death.begun
        if isinstance(target, Awaiter) and target.given_up:
            session.fail(call_id, target, death)  # where it is not settled yet
            continue
        other = session.again(target, death, call_id) if begun else target
        if other is None or (isinstance(other, Items) and other.closed):
            session.fail(call_id, target, death)
            lost += 1
        else:
            back += call, forgotten(session, other)
    _give_back(session, back)
    return lost


def forgotten(session: Session, target: "Target") -> "Target":
    """Return *target*, as if its call had never been sent."""
    if isinstance(target, Items):
        session.streams.under_way.pop(target.call_id, None)
    if isinstance(target, (Items, Awaiter)):
        target.call_id = 0
    return target


def _give_back(session: "Lending | LendingOverlapping", back: "list[Any]") -> None:
    """Give back these calls, and those that were not sent."""
    unsent = session.unsent  # a thread may append to it
    waiting = [*session.staged, *atomic.leftmost(unsent, len(unsent))]
    session.staged.clear()
    for call, target in zip(waiting[::2], waiting[1::2], strict=True):
        if target is None:
            continue  # a definition; who gets the call is told of it as well
        if is_withdrawn(target):
            session.withdrawn.count -= 1
        else:
            back += call, target
    if back:
        session.take_back(back)
