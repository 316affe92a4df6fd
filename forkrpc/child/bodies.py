"""What a worker loads and dumps around a call; the same for both backends."""

from _pickle import dumps

from .. import outcome
from ..errors import SerialiserError
from ..parts import Parts
from ..wire import KEYWORDS, LIMIT, Frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..serialisers import Codec
    from ..wire import Frame


def load_arguments(codec: "Codec", body: "Any") -> "Any":
    """Return the values of one call.  Raise SerialiserError."""
    try:
        if type(body) is Parts:
            return codec.load_parts(body)
        return codec.load(body)
    except Exception as error:
        kind = type(error).__name__
        hint = ""
        if isinstance(error, ImportError):
            hint = "; the worker does not find it: is its folder on sys.path?"
        raise SerialiserError(
            f"arguments cannot be loaded: {kind}: {error}{hint}"
        ) from error


def load_call(codec: "Codec", frame: "Frame") -> "tuple[Any, dict[str, Any]]":
    """Return the arguments and the keywords of the one call of a frame."""
    args = load_arguments(codec, frame.body)
    return (args[:-1], args[-1]) if frame.flags & KEYWORDS else (args, {})


def error_body(codec: "Codec", error: BaseException, limit: int = LIMIT) -> bytes:
    """Return an exception as the body of an ERROR frame: as much as can be sent.

    limit: bytes.  Never raises an Exception.
    """
    dump = (lambda value: codec.dump((value,))) if codec.trusted else None
    name, message, text, thing = outcome.pack(error, dump)
    some = limit // 16  # characters
    short = message if len(message) <= some else f"{message[:some]}..."
    body = b""
    for packed in (
        (name, message, text, thing),
        (name, short, text[-some:], thing),
        (name, short, text[-some:], None),
    ):
        try:
            body = _plain(codec, packed)
        except Exception:  # an argument is no plain data: a number too long
            continue
        if len(body) <= limit:
            break
    return body


def _plain(codec: "Codec", packed: object) -> bytes:
    """Serialise what the library itself says about an error."""
    if codec.trusted:
        return dumps(packed, 4)
    from ..pairs import PAIRS

    return PAIRS["data"]()[0]((packed,))


def result_body(
    codec: "Codec", what: str, values: "Any", limit: int
) -> "bytes | Parts":
    """Serialise; raise SerialiserError, also for what is longer than *limit* bytes."""
    body = codec.dump_apart(values)
    if len(body) > limit:
        refuse(what, body, limit)
    return body


def refuse(what: str, body: "bytes | Parts", limit: int) -> None:
    """Raise SerialiserError: *body* is longer than *limit* bytes."""
    raise SerialiserError(
        f"{what} of {len(body)} bytes, max_frame is {limit}; "
        "raise it with run(..., max_frame=...)"
    )
