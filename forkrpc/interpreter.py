"""Execute a fresh interpreter that serves as a template.

By posix_spawn: it neither copies the program nor runs any of its code in the child, so
the size and the threads of the program do not matter.
"""

import os
import signal
import sys

from .fds import duplicate, socket_pair

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .link import Link
    from .program import Program

CONTROL, LIFELINE = 3, 4  # numbers of the two descriptors in the new process
_HIGH = 10  # sources are moved up to here, so that no dup2 overwrites another's


def execute(
    control: int,
    lifeline: int,
    *,
    python: "str | None" = None,
    env: "dict[str, str] | None" = None,
) -> int:
    """Start a template; return its pid.  The caller keeps both descriptors.

    python: a path or a name on PATH; the program's own interpreter by default.
    env: the whole environment, the program's by default.
    Raise OSError if it cannot be executed.
    """
    executable = python or sys.executable
    if not executable:
        raise RuntimeError(
            "sys.executable is empty, as in an embedded interpreter: "
            "use Forker.new_exec(python=...)"
        )
    handles = [duplicate(control, _HIGH), duplicate(lifeline, _HIGH)]
    try:
        return os.posix_spawnp(
            executable,
            [executable, *_flags(own=python is None), "-c", _source()],
            os.environ if env is None else env,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, handles[0], CONTROL),
                (os.POSIX_SPAWN_DUP2, handles[1], LIFELINE),
            ],
            setsid=True,  # no terminal: its signals and stops cannot reach a worker
            setsigmask=(),
            setsigdef=signal.valid_signals(),
        )
    finally:
        for fd in handles:
            os.close(fd)


def _source() -> str:
    """Return the program text of a template: it imports this package and no other."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    # Its folder comes last, and the current one not at all: nothing of the user's can
    # stand in for a module of the standard library.
    return (
        "import sys; "
        f"sys.path[:] = [p for p in sys.path if p] + [{folder!r}]; "
        "from forkrpc.child.template import main; "
        f"main({CONTROL}, {LIFELINE})"
    )


def _flags(*, own: bool) -> "list[str]":
    """Return the options to start with; *own*: it is the program's own interpreter."""
    if not own:
        return []
    flags = sys.flags
    options = []
    # The template gets the program's sys.path, so `site` would only cost time and
    # memory; but an editable install may hang on an import hook that it makes.
    if not any(name.startswith("__editable__") for name in sys.modules):
        options.append("-S")
    for option, wanted in (
        ("-E", flags.ignore_environment and not flags.isolated),
        ("-I", flags.isolated),
        ("-s", flags.no_user_site and not flags.isolated),
        ("-" + "b" * flags.bytes_warning, flags.bytes_warning),
        ("-B", flags.dont_write_bytecode),
        ("-" + "O" * flags.optimize, flags.optimize),
    ):
        if wanted:
            options.append(option)
    options += [f"-W{warning}" for warning in sys.warnoptions]
    for name, value in sys._xoptions.items():
        options.append(f"-X{name}" if value is True else f"-X{name}={value}")
    return options


def fork_template(program: "Program") -> "Link":
    """Return the link to a template forked from the program itself, as it is now."""
    from .child.leave import flush_files
    from .link import Link

    ours, theirs = socket_pair()
    lifeline = duplicate(program.lifeline)
    flush_files()  # what is in buffers now would be written by both
    pid = os.fork()
    if not pid:
        from .child.template import serve_program

        serve_program(theirs, lifeline)
    theirs.close()
    os.close(lifeline)
    return Link(program, ours, pid=pid)
