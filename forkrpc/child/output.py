"""`stdout="forward"`: what a worker prints goes to the program, in order with events.

The text layer stays the object that it was, also for those who have kept it; the layer
below sends frames.  What C code and other processes write to the descriptor goes
through a pipe instead, which the program reads beside: when something comes, and at the
latest where a frame tells it that there was something, so that nothing overtakes it.
"""

import io
import os
import sys
from fcntl import ioctl

from .. import wire
from ..functions import is_coroutine
from ..system import LINUX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .logs import Speaker

CHUNK = 65536  # bytes in one frame, at most
_FIONREAD = 0x541B  # of Linux; the termios module, which has it, is not loaded
_LINE_BUFFERED = 1  # _IOLBF of stdio.h


class Stream(io.BufferedIOBase):
    """The binary layer of sys.stdout or sys.stderr.

    fd: whose place it takes, and where it writes when it cannot send; shown: the
    program's stream on which it appears, 1 or 2; limit: bytes of a frame.
    """

    def __init__(self, backend: "Speaker", fd: int, shown: int, limit: int) -> None:
        self._backend = backend
        self._fd = fd
        self._shown = shown
        self._chunk = min(CHUNK, limit)
        self._pid = os.getpid()
        self._place = _place_of(fd)
        self.name = f"<{'stdout' if fd == 1 else 'stderr'}>"
        self.mode = "wb"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, data: "Any") -> int:
        """Send *data* at once.  Blocks while the program does not read."""
        if self.closed:
            raise ValueError("write to closed file")
        view = memoryview(data).cast("B")
        tell_of_pipe(self._backend, self._shown)
        for at in range(0, len(view), self._chunk):
            part = bytes(view[at : at + self._chunk])
            if not self._may_send() or not self._backend.say(
                wire.OUTPUT, part, self._shown
            ):
                self._write_down(part)
        return len(view)

    def _may_send(self) -> bool:
        """Whether this is the worker, and has put nothing else behind the descriptor.

        A process that user code has forked uses the pipe.
        """
        return os.getpid() == self._pid and _place_of(self._fd) in (None, self._place)

    def _write_down(self, part: bytes) -> None:
        while part:
            part = part[os.write(self._fd, part) :]


def _place_of(fd: int) -> "tuple[int, int] | None":
    """Return what tells one file from another, None where none is open."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def tell_of_pipe(backend: "Speaker", fd: int) -> None:
    """Have the program read the pipe behind *fd* now, if there is something in it."""
    if not LINUX:
        return
    try:
        waiting = ioctl(fd, _FIONREAD, bytes(4))
    except OSError:  # the user's code has put something else there
        return
    if any(waiting):
        backend.say(wire.OUTPUT, b"", fd | wire.PIPED)


def forward(
    backend: "Speaker", shown: "dict[int, int]", limit: int
) -> "Callable[[], None]":
    """Replace the files of descriptors 1 and 2; return what flushes them.

    shown: {descriptor: the program's stream on which it appears}.
    """
    files = []
    for fd, where in shown.items():
        name = "stdout" if fd == 1 else "stderr"
        stream = Stream(backend, fd, where, limit)
        original = getattr(sys, f"__{name}__")
        errors = "strict" if fd == 1 else "backslashreplace"
        if type(original) is io.TextIOWrapper and not original.closed:
            original.flush()
            errors = original.errors or errors
            file = original
        else:
            file = io.TextIOWrapper.__new__(io.TextIOWrapper)
            setattr(sys, f"__{name}__", file)
        file.__init__(  # type: ignore[misc]
            stream, encoding="utf-8", errors=errors, newline="\n", line_buffering=True
        )
        if getattr(sys, name) is original:
            setattr(sys, name, file)
        files.append(file)
    pipes = set(shown.values())
    flush_c = _c_stdout() if 1 in shown else None

    def flush() -> None:
        for file in files:
            try:
                file.flush()
            except (OSError, ValueError):  # the user's code has closed it
                continue
        if flush_c is not None:
            flush_c()
        for fd in pipes:
            tell_of_pipe(backend, fd)

    return flush


def flushing(
    function: "Callable[..., Any]", flush: "Callable[[], None]"
) -> "Callable[..., Any]":
    """Return *function* with *flush* behind each call."""
    if is_coroutine(function):

        async def call_async(*args: "Any", **kwargs: "Any") -> "Any":
            try:
                return await function(*args, **kwargs)
            finally:
                flush()

        return call_async

    def call(*args: "Any", **kwargs: "Any") -> "Any":
        try:
            return function(*args, **kwargs)
        finally:
            flush()

    return call


def _c_stdout() -> "Callable[[], object] | None":
    """Have C's own stdout write lines, not blocks; return what flushes it.

    Into a pipe it would write when it has gathered 4 KiB, and nothing at `os._exit`.
    """
    try:
        # Not by ctypes, which would put 1 MiB into every worker.
        from _ctypes import _SimpleCData, call_function, dlopen, dlsym

        library = dlopen(None, 0)  # type: ignore[arg-type]
        setvbuf, fflush = dlsym(library, "setvbuf"), dlsym(library, "fflush")
        at = dlsym(library, "stdout")
    except (ImportError, OSError):
        return None

    class Pointer(_SimpleCData):  # type: ignore[type-arg]
        _type_ = "P"

    file = Pointer(Pointer.from_address(at).value)
    call_function(setvbuf, (file, Pointer(None), _LINE_BUFFERED, Pointer(None)))
    return lambda: call_function(fflush, (file,))
