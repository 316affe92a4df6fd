"""Who waits for one call without a thread, and can cancel it.

A call that is cancelled before it was sent stays in the queue, marked, until it is its
turn: only the queue's left end is ever touched, so that other threads can go on
appending.
"""

from collections import deque
from functools import partial
from itertools import repeat
from types import BuiltinFunctionType, FunctionType, MethodType

from . import atomic
from .limits import Limited

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What a callback usually is; another callable only takes the longer way.
CALLBACKS = frozenset([FunctionType, BuiltinFunctionType, MethodType])
CANCELLED = object()  # the outcome of a call that its Awaiter has cancelled


class Awaiter(Limited):
    """A future of one call.

    call_id: set when the call leaves the program's queue; 0 before.
    withdrawn: it was cancelled before that, and will not leave.
    given_up: it was cancelled later; should its worker die, nobody makes it again.
    inbox: where (awaiter, outcome) is put in place of `Session.futures`.
    holder: the worker of a pool that has the call; None: it waits in the queue.
    stand_in: who is the target in its place, where the call is made once more.
    """

    call_id = 0
    withdrawn = given_up = False
    holder: "Any" = None
    stand_in: "Awaiter | None" = None
    inbox: "deque[Any] | None" = None

    def settle(self, outcome: object) -> None:
        """Take a result, a Failure or CANCELLED.  In the reactor's thread.

        After a cancel it may be called more than once: only the first time counts.
        """
        raise NotImplementedError


class Withdrawn:
    """How many calls that wait were cancelled.

    *unsent* is as in Session.  All callers hold the lock under which calls leave.
    """

    def __init__(self, unsent: "deque[Any]", futures: "deque[Any]") -> None:
        self.count = 0
        self._unsent = unsent
        self._futures = futures

    def add(self, target: Awaiter) -> bool:
        """Cancel a call that is not sent yet; return whether it is cancelled."""
        if not target.call_id and not target.withdrawn:
            atomic.at_once(
                partial(setattr, target, "withdrawn", True),
                partial(setattr, self, "count", self.count + 1),
                partial(self._futures.append, (target, CANCELLED)),
            )
        return target.withdrawn

    def sift(self, staged: "list[Any]") -> None:
        """Drop those among *staged*, as in Session."""
        if not self.count:
            return
        kept: list[Any] = []
        for call, target in zip(staged[::2], staged[1::2], strict=True):
            if not is_withdrawn(target):
                kept += call, target
        less = self.count - (len(staged) - len(kept)) // 2
        atomic.at_once(
            partial(staged.__setitem__, slice(None), kept),
            partial(setattr, self, "count", less),
        )

    def drop_one(self) -> None:
        """Drop the call in front, which is one of them."""
        less = partial(setattr, self, "count", self.count - 1)
        atomic.at_once(partial(atomic.drop, atomic.leftmost(self._unsent, 2)), less)


def is_withdrawn(target: object) -> bool:
    return isinstance(target, Awaiter) and target.withdrawn


def numbering(first: int, targets: "list[Any]") -> "list[Any]":
    """Return steps for `at_once` that tell Awaiters their ids, from *first* on."""
    if CALLBACKS.issuperset(map(type, targets)):
        return []
    numbered = [
        (target, call_id)
        for call_id, target in enumerate(targets, first)
        if isinstance(target, Awaiter)
    ]
    if not numbered:
        return []
    awaiters, ids = zip(*numbered, strict=True)
    return [partial(deque, map(setattr, awaiters, repeat("call_id"), ids), 0)]
