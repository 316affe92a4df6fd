"""The serialisers that have no state: name -> pair (dumps, loads); both processes.

Engines are imported when first used.
"""

from _pickle import dumps as pickle_dumps
from _pickle import loads as pickle_loads

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
