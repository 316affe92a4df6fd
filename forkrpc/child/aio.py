"""The asyncio backend: calls run at once on one loop.

Everything is done in `_turn`, once in a turn of the loop: calls begin (`calls`), and
what was made leaves (`answers`).  Nothing here waits but the loop itself, and `flush`.
"""

import asyncio
import inspect
import os
import sys
from _socket import MSG_DONTWAIT
from _thread import get_ident
from contextvars import copy_context

from .. import wire
from ..decoder import Decoder
from ..errors import ProtocolError
from ..progress import BEGUN
from ..serialisers import PickleCodec
from ..system import mortal
from .answers import Answers
from .calls import Calls
from .leave import exit_status_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable
    from typing import Any

    from ..progress import Page
    from ..serialisers import Codec
    from .around import Around
    from .keeper import Turn

LEAVE_LIMIT = 1.0  # seconds that tasks have to end when the worker does


class Async:
    """The worker's end of its connection; `codec` and the function are set first.

    hung_up: tells whether the program is gone.
    """

    def __init__(
        self,
        channel: "socket",
        spec: "dict[str, Any]",
        page: "Page",
        hung_up: "Callable[[], bool]" = lambda: False,
    ) -> None:
        self.answers = Answers(channel, page, spec["max_frame"], self._made)
        self.calls = Calls(self.answers, spec, page)
        self.program_gone = False  # or going: what was started here goes too
        self._channel = channel
        self._mortal = spec["mortal"]
        self._words = page.words
        self.flush_output: Callable[[], None] | None = None  # where it is forwarded
        self._hung_up = hung_up
        self._busy = False  # the end of the program may end this process
        self._decoder = Decoder(spec["max_frame"], spec["buflen"])
        self._decoder.recv_into = channel.recv_into
        self._scheduled = self._inside = False  # a turn is to come; is under way
        self._reading = self._writing = False  # the loop watches for it
        self._closing = False  # no more calls come
        self._eof = False  # nothing more comes at all
        self._serving = False
        self._thread = get_ident()
        self._closed = False  # the program has said so
        self._mine: Turn | None = None  # where it executes one call
        self._broken: ProtocolError | None = None

    @property
    def codec(self) -> "Codec":
        return self.answers.codec

    @codec.setter
    def codec(self, codec: "Codec") -> None:
        self.answers.codec = codec

    def prepare(self, loop_factory: "Callable[[], Any] | None") -> None:
        """Make the loop."""
        loop = (loop_factory or asyncio.new_event_loop)()
        if not isinstance(loop, asyncio.AbstractEventLoop):
            raise TypeError(f"loop_factory returned {loop!r:.100}, which is no loop")
        self._loop = loop
        asyncio.set_event_loop(loop)

    def isolate(self, turn: "Turn", *, tells: bool) -> None:
        """Execute one call only, and say READY; write nothing before `serve`."""
        assert tells
        self._mine = turn
        self.answers.follow(turn.number - 1)
        self.calls.received = turn.number - 1
        if turn.number > 1:
            self._decoder.expect_no_greeting()

    def is_over(self) -> bool:
        """Return whether another process is to go on: this one has answered."""
        mine = self._mine
        return not (mine is None or self._closed) and self.answers.answered(mine.number)

    def mute(self) -> None:
        """Write nothing any more."""
        self.answers.mute()

    def use(self, function: "Callable[..., Any]", around: "Around") -> None:
        self.calls.use(function, around)

    def become_copy(self) -> None:
        """End when the function returns, or awaits: it forked this process."""
        self.calls.copy = True
        self.answers.become_copy()
        self._loop.call_soon(os._exit, 0)

    def serve(self, done: "Callable[[], Any] | None" = None) -> int:
        """Execute calls until the end of input; return the exit status.

        done: is called instead of leaving when nothing is outstanding any more.
        """
        loop, calls = self._loop, self.calls
        self._context = copy_context()
        self._serving = True
        calls.run_in(loop, self._context)
        loop.call_soon(self._watch, context=self._context)
        self._say_ready()
        while calls.ended is None:
            try:
                loop.run_forever()
            except SystemExit as error:  # in a callback or a task of the user's
                if calls.ended is None:
                    calls.ended = exit_status_of(error)
                done = None
        if self._broken is not None:
            raise self._broken
        self.answers.flush()
        if done is not None and self._closing:
            loop.run_until_complete(_finish(done))
        self._cancel_tasks()
        self._serving = False
        self.answers.flush()
        return calls.ended

    def _say_ready(self) -> None:
        pid, flags = os.getpid(), 0
        if self._mine is not None:
            pid, flags = self._mine.keeper, wire.ONE
            self.answers.release()
        self.answers.send(wire.encode(wire.READY, flags=flags, first=pid))

    def _cancel_tasks(self) -> None:
        """Have what still runs clean up, for a while."""
        loop = self._loop
        try:
            tasks = asyncio.all_tasks(loop)
            if tasks:
                for task in tasks:
                    task.cancel()
                loop.run_until_complete(asyncio.wait(tasks, timeout=LEAVE_LIMIT))
            closing = loop.shutdown_asyncgens()
            loop.run_until_complete(asyncio.wait_for(closing, LEAVE_LIMIT))
        except BaseException:  # the user's code raises; the process ends in any case
            sys.excepthook(*sys.exc_info())

    # The loop, in its thread; all but `_made`.

    def _made(self) -> None:
        """Have what was made leave in the next turn.  Any thread."""
        if not self._serving:
            return
        mine = get_ident() == self._thread
        if self._scheduled or (mine and self._inside):
            return
        self._scheduled = True
        # A signal handler runs in the loop's thread while the loop may be asleep.
        if mine and asyncio.current_task(self._loop) is not None:
            self._loop.call_soon(self._turn, context=self._context)
        else:
            self._loop.call_soon_threadsafe(self._turn, context=self._context)

    def _watch(self) -> None:
        """Watch the socket for what is wanted of it now."""
        loop, channel = self._loop, self._channel.fileno()
        reading = not (self.answers.full or self._eof)
        if reading is not self._reading:
            self._reading = reading
            if reading:
                loop.add_reader(channel, self._readable)
            else:
                loop.remove_reader(channel)

    def _readable(self) -> None:
        if self.calls.copy:
            os._exit(0)
        try:
            got = self._decoder.receive(self._channel.recv, MSG_DONTWAIT)
            self._obey_all()
        except BlockingIOError:
            return
        except ProtocolError as error:  # ends the process, with a traceback
            self._broken = error
            self.calls.end(1)
            return
        except ConnectionError:
            got = 0
        if not got:
            self._closing = self.program_gone = self._eof = True
        self._turn()

    def _obey_all(self) -> None:
        frames = self._decoder.frames
        while frames:
            frame = frames[0]
            if frame.kind in (wire.CALL, wire.STREAM):
                self.calls.add(frame, frames.popleft)
                self._closing = self._closing or self._mine is not None
                continue
            if frame.kind == wire.CANCEL:
                self.calls.cancel(frame.first)
            elif frame.kind in (wire.CREDIT, wire.STOP):
                self.calls.told(frame)
            elif frame.kind == wire.CLOSE:
                self._closing = self._closed = True
                self.program_gone = bool(frame.flags & wire.FOR_GOOD)
            elif frame.kind == wire.DEFINE and isinstance(self.codec, PickleCodec):
                self.codec.learn(frame.body)
            else:
                raise ProtocolError(f"{frame!r} from the program")
            frames.popleft()

    def _turn(self) -> None:
        """Begin calls, and write what was made."""
        self._scheduled = False
        if self.calls.copy:
            os._exit(0)
        self._inside = True
        more = True
        try:
            more = self.calls.ended is None and self._begin()
            if self.calls.copy:  # a call that began at once has forked it
                os._exit(0)
            if self._busy and not self.calls.outstanding():
                self._busy = False  # before the program can know that it is idle
                mortal(False)
            full = self.answers.full
            self._write()
            more = more or (full and not self.answers.full)
        except ProtocolError as error:
            self._broken, more = error, False
            self.calls.end(1)
        finally:
            self._inside = False
            if more and not self._scheduled:
                self._scheduled = True
                self._loop.call_soon(self._turn, context=self._context)
        if self._closing and not (more or self._writing or self.calls.outstanding()):
            self.calls.end(0)

    def _begin(self) -> bool:
        if not self._busy and self._mortal and self.calls.outstanding():
            self._busy = True
            mortal(True)
            if self._hung_up():  # just before: its signal has done nothing
                self.program_gone = True
                self.calls.end(0)
                return False
        return self.calls.begin()

    def _write(self) -> None:
        writing = not self.answers.leave(turn=True)
        if writing is not self._writing:
            self._writing = writing
            if writing:
                self._loop.add_writer(self._channel.fileno(), self._turn)
            else:
                self._loop.remove_writer(self._channel.fileno())
        self._watch()

    # What user code calls; any thread.

    def fail_setup(self, text: str) -> None:
        self.answers.release()
        self.answers.send(wire.encode(wire.FAILED, text.encode("utf-8", "replace")))
        self.answers.flush()

    def define(self, definition: bytes) -> None:
        self.answers.send(wire.encode(wire.DEFINE, definition))

    def say(self, kind: int, body: bytes, flags: int = 0) -> bool:
        """Send what this worker says (LOG, OUTPUT); return whether it will leave."""
        if kind != wire.OUTPUT and self.flush_output is not None:
            self.flush_output()
        call_id = self._words[BEGUN]
        self.answers.say(wire.encode(kind, body, flags=flags, first=call_id))
        return not self.answers.gone

    def event(self, args: "tuple[object, ...]") -> None:
        if self.flush_output is not None:
            self.flush_output()
        self.answers.event(args)

    def flush(self) -> bool:
        return self.answers.flush()

    def retire(self) -> None:
        self.answers.send(wire.encode(wire.RETIRE))


async def _finish(done: "Callable[[], Any]") -> None:
    """Call what the worker does instead of leaving."""
    returned = done()
    if inspect.isawaitable(returned):
        await returned
