"""What the workers of an Executor do: call the function that each call brings along.

Both processes: the program names these functions, the worker executes them.
"""

from _pickle import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Function = Callable[..., Any]

MOST_FUNCTIONS = 64  # that came by value and are kept

_functions: "dict[bytes, Function]" = {}


def task(function: "Function", /, *args: "Any", **kwargs: "Any") -> "Any":
    """Call *function*.  `operator.call` is not there before Python 3.11."""
    return function(*args, **kwargs)


async def async_task(function: "Function", /, *args: "Any", **kwargs: "Any") -> "Any":
    """Call *function*, which may be a coroutine function."""
    result = function(*args, **kwargs)
    return await result if hasattr(result, "__await__") else result


def chunk(function: "Function", items: "Sequence[tuple[Any, ...]]") -> "list[Any]":
    """Call *function* with each of these arguments."""
    return [function(*args) for args in items]


async def async_chunk(
    function: "Function", items: "Sequence[tuple[Any, ...]]"
) -> "list[Any]":
    """As `chunk`; *function* may be a coroutine function."""
    return [await async_task(function, *args) for args in items]


class Initializer:
    """An `init` that gets arguments of its own in place of the worker arguments."""

    def __init__(self, function: "Function", args: "Sequence[Any]") -> None:
        self._function = function
        self._args = args

    def __call__(self, *_worker_arguments: object) -> None:
        self._function(*self._args)


def loaded(body: bytes, *_classes: type) -> "Function":
    """Return the function that `packing` made these bytes of.  Called by pickle.

    It is kept, by its bytes.  *_classes*: those it refers to, so that they are sent.
    """
    function = _functions.get(body)
    if function is None:
        from zlib import decompress

        if len(_functions) >= MOST_FUNCTIONS:
            _functions.clear()
        function = _functions[body] = loads(decompress(body))
    return function
