"""name -> (dumps, loads); both processes.  Engines are imported when first used.

`dumps` gets the tuple of values of one call and returns bytes; `loads` reverses it.
Keyword arguments are one more value, a dict, only when there are any.
"""

from _pickle import dumps as pickle_dumps
from _pickle import loads as pickle_loads

from . import classes
from .errors import SerialiserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Buffer = bytes | memoryview
    Values = tuple[object, ...]
    Dumps = Callable[[Values], bytes]
    Loads = Callable[[Buffer], Values]
    Pair = tuple[Dumps, Loads]

PORTABLE_PROTOCOL = 4  # read by every Python from 3.4 on
SCALARS = frozenset([int, float, bool, type(None), complex])
TEXTS = frozenset([int, float, bool, type(None), complex, str, bytes])
LONGEST_TEXT = 64  # characters of a string that is still kept for a batch
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

    def load(self, body: "Buffer") -> "Values":
        """Reverse `dump`; raise what loading raises."""
        values = self.loads(body)
        if not isinstance(values, (tuple, list)):
            raise SerialiserError(f"loads returned {values!r:.100}, which is no tuple")
        return tuple(values)


class PickleCodec(Codec):
    """The default.  Plain pickle first: it is right for all but `__main__`."""

    packs = True
    trusted = True

    def __init__(self, define: "Callable[[bytes], None]") -> None:
        super().__init__(pickle_dumps, pickle_loads)
        self.load = pickle_loads  # type: ignore[assignment, method-assign]
        self._define = define
        self.sent: set[classes.Group] = set()

    def dump(self, values: object) -> bytes:
        try:
            body = pickle_dumps(values, classes.PROTOCOL)
            # As `classes.plain`, which costs another call.
            if classes.BY_NAME not in body or body.find(b"__main__") < 0:
                return body
        except Exception:  # PicklingError, TypeError, or whatever __reduce__ raises
            pass
        try:
            return self._dumps(values)
        except Exception as error:
            raise explained(error, values, self._dumps) from error

    def _dumps(self, values: object) -> bytes:
        with classes.lock():
            definitions, body = classes.freeze(values, self.sent)
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


def _bytes_pair() -> "Pair":
    """Byte strings only, each behind its length; None is length 2**64 - 1."""
    none = (2**64 - 1).to_bytes(8, "little")

    def dumps(values: "Values") -> bytes:
        pieces = []
        for value in values:
            if value is None:
                pieces.append(none)
                continue
            if not isinstance(value, (bytes, bytearray, memoryview)):
                raise TypeError(
                    f"serialiser 'bytes' sends byte strings, not {value!r:.100}"
                )
            data = bytes(value)
            pieces += (len(data).to_bytes(8, "little"), data)
        return b"".join(pieces)

    def loads(body: "Buffer") -> "Values":
        values: list[bytes | None] = []
        at = 0
        while at < len(body):
            length = bytes(body[at : at + 8])
            at += 8
            if length == none:
                values.append(None)
                continue
            end = at + int.from_bytes(length, "little")
            if len(length) < 8 or end > len(body):
                raise ValueError(f"{end - len(body)} bytes missing in a byte string")
            values.append(bytes(body[at:end]))
            at = end
        return tuple(values)

    return dumps, loads


def _json_pair() -> "Pair":
    from json import JSONDecoder, JSONEncoder

    encode = JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
    decode = JSONDecoder().decode

    def dumps(values: "Values") -> bytes:
        return encode(list(values)).encode("utf-8", "surrogatepass")

    def loads(body: "Buffer") -> "Values":
        return tuple(decode(str(body, "utf-8", "surrogatepass")))

    return dumps, loads


_TAG = "\x00"  # key of a JSON object that stands for something else


def _to_data(value: object) -> object:
    kind = type(value)
    if kind in (str, int, float, bool, type(None)):
        return value
    if kind is list:
        return [_to_data(each) for each in value]  # type: ignore[attr-defined]
    if kind is dict:
        items = list(value.items())  # type: ignore[attr-defined]
        if all(type(key) is str and key != _TAG for key, _ in items):
            return {key: _to_data(each) for key, each in items}
        return {_TAG: "d", "v": [[_to_data(k), _to_data(v)] for k, v in items]}
    if kind in (tuple, set, frozenset):
        tag = {tuple: "t", set: "s", frozenset: "f"}[kind]
        return {_TAG: tag, "v": [_to_data(each) for each in value]}  # type: ignore[attr-defined]
    if kind in (bytes, bytearray):
        from binascii import b2a_base64

        tag = "b" if kind is bytes else "a"
        text = b2a_base64(value, newline=False).decode()  # type: ignore[arg-type]
        return {_TAG: tag, "v": text}
    if kind is complex:
        return {_TAG: "c", "v": [value.real, value.imag]}  # type: ignore[attr-defined]
    raise TypeError(f"{kind.__qualname__} is no plain data: {value!r:.100}")


def _from_data(value: object) -> object:
    if isinstance(value, list):
        return [_from_data(each) for each in value]
    if not isinstance(value, dict):
        return value
    if _TAG not in value:
        return {key: _from_data(each) for key, each in value.items()}
    tag, inner = value[_TAG], value["v"]
    if tag == "d":
        return {_from_data(key): _from_data(each) for key, each in inner}
    if tag in ("b", "a"):
        from binascii import a2b_base64

        data = a2b_base64(inner)
        return data if tag == "b" else bytearray(data)
    if tag == "c":
        return complex(*inner)
    made = {"t": tuple, "s": set, "f": frozenset}[tag]
    return made(_from_data(each) for each in inner)


def _data_pair() -> "Pair":
    """JSON with tags for bytes, tuples, sets and keys that are no strings."""
    json_dumps, json_loads = _json_pair()

    def dumps(values: "Values") -> bytes:
        return json_dumps(tuple(_to_data(value) for value in values))

    def loads(body: "Buffer") -> "Values":
        return tuple(_from_data(value) for value in json_loads(body))

    return dumps, loads


def _cbor_pair() -> "Pair":
    cbor2 = _engine("cbor2", "cbor")

    def dumps(values: "Values") -> bytes:
        body: bytes = cbor2.dumps(list(values), value_sharing=True)
        return body

    def loads(body: "Buffer") -> "Values":
        return tuple(cbor2.loads(bytes(body)))

    return dumps, loads


def _portable_pair() -> "Pair":
    return lambda values: pickle_dumps(values, PORTABLE_PROTOCOL), pickle_loads


def _msgpack_pair() -> "Pair":
    msgspec = _engine("msgspec", "msgpack")
    encode, decode = msgspec.msgpack.encode, msgspec.msgpack.decode
    return encode, lambda body: tuple(decode(body))


def _engine(module: str, extra: str) -> "Any":
    try:
        return __import__(module)
    except ImportError as error:
        raise ImportError(
            f"serialiser needs {module}: pip install 'forkrpc[{extra}]'", name=module
        ) from error


PAIRS: "dict[str, Callable[[], Pair]]" = {
    "bytes": _bytes_pair,
    "json": _json_pair,
    "data": _data_pair,
    "cbor": _cbor_pair,
    "portable-pickle": _portable_pair,
    "msgpack": _msgpack_pair,
}


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
