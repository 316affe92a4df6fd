"""The blocking backend: one call after another, results and events in that order."""

import _signal  # type: ignore[import-not-found]
import os
import sys
from _pickle import dumps, loads
from _socket import MSG_DONTWAIT
from itertools import islice
from time import monotonic, monotonic_ns

from .. import outcome, wire
from ..errors import ProtocolError, SerialiserError
from ..progress import BEGUN, SINCE
from ..serialisers import PickleCodec
from ..spin import Spin
from ..system import LIFELINE_SIGNAL
from .leave import exit_status_of
from .replies import Replies

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable
    from typing import Any

    from ..progress import Page
    from ..serialisers import Codec

PATIENT = 1000  # exceptions between two calls, one after the other
QUICK = 50e-6  # seconds; the result of a slower call leaves at once
STRIDE = 8  # calls between two looks at the clock while they are very quick


class Sync:
    """The worker's end of its connection; `codec` and `function` are set first."""

    function: "Callable[..., Any]"

    def __init__(
        self,
        channel: "socket",
        spec: "dict[str, Any]",
        page: "Page",
    ) -> None:
        self.replies = Replies(channel, page, spec["max_frame"])
        self._channel = channel
        self._words = page.words
        self._timed = spec["timed"]
        self._mortal = spec["mortal"]
        self._is_idle = False
        self._decoder = wire.Decoder(spec["max_frame"], spec["buflen"])
        self._spin = Spin()
        self._ended: int | None = None  # exit status, once known
        self.program_gone = False  # or going: what was started here goes too
        self._copy = False  # this process was forked from the worker

    @property
    def codec(self) -> "Codec":
        return self.replies.codec

    @codec.setter
    def codec(self, codec: "Codec") -> None:
        self.replies.codec = codec

    def become_copy(self) -> None:
        """End when the function returns: it forked this process."""
        self._copy = True
        self.replies.become_copy()

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
        self._idle()
        if self.replies.deadline:
            self.replies.flush()
        if self._decoder.at_rest():
            self._await_one()
        else:
            self._receive(0)

    def _await_one(self) -> None:
        """Wait for a frame.  A small call that comes alone is answered at once."""
        try:
            header = self._next_header()
        except ConnectionError:
            header = None
        if header is None or not self._alone(header):
            self._receive_now()  # what came is in the decoder, or it is the end

    def _next_header(self) -> "wire.Header | None":
        decoder, spin, recv = self._decoder, self._spin, self._channel.recv
        if spin.looks > 1:
            try:
                header = decoder.look(recv, spin.looks)
                if spin.misses:
                    spin.found()
                return header
            except BlockingIOError:
                header = spin.look_on(decoder.look, recv)
            if header is not None or not decoder.at_rest():
                return header
        else:
            spin.rested()
        header = decoder.look(recv, 1, 0)
        spin.woken()
        return header

    def _receive_now(self) -> None:
        try:
            self._receive(MSG_DONTWAIT)
        except BlockingIOError:  # what was read is not a whole frame
            return

    def _receive(self, flags: int) -> None:
        try:
            if self._decoder.receive(self._channel.recv, flags):
                return
        except ConnectionError:
            pass
        self._ended, self.program_gone = 0, True

    def _idle(self) -> None:
        """Before the last answer leaves: if the program goes now, leave in order."""
        if not self._is_idle:
            self._is_idle = True
            if self._mortal:
                _signal.signal(LIFELINE_SIGNAL, self._note_end)

    def _busy(self) -> bool:
        """Before a call: the program's end is this process's.  Return whether it goes
        on: an end before that is noticed here.
        """
        if self._is_idle:
            self._is_idle = False
            if self._mortal:
                _signal.signal(LIFELINE_SIGNAL, _signal.SIG_DFL)
                if self.program_gone:
                    self._ended = 0
        return self._ended is None

    def _idle_behind(self, call_id: int) -> None:
        """As `_idle`, if that call was the last one that has arrived."""
        frames = self._decoder.frames
        if (
            not frames
            or len(frames) == 1
            and call_id == frames[0].first + (frames[0].count - 1)
        ):
            self._idle()

    def _note_end(self, _number: int, _frame: object) -> None:
        self.program_gone = True

    def _obey(self, frame: wire.Frame) -> None:
        if frame.kind == wire.CALL:
            if not self._busy():
                return
            if frame.first > self.replies.done() + 1:
                raise ProtocolError(f"{frame!r} after call {self.replies.done()}")
            if frame.flags & wire.ONES:
                self._ones(frame.first, self._packed(frame))
            elif frame.flags & wire.PACKED:
                self._calls(frame.first, self._packed(frame), None)
            else:
                self._calls(frame.first, frame.bodies(), self.codec.load, frame.flags)
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

    def _alone(self, header: "wire.Header") -> bool:
        """Answer a small call that came alone; return whether it was one.

        Its frame stays in the decoder till it has an answer.
        """
        kind, flags, _, _, call_id, _, _ = header
        chunks = self._decoder.chunks
        if kind != wire.CALL or call_id != self.replies.done() + 1:
            return False
        if not flags & wire.PACKED:
            return False
        try:
            (given,) = loads(chunks[0][wire.HEADER_BYTES :])
        except Exception:  # a broken frame; the usual way rules on it
            return False
        if not self._busy():
            return True
        if self._timed:
            self._words[SINCE] = monotonic_ns()
        self._words[BEGUN] = call_id
        try:
            value = self.function(given) if flags & wire.ONES else self.function(*given)
            if self._copy:
                os._exit(0)
            self._idle()
            self.replies.result_now(call_id, value)
        except BaseException as error:  # fails this call only; the worker goes on
            self._failed(call_id, error)
        chunks.clear()
        return True

    def _ones(self, first: int, values: "list[Any]") -> None:
        """Execute the calls of a frame, with one argument each; as `_calls`."""
        words, replies, function = self._words, self.replies, self.function
        timed, call_id = self._timed, replies.done() + 1
        append, (slots, base) = replies.run.append, replies.slots()
        clock = Clock(call_id)
        for value in islice(values, call_id - first, None):
            if timed:
                words[SINCE] = monotonic_ns()
            words[BEGUN] = call_id
            try:
                result = function(value)
                if type(result) is replies.kind:
                    try:
                        slots[call_id - base] = result
                    except ValueError:  # more than 64 bits
                        replies.result(call_id, result)
                    else:
                        append(result)
                        if call_id >= replies.full:
                            replies.flush()
                else:
                    if self._copy:
                        os._exit(0)
                    replies.result(call_id, result)
                    slots, base = replies.slots()
            except BaseException as error:  # fails this call only; the worker goes on
                self._failed(call_id, error)
                if self._ended is not None:
                    return
            if call_id >= clock.look_at and clock.late(call_id, replies.deadline):
                self._idle_behind(call_id)
                replies.flush()
            call_id += 1

    def _calls(
        self,
        first: int,
        calls: "list[Any]",
        load: "Callable[[Any], Any] | None",
        flags: int = 0,
    ) -> None:
        """Execute the calls of a frame but those that have an answer already.

        calls: tuples of arguments; bodies of such where there is a *load*.
        """
        words, replies, function = self._words, self.replies, self.function
        call_id = replies.done() + 1
        clock = Clock(call_id)
        for args in islice(calls, call_id - first, None):
            if self._timed:
                words[SINCE] = monotonic_ns()
            words[BEGUN] = call_id
            try:
                if load is not None:
                    try:
                        args = load(args)
                    except Exception as error:
                        raise _unloadable("arguments", error) from error
                if flags & wire.KEYWORDS:
                    value = function(*args[:-1], **args[-1])
                else:
                    value = function(*args)
                if self._copy:
                    os._exit(0)
                replies.result(call_id, value)
            except BaseException as error:  # fails this call only; the worker goes on
                self._failed(call_id, error)
                if self._ended is not None:
                    return
            if call_id >= clock.look_at and clock.late(call_id, replies.deadline):
                self._idle_behind(call_id)
                replies.flush()
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
        self._idle_behind(call_id)
        self.replies.answer(call_id, wire.encode(wire.ERROR, body, first=call_id))

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

    def event(self, args: "tuple[object, ...]") -> None:
        self.replies.send(wire.encode(wire.EVENT, self.replies.body_of("event", args)))

    def flush(self) -> bool:
        return self.replies.flush()

    def retire(self) -> None:
        self.replies.send(wire.encode(wire.RETIRE))


class Clock:
    """Tells when results have to leave: a slow call's at once, others in time.

    look_at: id of the call behind which to ask next; not behind each while they are
    quick, for a look costs as much as a third of the shortest call.
    """

    __slots__ = ("_looked", "_since", "look_at")

    def __init__(self, call_id: int) -> None:
        self._looked = call_id - 1  # calls behind which the clock was read last
        self._since = monotonic()
        self.look_at = call_id

    def late(self, call_id: int, deadline: float) -> bool:
        """Return whether what is held has to leave; *call_id* has just been answered.

        deadline: time.monotonic() at which it has to leave anyway; 0: nothing is held.
        """
        now = monotonic()
        took = (now - self._since) / (call_id - self._looked)
        self._since, self._looked = now, call_id
        self.look_at = call_id + (STRIDE if took < QUICK / STRIDE else 1)
        return took > QUICK or now > deadline > 0


def _unloadable(what: str, error: Exception) -> SerialiserError:
    kind = type(error).__name__
    hint = ""
    if isinstance(error, ImportError):
        hint = "; the worker does not find it: is its folder on sys.path?"
    return SerialiserError(f"{what} cannot be loaded: {kind}: {error}{hint}")
