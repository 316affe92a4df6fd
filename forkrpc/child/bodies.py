"""What a worker loads and dumps around a call; the same for both backends."""

from _pickle import dumps

from .. import outcome
from ..errors import SerialiserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..serialisers import Codec


def load_arguments(codec: "Codec", body: "Any") -> "Any":
    """Return the values of one call.  Raise SerialiserError."""
    try:
        return codec.load(body)
    except Exception as error:
        kind = type(error).__name__
        hint = ""
        if isinstance(error, ImportError):
            hint = "; the worker does not find it: is its folder on sys.path?"
        raise SerialiserError(
            f"arguments cannot be loaded: {kind}: {error}{hint}"
        ) from error


def error_body(codec: "Codec", error: BaseException) -> bytes:
    """Return an exception as the body of an ERROR frame.  Never raises an Exception."""
    if codec.trusted:
        packed = outcome.pack(error, lambda value: codec.dump((value,)))
        return dumps(packed, 4)
    from ..serialisers import PAIRS

    return PAIRS["data"]()[0]((outcome.pack(error, None),))


def result_body(codec: "Codec", what: str, values: "Any", limit: int) -> bytes:
    """Serialise; raise SerialiserError, also for what is longer than *limit* bytes."""
    body = codec.dump(values)
    if len(body) > limit:
        refuse(what, body, limit)
    return body


def refuse(what: str, body: bytes, limit: int) -> None:
    """Raise SerialiserError: *body* is longer than *limit* bytes."""
    raise SerialiserError(
        f"{what} of {len(body)} bytes, max_frame is {limit}; "
        "raise it with run(..., max_frame=...)"
    )
