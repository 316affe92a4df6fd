"""Run Python code in other processes: templates, workers, calls and events.

Every child executes this file, so it imports nothing: a public name is resolved when
it is first used (PEP 562).  `_HOMES` tells in which module each of them lives.
"""

exit_grace = 10.0
"""Seconds for which the end of the program waits for outstanding calls."""

_HOMES = {
    "Executor": "executor",
    "Forker": "forker",
    "Pool": "pool",
    "Process": "process",
    "Proxy": "proxy",
    "event": "child",
    "flush": "child",
    "in_worker": "child",
    "retire": "child",
    "Error": "errors",
    "SetupError": "errors",
    "WorkerDied": "errors",
    "CallTimeout": "errors",
    "RemoteError": "errors",
    "SerialiserError": "errors",
    "ProtocolError": "errors",
    "ClosedError": "errors",
}

__all__ = ["exit_grace", *_HOMES]  # noqa: PLE0604

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .child import event as event
    from .child import flush as flush
    from .child import in_worker as in_worker
    from .child import retire as retire
    from .errors import CallTimeout as CallTimeout
    from .errors import ClosedError as ClosedError
    from .errors import Error as Error
    from .errors import ProtocolError as ProtocolError
    from .errors import RemoteError as RemoteError
    from .errors import SerialiserError as SerialiserError
    from .errors import SetupError as SetupError
    from .errors import WorkerDied as WorkerDied
    from .executor import Executor as Executor
    from .forker import Forker as Forker
    from .pool import Pool as Pool
    from .process import Process as Process
    from .proxy import Proxy as Proxy


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'forkrpc' has no attribute {name!r}")
    module = __import__(f"forkrpc.{home}", fromlist=[name])
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> "list[str]":
    return sorted(set(globals()) | set(__all__))
