"""A process just forked from a template becomes a worker, or a spawned function.

The order matters: descriptors and signals first, then the lifeline, and only then code
of the user.  What fails from there on is reported on the worker's own channel.
"""

import _socket
import faulthandler
import os
import sys
from _pickle import loads

from .. import classes
from ..functions import NAME, loaded, name_of, resolve
from ..progress import map_page
from ..serialisers import PickleCodec, codec
from ..system import LINUX, arm_lifeline, default_signals, hung_up, mortal, set_title
from . import enter, logs, withdraw
from .around import Around
from .leave import exit_status_of, leave, may_take_long
from .paced import Paced
from .stream import for_calls
from .sync import Sync

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..progress import Page
    from .aio import Async
    from .isolated import Isolated
    from .keeper import Turn

    Backend = Sync | Async
    Single = Isolated | Async  # executes one call

_COROUTINES = 0x80 | 0x200  # CO_COROUTINE, CO_ASYNC_GENERATOR of code objects


class Argument:
    """One worker argument as the template keeps it.

    fd: None for a pickled tuple of values in `what`; else `what` tells what the
    descriptor is to become: ("int",), ("socket",), ("file", mode, encoding, errors).
    """

    def __init__(self, fd: "int | None", what: "Any") -> None:
        self.fd = fd
        self.what = what

    def values(self) -> "tuple[object, ...]":
        if self.fd is None:
            return tuple(loads(self.what))
        kind = self.what[0]
        if kind == "int":
            return (self.fd,)
        if kind == "socket":
            from socket import socket

            return (socket(fileno=self.fd),)
        _, mode, encoding, errors = self.what
        buffering = 0 if mode.endswith("raw") else -1
        file = open(  # noqa: SIM115
            self.fd, mode.removesuffix("raw"), buffering, encoding, errors
        )
        return (file,)


class Role:
    """What a forked process is to be; call it to be that.  Never returns."""

    def __init__(
        self,
        spec: "dict[str, Any]",
        handles: "list[int]",
        lifeline: int,
        arguments: "list[Argument]",
    ) -> None:
        self._spec = spec
        self._channel, *self._handles = handles
        self._lifeline = lifeline
        self._arguments = arguments
        # Held until the process ends: the end of its socket shall be its own end.
        self._backend: Backend | None = None
        # Where each call has a process of its own:
        self._turn: Turn | None = None
        self._single: Single | None = None

    def __call__(self) -> None:
        spec = self._spec
        default_signals()
        os.setpgid(0, 0)
        self._stdio()
        self._tie()
        mapped = None
        if spec["page"] is not None:
            page = self._handles.pop(0)
            mapped = map_page(page, spec["page"])
            if LINUX and not faulthandler.is_enabled():
                faulthandler.enable(page)  # into the room behind the pages
            else:
                os.close(page)  # the user's code wants crashes told elsewhere
        _reseed()
        set_title(f"{spec['owner']}:{spec['title']}")
        status = 1
        try:
            if spec["spawn"]:
                self._spawn()
                status = 0
            else:
                status = self._work(mapped)
        except SystemExit as error:
            status = exit_status_of(error)
        except BaseException:  # the process ends here, as a program does
            sys.excepthook(*sys.exc_info())
        self._hand_on()
        gone = self._backend is not None and self._backend.program_gone
        leave(status, end_group=gone and spec["mortal"])

    def _stdio(self) -> None:
        """Put the descriptors 0-2 where the program wants them."""
        for fd, where in enumerate(self._spec["stdio"]):
            if where == "handle":
                handle = self._handles.pop(0)
                os.dup2(handle, fd)
                os.close(handle)
            elif where == "stdout":
                os.dup2(1, fd)
            else:
                null = os.open(os.devnull, os.O_RDWR)
                os.dup2(null, fd)
                os.close(null)
        for file in (sys.stdout, sys.stderr):
            if hasattr(file, "reconfigure") and not file.line_buffering:
                # Several processes write to one place: whole lines stay whole.
                file.reconfigure(line_buffering=True)

    def _tie(self) -> None:
        """Tie this process and what it starts to the life of the program."""
        if not self._spec["mortal"]:
            os.close(self._lifeline)
            return
        mortal(True)
        self._lifeline = own = arm_lifeline(self._lifeline)
        if hung_up(own):
            os._exit(1)
        if self._spec["spawn"]:
            os.set_inheritable(own, True)  # what it executes shall end as well

    def _limits(self) -> None:
        for name, limits in self._spec["rlimits"]:
            import resource

            resource.setrlimit(name, limits)
        if self._spec["nice"]:
            os.nice(self._spec["nice"])
        if self._spec["affinity"]:
            os.sched_setaffinity(0, self._spec["affinity"])

    def _values(self) -> "list[object]":
        for definition in self._spec["definitions"]:
            classes.learn(definition)
        return [value for argument in self._arguments for value in argument.values()]

    def _spawn(self) -> None:
        from socket import socket

        sock = socket(fileno=self._channel)
        values = self._values()
        function = _found(self._spec["function"])
        function(sock, *values)

    def _work(self, page: "Page | None") -> int:
        assert page is not None
        channel = _socket.socket(fileno=self._channel)
        self._backend = backend = self._made_backend(channel, page)
        options: dict[str, Any] | None = None
        try:
            if self._spec["isolate"]:
                if self._is_plain():
                    options = self._prepare(backend)
                self._isolate(backend, page, tells=options is None)
            self._limits()
            self._speak(backend)
            if options is None:
                options = self._prepare(backend)
        except SystemExit:
            raise
        except BaseException as error:  # told to the program, which fails the calls
            from .steps import traceback_of

            step = f"starting {self._spec['title']}"
            self._await_turn()
            backend.fail_setup(f"{step}: {traceback_of(error)}")
            return 1
        self._await_turn()
        enter(backend)
        return backend.serve(**options)

    def _prepare(self, backend: "Backend") -> "dict[str, Any]":
        """Set up what answers calls; return what it is served with."""
        values = self._values()
        if self._spec["init"] is not None:
            pid = os.getpid()
            _found(self._spec["init"])(*values)
            if os.getpid() != pid:  # a copy that init forked, and that returned
                os._exit(0)
        serialiser = self._spec["serialiser"]
        if not isinstance(serialiser, str):
            serialiser = loads(serialiser[1])
        backend.codec = codec(serialiser, backend.define)
        if isinstance(backend.codec, PickleCodec):
            backend.codec.sent |= classes.known()
        return self._set_up(backend, values)

    # A process for each call.

    def _is_plain(self) -> bool:
        """Return whether `_prepare` runs no code of the user's, and imports none.

        Then it is done once, and all processes of this worker have it.
        """
        spec = self._spec
        how, what = spec["function"]
        users = spec["init"], *self._arguments, *spec["definitions"]
        return (
            spec["backend"] == "sync"
            and not any(users)
            and not spec["forward"]
            and isinstance(spec["serialiser"], str)
            and ":" not in spec["serialiser"]
            and how == NAME
            and not isinstance(loaded(what), (type, type(None)))
        )

    def _isolate(self, backend: "Any", page: "Page", *, tells: bool) -> None:
        """Return in each process that is to execute one call."""
        from .keeper import take_turn

        self._turn = turn = take_turn(page, self._spec["title"])
        _reseed()
        if not LINUX and self._spec["mortal"]:
            self._lifeline = arm_lifeline(self._lifeline)  # by a thread of each
        self._single = backend
        backend.isolate(turn, tells=tells)

    def _await_turn(self) -> None:
        if self._turn is not None and not self._turn.wait():
            leave(0)

    def _hand_on(self) -> None:
        single, turn = self._single, self._turn
        if single is not None and turn is not None and single.is_over():
            withdraw()
            single.mute()
            turn.hand_on(long=may_take_long())

    # The parts.

    def _made_backend(self, channel: "_socket.socket", page: "Page") -> "Backend":
        if self._spec["backend"] == "sync":
            kind = Paced if self._spec["paced"] else Sync
            if self._spec["isolate"]:
                from .isolated import Isolated

                kind = Isolated
            return kind(channel, self._spec, page)
        from .aio import Async

        return Async(channel, self._spec, page, lambda: hung_up(self._lifeline))

    def _set_up(self, backend: "Backend", values: "list[object]") -> "dict[str, Any]":
        """Give the backend what it calls; return what else it is served with."""
        if isinstance(backend, Sync):
            function = self._function(values)
            self._refuse_coroutine(function)
            around = self._around(backend)
            backend.streamed = around.steps(function)
            backend.function = around.calls(for_calls(function))
            return {}
        factory, done = (
            None if self._spec[name] is None else _found(self._spec[name])
            for name in ("loop_factory", "done")
        )
        backend.prepare(factory)
        backend.use(self._function(values), self._around(backend))
        return {"done": done}

    def _around(self, backend: "Backend") -> Around:
        """Return what is to be done around each call."""
        carried = None
        if self._spec["context"]:
            from .carried import Carried

            carried = Carried(self._spec["context"])
        return Around(carried, backend.flush_output)

    def _speak(self, backend: "Backend") -> None:
        """Have what this worker says, from `init` on, go to the program."""
        spec = self._spec
        if spec["forward"]:
            from .output import forward

            limit = spec["max_frame"]
            backend.flush_output = forward(backend, spec["forward"], limit)
        if spec["logs"] is not None:
            logs.forward(backend, spec["title"], spec["logs"])

    def _function(self, values: "list[object]") -> "Callable[..., object]":
        function = _found(self._spec["function"])
        if isinstance(function, type):
            function = function(*values)
            if not callable(function):
                raise TypeError(
                    f"instances of {name_of(type(function))} cannot be called"
                )
        return function

    def _refuse_coroutine(self, function: "Callable[..., object]") -> None:
        code = getattr(function, "__code__", None)
        if code is not None and code.co_flags & _COROUTINES:
            raise TypeError(
                f"{name_of(function)} is a coroutine function: "
                'use run(..., backend="async")'
            )


def _found(description: "tuple[str, Any]") -> "Callable[..., Any]":
    how, what = description
    return resolve(how, loads(what) if how == "value" else what)


def _reseed() -> None:
    """Give numpy's global generator a state of its own; `random` does so by itself."""
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed()
