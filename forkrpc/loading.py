"""Loads what a worker has answered: results, exceptions, events.

Loading runs code of the user, which may raise anything: that costs the one call.  Only
an interrupt of the thread that loads is raised, and then nothing has happened yet.
"""

from _pickle import loads

from . import wire
from .errors import ProtocolError, SerialiserError
from .gate import is_interrupt
from .outcome import name_call, unpack
from .pairs import PAIRS
from .parts import Parts
from .serialisers import Codec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Failure:
    """Stands for the exception of a call where its result would stand."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


class Loader:
    """Loads the answers of one worker.  name: the function's, for messages."""

    def __init__(self, name: str, codec: Codec) -> None:
        self._name = name
        self._codec = codec

    def text_of(self, call_id: int) -> str:
        """Return a short text of a call."""
        return f"call {call_id} of {self._name}"

    def results(self, frame: wire.Frame) -> "list[Any]":
        """Return the results of a PACKED frame.  Raise ProtocolError."""
        values = frame.loaded(self._codec.load)
        results = values if isinstance(values, list) else []
        if len(results) != frame.count:
            raise ProtocolError(f"{len(results)} results in {frame!r}")
        return results

    def items(self, frame: wire.Frame) -> "list[Any]":
        """Return the items of a stream, or Failures to load them."""
        return (
            self.results(frame) if frame.flags & wire.PACKED else self.outcomes(frame)
        )

    def outcomes(self, frame: wire.Frame) -> "list[Any]":
        """Return the results, or Failures, of a frame that is not PACKED."""
        if frame.flags & wire.ENDED:
            return [None]
        if frame.kind == wire.ERROR:
            return list(map(self.error, frame.bodies(), range(frame.first, 2**64)))
        load: Any = self._codec.load
        if type(frame.body) is Parts:
            load = self._codec.load_parts
        outcomes: list[Any] = []
        for body in frame.bodies():
            try:
                (value,) = load(body)
            except BaseException as error:  # the user's code, which may raise anything
                value = self._failure(frame.first + len(outcomes), error)
            outcomes.append(value)
        return outcomes

    def result(self, body: "Any", call_id: int) -> object:
        """Return a result, or the Failure to load it."""
        try:
            (value,) = self._codec.load(body)
        except BaseException as error:  # as in `outcomes`
            return self._failure(call_id, error)
        return value

    def result_with_parts(self, parts: Parts, call_id: int) -> object:
        """As `result`."""
        try:
            (value,) = self._codec.load_parts(parts)
        except BaseException as error:  # as in `outcomes`
            return self._failure(call_id, error)
        return value

    def _failure(self, call_id: int, error: BaseException) -> Failure:
        if is_interrupt(error):
            raise error  # the frame stays, for whoever reads next
        return Failure(self._unloadable("the result", call_id, error))

    def error(self, body: "Any", call_id: int) -> Failure:
        """Return the Failure that the worker has told of."""
        try:
            error = self._unpacked(body)
        except Exception as problem:  # what the library itself wrote does not load
            return Failure(self._unloadable("the exception", call_id, problem))
        name_call(error, self.text_of(call_id), is_interrupt)
        return Failure(error)

    def event(self, body: "Any") -> "tuple[object, ...] | Failure":
        """Return the arguments of an event, or the Failure to load them."""
        try:
            if type(body) is Parts:
                return self._codec.load_parts(body)
            return self._codec.load(body)
        except BaseException as error:  # as in `result`
            kind = type(error).__name__
            text = f"an event cannot be loaded: {kind}: {error}"
            return Failure(SerialiserError(text))

    def _unpacked(self, body: "Any") -> Exception:
        if self._codec.trusted:
            return unpack(
                loads(body), lambda blob: self._codec.load(blob)[0], is_interrupt
            )
        (packed,) = PAIRS["data"]()[1](body)
        return unpack(packed, None)  # type: ignore[arg-type]

    def _unloadable(self, what: str, call_id: int, cause: BaseException) -> Exception:
        kind = type(cause).__name__
        error = SerialiserError(
            f"{what} of {self._name} cannot be loaded: {kind}: {cause}"
        )
        error.__cause__ = cause if isinstance(cause, Exception) else None
        error.call = self.text_of(call_id)
        return error


def result_of(outcome: object) -> object:
    """Return the result of a call, or raise its exception."""
    if isinstance(outcome, Failure):
        try:
            raise outcome.error
        finally:
            del outcome  # the frame is in the traceback: no cycle through it
    return outcome
