"""What `function` may be: a name, or anything that can be called; both processes.

The parent describes it, the worker finds it.  `__main__` of the parent is never
imported: what lives there goes by value.
"""

import sys

from .classes import importable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_CO_COROUTINE = 0x80  # of code objects
NAME, BARE, VALUE = "name", "bare", "value"


def describe(function: object, option: str = "function") -> "tuple[str, object]":
    """Return (how, what) for a name or callable.  Runs in the parent.

    Raise TypeError or ValueError, naming the *option*, where it can be neither.
    """
    if isinstance(function, str):
        parts = function.split(".")
        if not all(part.isidentifier() for part in parts):
            raise ValueError(
                f"{option} {function!r} is no dotted name; write 'package.module.name'"
            )
        return (NAME if len(parts) > 1 else BARE), function
    if not callable(function):
        raise TypeError(
            f"{option} must be a dotted name or a callable, not {function!r:.100}"
        )
    name = getattr(function, "__qualname__", None)
    if isinstance(name, str) and _is_plain(function) and importable(function):
        return NAME, f"{function.__module__}.{name}"
    return VALUE, function


def _is_plain(function: object) -> bool:
    """Whether it is a function or class itself, not an instance that looks like one."""
    return (
        isinstance(function, type)
        or hasattr(type(function), "__get__")
        or (type(function).__name__ == "builtin_function_or_method")
    )


def is_coroutine(function: object) -> bool:
    """Whether *function*, or the `__call__` of its class, is a coroutine function."""
    while hasattr(function, "func") and not hasattr(function, "__code__"):
        function = function.func  # of a functools.partial
    for each in function, getattr(type(function), "__call__", None):  # noqa: B004
        code = getattr(each, "__code__", None)
        if code is not None:
            return bool(code.co_flags & _CO_COROUTINE)
    return False


def name_of(function: object) -> str:
    """Return a short text for messages and titles."""
    if isinstance(function, str):
        return function
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return str(name)


def resolve(how: str, what: "Callable[..., object] | str") -> "Callable[..., object]":
    """Return the callable that was described.  Runs in the worker; imports its module.

    Raise ImportError, AttributeError or TypeError with the name in it.
    """
    if how == VALUE:
        return what  # type: ignore[return-value]
    name = str(what)
    if how == BARE:
        found = attribute(sys.modules["__main__"], name, name)
    else:
        found = dotted(name)
    if not callable(found):
        raise TypeError(f"{name!r} is {found!r:.100}, which cannot be called")
    return found


def loaded(name: str) -> object:
    """Return what *name* is where its module is loaded, else None."""
    module, _, attribute = name.rpartition(".")
    return getattr(sys.modules.get(module), attribute, None)


def dotted(name: str) -> object:
    """Import the longest prefix that is a module, then go on by attributes."""
    parts = name.split(".")
    __import__(parts[0])
    module: object = sys.modules[parts[0]]
    for at in range(1, len(parts)):
        prefix = ".".join(parts[: at + 1])
        # An attribute first: "os.path.join" is found so, and "numpy.sum" must not
        # look for a module numpy/sum.py at each start of a worker.
        found = getattr(module, parts[at], None)
        if found is None and hasattr(module, "__path__"):
            try:
                __import__(prefix)
            except ModuleNotFoundError as error:
                if error.name != prefix:
                    raise
            else:
                found = sys.modules[prefix]
        if found is None:
            found = attribute(module, parts[at], name)
        module = found
    return module


def attribute(owner: object, part: str, name: str) -> object:
    try:
        return getattr(owner, part)
    except AttributeError:
        where = getattr(owner, "__name__", None) or repr(owner)
        raise AttributeError(f"{name!r}: {where} has no attribute {part!r}") from None
