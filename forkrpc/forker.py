"""Forker: the user's handle of a template."""

import _socket
import os
import sys
import threading
from _pickle import dumps

from . import classes, wire
from .closing import Closing
from .errors import ClosedError, SetupError
from .fds import MOST_HANDLES, above_stdio, close_all, duplicate
from .link import Link
from .options import run_options
from .program import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket
    from typing import Any

    from .pool import Pool
    from .process import Process
    from .proxy import Proxy


class Forker(Closing):
    """A template process: a small interpreter that forks others like itself.

    A new one is forked from the default template, an empty interpreter that is
    executed once, on first use.  It takes over the program's present sys.path,
    environment and working directory.  Returns at once; safe in threaded programs.

    `require`, `eval`, `send_arg` and `send_fh` queue a step, never block, and return
    the same Forker.  A step that fails fails everything that comes after it on this
    template, with its text.  name: for messages and process titles.
    """

    def __init__(self, *, name: "str | None" = None) -> None:
        self._adopt(current().default_template().fork(name), name)
        path = sys.path, sys.prefix, sys.exec_prefix
        folder = _directory(None)
        self._link.send(wire.STATE, dumps((path, dict(os.environb))), [folder])

    def _adopt(self, link: Link, name: "str | None") -> "Forker":
        self._link = link
        self._name = name
        return self

    @classmethod
    def new_exec(
        cls,
        *,
        python: "str | None" = None,
        env: "dict[str, str] | None" = None,
        cwd: "str | os.PathLike[str] | None" = None,
        name: "str | None" = None,
    ) -> "Forker":
        """Return a template in a freshly executed interpreter that shares nothing.

        python: another interpreter (path or name), which keeps its own sys.path.
        env: the whole environment.  cwd: its directory, the program's by default.
        Raise OSError if it cannot be executed.
        """
        if env is not None and not all(
            isinstance(text, str) for item in env.items() for text in item
        ):
            raise TypeError(f"env must map str to str, not {env!r:.100}")
        folder = _directory(cwd)
        try:
            link = Link.executed(current(), python, env)
        except BaseException:
            os.close(folder)
            raise
        path = (sys.path, sys.prefix, sys.exec_prefix) if python is None else None
        link.send(wire.STATE, dumps((path, None)), [folder])
        return cls.__new__(cls)._adopt(link, name)

    @classmethod
    def from_current_process(cls) -> "Forker":
        """Return a template forked from the program as it is now.

        It has all that is loaded and defined here.  Raise RuntimeError if threads other
        than the library's own are running: a fork would copy their locks, held.
        """
        others = [
            thread.name for thread in threading.enumerate() if thread.name != "forkrpc"
        ]
        if len(others) > 1:
            raise RuntimeError(
                f"from_current_process() with running threads: {', '.join(others)}; "
                "call it before they start, or use Forker().require(...)"
            )
        from .interpreter import fork_template

        return cls.__new__(cls)._adopt(fork_template(current()), None)

    @classmethod
    def inline(cls, *, name: "str | None" = None) -> "Forker":
        """Return what stands for a template while you debug: nothing is forked.

        Each step and each call is executed at once, in this process and in the thread
        that asks for it.  It isolates nothing.
        """
        from .inline import Inline

        return Inline(name=name)

    @classmethod
    def from_socket(cls, sock: "socket") -> "Forker":
        """Return the template that another process let go by `detach`.

        Takes over *sock*.  The template lives with this program from now on.
        """
        program = current()
        control = _socket.socket(fileno=above_stdio(sock.detach()))
        link = Link(program, control, greeted=True)
        link.send(wire.ADOPT, handles=[duplicate(program.lifeline)])
        return cls.__new__(cls)._adopt(link, None)

    def detach(self) -> "socket":
        """Let go of this template: return the socket that `from_socket` takes.

        The socket may be sent to another process.  This Forker is closed.
        """
        import socket

        self._check("detach")
        return socket.socket(fileno=self._link.detach().detach())

    def require(self, *modules: str) -> "Forker":
        """Import *modules* in the template, in order."""
        check_modules(modules)
        self._command("require", wire.REQUIRE, dumps(modules))
        return self

    def eval(self, source: str, *args: object) -> "Forker":
        """Execute *source* in the template's `__main__`, `args` bound to *args*.

        Raise SyntaxError at once, and SerialiserError for arguments.
        """
        compile(source, "<forkrpc eval>", "exec", dont_inherit=True)
        with classes.lock():
            definitions, body = self._link.freeze(args)
            text = dumps((source, definitions, body))
            self._command("eval", wire.EVAL, text)
            classes.mark(definitions, self._link.sent)
        return self

    def send_arg(self, *values: object) -> "Forker":
        """Append *values* to the arguments of workers."""
        with classes.lock():
            definitions, body = self._link.freeze(values)
            self._command("send_arg", wire.VALUES, dumps((definitions, body)))
            classes.mark(definitions, self._link.sent)
        return self

    def send_fh(self, *files: "Any") -> "Forker":
        """Append *files* to the arguments of workers, in order with `send_arg`.

        A socket arrives as a socket, a file object as a file object, an int as an int.
        They are duplicated here: the caller may close its own at once.
        """
        self._check("send_fh")
        kinds = [kind_of(file) for file in files]
        handles: list[int] = []
        try:
            for file in files:
                fd = file if isinstance(file, int) else file.fileno()
                handles.append(duplicate(fd))
        except BaseException:
            close_all(handles)
            raise
        for at in range(0, len(files), MOST_HANDLES):
            part = slice(at, at + MOST_HANDLES)
            self._command("send_fh", wire.HANDLES, dumps(kinds[part]), handles[part])
        return self

    def fork(self) -> "Forker":
        """Return another template, with all that this one has so far."""
        self._check("fork")
        return (
            type(self)
            .__new__(type(self))
            ._adopt(self._link.fork(self._name), self._name)
        )

    def run(self, function: "str | Callable[..., Any]", **options: "Any") -> "Proxy":
        """Fork a worker from this template; return the Proxy that calls *function*.

        function: a dotted name, a bare name of the template's `__main__`, or anything
        callable.  A class is instantiated in the worker, with the worker arguments.
        Options: see the manual.  Returns at once; a worker that cannot be set up fails
        its calls with SetupError.  Raise TypeError or ValueError for a bad option, and
        ImportError for a serialiser whose library is missing.
        """
        from .starting import start_worker

        self._check("run")
        return start_worker(self._link, function, run_options(options))

    def pool(self, function: "str | Callable[..., Any]", **options: "Any") -> "Pool":
        """Return a Pool of workers forked from this template, as it is now.

        function: as for `run`.  Options: those of a pool, and those of `run`; see the
        manual.  Returns at once.  Raise TypeError or ValueError for a bad option.
        """
        from .pool import start_pool

        self._check("pool")
        return start_pool(self._link, function, options)

    def spawn(
        self, function: "str | Callable[..., Any]", *, outlive: bool = False
    ) -> "Process":
        """Fork a process that calls `function(sock, *worker_arguments)` only.

        outlive: whether it may outlive the program.  Its exit status is 0 when the
        function returns, 1 and a traceback when it raises.
        """
        from .starting import start_process

        self._check("spawn")
        return start_process(self._link, function, outlive)

    def ready(self, timeout: "float | None" = None) -> "Forker":
        """Wait until everything queued is done.

        timeout: seconds.  Raise SetupError with the remote traceback if a step failed,
        each time; TimeoutError.
        """
        self._check("ready")
        failure = self._link.wait(timeout)
        if failure is not None:
            raise SetupError(failure)
        return self

    @property
    def pid(self) -> "int | None":
        """The template's process id; waits until it exists, None if it never will."""
        return self._link.pid()

    def close(self) -> None:
        """End the template when its queued work is done; its workers go on."""
        self._link.close()

    def __del__(self) -> None:
        link = self.__dict__.get("_link")
        if link is not None:  # __init__ may not have come so far
            link.dropped()

    def __repr__(self) -> str:
        state = "closed" if self._link.closed else "open"
        name = f" {self._name!r}" if self._name else ""
        return f"<Forker{name}, {state}>"

    def _check(self, verb: str) -> None:
        if self._link.refusal is not None:
            raise SetupError(self._link.refusal)
        if self._link.closed or self._link.ended:
            raise ClosedError(f"{verb}() on {self!r}: {self._link.why_closed()}")

    def _command(
        self, verb: str, kind: int, body: bytes, handles: "list[int] | None" = None
    ) -> None:
        self._check(verb)
        self._link.send(kind, body, handles or [])


def check_modules(modules: "tuple[str, ...]") -> None:
    """Raise ValueError for what is no name of a module."""
    for module in modules:
        if not isinstance(module, str) or not all(
            part.isidentifier() for part in module.split(".")
        ):
            raise ValueError(f"require: {module!r:.100} is no name of a module")


def _directory(path: "str | os.PathLike[str] | None") -> int:
    """Return a descriptor of *path*, or of the current directory, even deleted."""
    flags = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY
    return above_stdio(os.open("." if path is None else path, flags))


def kind_of(file: "Any") -> "tuple[Any, ...]":
    """Return what a file is to become in the worker.  Raise TypeError, OSError."""
    import io
    import socket

    if isinstance(file, int) and not isinstance(file, bool):
        os.fstat(file)
        return ("int",)
    if isinstance(file, socket.socket):
        return ("socket",)
    if isinstance(file, io.TextIOBase):
        file.flush()
        mode = getattr(file, "mode", None) or ("w" if file.writable() else "r")
        return ("file", mode.replace("x", "w"), file.encoding, file.errors)
    if hasattr(file, "fileno"):
        if hasattr(file, "flush"):
            file.flush()
        mode = getattr(file, "mode", None)
        mode = mode if isinstance(mode, str) else "rb+"
        raw = "raw" if isinstance(file, io.RawIOBase) else ""
        return ("file", mode.replace("x", "w") + raw, None, None)
    raise TypeError(
        f"send_fh takes sockets, files with fileno() and descriptors, not {file!r:.100}"
    )
