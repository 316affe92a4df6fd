"""How a worker ended, and what each of its calls is told."""

from .errors import CallTimeout, ClosedError, ProtocolError, SetupError, WorkerDied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# The signals that `faulthandler` tells of.
_CRASHES = frozenset(["SIGSEGV", "SIGFPE", "SIGABRT", "SIGBUS", "SIGILL"])
_OWN = f'  File "{__file__.rpartition("/")[0]}/'  # frames of this library
_TEMPLATE = '  File "<string>", line 1 in <module>'  # what it was executed with
MOST_LINES = 40  # of a stack that is told


class Death:
    """The end of one worker.

    begun: id of the last call it had begun, None if that cannot be known.
    timed_out: id of the call that ran too long and was ended for it, 0 for none.
    crash: what `faulthandler` wrote.
    """

    def __init__(
        self,
        name: str,
        pid: "int | None",
        returncode: "int | None",
        *,
        begun: "int | None" = None,
        timed_out: int = 0,
        timeout: "float | None" = None,
        setup: "str | None" = None,
        broken: "Exception | None" = None,
        crash: str = "",
    ) -> None:
        self.name = name
        self.pid = pid
        self.returncode = returncode
        self.begun = begun
        self.timed_out = timed_out
        self.timeout = timeout
        self.setup = setup
        self.broken = broken
        crashed = signal_name(returncode) in _CRASHES
        self.stack = stack_of(crash) if crashed and crash else None

    def error_of(self, call_id: int) -> "Any":
        """Return a new exception for one call; id 0 for the worker as a whole."""
        if self.setup is not None:
            return SetupError(self.setup)
        if self.broken is not None:
            return ProtocolError(f"worker {self.pid} was ended: {self.broken}")
        if self.timed_out and call_id in (0, self.timed_out):
            return CallTimeout(
                f"{self.name} ran longer than its timeout of {self.timeout} s; "
                f"worker {self.pid} was ended"
            )
        started = None
        if self.begun is not None and call_id:
            started = call_id <= self.begun
        stack = "" if self.stack is None else f"\n\n{self.stack}"
        return WorkerDied(
            f"worker {self.pid} ({self.name}) {self._how()}{_state(started)}{stack}",
            pid=self.pid,
            returncode=self.returncode,
            signal=signal_name(self.returncode),
            started=started,
            stack=self.stack,
        )

    def _how(self) -> str:
        if self.returncode is None:
            return "ended; its exit status is unknown"
        name = signal_name(self.returncode)
        if self.timed_out:
            return f"was ended since call {self.timed_out} ran longer than its timeout"
        if name is None:
            return f"exited with status {self.returncode}"
        hint = "; was memory short?" if name == "SIGKILL" else ""
        return f"was ended by {name}{hint}"


class Closed(Death):
    """What a call is told that has come into a pool behind its end."""

    def error_of(self, call_id: int) -> "Any":
        return ClosedError("the pool was closed")


def before_all(death: Death) -> Death:
    """Return the same for calls that no worker has begun."""
    return Death(
        death.name,
        death.pid,
        death.returncode,
        begun=0,
        setup=death.setup,
        broken=death.broken,
    )


def stack_of(crash: str) -> str:
    """Return what matters of the text of `faulthandler`: why, and the thread's stack.

    Innermost frames first, as it writes them; without those of this library.
    """
    reason, _, rest = crash.partition("\n\n")
    for part in rest.split("\n\n"):
        head, *lines = part.strip().split("\n")
        if head.startswith(("Current thread", "Stack (most recent")):
            inner = [line for line in lines if not line.startswith(_OWN)]
            if inner and inner[-1] == _TEMPLATE:
                inner.pop()
            if len(inner) > MOST_LINES:
                inner[MOST_LINES:] = [f"  ... and {len(inner) - MOST_LINES} lines"]
            return "\n".join([reason.strip(), head, *inner])
    return crash.strip()


def _state(started: "bool | None") -> str:
    if started is None:
        return ""
    return " during the call" if started else " before it began this call"


def signal_name(returncode: "int | None") -> "str | None":
    """Return "SIGKILL" and the like for a negative return code, else None."""
    if returncode is None or returncode >= 0:
        return None
    import signal

    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"
