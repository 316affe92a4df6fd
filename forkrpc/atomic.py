"""Several steps by one call into C.

The main thread can be interrupted between any two bytecodes, a worker's also by signal
handlers of the user.  So whatever belongs together is done here: all of it, or nothing.
A step must not run Python code, nor release what does.
"""

import operator
from collections import deque
from functools import partial
from itertools import islice, repeat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

_call = operator.methodcaller("__call__")
_apply: "Callable[[Any, Any], Any] | None" = getattr(operator, "call", None)
_popleft = deque.popleft
_SINK: "deque[Any]" = deque(maxlen=0)  # takes everything, keeps nothing
drop: "Callable[[Iterable[Any]], None]" = _SINK.extend
"""A function for `together` that consumes an iterator, such as `leftmost` returns."""


def at_once(*steps: "Callable[[], object]") -> None:
    """Execute C functions one after another with no bytecode in between.

    A signal handler can raise between any two bytecodes of the main thread, and
    another thread can run there.  What must not be torn is therefore one call into C:
    *steps* are `functools.partial` objects or bound methods of builtin types.
    """
    deque(map(_call, steps), 0)


def together(
    functions: "tuple[Callable[[Any], object], ...]", arguments: "tuple[Any, ...]"
) -> None:
    """As `at_once`, four times faster: each C function gets its argument.

    They return None: `append`, `extend`, `drop`.
    """
    if _apply is not None:
        any(map(_apply, functions, arguments))
    else:  # Python 3.10
        any(map(partial.__call__, map(partial, functions), arguments))


def doing(steps: "Iterable[Callable[[], object]]") -> "Iterator[object]":
    """Return an iterator for `drop` that takes such steps as `at_once` does."""
    return map(_call, steps)


def oldest(queue: "deque[Any]", count: int) -> "list[Any]":
    """Return the *count* leftmost items, or as many as there are; they stay there.

    Other threads may append meanwhile, but nobody may take items out.
    """
    while True:
        try:
            return list(islice(queue, count))
        except RuntimeError:  # one appended between these two calls into C
            pass


def leftmost(queue: "deque[Any]", count: int) -> "Iterator[Any]":
    """Return an iterator that takes *count* items out of *queue*, from the left."""
    return map(_popleft, repeat(queue, count))
