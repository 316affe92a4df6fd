"""Context variables that travel with calls: which they are; both processes.

A variable is known by where it is found, "package.module:attribute": it cannot be
sent itself, and two variables of one name are still two.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextvars import ContextVar
    from typing import Any

    Variable = ContextVar[Any]

_UNSET: "Any" = object()


def found(name: str) -> "Variable":
    """Return the variable "package.module:attribute"; imports the module.

    Without a colon the longest prefix that is a module counts as one.  Raise
    ImportError, AttributeError or TypeError with the name in it.
    """
    from _contextvars import ContextVar

    from .functions import attribute, dotted

    module, colon, path = name.partition(":")
    if colon:
        __import__(module)
        thing: object = sys.modules[module]
        for part in path.split("."):
            thing = attribute(thing, part, name)
    else:
        thing = dotted(name)
    if not isinstance(thing, ContextVar):
        raise TypeError(f"context: {name!r} is {thing!r:.100}, which is no ContextVar")
    return thing


def name_of(variable: "Variable") -> str:
    """Return the name under which a worker finds *variable*.  Raise ValueError."""
    for name, module in list(sys.modules.items()):
        if name == "__main__" or getattr(module, "__spec__", None) is None:
            continue
        for key, value in list(getattr(module, "__dict__", {}).items()):
            if value is variable:
                return f"{name}:{key}"
    raise ValueError(
        f"context: no module that a worker can import has {variable!r}; define it at "
        "the top of such a module, or give its name as 'package.module:attribute'"
    )


def variables(given: "Any") -> "dict[str, Variable]":
    """Return {name: variable} of the option.  Raise TypeError, ValueError, ImportError.

    given: None, a name or ContextVar, or several of them.
    """
    from contextvars import ContextVar

    if given is None:
        return {}
    if isinstance(given, (str, ContextVar)):
        given = [given]
    named: dict[str, Variable] = {}
    try:
        several = list(given)
    except TypeError:
        several = [given]
    for each in several:
        if isinstance(each, ContextVar):
            named[name_of(each)] = each
        elif isinstance(each, str):
            parts = each.replace(":", ".", 1).split(".")
            if len(parts) < 2 or not all(part.isidentifier() for part in parts):
                raise ValueError(
                    f"context: {each!r} is no name; write 'package.module:attribute'"
                )
            named[each] = found(each)
        else:
            raise TypeError(f"context must be names or ContextVars, not {each!r:.100}")
    return named


def values(several: "dict[str, Variable]", *, octets: bool) -> "tuple[Any, ...]":
    """Return what travels behind a call's arguments: a value for each variable.

    The last item is None if all have a value; else a text of 1s, and 0s for those that
    have none, with None in their places.  octets: the serialiser takes bytes only.
    """
    taken = [variable.get(_UNSET) for variable in several.values()]
    if not any(value is _UNSET for value in taken):  # == may be the user's
        return (*taken, None)
    marks = "".join("0" if value is _UNSET else "1" for value in taken)
    sent = (None if value is _UNSET else value for value in taken)
    return (*sent, marks.encode() if octets else marks)
