"""The blocking backend: one call after another, results and events in that order."""

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
from ..spin import Spin
from ..system import mortal
from .bodies import error_body, load_arguments
from .clock import Clock
from .leave import exit_status_of
from .replies import Replies
from .stream import Producer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from ..progress import Page
    from ..serialisers import Codec

PATIENT = 1000  # exceptions between two calls, one after the other


class Sync:
    """The worker's end of its connection; `codec` and `function` are set first.

    hung_up: tells whether the program is gone.
    """

    function: "Callable[..., Any]"
    streamed: "Callable[..., Any]"  # what a stream's call executes; an iterator

    def __init__(
        self,
        channel: "socket",
        spec: "dict[str, Any]",
        page: "Page",
        hung_up: "Callable[[], bool]" = lambda: False,
    ) -> None:
        self.replies = Replies(channel, page, spec["max_frame"])
        self._channel = channel
        self._page, self._words = page, page.words
        self._timed = spec["timed"]
        self._mortal = spec["mortal"]
        self._hung_up = hung_up
        self._decoder = wire.Decoder(spec["max_frame"], spec["buflen"])
        self.frames = self._decoder.frames
        self._spin = Spin()
        self._ended: int | None = None  # exit status, once known
        self.program_gone = False  # or going: what was started here goes too
        self.copy = False  # this process was forked from the worker
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
        if self._decoder.at_rest() and self._look():
            return
        self._may_die(False)  # idle: if the program goes, leave in order
        self._receive(0)
        self._spin.woken()
        if self._ended is None:
            self._may_die(True)

    def _look(self) -> bool:
        """Look for a moment before sleeping; return whether anything came.

        A small call that comes alone is answered at once: somebody waits for it.
        """
        decoder, spin, recv = self._decoder, self._spin, self._channel.recv
        try:
            header = decoder.look(recv, spin.looks)
            if spin.misses:
                spin.found()
        except BlockingIOError:
            header = spin.look_on(decoder.look, recv)
        except ConnectionError:
            return False
        if header is None and decoder.at_rest():
            return False
        if header is None or not self._alone(header):
            self._receive_now()  # it is still in the decoder
        return True

    def _receive_now(self) -> None:
        try:
            self._receive(MSG_DONTWAIT)
        except BlockingIOError:  # what was read is not a whole frame
            return

    def _receive(self, flags: int) -> None:
        if not self.receive(flags):
            self._ended, self.program_gone = 0, True

    def receive(self, flags: int) -> bool:
        """Read once; return False at the end of input.  Raise BlockingIOError."""
        try:
            return self._decoder.receive(self._channel.recv, flags) > 0
        except ConnectionError:
            return False

    def wait_for_more(self, read: "Callable[[int], object]") -> None:
        """Have *read* read once, with or without MSG_DONTWAIT; wait for something."""

        def look() -> bool:
            try:
                read(MSG_DONTWAIT)
            except BlockingIOError:
                return False
            return True

        if not self._spin.until(look):
            read(0)
            self._spin.woken()

    def _may_die(self, yes: bool) -> None:
        """Let the program's end end this process, or not.  Notices if it came before.

        Its signal does nothing while the process may not die, and comes only once.
        """
        if not self._mortal:
            return
        mortal(yes)
        if yes and self._hung_up():
            self._ended, self.program_gone = 0, True

    def _obey(self, frame: wire.Frame) -> None:
        if frame.kind == wire.CALL:
            if frame.first > self.replies.done() + 1:
                raise ProtocolError(f"{frame!r} after call {self.replies.done()}")
            if frame.flags & wire.ONES:
                self._ones(frame.first, self._packed(frame))
            elif frame.flags & wire.PACKED:
                self._calls(frame.first, self._packed(frame), self.function)
            elif frame.flags & wire.LIMITED:
                self._timed = True  # the program looks at the limits
                of = self._of_keywords if frame.flags & wire.KEYWORDS else self._of_body
                self._calls(frame.first, zip(frame.limited()[1]), of)
            elif frame.flags & wire.KEYWORDS:
                self._calls(frame.first, zip(frame.bodies()), self._of_keywords)
            else:
                self._calls(frame.first, zip(frame.bodies()), self._of_body)
        elif frame.kind == wire.STREAM:
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

    def _of_body(self, body: "Any") -> object:
        return self.function(*load_arguments(self.codec, body))

    def _of_keywords(self, body: "Any") -> object:
        *args, keywords = load_arguments(self.codec, body)
        return self.function(*args, **keywords)

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
        if self._timed:
            self._words[SINCE] = monotonic_ns()
        self._words[BEGUN] = call_id
        try:
            value = self.function(given) if flags & wire.ONES else self.function(*given)
            if self.copy:
                os._exit(0)
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
                replies.flush()
            call_id += 1

    def _calls(
        self, first: int, calls: "Iterable[Any]", execute: "Callable[..., object]"
    ) -> None:
        """Execute the calls of a frame but those that have an answer already."""
        words, replies = self._words, self.replies
        call_id = replies.done() + 1
        clock = Clock(call_id)
        for call in islice(calls, call_id - first, None):
            if self._timed:
                words[SINCE] = monotonic_ns()
            words[BEGUN] = call_id
            try:
                value = execute(*call)
                if self.copy:
                    os._exit(0)
                replies.result(call_id, value)
            except BaseException as error:  # fails this call only; the worker goes on
                self._failed(call_id, error)
                if self._ended is not None:
                    return
            if call_id >= clock.look_at and clock.late(call_id, replies.deadline):
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
                producer.send_all(self._iterator(frame))
            if self.copy:
                os._exit(0)
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

    def _iterator(self, frame: wire.Frame) -> "Iterator[Any]":
        args, keywords = list(load_arguments(self.codec, frame.body)), {}
        if frame.flags & wire.KEYWORDS:
            keywords = args.pop()
        return self.streamed(*args, **keywords)  # type: ignore[no-any-return]

    def _failed(self, call_id: int, error: BaseException) -> None:
        if self.copy:
            os._exit(1)
        if self.replies.done() >= call_id:
            raise error  # a signal's handler raised it, behind the call
        if isinstance(error, SystemExit):
            self._ended = exit_status_of(error)
            return
        body = error_body(self.codec, error)
        self.replies.answer(call_id, wire.encode(wire.ERROR, body, first=call_id))

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
