"""Calls that may be made again when their worker dies (`retries`)."""

from _queue import SimpleQueue

from .awaiter import Awaiter
from .future import CallFuture
from .items import Items
from .limits import Limited

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .connection import Args, Keys, Limit
    from .intake import Intake


class Retrying(Awaiter):
    """Stands for whoever waits for a call, which may be made *tries* times more."""

    def __init__(self, inner: "SimpleQueue[Any] | Awaiter", tries: int) -> None:
        self.inner = inner
        self.tries = tries
        self.limit = getattr(inner, "limit", None)

    def settle(self, outcome: object) -> None:
        if isinstance(self.inner, SimpleQueue):
            self.inner.put(outcome)
        else:
            self.inner.settle(outcome)


class RetryingCallback(Limited):
    """Stands for the callback of such a call."""

    def __init__(self, inner: "Callable[[Any], object]", tries: int) -> None:
        self.inner = inner
        self.tries = tries
        self.limit = inner.limit if isinstance(inner, Limited) else None

    def __call__(self, result: object) -> None:
        self.inner(result)


def retrying(target: "Any", tries: int) -> "Any":
    """Return what stands for the target of a call that may be made again."""
    inner = getattr(target, "inner", target)
    if not isinstance(inner, (SimpleQueue, Awaiter)):
        return RetryingCallback(inner, tries)
    made = Retrying(inner, tries)
    if isinstance(inner, Awaiter):
        inner.stand_in = made
    return made


def tries_of(target: "Any", usual: int) -> int:
    """Return how often a call may be made again; *usual*: where it does not say."""
    if isinstance(target, Items):
        return 0  # what it has yielded cannot be taken back
    tries: int = getattr(target, "tries", usual)
    return tries


class Persistent:
    """As the intake of a pool, for calls that may each be made *tries* times more."""

    def __init__(self, intake: "Intake", tries: int) -> None:
        self._intake = intake
        self._tries = tries

    def __getattr__(self, name: str) -> "Any":
        return getattr(self._intake, name)

    def submit(self, args: "Args", kwargs: "Keys", target: object) -> None:
        self._intake.session.varied = True
        self._intake.submit(args, kwargs, retrying(target, self._tries))

    def submit_for(
        self, args: "Args", kwargs: "Keys", target: "Any", limit: "Limit" = None
    ) -> None:
        made = retrying(target, self._tries)
        self._intake.submit_for(args, kwargs, made, limit)

    def call(self, args: "Args", kwargs: "Keys") -> object:
        return self._result(args, kwargs, None)

    def call_within(self, args: "Args", kwargs: "Keys", limit: float) -> object:
        return self._result(args, kwargs, limit)

    def _result(self, args: "Args", kwargs: "Keys", limit: "Limit") -> object:
        intake = self._intake
        intake.program.check_may_wait("call()")
        future = CallFuture(intake.program, intake.cancel)
        future.limit = limit
        self.submit_for(args, kwargs, future, limit)
        return future.result()
