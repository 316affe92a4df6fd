"""End-to-end: what a worker writes appears in the program's own files."""

import asyncio
import contextlib
import io
import os
import subprocess
import sys
import threading
import time

import pytest

from forkrpc import Forker, event
from helpers import MS, run_program, wait_until


@pytest.fixture(scope="module")
def original():
    with Forker().require(__name__, "asyncio").ready() as template:
        yield template


@pytest.fixture
def template(original):
    with original.fork() as template:
        yield template


def forwarding(template, function, **options):
    options = {"stdout": "forward", "stderr": "forward", **options}
    return template.run(function, **options)


def written(template, function, *args, **options):
    """Return what a call writes to the program's files, until its worker has ended."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        forwarding(template, function, **options) as proxy,
    ):
        proxy.call(*args)
    return stdout.getvalue(), stderr.getvalue()


def say(*texts):
    for text in texts:
        print(text)


def complain(text):
    print(text, file=sys.stderr)


def many(count):
    print("y" * count)


def test_what_is_printed_appears_in_the_programs_files(template):
    assert written(template, say, "one", "two") == ("one\ntwo\n", "")
    assert written(template, complain, "err") == ("", "err\n")


def test_it_shows_where_pytest_captures(template, capsys):
    with forwarding(template, say) as proxy:
        proxy.call("captured")
        proxy.drain()
        assert capsys.readouterr().out == "captured\n"
        proxy.call("again")
    assert capsys.readouterr().out == "again\n"


def test_errors_go_with_the_output_where_that_is_asked_for(template):
    both = written(template, complain, "e", stderr=subprocess.STDOUT)

    assert both == ("e\n", "")


def test_one_may_be_forwarded_without_the_other(template, capfd):
    assert written(template, say, "o", stderr="inherit") == ("o\n", "")
    assert written(template, complain, "e", stderr="inherit") == ("", "")
    assert capfd.readouterr().err == "e\n"


def tell(number):
    print("before", number)
    event(number)
    print("partial", number, end="")
    event(-number)
    print("", end="end of ")
    return number


def test_output_comes_in_order_with_events_and_results(template):
    out = io.StringIO()

    def note(value):
        out.write(f"<{value}>")

    with (
        contextlib.redirect_stdout(out),
        forwarding(template, tell, on_event=note) as proxy,
    ):
        for number in 1, 2:
            proxy(number, note)

    assert out.getvalue() == "".join(
        f"before {n}\n<{n}>partial {n}<-{n}>end of <{n}>" for n in (1, 2)
    )


def test_records_come_in_order_with_output(template, caplog, monkeypatch):
    order = []

    class File(io.StringIO):
        def write(self, text):
            order.append(text)
            return len(text)

    def mixed():
        import logging

        print("one", end="")
        logging.getLogger("shop").warning("two")
        print("three", end="")

    monkeypatch.setattr(
        caplog.handler, "emit", lambda record: order.append(record.getMessage())
    )
    with (
        contextlib.redirect_stdout(File()),
        forwarding(template, mixed) as proxy,
    ):
        proxy.call()

    assert order == ["one", "two", "three"]


def raise_behind():
    print("last words", end="")
    raise ValueError("failed")


def test_a_call_that_fails_has_written_before(template):
    out = io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        forwarding(
            template, raise_behind, on_error=lambda error: out.write(f"<{error}>")
        ) as proxy,
    ):
        proxy(None)

    assert out.getvalue() == "last words<failed>"


# Bytes, junk, sizes.


def binary(data):
    sys.stdout.buffer.write(data)
    sys.stdout.write("text")


def test_bytes_keep_their_place_between_texts(template):
    assert written(template, binary, "µ\n".encode())[0] == "µ\ntext"


def test_what_is_no_text_is_written_as_it_is_or_shown(template):
    junk = b"\xff\x00\xfe\n"

    assert written(template, binary, junk)[0] == "\\xff\x00\\xfe\ntext"
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="utf-8")
    with (
        contextlib.redirect_stdout(file),
        forwarding(template, binary) as proxy,
    ):
        proxy.call(junk)
    assert raw.getvalue() == junk + b"text"


def in_pieces(data):
    for at in range(len(data)):
        sys.stdout.buffer.write(data[at : at + 1])


def test_characters_may_arrive_in_pieces(template):
    assert written(template, in_pieces, "aµ€😀b".encode())[0] == "aµ€😀b"


def test_a_file_of_another_encoding_gets_what_it_has(template):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="latin-1")
    with (
        contextlib.redirect_stdout(file),
        forwarding(template, say) as proxy,
    ):
        proxy.call("µ€")

    assert raw.getvalue() == "µ\\u20ac\n".encode("latin-1")


def much(size):
    print("x" * size)
    print("é" * size)


def test_much_arrives_whole(template):
    size = 3_000_001

    out, _ = written(template, much, size)

    assert out == "x" * size + "\n" + "é" * size + "\n"


def test_frames_obey_the_limit_for_results(template):
    out, _ = written(template, say, "y" * 5000, max_frame=1000 * 10)
    small, _ = written(template, many, 90, max_frame=50)

    assert out == "y" * 5000 + "\n"
    assert small == "y" * 90 + "\n"


@pytest.mark.parametrize("broken", ["closed", "none", "raises"])
def test_a_file_of_the_program_that_cannot_be_written_harms_no_call(template, broken):
    file = None if broken == "none" else io.StringIO()
    if broken == "closed":
        file.close()
    elif broken == "raises":

        def write(text):
            raise BrokenPipeError

        file.write = write
    results = []
    with (
        contextlib.redirect_stdout(file),
        forwarding(template, say) as proxy,
    ):
        for _ in range(3):
            proxy("lost", results.append)
        proxy.drain()

    assert results == [None] * 3


def test_a_worker_that_closes_its_own_files_still_answers(template):
    def close():
        print("before")
        sys.stdout.close()
        sys.stderr.close()
        return 5

    assert written(template, close)[0] == "before\n"


def test_a_worker_that_replaces_its_files_keeps_its_own(template):
    def replace():
        with contextlib.redirect_stdout(io.StringIO()) as own:
            print("kept")
        print("forwarded")
        return own.getvalue()

    out = io.StringIO()
    with contextlib.redirect_stdout(out), forwarding(template, replace) as proxy:
        assert proxy.call() == "kept\n"
    assert out.getvalue() == "forwarded\n"


def test_those_who_kept_the_file_from_before_write_in_order_too(template):
    template.eval("import sys; kept, original = sys.stdout, sys.__stdout__")
    template.eval(
        "def use():\n"
        "    kept.write('1')\n"
        "    sys.stdout.write('2')\n"
        "    print(3, end='', file=original)\n"
        "    return kept is sys.stdout, sys.stdout.fileno(), sys.stdout.isatty()"
    )
    out = io.StringIO()
    with contextlib.redirect_stdout(out), forwarding(template, "use") as proxy:
        assert proxy.call() == (True, 1, False)
    assert out.getvalue() == "123"


# Below Python.


def low(text):
    os.write(1, text.encode())
    os.write(2, text.upper().encode())


def child_process(text):
    subprocess.run(["sh", "-c", f"echo {text}; echo error >&2"], check=True)


def test_what_goes_to_the_descriptor_appears(template):
    assert written(template, low, "low") == ("low", "LOW")


def test_what_other_processes_write_appears(template):
    assert written(template, child_process, "shell") == ("shell\n", "error\n")


def redirect(path):
    kept = os.dup(1)
    with open(path, "w") as file:
        os.dup2(file.fileno(), 1)
    print("to the file")
    os.dup2(kept, 1)
    print("forwarded")
    os.close(1)
    print("though closed")


def test_what_the_worker_puts_behind_the_descriptor_gets_its_output(template, tmp_path):
    path = tmp_path / "file"

    out, _ = written(template, redirect, str(path))

    assert path.read_text() == "to the file\n"
    assert out == "forwarded\nthough closed\n"


def mixed(number):
    os.write(1, f"low {number}\n".encode())
    event(number)
    os.write(1, f"and {number}\n".encode())
    print("print", number)
    subprocess.run(["echo", f"process {number}"], check=True)
    return -number


def test_nothing_overtakes_what_went_to_the_descriptor_before_it(template):
    out = io.StringIO()

    def note(value):
        out.write(f"<{value}>")

    with (
        contextlib.redirect_stdout(out),
        forwarding(template, mixed, on_event=note) as proxy,
    ):
        for number in range(1, 11):
            proxy(number, note)

    place = out.getvalue().index
    for number in range(1, 11):
        assert place(f"low {number}\n") < place(f"<{number}>")
        assert place(f"and {number}\n") < place(f"print {number}\n")
        assert place(f"process {number}\n") < place(f"<-{number}>")
        assert place(f"<{number}>") < place(f"print {number}\n") < place(f"<-{number}>")


def test_what_c_code_prints_appears_with_its_call():
    done = run_program(
        """
        import sys, threading
        from forkrpc import Forker

        def from_c():
            import ctypes
            ctypes.CDLL(None).printf(b"from C")

        with Forker().run(from_c, stdout="forward") as proxy:
            proxy.call()
            proxy.drain()
            print("", "drained")
        """
    )

    assert done.stderr == ""
    assert done.stdout == "from C drained\n"


def test_a_copy_of_the_worker_uses_the_descriptor(template):
    def fork():
        pid = os.fork()
        if not pid:
            print("from a copy")
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(pid, 0)
        return 1

    out = io.StringIO()
    with contextlib.redirect_stdout(out), forwarding(template, fork) as proxy:
        assert [proxy.call(), proxy.call()] == [1, 1]
    assert out.getvalue() == "from a copy\n" * 2


def test_a_process_that_outlives_the_worker_may_still_write(template, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    def leave_behind():
        script = f"read line < {gate}; echo late"
        subprocess.Popen(["sh", "-c", script], start_new_session=True)

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        with forwarding(template, leave_behind) as proxy:
            proxy.call()
        assert out.getvalue() == ""
        gate.write_text("go\n")
        wait_until(lambda: out.getvalue() == "late\n", message=out.getvalue)


# The ends.


def at_exit():
    import atexit

    atexit.register(print, "at exit")
    print("without an end", end="")
    sys.exit("message")


def test_what_is_written_at_the_end_appears_before_the_end_is_told(template):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        proxy = forwarding(
            template, at_exit, on_error=lambda error: out.write(f"<{error.returncode}>")
        )
        proxy(None)
        proxy.join(10)

    assert out.getvalue() == "without an endmessage\nat exit\n<1>"


def crash():
    for number in range(100):
        print(number)
    os.write(1, b"low\n")
    os.abort()


def test_what_was_written_before_a_crash_is_not_lost(template):
    out, errors = io.StringIO(), []
    with contextlib.redirect_stdout(out):
        proxy = forwarding(template, crash, on_error=errors.append)
        proxy(None)
        proxy.join(10)

    lines = out.getvalue().splitlines()
    assert [line for line in lines if line != "low"] == [str(n) for n in range(100)]
    assert "low" in lines
    assert errors[0].signal == "SIGABRT"


def test_output_of_init_appears_and_of_a_setup_that_fails(template):
    def init():
        print("in init")
        raise LookupError("no shop")

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        proxy = forwarding(template, say, init=init, on_error=lambda error: None)
        proxy.join(10)

    assert out.getvalue() == "in init\n"


def test_threads_write_whole_lines(template):
    def shout():
        def lines(name):
            for _ in range(100):
                print(name * 50)

        threads = [threading.Thread(target=lines, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    out, _ = written(template, shout)

    assert sorted(set(out.split())) == [name * 50 for name in "abc"]
    assert len(out.split()) == 300


def test_a_signal_handler_may_print_whatever_it_interrupts(template):
    def interrupted():
        import signal

        count = []

        def beat(number, frame):
            count.append(1)
            print("beat")

        signal.signal(signal.SIGALRM, beat)
        signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
        end = time.monotonic() + 300 * MS
        while time.monotonic() < end or not count:
            event("e")
            print("line")
        signal.setitimer(signal.ITIMER_REAL, 0)
        return len(count)

    events = []
    out = io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        forwarding(template, interrupted, on_event=events.append) as proxy,
    ):
        count = proxy.call()

    assert count == out.getvalue().count("beat") > 0
    assert len(events) == out.getvalue().count("line")


def test_output_reaches_a_loop_in_order():
    done = run_program(
        """
        import asyncio
        from forkrpc import Forker, event

        def tell():
            print("printed")
            event("event")
            return "result"

        async def main():
            loop = asyncio.get_running_loop()
            ended = loop.create_future()
            proxy = Forker().run(tell, stdout="forward", loop=loop, on_event=print,
                                 on_destroy=lambda: ended.set_result(None))
            proxy(print)
            proxy.close()
            await ended

        asyncio.run(main())
        """
    )

    assert done.stderr == ""
    assert done.stdout == "printed\nevent\nresult\n"


# Streams, and the asyncio backend.


def prints_and_yields(count):
    for number in range(count):
        print("made", number)
        event("event", number)
        yield number


async def prints_later(text):
    print("before", text)
    await asyncio.sleep(0)
    print("behind", text)
    return text


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_what_a_generator_prints_stands_before_its_events(capfd, backend):
    def show(*event):
        print(*event)

    with Forker().run(
        prints_and_yields, backend=backend, stdout="forward", on_event=show
    ) as proxy:
        assert list(proxy.stream(3)) == [0, 1, 2]
        proxy.drain(10)

    assert capfd.readouterr().out == "".join(
        f"made {number}\nevent {number}\n" for number in range(3)
    )


def test_what_tasks_print_comes_before_their_results(capfd):
    with Forker().run(prints_later, backend="async", stdout="forward") as proxy:
        proxy("text", lambda text: print("result", text))

    assert capfd.readouterr().out == "before text\nbehind text\nresult text\n"


def test_an_asyncio_worker_says_all_it_printed_when_it_ends(capfd):
    def prints_at_exit(done):
        import atexit

        print("called")
        atexit.register(print, "at exit")
        done()

    with Forker().run(prints_at_exit, backend="async", stdout="forward") as proxy:
        proxy.call()

    assert capfd.readouterr().out == "called\nat exit\n"


def test_a_finaliser_of_an_asyncio_worker_may_print(capfd):
    class Noisy:
        def __del__(self):
            print("gone")

        def __reduce__(self):
            return int, ()

    async def makes(count):
        for _ in range(count):
            Noisy()
        return Noisy()

    with Forker().run(makes, backend="async", stdout="forward") as proxy:
        assert [proxy.call(1) for _ in range(50)] == [0] * 50

    assert capfd.readouterr().out == "gone\n" * 100
