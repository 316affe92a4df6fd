"""The options of `run`: checked where they are given, applied in the worker."""

import os

from .context import variables
from .wire import LIMIT, SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

DEVNULL, STDOUT = -3, -2  # as in subprocess
FORWARD = "forward"  # into frames
FORWARD_STDOUT = "forward as stdout"  # stderr, where stdout is forwarded

DEFAULTS: "dict[str, Any]" = {
    "backend": "sync",
    "on_error": None,
    "on_event": None,
    "on_destroy": None,
    "init": None,
    "done": None,
    "serialiser": "pickle",
    "buflen": SIZE,
    "buflen_req": None,
    "buflen_res": None,
    "limit": None,
    "timeout": None,
    "orphan": "kill",
    "loop": None,
    "loop_factory": None,
    "stdin": "null",
    "stdout": "inherit",
    "stderr": "inherit",
    "logs": True,
    "context": None,
    "rlimits": None,
    "nice": 0,
    "affinity": None,
    "max_frame": LIMIT,
}
ASYNC_ONLY = ("limit", "done", "loop_factory")
_CALLBACKS = ("on_error", "on_event", "on_destroy")
_SIZES = ("buflen", "buflen_req", "buflen_res", "max_frame")


def run_options(given: "dict[str, Any]", verb: str = "run") -> "dict[str, Any]":
    """Return all options, checked.  Raise TypeError or ValueError."""
    for name in given:
        if name not in DEFAULTS:
            close = nearest(name, DEFAULTS)
            raise TypeError(f"{verb}() has no option {name!r}{close}")
    options = {**DEFAULTS, **given}
    _check_backend(options)
    for name in _CALLBACKS:
        if options[name] is not None and not callable(options[name]):
            raise TypeError(f"{name} must be callable, not {options[name]!r:.100}")
    for name in _SIZES:
        size = options[name]
        if size is None and name.startswith("buflen_"):
            continue
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a number of bytes above 0, not {size!r}")
    checked_timeout(options["timeout"])
    if options["done"] is not None:
        options["orphan"] = given.get("orphan", "finish")
    _check_orphan(options["orphan"], options["done"])
    loop = options["loop"]
    if loop is not None and not hasattr(loop, "call_soon_threadsafe"):
        raise TypeError(f"loop must be an asyncio event loop, not {loop!r:.100}")
    for name in ("stdin", "stdout", "stderr"):
        options[name] = _stream(name, options[name])
    if options["stderr"] == "stdout" and options["stdout"] == FORWARD:
        options["stderr"] = FORWARD_STDOUT
    if not isinstance(options["logs"], bool):
        raise TypeError(f"logs must be True or False, not {options['logs']!r:.100}")
    options["context"] = variables(options["context"])
    options["rlimits"] = _rlimits(options["rlimits"])
    options["affinity"] = _affinity(options["affinity"])
    if not isinstance(options["nice"], int):
        raise TypeError(f"nice must be an int, not {options['nice']!r}")
    options["paced"] = options["isolate"] = False
    return options


def _check_backend(options: "dict[str, Any]") -> None:
    """Check the backend, and what only one of them has."""
    backend = options["backend"]
    if backend not in ("sync", "async"):
        raise ValueError(f"backend must be 'sync' or 'async', not {backend!r:.100}")
    for name in ASYNC_ONLY:
        if backend == "sync" and options[name] is not None:
            raise TypeError(f"{name} is an option of backend='async' only")
    limit = options["limit"]
    if limit is not None and (
        not isinstance(limit, int) or isinstance(limit, bool) or limit < 1
    ):
        raise ValueError(f"limit must be a number of calls above 0, not {limit!r:.100}")


def _check_orphan(orphan: "Any", done: object) -> None:
    if orphan not in ("kill", "finish"):
        raise ValueError(f"orphan must be 'kill' or 'finish', not {orphan!r}")
    if orphan == "kill" and done is not None:
        raise ValueError(
            "orphan must be 'finish' with done: it is called when the program is gone"
        )


def checked_timeout(timeout: object) -> None:
    """Raise ValueError for what is no number of seconds, nor None."""
    if timeout is not None and not (isinstance(timeout, (int, float)) and timeout > 0):
        raise ValueError(f"timeout must be seconds above 0 or None, not {timeout!r}")


def nearest(name: str, options: "Iterable[str]") -> str:
    """Return the end of a message: which of *options* was meant."""
    from difflib import get_close_matches

    found = get_close_matches(name, options, 1)
    if found:
        return f"; did you mean {found[0]!r}?"
    return "; its options are " + ", ".join(options)


def _stream(name: str, given: "Any") -> "str | int":
    """Return "null", "inherit", "forward", "stdout" or a descriptor."""
    if given is None or given == "inherit":
        return "inherit"
    if given in ("null", DEVNULL):
        return "null"
    if given == STDOUT and name == "stderr":
        return "stdout"
    if given == FORWARD and name != "stdin":
        return FORWARD
    fd = given
    if hasattr(given, "fileno"):
        if hasattr(given, "flush") and name != "stdin":
            given.flush()
        fd = given.fileno()
    if isinstance(fd, int) and not isinstance(fd, bool) and fd >= 0:
        os.fstat(fd)
        return fd
    forward = "" if name == "stdin" else "'forward', "
    raise TypeError(
        f"{name} must be 'null', 'inherit', {forward}a descriptor or a file with "
        f"fileno(), not {given!r:.100}; for a pipe pass one end of os.pipe()"
    )


def _rlimits(given: "Any") -> "list[tuple[int, tuple[int, int]]]":
    """Return [(resource, (soft, hard))] of a dict {"AS": bytes, "CPU": (s, s)}."""
    if not given:
        return []
    if not isinstance(given, dict):
        raise TypeError(
            f'rlimits must be a dict such as {{"AS": 2**30}}, not {given!r:.100}'
        )
    import resource

    limits = []
    for name, limit in given.items():
        number = name
        if isinstance(name, str):
            number = getattr(resource, f"RLIMIT_{name.removeprefix('RLIMIT_')}", None)
        if not isinstance(number, int):
            raise ValueError(f"rlimits: {name!r} is no limit; write 'AS' or 'CPU'")
        pair = (limit, limit) if isinstance(limit, int) else limit
        if (
            not isinstance(pair, (tuple, list))
            or len(pair) != 2
            or not all(isinstance(each, int) for each in pair)
        ):
            raise ValueError(
                f"rlimits: {name!r} must be a number or a pair (soft, hard), "
                f"not {limit!r:.100}"
            )
        limits.append((int(number), (pair[0], pair[1])))
    return limits


def _affinity(given: "Any") -> "list[int] | None":
    if given is None:
        return None
    try:
        cpus = sorted(map(int, given))
    except (TypeError, ValueError):
        raise TypeError(
            f"affinity must be numbers of processors, not {given!r:.100}"
        ) from None
    usable = os.sched_getaffinity(0)
    if not cpus or not usable.issuperset(cpus):
        raise ValueError(f"affinity {cpus} must be processors of {sorted(usable)}")
    return cpus
