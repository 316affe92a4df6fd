"""Who waits for one call without a thread, and can cancel it.

A call that is cancelled before it was sent stays in the queue, marked: only the queue's
left end is ever touched, so that other threads can go on appending.
"""

from collections import deque
from functools import partial
from itertools import islice, repeat
from types import BuiltinFunctionType, FunctionType, MethodType

from . import wire
from .limits import Limited

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What a callback usually is; another callable only takes the longer way.
CALLBACKS = frozenset([FunctionType, BuiltinFunctionType, MethodType])
CANCELLED = object()  # the outcome of a call that its Awaiter has cancelled


class Failure:
    """Stands for the exception of a call where its result would stand."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


def result_of(outcome: object) -> object:
    """Return the result of a call, or raise its exception."""
    if isinstance(outcome, Failure):
        try:
            raise outcome.error
        finally:
            del outcome  # the frame is in the traceback: no cycle through it
    return outcome


class Awaiter(Limited):
    """A future of one call.

    call_id: set when the call leaves the program's queue; 0 before.
    withdrawn: it was cancelled before that, and will not leave.
    inbox: where (awaiter, outcome) is put in place of `Session.futures`.
    """

    call_id = 0
    withdrawn = False
    inbox: "deque[Any] | None" = None

    def settle(self, outcome: object) -> None:
        """Take a result, a Failure or CANCELLED.  In the reactor's thread.

        After a cancel it may be called more than once: only the first time counts.
        """
        raise NotImplementedError


class Withdrawn:
    """How many calls in a queue of entries were cancelled.

    An entry ends with its target.  All callers hold the lock under which calls leave.
    """

    def __init__(self, unsent: "deque[Any]", futures: "deque[Any]") -> None:
        self.count = 0
        self._unsent = unsent
        self._futures = futures

    def add(self, target: Awaiter) -> bool:
        """Cancel a call that is not sent yet; return whether it is cancelled."""
        if not target.call_id and not target.withdrawn:
            wire.at_once(
                partial(setattr, target, "withdrawn", True),
                partial(setattr, self, "count", self.count + 1),
                partial(self._futures.append, (target, CANCELLED)),
            )
        return target.withdrawn

    def drop(self, most: int) -> int:
        """Drop those in front; return how many others come first, up to *most*."""
        unsent = self._unsent
        while unsent and is_withdrawn(unsent[0][-1]):
            self.drop_one()
        front = [is_withdrawn(entry[-1]) for entry in islice(unsent, most)]
        return front.index(True) if True in front else len(front)

    def drop_one(self) -> None:
        less = partial(setattr, self, "count", self.count - 1)
        wire.at_once(self._unsent.popleft, less)


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
