"""The options of a pool that `run` does not have: checked where they are given."""

from math import inf

from .options import DEFAULTS, nearest, run_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OWN: "dict[str, Any]" = {
    "max": 4,
    "idle": 0,
    "load": 2,
    "start": 0.1,
    "stop": 10.0,
    "max_calls": None,
    "max_growth": None,
    "queue_limit": None,
    "retries": 0,
    "isolate": False,
    "exit_grace": None,
}


def pool_options(given: "dict[str, Any]") -> "tuple[dict[str, Any], dict[str, Any]]":
    """Return the options of the pool and those of its workers, checked.

    Raise TypeError or ValueError.
    """
    for name in given:
        if name not in OWN and name not in DEFAULTS:
            close = nearest(name, [*OWN, *DEFAULTS])
            raise TypeError(f"pool() has no option {name!r}{close}")
    own = {name: given.get(name, default) for name, default in OWN.items()}
    workers = {name: each for name, each in given.items() if name not in OWN}
    workers = run_options(workers, "pool")
    for name, least in (("max", 1), ("idle", 0), ("retries", 0)):
        check_count(name, own[name], least)
    for name in ("max_calls", "max_growth", "queue_limit"):
        if own[name] is not None:
            check_count(name, own[name], 1)
    for name in ("start", "stop", "exit_grace"):
        seconds = own[name]
        if seconds is None and name == "exit_grace":
            continue
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise TypeError(f"{name} must be a number of seconds, not {seconds!r:.100}")
        if not seconds >= 0:
            raise ValueError(f"{name} must be seconds, 0 or more, not {seconds!r}")
    if own["idle"] > own["max"]:
        raise ValueError(f"idle={own['idle']} is more than max={own['max']}")
    if not isinstance(own["isolate"], bool):
        raise TypeError(f"isolate must be True or False, not {own['isolate']!r:.100}")
    _check_load(own, given, workers)
    return own, workers


def check_count(name: str, count: "Any", least: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"{name} must be a number, not {count!r:.100}")
    if count < least:
        raise ValueError(f"{name} must be {least} or more, not {count}")


def _check_load(
    own: "dict[str, Any]", given: "dict[str, Any]", workers: "dict[str, Any]"
) -> None:
    load = own["load"]
    if load != "auto":
        if isinstance(load, str):
            raise ValueError(f"load must be a number or 'auto', not {load!r}")
        check_count("load", load, 1)
    elif workers["backend"] == "async":
        raise ValueError(
            "load='auto' measures calls that block; with backend='async' give the "
            "number of calls that one worker may run at once"
        )
    if own["isolate"]:
        for name in ("max_calls", "max_growth", "load"):
            if name in given and given[name] not in (1, None):
                raise ValueError(
                    f"isolate=True gives each process one call: leave out {name}"
                )
        own["start"], own["idle"] = 0.0, own["idle"] or own["max"]
    if own["isolate"] or own["max_calls"] == 1:  # the same, but for those kept ahead
        own["isolate"], own["load"], own["max_calls"] = True, 1, 1


def takes_worker(handler: "Any") -> bool:
    """Return whether an `on_event` wants to be told which worker it was."""
    if handler is None:
        return False
    from inspect import Parameter, signature

    try:
        found = signature(handler).parameters.get("worker")
    except (TypeError, ValueError):  # some builtins tell nothing of themselves
        return False
    return found is not None and found.kind in (
        Parameter.KEYWORD_ONLY,
        Parameter.POSITIONAL_OR_KEYWORD,
    )


def scheduling_of(own: "dict[str, Any]", *, asynchronous: bool) -> "dict[str, Any]":
    """Return the arguments of a Scheduler."""
    calls = own["max_calls"]
    return {
        "most": own["max"],
        "idle": own["idle"],
        "load": own["load"],
        "start": own["start"],
        "stop": own["stop"],
        "calls": inf if own["isolate"] or calls is None else calls,
        "exact": asynchronous,
    }
