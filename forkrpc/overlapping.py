"""The parent's end of an asynchronous worker's connection, without I/O.

As `session`, but answers come in the order of completion: calls that were sent are
kept by id.  What belongs together is one call into C here too, so whatever interrupts,
a call is in exactly one place, and settles exactly once.
"""

import sys
from collections import deque
from functools import partial

from . import atomic, wire
from .awaiter import CALLBACKS, CANCELLED, Awaiter
from .errors import ProtocolError
from .loading import Failure
from .parts import Parts
from .progress import OLDEST
from .session import LOW, MOST_CALLS, NEVER, Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from .death import Death
    from .life import Life
    from .session import Target

KILL_GRACE = 1.0  # seconds that a worker has to end a call of its own that is too long


class Overlapping(Session):
    """Calls and answers of one asynchronous worker.

    pending: the targets of calls that were sent, by id, in the order of ids.
    """

    answers = frozenset([wire.RESULT, wire.ERROR, wire.CANCEL])
    in_order = False
    # Returns the id of the call begun last.  ValueError: the worker has ended.
    _begun: "Callable[[], int]" = int

    def __init__(self, name: str, limit: int, size: int = wire.SIZE) -> None:
        super().__init__(name, limit, size)
        self.pending: dict[int, Target] = {}
        self.streams.most = sys.maxsize  # each call begins when it comes
        self._looked: set[int] = set()  # calls whose results were read from the page

    def follow(self, life: "Life") -> None:
        self._begun = life.begun_word()

    def _ahead(self) -> int:
        """Return how many calls were sent and have not begun."""
        try:
            return max(0, self.last[0] - self._begun())
        except ValueError:
            return 0

    @property
    def gather(self) -> int:
        """As of Session; reckoned at each call, for others begin without an answer.

        So it is `_ahead` written out.
        """
        if self.blocked or not self._gather:
            return NEVER if self.blocked else 0
        try:
            ahead = self.last[0] - self._begun()
        except ValueError:
            return 0
        return 2 * MOST_CALLS if ahead > MOST_CALLS else 2 * ahead if ahead > 1 else 2

    @gather.setter
    def gather(self, gather: int) -> None:
        self._gather = gather  # 0: Session takes no more

    def must_send(self) -> bool:
        if self.blocked:
            return False
        return bool(self.unsent or self.staged) and self._ahead() < LOW

    def limits(self) -> "tuple[Any, ...]":
        return self.pending.__contains__, OLDEST, KILL_GRACE

    def target(self, call_id: int) -> "Target":
        return self.pending[call_id]

    def head(self) -> int:
        return next(iter(self.pending), 0)

    def _entry(
        self, first: int, targets: "list[Target]", _calls: "list[Any]"
    ) -> "tuple[Any, Any]":
        return self.pending.update, list(enumerate(targets, first))

    def cancelling(self, target: Awaiter) -> "bytes | None":
        if target.call_id not in self.pending:
            return None
        target.given_up = True
        self.futures.append((target, CANCELLED))
        return wire.encode(wire.CANCEL, first=target.call_id)

    def _settle(self, frame: wire.Frame) -> None:
        ids, inner = frame.scattered()
        outcomes = self._outcomes_of(ids, inner)
        again = self._looked and self._looked.intersection(ids)
        if again:
            fresh = [at for at, call_id in enumerate(ids) if call_id not in again]
            ids = [ids[at] for at in fresh]
            outcomes = [outcomes[at] for at in fresh]
        pending = self.pending
        if not all(map(pending.__contains__, ids)) or len(set(ids)) < len(ids):
            raise ProtocolError(f"{frame!r} answers a call that is not outstanding")
        targets = list(map(pending.__getitem__, ids))
        if frame.kind == wire.CANCEL and not isinstance(targets[0], Awaiter):
            raise ProtocolError(f"{frame!r}, which nobody has cancelled")
        self._hand_out(
            targets,
            outcomes,
            partial(deque, map(pending.pop, ids), 0),
            partial(self._looked.difference_update, again or ()),
            self.decoder.frames.popleft,
        )

    def _outcomes_of(self, ids: "Sequence[int]", frame: wire.Frame) -> "list[Any]":
        if frame.kind == wire.CANCEL:
            return [CANCELLED] * frame.count
        if frame.flags & wire.ENDED:
            return [None]
        if frame.flags & wire.PACKED:
            return self.loader.results(frame)
        loader = self.loader
        load: Callable[[Any, int], object] = loader.result
        if frame.kind == wire.ERROR:
            load = loader.error
        elif type(frame.body) is Parts:
            load = loader.result_with_parts
        return list(map(load, frame.bodies(), ids))

    def _hand_out(
        self,
        targets: "list[Target]",
        outcomes: "list[Any]",
        *also: "Callable[[], object]",
    ) -> None:
        """Give *targets* their outcomes, and do *also*, by one call into C."""
        settles: Sequence[Any] = ()
        settled: Sequence[Any] = ()
        if not CALLBACKS.issuperset(map(type, targets)) or (
            Failure in map(type, outcomes)
        ):
            targets, outcomes, settles, settled = self._sorted(targets, outcomes)
        if targets:
            settles = (*settles, self.ready.append)
            settled = (*settled, (targets, outcomes))
        atomic.together((*settles, atomic.drop), (*settled, atomic.doing(also)))

    def look(self, life: "Life") -> None:
        pending = self.pending
        found = [each for each in life.scattered() if each[0] in pending]
        if not found:
            return
        ids = [call_id for call_id, _, _ in found]
        self._hand_out(
            [pending[call_id] for call_id in ids],
            [
                self.loader.result(value, call_id) if is_body else value
                for call_id, is_body, value in found
            ],
            partial(deque, map(pending.pop, ids), 0),
            partial(self._looked.update, ids),
        )

    def fail_all(self, death: "Death") -> int:
        failed = len(self.pending)
        for call_id, target in list(self.pending.items()):
            settles, settled = self._failing(call_id, target, death)
            popped = map(self.pending.pop, (call_id,))
            atomic.together((*settles, atomic.drop), (*settled, popped))
        return failed + super().fail_all(death)
