"""The blocking backend: one call after another, results and events in that order."""

import os
import sys
from _pickle import dumps
from _socket import MSG_DONTWAIT
from itertools import islice
from time import monotonic, monotonic_ns

from .. import outcome, wire
from ..errors import ProtocolError, SerialiserError
from ..progress import BEGUN, SINCE
from ..serialisers import PickleCodec
from ..spin import Spin
from ..system import mortal
from .leave import exit_status_of
from .replies import Replies

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable, Iterable
    from typing import Any

    from ..progress import Page
    from ..serialisers import Codec

PATIENT = 1000  # exceptions between two calls, one after the other
QUICK = 50e-6  # seconds; the result of a slower call leaves at once


class Sync:
    """The worker's end of its connection; `codec` and `function` are set first."""

    function: "Callable[..., Any]"

    def __init__(self, channel: "socket", spec: "dict[str, Any]", page: "Page") -> None:
        self.replies = Replies(channel, page, spec["max_frame"])
        self._channel = channel
        self._words = page.words
        self._timed = spec["timed"]
        self._mortal = spec["mortal"]
        self._decoder = wire.Decoder(spec["max_frame"], spec["buflen"])
        self._spin = Spin()
        self._ended: int | None = None  # exit status, once known
        self.program_gone = False  # or going: what was started here goes too
        self._copy = False  # this process was forked from the worker
        self.flush_output: Callable[[], None] | None = None  # where it is forwarded

    @property
    def codec(self) -> "Codec":
        return self.replies.codec

    @codec.setter
    def codec(self, codec: "Codec") -> None:
        self.replies.codec = codec

    def become_copy(self) -> None:
        """End when the function returns: it forked this process."""
        self._copy = True

    def serve(self) -> int:
        """Execute calls until the end of input; return the exit status."""
        self.replies.send(wire.encode(wire.READY))
        left = PATIENT
        while self._ended is None:
            try:
                self._turn()
                left = PATIENT
            except ProtocolError:
                raise  # ends the process, with a traceback
            except Exception:
                # A signal handler of the user raised between two calls; every answer
                # is either stored or still to be made, so the work goes on.
                left -= 1
                if not left:
                    raise  # no signal does that: it is a defect
                sys.excepthook(*sys.exc_info())
        self.replies.flush()
        return self._ended

    def _turn(self) -> None:
        frames = self._decoder.frames
        while frames and self._ended is None:
            self._obey(frames[0])
            frames.popleft()
        if self._ended is not None:
            return
        if self.replies.deadline:
            self.replies.flush()
        self._may_die(False)  # idle: if the program goes, leave in order
        if not self._spin.until(self._receive_now):
            self._receive(0)
            self._spin.woken()
        if self._ended is None:
            self._may_die(True)

    def _receive_now(self) -> bool:
        """Read without waiting; return whether anything came, or the end."""
        try:
            self._receive(MSG_DONTWAIT)
        except BlockingIOError:
            return False
        return True

    def _receive(self, flags: int) -> None:
        try:
            if self._decoder.receive(self._channel.recv, flags):
                return
        except ConnectionError:
            pass
        self._ended, self.program_gone = 0, True

    def _may_die(self, yes: bool) -> None:
        if self._mortal:
            mortal(yes)

    def _obey(self, frame: wire.Frame) -> None:
        if frame.kind == wire.CALL:
            if frame.first > self.replies.done() + 1:
                raise ProtocolError(f"{frame!r} after call {self.replies.done()}")
            if (
                frame.flags == wire.PACKED
                and len(self._decoder.frames) == 1 == frame.count
            ):
                self._only_call(frame)
            elif frame.flags & wire.PACKED:
                self._calls(frame.first, self._packed(frame), self.function)
            elif frame.flags & wire.KEYWORDS:
                self._calls(frame.first, zip(frame.bodies()), self._of_keywords)
            else:
                self._calls(frame.first, zip(frame.bodies()), self._of_body)
        elif frame.kind == wire.CLOSE:
            self._ended, self.program_gone = 0, bool(frame.flags & wire.FOR_GOOD)
        elif frame.kind == wire.DEFINE and isinstance(self.codec, PickleCodec):
            self.codec.learn(frame.body)
        else:
            raise ProtocolError(f"{frame!r} from the program")

    def _packed(self, frame: wire.Frame) -> "list[Any]":
        calls = frame.loaded(self.codec.load)
        if not isinstance(calls, list) or len(calls) != frame.count:
            raise ProtocolError(f"{frame!r} holds {calls!r:.100}")
        return calls

    def _of_body(self, body: "Any") -> object:
        return self.function(*self._load(body))

    def _of_keywords(self, body: "Any") -> object:
        *args, keywords = self._load(body)
        return self.function(*args, **keywords)

    def _only_call(self, frame: wire.Frame) -> None:
        """Execute the one call that there is; somebody waits for its result."""
        call_id = frame.first
        if call_id <= self.replies.done():
            return
        if self._timed:
            self._words[SINCE] = monotonic_ns()
        calls = self._packed(frame)
        self._words[BEGUN] = call_id
        try:
            value = self.function(*calls[0])
            if self._copy:
                os._exit(0)
            self.replies.result_now(call_id, value)
        except BaseException as error:  # fails this call only; the worker goes on
            self._failed(call_id, error)

    def _calls(
        self, first: int, calls: "Iterable[Any]", execute: "Callable[..., object]"
    ) -> None:
        """Execute the calls of a frame but those that have an answer already."""
        words, replies, result = self._words, self.replies, self.replies.result
        call_id = replies.done() + 1
        before = monotonic()
        for call in islice(calls, call_id - first, None):
            if self._timed:
                words[SINCE] = monotonic_ns()
            words[BEGUN] = call_id
            try:
                value = execute(*call)
                if self._copy:
                    os._exit(0)
                result(call_id, value)
            except BaseException as error:  # fails this call only; the worker goes on
                self._failed(call_id, error)
                if self._ended is not None:
                    return
            now = monotonic()
            if now - before > QUICK or now > replies.deadline > 0:
                replies.flush()
            before = now
            call_id += 1

    def _failed(self, call_id: int, error: BaseException) -> None:
        if self._copy:
            os._exit(1)
        if self.replies.done() >= call_id:
            raise error  # a signal's handler raised it, behind the call
        if isinstance(error, SystemExit):
            self._ended = exit_status_of(error)
            return
        trusted = self.codec.trusted
        packed = outcome.pack(error, self._dump_one if trusted else None)
        body = self._plain(packed)
        self.replies.answer(call_id, wire.encode(wire.ERROR, body, first=call_id))

    def _load(self, body: "Any") -> "Any":
        try:
            return self.codec.load(body)
        except Exception as error:
            raise _unloadable("arguments", error) from error

    def _dump_one(self, value: object) -> bytes:
        return self.codec.dump((value,))

    def _plain(self, packed: object) -> bytes:
        """Serialise what the library itself says about an error."""
        if self.codec.trusted:
            return dumps(packed, 4)
        from ..serialisers import PAIRS

        return PAIRS["data"]()[0]((packed,))

    def fail_setup(self, text: str) -> None:
        self.replies.send(wire.encode(wire.FAILED, text.encode("utf-8", "replace")))

    def define(self, definition: bytes) -> None:
        self.replies.send(wire.encode(wire.DEFINE, definition))

    def say(self, kind: int, body: bytes, flags: int = 0) -> bool:
        """Send what this worker says (LOG, OUTPUT); return whether it was written."""
        if kind != wire.OUTPUT and self.flush_output is not None:
            self.flush_output()
        call_id = self._words[BEGUN]
        return self.replies.send(wire.encode(kind, body, flags=flags, first=call_id))

    def event(self, args: "tuple[object, ...]") -> None:
        if self.flush_output is not None:
            self.flush_output()
        self.replies.send(wire.encode(wire.EVENT, self.replies.body_of("event", args)))

    def flush(self) -> bool:
        return self.replies.flush()

    def retire(self) -> None:
        self.replies.send(wire.encode(wire.RETIRE))


def _unloadable(what: str, error: Exception) -> SerialiserError:
    kind = type(error).__name__
    hint = ""
    if isinstance(error, ImportError):
        hint = "; the worker does not find it: is its folder on sys.path?"
    return SerialiserError(f"{what} cannot be loaded: {kind}: {error}{hint}")
