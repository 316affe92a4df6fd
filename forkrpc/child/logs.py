"""What loggers and warnings of a worker say goes to the program.

Hooked up when the worker imports `logging` or `warnings`, and not before: a worker that
uses neither loads neither.  The program's levels, as they were at `run`, are set on
the loggers here, so what it would not show is not even made.

Handlers that the worker's own code has set up go on working, but for what would show
twice: a record that goes to the program is not written to a console that the worker
has in common with it.
"""

import os
import sys
from _thread import get_ident

from .. import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, Protocol

    from ..serialisers import Codec

    class Speaker(Protocol):
        """What a backend offers to what speaks for its worker."""

        codec: Codec

        def say(self, kind: int, body: bytes, flags: int = 0) -> bool: ...


CUT = 16  # part of `max_frame` that the texts of a long record may have

_inherited: "list[object]" = []  # handlers of the program that this was forked from


def note_programs_handlers() -> None:
    """Note the handlers there are: the program's, of which this process is a copy."""
    logging = sys.modules.get("logging")
    if logging is not None:
        _inherited[:] = [
            each for logger in _loggers(logging) for each in logger.handlers
        ]


def _loggers(logging: "Any") -> "list[Any]":
    named = list(logging.root.manager.loggerDict.values())
    return [logging.root, *(each for each in named if hasattr(each, "handlers"))]


class Logs:
    """Forwards the records and warnings of one worker.

    spec: "levels", {name: level} of the program's loggers, the root's under "";
    "consoles", the descriptors among 1 and 2 that show where the program's do;
    "trusted", whether the serialiser is a pickle; "limit", bytes of a frame.
    """

    def __init__(self, backend: "Speaker", name: str, spec: "dict[str, Any]") -> None:
        self._backend = backend
        self._name = name
        self._levels: dict[str, int] = spec["levels"]
        self._known: dict[str, int] = {}
        self._consoles = spec["consoles"]
        self._trusted: bool = spec["trusted"]
        self._limit: int = spec["limit"]
        self._pid = os.getpid()  # copies of the worker have nothing to say here
        self._busy: set[int] = set()  # threads that are forwarding

    # Records.

    def take_logging(self, logging: "Any") -> None:
        root = logging.root
        for logger in _loggers(logging):
            logger.handlers[:] = [h for h in logger.handlers if h not in _inherited]
        if root.level == logging.WARNING:  # as it is before anybody sets it
            root.setLevel(self._levels[""])
        for name, level in self._levels.items():
            logger = logging.getLogger(name)
            if not logger.level:
                logger.setLevel(level)
        self._standard = logging.LogRecord("", 0, "", 0, "", (), None).__dict__.keys()
        self._traceback = logging.Formatter().formatException
        handle = logging.Logger.callHandlers

        def call_handlers(logger: "Any", record: "Any") -> None:
            if not self._forward(logger, record):
                handle(logger, record)

        logging.Logger.callHandlers = call_handlers

    def _forward(self, logger: "Any", record: "Any") -> bool:
        """Send a record, and have it handled here too; False: all is still to do."""
        if record.levelno < self._level_of(record.name) or self._is_silent():
            return False
        others, shows = self._handlers(logger, record.levelno)
        if not shows:
            return False
        self._busy.add(get_ident())
        try:
            if not self._send(record):
                return False
        except Exception:  # arguments that do not fit the message: told as always
            return False
        finally:
            self._busy.discard(get_ident())
        for handler in others:
            handler.handle(record)
        return True

    def _is_silent(self) -> bool:
        """Whether this is a copy of the worker, or code that forwarding has called."""
        return os.getpid() != self._pid or get_ident() in self._busy

    def _level_of(self, name: str) -> int:
        """Return the level from which on the program wants records of a logger."""
        level = self._known.get(name)
        if level is None:
            each = name
            while each not in self._levels:
                each = each.rpartition(".")[0]
            level = self._known[name] = self._levels[each]
        return level

    def _handlers(self, logger: "Any", level: int) -> "tuple[list[Any], bool]":
        """Return the handlers to call but consoles, and whether it would show at all.

        It would not where a logger that keeps records to itself has no console.
        """
        others: list[Any] = []
        consoles = False
        each = logger
        while each is not None:
            for handler in each.handlers:
                if self._is_console(handler):
                    consoles = consoles or level >= handler.level
                elif level >= handler.level:
                    others.append(handler)
            if not each.propagate:
                return others, consoles
            each = each.parent
        return others, True

    def _is_console(self, handler: "Any") -> bool:
        """Whether it writes to where the program's own output goes, too."""
        stream = getattr(handler, "stream", None)
        if stream is None:
            return False
        try:
            return stream.fileno() in self._consoles
        except Exception:  # a file of the user's, with no descriptor
            return False

    def _send(self, record: "Any") -> bool:
        fields = dict(record.__dict__)
        fields["msg"], fields["args"] = record.getMessage(), None
        if record.exc_info:
            text = record.exc_text or self._traceback(record.exc_info)
            fields["exc_text"], fields["exc_info"] = text, None
        if fields.get("processName") in (None, "MainProcess"):
            fields["processName"] = f"worker {self._name}"
        return self._say(fields, 0)

    def _say(self, fields: "dict[str, Any]", flags: int) -> bool:
        from .. import notes

        plain = {k: v for k, v in fields.items() if type(v) in notes.PLAIN}
        others = {k: v for k, v in fields.items() if k not in plain}
        packed = self._packed(others, plain) if others else None
        body = notes.dumps((plain, packed), trusted=self._trusted)
        if len(body) > self._limit:
            body = notes.dumps((self._shortened(plain), None), trusted=self._trusted)
        if len(body) > self._limit:
            return False
        return self._backend.say(wire.LOG, body, flags)

    def _packed(self, others: "dict[str, Any]", plain: "dict[str, Any]") -> object:
        """Return *others* as what travels; what cannot goes into *plain* as text."""
        try:
            return self._dump(others)
        except Exception:  # whatever the user's __reduce__ raises
            good = {}
        for key, value in others.items():
            try:
                self._dump({key: value})
            except Exception:
                plain[key] = str(value)
            else:
                good[key] = value
        return self._dump(good)

    def _dump(self, values: "dict[str, Any]") -> object:
        from .. import classes, notes

        if not self._trusted:
            notes.dumps(values, trusted=False)  # or it raises
            return values
        codec = getattr(self._backend, "codec", None)
        if codec is not None:
            return codec.dump((values,))
        body = classes.plain((values,))  # while `init` runs
        if body is None:
            raise TypeError("not by plain pickle")
        return body

    def _shortened(self, plain: "dict[str, Any]") -> "dict[str, Any]":
        most = self._limit // CUT
        return {
            key: f"{value[:most]}... ({len(value)} characters)"
            if type(value) is str and len(value) > most
            else value
            for key, value in plain.items()
            if key in self._standard or key == "text"
        }

    # Warnings.

    def take_warnings(self, warnings: "Any") -> None:
        """Show in the program what the filters here let through."""
        show = warnings.showwarning

        def showwarning(
            message: "Any",
            category: "Any",
            filename: "Any",
            lineno: "Any",
            file: "Any" = None,
            line: "Any" = None,
        ) -> None:
            fields = {
                "module": category.__module__,
                "category": category.__qualname__,
                "text": str(message),
                "filename": str(filename),
                "lineno": int(lineno),
                "line": None if line is None else str(line),
            }
            if (
                file is not None
                or self._is_silent()
                or not self._say(fields, wire.WARNING)
            ):
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = showwarning


class Finder:
    """Tells when `logging` or `warnings` was imported; stands aside for all others."""

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        if name not in _TAKE:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = None if find is None or finder is self else find(name, path, target)
            if spec is not None:
                spec.loader = Loader(spec.loader)
                return spec
        return None


class Loader:
    """Loads a module as its own loader does, and tells."""

    def __init__(self, loader: "Any") -> None:
        self._loader = loader

    def create_module(self, spec: "Any") -> "Any":
        return self._loader.create_module(spec)

    def exec_module(self, module: "ModuleType") -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        if _worker:
            backend, name, spec = _worker[0]
            _TAKE[module.__name__](Logs(backend, name, spec), module)


# What is done with a module in a worker, when it has been imported.
_TAKE: "dict[str, Any]" = {"logging": Logs.take_logging, "warnings": Logs.take_warnings}
_worker: "list[tuple[Any, ...]]" = []  # the arguments of Logs, in a worker


def watch_imports() -> None:
    """Look at imports from now on.  Runs in a template, which has nothing to tell."""
    if not any(isinstance(each, Finder) for each in sys.meta_path):
        sys.meta_path.insert(0, Finder())


def forward(backend: "Speaker", name: str, spec: "dict[str, Any]") -> None:
    """Forward what this worker says, now or once it can say anything.

    Does little here: every worker of a template comes this way.
    """
    _worker[:] = [(backend, name, spec)]
    for module, take in _TAKE.items():
        if module in sys.modules:
            take(Logs(backend, name, spec), sys.modules[module])
