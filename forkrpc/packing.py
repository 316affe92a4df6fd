"""Functions that go by value with many calls: serialised once, while they stay equal.

That must be seen by nobody.  So it is done only for functions that nothing can change
but by putting another object in the place of one, which is looked for at each call, and
that keep nothing for their next call.  All others are serialised anew for each call, as
they are at that moment.
"""

import dis
import sys
from functools import lru_cache
from operator import is_
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType

from . import classes
from .serialisers import TEXTS
from .tasks import loaded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

MOST_FUNCTIONS = 64  # that are kept
MOST_BYTES = 16384  # of a function that is kept: it is sent with each call
MOST_ITEMS = 64  # of a tuple that is looked through at each call

_CONSTANTS = TEXTS | {type(Ellipsis), type(NotImplemented), range}
_MISSING = object()
_OPAQUE = frozenset(["globals", "locals", "vars", "exec", "eval", "setattr", "delattr"])


class Packing:
    """The functions that one executor has sent."""

    def __init__(self) -> None:
        # function -> (what it was made of, what is sent in its place, if anything)
        self._known: dict[Any, tuple[list[Any], Any]] = {}

    def packed(self, function: "Any") -> "Any":
        """Return what to send in place of *function*, which may be itself.

        A function is packed when it comes for the second time: most lambdas never do.
        """
        if type(function) is not FunctionType or classes.importable(function):
            return function
        parts = parts_of(function)
        if parts is None:
            return function
        known, substitute = self._known.get(function, (None, None))
        if known is None or not _same(known, parts):
            if len(self._known) >= MOST_FUNCTIONS:
                self._known.clear()
            self._known[function] = parts, None
            return function
        if substitute is None:
            substitute = _packed(function)
            self._known[function] = parts, substitute
        return substitute


class Packed:
    """Becomes a function by being pickled and loaded."""

    def __init__(self, body: bytes, kinds: "list[type]") -> None:
        self._arguments = body, *kinds

    def __reduce__(self) -> "tuple[Any, ...]":
        return loaded, self._arguments


def _packed(function: "Any") -> "Any":
    """Return a Packed, or *function* itself if that gains nothing."""
    from zlib import compress

    try:
        with classes.lock():
            body, kinds = classes.by_value(function)
    except Exception:  # whatever a pickle raises: the call will say it
        return function
    if len(body) > MOST_BYTES:
        return function
    # Compressed it takes half as long to send, and `__main__` is not found in it, at
    # which the whole call would be taken for what plain pickle cannot carry.
    return Packed(compress(body), kinds)


def _same(known: "list[Any]", parts: "list[Any]") -> bool:
    return len(known) == len(parts) and all(map(is_, known, parts))


def parts_of(function: "Any") -> "list[Any] | None":
    """Return all that *function* is made of; None if some of it can change unseen.

    With the functions that it refers to, if they go by value too.
    """
    parts: list[Any] = []
    found = [function]
    writes = refers = False
    for each in found:  # which grows
        names, keeps, into = _read(each.__code__)
        writes = writes or into
        if keeps:
            return None
        parts.append(each.__code__)
        try:
            values = list(_values(each, names))
        except ValueError:  # an empty cell
            return None
        parts += values
        for value in values:
            if value is _MISSING or _is_constant(value):
                continue
            if type(value) is not FunctionType:
                return None
            if not classes.importable(value):
                refers = True
                if value not in found:
                    found.append(value)
    return None if writes and refers else parts  # it may keep something in a function


def _values(function: "Any", names: "list[str]") -> "Iterator[Any]":
    """Yield what a function refers to."""
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield from function.__dict__.values()
    for cell in function.__closure__ or ():
        yield cell.cell_contents
    variables = function.__globals__
    for name in names:
        yield variables.get(name, _MISSING)


def _is_constant(value: "Any") -> bool:
    """Return whether nobody can change *value*, or it is sent by name."""
    kind = type(value)
    if kind in _CONSTANTS or isinstance(value, type):
        return True
    if kind is tuple or kind is frozenset:
        return len(value) <= MOST_ITEMS and all(map(_is_constant, value))
    if kind is ModuleType:
        return sys.modules.get(value.__name__) is value
    return kind is BuiltinFunctionType and isinstance(value.__self__, ModuleType)


@lru_cache(256)
def _read(code: CodeType) -> "tuple[list[str], bool, bool]":
    """Return the names that *code* may look up, and two facts about it.

    That is, whether it puts something into a global or an outer function's variable,
    or may do so; and whether it sets attributes.
    """
    names: dict[str, None] = {}
    keeps = writes = False
    found = [code]
    for each in found:  # which grows
        names.update(dict.fromkeys(each.co_names))
        found += [const for const in each.co_consts if type(const) is CodeType]
        for step in dis.get_instructions(each):
            what, _, where = step.opname.partition("_")
            if what not in ("STORE", "DELETE"):
                continue
            writes = writes or where == "ATTR"
            outer = where == "DEREF" and step.argval in code.co_freevars
            keeps = keeps or outer or where == "GLOBAL"
    return list(names), keeps or not _OPAQUE.isdisjoint(names), writes
