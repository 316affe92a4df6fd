"""Reads what a worker, and what it starts, writes to a forwarded descriptor.

C code and other processes know of no frames: they write into a pipe.  It is read until
nobody holds its other end, which may be long after the worker has ended.
"""

import _thread
import os
from collections import deque

from . import wire
from .fds import above_stdio
from .reactor import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .program import Program
    from .session import Session
    from .wire import Frame

AT_ONCE = 65536  # bytes of one read
MOST = 1 << 20  # bytes read while others wait; no pipe of Linux holds more by itself


class Pipe:
    """One pipe, watched by the reactor.

    shown: the program's stream on which it appears, 1 or 2.
    read_before: reads what the worker has sent in frames, before the pipe is read.
    on_data: gets what comes as OUTPUT frames; an empty one is the end.
    """

    read_before: "Callable[[], object]"
    on_data: "Callable[[Frame], object]"

    def __init__(self, program: "Program", shown: int) -> None:
        read, write = os.pipe2(os.O_CLOEXEC)
        self._fd, self._writer = above_stdio(read), above_stdio(write)
        os.set_blocking(self._fd, False)
        self._reading = _thread.RLock()
        self._chunks: deque[bytes] = deque()
        self._program = program
        self.shown = shown
        program.ends[self] = None
        program.reactor.start()
        program.reactor.watch(self._fd, READ, self._ready)

    def take_writer(self) -> int:
        """Return the end for the worker, which the caller owns from now on."""
        writer, self._writer = self._writer, -1
        return writer

    def _ready(self, _events: int) -> None:
        self.read_before()
        self._read()

    def _read(self) -> int:
        """Read once; return the bytes, 0 where there is nothing now, or no more.

        By one thread at a time: what it read stays in order.
        """
        with self._reading:
            if self._fd < 0:
                return 0
            try:
                self._chunks.extend(map(os.read, (self._fd,), (AT_ONCE,)))
            except BlockingIOError:
                if not self._chunks:
                    return 0
            data = b"".join(self._chunks)  # more than one after an interrupt
            if not data:
                self.close()
            frame = wire.Frame(wire.OUTPUT, self.shown | wire.PIPED, 0, 1, 0, data)
            self._chunks.clear()
            self.on_data(frame)
            return len(data)

    def read_rest(self) -> None:
        """Read what is there now.  Any thread."""
        left = MOST
        while left > 0 and (got := self._read()):
            left -= got

    def close(self) -> None:
        with self._reading:
            if self._fd >= 0:
                self._program.reactor.unwatch(self._fd)
                os.close(self._fd)
                self._fd = -1
                self._program.ends.pop(self, None)
        self._close_writer()  # last: its end would be read

    def _close_writer(self) -> None:
        if self._writer >= 0:
            os.close(self.take_writer())

    # The end of the program: nothing to wait for, the worker is waited for.

    def close_at_exit(self) -> None:
        pass

    def outstanding(self) -> int:
        return 0

    def wait_for_end(self, timeout: float) -> bool:
        return True

    def kill_at_exit(self) -> None:
        pass

    def abandon(self) -> None:
        """Close the descriptors, in a forked copy of the program."""
        self._close_writer()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Pipes:
    """Those of one worker."""

    def __init__(self, session: "Session") -> None:
        self._session = session
        self._soon: Callable[[], None] = _nothing
        self._pipes: dict[int, Pipe] = {}  # by where they are shown

    def add(
        self,
        pipes: "list[Pipe]",
        read_before: "Callable[[], object]",
        soon: "Callable[[], None]",
    ) -> None:
        """Show what comes through *pipes*.

        read_before: as of Pipe.  soon: has what was read shown; called in the thread
        that reads.
        """
        self._soon = soon
        self._pipes = {pipe.shown: pipe for pipe in pipes}
        self._session.read_pipe = self._read_one
        for pipe in pipes:
            pipe.on_data = self._show
            pipe.read_before = read_before

    def _show(self, frame: "Frame") -> None:
        """Have shown what came through a pipe.  In the thread that reads."""
        frame.first = self._session.head()  # the call that most likely wrote it
        self._session.call_soon(self._session.on_said, frame)
        self._soon()
        if not frame.body:
            self._ended(frame.flags & ~wire.PIPED)

    def _ended(self, shown: int) -> None:
        """Nothing more comes through one; let all go behind the last: no cycle."""
        self._pipes.pop(shown, None)
        if not self._pipes:
            self._session.read_pipe = self._soon = _nothing

    def _read_one(self, frame: "Frame") -> None:
        """Read what was in a pipe when the worker sent *frame*."""
        pipe = self._pipes.get(frame.flags & ~wire.PIPED)
        if pipe is not None:
            pipe.read_rest()

    def read(self) -> None:
        """Read what is in all of them now.  Any thread."""
        for pipe in list(self._pipes.values()):
            pipe.read_rest()


def _nothing(*_: object) -> None:
    pass
