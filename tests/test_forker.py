"""End-to-end: templates: what they prepare, what they fork, how they end."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from forkrpc import ClosedError, Forker, Process, SerialiserError, SetupError
from helpers import CHECKOUT, MS, process_alive, process_stat, run_program, wait_until

LIMIT = 10  # seconds for what takes milliseconds

RECORDER = """
class Recorder:
    def __init__(self, *arguments):
        self.arguments = arguments
    def __call__(self, index=None):
        if index is None:
            return [type(each).__name__ for each in self.arguments]
        return self.arguments[index]
"""


def parent_of(pid):
    return process_stat(pid)[1]


def gone(pid):
    return process_stat(pid) is None


def wait_gone(pid):
    wait_until(lambda: gone(pid), LIMIT, f"end of process {pid}")


def value(template, expression, *args):
    """Return what *expression* is in a fresh worker of *template*."""
    fork = template.fork().eval(f"def found(*args): return {expression}")
    with fork, fork.run("found") as proxy:
        return proxy.call(*args)


@pytest.fixture
def gate(tmp_path):
    """A named pipe: opening it for reading waits until `release` is called."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


def wait_at(gate):
    """Return source that does not end before `release`."""
    return f"open({str(gate)!r}).close()"


def release(gate):
    """Let pass what waits at the gate."""
    gate.write_text("")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return a function that makes a module of a name and a text, on sys.path."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield make
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


# A new template.


def test_a_new_template_is_a_process_forked_from_one_that_all_share():
    with Forker() as one, Forker() as other:
        assert process_alive(one.pid)
        assert one.pid != other.pid
        assert parent_of(one.pid) == parent_of(other.pid) != os.getpid()


def test_a_worker_is_forked_from_its_template():
    with Forker() as template, template.run("os.getppid") as proxy:
        assert proxy.call() == template.pid == parent_of(proxy.pid)


def test_no_variable_is_needed_between_a_template_and_a_call(module):
    module("shop", "def price(count): return 2 * count")

    assert Forker().require("shop").run("shop.price").call(21) == 42


def test_the_name_of_a_template_is_in_its_repr():
    with Forker(name="images") as named, Forker() as plain:
        assert repr(named) == "<Forker 'images', open>"
        assert repr(plain) == "<Forker, open>"

    assert repr(named) == "<Forker 'images', closed>"


def test_a_template_takes_over_the_path_of_the_moment(module, tmp_path):
    before = Forker()
    before.ready()
    sys.path.insert(0, str(tmp_path / "later"))
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "made_later.py").write_text("answer = 42")
    try:
        with Forker() as after, before:
            assert value(after.require("made_later"), "__import__('made_later').answer")
            with pytest.raises(SetupError, match="made_later"):
                before.require("made_later").ready()
    finally:
        sys.path.remove(str(tmp_path / "later"))


def test_a_template_takes_over_the_environment_of_the_moment(monkeypatch):
    monkeypatch.setenv("FORKRPC_TEST", "early")
    with Forker() as early:
        monkeypatch.setenv("FORKRPC_TEST", "late")
        monkeypatch.setitem(os.environb, b"FORKRPC_BYTES", b"\xff\n=")
        with Forker() as late:
            monkeypatch.delenv("FORKRPC_TEST")
            with Forker() as without:
                of_the_moment = "__import__('os').environ.get('FORKRPC_TEST')"
                assert value(early, of_the_moment) == "early"
                assert value(late, of_the_moment) == "late"
                assert value(late, "__import__('os').environb[b'FORKRPC_BYTES']") == (
                    b"\xff\n="
                )
                assert value(without, of_the_moment) is None


def test_the_environment_taken_over_is_that_of_programs_too(monkeypatch):
    monkeypatch.setenv("FORKRPC_TEST", "for programs")

    with Forker().run("subprocess.check_output") as proxy:
        assert proxy.call(["printenv", "FORKRPC_TEST"]) == b"for programs\n"


def test_a_template_takes_over_the_directory_of_the_moment(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    with Forker() as template:
        monkeypatch.chdir(tmp_path / "two")
        (tmp_path / "one").rename(tmp_path / "renamed")
        with template.run("os.getcwd") as proxy, Forker().run("os.getcwd") as other:
            assert proxy.call() == str(tmp_path / "renamed")
            assert other.call() == str(tmp_path / "two")


def test_templates_are_made_after_the_current_directory_was_deleted(
    tmp_path, monkeypatch
):
    (tmp_path / "deleted").mkdir()
    monkeypatch.chdir(tmp_path / "deleted")
    (tmp_path / "deleted").rmdir()

    for template in (Forker(), Forker.new_exec()):
        with template, template.require("json").run("json.dumps") as proxy:
            assert proxy.call([1]) == "[1]"


def test_workers_have_the_arguments_of_no_program():
    with Forker() as template:
        assert value(template, "__import__('sys').argv") == [""]


# A template in a fresh interpreter.


def test_an_executed_template_is_a_child_of_the_program_and_shares_nothing():
    with Forker.new_exec() as template:
        assert parent_of(template.pid) == os.getpid()
        with template.run("os.getppid") as proxy:
            assert proxy.call() == template.pid


def test_env_replaces_the_environment(monkeypatch):
    monkeypatch.setenv("FORKRPC_TEST", "of the program")

    with Forker.new_exec(env={"ONLY": "this"}) as template:
        found = value(template, "dict(__import__('os').environ)")

    found.pop("LC_CTYPE", None)  # Python itself sets it where nothing tells the locale
    assert found == {"ONLY": "this"}


@pytest.mark.parametrize("env", [{"A": 1}, {b"A": "1"}, {"A": None}])
def test_env_must_be_text(env):
    with pytest.raises(TypeError, match="env must map str to str"):
        Forker.new_exec(env=env)


def test_cwd_is_where_the_template_begins(tmp_path):
    with Forker.new_exec(cwd=tmp_path) as template, template.run("os.getcwd") as proxy:
        assert proxy.call() == str(tmp_path)


def test_a_cwd_that_is_none_is_told_at_once(tmp_path):
    with pytest.raises(FileNotFoundError):
        Forker.new_exec(cwd=tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        Forker.new_exec(cwd=tmp_path / "file")


def other_pythons():
    """Return interpreters of other versions that the library supports."""
    root = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    mine = f"3.{sys.version_info[1]}."
    found = {
        path.parts[-3].rpartition(".")[0]: path
        for path in sorted(root.glob("versions/3.1[0-9].*/bin/python"))
        if not path.parts[-3].startswith(mine)
    }
    return list(found.values())


@pytest.mark.skipif(not other_pythons(), reason="no other Python under pyenv")
@pytest.mark.parametrize("python", other_pythons(), ids=lambda path: path.parts[-3])
def test_a_template_in_another_python_keeps_its_own_path(python):
    with Forker.new_exec(python=str(python)) as template:
        version = value(template, "__import__('sys').version.split()[0]")
        folder = value(template, "__import__('json').__file__")

        assert version == python.parts[-3]
        assert Path(folder).is_relative_to(python.parent.parent)
        with template.run("operator.truediv") as divide:
            assert divide.call(1, 4) == 0.25
            with pytest.raises(ZeroDivisionError):
                divide.call(1, 0)


def test_the_python_may_be_found_on_the_path():
    with Forker.new_exec(python="python3") as template:
        assert value(template, "__import__('sys').version_info[0]") == 3


def test_a_python_that_does_not_exist_is_told_at_once():
    with pytest.raises(FileNotFoundError):
        Forker.new_exec(python="no-such-python")


@pytest.mark.parametrize("python", ["true", "false"])
def test_a_python_that_is_none_fails_what_is_asked_of_it(python):
    template = Forker.new_exec(python=python)

    with pytest.raises((SetupError, ClosedError), match="ended"):
        template.ready(timeout=LIMIT)
    with pytest.raises((SetupError, ClosedError), match="ended"):
        template.run("os.getpid").call()


# A template forked from the program itself.


def test_a_copy_of_the_program_has_what_the_program_has_now():
    done = run_program(
        """
        import os
        from forkrpc import Forker

        numbers = []

        def count():
            numbers.append(os.getpid() != owner)
            return numbers

        owner = os.getpid()
        with Forker().run("os.getpid") as proxy:
            proxy.call()  # the library's own thread runs from here on
        numbers.extend("abc")
        template = Forker.from_current_process()
        numbers.extend("later")
        with template, template.run("count") as proxy:
            print(proxy.call(), proxy.call())
            print(template.pid != owner, proxy.pid not in (owner, template.pid))
        with Forker.from_current_process().run("count") as proxy:
            print(proxy.call())
        """
    )

    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "['a', 'b', 'c', True] ['a', 'b', 'c', True, True]",
        "True True",
        "['a', 'b', 'c', 'l', 'a', 't', 'e', 'r', True]",
    ]


def test_what_the_program_has_not_written_yet_is_written_once():
    done = run_program(
        """
        import sys
        from forkrpc import Forker

        print("in the buffer of stdout")
        notes = open("notes", "w")
        notes.write("in the buffer of a file\\n")
        with Forker.from_current_process() as template:
            with template.run("os.getpid") as proxy:
                proxy.call()
            pid = template.pid
        notes.close()
        print(open("notes").read(), end="")
        """
    )

    assert done.stderr == ""
    assert done.stdout == "in the buffer of stdout\nin the buffer of a file\n"


def test_handlers_of_the_program_do_not_run_in_its_copy():
    done = run_program(
        """
        import atexit, os
        from forkrpc import Forker

        atexit.register(lambda: print("end of", os.getpid() == owner, flush=True))
        owner = os.getpid()
        with Forker.from_current_process() as template:
            with template.run("os.getpid") as proxy:
                proxy.call()
        """
    )

    assert (done.stdout, done.stderr) == ("end of True\n", "")


def test_a_program_with_threads_is_not_copied():
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="a busy thread")
    thread.start()
    try:
        with pytest.raises(RuntimeError, match="running threads: .*a busy thread"):
            Forker.from_current_process()
    finally:
        stop.set()
        thread.join()


# require


def test_a_required_module_is_imported_once_and_shared(module, tmp_path):
    module(
        "heavy",
        "import os\n"
        f"with open({str(tmp_path / 'imports')!r}, 'a') as file:\n"
        "    print(os.getpid(), file=file)\n"
        "pid = os.getpid()\n"
        "def imported_by(): return pid\n",
    )
    with Forker().require("heavy") as template:
        workers = [template.run("heavy.imported_by") for _ in range(3)]
        assert {worker.call() for worker in workers} == {template.pid}
        for worker in workers:
            worker.close()

        assert (tmp_path / "imports").read_text() == f"{template.pid}\n"


def test_modules_are_required_in_order(module, tmp_path):
    for name in ("third", "first", "second"):
        module(name, f"open({str(tmp_path / 'order')!r}, 'a').write('{name} ')")

    with Forker().require("first", "second").require("third", "os.path") as template:
        template.ready()

    assert (tmp_path / "order").read_text() == "first second third "


@pytest.mark.parametrize("name", ["", "no name", "1st", "package.", ".relative", 3])
def test_what_is_no_name_of_a_module_is_refused_at_once(name):
    with Forker() as template:
        with pytest.raises(ValueError, match="is no name of a module"):
            template.require("os", name)

        template.ready()


def test_a_module_that_is_missing_fails_all_that_comes_after_it(tmp_path):
    marker = tmp_path / "marker"
    with Forker().require("json", "missing_module") as template:
        template.eval(f"open({str(marker)!r}, 'w')")
        for _ in range(3):
            with pytest.raises(SetupError, match="require.*missing_module"):
                template.ready()
        with pytest.raises(SetupError, match="ModuleNotFoundError: No module named"):
            template.run("os.getpid").call()
        with template.fork() as fork:
            for _ in range(2):
                with pytest.raises(SetupError, match="missing_module"):
                    fork.ready()
            with pytest.raises(SetupError, match="missing_module"):
                fork.run("os.getpid").submit().result()
        with template.spawn("os.getpid").sock as sock:
            assert sock.recv(1) == b""

    assert not marker.exists()


def test_the_error_shows_where_a_module_failed(module):
    module("broken", "def fails():\n    return 1 / 0\n\nfails()\n")

    with Forker().require("broken") as template, pytest.raises(SetupError) as caught:
        template.ready()

    text = str(caught.value)
    assert text.startswith("require 'broken': ZeroDivisionError")
    assert 'broken.py", line 2, in fails' in text
    assert text.index("line 4") < text.index("line 2")  # the last call comes last
    assert "forkrpc/" not in text


@pytest.mark.parametrize("kind", ["SystemExit(3)", "KeyboardInterrupt()", "Odd()"])
def test_a_module_that_raises_anything_fails_its_step_only(module, kind):
    module("odd", f"class Odd(BaseException): pass\nraise {kind}")

    with Forker() as good, good.fork().require("odd") as bad:
        with pytest.raises(SetupError, match=kind.partition("(")[0]):
            bad.ready()

        assert value(good, "'still there'") == "still there"


def test_a_failure_is_reported_through_on_error_too():
    errors = []
    proxy = Forker().require("missing_module").run("os.getpid", on_error=errors.append)
    with contextlib.suppress(SetupError):  # it may be known by now
        proxy(None)
    assert proxy.join(LIMIT)

    (error,) = errors
    assert isinstance(error, SetupError)
    assert "missing_module" in str(error)
    assert proxy.pid is None


# eval


def test_eval_executes_in_the_main_module_of_the_template():
    with Forker().eval("import os; total = 0") as template:
        template.eval("def add(n):\n    global total\n    total += n\n    return total")
        with template.run("add") as one, template.run("add") as other:
            assert [one.call(2), one.call(3), other.call(4)] == [2, 5, 4]
        assert value(template, "add.__module__") == "__main__"


def test_eval_binds_args():
    with Forker().eval("limits = args", 1, [2, {"three": 3}], None) as template:
        assert value(template, "limits") == (1, [2, {"three": 3}], None)
        assert value(template.eval("limits = args"), "limits") == ()


def test_a_syntax_error_is_raised_at_once_and_harms_nothing():
    with Forker() as template:
        with pytest.raises(SyntaxError):
            template.eval("def broken(:")

        assert value(template, "'still there'") == "still there"


def test_an_error_in_eval_shows_its_source():
    source = "def half(n):\n    return n / 0  # oh\n\nhalf(1)"
    with Forker().eval(source) as template, pytest.raises(SetupError) as caught:
        template.ready()

    text = str(caught.value)
    assert text.startswith("eval")
    assert "ZeroDivisionError" in text
    assert "return n / 0  # oh" in text


def test_an_argument_that_cannot_be_sent_is_told_at_once_and_harms_nothing():
    with Forker() as template:
        for step in (partial(template.eval, "pass"), template.send_arg):
            with pytest.raises(SerialiserError, match=r"\[1\]\['lock'\] \(lock\)"):
                step(1, {"lock": threading.Lock()})

        template.eval(RECORDER)
        with template.run("Recorder") as proxy:
            assert proxy.call() == []


def test_eval_does_not_inherit_the_future_of_the_library():
    with Forker().eval("def f(x: int): pass\nkind = f.__annotations__['x']") as it:
        assert value(it, "kind is int")


# The arguments of workers.


def test_arguments_and_files_arrive_in_the_order_in_which_they_were_sent(tmp_path):
    (tmp_path / "text").write_text("grün\n", encoding="latin-1")
    (tmp_path / "bytes").write_bytes(b"\x00\xff")
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    text = open(tmp_path / "text", encoding="latin-1")
    binary = open(tmp_path / "bytes", "rb")
    raw = open(tmp_path / "bytes", "rb", buffering=0)
    with Forker().eval(RECORDER + USES) as template:
        template.send_arg("first", 2).send_fh(theirs, text).send_arg([3])
        template.send_fh(binary, raw).send_fh(writer).send_arg(None)
        for file in (theirs, text, binary, raw):
            file.close()
        os.close(writer)

        with template.run("Recorder") as proxy:
            assert proxy.call() == [
                *("str", "int", "socket", "TextIOWrapper", "list"),
                *("BufferedReader", "FileIO", "int", "NoneType"),
            ]
            assert [proxy.call(at) for at in (0, 1, 4, 8)] == ["first", 2, [3], None]
        with template.run("Uses") as proxy:
            assert proxy.call() == ["grün\n", b"\x00", b"\xff"]
        assert ours.recv(100) == b"through the socket"
        assert os.read(reader, 100) == b"through the pipe"
    ours.close()
    os.close(reader)


USES = """
import os
class Uses(Recorder):
    def __call__(self):
        _, _, sock, text, _, binary, raw, pipe, _ = self.arguments
        sock.sendall(b"through the socket")
        os.write(pipe, b"through the pipe")
        return [text.read(), binary.read(1), os.pread(raw.fileno(), 1, 1)]
"""


@pytest.mark.parametrize("mode", ["w", "a", "r+", "wb", "r+b", "x", "xb", "w+"])
def test_a_file_can_be_written_as_its_owner_could(mode, tmp_path):
    path = tmp_path / "file"
    if "r" in mode:
        path.write_text("")
    template = Forker().eval(RECORDER)
    template.eval(
        "class Writer(Recorder):\n"
        "    def __call__(self, data):\n"
        "        (file,) = self.arguments\n"
        "        return file.write(data)"
    )
    with open(path, mode) as file:
        template.send_fh(file)
    with template, template.run("Writer") as proxy:
        assert proxy.call(b"data" if "b" in mode else "data") == 4

    assert path.read_text() == "data"  # the worker flushed it when it left


def test_what_the_owner_has_not_written_yet_comes_first(tmp_path):
    template = Forker().eval("def write(sock, file): file.write('second\\n')")
    with template, open(tmp_path / "file", "w") as file:
        file.write("first\n")
        process = template.send_fh(file).spawn("write")
        assert process.wait(LIMIT) == 0
        process.sock.close()

    assert (tmp_path / "file").read_text() == "first\nsecond\n"


def test_a_class_and_init_get_the_arguments_and_calls_do_not():
    source = (
        "got = []\ndef init(*args): got.append(args)\ndef f(*args): return args, got"
    )
    template = Forker().eval(source).send_arg(1, 2)
    with template, template.run("f", init="init") as proxy:
        assert proxy.call("call") == (("call",), [(1, 2)])


@pytest.mark.parametrize("file", ["a path", None, True, 1.5, object()])
def test_what_is_no_file_is_refused_at_once(file):
    with Forker() as template:
        with pytest.raises(TypeError, match="send_fh takes sockets, files"):
            template.send_fh(0, file)

        template.ready()


def test_a_file_that_is_closed_is_refused_at_once(tmp_path):
    with open(tmp_path / "file", "w") as file:
        pass
    with Forker() as template:
        with pytest.raises(ValueError, match="closed file"):
            template.send_fh(0, file)
        with pytest.raises(OSError, match="Bad file descriptor"):
            template.send_fh(0, 99_999)
        with socket.socket() as sock:
            pass
        with pytest.raises((OSError, ValueError)):
            template.send_fh(0, sock)

        template.ready()


def test_many_files_are_sent_at_once(tmp_path):
    files = [open(tmp_path / str(number), "w+b") for number in range(150)]
    for number, file in enumerate(files):
        file.write(b"%d" % number)
        file.seek(0)
    template = Forker().eval(RECORDER)
    template.eval(
        "class Reader(Recorder):\n"
        "    def __call__(self):\n"
        "        return [int(file.read()) for file in self.arguments]"
    )
    template.send_fh(*files)
    for file in files:
        file.close()

    with template, template.run("Reader") as proxy:
        assert proxy.call() == list(range(150))


def test_steps_are_queued_while_the_template_is_busy(gate):
    large = bytes(20_000_000)  # far more than a socket holds
    with Forker().eval(wait_at(gate)) as template:
        template.eval(RECORDER).send_arg(large).send_arg("last")
        proxy = template.run("Recorder")
        fork = template.fork().send_arg("more")
        with pytest.raises(TimeoutError):
            template.ready(timeout=10 * MS)
        release(gate)

        assert len(proxy.call(0)) == len(large)
        with fork, fork.run("Recorder") as other:
            assert other.call() == ["bytes", "str", "str"]
        proxy.close()


# fork


def test_a_template_of_a_template_of_a_template_has_all_their_state():
    first = Forker().eval("state = ['first']").send_arg(1)
    second = first.fork()
    first.eval("state.append('too late')").send_arg("too late")
    second.eval("state.append('second')").send_arg(2)
    third = second.fork()
    third.eval("state.append('third')").send_arg(3)
    with first, second, third:
        assert value(first, "state") == ["first", "too late"]
        assert value(second, "state") == ["first", "second"]
        assert value(third, "state") == ["first", "second", "third"]
        with third.eval(RECORDER).run("Recorder") as proxy:
            assert [proxy.call(at) for at in range(3)] == [1, 2, 3]
        assert parent_of(third.pid) == second.pid
        assert parent_of(second.pid) == first.pid


def test_a_fork_lives_on_when_its_template_is_closed():
    first = Forker().eval("state = 'inherited'")
    second = first.fork()
    second.ready()
    first.close()
    del first

    with second:
        assert value(second, "state") == "inherited"


def test_a_fork_that_fails_harms_no_other():
    with Forker().eval("state = 'good'") as template:
        with pytest.raises(SetupError):
            template.fork().require("missing_module").ready()

        assert value(template, "state") == "good"
        template.ready()


def test_a_fork_of_a_template_that_failed_has_its_failure():
    with pytest.raises(SetupError, match="missing_module"):
        Forker().require("missing_module").fork().fork().ready()


def test_many_workers_are_forked_from_one_template():
    with Forker() as template:
        proxies = [template.run("os.getpid") for _ in range(40)]
        pids = {proxy.call() for proxy in proxies}
        assert len(pids) == 40
        assert {parent_of(pid) for pid in pids} == {template.pid}
        for proxy in proxies:
            proxy.close()
        for proxy in proxies:
            assert proxy.join(LIMIT)


# spawn


def test_a_spawned_function_gets_a_socket_and_the_arguments():
    source = (
        "def echo(sock, *args):\n    sock.sendall(repr(args).encode() + sock.recv(9))"
    )
    with Forker().eval(source).send_arg(1, "two") as template:
        process = template.spawn("echo")

        assert isinstance(process, Process)
        assert isinstance(process.sock, socket.socket)
        process.sock.sendall(b" and more")
        assert process.sock.recv(100) == b"(1, 'two') and more"
        assert process.wait(LIMIT) == process.returncode == 0
        assert process.sock.recv(100) == b""
        process.sock.close()


def test_a_spawned_process_is_known_by_its_pid(gate):
    def wait_at_gate(sock, path):
        sock.sendall(str(os.getpid()).encode())
        open(path).close()

    with Forker().send_arg(str(gate)) as template:
        process = template.spawn(wait_at_gate)
        with process.sock:
            assert int(process.sock.recv(100)) == process.pid
        assert process.returncode is None
        assert repr(process.pid) in repr(process)
        with pytest.raises(TimeoutError):
            process.wait(timeout=10 * MS)
        release(gate)
        assert process.wait(timeout=LIMIT) == 0
        assert process.wait() == 0
        process.kill()  # too late, and no error


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("return 'whatever'", 0),
        ("sys.exit()", 0),
        ("sys.exit(7)", 7),
        ("os._exit(9)", 9),
        ("os.abort()", -signal.SIGABRT),
        ("signal.raise_signal(signal.SIGTERM)", -signal.SIGTERM),
    ],
)
def test_the_status_tells_how_a_spawned_process_ended(body, status):
    source = f"import os, signal, sys\ndef end(sock): {body}"
    with Forker().eval(source) as template:
        process = template.spawn("end")
        process.sock.close()

        assert process.wait(LIMIT) == status


def test_a_spawned_function_that_raises_prints_a_traceback(capfd):
    with Forker().eval("def fails(sock):\n    1 / 0  # oh") as template:
        process = template.spawn("fails")
        process.sock.close()
        assert process.wait(LIMIT) == 1

    text = capfd.readouterr().err
    assert text.startswith("Traceback")
    assert text.endswith("ZeroDivisionError: division by zero\n")


def test_a_spawned_function_that_does_not_exist_ends_with_status_1(capfd):
    with Forker() as template:
        process = template.spawn("os.no_such_function")
        process.sock.close()
        assert process.wait(LIMIT) == 1

    assert "'os.no_such_function'" in capfd.readouterr().err


def test_a_spawned_process_can_be_killed(gate):
    for how, status in (((), -9), ((signal.SIGTERM,), -15)):
        with Forker().eval(f"def wait(sock): {wait_at(gate)}") as template:
            process = template.spawn("wait")
            process.sock.close()
            process.kill(*how)  # perhaps before it exists

            assert process.wait(LIMIT) == status


def test_a_process_of_a_template_that_failed_says_so():
    with Forker().require("missing_module") as template:
        process = template.spawn("os.getpid")
        process.sock.close()
        with pytest.raises(SetupError, match="missing_module"):
            process.wait(LIMIT)
        with pytest.raises(SetupError, match="missing_module"):
            process.pid  # noqa: B018


SPAWNS = """
    import os, sys
    from forkrpc import Forker

    def wait(sock, gate, result):
        print(os.getpid(), flush=True)
        open(gate).close()
        with open(result, "w") as file:
            file.write("survived")

    gate, result, outlive = sys.argv[1:]
    template = Forker().send_arg(gate, result)
    process = template.spawn(wait, outlive=outlive == "outlive")
    process.sock.close()
    process.pid
    os.read(int(os.environ["GO_ON"]), 1)
    print("the program ends", flush=True)
    """


@pytest.mark.parametrize("outlive", [True, False])
def test_a_spawned_process_outlives_the_program_if_it_may(outlive, gate, tmp_path):
    result = tmp_path / "result"
    output = tmp_path / "output"
    reader, writer = os.pipe()
    environ = {**os.environ, "GO_ON": str(reader)}
    with ThreadPoolExecutor(1) as thread, open(output, "w") as file:
        ended = thread.submit(
            run_program,
            *(SPAWNS, gate, result, "outlive" if outlive else ""),
            env=environ,
            pass_fds=[reader],
            stdout=file,
            stderr=file,
        )
        wait_until(lambda: output.read_text().count("\n"), LIMIT, "the process")
        pid = int(output.read_text())
        assert process_alive(pid)
        os.close(writer)
        ended.result(LIMIT)
    os.close(reader)

    assert output.read_text() == f"{pid}\nthe program ends\n"
    if outlive:
        release(gate)
        wait_until(result.exists, LIMIT, "the process that outlived the program")
    wait_gone(pid)
    assert result.exists() == outlive


# ready, pid, and the end of a template.


def test_ready_waits_until_all_that_was_queued_is_done(gate, tmp_path):
    done = tmp_path / "done"
    with Forker().eval(wait_at(gate)) as template:
        template.eval(f"open({str(done)!r}, 'w').close()")
        for _ in range(2):
            with pytest.raises(TimeoutError, match="not ready"):
                template.ready(timeout=20 * MS)
        assert not done.exists()
        release(gate)
        template.ready(timeout=LIMIT)

        assert done.exists()


def test_ready_with_a_time_limit_of_zero_does_not_wait(gate):
    with Forker().eval(wait_at(gate)) as template:
        with pytest.raises(TimeoutError):
            template.ready(0)
        release(gate)


def test_waiting_for_a_template_in_a_callback_is_an_error_at_once():
    errors = []

    def callback(_):
        with Forker() as template:
            for wait in (template.ready, lambda: template.pid):
                try:
                    wait()
                except RuntimeError as error:
                    errors.append(str(error))

    with Forker().run("os.getpid") as proxy:
        proxy(callback)

    assert len(errors) == 2
    assert all("wait for ever" in error for error in errors)


def test_closing_ends_a_template_when_its_work_is_done(gate, tmp_path):
    done = tmp_path / "done"
    template = Forker()
    pid = template.pid
    template.eval(wait_at(gate)).eval(f"open({str(done)!r}, 'w').close()")
    proxy = template.run("os.getppid")
    template.close()
    template.close()
    assert process_alive(pid)
    release(gate)

    assert proxy.call() == pid
    assert done.exists()
    proxy.close()
    wait_gone(pid)


def test_a_closed_template_takes_no_more_work():
    template = Forker(name="done")
    template.close()

    for use in (
        lambda: template.require("os"),
        lambda: template.eval("pass"),
        lambda: template.send_arg(1),
        lambda: template.send_fh(0),
        template.fork,
        template.ready,
        template.detach,
        lambda: template.run("os.getpid"),
        lambda: template.spawn("os.getpid"),
    ):
        with pytest.raises(ClosedError, match="'done'.*closed"):
            use()


@pytest.mark.parametrize("how", ["close", "drop", "with"])
def test_workers_go_on_with_exact_return_codes_after_the_end_of_their_template(how):
    template = Forker()
    first = template.pid
    proxies = [template.run("os._exit") for _ in range(3)]
    idle = template.run("os.getpid")
    process = template.eval("def end(sock): sock.recv(1)").spawn("end")
    if how == "close":
        template.close()
    elif how == "with":
        with template:
            pass
    del template

    assert idle.call() == idle.pid
    for status, proxy in enumerate(proxies):
        proxy.submit(status)
    for status, proxy in enumerate(proxies):
        assert proxy.join(LIMIT)
        assert proxy.returncode == status
    idle.kill(signal.SIGTERM)
    assert idle.join(LIMIT)
    assert idle.returncode == -signal.SIGTERM
    process.sock.close()
    assert process.wait(LIMIT) == 0
    wait_gone(first)


def test_a_dropped_template_does_its_work_first(tmp_path):
    path = tmp_path / "done"
    Forker().eval(f"open({str(path)!r}, 'w').close()")

    wait_until(path.exists, LIMIT, "work of a dropped template")


def test_handlers_registered_in_a_template_run_once_when_it_ends(tmp_path):
    path = tmp_path / "ends"
    source = f"""
import atexit, os, tempfile
atexit.register(lambda: open({str(path)!r}, "a").write(f"{{os.getpid()}} "))
folder = tempfile.TemporaryDirectory()
"""
    with Forker().eval(source) as template:
        folder = value(template, "folder.name")
        for _ in range(2):
            with template.fork() as fork:
                assert value(fork, "__import__('os').path.isdir(folder.name)")
        pid = template.pid
        assert os.path.isdir(folder)
        assert not path.exists()

    wait_gone(pid)
    assert path.read_text() == f"{pid} "
    assert not os.path.exists(folder)


def test_a_template_that_is_killed_fails_what_is_asked_of_it_at_once():
    template = Forker()
    os.kill(template.pid, signal.SIGKILL)

    with pytest.raises((SetupError, ClosedError), match="ended"):
        template.ready(timeout=LIMIT)
    with pytest.raises((SetupError, ClosedError), match="ended"):
        template.run("os.getpid").call()
    with pytest.raises((SetupError, ClosedError), match="ended"):
        template.fork().ready(timeout=LIMIT)


def test_the_end_of_the_template_that_all_share_does_not_stop_new_ones():
    with Forker() as old:
        shared = parent_of(old.pid)
        os.kill(shared, signal.SIGKILL)
        wait_until(lambda: not process_alive(shared), LIMIT, f"end of {shared}")

        def new_one():
            try:
                with Forker() as new:
                    return parent_of(new.ready(LIMIT).pid) != shared
            except (SetupError, ClosedError):  # it had not been noticed yet
                return False

        wait_until(new_one, LIMIT, "a new template")
        assert value(old, "'still there'") == "still there"


# A template changes hands.


def test_a_detached_template_is_taken_over():
    template = Forker().eval("state = 'kept'").send_arg("argument")
    pid = template.pid
    sock = template.detach()
    assert isinstance(sock, socket.socket)
    with pytest.raises(ClosedError, match="detached"):
        template.run("os.getpid")

    with Forker.from_socket(sock) as again:
        assert sock.fileno() == -1
        assert again.pid == pid
        assert value(again, "state") == "kept"
        with again.eval(RECORDER).run("Recorder") as proxy:
            assert proxy.call(0) == "argument"
            assert parent_of(proxy.pid) == pid


def test_the_pid_of_what_is_no_template_is_none():
    ours, theirs = socket.socketpair()
    with Forker.from_socket(ours) as template:
        theirs.close()

        assert template.pid is None


def test_a_detached_template_that_nobody_takes_over_ends():
    template = Forker()
    pid = template.pid
    template.detach().close()

    wait_gone(pid)


def test_a_worker_of_a_template_that_was_detached_goes_on():
    template = Forker()
    proxy = template.run("os._exit")
    assert proxy.pid
    with Forker.from_socket(template.detach()) as again:
        proxy.submit(7)
        assert proxy.join(LIMIT)
        assert proxy.returncode in (7, None)
        again.ready(LIMIT)


FIRST = """
    import os, socket, sys
    from forkrpc import Forker

    template = Forker().eval("state = args", "made by", os.getpid())
    pid = str(template.pid).encode()
    with socket.socket(fileno=int(sys.argv[1])) as channel, template.detach() as sock:
        socket.send_fds(channel, [pid], [sock.fileno()])
    """

SECOND = """
    import os, socket, sys
    from forkrpc import Forker

    with socket.socket(fileno=int(sys.argv[1])) as channel:
        pid, (fd,), _, _ = socket.recv_fds(channel, 100, 1)
    print(int(pid))
    template = Forker.from_socket(socket.socket(fileno=fd))
    template.eval("def get(): return state")
    with template.fork().run("get") as proxy:
        print(proxy.call())
    with template.run("os._exit", on_error=lambda _: None) as proxy:
        proxy.submit(5)
        proxy.join()
        print(proxy.returncode)
    """


def test_another_program_goes_on_with_a_template_when_its_maker_has_ended():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fd = theirs.fileno()
        # Not into pipes of ours: the template has them as well, and lives on.
        null = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        first = run_program(FIRST, fd, pass_fds=[fd], **null)
        second = run_program(SECOND, ours.fileno(), pass_fds=[ours.fileno()])

    assert (first.returncode, second.stderr) == (0, "")
    pid, state, status = second.stdout.splitlines()
    assert state.startswith("('made by', ")
    assert status == "5"
    wait_gone(int(pid))


def test_a_template_is_sent_to_a_worker_which_goes_on_with_it():
    source = """
from forkrpc import Forker
class User:
    def __init__(self, sock):
        self.template = Forker.from_socket(sock)
    def __call__(self):
        with self.template.run("get") as proxy:
            return proxy.call()
"""
    template = Forker().eval("def get(): return 'through two processes'")
    with template.detach() as sock:
        user = Forker().eval(source).send_fh(sock)
    with user, user.run("User") as proxy:
        assert proxy.call() == "through two processes"


# Wherever the program calls from.


def test_threads_make_and_use_templates_and_workers_side_by_side():
    barrier = threading.Barrier(16)

    def work(number):
        barrier.wait()
        template = Forker().send_arg(number).eval(RECORDER)
        with template.run("Recorder") as one, template.run("Recorder") as two:
            found = {proxy.call(0) for proxy in (one, two) for _ in range(20)}
            return found, {one.pid, two.pid}

    with ThreadPoolExecutor(16) as threads:
        results = list(threads.map(work, range(16)))

    assert [found for found, _ in results] == [{number} for number in range(16)]
    assert len(set.union(*(pids for _, pids in results))) == 32


def test_threads_share_a_template_and_a_worker():
    with Forker() as template, template.run("operator.mul") as shared:
        shared.call(0, 0)

        def work(number):
            with template.fork().run("operator.neg") as own:
                return [(shared.call(number, n), own.call(n)) for n in range(20)]

        with ThreadPoolExecutor(16) as threads:
            results = list(threads.map(work, range(16)))

    assert results == [[(m * n, -n) for n in range(20)] for m in range(16)]


def test_workers_are_used_beside_a_running_event_loop():
    async def program():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(1 * MS)
                ticks += 1

        ticking = asyncio.create_task(tick())
        with Forker().eval("import time") as template:
            with template.run("time.sleep") as proxy:
                await asyncio.wrap_future(proxy.submit(100 * MS))
            seen = ticks
            with template.run("operator.add") as proxy:
                futures = [proxy.submit(n, 1) for n in range(100)]
                results = await asyncio.gather(*map(asyncio.wrap_future, futures))
        ticking.cancel()
        return results, seen

    results, seen = asyncio.run(program())

    assert results == list(range(1, 101))
    assert seen > 5


def test_a_worker_has_templates_and_workers_of_its_own():
    source = """
import os
from forkrpc import Forker

def below(depth):
    if not depth:
        return [os.getpid()]
    with Forker().eval(args[0], *args) as template, template.run("below") as proxy:
        return [os.getpid(), *proxy.call(depth - 1)]
"""
    with Forker().eval(source, source) as template, template.run("below") as proxy:
        pids = proxy.call(3)
        assert pids[0] == proxy.pid
        assert len(set(pids)) == 4
        for pid in pids[1:]:
            wait_gone(pid)


def test_what_a_worker_has_made_ends_with_it():
    source = """
from forkrpc import Forker
kept = []
def make():
    kept.append(Forker().run("os.getpid"))
    return kept[0].call()
"""
    with Forker().eval(source).run("make") as proxy:
        pid = proxy.call()
        assert process_alive(pid)

    wait_gone(pid)


def test_the_code_of_the_program_is_never_executed_by_its_children():
    done = run_program(
        """
        import os
        from forkrpc import Forker

        print("the program itself", flush=True)
        secret = "of the program"

        def double(n):
            return 2 * n

        class Counter:
            def __init__(self): self.n = 0
            def __call__(self): self.n += 1; return self.n

        template = Forker().require("json")
        names = template.eval("def names(): return sorted(globals())").run("names")
        assert "secret" not in names.call()
        print(template.run(double).call(21), template.run(Counter).call())
        print(Forker.new_exec().run(double).call(4))
        print(template.fork().run(lambda: [double(5), secret]).call())
        """
    )

    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "the program itself",
        "42 1",
        "8",
        "[10, 'of the program']",
    ]


def test_a_template_in_a_forked_copy_of_the_program_is_inert():
    done = run_program(
        """
        import os, warnings
        from forkrpc import ClosedError, Forker

        warnings.simplefilter("ignore")  # that a program with threads forks
        template = Forker().eval("state = 1")
        template.ready()
        if not os.fork():
            for use in (template.ready, template.fork, lambda: template.eval("2"),
                        lambda: template.run("os.getpid")):
                try:
                    use()
                except ClosedError as error:
                    print("ClosedError", "fork" in str(error), flush=True)
            with Forker() as own:  # the copy makes its own
                print(own.run("operator.neg").call(1), flush=True)
            template.close()
            del template
            os._exit(0)
        os.wait()
        print(template.run("operator.neg").call(2))
        """
    )

    assert done.stderr == ""
    assert done.stdout.splitlines() == [*["ClosedError True"] * 4, "-1", "-2"]


def test_a_program_may_end_without_closing_anything():
    done = run_program(
        """
        from forkrpc import Forker

        template = Forker().require("json")
        proxy = template.run("json.dumps")
        other = Forker.new_exec().run("os.getpid")
        print(proxy.call([1]), other.call() == other.pid, proxy.pid, template.pid)
        """
    )

    assert done.stderr == ""
    result, same, *pids = done.stdout.split()
    assert (result, same) == ("[1]", "True")
    for pid in pids:
        wait_gone(pid)


def test_the_library_is_found_where_the_program_found_it(tmp_path):
    (tmp_path / "program.py").write_text(
        "import sys\n"
        f"sys.path.append({str(CHECKOUT)!r})\n"
        "from forkrpc import Forker\n"
        "print(Forker().run('os.path.basename').call('a/b'))\n"
    )
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert (done.stdout, done.stderr) == ("b\n", "")


def test_files_named_like_modules_of_the_library_are_not_in_its_way(tmp_path):
    for path in (CHECKOUT / "forkrpc").glob("**/[a-z]*.py"):
        (tmp_path / path.name).write_text("raise SystemExit('the wrong one')")
    (tmp_path / "mine.py").write_text("def f(): return 'mine'")
    done = run_program(
        """
        import sys
        from forkrpc import Forker

        sys.path.insert(0, sys.argv[1])
        for template in (Forker(), Forker.new_exec()):
            print(template.require("mine").run("mine.f").call())
        """,
        tmp_path,
    )

    assert (done.stdout, done.stderr) == ("mine\nmine\n", "")
