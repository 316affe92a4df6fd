"""name -> (dumps, loads); both processes.  Engines are imported when first used.

`dumps` gets the tuple of values of one call and returns bytes; `loads` reverses it.
Keyword arguments are one more value, a dict, only when there are any.
"""

from _pickle import dumps as pickle_dumps
from _pickle import loads as pickle_loads

from . import classes
from .classes import BY_NAME, PROTOCOL
from .errors import SerialiserError
from .pairs import PAIRS
from .parts import LARGE, Parts
from .pieces import Pieces, pickled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .pairs import Buffer, Dumps, Loads, Values

SCALARS = frozenset([int, float, bool, type(None), complex])
TEXTS = frozenset([int, float, bool, type(None), complex, str, bytes])
LONGEST_TEXT = 64  # characters of a string that is still kept for a batch
LOOKS = 64  # bodies in which byte strings are looked for, behind one that was large
MOST_SCALARS = 8  # arguments of a call that is still kept for a batch


def keepable(values: "Values") -> bool:
    """Return whether *values* may be serialised later: small, and nobody can change it.

    Integers are unbounded, but only deliberate ones are long.
    """
    if len(values) == 1 and type(values[0]) not in TEXTS:
        return False  # as most often, and faster
    kinds = set(map(type, values))
    if not kinds <= TEXTS or len(values) > MOST_SCALARS:
        return False
    return kinds <= SCALARS or all(
        len(value) <= LONGEST_TEXT
        for value in values
        if type(value) is str or type(value) is bytes
    )


class Codec:
    """The serialiser of one connection, with what it has sent of classes.

    packs: whether many calls may share one body (the pickles).
    trusted: whether it can carry any object, and run code (the pickles).
    define: queues a DEFINE body for the peer.
    """

    packs = False
    trusted = False

    def __init__(self, dumps: "Dumps", loads: "Loads") -> None:
        self.dumps = dumps
        self.loads = loads

    def dump(self, values: "Values") -> bytes:
        """Serialise; raise SerialiserError that names the culprit."""
        try:
            body = self.dumps(values)
        except Exception as error:
            raise explained(error, values, self.dumps) from error
        if not isinstance(body, bytes):
            raise SerialiserError(f"dumps returned {body!r:.100}, which is no bytes")
        return body

    def dump_apart(self, values: "Values") -> "bytes | Parts":
        """As `dump`, but large byte strings may stay apart."""
        return self.dump(values)

    def load_parts(self, parts: Parts) -> "Values":
        """Reverse `dump_apart`, where it returned Parts."""
        raise SerialiserError("buffers apart from a body that is no pickle")

    def load(self, body: "Buffer") -> "Values":
        """Reverse `dump`; raise what loading raises."""
        values = self.loads(body)
        if not isinstance(values, (tuple, list)):
            raise SerialiserError(f"loads returned {values!r:.100}, which is no tuple")
        return tuple(values)


_OCTETS = frozenset([bytes, bytearray])


class _Large(Exception):
    """Raised through the pickler: what it writes has a large buffer."""


def _inside(buffer: "Any") -> bool:
    """Have small buffers written into the pickle; raise _Large for another."""
    if len(buffer.raw()) >= LARGE:
        raise _Large
    return True


class PickleCodec(Codec):
    """The default.  Plain pickle first: it is right for all but `__main__`."""

    packs = True
    trusted = True

    def __init__(self, define: "Callable[[bytes], None]") -> None:
        super().__init__(pickle_dumps, pickle_loads)
        self.load = pickle_loads  # type: ignore[assignment, method-assign]
        self._define = define
        self._large = 0  # bodies to come in which large byte strings are looked for
        self.sent: set[classes.Group] = set()

    def dump(self, values: object) -> bytes:
        try:
            body = pickle_dumps(values, PROTOCOL)
            # As `classes.plain`, which costs another call.
            if BY_NAME not in body or body.find(b"__main__") < 0:
                return body
        except Exception:  # PicklingError, TypeError, or whatever __reduce__ raises
            pass
        try:
            return self._dumps(values)
        except Exception as error:
            raise explained(error, values, self._dumps) from error

    def dump_apart(self, values: "Values") -> "bytes | Parts":
        for value in values:
            if type(value) in _OCTETS and len(value) >= LARGE:  # type: ignore[arg-type]
                break
        else:
            if not self._large:
                try:
                    body = pickle_dumps(values, PROTOCOL, buffer_callback=_inside)
                    if BY_NAME not in body or body.find(b"__main__") < 0:
                        if len(body) >= LARGE:
                            self._large = LOOKS
                        return body
                except Exception:  # _Large, or as in `dump`
                    pass
        try:
            return self._dumps_apart(values)
        except Exception as error:
            raise explained(error, values, self._dumps) from error

    def _dumps_apart(self, values: "Values") -> "bytes | Parts":
        """As `_dumps`, with large byte strings apart, wherever in the values."""
        try:
            found = pickled(values)
        except Exception:  # as in `dump`
            found = None
        body: Any = found.body if isinstance(found, Parts) else found
        if found is None or (BY_NAME in body and b"__main__" in body):
            pieces = Pieces()
            self._dumps(values, pieces)
            found = pieces.joined()
        if self._large > 0:
            self._large = LOOKS if isinstance(found, Parts) else self._large - 1
        return found

    def load_parts(self, parts: Parts) -> "Values":
        if any(each is None for each in parts.buffers):
            raise MemoryError("no memory for what was received")
        values: Values = pickle_loads(parts.body, buffers=parts.buffers)
        return values

    def _dumps(self, values: object, pieces: "Pieces | None" = None) -> bytes:
        """Serialise also what plain pickle refuses; into *pieces*, if there are any."""
        with classes.lock():
            definitions, body = classes.freeze(values, self.sent, pieces)
            for definition in definitions:
                self._define(definition)
            classes.mark(definitions, self.sent)
        return body

    def learn(self, definition: "Buffer") -> None:
        """Take a DEFINE body from the peer, which then has that class itself."""
        classes.learn(definition)
        classes.mark([bytes(definition)], self.sent)


def explained(
    error: Exception, values: object, dumps: "Callable[[Any], bytes]"
) -> SerialiserError:
    """Return a SerialiserError that names the path of the value that cannot be sent."""
    if isinstance(error, SerialiserError):
        return error
    path, culprit = _culprit(values, dumps)
    where = f"value{path} ({type(culprit).__qualname__})"
    kind = type(error).__name__
    hint = _hint(culprit)
    return SerialiserError(f"{where} cannot be sent: {kind}: {error}{hint}")


def _hint(culprit: object) -> str:
    name = type(culprit).__name__
    if name in ("generator", "async_generator"):
        return "; call a function that yields with stream(), or return a list"
    if name == "coroutine":
        return '; a coroutine function needs run(..., backend="async")'
    return ""


def _culprit(values: object, dumps: "Callable[[Any], bytes]") -> "tuple[str, object]":
    """Return (path, value) of the deepest part that fails alone."""
    path, culprit = "", values
    for _ in range(10):
        for step, part in _parts(culprit):
            try:
                dumps((part,))
            except Exception:
                path, culprit = path + step, part
                break
        else:
            break
    return path, culprit


def _parts(value: object) -> "list[tuple[str, object]]":
    if isinstance(value, (tuple, list)):
        return [(f"[{at}]", part) for at, part in enumerate(value[:1000])]
    if isinstance(value, dict):
        return [(f"[{key!r:.40}]", part) for key, part in list(value.items())[:1000]]
    state = getattr(value, "__dict__", None)
    if isinstance(state, dict) and not isinstance(value, type):
        return [(f".{key}", part) for key, part in list(state.items())[:1000]]
    return []


def codec(serialiser: object, define: "Callable[[bytes], None]") -> Codec:
    """Return the Codec of a name, a pair of callables, or "package.module:attribute".

    Raise ImportError (naming the extra to install), ValueError or TypeError.
    """
    if serialiser == "pickle":
        return PickleCodec(define)
    if isinstance(serialiser, str) and ":" not in serialiser:
        make = PAIRS.get(serialiser)
        if make is None:
            names = ", ".join(map(repr, ["pickle", *PAIRS]))
            raise ValueError(
                f"serialiser {serialiser!r} is none of {names}, "
                "nor 'package.module:attribute'"
            )
        pair: object = make()
        given = False
    else:
        pair = _named(serialiser) if isinstance(serialiser, str) else serialiser
        given = True
    if (
        not isinstance(pair, (tuple, list))
        or len(pair) != 2
        or not all(map(callable, pair))
    ):
        raise TypeError(
            f"serialiser must be a name or a pair (dumps, loads), not {pair!r:.100}"
        )
    dumps, loads = pair
    # A long body arrives as a memoryview, which not everybody's `loads` takes.
    made = Codec(dumps, (lambda body: loads(bytes(body))) if given else loads)
    made.trusted = serialiser == "portable-pickle"
    return made


def _named(name: str) -> object:
    module, _, attribute = name.partition(":")
    __import__(module)
    import sys

    found: object = sys.modules[module]
    for part in attribute.split("."):
        found = getattr(found, part)
    return found
