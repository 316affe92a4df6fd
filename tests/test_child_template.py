"""End-to-end: a template obeys in order, tells failures, reaps, and ends with all."""

import os
import signal

import pytest

from forkrpc import Forker, SetupError
from helpers import (
    descendants,
    open_descriptors,
    process_alive,
    process_stat,
    run_program,
    wait_until,
)


@pytest.fixture
def template():
    with Forker() as template:
        yield template


def in_template(template, expression, *modules):
    """Return what *expression* is in the main module of *template*'s workers."""
    imports = "".join(f"import {module}\n" for module in modules)
    template.eval(f"{imports}def look(): return {expression}")
    with template.run("look") as proxy:
        return proxy.call()


# Steps.


def test_steps_are_done_in_order(template):
    template.eval("steps = [args]", 1)
    template.eval("steps.append(args)", 2, "two")
    template.require("colorsys").eval(
        "import sys; steps.append('colorsys' in sys.modules)"
    )

    assert in_template(template, "steps") == [(1,), (2, "two"), True]


def test_a_template_waits_for_its_steps(template):
    read, write = os.pipe()
    os.set_inheritable(write, True)

    template.send_fh(write).ready(20)

    os.close(write)
    os.close(read)


@pytest.mark.parametrize(
    ("step", "texts"),
    [
        (lambda t: t.eval("1 / 0"), ["eval 1 / 0", "ZeroDivisionError", "line 1"]),
        (
            lambda t: t.eval("\n\nraise SystemExit(3)"),
            ["eval", "SystemExit: 3", "line 3"],
        ),
        (lambda t: t.eval("raise KeyboardInterrupt"), ["KeyboardInterrupt"]),
        (lambda t: t.require("os", "no_such"), ["require 'os', 'no_such'", "no_such"]),
    ],
)
def test_a_step_that_fails_fails_all_that_comes_after_it(template, step, texts):
    before = template.run("os.getpid")
    step(template)
    template.eval("raise AssertionError('executed')")
    proxy, forked = template.run("os.getpid"), template.fork()

    for use in template.ready, forked.ready, proxy.call:
        with pytest.raises(SetupError) as caught:
            use()
        for text in texts:
            assert text in str(caught.value)
        assert "executed" not in str(caught.value)
    with before:
        assert before.call() == before.pid
    forked.close()


def test_the_traceback_of_a_step_shows_the_lines_of_its_source(template):
    template.eval("def fail():\n    raise ValueError('this text')")
    template.eval("fail()")

    with pytest.raises(SetupError) as caught:
        template.ready()

    text = str(caught.value)
    assert "raise ValueError('this text')" in text
    assert "in fail" in text
    assert "forkrpc/" not in text


def test_a_template_has_the_folder_and_environment_of_the_moment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("A_TEST", "grüße")

    with Forker() as template:
        monkeypatch.undo()
        found = in_template(template, "os.getcwd(), os.environ['A_TEST']", "os")

    assert found == (str(tmp_path), "grüße")


def test_a_folder_that_was_deleted_meanwhile_is_no_obstacle(monkeypatch, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)

    with Forker() as template:
        folder.rmdir()
        with template.run("os.getpid") as proxy:
            assert proxy.call() == proxy.pid


def test_a_forked_template_has_all_so_far_and_nothing_of_what_comes(template):
    template.eval("value = [1]").send_arg("argument")
    with template.fork() as other:
        template.eval("value.append(2)")
        other.eval("value.append(3)")

        found = in_template(template, "value", "os"), in_template(other, "value", "os")
        parents = process_stat(template.pid)[1], process_stat(other.pid)[1]

    assert found == ([1, 2], [1, 3])
    assert parents[1] == template.pid


def test_exit_and_quit_are_there_as_in_any_program(template):
    assert in_template(template, "(exit.name, quit.name)") == ("exit", "quit")


# The process.


def test_a_template_leads_a_group_in_another_session(template):
    pid = template.ready(20).pid

    assert os.getpgid(pid) == pid
    assert os.getsid(pid) != os.getsid(0)


def test_what_user_code_does_to_signals_does_not_blind_the_template(template):
    template.eval(
        "import signal\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "signal.set_wakeup_fd(-1)\n"
    )

    proxy = template.run("sys.exit")
    proxy.submit(7).exception(10)

    assert proxy.join(10)
    assert proxy.returncode == 7


def test_a_worker_that_ends_while_a_step_is_done_is_still_reaped():
    with Forker() as template:
        pid = template.eval("import signal, time").ready(20).pid
        template.eval("time.sleep(0.2)")  # the next steps are read together
        template.eval("signal.signal(signal.SIGCHLD, signal.SIG_IGN)")
        proxy = template.run("sys.exit", on_error=lambda error: None)
        proxy(7, None)
        template.eval("time.sleep(0.3)")
        ended = proxy.join(10)

    assert ended
    assert proxy.returncode == 7
    wait_until(lambda: process_stat(pid) is None, message="end of the template")


def test_workers_that_ended_are_reaped(template):
    for _ in range(3):
        with template.run("os.getpid") as proxy:
            proxy.call()

    wait_until(lambda: descendants(template.pid) == [])


def test_orphans_of_a_worker_are_reaped(template):
    source = """
import os
def orphan():
    read, write = os.pipe()
    if not os.fork():
        os.write(write, str(pid := os.fork() or os.getpid()).encode())
        os._exit(0)
    return int(os.read(read, 20))
"""
    with template.eval(source).run("orphan") as proxy:
        proxy.call()

    wait_until(lambda: descendants(template.pid) == [])


def test_a_template_keeps_no_descriptor_of_a_worker(template):
    # 0-2, its control stream and lifeline, and two to wake it
    with template.run("os.getpid") as proxy:
        proxy.call()
        wait_until(lambda: len(open_descriptors(template.pid)) == 7)
        others = [template.run("os.getpid") for _ in range(5)]
        for other in others:
            other.call()
        wait_until(lambda: len(open_descriptors(template.pid)) == 7)
        for other in others:
            other.close()
            other.join(10)


def test_a_closed_template_ends_after_its_last_worker():
    template = Forker()
    pid, proxy = template.pid, template.run("time.sleep")
    proxy.call(0)

    template.close()
    stays = process_alive(pid) and process_alive(proxy.pid)
    proxy.call(0)
    proxy.close()
    proxy.join(10)

    assert stays
    assert proxy.returncode == 0
    wait_until(lambda: process_stat(pid) is None)


def test_handlers_of_the_template_run_once_when_it_ends(tmp_path):
    path = tmp_path / "output"
    source = f"""
import atexit, os
def note():
    with open({str(path)!r}, "a") as file:
        file.write(f"{{os.getpid()}}\\n")
atexit.register(note)
"""
    with Forker() as template:
        pid = template.eval(source).pid
        with template.run("os.getpid") as proxy:
            proxy.call()
    wait_until(lambda: process_stat(pid) is None)

    assert path.read_text() == f"{pid}\n"


def test_workers_that_do_not_leave_with_the_program_are_ended():
    done = run_program(
        """
        import os, signal
        from forkrpc import Forker

        source = "import signal, threading, time\\n" \\
                 "def stay():\\n" \\
                 "    for n in range(1, 65):\\n" \\
                 "        try: signal.signal(n, signal.SIG_IGN)\\n" \\
                 "        except (OSError, ValueError): pass\\n" \\
                 "    threading.Thread(target=time.sleep, args=[1000]).start()\\n"
        proxy = Forker().eval(source).run("stay")
        proxy.call()
        print(proxy.pid, flush=True)
        os.kill(os.getpid(), 9)
        """
    )

    pid = int(done.stdout)
    wait_until(lambda: not process_alive(pid))


def test_a_template_that_is_killed_takes_no_worker_along(template):
    with template.run("os.getpid") as proxy:
        pid = proxy.pid
        os.kill(template.pid, signal.SIGKILL)
        wait_until(lambda: not process_alive(template.pid))

        assert proxy.call() == pid


def test_a_template_of_the_program_itself_has_what_is_defined_there():
    done = run_program(
        """
        import os
        from forkrpc import Forker

        value = [1, 2]
        def function(more): return value + [more], os.getppid()

        with Forker.from_current_process() as template:
            with template.run("function") as proxy:
                print(proxy.call(3) == ([1, 2, 3], template.pid))
        """
    )

    assert (done.stdout, done.stderr) == ("True\n", "")


def test_workers_of_functions_by_value_share_what_loads_them():
    with Forker() as template:
        with template.run("os.getpid") as proxy:
            proxy.call()
        with template.run(lambda: "cloudpickle" in __import__("sys").modules) as proxy:
            assert proxy.call()
        source = "import sys\ndef has(): return 'cloudpickle' in sys.modules"
        with template.eval(source).run("has") as proxy:
            assert proxy.call()  # which only the template has imported
