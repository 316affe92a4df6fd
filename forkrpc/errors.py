"""What the library raises on purpose; the class says whose fault it was.

    Error
    ├── SetupError       a step of a template, `init`, or the function's name failed;
    │                    also a BrokenExecutor
    ├── WorkerDied       the process that had the call ended; also a BrokenExecutor
    ├── CallTimeout      the call ran longer than its limit; also a TimeoutError
    ├── RemoteError      a remote exception that could not be rebuilt here
    ├── SerialiserError  a value cannot be sent or loaded
    ├── ProtocolError    the peer broke the protocol
    └── ClosedError      used after close, or in the wrong process

Executed in both processes, so it imports nothing at the top.
"""

__all__ = [
    "CallTimeout",
    "ClosedError",
    "Error",
    "ProtocolError",
    "RemoteError",
    "SerialiserError",
    "SetupError",
    "WorkerDied",
]

TYPE_CHECKING = False


class Error(Exception):
    """Base of all errors of this library.

    call: a short text of the call that failed, None where there is none.
    """

    call: "str | None" = None


if TYPE_CHECKING:
    from concurrent.futures import BrokenExecutor

    class SetupError(Error, BrokenExecutor): ...

    class WorkerDied(Error, BrokenExecutor):
        pid: "int | None"
        returncode: "int | None"
        signal: "str | None"
        started: "bool | None"
        stack: "str | None"

        def __init__(
            self,
            message: str,
            *,
            pid: "int | None" = None,
            returncode: "int | None" = None,
            signal: "str | None" = None,
            started: "bool | None" = None,
            stack: "str | None" = None,
        ) -> None: ...


# Two are made on first use: BrokenExecutor lives in concurrent.futures, which loads
# logging and threading, and a child that never asks for it shall not have them.


def _setup_error() -> type:
    from concurrent.futures import BrokenExecutor

    class SetupError(Error, BrokenExecutor):
        """A step of a template, `init`, or finding the function failed.

        The message names the step and ends in the traceback of the other process.
        """

    return SetupError


def _worker_died() -> type:
    from concurrent.futures import BrokenExecutor

    class WorkerDied(Error, BrokenExecutor):
        """The worker's process ended before it answered this call.

        pid: its process id, None if it never had one.
        returncode: as in `subprocess.Popen`; negative for a signal, None if unknown.
        signal: the signal's name ("SIGKILL"), None if it was none.
        started: whether this call had begun; None if that cannot be known.
        stack: where it crashed, as `faulthandler` tells it; None if it did not.
        """

        def __init__(
            self,
            message: str,
            *,
            pid: "int | None" = None,
            returncode: "int | None" = None,
            signal: "str | None" = None,
            started: "bool | None" = None,
            stack: "str | None" = None,
        ) -> None:
            super().__init__(message)
            self.pid = pid
            self.returncode = returncode
            self.signal = signal
            self.started = started
            self.stack = stack

        def __reduce__(self) -> "tuple[object, ...]":
            return _rebuild_worker_died, (self.args, self.__dict__)

    return WorkerDied


_LATE = {"SetupError": _setup_error, "WorkerDied": _worker_died}


def _rebuild_worker_died(args: "tuple[str]", state: "dict[str, object]") -> object:
    from . import errors

    error = errors.WorkerDied(*args)
    error.__dict__.update(state)
    return error


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = _LATE[name]()
    made.__module__, made.__qualname__ = __name__, name
    # One class, whichever of several threads made it first.
    return globals().setdefault(name, made)


class CallTimeout(Error, TimeoutError):
    """The call ran longer than its `timeout`."""


class RemoteError(Error):
    """An exception of the other process that could not be rebuilt in this one.

    type_name: "module.Class" of the original; message: its str();
    traceback: its formatted traceback, with causes and contexts.
    """

    def __init__(self, type_name: str, message: str, traceback: str) -> None:
        super().__init__(type_name, message, traceback)
        self.type_name = type_name
        self.message = message
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}\n\n{self.traceback}".rstrip()


class SerialiserError(Error):
    """A value cannot be sent or loaded; `__cause__` tells why."""


class ProtocolError(Error):
    """The other side sent bytes that are no frame, or a frame out of place."""


class ClosedError(Error, RuntimeError):
    """Used after close, or in a process that does not own it."""
