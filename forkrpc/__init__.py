"""Run Python code in other processes: templates, workers, calls and events.

Every child executes this file, so it imports nothing: a public name is resolved when
it is first used (PEP 562).  `_HOMES` tells in which module each of them lives.
"""

exit_grace = 10.0
"""Seconds for which the end of the program waits for outstanding calls."""

_HOMES = {
    "Forker": "forker",
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
    from .child import event, flush, in_worker, retire
    from .errors import (
        CallTimeout,
        ClosedError,
        Error,
        ProtocolError,
        RemoteError,
        SerialiserError,
        SetupError,
        WorkerDied,
    )
    from .forker import Forker
    from .process import Process
    from .proxy import Proxy


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
