"""Forker.inline: what a template and its workers do, done here; isolates nothing.

For debuggers, coverage and profilers: every step and every call is executed in the
process and the thread that asks for it.  What a worker would protect from is not: a
crash or `os._exit` ends the program, no call can be timed out, killed or interrupted.
"""

import linecache
import os
from functools import partial
from itertools import count

from .errors import ClosedError, SetupError
from .fds import duplicate
from .forker import Forker, check_modules, kind_of
from .functions import BARE, describe, name_of, resolve
from .inplace import Inplace
from .inpool import Pooled
from .options import run_options
from .pool import Pool
from .proxy import Proxy
from .sizing import pool_options
from .standin import copied, set_up_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .process import Process


_numbers = count(1)  # of sources


class File:
    """A file among the worker arguments; each worker gets a duplicate."""

    def __init__(self, file: "Any") -> None:
        self._kind = kind_of(file)
        self._fd = duplicate(file if isinstance(file, int) else file.fileno())

    def opened(self) -> object:
        from .child.worker import Argument

        (value,) = Argument(duplicate(self._fd), self._kind).values()
        return value

    def __del__(self) -> None:
        fd = self.__dict__.pop("_fd", None)
        if fd is not None:
            os.close(fd)


class Inline(Forker):
    """As a Forker, but nothing is forked.  Made by `Forker.inline`.

    What `eval` executes has a namespace of its own, as a template's `__main__`.
    """

    def __init__(self, *, name: "str | None" = None) -> None:
        self._name = name
        self._namespace: dict[str, Any] = {"__name__": "__main__"}
        self._arguments: list[Any] = []  # tuples of values, and Files
        self._failure: SetupError | None = None
        self._closed = False

    def _step(self, what: str, function: "Callable[[], object]") -> "Inline":
        """Execute a step, unless one before has failed."""
        self._check(what)
        if self._failure is None:
            try:
                function()
            except Exception as error:
                self._failure = set_up_error(what, error)
        return self

    def require(self, *modules: str) -> "Inline":
        check_modules(modules)

        def execute() -> None:
            for module in modules:
                __import__(module)

        return self._step("require", execute)

    def eval(self, source: str, *args: object) -> "Inline":
        file = f"<forkrpc eval {next(_numbers)}>"
        code = compile(source, file, "exec", dont_inherit=True)
        # So that a debugger shows it.
        linecache.cache[file] = len(source), None, source.splitlines(True), file
        values = copied(args)

        def execute() -> None:
            self._namespace["args"] = values
            try:
                exec(code, self._namespace)
            finally:
                self._namespace.pop("args", None)

        return self._step("eval", execute)

    def send_arg(self, *values: object) -> "Inline":
        kept = copied(values)
        return self._step("send_arg", lambda: self._arguments.append(kept))

    def send_fh(self, *files: "Any") -> "Inline":
        self._check("send_fh")
        self._arguments += list(map(File, files))
        return self

    def fork(self) -> "Inline":
        self._check("fork")
        twin = type(self)(name=self._name)
        twin._namespace.update(self._namespace)
        twin._arguments += self._arguments
        twin._failure = self._failure
        return twin

    def run(self, function: "str | Callable[..., Any]", **options: "Any") -> Proxy:
        """As `Forker.run`.  Options that need a process have no effect."""
        self._check("run")
        checked = run_options(options)
        _describe_all(function, checked)
        connection = Inplace(name_of(function), checked)
        try:
            self._begin(function, checked, connection)
        except SetupError as error:
            connection.set_up_failed(error)
        return Proxy(connection)  # type: ignore[arg-type]

    def pool(self, function: "str | Callable[..., Any]", **options: "Any") -> Pool:
        """As `Forker.pool`.  There is one worker, which has one call at a time."""
        self._check("pool")
        own, checked = pool_options(options)
        _describe_all(function, checked)
        begin = partial(self.fork()._begin, function, checked)
        connection = Pooled(name_of(function), checked, own, begin)
        return Pool(connection)  # type: ignore[arg-type]

    def _begin(
        self,
        function: "str | Callable[..., Any]",
        checked: "dict[str, Any]",
        connection: Inplace,
    ) -> None:
        """Do what a new worker does first.  Raise SetupError."""
        if self._failure is not None:
            raise SetupError(*self._failure.args) from self._failure.__cause__
        try:
            values = self._values()
            if checked["init"] is not None:
                self._found(checked["init"])(*values)
            target = self._found(function)
            if isinstance(target, type):
                target = target(*values)
                if not callable(target):
                    name = name_of(type(target))
                    raise TypeError(f"instances of {name} cannot be called")
            done = checked["done"]
            connection.use(target, None if done is None else self._found(done))
        except Exception as error:
            raise set_up_error(f"starting {name_of(function)}", error) from error

    def spawn(
        self, function: "str | Callable[..., Any]", *, outlive: bool = False
    ) -> "Process":
        raise RuntimeError(
            "spawn() makes a process, which Forker.inline() cannot: use Forker() for "
            "it, or call the function yourself, in a thread, with a socket"
        )

    def ready(self, timeout: "float | None" = None) -> "Inline":
        self._check("ready")
        if self._failure is not None:
            raise SetupError(*self._failure.args) from self._failure.__cause__
        return self

    def detach(self) -> "Any":
        raise RuntimeError("detach() hands a process over; Forker.inline() has none")

    @property
    def pid(self) -> int:
        """This process's id: there is no other."""
        return os.getpid()

    def close(self) -> None:
        self._closed = True

    def __repr__(self) -> str:
        name = f" {self._name!r}" if self._name else ""
        return f"<Forker inline{name}, {'closed' if self._closed else 'open'}>"

    def _check(self, verb: str) -> None:
        if self._closed:
            raise ClosedError(f"{verb}() on {self!r}: it was closed")

    def _values(self) -> "list[object]":
        values: list[object] = []
        for argument in self._arguments:
            if isinstance(argument, File):
                values.append(argument.opened())
            else:
                values += copied(argument)
        return values

    def _found(self, function: "str | Callable[..., Any]") -> "Callable[..., Any]":
        how, what = describe(function)
        if how != BARE:
            return resolve(how, what)  # type: ignore[arg-type]
        found = self._namespace.get(str(what))
        if found is None:
            raise AttributeError(f"{what!r}: __main__ has no attribute {what!r}")
        if not callable(found):
            raise TypeError(f"{what!r} is {found!r:.100}, which cannot be called")
        return found  # type: ignore[no-any-return]


def _describe_all(
    function: "str | Callable[..., Any]", checked: "dict[str, Any]"
) -> None:
    """Raise TypeError or ValueError for what is no function."""
    for name in ("init", "done", "loop_factory"):
        if checked[name] is not None:
            describe(checked[name], name)
    describe(function)
