"""Context variables set in the worker for the time of a call."""

from ..context import found
from ..functions import is_coroutine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Carried:
    """The variables that travel with each call.

    Raise what `context.found` raises, where this worker does not have one of *names*.
    """

    def __init__(self, names: "list[str]") -> None:
        self._variables = [found(name) for name in names]

    def split(self, args: "tuple[Any, ...]") -> "tuple[tuple[Any, ...], Any]":
        """Return a call's own arguments, and what travelled behind them."""
        count = len(self._variables) + 1
        return args[:-count], args[-count:]

    def enter(self, values: "Any") -> "list[Any]":
        """Set the variables in the current context; return what `leave` takes."""
        *sent, marks = values
        if isinstance(marks, (bytes, bytearray)):
            marks = marks.decode()
        marks = marks or "1" * len(sent)
        return [
            (variable, variable.set(value))
            for variable, value, mark in zip(self._variables, sent, marks, strict=True)
            if mark == "1"
        ]

    def leave(self, tokens: "list[Any]") -> None:
        for variable, token in reversed(tokens):
            variable.reset(token)

    def wrapped(self, function: "Callable[..., Any]") -> "Callable[..., Any]":
        """Return *function* as it is called with what travels behind its arguments."""
        if is_coroutine(function):

            async def call_async(*args: "Any", **kwargs: "Any") -> "Any":
                args, values = self.split(args)
                self.enter(values)  # in the context of its own task
                return await function(*args, **kwargs)

            return call_async

        def call(*args: "Any", **kwargs: "Any") -> "Any":
            args, values = self.split(args)
            tokens = self.enter(values)
            try:
                return function(*args, **kwargs)
            finally:
                self.leave(tokens)

        return call
