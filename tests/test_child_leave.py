"""End-to-end: how a child ends: handlers, threads, and what it wrote."""

import pytest

from helpers import run_program

# Forks a child that drops handlers, runs `child`, and leaves; prints its status.
PRELUDE = """
import atexit, os, sys, threading, time, weakref
from forkrpc.child import leave

class Kept: pass
kept = Kept()
atexit.register(print, "the template's atexit", flush=True)
weakref.finalize(kept, print, "the template's finalize", flush=True)

def fork(child, status=0):
    leave.flush_stdio()
    pid = os.fork()
    if not pid:
        leave.drop_handlers()
        child()
        leave.leave(status)
    print("status", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    atexit._clear()
"""


def lines_of(child, status=0):
    """Return what a child printed whose body is the text *child*, and its status."""
    body = "\n".join(f"    {line}" for line in child.splitlines())
    done = run_program(f"{PRELUDE}\ndef child():\n{body}\nfork(child, {status})")
    return done.stdout.splitlines(), done.stderr


def test_handlers_of_the_template_do_not_run_in_a_child():
    assert lines_of("pass") == (["status 0"], "")


def test_the_status_is_the_one_given():
    assert lines_of("pass", 7) == (["status 7"], "")


@pytest.mark.parametrize(
    "register",
    ["atexit.register(print, 'own')", "weakref.finalize(kept, print, 'own')"],
)
def test_handlers_of_the_child_itself_run(register):
    assert lines_of(register) == (["own", "status 0"], "")


def test_a_handler_that_raises_is_reported_and_the_others_run():
    lines, errors = lines_of(
        "atexit.register(print, 'own')\natexit.register(divmod, 1, 0)"
    )

    assert lines == ["own", "status 0"]
    assert "ZeroDivisionError" in errors


def test_a_handler_may_not_change_the_end():
    lines, _ = lines_of("atexit.register(sys.exit, 9)", 3)

    assert lines == ["status 3"]


def test_what_was_printed_and_not_flushed_is_written():
    assert lines_of("print('text', end='\\n')") == (["text", "status 0"], "")


@pytest.mark.parametrize("mode", ["w", "wb", "w+", "wb+"])
def test_open_files_are_flushed(mode):
    text = "'text'" if "b" not in mode else "b'text'"
    done = run_program(
        f"{PRELUDE}\n"
        "def child():\n    global file\n"
        f"    file = open('output', '{mode}')\n    file.write({text})\n"
        "fork(child)\nprint(open('output').read())"
    )

    assert done.stdout.splitlines() == ["status 0", "text"]


def test_what_cannot_be_written_does_not_hold_up_the_end():
    lines, errors = lines_of(
        "global file\nread, write = os.pipe()\nfile = os.fdopen(write, 'w')\n"
        "file.write('text')\nos.close(read)\nsys.stdout.close()\nsys.stderr = None"
    )

    assert (lines, errors) == (["status 0"], "")


def test_threads_that_are_no_daemons_are_waited_for():
    lines, _ = lines_of(
        "done = threading.Event()\n"
        "def work():\n    done.wait(10)\n    print('worked')\n"
        "threading.Thread(target=work).start()\ndone.set()"
    )

    assert lines == ["worked", "status 0"]


def test_daemons_are_not_waited_for():
    child = "threading.Thread(target=time.sleep, args=[1000], daemon=True).start()"

    assert lines_of(child) == (["status 0"], "")


def test_threads_that_do_not_end_are_waited_for_only_so_long():
    lines, _ = lines_of(
        "leave.THREADS_LIMIT = 0.1\n"
        "threading.Thread(target=time.sleep, args=[1000]).start()"
    )

    assert lines == ["status 0"]


def test_executors_of_the_child_finish_their_work():
    lines, _ = lines_of(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "executor = ThreadPoolExecutor(1)\n"
        "for number in range(3): executor.submit(print, number)"
    )

    assert lines == ["0", "1", "2", "status 0"]


def test_a_child_leaves_without_having_loaded_threads():
    done = run_program(
        """
        import os, sys
        from forkrpc.child import leave

        pid = os.fork()
        if not pid:
            leave.drop_handlers()
            print({"threading", "weakref", "logging"} & set(sys.modules))
            leave.leave(0)
        os.waitpid(pid, 0)
        """
    )

    assert (done.stdout, done.stderr) == ("set()\n", "")


@pytest.mark.parametrize(
    ("code", "status", "printed"),
    [
        *(("", 0, ""), ("None", 0, ""), ("0", 0, ""), ("7", 7, ""), ("256", 0, "")),
        *(
            ("-1", 255, ""),
            ("True", 1, ""),
            ("'text'", 1, "text\n"),
            ("[1]", 1, "[1]\n"),
        ),
    ],
)
def test_sys_exit_means_what_it_means_in_a_program(code, status, printed):
    source = (
        "import sys\nfrom forkrpc.child import leave\n"
        f"try: sys.exit({code})\n"
        "except SystemExit as error: print(leave.exit_status_of(error))"
    )

    done = run_program(source)
    plain = run_program(f"import sys; sys.exit({code})")

    assert (done.stdout, done.stderr) == (f"{status}\n", printed)
    assert (plain.returncode, plain.stderr) == (status, printed)


def test_the_message_of_an_exit_may_have_nowhere_to_go():
    done = run_program(
        """
        import sys
        from forkrpc.child import leave

        sys.stderr.close()
        print(leave.exit_status_of(SystemExit("text")))
        """
    )

    assert done.stdout == "1\n"


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("", False),
        ("import logging", False),
        ("atexit.register(print)", True),
        ("import logging; atexit.register(print)", True),
        ("threading.Thread(target=time.sleep, args=(0.1,)).start()", True),
    ],
)
def test_whether_the_end_may_take_long(before, expected):
    child = f"{before}\nprint(leave.may_take_long())"

    assert lines_of(child)[0][0] == str(expected)
