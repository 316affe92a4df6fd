"""Contract: a template's interpreter is executed with the program's own settings."""

import json
import os
import subprocess
import sys

import pytest

from forkrpc import ClosedError, Forker, SetupError
from helpers import CHECKOUT, process_alive, run_program, unless_editable

LOOK = """
import json, os, sys
def look():
    flags = {name: getattr(sys.flags, name) for name in dir(sys.flags)
             if not name.startswith("_") and isinstance(getattr(sys.flags, name), int)}
    return {
        "flags": flags,
        "xoptions": sys._xoptions,
        "warnings": sys.warnoptions,
        "argv": sys.argv,
        "executable": os.readlink("/proc/self/exe"),
        "session": os.getsid(0),
        "site": "site" in sys.modules,
        "ignored": [n for n in (1, 2, 10, 12, 15, 17)
                    if sys.modules["_signal"].getsignal(n) == 1],
        "path": sys.path,
        "environment": dict(os.environ),
    }
"""
# Flags that say how the interpreter itself is started, and not what the user asked.
OWN_FLAGS = {"no_site", "safe_path", "n_fields", "n_sequence_fields"}

PROGRAM = f"""
import json, sys
sys.path.insert(0, {str(CHECKOUT)!r})
from forkrpc import Forker

if sys.flags.no_site:
    sys.path += json.loads(sys.argv[1])
{LOOK}
with Forker().eval({LOOK!r}) as template, template.run("look") as proxy:
    print(json.dumps([look(), proxy.call()]))
"""


def run_with(*options, env=None):
    """Run PROGRAM by an interpreter with *options*; return what it and a worker see."""
    command = [sys.executable, *options, "-c", PROGRAM, json.dumps(sys.path)]
    done = subprocess.run(
        command, capture_output=True, timeout=30, env={**os.environ, **(env or {})}
    )
    assert done.stderr == b""
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "options",
    [
        *([], ["-O"], ["-OO"], ["-B"], ["-s"], ["-E"], ["-I"], ["-S"], ["-b"]),
        *(["-X", "dev"], ["-X", "utf8"], ["-X", "utf8=0"], ["-X", "own=value"]),
        *(["-W", "ignore"], ["-W", "error::UserWarning", "-W", "default"]),
    ],
    ids=" ".join,
)
def test_a_worker_has_the_flags_of_the_program(options):
    program, worker = run_with(*options)

    for name in set(program["flags"]) - OWN_FLAGS:
        assert worker["flags"][name] == program["flags"][name], name
    assert worker["xoptions"] == program["xoptions"]
    assert worker["warnings"] == program["warnings"]


def test_flags_from_the_environment_reach_a_worker_too():
    program, worker = run_with(env={"PYTHONOPTIMIZE": "1", "PYTHONWARNINGS": "once"})

    assert worker["flags"]["optimize"] == 1
    assert worker["warnings"] == program["warnings"]


def test_a_worker_has_the_path_and_environment_of_the_program():
    program, worker = run_with(env={"A_TEST": "grüße"})

    assert worker["path"] == program["path"]
    assert worker["environment"] == program["environment"]


@unless_editable
def test_a_worker_is_executed_by_the_same_interpreter_without_arguments():
    program, worker = run_with()

    assert worker["executable"] == program["executable"]
    assert worker["argv"] == [""]
    assert not worker["site"]


def test_a_worker_is_in_another_session():
    program, worker = run_with()

    assert worker["session"] != program["session"]


def test_signals_that_the_program_ignores_are_not_ignored_in_a_worker():
    done = run_program(
        f"""
        import signal
        from forkrpc import Forker

        for number in (1, 2, 10, 12, 15):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        mask = "import signal\\ndef mask(): return signal.pthread_sigmask(0, [])"
        source = {LOOK!r} + mask
        with Forker().eval(source) as template:
            with template.run("look") as proxy:
                print(proxy.call()["ignored"])
            with template.run("mask") as proxy:
                print(proxy.call())
        """
    )

    assert (done.stdout, done.stderr) == ("[]\nset()\n", "")


def test_the_current_folder_cannot_stand_in_for_the_standard_library():
    done = run_program(
        """
        import os, sys
        sys.path.remove(os.getcwd())
        for name in "struct", "collections", "atexit", "types", "forkrpc":
            with open(f"{name}.py", "w") as file:
                file.write("raise AssertionError('imported')")
        from forkrpc import Forker

        with Forker() as template, template.run("os.getpid") as proxy:
            print(proxy.call() == proxy.pid)
        """
    )

    assert (done.stdout, done.stderr) == ("True\n", "")


def test_another_interpreter_is_found_by_path_or_name(monkeypatch):
    folder, name = os.path.split(sys.executable)
    monkeypatch.setenv("PATH", folder, prepend=os.pathsep)
    for python in sys.executable, name:
        with Forker.new_exec(python=python) as template:
            assert process_alive(template.pid)
            template.ready(20)


def test_an_interpreter_that_does_not_exist_is_an_oserror():
    with pytest.raises(FileNotFoundError):
        Forker.new_exec(python="/no such interpreter")


def test_a_program_that_is_no_interpreter_is_told_by_the_first_wait():
    # By whether its end was seen before the wait began.
    errors = SetupError, ClosedError

    with Forker.new_exec(python="true") as template, pytest.raises(errors):
        template.ready(20)


def test_an_embedded_interpreter_has_a_remedy(monkeypatch):
    monkeypatch.setattr(sys, "executable", "")

    with pytest.raises(RuntimeError, match=r"new_exec\(python=...\)"):
        Forker.new_exec()


def test_the_environment_can_be_replaced():
    template = Forker.new_exec(env={"ONLY": "this"})
    with template, template.eval(LOOK).run("look") as proxy:
        environment = proxy.call()["environment"]

    environment.pop("LC_CTYPE", None)  # the interpreter's own, in the C locale
    assert environment == {"ONLY": "this"}


def test_an_executed_template_has_its_own_descriptors_only():
    done = run_program(
        """
        import os
        from forkrpc import Forker

        for _ in range(20):
            os.set_inheritable(os.dup(0), True)
        source = "def held(): import os; return len(os.listdir('/proc/self/fd')) - 1"
        with Forker().eval(source) as template, template.run("held") as proxy:
            print(proxy.call())
        """
    )

    # 0-2, the channel, the lifeline, and what faulthandler writes to
    assert (done.stdout, done.stderr) == ("6\n", "")
