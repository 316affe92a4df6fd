"""Fork a worker or a process from a template: the RUN command and its parent's end."""

import errno
import os
import socket
from _pickle import dumps
from _weakref import proxy

from . import classes, wire
from .carrying import CarryingArguments
from .cells import Cells, in_notebook
from .connection import Connection
from .errors import SetupError
from .fds import close_all, duplicate, socket_pair
from .functions import VALUE, describe, name_of
from .life import Life
from .options import FORWARD, FORWARD_STDOUT
from .overlapping import Overlapping
from .pipe import Pipe
from .process import Process
from .proxy import Proxy
from .said import Said, spec_of
from .serialisers import PickleCodec, codec
from .session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable
    from typing import Any

    from .link import Link
    from .program import Program

    Spec = dict[str, Any]

BY_VALUE = b"cloudpickle"  # in a pickle which needs that module to be loaded
SESSIONS: "dict[str, type[Session]]" = {"sync": Session, "async": Overlapping}


def start_worker(
    link: "Link", function: "str | Callable[..., Any]", options: "dict[str, Any]"
) -> Proxy:
    """Return the Proxy of a new worker.  Raise what a bad function or pickle raises."""
    return Proxy(connect(link, function, options))


def connect(
    link: "Link",
    function: "str | Callable[..., Any]",
    options: "dict[str, Any]",
    sessions: "dict[str, type[Session]]" = SESSIONS,
    connection: "Callable[..., Connection]" = Connection,
) -> Connection:
    """Return the connection to a new worker; as `start_worker`.

    sessions: by backend.  connection: makes it.
    """
    name = name_of(function)
    asynchronous = options["backend"] == "async"
    size = options["buflen_res"] or options["buflen"]
    session = sessions[options["backend"]](name, options["max_frame"], size)
    session.use(codec(options["serialiser"], session.define))
    if asynchronous:
        link = link.with_asyncio()
    program = link.program
    spec = _worker_spec(name, options, trusted=session.codec.trusted)
    handles: list[int] = []
    pipes: dict[int, Pipe] = {}
    ours = None
    with classes.lock():
        _pack(link, spec, function, options)
        if isinstance(session.codec, PickleCodec):
            session.codec.sent |= link.sent
            classes.mark(spec["definitions"], session.codec.sent)
    try:
        page = program.pages.take()
        try:
            ours, theirs = socket_pair()
            handles.append(theirs.detach())
            for fd in set(spec["forward"].values()):
                pipes[fd] = Pipe(program, fd)
            handles += _stdio(spec, options, pipes)
            handles.append(page.handle())
        except BaseException:
            program.pages.give_back(page)
            raise
    except OSError as error:
        if ours is not None:
            ours.close()
        for pipe in pipes.values():  # first: nobody is there yet who would be told
            pipe.close()
        close_all(handles)
        raise SetupError(f"starting {name}: {error}{_advice(error)}") from error
    spec["page"] = page.number
    life = Life(program, page, name)
    made = _connected(connection, program, ours, session, life, options)
    made.listen(list(pipes.values()))
    link.ask(wire.RUN, dumps(spec), handles, life)
    return made


def check(
    link: "Link", function: "str | Callable[..., Any]", options: "dict[str, Any]"
) -> None:
    """Raise what `connect` would raise for a bad function or pickle."""
    name_of(function)
    codec(options["serialiser"], lambda _: None)
    with classes.lock():
        _pack(link, {}, function, options)


def start_process(
    link: "Link", function: "str | Callable[..., Any]", outlive: bool
) -> Process:
    """Return the Process of a spawned function."""
    name = name_of(function)
    spec = _spec(name, spawn=True, mortal=not outlive)
    with classes.lock():
        _pack(link, spec, function, {})
    handles: list[int] = []
    ours = None
    try:
        ours, theirs = socket_pair()
        handles.append(theirs.detach())
        options = {"stdin": "null", "stdout": "inherit", "stderr": "inherit"}
        handles += _stdio(spec, options)
    except OSError as error:
        if ours is not None:
            ours.close()
        close_all(handles)
        raise SetupError(f"starting {name}: {error}{_advice(error)}") from error
    process = Process(link.program, socket.socket(fileno=ours.detach()), name)
    link.ask(wire.RUN, dumps(spec), handles, process)
    return process


def _connected(
    connect: "Callable[..., Connection]",
    program: "Program",
    sock: "_socket.socket",
    session: Session,
    life: Life,
    options: "dict[str, Any]",
) -> Connection:
    says = options["logs"] or FORWARD in (options["stdout"], options["stderr"])
    weak = proxy(session)  # which leads to them
    cells = Cells(weak) if says and in_notebook() else None
    session.on_said = Said(weak, cells).show
    connection = connect(program, sock, session, life, options)
    if cells is not None or options["context"]:
        octets = options["serialiser"] == "bytes"
        arguments = CarryingArguments(session, options["max_frame"])
        arguments.carry(options["context"], cells, octets=octets)
        connection.give(arguments)
    return connection


def _worker_spec(name: str, options: "dict[str, Any]", *, trusted: bool) -> "Spec":
    """Return what RUN tells a worker, but for what is to be found and descriptors."""
    spec = _spec(name, spawn=False, mortal=options["orphan"] == "kill")
    for key in ("backend", "rlimits", "nice", "affinity", "max_frame"):
        spec[key] = options[key]
    for key in ("limit", "timeout"):
        spec[key] = options[key]
    spec["timed"] = options["timeout"] is not None
    spec["paced"], spec["isolate"] = options["paced"], options["isolate"]
    spec["buflen"] = options["buflen_req"] or options["buflen"]
    spec["context"] = list(options["context"])
    spec.update(spec_of(options, trusted=trusted))
    return spec


def _spec(name: str, *, spawn: bool, mortal: bool) -> "Spec":
    """Return what every RUN tells the child."""
    return {
        "spawn": spawn,
        "mortal": mortal,
        "owner": os.getpid(),
        "title": name,
        "page": None,
        "rlimits": [],
        "nice": 0,
        "affinity": None,
        "forward": {},
        "isolate": False,
        "logs": None,
        "context": [],
    }


def _pack(
    link: "Link", spec: "Spec", function: object, options: "dict[str, Any]"
) -> None:
    """Put what the worker calls into *spec*, with the classes it needs.

    Each in a body of its own: init may make the others loadable.
    """
    definitions: list[bytes] = []
    spec["by_value"] = False

    def packed(description: "tuple[str, object] | None") -> object:
        if description is None or description[0] != VALUE:
            return description
        more, body = link.freeze(description[1])
        definitions.extend(each for each in more if each not in definitions)
        spec["by_value"] |= any(BY_VALUE in each for each in (body, *more))
        return VALUE, body

    spec["function"] = packed(describe(function))
    for option in ("init", "done", "loop_factory"):
        given = options.get(option)
        spec[option] = packed(None if given is None else describe(given, option))
    serialiser = options.get("serialiser")
    if not isinstance(serialiser, str):
        serialiser = packed((VALUE, serialiser))
    spec["serialiser"] = serialiser
    spec["definitions"] = definitions


def _stdio(
    spec: "Spec",
    options: "dict[str, Any]",
    pipes: "dict[int, Pipe] | None" = None,
) -> "list[int]":
    """Return the descriptors for 0-2 of the worker; say in *spec* which they are.

    pipes: those that take what is written to a forwarded descriptor.
    """
    where: list[str] = []
    handles: list[int] = []
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        wanted = options[name]
        if wanted == "inherit":
            wanted = number
        if wanted in ("null", "stdout", FORWARD_STDOUT):
            where.append("null" if wanted == "null" else "stdout")
            continue
        if wanted == FORWARD:
            assert pipes is not None
            handles.append(pipes[number].take_writer())
            where.append("handle")
            continue
        try:
            handles.append(duplicate(wanted))
        except OSError as error:
            if wanted > 2 or error.errno != errno.EBADF:
                close_all(handles)
                raise
            where.append("null")  # the program itself runs without it
        else:
            where.append("handle")
    spec["stdio"] = where
    return handles


def _advice(error: OSError) -> str:
    import resource

    if error.errno != errno.EMFILE:
        return ""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        f"; this program may have {soft} descriptors open (RLIMIT_NOFILE, at most "
        f"{hard}) and a worker needs 2 of them, and 6 while it starts"
    )
