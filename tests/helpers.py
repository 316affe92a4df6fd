"""What tests share: waiting, programs in fresh processes, and a look at processes.

Nothing here knows forkrpc.  Processes are read from ``/proc``.
"""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent

# The library is found by an import hook there, which `site` makes in templates too.
unless_editable = pytest.mark.skipif(
    any(name.startswith("__editable__") for name in sys.modules),
    reason="an editable install has templates run site",
)

MS = 0.001
POLL = 10 * MS


def wait_until(condition, limit=5.0, message="the condition", *, poll=POLL):
    """Poll *condition* until it is true and return its value.

    limit, poll: seconds.  message: text, or a callable that makes it at the end.
    Raise AssertionError at the limit.
    """
    deadline = time.monotonic() + limit
    while not (value := condition()):
        if time.monotonic() > deadline:
            text = message() if callable(message) else message
            raise AssertionError(f"not within {limit:g} s: {text}")
        time.sleep(poll)
    return value


def resident_bytes():
    """Return the memory that this process has in use."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run_program(source, *args, timeout=30, **popen):
    """Run *source* as a program and return the completed process, with its texts.

    The program is a script in a temporary working directory, leads its own process
    group, reads nothing, and finds the checkout.  *popen* replaces any of that;
    ``env`` still gets the checkout's PYTHONPATH.

    timeout: seconds until all of it has ended, whatever holds its output included;
    then it is killed with its group and its descendants, and AssertionError raised.
    """
    env = dict(os.environ if popen.get("env") is None else popen["env"])
    env["PYTHONPATH"] = str(CHECKOUT)
    with tempfile.TemporaryDirectory(prefix="forkrpc-program-") as folder:
        program = Path(folder, "program.py")
        program.write_text(textwrap.dedent(source))
        options = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "cwd": folder,
            "start_new_session": True,
            **popen,
            "env": env,
        }
        command = [sys.executable, str(program), *map(str, args)]
        with subprocess.Popen(command, **options) as process:
            return _completed(process, timeout)


def _completed(process, timeout):
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        state = process.poll()
        _kill_all(process)
        stdout, stderr = process.communicate(timeout=5)
        done = "still running" if state is None else f"ended with {state}, output held"
        raise AssertionError(
            f"program {done} after {timeout:g} s\nstdout: {stdout}\nstderr: {stderr}"
        ) from None
    except BaseException:  # KeyboardInterrupt too: leave nothing behind
        _kill_all(process)
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def _kill_all(process):
    """Kill the group that *process* leads, and its descendants in other groups."""
    family = descendants(process.pid)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()  # gone, or not a leader
    for pid in family:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def process_stat(pid):
    """Return (state, parent's pid, start in ticks since boot), None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(b")") + 2 :].split()  # the name may hold anything
    return fields[0].decode(), int(fields[1]), int(fields[19])


def process_table():
    """Return {pid: (state, parent's pid, start)} of every process now."""
    table = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := process_stat(name)):
            table[int(name)] = stat
    return table


def descendants(pid, table=None):
    """Return the pids of all processes below *pid*, zombies included, sorted."""
    children = {}
    for child, (_, parent, _) in (table or process_table()).items():
        children.setdefault(parent, []).append(child)
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return sorted(found)


def process_alive(pid):
    """Return whether *pid* runs; a zombie does not."""
    stat = process_stat(pid)
    return stat is not None and stat[0] not in "ZX"


def open_descriptors(pid="self"):
    """Return {number: target} of the descriptors that *pid* has open; {} if gone."""
    folder = f"/proc/{pid}/fd"
    targets = {}
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, ProcessLookupError):
        return {}
    for name in names:
        try:
            targets[int(name)] = os.readlink(f"{folder}/{name}")
        except FileNotFoundError:
            pass  # closed since; one is the listing's own
    return targets
