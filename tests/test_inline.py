"""Contract: Forker.inline beside Forker itself: the same program, here or forked."""

import os
import socket
import threading

import pytest

from forkrpc import ClosedError, Forker, SetupError
from helpers import run_program

LIMIT = 10.0  # seconds; much more than it takes

WORK = """
import os
from forkrpc import event, flush, in_worker

class Account:
    def __init__(self, owner, start):
        self.owner, self.balance = owner, start

    def __call__(self, amount, *, note=""):
        self.balance += amount
        return f"{self.owner} {self.balance}{note}"

class Uncallable:
    pass

def arguments(*values):
    return values

def where():
    return os.getpid(), in_worker()
"""

both = pytest.mark.parametrize("make", [Forker, Forker.inline])


@both
def test_a_class_keeps_its_state(make):
    template = make().eval(WORK).send_arg("Ann", 100)

    with template, template.run("Account") as proxy, template.run("Account") as other:
        assert proxy.call(-30) == "Ann 70"
        assert proxy.call(1, note="!") == "Ann 71!"
        assert other.call(0) == "Ann 100"


@both
def test_functions_go_by_name_by_reference_and_as_they_are(make):
    with make().require("math") as template:
        for function in "math.sqrt", "os.path.basename", abs, lambda x: x:
            argument = "a/b" if function == "os.path.basename" else 4
            with template.run(function) as proxy:
                assert proxy.call(argument) in (2.0, "b", 4)


@both
def test_files_among_the_arguments_are_duplicated(make, tmp_path):
    source = """
import os

class Talk:
    def __init__(self, *given):
        self.given = given

    def __call__(self):
        sock, text, file, number = self.given
        with sock, file:
            sock.send(b"hello")
            os.close(number)
            return type(sock).__name__, text, file.read(), type(number).__name__
"""
    path = tmp_path / "file"
    path.write_text("content")
    ours, theirs = socket.socketpair()
    with make().eval(source) as template, ours:
        with theirs, path.open() as file:
            template.send_fh(theirs).send_arg("word").send_fh(file, file.fileno())
        with template.run("Talk") as proxy:
            assert proxy.call() == ("socket", "word", "content", "int")
        assert ours.recv(9) == b"hello"


@both
def test_a_fork_has_what_its_origin_had(make):
    template = make().eval(WORK).send_arg("Ann")
    one, two = template.fork().send_arg(1), template.fork().send_arg(2)

    with template, one, two:
        for twin, amount in (one, 1), (two, 2):
            with twin.run("Account") as proxy:
                assert proxy.call(0) == f"Ann {amount}"
        two.eval("def only_here(): pass")
        two.ready()
        missing = pytest.raises(SetupError, match="only_here")
        with one.run("only_here", on_error=print) as proxy, missing:
            proxy.call()


@both
def test_eval_has_its_arguments_and_a_main_of_its_own(make):
    template = make().eval("total = sum(args)\ndef get(): return total", 1, 2)

    with template, template.run("get") as proxy:
        assert proxy.call() == 3
    assert not hasattr(__import__("__main__"), "total")


@both
@pytest.mark.parametrize(
    ("step", "text"),
    [
        (lambda template: template.require("no_such_module"), "no_such_module"),
        (lambda template: template.eval("1 / 0"), "ZeroDivisionError"),
    ],
)
def test_a_step_that_fails_fails_what_comes_after_it(make, step, text):
    errors = []
    with make() as template:
        assert step(template) is template
        template.eval("def work(): return 1")

        for _ in range(2):
            with pytest.raises(SetupError, match=text):
                template.ready()
        with template.run("work", on_error=errors.append) as proxy:
            assert isinstance(proxy.submit().exception(LIMIT), SetupError)
    assert [type(error) for error in errors] == [SetupError]
    assert text in str(errors[0])


@both
@pytest.mark.parametrize(
    ("function", "options", "text"),
    [
        ("no_such_function", {}, "no_such_function"),
        ("math.no_such_function", {}, "no_such_function"),
        ("Uncallable", {}, "Uncallable"),
        ("where", {"init": "no_such_init"}, "no_such_init"),
        ("os.getpid", {"init": lambda: 1 / 0}, "ZeroDivisionError"),
    ],
)
def test_a_function_that_cannot_be_set_up_fails_its_calls(
    make, function, options, text
):
    template = make().eval(WORK)
    proxy = template.run(function, on_error=lambda _: None, **options)

    with template, proxy:
        for _ in range(2):
            with pytest.raises(SetupError, match=text):
                proxy.call()
            proxy.join(LIMIT)


@both
def test_bad_input_is_refused_at_once(make):
    with make() as template:
        with pytest.raises(SyntaxError):
            template.eval("1 +")
        with pytest.raises(ValueError, match="is no name of a module"):
            template.require("no-module")
        with pytest.raises(TypeError, match="send_fh takes"):
            template.send_fh("text")
        with pytest.raises(TypeError, match="did you mean 'on_event'"):
            template.run("m.f", on_evnt=print)
        with pytest.raises(ValueError, match="no dotted name"):
            template.run("no name")
        with pytest.raises(TypeError, match="callable"):
            template.run(7)


@both
def test_a_closed_one_takes_no_steps(make):
    template = make()
    proxy = template.run("os.getpid")
    template.close()

    for step in (
        lambda: template.require("math"),
        lambda: template.eval("1"),
        lambda: template.run("os.getpid"),
        lambda: template.fork(),
        lambda: template.send_fh(1),
        lambda: template.ready(),
    ):
        with pytest.raises(ClosedError, match="it was closed"):
            step()

    assert proxy.call() == proxy.pid
    proxy.close()
    assert proxy.join(LIMIT)


def test_everything_happens_in_this_process_and_thread():
    with Forker.inline(name="here") as template:
        assert isinstance(template, Forker)
        assert template.pid == os.getpid()
        assert template.ready() is template
        assert repr(template) == "<Forker inline 'here', open>"
        with template.run(threading.get_ident) as proxy:
            assert proxy.call() == threading.get_ident()
            assert proxy.pid == os.getpid()
    assert repr(template) == "<Forker inline 'here', closed>"


def test_options_that_need_a_process_have_no_effect():
    options = {"timeout": 0.001, "nice": 5, "rlimits": {"NOFILE": 10}, "affinity": {0}}
    before = os.getpriority(os.PRIO_PROCESS, 0)

    with Forker.inline().run("time.sleep", **options, stdout="null") as proxy:
        assert proxy.call(0.01) is None

    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_what_needs_a_process_says_so():
    with Forker.inline() as template:
        with pytest.raises(RuntimeError, match=r"use Forker\(\)"):
            template.spawn("os.getpid")
        with pytest.raises(RuntimeError, match="has none"):
            template.detach()


def test_the_source_of_eval_is_shown_in_tracebacks():
    template = Forker.inline().eval("def fail():\n    raise KeyError  # here")

    with template, template.run("fail") as proxy, pytest.raises(KeyError) as info:
        proxy.call()

    assert "raise KeyError  # here" in str(info.traceback[-1].statement)


def test_a_debugger_stops_in_the_function():
    program = run_program(
        """
        import io, pdb, sys
        from forkrpc import Forker

        def work(x):
            y = x + 1
            return y

        typed = io.StringIO("p 'x is', x\\ncontinue\\n")
        debugger = pdb.Pdb(stdin=typed, stdout=sys.stdout, nosigint=True)

        def stop(x):
            debugger.set_trace()
            return work(x)

        with Forker.inline().run(stop) as proxy:
            print("result", proxy.call(7))
        """
    )

    assert "('x is', 7)" in program.stdout
    assert "result 8" in program.stdout
