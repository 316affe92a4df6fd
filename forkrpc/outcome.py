"""A remote exception <-> bytes; both processes.

The exception travels as an object when it can, and always as text beside it.  With a
serialiser that is not a pickle only builtin exceptions are rebuilt.
"""

import builtins

from .errors import RemoteError, SerialiserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Buffer = bytes | memoryview
    Link = tuple[BaseException, str]  # an exception and how the next one belongs to it
    Packed = tuple[str, str, str, object]  # type's name, message, traceback, the object

LONGEST_CHAIN = 20  # causes and contexts of one exception that travel with it

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
    for chain in (_chain(error), [(error, "")]):
        try:
            return name, message, text, dump(chain)
        except Exception:  # whatever the user's __reduce__ raises: the text remains
            continue
    return name, message, text, None


def _plain(args: "tuple[object, ...]") -> object:
    plain = (str, int, float, bool, bytes, type(None))
    if all(type(arg) in plain for arg in args):
        return list(args)
    return None


def _chain(error: BaseException) -> "list[Link]":
    chain: list[Link] = []
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen and len(chain) < LONGEST_CHAIN:
        seen.add(id(each))
        following = each.__cause__
        link = "cause" if following is not None else ""
        if following is None and not each.__suppress_context__:
            following = each.__context__
            link = "context" if following is not None else ""
        chain.append((each, link))
        each = following
    return chain


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


def _rebuilt(chain: object) -> BaseException:
    if not isinstance(chain, list) or not chain:
        raise TypeError(f"no chain of exceptions: {chain!r:.100}")
    for (error, link), (following, _) in zip(chain, chain[1:], strict=False):
        if link == "cause":
            error.__cause__ = following
        else:
            error.__context__ = following
    first = chain[0][0]
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
        following = error.__cause__
        if following is None:  # not by its truth: the class may have a __len__
            following = error.__context__
        if following is None or id(following) in seen:
            break
        seen.add(id(following))
        error = following
    error.__cause__ = RemoteTraceback(text)


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
