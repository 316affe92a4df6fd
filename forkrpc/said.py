"""Shows what one worker says: records and warnings, and what it prints.

Everything here runs in the callbacks' thread, in order with events.  Loggers, files and
`warnings` are looked up when there is something to show.
"""

import io
import sys
from codecs import getincrementaldecoder

from . import notes, wire
from .errors import SerialiserError
from .options import FORWARD, FORWARD_STDOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .cells import Cells
    from .serialisers import Codec
    from .session import Session

    Spec = dict[str, Any]

_NAMES = {wire.STDOUT: "stdout", wire.STDERR: "stderr"}

_utf8 = getincrementaldecoder("utf-8")


class Said:
    """What one worker says.

    cells: knows in which notebook cell a call was made; None outside of notebooks.
    """

    def __init__(self, session: "Session", cells: "Cells | None") -> None:
        self._session = session
        self._cells = cells
        self._decoders: dict[int, Any] = {}  # by flags

    def show(self, frame: wire.Frame) -> None:
        """Show what a LOG or OUTPUT frame tells."""
        show = self._write if frame.kind == wire.OUTPUT else self._note
        context = None
        if self._cells is not None:
            context = self._cells.context_of(frame.first)
        if context is None:
            show(frame.flags, frame.body)
        else:
            context.run(show, frame.flags, frame.body)

    # Records and warnings.

    def _note(self, flags: int, body: "Any") -> None:
        codec = self._session.codec
        try:
            plain, packed = notes.loads(body, trusted=codec.trusted)
            fields = {**plain, **_extras(codec, packed)}
            make = _warning_of if flags & wire.WARNING else _record_of
            show = make(fields)
        except Exception as error:
            kind = type(error).__name__
            self._session.on_error(
                SerialiserError(f"a log record cannot be loaded: {kind}: {error}")
            )
            return
        show()

    # Output.

    def _write(self, flags: int, body: "bytes | memoryview") -> None:
        """Write to sys.stdout or sys.stderr as they are now.  No data: the end.

        A file that is closed or gone is nobody's who could be told.
        """
        decoder = self._decoders.get(flags)
        if decoder is None:
            decoder = self._decoders[flags] = _utf8("surrogateescape")
        text = decoder.decode(bytes(body), not body)
        file: Any = getattr(sys, _NAMES.get(flags & ~wire.PIPED, ""), None)
        if file is None or not text:
            return
        try:
            _write_text(file, text)
            # What the worker flushed shall be seen; others do so by themselves.
            if isinstance(file, io.TextIOWrapper):
                file.flush()
        except (OSError, ValueError):
            return


def _write_text(file: "Any", text: str) -> None:
    """Write *text* with surrogates for what is no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        data = text.encode("utf-8", "surrogateescape")
        if hasattr(file, "buffer"):
            file.flush()
            file.buffer.write(data)
            return
        text = data.decode("utf-8", "backslashreplace")
    try:
        file.write(text)
    except UnicodeEncodeError:  # a file that has not all characters
        encoding = getattr(file, "encoding", None) or "ascii"
        file.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _extras(codec: "Codec", packed: "Any") -> "dict[str, Any]":
    """Return the fields that are no plain data, as far as they can be loaded here."""
    if packed is None:
        return {}
    if not isinstance(packed, (bytes, memoryview)):
        return dict(packed)
    try:
        extras: Any = codec.load(packed)[0]
        return dict(extras)
    except Exception:  # a class that only the worker has; the message is what matters
        return {}


def _record_of(fields: "dict[str, Any]") -> "Callable[[], object]":
    import logging

    record = logging.makeLogRecord(fields)
    logger = logging.getLogger(record.name)
    if not logger.isEnabledFor(record.levelno):  # the level has changed since `run`
        return lambda: None
    return lambda: logger.handle(record)


def _warning_of(fields: "dict[str, Any]") -> "Callable[[], object]":
    import warnings

    category, text = _category(fields["module"], fields["category"]), fields["text"]
    try:
        message: Any = category(text)
    except Exception:  # a class of the user's that wants more
        message = text
    where = fields["filename"], fields["lineno"], None, fields["line"]
    return lambda: warnings.showwarning(message, category, *where)


def _category(module: str, name: str) -> "Any":
    """Return the class of that name, or one made for it; imports nothing."""
    found: Any = getattr(sys.modules.get(module), name, None)
    if isinstance(found, type) and issubclass(found, Warning):
        return found
    return type(name, (Warning,), {"__module__": module})


def spec_of(options: "dict[str, Any]", *, trusted: bool) -> "Spec":
    """Return what a worker has to know to say it: "logs" and "forward"."""
    forward, consoles = {}, []
    for fd, name in _NAMES.items():
        wanted = options[name]
        if wanted == "stdout":
            wanted = options["stdout"]
        if wanted in (FORWARD, FORWARD_STDOUT):
            forward[fd] = fd if wanted == FORWARD else wire.STDOUT
        if wanted in (FORWARD, FORWARD_STDOUT, "inherit", 1, 2):
            consoles.append(fd)
    logs = None
    if options["logs"]:
        logs = {
            "levels": _levels(),
            "consoles": consoles,
            "trusted": trusted,
            "limit": options["max_frame"],
        }
    return {"forward": forward, "logs": logs}


def _levels() -> "dict[str, int]":
    """Return the levels that are set on loggers here, the root's under ""."""
    import logging

    root = logging.root
    least = root.manager.disable + 1  # logging.disable()
    levels = {
        name: max(logger.level, least)
        for name, logger in list(root.manager.loggerDict.items())
        if isinstance(logger, logging.Logger) and logger.level
    }
    levels[""] = max(root.level, least)
    return levels
