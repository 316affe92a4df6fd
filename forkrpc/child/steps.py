"""What steps do to a template, in order: paths, imports, sources, values, handles."""

import os
import sys
from _pickle import loads

from .. import classes, wire
from ..fds import close_all
from .worker import Argument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .template import Template

_SOURCES: "dict[str, str]" = {}  # texts given to eval, for tracebacks


def traceback_of(error: BaseException) -> str:
    """Return a traceback as text, with the lines of sources given to eval."""
    import linecache

    from ..outcome import text_of

    for name, source in _SOURCES.items():
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    text = text_of(error)
    summary = f"{type(error).__name__}: {error}"
    return (text if text.strip() == summary else f"{summary}\n\n{text}").rstrip()


def _take_over(_: "Template", arguments: "Any", handles: "list[int]") -> None:
    """Take the program's path, environment and directory of the moment."""
    path, environment = arguments
    if path is not None:
        sys.path[:], sys.prefix, sys.exec_prefix = path
    if environment is not None and environment != os.environb:
        os.environb.clear()
        os.environb.update(environment)
    try:
        for fd in handles:
            os.fchdir(fd)
    finally:
        close_all(handles)


def _require(_: "Template", names: "Any", _handles: "list[int]") -> None:
    for name in names:
        __import__(name)


def _evaluate(_: "Template", arguments: "Any", _handles: "list[int]") -> None:
    source, definitions, body = arguments
    for definition in definitions:
        classes.learn(definition)
    name = f"<forkrpc eval {len(_SOURCES) + 1}>"
    _SOURCES[name] = source
    namespace = sys.modules["__main__"].__dict__
    namespace["args"] = loads(body)
    exec(compile(source, name, "exec", dont_inherit=True), namespace)


def _add_values(template: "Template", arguments: "Any", _handles: "list[int]") -> None:
    definitions, body = arguments
    for definition in definitions:
        classes.learn(definition)
    template.arguments.append(Argument(None, body))


def _add_handles(template: "Template", kinds: "Any", handles: "list[int]") -> None:
    for kind, fd in zip(kinds, handles, strict=True):
        template.arguments.append(Argument(fd, kind))


def _shortened(names: "Any") -> str:
    return ", ".join(map(repr, names))


STEPS: "dict[int, tuple[Callable[[Any], str], Callable[..., None]]]" = {
    wire.STATE: (lambda _: "taking over path and directory", _take_over),
    wire.REQUIRE: (lambda names: f"require {_shortened(names)}", _require),
    wire.EVAL: (lambda given: f"eval {given[0]:.60}", _evaluate),
    wire.VALUES: (lambda _: "send_arg", _add_values),
    wire.HANDLES: (lambda _: "send_fh", _add_handles),
}
