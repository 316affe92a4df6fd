"""A remote exception <-> bytes; both processes.

The exception travels as an object when it can, and always as text beside it.  With a
serialiser that is not a pickle only builtin exceptions are rebuilt.
"""

import builtins
from itertools import repeat

from .errors import RemoteError, SerialiserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Buffer = bytes | memoryview
    # An exception, its cause and context, its notes.
    Link = tuple[
        BaseException, BaseException | None, BaseException | None, list[str] | None
    ]
    Packed = tuple[str, str, str, object]  # type's name, message, traceback, the object

LONGEST_CHAIN = 20  # causes and contexts of one exception that travel with it
MOST_LINKS = 200  # exceptions in all, with those of groups, whose causes travel

# Only these are rebuilt from plain data: they do nothing but keep their arguments.
PLAIN = frozenset(
    name
    for name, kind in vars(builtins).items()
    if isinstance(kind, type)
    and issubclass(kind, Exception)
    and not issubclass(kind, UnicodeError)  # takes five arguments
    and name != "ExceptionGroup"
)


OWN = frozenset(["forkrpc.errors.SerialiserError"])  # the library's, the same way


def _getset(name: str) -> "tuple[Callable[[Any], Any], Callable[[Any, Any], None]]":
    """Return what reads, and what sets, this attribute of any exception."""
    descriptor: Any = vars(BaseException)[name]
    return descriptor.__get__, descriptor.__set__


# The class is the user's, and may refuse attributes.
_set = BaseException.__setattr__
_cause_of, _set_cause = _getset("__cause__")
_context_of, _set_context = _getset("__context__")


class RemoteTraceback(Exception):
    """Stands at the end of a chain of causes, to show the other process's traceback."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text.rstrip()}\n"""'


def type_name(error: BaseException) -> str:
    kind = type(error)
    if kind.__module__ in ("builtins", "__main__"):
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def message_of(error: BaseException) -> str:
    try:
        return str.__str__(str(error))  # of no class of the user's
    except Exception:  # the class is the user's
        return "(its __str__ failed)"


def text_of(error: BaseException) -> str:
    """Return the traceback as text; it begins at the first frame that is not ours."""
    import traceback

    frames = error.__traceback__
    while frames is not None and str(
        frames.tb_frame.f_globals.get("__name__")
    ).startswith("forkrpc."):
        frames = frames.tb_next
    try:
        lines = traceback.format_exception(type(error), error, frames)
    except Exception as problem:  # such as RecursionError, or a __str__ that raises
        return f"{type_name(error)}: (no traceback: {type_name(problem)})"
    return "".join(lines)


def pack(error: BaseException, dump: "Callable[[object], bytes] | None") -> "Packed":
    """Return an exception as plain data; *dump* pickles its object, None: no pickle.

    Runs in the worker.  Never raises an Exception.
    """
    name, message, text = type_name(error), message_of(error), text_of(error)
    if dump is None:
        args = error.args if name in PLAIN | OWN else ()
        if isinstance(error, OSError) and error.filename is not None:
            args = (*args[:2], error.filename, None, error.filename2)
        return name, message, text, _plain(args)
    for links_of in (_links, _alone):
        try:
            return name, message, text, dump(links_of(error))
        except Exception:  # whatever the user's __reduce__ raises: the text remains
            continue
    return name, message, text, None


def _plain(args: "tuple[object, ...]") -> object:
    plain = (str, int, float, bool, bytes, type(None))
    if all(type(arg) in plain for arg in args):
        return list(args)
    return None


def _links(error: BaseException) -> "list[Link]":
    """Return an exception and those that hang on it, which pickling would lose."""
    links: list[Link] = []
    seen = {id(error)}
    todo: list[tuple[BaseException, int]] = [(error, 1)]  # with its place in a chain
    for each, place in todo:
        cause, context = each.__cause__, None
        if cause is None and not each.__suppress_context__:
            context = each.__context__
        following = context if cause is None else cause
        if following is not None and place == LONGEST_CHAIN:
            cause = context = following = None
        links.append((each, cause, context, _notes(each)))
        for other, at in ((following, place + 1), *zip(_members(each), repeat(1))):
            if other is not None and id(other) not in seen and len(seen) < MOST_LINKS:
                seen.add(id(other))
                todo.append((other, at))
    return links


def _alone(error: BaseException) -> "list[Link]":
    return [(error, None, None, None)]


def _notes(error: BaseException) -> "list[str] | None":
    notes = getattr(error, "__notes__", None)
    if isinstance(notes, list) and all(type(note) is str for note in notes):
        return notes
    return None


def _members(error: BaseException) -> "tuple[BaseException, ...]":
    group = getattr(builtins, "BaseExceptionGroup", None)  # none in Python 3.10
    return error.exceptions if group is not None and isinstance(error, group) else ()


def unpack(
    packed: "Packed",
    load: "Callable[[Any], object] | None",
    interrupts: "Callable[[BaseException], bool]" = lambda _: False,
) -> Exception:
    """Return the exception of *packed*, or a RemoteError in its place.

    One that would end the caller's thread (KeyboardInterrupt and its like) becomes a
    RemoteError as well.  What *interrupts* is raised: it came from outside.  Runs in
    the parent.
    """
    name, message, text, body = packed
    substitute = RemoteError(name, message, text)
    if body is None:
        return substitute
    try:
        rebuilt = _rebuilt_plain(name, body) if load is None else _rebuilt(load(body))
    except BaseException as problem:  # runs the user's code: it may raise anything
        if interrupts(problem):
            raise
        substitute.__cause__ = problem if isinstance(problem, Exception) else None
        return substitute
    if not isinstance(rebuilt, Exception):
        return substitute
    _attach(rebuilt, text)
    return rebuilt


def _rebuilt(links: object) -> BaseException:
    if not isinstance(links, list) or not links:
        raise TypeError(f"no exceptions: {links!r:.100}")
    for error, cause, context, notes in links:
        if cause is not None:
            _set_cause(error, cause)
        if context is not None:
            _set_context(error, context)
        if notes is not None and getattr(error, "__notes__", None) != notes:
            _set(error, "__notes__", notes)
    first = links[0][0]
    if not isinstance(first, BaseException):
        raise TypeError(f"no exception: {first!r:.100}")
    return first


def _rebuilt_plain(name: str, args: object) -> BaseException:
    if not isinstance(args, (list, tuple)):
        raise TypeError(f"arguments of {name}: {args!r:.100}")
    error: object = _kind_of(name)(*args)
    if not isinstance(error, BaseException):
        raise TypeError(f"{name} is no exception")
    return error


def _kind_of(name: str) -> "Callable[..., object]":
    if name in OWN:
        return SerialiserError
    if name not in PLAIN:
        raise TypeError(f"{name} is not rebuilt from plain data")
    kind: Callable[..., object] = getattr(builtins, name)
    return kind


def _attach(error: BaseException, text: str) -> None:
    """Put the remote traceback at the end of the chain, where printing begins."""
    seen = {id(error)}
    while True:
        following = _cause_of(error)
        if following is None:  # not by its truth: the class may have a __len__
            following = _context_of(error)
        if following is None or id(following) in seen:
            break
        seen.add(id(following))
        error = following
    _set_cause(error, RemoteTraceback(text))


def name_call(
    error: Exception,
    text: str,
    interrupts: "Callable[[BaseException], bool]" = lambda _: False,
) -> None:
    """Set `.call` where the exception takes it and has none.

    What *interrupts* is raised.
    """
    try:
        if getattr(error, "call", None) is None:
            error.call = text  # type: ignore[attr-defined]
    except BaseException as problem:  # the class is the user's
        if interrupts(problem):
            raise
