"""The blocking backend: one call after another, results and events in that order."""

import _signal  # type: ignore[import-not-found]
import os
import sys
from _pickle import loads
from _socket import MSG_DONTWAIT
from itertools import islice
from time import monotonic_ns

from .. import wire
from ..errors import ProtocolError
from ..progress import BEGUN, SINCE
from ..serialisers import PickleCodec
from ..system import LIFELINE_SIGNAL
from .bodies import error_body, load_arguments, load_call
from .chunk import Chunks
from .clock import Clock
from .inbox import Inbox
from .leave import exit_status_of
from .replies import Replies
from .stream import Producer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable
    from typing import Any

    from ..progress import Page
    from ..serialisers import Codec

PATIENT = 1000  # exceptions between two calls, one after the other


class Sync:
    """The worker's end of its connection; `codec` and `function` are set first."""

    function: "Callable[..., Any]"
    streamed: "Callable[..., Any]"  # what a stream's call executes; an iterator

    def __init__(self, channel: "socket", spec: "dict[str, Any]", page: "Page") -> None:
        self.replies = Replies(channel, page, spec["max_frame"])
        self.flush = self.replies.flush
        self._chunks = Chunks(self, spec["max_frame"])
        self._page, self._words = page, page.words
        self._timed, self._mortal = spec["timed"], spec["mortal"]
        self.inbox = Inbox(channel, spec)
        self._patience = PATIENT
        self._ended: int | None = None  # exit status, once known
        self.program_gone = False  # or going: what was started here goes too
        self._is_idle = self.copy = False  # copy: was forked from the worker
        self.flush_output: Callable[[], None] | None = None  # where it is forwarded

    @property
    def codec(self) -> "Codec":
        return self.replies.codec

    @codec.setter
    def codec(self, codec: "Codec") -> None:
        self.replies.codec = codec

    def become_copy(self) -> None:
        """End when the function returns: it forked this process."""
        self.copy = True
        self.replies.become_copy()
        self._chunks.become_copy()

    def serve(self) -> int:
        """Execute calls until the end of input; return the exit status."""
        self._begin()
        raised: list[Any] = []
        while True:
            # A signal handler of the user may raise between any two bytecodes.  Every
            # answer is either stored or still to be made, so the work goes on.
            try:
                return self._serve_on(raised)
            except ProtocolError:
                raise  # ends the process, with a traceback
            except Exception:
                raised.append(sys.exc_info())
                self._patience -= 1
                if not self._patience:
                    raise  # no signal does that: it is a defect

    def _begin(self) -> None:
        """Say that calls may come."""
        self.replies.begin(os.getpid())

    def _serve_on(self, raised: "list[Any]") -> int:
        """Tell what was *raised*, and serve.

        The loops are not in the frame with the try: from Python 3.12 on, what is raised
        as one goes back to its start is not caught there.
        """
        while raised:
            self.replies.deadline = 1.0  # part of an answer may be left to write
            sys.excepthook(*raised.pop())
        while self._ended is None:
            self._turn()
            self._patience = PATIENT
        self.replies.flush()
        return self._ended

    def _turn(self) -> None:
        frames = self.inbox.frames
        while frames and self._ended is None:
            self._obey(frames[0])
            frames.popleft()
        if self._ended is not None:
            return
        self._idle()
        if self.replies.deadline:
            self.replies.flush()
        if self.inbox.at_rest():
            self._await_one()
        else:
            self._receive(0)

    def _await_one(self) -> None:
        """Wait for a frame.  A small call that comes alone is answered at once."""
        try:
            header = self.inbox.next_header()
        except ConnectionError:
            header = None
        if header is None or not self._alone(header):
            self._receive_now()  # what came is in the decoder, or it is the end

    def _receive_now(self) -> None:
        try:
            self._receive(MSG_DONTWAIT)
        except BlockingIOError:  # what was read is not a whole frame
            return

    def _receive(self, flags: int) -> None:
        if not self.inbox.receive(flags):
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
        frames = self.inbox.frames
        if not frames or (len(frames) == 1 and call_id == frames[0].last()):
            self._idle()

    def _note_end(self, _number: int, _frame: object) -> None:
        self.program_gone = True

    def _obey(self, frame: wire.Frame) -> None:
        if frame.kind == wire.CALL:
            if not self._busy():
                return
            first, flags = frame.first, frame.flags
            if first > self.replies.done() + 1:
                raise ProtocolError(f"{frame!r} after call {self.replies.done()}")
            if flags & wire.ONES:
                self._ones(first, self._packed(frame))
            elif flags & wire.PACKED:
                self._calls(first, self._packed(frame), None)
            elif flags & wire.LIMITED:
                self._timed = True  # the program looks at the limits
                self._calls(first, frame.limited()[1], load_arguments, flags)
            elif flags & wire.CHUNK:
                self._calls(first, frame.bodies(), self._chunks.load, flags)
            else:
                self._calls(first, frame.bodies(), load_arguments, flags)
        elif frame.kind == wire.STREAM:
            if self._busy():
                self._stream(frame)
        elif frame.kind in (wire.CREDIT, wire.STOP):
            pass  # of a stream that has ended meanwhile
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
        chunks = self.inbox.chunks
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
            if self.copy:
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
                    if self.copy:
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
        load: "Callable[[Codec, Any], Any] | None",
        flags: int = 0,
    ) -> None:
        """Execute the calls of a frame but those that have an answer already.

        calls: tuples of arguments; bodies of such where there is a *load*.
        """
        words, replies, function = self._words, self.replies, self.function
        call_id, codec = replies.done() + 1, self.codec
        if flags & wire.CHUNK:
            function = self._chunks.execute
        clock = Clock(call_id)
        for args in islice(calls, call_id - first, None):
            if self._timed:
                words[SINCE] = monotonic_ns()
            words[BEGUN] = call_id
            try:
                if load is not None:
                    args = load(codec, args)
                if flags & wire.KEYWORDS:
                    value = function(*args[:-1], **args[-1])
                else:
                    value = function(*args)
                if self.copy:
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

    def _stream(self, frame: wire.Frame) -> None:
        """Execute a call and send what it yields."""
        call_id, replies = frame.first, self.replies
        if call_id <= replies.done():
            return
        if call_id > replies.done() + 1:
            raise ProtocolError(f"{frame!r} after call {replies.done()}")
        if frame.flags & wire.LIMITED:
            self._timed = True  # the program looks at the limits
            (frame.body,) = frame.limited()[1]
        producer = Producer(call_id, self, replies, self._page)
        try:
            if not frame.flags & wire.WITHDRAWN and producer.begin():
                if self._timed:
                    self._words[SINCE] = monotonic_ns()
                self._words[BEGUN] = call_id
                args, keywords = load_call(self.codec, frame)
                producer.send_all(self.streamed(*args, **keywords))
            if self.copy:
                os._exit(0)
            self._idle_behind(call_id)
            replies.flush()  # what is left of the items
            data = wire.encode(wire.RESULT, flags=wire.ENDED, first=call_id)
            replies.answer(call_id, data)
        except BaseException as error:  # fails this call only; the worker goes on
            if not self.copy:
                replies.flush()
            self._failed(call_id, error)
        finally:
            producer.end()
        if producer.broken is not None:
            raise producer.broken

    def _failed(self, call_id: int, error: BaseException) -> None:
        if self.copy:
            os._exit(1)
        if self.replies.done() >= call_id:
            raise error  # a signal's handler raised it, behind the call
        if isinstance(error, SystemExit):
            self._ended = exit_status_of(error)
            return
        body = error_body(self.codec, error, self.replies.limit)
        self._idle_behind(call_id)
        self.replies.answer(call_id, wire.encode(wire.ERROR, body, first=call_id))

    def fail_setup(self, text: str) -> None:
        self.replies.send(wire.encode(wire.FAILED, text.encode("utf-8", "replace")))

    def define(self, definition: bytes) -> None:
        self.replies.send(wire.encode(wire.DEFINE, definition))

    def say(self, kind: int, body: bytes, flags: int = 0) -> bool:
        """Send what this worker says (LOG, OUTPUT); return whether it was written."""
        if kind != wire.OUTPUT and self.flush_output is not None:
            self.flush_output()
        data = wire.encode(kind, body, flags=flags, first=self._words[BEGUN])
        return self.replies.send(data)

    def event(self, args: "tuple[object, ...]") -> None:
        if self.flush_output is not None:
            self.flush_output()
        body = self.replies.body_of("event", args)
        self.replies.send(wire.encode_any(wire.EVENT, body))

    def retire(self) -> None:
        self.replies.send(wire.encode(wire.RETIRE))
